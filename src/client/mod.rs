//! The minter over HTTP. Nothing in here knows of requests to the application, or of handlers.

mod builder;
mod endpoint;
mod exchange;
mod secret;
mod wire;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tower::Service;

use crate::error::{MintError, MintErrorKind};
use crate::token::AuthToken;
use crate::user::User;

pub use self::builder::{ConfigError, ReleasedClientBuilder};
pub use self::endpoint::InvalidEndpoint;
use self::exchange::Exchange;
pub use self::secret::{InvalidSecret, SharedSecret};
pub use self::wire::TokenApi;

/// Mints auth tokens with Released's token API: the minter that most applications give to their
/// [`ReleasedTokenLayer`](crate::ReleasedTokenLayer).
///
/// It is a `tower::Service<User>` and cheap to clone; clones share their connections.
///
/// The secret goes over TLS or stays on this machine, never follows a redirect, and is never printed. A reply of more
/// than 16 KiB, or that is not a bare JSON string with a token in it, is refused. A mint takes at most its deadline.
///
/// # Example
///
/// ```no_run
/// use tower_released::{ReleasedClient, User};
///
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let released = ReleasedClient::from_env()?;
/// let token = released.mint(&User::new("42", "ada@example.com")?).await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct ReleasedClient {
    shared: Arc<Shared>,
}

struct Shared {
    exchange: Exchange,
    deadline: Duration,
}

impl ReleasedClient {
    /// A client for this account, with the defaults of [`builder`](Self::builder).
    ///
    /// # Errors
    ///
    /// See [`ReleasedClientBuilder::build`].
    pub fn new(account_id: impl Into<String>, secret: impl Into<String>) -> Result<Self, ConfigError> {
        Self::builder(account_id, secret).build()
    }

    /// A client from the environment: `RELEASED_ACCOUNT_ID`, `RELEASED_SHARED_SECRET` and, if the token API is not
    /// where Released documents it, `RELEASED_TOKEN_URL`.
    ///
    /// # Errors
    ///
    /// If a variable is missing or wrong; the error names it.
    pub fn from_env() -> Result<Self, ConfigError> {
        ReleasedClientBuilder::from_env()?.build()
    }

    /// Starts to build a client for this account. Both values are in Released's settings, under "User verification".
    pub fn builder(account_id: impl Into<String>, secret: impl Into<String>) -> ReleasedClientBuilder {
        ReleasedClientBuilder::new(account_id.into(), secret.into())
    }

    /// Mints a token for this person.
    ///
    /// # Errors
    ///
    /// [`MintError`] tells of which kind the failure is and what to do.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cancels the mint and closes its connection.
    pub async fn mint(&self, user: &User) -> Result<AuthToken, MintError> {
        let Shared { exchange, deadline } = &*self.shared;
        tokio::time::timeout(*deadline, exchange.run(user))
            .await
            .unwrap_or_else(|_elapsed| Err(MintError::new(MintErrorKind::Timeout)))
    }
}

impl Service<User> for ReleasedClient {
    type Response = AuthToken;
    type Error = MintError;
    type Future = MintFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), MintError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, user: User) -> MintFuture {
        let client = self.clone();
        MintFuture { mint: Box::pin(async move { client.mint(&user).await }) }
    }
}

impl fmt::Debug for ReleasedClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { exchange, deadline } = &*self.shared;
        f.debug_struct("ReleasedClient")
            .field("endpoint", &exchange.endpoint.url().as_str())
            .field("api", &exchange.api)
            .field("deadline", deadline)
            .finish_non_exhaustive()
    }
}

/// The future of a [`ReleasedClient`]'s mint, as a service. Dropping it cancels the mint.
pub struct MintFuture {
    mint: Pin<Box<dyn Future<Output = Result<AuthToken, MintError>> + Send>>,
}

impl Future for MintFuture {
    type Output = Result<AuthToken, MintError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.mint.as_mut().poll(cx)
    }
}

impl fmt::Debug for MintFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MintFuture").finish_non_exhaustive()
    }
}
