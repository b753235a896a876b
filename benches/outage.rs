//! What a page costs while Released is down: the circuit breaker is open, and a mint fails without a wait. The router alone, without
//! a socket or a log.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

mod support;

use std::time::Duration;

use axum::body::Body;
use axum::routing::get;
use axum::{Extension, Router};
use criterion::{Criterion, criterion_group, criterion_main};
use futures_util::FutureExt;
use http::Request;
use support::{ACCOUNT, ADA, Ratios, SECRET, ada, runtime, vouch, wall_time};
use tower::Service;
use tower_released::client::{CircuitConfig, RetryConfig};
use tower_released::testing::{FakeReleased, Reply};
use tower_released::{
    AuthToken, MintErrorKind, ReleasedClient, ReleasedTokenLayer, from_extension,
};

async fn page(token: Option<AuthToken>) -> &'static str {
    assert!(token.is_none());
    "<!doctype html><title>Roadmap</title>"
}

/// A client whose circuit breaker is open, and stays so.
async fn client_in_an_outage() -> ReleasedClient {
    let released = FakeReleased::start().await.unwrap();
    released.reply_always(Reply::status(503));
    let long = Duration::from_secs(24 * 60 * 60);
    let (mut retry, mut circuit) = (RetryConfig::default(), CircuitConfig::default());
    retry.max_attempts = 1;
    (circuit.first_open, circuit.longest_open) = (long, long);
    let client = ReleasedClient::builder(ACCOUNT, SECRET)
        .endpoint(released.impersonation_url())
        .retry(retry)
        .circuit(circuit)
        .build()
        .unwrap();
    while client.mint(&ada()).await.unwrap_err().kind() != MintErrorKind::CircuitOpen {}
    client
}

fn outage(criterion: &mut Criterion) {
    let runtime = runtime();
    let client = runtime.block_on(client_in_an_outage());
    let _guard = runtime.enter();
    let layer = ReleasedTokenLayer::new(client.clone(), from_extension(vouch));
    let mut app = Router::new()
        .route("/roadmap", get(page))
        .route_layer(layer)
        .layer(Extension(ADA));
    let mut without = Router::new()
        .route(
            "/roadmap",
            get(async || "<!doctype html><title>Roadmap</title>"),
        )
        .layer(Extension(ADA));
    // `now_or_never` is the proof that nothing waits.
    let visit = |app: &mut Router| {
        let request = Request::get("/roadmap").body(Body::empty()).unwrap();
        let response = app.call(request).now_or_never().unwrap().unwrap();
        assert_eq!(response.status(), 200);
    };
    let user = ada();
    let mint = || client.mint(&user).now_or_never().unwrap().unwrap_err();

    let mut ratios = Ratios::default();
    let mut group = criterion.benchmark_group("outage, the breaker is open");
    group.bench_function("mint", |bencher| {
        ratios.measure(
            bencher,
            "mint",
            |n| wall_time(n, mint),
            |n| wall_time(n, || visit(&mut without)),
        );
    });
    group.bench_function("page", |bencher| {
        ratios.measure(
            bencher,
            "page",
            |n| wall_time(n, || visit(&mut app)),
            |n| wall_time(n, || visit(&mut without)),
        );
    });
    group.finish();
    ratios.print("a page without a token");
}

criterion_group!(benches, outage);
criterion_main!(benches);
