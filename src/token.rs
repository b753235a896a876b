//! The auth token for the page.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize, Serializer};

use crate::error::MintError;

/// The longest token that is accepted, in bytes. Released documents no length; a signed token like its own probably has
/// a few hundred. Most servers accept headers of up to 8 KiB.
const MAX_BYTES: usize = 8 * 1024;

/// The life of a token that Released documents, for tokens that do not say it themselves.
const DOCUMENTED_LIFE: Duration = Duration::from_secs(2 * 60);

/// The longest life that is accepted: the one that Released's tokens had before it was shortened to two minutes.
const LONGEST_LIFE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Holds a short-lived auth token for one person. It is safe in an HTML attribute.
///
/// Put it into the `auth-token` attribute of a Released embed. `Display` writes the token itself, for templates;
/// `Debug` does not. A token belongs to one page: never store it, and never use it for another request.
///
/// The token is opaque; [`AuthToken::new`] says which characters it may have.
///
/// # As an axum extractor
///
/// | a handler takes | nobody is signed in | the mint failed | the filter skipped the request | no layer |
/// |---|---|---|---|---|
/// | `Option<AuthToken>` | `None` | `None` | `None` | 500 |
/// | `AuthToken` | 401 | 503, 504, 502 or 500 | 500 | 500 |
/// | `Result<AuthToken, AuthTokenRejection>` | `Err(Anonymous)` | `Err(Mint(error))` | `Err(Skipped)` | `Err(MissingLayer)` |
///
/// [`AuthTokenRejection`](crate::AuthTokenRejection) says which status means what.
///
/// # Example
///
/// ```
/// use tower_released::AuthToken;
///
/// let token = AuthToken::new("eyJhbGciOiJIUzI1NiJ9.e30.c2ln")?;
/// assert_eq!(
///     format!(r#"<released-page auth-token="{token}"></released-page>"#),
///     "<released-page auth-token=\"eyJhbGciOiJIUzI1NiJ9.e30.c2ln\">\
///      </released-page>",
/// );
/// assert!(!format!("{token:?}").contains("eyJ"));
/// # Ok::<(), tower_released::MintError>(())
/// ```
#[derive(Clone)]
pub struct AuthToken {
    token: Arc<str>,
    minted_at: SystemTime,
    // The same moment by the clock that never jumps, unlike the one of `minted_at`.
    asked_at: Instant,
}

impl AuthToken {
    /// Creates a token from a string that was minted just now.
    ///
    /// It may have the characters of bearer tokens (RFC 6750, section 2.1, `b64token`): `A-Z a-z 0-9 - . _ ~ + /`, and
    /// `=` at the end. So a token cannot break out of an HTML attribute, a header, a URL or a script.
    ///
    /// # Errors
    ///
    /// [`MintErrorKind::MalformedResponse`](crate::MintErrorKind::MalformedResponse) if it is empty, longer than 8 KiB, or has
    /// other characters. The error's source says which, and contains no part of the token.
    pub fn new(token: impl Into<Arc<str>>) -> Result<Self, MintError> {
        Ok(Self::minted(token.into(), SystemTime::now())?)
    }

    fn minted(token: Arc<str>, minted_at: SystemTime) -> Result<Self, InvalidToken> {
        if token.is_empty() {
            return Err(InvalidToken::Empty);
        }
        if token.len() > MAX_BYTES {
            return Err(InvalidToken::TooLong);
        }
        if !is_b64token(&token) {
            return Err(InvalidToken::Character);
        }
        Ok(Self {
            token,
            minted_at,
            asked_at: Instant::now(),
        })
    }

    /// Counts the token's life from the moment when the request for it was sent, instead of from now.
    ///
    /// Released counts from when it mints, which is before the reply is read, and long before if the reply waited to be
    /// read. Counted from when the request was sent, the remaining time is never too long. `at` and `time` are the same
    /// moment, taken from both clocks just before the request was sent.
    #[cfg(feature = "client")]
    pub(crate) fn asked_for_at(self, at: Instant, time: SystemTime) -> Self {
        Self {
            asked_at: at,
            minted_at: time,
            ..self
        }
    }

    /// Returns the token itself.
    pub fn as_str(&self) -> &str {
        &self.token
    }

    /// Returns when the token was requested, by this server's clock. For a token of [`AuthToken::new`], that is when
    /// `new` was called.
    pub fn minted_at(&self) -> SystemTime {
        self.minted_at
    }

    /// Returns when the token expires if the embed has not used it, by this server's clock.
    ///
    /// The token's life counts from [`minted_at`](Self::minted_at). It is at most seven days:
    ///
    /// | the token is a JWT with | its life |
    /// |---|---|
    /// | `iat` and `exp` | `exp` minus `iat`, so a wrong clock of this server does not matter |
    /// | only `exp` | the time until `exp` by this server's clock, but at most two minutes |
    /// | neither, or not a JWT, or an `exp` in the past | two minutes, as Released documents |
    pub fn expires_at(&self) -> SystemTime {
        self.minted_at + self.life()
    }

    /// Returns the time that the embed has left to use the token. It is zero once the token has expired. A jump of the
    /// server's clock does not change it.
    pub fn remaining(&self) -> Duration {
        self.life().saturating_sub(self.asked_at.elapsed())
    }

    /// Returns whether it is too late for the embed to use the token.
    pub fn is_expired(&self) -> bool {
        self.remaining().is_zero()
    }

    // Computed on demand: most pages only print the token.
    fn life(&self) -> Duration {
        claimed_life(&self.token, self.minted_at).unwrap_or(DOCUMENTED_LIFE)
    }
}

/// Compares the tokens themselves, not when they were minted.
impl PartialEq for AuthToken {
    fn eq(&self, other: &Self) -> bool {
        self.token == other.token
    }
}

impl Eq for AuthToken {}

impl fmt::Display for AuthToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.token)
    }
}

impl fmt::Debug for AuthToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthToken")
            .field("remaining", &self.remaining())
            .finish_non_exhaustive()
    }
}

/// Serializes the token as a string, for JSON replies and template contexts.
impl Serialize for AuthToken {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.token)
    }
}

/// Says why a string is not an [`AuthToken`]. The texts contain no part of the string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InvalidToken {
    /// It is empty.
    Empty,
    /// It is longer than 8 KiB.
    TooLong,
    /// It has a character that bearer tokens cannot have.
    Character,
}

impl fmt::Display for InvalidToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "the auth token is empty",
            Self::TooLong => "the auth token is longer than 8 KiB",
            Self::Character => {
                "the auth token has characters that a bearer token (RFC 6750) cannot have"
            }
        })
    }
}

impl std::error::Error for InvalidToken {}

/// RFC 6750, section 2.1: `b64token = 1*( ALPHA / DIGIT / "-" / "." / "_" / "~" / "+" / "/" ) *"="`.
fn is_b64token(token: &str) -> bool {
    let unpadded = token.trim_end_matches('=');
    let is_legal = |byte| matches!(byte, b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'+' | b'/');
    // No early exit, so that many bytes are compared at once.
    !unpadded.is_empty()
        && unpadded
            .bytes()
            .fold(true, |all, byte| all & is_legal(byte))
}

/// The times that a JWT claims, in seconds since 1970. A `NumericDate` may have a fraction.
#[derive(Deserialize)]
pub(crate) struct Claims {
    pub(crate) exp: f64,
    pub(crate) iat: Option<f64>,
}

impl Claims {
    /// Reads them from a JWT that says when it expires.
    pub(crate) fn of(token: &str) -> Option<Self> {
        let payload = BASE64_URL_SAFE_NO_PAD
            .decode(token.split('.').nth(1)?)
            .ok()?;
        serde_json::from_slice(&payload).ok()
    }
}

/// Reads a token's life from a JWT's `iat` and `exp` claims (RFC 7519, sections 4.1.4 and 4.1.6). It is only a hint:
/// the signature is not checked.
fn claimed_life(token: &str, minted_at: SystemTime) -> Option<Duration> {
    let Claims { exp, iat } = Claims::of(token)?;
    let life = if let Some(iat) = iat {
        // Both are from Released's clock, so a wrong clock of this server does not matter.
        Duration::try_from_secs_f64(exp - iat)
            .ok()?
            .min(LONGEST_LIFE)
    } else {
        // The two clocks may differ, so the life is at most the documented one.
        let expires_at =
            SystemTime::UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(exp).ok()?)?;
        expires_at
            .duration_since(minted_at)
            .ok()?
            .min(DOCUMENTED_LIFE)
    };
    (!life.is_zero()).then_some(life)
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;
    use crate::error::MintErrorKind;

    fn jwt(claims: &str) -> String {
        format!(
            "eyJhbGciOiJIUzI1NiJ9.{}.c2ln",
            BASE64_URL_SAFE_NO_PAD.encode(claims)
        )
    }

    #[test]
    fn the_life_of_a_token_is_its_own_exp_or_two_minutes() {
        let minted_at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        for (seconds, token) in [
            (60, jwt(r#"{"exp":1800000060}"#)),
            (7 * 24 * 3600, jwt(r#"{"exp":1800604800,"iat":1800000000}"#)),
            (120, "opaque".to_owned()),
            (120, "a.b.c".to_owned()),
            (120, jwt("{}")),
            (120, jwt(r#"{"exp":"1800000060"}"#)),
            (120, jwt(r#"{"exp":1800000000}"#)),
            (120, jwt(r#"{"exp":1700000000}"#)),
            (120, jwt(r#"{"exp":1800604801}"#)),
            (120, jwt(r#"{"exp":-1}"#)),
            (120, jwt(r#"{"exp":1e300}"#)),
            (120, jwt(r#"{"exp":18446744073709551615}"#)),
            // Without `iat`, this server's clock counts. It may be wrong, so the life is at most the documented one.
            (120, jwt(r#"{"exp":1800003719}"#)),
            (60, jwt(r#"{"exp":1800000060,"iat":null}"#)),
            (90, jwt(r#"{"exp":1900000090,"iat":1900000000}"#)),
            (90, jwt(r#"{"exp":1700000090,"iat":1700000000}"#)),
            (7 * 24 * 3600, jwt(r#"{"exp":1800604801,"iat":1800000000}"#)),
            (120, jwt(r#"{"exp":1e300,"iat":0}"#)),
            (120, jwt(r#"{"exp":1e308,"iat":-1e308}"#)),
            (120, jwt(r#"{"exp":1800000000,"iat":1800000000}"#)),
            (120, jwt(r#"{"exp":1800000000,"iat":1800000060}"#)),
            (120, jwt(r#"{"exp":1800000060,"iat":"1800000000"}"#)),
        ] {
            let token = AuthToken::minted(token.into(), minted_at).expect("a legal token");
            assert_eq!(
                token.expires_at(),
                minted_at + Duration::from_secs(seconds),
                "{}",
                token.as_str()
            );
        }
    }

    #[test]
    fn the_life_of_a_token_does_not_depend_on_how_wrong_the_clock_is() {
        let issued_at = 1_800_000_000_u64;
        let token = jwt(&format!(
            r#"{{"iat":{issued_at},"exp":{}}}"#,
            issued_at + 120
        ));
        for minutes_wrong in [-60_i64, -2, -1, 0, 1, 2, 60] {
            let minted_at = SystemTime::UNIX_EPOCH
                + Duration::from_secs(issued_at.saturating_add_signed(minutes_wrong * 60));
            let token = AuthToken::minted(token.as_str().into(), minted_at).expect("a legal token");
            assert_eq!(
                token.expires_at(),
                minted_at + Duration::from_secs(120),
                "{minutes_wrong}"
            );
            assert!(
                token.remaining() > Duration::from_secs(110),
                "{minutes_wrong}"
            );
        }
    }

    #[cfg(feature = "client")]
    #[test]
    fn the_life_of_a_token_counts_from_its_request_not_from_when_its_reply_is_read() {
        let a_minute = Duration::from_secs(60);
        let asked_at = Instant::now()
            .checked_sub(a_minute)
            .expect("the machine runs for longer");
        let time = SystemTime::now() - a_minute;
        let token = AuthToken::new("opaque")
            .expect("a legal token")
            .asked_for_at(asked_at, time);
        assert!(token.remaining() <= a_minute && !token.is_expired());
        assert_eq!(
            (token.minted_at(), token.expires_at()),
            (time, time + 2 * a_minute)
        );

        let token = AuthToken::new(jwt(r#"{"iat":0,"exp":30}"#))
            .expect("a legal token")
            .asked_for_at(asked_at, time);
        assert!(token.is_expired());
    }

    #[test]
    fn what_remains_does_not_depend_on_the_wall_clock() {
        let an_hour_ago = SystemTime::now() - Duration::from_secs(3600);
        let token = AuthToken::minted("opaque".into(), an_hour_ago).expect("a legal token");
        assert!(token.expires_at() < SystemTime::now());
        assert!(!token.is_expired());

        // It lives for a millionth of a second.
        let minted_at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let token = AuthToken::minted(jwt(r#"{"exp":1800000000.000001}"#).into(), minted_at)
            .expect("a legal token");
        while token.asked_at.elapsed() < Duration::from_millis(1) {
            std::hint::spin_loop();
        }
        assert!(token.is_expired());
        assert_eq!(token.remaining(), Duration::ZERO);
    }

    #[test]
    fn only_bearer_tokens_are_accepted() {
        for good in ["a", "a=", "a==", "A-Za-z0-9-._~+/", "eyJ.eyJ.sig"] {
            assert!(AuthToken::new(good).is_ok(), "{good}");
        }
        for (bad, why) in [
            ("", InvalidToken::Empty),
            ("=", InvalidToken::Character),
            ("a=b", InvalidToken::Character),
            (" a", InvalidToken::Character),
            ("a\r\nset-cookie: x", InvalidToken::Character),
            (r#""><script>"#, InvalidToken::Character),
            ("å", InvalidToken::Character),
            (&"a".repeat(8193), InvalidToken::TooLong),
        ] {
            let error = AuthToken::new(bad).expect_err(bad);
            assert_eq!(error.kind(), MintErrorKind::MalformedResponse);
            assert_eq!(
                error.source().and_then(|cause| cause.downcast_ref()),
                Some(&why),
                "{bad}"
            );
        }
        assert!(AuthToken::new("a".repeat(8192)).is_ok());
    }
}
