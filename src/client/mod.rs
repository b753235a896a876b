//! Calls Released's token API: the minter that most applications use.
//!
//! [`ReleasedClient`] mints. It is also at the crate's root. [`ReleasedClientBuilder`] sets how it mints,
//! [`SecretSource`] is where it reads the shared secret, [`Status`] shows its state on a readiness page, and
//! [`CheckReport`] says whether it works, and what to do. [`by_account`] is for applications with several accounts.
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

// This module does not depend on requests to the application, or on handlers.

mod admission;
mod attempts;
mod builder;
mod by_account;
mod check;
mod check_connection;
pub(crate) mod check_token;
mod circuit;
mod config;
mod config_error;
mod endpoint;
mod exchange;
mod failure;
mod limit;
mod metrics;
#[cfg(feature = "cli")]
pub(crate) mod page;
mod pipeline;
mod pool;
pub(crate) mod report;
mod retry_after;
mod secret;
mod secret_file;
mod secret_source;
mod status;
mod trace;
mod transport;
mod window;
mod wire;

use std::env;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::time::timeout;
use tower::Service;

use crate::error::{MintError, MintErrorKind};
use crate::telemetry::{MintSpan, info};
use crate::token::AuthToken;
use crate::user::User;

pub use self::builder::ReleasedClientBuilder;
pub use self::by_account::{ByAccount, by_account};
pub use self::config::{CircuitConfig, RetryConfig};
pub use self::config_error::{ConfigError, ConfigErrorKind};
use self::metrics::MintTimer;
use self::pipeline::Pipeline;
pub use self::report::{CheckLine, CheckOutcome, CheckReport};
pub use self::secret::SharedSecret;
pub use self::secret_file::SecretFile;
pub use self::secret_source::SecretSource;
pub use self::status::{CircuitReason, CircuitState, LastError, Status};
pub use self::wire::TokenApi;

/// The parsers of untrusted input, for the fuzz targets.
#[cfg(fuzzing)]
pub mod fuzzing {
    use std::time::{Duration, SystemTime};

    use crate::error::MintError;
    use crate::token::AuthToken;

    /// Parses a successful answer.
    pub fn parse_reply(body: &[u8]) -> Result<AuthToken, MintError> {
        super::wire::parse_reply(body)
    }

    /// Parses a `Retry-After`.
    pub fn parse_retry_after(value: &str, now: SystemTime) -> Option<Duration> {
        super::retry_after::parse(value, now)
    }

    /// Parses an endpoint, and returns its normalised URL.
    pub fn parse_endpoint(url: &str) -> Option<String> {
        super::endpoint::Endpoint::parse(url)
            .ok()
            .map(|endpoint| endpoint.url().to_string())
    }
}

/// Mints auth tokens with Released's token API: the minter that most applications give to their
/// [`ReleasedTokenLayer`](crate::ReleasedTokenLayer).
///
/// It is a `tower::Service<User>`. Clones are cheap and share their connections.
///
/// The client sends the secret over TLS or within this machine, and never prints it. It does not follow redirects. It
/// accepts only replies of at most 16 KiB that are a bare JSON string with a token. A mint takes at most its deadline.
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
    /// `None` if it is disabled.
    pipeline: Option<Arc<Pipeline>>,
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

    /// Creates a client from environment variables.
    ///
    /// | variable | value |
    /// |---|---|
    /// | `RELEASED_ACCOUNT_ID` | the account id |
    /// | `RELEASED_SHARED_SECRET`, or `RELEASED_SHARED_SECRET_FILE` | the secret, or the path of a [`SecretFile`] |
    /// | `RELEASED_TOKEN_URL` | the token URL. Default: the URL that Released documents |
    ///
    /// # Errors
    ///
    /// A variable is missing or wrong. The error names it.
    pub fn from_env() -> Result<Self, ConfigError> {
        ReleasedClientBuilder::from_env()?.build()
    }

    /// Creates a client without credentials, for development and tests. Every page is served without a token.
    ///
    /// Creating it logs one line, at `info`. A page that gets no token because of it logs nothing above `debug`.
    ///
    /// | what | what it does |
    /// |---|---|
    /// | a mint | fails at once with [`MintErrorKind::Disabled`], and sends nothing |
    /// | the layer | still resolves the user, so a resolver that fails is logged as always |
    /// | `Option<AuthToken>` | `None` |
    /// | `AuthToken`, [`reject_without_token`](crate::ReleasedTokenLayer::reject_without_token), [`token_endpoint`](crate::token_endpoint) | 503 without `Retry-After`, gRPC `UNAVAILABLE`; 401 if nobody is signed in |
    /// | [`warm_up`](Self::warm_up) | succeeds, and sends nothing |
    /// | [`status`](Self::status) | the circuit is [`CircuitState::Disabled`] |
    /// | metrics | the outcome `disabled` |
    ///
    /// Pages that reject a request without a token still reject it: without credentials, nobody can be vouched for.
    ///
    /// # Example
    ///
    /// ```
    /// use tower_released::client::CircuitState;
    /// use tower_released::{MintErrorKind, ReleasedClient, User};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_released::InvalidUser> {
    /// let released = ReleasedClient::disabled();
    /// assert_eq!(released.status().circuit, CircuitState::Disabled);
    /// let ada = User::new("42", "ada@example.com")?;
    /// let error = released.mint(&ada).await.unwrap_err();
    /// assert_eq!(error.kind(), MintErrorKind::Disabled);
    /// # Ok(()) }
    /// ```
    pub fn disabled() -> Self {
        metrics::register();
        info!(
            "the client is disabled; every page is served without an auth token. Set RELEASED_ACCOUNT_ID and \
             RELEASED_SHARED_SECRET to mint"
        );
        Self { pipeline: None }
    }

    /// Creates a client from environment variables, as [`from_env`](Self::from_env) does, or a
    /// [`disabled`](Self::disabled) one if none of them has a credential.
    ///
    /// It is disabled if `RELEASED_ACCOUNT_ID`, `RELEASED_SHARED_SECRET` and `RELEASED_SHARED_SECRET_FILE` are all unset or
    /// empty. `RELEASED_TOKEN_URL` is no credential. In production, prefer `from_env`: a server that has lost its
    /// variables then does not start.
    ///
    /// # Errors
    ///
    /// Some of the credentials are set, and one is missing or wrong. The error names it.
    ///
    /// # Example
    ///
    /// ```no_run
    /// use tower_released::ReleasedClient;
    ///
    /// # fn main() -> Result<(), tower_released::client::ConfigError> {
    /// let released = if cfg!(debug_assertions) {
    ///     ReleasedClient::from_env_or_disabled()?
    /// } else {
    ///     ReleasedClient::from_env()?
    /// };
    /// # Ok(()) }
    /// ```
    pub fn from_env_or_disabled() -> Result<Self, ConfigError> {
        match ReleasedClientBuilder::from_variables_or_none(|name| env::var(name))? {
            Some(builder) => builder.build(),
            None => Ok(Self::disabled()),
        }
    }

    /// Creates a builder of a client for this account. Released shows both values in its settings, under "User
    /// verification".
    ///
    /// The secret is a string, a [`SharedSecret`], a [`SecretFile`], or a `tokio::sync::watch::Receiver<SharedSecret>`;
    /// see [`SecretSource`].
    pub fn builder(
        account_id: impl Into<String>,
        secret: impl Into<SecretSource>,
    ) -> ReleasedClientBuilder {
        ReleasedClientBuilder::new(account_id.into(), secret.into())
    }

    /// Mints a token for this user.
    ///
    /// # Errors
    ///
    /// [`MintError`] says why the mint failed, and what to do. If the user is [in another
    /// account](crate::User::in_account), the kind is [`MintErrorKind::WrongAccount`], and nothing is sent.
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

    /// Mints within the caller's own span.
    async fn mint_without_span(&self, user: &User) -> Result<AuthToken, MintError> {
        let timer = MintTimer::start();
        let result = match &self.pipeline {
            Some(pipeline) => pipeline.mint(user).await,
            None => Err(MintError::new(MintErrorKind::Disabled)),
        };
        timer.stop(&result);
        result
    }

    /// Returns the state of the circuit, the mints in flight, the last success and the last error. Sends nothing, and
    /// does not wait.
    ///
    /// Clones share their status. Show it on a page for operators. Do not take a server out of service because of it:
    /// its pages work without tokens, and the other servers have the same problem.
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
        let Some(pipeline) = &self.pipeline else {
            return Status {
                circuit: CircuitState::Disabled,
                mints_in_flight: 0,
                last_success: None,
                last_error: None,
                secret_generation: 0,
            };
        };
        let (circuit, last_success, last_error) = pipeline.admission.status();
        Status {
            circuit,
            mints_in_flight: pipeline.limit.in_flight(),
            last_success,
            last_error,
            secret_generation: pipeline.secret.generation(),
        }
    }

    /// Opens a connection, so that the first mint does not wait for DNS and TLS. Call it before the server takes
    /// traffic.
    ///
    /// It sends a request without the secret, and accepts any answer. A [`disabled`](Self::disabled) client sends nothing.
    ///
    /// # Errors
    ///
    /// No connection could be opened within the deadline. The server can start without one: mints try again.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection.
    pub async fn warm_up(&self) -> Result<(), MintError> {
        let Some(pipeline) = &self.pipeline else {
            return Ok(());
        };
        timeout(pipeline.deadline, pipeline.exchange.warm_up())
            .await
            .unwrap_or_else(|_elapsed| Err(pipeline.exchange.timed_out()))
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
        // Without a span: the layer opens one, which also contains the resolver.
        Box::pin(async move { client.mint_without_span(&user).await })
    }
}

impl fmt::Debug for ReleasedClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("ReleasedClient");
        match &self.pipeline {
            Some(pipeline) => debug
                .field("endpoint", &pipeline.exchange.endpoint.url().as_str())
                .field("api", &pipeline.exchange.api)
                .field("deadline", &pipeline.deadline)
                // Never waits for the lock: a client may be logged from anywhere.
                .field("circuit", &pipeline.admission.try_circuit()),
            None => debug.field("circuit", &Some(CircuitState::Disabled)),
        };
        debug.finish_non_exhaustive()
    }
}
