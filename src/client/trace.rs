//! The span of an exchange, with the names of OpenTelemetry's conventions for HTTP clients.
//!
//! Its level is `debug`, because every page has one: it costs little where nobody records it. No field identifies a
//! person, or contains text from the network.

use http::{StatusCode, Version};
use tokio::time::Instant;
use tracing::field::Empty;
use tracing::{Instrument, Span, debug_span};

use super::attempts::Failure;
use super::endpoint::Endpoint;
use crate::error::MintErrorKind;
use crate::telemetry::ERROR;

/// The span of one exchange.
pub(crate) struct ExchangeSpan {
    span: Span,
    /// When the attempt reaches its time limit.
    limit: Instant,
    has_ended: bool,
}

impl ExchangeSpan {
    /// Opens a span. `resends` is the number of earlier exchanges of the same mint.
    pub(crate) fn new(endpoint: &Endpoint, resends: u32, limit: Instant) -> Self {
        Self {
            span: debug_span!(
                "POST",
                "otel.kind" = "client",
                "http.request.method" = "POST",
                // An endpoint has neither a user name nor a query.
                "url.full" = endpoint.url().as_str(),
                "server.address" = endpoint.url().host_str(),
                "server.port" = endpoint.url().port_or_known_default(),
                "http.request.resend_count" = (resends > 0).then_some(resends),
                "http.response.status_code" = Empty,
                "network.protocol.version" = Empty,
                "error.type" = Empty,
                "otel.status_code" = Empty,
            ),
            limit,
            has_ended: false,
        }
    }

    /// Runs the exchange in the span.
    // Not an `async fn`, which would store the future twice and move it once more.
    pub(crate) fn around<F: Future>(
        &self,
        exchange: F,
    ) -> impl Future<Output = F::Output> + use<F> {
        exchange.instrument(self.span.clone())
    }

    /// Returns the span, for [`record_head`].
    pub(crate) fn span(&self) -> &Span {
        &self.span
    }

    /// Records the end of the exchange.
    pub(crate) fn end<T>(mut self, result: &Result<T, Failure>) {
        self.has_ended = true;
        if let Err(failure) = result {
            self.failed(failure.error.kind());
        }
    }

    fn failed(&self, kind: MintErrorKind) {
        self.span.record("error.type", kind.as_str());
        self.span.record("otel.status_code", ERROR);
    }
}

/// An exchange that is dropped at its time limit is an error. One that is dropped earlier was cancelled, which is no
/// error.
impl Drop for ExchangeSpan {
    fn drop(&mut self) {
        if !self.has_ended && Instant::now() >= self.limit {
            self.failed(MintErrorKind::Timeout);
        }
    }
}

/// Records the status and the version of the answer. Not through the current span: where this span is disabled, that is
/// the application's own.
pub(crate) fn record_head(span: &Span, status: StatusCode, version: Version) {
    span.record("http.response.status_code", status.as_u16());
    let version = match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_11 => "1.1",
        Version::HTTP_2 => "2",
        Version::HTTP_3 => "3",
        _ => return,
    };
    span.record("network.protocol.version", version);
}
