//! What an operator reads in the log of the layers.

use std::future::ready;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Html;
use axum::routing::get;
use futures_util::future::join_all;
use http::{HeaderValue, Request, Response};
use tower::{BoxError, ServiceBuilder, ServiceExt, service_fn};
use tower_released::embed::csp::{self, CspLayer};
use tower_released::testing::{FakeReleased, Reply, StubMinter};
use tower_released::{
    AuthToken, InvalidUser, MintError, MintErrorKind, MintTiming, Minter, ReleasedClient,
    ReleasedTokenLayer, User, UserResolver, from_extractor, resolver_fn,
};
use tower_sessions::{MemoryStore, Session, SessionManagerLayer};

use crate::leaks::Log;
use crate::support::{by_header, once, request_from_ada};

/// Serves one page from Ada behind a layer with these two.
async fn serve_one(minter: impl Minter, resolver: impl UserResolver) {
    let page = service_fn(async |_: Request<()>| Ok::<_, BoxError>(Response::new(())));
    let layer = ReleasedTokenLayer::new(minter, resolver);
    ServiceBuilder::new()
        .layer(layer)
        .service(page)
        .oneshot(request_from_ada(()))
        .await
        .unwrap();
}

fn lines<'a>(text: &'a str, level: &str) -> Vec<&'a str> {
    text.lines()
        .filter(|line| line.contains(level) && line.contains("no auth token for this request"))
        .collect()
}

#[tokio::test]
async fn a_flood_of_failures_warns_once_a_second_and_tells_how_many_there_were() {
    let (log, _guard) = Log::capture();
    let minter = StubMinter::failing(MintError::new(MintErrorKind::Timeout));
    let page = service_fn(async |_: Request<()>| Ok::<_, BoxError>(Response::new(())));
    let service = ServiceBuilder::new()
        .layer(ReleasedTokenLayer::new(minter, by_header()))
        .service(page);
    let pages = async |number| {
        join_all((0..number).map(|_| service.clone().oneshot(request_from_ada(())))).await;
    };
    pages(200).await;
    let text = log.text();
    // The machine may have been so busy that a second went by.
    assert!((1..=5).contains(&lines(&text, "WARN").len()), "{text}");
    assert!(
        lines(&text, "DEBUG").len() >= 195,
        "each is there for debugging"
    );

    tokio::time::sleep(Duration::from_millis(1100)).await;
    pages(1).await;
    let text = log.text();
    let last = *lines(&text, "WARN").last().unwrap();
    let suppressed: usize = last
        .split("suppressed=")
        .nth(1)
        .unwrap()
        .split(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(suppressed, 200 - (lines(&text, "WARN").len() - 1), "{last}");
    assert!(last.contains(r#"error.type="timeout""#), "{last}");
}

#[tokio::test]
async fn pages_that_an_open_circuit_turns_away_are_not_warned_of() {
    let (log, _guard) = Log::capture();
    let released = FakeReleased::start().await.unwrap();
    released.reply_always(Reply::status(500));
    let client = released.client_builder().retry(once()).build().unwrap();
    let page = service_fn(async |_: Request<()>| Ok::<_, BoxError>(Response::new(())));
    let service = ServiceBuilder::new()
        .layer(ReleasedTokenLayer::new(client, by_header()))
        .service(page);
    for _ in 0..50 {
        service.clone().oneshot(request_from_ada(())).await.unwrap();
    }
    let text = log.text();
    let warned = lines(&text, "WARN");
    assert!(
        warned
            .iter()
            .all(|line| line.contains(r#"error.type="unavailable""#)),
        "{warned:#?}"
    );
    let turned_away = lines(&text, "DEBUG")
        .into_iter()
        .filter(|line| line.contains("circuit_open"))
        .count();
    assert_eq!(turned_away, 45);
}

#[tokio::test]
async fn an_extractor_whose_layer_is_missing_or_further_in_is_named() {
    let resolver = || {
        from_extractor((), async |session: Session| {
            let user = session.get::<String>("user").await?;
            Ok::<_, BoxError>(user.map(|id| User::new(&id, format!("{id}@example.com"))))
        })
    };
    let sessions = SessionManagerLayer::new(MemoryStore::default());
    let app = || Router::new().route("/", get(async || ""));
    let layer = || ReleasedTokenLayer::new(StubMinter::new(), resolver());
    for wrong in [
        app().layer(layer()),
        app().layer(sessions.clone()).layer(layer()),
    ] {
        let (log, _guard) = Log::capture_filtered("warn");
        wrong.oneshot(Request::new(Body::empty())).await.unwrap();
        let text = log.text();
        for words in [
            "tower_sessions_core::session::Session",
            "500",
            "outside of the ReleasedTokenLayer",
        ] {
            assert!(text.contains(words), "{words} is not in {text}");
        }
    }
    let (log, _guard) = Log::capture_filtered("warn");
    app()
        .layer(layer())
        .layer(sessions)
        .oneshot(Request::new(Body::empty()))
        .await
        .unwrap();
    assert_eq!(log.text(), "");
}

#[tokio::test]
async fn an_error_of_the_applications_own_resolver_is_not_printed() {
    let (log, _guard) = Log::capture();
    let failing =
        resolver_fn(|_| ready(Err::<User, BoxError>("no row for ada@example.com".into())));
    serve_one(StubMinter::new(), failing).await;
    let text = log.text();
    assert!(
        text.contains("log its error in the resolver") && !text.contains("example.com"),
        "{text}"
    );

    let invalid = resolver_fn(|_| ready(Err::<User, _>(InvalidUser::IdCharacter)));
    serve_one(StubMinter::new(), invalid).await;
    assert!(log.text().contains("UserId::encode"), "{}", log.text());
}

#[tokio::test]
async fn a_csp_layer_in_the_wrong_place_is_told_once() {
    async fn page(token: Option<AuthToken>) -> Html<String> {
        Html(token.map_or_else(String::new, |token| token.to_string()))
    }
    let policy = || {
        tower::util::MapResponseLayer::new(|mut response: Response<Body>| {
            let value = HeaderValue::from_static("font-src 'self'");
            response
                .headers_mut()
                .insert("content-security-policy", value);
            response
        })
    };
    let released = || ReleasedTokenLayer::new(StubMinter::new(), by_header());
    let csp = || CspLayer::new(csp::strict());
    let routes = || Router::new().route("/", get(page));
    for (app, words) in [
        (
            routes()
                .route_layer(released())
                .layer(csp())
                .layer(policy()),
            "no Content-Security-Policy to merge into",
        ),
        (
            routes().route_layer(released()).layer(csp()),
            "no Content-Security-Policy to merge into",
        ),
        (
            routes().layer(policy()).layer(csp()).layer(released()),
            "inside of the ReleasedTokenLayer",
        ),
    ] {
        let (log, _guard) = Log::capture_filtered("warn");
        for _ in 0..3 {
            app.clone()
                .oneshot(request_from_ada(Body::empty()))
                .await
                .unwrap();
        }
        let text = log.text();
        assert_eq!(
            (text.lines().count(), text.contains(words)),
            (1, true),
            "{text}"
        );
    }
    let right = routes()
        .route_layer(released())
        .layer(policy())
        .layer(csp());
    let (log, _guard) = Log::capture_filtered("warn");
    right
        .clone()
        .oneshot(request_from_ada(Body::empty()))
        .await
        .unwrap();
    // Without a token there may be a response without a policy.
    right.oneshot(Request::new(Body::empty())).await.unwrap();
    assert_eq!(log.text(), "");
}

#[tokio::test]
async fn a_policy_that_blocks_the_hubs_frame_is_told_once() {
    // Serves pages with these headers, through one layer, and returns what it logged.
    async fn logged(csp: CspLayer, headers: &[(&'static str, &[u8])]) -> String {
        let mut page = Response::new(Body::empty());
        let html = HeaderValue::from_static("text/html; charset=utf-8");
        page.headers_mut().insert("content-type", html);
        for (name, value) in headers {
            let value = HeaderValue::from_bytes(value).unwrap();
            if *name == "content-type" {
                page.headers_mut().insert(*name, value);
            } else {
                page.headers_mut().append(*name, value);
            }
        }
        let headers = page.headers().clone();
        let page = service_fn(move |_: Request<Body>| {
            let mut page = Response::new(Body::empty());
            *page.headers_mut() = headers.clone();
            ready(Ok::<_, BoxError>(page))
        });
        let (log, _guard) = Log::capture_filtered("warn");
        for _ in 0..3 {
            // A server clones its service for each connection.
            let service = ServiceBuilder::new()
                .layer(csp.clone())
                .service(page.clone());
            service.oneshot(Request::new(Body::empty())).await.unwrap();
        }
        log.text()
    }
    const ENFORCED: &str = "content-security-policy";
    let csp = |sources| CspLayer::new(sources).on_every_response();
    for blocking in [
        &b"frame-src 'self'"[..],
        b"FRAME-SRC 'NONE'",
        b"child-src 'self'",
        b"default-src 'self'; img-src *",
        b"frame-src https://releasedhub.com.evil.example https://acmereleasedhub.com",
        b"frame-src https://player.example/acme.releasedhub.com",
        b"img-src *, frame-src 'self'",
        b"frame-src *, frame-src 'self'",
        b"frame-src *.releasedhub.com caf\xe9; frame-src 'self'",
    ] {
        let text = logged(csp(csp::strict()), &[(ENFORCED, blocking)]).await;
        let shown = String::from_utf8_lossy(blocking);
        assert_eq!(text.lines().count(), 1, "{shown}: {text}");
        for words in ["\"Communication error\"", "hub(..)", "CspLayer"] {
            assert!(text.contains(words), "{shown}: {text}");
        }
        // The cure cures.
        let cured = csp::strict().hub("news.example.com").unwrap();
        let text = logged(csp(cured), &[(ENFORCED, blocking)]).await;
        assert_eq!(text, "", "{shown}");
    }
    let text = logged(
        csp(csp::strict()),
        &[(ENFORCED, b"img-src *"), (ENFORCED, b"frame-src 'none'")],
    )
    .await;
    assert_eq!(
        text.lines().count(),
        1,
        "of two headers, the second: {text}"
    );

    for allowing in [
        &[][..],
        &[(ENFORCED, &b"img-src 'self'"[..])],
        &[(ENFORCED, b"default-src *")],
        &[(ENFORCED, b"frame-src 'self' HTTPS:")],
        &[(ENFORCED, b"frame-src *.ReleasedHub.com")],
        &[(
            ENFORCED,
            b"default-src 'none'; frame-src https://acme.releasedhub.com:443/x",
        )],
        &[(ENFORCED, b"frame-src acme.releasedhub.com")],
        // It reports, and blocks nothing.
        &[("content-security-policy-report-only", b"frame-src 'none'")],
        // No page.
        &[
            (ENFORCED, b"default-src 'none'"),
            ("content-type", b"application/json"),
        ],
    ] {
        let text = logged(csp(csp::strict()), allowing).await;
        assert_eq!(text, "", "{allowing:?}");
    }
    // The frame of a video player is not the portal's.
    let players = csp::strict().videos();
    let text = logged(csp(players), &[(ENFORCED, b"frame-src 'self'")]).await;
    assert_eq!(text.lines().count(), 1, "{text}");
    let text = logged(
        csp(csp::strict()),
        &[
            (ENFORCED, b"frame-src 'self'"),
            ("content-type", b"Text/HTML"),
        ],
    )
    .await;
    assert_eq!(text.lines().count(), 1, "{text}");
    // Responses into which nothing is merged are not judged.
    let text = logged(
        CspLayer::new(csp::strict()),
        &[(ENFORCED, b"frame-src 'self'")],
    )
    .await;
    assert_eq!(text, "");
}

#[tokio::test]
async fn a_connection_that_fails_is_logged_with_its_cause_and_the_server() {
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let client = ReleasedClient::builder("acc", "s3cret")
        .endpoint(format!("http://{closed}/"))
        .retry(once());
    let (log, _guard) = Log::capture_filtered("warn");
    serve_one(client.build().unwrap(), by_header()).await;
    let text = log.text();
    for field in [
        r#"error.type="connect""#,
        r#"cause="refused""#,
        &format!("server.address=\"{closed}\""),
    ] {
        assert!(text.contains(field), "{field} is not in {text}");
    }
}

#[tokio::test]
async fn a_resolvers_failure_is_in_the_span_of_the_mint() {
    let (log, _guard) = Log::capture();
    let failing = resolver_fn(|_| ready(Err::<User, BoxError>("the database is gone".into())));
    serve_one(StubMinter::new(), failing).await;
    let text = log.text();
    let span = text
        .lines()
        .find(|line| line.contains("released_mint{") && line.contains(" close "))
        .unwrap();
    assert!(
        span.contains(r#"error.type="resolver""#) && span.contains(r#"otel.status_code="ERROR""#),
        "{span}"
    );
}

#[tokio::test]
async fn a_handler_that_panics_is_not_blamed_on_its_mint() {
    let (log, _guard) = Log::capture_filtered("tower_released=warn");
    let slow = StubMinter::new().with_latency(Duration::from_secs(60));
    let layer = ReleasedTokenLayer::new(slow, by_header()).timing(MintTiming::AlongsideHandler);
    let page = service_fn(async |_: Request<()>| -> Result<Response<()>, BoxError> {
        tokio::task::yield_now().await;
        panic!("a bug in a handler")
    });
    let service = ServiceBuilder::new().layer(layer).service(page);
    let response = tokio::spawn(service.oneshot(request_from_ada(())));
    assert!(response.await.unwrap_err().is_panic());
    assert_eq!(log.text(), "");
}

#[tokio::test]
async fn a_page_for_nobody_says_so_for_debugging_with_every_resolver() {
    let nobody = || resolver_fn(|_| ready(None::<User>));
    let session = from_extractor((), async |_: axum::http::Method| None::<User>);
    let (log, _guard) = Log::capture();
    serve_one(StubMinter::new(), nobody()).await;
    serve_one(StubMinter::new(), session).await;
    let text = log.text();
    let told = lines(&text, "DEBUG");
    assert_eq!(told.len(), 2, "{text}");
    assert!(
        told.iter().all(|line| line.contains("nobody is signed in")),
        "{text}"
    );
}

#[tokio::test]
async fn two_layers_that_mint_for_one_request_warn_once_unless_the_outer_one_has_not_minted() {
    for (timing, warnings) in [
        (MintTiming::BeforeHandler, 1),
        (MintTiming::OnExtraction, 0),
    ] {
        let (log, _guard) = Log::capture();
        let page = service_fn(async |_: Request<()>| Ok::<_, BoxError>(Response::new(())));
        let layer = ReleasedTokenLayer::new(StubMinter::new(), by_header());
        let service = ServiceBuilder::new()
            .layer(layer.clone().timing(timing))
            .layer(layer)
            .service(page);
        for _ in 0..3 {
            let request = request_from_ada(());
            service.clone().oneshot(request).await.unwrap();
        }
        let text = log.text();
        let warned = text
            .lines()
            .filter(|line| line.contains("two ReleasedTokenLayers"));
        assert_eq!(warned.count(), warnings, "{timing:?}: {text}");
    }
}

/// Such a pair mints twice for every page, as the documentation of `timing` says.
#[tokio::test]
async fn two_layers_warn_also_if_the_outer_one_mints_alongside_the_handler() {
    let (log, _guard) = Log::capture();
    let (outer, inner) = (StubMinter::new(), StubMinter::new());
    let page = service_fn(async |_: Request<()>| Ok::<_, BoxError>(Response::new(())));
    let service = ServiceBuilder::new()
        .layer(
            ReleasedTokenLayer::new(outer.clone(), by_header())
                .timing(MintTiming::AlongsideHandler),
        )
        .layer(ReleasedTokenLayer::new(inner.clone(), by_header()))
        .service(page);
    service.oneshot(request_from_ada(())).await.unwrap();
    assert_eq!((outer.calls(), inner.calls()), (1, 1), "both minted");
    assert!(
        log.text().contains("two ReleasedTokenLayers"),
        "{}",
        log.text()
    );
}

#[tokio::test]
async fn the_warning_of_two_layers_is_one_sentence_without_a_gap() {
    let (log, _guard) = Log::capture();
    let page = service_fn(async |_: Request<()>| Ok::<_, BoxError>(Response::new(())));
    let layer = ReleasedTokenLayer::new(StubMinter::new(), by_header());
    let service = ServiceBuilder::new()
        .layer(layer.clone())
        .layer(layer)
        .service(page);
    service.oneshot(request_from_ada(())).await.unwrap();
    let text = log.text();
    assert!(text.contains("give each route one layer"), "{text}");
}
