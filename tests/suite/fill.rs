//! Pages that know nothing of tokens get them: the ten points of the layer, and what can go wrong in between.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{pending, poll_fn, ready};
use std::net::Ipv4Addr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use axum::Router;
use axum::response::Html;
use axum::routing::get;
use futures_util::{FutureExt, StreamExt, stream};
use http::header::CACHE_CONTROL;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Body, Bytes, Frame};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::timeout;
use tower::{BoxError, Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_http::services::ServeDir;
use tower_released::embed::csp::{self, CspLayer};
use tower_released::embed::fill::{FillBody, FillLayer};
use tower_released::filter::always;
use tower_released::middleware::CarriesToken;
use tower_released::testing::{FakeReleased, StubMinter};
use tower_released::{
    AuthToken, MintError, MintErrorKind, MintTiming, Minter, ReleasedTokenLayer, User, resolver_fn,
};

use crate::leaks::Log;
use crate::support::{ada, by_header, request_from_ada};

const PATIENCE: Duration = Duration::from_secs(20);

/// What a filled element has, from the stub.
const TOKEN: &str = " auth-token=\"stub-token-1\"";

const TIMINGS: [MintTiming; 3] = [
    MintTiming::BeforeHandler,
    MintTiming::AlongsideHandler,
    MintTiming::OnExtraction,
];

// --- bodies that do as they are told ---

#[derive(Clone)]
enum Step {
    Data(Bytes),
    /// `Pending` once.
    Pause,
    /// `Pending` for ever.
    Stop,
    Fail,
    Trailers(HeaderMap),
}

fn data(html: impl Into<Bytes>) -> Step {
    Step::Data(html.into())
}

/// A body that panics if it is polled after its end.
struct Steps {
    steps: Option<VecDeque<Step>>,
    /// How many bytes were read from it.
    read: Arc<AtomicUsize>,
}

impl Steps {
    fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        Self {
            steps: Some(steps.into_iter().collect()),
            read: Arc::default(),
        }
    }
}

impl Body for Steps {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
        let steps = self.steps.as_mut().expect("polled after its end");
        let end = match steps.pop_front() {
            Some(Step::Data(html)) => {
                self.read.fetch_add(html.len(), Ordering::Relaxed);
                return Poll::Ready(Some(Ok(Frame::data(html))));
            }
            Some(Step::Pause) => {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Some(Step::Stop) => {
                steps.push_front(Step::Stop);
                return Poll::Pending;
            }
            Some(Step::Fail) => Some(Err("broken")),
            Some(Step::Trailers(trailers)) => Some(Ok(Frame::trailers(trailers))),
            None => None,
        };
        self.steps = None;
        Poll::Ready(end)
    }
}

/// Pieces of this length.
fn pieces(html: &str, length: usize) -> Vec<Step> {
    html.as_bytes()
        .chunks(length)
        .map(|piece| data(piece.to_vec()))
        .collect()
}

// --- a site ---

/// What a careless handler says of its page.
const CAREFREE: &[(&str, &str)] = &[
    ("content-type", "text/html; charset=utf-8"),
    ("cache-control", "public, max-age=60"),
    ("etag", "\"1\""),
    ("last-modified", "Thu, 01 Jan 2026 00:00:00 GMT"),
    ("accept-ranges", "bytes"),
    ("repr-digest", "sha-256=:AAAA=:"),
    ("cdn-cache-control", "public, max-age=600"),
    ("vary", "accept-encoding"),
];

fn response<B>(headers: &[(&str, &str)], body: B) -> Response<B> {
    let mut response = Response::new(body);
    for (name, value) in headers {
        response.headers_mut().append(
            http::HeaderName::from_bytes(name.as_bytes()).unwrap(),
            value.parse().unwrap(),
        );
    }
    response
}

fn html<B>(body: B) -> Response<B> {
    response(&CAREFREE[..1], body)
}

fn tokens(minter: impl Minter, timing: MintTiming) -> ReleasedTokenLayer {
    ReleasedTokenLayer::new(minter, by_header()).timing(timing)
}

/// Asks a handler that has this response for once.
async fn visit<B: Body + Send + 'static>(
    tokens: ReleasedTokenLayer,
    fill: FillLayer,
    request: Request<()>,
    response: Response<B>,
) -> Response<FillBody<B>>
where
    B::Data: Send,
    B::Error: Send,
{
    let response = Arc::new(Mutex::new(Some(response)));
    let handler = service_fn(move |_: Request<()>| {
        ready(Ok::<_, Infallible>(
            response.lock().unwrap().take().unwrap(),
        ))
    });
    let service = ServiceBuilder::new()
        .layer(tokens)
        .layer(fill)
        .service(handler);
    timeout(PATIENCE, service.oneshot(request))
        .await
        .expect("the head hangs")
        .unwrap()
}

async fn text<B: Body>(body: B) -> String
where
    B::Error: std::fmt::Debug,
{
    let bytes = timeout(PATIENCE, body.collect())
        .await
        .expect("the body hangs");
    String::from_utf8(bytes.unwrap().to_bytes().to_vec()).unwrap()
}

/// The page as Ada sees it.
async fn filled(fill: FillLayer, steps: impl IntoIterator<Item = Step>) -> String {
    let tokens = tokens(StubMinter::new(), MintTiming::OnExtraction);
    let response = html(Steps::new(steps));
    text(visit(tokens, fill, request_from_ada(()), response).await).await
}

/// With the token where the parser is known to find an element.
fn with_token(html: &str) -> String {
    ["<released-page", "<released-widget", "<released-form"]
        .iter()
        .fold(html.to_owned(), |html, tag| {
            html.replace(tag, &format!("{tag}{TOKEN}"))
        })
}

fn is_private(headers: &HeaderMap) -> bool {
    let gone = [
        "content-length",
        "etag",
        "last-modified",
        "accept-ranges",
        "repr-digest",
        "cdn-cache-control",
    ];
    let is_private = headers
        .get_all(CACHE_CONTROL)
        .iter()
        .eq(["private, no-store"]);
    if is_private {
        assert!(
            gone.iter().all(|name| !headers.contains_key(*name)),
            "{headers:?}"
        );
    }
    is_private
}

const PAGE: &str = "<!doctype html><title>Roadmap</title><p>Ada &amp; co.\
    <released-page channel-id=\"c1\"></released-page><footer>";

// --- the elements ---

#[tokio::test]
async fn the_three_elements_are_filled_and_a_badge_is_not() {
    let page = "<released-page channel-id=c></released-page>\
        <RELEASED-WIDGET\nchannel-id='c'/><released-form form-id=f>\
        <released-badge channel-id=c></released-badge><released-pages>";
    let expected = "<released-page auth-token=\"stub-token-1\" channel-id=c></released-page>\
        <RELEASED-WIDGET auth-token=\"stub-token-1\"\nchannel-id='c'/>\
        <released-form auth-token=\"stub-token-1\" form-id=f>\
        <released-badge channel-id=c></released-badge><released-pages>";
    assert_eq!(filled(FillLayer::new(), [data(page)]).await, expected);
}

#[tokio::test]
async fn what_has_a_token_or_only_looks_like_an_element_is_left_alone() {
    for page in [
        "<released-page auth-token=x>",
        "<released-page AUTH-TOKEN>",
        "<released-page data-released-auth=\"/api/released-token\">",
        "<!-- <released-page> -->",
        "<script>`<released-page>`</script>",
        "<style>/* <released-page> */</style>",
        "<textarea><released-page></textarea>",
        "<title><released-page></title>",
        "<noscript><released-page></noscript>",
        "<template><p><released-page></p></template>",
        "<iframe><released-page></iframe>",
        "<a title=\"<released-page>\" href=<released-page>x</a>",
        "</released-page>",
        "<released-page channel-id=c",
        "&lt;released-page&gt;",
    ] {
        assert_eq!(filled(FillLayer::new(), [data(page)]).await, page);
        let element = format!("{page}</a></title><released-form>");
        if !page.starts_with("<released-page channel-id") {
            let end = "<released-form auth-token=\"stub-token-1\">";
            let filled = filled(FillLayer::new(), [data(element)]).await;
            assert!(filled.ends_with(end), "{filled}");
        }
    }
}

#[tokio::test]
async fn only_the_named_channels_are_filled() {
    let fill = FillLayer::new().channels(["mine", "my-form"]);
    let page = "<released-page channel-id=mine><released-page channel-id='theirs'>\
        <released-widget channel-id=theirs channel-id=mine><released-page>\
        <released-form form-id=\"my-form\"><released-form channel-id=mine>";
    let expected = "<released-page auth-token=\"stub-token-1\" channel-id=mine><released-page channel-id='theirs'>\
        <released-widget channel-id=theirs channel-id=mine><released-page>\
        <released-form auth-token=\"stub-token-1\" form-id=\"my-form\"><released-form channel-id=mine>";
    assert_eq!(filled(fill, [data(page)]).await, expected);
}

#[tokio::test]
async fn a_page_is_the_same_wherever_it_is_cut() {
    let page = format!("{PAGE}<!--<released-form>--><svg/><released-widget a='>' b/>");
    let expected =
        with_token(&page).replace(&format!("<!--<released-form{TOKEN}"), "<!--<released-form");
    for length in 1..=page.len() {
        assert_eq!(
            filled(FillLayer::new(), pieces(&page, length)).await,
            expected
        );
        let paused = pieces(&page, length)
            .into_iter()
            .flat_map(|piece| [Step::Pause, piece]);
        assert_eq!(filled(FillLayer::new(), paused).await, expected);
    }
}

// --- who is signed in ---

#[tokio::test]
async fn nobody_signed_in_changes_nothing_and_mints_nothing() {
    for timing in TIMINGS {
        let minter = StubMinter::new();
        let seen = Arc::<Mutex<HeaderMap>>::default();
        let handler = service_fn({
            let seen = Arc::clone(&seen);
            move |request: Request<()>| {
                *seen.lock().unwrap() = request.headers().clone();
                ready(Ok::<_, Infallible>(response(
                    CAREFREE,
                    Full::<Bytes>::from(PAGE),
                )))
            }
        });
        let service = ServiceBuilder::new()
            .layer(tokens(minter.clone(), timing))
            .layer(FillLayer::new())
            .service(handler);
        let request = Request::builder()
            .header("accept", "text/html")
            .header("accept-encoding", "gzip")
            .header("if-none-match", "\"1\"");
        let request = request.body(()).unwrap();
        let sent = request.headers().clone();
        let page = service.oneshot(request).await.unwrap();
        assert_eq!(*seen.lock().unwrap(), sent);
        assert_eq!(*page.headers(), *response(CAREFREE, ()).headers());
        assert!(page.extensions().get::<CarriesToken>().is_none());
        assert_eq!(page.body().size_hint().exact(), Some(PAGE.len() as u64));
        assert_eq!(text(page).await, PAGE);
        assert_eq!(minter.calls(), 0, "{timing:?}");
    }
}

#[tokio::test]
async fn a_skipped_request_and_a_head_change_nothing() {
    for (filter, method) in [(false, Method::GET), (true, Method::HEAD)] {
        let minter = StubMinter::new();
        let tokens = tokens(minter.clone(), MintTiming::OnExtraction).mint_when(move |_| filter);
        let mut request = request_from_ada(());
        *request.method_mut() = method;
        let page = visit(
            tokens,
            FillLayer::new(),
            request,
            response(CAREFREE, Full::<Bytes>::from(PAGE)),
        )
        .await;
        assert_eq!(*page.headers(), *response(CAREFREE, ()).headers());
        assert_eq!(text(page).await, PAGE);
        assert_eq!(minter.calls(), 0);
    }
}

#[tokio::test]
async fn a_slow_resolver_is_waited_for_and_asked_once() {
    for timing in TIMINGS {
        let asked = Arc::<AtomicUsize>::default();
        let resolver = resolver_fn({
            let asked = Arc::clone(&asked);
            move |_| {
                asked.fetch_add(1, Ordering::Relaxed);
                async {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    ada()
                }
            }
        });
        let minter = StubMinter::new().with_latency(Duration::from_millis(20));
        let layer = ReleasedTokenLayer::new(minter.clone(), resolver).timing(timing);
        let page = visit(
            layer,
            FillLayer::new(),
            Request::new(()),
            html(Full::<Bytes>::from(PAGE)),
        )
        .await;
        assert_eq!(text(page).await, with_token(PAGE));
        assert_eq!(
            (asked.load(Ordering::Relaxed), minter.calls()),
            (1, 1),
            "{timing:?}"
        );
    }
}

#[tokio::test]
async fn the_signed_in_ask_for_what_can_be_read() {
    let kept = |method: Method, accept: &'static str| async move {
        let seen = Arc::<Mutex<Vec<String>>>::default();
        let handler = service_fn({
            let seen = Arc::clone(&seen);
            move |request: Request<()>| {
                *seen.lock().unwrap() = request.headers().keys().map(ToString::to_string).collect();
                ready(Ok::<_, Infallible>(html(Full::<Bytes>::from(PAGE))))
            }
        });
        let mut request = request_from_ada(());
        *request.method_mut() = method;
        request
            .headers_mut()
            .insert("accept", accept.parse().unwrap());
        for name in [
            "accept-encoding",
            "if-match",
            "if-none-match",
            "if-modified-since",
            "range",
            "if-range",
        ] {
            request.headers_mut().insert(name, "1".parse().unwrap());
        }
        let tokens = tokens(StubMinter::new(), MintTiming::OnExtraction).mint_when(always);
        let service = ServiceBuilder::new()
            .layer(tokens)
            .layer(FillLayer::new())
            .service(handler);
        service.oneshot(request).await.unwrap();
        let mut seen = seen.lock().unwrap().clone();
        seen.sort();
        seen
    };
    assert_eq!(
        kept(Method::GET, "text/html").await,
        ["accept", "if-match", "x-user"]
    );
    let all = |start: &[&'static str]| {
        let others = [
            "if-match",
            "if-modified-since",
            "if-none-match",
            "if-range",
            "range",
            "x-user",
        ];
        [start, &others[..]].concat()
    };
    assert_eq!(
        kept(Method::GET, "application/json").await,
        all(&["accept"])
    );
    assert_eq!(kept(Method::PUT, "text/html").await, all(&["accept"]));
    // Its response has no page.
    assert_eq!(
        kept(Method::HEAD, "text/html").await,
        all(&["accept", "accept-encoding"])
    );
}

// --- which responses ---

#[tokio::test]
async fn only_whole_html_that_can_be_read_is_filled() {
    let kind = "content-type";
    for (headers, is_filled) in [
        (&[(kind, "text/html")][..], true),
        (&[(kind, "TEXT/HTML ; Charset=\"ISO-8859-1\"")], true),
        (&[(kind, "text/html; charset=shift_jis")], true),
        (
            &[(kind, "text/html"), ("content-encoding", "identity")],
            true,
        ),
        (
            &[(kind, "text/html"), ("content-disposition", "inline")],
            true,
        ),
        (&[], false),
        (&[(kind, "text/html"), (kind, "text/plain")], false),
        (&[(kind, "text/htmlx")], false),
        (&[(kind, "application/xhtml+xml")], false),
        (&[(kind, "text/html; charset=utf-16")], false),
        (&[(kind, "text/html; charset=ISO-2022-JP")], false),
        (&[(kind, "text/html; charset=utf-7")], false),
        (&[(kind, "text/html"), ("content-encoding", "gzip")], false),
        (
            &[
                (kind, "text/html"),
                ("content-disposition", "Attachment; filename=a"),
            ],
            false,
        ),
        (
            &[
                (kind, "text/html"),
                ("cache-control", "public, No-Transform"),
            ],
            false,
        ),
        (
            &[(kind, "text/html"), ("content-range", "bytes 0-9/10")],
            false,
        ),
    ] {
        let minter = StubMinter::new();
        let tokens = tokens(minter.clone(), MintTiming::OnExtraction);
        let response = response(headers, Full::<Bytes>::from(PAGE));
        let sent = response.headers().clone();
        let page = visit(tokens, FillLayer::new(), request_from_ada(()), response).await;
        assert_eq!(is_private(page.headers()), is_filled, "{headers:?}");
        assert_eq!(page.extensions().get::<CarriesToken>().is_some(), is_filled);
        assert!(is_filled || *page.headers() == sent);
        let expected = if is_filled {
            with_token(PAGE)
        } else {
            PAGE.to_owned()
        };
        assert_eq!(text(page).await, expected, "{headers:?}");
        assert_eq!(minter.calls(), usize::from(is_filled));
    }
}

#[tokio::test]
async fn pages_of_errors_are_filled_and_responses_without_a_page_are_not() {
    for (status, is_filled) in [
        (StatusCode::NOT_FOUND, true),
        (StatusCode::INTERNAL_SERVER_ERROR, true),
        (StatusCode::SWITCHING_PROTOCOLS, false),
        (StatusCode::NO_CONTENT, false),
        (StatusCode::RESET_CONTENT, false),
        (StatusCode::PARTIAL_CONTENT, false),
        (StatusCode::NOT_MODIFIED, false),
    ] {
        let mut response = response(CAREFREE, Full::<Bytes>::from(PAGE));
        *response.status_mut() = status;
        let tokens = tokens(StubMinter::new(), MintTiming::OnExtraction);
        let page = visit(tokens, FillLayer::new(), request_from_ada(()), response).await;
        assert_eq!(is_private(page.headers()), is_filled, "{status}");
        assert_eq!(text(page).await != PAGE, is_filled, "{status}");
    }
}

#[tokio::test]
async fn encoded_html_and_a_missing_layer_are_warned_of_once() {
    let (log, _guard) = Log::capture();
    let encoded = [CAREFREE[0], ("content-encoding", "br")];
    let fill = FillLayer::new();
    for _ in 0..2 {
        let tokens = tokens(StubMinter::new(), MintTiming::OnExtraction);
        let response = response(&encoded, Full::<Bytes>::from(PAGE));
        visit(tokens, fill.clone(), request_from_ada(()), response).await;
        let handler =
            service_fn(async |_: Request<()>| Ok::<_, Infallible>(html(Full::<Bytes>::from(PAGE))));
        let page = fill
            .layer(handler)
            .oneshot(request_from_ada(()))
            .await
            .unwrap();
        assert_eq!(text(page).await, PAGE);
    }
    let text = log.text();
    assert_eq!(
        text.matches("put the compression layer outside").count(),
        1,
        "{text}"
    );
    assert_eq!(
        text.matches("no ReleasedTokenLayer is around it").count(),
        1,
        "{text}"
    );
}

// --- the head ---

#[tokio::test]
async fn a_page_without_an_element_mints_nothing_and_keeps_its_headers() {
    let page = "<!doctype html><p>Hello";
    for timing in [MintTiming::AlongsideHandler, MintTiming::OnExtraction] {
        let sized = [CAREFREE, &[("content-length", "23")]].concat();
        for (headers, steps) in [
            (CAREFREE, vec![data(page)]),
            (CAREFREE, pieces(page, 1)),
            (&sized[..], vec![Step::Pause, data(page), Step::Stop]),
            (
                &sized[..],
                pieces(page, 7)
                    .into_iter()
                    .flat_map(|piece| [Step::Pause, piece])
                    .collect(),
            ),
        ] {
            let minter = StubMinter::new();
            let response = response(headers, Steps::new(steps));
            let sent = response.headers().clone();
            let tokens = tokens(minter.clone(), timing);
            let found = visit(tokens, FillLayer::new(), request_from_ada(()), response).await;
            assert_eq!(*found.headers(), sent);
            assert!(found.extensions().get::<CarriesToken>().is_none());
            let mut body = found.into_body();
            let mut text = Vec::new();
            while text.len() < page.len() {
                text.extend(body.frame().await.unwrap().unwrap().into_data().unwrap());
            }
            assert_eq!(text, page.as_bytes());
            let started = usize::from(timing == MintTiming::AlongsideHandler);
            assert_eq!(minter.calls(), started);
        }
    }
}

#[tokio::test]
async fn a_page_that_cannot_be_read_before_its_first_element_keeps_its_headers() {
    let page = "<p><svg></p><released-page>";
    for timing in [MintTiming::AlongsideHandler, MintTiming::OnExtraction] {
        for steps in [
            vec![data(page)],
            vec![data(page), Step::Pause, data("<p>"), Step::Pause],
            vec![data(page.repeat(5000))],
        ] {
            let minter = StubMinter::new().with_latency(Duration::from_secs(60));
            let response = response(CAREFREE, Steps::new(steps));
            let sent = response.headers().clone();
            let tokens = tokens(minter.clone(), timing);
            let found = visit(tokens, FillLayer::new(), request_from_ada(()), response).await;
            assert_eq!(*found.headers(), sent);
            assert!(found.extensions().get::<CarriesToken>().is_none());
            assert!(!text(found).await.contains(TOKEN));
        }
    }
}

#[tokio::test]
async fn a_page_in_one_piece_keeps_its_exact_size() {
    let page = vec![b'.'; 40_000];
    let tokens = tokens(StubMinter::new(), MintTiming::OnExtraction);
    let response = html(Full::<Bytes>::from(page));
    let found = visit(tokens, FillLayer::new(), request_from_ada(()), response).await;
    assert_eq!(found.body().size_hint().exact(), Some(40_000));
    assert_eq!(text(found).await.len(), 40_000);
}

#[tokio::test]
async fn a_head_that_leaves_before_its_page_is_read_is_private() {
    let long = vec![b'.'; 200_000];
    for steps in [
        vec![Step::Stop],
        vec![data("<p>"), Step::Stop],
        vec![data(long.clone()), Step::Stop],
        vec![data("")],
        long.chunks(1000)
            .map(|piece| data(piece.to_vec()))
            .chain([Step::Stop])
            .collect(),
        vec![data(PAGE), Step::Stop],
    ] {
        for timing in [MintTiming::AlongsideHandler, MintTiming::OnExtraction] {
            let body = Steps::new(steps.clone());
            let read = Arc::clone(&body.read);
            let tokens = tokens(StubMinter::new(), timing);
            let page = visit(
                tokens,
                FillLayer::new(),
                request_from_ada(()),
                response(CAREFREE, body),
            )
            .await;
            assert!(is_private(page.headers()));
            assert!(page.extensions().get::<CarriesToken>().is_some());
            assert_eq!(page.body().size_hint().exact(), None);
            assert!(read.load(Ordering::Relaxed) <= (64 << 10) + 2000 || steps.len() == 2);
        }
    }
}

#[tokio::test]
async fn an_element_after_the_head_has_left_is_filled_and_one_that_never_comes_mints_nothing() {
    for (rest, calls) in [("<released-form>", 1), ("<p>", 0)] {
        let minter = StubMinter::new();
        let tokens = tokens(minter.clone(), MintTiming::OnExtraction);
        let steps = [data("<p>"), Step::Pause, data(rest)];
        let page = visit(
            tokens,
            FillLayer::new(),
            request_from_ada(()),
            response(CAREFREE, Steps::new(steps)),
        )
        .await;
        assert!(is_private(page.headers()));
        assert_eq!(minter.calls(), 0);
        assert_eq!(text(page).await, with_token(&format!("<p>{rest}")));
        assert_eq!(minter.calls(), calls);
    }
}

#[tokio::test]
async fn a_csp_layer_finds_filled_pages() {
    for (page, is_merged) in [(PAGE, true), ("<p>", false)] {
        let handler = service_fn(move |_: Request<()>| {
            let mut response = html(Full::<Bytes>::from(page));
            let policy = "default-src 'self'".parse().unwrap();
            response
                .headers_mut()
                .insert("content-security-policy", policy);
            ready(Ok::<_, Infallible>(response))
        });
        let service = ServiceBuilder::new()
            .layer(CspLayer::new(
                csp::strict().hub("acme.releasedhub.com").unwrap(),
            ))
            .layer(tokens(StubMinter::new(), MintTiming::OnExtraction))
            .layer(FillLayer::new())
            .service(handler);
        let response = service.oneshot(request_from_ada(())).await.unwrap();
        let policy = response.headers()["content-security-policy"]
            .to_str()
            .unwrap();
        assert_eq!(
            policy.contains("acme.releasedhub.com"),
            is_merged,
            "{policy}"
        );
    }
}

// --- waiting for the token ---

/// A minter whose mints never end.
fn never() -> impl Minter {
    service_fn(|_: User| pending::<Result<AuthToken, MintError>>())
}

#[tokio::test]
async fn what_is_before_an_element_is_sent_while_the_token_is_not_there() {
    for timing in [MintTiming::AlongsideHandler, MintTiming::OnExtraction] {
        for length in [1, 3, 16, 1000] {
            let page = visit(
                tokens(never(), timing),
                FillLayer::new(),
                request_from_ada(()),
                html(Steps::new(pieces(PAGE, length))),
            )
            .await;
            let mut body = page.into_body();
            let mut sent = Vec::new();
            while let Some(frame) = body.frame().now_or_never() {
                sent.extend(frame.unwrap().unwrap().into_data().unwrap());
            }
            let expected = PAGE.split_inclusive("<released-page").next().unwrap();
            assert_eq!(String::from_utf8(sent).unwrap(), expected, "{length}");
        }
    }
}

#[tokio::test]
async fn the_first_byte_comes_before_the_token_over_a_socket() {
    let first = "<!doctype html><head><link rel=preload href=/a.css as=style></head>";
    let rest = "<body><released-page channel-id=c></released-page>";
    for timing in [MintTiming::AlongsideHandler, MintTiming::OnExtraction] {
        for is_streamed in [false, true] {
            let page = move || async move {
                if is_streamed {
                    let pieces = stream::iter([first, rest]).then(|piece| async move {
                        tokio::task::yield_now().await;
                        Ok::<_, Infallible>(piece)
                    });
                    Html(axum::body::Body::from_stream(pieces))
                } else {
                    Html(axum::body::Body::from([first, rest].concat()))
                }
            };
            let app = Router::new()
                .route("/", get(page))
                .layer(FillLayer::new())
                .layer(tokens(never(), timing));
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let address = listener.local_addr().unwrap();
            let server = tokio::spawn(async { axum::serve(listener, app).await.unwrap() });
            let mut page = TcpStream::connect(address).await.unwrap();
            page.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nx-user: ada\r\n\r\n")
                .await
                .unwrap();
            let mut sent = String::new();
            while !sent.contains("<released-page") {
                let mut buffer = [0; 4096];
                let read = timeout(PATIENCE, page.read(&mut buffer))
                    .await
                    .expect("the page hangs");
                sent.push_str(std::str::from_utf8(&buffer[..read.unwrap()]).unwrap());
            }
            assert!(
                sent.starts_with("HTTP/1.1 200 OK\r\n") && sent.contains(first),
                "{sent}"
            );
            assert!(
                sent.contains("cache-control: private, no-store\r\n"),
                "{sent}"
            );
            assert!(!sent.contains("content-length"), "{sent}");
            server.abort();
        }
    }
}

#[tokio::test]
async fn a_waiting_page_reads_no_more_and_a_reading_one_holds_little() {
    // Endless: a piece, an element, and pieces.
    let read = Arc::<AtomicUsize>::default();
    let piece = Bytes::from(vec![b'.'; 8 << 10]);
    let first = Ok::<_, Infallible>(Frame::data(Bytes::from("<p><released-page>")));
    let rest = stream::repeat_with({
        let read = Arc::clone(&read);
        move || {
            read.fetch_add(piece.len(), Ordering::Relaxed);
            Ok(Frame::data(piece.clone()))
        }
    });
    let gate = Arc::new(Notify::new());
    let minter = service_fn({
        let gate = Arc::clone(&gate);
        move |_: User| {
            let gate = Arc::clone(&gate);
            async move {
                gate.notified().await;
                AuthToken::new("t")
            }
        }
    });
    let body = StreamBody::new(stream::once(ready(first)).chain(rest));
    let tokens = tokens(minter, MintTiming::OnExtraction);
    let page = visit(tokens, FillLayer::new(), request_from_ada(()), html(body)).await;
    let mut body = page.into_body();
    let mut sent = 0;
    for _ in 0..1000 {
        if let Some(frame) = body.frame().now_or_never() {
            sent += frame.unwrap().unwrap().into_data().unwrap().len();
        }
    }
    assert_eq!(
        (sent, read.load(Ordering::Relaxed)),
        ("<p><released-page".len(), 0)
    );

    gate.notify_one();
    for _ in 0..1000 {
        sent += body
            .frame()
            .await
            .unwrap()
            .unwrap()
            .into_data()
            .unwrap()
            .len();
        let before = "<p><released-page auth-token=\"t\">".len();
        assert!(
            read.load(Ordering::Relaxed) + before <= sent + (16 << 10),
            "it holds a lot"
        );
    }
}

#[tokio::test]
async fn the_mint_is_driven_while_the_user_reads_nothing() {
    let released = FakeReleased::start().await.unwrap();
    let client = released.client().unwrap();
    for timing in [MintTiming::AlongsideHandler, MintTiming::OnExtraction] {
        released.set_latency(Duration::from_millis(50));
        let before = released.counts().minted;
        let page = visit(
            tokens(client.clone(), timing),
            FillLayer::new(),
            request_from_ada(()),
            html(Full::<Bytes>::from(PAGE)),
        )
        .await;
        // Nobody polls the body.
        timeout(
            PATIENCE,
            released.wait_until(|counts| counts.minted > before),
        )
        .await
        .expect("the mint is left alone");
        assert!(text(page).await.contains("auth-token=\"ey"), "{timing:?}");
    }
}

#[tokio::test]
async fn dropping_the_page_ends_its_mint() {
    let released = FakeReleased::start().await.unwrap();
    released.set_latency(Duration::from_secs(60));
    let client = released
        .client_builder()
        .deadline(Duration::from_secs(60))
        .build()
        .unwrap();
    for timing in [MintTiming::AlongsideHandler, MintTiming::OnExtraction] {
        let page = visit(
            tokens(client.clone(), timing),
            FillLayer::new(),
            request_from_ada(()),
            html(Full::<Bytes>::from(PAGE)),
        )
        .await;
        timeout(
            PATIENCE,
            released.wait_until(|counts| counts.in_flight == 1),
        )
        .await
        .expect("the mint starts");
        drop(page);
        timeout(
            PATIENCE,
            released.wait_until(|counts| counts.in_flight == 0),
        )
        .await
        .expect("the mint goes on");
    }
}

#[tokio::test]
async fn a_session_is_let_go_before_the_element_comes() {
    let session = Arc::new(tokio::sync::Mutex::new(()));
    let resolver = resolver_fn({
        let session = Arc::clone(&session);
        move |_| {
            let session = Arc::clone(&session);
            async move {
                let _locked = session.lock_owned().await;
                tokio::task::yield_now().await;
                ada()
            }
        }
    });
    let minter = StubMinter::new();
    let layer = ReleasedTokenLayer::new(minter.clone(), resolver).timing(MintTiming::OnExtraction);
    let handler = service_fn({
        let session = Arc::clone(&session);
        move |_: Request<()>| {
            let session = Arc::clone(&session);
            async move {
                let _locked = session.lock().await;
                Ok::<_, Infallible>(html(Steps::new([data("<p>"), Step::Stop])))
            }
        }
    });
    let service = ServiceBuilder::new()
        .layer(layer)
        .layer(FillLayer::new())
        .service(handler);
    let page = timeout(PATIENCE, service.oneshot(Request::new(())))
        .await
        .expect("a dead lock");
    assert!(session.try_lock().is_ok());
    drop(page);
    assert_eq!(minter.calls(), 0);
}

// --- without a token ---

#[tokio::test]
async fn an_outage_leaves_the_attribute_out_or_lets_the_browser_fetch_the_token() {
    for timing in TIMINGS {
        for is_slow in [false, true] {
            let mut down = StubMinter::failing(MintError::new(MintErrorKind::Unavailable));
            if is_slow {
                down = down.with_latency(Duration::from_millis(20));
            }
            let page = format!("{PAGE}<released-form>");
            for (fill, expected) in [
                (FillLayer::new(), page.clone()),
                (
                    FillLayer::new()
                        .fallback("/api/released-token?a=1&b=2")
                        .unwrap(),
                    with_token(&page).replace(
                        TOKEN,
                        " data-released-auth=\"/api/released-token?a=1&amp;b=2\"",
                    ),
                ),
            ] {
                let response = html(Full::<Bytes>::from(page.clone()));
                let found = visit(
                    tokens(down.clone(), timing),
                    fill,
                    request_from_ada(()),
                    response,
                )
                .await;
                assert_eq!(text(found).await, expected, "{timing:?}");
            }
        }
    }
}

#[tokio::test]
async fn an_element_that_comes_after_the_tokens_life_gets_no_dead_token() {
    // `{"iat":0,"exp":1}`
    let jwt = "e30.eyJpYXQiOjAsImV4cCI6MX0.c2ln";
    for (timing, pause, is_filled) in [
        (MintTiming::OnExtraction, 1200, [true, false]),
        (MintTiming::OnExtraction, 0, [true, true]),
        (MintTiming::AlongsideHandler, 1200, [true, false]),
    ] {
        for (fill, without) in [
            (FillLayer::new(), ""),
            (
                FillLayer::new().fallback("/t").unwrap(),
                " data-released-auth=\"/t\"",
            ),
        ] {
            let minter = service_fn(move |_: User| ready(AuthToken::new(jwt)));
            let pieces = stream::iter(["<released-page>", "<released-form>"])
                .enumerate()
                .then(move |(place, piece)| async move {
                    tokio::time::sleep(Duration::from_millis(place as u64 * pause)).await;
                    Ok::<_, Infallible>(Frame::data(Bytes::from(piece)))
                });
            let page = html(StreamBody::new(pieces));
            let page = visit(tokens(minter, timing), fill, request_from_ada(()), page).await;
            let with = format!(" auth-token=\"{jwt}\"");
            let [first, second] =
                is_filled.map(|is_filled| if is_filled { &with } else { without });
            assert_eq!(
                text(page.map(Box::pin)).await,
                format!("<released-page{first}><released-form{second}>"),
                "{timing:?}"
            );
        }
    }
}

#[test]
fn a_fallback_is_a_path() {
    for path in ["/", "/api/released-token", "/a%20b?c=d&e=%22"] {
        assert!(FillLayer::new().fallback(path).is_ok(), "{path}");
    }
    for path in [
        "",
        "a",
        "//host/a",
        "https://host/a",
        "/a b",
        "/a\"b",
        "/a<b",
        "/\\host",
        "/ä",
        "/a#b",
        "/a\n",
    ] {
        let error = FillLayer::new().fallback(path).unwrap_err();
        assert!(error.to_string().contains("/api/released-token"), "{path}");
    }
}

// --- what breaks ---

#[tokio::test]
async fn an_error_of_the_body_comes_after_what_came_before_it() {
    for before in ["", "<p>", "<p><released-pa", "<p><released-page a='", PAGE] {
        for steps in [
            vec![data(before), Step::Fail],
            vec![data(before), Step::Pause, Step::Fail],
        ] {
            let tokens = tokens(StubMinter::new(), MintTiming::OnExtraction);
            let page = visit(
                tokens,
                FillLayer::new(),
                request_from_ada(()),
                html(Steps::new(steps)),
            )
            .await;
            let mut body = page.into_body();
            assert_eq!(body.size_hint().exact(), None);
            let mut sent = String::new();
            let error = loop {
                assert!(!body.is_end_stream());
                match body.frame().await.expect("an error comes first") {
                    Ok(frame) => {
                        sent.push_str(std::str::from_utf8(&frame.into_data().unwrap()).unwrap());
                    }
                    Err(error) => break error,
                }
            };
            assert_eq!(error, "broken");
            let expected = if before == PAGE {
                with_token(PAGE)
            } else {
                before.to_owned()
            };
            assert_eq!(sent, expected);
            assert!(
                body.is_end_stream() && body.frame().await.is_none(),
                "polled after its end"
            );
        }
    }
}

#[tokio::test]
async fn trailers_pass_on_and_lose_the_digest_of_a_changed_body() {
    for (page, digests) in [(PAGE, 0), ("<p>", 1)] {
        let mut trailers = HeaderMap::new();
        trailers.insert("server-timing", "db".parse().unwrap());
        trailers.insert("content-digest", "sha-256=:AAAA=:".parse().unwrap());
        let steps = Steps::new([data(page), Step::Trailers(trailers)]);
        let tokens = tokens(StubMinter::new(), MintTiming::OnExtraction);
        let found = visit(tokens, FillLayer::new(), request_from_ada(()), html(steps)).await;
        let collected = found.into_body().collect().await.unwrap();
        let trailers = collected.trailers().unwrap();
        assert!(trailers.contains_key("server-timing"));
        assert_eq!(trailers.len() - 1, digests);
        assert_eq!(collected.to_bytes(), with_token(page));
    }
}

#[tokio::test]
async fn a_page_that_cannot_be_read_on_passes_as_it_came() {
    let (log, _guard) = Log::capture();
    let long_tag = format!("<released-form a='{}'>", "x".repeat(2 << 20));
    let open = "<li>".repeat(30_000);
    for tail in [
        long_tag,
        open,
        "<select><xmp><a title='<released-form>'></xmp>".to_owned(),
    ] {
        let page = format!("{PAGE}{tail}<released-widget></p>");
        let expected = format!("{}{tail}<released-widget></p>", with_token(PAGE));
        for length in [1 << 13, 99_991, page.len()] {
            let found = filled(FillLayer::new(), pieces(&page, length)).await;
            // A tag in one piece needs no memory of the parser's own.
            assert!(found == expected || found == with_token(&page), "{length}");
            assert_eq!(found.replace(TOKEN, ""), page);
        }
    }
    assert!(
        log.text().contains("could not read a page to its end"),
        "{}",
        log.text()
    );
}

#[tokio::test]
async fn a_long_tag_that_comes_byte_by_byte_is_bounded_and_whole() {
    let page = format!("<released-page a='{}'><p>", "x".repeat(100_000));
    assert_eq!(
        filled(FillLayer::new(), pieces(&page, 1)).await,
        with_token(&page)
    );
}

#[tokio::test]
async fn an_error_of_the_inner_service_passes_on() {
    let handler =
        service_fn(async |_: Request<()>| Err::<Response<Full<Bytes>>, BoxError>("down".into()));
    for timing in TIMINGS {
        let service = ServiceBuilder::new()
            .layer(tokens(StubMinter::new(), timing))
            .layer(FillLayer::new())
            .service(handler);
        for request in [Request::new(()), request_from_ada(())] {
            let error = service
                .clone()
                .oneshot(request)
                .await
                .map(drop)
                .unwrap_err();
            assert_eq!(error.to_string(), "down");
        }
    }
}

#[tokio::test]
async fn the_service_that_was_polled_ready_is_called() {
    let (mut mock, mut handle) =
        tower_test::mock::spawn_layer::<Request<()>, Response<Full<Bytes>>, _>(FillLayer::new());
    handle.allow(1);
    assert!(mock.poll_ready().is_ready());
    let response = tokio::spawn(mock.call(Request::new(())));
    let (_, send) = handle.next_request().await.unwrap();
    send.send_response(html(Full::from(PAGE)));
    assert_eq!(text(response.await.unwrap().unwrap()).await, PAGE);
}

// --- together with others ---

#[tokio::test]
async fn two_fill_layers_fill_once() {
    for steps in [
        vec![data(PAGE)],
        pieces(PAGE, 5),
        vec![Step::Pause, data(PAGE)],
    ] {
        let response = Arc::new(Mutex::new(Some(html(Steps::new(steps)))));
        let handler = service_fn(move |_: Request<()>| {
            ready(Ok::<_, Infallible>(
                response.lock().unwrap().take().unwrap(),
            ))
        });
        let service = ServiceBuilder::new()
            .layer(tokens(
                StubMinter::new().with_latency(Duration::from_millis(5)),
                MintTiming::OnExtraction,
            ))
            .layer(FillLayer::new())
            .layer(FillLayer::new())
            .service(handler);
        let page = timeout(PATIENCE, service.oneshot(request_from_ada(())))
            .await
            .unwrap()
            .unwrap();
        assert!(is_private(page.headers()));
        assert_eq!(text(page).await, with_token(PAGE));
    }
}

#[tokio::test]
async fn each_user_gets_their_own_token() {
    let minter = service_fn(|user: User| ready(AuthToken::new(format!("for-{}", user.id()))));
    let handler =
        service_fn(async |_: Request<()>| Ok::<_, Infallible>(html(Full::<Bytes>::from(PAGE))));
    let service = ServiceBuilder::new()
        .layer(tokens(minter, MintTiming::OnExtraction))
        .layer(FillLayer::new())
        .service(handler);
    for user in ["ada", "bob", "ada"] {
        let request = Request::builder().header("x-user", user).body(()).unwrap();
        let page = text(service.clone().oneshot(request).await.unwrap()).await;
        assert!(
            page.contains(&format!("<released-page auth-token=\"for-{user}\" ")),
            "{page}"
        );
    }
}

#[tokio::test]
async fn files_are_filled_or_keep_their_headers() {
    let site = std::env::temp_dir().join(format!("released-fill-{}", std::process::id()));
    std::fs::create_dir_all(&site).unwrap();
    std::fs::write(site.join("roadmap.html"), PAGE).unwrap();
    std::fs::write(site.join("about.html"), "<p>About").unwrap();
    let minter = StubMinter::new();
    let app = Router::new()
        .fallback_service(ServeDir::new(&site))
        .layer(FillLayer::new())
        .layer(tokens(minter.clone(), MintTiming::OnExtraction));
    let visit = |path: &str, user: Option<&str>, condition: Option<&str>| {
        let mut request = Request::get(path).header("accept", "text/html");
        for (name, value) in [("x-user", user), ("if-modified-since", condition)] {
            if let Some(value) = value {
                request = request.header(name, value);
            }
        }
        app.clone()
            .oneshot(request.body(axum::body::Body::empty()).unwrap())
    };
    let about = visit("/about.html", Some("ada"), None).await.unwrap();
    assert_eq!(about.headers()["content-length"], "8");
    let modified = about.headers()["last-modified"]
        .to_str()
        .unwrap()
        .to_owned();
    assert_eq!(text(about).await, "<p>About");
    assert_eq!(minter.calls(), 0);

    let seen = visit("/roadmap.html", None, Some(&modified)).await.unwrap();
    assert_eq!(seen.status(), StatusCode::NOT_MODIFIED);
    let roadmap = visit("/roadmap.html", Some("ada"), Some(&modified))
        .await
        .unwrap();
    assert!(is_private(roadmap.headers()));
    assert_eq!(text(roadmap).await, with_token(PAGE));
    std::fs::remove_dir_all(site).unwrap();
}

#[tokio::test]
async fn a_strict_layer_can_be_around_it() {
    let handler =
        service_fn(async |_: Request<()>| Ok::<_, Infallible>(html(Full::<Bytes>::from(PAGE))));
    let service = ServiceBuilder::new()
        .layer(ReleasedTokenLayer::new(StubMinter::new(), by_header()).reject_without_token())
        .layer(FillLayer::new())
        .service(handler);
    let refused = service.clone().oneshot(Request::new(())).await.unwrap();
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    let page = service.oneshot(request_from_ada(())).await.unwrap();
    assert_eq!(text(page).await, with_token(PAGE));
}

#[test]
fn bodies_and_futures_can_be_sent_and_shared() {
    fn is_send_and_sync<T: Send + Sync>() {}
    fn is_send<T: Send>(_: T) {}
    is_send_and_sync::<FillBody<Full<Bytes>>>();
    is_send_and_sync::<FillLayer>();
    let handler =
        service_fn(async |_: Request<()>| Ok::<_, Infallible>(html(Full::<Bytes>::from(PAGE))));
    is_send(FillLayer::new().layer(handler).call(Request::new(())));
}

// --- any HTML ---

/// Fills a page that comes in these pieces, without a runtime.
fn fill_at_once(html: &str, cuts: &[usize]) -> String {
    let mut steps = Vec::new();
    let mut rest = html.as_bytes();
    for cut in cuts {
        let (piece, after) = rest.split_at((*cut).min(rest.len()));
        steps.extend([data(piece.to_vec()), Step::Pause]);
        rest = after;
    }
    steps.push(data(rest.to_vec()));
    let mut filled = pin!(filled(FillLayer::new(), steps));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(poll_fn(|cx| filled.as_mut().poll(cx)))
}

fn is_html(element: &scraper::node::Element) -> bool {
    &*element.name.ns == "http://www.w3.org/1999/xhtml"
}

/// Compares the pages as a browser's parser reads them. Returns how many elements could have a token and have none.
fn compare(before: &str, after: &str) -> usize {
    assert_eq!(
        after.replace(TOKEN, ""),
        before,
        "other bytes than the token's changed"
    );
    let trees = [before, after].map(scraper::Html::parse_document);
    let [before_nodes, after_nodes] = trees
        .each_ref()
        .map(|tree| tree.tree.root().descendants().collect::<Vec<_>>());
    assert_eq!(before_nodes.len(), after_nodes.len(), "{before}\n{after}");
    let mut left_out = 0;
    for (old, new) in before_nodes.into_iter().zip(after_nodes) {
        let (Some(old), Some(element)) = (old.value().as_element(), new.value().as_element())
        else {
            assert_eq!(old.value(), new.value(), "{before}\n{after}");
            continue;
        };
        assert_eq!(old.name(), element.name());
        let is_in_template = new.ancestors().any(|ancestor| {
            ancestor
                .value()
                .as_element()
                .is_some_and(|element| element.name() == "template" && is_html(element))
        });
        let is_ours = matches!(
            element.name(),
            "released-page" | "released-widget" | "released-form"
        );
        let had = ["auth-token", "data-released-auth"]
            .iter()
            .any(|name| old.attr(name).is_some());
        let is_filled = element.attr("auth-token") == Some("stub-token-1");
        if is_filled {
            assert!(is_ours && !had && !is_in_template, "{before}\n{after}");
        } else {
            left_out += usize::from(is_ours && is_html(old) && !had && !is_in_template);
        }
        let others = |element: &scraper::node::Element| {
            let mut others: Vec<_> = element
                .attrs()
                .filter(|attribute| *attribute != ("auth-token", "stub-token-1"))
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect();
            others.sort();
            others
        };
        assert_eq!(others(old), others(element), "{before}\n{after}");
    }
    left_out
}

/// A tag, quoted and spelled in any way.
fn tag() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec![
        "released-page",
        "Released-Widget",
        "RELEASED-FORM",
        "released-badge",
        "released-pagex",
        "p",
        "div",
        "b",
        "li",
    ]);
    let attribute = prop::sample::select(vec![
        " channel-id=c",
        "\nform-id = 'f'",
        " a=\"<released-page>\"",
        "\tb='>'",
        " c=`",
        " d",
        "/",
        " auth-token=x",
        " data-released-auth='/t'",
        " é=\"ü\"",
        " e=&quot;",
        " =f",
        " g='\"'",
    ]);
    (
        name,
        prop::collection::vec(attribute, 0..3),
        prop::sample::select(vec![">", " >", "/>"]),
    )
        .prop_map(|(name, attributes, end)| format!("<{name}{}{end}", attributes.concat()))
}

/// What is not markup, whatever it looks like.
fn text_like() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "text",
        "&lt;released-page&gt;",
        "a < b > c",
        "<!-- <released-page> -->",
        "<!--><p>",
        "<!---> --><p>",
        "<!doctype html>",
        "<script>'<released-page>'</script>",
        "<script><!--<script></script><released-page></script>--></script>",
        "<style><released-page></style>",
        "<title><released-form></title>",
        "<textarea><released-form></textarea>",
        "<noscript><released-page></noscript>",
        "<iframe><released-page></iframe>",
        "<xmp><released-page></xmp>",
        "<template><released-page><p></template>",
        "<template><template></template><released-form></template>",
        "</released-page>",
        "</p>",
        "<?released-page>",
        "</ released-page>",
        "<svg><path d='M0'/></svg>",
        "<svg/>",
        "é",
        "<math><mi>x</mi></math>",
        "<input value='<released-page>'>",
        "<br/>",
        "<svg viewBox='0'><title>a</title></svg>",
    ])
    .prop_map(str::to_owned)
}

/// Anything, in any order.
fn soup() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "<",
        ">",
        "/",
        "!",
        "--",
        "=",
        "'",
        "\"",
        " ",
        "released-page",
        "<released-page ",
        "<released-form>",
        "</",
        "<template>",
        "</template>",
        "<script>",
        "</script>",
        "<style>",
        "</style>",
        "<!--",
        "-->",
        "<div>",
        "</div>",
        "<p>",
        "</p>",
        "<title>",
        "</title>",
        "<svg>",
        "</svg>",
        "<svg/>",
        "<math>",
        "</math>",
        "<table>",
        "<td>",
        "</table>",
        "<select>",
        "</select>",
        "<option>",
        "<textarea>",
        "</textarea>",
        "<noscript>",
        "</noscript>",
        "<![CDATA[",
        "]]>",
        "<foreignObject>",
        "<plaintext>",
        "<a href='",
        "<desc>",
        "</desc>",
        "<mi>",
        "<body>",
        "</body>",
        "<frameset>",
    ])
    .prop_map(str::to_owned)
}

fn cuts() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(0..20_usize, 0..20)
}

/// Images and formulas, and what is in them, in any order.
fn image_like() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec![
        "<svg>",
        "</svg>",
        "<math>",
        "</math>",
        "<title>",
        "</title>",
        "<desc>",
        "</desc>",
        "<foreignObject>",
        "</foreignObject>",
        "<mi>",
        "</mi>",
        "<style>",
        "</style>",
        "<![CDATA[>",
        "]]>",
        "<p>",
        "</p>",
        "<b>",
        "</b>",
        "<g>",
        "</g>",
        "<path/>",
        "<td>",
        "<tr></tr>",
        "<select>",
        "</select>",
        "<template>",
        "</template>",
        "<font color=a>",
        "<a href='",
        "é",
    ]);
    let start = prop::sample::select(vec![
        "<svg>",
        "<svg><title>",
        "<svg><foreignObject>",
        "<svg><svg>",
        "<math><mi>",
        "<svg><math>",
    ]);
    let end = prop::sample::select(vec![
        "</svg><released-page>",
        "</math><released-page>",
        "<style></svg><released-page></style>",
        "<title><a href='</title></svg><released-page>'>",
        "<title></title><style></math><released-page></style>",
        "<![CDATA[></svg><released-page>]]>",
        "<![CDATA[><style>]]></title></svg><released-page></style>",
    ]);
    (start, prop::collection::vec(part, 0..8), end)
        .prop_map(|(start, parts, end)| format!("{start}{}{end}", parts.concat()))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(600) })]

    #[test]
    fn a_page_is_filled_as_a_browser_reads_it(
        parts in prop::collection::vec(prop_oneof![tag(), text_like()], 0..12),
        cuts in cuts(),
    ) {
        let page = parts.concat();
        let filled = fill_at_once(&page, &cuts);
        prop_assert_eq!(compare(&page, &filled), 0, "{} became {}", page, filled);
    }

    #[test]
    fn nothing_but_elements_is_filled_in_whatever_comes(
        parts in prop::collection::vec(soup(), 0..20),
        cuts in cuts(),
    ) {
        let page = parts.concat();
        compare(&page, &fill_at_once(&page, &cuts));
    }

    #[test]
    fn nothing_but_elements_is_filled_after_an_image_of_any_kind(
        page in image_like(),
        cuts in cuts(),
    ) {
        compare(&page, &fill_at_once(&page, &cuts));
    }
}

#[test]
fn no_token_goes_into_text_or_into_the_value_of_an_attribute_after_markup_that_misleads_the_parser()
{
    for page in [
        "<svg><title></desc></p></title><title><a href='</title></svg><released-page>'>",
        "<svg><title></desc><p></p></title><![CDATA[></svg><released-page>]]>",
        "<svg><title><x></desc><![CDATA[><style>]]></x></title></svg><released-page></style>",
        "<svg><math><mi><p></p></mi></math><style></svg><released-page></style>",
        "<svg><desc><b></desc><style></svg><released-page></style>",
        "<svg><desc><desc/></desc><desc/></desc><style></svg><released-page></style>",
        "<svg><foreignObject><b></foreignObject></svg></b><![CDATA[><released-page>]]>",
        "<template><col><style><!--</style></template><released-page>-->",
    ] {
        compare(page, &fill_at_once(page, &[]));
    }
}

#[test]
fn pages_with_images_and_formulas_of_all_sorts_are_filled() {
    for image in [
        "<a href='#'><svg class=i viewBox='0 0 24 24'><path d='M0 0h24v24H0z' fill=none /></svg>Home</a>",
        "<button><svg><use xlink:href='#x'></use></svg></button><p>Hi <svg><use href='#x'/></svg> there",
        "<ul><li><svg><g><title>x</title><path d=''></g></svg></ul>",
        "<svg><defs><style><![CDATA[.a > .b {fill:red}]]></style></defs><g><title>é</title></g></svg>",
        "<svg><style>.a{}</style><svg><style>.b{}</style><title>b</title><path/></svg></svg>",
        "<SVG><TITLE>x</TITLE><PATH></PATH></SVG>",
        "<svg><symbol id=a><title lang=en>A &amp; B</title><title lang=de>C < D</title><desc>b</desc></symbol></svg>",
        "<svg><metadata><rdf:RDF><dc:title></dc:title></rdf:RDF></metadata><sodipodi:namedview id=a /></svg>",
        "<svg><linearGradient id=a><stop offset=0 /><stop offset=1></linearGradient><rect fill='url(#a)'></svg>",
        "<svg><path/></path><image href=a /><font id=a><missing-glyph/></font><!-- <b> --></svg>",
        // Mermaid.
        "<svg id=m><style>#m{a:b}</style><g><foreignObject width=1><div xmlns='http://www.w3.org/1999/xhtml'>\
         <span class=nodeLabel><p>Start<br/>here <i class='fa fa-x'></i></p></span></div></foreignObject></g></svg>",
        "<svg><foreignObject><div><svg><title>icon</title><style>a{}</style><path/></svg></div></foreignObject></svg>",
        // KaTeX and MathJax.
        "<math xmlns='http://www.w3.org/1998/Math/MathML'><semantics><mrow><mi>x</mi><mo>=</mo><mfrac><mn>1</mn>\
         <mi mathvariant=normal>y</mi></mfrac><mspace width=1em /><mtext>a b</mtext></mrow>\
         <annotation encoding='application/x-tex'>x = 1</annotation></semantics></math>",
        "<math><mtext>for <b>x</b></mtext><annotation-xml encoding=MathML-Content><ci>a</ci></annotation-xml></math>",
        "<select><option><svg><path/></svg>One</option></select><svg><title>x</title></svg>",
        "<template><style>a{}</style><svg><title>a</title><style>b{}</style></svg><slot></slot></template>",
        "<table><tr><td><svg><title>x</title></svg></table>",
    ] {
        let page = format!("{image}<released-page>");
        for length in [1, 2, 3, 7, page.len()] {
            let filled = fill_at_once(&page, &vec![length; page.len() / length]);
            assert_eq!(compare(&page, &filled), 0, "{page} in pieces of {length}");
        }
    }
}

#[test]
fn a_waker_of_a_dropped_future_is_harmless() {
    // A page that was asked for once and dropped, while its resolver waits.
    let layer = ReleasedTokenLayer::new(
        StubMinter::new(),
        resolver_fn(|_| pending::<Option<User>>()),
    )
    .timing(MintTiming::OnExtraction);
    let handler =
        service_fn(async |_: Request<()>| Ok::<_, Infallible>(html(Full::<Bytes>::from(PAGE))));
    let mut service = ServiceBuilder::new()
        .layer(layer)
        .layer(FillLayer::new())
        .service(handler);
    let cx = &mut Context::from_waker(Waker::noop());
    assert!(Service::<Request<()>>::poll_ready(&mut service, cx).is_ready());
    let mut page = Box::pin(service.call(Request::new(())));
    assert!(page.as_mut().poll(cx).is_pending());
    drop(page);
}
