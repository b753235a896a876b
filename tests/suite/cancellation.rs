//! Who waits for whom, and what ends when somebody leaves. Time is paused where no socket is involved.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use http::{Request, Response};
use tokio::time::{Instant, sleep, timeout};
use tower::{BoxError, ServiceBuilder, ServiceExt, service_fn};
use tower_released::testing::{FakeReleased, StubMinter};
use tower_released::{
    AuthToken, MintError, MintErrorKind, MintTiming, Minter, PendingToken, ReleasedTokenLayer, User,
};

use crate::support::{by_header, request_from_ada};

const API: Duration = Duration::from_millis(80);
const HANDLER: Duration = Duration::from_millis(50);

fn pending(request: &Request<()>) -> PendingToken {
    request.extensions().get::<PendingToken>().cloned().unwrap()
}

/// Serves one request from Ada with this handler.
async fn serve<H, F>(minter: StubMinter, timing: MintTiming, handler: H)
where
    H: Fn(Request<()>) -> F + Clone,
    F: Future<Output = ()>,
{
    let page = service_fn(move |request| {
        let response = handler(request);
        async {
            response.await;
            Ok::<_, BoxError>(Response::new(()))
        }
    });
    let layer = ReleasedTokenLayer::new(minter, by_header()).timing(timing);
    ServiceBuilder::new()
        .layer(layer)
        .service(page)
        .oneshot(request_from_ada(()))
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_page_takes_as_long_as_its_timing_says() {
    for (timing, asks, takes) in [
        (MintTiming::BeforeHandler, true, 130),
        (MintTiming::AlongsideHandler, true, 80),
        (MintTiming::OnExtraction, true, 130),
        (MintTiming::BeforeHandler, false, 130),
        (MintTiming::AlongsideHandler, false, 50),
        (MintTiming::OnExtraction, false, 50),
    ] {
        let start = Instant::now();
        serve(
            StubMinter::new().with_latency(API),
            timing,
            |request| async move {
                sleep(HANDLER).await;
                if asks {
                    assert!(pending(&request).get().await.unwrap().is_some());
                }
            },
        )
        .await;
        assert_eq!(
            start.elapsed(),
            Duration::from_millis(takes),
            "{timing:?}, asks: {asks}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_mint_that_is_done_before_the_handler_asks_is_waiting_for_it() {
    let minter = StubMinter::new().with_latency(HANDLER);
    let start = Instant::now();
    serve(
        minter.clone(),
        MintTiming::AlongsideHandler,
        |request| async move {
            sleep(API).await;
            assert!(pending(&request).get().await.unwrap().is_some());
        },
    )
    .await;
    assert_eq!(start.elapsed(), API);
    assert_eq!(minter.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_mints_once_however_many_ask() {
    for timing in [
        MintTiming::BeforeHandler,
        MintTiming::AlongsideHandler,
        MintTiming::OnExtraction,
    ] {
        let minter = StubMinter::new().with_latency(API);
        serve(minter.clone(), timing, |request| async move {
            let (first, second) = (pending(&request), pending(&request));
            let other_task = tokio::spawn({
                let third = pending(&request);
                async move { third.get().await }
            });
            let (first, second) = tokio::join!(first.get(), second.get());
            let third = other_task.await.unwrap();
            for token in [first, second, third] {
                assert_eq!(token.unwrap().unwrap().as_str(), "stub-token-1");
            }
        })
        .await;
        assert_eq!(minter.calls(), 1, "{timing:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_mint_that_failed_is_not_tried_again_for_the_same_request() {
    for timing in [
        MintTiming::BeforeHandler,
        MintTiming::AlongsideHandler,
        MintTiming::OnExtraction,
    ] {
        let minter = StubMinter::failing(MintError::new(MintErrorKind::Unavailable));
        serve(minter.clone(), timing, |request| async move {
            for _ in 0..3 {
                assert_eq!(
                    pending(&request).get().await.unwrap_err().kind(),
                    MintErrorKind::Unavailable
                );
            }
        })
        .await;
        assert_eq!(minter.calls(), 1, "{timing:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_dropped_waiter_neither_loses_the_mint_nor_blocks_the_others() {
    for timing in [MintTiming::AlongsideHandler, MintTiming::OnExtraction] {
        let minter = StubMinter::new().with_latency(API);
        let start = Instant::now();
        serve(minter.clone(), timing, |request| async move {
            let pending = pending(&request);
            // This one drives the mint, if nobody else does, and then leaves in the middle of it.
            assert!(timeout(HANDLER, pending.get()).await.is_err());
            assert!(pending.get().await.unwrap().is_some());
        })
        .await;
        // 80 and not 130: the mint went on from where it was.
        assert_eq!(start.elapsed(), API, "{timing:?}");
        assert_eq!(minter.calls(), 1, "{timing:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_nobody_polls_any_more_holds_up_nobody() {
    for timing in [MintTiming::AlongsideHandler, MintTiming::OnExtraction] {
        let minter = StubMinter::new().with_latency(API);
        let start = Instant::now();
        serve(minter.clone(), timing, |request| async move {
            let pending = pending(&request);
            let mut first = pin!(pending.get());
            tokio::select! {
                _ = &mut first => panic!("the API is slower"),
                () = sleep(HANDLER) => {}
            }
            // The first is neither dropped nor polled, and it was the one that drove the mint.
            assert!(pending.get().await.unwrap().is_some());
            assert!(first.await.unwrap().is_some());
        })
        .await;
        assert_eq!(start.elapsed(), API, "{timing:?}");
        assert_eq!(minter.calls(), 1, "{timing:?}");
    }
}

#[tokio::test]
async fn a_mint_that_panics_is_an_interruption_for_everybody_else() {
    let minter =
        service_fn(|_: User| async { panic!("a bug in a minter") as Result<AuthToken, MintError> });
    let layer = ReleasedTokenLayer::new(minter, by_header()).timing(MintTiming::OnExtraction);
    let page = service_fn(async |request: Request<()>| {
        let pending = pending(&request);
        let first = tokio::spawn({
            let pending = pending.clone();
            async move { pending.get().await }
        });
        assert!(first.await.unwrap_err().is_panic());
        assert_eq!(
            pending.get().await.unwrap_err().kind(),
            MintErrorKind::Interrupted
        );
        Ok::<_, BoxError>(Response::new(()))
    });
    ServiceBuilder::new()
        .layer(layer)
        .service(page)
        .oneshot(request_from_ada(()))
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_waiter_in_another_task_takes_over_from_one_that_was_dropped() {
    let minter = StubMinter::new().with_latency(API);
    serve(
        minter.clone(),
        MintTiming::OnExtraction,
        |request| async move {
            let pending = pending(&request);
            let driver = tokio::spawn({
                let pending = pending.clone();
                async move { pending.get().await }
            });
            tokio::task::yield_now().await;
            let waiter = tokio::spawn(async move { pending.get().await });
            tokio::task::yield_now().await;
            driver.abort();
            assert!(driver.await.unwrap_err().is_cancelled());
            assert!(waiter.await.unwrap().unwrap().is_some());
        },
    )
    .await;
    assert_eq!(minter.calls(), 1);
}

/// Notices when the future that holds it is dropped.
struct OnDrop(Arc<AtomicBool>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A minter that never ends, and whether its mint was dropped.
fn endless() -> (impl Minter, Arc<AtomicBool>) {
    let dropped = Arc::new(AtomicBool::new(false));
    let minter = service_fn({
        let dropped = Arc::clone(&dropped);
        move |_: User| {
            let on_drop = OnDrop(Arc::clone(&dropped));
            async move {
                let _on_drop = on_drop;
                std::future::pending::<Result<AuthToken, MintError>>().await
            }
        }
    });
    (minter, dropped)
}

#[tokio::test]
async fn a_dropped_request_drops_its_mint_although_somebody_keeps_the_promise() {
    for timing in [MintTiming::AlongsideHandler, MintTiming::OnExtraction] {
        let (minter, mint_dropped) = endless();
        let kept = Arc::new(Mutex::new(None));
        let page = service_fn({
            let kept = Arc::clone(&kept);
            move |request: Request<()>| {
                let kept = Arc::clone(&kept);
                async move {
                    *kept.lock().unwrap() = Some(pending(&request));
                    pending(&request).get().await.unwrap();
                    Ok::<_, BoxError>(Response::new(()))
                }
            }
        });
        let layer = ReleasedTokenLayer::new(minter, by_header()).timing(timing);
        {
            let mut response = pin!(
                ServiceBuilder::new()
                    .layer(layer)
                    .service(page)
                    .oneshot(request_from_ada(()))
            );
            assert!(
                poll_fn(|cx| Poll::Ready(response.as_mut().poll(cx)))
                    .await
                    .is_pending()
            );
            assert!(!mint_dropped.load(Ordering::SeqCst));
        }
        assert!(mint_dropped.load(Ordering::SeqCst), "{timing:?}");
        let kept = kept.lock().unwrap().take().unwrap();
        assert_eq!(
            kept.get().await.unwrap_err().kind(),
            MintErrorKind::Interrupted
        );
    }
}

#[tokio::test]
async fn a_dropped_request_drops_its_mint_although_another_task_waits_for_it() {
    for timing in [MintTiming::AlongsideHandler, MintTiming::OnExtraction] {
        let (minter, mint_dropped) = endless();
        let elsewhere = Arc::new(Mutex::new(None));
        let page = service_fn({
            let elsewhere = Arc::clone(&elsewhere);
            move |request: Request<()>| {
                let elsewhere = Arc::clone(&elsewhere);
                async move {
                    let pending = pending(&request);
                    *elsewhere.lock().unwrap() =
                        Some(tokio::spawn(async move { pending.get().await }));
                    std::future::pending::<Result<Response<()>, BoxError>>().await
                }
            }
        });
        let layer = ReleasedTokenLayer::new(minter, by_header()).timing(timing);
        {
            let mut response = pin!(
                ServiceBuilder::new()
                    .layer(layer)
                    .service(page)
                    .oneshot(request_from_ada(()))
            );
            assert!(
                poll_fn(|cx| Poll::Ready(response.as_mut().poll(cx)))
                    .await
                    .is_pending()
            );
            tokio::task::yield_now().await;
        }
        assert!(mint_dropped.load(Ordering::SeqCst), "{timing:?}");
        let elsewhere = elsewhere.lock().unwrap().take().unwrap();
        assert_eq!(
            elsewhere.await.unwrap().unwrap_err().kind(),
            MintErrorKind::Interrupted
        );
    }
}

#[tokio::test]
async fn a_dropped_request_stops_its_mint_at_the_token_api() {
    for timing in [
        MintTiming::BeforeHandler,
        MintTiming::AlongsideHandler,
        MintTiming::OnExtraction,
    ] {
        let released = FakeReleased::start().await.unwrap();
        released.set_latency(Duration::from_secs(60));
        let minter = released
            .client_builder()
            .deadline(Duration::from_secs(60))
            .build()
            .unwrap();
        let layer = ReleasedTokenLayer::new(minter, by_header()).timing(timing);
        let page = ServiceBuilder::new()
            .layer(layer)
            .service_fn(async |request: Request<()>| {
                pending(&request).get().await?;
                Ok::<_, BoxError>(Response::new(()))
            });
        tokio::select! {
            _ = page.oneshot(request_from_ada(())) => panic!("the API takes a minute"),
            _ = released.wait_until(|counts| counts.in_flight == 1) => {}
        }
        // The request lost the race, and was dropped.
        let counts = released.wait_until(|counts| counts.in_flight == 0).await;
        assert_eq!((counts.cancelled, counts.minted), (1, 0), "{timing:?}");
    }
}

#[tokio::test]
async fn a_promise_that_outlives_a_finished_handler_can_still_be_kept() {
    // As when a body is streamed: the response is there, the rest of the page is not.
    let minter = StubMinter::new();
    let layer =
        ReleasedTokenLayer::new(minter.clone(), by_header()).timing(MintTiming::OnExtraction);
    let page = service_fn(async |request: Request<()>| {
        Ok::<_, BoxError>(Response::new(pending(&request)))
    });
    let response = ServiceBuilder::new()
        .layer(layer)
        .service(page)
        .oneshot(request_from_ada(()))
        .await
        .unwrap();
    // Nobody knew yet whether the token would be in it.
    assert_eq!(response.headers()["cache-control"], "private, no-store");
    assert_eq!(minter.calls(), 0);
    assert!(response.into_body().get().await.unwrap().is_some());
}
