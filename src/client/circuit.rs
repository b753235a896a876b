//! The circuit's state and its rules. Nothing in here locks or logs: an [`Event`] is logged when the lock is free.

use std::time::Duration;

use tokio::time::Instant;

use super::config::CircuitConfig;
use super::secret::SharedSecret;
use super::status::{CircuitReason, CircuitState};
use super::window::Window;
use crate::error::{MintError, MintErrorKind};
use crate::telemetry::{info, warn};

/// The part by which the time that the circuit stays open varies, so that servers do not probe together.
const JITTER: f64 = 0.2;

/// The `retry_after` of mints that fail while a probe is under way. Most probes end sooner.
pub(crate) const PROBE_TAKES: Duration = Duration::from_secs(1);

/// What the end of a mint says about Released.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Verdict<'a> {
    Success,
    /// No connection, no answer, or a 5xx.
    Failure,
    /// A 429. It counts towards the failing part, but not as a failure in a row: Released works.
    Throttled,
    /// A 401 to this secret, for the user with this hash; see `Admission::refused`.
    Refused(&'a SharedSecret, u64),
    /// Any other end, such as a 400. It is not counted, but a probe with it closes the circuit.
    Unrelated,
}

/// The circuit, the hold, and the mints that led to them.
#[derive(Debug)]
pub(crate) struct State {
    config: CircuitConfig,
    circuit: Circuit,
    hold: Option<Hold>,
    /// Changes with the circuit. A mint that was admitted in another era does not count.
    pub(crate) era: u64,
    failures_in_a_row: u32,
    window: Window,
    refusals: Option<Refusals>,
    /// The user of the last probe that was refused.
    refused_probe: Option<u64>,
    next_open: Duration,
    /// The reason under which the gauge counts this client.
    pub(crate) counted: Option<CircuitReason>,
    pub(crate) last_success: Option<Instant>,
    pub(crate) last_error: Option<(MintErrorKind, Instant)>,
}

#[derive(Clone, Copy, Debug)]
enum Circuit {
    Closed,
    /// Mints fail until then. The first one after that probes.
    Open {
        until: Instant,
        reason: CircuitReason,
    },
    /// A probe is under way. If it has not reported by `lost_at`, the next mint probes.
    Probing {
        lost_at: Instant,
        reason: CircuitReason,
    },
}

/// Released asked to wait until then, in an answer with this error.
#[derive(Clone, Copy, Debug)]
struct Hold {
    until: Instant,
    kind: MintErrorKind,
}

/// The refusals of one secret in a row.
#[derive(Debug)]
struct Refusals {
    secret: SharedSecret,
    in_a_row: u32,
    first_user: u64,
    /// Whether more than one user was refused. Refusals of a single user may be due to that user.
    of_several: bool,
}

/// A change of the circuit or of the hold, to be logged.
#[derive(Debug)]
pub(crate) enum Event {
    Opened {
        reason: CircuitReason,
        open_for: Duration,
    },
    Held {
        kind: MintErrorKind,
        open_for: Duration,
    },
    Closed {
        reason: CircuitReason,
    },
    SecretChanged,
}

impl State {
    pub(crate) fn new(config: CircuitConfig) -> Self {
        Self {
            circuit: Circuit::Closed,
            hold: None,
            era: 0,
            failures_in_a_row: 0,
            window: Window::new(Instant::now()),
            refusals: None,
            refused_probe: None,
            next_open: config.first_open,
            counted: None,
            last_success: None,
            last_error: None,
            config,
        }
    }

    /// Returns whether the mint is a probe, or the error with which it fails at once. A probe is lost at `expires`.
    pub(crate) fn admit(&mut self, now: Instant, expires: Instant) -> Result<bool, MintError> {
        self.check_hold(now)?;
        let (reason, left) = match self.circuit_state(now) {
            // A disabled client has no circuit.
            CircuitState::Closed | CircuitState::Disabled => return Ok(false),
            CircuitState::Open { reason, remaining } => (reason, remaining),
            CircuitState::Probing { reason } => (reason, PROBE_TAKES),
        };
        if left.is_zero() {
            self.circuit = Circuit::Probing {
                lost_at: expires,
                reason,
            };
            // A lost probe must not count any more.
            self.era += 1;
            return Ok(true);
        }
        // Not `CircuitOpen` for a refused secret: the text of `Unauthorized` names the cure.
        let kind = match reason {
            CircuitReason::Refused => MintErrorKind::Unauthorized,
            CircuitReason::Failing | CircuitReason::Throttled => MintErrorKind::CircuitOpen,
            CircuitReason::Disabled => MintErrorKind::Disabled,
        };
        Err(MintError::turned_away(kind, left))
    }

    pub(crate) fn check_hold(&self, now: Instant) -> Result<(), MintError> {
        match self.held(now) {
            Some(Hold { until, kind }) => Err(MintError::turned_away(kind, until - now)),
            None => Ok(()),
        }
    }

    /// Counts the end of a mint that was not a probe.
    pub(crate) fn record(&mut self, verdict: Verdict<'_>, now: Instant) -> Option<Event> {
        match verdict {
            Verdict::Success => {
                self.failures_in_a_row = 0;
                self.refusals = None;
                self.window.add(now, false);
            }
            Verdict::Failure => {
                self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
                self.window.add(now, true);
            }
            Verdict::Throttled => self.window.add(now, true),
            Verdict::Refused(secret, user) => {
                let limit = self.config.failures_in_a_row;
                let refusals = self.count_refusal(secret, user);
                let are_many = refusals.of_several && refusals.in_a_row >= limit;
                return are_many.then(|| self.open(CircuitReason::Refused, now));
            }
            Verdict::Unrelated => return None,
        }
        let CircuitConfig {
            failures_in_a_row,
            failing_part,
            of_at_least,
            ..
        } = self.config;
        let is_failing = self.failures_in_a_row >= failures_in_a_row
            || self.window.is_failing(now, failing_part, of_at_least);
        is_failing.then(|| self.open(CircuitReason::Failing, now))
    }

    /// Opens or closes the circuit with the end of a probe.
    pub(crate) fn record_probe(&mut self, verdict: Verdict<'_>, now: Instant) -> Option<Event> {
        let reason = self.circuit.reason()?;
        match verdict {
            // Whatever opened the circuit, now Released fails.
            Verdict::Failure | Verdict::Throttled => {
                return Some(self.open(CircuitReason::Failing, now));
            }
            Verdict::Refused(secret, user) if self.refused_secret() == Some(secret) => {
                if self.refused_probe == Some(user) {
                    // A single user may be refused, and return often enough to be every probe. So the next mint probes
                    // at once.
                    self.circuit = Circuit::Open { until: now, reason };
                    self.era += 1;
                    return None;
                }
                self.refused_probe = Some(user);
                return Some(self.open(reason, now));
            }
            // Released works. This is the first refusal of a new row.
            Verdict::Refused(secret, user) => {
                self.close(now);
                self.count_refusal(secret, user);
            }
            // Any other answer shows that Released works.
            Verdict::Success | Verdict::Unrelated => self.close(now),
        }
        Some(Event::Closed { reason })
    }

    /// Adds a refusal to the row, or starts a new row if the secret is another one.
    fn count_refusal(&mut self, secret: &SharedSecret, user: u64) -> &Refusals {
        let before = self.refusals.take();
        let mut refusals = before
            .filter(|before| before.secret == *secret)
            .unwrap_or_else(|| Refusals {
                secret: secret.clone(),
                in_a_row: 0,
                first_user: user,
                of_several: false,
            });
        refusals.in_a_row = refusals.in_a_row.saturating_add(1);
        refusals.of_several |= refusals.first_user != user;
        self.refusals.insert(refusals)
    }

    /// Returns the secret whose refusals opened the circuit.
    fn refused_secret(&self) -> Option<&SharedSecret> {
        let refusals = self.refusals.as_ref()?;
        (self.circuit.reason() == Some(CircuitReason::Refused)).then_some(&refusals.secret)
    }

    fn open(&mut self, reason: CircuitReason, now: Instant) -> Event {
        let open_for = self
            .next_open
            .mul_f64(1.0 - JITTER + 2.0 * JITTER * fastrand::f64());
        self.circuit = Circuit::Open {
            until: now + open_for,
            reason,
        };
        self.era += 1;
        self.next_open = self
            .next_open
            .saturating_mul(2)
            .min(self.config.longest_open);
        Event::Opened { reason, open_for }
    }

    /// Closes the circuit if refusals of another secret than this one opened it.
    pub(crate) fn close_for(&mut self, secret: &SharedSecret, now: Instant) -> Option<Event> {
        let is_another = self
            .refused_secret()
            .is_some_and(|refused| refused != secret);
        is_another.then(|| {
            self.close(now);
            Event::SecretChanged
        })
    }

    /// Lets the next mint probe, because the probe of this era was dropped.
    pub(crate) fn give_up_probe(&mut self, era: u64, now: Instant) {
        if let (Circuit::Probing { reason, .. }, true) = (self.circuit, self.era == era) {
            self.circuit = Circuit::Open { until: now, reason };
        }
    }

    fn close(&mut self, now: Instant) {
        self.circuit = Circuit::Closed;
        self.era += 1;
        self.failures_in_a_row = 0;
        self.window = Window::new(now);
        self.refusals = None;
        self.refused_probe = None;
        self.next_open = self.config.first_open;
    }

    /// Lets mints fail at once for the error's `Retry-After`. Never shortens an earlier one.
    pub(crate) fn hold_for(&mut self, error: &MintError, now: Instant) -> Option<Event> {
        let delay = error.retry_after().filter(|delay| !delay.is_zero())?;
        let (until, kind) = (now + delay, error.kind());
        let before = self.held(now);
        if before.is_some_and(|hold| hold.until >= until) {
            return None;
        }
        self.hold = Some(Hold { until, kind });
        // Logged once for each hold, not for each of the mints that were under way when it began.
        before.is_none().then_some(Event::Held {
            kind,
            open_for: delay,
        })
    }

    fn held(&self, now: Instant) -> Option<Hold> {
        self.hold.filter(|hold| hold.until > now)
    }

    pub(crate) fn circuit_state(&self, now: Instant) -> CircuitState {
        if let Some(hold) = self.held(now) {
            return CircuitState::Open {
                reason: CircuitReason::Throttled,
                remaining: hold.until - now,
            };
        }
        match self.circuit {
            Circuit::Closed => CircuitState::Closed,
            Circuit::Probing { lost_at, reason } if now < lost_at => {
                CircuitState::Probing { reason }
            }
            // From `lost_at` on, the next mint probes.
            Circuit::Probing {
                lost_at: until,
                reason,
            }
            | Circuit::Open { until, reason } => CircuitState::Open {
                reason,
                remaining: until.saturating_duration_since(now),
            },
        }
    }
}

impl Circuit {
    fn reason(&self) -> Option<CircuitReason> {
        match self {
            Self::Closed => None,
            Self::Open { reason, .. } | Self::Probing { reason, .. } => Some(*reason),
        }
    }
}

impl Event {
    pub(crate) fn log(self) {
        match self {
            Self::Opened {
                reason: CircuitReason::Refused,
                open_for,
            } => warn!(
                reason = CircuitReason::Refused.as_str(),
                open_for_ms = milliseconds(open_for),
                "Released refuses the shared secret; mints fail at once until another secret is in use or a probe \
                 succeeds. Check RELEASED_SHARED_SECRET for quotes, and whether it was changed in Released's settings"
            ),
            Self::Opened { reason, open_for } => warn!(
                reason = reason.as_str(),
                open_for_ms = milliseconds(open_for),
                "Released keeps failing; mints fail at once until a probe succeeds"
            ),
            Self::Held { kind, open_for } => warn!(
                reason = CircuitReason::Throttled.as_str(),
                "error.type" = kind.as_str(),
                open_for_ms = milliseconds(open_for),
                "Released asked to wait; mints fail at once until then"
            ),
            Self::Closed { reason } => {
                info!(
                    reason = reason.as_str(),
                    "Released answers again; mints are sent again"
                );
            }
            Self::SecretChanged => {
                info!(
                    reason = "refused",
                    "another shared secret is in use; mints are sent again"
                );
            }
        }
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
