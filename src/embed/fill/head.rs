//! Which requests and responses can be filled, and what they lose for it.

use encoding_rs::{Encoding, UTF_8};
use http::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_ENCODING,
    CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderName, IF_RANGE, RANGE,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};

use crate::filter::is_for_document;
use crate::middleware::cache;

/// Digests of a body that is no longer the same (RFC 9530; RFC 3230 and RFC 1864 before it).
static DIGESTS: [HeaderName; 4] = [
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-md5"),
];

/// What the layer does with a response.
pub(super) enum Reading {
    /// It can be filled. Its bytes mean this.
    Html(&'static Encoding),
    /// It could be filled if it were not encoded.
    Encoded,
    /// It is nothing to fill.
    No,
}

/// Returns whether the response to this request can have a page to fill.
pub(super) fn has_page(method: &Method) -> bool {
    !matches!(*method, Method::HEAD | Method::CONNECT)
}

/// Makes the handler answer with a whole page that can be read. Other requests than those for documents keep their
/// conditions: see `cache::make_unconditional`.
pub(super) fn ask_for_readable<B>(request: &mut Request<B>) {
    let is_for_document = is_for_document(request.method(), request.headers());
    let headers = request.headers_mut();
    headers.remove(ACCEPT_ENCODING);
    if is_for_document {
        cache::make_unconditional(headers);
        // A part of the page without the token does not fit to a part of the page with it.
        for name in [RANGE, IF_RANGE] {
            headers.remove(name);
        }
    }
}

/// Returns whether this is HTML that can be filled.
pub(super) fn read<B>(response: &Response<B>) -> Reading {
    let headers = response.headers();
    let Some(encoding) = html_encoding(headers) else {
        return Reading::No;
    };
    let is_whole = !response.status().is_informational()
        && !matches!(
            response.status(),
            StatusCode::NO_CONTENT
                | StatusCode::RESET_CONTENT
                | StatusCode::PARTIAL_CONTENT
                | StatusCode::NOT_MODIFIED
        )
        && !headers.contains_key(CONTENT_RANGE);
    if !is_whole || is_download(headers) || forbids_change(headers) {
        return Reading::No;
    }
    if headers.get_all(CONTENT_ENCODING).iter().any(is_encoding) {
        return Reading::Encoded;
    }
    Reading::Html(encoding)
}

/// Returns the length that the response's head says.
pub(super) fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Removes what is not true of a filled page, and keeps it out of caches.
pub(super) fn fill(headers: &mut HeaderMap) {
    cache::forbid(headers);
    for name in [CONTENT_LENGTH, ACCEPT_RANGES] {
        headers.remove(name);
    }
    remove_digests(headers);
}

/// Removes the digests of a body that was changed, also from its trailers.
pub(super) fn remove_digests(headers: &mut HeaderMap) {
    for name in &DIGESTS {
        headers.remove(name);
    }
}

/// Returns the encoding of HTML in which every ASCII character is one byte, so that its tags can be found. `None` for
/// everything else. Without a `charset`, every encoding that a page can name in itself is one of these, except for
/// ISO-2022-JP, in which no tag of Released's is found by mistake that its author did not put there.
fn html_encoding(headers: &HeaderMap) -> Option<&'static Encoding> {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let (Some(content_type), None) = (types.next(), types.next()) else {
        return None;
    };
    let mut parts = content_type.to_str().ok()?.split(';');
    if !is(parts.next()?, "text/html") {
        return None;
    }
    let charset = parts.find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        is(name, "charset").then(|| value.trim().trim_matches('"'))
    });
    let encoding = charset.map_or(Some(UTF_8), |label| Encoding::for_label(label.as_bytes()))?;
    encoding.is_ascii_compatible().then_some(encoding)
}

/// Returns whether browsers save this rather than show it (RFC 6266, section 4.2).
fn is_download(headers: &HeaderMap) -> bool {
    headers.get_all(CONTENT_DISPOSITION).iter().any(|value| {
        let kind = value.as_bytes().split(|&byte| byte == b';').next();
        !kind.is_some_and(|kind| kind.trim_ascii().eq_ignore_ascii_case(b"inline"))
    })
}

fn forbids_change(headers: &HeaderMap) -> bool {
    headers.get_all(CACHE_CONTROL).iter().any(|value| {
        value
            .as_bytes()
            .split(|&byte| byte == b',')
            .any(|directive| directive.trim_ascii().eq_ignore_ascii_case(b"no-transform"))
    })
}

fn is_encoding(value: &HeaderValue) -> bool {
    let value = value.as_bytes().trim_ascii();
    !value.is_empty() && !value.eq_ignore_ascii_case(b"identity")
}

fn is(text: &str, word: &str) -> bool {
    text.trim().eq_ignore_ascii_case(word)
}
