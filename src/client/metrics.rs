//! What the feature `metrics` counts, through the facade of the `metrics` crate; nothing where it is off.
//!
//! None of the labels tells who somebody is.

#[cfg(feature = "metrics")]
use tokio::time::Instant;

use super::status::CircuitReason;
use crate::error::MintError;

/// Tells the recorder what each number is. The same texts again, from another client, change nothing.
pub(crate) fn describe() {
    #[cfg(feature = "metrics")]
    {
        use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

        describe_histogram!(
            "released_mint_duration_seconds",
            Unit::Seconds,
            "How long mints take, by outcome: minted, or the kind of the error"
        );
        describe_gauge!(
            "released_mints_in_flight",
            Unit::Count,
            "Mints that are under way, of all clients"
        );
        describe_gauge!(
            "released_circuit_open",
            Unit::Count,
            "Clients whose mints fail at once, by reason: failing, throttled, refused"
        );
        describe_counter!(
            "released_mint_retries_total",
            Unit::Count,
            "Attempts that were not a mint's first"
        );
        describe_counter!(
            "released_mint_shed_total",
            Unit::Count,
            "Mints that failed because too many were in flight"
        );
        describe_counter!(
            "released_secret_changes_total",
            Unit::Count,
            "Changes of the shared secret that were seen"
        );
    }
}

/// How long a mint takes, by how it ends.
pub(crate) struct MintTimer {
    #[cfg(feature = "metrics")]
    start: Instant,
}

impl MintTimer {
    pub(crate) fn start() -> Self {
        Self {
            #[cfg(feature = "metrics")]
            start: Instant::now(),
        }
    }

    pub(crate) fn stop<T>(self, result: &Result<T, MintError>) {
        #[cfg(feature = "metrics")]
        {
            let outcome = result
                .as_ref()
                .map_or_else(|error| error.kind().as_str(), |_| "minted");
            let took = self.start.elapsed().as_secs_f64();
            metrics::histogram!("released_mint_duration_seconds", "outcome" => outcome)
                .record(took);
        }
        let _ = (self, result);
    }
}

/// A mint has a place among those in flight.
pub(crate) fn entered_flight() {
    #[cfg(feature = "metrics")]
    metrics::gauge!("released_mints_in_flight").increment(1.0);
}

/// So many have it no more.
pub(crate) fn left_flight(mints: usize) {
    #[cfg(feature = "metrics")]
    if mints > 0 {
        metrics::gauge!("released_mints_in_flight")
            .decrement(f64::from(u32::try_from(mints).unwrap_or(u32::MAX)));
    }
    let _ = mints;
}

/// An attempt that was not the first.
pub(crate) fn retried() {
    #[cfg(feature = "metrics")]
    metrics::counter!("released_mint_retries_total").increment(1);
}

/// A mint that was turned away because too many were in flight.
pub(crate) fn shed() {
    #[cfg(feature = "metrics")]
    metrics::counter!("released_mint_shed_total").increment(1);
}

/// Every reason, at 0: a dashboard shows what does not happen, too.
pub(crate) fn circuit_closed() {
    #[cfg(feature = "metrics")]
    for reason in CircuitReason::ALL {
        metrics::gauge!("released_circuit_open", "reason" => reason.as_str()).increment(0.0);
    }
}

/// Counts a client where it is now, and no longer where it was. Never `set`: another client would be overwritten.
pub(crate) fn circuit_changed(before: Option<CircuitReason>, after: Option<CircuitReason>) {
    #[cfg(feature = "metrics")]
    {
        if let Some(reason) = before {
            metrics::gauge!("released_circuit_open", "reason" => reason.as_str()).decrement(1.0);
        }
        if let Some(reason) = after {
            metrics::gauge!("released_circuit_open", "reason" => reason.as_str()).increment(1.0);
        }
    }
    let _ = (before, after);
}

/// Another secret is in use.
pub(crate) fn secret_changed() {
    #[cfg(feature = "metrics")]
    metrics::counter!("released_secret_changes_total").increment(1);
}
