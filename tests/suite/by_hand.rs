//! Promises that were made by hand, for frameworks that are not built on Tower.

use std::future::{pending, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::middleware::{Next, from_fn};
use axum::routing::get;
use futures_util::FutureExt;
use http::{HeaderMap, HeaderValue, Request};
use http_body_util::BodyExt;
use tokio::runtime::Builder;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tower::ServiceExt;
use tower_released::middleware::forbid_caching;
use tower_released::testing::{FakeReleased, StubMinter};
use tower_released::{AuthToken, MintError, MintErrorKind, PendingToken};

use crate::support::ada;

/// Far more than what ends takes; what hangs takes for ever.
const PATIENCE: Duration = Duration::from_secs(20);

/// What became of a mint.
#[derive(Default)]
struct Fate {
    starts: AtomicUsize,
    has_ended: AtomicBool,
    is_dropped: AtomicBool,
    /// Notified when it is dropped, which is also after its end.
    over: Notify,
}

impl Fate {
    /// A promise of a token that `work` must end before.
    fn of(self: &Arc<Self>, work: impl Future<Output = ()> + Send + 'static) -> PendingToken {
        struct OnDrop(Arc<Fate>);
        impl Drop for OnDrop {
            fn drop(&mut self) {
                self.0.is_dropped.store(true, Ordering::Relaxed);
                self.0.over.notify_one();
            }
        }
        let on_drop = OnDrop(Arc::clone(self));
        PendingToken::new(async move {
            on_drop.0.starts.fetch_add(1, Ordering::Relaxed);
            work.await;
            on_drop.0.has_ended.store(true, Ordering::Relaxed);
            Ok(Some(AuthToken::new("t").unwrap()))
        })
    }

    fn starts(&self) -> usize {
        self.starts.load(Ordering::Relaxed)
    }

    fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Relaxed)
    }

    fn is_dropped(&self) -> bool {
        self.is_dropped.load(Ordering::Relaxed)
    }
}

#[tokio::test]
async fn a_promise_that_nobody_asks_does_nothing() {
    let fate = Arc::<Fate>::default();
    let promise = fate.of(async {});
    sleep(Duration::from_millis(20)).await;
    drop(promise);
    assert_eq!((fate.starts(), fate.is_dropped()), (0, true));
}

#[tokio::test(start_paused = true)]
async fn everybody_who_asks_shares_one_mint() {
    let fate = Arc::<Fate>::default();
    let promise = fate.of(sleep(Duration::from_millis(50)));
    let (one, two) = (promise.clone(), promise.clone());
    let (one, two, three) = tokio::join!(one.get(), two.get(), promise.get());
    for token in [one, two, three, promise.get().await] {
        assert_eq!(token.unwrap().unwrap().as_str(), "t");
    }
    assert_eq!(fate.starts(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_mint_goes_on_when_the_first_who_asked_has_left() {
    let fate = Arc::<Fate>::default();
    let promise = fate.of(sleep(Duration::from_millis(50)));
    assert!(
        timeout(Duration::from_millis(10), promise.get())
            .await
            .is_err()
    );
    // Nobody asks now.
    sleep(Duration::from_millis(100)).await;
    assert!(fate.has_ended());
    assert!(promise.get().now_or_never().unwrap().unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_get_that_is_neither_polled_nor_dropped_delays_nobody() {
    let fate = Arc::<Fate>::default();
    let promise = fate.of(sleep(Duration::from_millis(50)));
    let mut parked = pin!(promise.get());
    assert!(
        poll_fn(|cx| Poll::Ready(parked.as_mut().poll(cx)))
            .await
            .is_pending()
    );
    sleep(Duration::from_millis(100)).await;
    assert!(fate.has_ended());
    assert!(promise.get().now_or_never().is_some());
    assert!(parked.await.unwrap().is_some());
}

#[tokio::test]
async fn dropping_the_last_clone_cancels_the_mint() {
    let fate = Arc::<Fate>::default();
    let promise = fate.of(pending());
    let clone = promise.clone();
    assert!(promise.get().now_or_never().is_none());
    drop(promise);
    sleep(Duration::from_millis(20)).await;
    assert!(!fate.is_dropped(), "a clone may still ask");
    drop(clone);
    timeout(PATIENCE, fate.over.notified())
        .await
        .expect("it is never dropped");
    assert!(!fate.has_ended());
}

#[tokio::test]
async fn a_promise_that_was_made_outside_of_a_runtime_gets_the_one_in_which_it_is_asked() {
    let fate = Arc::<Fate>::default();
    let promise = std::thread::spawn({
        let fate = Arc::clone(&fate);
        move || {
            let promise = fate.of(sleep_later());
            // A waker without a runtime starts it, and nothing drives it yet.
            let mut asked = pin!(promise.get());
            let cx = &mut Context::from_waker(Waker::noop());
            assert!(asked.as_mut().poll(cx).is_pending());
            promise.clone()
        }
    })
    .join()
    .unwrap();
    assert_eq!(fate.starts(), 1);
    assert!(promise.get().now_or_never().is_none(), "now it has a task");
    timeout(PATIENCE, fate.over.notified())
        .await
        .expect("it is parked");
    assert!(fate.has_ended());
}

/// Ends a moment after its first poll, without a timer of tokio.
async fn sleep_later() {
    let mut is_over = None;
    poll_fn(move |cx| {
        let is_over = is_over.get_or_insert_with(|| {
            let (is_over, waker) = (Arc::new(AtomicBool::new(false)), cx.waker().clone());
            std::thread::spawn({
                let is_over = Arc::clone(&is_over);
                move || {
                    std::thread::sleep(Duration::from_millis(50));
                    is_over.store(true, Ordering::Release);
                    waker.wake();
                }
            });
            is_over
        });
        if is_over.load(Ordering::Acquire) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}

#[test]
fn outside_of_tokio_whoever_awaits_drives_it_to_its_end() {
    let fate = Arc::<Fate>::default();
    let promise = fate.of(sleep_later());
    let found = futures_util::future::join(promise.get(), promise.get());
    let (one, two) = block_on(found);
    assert!(one.unwrap().is_some() && two.unwrap().is_some());
    assert_eq!(fate.starts(), 1);
}

/// A runtime that is not tokio's: one thread that sleeps until it is woken.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Thread(std::thread::Thread);
    impl std::task::Wake for Thread {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Thread(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

#[tokio::test]
async fn a_mint_that_panics_leaves_nobody_waiting() {
    let promise = PendingToken::new(async {
        sleep(Duration::from_millis(10)).await;
        panic!("as this test wants");
    });
    let asked = [promise.clone(), promise.clone()]
        .map(|promise| tokio::spawn(async move { promise.get().await }));
    for asked in asked {
        // It panics in whoever polls it.
        let told = timeout(PATIENCE, asked).await.expect("it waits for ever");
        assert!(
            told.is_err()
                || told.is_ok_and(|told| told.unwrap_err().kind() == MintErrorKind::Interrupted)
        );
    }
    let error = promise.get().now_or_never().unwrap().unwrap_err();
    assert_eq!(error.kind(), MintErrorKind::Interrupted);
}

#[test]
fn when_the_runtime_ends_the_mint_ends() {
    let fate = Arc::<Fate>::default();
    let promise = fate.of(pending());
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { assert!(promise.get().now_or_never().is_none()) });
    drop(runtime);
    assert!(fate.is_dropped());
    let error = promise.get().now_or_never().unwrap().unwrap_err();
    assert_eq!(error.kind(), MintErrorKind::Interrupted);
}

/// The only place in flight must be free again, whatever became of the page that started the mint.
#[tokio::test]
async fn a_mint_that_was_started_and_left_alone_keeps_no_place() {
    let released = FakeReleased::start().await.unwrap();
    let client = released
        .client_builder()
        .max_in_flight(1)
        .deadline(Duration::from_secs(60))
        .build()
        .unwrap();
    let promise = PendingToken::new({
        let client = client.clone();
        async move { client.mint(&ada()).await.map(Some) }
    });
    let mut parked = pin!(promise.get());
    assert!(
        poll_fn(|cx| Poll::Ready(parked.as_mut().poll(cx)))
            .await
            .is_pending()
    );
    released.wait_until(|counts| counts.minted == 1).await;
    let freed = async {
        while client.mint(&ada()).await.is_err() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, freed).await.expect("the place is kept");
}

#[tokio::test]
async fn a_visitor_is_nobody_and_an_error_is_kept() {
    let nobody = PendingToken::new(async { Ok(None) });
    assert!(nobody.get().await.unwrap().is_none());
    let failing = PendingToken::new(async { Err(MintError::new(MintErrorKind::Timeout)) });
    for _ in 0..2 {
        let error = failing.get().await.unwrap_err();
        assert_eq!(error.kind(), MintErrorKind::Timeout);
    }
}

#[tokio::test]
async fn the_extractors_find_a_promise_in_the_extensions() {
    async fn promise(mut request: Request<Body>, next: Next) -> axum::response::Response {
        let minter = StubMinter::new();
        request
            .extensions_mut()
            .insert(PendingToken::new(async move {
                minter.oneshot(ada()).await.map(Some)
            }));
        next.run(request).await
    }
    let app = Router::new()
        .route("/", get(async |token: AuthToken| token.to_string()))
        .layer(from_fn(promise));
    let response = app.oneshot(Request::new(Body::empty())).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "stub-token-1");
}

#[test]
fn caching_is_forbidden_as_the_layer_does_it() {
    let headers = |pairs: &[(&'static str, &'static str)]| {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    };
    for (before, after) in [
        (&[][..], &[("cache-control", "private, no-store")][..]),
        (
            &[
                ("cache-control", "public"),
                ("cache-control", "max-age=60"),
                ("etag", "\"1\""),
                ("last-modified", "Thu, 01 Jan 1970 00:00:00 GMT"),
                ("expires", "0"),
                ("cdn-cache-control", "max-age=60"),
                ("x-accel-expires", "60"),
                ("vary", "cookie"),
            ],
            &[("cache-control", "private, no-store"), ("vary", "cookie")],
        ),
        (
            &[("content-type", "application/grpc"), ("etag", "\"1\"")],
            &[("content-type", "application/grpc"), ("etag", "\"1\"")],
        ),
    ] {
        let mut found = headers(before);
        forbid_caching(&mut found);
        assert_eq!(found, headers(after));
    }
}
