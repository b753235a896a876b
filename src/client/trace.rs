//! Spans for a mint and for each of its exchanges, with OpenTelemetry's names; nothing without the feature `tracing`.
//!
//! At the level of debugging, as every page has them: whoever does not record them pays next to nothing.
//!
//! None of the fields tells who somebody is, and none holds what the remote end wrote.

#[cfg(feature = "tracing")]
use tracing::{Instrument, Span, debug_span, field::Empty};

use http::StatusCode;

use super::attempts::Failure;
use super::endpoint::Endpoint;
use crate::error::MintError;

// None of these is an `async fn`: it would hold the future that it is given twice, and move it once more.

/// The span of a whole mint.
pub(crate) struct MintSpan {
    #[cfg(feature = "tracing")]
    span: Span,
}

impl MintSpan {
    pub(crate) fn new() -> Self {
        Self {
            #[cfg(feature = "tracing")]
            span: debug_span!("released_mint", "error.type" = Empty),
        }
    }

    /// Runs the mint in it.
    pub(crate) fn around<F: Future>(&self, mint: F) -> impl Future<Output = F::Output> + use<F> {
        around(
            mint,
            #[cfg(feature = "tracing")]
            &self.span,
        )
    }

    /// Notes how the mint ended.
    pub(crate) fn end<T>(self, result: &Result<T, MintError>) {
        #[cfg(feature = "tracing")]
        if let Err(error) = result {
            self.span.record("error.type", error.kind().as_str());
        }
        let _ = (self, result);
    }
}

/// The span of one exchange. If it is given up half way, the span says so.
pub(crate) struct ExchangeSpan {
    #[cfg(feature = "tracing")]
    span: Span,
    #[cfg(feature = "tracing")]
    has_ended: bool,
}

impl ExchangeSpan {
    /// `resends` is how many exchanges came before it for the same mint.
    pub(crate) fn new(endpoint: &Endpoint, resends: u32) -> Self {
        let _ = (endpoint, resends);
        Self {
            #[cfg(feature = "tracing")]
            span: debug_span!(
                "released_exchange",
                "otel.kind" = "client",
                "http.request.method" = "POST",
                "http.request.resend_count" = resends,
                "http.response.status_code" = Empty,
                "server.address" = endpoint.url().host_str(),
                "server.port" = endpoint.url().port_or_known_default(),
                "error.type" = Empty,
            ),
            #[cfg(feature = "tracing")]
            has_ended: false,
        }
    }

    /// Runs the exchange in it.
    pub(crate) fn around<F: Future>(&self, exchange: F) -> impl Future<Output = F::Output> + use<F> {
        around(
            exchange,
            #[cfg(feature = "tracing")]
            &self.span,
        )
    }

    /// Notes what the exchange was answered with. Not through the current span, which is the application's own where
    /// these are switched off.
    pub(crate) fn status(&self, status: StatusCode) {
        #[cfg(feature = "tracing")]
        self.span.record("http.response.status_code", status.as_u16());
        let _ = (self, status);
    }

    /// Notes how the exchange ended.
    #[cfg_attr(not(feature = "tracing"), allow(unused_mut))]
    pub(crate) fn end<T>(mut self, result: &Result<T, Failure>) {
        #[cfg(feature = "tracing")]
        {
            self.has_ended = true;
            if let Err(failure) = result {
                self.span.record("error.type", failure.error.kind().as_str());
            }
        }
        let _ = (self, result);
    }
}

#[cfg(feature = "tracing")]
impl Drop for ExchangeSpan {
    fn drop(&mut self) {
        if !self.has_ended {
            self.span.record("error.type", "cancelled");
        }
    }
}

#[cfg(feature = "tracing")]
fn around<F: Future>(future: F, span: &Span) -> impl Future<Output = F::Output> + use<F> {
    future.instrument(span.clone())
}

#[cfg(not(feature = "tracing"))]
fn around<F: Future>(future: F) -> impl Future<Output = F::Output> + use<F> {
    future
}
