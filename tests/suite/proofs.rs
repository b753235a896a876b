//! What the types promise, proved by the compiler.

use std::cell::Cell;
use std::convert::Infallible;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Request, Response};
use tower::{Layer, Service};
use tower_released::client::{ByAccount, SharedSecret};
use tower_released::filter::navigations;
use tower_released::middleware::{FailClosed, ReleasedTokenService};
use tower_released::testing::{FakeReleased, StubMinter};
use tower_released::{
    AuthToken, MintError, Minter, PendingToken, ReleasedClient, ReleasedTokenLayer, User,
    UserResolver, from_extension, from_extractor,
};

use crate::support::by_header;

fn is_send<T: Send>(value: T) -> T {
    value
}

fn is_shared<T: Clone + Send + Sync + 'static>(value: T) -> T {
    value
}

/// A body that can be sent to another thread, but not shared between two, nor cloned.
struct SendOnly(PhantomData<Cell<u8>>);

/// A body that must stay on its thread.
struct Local(PhantomData<*const u8>);

/// A future that can be sent, whatever will come out of it.
struct Never<T>(PhantomData<fn() -> T>);

impl<T> Future for Never<T> {
    type Output = Result<T, Infallible>;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Pending
    }
}

/// A service for every body, in and out.
struct Inner<ResBody>(PhantomData<fn() -> ResBody>);

impl<ResBody> Clone for Inner<ResBody> {
    fn clone(&self) -> Self {
        Self(PhantomData)
    }
}

impl<ReqBody, ResBody> Service<Request<ReqBody>> for Inner<ResBody> {
    type Response = Response<ResBody>;
    type Error = Infallible;
    type Future = Never<Self::Response>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<ReqBody>) -> Self::Future {
        Never(PhantomData)
    }
}

#[test]
fn layer_service_and_future_are_as_free_as_what_is_inside() {
    let layer =
        is_shared(ReleasedTokenLayer::new(StubMinter::new(), by_header()).mint_when(navigations));

    // The service, whatever the bodies are.
    let mut service = is_shared(layer.layer(Inner::<Local>(PhantomData)));
    // The future, although the request's body cannot be shared, nor the response's be sent.
    drop(is_send(service.call(Request::new(SendOnly(PhantomData)))));
    // Bodies that stay on their thread are served there.
    drop(service.call(Request::new(Local(PhantomData))));
}

#[test]
fn the_error_is_the_inner_services_own() {
    fn has_error<S: Service<Request<()>, Error = Infallible>>(_: &S) {}
    has_error(
        &ReleasedTokenLayer::new(StubMinter::new(), by_header()).layer(Inner::<()>(PhantomData)),
    );
}

#[test]
fn what_is_handed_around_can_be() {
    fn is_shared<T: Clone + Send + Sync + 'static>() {}
    is_shared::<AuthToken>();
    is_shared::<MintError>();
    is_shared::<PendingToken>();
    is_shared::<ReleasedClient>();
    is_shared::<ByAccount>();
    is_shared::<SharedSecret>();
    is_shared::<StubMinter>();
    is_shared::<User>();
    is_shared::<ReleasedTokenLayer>();
    is_shared::<ReleasedTokenLayer<FailClosed>>();
    is_shared::<ReleasedTokenService<Inner<()>>>();

    fn is_sync<T: Send + Sync + 'static>() {}
    is_sync::<FakeReleased>();

    fn mints<M: Minter>() {}
    mints::<ReleasedClient>();
    mints::<ByAccount>();
    mints::<StubMinter>();
}

#[test]
fn ready_made_resolvers_are_shared_whatever_they_read() {
    #[derive(Clone)]
    struct CurrentUser;
    fn is_resolver(_: impl UserResolver) {}
    is_resolver(from_extension(|_: &CurrentUser| None::<User>));
    is_resolver(from_extractor((), async |_: axum::http::HeaderMap| {
        None::<User>
    }));
    // What is extracted may be unfit for sharing.
    struct Local(#[allow(dead_code)] Cell<u8>);
    impl<S: Send + Sync> axum::extract::FromRequestParts<S> for Local {
        type Rejection = Infallible;
        async fn from_request_parts(
            _: &mut http::request::Parts,
            _: &S,
        ) -> Result<Self, Infallible> {
            Ok(Self(Cell::new(0)))
        }
    }
    is_resolver(from_extractor((), |_: Local| {
        std::future::ready(None::<User>)
    }));
}

/// A layer can be named, stored and passed on, and an application can be generic over its minter.
#[test]
fn an_application_can_name_the_layer_and_take_any_minter() {
    struct State {
        layer: ReleasedTokenLayer,
    }
    fn app(minter: impl Minter) -> axum::Router {
        let state = State {
            layer: ReleasedTokenLayer::new(minter, by_header()),
        };
        with_portal(axum::Router::new(), &state.layer)
    }
    fn with_portal(app: axum::Router, layer: &ReleasedTokenLayer) -> axum::Router {
        app.route("/", axum::routing::get(async |_: Option<AuthToken>| ()))
            .layer(layer.clone())
    }
    let _: axum::Router = app(StubMinter::new());
}
