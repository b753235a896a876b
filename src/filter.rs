//! Filters, which decide whether a request wants a token.
//!
//! A filter is any `Fn(&Parts) -> bool`; see [`ReleasedTokenLayer::mint_when`](crate::ReleasedTokenLayer::mint_when).

use http::header::{ACCEPT, ACCESS_CONTROL_REQUEST_METHOD, HeaderName};
use http::request::Parts;
use http::{HeaderMap, Method};

// The `http` crate has no constants for fetch metadata (https://www.w3.org/TR/fetch-metadata/).
const SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");
const HX_REQUEST: HeaderName = HeaderName::from_static("hx-request");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// Marks a request that a layer's filter skipped, so that extractors can distinguish it from a missing layer.
#[derive(Clone)]
pub(crate) struct Skipped;

/// The values of `Sec-Fetch-Dest` that are skipped: what a browser loads for a page and cannot hold an embed.
const CANNOT_USE_A_TOKEN: &[&str] = &[
    "audio",
    "audioworklet",
    "font",
    "image",
    "manifest",
    "paintworklet",
    "script",
    "serviceworker",
    "sharedworker",
    "style",
    "track",
    "video",
    "worker",
    "xslt",
];

/// Selects every request, except those that cannot use a token. Default of
/// [`ReleasedTokenLayer`](crate::ReleasedTokenLayer).
///
/// It skips CORS preflights. It also skips images, styles, scripts, fonts, media, manifests and workers, which it
/// recognises by `Sec-Fetch-Dest`. It selects requests without fetch metadata (older browsers, plain HTTP, other
/// servers).
pub fn can_use_token(parts: &Parts) -> bool {
    let is_preflight = parts.method == Method::OPTIONS
        && parts.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    let cannot_use_a_token = text(&parts.headers, &SEC_FETCH_DEST)
        .is_some_and(|destination| CANNOT_USE_A_TOKEN.contains(&destination));
    !is_preflight && !cannot_use_a_token
}

/// Selects only documents that a user navigates to, and skips requests that scripts make: `.mint_when(navigations)`.
///
/// If the browser sends no fetch metadata, a request that accepts `text/html` counts as a navigation.
pub fn navigations(parts: &Parts) -> bool {
    match text(&parts.headers, &SEC_FETCH_MODE) {
        Some(mode) => mode == "navigate" && can_use_token(parts),
        None => {
            text(&parts.headers, &ACCEPT).is_some_and(|accepted| accepted.contains("text/html"))
        }
    }
}

/// Selects every request: `.mint_when(always)`.
pub fn always(_: &Parts) -> bool {
    true
}

/// The values of `Sec-Fetch-Dest` for documents that a browser shows.
const DOCUMENTS: &[&str] = &[
    "document",
    "iframe",
    "frame",
    "fencedframe",
    "embed",
    "object",
];

/// Returns whether a GET or HEAD asks for a document, or for a part of one, as htmx and Turbo do.
pub(crate) fn is_for_document(method: &Method, headers: &HeaderMap) -> bool {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return false;
    }
    match text(headers, &SEC_FETCH_DEST) {
        Some(destination) if destination != "empty" => DOCUMENTS.contains(&destination),
        // htmx accepts everything, and says who it is.
        _ if headers.contains_key(HX_REQUEST) => true,
        _ => headers.get_all(ACCEPT).iter().any(|accept| {
            accept
                .to_str()
                .is_ok_and(|accept| accept.contains("text/html"))
        }),
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: Method, headers: &[(&'static str, &'static str)]) -> Parts {
        let mut request = http::Request::builder().method(method);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a valid request").into_parts().0
    }

    #[test]
    fn the_default_skips_only_what_cannot_use_a_token() {
        let preflight = [
            ("origin", "https://a.example"),
            ("access-control-request-method", "POST"),
        ];
        for (wanted, method, headers) in [
            (true, Method::GET, &[][..]),
            (true, Method::HEAD, &[]),
            (true, Method::POST, &[("content-type", "application/grpc")]),
            (true, Method::GET, &[("sec-fetch-dest", "document")]),
            (true, Method::GET, &[("sec-fetch-dest", "iframe")]),
            (true, Method::POST, &[("sec-fetch-dest", "empty")]),
            (true, Method::OPTIONS, &[]),
            (false, Method::OPTIONS, &preflight),
            (false, Method::GET, &[("sec-fetch-dest", "image")]),
            (false, Method::GET, &[("sec-fetch-dest", "style")]),
            (false, Method::GET, &[("sec-fetch-dest", "script")]),
            (false, Method::GET, &[("sec-fetch-dest", "font")]),
            (false, Method::GET, &[("sec-fetch-dest", "audio")]),
            (false, Method::GET, &[("sec-fetch-dest", "video")]),
            (false, Method::GET, &[("sec-fetch-dest", "manifest")]),
            (false, Method::GET, &[("sec-fetch-dest", "worker")]),
            (false, Method::GET, &[("sec-fetch-dest", "serviceworker")]),
        ] {
            let parts = request(method, headers);
            assert_eq!(
                can_use_token(&parts),
                wanted,
                "{} {headers:?}",
                parts.method
            );
            assert!(always(&parts));
        }
    }

    #[test]
    fn navigations_are_distinguished_from_what_scripts_fetch() {
        for (wanted, headers) in [
            (
                true,
                &[
                    ("sec-fetch-mode", "navigate"),
                    ("sec-fetch-dest", "document"),
                ][..],
            ),
            (
                true,
                &[("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")],
            ),
            (
                false,
                &[
                    ("sec-fetch-mode", "cors"),
                    ("sec-fetch-dest", "empty"),
                    ("accept", "text/html"),
                ],
            ),
            (true, &[("accept", "text/html,application/xhtml+xml")]),
            (false, &[("accept", "application/json")]),
            (false, &[]),
        ] {
            assert_eq!(
                navigations(&request(Method::GET, headers)),
                wanted,
                "{headers:?}"
            );
        }
    }
}
