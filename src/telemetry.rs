//! `tracing`'s macros, or nothing where the feature is off.

#[cfg(feature = "tracing")]
pub(crate) use tracing::{debug, warn};

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
