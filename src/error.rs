//! The error of a mint.

use std::convert::Infallible;
use std::error::Error;
use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tower::BoxError;

use crate::account::WrongAccount;
use crate::connection::{Cause, ConnectionFailure};
use crate::resolver::ExtractorRejected;
use crate::token::InvalidToken;
use crate::user::InvalidUser;

/// Makes `Debug` of an error its name and its text, because that is what `main` and `unwrap` print.
macro_rules! debug_as_text {
    ($error:ident) => {
        impl std::fmt::Debug for $error {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, concat!(stringify!($error), ": {}"), self)
            }
        }
    };
}
pub(crate) use debug_as_text;

/// Says why a mint failed, and what to do.
///
/// Neither `Display` nor `Debug` contains the secret, a token, an e-mail address or text from Released's answer.
/// [`source`](Error::source) returns your own resolver's error unchanged. It may name a person, so check it before you
/// log it.
///
/// If you write your own minter, create errors with [`MintError::new`], or use `From<BoxError>`, which recognises the
/// errors of tower's layers.
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use tower_released::{MintError, MintErrorKind};
///
/// let error = MintError::new(MintErrorKind::RateLimited)
///     .with_retry_after(Duration::from_secs(5));
/// assert_eq!(error.kind(), MintErrorKind::RateLimited);
/// assert_eq!(error.retry_after(), Some(Duration::from_secs(5)));
///
/// let timed_out: tower::BoxError = tower::timeout::error::Elapsed::new().into();
/// assert_eq!(MintError::from(timed_out).kind(), MintErrorKind::Timeout);
/// ```
#[derive(Clone)]
pub struct MintError {
    kind: MintErrorKind,
    status: Option<StatusCode>,
    retry_after: Option<Duration>,
    is_turned_away: bool,
    source: Option<Arc<dyn Error + Send + Sync>>,
}

impl MintError {
    /// Creates an error of this kind.
    pub fn new(kind: MintErrorKind) -> Self {
        Self {
            kind,
            status: None,
            retry_after: None,
            is_turned_away: false,
            source: None,
        }
    }

    /// Sets after how long a retry makes sense.
    pub fn with_retry_after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self
    }

    /// Sets the cause. Neither `Display` nor `Debug` shows it.
    pub fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(source.into().into());
        self
    }

    #[cfg(feature = "client")]
    pub(crate) fn with_status(mut self, status: StatusCode) -> Self {
        self.status = Some(status);
        self
    }

    #[cfg(feature = "client")]
    pub(crate) fn status(&self) -> Option<StatusCode> {
        self.status
    }

    /// Creates the error of a mint that was not sent because earlier mints failed. Mints fail at once for the time that
    /// is `left`.
    #[cfg(feature = "client")]
    pub(crate) fn turned_away(kind: MintErrorKind, left: Duration) -> Self {
        Self {
            is_turned_away: true,
            ..Self::new(kind).with_retry_after(left)
        }
    }

    /// Returns whether the mint was not sent because earlier mints failed: Released keeps failing, asked to wait, or
    /// refuses the secret. The circuit has logged that once.
    #[cfg_attr(not(feature = "client"), allow(dead_code))]
    pub(crate) fn is_turned_away(&self) -> bool {
        self.is_turned_away
    }

    /// Returns why the connection failed, and to which server, if known.
    pub(crate) fn connection_failure(&self) -> Option<&ConnectionFailure> {
        self.source.as_deref()?.downcast_ref()
    }

    /// Returns what happened.
    pub(crate) fn event(&self) -> String {
        let kind = if self.is_guess() {
            MintErrorKind::Rejected
        } else {
            self.kind
        };
        let mut text = kind.what_happened().to_owned();
        if let Some(status) = self.status {
            let _ = write!(text, " ({})", status.as_u16());
        }
        if let Some(failure) = self.named_failure() {
            let _ = write!(text, " ({})", failure.cause().as_str());
        }
        text
    }

    /// Returns what to do.
    pub(crate) fn cure(&self) -> String {
        if let Some(own) = self.own_text() {
            return own;
        }
        let guess = if self.is_guess() {
            // Released documents 401 for a wrong secret, and nothing for 403.
            "probably the shared secret is wrong: "
        } else {
            ""
        };
        let cure = match self.named_failure() {
            Some(failure) => failure.cause().what_to_do(),
            None if self.kind == MintErrorKind::Config && self.source.is_some() => {
                "the error's source() says more"
            }
            None => self.kind.what_to_do(),
        };
        format!("{guess}{cure}")
    }

    /// Returns whether the kind is a guess from the status.
    fn is_guess(&self) -> bool {
        self.kind == MintErrorKind::Unauthorized && self.status == Some(StatusCode::FORBIDDEN)
    }

    /// Returns the text of a source that has no data of the user, and is more precise.
    fn own_text(&self) -> Option<String> {
        self.source()
            .filter(|source| {
                source.is::<InvalidUser>()
                    || source.is::<ExtractorRejected>()
                    || source.is::<WrongAccount>()
            })
            .map(ToString::to_string)
    }

    /// Returns the failure because of which no connection could be opened, if its cause is known.
    fn named_failure(&self) -> Option<&ConnectionFailure> {
        let failure = self.connection_failure()?;
        let is_named = self.kind == MintErrorKind::Connect && failure.cause() != Cause::Other;
        is_named.then_some(failure)
    }

    /// Returns the kind of the error.
    pub fn kind(&self) -> MintErrorKind {
        self.kind
    }

    /// Returns after how long a retry makes sense, if known.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }
}

/// Names the kind of a [`MintError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MintErrorKind {
    /// The resolver's user breaks one of Released's rules. The source is the [`InvalidUser`].
    InvalidUser,
    /// The resolver failed. The source is its error.
    Resolver,
    /// Released refused the shared secret (401). A 403, which Released does not document, probably means the same.
    Unauthorized,
    /// Released refused the request (any other 4xx). Released does not document why it would.
    Rejected,
    /// Released asked for fewer requests (429). Released documents no limits.
    RateLimited,
    /// This process has too many mints in flight.
    Overloaded,
    /// Released kept failing, so the client sends nothing for now.
    CircuitOpen,
    /// No connection to Released could be opened. The text names the cause, and the source names the server.
    Connect,
    /// Released did not answer in time.
    Timeout,
    /// The connection broke before the answer was complete, or the request for the page was dropped.
    Interrupted,
    /// Released, or your own minter, is failing.
    Unavailable,
    /// The answer was not a token.
    MalformedResponse,
    /// The minter cannot work as it is configured.
    Config,
    /// The client is disabled, because it has no credentials. Nothing is sent.
    Disabled,
    /// The minter does not serve the user's account. Nothing is sent. The text says why.
    WrongAccount,
}

impl MintErrorKind {
    /// All kinds, for counters that start at zero.
    #[cfg(feature = "metrics")]
    pub(crate) const ALL: [Self; 15] = [
        Self::InvalidUser,
        Self::Resolver,
        Self::Unauthorized,
        Self::Rejected,
        Self::RateLimited,
        Self::Overloaded,
        Self::CircuitOpen,
        Self::Connect,
        Self::Timeout,
        Self::Interrupted,
        Self::Unavailable,
        Self::MalformedResponse,
        Self::Config,
        Self::Disabled,
        Self::WrongAccount,
    ];

    /// Returns the kind's name in `snake_case`, for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidUser => "invalid_user",
            Self::Resolver => "resolver",
            Self::Unauthorized => "unauthorized",
            Self::Rejected => "rejected",
            Self::RateLimited => "rate_limited",
            Self::Overloaded => "overloaded",
            Self::CircuitOpen => "circuit_open",
            Self::Connect => "connect",
            Self::Timeout => "timeout",
            Self::Interrupted => "interrupted",
            Self::Unavailable => "unavailable",
            Self::MalformedResponse => "malformed_response",
            Self::Config => "config",
            Self::Disabled => "disabled",
            Self::WrongAccount => "wrong_account",
        }
    }

    fn what_happened(self) -> &'static str {
        match self {
            Self::InvalidUser => "the signed-in user breaks one of Released's rules",
            Self::Resolver => "the user resolver failed",
            Self::Unauthorized => "Released refused the shared secret",
            Self::Rejected => "Released refused the mint",
            Self::RateLimited => "Released asked for fewer requests",
            Self::Overloaded => "too many mints are in flight",
            Self::CircuitOpen => "Released kept failing, so the circuit breaker is open",
            Self::Connect => "no connection to Released could be opened",
            Self::Timeout => "the mint took too long",
            Self::Interrupted => "the mint was interrupted",
            Self::Unavailable => "the token API is not available",
            Self::MalformedResponse => "the answer is not a token",
            Self::Config => "the minter cannot work as it is configured",
            Self::Disabled => "the client is disabled",
            Self::WrongAccount => "the minter does not serve the user's account",
        }
    }

    pub(crate) fn what_to_do(self) -> &'static str {
        match self {
            Self::InvalidUser => "the error's source() says which one",
            Self::Resolver => {
                "log its error in the resolver; it is not printed here, because it may name a person"
            }
            Self::Unauthorized => {
                "check RELEASED_SHARED_SECRET for stray quotes or a line break inside it, and whether the secret was \
                 rotated in Released's settings"
            }
            Self::Rejected => {
                "check RELEASED_ACCOUNT_ID, the token URL, and that ids and e-mail addresses are what Released expects"
            }
            Self::RateLimited => {
                "mint only where a page needs it, for example with mint_when(navigations)"
            }
            Self::Overloaded => {
                "check whether Released is slow, or the limit too low for this server's traffic"
            }
            Self::CircuitOpen => "wait: the client tries again by itself",
            Self::Connect => "check DNS, the network, proxies and the TLS certificates",
            Self::Timeout => {
                "check whether Released, a proxy or the network is slow, or the deadline too short"
            }
            Self::Interrupted => "the connection broke, or the request for the page was dropped",
            Self::Unavailable => {
                "find out whether Released has an outage; the next request tries again"
            }
            Self::MalformedResponse => {
                "check that the token URL leads to Released and not to a proxy's page"
            }
            Self::Config => "check how the minter is set up",
            Self::Disabled => {
                "set RELEASED_ACCOUNT_ID and RELEASED_SHARED_SECRET to mint auth tokens"
            }
            Self::WrongAccount => "check the resolver's User::in_account",
        }
    }
}

/// Writes what happened, then what to do.
impl fmt::Display for MintError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.event(), self.cure())
    }
}

impl fmt::Debug for MintError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MintError")
            .field("kind", &self.kind)
            .field("status", &self.status)
            .field("retry_after", &self.retry_after)
            .finish_non_exhaustive()
    }
}

impl Error for MintError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

impl From<InvalidUser> for MintError {
    fn from(error: InvalidUser) -> Self {
        Self::new(MintErrorKind::InvalidUser).with_source(error)
    }
}

impl From<WrongAccount> for MintError {
    fn from(error: WrongAccount) -> Self {
        Self::new(MintErrorKind::WrongAccount).with_source(error)
    }
}

impl From<InvalidToken> for MintError {
    fn from(error: InvalidToken) -> Self {
        Self::new(MintErrorKind::MalformedResponse).with_source(error)
    }
}

impl From<Infallible> for MintError {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

/// Recognises the errors of tower's own layers: `Timeout`, `LoadShed`, and `Buffer`, which wraps them. Any other error
/// becomes [`MintErrorKind::Unavailable`], with the error as its source.
impl From<BoxError> for MintError {
    fn from(error: BoxError) -> Self {
        let error = match error.downcast::<Self>() {
            Ok(mint_error) => return *mint_error,
            Err(other) => other,
        };
        let mut cause: Option<&(dyn Error + 'static)> = Some(&*error);
        while let Some(current) = cause {
            if let Some(mint_error) = current.downcast_ref::<Self>() {
                return mint_error.clone();
            }
            if current.is::<tower::timeout::error::Elapsed>() {
                return Self::new(MintErrorKind::Timeout).with_source(error);
            }
            if current.is::<tower::load_shed::error::Overloaded>() {
                return Self::new(MintErrorKind::Overloaded).with_source(error);
            }
            cause = current.source();
        }
        Self::new(MintErrorKind::Unavailable).with_source(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Wrapper(BoxError);

    impl fmt::Display for Wrapper {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("ada@example.com")
        }
    }

    impl Error for Wrapper {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&*self.0)
        }
    }

    #[test]
    fn errors_of_tower_layers_are_recognised_even_when_wrapped() {
        let wrapped =
            |error: BoxError| MintError::from(Box::new(Wrapper(error)) as BoxError).kind();
        assert_eq!(
            wrapped(tower::timeout::error::Elapsed::new().into()),
            MintErrorKind::Timeout
        );
        assert_eq!(
            wrapped(tower::load_shed::error::Overloaded::new().into()),
            MintErrorKind::Overloaded
        );
        assert_eq!(
            wrapped(MintError::new(MintErrorKind::Connect).into()),
            MintErrorKind::Connect
        );
        assert_eq!(wrapped("something else".into()), MintErrorKind::Unavailable);
    }

    #[test]
    fn a_mint_error_keeps_everything_when_it_was_boxed() {
        let error =
            MintError::new(MintErrorKind::RateLimited).with_retry_after(Duration::from_secs(7));
        let error = MintError::from(Box::new(error) as BoxError);
        assert_eq!(
            (error.kind(), error.retry_after()),
            (MintErrorKind::RateLimited, Some(Duration::from_secs(7)))
        );
    }

    #[test]
    fn the_error_of_an_invalid_user_names_the_broken_rule() {
        let text = MintError::from(InvalidUser::IdCharacter).to_string();
        assert!(text.contains("UserId::encode"), "{text}");
    }

    #[test]
    fn texts_say_what_to_do_over_http_and_grpc() {
        let text = |kind| MintError::new(kind).to_string();
        let unauthorized = text(MintErrorKind::Unauthorized);
        assert!(
            unauthorized.contains("stray quotes or a line break inside it"),
            "{unauthorized}"
        );
        // Of gRPC, too, where nobody navigates.
        let unavailable = text(MintErrorKind::Unavailable);
        assert!(
            unavailable
                .ends_with("find out whether Released has an outage; the next request tries again"),
            "{unavailable}"
        );
    }

    #[test]
    fn an_error_of_the_configuration_points_to_a_source_only_if_it_has_one() {
        let error = MintError::new(MintErrorKind::Config);
        assert!(
            error
                .to_string()
                .ends_with("check how the minter is set up"),
            "{error}"
        );
        let error = error.with_source("no such file");
        assert!(
            error
                .to_string()
                .ends_with("the error's source() says more"),
            "{error}"
        );
    }

    #[test]
    fn neither_text_shows_the_source() {
        let error =
            MintError::new(MintErrorKind::Resolver).with_source("no row for ada@example.com");
        assert!(
            error
                .to_string()
                .starts_with("the user resolver failed: log its error in the resolver")
        );
        assert!(!error.to_string().contains("ada"));
        assert!(!format!("{error:?}").contains("ada"));
        assert_eq!(
            error.source().map(ToString::to_string).as_deref(),
            Some("no row for ada@example.com")
        );
    }
}
