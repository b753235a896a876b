//! What the layer costs where nothing is minted: the CPU time of a server on loopback, beside the same server without the layer,
//! and of the layer and a handler alone.

#![allow(clippy::unwrap_used)]

mod support;

use std::convert::Infallible;
use std::hint::black_box;

use axum::routing::get;
use axum::{Extension, Router};
use criterion::{Criterion, criterion_group, criterion_main};
use futures_util::FutureExt;
use http::{Request, Response};
use support::{ADA, CurrentUser, Ratios, Server, Site, client, vouch, wall_time};
use tower::{Layer, Service, service_fn};
use tower_released::testing::StubMinter;
use tower_released::{AuthToken, MintTiming, ReleasedTokenLayer, from_extension};

const IMAGE: &[(&str, &str)] = &[("sec-fetch-dest", "image")];

async fn page(token: Option<AuthToken>) -> &'static str {
    assert!(token.is_none());
    "<!doctype html><title>Roadmap</title>"
}

fn without_layer(_: &Server) -> Router {
    Router::new()
        .route(
            "/roadmap",
            get(async || "<!doctype html><title>Roadmap</title>"),
        )
        .layer(Extension(ADA))
}

fn filtered(api: &Server) -> Router {
    Router::new()
        .route("/roadmap", get(page))
        .route_layer(ReleasedTokenLayer::new(client(api), from_extension(vouch)))
        .layer(Extension(ADA))
}

/// Not whom the resolver looks for.
#[derive(Clone)]
struct Other(#[expect(dead_code, reason = "the same to copy")] CurrentUser);

fn nobody_on_extraction(api: &Server) -> Router {
    nobody(api, MintTiming::OnExtraction)
}

fn nobody_alongside(api: &Server) -> Router {
    nobody(api, MintTiming::AlongsideHandler)
}

fn nobody_before(api: &Server) -> Router {
    nobody(api, MintTiming::BeforeHandler)
}

fn nobody(api: &Server, timing: MintTiming) -> Router {
    let layer = ReleasedTokenLayer::new(client(api), from_extension(vouch)).timing(timing);
    Router::new()
        .route(
            "/roadmap",
            get(async || "<!doctype html><title>Roadmap</title>"),
        )
        .route_layer(layer)
        .layer(Extension(Other(ADA)))
}

fn servers(criterion: &mut Criterion) {
    let mut ratios = Ratios::default();
    let mut group = criterion.benchmark_group("passthrough, CPU time of the server");
    for (name, app, headers) in [
        ("filtered", filtered as fn(&Server) -> Router, IMAGE),
        (
            "nobody is signed in, OnExtraction",
            nobody_on_extraction,
            &[],
        ),
        (
            "nobody is signed in, AlongsideHandler",
            nobody_alongside,
            &[],
        ),
        ("nobody is signed in, BeforeHandler", nobody_before, &[]),
    ] {
        let mut without = Site::open(Server::api(), without_layer, headers, "Roadmap");
        let mut with = Site::open(Server::api(), app, headers, "Roadmap");
        group.bench_function(name, |bencher| {
            ratios.measure(
                bencher,
                name,
                |pages| with.cpu_time(pages),
                |pages| without.cpu_time(pages),
            );
        });
    }
    group.finish();
    ratios.print("no layer");
}

/// A request with somebody signed in or not, to a handler that does nothing.
fn call<S>(service: &mut S, headers: &[(&'static str, &'static str)], user: Option<CurrentUser>)
where
    S: Service<Request<()>, Response = Response<()>, Error = Infallible>,
{
    let mut request = Request::builder().uri("/roadmap");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut request = request.body(()).unwrap();
    request.extensions_mut().insert(Other(ADA));
    if let Some(user) = user {
        request.extensions_mut().insert(user);
    }
    black_box(service.call(request).now_or_never().unwrap().unwrap());
}

fn layers(criterion: &mut Criterion) {
    let mut ratios = Ratios::default();
    let mut group = criterion.benchmark_group("passthrough, the layer alone");
    let layer = ReleasedTokenLayer::new(StubMinter::new(), from_extension(vouch));
    let handler = service_fn(async |request: Request<()>| {
        black_box(&request);
        Ok::<_, Infallible>(Response::new(()))
    });
    let mut before = layer.layer(handler);
    let mut on_extraction = layer.timing(MintTiming::OnExtraction).layer(handler);
    let mut alone = handler;
    group.bench_function("filtered", |bencher| {
        ratios.measure(
            bencher,
            "filtered",
            |calls| wall_time(calls, || call(&mut before, IMAGE, Some(ADA))),
            |calls| wall_time(calls, || call(&mut alone, IMAGE, Some(ADA))),
        );
    });
    group.bench_function("nobody is signed in, OnExtraction", |bencher| {
        ratios.measure(
            bencher,
            "nobody is signed in, OnExtraction",
            |calls| wall_time(calls, || call(&mut on_extraction, &[], None)),
            |calls| wall_time(calls, || call(&mut alone, &[], None)),
        );
    });
    group.finish();
    ratios.print("the handler alone");
}

criterion_group!(benches, layers, servers);
criterion_main!(benches);
