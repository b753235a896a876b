//! The gate: when Released asks to be left alone for a while, it is.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::error::{MintError, MintErrorKind};
use crate::telemetry::warn;

/// Fails every mint at once for as long as a `Retry-After` asked for.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    shut: Mutex<Option<Shut>>,
}

#[derive(Clone, Copy, Debug)]
struct Shut {
    until: Instant,
    kind: MintErrorKind,
}

impl Gate {
    /// Lets a mint pass, or tells when the next may.
    pub(crate) fn pass(&self) -> Result<(), MintError> {
        let Some(Shut { until, kind }) = *self.lock() else { return Ok(()) };
        match until.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Ok(()),
            left => Err(MintError::new(kind).with_retry_after(left)),
        }
    }

    /// Lets nothing pass for this long, because of an error of this kind. Never shortens what was asked for before.
    pub(crate) fn shut_for(&self, delay: Duration, kind: MintErrorKind) {
        let until = Instant::now() + delay;
        let mut shut = self.lock();
        if delay.is_zero() || shut.is_some_and(|shut| shut.until >= until) {
            return;
        }
        *shut = Some(Shut { until, kind });
        drop(shut);
        warn!(
            "error.type" = kind.as_str(),
            held_for_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
            "Released asked to be left alone for a while: mints fail at once until then"
        );
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Shut>> {
        // Nothing panics while it is held.
        self.shut.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_stays_shut_as_long_as_was_asked_for() {
        let gate = Gate::default();
        assert!(gate.pass().is_ok());
        gate.shut_for(Duration::from_secs(30), MintErrorKind::RateLimited);
        advance(Duration::from_secs(10)).await;
        gate.shut_for(Duration::from_secs(5), MintErrorKind::Unavailable);

        let error = gate.pass().expect_err("shut");
        assert_eq!((error.kind(), error.retry_after()), (MintErrorKind::RateLimited, Some(Duration::from_secs(20))));
        advance(Duration::from_secs(20)).await;
        assert!(gate.pass().is_ok());
        gate.shut_for(Duration::ZERO, MintErrorKind::RateLimited);
        assert!(gate.pass().is_ok());
    }
}
