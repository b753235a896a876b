//! A whole page: the CPU time of a server on loopback, from the visitor's request to the answer, with the mint in between.
//!
//! Beside this crate stand what a team would write by hand (`axum::middleware::from_fn` and a shared `reqwest::Client`), what no
//! team would (the floor: hyper's client and a body that is ready), and the page without any token.

#![allow(clippy::unwrap_used)]

mod by_hand;
mod floor;
#[path = "../support/mod.rs"]
mod support;

use std::time::Duration;

use axum::response::Html;
use axum::routing::get;
use axum::{Extension, Router};
use criterion::{Criterion, criterion_group, criterion_main};
use support::{ADA, Ratios, Server, Site, client, vouch};
use tower_released::{AuthToken, MintTiming, PendingToken, ReleasedTokenLayer, from_extension};

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
    Router::new().route("/roadmap", get(async || page(""))).layer(Extension(ADA))
}

fn this_crate(api: &Server) -> Router {
    Router::new()
        .route("/roadmap", get(async |token: AuthToken| page(token.as_str())))
        .route_layer(ReleasedTokenLayer::new(client(api), from_extension(vouch)))
        .layer(Extension(ADA))
}

fn alongside(api: &Server, takes: Duration) -> Router {
    let layer = ReleasedTokenLayer::new(client(api), from_extension(vouch)).timing(MintTiming::AlongsideHandler);
    let roadmap = async move |pending: PendingToken| {
        work(takes).await;
        page(pending.get().await.unwrap().unwrap().as_str())
    };
    Router::new().route("/roadmap", get(roadmap)).route_layer(layer).layer(Extension(ADA))
}

fn cpu_times(criterion: &mut Criterion) {
    const AT_ONCE: Duration = Duration::ZERO;

    let open = |app: &dyn Fn(&Server) -> Router, expected| Site::open(Server::api(), app, &[], expected);
    let mut by_hand = open(&|api| by_hand::app(api, AT_ONCE), WITH_TOKEN);
    let sites = [
        ("tower_released", open(&this_crate, WITH_TOKEN)),
        ("tower_released, AlongsideHandler", open(&|api| alongside(api, AT_ONCE), WITH_TOKEN)),
        ("floor", open(&floor::app, WITH_TOKEN)),
        ("without a token", open(&without_token, "released-page")),
    ];
    let mut ratios = Ratios::default();
    let mut group = criterion.benchmark_group("page, CPU time of the server");
    for (name, mut site) in sites {
        group.bench_function(name, |bencher| {
            ratios.measure(bencher, name, |pages| site.cpu_time(pages), |pages| by_hand.cpu_time(pages));
        });
    }
    group.finish();
    ratios.print("what is written by hand");
}

fn latencies(criterion: &mut Criterion) {
    const API: Duration = Duration::from_millis(80);
    const HANDLER: Duration = Duration::from_millis(50);

    let open = |app: &dyn Fn(&Server) -> Router| Site::open_to_one(Server::slow_api(API), app, WITH_TOKEN);
    let mut by_hand = open(&|api| by_hand::app(api, HANDLER));
    let mut alongside = open(&|api| alongside(api, HANDLER));
    let mut ratios = Ratios::default();
    let mut group = criterion.benchmark_group("page, latency with an API of 80 ms and a handler of 50");
    let name = "tower_released, AlongsideHandler";
    group.sample_size(10).bench_function(name, |bencher| {
        ratios.measure(bencher, name, |pages| alongside.latency(pages), |pages| by_hand.latency(pages));
    });
    group.finish();
    ratios.print("what is written by hand");
}

criterion_group!(benches, cpu_times, latencies);
criterion_main!(benches);
