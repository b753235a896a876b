//! Where traces and metrics go.

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanExporter};
use tower_released::BoxError;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

/// Sends spans to the exporter, and events to the log.
pub(crate) fn traces(
    exporter: impl SpanExporter + 'static,
) -> Result<SdkTracerProvider, TryInitError> {
    let provider = SdkTracerProvider::builder()
        .with_resource(Resource::builder().with_service_name("roadmap").build())
        .with_batch_exporter(exporter)
        .build();
    // The crate's spans have the level `debug`. Those of the exporter's own connection are left out, because each
    // of them would be sent over that connection.
    let spans = Targets::new()
        .with_default(LevelFilter::INFO)
        .with_target("tower_released", LevelFilter::DEBUG);
    let exported = tracing_opentelemetry::layer().with_tracer(provider.tracer("roadmap"));
    tracing_subscriber::registry()
        .with(exported.with_filter(spans))
        .with(tracing_subscriber::fmt::layer().with_filter(LevelFilter::INFO))
        .try_init()?;
    Ok(provider)
}

/// Collects the metrics of this process, for `/metrics`.
///
/// There is no bridge to OpenTelemetry here: with metrics-exporter-opentelemetry 0.2, a gauge forgets its value between two
/// changes. A collector reads this page with its Prometheus receiver.
pub(crate) fn metrics() -> Result<PrometheusHandle, BoxError> {
    let durations = Matcher::Full("released_mint_duration_seconds".to_owned());
    // Up to the deadline of 3 seconds. Without buckets, a histogram becomes quantiles, which cannot be added up.
    let buckets = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0];
    let builder = PrometheusBuilder::new().set_buckets_for_metric(durations, &buckets)?;
    Ok(builder.install_recorder()?)
}
