//! The span of an exchange, with the names of OpenTelemetry's conventions for HTTP clients; nothing without the feature
//! `tracing`.
//!
//! At the level of debugging, as every page has them: whoever does not record them pays next to nothing.
//!
//! None of the fields tells who somebody is, and none holds what the remote end wrote.

#[cfg(feature = "tracing")]
use tracing::{Instrument, Span, debug_span, field::Empty};

use http::{StatusCode, Version};
use tokio::time::Instant;

use super::attempts::Failure;
use super::endpoint::Endpoint;
#[cfg(feature = "tracing")]
use crate::error::MintErrorKind;
#[cfg(feature = "tracing")]
use crate::telemetry::ERROR;

/// The span of one exchange.
pub(crate) struct ExchangeSpan {
    #[cfg(feature = "tracing")]
    span: Span,
    /// When the attempt runs into its time limit, and the exchange with it.
    #[cfg(feature = "tracing")]
    limit: Instant,
    #[cfg(feature = "tracing")]
    has_ended: bool,
}

impl ExchangeSpan {
    /// `resends` is how many exchanges came before it for the same mint.
    pub(crate) fn new(endpoint: &Endpoint, resends: u32, limit: Instant) -> Self {
        let _ = (endpoint, resends, limit);
        Self {
            #[cfg(feature = "tracing")]
            span: debug_span!(
                "POST",
                "otel.kind" = "client",
                "http.request.method" = "POST",
                // Neither a user name nor a query is in it: no endpoint has them.
                "url.full" = endpoint.url().as_str(),
                "server.address" = endpoint.url().host_str(),
                "server.port" = endpoint.url().port_or_known_default(),
                "http.request.resend_count" = (resends > 0).then_some(resends),
                "http.response.status_code" = Empty,
                "network.protocol.version" = Empty,
                "error.type" = Empty,
                "otel.status_code" = Empty,
            ),
            #[cfg(feature = "tracing")]
            limit,
            #[cfg(feature = "tracing")]
            has_ended: false,
        }
    }

    /// Runs the exchange in it.
    // Not an `async fn`: it would hold the future that it is given twice, and move it once more.
    pub(crate) fn around<F: Future>(&self, exchange: F) -> impl Future<Output = F::Output> + use<F> {
        #[cfg(feature = "tracing")]
        return exchange.instrument(self.span.clone());
        #[cfg(not(feature = "tracing"))]
        exchange
    }

    /// Notes what the exchange was answered with. Not through the current span, which is the application's own where
    /// these are switched off.
    pub(crate) fn answered(&self, status: StatusCode, version: Version) {
        #[cfg(feature = "tracing")]
        {
            self.span.record("http.response.status_code", status.as_u16());
            let version = match version {
                Version::HTTP_10 => "1.0",
                Version::HTTP_11 => "1.1",
                Version::HTTP_2 => "2",
                Version::HTTP_3 => "3",
                _ => return,
            };
            self.span.record("network.protocol.version", version);
        }
        let _ = (self, status, version);
    }

    /// Notes how the exchange ended.
    #[cfg_attr(not(feature = "tracing"), allow(unused_mut))]
    pub(crate) fn end<T>(mut self, result: &Result<T, Failure>) {
        #[cfg(feature = "tracing")]
        {
            self.has_ended = true;
            if let Err(failure) = result {
                self.failed(failure.error.kind());
            }
        }
        let _ = (self, result);
    }

    #[cfg(feature = "tracing")]
    fn failed(&self, kind: MintErrorKind) {
        self.span.record("error.type", kind.as_str());
        self.span.record("otel.status_code", ERROR);
    }
}

/// An exchange that is given up half way is an error if its time was over, and none if its page went away.
#[cfg(feature = "tracing")]
impl Drop for ExchangeSpan {
    fn drop(&mut self) {
        if !self.has_ended && Instant::now() >= self.limit {
            self.failed(MintErrorKind::Timeout);
        }
    }
}
