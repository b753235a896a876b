//! A whole page: the CPU time of a server on loopback, from the visitor's request to the answer, with the mint in between.
//!
//! Beside this crate stand what a team would write by hand (`axum::middleware::from_fn` and a shared `reqwest::Client`), what no
//! team would (the floor: hyper's client and a body that is ready), and the page without any token.
//!
//! And how long a visitor waits, where the API and the handler take their time.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use criterion::{Criterion, criterion_group, criterion_main};
use http::StatusCode;
use support::by_hand::ByHand;
use support::floor::Floor;
use support::{ADA, CurrentUser, Ratios, Server, Site, client, vouch};
use tower_released::{AuthToken, MintTiming, PendingToken, ReleasedTokenLayer, from_extension};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{fmt, reload};

const WITH_TOKEN: &str = "auth-token=\"eyJ";

fn page(token: &str) -> Html<String> {
    Html(format!(
        "<!doctype html><title>Roadmap</title><released-page channel-id=\"c1\" auth-token=\"{token}\"></released-page>"
    ))
}

/// What the handler does besides.
async fn work(takes: Duration) {
    if !takes.is_zero() {
        tokio::time::sleep(takes).await;
    }
}

fn without_token(_: &Server) -> Router {
    Router::new()
        .route("/roadmap", get(async || page("")))
        .layer(Extension(ADA))
}

fn this_crate(api: &Server) -> Router {
    Router::new()
        .route(
            "/roadmap",
            get(async |token: AuthToken| page(token.as_str())),
        )
        .route_layer(ReleasedTokenLayer::new(client(api), from_extension(vouch)))
        .layer(Extension(ADA))
}

/// What a team would write: some forty lines, with those of [`ByHand`].
fn by_hand(api: &Server, takes: Duration) -> Router {
    #[derive(Clone)]
    struct Token(String);

    async fn mint(
        State(minter): State<ByHand>,
        Extension(user): Extension<CurrentUser>,
        mut request: Request,
        next: Next,
    ) -> Response {
        match minter.mint(&user).await {
            Ok(token) => {
                request.extensions_mut().insert(Token(token));
                next.run(request).await
            }
            Err(_) => StatusCode::BAD_GATEWAY.into_response(),
        }
    }

    let roadmap = async move |Extension(token): Extension<Token>| {
        work(takes).await;
        page(&token.0)
    };
    let minter = from_fn_with_state(ByHand::new(api.url()), mint);
    Router::new()
        .route("/roadmap", get(roadmap))
        .route_layer(minter)
        .layer(Extension(ADA))
}

fn floor(api: &Server) -> Router {
    #[derive(Clone)]
    struct Token(Bytes);

    async fn mint(State(minter): State<Floor>, mut request: Request, next: Next) -> Response {
        request.extensions_mut().insert(Token(minter.mint().await));
        next.run(request).await
    }

    let roadmap =
        async |Extension(token): Extension<Token>| page(std::str::from_utf8(&token.0).unwrap());
    let minter = from_fn_with_state(Floor::new(&api.url()), mint);
    Router::new()
        .route("/roadmap", get(roadmap))
        .route_layer(minter)
        .layer(Extension(ADA))
}

fn alongside(api: &Server, takes: Duration) -> Router {
    let layer = ReleasedTokenLayer::new(client(api), from_extension(vouch))
        .timing(MintTiming::AlongsideHandler);
    let roadmap = async move |pending: PendingToken| {
        work(takes).await;
        page(pending.get().await.unwrap().unwrap().as_str())
    };
    Router::new()
        .route("/roadmap", get(roadmap))
        .route_layer(layer)
        .layer(Extension(ADA))
}

fn cpu_times(criterion: &mut Criterion) {
    const AT_ONCE: Duration = Duration::ZERO;

    let open =
        |app: &dyn Fn(&Server) -> Router, expected| Site::open(Server::api(), app, &[], expected);
    let mut by_hand = open(&|api| by_hand(api, AT_ONCE), WITH_TOKEN);
    let mut own = open(&this_crate, WITH_TOKEN);
    let mut alongside = open(&|api| alongside(api, AT_ONCE), WITH_TOKEN);
    let mut floor = open(&floor, WITH_TOKEN);
    let mut without = open(&without_token, "released-page");

    let mut ratios = Ratios::default();
    let mut group = criterion.benchmark_group("page, CPU time of the server");
    let mut beside_by_hand = |name, site: &mut Site| {
        group.bench_function(name, |bencher| {
            ratios.measure(
                bencher,
                name,
                |pages| site.cpu_time(pages),
                |pages| by_hand.cpu_time(pages),
            );
        });
    };
    beside_by_hand("tower_released", &mut own);
    beside_by_hand("tower_released, AlongsideHandler", &mut alongside);
    beside_by_hand("floor", &mut floor);
    beside_by_hand("without a token", &mut without);
    // From here on somebody listens: as applications do, and to the spans, too.
    let (levels, change) = reload::Layer::new(LevelFilter::INFO);
    tracing_subscriber::registry()
        .with(levels)
        .with(fmt::layer().with_writer(std::io::sink))
        .init();
    beside_by_hand("tower_released, logging at INFO", &mut own);
    change.reload(LevelFilter::DEBUG).unwrap();
    beside_by_hand("tower_released, logging at DEBUG", &mut own);
    change.reload(LevelFilter::OFF).unwrap();
    group.finish();
    ratios.print("what is written by hand");
}

fn latencies(criterion: &mut Criterion) {
    const API: Duration = Duration::from_millis(80);
    const HANDLER: Duration = Duration::from_millis(50);

    let open =
        |app: &dyn Fn(&Server) -> Router| Site::open_to_one(Server::slow_api(API), app, WITH_TOKEN);
    let mut by_hand = open(&|api| by_hand(api, HANDLER));
    let mut alongside = open(&|api| alongside(api, HANDLER));
    let mut ratios = Ratios::default();
    let mut group =
        criterion.benchmark_group("page, latency with an API of 80 ms and a handler of 50");
    let name = "tower_released, AlongsideHandler";
    group.sample_size(10).bench_function(name, |bencher| {
        ratios.measure(
            bencher,
            name,
            |pages| alongside.latency(pages),
            |pages| by_hand.latency(pages),
        );
    });
    group.finish();
    ratios.print("what is written by hand");
}

criterion_group!(benches, cpu_times, latencies);
criterion_main!(benches);
