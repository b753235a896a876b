//! A page whose traces go to an OpenTelemetry collector, and whose metrics Prometheus reads: `cargo run` in this folder.
//!
//! Traces are sent as OTLP over gRPC, to `OTEL_EXPORTER_OTLP_ENDPOINT` (`http://localhost:4317` by default). Metrics are at
//! `/metrics`. It mints with the account of `RELEASED_ACCOUNT_ID` and `RELEASED_SHARED_SECRET` (or
//! `RELEASED_SHARED_SECRET_FILE`), or with a fake of Released if none of them is set. `PORT` is 3000 by default. Sign in with
//! a header: `curl -H 'x-user: ada' http://localhost:3000/roadmap`.

#[path = "../../support/account.rs"]
mod account;
mod app;
mod telemetry;
#[cfg(test)]
mod tests;

use std::env;

use opentelemetry_otlp::SpanExporter;
use tokio::net::TcpListener;
use tower_released::testing::FakeReleased;
use tower_released::{BoxError, ReleasedClient};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let traces = telemetry::traces(SpanExporter::builder().with_tonic().build()?)?;
    // Before the client and the layer are made: they register their metrics then.
    let metrics = telemetry::metrics()?;

    let fake = if account::is_named_by(|name| env::var_os(name)) {
        None
    } else {
        Some(FakeReleased::start().await?)
    };
    let released = fake
        .as_ref()
        .map_or_else(ReleasedClient::from_env, FakeReleased::client)?;

    let port = env::var("PORT").map_or(Ok(3000), |port| port.parse::<u16>())?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    tracing::info!(
        "listening on http://localhost:{}/roadmap",
        listener.local_addr()?.port()
    );
    axum::serve(listener, app::app(released, metrics))
        .with_graceful_shutdown(async { tokio::signal::ctrl_c().await.unwrap_or_default() })
        .await?;
    // Sends the last spans.
    tokio::task::spawn_blocking(move || traces.shutdown()).await??;
    Ok(())
}
