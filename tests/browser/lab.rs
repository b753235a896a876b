//! Pages for the tests of the token script that the demo has no use for.

use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::extract::Path as Name;
use axum::http::header::{CONTENT_TYPE, LOCATION};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use tokio::sync::watch;
use tower_released::embed;
use tower_released::testing::FakeReleased;

/// Where `.ci/run javascript` installs Turbo.
const TURBO: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/js/node_modules/@hotwired/turbo/dist/turbo.es2017-umd.js"
);

pub(crate) fn is_turbo_there() -> bool {
    Path::new(TURBO).exists()
}

/// What the pages tell the test, and what the test tells the server.
#[derive(Clone)]
pub(crate) struct Lab {
    reports: watch::Sender<Vec<String>>,
    is_gate_open: watch::Sender<bool>,
}

impl Lab {
    pub(crate) fn new() -> Self {
        Self {
            reports: watch::Sender::default(),
            is_gate_open: watch::Sender::new(true),
        }
    }

    /// Waits until a page has called `fetch("/report/NAME")`.
    pub(crate) async fn wait_for(&self, name: &str) {
        let mut reports = self.reports.subscribe();
        let reported = reports.wait_for(|reports| reports.iter().any(|report| report == name));
        tokio::time::timeout(crate::PATIENCE, reported)
            .await
            .unwrap_or_else(|_| panic!("no page reported {name:?}"))
            .unwrap();
    }

    /// Holds back every later page of the lab, or lets all of them go.
    pub(crate) fn set_gate(&self, is_open: bool) {
        self.is_gate_open.send_replace(is_open);
    }

    pub(crate) fn routes(&self, released: &Arc<FakeReleased>) -> Router {
        let (reports, gate) = (self.reports.clone(), self.is_gate_open.clone());
        let (script, elsewhere) = (released.embed_script_url(), released.origin());
        let turbo = script.clone();
        Router::new()
            .route(
                "/turbo/{name}",
                get(async move |Name(name): Name<String>| {
                    let mut gate = gate.subscribe();
                    gate.wait_for(|is_open| *is_open).await.unwrap();
                    page(&turbo, "<script src=\"/turbo.js\"></script>", &name)
                }),
            )
            .route(
                "/lab/{name}",
                get(async move |Name(name): Name<String>| page(&script, "", &name)),
            )
            .route("/turbo.js", get(async || javascript(TURBO)))
            .route(
                "/report/{name}",
                get(async move |Name(name): Name<String>| {
                    reports.send_modify(|reports| reports.push(name));
                }),
            )
            // A proxy in front of the application that sends whoever is not signed in to another origin.
            .route(
                "/api/behind-sign-in",
                post(async move |headers: HeaderMap| {
                    if headers.get("x-csrf").is_some() {
                        ([(CONTENT_TYPE, "application/json")], r#"{"token":"t"}"#).into_response()
                    } else {
                        (StatusCode::FOUND, [(LOCATION, elsewhere)]).into_response()
                    }
                }),
            )
    }
}

/// A page with links to others of its kind, and an embed, if its name does not say otherwise.
fn page(embed_script: &str, head: &str, name: &str) -> Html<String> {
    let endpoint = if name == "behind-sign-in" {
        "/api/behind-sign-in"
    } else {
        "/api/released-token"
    };
    let element = embed::page("demo-channel").token_from(endpoint);
    let body = match name {
        "empty" => String::new(),
        "kept" => format!("<div id=\"kept\" data-turbo-permanent>{element}</div>"),
        // The token script would have asked before this.
        _ if name.starts_with("prerendered") => format!(
            "{element}<script>addEventListener('load', () => setTimeout(() => fetch('/report/{name}')))</script>"
        ),
        _ => element.to_string(),
    };
    let scripts = format!(
        "{}{}",
        embed::script().src(embed_script),
        embed::token_script_tag("/released-token.js")
    );
    Html(format!(
        "<!doctype html><html><head><title>{name}</title><link rel=\"icon\" href=\"data:,\">{head}{scripts}</head>
         <body data-name=\"{name}\"><a href=\"/turbo/a\">a</a> <a href=\"/turbo/b\">b</a> <a href=\"/lab/a\">lab</a>
         <main>{body}</main></body></html>"
    ))
}

fn javascript(path: &str) -> Response {
    let content = std::fs::read_to_string(path).unwrap();
    ([(CONTENT_TYPE, "text/javascript")], content).into_response()
}
