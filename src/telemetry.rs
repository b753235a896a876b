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
