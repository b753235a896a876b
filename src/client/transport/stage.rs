//! The stage in which a connector failed.
//!
//! The errors of hyper's and the TLS libraries' connectors have private types, so each connector is wrapped.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::Uri;
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
    pub(crate) fn of<C>(self, connector: C) -> Staged<C> {
        Staged {
            connector,
            stage: self,
        }
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

/// A connector whose errors name a stage.
#[derive(Clone)]
pub(crate) struct Staged<C> {
    connector: C,
    stage: Stage,
}

impl<C> Service<Uri> for Staged<C>
where
    C: Service<Uri, Error: Into<BoxError>, Future: Send + 'static>,
{
    type Response = C::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<C::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        let is_ready = ready!(self.connector.poll_ready(cx));
        Poll::Ready(is_ready.map_err(|error| self.stage.failed(error.into())))
    }

    fn call(&mut self, url: Uri) -> Self::Future {
        let (stage, connecting) = (self.stage, self.connector.call(url));
        Box::pin(async move { connecting.await.map_err(|error| stage.failed(error.into())) })
    }
}
