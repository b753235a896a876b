//! Filters, which decide whether a request wants a token.
//!
//! A filter is any `Fn(&Parts) -> bool`; see [`ReleasedTokenLayer::mint_when`](crate::ReleasedTokenLayer::mint_when).

use http::header::{ACCEPT, ACCESS_CONTROL_REQUEST_METHOD, HeaderName, RANGE, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method};

// The `http` crate has no constants for fetch metadata (https://www.w3.org/TR/fetch-metadata/).
const SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// The headers of libraries whose scripts ask for pages: htmx and Unpoly. Both accept everything.
static ASKS_FOR_PAGES: [HeaderName; 2] = [
    HeaderName::from_static("hx-request"),
    HeaderName::from_static("x-up-version"),
];

/// The headers with which browsers say that they ask for a document ahead of time: today's, the one of Safari and of
/// older Chromium, and the one of older Firefox. Turbo's `X-Sec-Purpose` is not one of them: Turbo shows what it
/// fetched within ten seconds, or drops it.
static AHEAD_OF_TIME: [HeaderName; 3] = [
    HeaderName::from_static("sec-purpose"),
    HeaderName::from_static("purpose"),
    HeaderName::from_static("x-moz"),
];

/// Marks a request that a layer's filter skipped, so that extractors can distinguish it from a missing layer.
#[derive(Clone)]
pub(crate) struct Skipped;

/// The values of `Sec-Fetch-Dest` that are skipped: what a browser loads for a page and cannot hold an embed.
const CANNOT_USE_A_TOKEN: &[&str] = &[
    "audio",
    "audioworklet",
    "dictionary",
    "font",
    "image",
    "json",
    "manifest",
    "paintworklet",
    "report",
    "script",
    "serviceworker",
    "sharedworker",
    "speculationrules",
    "style",
    "text",
    "track",
    "video",
    "webidentity",
    "websocket",
    "worker",
    "xslt",
];

/// How an `Accept` starts that asks for something without an embed. Behind a service worker and over plain HTTP, this is
/// all that is known of most of a page's files.
const ACCEPTED_WITHOUT_A_TOKEN: &[&str] = &["image/", "text/css", "video/", "audio/", "font/"];

/// Selects every request, except those that cannot use a token. Default of
/// [`ReleasedTokenLayer`](crate::ReleasedTokenLayer).
///
/// | skipped | recognised by |
/// |---|---|
/// | images, styles, scripts, fonts, media, manifests, workers, JSON modules, reports | `Sec-Fetch-Dest` |
/// | the same behind a service worker, which hides the destination; beacons and `<a ping>` | `Sec-Fetch-Mode: no-cors`, unless `Accept` names `text/html` |
/// | images, styles, fonts and media without fetch metadata | an `Accept` that starts with `image/`, `text/css`, `font/`, `video/` or `audio/` |
/// | parts of files | `Range` |
/// | handshakes of web sockets, and tunnels | `Upgrade: websocket`, or the method `CONNECT` |
/// | CORS preflights | `OPTIONS` with `Access-Control-Request-Method` |
/// | prefetched and prerendered documents | `Sec-Purpose: prefetch`, or the older `Purpose` and `X-Moz` |
///
/// It selects everything else, also requests without fetch metadata (older browsers, plain HTTP, other servers).
///
/// # Documents ahead of time
///
/// A browser that prefetches or prerenders a document may show it after the token's two minutes, or never. So there is no
/// token for it. The guide [`caching`](crate::docs::caching) says how the page gets its token when
/// the user opens it. What the scripts of a prerendered page fetch is selected as usual.
pub fn can_use_token(parts: &Parts) -> bool {
    let headers = &parts.headers;
    let is_preflight =
        parts.method == Method::OPTIONS && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    let is_socket = parts.method == Method::CONNECT
        || text(headers, &UPGRADE).is_some_and(|protocol| starts_with(protocol, "websocket"));
    !is_preflight
        && !is_socket
        && !headers.contains_key(RANGE)
        && !is_file_of_a_page(headers)
        && !is_ahead_of_time(parts)
}

/// Selects only documents that a user navigates to, and skips requests that scripts make: `.mint_when(navigations)`.
///
/// If the browser sends no fetch metadata, a request that accepts `text/html` counts as a navigation. Everything that
/// [`can_use_token`] skips is skipped.
///
/// # Not with Turbo, htmx boost or Unpoly
///
/// These libraries navigate with requests of a script, so this filter skips all pages but the first. With them, keep
/// [`can_use_token`].
pub fn navigations(parts: &Parts) -> bool {
    let is_navigation = match text(&parts.headers, &SEC_FETCH_MODE) {
        Some(mode) => mode == "navigate",
        None => accepts_html(&parts.headers),
    };
    is_navigation && can_use_token(parts)
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
    if !is_get_or_head(method) {
        return false;
    }
    match text(headers, &SEC_FETCH_DEST) {
        Some(destination) if destination != "empty" => DOCUMENTS.contains(&destination),
        _ => ASKS_FOR_PAGES.iter().any(|name| headers.contains_key(name)) || accepts_html(headers),
    }
}

/// Returns whether a browser asks for this document before the user opens it. Scripts' requests do not count, whatever
/// headers they have: a script does something with the answer now.
pub(crate) fn is_ahead_of_time(parts: &Parts) -> bool {
    is_get_or_head(&parts.method)
        && AHEAD_OF_TIME
            .iter()
            .any(|name| text(&parts.headers, name).is_some_and(|why| starts_with(why, "prefetch")))
        && !matches!(
            text(&parts.headers, &SEC_FETCH_MODE),
            Some("cors" | "same-origin")
        )
}

/// Returns whether `filter` selects the request with which the user opens this document later.
pub(crate) fn selects_visit(filter: impl Fn(&Parts) -> bool, ahead: &Parts) -> bool {
    let mut visit = ahead.clone();
    for name in &AHEAD_OF_TIME {
        visit.headers.remove(name);
    }
    for (name, value) in [
        (SEC_FETCH_MODE, "navigate"),
        (SEC_FETCH_DEST, "document"),
        (ACCEPT, "text/html,*/*;q=0.8"),
    ] {
        visit.headers.insert(name, HeaderValue::from_static(value));
    }
    filter(&visit)
}

/// Returns whether a browser loads this for a page that it shows, or reports something.
fn is_file_of_a_page(headers: &HeaderMap) -> bool {
    is_named_file(headers)
        || text(headers, &SEC_FETCH_MODE).is_some_and(|mode| {
            mode == "websocket" || (mode == "no-cors" && !accepts_html(headers))
        })
}

/// Returns whether a browser says of what kind a file is, and it is no document.
pub(crate) fn is_named_file(headers: &HeaderMap) -> bool {
    text(headers, &SEC_FETCH_DEST)
        .is_some_and(|destination| CANNOT_USE_A_TOKEN.contains(&destination))
        || text(headers, &ACCEPT).is_some_and(|accept| {
            ACCEPTED_WITHOUT_A_TOKEN
                .iter()
                .any(|start| starts_with(accept, start))
        })
}

fn is_get_or_head(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

fn accepts_html(headers: &HeaderMap) -> bool {
    headers.get_all(ACCEPT).iter().any(|accept| {
        accept
            .to_str()
            .is_ok_and(|accept| accept.contains("text/html"))
    })
}

/// Compares without regard to case.
fn starts_with(text: &str, start: &str) -> bool {
    text.get(..start.len())
        .is_some_and(|beginning| beginning.eq_ignore_ascii_case(start))
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
