//! The minter over HTTP. Nothing in here knows of requests to the application, or of handlers.

mod attempts;
mod breaker;
mod builder;
mod config_error;
mod connector;
mod endpoint;
mod exchange;
mod failure;
mod gate;
mod metrics;
mod pool;
mod retry_after;
mod secret;
mod source;
mod stage;
#[cfg(any(feature = "rustls", feature = "native-tls"))]
mod tls;
mod trace;
mod transport;
mod wire;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::StatusCode;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout};
use tower::Service;

use crate::error::{MintError, MintErrorKind};
use crate::token::AuthToken;
use crate::user::User;

use self::attempts::{Attempts, Failure};
use self::breaker::{Breaker, Verdict};
pub use self::builder::ReleasedClientBuilder;
pub use self::config_error::ConfigError;
pub use self::endpoint::InvalidEndpoint;
use self::exchange::Exchange;
use self::gate::Gate;
use self::metrics::MintTimer;
use self::pool::Waiting;
pub use self::secret::{InvalidSecret, SharedSecret};
pub use self::source::{SecretFile, SecretFileError, SecretSource};
use self::trace::{ExchangeSpan, MintSpan};
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
        super::endpoint::Endpoint::parse(url).ok().map(|endpoint| endpoint.url().to_string())
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
    shared: Arc<Shared>,
}

/// What every mint goes through, in this order: deadline, gate, breaker, limit, attempts, one exchange.
struct Shared {
    deadline: Duration,
    gate: Gate,
    breaker: Breaker,
    limit: Limit,
    attempts: Attempts,
    secret: SecretSource,
    exchange: Exchange,
}

impl Shared {
    async fn mint(&self, user: &User) -> Result<AuthToken, MintError> {
        let deadline = Instant::now() + self.deadline;
        self.gate.pass()?;
        let admission =
            self.breaker.admit().map_err(|wait| MintError::new(MintErrorKind::CircuitOpen).with_retry_after(wait))?;
        let _place = self.limit.enter(deadline).await?;
        // A probe asks once: it is there to find out, not to succeed at any price.
        let attempts = if admission.is_probe() { 1 } else { u32::MAX };
        let sent = Sent::default();
        if admission.is_probe() {
            // The connections in the pool may have died since it was last used.
            self.exchange.renew_connections();
        }
        let without_answer = |error: &mut MintError| self.exchange.ended_without_answer(&sent.waiting, error);
        let result =
            self.attempts.run(deadline, attempts, |number| self.attempt(user, number, &sent), without_answer).await;
        admission.report(verdict(&result));
        if let Err(error) = &result {
            // Only what was too long to wait for is left of it.
            if let Some(delay) = error.retry_after() {
                self.gate.shut_for(delay, error.kind());
            }
        }
        result
    }

    /// One attempt, and a second exchange within it if the secret was changed in the meantime.
    async fn attempt(&self, user: &User, number: u32, sent: &Sent) -> Result<AuthToken, Failure> {
        if number > 1 {
            // Another mint may have been asked for patience during the pause.
            self.gate.pass().map_err(Failure::lasting)?;
        }
        let exchange = async |secret: &SharedSecret| {
            let span = ExchangeSpan::new(&self.exchange.endpoint, sent.exchanges.fetch_add(1, Ordering::Relaxed));
            let result = span.around(self.exchange.run(user, secret, &span, &sent.waiting)).await;
            span.end(&result);
            result
        };
        let secret = self.secret.current();
        let result = exchange(&secret).await;
        let is_refused = matches!(&result, Err(failure) if failure.error.status() == Some(StatusCode::UNAUTHORIZED));
        if is_refused && !sent.again.load(Ordering::Relaxed) {
            if let Some(changed) = self.secret.other_than(&secret).await {
                sent.again.store(true, Ordering::Relaxed);
                return exchange(&changed).await;
            }
        }
        result
    }
}

/// What was sent for one mint.
#[derive(Default)]
struct Sent {
    exchanges: AtomicU32,
    /// Once more, because the secret was changed.
    again: AtomicBool,
    waiting: Waiting,
}

/// What the end of a mint tells about Released's health.
fn verdict(result: &Result<AuthToken, MintError>) -> Verdict {
    let Err(error) = result else { return Verdict::Success };
    match (error.kind(), error.status()) {
        (MintErrorKind::RateLimited, _) => Verdict::Throttled,
        // 408 and 425 among them: whoever answers so is there.
        (_, Some(status)) if status.is_client_error() => Verdict::Unrelated,
        (
            MintErrorKind::Connect | MintErrorKind::Timeout | MintErrorKind::Interrupted | MintErrorKind::Unavailable,
            _,
        ) => Verdict::Failure,
        _ => Verdict::Unrelated,
    }
}

/// How many mints may be in flight, so that a slow Released does not eat the server.
struct Limit {
    places: Semaphore,
    /// How long a mint waits for a place.
    patience: Duration,
}

impl Limit {
    fn new(places: usize, patience: Duration) -> Self {
        Self { places: Semaphore::new(places.clamp(1, Semaphore::MAX_PERMITS)), patience }
    }

    async fn enter(&self, deadline: Instant) -> Result<SemaphorePermit<'_>, MintError> {
        if let Ok(place) = self.places.try_acquire() {
            return Ok(place);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if let Ok(Ok(place)) = timeout(left.min(self.patience), self.places.acquire()).await {
            return Ok(place);
        }
        metrics::shed();
        Err(MintError::new(MintErrorKind::Overloaded))
    }
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

    /// A client from the environment: `RELEASED_ACCOUNT_ID`, then `RELEASED_SHARED_SECRET` or, for a [`SecretFile`],
    /// `RELEASED_SHARED_SECRET_FILE`, and `RELEASED_TOKEN_URL` if the token API is not where Released documents it.
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
        let timer = MintTimer::start();
        let span = MintSpan::new();
        let result = span.around(self.shared.mint(user)).await;
        span.end(&result);
        timer.stop(&result);
        result
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
        timeout(self.shared.deadline, self.shared.exchange.warm_up())
            .await
            .unwrap_or_else(|_elapsed| Err(self.shared.exchange.timed_out()))
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
        let Shared { exchange, deadline, breaker, .. } = &*self.shared;
        f.debug_struct("ReleasedClient")
            .field("endpoint", &exchange.endpoint.url().as_str())
            .field("api", &exchange.api)
            .field("deadline", deadline)
            .field("circuit_open", &breaker.is_open())
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
