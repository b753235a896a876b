//! Hyper's client, the default, and its pools of connections.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
#[cfg(any(feature = "rustls", feature = "native-tls"))]
use http::{HeaderMap, HeaderValue, header};
use http::{Request, Response, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::Connect;
#[cfg(any(feature = "rustls", feature = "native-tls"))]
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::{self, Builder, Client, ResponseFuture};
#[cfg(any(feature = "rustls", feature = "native-tls"))]
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tower::Service;

use super::connector::{Within, tcp};
use super::stage::Stage;
#[cfg(any(feature = "rustls", feature = "native-tls"))]
use super::tls::Tls;
use super::{Reading, Transport};
use crate::client::config_error::{ConfigError, ConfigErrorKind};
use crate::client::endpoint::Endpoint;
use crate::client::pool::Pools;

/// The longest head of an answer, in bytes.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// How long a connection may take to open, with DNS, TCP, a proxy and TLS. On a working network they take a fraction of
/// this. The attempt (1.5 seconds) leaves no time to try twice.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long an idle connection is kept. Load balancers keep one for 60 seconds or more.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// How many idle connections are kept: a quarter of the default limit of mints in flight.
pub(crate) const MAX_IDLE: usize = 32;

/// The `User-Agent` of the default client.
pub(crate) const USER_AGENT: &str = concat!("tower-released/", env!("CARGO_PKG_VERSION"));

/// How a client connects, and what it reads.
#[derive(Clone, Copy)]
struct Limits {
    connect: Duration,
    reading: Reading,
}

/// Opens a new client, with connections of its own.
type Open = Box<dyn Fn() -> Transport + Send + Sync>;

/// Creates pools for this endpoint only. Their clients share everything but connections.
pub(crate) fn pools(endpoint: &Endpoint) -> Result<Pools, ConfigError> {
    let limits = Limits {
        connect: CONNECT_TIMEOUT,
        reading: Reading::TOKEN,
    };
    open(endpoint.uri(), endpoint.is_loopback(), limits).map(Pools::new)
}

/// Creates a client for the pages of one origin. It connects as the client for tokens does, and takes more time.
#[cfg(feature = "cli")]
pub(crate) fn for_pages(url: &Uri, is_loopback: bool) -> Result<Transport, ConfigError> {
    let limits = Limits {
        connect: Duration::from_secs(5),
        reading: Reading {
            limit: 8 * 1024 * 1024,
            refusals: true,
        },
    };
    Ok(open(url, is_loopback, limits)?())
}

fn open(url: &Uri, is_loopback: bool, limits: Limits) -> Result<Open, ConfigError> {
    if url.scheme_str() != Some("https") {
        return Ok(over(Stage::Tcp.of(tcp(limits.connect)), limits));
    }
    #[cfg(any(feature = "rustls", feature = "native-tls"))]
    return over_tls(url, is_loopback, limits);
    #[cfg(not(any(feature = "rustls", feature = "native-tls")))]
    {
        let _ = is_loopback;
        Err(ConfigError::new(
            ConfigErrorKind::NoTls,
            "the token URL is https, but tower-released was built without TLS: enable its feature `rustls` or \
             `native-tls`, or pass an `http_service` that has it",
        ))
    }
}

/// Returns the proxy that the environment names for this URL.
#[cfg(any(feature = "rustls", feature = "native-tls"))]
pub(crate) fn proxy_for(url: &Uri, is_loopback: bool) -> Option<Intercept> {
    // A proxy cannot reach this machine's own addresses.
    if is_loopback || url.scheme_str() != Some("https") {
        None
    } else {
        Matcher::from_system().intercept(url)
    }
}

#[cfg(any(feature = "rustls", feature = "native-tls"))]
fn over_tls(url: &Uri, is_loopback: bool, limits: Limits) -> Result<Open, ConfigError> {
    let tcp = Stage::Tcp.of(tcp(limits.connect));
    let tls = Tls::new()?;
    let Some(proxy) = proxy_for(url, is_loopback) else {
        return Ok(over(Stage::Tls.of(tls.to_released(tcp)), limits));
    };
    if !matches!(proxy.uri().scheme_str(), Some("http" | "https")) {
        return Err(ConfigError::new(
            ConfigErrorKind::Proxy,
            "the proxy in HTTPS_PROXY or ALL_PROXY is neither http:// nor https://: set NO_PROXY for the token URL's \
             host, or pass an `http_service` that can use the proxy",
        ));
    }
    let mut tunnel = Tunnel::new(proxy.uri().clone(), tls.to_proxy(tcp)).with_headers(
        HeaderMap::from_iter([(header::USER_AGENT, HeaderValue::from_static(USER_AGENT))]),
    );
    if let Some(authorization) = proxy.basic_auth() {
        tunnel = tunnel.with_auth(authorization.clone());
    }
    Ok(over(
        Stage::Tls.of(tls.to_released(Stage::Proxy.of(tunnel))),
        limits,
    ))
}

fn over<C>(connector: C, limits: Limits) -> Open
where
    C: Clone + Send + Sync + 'static,
    Within<C>: Connect,
{
    let connector = Within {
        connector,
        limit: limits.connect,
    };
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1_max_buf_size(MAX_HEAD_BYTES)
        // One small buffer for head and body costs less than two that the kernel joins.
        .http1_writev(false)
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(MAX_IDLE);
    Box::new(move || {
        let client = builder.build(connector.clone());
        Transport::new(Hyper(Arc::new(client)), limits.reading)
    })
}

/// Hyper's client in an `Arc`, because its own clones copy the connector.
struct Hyper<C>(Arc<Client<C, Full<Bytes>>>);

impl<C> Clone for Hyper<C> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<C: Connect + Clone + Send + Sync + 'static> Service<Request<Full<Bytes>>> for Hyper<C> {
    type Response = Response<Incoming>;
    type Error = legacy::Error;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), legacy::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Full<Bytes>>) -> ResponseFuture {
        self.0.request(request)
    }
}
