//! The error of a client's configuration.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;

use tower::BoxError;

use super::endpoint::InvalidEndpoint;
use super::secret::InvalidSecret;
use super::secret_file::SecretFileError;

/// Says what is wrong with a client's configuration, and what to do.
///
/// The text never contains the secret. `Debug` prints the same text, so that a `main` that returns the error prints it.
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
    kind: ConfigErrorKind,
    text: Cow<'static, str>,
    source: Option<BoxError>,
}

/// Names the kind of a [`ConfigError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConfigErrorKind {
    /// An environment variable is not set, or empty. The text names it.
    MissingVariable,
    /// An environment variable is not Unicode. The text names it.
    InvalidVariable,
    /// The account id is empty or has control characters.
    AccountId,
    /// The shared secret is empty, or has characters that a header cannot have.
    Secret,
    /// The secret file cannot be read, or contains no valid secret.
    SecretFile,
    /// Both `RELEASED_SHARED_SECRET` and `RELEASED_SHARED_SECRET_FILE` are set.
    AmbiguousSecret,
    /// The token URL is invalid, or would send the secret over plain `http`.
    Endpoint,
    /// The token URL is `https`, and the crate was built without TLS.
    NoTls,
    /// The environment's proxy for `https` is neither an `http` nor an `https` proxy.
    Proxy,
    /// The HTTP client could not be built. Most often, the system has no root certificates.
    HttpClient,
}

impl ConfigError {
    /// Creates an error. The text says the cause, then the cure.
    pub(crate) fn new(kind: ConfigErrorKind, text: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind,
            text: text.into(),
            source: None,
        }
    }

    #[cfg(any(feature = "rustls", feature = "native-tls"))]
    pub(crate) fn http_client(error: impl Into<BoxError>) -> Self {
        let text = "the HTTP client could not be built; most often the system has no root certificates \
                    (on Debian and Alpine: install the package ca-certificates)";
        Self {
            source: Some(error.into()),
            ..Self::new(ConfigErrorKind::HttpClient, text)
        }
    }

    pub(crate) fn secret_file(path: &Path, error: SecretFileError) -> Self {
        let text = if is_surely_a_path(path) {
            format!("{}: {error}", path.display())
        } else {
            format!(
                "{error} (the path is not shown: its folder does not exist, so it may be the secret itself; \
                 RELEASED_SHARED_SECRET_FILE takes the path of a file, RELEASED_SHARED_SECRET the secret)"
            )
        };
        Self::new(ConfigErrorKind::SecretFile, text)
    }

    /// Returns the kind of the error.
    pub fn kind(&self) -> ConfigErrorKind {
        self.kind
    }
}

/// Returns whether the path or its folder exists. Otherwise it may be the secret itself, in the wrong variable. The
/// root folder does not count: a secret in base64 may start with a slash.
fn is_surely_a_path(path: &Path) -> bool {
    let is_a_folder = |parent: &Path| parent.parent().is_some() && parent.is_dir();
    path.exists() || path.parent().is_some_and(is_a_folder)
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

crate::error::debug_as_text!(ConfigError);

impl std::error::Error for ConfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

impl From<InvalidSecret> for ConfigError {
    fn from(invalid: InvalidSecret) -> Self {
        Self::new(ConfigErrorKind::Secret, invalid.text())
    }
}

impl From<InvalidEndpoint> for ConfigError {
    fn from(invalid: InvalidEndpoint) -> Self {
        Self::new(ConfigErrorKind::Endpoint, invalid.text())
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
            let error =
                ConfigError::secret_file(path, SecretFileError::Unreadable(ErrorKind::NotFound));
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
