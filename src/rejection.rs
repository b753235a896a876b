//! Why a handler cannot have its token, and the answer to its client.

use std::fmt;
use std::time::Duration;

use http::header::{CACHE_CONTROL, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, StatusCode};

use crate::error::{MintError, MintErrorKind};

/// The value of `Retry-After` if the error has none: the time for which the circuit breaker first stays open.
const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(5);

/// Says why a handler that asks for an [`AuthToken`](crate::AuthToken) cannot have one.
///
/// Its texts are sent to the client, so they say nothing of the configuration or of Released. The texts for a missing
/// layer, a skipped request and a disabled client say more, because they occur during development.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum AuthTokenRejection {
    /// There is no [`ReleasedTokenLayer`](crate::ReleasedTokenLayer) around the handler.
    MissingLayer,
    /// Nobody is signed in.
    Anonymous,
    /// The layer's filter skipped this request.
    Skipped,
    /// The mint failed.
    Mint(MintError),
}

impl AuthTokenRejection {
    /// Returns the status of the answer.
    ///
    /// | rejection | status |
    /// |---|---|
    /// | [`Anonymous`](Self::Anonymous) | 401 |
    /// | [`Mint`](Self::Mint): Released is unreachable or failing, or too many mints are in flight | 503 |
    /// | [`Mint`](Self::Mint): the client is disabled | 503, without `Retry-After` |
    /// | [`Mint`](Self::Mint): Released is too slow | 504 |
    /// | [`Mint`](Self::Mint): Released's answer is not a token | 502 |
    /// | [`Mint`](Self::Mint): the secret, the account, the user or the resolver is wrong | 500 |
    /// | [`MissingLayer`](Self::MissingLayer), [`Skipped`](Self::Skipped) | 500 |
    ///
    /// If Released refuses the shared secret, the status is 500. A 401 would ask the user to sign in again, which does
    /// not help.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Anonymous => StatusCode::UNAUTHORIZED,
            Self::MissingLayer | Self::Skipped => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Mint(error) => match Failure::of(error.kind()) {
                Failure::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
                Failure::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
                Failure::BadGateway => StatusCode::BAD_GATEWAY,
                Failure::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            },
        }
    }

    /// Returns the text of the answer.
    pub fn body_text(&self) -> String {
        self.to_string()
    }

    /// Returns after how long the client should try again. Only for status 503, and not if the client is disabled: then
    /// waiting does not help.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Mint(error) if error.kind() == MintErrorKind::Disabled => None,
            Self::Mint(error) if self.status() == StatusCode::SERVICE_UNAVAILABLE => {
                Some(error.retry_after().unwrap_or(DEFAULT_RETRY_AFTER))
            }
            _ => None,
        }
    }

    /// Adds the headers of an answer over HTTP. Some caches keep errors, too.
    pub(crate) fn insert_headers(&self, headers: &mut HeaderMap) {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(delay) = self.retry_after() {
            // Rounded up, or clients come back too early.
            let seconds = delay
                .as_secs()
                .saturating_add(u64::from(delay.subsec_nanos() > 0));
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
    }

    /// Returns the text, which is ASCII without `%`, so that it needs no encoding in `grpc-message`.
    pub(crate) fn client_text(&self) -> &'static str {
        match self {
            Self::MissingLayer => {
                "No ReleasedTokenLayer is around this handler. Add `.layer(ReleasedTokenLayer::new(client, resolver))` \
                 to the router, after the route."
            }
            Self::Anonymous => "Nobody is signed in.",
            Self::Skipped => {
                "The filter of the ReleasedTokenLayer skipped this request, so it has no auth token. \
                 Take an `Option` of it in the handler, or include the request with `.mint_when(..)`."
            }
            // As above: it occurs during development.
            Self::Mint(error) if error.kind() == MintErrorKind::Disabled => {
                "Auth tokens are disabled in this application."
            }
            Self::Mint(error) => match Failure::of(error.kind()) {
                Failure::Unavailable => "The auth token is not available right now.",
                Failure::DeadlineExceeded => "The auth token did not arrive in time.",
                Failure::BadGateway | Failure::Internal => "The auth token could not be minted.",
            },
        }
    }
}

impl fmt::Display for AuthTokenRejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.client_text())
    }
}

impl std::error::Error for AuthTokenRejection {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Mint(error) => Some(error),
            _ => None,
        }
    }
}

/// The kinds of failed mints, as a client sees them.
pub(crate) enum Failure {
    /// Try again later.
    Unavailable,
    /// It took too long.
    DeadlineExceeded,
    /// Released's answer is not a token.
    BadGateway,
    /// This application or its configuration is wrong.
    Internal,
}

impl Failure {
    pub(crate) fn of(kind: MintErrorKind) -> Self {
        match kind {
            MintErrorKind::RateLimited
            | MintErrorKind::Overloaded
            | MintErrorKind::CircuitOpen
            | MintErrorKind::Connect
            | MintErrorKind::Interrupted
            | MintErrorKind::Unavailable
            | MintErrorKind::Disabled => Self::Unavailable,
            MintErrorKind::Timeout => Self::DeadlineExceeded,
            MintErrorKind::MalformedResponse => Self::BadGateway,
            MintErrorKind::InvalidUser
            | MintErrorKind::Resolver
            | MintErrorKind::Unauthorized
            | MintErrorKind::Rejected
            | MintErrorKind::Config
            | MintErrorKind::WrongAccount => Self::Internal,
        }
    }
}
