//! Tells extractors that a layer is there although it put nothing into the request.
//!
//! A marker in the request's extensions would cost a request that the filter passes over two allocations. The inner
//! future is polled inside of [`scope`] instead, and an extractor runs while it is polled.

use std::cell::Cell;

thread_local! {
    static SKIPPED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `poll` such that [`here`] is true in it.
pub(crate) fn scope<T>(poll: impl FnOnce() -> T) -> T {
    let _restore = Restore(SKIPPED.replace(true));
    poll()
}

/// Whether the filter of a layer passed over the request whose future is being polled.
#[cfg(feature = "axum")]
pub(crate) fn here() -> bool {
    SKIPPED.get()
}

/// Also on a panic, which would else mark whatever the thread polls next.
struct Restore(bool);

impl Drop for Restore {
    fn drop(&mut self) {
        SKIPPED.set(self.0);
    }
}
