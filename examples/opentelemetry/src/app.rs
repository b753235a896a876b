//! The page, and a span around it.

use std::future::ready;
use std::time::Duration;

use axum::Router;
use axum::extract::{MatchedPath, Request};
use axum::response::{Html, Response};
use axum::routing::get;
use http::request::Parts;
use metrics_exporter_prometheus::PrometheusHandle;
use tower_http::trace::TraceLayer;
use tower_released::{AuthToken, Minter, ReleasedTokenLayer, User, embed, resolver_fn};
use tracing::field::Empty;
use tracing::{Span, info_span};

pub(crate) fn app(released: impl Minter, metrics: PrometheusHandle) -> Router {
    // Trust such a header only from a proxy in front that sets it.
    let signed_in = resolver_fn(|parts: &Parts| {
        let id = parts.headers.get("x-user").and_then(|id| id.to_str().ok());
        ready(id.map(|id| User::new(id, format!("{id}@example.com"))))
    });
    let pages = Router::new()
        .route("/roadmap", get(roadmap))
        .route_layer(ReleasedTokenLayer::new(released, signed_in));
    traced(pages).route("/metrics", get(async move || metrics.render()))
}

async fn roadmap(token: Option<AuthToken>) -> Html<String> {
    let portal = embed::page("demo-channel").maybe_token(token.as_ref());
    Html(portal.to_string())
}

/// Puts a span around each page. It is outside of the `ReleasedTokenLayer`, so the span of a mint is its child.
pub(crate) fn traced(pages: Router) -> Router {
    let trace = TraceLayer::new_for_http()
        .make_span_with(page_span)
        .on_response(|response: &Response, _: Duration, span: &Span| {
            span.record("http.response.status_code", response.status().as_u16());
        });
    pages.layer(trace)
}

/// A span with the names of OpenTelemetry's conventions for HTTP servers. No field has a value of the client's choice, except
/// the path.
fn page_span(request: &Request) -> Span {
    let route = request.extensions().get::<MatchedPath>();
    let route = route.map_or("", MatchedPath::as_str);
    info_span!(
        "page",
        "otel.name" = format!("{} {route}", request.method()),
        "otel.kind" = "server",
        "http.request.method" = request.method().as_str(),
        "http.route" = route,
        "url.path" = request.uri().path(),
        "http.response.status_code" = Empty,
    )
}
