//! The client of Released's token API: the minter that most applications use.
//!
//! [`ReleasedClient`], which is at the crate's root, too, mints. [`ReleasedClientBuilder`] chooses how, [`SecretSource`] says
//! where the shared secret comes from, and [`Status`] tells a readiness page how it goes.
//!
//! # Example
//!
//! ```
//! use tower_released::ReleasedClient;
//! use tower_released::client::CircuitState;
//!
//! # fn main() -> Result<(), tower_released::client::ConfigError> {
//! let released = ReleasedClient::builder("account", "secret").endpoint("http://127.0.0.1:9/token").build()?;
//! assert_eq!(released.status().circuit, CircuitState::Closed);
//! # Ok(()) }
//! ```

// Nothing in here knows of requests to the application, or of handlers.

mod admission;
mod attempts;
mod builder;
mod circuit;
mod config;
mod config_error;
mod endpoint;
mod exchange;
mod failure;
mod limit;
mod metrics;
mod pipeline;
mod pool;
mod retry_after;
mod secret;
mod secret_file;
mod secret_source;
mod status;
mod trace;
mod transport;
mod window;
mod wire;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::time::timeout;
use tower::Service;

use crate::error::MintError;
use crate::telemetry::MintSpan;
use crate::token::AuthToken;
use crate::user::User;

pub use self::builder::ReleasedClientBuilder;
pub use self::config::{CircuitConfig, RetryConfig};
pub use self::config_error::{ConfigError, ConfigErrorKind};
use self::metrics::MintTimer;
use self::pipeline::Pipeline;
pub use self::secret::SharedSecret;
pub use self::secret_file::SecretFile;
pub use self::secret_source::SecretSource;
pub use self::status::{CircuitReason, CircuitState, LastError, Status};
pub use self::wire::TokenApi;

/// The parts that read what others wrote, for the fuzz targets.
#[cfg(fuzzing)]
pub mod fuzzing {
    use std::time::{Duration, SystemTime};

    use crate::error::MintError;
    use crate::token::AuthToken;

    /// Reads a successful answer.
    pub fn parse_reply(body: &[u8]) -> Result<AuthToken, MintError> {
        super::wire::parse_reply(body)
    }

    /// Reads a `Retry-After`.
    pub fn parse_retry_after(value: &str, now: SystemTime) -> Option<Duration> {
        super::retry_after::parse(value, now)
    }

    /// Reads an endpoint, and tells what it was taken for.
    pub fn parse_endpoint(url: &str) -> Option<String> {
        super::endpoint::Endpoint::parse(url)
            .ok()
            .map(|endpoint| endpoint.url().to_string())
    }
}

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
    pipeline: Arc<Pipeline>,
}

impl ReleasedClient {
    /// Creates a client for this account, with the defaults of [`builder`](Self::builder).
    ///
    /// # Errors
    ///
    /// See [`ReleasedClientBuilder::build`].
    pub fn new(
        account_id: impl Into<String>,
        secret: impl Into<SecretSource>,
    ) -> Result<Self, ConfigError> {
        Self::builder(account_id, secret).build()
    }

    /// Creates a client from the environment: `RELEASED_ACCOUNT_ID`, then `RELEASED_SHARED_SECRET` or, for a [`SecretFile`],
    /// `RELEASED_SHARED_SECRET_FILE`, and `RELEASED_TOKEN_URL` if the token API is not where Released documents it.
    ///
    /// # Errors
    ///
    /// If a variable is missing or wrong; the error names it.
    pub fn from_env() -> Result<Self, ConfigError> {
        ReleasedClientBuilder::from_env()?.build()
    }

    /// Creates a builder of a client for this account. Released shows both values in its settings, under "User verification".
    ///
    /// The secret is a string, a [`SharedSecret`], a [`SecretFile`], or a `tokio::sync::watch::Receiver<SharedSecret>`; see
    /// [`SecretSource`].
    pub fn builder(
        account_id: impl Into<String>,
        secret: impl Into<SecretSource>,
    ) -> ReleasedClientBuilder {
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
        let span = MintSpan::new();
        let result = span.around(self.mint_without_span(user)).await;
        span.end(&result);
        result
    }

    /// For callers who open a span of their own around it.
    async fn mint_without_span(&self, user: &User) -> Result<AuthToken, MintError> {
        let timer = MintTimer::start();
        let result = self.pipeline.mint(user).await;
        timer.stop(&result);
        result
    }

    /// Tells how it goes with Released, from what the mints so far have seen. Sends nothing and waits for nothing.
    ///
    /// Clones share their status. Show it on a page for operators. Do not take a server out of service because of it: without
    /// a token its pages still work, and the other servers fare no better.
    ///
    /// # Example
    ///
    /// ```
    /// use tower_released::ReleasedClient;
    ///
    /// /// The line about Released on a readiness page.
    /// async fn readiness(released: ReleasedClient) -> String {
    ///     let status = released.status();
    ///     match status.circuit.reason() {
    ///         None => format!("released: ok, {} mints in flight", status.mints_in_flight),
    ///         Some(reason) => format!("released: degraded ({}, {})", status.circuit.as_str(), reason.as_str()),
    ///     }
    /// }
    /// # let released = ReleasedClient::builder("account", "secret").endpoint("http://127.0.0.1:9/").build().unwrap();
    /// # let line = tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(readiness(released));
    /// # assert_eq!(line, "released: ok, 0 mints in flight");
    /// ```
    pub fn status(&self) -> Status {
        let Pipeline {
            admission,
            limit,
            secret,
            ..
        } = &*self.pipeline;
        let (circuit, last_success, last_error) = admission.status();
        let (mints_in_flight, secret_generation) = (limit.in_flight(), secret.generation());
        Status {
            circuit,
            mints_in_flight,
            last_success,
            last_error,
            secret_generation,
        }
    }

    /// Opens a connection, so that the first mint need not: call it before the server takes traffic.
    ///
    /// It is sent without the secret, and what is answered does not matter.
    ///
    /// # Errors
    ///
    /// If no connection could be opened within the deadline. Mints will say the same, so it need not end the server.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection.
    pub async fn warm_up(&self) -> Result<(), MintError> {
        timeout(self.pipeline.deadline, self.pipeline.exchange.warm_up())
            .await
            .unwrap_or_else(|_elapsed| Err(self.pipeline.exchange.timed_out()))
    }
}

impl Service<User> for ReleasedClient {
    type Response = AuthToken;
    type Error = MintError;
    /// Dropping it cancels the mint.
    type Future = Pin<Box<dyn Future<Output = Result<AuthToken, MintError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), MintError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, user: User) -> Self::Future {
        let client = self.clone();
        // A layer's span is around the resolver, too, so that its failures are in it.
        Box::pin(async move { client.mint_without_span(&user).await })
    }
}

impl fmt::Debug for ReleasedClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Pipeline {
            exchange,
            deadline,
            admission,
            ..
        } = &*self.pipeline;
        f.debug_struct("ReleasedClient")
            .field("endpoint", &exchange.endpoint.url().as_str())
            .field("api", &exchange.api)
            .field("deadline", deadline)
            // Without waiting for a lock, as it may be logged from anywhere.
            .field("circuit", &admission.try_circuit())
            .finish_non_exhaustive()
    }
}
