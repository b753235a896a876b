//! Everything that can be chosen of a client, and what can be wrong with it.

use std::env::{self, VarError};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use reqwest::redirect;

use super::endpoint::{Endpoint, InvalidEndpoint};
use super::exchange::Exchange;
use super::secret::{InvalidSecret, SharedSecret};
use super::wire::TokenApi;
use super::{ReleasedClient, Shared};

/// How long a page waits for its token, everything included.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(3);

/// How long a connection may take to open: DNS, TCP and TLS.
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long an idle connection is kept: below the 60 s after which load balancers usually close one.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// How many idle connections are kept.
const POOL_MAX_IDLE: usize = 32;

/// How long sent data may go unacknowledged before the connection counts as dead.
#[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(5);

/// Puts a [`ReleasedClient`] together; see [`ReleasedClient::builder`].
#[must_use = "a builder does nothing until `build` is called"]
#[derive(Debug)]
pub struct ReleasedClientBuilder {
    account_id: String,
    secret: Result<SharedSecret, InvalidSecret>,
    endpoint: Option<String>,
    api: TokenApi,
    deadline: Duration,
    connect_timeout: Duration,
    http: Option<reqwest::Client>,
}

impl ReleasedClientBuilder {
    pub(crate) fn new(account_id: String, secret: String) -> Self {
        Self {
            account_id,
            secret: SharedSecret::new(secret),
            endpoint: None,
            api: TokenApi::default(),
            deadline: DEFAULT_DEADLINE,
            connect_timeout: DEFAULT_CONNECT_TIMEOUT,
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

    /// How long a mint may take, from the call to the token; 3 seconds if never called.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// How long a connection may take to open, DNS and TLS included; 1 second if never called.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Uses this HTTP client instead of an own one, for certificates or proxies that are special.
    ///
    /// Then what it does is yours to answer for: switch off redirects (they would carry the person's address
    /// elsewhere), proxies for loopback, and decompression. [`connect_timeout`](Self::connect_timeout) has no effect on it.
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
            return Err(ConfigError::AccountId);
        }
        let secret = self.secret?;
        let endpoint = Endpoint::parse(self.endpoint.as_deref().unwrap_or(self.api.documented_url()))?;
        let http = match self.http {
            Some(client) => client,
            None => http_client(&endpoint, self.connect_timeout)?,
        };
        let exchange = Exchange { http, endpoint, api: self.api, account_id, secret };
        Ok(ReleasedClient { shared: Arc::new(Shared { exchange, deadline: self.deadline }) })
    }

    /// Reads the variables that Released's own examples use, and the one for the URL.
    pub(crate) fn from_variables(variable: impl Fn(&str) -> Result<String, VarError>) -> Result<Self, ConfigError> {
        let read = |name: &'static str| match variable(name) {
            Ok(value) => Ok(Some(value)),
            Err(VarError::NotPresent) => Ok(None),
            Err(VarError::NotUnicode(_)) => Err(ConfigError::VariableNotUnicode(name)),
        };
        let require = |name: &'static str| read(name)?.ok_or(ConfigError::MissingVariable(name));

        let mut builder = Self::new(require("RELEASED_ACCOUNT_ID")?, require("RELEASED_SHARED_SECRET")?);
        builder.endpoint = read("RELEASED_TOKEN_URL")?;
        Ok(builder)
    }

    pub(crate) fn from_env() -> Result<Self, ConfigError> {
        Self::from_variables(|name| env::var(name))
    }
}

fn http_client(endpoint: &Endpoint, connect_timeout: Duration) -> Result<reqwest::Client, ConfigError> {
    #[cfg(not(any(feature = "rustls", feature = "native-tls")))]
    if endpoint.needs_tls() {
        return Err(ConfigError::NoTls);
    }
    let mut builder = reqwest::Client::builder()
        .connect_timeout(connect_timeout)
        .pool_idle_timeout(POOL_IDLE_TIMEOUT)
        .pool_max_idle_per_host(POOL_MAX_IDLE)
        .user_agent(concat!("tower-released/", env!("CARGO_PKG_VERSION")))
        // A redirect would carry the secret and the person's address elsewhere.
        .redirect(redirect::Policy::none())
        .referer(false)
        // With HTTP/2, one connection that stalls would stall every later mint.
        .http1_only()
        // Other crates may have switched these features of reqwest on.
        .no_gzip()
        .no_brotli()
        .no_zstd()
        .no_deflate();
    #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
    {
        builder = builder.tcp_user_timeout(TCP_USER_TIMEOUT);
    }
    // A proxy for this machine's own addresses would be told the secret in clear text.
    if endpoint.is_loopback() {
        builder = builder.no_proxy();
    }
    builder.build().map_err(|error| ConfigError::HttpClient(error.without_url()))
}

/// What is wrong with a client's configuration. None of the texts holds the secret.
#[derive(Debug)]
#[non_exhaustive]
pub enum ConfigError {
    /// This environment variable is not set.
    MissingVariable(&'static str),
    /// This environment variable is not Unicode.
    VariableNotUnicode(&'static str),
    /// The account id is empty or has control characters.
    AccountId,
    /// The shared secret cannot be one.
    Secret(InvalidSecret),
    /// The token URL cannot be one.
    Endpoint(InvalidEndpoint),
    /// The endpoint is `https`, and the crate was built without TLS.
    NoTls,
    /// The HTTP client could not be built, most often because the system has no root certificates.
    HttpClient(reqwest::Error),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MissingVariable(name) => write!(
                f,
                "the environment variable {name} is not set; its value is in Released's settings, under User verification"
            ),
            Self::VariableNotUnicode(name) => write!(f, "the environment variable {name} is not Unicode"),
            Self::AccountId => f.write_str("the account id is empty or has control characters in it"),
            Self::Secret(invalid) => invalid.fmt(f),
            Self::Endpoint(invalid) => invalid.fmt(f),
            Self::NoTls => f.write_str(
                "the token URL is https, but tower-released was built without TLS: \
                 enable its feature `rustls` or `native-tls`, or pass an `http_client` that has it",
            ),
            Self::HttpClient(_) => f.write_str(
                "the HTTP client could not be built; most often the system has no root certificates \
                 (on Debian and Alpine: install the package ca-certificates)",
            ),
        }
    }
}

impl std::error::Error for ConfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::HttpClient(error) => Some(error),
            _ => None,
        }
    }
}

impl From<InvalidSecret> for ConfigError {
    fn from(invalid: InvalidSecret) -> Self {
        Self::Secret(invalid)
    }
}

impl From<InvalidEndpoint> for ConfigError {
    fn from(invalid: InvalidEndpoint) -> Self {
        Self::Endpoint(invalid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(variables: &[(&str, &str)]) -> Result<ReleasedClient, ConfigError> {
        ReleasedClientBuilder::from_variables(|wanted| {
            let found = variables.iter().find(|(name, _)| *name == wanted);
            found.map(|(_, value)| (*value).to_owned()).ok_or(VarError::NotPresent)
        })?
        .build()
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
        assert!(matches!(error, ConfigError::Secret(InvalidSecret::Empty)));
        let error = from(&[("RELEASED_ACCOUNT_ID", ""), SECRET]).expect_err("an empty account");
        assert!(matches!(error, ConfigError::AccountId));
        let error = from(&[ACCOUNT, SECRET, ("RELEASED_TOKEN_URL", "http://example.com")]).expect_err("plain http");
        assert!(matches!(error, ConfigError::Endpoint(InvalidEndpoint::PlainHttp)));
    }

    #[test]
    fn nothing_of_the_secret_is_in_a_builder_or_an_error() {
        let builder = ReleasedClient::builder("acc", "s3cret").endpoint("http://s3cret@example.com");
        assert!(!format!("{builder:?}").contains("Bearer"));
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
        assert!(matches!(ReleasedClient::new("acc", "s3cret"), Err(ConfigError::NoTls)));
    }
}
