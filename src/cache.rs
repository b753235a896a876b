//! Keeps a page with a token out of every cache.

use http::header::CACHE_CONTROL;
use http::{HeaderMap, HeaderValue};

use crate::rejection::is_grpc;
use crate::telemetry::warn;

/// Headers that a cache could go by although `Cache-Control` says no: validators, HTTP/1.0's expiry, and what CDNs and
/// proxies heed in its stead (RFC 9213, Edge Architecture, nginx).
const REMOVED: &[&str] = &[
    "etag",
    "last-modified",
    "expires",
    "cdn-cache-control",
    "cloudflare-cdn-cache-control",
    "surrogate-control",
    "vercel-cdn-cache-control",
    "x-accel-expires",
];

/// Says `private, no-store`, and removes what says otherwise.
pub(crate) fn forbid(headers: &mut HeaderMap) {
    // Nothing caches gRPC, and its clients would see the header as metadata.
    if is_grpc(headers) {
        return;
    }
    if headers.get_all(CACHE_CONTROL).iter().any(asks_for_shared_caching) {
        warn!("the handler made a response public that may carry an auth token; it is `private, no-store` now");
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
    for name in REMOVED {
        headers.remove(*name);
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
