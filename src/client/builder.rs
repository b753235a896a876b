//! The builder of a client.

use std::env::{self, VarError};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ::hyper::body::Body;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tower::{BoxError, Service};
use zeroize::Zeroizing;

use super::admission::Admission;
use super::attempts::Attempts;
use super::config::{CircuitConfig, LONGEST, RetryConfig};
use super::config_error::{ConfigError, ConfigErrorKind};
use super::endpoint::Endpoint;
use super::exchange::Exchange;
use super::limit::{Limit, QUEUE_WAIT};
use super::pipeline::Pipeline;
use super::pool::Pools;
use super::secret_file::SecretFile;
use super::secret_source::{Secret, SecretSource};
use super::transport::{Reading, Transport, hyper};
use super::wire::TokenApi;
use super::{ReleasedClient, metrics};

/// The longest that a page waits for its token. After more than that, a user takes the page for broken.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(3);

/// The limit of mints in flight. At a tenth of a second each, it allows more than a thousand pages a second.
const DEFAULT_MAX_IN_FLIGHT: usize = 128;

/// The variables without which nothing can be minted.
const CREDENTIALS: [&str; 3] = [
    "RELEASED_ACCOUNT_ID",
    "RELEASED_SHARED_SECRET",
    "RELEASED_SHARED_SECRET_FILE",
];

/// Builds a [`ReleasedClient`]; see [`ReleasedClient::builder`].
#[must_use = "a builder does nothing until `build` is called"]
pub struct ReleasedClientBuilder {
    account_id: String,
    secret: SecretSource,
    endpoint: Option<String>,
    api: TokenApi,
    deadline: Duration,
    retry: RetryConfig,
    circuit: CircuitConfig,
    max_in_flight: usize,
    queue_wait: Duration,
    transport: Option<Transport>,
}

impl ReleasedClientBuilder {
    pub(crate) fn new(account_id: String, secret: SecretSource) -> Self {
        Self {
            account_id,
            secret,
            endpoint: None,
            api: TokenApi::default(),
            deadline: DEFAULT_DEADLINE,
            retry: RetryConfig::default(),
            circuit: CircuitConfig::default(),
            max_in_flight: DEFAULT_MAX_IN_FLIGHT,
            queue_wait: QUEUE_WAIT,
            transport: None,
        }
    }

    /// Sets the URL of the token API, for a proxy of yours or a [`FakeReleased`](crate::testing::FakeReleased).
    /// Default: the URL that Released documents for the [`api`](Self::api).
    ///
    /// It must be `https`, or `http` to 127.0.0.0/8, `[::1]` or `localhost`. It must not have a user name, a query or a
    /// fragment.
    pub fn endpoint(mut self, url: impl Into<String>) -> Self {
        self.endpoint = Some(url.into());
        self
    }

    /// Sets which of Released's two token APIs the client calls. Default: [`TokenApi::Impersonation`].
    pub fn api(mut self, api: TokenApi) -> Self {
        self.api = api;
        self
    }

    /// Sets how long a mint may take, including its attempts, pauses and queues. Default: 3 seconds.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline.min(LONGEST);
        self
    }

    /// Sets how many mints may be in flight at once. Default: 128. Zero counts as one.
    ///
    /// A further mint waits for at most 50 milliseconds. Then it fails with
    /// [`MintErrorKind::Overloaded`](crate::MintErrorKind::Overloaded).
    pub fn max_in_flight(mut self, mints: usize) -> Self {
        self.max_in_flight = mints;
        self
    }

    /// Sets the number of attempts, their time limit and their pauses. Default: 3 attempts of 1.5 seconds; see
    /// [`RetryConfig`].
    pub fn retry(mut self, retry: RetryConfig) -> Self {
        self.retry = retry;
        self
    }

    /// Sets when the circuit breaker opens, and for how long. Default: after 5 failures in a row, for 5 seconds; see
    /// [`CircuitConfig`].
    pub fn circuit(mut self, circuit: CircuitConfig) -> Self {
        self.circuit = circuit;
        self
    }

    /// Sets how long a mint waits for a place. For tests on busy machines.
    #[cfg(all(test, feature = "testing"))]
    pub(crate) fn queue_wait(mut self, wait: Duration) -> Self {
        self.queue_wait = wait;
        self
    }

    /// Sends requests with this service, for certificates, proxies or connections of your own. Default: hyper's client,
    /// with TLS by the feature `rustls` or `native-tls`.
    ///
    /// It can be any `tower::Service` over `http`'s types: hyper's client, a `reqwest::Client` (see `http_client`, with
    /// the feature `reqwest`), or either of them behind tower layers. Clients with clones of one service share its
    /// connections.
    ///
    /// The service must not follow redirects, which would send the user's e-mail address elsewhere. It must not log the
    /// `Authorization` header, and must not decompress replies. The attempt's time limit applies to it. It sets its own
    /// connect timeout, `Host` and `User-Agent`.
    ///
    /// # Dead connections
    ///
    /// The failover of a load balancer can leave idle connections that never answer again. After a timeout or an
    /// interruption, the client replaces the default service, and its next attempt opens a new connection. It never
    /// replaces your service, so each dead connection in its pool costs one attempt. Keep few idle connections in it,
    /// or none.
    ///
    /// # Example
    ///
    /// ```
    /// use hyper_util::client::legacy::Client;
    /// use hyper_util::rt::TokioExecutor;
    /// use tower_released::ReleasedClient;
    ///
    /// # fn main() -> Result<(), tower_released::client::ConfigError> {
    /// let http = Client::builder(TokioExecutor::new()).build_http();
    /// let released = ReleasedClient::builder("account", "secret")
    ///     .http_service(http)
    ///     # .endpoint("http://127.0.0.1:9/")
    ///     .build()?;
    /// # Ok(()) }
    /// ```
    pub fn http_service<S, B>(mut self, service: S) -> Self
    where
        S: Service<
                Request<Full<Bytes>>,
                Response = Response<B>,
                Error: Into<BoxError>,
                Future: Send,
            > + Clone
            + Send
            + Sync
            + 'static,
        B: Body<Error: Into<BoxError>> + Send + 'static,
    {
        self.transport = Some(Transport::new(service, Reading::TOKEN));
        self
    }

    /// Sends requests with this `reqwest::Client`; see [`http_service`](Self::http_service). It costs more instructions
    /// than the default.
    ///
    /// Switch off redirects (`redirect(Policy::none())`) and `connection_verbose`, which logs the secret. Keep its pool
    /// small with `pool_max_idle_per_host`; see *Dead connections* there.
    #[cfg(feature = "reqwest")]
    #[cfg_attr(docsrs, doc(cfg(feature = "reqwest")))]
    pub fn http_client(self, client: reqwest::Client) -> Self {
        self.http_service(super::transport::reqwest::Reqwest(client))
    }

    /// Checks the settings and builds the client. Sends nothing.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] says which setting is wrong, and what to do.
    pub fn build(self) -> Result<ReleasedClient, ConfigError> {
        let account_id = self.account_id.trim().to_owned();
        if account_id.is_empty() || account_id.contains(char::is_control) {
            return Err(ConfigError::new(
                ConfigErrorKind::AccountId,
                "the account id (RELEASED_ACCOUNT_ID) is empty or has control characters in it; copy it again from \
                 Released's settings, under User verification",
            ));
        }
        let secret = Secret::new(self.secret)?;
        let endpoint = Endpoint::parse(
            self.endpoint
                .as_deref()
                .unwrap_or(self.api.documented_url()),
        )?;
        let pools = match self.transport {
            Some(transport) => Pools::fixed(transport),
            None => hyper::pools(&endpoint)?,
        };
        metrics::register();
        let pipeline = Pipeline {
            deadline: self.deadline,
            admission: Admission::new(self.circuit, self.deadline),
            limit: Limit::new(self.max_in_flight, self.queue_wait, self.deadline),
            attempts: Attempts::new(self.retry),
            secret,
            exchange: Exchange::new(pools, endpoint, self.api, account_id),
        };
        Ok(ReleasedClient {
            pipeline: Some(Arc::new(pipeline)),
        })
    }

    /// Creates a builder from variables, or returns `None` if no variable has a credential.
    pub(crate) fn from_variables_or_none(
        variable: impl Fn(&str) -> Result<String, VarError>,
    ) -> Result<Option<Self>, ConfigError> {
        if Self::has_no_credential(&variable) {
            return Ok(None);
        }
        Self::from_variables(variable).map(Some)
    }

    /// Returns whether all credentials are unset or empty. A token URL is none: it may be the same wherever the
    /// application runs.
    pub(crate) fn has_no_credential(variable: impl Fn(&str) -> Result<String, VarError>) -> bool {
        CREDENTIALS.into_iter().all(|name| match variable(name) {
            // It may be the secret.
            Ok(value) => Zeroizing::new(value).is_empty(),
            Err(error) => error == VarError::NotPresent,
        })
    }

    /// Creates a builder from variables, with the names that Released's own examples use.
    pub(crate) fn from_variables(
        variable: impl Fn(&str) -> Result<String, VarError>,
    ) -> Result<Self, ConfigError> {
        let read = |name: &'static str| match variable(name) {
            // A Compose file sets a variable without a value to an empty string.
            Ok(value) => Ok(Some(value).filter(|value| !value.is_empty())),
            Err(VarError::NotPresent) => Ok(None),
            Err(VarError::NotUnicode(_)) => Err(ConfigError::new(
                ConfigErrorKind::InvalidVariable,
                format!(
                    "the environment variable {name} is not Unicode; copy its value again from Released's settings"
                ),
            )),
        };
        let missing = |name: &'static str| {
            ConfigError::new(
                ConfigErrorKind::MissingVariable,
                format!(
                    "the environment variable {name} is not set, or empty; its value is in Released's settings, under \
                     User verification"
                ),
            )
        };

        let account_id =
            read("RELEASED_ACCOUNT_ID")?.ok_or_else(|| missing("RELEASED_ACCOUNT_ID"))?;
        let secret = match (
            read("RELEASED_SHARED_SECRET")?,
            read("RELEASED_SHARED_SECRET_FILE")?,
        ) {
            (Some(secret), None) => secret.into(),
            (None, Some(path)) => SecretFile::open(path)?.into(),
            (Some(_), Some(_)) => {
                return Err(ConfigError::new(
                    ConfigErrorKind::AmbiguousSecret,
                    "both RELEASED_SHARED_SECRET and RELEASED_SHARED_SECRET_FILE are set; unset one of them",
                ));
            }
            (None, None) => return Err(missing("RELEASED_SHARED_SECRET")),
        };
        let mut builder = Self::new(account_id, secret);
        builder.endpoint = read("RELEASED_TOKEN_URL")?;
        Ok(builder)
    }

    /// Creates a builder from the environment, to change what [`ReleasedClient::from_env`] leaves at its default.
    ///
    /// # Errors
    ///
    /// A variable is missing or wrong. The error names it.
    ///
    /// # Example
    ///
    /// ```no_run
    /// use std::time::Duration;
    /// use tower_released::client::ReleasedClientBuilder;
    ///
    /// # fn main() -> Result<(), tower_released::client::ConfigError> {
    /// let released = ReleasedClientBuilder::from_env()?
    ///     .deadline(Duration::from_secs(2))
    ///     .build()?;
    /// # Ok(()) }
    /// ```
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::from_variables(|name| env::var(name))
    }
}

// By hand, because an endpoint that was not checked yet may contain a password.
impl fmt::Debug for ReleasedClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReleasedClientBuilder")
            .field("api", &self.api)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::transport::hyper::{CONNECT_TIMEOUT, IDLE_TIMEOUT, MAX_IDLE};

    fn from(variables: &[(&str, &str)]) -> Result<ReleasedClient, ConfigError> {
        ReleasedClientBuilder::from_variables(|wanted| {
            let found = variables.iter().find(|(name, _)| *name == wanted);
            found
                .map(|(_, value)| (*value).to_owned())
                .ok_or(VarError::NotPresent)
        })?
        .build()
    }

    #[test]
    fn the_defaults_are_the_documented_policy() {
        let milliseconds = Duration::from_millis;
        let builder = ReleasedClient::builder("acc", "s3cret");
        assert_eq!(builder.deadline, milliseconds(3000));
        assert_eq!(
            (builder.max_in_flight, builder.queue_wait),
            (128, milliseconds(50))
        );
        assert_eq!(
            (CONNECT_TIMEOUT, IDLE_TIMEOUT, MAX_IDLE),
            (milliseconds(1000), milliseconds(30_000), 32)
        );
        let retry = RetryConfig {
            max_attempts: 3,
            attempt_timeout: milliseconds(1500),
            first_pause: milliseconds(50),
            longest_pause: milliseconds(400),
            longest_retry_after: milliseconds(1000),
            budget: 0.1,
        };
        let circuit = CircuitConfig {
            failures_in_a_row: 5,
            failing_part: 0.5,
            of_at_least: 20,
            first_open: milliseconds(5000),
            longest_open: milliseconds(60_000),
        };
        assert_eq!((builder.retry, builder.circuit), (retry, circuit));
    }

    const ACCOUNT: (&str, &str) = ("RELEASED_ACCOUNT_ID", "acc");
    const SECRET: (&str, &str) = ("RELEASED_SHARED_SECRET", "s3cret");

    #[test]
    fn the_environment_is_enough() {
        let local = ("RELEASED_TOKEN_URL", "http://127.0.0.1:1/token");
        let client = from(&[ACCOUNT, SECRET, local]).expect("a client");
        let pipeline = client.pipeline.expect("credentials");
        assert_eq!(pipeline.exchange.endpoint.url().as_str(), local.1);
    }

    #[test]
    fn only_without_any_credential_there_is_no_client() {
        let or_none = |variables: &[(&str, &str)]| {
            ReleasedClientBuilder::from_variables_or_none(|wanted| {
                let found = variables.iter().find(|(name, _)| *name == wanted);
                found
                    .map(|(_, value)| (*value).to_owned())
                    .ok_or(VarError::NotPresent)
            })
        };
        let url = ("RELEASED_TOKEN_URL", "http://127.0.0.1:1/token");
        let empty = CREDENTIALS.map(|name| (name, ""));
        for none in [&[][..], &empty, &[url]] {
            assert!(or_none(none).expect("no error").is_none(), "{none:?}");
        }
        assert!(or_none(&[ACCOUNT, SECRET]).expect("no error").is_some());
        for half in [
            &[ACCOUNT][..],
            &[SECRET],
            &[("RELEASED_SHARED_SECRET_FILE", "/run/secret"), url],
            &[ACCOUNT, empty[1], empty[2]],
        ] {
            let error = or_none(half).expect_err("half of the credentials");
            assert_eq!(error.kind(), ConfigErrorKind::MissingVariable, "{half:?}");
        }
        let garbled = |name: &str| match name {
            "RELEASED_SHARED_SECRET" => Err(VarError::NotUnicode("".into())),
            "RELEASED_ACCOUNT_ID" => Ok("acc".to_owned()),
            _ => Err(VarError::NotPresent),
        };
        let error = ReleasedClientBuilder::from_variables_or_none(garbled).expect_err("garbled");
        assert_eq!(error.kind(), ConfigErrorKind::InvalidVariable);
    }

    #[test]
    fn errors_name_the_variable_that_is_missing_or_wrong() {
        let error = from(&[SECRET]).expect_err("no account");
        assert!(error.to_string().contains("RELEASED_ACCOUNT_ID"), "{error}");
        let error = from(&[ACCOUNT]).expect_err("no secret");
        assert!(
            error.to_string().contains("RELEASED_SHARED_SECRET"),
            "{error}"
        );
        let error = from(&[ACCOUNT, ("RELEASED_SHARED_SECRET", " ")]).expect_err("an empty secret");
        assert_eq!(error.kind(), ConfigErrorKind::Secret);
        assert!(error.to_string().contains("is empty"), "{error}");
        let error = from(&[("RELEASED_ACCOUNT_ID", " "), SECRET]).expect_err("an empty account");
        assert_eq!(error.kind(), ConfigErrorKind::AccountId);
        let error = from(&[
            ACCOUNT,
            SECRET,
            ("RELEASED_SHARED_SECRET_FILE", "/run/secret"),
        ])
        .expect_err("two secrets");
        assert_eq!(error.kind(), ConfigErrorKind::AmbiguousSecret);
        let error = from(&[
            ACCOUNT,
            SECRET,
            ("RELEASED_TOKEN_URL", "http://example.com"),
        ])
        .expect_err("plain http");
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
        assert!(
            error
                .to_string()
                .contains("RELEASED_SHARED_SECRET is not set"),
            "{error}"
        );
    }

    #[test]
    fn neither_a_builder_nor_an_error_shows_the_secret() {
        let builder =
            ReleasedClient::builder("acc", "s3cret").endpoint("http://s3cret@example.com");
        assert!(!format!("{builder:?}").contains("s3cret"));
        let error = builder.build().expect_err("a URL with a user name");
        assert!(!format!("{error}{error:?}").contains("s3cret"));
    }

    #[cfg(any(feature = "rustls", feature = "native-tls"))]
    #[test]
    fn both_documented_urls_are_good() {
        for api in [TokenApi::Impersonation, TokenApi::EmailOnly] {
            assert!(
                ReleasedClient::builder("acc", "s3cret")
                    .api(api)
                    .build()
                    .is_ok()
            );
        }
    }

    #[cfg(not(any(feature = "rustls", feature = "native-tls")))]
    #[test]
    fn building_for_https_without_tls_fails() {
        let error = ReleasedClient::new("acc", "s3cret").expect_err("no TLS");
        assert_eq!(error.kind(), ConfigErrorKind::NoTls);
    }
}
