//! Which requests want a token, by what browsers really send.

use std::collections::BTreeMap;

use http::Request;
use http::request::Parts;
use tower_released::filter::{can_use_token, navigations};

/// What headless Chromium sends for everything that a page can ask for; see `record_requests.mjs`.
const RECORDED: &str = include_str!("support/recorded_requests.txt");

/// The recorded requests by where they were recorded: each with its name, such as `GET /style.css`.
fn recorded() -> BTreeMap<&'static str, Vec<(&'static str, Parts)>> {
    let mut long_values = Vec::new();
    let mut recordings = BTreeMap::<_, Vec<_>>::new();
    let mut place = None;
    for line in RECORDED.lines().filter(|line| !line.is_empty()) {
        if let Some((name, value)) = line.split_once("} = ") {
            long_values.push((format!("{name}}}"), value));
        } else if let Some(name) = line.strip_prefix("== ") {
            place = Some(name);
        } else if let Some(place) = place {
            let mut fields = line.split(" | ");
            let name = fields.next().unwrap();
            let (method, path) = name.split_once(' ').unwrap();
            let mut request = Request::builder().method(method).uri(path);
            for field in fields {
                let (name, value) = field.split_once(": ").unwrap();
                let long = long_values.iter().find(|(short, _)| short == value);
                request = request.header(name, long.map_or(value, |(_, long)| *long));
            }
            let parts = request.body(()).unwrap().into_parts().0;
            recordings.entry(place).or_default().push((name, parts));
        }
    }
    recordings
}

fn selected(filter: fn(&Parts) -> bool, requests: &[(&'static str, Parts)]) -> Vec<&'static str> {
    requests
        .iter()
        .filter(|(_, parts)| filter(parts))
        .map(|(name, _)| *name)
        .collect()
}

/// What can use a token: documents, and what scripts ask for.
const CAN_USE_A_TOKEN: &[&str] = &[
    "GET /embed.svg",
    "GET /event-stream",
    "GET /fetch",
    "GET /fetch-html",
    "GET /fetch-json",
    "GET /fetch-later",
    "GET /form-get",
    "GET /frame",
    "GET /frame-by-link",
    "GET /frame-form-get",
    "GET /frame.xml",
    "GET /htmx",
    "GET /htmx-boost",
    "GET /jquery-load",
    "GET /link",
    "GET /object",
    "GET /object.svg",
    "GET /page",
    "GET /preload-fetch.json",
    "GET /turbo-frame",
    "GET /turbo-hover",
    "GET /turbo-visit",
    "GET /unpoly",
    "GET /worker-fetch",
    "GET /xhr",
    "GET /xhr-html",
    "POST /beacon-json",
    "POST /fetch-form",
    "POST /fetch-keepalive",
    "POST /fetch-post",
    "POST /fetch-token",
    "POST /form-post",
    "POST /frame-form-post",
    "POST /grpc-web",
    "POST /turbo-stream",
];

/// Where too little is known of a request, there is a mint that nothing needs.
const MINTS_NEEDLESSLY: [(&str, &[&str]); 3] = [
    (
        "plain",
        &[
            "GET /app.webmanifest",
            "GET /captions.vtt",
            "GET /dictionary.txt",
            "GET /download.txt",
            "GET /fetch-no-cors",
            "GET /font.woff2",
            "GET /module-data.json",
            "GET /module-dependency.js",
            "GET /module-text.txt",
            "GET /module.js",
            "GET /preload-module.js",
            "GET /preload.js",
            "GET /script-cors.js",
            "GET /script.js",
            "GET /shared-worker.js",
            "GET /speculation-rules.json",
            "GET /worker-dependency.js",
            "GET /worker-imported.js",
            "GET /worker-module.js",
            "GET /worker.js",
            "POST /beacon",
            "POST /csp-report",
            "POST /ping",
        ],
    ),
    ("secure", &["GET /dictionary.txt", "GET /download.txt"]),
    (
        "service-worker",
        &[
            "GET /app.webmanifest",
            "GET /audio-worklet.js",
            "GET /captions.vtt",
            "GET /dictionary.txt",
            "GET /download.txt",
            "GET /font.woff2",
            "GET /module-data.json",
            "GET /module-dependency.js",
            "GET /module-text.txt",
            "GET /module.js",
            "GET /paint-worklet.js",
            "GET /preload-module.js",
            "GET /script-cors.js",
            "GET /shared-worker.js",
            "GET /speculation-rules.json",
            "GET /worker-dependency.js",
            "GET /worker-module.js",
            "GET /worker.js",
        ],
    ),
];

/// What a user navigates to.
const NAVIGATIONS: &[&str] = &[
    "GET /embed.svg",
    "GET /form-get",
    "GET /frame",
    "GET /frame-by-link",
    "GET /frame-form-get",
    "GET /frame.xml",
    "GET /link",
    "GET /object",
    "GET /object.svg",
    "GET /page",
    "POST /form-post",
    "POST /frame-form-post",
];

/// Without fetch metadata, what accepts HTML counts as a navigation. A download accepts what there is.
const NAVIGATIONS_NEEDLESSLY: [(&str, &[&str]); 3] = [
    (
        "plain",
        &[
            "GET /fetch-html",
            "GET /jquery-load",
            "GET /turbo-frame",
            "GET /turbo-hover",
            "GET /turbo-visit",
            "GET /xhr-html",
            "POST /turbo-stream",
        ],
    ),
    ("secure", &["GET /download.txt"]),
    ("service-worker", &["GET /download.txt"]),
];

fn check(
    filter: fn(&Parts) -> bool,
    always: &[&str],
    also: [(&str, &[&str]); 3],
    counts: [(usize, usize); 3],
) {
    let recorded = recorded();
    for ((place, also), (minted, all)) in also.into_iter().zip(counts) {
        let requests = &recorded[place];
        let mut expected: Vec<_> = requests
            .iter()
            .map(|(name, _)| *name)
            .filter(|name| always.contains(name) || also.contains(name))
            .collect();
        expected.dedup();
        assert_eq!(selected(filter, requests), expected, "{place}");
        assert_eq!((expected.len(), requests.len()), (minted, all), "{place}");
    }
}

#[test]
fn the_default_mints_for_what_can_use_a_token_of_all_that_a_browser_asks_for() {
    // Before this filter knew more than the destination: 80, 55 and 87.
    check(
        can_use_token,
        CAN_USE_A_TOKEN,
        MINTS_NEEDLESSLY,
        [(57, 81), (37, 88), (53, 90)],
    );
}

#[test]
fn navigations_are_what_a_user_opens_of_all_that_a_browser_asks_for() {
    check(
        navigations,
        NAVIGATIONS,
        NAVIGATIONS_NEEDLESSLY,
        [(19, 81), (13, 88), (13, 90)],
    );
}

/// Requests of other browsers and programs, as their documentation and sources have them.
#[test]
fn whoever_needs_a_token_gets_it_whatever_sends_the_request() {
    for (wanted, method, headers) in [
        // curl, and servers.
        (
            true,
            "GET",
            &[("accept", "*/*"), ("user-agent", "curl/8.7.1")][..],
        ),
        (true, "GET", &[]),
        (true, "HEAD", &[]),
        (false, "GET", &[("accept", "*/*"), ("range", "bytes=0-99")]),
        // tonic and gRPC-web, also from a page of another origin.
        (
            true,
            "POST",
            &[("content-type", "application/grpc"), ("te", "trailers")],
        ),
        (
            true,
            "POST",
            &[
                ("content-type", "application/grpc-web+proto"),
                ("sec-fetch-mode", "cors"),
                ("sec-fetch-dest", "empty"),
                ("accept", "application/grpc-web+proto"),
            ],
        ),
        // HTTP/2 without TLS is no socket.
        (
            true,
            "GET",
            &[("upgrade", "h2c"), ("connection", "upgrade")],
        ),
        (false, "GET", &[("upgrade", "WebSocket")]),
        // Firefox and older Chromium say more of a socket; over HTTP/2 it is a CONNECT.
        (
            false,
            "GET",
            &[
                ("sec-fetch-mode", "websocket"),
                ("sec-fetch-dest", "websocket"),
            ],
        ),
        (
            false,
            "GET",
            &[("sec-fetch-mode", "websocket"), ("sec-fetch-dest", "empty")],
        ),
        (false, "CONNECT", &[]),
        // Safari before 16.4 and Internet Explorer, without fetch metadata.
        (
            true,
            "GET",
            &[(
                "accept",
                "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
            )],
        ),
        (
            true,
            "GET",
            &[("accept", "text/html, application/xhtml+xml, image/jxr, */*")],
        ),
        (
            false,
            "GET",
            &[(
                "accept",
                "image/webp,image/avif,video/*;q=0.8,image/png,image/svg+xml,image/*;q=0.8,*/*;q=0.5",
            )],
        ),
        (false, "GET", &[("accept", "text/css,*/*;q=0.1")]),
        // Firefox.
        (
            false,
            "GET",
            &[(
                "accept",
                "video/webm,video/ogg,video/*;q=0.9,application/ogg;q=0.7,audio/*;q=0.6,*/*;q=0.5",
            )],
        ),
        (
            false,
            "GET",
            &[(
                "accept",
                "audio/webm,audio/ogg,audio/wav,audio/*;q=0.9,application/ogg;q=0.7,video/*;q=0.6,*/*;q=0.5",
            )],
        ),
        (false, "GET", &[("accept", "Image/PNG")]),
        (
            true,
            "GET",
            &[
                ("accept", "text/html,image/avif,image/webp,*/*;q=0.8"),
                ("sec-fetch-mode", "no-cors"),
                ("sec-fetch-dest", "object"),
            ],
        ),
        // axios, jQuery and Inertia.
        (
            true,
            "GET",
            &[
                ("accept", "application/json, text/plain, */*"),
                ("sec-fetch-mode", "cors"),
                ("sec-fetch-dest", "empty"),
            ],
        ),
        (
            true,
            "GET",
            &[
                ("accept", "text/html, */*; q=0.01"),
                ("x-requested-with", "XMLHttpRequest"),
            ],
        ),
        (
            true,
            "GET",
            &[
                ("accept", "text/html, application/xhtml+xml"),
                ("x-inertia", "true"),
                ("purpose", "prefetch"),
                ("sec-fetch-mode", "cors"),
                ("sec-fetch-dest", "empty"),
            ],
        ),
        // The preload extension of htmx, and Turbo's own prefetch, are shown at once.
        (
            true,
            "GET",
            &[
                ("hx-request", "true"),
                ("hx-preloaded", "true"),
                ("sec-fetch-mode", "cors"),
            ],
        ),
        (
            true,
            "GET",
            &[
                ("x-sec-purpose", "prefetch"),
                ("accept", "text/html, application/xhtml+xml"),
                ("sec-fetch-mode", "cors"),
            ],
        ),
        // Ahead of time, by today's header and by older ones.
        (
            false,
            "GET",
            &[("sec-purpose", "prefetch"), ("sec-fetch-mode", "navigate")],
        ),
        (
            false,
            "GET",
            &[
                ("sec-purpose", "prefetch;prerender"),
                ("sec-fetch-mode", "navigate"),
            ],
        ),
        (
            false,
            "GET",
            &[
                ("sec-purpose", "prefetch;anonymous-client-ip"),
                ("accept", "text/html"),
            ],
        ),
        (
            false,
            "GET",
            &[("purpose", "prefetch"), ("accept", "text/html")],
        ),
        (
            false,
            "GET",
            &[("x-moz", "prefetch"), ("accept", "text/html")],
        ),
        // A script in a prerendered page, which does something with the answer now.
        (
            true,
            "POST",
            &[
                ("sec-purpose", "prefetch;prerender"),
                ("accept", "application/json"),
                ("sec-fetch-mode", "cors"),
            ],
        ),
        (
            true,
            "GET",
            &[
                ("sec-purpose", "prefetch;prerender"),
                ("accept", "*/*"),
                ("sec-fetch-mode", "cors"),
            ],
        ),
        // A navigation that the browser sends while its service worker starts.
        (
            true,
            "GET",
            &[
                ("service-worker-navigation-preload", "true"),
                ("sec-fetch-mode", "navigate"),
                ("sec-fetch-dest", "document"),
                ("accept", "text/html"),
            ],
        ),
        (
            true,
            "GET",
            &[("sec-purpose", "something-new"), ("accept", "text/html")],
        ),
    ] {
        let mut request = Request::builder().method(method);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let parts = request.body(()).unwrap().into_parts().0;
        assert_eq!(can_use_token(&parts), wanted, "{method} {headers:?}");
        // Who wants documents only wants none of the others.
        assert!(wanted || !navigations(&parts), "{method} {headers:?}");
    }
}
