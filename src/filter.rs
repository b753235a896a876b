//! Filters, which decide whether a request wants a token.
//!
//! A filter is any `Fn(&Parts) -> bool`; see [`ReleasedTokenLayer::mint_when`](crate::ReleasedTokenLayer::mint_when).

use http::header::ACCEPT;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method};

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
    can_use(&parts.method, &Hints::of(&parts.headers))
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
    let hints = Hints::of(&parts.headers);
    let is_navigation = hints
        .mode
        .map_or(hints.accepts_html, |mode| mode == "navigate");
    is_navigation && can_use(&parts.method, &hints)
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
    let hints = Hints::of(headers);
    match hints.destination {
        Some(destination) if destination != "empty" => DOCUMENTS.contains(&destination),
        _ => hints.is_for_page || hints.accepts_html,
    }
}

/// Returns whether a browser asks for this document before the user opens it.
pub(crate) fn is_ahead_of_time(parts: &Parts) -> bool {
    is_early(&parts.method, &Hints::of(&parts.headers))
}

/// Returns whether a browser says of what kind a file is, and it is no document.
pub(crate) fn is_named_file(headers: &HeaderMap) -> bool {
    Hints::of(headers).is_named_file()
}

/// Returns whether `filter` selects the request with which the user opens this document later.
pub(crate) fn selects_visit(filter: impl Fn(&Parts) -> bool, ahead: &Parts) -> bool {
    let mut visit = ahead.clone();
    for name in AHEAD_OF_TIME {
        visit.headers.remove(name);
    }
    for (name, value) in [
        (DESTINATION, "document"),
        (MODE, "navigate"),
        (ACCEPT.as_str(), "text/html,*/*;q=0.8"),
    ] {
        visit.headers.insert(name, HeaderValue::from_static(value));
    }
    filter(&visit)
}

// Fetch metadata: https://www.w3.org/TR/fetch-metadata/.
const DESTINATION: &str = "sec-fetch-dest";
const MODE: &str = "sec-fetch-mode";

/// The headers with which browsers say that they ask for a document ahead of time: today's, the one of Safari and of
/// older Chromium, and the one of older Firefox. Turbo's `X-Sec-Purpose` is not one of them: Turbo shows what it
/// fetched within ten seconds, or drops it.
const AHEAD_OF_TIME: [&str; 3] = ["sec-purpose", "purpose", "x-moz"];

/// What a request's headers say about its use. They are read in one pass, which costs less than a look-up for each name: 700
/// of the layer's 3,500 instructions for a visitor, if the request has two headers, and 300 if it has sixteen.
#[allow(clippy::struct_excessive_bools)] // each is a header of its own
#[derive(Default)]
struct Hints<'a> {
    destination: Option<&'a str>,
    mode: Option<&'a str>,
    accept: Option<&'a str>,
    accepts_html: bool,
    is_prefetch: bool,
    is_preflight: bool,
    is_range: bool,
    is_web_socket: bool,
    /// A library's script asks for a page: htmx or Unpoly, which accept everything.
    is_for_page: bool,
}

impl<'a> Hints<'a> {
    fn of(headers: &'a HeaderMap) -> Self {
        let mut hints = Self::default();
        for (name, value) in headers {
            let text = || value.to_str().ok();
            match name.as_str() {
                // The first counts.
                DESTINATION => hints.destination = hints.destination.or_else(text),
                MODE => hints.mode = hints.mode.or_else(text),
                "accept" => {
                    hints.accept = hints.accept.or_else(text);
                    hints.accepts_html |= text().is_some_and(|accept| accept.contains("text/html"));
                }
                "access-control-request-method" => hints.is_preflight = true,
                "range" => hints.is_range = true,
                "upgrade" => {
                    hints.is_web_socket |=
                        text().is_some_and(|protocol| starts_with(protocol, "websocket"));
                }
                "hx-request" | "x-up-version" => hints.is_for_page = true,
                name if AHEAD_OF_TIME.contains(&name) => {
                    hints.is_prefetch |= text().is_some_and(|why| starts_with(why, "prefetch"));
                }
                _ => {}
            }
        }
        hints
    }

    fn is_named_file(&self) -> bool {
        self.destination
            .is_some_and(|destination| CANNOT_USE_A_TOKEN.contains(&destination))
            || self.accept.is_some_and(|accept| {
                ACCEPTED_WITHOUT_A_TOKEN
                    .iter()
                    .any(|start| starts_with(accept, start))
            })
    }

    /// Returns whether a browser loads this for a page that it shows, or reports something.
    fn is_file_of_a_page(&self) -> bool {
        self.is_named_file()
            || match self.mode {
                Some("websocket") => true,
                Some("no-cors") => !self.accepts_html,
                _ => false,
            }
    }
}

fn can_use(method: &Method, hints: &Hints<'_>) -> bool {
    let is_preflight = *method == Method::OPTIONS && hints.is_preflight;
    let is_socket = *method == Method::CONNECT || hints.is_web_socket;
    !is_preflight
        && !is_socket
        && !hints.is_range
        && !hints.is_file_of_a_page()
        && !is_early(method, hints)
}

/// Scripts' requests do not count as early, whatever headers they have: a script does something with the answer now.
fn is_early(method: &Method, hints: &Hints<'_>) -> bool {
    is_get_or_head(method)
        && hints.is_prefetch
        && !matches!(hints.mode, Some("cors" | "same-origin"))
}

fn is_get_or_head(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

/// Compares without regard to case.
fn starts_with(text: &str, start: &str) -> bool {
    text.get(..start.len())
        .is_some_and(|beginning| beginning.eq_ignore_ascii_case(start))
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
