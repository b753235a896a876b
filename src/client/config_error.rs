//! What can be wrong with a client's configuration.

use std::fmt;
use std::path::PathBuf;

use tower::BoxError;

use super::endpoint::InvalidEndpoint;
use super::secret::InvalidSecret;
use super::source::SecretFileError;

/// What is wrong with a client's configuration. None of the texts holds the secret.
///
/// `Debug` is the text, too: that is what a `main` prints that returns it.
#[non_exhaustive]
pub enum ConfigError {
    /// This environment variable is not set, or empty.
    MissingVariable(&'static str),
    /// This environment variable is not Unicode.
    VariableNotUnicode(&'static str),
    /// The account id is empty or has control characters.
    AccountId,
    /// The shared secret cannot be one.
    Secret(InvalidSecret),
    /// There is no secret to be had from the secret file.
    SecretFile {
        /// The file that [`SecretFile::open`](super::SecretFile::open) or `RELEASED_SHARED_SECRET_FILE` named.
        path: PathBuf,
        /// What is wrong with it.
        error: SecretFileError,
    },
    /// Both `RELEASED_SHARED_SECRET` and `RELEASED_SHARED_SECRET_FILE` are set.
    AmbiguousSecret,
    /// The token URL cannot be one.
    Endpoint(InvalidEndpoint),
    /// The endpoint is `https`, and the crate was built without TLS.
    NoTls,
    /// The proxy that the environment names for `https` is neither an `http` nor an `https` one.
    Proxy,
    /// The HTTP client could not be built, most often because the system has no root certificates.
    HttpClient(BoxError),
}

impl ConfigError {
    #[cfg(any(feature = "rustls", feature = "native-tls"))]
    pub(crate) fn http_client(error: impl Into<BoxError>) -> Self {
        Self::HttpClient(error.into())
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MissingVariable(name) => write!(
                f,
                "the environment variable {name} is not set, or empty; its value is in Released's settings, under User \
                 verification"
            ),
            Self::VariableNotUnicode(name) => write!(f, "the environment variable {name} is not Unicode"),
            Self::AccountId => {
                f.write_str("the account id (RELEASED_ACCOUNT_ID) is empty or has control characters in it")
            }
            Self::Secret(invalid) => invalid.fmt(f),
            Self::SecretFile { path, error } => write!(f, "{}: {error}", path.display()),
            Self::AmbiguousSecret => f.write_str(
                "both RELEASED_SHARED_SECRET and RELEASED_SHARED_SECRET_FILE are set; unset the one that is not meant",
            ),
            Self::Endpoint(invalid) => invalid.fmt(f),
            Self::NoTls => f.write_str(
                "the token URL is https, but tower-released was built without TLS: \
                 enable its feature `rustls` or `native-tls`, or pass an `http_client` that has it",
            ),
            Self::Proxy => f.write_str(
                "the proxy that the environment names (HTTPS_PROXY or ALL_PROXY) is not an http:// or https:// one: set \
                 NO_PROXY for the token URL's host, or pass an `http_client` that can use it",
            ),
            Self::HttpClient(_) => f.write_str(
                "the HTTP client could not be built; most often the system has no root certificates \
                 (on Debian and Alpine: install the package ca-certificates)",
            ),
        }
    }
}

impl fmt::Debug for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConfigError: {self}")
    }
}

impl std::error::Error for ConfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::HttpClient(error) => Some(&**error),
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
