//! What a client knows of Released, for a readiness page.

use std::time::Duration;

use crate::error::MintErrorKind;

/// What a [`ReleasedClient`](super::ReleasedClient) knows of Released; see [`status`](super::ReleasedClient::status).
///
/// It names nobody and holds no secret, so it can be shown as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// Whether mints are sent, and if not, why.
    pub circuit: CircuitState,
    /// How many mints are under way.
    pub mints_in_flight: usize,
    /// How long ago the last mint succeeded. `None` if none has yet.
    pub last_success: Option<Duration>,
    /// The last mint that was sent and failed. `None` if none has yet.
    pub last_error: Option<LastError>,
    /// Which secret is in use: 1 for the first, and one more for each change that a mint has seen.
    pub secret_generation: u64,
}

/// Whether mints are sent to Released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CircuitState {
    /// Mints are sent.
    Closed,
    /// Mints fail at once.
    #[non_exhaustive]
    Open {
        /// Why.
        reason: CircuitReason,
        /// For how long. Zero if the next mint is sent, to find out.
        remaining: Duration,
    },
    /// One mint is under way to find out; the others fail at once.
    #[non_exhaustive]
    Probing {
        /// Why the circuit was open.
        reason: CircuitReason,
    },
}

impl CircuitState {
    /// The state's name: `closed`, `open` or `probing`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open { .. } => "open",
            Self::Probing { .. } => "probing",
        }
    }

    /// Why mints fail at once. `None` if they do not.
    pub fn reason(self) -> Option<CircuitReason> {
        match self {
            Self::Closed => None,
            Self::Open { reason, .. } | Self::Probing { reason } => Some(reason),
        }
    }
}

/// Why mints fail at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CircuitReason {
    /// Released keeps failing. Mints fail with [`MintErrorKind::CircuitOpen`].
    Failing,
    /// Released asked to wait. Mints fail with the kind of the mint that was told so: [`MintErrorKind::RateLimited`] or
    /// [`MintErrorKind::Unavailable`].
    Throttled,
    /// Released refuses the shared secret. Mints fail with [`MintErrorKind::Unauthorized`].
    Refused,
}

impl CircuitReason {
    #[cfg(feature = "metrics")]
    pub(crate) const ALL: [Self; 3] = [Self::Failing, Self::Throttled, Self::Refused];

    /// The reason's name, for logs and metrics: `failing`, `throttled` or `refused`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failing => "failing",
            Self::Throttled => "throttled",
            Self::Refused => "refused",
        }
    }
}

/// A mint that was sent and failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LastError {
    /// How it failed.
    pub kind: MintErrorKind,
    /// How long ago.
    pub age: Duration,
}
