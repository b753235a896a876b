//! The status of a client, for a readiness page.

use std::time::Duration;

use crate::error::MintErrorKind;

/// Describes the state of a [`ReleasedClient`](super::ReleasedClient); see [`status`](super::ReleasedClient::status).
///
/// It contains no personal data and no secret, so it can be shown unchanged.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// Whether mints are sent, and if not, why.
    pub circuit: CircuitState,
    /// The number of mints in flight.
    pub mints_in_flight: usize,
    /// How long ago the last mint succeeded. `None` if none has yet.
    pub last_success: Option<Duration>,
    /// The error of the last mint that was sent and failed. `None` if none has yet.
    pub last_error: Option<LastError>,
    /// The number of the secret in use: 1 for the first, and one more for each change that a mint has seen. 0 if the
    /// client is disabled.
    pub secret_generation: u64,
}

/// Says whether mints are sent to Released.
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
        /// For how long. Zero if the next mint probes.
        remaining: Duration,
    },
    /// One mint probes. The others fail at once.
    #[non_exhaustive]
    Probing {
        /// Why the circuit was open.
        reason: CircuitReason,
    },
    /// Mints fail at once, because the client is [disabled](super::ReleasedClient::disabled).
    Disabled,
}

impl CircuitState {
    /// Returns the state's name: `closed`, `open`, `probing` or `disabled`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open { .. } => "open",
            Self::Probing { .. } => "probing",
            Self::Disabled => "disabled",
        }
    }

    /// Returns why mints fail at once, or `None` if they are sent.
    pub fn reason(self) -> Option<CircuitReason> {
        match self {
            Self::Closed => None,
            Self::Open { reason, .. } | Self::Probing { reason } => Some(reason),
            Self::Disabled => Some(CircuitReason::Disabled),
        }
    }
}

/// Says why mints fail at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CircuitReason {
    /// Released keeps failing. Mints fail with [`MintErrorKind::CircuitOpen`].
    Failing,
    /// Released asked to wait. Mints fail with [`MintErrorKind::RateLimited`] after a 429, and with
    /// [`MintErrorKind::Unavailable`] after a 503.
    Throttled,
    /// Released refuses the shared secret. Mints fail with [`MintErrorKind::Unauthorized`].
    Refused,
    /// The client has no credentials. Mints fail with [`MintErrorKind::Disabled`].
    Disabled,
}

impl CircuitReason {
    /// The reasons for which a circuit opens.
    #[cfg(feature = "metrics")]
    pub(crate) const OF_CIRCUIT: [Self; 3] = [Self::Failing, Self::Throttled, Self::Refused];

    /// Returns the reason's name, for logs and metrics: `failing`, `throttled`, `refused` or `disabled`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failing => "failing",
            Self::Throttled => "throttled",
            Self::Refused => "refused",
            Self::Disabled => "disabled",
        }
    }
}

/// Describes the last mint that was sent and failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LastError {
    /// The kind of its error.
    pub kind: MintErrorKind,
    /// How long ago it failed.
    pub age: Duration,
}
