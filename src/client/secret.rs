//! The shared secret, and the header that carries it.

use std::fmt;

use bytes::Bytes;
use http::HeaderValue;
use zeroize::Zeroizing;

use super::config_error::ConfigError;

/// The scheme of the header (RFC 6750).
const SCHEME: &[u8] = b"Bearer ";

/// Holds the secret that an account shares with Released, from Released's settings under "User verification".
///
/// It is stored only as the value of the `Authorization` header, which is marked sensitive and wiped from memory with
/// its last clone. No `Debug` shows it. The HTTP library's own copies are not wiped.
///
/// # Example
///
/// ```
/// use tower_released::client::SharedSecret;
///
/// // White space around the secret is removed. Released would answer with 401.
/// let secret = SharedSecret::new(" s3cret\n")?;
/// assert_eq!(format!("{secret:?}"), "SharedSecret([redacted])");
/// assert!(SharedSecret::new("  ").is_err());
/// # Ok::<(), tower_released::client::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct SharedSecret {
    authorization: HeaderValue,
}

impl SharedSecret {
    /// Creates a secret, without the white space around it. A `String` is wiped from memory.
    ///
    /// # Errors
    ///
    /// [`ConfigErrorKind::Secret`](super::ConfigErrorKind::Secret) if it is empty, or has control or non-ASCII
    /// characters, which a header cannot have. The error contains no part of the secret.
    pub fn new(secret: impl Into<String>) -> Result<Self, ConfigError> {
        Ok(Self::from_text(&Zeroizing::new(secret.into()))?)
    }

    pub(crate) fn from_text(text: &str) -> Result<Self, InvalidSecret> {
        let secret = text.trim();
        if secret.is_empty() {
            return Err(InvalidSecret::Empty);
        }
        if !secret.is_ascii() {
            return Err(InvalidSecret::NotAscii);
        }
        if secret.bytes().any(|byte| byte.is_ascii_control()) {
            return Err(InvalidSecret::ControlCharacter);
        }
        // Of its final size from the start: a `Vec` that grows leaves copies behind.
        let mut bearer = Zeroizing::new(Vec::with_capacity(SCHEME.len() + secret.len()));
        bearer.extend_from_slice(SCHEME);
        bearer.extend_from_slice(secret.as_bytes());
        let mut authorization = HeaderValue::from_maybe_shared(Bytes::from_owner(bearer))
            .map_err(|_| InvalidSecret::ControlCharacter)?;
        authorization.set_sensitive(true);
        Ok(Self { authorization })
    }

    /// Returns the secret itself, to describe it.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.authorization
            .as_bytes()
            .strip_prefix(SCHEME)
            .unwrap_or_default()
    }

    /// Returns the value of the `Authorization` header. Clones share its memory.
    pub(crate) fn authorization(&self) -> HeaderValue {
        self.authorization.clone()
    }
}

impl PartialEq for SharedSecret {
    fn eq(&self, other: &Self) -> bool {
        self.authorization == other.authorization
    }
}

impl Eq for SharedSecret {}

impl fmt::Debug for SharedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedSecret([redacted])")
    }
}

/// Says why a string is not a [`SharedSecret`]. The texts contain no part of the string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InvalidSecret {
    /// It is empty, or only white space.
    Empty,
    /// It has a control character.
    ControlCharacter,
    /// It has a character that is not ASCII.
    NotAscii,
}

impl InvalidSecret {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Empty => {
                "the shared secret is empty; copy it from Released's settings, under User verification"
            }
            Self::ControlCharacter => {
                "the shared secret has a control character in it, such as a line break; copy it again from Released"
            }
            Self::NotAscii => {
                "the shared secret has a character that is not ASCII, such as a typographic quote or an invisible \
                 space; copy it again from Released"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::ConfigErrorKind;

    #[test]
    fn white_space_around_a_secret_is_removed() {
        let secret = SharedSecret::new("\t s3cret \r\n").expect("a good secret");
        assert_eq!(secret.authorization(), "Bearer s3cret");
        assert!(secret.authorization().is_sensitive());
    }

    #[test]
    fn secrets_that_a_header_cannot_have_are_refused_and_not_shown() {
        for (bad, why) in [
            ("", InvalidSecret::Empty),
            (" \n", InvalidSecret::Empty),
            ("s3\ncret", InvalidSecret::ControlCharacter),
            ("s3\0cret", InvalidSecret::ControlCharacter),
            ("s3\u{200b}cret", InvalidSecret::NotAscii),
            ("“s3cret”", InvalidSecret::NotAscii),
        ] {
            assert_eq!(SharedSecret::from_text(bad).expect_err(bad), why);
            let error = SharedSecret::new(bad).expect_err(bad);
            assert_eq!(error.kind(), ConfigErrorKind::Secret);
            assert!(!format!("{error}{error:?}").contains("s3"));
        }
    }
}
