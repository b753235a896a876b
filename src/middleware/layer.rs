//! The layer.

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;

use http::request::Parts;
use tower::{BoxError, Layer};

use super::policy::{FailClosed, FailOpen};
use super::service::ReleasedTokenService;
use super::settings::{CacheControl, MintTiming, Settings};
use crate::error::{MintError, MintErrorKind};
use crate::filter::can_use_token;
use crate::minter::Minter;
use crate::outcomes::Outcomes;
use crate::pending::{Gate, Mint};
use crate::resolver::UserResolver;
use crate::telemetry::{self, MintSpan};
use crate::user::InvalidUser;

/// Mints a Released auth token for the signed-in user of each request, and hands it to the handlers behind it.
///
/// The minter is a [`ReleasedClient`](crate::ReleasedClient) or any other [`Minter`]. The resolver finds the signed-in
/// user, so the layer must be *inside* of the authentication layer.
///
/// By default the layer never answers in the handler's place: without a user or a token, the request goes on.
/// [`reject_without_token`](Self::reject_without_token) changes that.
///
/// # Two layers around one handler
///
/// Give each route one layer. If two are around one handler, the inner one decides alone:
///
/// | the outer filter | the inner filter | mints | the handler gets |
/// |---|---|---|---|
/// | selects | selects | two | the inner layer's token |
/// | selects | skips | the outer one | no token; the outer layer's was removed |
/// | skips | selects | the inner one | the inner layer's token |
///
/// A handler never gets a token that a layer further out minted, because it may be for another user or account. If the
/// outer layer mints before the handler and the inner one mints, too, a warning is logged, once for each layer. With the
/// other timings there is no warning; an outer layer with [`MintTiming::OnExtraction`] then mints nothing.
///
/// So filters that overlap cost a mint and bring nothing. For a part of the routes, use `route_layer` with a clone of the
/// layer for each part, as in [`timing`](Self::timing). For several accounts, use one layer with
/// [`client::by_account`](crate::client::by_account).
///
/// # Example
///
/// ```
/// use tower::ServiceBuilder;
/// use tower_released::filter::navigations;
/// use tower_released::{MintTiming, ReleasedTokenLayer, User, from_extension};
/// # use tower_released::{AuthToken, MintError};
/// # #[derive(Clone)] struct CurrentUser { id: String, email: String }
/// # let released = tower::service_fn(|_: User| async { AuthToken::new("t").map_err(MintError::from) });
///
/// let vouch = |user: &CurrentUser| User::new(&user.id, &user.email);
/// let layer = ReleasedTokenLayer::new(released, from_extension(vouch))
///     .timing(MintTiming::AlongsideHandler)
///     .mint_when(navigations);
/// let service = ServiceBuilder::new().layer(layer).service_fn(
///     async |request: http::Request<String>| {
///         Ok::<_, std::io::Error>(http::Response::new(String::new()))
///     },
/// );
/// # fn is_service<S: tower::Service<http::Request<String>>>(_: S) {} is_service(service);
/// ```
#[must_use = "a layer does nothing until it is put around a service"]
#[derive(Clone)]
pub struct ReleasedTokenLayer<P = FailOpen> {
    settings: Settings,
    policy: P,
}

impl ReleasedTokenLayer {
    /// Creates a layer that mints a token for the user returned by `resolver`, before the handler.
    pub fn new(minter: impl Minter, resolver: impl UserResolver) -> Self {
        telemetry::register_pages();
        let outcomes = Arc::<Outcomes>::default();
        let settings = Settings {
            mint: Arc::new(move |parts, gate| mint(&minter, &resolver, &outcomes, parts, gate)),
            filter: Arc::new(can_use_token),
            timing: MintTiming::default(),
            cache_control: CacheControl::default(),
            warned_of_public: Arc::default(),
            warned_of_nesting: Arc::default(),
        };
        Self {
            settings,
            policy: FailOpen,
        }
    }

    /// Sets when the token is minted. Default: [`MintTiming::BeforeHandler`].
    ///
    /// # Example
    ///
    /// One layer for each route: clone it, and change the clone. Two layers around one route mint twice.
    ///
    /// ```
    /// # #[cfg(feature = "axum")] {
    /// use axum::{Router, routing::get};
    /// use tower_released::{AuthToken, MintTiming, PendingToken};
    /// # use tower_released::{ReleasedTokenLayer, User, from_extension};
    /// # let minter = tower::service_fn(|_: User| async { AuthToken::new("t") });
    /// # let layer = ReleasedTokenLayer::new(minter, from_extension(User::clone));
    ///
    /// async fn roadmap(token: Option<AuthToken>) -> String {
    ///     format!("{token:?}")
    /// }
    ///
    /// async fn dashboard(pending: Option<PendingToken>) -> String {
    ///     let report = slow_query().await; // the mint runs meanwhile
    ///     let token = match pending {
    ///         Some(pending) => pending.get().await.ok().flatten(),
    ///         None => None,
    ///     };
    ///     format!("{report} {token:?}")
    /// }
    /// # async fn slow_query() -> String { String::new() }
    ///
    /// let alongside = layer.clone().timing(MintTiming::AlongsideHandler);
    /// let roadmap = Router::new().route("/roadmap", get(roadmap)).route_layer(layer);
    /// let dashboard = Router::new()
    ///     .route("/dashboard", get(dashboard))
    ///     .route_layer(alongside);
    /// let app = Router::new().merge(roadmap).merge(dashboard);
    /// # let _: Router = app;
    /// # }
    /// ```
    pub fn timing(mut self, timing: MintTiming) -> Self {
        self.settings.timing = timing;
        self
    }

    /// Rejects a request that gets no token, instead of calling the handler. The token is always minted before the
    /// handler.
    ///
    /// | what happened | status | gRPC status, for `application/grpc*` |
    /// |---|---|---|
    /// | nobody is signed in | 401 | `UNAUTHENTICATED` |
    /// | Released is unreachable or failing | 503 with `Retry-After` | `UNAVAILABLE` |
    /// | Released is too slow | 504 | `DEADLINE_EXCEEDED` |
    /// | Released's answer is not a token | 502 | `INTERNAL` |
    /// | the secret, the account, the user or the resolver is wrong | 500 | `INTERNAL` |
    ///
    /// # The response's body
    ///
    /// The response's body must be `Default`. The bodies of axum, of tonic, and `Full` and `Empty` of `http-body-util`
    /// are. The bodies of tower-http's `TraceLayer` and `RequestBodyLimitLayer`, and of tonic's interceptors, are not: in
    /// one `ServiceBuilder`, put these layers outside of this one.
    ///
    /// # This is not access control
    ///
    /// A request that the filter skips goes on to the handler, and the filter reads headers that a client chooses. With
    /// `.mint_when(always)` nothing is skipped.
    pub fn reject_without_token(mut self) -> ReleasedTokenLayer<FailClosed> {
        self.settings.timing = MintTiming::BeforeHandler;
        ReleasedTokenLayer {
            settings: self.settings,
            policy: FailClosed,
        }
    }
}

impl<P> ReleasedTokenLayer<P> {
    /// Mints only for requests for which `filter` returns true. Default: [`can_use_token`].
    ///
    /// The filter replaces the default filter. The module [`filter`](crate::filter) has others.
    pub fn mint_when(mut self, filter: impl Fn(&Parts) -> bool + Send + Sync + 'static) -> Self {
        self.settings.filter = Arc::new(filter);
        self
    }

    /// Sets what the layer does with the cache headers of a response that may carry a token. Default:
    /// [`CacheControl::NoStore`].
    pub fn cache_control(mut self, cache_control: CacheControl) -> Self {
        self.settings.cache_control = cache_control;
        self
    }
}

impl<S, P: Clone> Layer<S> for ReleasedTokenLayer<P> {
    type Service = ReleasedTokenService<S, P>;

    fn layer(&self, inner: S) -> Self::Service {
        ReleasedTokenService::new(inner, Arc::new(self.settings.clone()), self.policy.clone())
    }
}

impl<P: fmt::Debug> fmt::Debug for ReleasedTokenLayer<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReleasedTokenLayer")
            .field("settings", &self.settings)
            .field("policy", &self.policy)
            .finish()
    }
}

/// Makes the mint of a request, from its head to the token, without starting it. An anonymous request does not use the
/// minter.
fn mint<M: Minter, R: UserResolver>(
    minter: &M,
    resolver: &R,
    outcomes: &Arc<Outcomes>,
    parts: &Parts,
    gate: Gate,
) -> Mint {
    let user = resolver.resolve(parts);
    let mut minter = minter.clone();
    let outcomes = Arc::clone(outcomes);
    Box::pin(async move {
        let mut started = outcomes.start();
        let mint = async {
            let Some(user) = user.await.map_err(|error| resolver_failed(error.into()))? else {
                return Ok(None);
            };
            started.pause();
            gate.pass().await;
            started.resume();
            poll_fn(|cx| minter.poll_ready(cx))
                .await
                .map_err(Into::into)?;
            let token = minter.call(user).await.map_err(Into::into)?;
            Ok(Some(token))
        };
        let span = MintSpan::new();
        let outcome = span.around(mint).await;
        span.end(&outcome);
        started.end(&outcome);
        outcome
    })
}

fn resolver_failed(error: BoxError) -> MintError {
    let kind = if error.is::<InvalidUser>() {
        MintErrorKind::InvalidUser
    } else {
        MintErrorKind::Resolver
    };
    MintError::new(kind).with_source(error)
}
