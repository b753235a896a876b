//! `tracing`'s macros, or nothing where the feature is off.

#[cfg(feature = "tracing")]
pub(crate) use tracing::warn;

#[cfg(not(feature = "tracing"))]
macro_rules! event {
    ($($anything:tt)*) => {{}};
}

#[cfg(not(feature = "tracing"))]
pub(crate) use event as warn;
