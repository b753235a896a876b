//! The stage in which a connector failed.
//!
//! The errors of hyper's and the TLS libraries' connectors have private types, so each connector is wrapped.

use std::error::Error;
use std::fmt;

use http::Uri;
use tower::util::MapErr;
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
    /// Wraps a connector, so that its errors name this stage unless they name another.
    pub(crate) fn of<C: Service<Uri, Error: Into<BoxError>>>(
        self,
        connector: C,
    ) -> MapErr<C, impl Fn(C::Error) -> BoxError + Clone + Send + Sync> {
        MapErr::new(connector, move |error: C::Error| self.failed(error.into()))
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
