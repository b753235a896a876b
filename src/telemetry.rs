//! What an operator is told: `tracing`'s macros, the span of a mint, and the numbers of pages.

#[cfg(feature = "client")]
pub(crate) use tracing::info;
pub(crate) use tracing::{debug, warn};

use tracing::field::Empty;
use tracing::{Instrument, Span, debug_span};

use crate::error::MintError;

/// Counts a page for which a token was asked for, by what came of it: `minted`, `anonymous`, `cancelled`, or the kind of the
/// error.
pub(crate) fn count_page(outcome: &'static str) {
    #[cfg(feature = "metrics")]
    metrics::counter!("released_pages_total", "outcome" => outcome).increment(1);
    let _ = outcome;
}

/// Tells the recorder what the layer counts.
pub(crate) fn describe_pages() {
    #[cfg(feature = "metrics")]
    metrics::describe_counter!(
        "released_pages_total",
        metrics::Unit::Count,
        "Requests for which a token was asked for, by outcome: minted, anonymous, cancelled, or the kind of the error"
    );
}

/// What `otel.status_code` says of a failure. Where there was none, it is left unset, as OpenTelemetry wants it.
pub(crate) const ERROR: &str = "ERROR";

/// The span of a whole mint.
///
/// At the level of debugging, because every page has one: it costs next to nothing where it is not recorded. None of the fields tells
/// who somebody is, and none holds what the remote end wrote.
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

    /// Runs the mint in it.
    // Not an `async fn`: it would hold the future that it is given twice, and move it once more.
    pub(crate) fn around<F: Future>(&self, mint: F) -> impl Future<Output = F::Output> + use<F> {
        mint.instrument(self.span.clone())
    }

    /// Notes how the mint ended. One that is dropped before was given up, which is no error.
    pub(crate) fn end<T>(self, result: &Result<T, MintError>) {
        if let Err(error) = result {
            self.span.record("error.type", error.kind().as_str());
            self.span.record("otel.status_code", ERROR);
        }
    }
}
