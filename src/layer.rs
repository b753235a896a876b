//! The layer, and what can be chosen of it.

use std::fmt;
use std::sync::Arc;

use http::request::Parts;
use http::{HeaderMap, Method, Response};
use tower::Layer;

use crate::filter::unless_useless;
use crate::outcomes::Outcomes;
use crate::rejection::AuthTokenRejection;
use crate::resolver::UserResolver;
use crate::service::{Minter, ReleasedTokenService};
use crate::telemetry;

/// Puts a Released auth token for the signed-in user within reach of every handler behind it.
///
/// The minter is a [`ReleasedClient`](crate::ReleasedClient), or any `tower::Service<User, Response = AuthToken>`: wrap it
/// in tower's own `timeout`, `retry`, `concurrency_limit` or `load_shed` as you like. The resolver tells who is
/// signed in, so the layer stands *inside* of what authenticates.
///
/// By default the layer never answers in the handler's place: without a user, or without a token, the request goes on
/// without one. [`reject_without_token`](Self::reject_without_token) changes that.
///
/// # Example
///
/// ```
/// use tower::ServiceBuilder;
/// use tower_released::{MintTiming, ReleasedTokenLayer, User, from_extension, navigations};
/// # use tower_released::{AuthToken, MintError};
/// # #[derive(Clone)] struct CurrentUser { id: String, email: String }
/// # let released = tower::service_fn(|_: User| async { AuthToken::new("t").map_err(MintError::from) });
///
/// let service = ServiceBuilder::new()
///     .layer(
///         ReleasedTokenLayer::new(released, from_extension(|user: &CurrentUser| User::new(&user.id, &user.email)))
///             .timing(MintTiming::AlongsideHandler)
///             .mint_when(navigations),
///     )
///     .service_fn(async |request: http::Request<String>| Ok::<_, std::io::Error>(http::Response::new(String::new())));
/// # fn is_service<S: tower::Service<http::Request<String>>>(_: S) {} is_service(service);
/// ```
#[must_use = "a layer does nothing until it is put around a service"]
#[derive(Clone)]
pub struct ReleasedTokenLayer<M, R, F = fn(&Parts) -> bool, P = FailOpen> {
    pub(crate) minter: M,
    pub(crate) resolver: R,
    pub(crate) filter: F,
    pub(crate) policy: P,
    pub(crate) cache_control: CacheControl,
    pub(crate) outcomes: Arc<Outcomes>,
}

impl<M: Minter, R: UserResolver> ReleasedTokenLayer<M, R> {
    /// A layer that mints with `minter` for whomever `resolver` finds, ahead of the handler.
    pub fn new(minter: M, resolver: R) -> Self {
        telemetry::describe_pages();
        Self {
            minter,
            resolver,
            filter: unless_useless,
            policy: FailOpen,
            cache_control: CacheControl::NoStore,
            outcomes: Arc::default(),
        }
    }
}

impl<M, R, F, P> ReleasedTokenLayer<M, R, F, P> {
    /// Chooses when the token is minted; [`MintTiming::BeforeHandler`] if never called.
    pub fn timing(self, timing: MintTiming) -> ReleasedTokenLayer<M, R, F, FailOpenAt>
    where
        P: CanBeTimed,
    {
        self.with_policy(FailOpenAt(timing))
    }

    /// Answers in the handler's place where there is no token.
    ///
    /// Nobody signed in gives a 401, Released out of reach a 503 with `Retry-After`, Released too slow a 504, an answer
    /// of Released that makes no sense a 502, and everything that is wrong at this end a 500. Requests of
    /// `application/grpc*` get a gRPC status instead: `UNAUTHENTICATED`, `UNAVAILABLE`, `DEADLINE_EXCEEDED`,
    /// `INTERNAL`.
    ///
    /// This is no access control: what the filter passes over goes on to the handler, and it goes by headers that a
    /// client may choose. With `.mint_when(always)` nothing is passed over.
    ///
    /// The token must be there before the handler starts, so this is instead of [`timing`](Self::timing), and the
    /// response's body must have a `Default`, which is empty in every framework.
    pub fn reject_without_token(self) -> ReleasedTokenLayer<M, R, F, FailClosed>
    where
        P: CanReject,
    {
        self.with_policy(FailClosed)
    }

    /// Mints only for requests that this filter lets through; others cost next to nothing, and no allocation.
    ///
    /// Ready-made are [`navigations`](crate::navigations), [`always`](crate::always) and the default,
    /// [`unless_useless`](crate::unless_useless).
    pub fn mint_when<G>(self, filter: G) -> ReleasedTokenLayer<M, R, G, P>
    where
        G: Fn(&Parts) -> bool,
    {
        let Self { minter, resolver, filter: _, policy, cache_control, outcomes } = self;
        ReleasedTokenLayer { minter, resolver, filter, policy, cache_control, outcomes }
    }

    /// Chooses what becomes of the cache headers of a response that may carry a token; [`CacheControl::NoStore`] if
    /// never called.
    pub fn cache_control(mut self, cache_control: CacheControl) -> Self {
        self.cache_control = cache_control;
        self
    }

    fn with_policy<Q>(self, policy: Q) -> ReleasedTokenLayer<M, R, F, Q> {
        let Self { minter, resolver, filter, policy: _, cache_control, outcomes } = self;
        ReleasedTokenLayer { minter, resolver, filter, policy, cache_control, outcomes }
    }
}

impl<S, M, R, F, P> Layer<S> for ReleasedTokenLayer<M, R, F, P>
where
    Self: Clone,
{
    type Service = ReleasedTokenService<S, M, R, F, P>;

    fn layer(&self, inner: S) -> Self::Service {
        ReleasedTokenService { inner, layer: self.clone() }
    }
}

impl<M, R, F, P: fmt::Debug> fmt::Debug for ReleasedTokenLayer<M, R, F, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReleasedTokenLayer")
            .field("policy", &self.policy)
            .field("cache_control", &self.cache_control)
            .finish_non_exhaustive()
    }
}

/// When the token is minted, relative to the handler.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MintTiming {
    /// Before the handler, which starts with the token. The page takes as long as both in turn.
    #[default]
    BeforeHandler,
    /// While inner middleware and the handler run, in the same task. The page takes as long as the slower of the two,
    /// if the handler asks for its token late: take [`PendingToken`](crate::PendingToken) and await it last.
    AlongsideHandler,
    /// When something asks for the token, and not at all if nothing does. For pages that seldom need one.
    OnExtraction,
}

/// What becomes of the cache headers of a response that may carry a token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheControl {
    /// `Cache-Control: private, no-store`, and no `ETag`, `Last-Modified`, `Expires` or directions to CDNs: a cache that
    /// kept the page would serve one person's token to others. A handler's own `public` or `s-maxage` is overridden,
    /// with a `tracing` event. gRPC responses are left alone.
    ///
    /// With [`MintTiming::BeforeHandler`], a GET or HEAD for a document that gets a token also loses `If-None-Match` and
    /// `If-Modified-Since`, so that no 304 brings back a page from before the user signed in. All other requests keep their
    /// conditions. With the other timings nobody knows in time, so let a page have no `ETag` if it is another one for users
    /// who are signed in.
    #[default]
    NoStore,
    /// Leaves the response's cache headers and the request's conditions as they are. Choose it only where nothing between
    /// the handler and the user caches.
    Unchanged,
}

/// Without a token the request goes on, minted before the handler; see [`ReleasedTokenLayer`].
#[derive(Clone, Copy, Debug)]
pub struct FailOpen;

/// Without a token the request goes on, minted at a chosen time; see [`ReleasedTokenLayer::timing`].
#[derive(Clone, Copy, Debug)]
pub struct FailOpenAt(MintTiming);

/// Without a token the layer answers; see [`ReleasedTokenLayer::reject_without_token`].
#[derive(Clone, Copy, Debug)]
pub struct FailClosed;

/// A layer that may be told when to mint; see [`ReleasedTokenLayer::timing`].
#[diagnostic::on_unimplemented(
    message = "a layer with `.reject_without_token()` cannot have a `.timing(..)`",
    label = "this layer rejects requests without a token",
    note = "it answers in the handler's place, so it always mints before the handler: leave `.timing(..)` out"
)]
pub trait CanBeTimed {}

impl CanBeTimed for FailOpen {}

impl CanBeTimed for FailOpenAt {}

/// A layer that may be told to answer in the handler's place; see [`ReleasedTokenLayer::reject_without_token`].
#[diagnostic::on_unimplemented(
    message = "a layer with a `.timing(..)` cannot `.reject_without_token()`",
    label = "this layer has a timing of its own",
    note = "to answer in the handler's place it always mints before the handler: leave `.timing(..)` out"
)]
pub trait CanReject {}

impl CanReject for FailOpen {}

impl CanReject for FailClosed {}

/// What a layer does for a request that gets no token, and when it knows. `B` is the response's body.
#[diagnostic::on_unimplemented(
    message = "the layer cannot answer in the handler's place with a `{B}`",
    note = "`.reject_without_token()` needs a response body that is `Default`"
)]
pub trait TokenPolicy<B> {
    /// When the token is minted.
    fn timing(&self) -> MintTiming;

    /// The answer in the handler's place to a request with this head, if there is to be one.
    fn answer(&self, method: &Method, headers: &HeaderMap, rejection: &AuthTokenRejection) -> Option<Response<B>>;
}

impl<B> TokenPolicy<B> for FailOpen {
    fn timing(&self) -> MintTiming {
        MintTiming::BeforeHandler
    }

    fn answer(&self, _: &Method, _: &HeaderMap, _: &AuthTokenRejection) -> Option<Response<B>> {
        None
    }
}

impl<B> TokenPolicy<B> for FailOpenAt {
    fn timing(&self) -> MintTiming {
        self.0
    }

    fn answer(&self, _: &Method, _: &HeaderMap, _: &AuthTokenRejection) -> Option<Response<B>> {
        None
    }
}

impl<B: Default> TokenPolicy<B> for FailClosed {
    fn timing(&self) -> MintTiming {
        MintTiming::BeforeHandler
    }

    fn answer(&self, method: &Method, headers: &HeaderMap, rejection: &AuthTokenRejection) -> Option<Response<B>> {
        Some(rejection.response(method, headers))
    }
}
