//! What mints have told of Released, and whether the next one may ask. No lock is in here, and nothing is logged on the way: an
//! [`Event`] is logged when the lock is free.

use std::time::Duration;

use tokio::time::Instant;

use super::config::CircuitConfig;
use super::secret::SharedSecret;
use super::status::{CircuitReason, CircuitState};
use super::window::Window;
use crate::error::{MintError, MintErrorKind};
use crate::telemetry::{info, warn};

/// How far the time that the circuit stays open varies in both directions, so that servers do not probe in step.
const JITTER: f64 = 0.2;

/// After how long to try again while a probe is under way: its answer is due any moment.
pub(crate) const PROBE_TAKES: Duration = Duration::from_secs(1);

/// What a mint tells about Released.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Verdict<'a> {
    /// It works.
    Success,
    /// It does not: no connection, no answer, or a 5xx.
    Failure,
    /// It works, but not for everybody: counts towards the rate, not towards the row.
    Throttled,
    /// It answered 401 to this secret, for the user of this hash; see `Admission::refused`.
    Refused(&'a SharedSecret, u64),
    /// It answered, and the answer says nothing about its health.
    Unrelated,
}

/// All that mints have told so far.
#[derive(Debug)]
pub(crate) struct State {
    circuit: Circuit,
    hold: Option<Hold>,
    /// Changes whenever the circuit does: what was admitted before says nothing of what is now.
    pub(crate) era: u64,
    failures_in_a_row: u32,
    window: Window,
    refusals: Option<Refusals>,
    /// The user of the last probe that was refused.
    refused_probe: Option<u64>,
    next_open: Duration,
    /// For which reason the gauge counts this client.
    pub(crate) counted: Option<CircuitReason>,
    pub(crate) last_success: Option<Instant>,
    pub(crate) last_error: Option<(MintErrorKind, Instant)>,
}

#[derive(Clone, Copy, Debug)]
enum Circuit {
    Closed,
    /// Nothing passes until then; afterwards, one probe.
    Open {
        until: Instant,
        reason: CircuitReason,
    },
    /// The probe is under way. It is lost if it has not reported until then, and the next mint probes.
    Probing {
        lost_at: Instant,
        reason: CircuitReason,
    },
}

/// Released asked to be left alone until then, with an error of this kind.
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
    /// Whether they concern more than one user: one alone may be refused for their own sake.
    of_several: bool,
}

/// What there is to say of a change.
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
    pub(crate) fn new(config: &CircuitConfig) -> Self {
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
        }
    }

    /// Whether a mint may pass, and whether it is a probe.
    pub(crate) fn admit(&mut self, now: Instant, expires: Instant) -> Result<bool, MintError> {
        self.check_hold(now)?;
        let (reason, left) = match self.circuit {
            Circuit::Closed => return Ok(false),
            Circuit::Open { until, reason } => (reason, until.saturating_duration_since(now)),
            Circuit::Probing { lost_at, reason } if now < lost_at => (reason, PROBE_TAKES),
            Circuit::Probing { reason, .. } => (reason, Duration::ZERO),
        };
        if left.is_zero() {
            self.circuit = Circuit::Probing {
                lost_at: expires,
                reason,
            };
            // Not the era of the probe that was lost.
            self.era += 1;
            return Ok(true);
        }
        // Not `CircuitOpen` for a secret that is refused: this text names the cure.
        let kind = match reason {
            CircuitReason::Refused => MintErrorKind::Unauthorized,
            CircuitReason::Failing | CircuitReason::Throttled => MintErrorKind::CircuitOpen,
        };
        Err(MintError::turned_away(kind, left))
    }

    pub(crate) fn check_hold(&mut self, now: Instant) -> Result<(), MintError> {
        let Some(Hold { until, kind }) = self.hold else {
            return Ok(());
        };
        let left = until.saturating_duration_since(now);
        if left.is_zero() {
            self.hold = None;
            return Ok(());
        }
        Err(MintError::turned_away(kind, left))
    }

    pub(crate) fn judge(
        &mut self,
        verdict: Verdict<'_>,
        now: Instant,
        config: &CircuitConfig,
    ) -> Option<Event> {
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
                let refusals = self.refuse(secret, user);
                let are_many = refusals.of_several && refusals.in_a_row >= config.failures_in_a_row;
                return are_many.then(|| self.open(CircuitReason::Refused, now, config));
            }
            Verdict::Unrelated => return None,
        }
        let is_failing = self.failures_in_a_row >= config.failures_in_a_row
            || self
                .window
                .is_failing(now, config.failing_part, config.of_at_least);
        is_failing.then(|| self.open(CircuitReason::Failing, now, config))
    }

    pub(crate) fn judge_by_probe(
        &mut self,
        verdict: Verdict<'_>,
        now: Instant,
        config: &CircuitConfig,
    ) -> Option<Event> {
        let reason = self.circuit.reason()?;
        let is_the_refused = |secret: &SharedSecret| {
            reason == CircuitReason::Refused
                && self
                    .refusals
                    .as_ref()
                    .is_some_and(|refused| refused.secret == *secret)
        };
        match verdict {
            // Whatever opened it: now it is Released that fails.
            Verdict::Failure | Verdict::Throttled => {
                return Some(self.open(CircuitReason::Failing, now, config));
            }
            // One user may be refused for their own sake, and come back often enough to be every probe: the next mint
            // probes at once.
            Verdict::Refused(secret, user)
                if is_the_refused(secret) && self.refused_probe == Some(user) =>
            {
                self.circuit = Circuit::Open { until: now, reason };
                self.era += 1;
                return None;
            }
            Verdict::Refused(secret, user) if is_the_refused(secret) => {
                self.refused_probe = Some(user);
                return Some(self.open(reason, now, config));
            }
            // The first refusal of what may become a row of them; but an answer.
            Verdict::Refused(secret, user) => {
                self.close(now, config);
                self.refuse(secret, user);
            }
            // Any other answer is a sign of life.
            Verdict::Success | Verdict::Unrelated => self.close(now, config),
        }
        Some(Event::Closed { reason })
    }

    /// One refusal more in the row, or the first of a new one.
    fn refuse(&mut self, secret: &SharedSecret, user: u64) -> &Refusals {
        let before = self
            .refusals
            .take()
            .filter(|before| before.secret == *secret);
        self.refusals.insert(match before {
            Some(Refusals {
                secret,
                in_a_row,
                first_user,
                of_several,
            }) => Refusals {
                secret,
                in_a_row: in_a_row.saturating_add(1),
                first_user,
                of_several: of_several || first_user != user,
            },
            None => Refusals {
                secret: secret.clone(),
                in_a_row: 1,
                first_user: user,
                of_several: false,
            },
        })
    }

    fn open(&mut self, reason: CircuitReason, now: Instant, config: &CircuitConfig) -> Event {
        let open_for = self
            .next_open
            .mul_f64(1.0 - JITTER + 2.0 * JITTER * fastrand::f64());
        self.circuit = Circuit::Open {
            until: now + open_for,
            reason,
        };
        self.era += 1;
        self.next_open = self.next_open.saturating_mul(2).min(config.longest_open);
        Event::Opened { reason, open_for }
    }

    /// Closes it if it is open because another secret than this one was refused.
    pub(crate) fn close_for(
        &mut self,
        secret: &SharedSecret,
        now: Instant,
        config: &CircuitConfig,
    ) -> Option<Event> {
        let is_another = self.circuit.reason() == Some(CircuitReason::Refused)
            && self
                .refusals
                .as_ref()
                .is_some_and(|refusals| refusals.secret != *secret);
        is_another.then(|| {
            self.close(now, config);
            Event::SecretChanged
        })
    }

    /// A probe of this era goes away without an answer: the next mint probes.
    pub(crate) fn give_up_probe(&mut self, era: u64, now: Instant) {
        if let (Circuit::Probing { reason, .. }, true) = (self.circuit, self.era == era) {
            self.circuit = Circuit::Open { until: now, reason };
        }
    }

    fn close(&mut self, now: Instant, config: &CircuitConfig) {
        self.circuit = Circuit::Closed;
        self.era += 1;
        self.failures_in_a_row = 0;
        self.window = Window::new(now);
        self.refusals = None;
        self.refused_probe = None;
        self.next_open = config.first_open;
    }

    /// Lets nothing pass for as long as Released's answer asked for. Never shortens what was asked for before.
    pub(crate) fn hold_for(&mut self, error: &MintError, now: Instant) -> Option<Event> {
        let delay = error.retry_after().filter(|delay| !delay.is_zero())?;
        let (until, kind) = (now + delay, error.kind());
        let before = self.hold.filter(|hold| hold.until > now);
        if before.is_some_and(|hold| hold.until >= until) {
            return None;
        }
        self.hold = Some(Hold { until, kind });
        // Once for each time of waiting, not for each of the mints that were under way when it began.
        before.is_none().then_some(Event::Held {
            kind,
            open_for: delay,
        })
    }

    /// Why mints are turned away, if they are.
    pub(crate) fn reason(&self, now: Instant) -> Option<CircuitReason> {
        let is_held = self.hold.is_some_and(|hold| hold.until > now);
        if is_held {
            Some(CircuitReason::Throttled)
        } else {
            self.circuit.reason()
        }
    }

    pub(crate) fn told(&self, now: Instant) -> CircuitState {
        if let Some(hold) = self.hold.filter(|hold| hold.until > now) {
            return CircuitState::Open {
                reason: CircuitReason::Throttled,
                remaining: hold.until - now,
            };
        }
        match self.circuit {
            Circuit::Closed => CircuitState::Closed,
            Circuit::Open { until, reason } => CircuitState::Open {
                reason,
                remaining: until.saturating_duration_since(now),
            },
            Circuit::Probing { lost_at, reason } if now < lost_at => {
                CircuitState::Probing { reason }
            }
            Circuit::Probing { reason, .. } => CircuitState::Open {
                reason,
                remaining: Duration::ZERO,
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
    pub(crate) fn tell(self) {
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
