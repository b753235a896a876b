//! What becomes of a promise whatever happens to its page: nothing is parked, no thread is blocked, nothing is said that is not so.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::task::Poll;
use std::thread;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::{get, post};
use futures_util::FutureExt;
use http::header::CACHE_CONTROL;
use http::{HeaderValue, Request, Response};
use tokio::runtime::{Builder, Handle};
use tokio::task::block_in_place;
use tokio::time::{sleep, timeout};
use tower::{BoxError, ServiceBuilder, ServiceExt, service_fn};
use tower_released::embed::csp::{self, CspLayer};
use tower_released::testing::StubMinter;
use tower_released::{
    AuthToken, MintTiming, PendingToken, ReleasedTokenLayer, User, UserResolver, resolver_fn,
    token_endpoint,
};

use crate::leaks::Log;
use crate::support::{ada, by_header, request_from_ada};

// Far more than what ends takes, on a busy machine; what hangs takes for ever.
const PATIENCE: Duration = Duration::from_secs(20);

/// Whether `work` ends on a runtime of a container with few CPUs. A hang costs the test a thread, and no more.
fn ends<F: Future<Output = ()> + Send + 'static>(
    workers: usize,
    work: impl FnOnce() -> F + Send + 'static,
) -> bool {
    let (done, is_done) = mpsc::channel();
    thread::spawn(move || {
        let runtime = Builder::new_multi_thread()
            .worker_threads(workers)
            .enable_all()
            .build()
            .unwrap();
        let (sent, task) = (done.clone(), runtime.spawn(work()));
        runtime.block_on(async { task.await.unwrap() });
        sent.send(()).unwrap();
    });
    is_done.recv_timeout(PATIENCE).is_ok()
}

/// A synchronous data layer, used as tokio's documentation shows.
fn blocking_resolver() -> impl UserResolver<Error = BoxError> {
    resolver_fn(|_| async {
        sleep(Duration::from_millis(10)).await;
        block_in_place(|| {
            Handle::current().block_on(async {
                sleep(Duration::from_millis(150)).await;
                ada()
            })
        })
    })
}

/// What happens in one task while another one polls the mint.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Meanwhile {
    /// Nothing: the handler itself waits. It shows that the test is sound.
    Nothing,
    /// The layer and a renderer in a task of its own wait for the token.
    Waits,
    /// The head leaves ahead of a body that the renderer writes.
    HeadLeaves,
    /// The browser goes away.
    ClientLeaves,
    /// A body ends that held the promise.
    BodyEnds,
}

/// A resolver works in `block_in_place`, under the poll of one task. Whatever happens to the promise in another task must not
/// wait for that poll: a thread of the runtime would stand still, and if it is the only one, so do the timers and all sockets,
/// and the resolver never ends.
#[test]
fn nothing_blocks_a_thread_while_a_resolver_works_in_place() {
    let mut hung = Vec::new();
    for (workers, pages, meanwhile) in [
        (1, 1, Meanwhile::Nothing),
        (1, 1, Meanwhile::Waits),
        (1, 1, Meanwhile::HeadLeaves),
        (1, 1, Meanwhile::ClientLeaves),
        (1, 1, Meanwhile::BodyEnds),
        (4, 32, Meanwhile::Nothing),
        (4, 32, Meanwhile::HeadLeaves),
    ] {
        let page = service_fn(move |mut request: Request<()>| async move {
            let pending = request.extensions_mut().remove::<PendingToken>().unwrap();
            let rendered = {
                let pending = pending.clone();
                async move { pending.get().await.is_ok_and(|token| token.is_some()) }
            };
            match meanwhile {
                Meanwhile::Nothing => assert!(rendered.await),
                Meanwhile::Waits => assert!(tokio::spawn(rendered).await.unwrap()),
                Meanwhile::HeadLeaves => {
                    tokio::spawn(rendered);
                    sleep(Duration::from_millis(50)).await;
                }
                Meanwhile::ClientLeaves => {
                    tokio::spawn(rendered);
                    std::future::pending::<()>().await;
                }
                Meanwhile::BodyEnds => {}
            }
            Ok::<_, BoxError>(Response::new(pending))
        });
        let layer = ReleasedTokenLayer::new(StubMinter::new(), blocking_resolver())
            .timing(MintTiming::OnExtraction);
        let service = ServiceBuilder::new().layer(layer).service(page);
        let visit = move || {
            let response = service.clone().oneshot(Request::new(()));
            async move {
                match meanwhile {
                    Meanwhile::ClientLeaves => {
                        assert!(timeout(Duration::from_millis(50), response).await.is_err());
                    }
                    Meanwhile::BodyEnds => {
                        let pending = response.await.unwrap().into_body();
                        assert!(
                            timeout(Duration::from_millis(5), pending.get())
                                .await
                                .is_err()
                        );
                        sleep(Duration::from_millis(50)).await;
                        drop(pending);
                    }
                    _ => assert!(
                        response
                            .await
                            .unwrap()
                            .into_body()
                            .get()
                            .await
                            .unwrap()
                            .is_some()
                    ),
                }
                // Timers run on.
                sleep(Duration::from_millis(1)).await;
            }
        };
        let ended = ends(workers, move || async move {
            let visits = (0..pages)
                .map(|_| tokio::spawn(visit()))
                .collect::<Vec<_>>();
            for visit in visits {
                visit.await.unwrap();
            }
        });
        if !ended {
            hung.push((workers, pages, meanwhile));
        }
    }
    assert_eq!(hung, [], "the whole server hangs");
}

/// Tells when it is dropped.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(places: &Arc<AtomicUsize>) -> Self {
        places.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(places))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A body is written on a thread with a small runtime of its own, which asks once and goes on. The task that was to drive the
/// mint dies with that runtime; the mint must not stay half polled for as long as the body holds the promise.
#[tokio::test(flavor = "multi_thread")]
async fn a_mint_is_not_parked_when_the_runtime_of_its_task_ends() {
    let places = Arc::new(AtomicUsize::new(0));
    let resolver = resolver_fn({
        let places = Arc::clone(&places);
        let has_ended = Arc::new(AtomicBool::new(false));
        move |_| {
            let (places, has_ended) = (Arc::clone(&places), Arc::clone(&has_ended));
            async move {
                let _place = Place::take(&places);
                // Woken from a thread, as by a socket of the server's own runtime.
                poll_fn(move |cx| {
                    if has_ended.load(Ordering::SeqCst) {
                        return Poll::Ready(());
                    }
                    let (waker, has_ended) = (cx.waker().clone(), Arc::clone(&has_ended));
                    thread::spawn(move || {
                        thread::sleep(Duration::from_millis(200));
                        has_ended.store(true, Ordering::SeqCst);
                        waker.wake();
                    });
                    Poll::Pending
                })
                .await;
                ada()
            }
        }
    });
    let layer =
        ReleasedTokenLayer::new(StubMinter::new(), resolver).timing(MintTiming::OnExtraction);
    let page = service_fn(async |mut request: Request<()>| {
        Ok::<_, BoxError>(Response::new(
            request.extensions_mut().remove::<PendingToken>().unwrap(),
        ))
    });
    let service = ServiceBuilder::new().layer(layer).service(page);
    let pending = service.oneshot(Request::new(())).await.unwrap().into_body();
    let pending = thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let asked = runtime.block_on(async {
            timeout(Duration::from_millis(20), pending.get())
                .await
                .is_ok()
        });
        assert!(!asked, "the resolver is slower");
        pending
    });
    let pending = pending.join().unwrap();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(
        places.load(Ordering::SeqCst),
        0,
        "the mint is parked, and keeps what it holds"
    );
    drop(pending);
}

/// tower's `Retry` keeps its copy of the request, and with it the promise, until its future is dropped.
#[tokio::test]
async fn a_page_that_never_asked_keeps_its_caching_behind_a_retry() {
    #[derive(Clone)]
    struct Never;
    impl<Res, E> tower::retry::Policy<Request<()>, Res, E> for Never {
        type Future = std::future::Ready<()>;
        fn retry(&mut self, _: &mut Request<()>, _: &mut Result<Res, E>) -> Option<Self::Future> {
            None
        }
        fn clone_request(&mut self, request: &Request<()>) -> Option<Request<()>> {
            Some(request.clone())
        }
    }
    for timing in [MintTiming::OnExtraction, MintTiming::AlongsideHandler] {
        let page = service_fn(async |_: Request<()>| {
            Ok::<_, BoxError>(
                Response::builder()
                    .header(CACHE_CONTROL, "public, max-age=60")
                    .body(())
                    .unwrap(),
            )
        });
        let layer = ReleasedTokenLayer::new(StubMinter::new(), by_header()).timing(timing);
        let service = ServiceBuilder::new()
            .layer(layer)
            .retry(Never)
            .service(page);
        let response = service.oneshot(request_from_ada(())).await.unwrap();
        assert_eq!(
            response.headers()[CACHE_CONTROL],
            "public, max-age=60",
            "{timing:?}: nobody took the token"
        );
    }
}

fn warnings(log: &Log) -> usize {
    log.text()
        .lines()
        .filter(|line| line.contains(" WARN "))
        .count()
}

#[tokio::test]
async fn a_handler_that_says_public_does_not_flood_the_log() {
    let (log, _guard) = Log::capture_filtered("warn");
    let page = service_fn(async |_: Request<()>| {
        Ok::<_, BoxError>(
            Response::builder()
                .header(CACHE_CONTROL, "public")
                .body(())
                .unwrap(),
        )
    });
    let layer = ReleasedTokenLayer::new(StubMinter::new(), by_header());
    let service = ServiceBuilder::new().layer(layer).service(page);
    for _ in 0..200 {
        service.clone().oneshot(request_from_ada(())).await.unwrap();
    }
    assert!(
        (1..=5).contains(&warnings(&log)),
        "{} warnings",
        warnings(&log)
    );
}

/// Anybody may send `Sec-Fetch-Dest: image`.
#[tokio::test]
async fn a_stranger_cannot_flood_the_log_with_requests_that_the_filter_skips() {
    let (log, _guard) = Log::capture_filtered("warn");
    let layer = ReleasedTokenLayer::new(StubMinter::new(), by_header());
    let app = Router::new()
        .route("/", get(async |_: AuthToken| ""))
        .route_layer(layer);
    for _ in 0..200 {
        let request = Request::builder()
            .header("sec-fetch-dest", "image")
            .body(Body::empty())
            .unwrap();
        app.clone().oneshot(request).await.unwrap();
    }
    assert_eq!(
        warnings(&log),
        0,
        "its answer of 500 says what to do; anybody can ask for it"
    );
}

/// Many applications set a policy for HTML only. A JSON answer needs none, and must not use up the one warning.
#[tokio::test]
async fn an_answer_that_is_no_document_is_not_warned_of_for_its_missing_policy() {
    let policy = tower::util::MapResponseLayer::new(|mut response: Response<Body>| {
        if response
            .headers()
            .get("content-type")
            .is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"))
        {
            let value = HeaderValue::from_static("font-src 'self'");
            response
                .headers_mut()
                .insert("content-security-policy", value);
        }
        response
    });
    let (log, _guard) = Log::capture_filtered("warn");
    let app = Router::new()
        .route("/", post(token_endpoint))
        .route_layer(ReleasedTokenLayer::new(StubMinter::new(), by_header()))
        .layer(policy)
        .layer(CspLayer::new(csp::strict()));
    let mut request = request_from_ada(Body::empty());
    *request.method_mut() = http::Method::POST;
    assert_eq!(app.oneshot(request).await.unwrap().status(), 200);
    assert_eq!(log.text(), "");
}

/// htmx asks for parts of a page with `Accept: */*`, and says so in a header of its own.
#[tokio::test]
async fn a_part_of_a_page_that_htmx_asks_for_loses_its_conditions_too() {
    let page = service_fn(async |request: Request<()>| {
        Ok::<_, BoxError>(Response::new(
            request.headers().contains_key("if-none-match"),
        ))
    });
    let layer = ReleasedTokenLayer::new(StubMinter::new(), by_header());
    let mut request = request_from_ada(());
    for (name, value) in [
        ("accept", "*/*"),
        ("hx-request", "true"),
        ("sec-fetch-dest", "empty"),
        ("sec-fetch-mode", "cors"),
        ("if-none-match", "\"1\""),
    ] {
        request
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    let response = ServiceBuilder::new()
        .layer(layer)
        .service(page)
        .oneshot(request)
        .await
        .unwrap();
    assert!(
        !response.into_body(),
        "a 304 brings back the part from before the user signed in"
    );
}

/// A guard: the mint's waker holds the promise, and the promise the mint. Whichever way a page ends, nothing stays.
#[tokio::test]
async fn every_mint_is_dropped_however_its_page_ends() {
    #[derive(Clone, Copy, Debug)]
    enum End {
        BeforeTheFirstPoll,
        AfterOnePoll,
        HeadThenBody,
        TaskOutlivesThePage,
        Panics,
    }
    for timing in [
        MintTiming::BeforeHandler,
        MintTiming::AlongsideHandler,
        MintTiming::OnExtraction,
    ] {
        for end in [
            End::BeforeTheFirstPoll,
            End::AfterOnePoll,
            End::HeadThenBody,
            End::TaskOutlivesThePage,
            End::Panics,
        ] {
            if matches!(
                (timing, end),
                (MintTiming::BeforeHandler, End::HeadThenBody)
            ) {
                continue; // it never gets that far
            }
            let places = Arc::new(AtomicUsize::new(0));
            let resolver = resolver_fn({
                let places = Arc::clone(&places);
                move |_| {
                    let place = Place::take(&places);
                    async move {
                        let _place = place;
                        tokio::task::yield_now().await;
                        assert!(!matches!(end, End::Panics), "a bug in the resolver");
                        // Keeps its waker where nothing drops it but the mint's own end.
                        sleep(Duration::from_secs(3600)).await;
                        None::<User>
                    }
                }
            });
            let page = service_fn(move |mut request: Request<()>| async move {
                let pending = request.extensions_mut().remove::<PendingToken>().unwrap();
                if matches!(end, End::TaskOutlivesThePage) {
                    let pending = pending.clone();
                    tokio::spawn(async move { pending.get().await.map(drop) });
                }
                let asked = timeout(Duration::from_millis(5), pending.get());
                let _ = asked.await;
                if !matches!(end, End::HeadThenBody) {
                    std::future::pending::<()>().await;
                }
                Ok::<_, BoxError>(Response::new(pending))
            });
            let layer = ReleasedTokenLayer::new(StubMinter::new(), resolver).timing(timing);
            let mut response = Box::pin(
                ServiceBuilder::new()
                    .layer(layer)
                    .service(page)
                    .oneshot(Request::new(())),
            );
            match end {
                End::BeforeTheFirstPoll => {}
                End::AfterOnePoll => assert!((&mut response).now_or_never().is_none()),
                End::TaskOutlivesThePage => {
                    assert!(
                        timeout(Duration::from_millis(20), &mut response)
                            .await
                            .is_err()
                    );
                }
                End::HeadThenBody => drop((&mut response).await.unwrap().into_body()),
                End::Panics => {
                    let page = std::panic::AssertUnwindSafe(timeout(
                        Duration::from_millis(20),
                        &mut response,
                    ));
                    let _ = page.catch_unwind().await;
                }
            }
            drop(response);
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            assert_eq!(places.load(Ordering::SeqCst), 0, "{timing:?} {end:?}");
        }
    }
}
