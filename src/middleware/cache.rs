//! Keeps a page with a token out of every cache.

use http::header::{CACHE_CONTROL, ETAG, EXPIRES, HeaderName, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED};
use http::{HeaderMap, HeaderValue, Response};

use super::grpc::has_grpc_content;
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

/// Says what the layer does with the cache headers of a response that may carry a token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheControl {
    /// Sets `Cache-Control: private, no-store`, and removes `ETag`, `Last-Modified`, `Expires` and the headers that
    /// direct CDNs. Otherwise a cache could serve one user's token to others.
    ///
    /// A handler's own `public` or `s-maxage` is replaced, and a `tracing` event says so. gRPC responses are not
    /// changed.
    ///
    /// # Conditional requests
    ///
    /// With [`MintTiming::BeforeHandler`](crate::MintTiming::BeforeHandler), a GET or HEAD for a document that gets a
    /// token also loses `If-None-Match` and `If-Modified-Since`, so that no 304 brings back a page from before the user
    /// signed in. All other requests keep their conditions.
    ///
    /// With the other timings, the handler runs before the layer knows whether there is a token. Then send no `ETag`
    /// with a page that differs for signed-in users.
    #[default]
    NoStore,
    /// Leaves the response's cache headers and the request's conditions as they are. Choose it only if nothing between
    /// the handler and the user caches.
    Unchanged,
}

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
pub(crate) fn mark<B>(response: &mut Response<B>, cache_control: CacheControl) {
    response.extensions_mut().insert(CarriesToken);
    if cache_control == CacheControl::NoStore {
        forbid(response.headers_mut());
    }
}

/// Sets `private, no-store`, and removes headers that say otherwise.
fn forbid(headers: &mut HeaderMap) {
    // Nothing caches gRPC, and its clients would see the header as metadata.
    if has_grpc_content(headers) {
        return;
    }
    if headers.get_all(CACHE_CONTROL).iter().any(asks_for_shared_caching) {
        warn!("the handler made a response public that may carry an auth token; it is `private, no-store` now");
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
    // Most often there are none of these, so one look at all headers costs less than a search for each.
    while let Some(name) = headers.keys().find(|name| directs_caches(name)).cloned() {
        headers.remove(name);
    }
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
