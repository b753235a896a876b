//! `tracing`'s macros, or nothing where the feature is off.

#[cfg(feature = "tracing")]
pub(crate) use tracing::warn;

#[cfg(all(feature = "tracing", feature = "client"))]
pub(crate) use tracing::info;

/// Takes what `tracing`'s macros take here, so that nothing is unused where they are off.
#[cfg(not(feature = "tracing"))]
macro_rules! event {
    ($($field:tt = $value:expr,)* $message:literal) => {{
        $(let _ = &$value;)*
        let _ = format_args!($message);
    }};
}

#[cfg(not(feature = "tracing"))]
pub(crate) use event as warn;

#[cfg(all(not(feature = "tracing"), feature = "client"))]
pub(crate) use event as info;
