//! Spans for a mint and for each of its exchanges, with OpenTelemetry's names; nothing without the feature `tracing`.
//!
//! None of the fields tells who somebody is, and none holds what the remote end wrote.

#[cfg(feature = "tracing")]
use tracing::{Instrument, Span, field::Empty, info_span};

use http::StatusCode;

use super::attempts::Failure;
use super::endpoint::Endpoint;
use crate::error::MintError;

/// Runs a whole mint in its span.
pub(crate) async fn mint<T>(mint: impl Future<Output = Result<T, MintError>>) -> Result<T, MintError> {
    #[cfg(feature = "tracing")]
    {
        let span = info_span!("released_mint", "error.type" = Empty);
        let result = mint.instrument(span.clone()).await;
        if let Err(error) = &result {
            span.record("error.type", error.kind().as_str());
        }
        result
    }
    #[cfg(not(feature = "tracing"))]
    mint.await
}

/// The span of one exchange.
pub(crate) struct ExchangeSpan {
    #[cfg(feature = "tracing")]
    span: Span,
}

impl ExchangeSpan {
    /// `resends` is how many exchanges came before it for the same mint.
    pub(crate) fn new(endpoint: &Endpoint, resends: u32) -> Self {
        let _ = (endpoint, resends);
        Self {
            #[cfg(feature = "tracing")]
            span: info_span!(
                "released_exchange",
                "otel.kind" = "client",
                "http.request.method" = "POST",
                "http.request.resend_count" = resends,
                "http.response.status_code" = Empty,
                "server.address" = endpoint.url().host_str(),
                "server.port" = endpoint.url().port_or_known_default(),
                "error.type" = Empty,
            ),
        }
    }

    /// Notes what the exchange was answered with. Not through the current span, which is the application's own where
    /// these are switched off.
    pub(crate) fn status(&self, status: StatusCode) {
        #[cfg(feature = "tracing")]
        self.span.record("http.response.status_code", status.as_u16());
        let _ = (self, status);
    }

    /// Runs the exchange in it. If it is given up half way, the span says so.
    pub(crate) async fn run<T>(&self, exchange: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        #[cfg(feature = "tracing")]
        {
            let given_up = RecordOnDrop { span: &self.span, error_type: Some("cancelled") };
            let result = exchange.instrument(self.span.clone()).await;
            given_up.record(result.as_ref().err().map(|failure| failure.error.kind().as_str()));
            result
        }
        #[cfg(not(feature = "tracing"))]
        exchange.await
    }
}

#[cfg(feature = "tracing")]
struct RecordOnDrop<'a> {
    span: &'a Span,
    error_type: Option<&'static str>,
}

#[cfg(feature = "tracing")]
impl RecordOnDrop<'_> {
    fn record(mut self, error_type: Option<&'static str>) {
        self.error_type = error_type;
    }
}

#[cfg(feature = "tracing")]
impl Drop for RecordOnDrop<'_> {
    fn drop(&mut self) {
        if let Some(error_type) = self.error_type {
            self.span.record("error.type", error_type);
        }
    }
}
