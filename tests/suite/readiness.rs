//! The Tower contract at both seams: the service inside, and the minter beside.

use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use tokio_test::{assert_pending, assert_ready, assert_ready_ok};
use tower::{BoxError, Service, ServiceBuilder};
use tower_released::testing::StubMinter;
use tower_released::{
    AuthToken, MintError, MintErrorKind, MintTiming, Minter, PendingToken, ReleasedTokenLayer, User,
};
use tower_test::mock;

use crate::support::{ada, by_header, request_from_ada};

const TIMINGS: [MintTiming; 3] = [
    MintTiming::BeforeHandler,
    MintTiming::AlongsideHandler,
    MintTiming::OnExtraction,
];

#[tokio::test]
async fn the_service_that_was_polled_ready_is_the_one_that_is_called() {
    for timing in TIMINGS {
        // A mock panics when one that is not ready is called, as its clones are not.
        let (mut service, mut inner) = mock::spawn_layer(
            ReleasedTokenLayer::new(StubMinter::new(), by_header()).timing(timing),
        );
        assert_ready_ok!(service.poll_ready());
        let mut response = tokio_test::task::spawn(service.call(request_from_ada(())));
        assert_pending!(response.poll());
        let (_, reply) = inner.next_request().await.unwrap();
        reply.send_response(Response::new(()));
        assert_ready_ok!(response.poll());

        // And again with the same service, which holds the clone now.
        assert_ready_ok!(service.poll_ready());
        let mut response = tokio_test::task::spawn(service.call(request_from_ada(())));
        assert_pending!(response.poll());
        assert!(inner.next_request().await.is_some());
    }
}

#[tokio::test]
async fn backpressure_of_the_service_inside_passes_through() {
    let (mut service, mut inner) = mock::spawn_layer::<Request<()>, Response<()>, _>(
        ReleasedTokenLayer::new(StubMinter::new(), by_header()),
    );
    inner.allow(0);
    assert_pending!(service.poll_ready());
    inner.allow(1);
    assert!(service.is_woken());
    assert_ready_ok!(service.poll_ready());
}

#[tokio::test]
async fn an_error_of_the_service_inside_passes_through() {
    let (mut service, mut inner) = mock::spawn_layer::<Request<()>, Response<()>, _>(
        ReleasedTokenLayer::new(StubMinter::new(), by_header()),
    );
    assert_ready_ok!(service.poll_ready());
    let mut response = tokio_test::task::spawn(service.call(request_from_ada(())));
    assert_pending!(response.poll());
    let (_, reply) = inner.next_request().await.unwrap();
    reply.send_error("the handler's own");
    assert_eq!(
        assert_ready!(response.poll()).unwrap_err().to_string(),
        "the handler's own"
    );

    inner.send_error("the service is gone");
    assert_eq!(
        assert_ready!(service.poll_ready()).unwrap_err().to_string(),
        "the service is gone"
    );
}

#[tokio::test]
async fn a_minter_that_is_not_ready_is_waited_for_and_called_once() {
    let (minter, mut mints) = mock::pair::<User, AuthToken>();
    let (mut service, mut inner): (mock::Spawn<_>, mock::Handle<Request<()>, Response<()>>) =
        mock::spawn_layer(ReleasedTokenLayer::new(minter, by_header()));
    mints.allow(0);
    assert_ready_ok!(service.poll_ready());
    let mut response = tokio_test::task::spawn(service.call(request_from_ada(())));
    assert_pending!(response.poll());
    assert_pending!(tokio_test::task::spawn(()).enter(|_, _| mints.poll_request()));

    mints.allow(1);
    assert!(response.is_woken());
    assert_pending!(response.poll());
    let (user, reply) = mints.next_request().await.unwrap();
    assert_eq!(user, ada());
    reply.send_response(AuthToken::new("t").unwrap());
    assert_pending!(response.poll());

    let (request, _) = inner.next_request().await.unwrap();
    assert_eq!(
        request.extensions().get::<AuthToken>().unwrap().as_str(),
        "t"
    );
    assert!(request.extensions().get::<PendingToken>().is_some());
}

/// A minter that must not even be asked whether it is ready.
#[derive(Clone)]
struct Untouchable;

impl Service<User> for Untouchable {
    type Response = AuthToken;
    type Error = MintError;
    type Future = std::future::Pending<Result<AuthToken, MintError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), MintError>> {
        panic!("the minter was asked whether it is ready");
    }

    fn call(&mut self, _: User) -> Self::Future {
        panic!("the minter was called");
    }
}

#[tokio::test]
async fn the_minter_is_not_touched_for_nobody_or_for_what_is_filtered() {
    let nobody = Request::new(());
    let for_an_image = || {
        Request::builder()
            .header("x-user", "ada")
            .header("sec-fetch-dest", "image")
            .body(())
            .unwrap()
    };

    for timing in TIMINGS {
        let layer = ReleasedTokenLayer::new(Untouchable, by_header()).timing(timing);
        for request in [nobody.clone(), for_an_image()] {
            let page = ServiceBuilder::new().layer(layer.clone()).service_fn(ask);
            assert_eq!(call(page, request).await, None, "{timing:?}");
        }
        let page = ServiceBuilder::new()
            .layer(layer.mint_when(|_| false))
            .service_fn(ask);
        assert_eq!(call(page, request_from_ada(())).await, None, "{timing:?}");
    }
}

#[tokio::test]
async fn on_extraction_the_minter_is_not_touched_unless_asked_for() {
    let layer = ReleasedTokenLayer::new(Untouchable, by_header())
        .timing(MintTiming::OnExtraction)
        .mint_when(tower_released::filter::always);
    let page = ServiceBuilder::new()
        .layer(layer)
        .service_fn(async |_| Ok::<_, BoxError>(Response::new(())));
    call(page, request_from_ada(())).await;
}

#[tokio::test]
async fn towers_own_layers_around_the_minter_are_recognised() {
    let slow = StubMinter::new().with_latency(std::time::Duration::from_secs(60));
    let timed_out = ServiceBuilder::new()
        .timeout(std::time::Duration::from_millis(1))
        .service(slow);
    assert_eq!(failure_of(timed_out).await, MintErrorKind::Timeout);

    let (never_ready, mut handle) = mock::pair::<User, AuthToken>();
    handle.allow(0);
    let shed = ServiceBuilder::new().load_shed().service(never_ready);
    assert_eq!(failure_of(shed).await, MintErrorKind::Overloaded);

    let down = StubMinter::failing(MintError::new(MintErrorKind::RateLimited));
    let buffered = ServiceBuilder::new()
        .buffer(8)
        .concurrency_limit(2)
        .service(down);
    assert_eq!(failure_of(buffered).await, MintErrorKind::RateLimited);
}

async fn failure_of(minter: impl Minter) -> MintErrorKind {
    let layer = ReleasedTokenLayer::new(minter, by_header());
    let page = ServiceBuilder::new()
        .layer(layer)
        .service_fn(async |request: Request<()>| {
            let pending = request.extensions().get::<PendingToken>().unwrap();
            Ok::<_, BoxError>(Response::new(pending.get().await.unwrap_err().kind()))
        });
    call(page, request_from_ada(())).await
}

/// Asks for the token, as an extractor would.
async fn ask(request: Request<()>) -> Result<Response<Option<AuthToken>>, BoxError> {
    let Some(pending) = request.extensions().get::<PendingToken>() else {
        return Ok(Response::new(None));
    };
    Ok(Response::new(pending.get().await?))
}

async fn call<S, T>(mut service: S, request: Request<()>) -> T
where
    S: Service<Request<()>, Response = Response<T>, Error: std::fmt::Debug>,
{
    std::future::poll_fn(|cx| service.poll_ready(cx))
        .await
        .unwrap();
    service.call(request).await.unwrap().into_body()
}

#[tokio::test]
async fn a_mint_that_ends_with_its_first_poll_does_not_wake_its_own_task() {
    for (timing, request) in [
        (MintTiming::AlongsideHandler, Request::new(())),
        (MintTiming::AlongsideHandler, request_from_ada(())),
        (MintTiming::OnExtraction, Request::new(())),
    ] {
        let (mut service, mut inner) = mock::spawn_layer(
            ReleasedTokenLayer::new(StubMinter::new(), by_header()).timing(timing),
        );
        assert_ready_ok!(service.poll_ready());
        let mut response = tokio_test::task::spawn(service.call(request));
        assert_pending!(response.poll());
        assert!(
            !response.is_woken(),
            "{timing:?}: it would be polled once more for nothing"
        );
        let (_, reply) = inner.next_request().await.unwrap();
        reply.send_response(Response::new(()));
        assert_ready_ok!(response.poll());
    }
}

#[tokio::test(start_paused = true)]
async fn a_stack_of_limits_around_a_minter_fails_fast_in_a_stall() {
    let stalled = StubMinter::new().with_latency(Duration::from_secs(3600));
    let minter = ServiceBuilder::new()
        .load_shed()
        .concurrency_limit(8)
        .timeout(Duration::from_secs(1))
        .service(stalled);
    let layer = ReleasedTokenLayer::new(minter, by_header());
    let page = ServiceBuilder::new()
        .layer(layer)
        .service_fn(async |_: Request<()>| {
            Ok::<_, BoxError>(Response::new(tokio::time::Instant::now()))
        });
    let start = tokio::time::Instant::now();
    let pages = (0..64).map(|_| call(page.clone(), request_from_ada(())));
    let slowest = futures_util::future::join_all(pages)
        .await
        .into_iter()
        .max()
        .unwrap()
        - start;
    assert!(slowest <= Duration::from_secs(1), "{slowest:?}");
}
