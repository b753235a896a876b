//! The span of an exchange, with the names of OpenTelemetry's conventions for HTTP clients.
//!
//! At the level of debugging, as every page has them: whoever does not record them pays next to nothing.
//!
//! None of the fields tells who somebody is, and none holds what the remote end wrote.

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
    /// When the attempt runs into its time limit, and the exchange with it.
    limit: Instant,
    has_ended: bool,
}

impl ExchangeSpan {
    /// `resends` is how many exchanges came before it for the same mint.
    pub(crate) fn new(endpoint: &Endpoint, resends: u32, limit: Instant) -> Self {
        Self {
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
            limit,
            has_ended: false,
        }
    }

    /// Runs the exchange in it.
    // Not an `async fn`: it would hold the future that it is given twice, and move it once more.
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

    /// Notes how the exchange ended.
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

/// An exchange that is given up half way is an error if its time was over, and none if its page went away.
impl Drop for ExchangeSpan {
    fn drop(&mut self) {
        if !self.has_ended && Instant::now() >= self.limit {
            self.failed(MintErrorKind::Timeout);
        }
    }
}

/// Records the head of the answer. Not through the current span, which is the application's own where these are switched
/// off.
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
