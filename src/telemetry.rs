//! `tracing`'s macros, the span of a mint, and the metrics of pages.

#[cfg(feature = "client")]
pub(crate) use tracing::info;
pub(crate) use tracing::{debug, warn};

use std::sync::atomic::{AtomicBool, Ordering};

use tracing::field::Empty;
use tracing::{Instrument, Span, debug_span};

use crate::error::{MintError, MintErrorKind};

/// Says once that it is the first time: for a warning that would otherwise be logged for every page.
#[derive(Debug, Default)]
pub(crate) struct Once(AtomicBool);

impl Once {
    pub(crate) fn is_first(&self) -> bool {
        self.is_first_if(|| true)
    }

    /// Asks for the condition only until the first time.
    pub(crate) fn is_first_if(&self, condition: impl FnOnce() -> bool) -> bool {
        !self.0.load(Ordering::Relaxed) && condition() && !self.0.swap(true, Ordering::Relaxed)
    }
}

/// Counts a page that requested a token, by outcome: `minted`, `anonymous`, `cancelled`, or the kind of the error.
pub(crate) fn count_page(outcome: &'static str) {
    #[cfg(feature = "metrics")]
    metrics::counter!("released_pages_total", "outcome" => outcome).increment(1);
    let _ = outcome;
}

/// Describes the layer's metric to the recorder, and adds 0 for every outcome: a rate of a counter that begins with its
/// first failure misses that failure.
pub(crate) fn register_pages() {
    #[cfg(feature = "metrics")]
    {
        metrics::describe_counter!(
            "released_pages_total",
            metrics::Unit::Count,
            "Requests that asked for a token, by outcome: minted, anonymous, cancelled, or the kind of the error"
        );
        let kinds = MintErrorKind::ALL.map(MintErrorKind::as_str);
        for outcome in ["minted", "anonymous", "cancelled"]
            .into_iter()
            .chain(kinds)
        {
            metrics::counter!("released_pages_total", "outcome" => outcome).increment(0);
        }
    }
}

/// The value of `otel.status_code` after a failure. OpenTelemetry leaves it unset after a success.
pub(crate) const ERROR: &str = "ERROR";

/// The span of a whole mint.
///
/// Its level is `debug`, because every page has one: it costs little where nobody records it. No field identifies a
/// person, or contains text from the network.
pub(crate) struct MintSpan {
    span: Span,
}

impl MintSpan {
    pub(crate) fn new() -> Self {
        Self {
            span: debug_span!(
                "released_mint",
                "error.type" = Empty,
                "otel.status_code" = Empty
            ),
        }
    }

    /// Runs the mint in the span.
    // Not an `async fn`, which would store the future twice and move it once more.
    pub(crate) fn around<F: Future>(&self, mint: F) -> impl Future<Output = F::Output> + use<F> {
        mint.instrument(self.span.clone())
    }

    /// Records the end of the mint. A mint that was dropped has no end, and is no error. Neither is one of a disabled
    /// client.
    pub(crate) fn end<T>(self, result: &Result<T, MintError>) {
        if let Err(error) = result {
            if error.kind() == MintErrorKind::Disabled {
                return;
            }
            self.span.record("error.type", error.kind().as_str());
            self.span.record("otel.status_code", ERROR);
        }
    }
}
