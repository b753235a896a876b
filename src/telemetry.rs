//! `tracing`'s macros and the span of a mint, or nothing where the feature is off.

#[cfg(feature = "tracing")]
pub(crate) use tracing::{debug, warn};

#[cfg(feature = "tracing")]
use tracing::{Instrument, Span, debug_span, field::Empty};

use crate::error::MintError;

#[cfg(all(feature = "tracing", feature = "client"))]
pub(crate) use tracing::info;

/// Takes what `tracing`'s macros take here, so that nothing is unused where they are off.
#[cfg(not(feature = "tracing"))]
macro_rules! event {
    ($message:literal) => {{
        let _ = format_args!($message);
    }};
    ($field:tt = $value:expr, $($rest:tt)*) => {{
        let _ = &$value;
        $crate::telemetry::event!($($rest)*);
    }};
}

#[cfg(not(feature = "tracing"))]
pub(crate) use event;

#[cfg(not(feature = "tracing"))]
pub(crate) use {event as debug, event as warn};

#[cfg(all(not(feature = "tracing"), feature = "client"))]
pub(crate) use event as info;

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
#[cfg(feature = "tracing")]
pub(crate) const ERROR: &str = "ERROR";

/// The span of a whole mint.
///
/// At the level of debugging, as every page has one: whoever does not record it pays next to nothing. None of the fields tells
/// who somebody is, and none holds what the remote end wrote.
pub(crate) struct MintSpan {
    #[cfg(feature = "tracing")]
    span: Span,
}

impl MintSpan {
    pub(crate) fn new() -> Self {
        Self {
            #[cfg(feature = "tracing")]
            span: debug_span!("released_mint", "error.type" = Empty, "otel.status_code" = Empty),
        }
    }

    /// Runs the mint in it.
    // Not an `async fn`: it would hold the future that it is given twice, and move it once more.
    pub(crate) fn around<F: Future>(&self, mint: F) -> impl Future<Output = F::Output> + use<F> {
        #[cfg(feature = "tracing")]
        return mint.instrument(self.span.clone());
        #[cfg(not(feature = "tracing"))]
        mint
    }

    /// Notes how the mint ended. One that is dropped before was given up, which is no error.
    pub(crate) fn end<T>(self, result: &Result<T, MintError>) {
        #[cfg(feature = "tracing")]
        if let Err(error) = result {
            self.span.record("error.type", error.kind().as_str());
            self.span.record("otel.status_code", ERROR);
        }
        let _ = (self, result);
    }
}
