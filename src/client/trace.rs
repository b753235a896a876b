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

/// Runs one exchange in its span. `resends` is how many came before it for the same mint.
pub(crate) async fn exchange<T>(
    endpoint: &Endpoint,
    resends: u32,
    exchange: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    #[cfg(feature = "tracing")]
    {
        let span = info_span!(
            "released_exchange",
            "otel.kind" = "client",
            "http.request.method" = "POST",
            "http.request.resend_count" = resends,
            "http.response.status_code" = Empty,
            "server.address" = endpoint.url().host_str(),
            "server.port" = endpoint.url().port_or_known_default(),
            "error.type" = Empty,
        );
        let result = exchange.instrument(span.clone()).await;
        if let Err(failure) = &result {
            span.record("error.type", failure.error.kind().as_str());
        }
        result
    }
    #[cfg(not(feature = "tracing"))]
    {
        let _ = (endpoint, resends);
        exchange.await
    }
}

/// Notes what the exchange under way was answered with.
pub(crate) fn status(status: StatusCode) {
    #[cfg(feature = "tracing")]
    Span::current().record("http.response.status_code", status.as_u16());
    let _ = status;
}
