//! The proxy, and the layers that fill what passes.

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{
    CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION,
    TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use axum::http::uri::{Authority, InvalidUri, Scheme, Uri};
use axum::http::{StatusCode, Version};
use axum::response::{IntoResponse, Response};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tower_released::embed::fill::FillLayer;
use tower_released::{MintTiming, Minter, ReleasedTokenLayer, User, from_extension};
use tracing::warn;

/// Creates the proxy in front of an application, such as `http://localhost:8080`. An authentication layer around it
/// puts the `User` into the request's extensions.
///
/// Only plain HTTP is spoken to the application, and web sockets are not passed on.
pub(crate) fn app(released: impl Minter, upstream: &str) -> Result<Router, InvalidUri> {
    let authority = upstream
        .strip_prefix("http://")
        .unwrap_or(upstream)
        .trim_end_matches('/');
    let proxy = Proxy {
        client: Client::builder(TokioExecutor::new()).build_http(),
        upstream: authority.parse()?,
    };
    // Only a page with an element mints, and only for somebody who is signed in.
    let tokens = ReleasedTokenLayer::new(released, from_extension(User::clone))
        .timing(MintTiming::OnExtraction);
    Ok(Router::new()
        .fallback(forward)
        .with_state(proxy)
        .layer(FillLayer::new())
        .layer(tokens))
}

#[derive(Clone)]
struct Proxy {
    client: Client<HttpConnector, Body>,
    upstream: Authority,
}

/// Passes a request on, and its response back. Both bodies stream.
async fn forward(State(proxy): State<Proxy>, mut request: Request) -> Response {
    let Ok(uri) = Uri::builder()
        .scheme(Scheme::HTTP)
        .authority(proxy.upstream)
        .path_and_query(
            request
                .uri()
                .path_and_query()
                .map_or("/", |path| path.as_str()),
        )
        .build()
    else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_11;
    let headers = request.headers_mut();
    remove_hop_by_hop(headers);
    // The client writes the application's own name. Applications need the other for their links.
    headers.remove("x-forwarded-host");
    if let Some(host) = headers.remove(HOST) {
        headers.insert("x-forwarded-host", host);
    }
    headers.insert("x-forwarded-proto", HeaderValue::from_static("http"));

    match proxy.client.request(request).await {
        Ok(mut response) => {
            remove_hop_by_hop(response.headers_mut());
            response.map(Body::new)
        }
        Err(error) => {
            warn!("the application did not answer: {error}");
            StatusCode::BAD_GATEWAY.into_response()
        }
    }
}

/// Removes what is about one connection, and what `Connection` names (RFC 9110, section 7.6.1).
fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    let known = [
        CONNECTION,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
    ];
    for name in known.into_iter().chain(named) {
        headers.remove(name);
    }
}
