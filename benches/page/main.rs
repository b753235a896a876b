//! A whole page: the CPU time of a server on loopback, from the visitor's request to the answer, with the mint in between.
//!
//! Beside this crate stand what a team would write by hand (`axum::middleware::from_fn` and a shared `reqwest::Client`), what no
//! team would (the floor: hyper's client and a body that is ready), and the page without any token.

#![allow(clippy::unwrap_used)]

mod by_hand;
mod floor;
#[path = "../support/mod.rs"]
mod support;

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

fn without_token(_: &Server) -> Router {
    Router::new().route("/roadmap", get(async || page(""))).layer(Extension(ADA))
}

fn this_crate(api: &Server) -> Router {
    Router::new()
        .route("/roadmap", get(async |token: AuthToken| page(token.as_str())))
        .route_layer(ReleasedTokenLayer::new(client(api), from_extension(vouch)))
        .layer(Extension(ADA))
}

fn alongside(api: &Server) -> Router {
    let layer = ReleasedTokenLayer::new(client(api), from_extension(vouch)).timing(MintTiming::AlongsideHandler);
    let roadmap = async |pending: PendingToken| page(pending.get().await.unwrap().unwrap().as_str());
    Router::new().route("/roadmap", get(roadmap)).route_layer(layer).layer(Extension(ADA))
}

fn pages(criterion: &mut Criterion) {
    let mut ratios = Ratios::default();
    let mut group = criterion.benchmark_group("page, CPU time of the server");
    let mut by_hand = Site::open(by_hand::app, &[], WITH_TOKEN);
    let sites = [
        ("tower_released", Site::open(this_crate, &[], WITH_TOKEN)),
        ("tower_released, AlongsideHandler", Site::open(alongside, &[], WITH_TOKEN)),
        ("floor", Site::open(floor::app, &[], WITH_TOKEN)),
        ("without a token", Site::open(without_token, &[], "released-page")),
    ];
    for (name, mut site) in sites {
        group.bench_function(name, |bencher| {
            ratios.measure(bencher, name, |pages| site.cpu_time(pages), |pages| by_hand.cpu_time(pages));
        });
    }
    group.finish();
    ratios.print("what is written by hand");
}

criterion_group!(benches, pages);
criterion_main!(benches);
