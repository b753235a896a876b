//! Tells extractors that a layer is there although its filter passed the request over.
//!
//! The first entry in a request's extensions costs two allocations, which such a request is to be spared. So there is a
//! [`mark`] only beside other entries, and the inner future is polled inside of [`scope`], where an extractor runs, unless
//! something in between has put the handler into a task of its own.

use std::cell::Cell;

use http::Extensions;

/// An entry without a size, which is not allocated for.
#[derive(Clone)]
struct Skipped;

thread_local! {
    static SKIPPED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `poll` such that [`here`] is true in it.
pub(crate) fn scope<T>(poll: impl FnOnce() -> T) -> T {
    let _restore = Restore(SKIPPED.replace(true));
    poll()
}

/// Leaves a mark where it costs nothing, and in any case in the place of what another layer had left.
pub(crate) fn mark(extensions: &mut Extensions, replaces: bool) {
    if replaces || !extensions.is_empty() {
        extensions.insert(Skipped);
    }
}

/// Whether the filter of a layer passed over the request with these extensions, or the one whose future is being polled.
#[cfg(feature = "axum")]
pub(crate) fn is_marked(extensions: &Extensions) -> bool {
    SKIPPED.get() || extensions.get::<Skipped>().is_some()
}

/// Also on a panic, which would else mark whatever the thread polls next.
struct Restore(bool);

impl Drop for Restore {
    fn drop(&mut self) {
        SKIPPED.set(self.0);
    }
}
