//! What the tests share: who signs in, and the three stacks to serve pages with.

pub(crate) mod authority;
pub(crate) mod fault_server;

use std::convert::Infallible;
use std::future::ready;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use axum::routing::get;
use futures_util::FutureExt;
use http::request::Parts;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::metadata::{AsciiMetadataKey, MetadataMap};
use tower::ServiceBuilder;
use tower::util::BoxCloneSyncService;
use tower_released::client::{CircuitConfig, ReleasedClientBuilder, RetryConfig, SecretSource};
use tower_released::middleware::FailClosed;
use tower_released::testing::FakeReleased;
use tower_released::{
    AuthToken, BoxError, PendingToken, ReleasedClient, ReleasedTokenLayer, User, UserResolver,
    resolver_fn,
};

use self::tonic_example::roadmap::roadmap_client::RoadmapClient;
use self::tonic_example::roadmap::roadmap_server::{Roadmap, RoadmapServer};
use self::tonic_example::roadmap::{PortalReply, PortalRequest};

#[path = "../../../examples/tonic/app.rs"]
pub(crate) mod tonic_example;

/// The defaults of retries, but for this.
pub(crate) fn retry(change: impl FnOnce(&mut RetryConfig)) -> RetryConfig {
    let mut retry = RetryConfig::default();
    change(&mut retry);
    retry
}

/// The defaults of the circuit breaker, but for this.
pub(crate) fn circuit(change: impl FnOnce(&mut CircuitConfig)) -> CircuitConfig {
    let mut circuit = CircuitConfig::default();
    change(&mut circuit);
    circuit
}

/// No retries.
pub(crate) fn once() -> RetryConfig {
    retry(|retry| retry.max_attempts = 1)
}

/// A circuit breaker that stays open for so long, at first and at most.
pub(crate) fn open_for(time: Duration) -> CircuitConfig {
    circuit(|circuit| (circuit.first_open, circuit.longest_open) = (time, time))
}

/// A client of this Released, with a secret from elsewhere.
pub(crate) fn builder_with(
    released: &FakeReleased,
    secret: impl Into<SecretSource>,
) -> ReleasedClientBuilder {
    ReleasedClient::builder(released.account_id(), secret).endpoint(released.impersonation_url())
}

/// The layer that the stacks are given.
pub(crate) enum Layer {
    FailOpen(ReleasedTokenLayer),
    FailClosed(ReleasedTokenLayer<FailClosed>),
}

impl From<ReleasedTokenLayer> for Layer {
    fn from(layer: ReleasedTokenLayer) -> Self {
        Self::FailOpen(layer)
    }
}

impl From<ReleasedTokenLayer<FailClosed>> for Layer {
    fn from(layer: ReleasedTokenLayer<FailClosed>) -> Self {
        Self::FailClosed(layer)
    }
}

/// Who the `x-user` header says.
pub(crate) fn by_header() -> impl UserResolver<Error = BoxError> {
    resolver_fn(|parts: &Parts| {
        let id = parts.headers.get("x-user").and_then(|id| id.to_str().ok());
        ready(id.map(|id| User::new(id, format!("{id}@example.com"))))
    })
}

pub(crate) fn ada() -> User {
    User::new("ada", "ada@example.com").unwrap()
}

/// A request from Ada to the root.
pub(crate) fn request_from_ada<B>(body: B) -> Request<B> {
    Request::builder()
        .header("x-user", "ada")
        .body(body)
        .unwrap()
}

/// What came back to a client.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The page, with its token if it has one.
    Page(Option<String>),
    Refused(Refusal),
}

/// A refusal, as HTTP and gRPC say it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Unauthenticated,
    Unavailable,
    DeadlineExceeded,
    Internal,
}

impl Answer {
    pub(crate) fn token(self) -> String {
        match self {
            Self::Page(Some(token)) => token,
            other => panic!("a page with a token was expected, not {other:?}"),
        }
    }
}

/// A way to serve a page behind a layer, and to visit it over a real connection.
pub(crate) trait Stack: Sized {
    /// What a page with a token says to caches.
    const CACHE_CONTROL: Option<&'static str> = Some("private, no-store");

    async fn serve(layer: impl Into<Layer>) -> Self;

    /// Visits the page, signed in or not, with more headers.
    async fn visit(
        &self,
        user: Option<&str>,
        headers: &[(&'static str, &'static str)],
    ) -> (Answer, HeaderMap);
}

/// A task that ends with the test.
struct Server(tokio::task::JoinHandle<()>);

impl Server {
    fn spawn(server: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(server))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub(crate) async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// A server that speaks HTTP, and a client for it.
struct Http {
    address: SocketAddr,
    client: reqwest::Client,
    _server: Server,
}

impl Http {
    fn new(address: SocketAddr, server: Server) -> Self {
        Self {
            address,
            client: reqwest::Client::builder().no_proxy().build().unwrap(),
            _server: server,
        }
    }

    async fn visit(
        &self,
        user: Option<&str>,
        headers: &[(&'static str, &'static str)],
    ) -> (Answer, HeaderMap) {
        let mut request = self.client.get(format!("http://{}/", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(user) = user {
            request = request.header("x-user", user);
        }
        let response = request.send().await.unwrap();
        let headers = response.headers().clone();
        let answer = match response.status() {
            StatusCode::OK => {
                let text = response.text().await.unwrap();
                Answer::Page((!text.is_empty()).then_some(text))
            }
            StatusCode::UNAUTHORIZED => Answer::Refused(Refusal::Unauthenticated),
            StatusCode::SERVICE_UNAVAILABLE => {
                assert!(
                    headers["retry-after"]
                        .to_str()
                        .unwrap()
                        .parse::<u64>()
                        .unwrap()
                        > 0
                );
                Answer::Refused(Refusal::Unavailable)
            }
            StatusCode::GATEWAY_TIMEOUT => Answer::Refused(Refusal::DeadlineExceeded),
            StatusCode::BAD_GATEWAY | StatusCode::INTERNAL_SERVER_ERROR => {
                Answer::Refused(Refusal::Internal)
            }
            other => panic!("no page has status {other}"),
        };
        (answer, headers)
    }
}

pub(crate) struct Axum(Http);

impl Stack for Axum {
    async fn serve(layer: impl Into<Layer>) -> Self {
        async fn page(token: Option<AuthToken>) -> String {
            token.map_or_else(String::new, |token| token.to_string())
        }
        let app = axum::Router::new().route("/", get(page));
        let app = match layer.into() {
            Layer::FailOpen(layer) => app.layer(layer),
            Layer::FailClosed(layer) => app.layer(layer),
        };
        let (listener, address) = listen().await;
        Self(Http::new(
            address,
            Server::spawn(async { axum::serve(listener, app).await.unwrap() }),
        ))
    }

    async fn visit(
        &self,
        user: Option<&str>,
        headers: &[(&'static str, &'static str)],
    ) -> (Answer, HeaderMap) {
        self.0.visit(user, headers).await
    }
}

pub(crate) struct Hyper(Http);

impl Stack for Hyper {
    async fn serve(layer: impl Into<Layer>) -> Self {
        async fn page(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
            Ok(Response::new(Full::from(
                token_of(request.extensions()).await.unwrap_or_default(),
            )))
        }
        let service = match layer.into() {
            Layer::FailOpen(layer) => {
                BoxCloneSyncService::new(ServiceBuilder::new().layer(layer).service_fn(page))
            }
            Layer::FailClosed(layer) => {
                BoxCloneSyncService::new(ServiceBuilder::new().layer(layer).service_fn(page))
            }
        };
        let (listener, address) = listen().await;
        let server = Server::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let service = TowerToHyperService::new(service.clone());
                connections.spawn(async move {
                    let _ = auto::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self(Http::new(address, server))
    }

    async fn visit(
        &self,
        user: Option<&str>,
        headers: &[(&'static str, &'static str)],
    ) -> (Answer, HeaderMap) {
        self.0.visit(user, headers).await
    }
}

pub(crate) struct Tonic {
    client: RoadmapClient<tonic::transport::Channel>,
    _server: Server,
}

struct Portals;

#[tonic::async_trait]
impl Roadmap for Portals {
    async fn portal(
        &self,
        request: tonic::Request<PortalRequest>,
    ) -> Result<tonic::Response<PortalReply>, tonic::Status> {
        let auth_token = token_of(request.extensions()).await;
        Ok(tonic::Response::new(PortalReply {
            channel_id: "c1".to_owned(),
            auth_token,
        }))
    }
}

impl Stack for Tonic {
    // Nothing caches gRPC.
    const CACHE_CONTROL: Option<&'static str> = None;

    async fn serve(layer: impl Into<Layer>) -> Self {
        let (listener, address) = listen().await;
        let (server, incoming) = (
            tonic::transport::Server::builder(),
            TcpListenerStream::new(listener),
        );
        let portals = RoadmapServer::new(Portals);
        let server = match layer.into() {
            Layer::FailOpen(layer) => server
                .layer(layer)
                .add_service(portals)
                .serve_with_incoming(incoming)
                .left_future(),
            Layer::FailClosed(layer) => server
                .layer(layer)
                .add_service(portals)
                .serve_with_incoming(incoming)
                .right_future(),
        };
        let server = Server::spawn(async { server.await.unwrap() });
        let client = RoadmapClient::connect(format!("http://{address}"))
            .await
            .unwrap();
        Self {
            client,
            _server: server,
        }
    }

    async fn visit(
        &self,
        user: Option<&str>,
        headers: &[(&'static str, &'static str)],
    ) -> (Answer, HeaderMap) {
        let mut request = tonic::Request::new(PortalRequest {});
        for (name, value) in headers {
            request
                .metadata_mut()
                .insert(AsciiMetadataKey::from_static(name), value.parse().unwrap());
        }
        if let Some(user) = user {
            request
                .metadata_mut()
                .insert("x-user", user.parse().unwrap());
        }
        match self.client.clone().portal(request).await {
            Ok(reply) => {
                let headers = MetadataMap::into_headers(reply.metadata().clone());
                (Answer::Page(reply.into_inner().auth_token), headers)
            }
            Err(status) => {
                assert!(!status.message().is_empty(), "{status:?}");
                let refusal = match status.code() {
                    tonic::Code::Unauthenticated => Refusal::Unauthenticated,
                    tonic::Code::Unavailable => Refusal::Unavailable,
                    tonic::Code::DeadlineExceeded => Refusal::DeadlineExceeded,
                    tonic::Code::Internal => Refusal::Internal,
                    other => panic!("no page has status {other:?}"),
                };
                (
                    Answer::Refused(refusal),
                    status.metadata().clone().into_headers(),
                )
            }
        }
    }
}

/// The token, for code that knows no extractors.
async fn token_of(extensions: &http::Extensions) -> Option<String> {
    let pending = extensions.get::<PendingToken>()?;
    let token = pending.get().await.ok().flatten();
    Some(token?.to_string())
}
