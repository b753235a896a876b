//! The client's metrics, through the facade of the `metrics` crate. Without the feature `metrics`, these functions do
//! nothing.
//!
//! No label identifies a person.

#[cfg(feature = "metrics")]
use tokio::time::Instant;

use super::status::CircuitReason;
use crate::error::MintError;

/// Describes the metrics to the recorder, and adds 0 to the counters and gauges: a rate of a counter that begins with its
/// first failure misses that failure. Every client does so, with the same texts.
pub(crate) fn register() {
    #[cfg(feature = "metrics")]
    {
        use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge};

        describe_histogram!(
            "released_mint_duration_seconds",
            Unit::Seconds,
            "Duration of mints, by outcome: minted, or the kind of the error"
        );
        describe_gauge!(
            "released_mints_in_flight",
            Unit::Count,
            "Mints in flight, of all clients"
        );
        describe_gauge!(
            "released_circuit_open",
            Unit::Count,
            "Clients whose mints fail at once, by reason: failing, throttled, refused"
        );
        describe_counter!(
            "released_mint_retries_total",
            Unit::Count,
            "Attempts after a mint's first"
        );
        describe_counter!(
            "released_mint_shed_total",
            Unit::Count,
            "Mints that failed because too many were in flight"
        );
        describe_counter!(
            "released_secret_changes_total",
            Unit::Count,
            "Changes of the shared secret"
        );

        gauge!("released_mints_in_flight").increment(0.0);
        for reason in CircuitReason::OF_CIRCUIT {
            gauge!("released_circuit_open", "reason" => reason.as_str()).increment(0.0);
        }
        counter!("released_mint_retries_total").increment(0);
        counter!("released_mint_shed_total").increment(0);
        counter!("released_secret_changes_total").increment(0);
    }
}

/// Measures the duration of a mint.
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

pub(crate) fn entered_flight() {
    #[cfg(feature = "metrics")]
    metrics::gauge!("released_mints_in_flight").increment(1.0);
}

pub(crate) fn left_flight(mints: usize) {
    #[cfg(feature = "metrics")]
    if mints > 0 {
        metrics::gauge!("released_mints_in_flight")
            .decrement(f64::from(u32::try_from(mints).unwrap_or(u32::MAX)));
    }
    let _ = mints;
}

pub(crate) fn retried() {
    #[cfg(feature = "metrics")]
    metrics::counter!("released_mint_retries_total").increment(1);
}

/// Counts a mint that failed because too many were in flight.
pub(crate) fn shed() {
    #[cfg(feature = "metrics")]
    metrics::counter!("released_mint_shed_total").increment(1);
}

/// Moves a client from one reason to another. `set` would overwrite the other clients.
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

pub(crate) fn secret_changed() {
    #[cfg(feature = "metrics")]
    metrics::counter!("released_secret_changes_total").increment(1);
}
