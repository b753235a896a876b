//! Everything that can be chosen of a client, and what can be wrong with it.

use std::env::{self, VarError};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use super::admission::Admission;
use super::attempts::{AttemptLimits, Attempts};
use super::circuit::CircuitLimits;
use super::config_error::{Cause, ConfigError};
use super::endpoint::Endpoint;
use super::exchange::Exchange;
use super::pool::Pools;
use super::secret::{InvalidSecret, SharedSecret};
use super::source::{SecretFile, SecretSource};
use super::transport::{ConnectionLimits, Transport};
use super::wire::TokenApi;
use super::{Limit, ReleasedClient, Shared, metrics};

/// How long a page waits for its token, everything included.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(3);

/// Longer durations make no sense, and are more than clocks can add.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// How many mints may be in flight.
const DEFAULT_MAX_IN_FLIGHT: usize = 128;

/// How long a mint waits for one of these places.
const DEFAULT_QUEUE_TIMEOUT: Duration = Duration::from_millis(50);

/// Puts a [`ReleasedClient`] together; see [`ReleasedClient::builder`].
#[must_use = "a builder does nothing until `build` is called"]
pub struct ReleasedClientBuilder {
    account_id: String,
    secret: Result<SecretSource, InvalidSecret>,
    endpoint: Option<String>,
    api: TokenApi,
    deadline: Duration,
    connections: ConnectionLimits,
    attempts: AttemptLimits,
    circuit: CircuitLimits,
    max_in_flight: usize,
    queue_timeout: Duration,
    http: Option<reqwest::Client>,
}

impl ReleasedClientBuilder {
    pub(crate) fn new(account_id: String, secret: String) -> Self {
        Self {
            account_id,
            secret: SharedSecret::from_text(&Zeroizing::new(secret)).map(SecretSource::from),
            endpoint: None,
            api: TokenApi::default(),
            deadline: DEFAULT_DEADLINE,
            connections: ConnectionLimits::DEFAULT,
            attempts: AttemptLimits::DEFAULT,
            circuit: CircuitLimits::DEFAULT,
            max_in_flight: DEFAULT_MAX_IN_FLIGHT,
            queue_timeout: DEFAULT_QUEUE_TIMEOUT,
            http: None,
        }
    }

    /// The URL of the token API, if it is not where Released documents it: of a proxy of yours, or of a
    /// [`FakeReleased`](crate::testing::FakeReleased).
    ///
    /// It must be `https`, or `http` to 127.0.0.0/8, `[::1]` or `localhost`, without user name, query or fragment.
    pub fn endpoint(mut self, url: impl Into<String>) -> Self {
        self.endpoint = Some(url.into());
        self
    }

    /// Which of the two token APIs to speak; [`TokenApi::Impersonation`] if never called.
    pub fn api(mut self, api: TokenApi) -> Self {
        self.api = api;
        self
    }

    /// Takes the secret from here instead of from the [`builder`](ReleasedClient::builder)'s argument: a
    /// [`SecretFile`], or a `tokio::sync::watch::Receiver<SharedSecret>`.
    pub fn secret_source(mut self, source: impl Into<SecretSource>) -> Self {
        self.secret = Ok(source.into());
        self
    }

    /// How long a mint may take, from the call to the token, with all its attempts, pauses and queues; 3 seconds if
    /// never called.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline.min(LONGEST);
        self
    }

    /// How long one attempt may take, its connection and its body included; 1.5 seconds if never called, so that two
    /// that stall fit into the deadline.
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.attempts.timeout = timeout.min(LONGEST);
        self
    }

    /// How long a connection may take to open, DNS and TLS included; 1 second if never called.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connections.connect_timeout = timeout.min(LONGEST);
        self
    }

    /// How often a mint is attempted, the first included; 3 times if never called. Zero counts as one.
    ///
    /// Tried again is what may pass: no connection, a broken one, no answer, 408, 425, 429, 500, 502, 503 and 504.
    /// In between there are random pauses; see [`pauses`](Self::pauses).
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.attempts.max = attempts.max(1);
        self
    }

    /// How long the pauses between attempts are: a random part of `first`, which doubles each time, up to `longest`; of 50
    /// and 400 milliseconds if never called. After 429 and 503, the first is four times as long.
    pub fn pauses(mut self, first: Duration, longest: Duration) -> Self {
        self.attempts.pause = first.min(LONGEST);
        self.attempts.longest_pause = longest.min(LONGEST);
        self
    }

    /// The longest `Retry-After` for which a mint waits; 1 second if never called. For a longer one it fails, and all
    /// mints with it, until then, and for 30 seconds at most.
    pub fn max_retry_after(mut self, delay: Duration) -> Self {
        self.attempts.longest_retry_after = delay.min(LONGEST);
        self
    }

    /// How many attempts more than mints there may be within ten seconds, as a fraction, on top of one a second; 0.1 if
    /// never called. It is what Released gets more of when it is failing.
    ///
    /// Below 1, it is taken for the next larger fraction with 1 above the line: 0.4 for a half. Less than 0 counts as
    /// 0, more than 10 as 10.
    pub fn retry_budget(mut self, fraction: f32) -> Self {
        self.attempts.budget = fraction;
        self
    }

    /// How many mints must fail in a row before the circuit breaker opens; 5 if never called. Zero counts as one.
    ///
    /// It opens, too, when Released refuses the shared secret so many times in a row, for at least two users.
    /// And it opens when too many fail at all; see [`circuit_opens_at`](Self::circuit_opens_at).
    pub fn circuit_opens_after(mut self, failures: u32) -> Self {
        self.circuit.opens_after = failures.max(1);
        self
    }

    /// Which part of the mints within ten seconds must fail to open the circuit breaker, and of how many at least; 0.5 of
    /// 20 if never called. With [`circuit_opens_after`](Self::circuit_opens_after) and this both at `u32::MAX`, it never
    /// opens.
    pub fn circuit_opens_at(mut self, failing_part: f64, of_at_least: u32) -> Self {
        self.circuit.failing_part = failing_part;
        self.circuit.of_at_least = of_at_least.max(1);
        self
    }

    /// How long the circuit breaker stays open at first, and how long at most; 5 and 60 seconds if never called, both
    /// give or take a fifth. The time doubles whenever the one mint that probes afterwards fails.
    pub fn circuit_open_for(mut self, first: Duration, longest: Duration) -> Self {
        self.circuit.first_open = first.min(LONGEST);
        self.circuit.longest_open = longest.min(LONGEST);
        self
    }

    /// How many mints may be in flight at once; 128 if never called. Zero counts as one.
    pub fn max_in_flight(mut self, mints: usize) -> Self {
        self.max_in_flight = mints;
        self
    }

    /// How long a mint waits for its turn when as many as allowed are in flight; 50 milliseconds if never called. Then it
    /// fails with [`MintErrorKind::Overloaded`](crate::MintErrorKind::Overloaded).
    pub fn queue_timeout(mut self, timeout: Duration) -> Self {
        self.queue_timeout = timeout.min(LONGEST);
        self
    }

    /// How long an idle connection is kept; 30 seconds if never called, which is less than load balancers usually do.
    pub fn pool_idle_timeout(mut self, timeout: Duration) -> Self {
        self.connections.idle_timeout = timeout.min(LONGEST);
        self
    }

    /// How many idle connections are kept; 32 if never called.
    pub fn pool_max_idle(mut self, connections: usize) -> Self {
        self.connections.max_idle = connections;
        self
    }

    /// Uses this HTTP client instead of the own one, which goes straight to hyper and costs less: for certificates, names or
    /// proxies that are special.
    ///
    /// Then what it does is yours to answer for: switch off redirects (they would carry the person's address
    /// elsewhere), proxies for loopback, decompression and `connection_verbose` (it logs the secret). [`connect_timeout`](Self::connect_timeout),
    /// [`pool_idle_timeout`](Self::pool_idle_timeout) and [`pool_max_idle`](Self::pool_max_idle) have no effect on it.
    ///
    /// # Dead connections
    ///
    /// The failover of a load balancer can leave idle connections that never answer again. After a timeout or an interruption
    /// the own client leaves its pool and opens a new connection. The pool of this client cannot be left: each of its dead
    /// connections costs one attempt. Keep it small with `pool_max_idle_per_host`, or at zero.
    pub fn http_client(mut self, client: reqwest::Client) -> Self {
        self.http = Some(client);
        self
    }

    /// Checks everything and builds the client. Nothing is sent.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] tells what is wrong. It never holds the secret.
    pub fn build(self) -> Result<ReleasedClient, ConfigError> {
        let account_id = self.account_id.trim().to_owned();
        if account_id.is_empty() || account_id.contains(char::is_control) {
            return Err(Cause::AccountId.into());
        }
        let secret = self.secret?;
        let endpoint = Endpoint::parse(self.endpoint.as_deref().unwrap_or(self.api.documented_url()))?;
        let pools = match self.http {
            Some(client) => Pools::only(Transport::Reqwest(client)),
            None => Transport::hyper(&endpoint, self.connections)?,
        };
        metrics::describe();
        let shared = Shared {
            deadline: self.deadline,
            admission: Admission::new(self.circuit, self.deadline),
            limit: Limit::new(self.max_in_flight, self.queue_timeout),
            attempts: Attempts::new(self.attempts),
            secret,
            exchange: Exchange::new(pools, endpoint, self.api, account_id),
        };
        Ok(ReleasedClient { shared: Arc::new(shared) })
    }

    /// Reads the variables that Released's own examples use, and the one for the URL.
    pub(crate) fn from_variables(variable: impl Fn(&str) -> Result<String, VarError>) -> Result<Self, ConfigError> {
        let read = |name: &'static str| match variable(name) {
            // Compose files set what is left open to nothing.
            Ok(value) => Ok(Some(value).filter(|value| !value.is_empty())),
            Err(VarError::NotPresent) => Ok(None),
            Err(VarError::NotUnicode(_)) => Err(ConfigError::from(Cause::VariableNotUnicode(name))),
        };
        let require = |name: &'static str| read(name)?.ok_or_else(|| ConfigError::from(Cause::MissingVariable(name)));

        let account_id = require("RELEASED_ACCOUNT_ID")?;
        let mut builder = match (read("RELEASED_SHARED_SECRET")?, read("RELEASED_SHARED_SECRET_FILE")?) {
            (Some(secret), None) => Self::new(account_id, secret),
            (None, Some(path)) => Self::new(account_id, String::new()).secret_source(SecretFile::open(path)?),
            (Some(_), Some(_)) => return Err(Cause::AmbiguousSecret.into()),
            (None, None) => return Err(Cause::MissingVariable("RELEASED_SHARED_SECRET").into()),
        };
        builder.endpoint = read("RELEASED_TOKEN_URL")?;
        Ok(builder)
    }

    pub(crate) fn from_env() -> Result<Self, ConfigError> {
        Self::from_variables(|name| env::var(name))
    }
}

// By hand, for an endpoint that was not looked at yet may have a password in it.
impl fmt::Debug for ReleasedClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReleasedClientBuilder").field("api", &self.api).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::ConfigErrorKind;

    fn from(variables: &[(&str, &str)]) -> Result<ReleasedClient, ConfigError> {
        ReleasedClientBuilder::from_variables(|wanted| {
            let found = variables.iter().find(|(name, _)| *name == wanted);
            found.map(|(_, value)| (*value).to_owned()).ok_or(VarError::NotPresent)
        })?
        .build()
    }

    #[test]
    fn the_defaults_are_the_documented_policy() {
        let milliseconds = Duration::from_millis;
        let builder = ReleasedClient::builder("acc", "s3cret");
        assert_eq!(builder.deadline, milliseconds(3000));
        assert_eq!((builder.max_in_flight, builder.queue_timeout), (128, milliseconds(50)));
        let connections =
            ConnectionLimits { connect_timeout: milliseconds(1000), idle_timeout: milliseconds(30_000), max_idle: 32 };
        assert_eq!(builder.connections, connections);
        let attempts = AttemptLimits {
            max: 3,
            timeout: milliseconds(1500),
            pause: milliseconds(50),
            longest_pause: milliseconds(400),
            longest_retry_after: milliseconds(1000),
            budget: 0.1,
        };
        let circuit = CircuitLimits {
            opens_after: 5,
            failing_part: 0.5,
            of_at_least: 20,
            first_open: milliseconds(5000),
            longest_open: milliseconds(60_000),
        };
        assert_eq!((builder.attempts, builder.circuit), (attempts, circuit));
    }

    const ACCOUNT: (&str, &str) = ("RELEASED_ACCOUNT_ID", "acc");
    const SECRET: (&str, &str) = ("RELEASED_SHARED_SECRET", "s3cret");

    #[test]
    fn the_environment_is_enough() {
        let local = ("RELEASED_TOKEN_URL", "http://127.0.0.1:1/token");
        let client = from(&[ACCOUNT, SECRET, local]).expect("a client");
        assert_eq!(client.shared.exchange.endpoint.url().as_str(), local.1);
    }

    #[test]
    fn what_is_missing_from_the_environment_is_named() {
        let error = from(&[SECRET]).expect_err("no account");
        assert!(error.to_string().contains("RELEASED_ACCOUNT_ID"), "{error}");
        let error = from(&[ACCOUNT]).expect_err("no secret");
        assert!(error.to_string().contains("RELEASED_SHARED_SECRET"), "{error}");
        let error = from(&[ACCOUNT, ("RELEASED_SHARED_SECRET", " ")]).expect_err("an empty secret");
        assert_eq!(error.kind(), ConfigErrorKind::Secret);
        assert!(error.to_string().contains("is empty"), "{error}");
        let error = from(&[("RELEASED_ACCOUNT_ID", " "), SECRET]).expect_err("an empty account");
        assert_eq!(error.kind(), ConfigErrorKind::AccountId);
        let error = from(&[ACCOUNT, SECRET, ("RELEASED_SHARED_SECRET_FILE", "/run/secret")]).expect_err("two secrets");
        assert_eq!(error.kind(), ConfigErrorKind::AmbiguousSecret);
        let error = from(&[ACCOUNT, SECRET, ("RELEASED_TOKEN_URL", "http://example.com")]).expect_err("plain http");
        assert_eq!(error.kind(), ConfigErrorKind::Endpoint);
        assert!(error.to_string().contains("must be https"), "{error}");
    }

    #[test]
    fn a_main_that_returns_the_error_prints_what_to_do() {
        let error = from(&[]).expect_err("nothing is set");
        assert_eq!(format!("{error:?}"), format!("ConfigError: {error}"));
    }

    #[test]
    fn an_empty_variable_is_one_that_is_not_set() {
        let empty = |name| (name, "");
        let local = ("RELEASED_TOKEN_URL", "http://127.0.0.1:1/token");
        assert!(from(&[ACCOUNT, SECRET, empty("RELEASED_SHARED_SECRET_FILE"), local]).is_ok());
        let error = from(&[ACCOUNT, empty("RELEASED_SHARED_SECRET")]).expect_err("no secret");
        assert_eq!(error.kind(), ConfigErrorKind::MissingVariable);
        assert!(error.to_string().contains("RELEASED_SHARED_SECRET is not set"), "{error}");
    }

    #[test]
    fn nothing_of_the_secret_is_in_a_builder_or_an_error() {
        let builder = ReleasedClient::builder("acc", "s3cret").endpoint("http://s3cret@example.com");
        assert!(!format!("{builder:?}").contains("s3cret"));
        let error = builder.build().expect_err("a URL with a user name");
        assert!(!format!("{error}{error:?}").contains("s3cret"));
    }

    #[cfg(any(feature = "rustls", feature = "native-tls"))]
    #[test]
    fn both_documented_urls_are_good() {
        for api in [TokenApi::Impersonation, TokenApi::EmailOnly] {
            assert!(ReleasedClient::builder("acc", "s3cret").api(api).build().is_ok());
        }
    }

    #[cfg(not(any(feature = "rustls", feature = "native-tls")))]
    #[test]
    fn https_without_tls_is_told_before_any_call() {
        let error = ReleasedClient::new("acc", "s3cret").expect_err("no TLS");
        assert_eq!(error.kind(), ConfigErrorKind::NoTls);
    }
}
