//! No cache keeps a page with a token.

use http::header::CACHE_CONTROL;
use http::{HeaderMap, Request, Response, StatusCode};
use tower::{BoxError, ServiceBuilder, ServiceExt, service_fn};
use tower_released::filter::{always, navigations};
use tower_released::middleware::{CacheControl, CarriesToken};
use tower_released::testing::StubMinter;
use tower_released::{
    AuthToken, MintError, MintErrorKind, MintTiming, PendingToken, ReleasedTokenLayer,
};

use crate::support::{by_header, request_from_ada};

/// What a handler says that knows of no token.
const CAREFREE: &[(&str, &str)] = &[
    ("cache-control", "public, max-age=60, s-maxage=600"),
    ("etag", "\"1\""),
    ("last-modified", "Thu, 01 Jan 2026 00:00:00 GMT"),
    ("expires", "Fri, 01 Jan 2027 00:00:00 GMT"),
    ("cdn-cache-control", "public, max-age=600"),
    ("cloudflare-cdn-cache-control", "public, max-age=600"),
    ("netlify-cdn-cache-control", "public, s-maxage=600"),
    ("vercel-cdn-cache-control", "public, s-maxage=600"),
    ("x-litespeed-cache-control", "public"),
    ("edge-control", "cache-maxage=60m"),
    ("surrogate-control", "max-age=600"),
    ("x-accel-expires", "600"),
    ("vary", "accept-encoding"),
];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Handler {
    Asks,
    DoesNotAsk,
}

async fn headers(
    minter: StubMinter,
    timing: MintTiming,
    cache_control: CacheControl,
    handler: Handler,
    request: Request<()>,
    said: &'static [(&str, &str)],
) -> HeaderMap {
    let layer = ReleasedTokenLayer::new(minter, by_header())
        .timing(timing)
        .cache_control(cache_control);
    let page = service_fn(move |request: Request<()>| async move {
        if handler == Handler::Asks {
            let _ = request
                .extensions()
                .get::<PendingToken>()
                .unwrap()
                .get()
                .await;
        }
        let mut response = Response::builder();
        for (name, value) in said {
            response = response.header(*name, *value);
        }
        Ok::<_, BoxError>(response.body(()).unwrap())
    });
    ServiceBuilder::new()
        .layer(layer)
        .service(page)
        .oneshot(request)
        .await
        .unwrap()
        .into_parts()
        .0
        .headers
}

fn said(headers: &[(&str, &str)]) -> HeaderMap {
    headers
        .iter()
        .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
        .collect::<HeaderMap>()
}

#[tokio::test]
async fn a_page_whose_token_was_handed_out_is_private_whatever_its_handler_says() {
    for (timing, handler, may_be_cached) in [
        (MintTiming::BeforeHandler, Handler::Asks, false),
        // Nobody can tell whether it read the plain token in the extensions.
        (MintTiming::BeforeHandler, Handler::DoesNotAsk, false),
        (MintTiming::AlongsideHandler, Handler::Asks, false),
        (MintTiming::AlongsideHandler, Handler::DoesNotAsk, true),
        (MintTiming::OnExtraction, Handler::Asks, false),
        (MintTiming::OnExtraction, Handler::DoesNotAsk, true),
    ] {
        let minter = StubMinter::new();
        let found = headers(
            minter,
            timing,
            CacheControl::NoStore,
            handler,
            request_from_ada(()),
            CAREFREE,
        )
        .await;
        let expected = if may_be_cached {
            said(CAREFREE)
        } else {
            said(&[
                ("cache-control", "private, no-store"),
                ("vary", "accept-encoding"),
            ])
        };
        assert_eq!(found, expected, "{timing:?} {handler:?}");
    }
}

#[tokio::test]
async fn a_page_without_a_token_is_the_handlers_own_affair() {
    let down = StubMinter::failing(MintError::new(MintErrorKind::Unavailable));
    for timing in [
        MintTiming::BeforeHandler,
        MintTiming::AlongsideHandler,
        MintTiming::OnExtraction,
    ] {
        for (minter, request) in [
            (StubMinter::new(), Request::new(())),
            (down.clone(), request_from_ada(())),
        ] {
            let found = headers(
                minter,
                timing,
                CacheControl::NoStore,
                Handler::Asks,
                request,
                CAREFREE,
            )
            .await;
            assert_eq!(found, said(CAREFREE), "{timing:?}");
        }
    }
}

#[tokio::test]
async fn several_cache_control_headers_become_one() {
    let twice = &[("cache-control", "max-age=60"), ("cache-control", "public")];
    let found = headers(
        StubMinter::new(),
        MintTiming::BeforeHandler,
        CacheControl::NoStore,
        Handler::Asks,
        request_from_ada(()),
        twice,
    )
    .await;
    assert_eq!(
        found.get_all(CACHE_CONTROL).iter().collect::<Vec<_>>(),
        ["private, no-store"]
    );
}

#[tokio::test]
async fn grpc_responses_are_left_alone() {
    let grpc = &[("content-type", "application/grpc+proto")];
    let timing = MintTiming::BeforeHandler;
    let found = headers(
        StubMinter::new(),
        timing,
        CacheControl::NoStore,
        Handler::Asks,
        request_from_ada(()),
        grpc,
    )
    .await;
    assert_eq!(found, said(grpc));
}

#[tokio::test]
async fn an_application_may_opt_out() {
    let timing = MintTiming::BeforeHandler;
    let found = headers(
        StubMinter::new(),
        timing,
        CacheControl::Unchanged,
        Handler::Asks,
        request_from_ada(()),
        CAREFREE,
    )
    .await;
    assert_eq!(found, said(CAREFREE));
}

/// Every header that makes a request conditional, and those of a range.
const CONDITIONS: [&str; 6] = [
    "if-match",
    "if-none-match",
    "if-modified-since",
    "if-unmodified-since",
    "if-range",
    "range",
];

/// Which of these conditions reach the handler.
async fn conditions_left(
    cache_control: CacheControl,
    mut request: Request<()>,
) -> Vec<&'static str> {
    for name in CONDITIONS {
        request
            .headers_mut()
            .insert(name, http::HeaderValue::from_static("\"1\""));
    }
    let page = service_fn(async |request: Request<()>| {
        let left = CONDITIONS
            .into_iter()
            .filter(|name| request.headers().contains_key(*name))
            .collect();
        Ok::<_, BoxError>(Response::new(left))
    });
    // The default filter skips requests with a range.
    let layer = ReleasedTokenLayer::new(StubMinter::new(), by_header())
        .mint_when(always)
        .cache_control(cache_control);
    ServiceBuilder::new()
        .layer(layer)
        .service(page)
        .oneshot(request)
        .await
        .unwrap()
        .into_body()
}

fn with(method: &str, headers: &[(&'static str, &'static str)]) -> Request<()> {
    let mut request = request_from_ada(());
    *request.method_mut() = method.parse().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    request
}

const PAGE: (&str, &str) = ("accept", "text/html,application/xhtml+xml,*/*;q=0.8");

#[tokio::test]
async fn a_document_with_a_token_loses_its_conditions_so_that_no_304_brings_an_older_page_back() {
    let kept = ["if-match", "if-unmodified-since", "if-range", "range"];
    for request in [
        with("GET", &[PAGE]),
        with("HEAD", &[PAGE]),
        with("GET", &[("sec-fetch-dest", "document")]),
        with("GET", &[("sec-fetch-dest", "iframe"), PAGE]),
        with(
            "GET",
            &[
                ("sec-fetch-dest", "empty"),
                ("accept", "text/html, application/xhtml+xml"),
            ],
        ),
    ] {
        let headers = format!("{:?}", request.headers());
        assert_eq!(
            conditions_left(CacheControl::NoStore, request).await,
            kept,
            "{headers}"
        );
    }
}

#[tokio::test]
async fn whatever_is_no_document_keeps_its_conditions_and_ranges() {
    for request in [
        // A precondition that protects what is there (RFC 9110, section 13.1.2).
        with("PUT", &[("accept", "text/html")]),
        with("POST", &[PAGE]),
        with("DELETE", &[("sec-fetch-dest", "document")]),
        // A script's fetch, a download that is resumed, a player.
        with("GET", &[("sec-fetch-dest", "empty"), ("accept", "*/*")]),
        with("GET", &[("accept", "application/json")]),
        with("GET", &[]),
        with("GET", &[("accept", "video/mp4")]),
    ] {
        let what = format!("{} {:?}", request.method(), request.headers());
        assert_eq!(
            conditions_left(CacheControl::NoStore, request).await,
            CONDITIONS,
            "{what}"
        );
    }
    let mut anonymous = with("GET", &[PAGE]);
    anonymous.headers_mut().remove("x-user");
    assert_eq!(
        conditions_left(CacheControl::NoStore, anonymous).await,
        CONDITIONS
    );
}

#[tokio::test]
async fn an_application_that_opts_out_of_cache_headers_keeps_its_conditions_too() {
    assert_eq!(
        conditions_left(CacheControl::Unchanged, with("GET", &[PAGE])).await,
        CONDITIONS
    );
}

#[tokio::test]
async fn a_put_that_must_not_overwrite_does_not_overwrite_for_a_user_who_is_signed_in() {
    let file = service_fn(async |request: Request<()>| {
        let exists = request.headers().contains_key("if-none-match");
        let status = if exists {
            StatusCode::PRECONDITION_FAILED
        } else {
            StatusCode::OK
        };
        Ok::<_, BoxError>(Response::builder().status(status).body(()).unwrap())
    });
    let put = with("PUT", &[("if-none-match", "*")]);
    let layer = ReleasedTokenLayer::new(StubMinter::new(), by_header());
    let response = ServiceBuilder::new()
        .layer(layer)
        .service(file)
        .oneshot(put)
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::PRECONDITION_FAILED);
}

#[tokio::test]
async fn a_page_stays_private_when_a_renderer_takes_the_token_and_drops_the_promise() {
    let said = &[("cache-control", "public")];
    let layer =
        ReleasedTokenLayer::new(StubMinter::new(), by_header()).timing(MintTiming::OnExtraction);
    let page = service_fn(async |mut request: Request<()>| {
        let pending = request.extensions_mut().remove::<PendingToken>().unwrap();
        let rendered =
            tokio::spawn(async move { pending.get().await.unwrap().unwrap().to_string() });
        let mut response = Response::builder();
        for (name, value) in said {
            response = response.header(*name, *value);
        }
        Ok::<_, BoxError>(response.body(rendered.await.unwrap()).unwrap())
    });
    let response = ServiceBuilder::new()
        .layer(layer)
        .service(page)
        .oneshot(request_from_ada(()))
        .await
        .unwrap();
    assert_eq!(response.headers()[CACHE_CONTROL], "private, no-store");
}

/// How a handler that may read the token answers.
async fn answer(
    layer: ReleasedTokenLayer,
    request: Request<()>,
    takes_promise: bool,
    status: u16,
    content_types: &'static [&str],
) -> Response<()> {
    let page = service_fn(move |request: Request<()>| async move {
        if takes_promise {
            let pending = request.extensions().get::<PendingToken>().unwrap();
            pending.get().await.unwrap().unwrap();
        }
        let mut response = Response::builder().status(status);
        for (name, value) in CAREFREE {
            response = response.header(*name, *value);
        }
        for content_type in content_types {
            response = response.header("content-type", *content_type);
        }
        Ok::<_, BoxError>(response.body(()).unwrap())
    });
    let service = ServiceBuilder::new().layer(layer).service(page);
    service.oneshot(request).await.unwrap()
}

fn is_as_the_handler_said(response: &Response<()>) -> bool {
    let names = CAREFREE.iter().map(|(name, value)| (*name, *value));
    names
        .into_iter()
        .all(|(name, value)| response.headers().get(name).is_some_and(|v| v == value))
}

fn is_private(response: &Response<()>) -> bool {
    let headers = response.headers();
    headers[CACHE_CONTROL] == "private, no-store"
        && headers.get_all(CACHE_CONTROL).iter().count() == 1
        && CAREFREE[1..CAREFREE.len() - 1]
            .iter()
            .all(|(name, _)| !headers.contains_key(*name))
}

#[tokio::test]
async fn what_can_hold_no_token_keeps_its_cache_headers_though_one_was_minted() {
    let script = with("GET", &[("accept", "*/*"), ("sec-fetch-dest", "empty")]);
    let page = with("GET", &[PAGE]);
    for (is_kept, request, status, content_types) in [
        (true, &script, 200, &["image/png"][..]),
        (true, &script, 200, &["Image/AVIF"]),
        (true, &script, 200, &["font/woff2"]),
        (true, &script, 200, &["audio/mpeg"]),
        (true, &script, 206, &["video/mp4"]),
        (true, &script, 200, &["text/css"]),
        (true, &script, 200, &["text/css; charset=utf-8"]),
        (true, &script, 200, &["image/svg+xml"]),
        (true, &script, 304, &[]),
        // Opened in a tab of its own.
        (true, &page, 200, &["image/png"]),
        // An SVG document can have scripts, and HTML within.
        (false, &page, 200, &["image/svg+xml"]),
        (false, &page, 304, &[]),
        // Whatever may hold a token, or does not say what it is.
        (false, &script, 200, &[]),
        (false, &script, 204, &[]),
        (false, &script, 200, &["text/html"]),
        (false, &script, 200, &["text/javascript"]),
        (false, &script, 200, &["application/json"]),
        (false, &script, 200, &["text/css-or-not"]),
        (false, &script, 200, &["text/cs"]),
        (false, &script, 200, &["imagery/png"]),
        (false, &script, 200, &["multipart/byteranges"]),
        (false, &script, 200, &["image/png", "text/html"]),
        (false, &script, 200, &["text/html", "image/png"]),
    ] {
        let what = format!("{status} {content_types:?} {:?}", request.headers());
        // Nobody can tell whether the token in the extensions was read.
        let layer = || ReleasedTokenLayer::new(StubMinter::new(), by_header());
        let response = answer(layer(), request.clone(), false, status, content_types).await;
        assert_eq!(is_as_the_handler_said(&response), is_kept, "{what}");
        assert_eq!(is_private(&response), !is_kept, "{what}");
        let is_marked = response.extensions().get::<CarriesToken>().is_some();
        assert_eq!(is_marked, !is_kept, "{what}");

        // The token was taken, so it may be in anything.
        for timing in [
            MintTiming::BeforeHandler,
            MintTiming::AlongsideHandler,
            MintTiming::OnExtraction,
        ] {
            let layer = layer().timing(timing);
            let response = answer(layer, request.clone(), true, status, content_types).await;
            assert!(is_private(&response), "{timing:?} {what}");
        }
    }
}

#[tokio::test]
async fn an_image_stays_private_when_a_renderer_holds_the_promise() {
    let layer = ReleasedTokenLayer::new(StubMinter::new(), by_header());
    let image = service_fn(async |request: Request<()>| {
        let pending = request.extensions().get::<PendingToken>().unwrap().clone();
        let response = Response::builder()
            .header("content-type", "image/png")
            .header("cache-control", "public");
        Ok::<_, BoxError>(response.body(pending).unwrap())
    });
    let service = ServiceBuilder::new().layer(layer).service(image);
    let response = service.oneshot(request_from_ada(())).await.unwrap();
    assert_eq!(response.headers()[CACHE_CONTROL], "private, no-store");
}

const PREFETCH: (&str, &str) = ("sec-purpose", "prefetch");

#[tokio::test]
async fn a_document_that_is_fetched_ahead_of_time_gets_no_token_and_is_not_kept_for_the_visit() {
    let by_link = [PREFETCH, PAGE, ("sec-fetch-mode", "no-cors")];
    let by_rule = [PREFETCH, PAGE, ("sec-fetch-mode", "navigate")];
    let behind_a_worker = [
        PREFETCH,
        ("accept", "*/*"),
        ("sec-fetch-mode", "no-cors"),
        ("sec-fetch-dest", "empty"),
    ];
    let plain_http = [("purpose", "prefetch"), PAGE];
    for headers in [&by_link[..], &by_rule, &behind_a_worker, &plain_http] {
        for timing in [
            MintTiming::BeforeHandler,
            MintTiming::AlongsideHandler,
            MintTiming::OnExtraction,
        ] {
            for (is_kept, status, content_types) in [
                (false, 200, &["text/html; charset=utf-8"][..]),
                (false, 200, &["application/xhtml+xml"]),
                (false, 200, &[]),
                (false, 404, &["text/html"]),
                // A link prefetches files of the next page with the same headers.
                (true, 200, &["text/css"]),
                (true, 200, &["text/javascript"]),
                (true, 200, &["image/png"]),
            ] {
                let minter = StubMinter::new();
                for layer in [
                    ReleasedTokenLayer::new(minter.clone(), by_header()),
                    ReleasedTokenLayer::new(minter.clone(), by_header()).mint_when(navigations),
                ] {
                    let layer = layer.timing(timing);
                    let request = with("GET", headers);
                    let response = answer(layer, request, false, status, content_types).await;
                    let what = format!("{timing:?} {status} {content_types:?} {headers:?}");
                    assert_eq!(is_private(&response), !is_kept, "{what}");
                    assert_eq!(is_as_the_handler_said(&response), is_kept, "{what}");
                    assert!(
                        response.extensions().get::<CarriesToken>().is_none(),
                        "{what}"
                    );
                }
                assert!(minter.users().is_empty());
            }
        }
    }
}

#[tokio::test]
async fn a_document_ahead_of_time_is_left_alone_where_the_visit_gets_no_token_either() {
    let layer = || ReleasedTokenLayer::new(StubMinter::new(), by_header());
    let prefetch = || with("GET", &[PREFETCH, PAGE, ("sec-fetch-mode", "no-cors")]);
    for (layer, request) in [
        (
            layer().mint_when(|parts| parts.uri.path() == "/roadmap"),
            prefetch(),
        ),
        (layer().mint_when(|_| false), prefetch()),
        // The opt-out.
        (layer().cache_control(CacheControl::Unchanged), prefetch()),
        // Skipped, but by nobody's prefetch.
        (
            layer(),
            with("GET", &[("accept", "*/*"), ("sec-fetch-dest", "script")]),
        ),
    ] {
        let what = format!("{request:?}");
        let response = answer(layer, request, false, 200, &["text/html"]).await;
        assert!(is_as_the_handler_said(&response), "{what}");
    }
}

#[tokio::test]
async fn a_prefetch_is_answered_with_todays_page_and_not_with_a_304() {
    let page = |cache_control| async move {
        let page = service_fn(async |request: Request<()>| {
            assert!(request.extensions().get::<AuthToken>().is_none());
            let is_conditional = request.headers().contains_key("if-none-match");
            Ok::<_, BoxError>(Response::new(is_conditional))
        });
        let request = with("GET", &[PREFETCH, PAGE, ("if-none-match", "\"1\"")]);
        let layer =
            ReleasedTokenLayer::new(StubMinter::new(), by_header()).cache_control(cache_control);
        let service = ServiceBuilder::new().layer(layer).service(page);
        service.oneshot(request).await.unwrap().into_body()
    };
    assert!(!page(CacheControl::NoStore).await);
    assert!(page(CacheControl::Unchanged).await);
}

/// A service worker that fetches what the browser asked it for leaves of a prefetch what was recorded: `Accept: */*`.
#[tokio::test]
async fn a_prefetch_behind_a_service_worker_is_answered_with_todays_page_and_not_with_a_304() {
    for timing in [
        MintTiming::BeforeHandler,
        MintTiming::AlongsideHandler,
        MintTiming::OnExtraction,
    ] {
        let page = service_fn(async |request: Request<()>| {
            let is_conditional = request.headers().contains_key("if-none-match");
            Ok::<_, BoxError>(Response::new(is_conditional))
        });
        let request = with(
            "GET",
            &[
                PREFETCH,
                ("accept", "*/*"),
                ("sec-fetch-mode", "no-cors"),
                ("sec-fetch-dest", "empty"),
                ("if-none-match", "\"1\""),
            ],
        );
        let layer = ReleasedTokenLayer::new(StubMinter::new(), by_header()).timing(timing);
        let service = ServiceBuilder::new().layer(layer).service(page);
        let is_conditional = service.oneshot(request).await.unwrap().into_body();
        assert!(!is_conditional, "{timing:?}");
    }
}

/// As recorded: Unpoly accepts everything, as htmx does, and says who it is.
#[tokio::test]
async fn a_page_of_unpoly_with_a_token_loses_its_conditions_like_one_of_htmx_or_turbo() {
    for library in [
        [("accept", "*/*"), ("hx-request", "true")],
        [("accept", "*/*"), ("x-up-version", "3.10.2")],
    ] {
        let page = service_fn(async |request: Request<()>| {
            assert!(request.extensions().get::<AuthToken>().is_some());
            // A page as it was before the user signed in.
            let is_known = request.headers().contains_key("if-none-match");
            Ok::<_, BoxError>(
                Response::builder()
                    .status(if is_known { 304 } else { 200 })
                    .body(())
                    .unwrap(),
            )
        });
        let headers = [&library[..], &[("if-none-match", "\"1\"")]].concat();
        let layer = ReleasedTokenLayer::new(StubMinter::new(), by_header());
        let service = ServiceBuilder::new().layer(layer).service(page);
        let response = service.oneshot(with("GET", &headers)).await.unwrap();
        assert_eq!(response.status(), 200, "{library:?}");
    }
}
