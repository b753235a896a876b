//! The service: whether, who, and when to mint.

use std::fmt;
use std::future::poll_fn;
use std::mem;
use std::task::{Context, Poll};

use http::request::Parts;
use http::{Request, Response};
use tower::{BoxError, Service};

use crate::cache::WantsToKnowOfToken;
use crate::error::{MintError, MintErrorKind};
use crate::future::{ResponseFuture, WithToken};
use crate::layer::{MintTiming, ReleasedTokenLayer, TokenPolicy};
use crate::pending::{Mint, PendingToken};
use crate::resolver::UserResolver;
use crate::skipped;
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
        if !(self.layer.filter)(&parts) {
            skipped::mark(&mut parts.extensions);
            return ResponseFuture::passing(self.inner.call(Request::from_parts(parts, body)));
        }

        // Of a layer further out, and perhaps for somebody else.
        parts.extensions.remove::<AuthToken>();
        let mint = self.layer.mint(&parts);
        let is_told = parts.extensions.get::<WantsToKnowOfToken>().is_some();
        let with_token = WithToken { cache_control: self.layer.cache_control, is_told };
        match self.layer.policy.timing() {
            MintTiming::BeforeHandler => {
                // The service that was polled ready is the one to call, later; the clone takes its place.
                let clone = self.inner.clone();
                let ready = mem::replace(&mut self.inner, clone);
                let request = Request::from_parts(parts, body);
                ResponseFuture::minting(mint, request, ready, self.layer.policy.clone(), with_token)
            }
            timing @ (MintTiming::AlongsideHandler | MintTiming::OnExtraction) => {
                let pending = PendingToken::new(mint);
                parts.extensions.insert(pending.clone());
                let inner = self.inner.call(Request::from_parts(parts, body));
                let drives = timing == MintTiming::AlongsideHandler;
                ResponseFuture::responding(inner, pending, drives, with_token)
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
        Box::pin(async move {
            let Some(user) = user.await.map_err(|error| resolver_failed(error.into()))? else {
                return Ok(None);
            };
            poll_fn(|cx| minter.poll_ready(cx)).await.map_err(Into::into)?;
            let token = minter.call(user).await.map_err(Into::into)?;
            Ok(Some(token))
        })
    }
}

/// What mints: any `tower::Service<User, Response = AuthToken>` that is `Clone`, whose error is `Into<MintError>`.
///
/// It is implemented for all of these, [`ReleasedClient`](crate::ReleasedClient) among them, bare or inside of tower's own
/// `timeout`, `retry`, `concurrency_limit`, `load_shed` or `buffer`.
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
