//! The stage in which a connector failed.
//!
//! The errors of hyper's and the TLS libraries' connectors have private types, so each connector is wrapped.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use http::Uri;
use tower::util::{MapErr, MapResponse};
use tower::{BoxError, Service};

use crate::client::failure::causes;

/// A step of opening a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Dns,
    Tcp,
    #[cfg_attr(not(any(feature = "rustls", feature = "native-tls")), allow(dead_code))]
    Tls,
    /// The connection to a proxy, and the request for its tunnel.
    #[cfg_attr(not(any(feature = "rustls", feature = "native-tls")), allow(dead_code))]
    Proxy,
}

impl Stage {
    /// Wraps a connector, so that its errors name this stage unless they name another, and [`Progress`] notes when it is
    /// done.
    #[allow(clippy::type_complexity)] // The types of closures have no names.
    pub(crate) fn of<C: Service<Uri, Error: Into<BoxError>>>(
        self,
        connector: C,
    ) -> MapErr<
        MapResponse<C, impl Fn(C::Response) -> C::Response + Clone + Send + Sync>,
        impl Fn(C::Error) -> BoxError + Clone + Send + Sync,
    > {
        let noted = MapResponse::new(connector, move |connection| {
            Progress::note(self);
            connection
        });
        MapErr::new(noted, move |error: C::Error| self.failed(error.into()))
    }

    fn bit(self) -> u8 {
        1 << (self as u8 + 1)
    }

    /// Adds this stage to an error that names no stage.
    pub(crate) fn failed(self, error: BoxError) -> BoxError {
        // Every failure on the way to a proxy counts as the proxy's.
        if self != Self::Proxy && causes(&*error).any(<dyn Error>::is::<FailedStage>) {
            return error;
        }
        FailedStage::new(self, error).into()
    }
}

tokio::task_local! {
    static PROGRESS: Progress;
}

/// Set in [`Progress`] when a connection is being opened.
const STARTED: u8 = 1;

/// Notes which stages of a connection are done, for a check: a timeout does not say what hung.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress(Arc<AtomicU8>);

impl Progress {
    /// Polls a future that may open a connection.
    pub(crate) async fn watch<F: Future>(&self, future: F) -> F::Output {
        PROGRESS.scope(self.clone(), future).await
    }

    /// Returns the first of these stages that is not done. `None` if all are, or if no connection had to be opened.
    pub(crate) fn hung(&self, stages: &[Stage]) -> Option<Stage> {
        let done = self.0.load(Ordering::Relaxed);
        let is_open = |stage: &&Stage| done & stage.bit() == 0;
        stages
            .iter()
            .find(is_open)
            .filter(|_| done & STARTED != 0)
            .copied()
    }

    /// Notes that a connection is being opened.
    pub(crate) fn note_start() {
        Self::add(STARTED);
    }

    /// Notes that a stage is done.
    pub(crate) fn note(stage: Stage) {
        Self::add(stage.bit());
    }

    fn add(bit: u8) {
        // Nobody watches a mint.
        let _ = PROGRESS.try_with(|progress| progress.0.fetch_or(bit, Ordering::Relaxed));
    }
}

/// An error of a connector, with its stage.
#[derive(Debug)]
pub(crate) struct FailedStage {
    stage: Stage,
    error: BoxError,
}

impl FailedStage {
    pub(crate) fn new(stage: Stage, error: impl Into<BoxError>) -> Self {
        Self {
            stage,
            error: error.into(),
        }
    }

    pub(crate) fn stage(&self) -> Stage {
        self.stage
    }
}

impl fmt::Display for FailedStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("could not open a connection")
    }
}

impl Error for FailedStage {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.error)
    }
}
