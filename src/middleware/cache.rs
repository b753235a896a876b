//! Keeps a page with a token out of every cache.

use std::sync::atomic::Ordering;

use http::header::{
    CACHE_CONTROL, ETAG, EXPIRES, HeaderName, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED,
};
use http::{HeaderMap, HeaderValue, Response};

use super::grpc::has_grpc_content;
use super::settings::{CacheControl, Settings};
use crate::telemetry::warn;

/// Headers that a cache could use although `Cache-Control` forbids it: validators, HTTP/1.0's expiry, and the headers
/// that CDNs and proxies use instead (Edge Architecture, Akamai, nginx). `CDN-Cache-Control` and its relatives (RFC
/// 9213, section 3.1) are recognised by the end of their name.
static REMOVED: [HeaderName; 6] = [
    ETAG,
    LAST_MODIFIED,
    EXPIRES,
    HeaderName::from_static("surrogate-control"),
    HeaderName::from_static("edge-control"),
    HeaderName::from_static("x-accel-expires"),
];

/// Marks a response that may carry an auth token, in the response's extensions.
///
/// The token layer adds it for layers further out, such as [`CspLayer`](crate::embed::csp::CspLayer).
///
/// # Example
///
/// ```
/// use http::Response;
/// use tower_released::middleware::CarriesToken;
///
/// fn may_be_logged<B>(response: &Response<B>) -> bool {
///     response.extensions().get::<CarriesToken>().is_none()
/// }
/// # assert!(may_be_logged(&Response::new(())));
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct CarriesToken;

/// Marks a response that may carry a token, for layers further out and for caches.
pub(crate) fn mark<B>(response: &mut Response<B>, settings: &Settings) {
    response.extensions_mut().insert(CarriesToken);
    if settings.cache_control == CacheControl::NoStore {
        let was_public = forbid(response.headers_mut());
        if was_public && !settings.warned_of_public.swap(true, Ordering::Relaxed) {
            warn!(
                "the handler made a response public that may carry an auth token; it is `private, no-store` now"
            );
        }
    }
}

/// Sets `private, no-store`, and removes headers that say otherwise. Returns whether the response was public.
fn forbid(headers: &mut HeaderMap) -> bool {
    // Nothing caches gRPC, and its clients would see the header as metadata.
    if has_grpc_content(headers) {
        return false;
    }
    let was_public = headers
        .get_all(CACHE_CONTROL)
        .iter()
        .any(asks_for_shared_caching);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
    // Most often there are none of these, so one look at all headers costs less than a search for each.
    while let Some(name) = headers.keys().find(|name| directs_caches(name)).cloned() {
        headers.remove(name);
    }
    was_public
}

fn directs_caches(name: &HeaderName) -> bool {
    REMOVED.contains(name) || name.as_str().ends_with("-cache-control")
}

/// Removes the conditions of a request for a document: the browser may have kept a page from before the user signed in,
/// and a 304 would show it again.
///
/// `Range` and `If-Range` stay: they return a part of today's page, or all of it. The conditions of every other request
/// also stay: without its `If-None-Match: *`, a `PUT` would overwrite what exists (RFC 9110, section 13.1.2).
pub(crate) fn make_unconditional(headers: &mut HeaderMap) {
    for name in [IF_NONE_MATCH, IF_MODIFIED_SINCE] {
        headers.remove(name);
    }
}

fn asks_for_shared_caching(value: &HeaderValue) -> bool {
    value.to_str().is_ok_and(|directives| {
        directives.split(',').any(|directive| {
            let name = directive.split('=').next().unwrap_or_default().trim();
            name.eq_ignore_ascii_case("public") || name.eq_ignore_ascii_case("s-maxage")
        })
    })
}
