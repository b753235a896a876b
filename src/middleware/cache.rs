//! Keeps a page with a token out of every cache.

use http::header::{
    CACHE_CONTROL, CONTENT_TYPE, ETAG, EXPIRES, HeaderName, IF_MODIFIED_SINCE, IF_NONE_MATCH,
    LAST_MODIFIED,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

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

/// What a browser shows as a page.
const DOCUMENTS: &[&str] = &["text/html", "application/xhtml+xml"];

/// What browsers load for a page, and what no embed can be in.
const ASSETS: &[&str] = &["image/", "font/", "audio/", "video/", "text/css"];

/// An image that can also be a document with scripts.
const SVG: &str = "image/svg+xml";

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
        if was_public && settings.warned_of_public.is_first() {
            warn!(
                "the handler made a response public that may carry an auth token; it is `private, no-store` now"
            );
        }
    }
}

/// Keeps a document that has no token because the browser asked for it ahead of time from being shown to the user who
/// then opens the page. What a browser prefetches for a page is not always a document.
pub(crate) fn forbid_reuse<B>(response: &mut Response<B>) {
    let mut kinds = response.headers().get_all(CONTENT_TYPE).iter().peekable();
    let is_document = if kinds.peek().is_none() {
        response.status() != StatusCode::NOT_MODIFIED
    } else {
        kinds.any(|kind| DOCUMENTS.iter().any(|document| is_kind(kind, document)))
    };
    if is_document {
        forbid(response.headers_mut());
    }
}

/// Returns whether this is an image, a font, a sound, a video or a style sheet, which holds no token. An SVG image may
/// be a document: see [`is_svg`].
pub(crate) fn is_asset<B>(response: &Response<B>) -> bool {
    is_all(response, |kind| {
        ASSETS.iter().any(|asset| is_kind(kind, asset)) && !is_kind(kind, SVG)
    })
}

/// Returns whether this is an SVG image.
pub(crate) fn is_svg<B>(response: &Response<B>) -> bool {
    is_all(response, |kind| is_kind(kind, SVG))
}

/// Returns whether the response says what it is, and every time something that `is_wanted`.
fn is_all<B>(response: &Response<B>, is_wanted: impl Fn(&HeaderValue) -> bool) -> bool {
    let mut kinds = response.headers().get_all(CONTENT_TYPE).iter().peekable();
    kinds.peek().is_some() && kinds.all(is_wanted)
}

/// Returns whether a `Content-Type` is this one, or one of a group that ends in `/`.
fn is_kind(content_type: &HeaderValue, kind: &str) -> bool {
    let content_type = content_type.as_bytes();
    let Some((start, rest)) = content_type.split_at_checked(kind.len()) else {
        return false;
    };
    start.eq_ignore_ascii_case(kind.as_bytes())
        && (kind.ends_with('/') || matches!(rest.first(), None | Some(b';' | b' ' | b'\t')))
}

/// Keeps a response out of every cache, as the layer does with a response that may carry a token. For frameworks that are
/// not built on Tower; see [`PendingToken::new`](crate::PendingToken::new).
///
/// Sets `Cache-Control: private, no-store`, and removes `ETag`, `Last-Modified`, `Expires` and the headers that direct
/// CDNs. Call it last, because it removes only what is there. The headers of a gRPC response are not changed.
///
/// # Example
///
/// ```
/// use http::{HeaderMap, HeaderValue, header};
/// use tower_released::middleware::forbid_caching;
///
/// let mut headers = HeaderMap::new();
/// headers.insert(header::ETAG, HeaderValue::from_static("\"1\""));
/// headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=60"));
/// forbid_caching(&mut headers);
/// assert_eq!(headers[header::CACHE_CONTROL], "private, no-store");
/// assert!(!headers.contains_key(header::ETAG));
/// ```
pub fn forbid_caching(headers: &mut HeaderMap) {
    forbid(headers);
}

/// Sets `private, no-store`, and removes headers that say otherwise. Returns whether the response was public.
pub(crate) fn forbid(headers: &mut HeaderMap) -> bool {
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
