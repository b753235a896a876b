//! The service: whether, who, and when to mint.

use std::fmt;
use std::future::poll_fn;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::request::Parts;
use http::{Request, Response};
use tower::{BoxError, Service};

use crate::cache::WantsToKnowOfToken;
use crate::error::{MintError, MintErrorKind};
use crate::future::{Drives, ResponseFuture, WithToken};
use crate::layer::{MintTiming, ReleasedTokenLayer, TokenPolicy};
use crate::pending::{Driver, Mint, PendingToken};
use crate::resolver::UserResolver;
use crate::skipped;
use crate::telemetry::MintSpan;
use crate::token::AuthToken;
use crate::user::{InvalidUser, User};

/// The service that a [`ReleasedTokenLayer`] makes of another one.
///
/// Its error is always the inner service's: a failed mint is none.
#[derive(Clone)]
pub struct ReleasedTokenService<S, M, R, F = fn(&Parts) -> bool, P = crate::layer::FailOpen> {
    pub(crate) inner: S,
    pub(crate) layer: ReleasedTokenLayer<M, R, F, P>,
}

impl<S, M, R, F, P, ReqBody, ResBody> Service<Request<ReqBody>> for ReleasedTokenService<S, M, R, F, P>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone,
    M: Minter,
    R: UserResolver,
    F: Fn(&Parts) -> bool,
    P: TokenPolicy<ResBody> + Clone,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S, ReqBody, S::Future, P>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let (mut parts, body) = request.into_parts();
        // Those of a layer further out may be for somebody else.
        let had_token = parts.extensions.remove::<AuthToken>().is_some();
        if !(self.layer.filter)(&parts) {
            let had_promise = parts.extensions.remove::<PendingToken>().is_some();
            skipped::mark(&mut parts.extensions, had_token || had_promise);
            return ResponseFuture::passing(self.inner.call(Request::from_parts(parts, body)));
        }

        let (pending, driver) = Driver::new(self.layer.mint(&parts));
        parts.extensions.insert(pending);
        let is_told = parts.extensions.get::<WantsToKnowOfToken>().is_some();
        let with_token = WithToken { cache_control: self.layer.cache_control, is_told };
        let request = Request::from_parts(parts, body);
        match self.layer.policy.timing() {
            MintTiming::BeforeHandler => {
                // The service that was polled ready is the one to call, later; the clone takes its place.
                let clone = self.inner.clone();
                let ready = mem::replace(&mut self.inner, clone);
                ResponseFuture::minting(driver, request, ready, self.layer.policy.clone(), with_token)
            }
            MintTiming::AlongsideHandler => {
                ResponseFuture::responding(self.inner.call(request), driver, Drives::FromTheStart, with_token)
            }
            MintTiming::OnExtraction => {
                ResponseFuture::responding(self.inner.call(request), driver, Drives::OnceStarted, with_token)
            }
        }
    }
}

impl<M, R, F, P> ReleasedTokenLayer<M, R, F, P>
where
    M: Minter,
    R: UserResolver,
{
    /// Everything from the request's head to the token, not started. An anonymous request does not touch the minter.
    fn mint(&self, parts: &Parts) -> Mint {
        let user = self.resolver.resolve(parts);
        let mut minter = self.minter.clone();
        let outcomes = Arc::clone(&self.outcomes);
        Box::pin(async move {
            let started = outcomes.start();
            let mint = async {
                let Some(user) = user.await.map_err(|error| resolver_failed(error.into()))? else {
                    return Ok(None);
                };
                poll_fn(|cx| minter.poll_ready(cx)).await.map_err(Into::into)?;
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
}

/// What mints: any `tower::Service<User, Response = AuthToken>` that is `Clone`, whose error is `Into<MintError>`.
///
/// It is implemented for all of these, [`ReleasedClient`](crate::ReleasedClient) among them, bare or inside of tower's own
/// `timeout`, `retry`, `concurrency_limit`, `load_shed` or `buffer`.
///
/// # Limits around a `ReleasedClient`
///
/// A `ReleasedClient` has a deadline and a limit of its own, with a bounded queue: prefer `deadline` and `max_in_flight` of its
/// builder. Two mistakes are easy with tower's layers:
///
/// - `concurrency_limit(8).timeout(1 s)` queues without limit, and outside of the time limit: in a stall of Released, the
///   64th page waits for 8 seconds. Put `load_shed` outermost, as here, so that a mint without a place fails at once.
/// - A `timeout` that is shorter than the client's own attempt (1.5 seconds) hides every stall from its circuit breaker:
///   mints that are dropped do not count as failures.
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use tower::ServiceBuilder;
/// use tower_released::Minter;
/// # use tower_released::{AuthToken, MintError, User};
/// # #[cfg(feature = "testing")] {
/// # let released = tower_released::testing::StubMinter::new();
///
/// let at_most_eight_at_once = ServiceBuilder::new()
///     .load_shed()
///     .concurrency_limit(8)
///     .timeout(Duration::from_secs(1))
///     .service(released);
/// fn is_minter(_: impl Minter) {}
/// is_minter(at_most_eight_at_once);
/// # }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not mint: it is not a `tower::Service<User, Response = AuthToken>` with `Clone`",
    label = "not a minter",
    note = "is it a `Result` of a minter? Then `?` is missing",
    note = "most applications give the layer a `ReleasedClient`, and tests a `testing::StubMinter`",
    note = "a minter's error must be `Into<MintError>`, as `BoxError` is, and its future `Send`"
)]
pub trait Minter:
    Service<User, Response = AuthToken, Error: Into<MintError>, Future: Send> + Clone + Send + 'static
{
}

#[diagnostic::do_not_recommend]
impl<M> Minter for M where
    M: Service<User, Response = AuthToken, Error: Into<MintError>, Future: Send> + Clone + Send + 'static
{
}

fn resolver_failed(error: BoxError) -> MintError {
    let kind = if error.is::<InvalidUser>() { MintErrorKind::InvalidUser } else { MintErrorKind::Resolver };
    MintError::new(kind).with_source(error)
}

impl<S: fmt::Debug, M, R, F, P: fmt::Debug> fmt::Debug for ReleasedTokenService<S, M, R, F, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReleasedTokenService").field("inner", &self.inner).field("layer", &self.layer).finish()
    }
}
