//! What a collector gets from the page, over OTLP, and what Prometheus reads.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use futures_util::stream;
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};
use tower_released::testing::{FakeReleased, Reply};
use tower_released::{
    BoxError, MintTiming, PendingToken, ReleasedTokenLayer, User, from_extension,
};

use crate::{app, telemetry};

/// An id that is in no path of a source file, because spans have those.
const USER: &str = "ada-lovelace-1815";

/// A collector that keeps what it gets.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Span>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let resources = request.into_inner().resource_spans;
        let scopes = resources.into_iter().flat_map(|it| it.scope_spans);
        let spans = scopes.flat_map(|it| it.spans);
        self.0.lock().expect("no panic").extend(spans);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    async fn start(&self) -> Result<String, BoxError> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let server = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(self.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        Ok(format!("http://{address}"))
    }

    /// Returns the spans since the last time.
    async fn spans(&self, traces: &SdkTracerProvider) -> Result<Vec<Span>, BoxError> {
        let traces = traces.clone();
        tokio::task::spawn_blocking(move || traces.force_flush()).await??;
        Ok(std::mem::take(&mut *self.0.lock().expect("no panic")))
    }
}

/// Returns the spans of this name, in the order of their start.
fn named<'a>(spans: &'a [Span], name: &str) -> Vec<&'a Span> {
    let mut found: Vec<_> = spans.iter().filter(|span| span.name == name).collect();
    found.sort_by_key(|span| span.start_time_unix_nano);
    found
}

fn attributes(span: &Span) -> HashMap<&str, String> {
    let text = |value: &Value| match value {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        other => format!("{other:?}"),
    };
    let pairs = span.attributes.iter().filter_map(|pair| {
        let value = pair.value.as_ref()?.value.as_ref()?;
        Some((pair.key.as_str(), text(value)))
    });
    pairs.collect()
}

fn is_error(span: &Span) -> bool {
    let status = span.status.as_ref();
    status.is_some_and(|status| status.code() == StatusCode::Error)
}

fn assert_child(child: &Span, parent: &Span) {
    assert_eq!(child.parent_span_id, parent.span_id, "{child:?}");
    assert_eq!(child.trace_id, parent.trace_id, "{child:?}");
}

async fn serve(app: Router) -> Result<String, BoxError> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok(format!("http://{address}"))
}

async fn visit(url: &str, user: Option<&str>) -> Result<String, BoxError> {
    let mut request = reqwest::Client::builder().no_proxy().build()?.get(url);
    if let Some(user) = user {
        request = request.header("x-user", user);
    }
    Ok(request.send().await?.error_for_status()?.text().await?)
}

/// One test, because the subscriber and the recorder are those of the process.
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_sees_each_page_its_mint_and_an_outage() -> Result<(), BoxError> {
    let collector = Collector::default();
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(collector.start().await?)
        .build()?;
    let traces = telemetry::traces(exporter)?;
    let metrics = telemetry::metrics()?;
    let released = FakeReleased::start().await?;
    let site = serve(app::app(released.client()?, metrics)).await?;
    let roadmap = format!("{site}/roadmap");
    let mut everything = String::new();

    // A page with a token.
    let with_token = visit(&roadmap, Some(USER)).await?;
    let token = with_token.split("auth-token=\"").nth(1).expect("a token");
    let token = token.split('"').next().expect("its end");
    let spans = collector.spans(&traces).await?;
    everything += &format!("{spans:?}");
    let ([page], [mint], [post]) = (
        &named(&spans, "GET /roadmap")[..],
        &named(&spans, "released_mint")[..],
        &named(&spans, "POST")[..],
    ) else {
        panic!("{spans:#?}")
    };
    assert_child(mint, page);
    assert_child(post, mint);
    assert!(page.parent_span_id.is_empty(), "{page:#?}");
    assert_eq!(page.kind(), SpanKind::Server);
    assert_eq!(post.kind(), SpanKind::Client);
    let of_post = attributes(post);
    let port = released.origin().rsplit(':').next().map(str::to_owned);
    for (name, value) in [
        ("http.request.method", "POST"),
        ("url.full", &released.impersonation_url()),
        ("server.address", "127.0.0.1"),
        ("server.port", &port.expect("a port")),
        ("http.response.status_code", "200"),
        ("network.protocol.version", "1.1"),
    ] {
        assert_eq!(of_post.get(name).map(String::as_str), Some(value), "{name}");
    }
    for span in [page, mint, post] {
        assert!(!is_error(span), "{span:#?}");
        assert!(!attributes(span).contains_key("error.type"), "{span:#?}");
    }

    // A page of nobody, and one during an outage.
    visit(&roadmap, None).await?;
    let spans = collector.spans(&traces).await?;
    everything += &format!("{spans:?}");
    assert!(named(&spans, "POST").is_empty(), "{spans:#?}");
    released.reply_always(Reply::status(503));
    let page = visit(&roadmap, Some(USER)).await?;
    assert!(!page.contains("auth-token"), "{page}");
    let spans = collector.spans(&traces).await?;
    everything += &format!("{spans:?}");
    let ([page], [mint], posts) = (
        &named(&spans, "GET /roadmap")[..],
        &named(&spans, "released_mint")[..],
        &named(&spans, "POST")[..],
    ) else {
        panic!("{spans:#?}")
    };
    assert!(!is_error(page), "the page was served: {page:#?}");
    assert_child(mint, page);
    assert!(is_error(mint), "{mint:#?}");
    assert_eq!(attributes(mint)["error.type"], "unavailable");
    for (resends, post) in posts.iter().enumerate() {
        assert_child(post, mint);
        assert!(is_error(post), "{post:#?}");
        let of_post = attributes(post);
        assert_eq!(of_post["error.type"], "unavailable");
        assert_eq!(of_post["http.response.status_code"], "503");
        let count = of_post.get("http.request.resend_count").cloned();
        assert_eq!(count, (resends > 0).then(|| resends.to_string()));
    }
    let warning = page.events.iter().chain(&mint.events);
    let warning: Vec<_> = warning.map(|event| event.name.as_str()).collect();
    assert!(
        warning.iter().any(|it| it.starts_with("no auth token")),
        "{warning:?}"
    );

    let secret = released.shared_secret();
    let private = [secret.as_str(), token, USER, "example.com"];
    for text in private {
        assert!(!everything.contains(text), "{text}: {everything}");
    }

    let numbers = visit(&format!("{site}/metrics"), None).await?;
    for line in [
        r#"released_pages_total{outcome="minted"} 1"#,
        r#"released_pages_total{outcome="anonymous"} 1"#,
        r#"released_pages_total{outcome="unavailable"} 1"#,
        r#"released_pages_total{outcome="cancelled"} 0"#,
        r#"released_mint_duration_seconds_count{outcome="minted"} 1"#,
        r#"released_mint_duration_seconds_bucket{outcome="unavailable",le="3"} 1"#,
        r#"released_circuit_open{reason="failing"} 0"#,
        "released_mints_in_flight 0",
        &format!("released_mint_retries_total {}", posts.len() - 1),
    ] {
        assert!(numbers.lines().any(|it| it == line), "{line}: {numbers}");
    }
    for text in private {
        assert!(!numbers.contains(text), "{text}: {numbers}");
    }

    // A token that a body asks for, after the page's head has left.
    released.recover();
    let ada = User::new(USER, "ada@example.com")?;
    let layer = ReleasedTokenLayer::new(released.client()?, from_extension(User::clone))
        .timing(MintTiming::OnExtraction);
    let streamed = async |pending: PendingToken| {
        Body::from_stream(stream::once(async move {
            pending.get().await.map(|token| format!("{token:?}"))
        }))
    };
    let pages = Router::new()
        .route("/stream", get(streamed))
        .route_layer(layer)
        .layer(axum::Extension(ada));
    let site = serve(app::traced(pages)).await?;
    visit(&format!("{site}/stream"), None).await?;
    let spans = collector.spans(&traces).await?;
    let ([page], [mint]) = (
        &named(&spans, "GET /stream")[..],
        &named(&spans, "released_mint")[..],
    ) else {
        panic!("{spans:#?}")
    };
    assert_child(mint, page);
    Ok(())
}
