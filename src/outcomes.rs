//! The ends of a layer's mints: counted, and logged at a limited rate.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::connection::ConnectionFailure;
use crate::error::{MintError, MintErrorKind};
use crate::pending::Outcome;
use crate::telemetry::{self, debug, warn};

/// The time between two warnings of one kind. During an outage, a busy site would otherwise log a thousand lines a
/// second.
const WARN_EVERY: Duration = Duration::from_secs(1);

/// Counts and logs how mints end. The services of one layer share it.
#[derive(Debug, Default)]
pub(crate) struct Outcomes {
    /// For each kind, the time of its last warning, and how many failures came since.
    warned: Mutex<HashMap<MintErrorKind, Warned>>,
}

#[derive(Debug)]
struct Warned {
    at: Instant,
    suppressed: u64,
}

impl Outcomes {
    /// Counts a mint from its start. If it is dropped without an [`end`](Started::end), it counts as cancelled.
    pub(crate) fn start(&self) -> Started<'_> {
        Started {
            outcomes: self,
            is_wanted: true,
        }
    }

    fn log(&self, error: &MintError) {
        let kind = error.kind();
        let connection = error.connection_failure();
        let (cause, server) = (
            connection.map(|failure| failure.cause().as_str()),
            connection.map(ConnectionFailure::server),
        );
        // For mints that fail at once, the circuit logged a warning when it opened. A disabled client said so when it was
        // created.
        let warns = if error.is_turned_away() || kind == MintErrorKind::Disabled {
            None
        } else {
            self.may_warn(kind)
        };
        if let Some(suppressed) = warns {
            warn!(
                "error.type" = kind.as_str(),
                cause = cause,
                "server.address" = server,
                suppressed = (suppressed > 0).then_some(suppressed),
                "no auth token for this request: {error}"
            );
        } else {
            debug!(
                "error.type" = kind.as_str(),
                cause = cause,
                "server.address" = server,
                "no auth token for this request: {error}"
            );
        }
    }

    /// Returns the number of failures of this kind since the last warning, or `None` if it is too early for another
    /// one.
    fn may_warn(&self, kind: MintErrorKind) -> Option<u64> {
        let now = Instant::now();
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        match warned.get_mut(&kind) {
            Some(Warned { at, suppressed }) if now.duration_since(*at) < WARN_EVERY => {
                *suppressed += 1;
                None
            }
            before => {
                let suppressed = before.map_or(0, |warned| warned.suppressed);
                warned.insert(
                    kind,
                    Warned {
                        at: now,
                        suppressed: 0,
                    },
                );
                Some(suppressed)
            }
        }
    }
}

/// A mint under way.
pub(crate) struct Started<'a> {
    outcomes: &'a Outcomes,
    /// Whether dropping it cancels something: it has not ended, and somebody wants its token.
    is_wanted: bool,
}

impl Started<'_> {
    /// Waits for somebody who wants the token. If nobody does, there is nothing to count.
    pub(crate) fn pause(&mut self) {
        self.is_wanted = false;
    }

    pub(crate) fn resume(&mut self) {
        self.is_wanted = true;
    }

    pub(crate) fn end(mut self, outcome: &Outcome) {
        self.is_wanted = false;
        match outcome {
            Ok(Some(_)) => telemetry::count_page("minted"),
            Ok(None) => {
                telemetry::count_page("anonymous");
                debug!(
                    "no auth token for this request: nobody is signed in, or the resolver returned no user for them"
                );
            }
            Err(error) => {
                telemetry::count_page(error.kind().as_str());
                self.outcomes.log(error);
            }
        }
    }
}

impl Drop for Started<'_> {
    fn drop(&mut self) {
        if self.is_wanted {
            telemetry::count_page("cancelled");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_of_one_kind_are_warned_of_once_a_second_with_how_many_came_since() {
        let outcomes = Outcomes::default();
        assert_eq!(outcomes.may_warn(MintErrorKind::Timeout), Some(0));
        assert_eq!(outcomes.may_warn(MintErrorKind::Timeout), None);
        assert_eq!(outcomes.may_warn(MintErrorKind::Timeout), None);
        assert_eq!(
            outcomes.may_warn(MintErrorKind::Connect),
            Some(0),
            "another kind"
        );
        let second_ago = Instant::now()
            .checked_sub(WARN_EVERY)
            .expect("the machine runs for longer");
        outcomes
            .warned
            .lock()
            .expect("nobody panics")
            .get_mut(&MintErrorKind::Timeout)
            .expect("warned of")
            .at = second_ago;
        assert_eq!(outcomes.may_warn(MintErrorKind::Timeout), Some(2));
        assert_eq!(outcomes.may_warn(MintErrorKind::Timeout), None);
    }
}
