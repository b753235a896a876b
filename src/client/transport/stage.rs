//! What a connector was about to do when it failed.
//!
//! The connectors of hyper and of the TLS libraries have errors of types that cannot be named, so each of them is wrapped.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::Uri;
use tower::{BoxError, Service};

use crate::client::failure::causes;

/// What is done to open a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Dns,
    Tcp,
    #[cfg_attr(not(any(feature = "rustls", feature = "native-tls")), allow(dead_code))]
    Tls,
    /// Everything on the way to a proxy, and what it is asked for.
    #[cfg_attr(not(any(feature = "rustls", feature = "native-tls")), allow(dead_code))]
    Proxy,
}

impl Stage {
    /// A connector that fails in this stage, if the one within it does not say another.
    pub(crate) fn of<C>(self, connector: C) -> Staged<C> {
        Staged {
            connector,
            stage: self,
        }
    }

    /// What is said of an error in this stage.
    pub(crate) fn failed(self, error: BoxError) -> BoxError {
        // To the client, whatever fails on the way to a proxy is the proxy.
        if self != Self::Proxy && causes(&*error).any(<dyn Error>::is::<FailedStage>) {
            return error;
        }
        FailedStage::new(self, error).into()
    }
}

/// An error of a connector, and what it was about to do.
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
        f.write_str("no connection could be opened")
    }
}

impl Error for FailedStage {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.error)
    }
}

/// A connector whose errors say what it was about to do, unless the one within it does.
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
