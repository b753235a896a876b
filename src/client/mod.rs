//! The client of Released's token API: the minter that most applications use.
//!
//! [`ReleasedClient`] mints, [`ReleasedClientBuilder`] chooses how, [`SecretSource`] says where the shared secret comes
//! from, and [`Status`] tells a readiness page how it goes. The types of this module are at the crate's root, too, except for
//! those of the status.
//!
//! # Example
//!
//! ```
//! use tower_released::ReleasedClient;
//! use tower_released::client::CircuitState;
//!
//! # fn main() -> Result<(), tower_released::ConfigError> {
//! let released = ReleasedClient::builder("account", "secret").endpoint("http://127.0.0.1:9/token").build()?;
//! assert_eq!(released.status().circuit, CircuitState::Closed);
//! # Ok(()) }
//! ```

// Nothing in here knows of requests to the application, or of handlers.

mod admission;
mod attempts;
mod builder;
mod circuit;
mod config_error;
mod connector;
mod endpoint;
mod exchange;
mod failure;
mod metrics;
mod pool;
mod retry_after;
mod secret;
mod source;
mod stage;
mod status;
#[cfg(any(feature = "rustls", feature = "native-tls"))]
mod tls;
mod trace;
mod transport;
mod window;
mod wire;

use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use http::StatusCode;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout, timeout_at};
use tower::Service;

use crate::error::{MintError, MintErrorKind};
use crate::telemetry::MintSpan;
use crate::token::AuthToken;
use crate::user::User;

use self::admission::{Admission, Ticket};
use self::attempts::{Attempts, Failure};
pub use self::builder::ReleasedClientBuilder;
use self::circuit::Verdict;
pub use self::config_error::{ConfigError, ConfigErrorKind};
use self::exchange::Exchange;
use self::metrics::{InFlight, MintTimer};
use self::pool::Waiting;
pub use self::secret::SharedSecret;
pub use self::source::{SecretFile, SecretSource};
pub use self::status::{CircuitReason, CircuitState, LastError, Status};
use self::trace::ExchangeSpan;
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

/// What every mint goes through, in this order: deadline, admission, limit, attempts, one exchange.
struct Shared {
    deadline: Duration,
    admission: Admission,
    limit: Limit,
    attempts: Attempts,
    secret: SecretSource,
    exchange: Exchange,
}

impl Shared {
    async fn mint(&self, user: &User) -> Result<AuthToken, MintError> {
        let deadline = Instant::now() + self.deadline;
        let mut ticket = self.admit(deadline).await?;
        let mut place = self.limit.try_enter();
        if place.is_none() {
            // While it waits, others may find out that there is no sense in asking.
            drop(ticket);
            place = Some(self.limit.enter(deadline).await?);
            ticket = self.admit(deadline).await?;
        }
        // A probe asks once: it is there to find out, not to succeed at any price.
        let attempts = if ticket.is_probe() { 1 } else { u32::MAX };
        let sent = Sent::default();
        if ticket.is_probe() {
            // The connections in the pool may have died since it was last used.
            self.exchange.renew_connections();
        }
        let attempt = |number, end| self.attempt(user, number, end, &sent);
        let without_answer = |error: &mut MintError| self.exchange.ended_without_answer(&sent.waiting, error);
        let result = self.attempts.run(deadline, attempts, attempt, without_answer).await;
        ticket.report(self.verdict(&result, user, &sent), result.as_ref().err());
        drop(place);
        result
    }

    /// Asks whether to ask. If it is the secret that keeps mints back, looks for another one first.
    async fn admit(&self, deadline: Instant) -> Result<Ticket<'_>, MintError> {
        let refused = match self.admission.admit(Instant::now()) {
            Err(error) if error.kind() == MintErrorKind::Unauthorized => error,
            other => return other,
        };
        let secret = self.secret.current();
        if !self.admission.close_for(&secret) {
            let other = timeout_at(deadline, self.secret.other_than(&secret)).await;
            let Ok(Some(other)) = other else { return Err(refused) };
            self.admission.close_for(&other);
        }
        self.admission.admit(Instant::now())
    }

    /// What the end of a mint tells about Released.
    fn verdict<'a>(&self, result: &Result<AuthToken, MintError>, user: &User, sent: &'a Sent) -> Verdict<'a> {
        let Err(error) = result else { return Verdict::Success };
        match (error.kind(), error.status()) {
            (MintErrorKind::RateLimited, _) => Verdict::Throttled,
            (_, Some(StatusCode::UNAUTHORIZED)) => {
                sent.refused.get().map_or(Verdict::Unrelated, |secret| self.admission.refused(secret, user.id()))
            }
            // 408 and 425 among them: whoever answers so is there.
            (_, Some(status)) if status.is_client_error() => Verdict::Unrelated,
            (
                MintErrorKind::Connect
                | MintErrorKind::Timeout
                | MintErrorKind::Interrupted
                | MintErrorKind::Unavailable,
                _,
            ) => Verdict::Failure,
            _ => Verdict::Unrelated,
        }
    }

    /// One attempt, which is given until `end`, and a second exchange within it if the secret was changed in the meantime.
    async fn attempt(&self, user: &User, number: u32, end: Instant, sent: &Sent) -> Result<AuthToken, Failure> {
        if number > 1 {
            // Another mint may have been told to wait during the pause.
            self.admission.check_hold(Instant::now()).map_err(Failure::lasting)?;
        }
        let exchange = async |secret: &SharedSecret| {
            let span = ExchangeSpan::new(&self.exchange.endpoint, sent.exchanges.fetch_add(1, Ordering::Relaxed), end);
            let result = span.around(self.exchange.run(user, secret, &span, &sent.waiting)).await;
            span.end(&result);
            result
        };
        let mut secret = self.secret.current();
        let mut result = exchange(&secret).await;
        if is_refused(&result) && !sent.again.load(Ordering::Relaxed) {
            if let Some(changed) = self.secret.other_than(&secret).await {
                sent.again.store(true, Ordering::Relaxed);
                secret = changed;
                result = exchange(&secret).await;
            }
        }
        if is_refused(&result) {
            // Nothing is tried again after this, so it is the only one.
            let _ = sent.refused.set(secret);
        }
        result
    }
}

fn is_refused(result: &Result<AuthToken, Failure>) -> bool {
    matches!(result, Err(failure) if failure.error.status() == Some(StatusCode::UNAUTHORIZED))
}

/// What was sent for one mint.
#[derive(Default)]
struct Sent {
    exchanges: AtomicU32,
    /// Once more, because the secret was changed.
    again: AtomicBool,
    /// The secret that Released refused in the end.
    refused: OnceLock<SharedSecret>,
    waiting: Waiting,
}

/// How many mints may be in flight, so that a slow Released does not eat the server.
struct Limit {
    places: Semaphore,
    size: usize,
    /// How long a mint waits for a place.
    patience: Duration,
}

/// A mint's place among those in flight.
struct Place<'a> {
    _permit: SemaphorePermit<'a>,
    _counted: InFlight,
}

impl Limit {
    fn new(places: usize, patience: Duration) -> Self {
        let size = places.clamp(1, Semaphore::MAX_PERMITS);
        Self { places: Semaphore::new(size), size, patience }
    }

    fn try_enter(&self) -> Option<Place<'_>> {
        self.places.try_acquire().ok().map(Place::new)
    }

    async fn enter(&self, deadline: Instant) -> Result<Place<'_>, MintError> {
        let left = deadline.saturating_duration_since(Instant::now());
        if let Ok(Ok(permit)) = timeout(left.min(self.patience), self.places.acquire()).await {
            return Ok(Place::new(permit));
        }
        metrics::shed();
        Err(MintError::new(MintErrorKind::Overloaded))
    }

    fn in_flight(&self) -> usize {
        self.size.saturating_sub(self.places.available_permits())
    }
}

impl<'a> Place<'a> {
    fn new(permit: SemaphorePermit<'a>) -> Self {
        Self { _permit: permit, _counted: InFlight::start() }
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
        let span = MintSpan::new();
        let result = span.around(self.mint_without_span(user)).await;
        span.end(&result);
        result
    }

    /// For callers who open a span of their own around it.
    async fn mint_without_span(&self, user: &User) -> Result<AuthToken, MintError> {
        let timer = MintTimer::start();
        let result = self.shared.mint(user).await;
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
        let Shared { admission, limit, secret, .. } = &*self.shared;
        let (circuit, last_success, last_error) = admission.status();
        let (mints_in_flight, secret_generation) = (limit.in_flight(), secret.generation());
        Status { circuit, mints_in_flight, last_success, last_error, secret_generation }
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
        // A layer's span is around the resolver, too, so that its failures are in it.
        MintFuture { mint: Box::pin(async move { client.mint_without_span(&user).await }) }
    }
}

impl fmt::Debug for ReleasedClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { exchange, deadline, admission, .. } = &*self.shared;
        f.debug_struct("ReleasedClient")
            .field("endpoint", &exchange.endpoint.url().as_str())
            .field("api", &exchange.api)
            .field("deadline", deadline)
            // Without waiting for a lock, as it may be logged from anywhere.
            .field("circuit", &admission.try_circuit())
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
