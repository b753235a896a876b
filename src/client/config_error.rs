//! What can be wrong with a client's configuration.

use std::fmt;
use std::path::{Path, PathBuf};

use tower::BoxError;

use super::endpoint::InvalidEndpoint;
use super::secret::InvalidSecret;
use super::secret_file::SecretFileError;

/// What is wrong with a client's configuration.
///
/// [`kind`](Self::kind) says what it concerns. The text says the cause and the cure, and never holds the secret. `Debug`
/// prints the same text, because that is what a `main` prints that returns the error.
///
/// # Example
///
/// ```
/// use tower_released::client::{ConfigErrorKind, SharedSecret};
///
/// let error = SharedSecret::new("  ").unwrap_err();
/// assert_eq!(error.kind(), ConfigErrorKind::Secret);
/// assert!(error.to_string().starts_with("the shared secret is empty"));
/// ```
pub struct ConfigError {
    cause: Cause,
}

/// What a [`ConfigError`] concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConfigErrorKind {
    /// An environment variable is not set, or empty. The text names it.
    MissingVariable,
    /// An environment variable is not Unicode. The text names it.
    InvalidVariable,
    /// The account id is empty or has control characters.
    AccountId,
    /// The shared secret is empty, or has characters that no header can carry.
    Secret,
    /// The secret file cannot be read, or holds no valid secret.
    SecretFile,
    /// Both `RELEASED_SHARED_SECRET` and `RELEASED_SHARED_SECRET_FILE` are set.
    AmbiguousSecret,
    /// The token URL is not one that the secret may be sent to.
    Endpoint,
    /// The token URL is `https`, and the crate was built without TLS.
    NoTls,
    /// The proxy that the environment names for `https` is neither an `http` nor an `https` one.
    Proxy,
    /// The HTTP client could not be built, most often because the system has no root certificates.
    HttpClient,
}

/// What is wrong, with all that its text says.
pub(crate) enum Cause {
    MissingVariable(&'static str),
    VariableNotUnicode(&'static str),
    AccountId,
    Secret(InvalidSecret),
    SecretFile {
        /// Nothing if it may be the secret itself.
        path: Option<PathBuf>,
        error: SecretFileError,
    },
    AmbiguousSecret,
    Endpoint(InvalidEndpoint),
    #[cfg_attr(any(feature = "rustls", feature = "native-tls"), allow(dead_code))]
    NoTls,
    #[cfg_attr(not(any(feature = "rustls", feature = "native-tls")), allow(dead_code))]
    Proxy,
    #[cfg_attr(not(any(feature = "rustls", feature = "native-tls")), allow(dead_code))]
    HttpClient(BoxError),
}

impl ConfigError {
    /// Returns what the error concerns.
    pub fn kind(&self) -> ConfigErrorKind {
        match self.cause {
            Cause::MissingVariable(_) => ConfigErrorKind::MissingVariable,
            Cause::VariableNotUnicode(_) => ConfigErrorKind::InvalidVariable,
            Cause::AccountId => ConfigErrorKind::AccountId,
            Cause::Secret(_) => ConfigErrorKind::Secret,
            Cause::SecretFile { .. } => ConfigErrorKind::SecretFile,
            Cause::AmbiguousSecret => ConfigErrorKind::AmbiguousSecret,
            Cause::Endpoint(_) => ConfigErrorKind::Endpoint,
            Cause::NoTls => ConfigErrorKind::NoTls,
            Cause::Proxy => ConfigErrorKind::Proxy,
            Cause::HttpClient(_) => ConfigErrorKind::HttpClient,
        }
    }

    #[cfg(any(feature = "rustls", feature = "native-tls"))]
    pub(crate) fn http_client(error: impl Into<BoxError>) -> Self {
        Cause::HttpClient(error.into()).into()
    }

    pub(crate) fn secret_file(path: PathBuf, error: SecretFileError) -> Self {
        Cause::SecretFile {
            path: Some(path).filter(|path| is_surely_a_path(path)),
            error,
        }
        .into()
    }
}

/// Whether this names a file or a place for one. Otherwise it may be the secret itself, put into the variable of the path by
/// mistake. The root is no evidence: a secret in base64 may start with a slash.
fn is_surely_a_path(path: &Path) -> bool {
    let is_a_folder = |parent: &Path| parent.parent().is_some() && parent.is_dir();
    path.exists() || path.parent().is_some_and(is_a_folder)
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            Cause::MissingVariable(name) => write!(
                f,
                "the environment variable {name} is not set, or empty; its value is in Released's settings, under User \
                 verification"
            ),
            Cause::VariableNotUnicode(name) => {
                write!(f, "the environment variable {name} is not Unicode; copy its value again from Released's settings")
            }
            Cause::AccountId => f.write_str(
                "the account id (RELEASED_ACCOUNT_ID) is empty or has control characters in it; copy it again from \
                 Released's settings, under User verification",
            ),
            Cause::Secret(invalid) => invalid.fmt(f),
            Cause::SecretFile { path: Some(path), error } => write!(f, "{}: {error}", path.display()),
            Cause::SecretFile { path: None, error } => write!(
                f,
                "{error} (the path is not shown, because no folder of that name exists and it may be the secret itself; \
                 RELEASED_SHARED_SECRET_FILE takes the path of a file, RELEASED_SHARED_SECRET the secret)"
            ),
            Cause::AmbiguousSecret => f.write_str(
                "both RELEASED_SHARED_SECRET and RELEASED_SHARED_SECRET_FILE are set; unset the one that is not meant",
            ),
            Cause::Endpoint(invalid) => invalid.fmt(f),
            Cause::NoTls => f.write_str(
                "the token URL is https, but tower-released was built without TLS: \
                 enable its feature `rustls` or `native-tls`, or pass an `http_service` that has it",
            ),
            Cause::Proxy => f.write_str(
                "the proxy that the environment names (HTTPS_PROXY or ALL_PROXY) is not an http:// or https:// one: set \
                 NO_PROXY for the token URL's host, or pass an `http_service` that can use it",
            ),
            Cause::HttpClient(_) => f.write_str(
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
        match &self.cause {
            Cause::HttpClient(error) => Some(&**error),
            _ => None,
        }
    }
}

impl From<Cause> for ConfigError {
    fn from(cause: Cause) -> Self {
        Self { cause }
    }
}

impl From<InvalidSecret> for ConfigError {
    fn from(invalid: InvalidSecret) -> Self {
        Cause::Secret(invalid).into()
    }
}

impl From<InvalidEndpoint> for ConfigError {
    fn from(invalid: InvalidEndpoint) -> Self {
        Cause::Endpoint(invalid).into()
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    #[test]
    fn a_secret_in_the_place_of_a_path_is_not_printed() {
        let folder = std::env::temp_dir();
        let text = |path: &Path| {
            let error = ConfigError::secret_file(
                path.to_owned(),
                SecretFileError::Unreadable(ErrorKind::NotFound),
            );
            assert_eq!(error.kind(), ConfigErrorKind::SecretFile);
            assert_eq!(format!("{error:?}"), format!("ConfigError: {error}"));
            error.to_string()
        };
        for secret in [
            "s3cret",
            "/s3cret",
            "s3cret/s3cret",
            "/s3cret/s3cret==",
            "s3cret/",
            "./s3cret/s3cret",
            "",
        ] {
            let text = text(Path::new(secret));
            assert!(!text.contains("s3cret"), "{text}");
            assert!(
                text.contains("RELEASED_SHARED_SECRET_FILE takes the path of a file"),
                "{text}"
            );
        }
        for path in [
            folder.join("tower-released-missing"),
            std::env::current_exe().expect("a path"),
        ] {
            let text = text(&path);
            assert!(text.starts_with(path.to_str().expect("Unicode")), "{text}");
        }
    }
}
