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
use support::{ADA, Ratios, Server, Visitors, client, cpu_time, vouch};
use tower_released::{AuthToken, MintTiming, PendingToken, ReleasedTokenLayer, from_extension};

/// As many as keep a server busy.
const CONNECTIONS: usize = 32;

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

/// Makes an application that mints at this API.
type App = fn(&Server) -> Router;

fn pages(criterion: &mut Criterion) {
    let mut ratios = Ratios::default();
    let mut group = criterion.benchmark_group("page, CPU time of the server");
    let apps: [(&str, App, &str); 5] = [
        ("without_token", without_token, "released-page"),
        ("floor", floor::app, WITH_TOKEN),
        ("by_hand", by_hand::app, WITH_TOKEN),
        ("tower_released", this_crate, WITH_TOKEN),
        ("alongside", alongside, WITH_TOKEN),
    ];
    for (name, app, expected) in apps {
        let api = Server::api();
        let server = Server::app(app(&api));
        let mut visitors = Visitors::arrive(&server, CONNECTIONS);
        visitors.load(1000, expected);
        group.bench_function(name, |bencher| {
            ratios.time(bencher, name, |pages| cpu_time(&server, &mut visitors, pages, expected));
        });
    }
    group.finish();
    for name in ["tower_released", "alongside", "floor", "without_token"] {
        ratios.print(name, "by_hand");
    }
}

criterion_group!(benches, pages);
criterion_main!(benches);
