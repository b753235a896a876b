//! What carries requests to the token API: hyper's client, or a `reqwest::Client` of the application's.
//!
//! Half of the instructions of a mint through reqwest are for redirects, cookies and retries, which have no place here.

use std::io::Cursor;
use std::time::Duration;

#[cfg(any(feature = "rustls", feature = "native-tls"))]
use http::{HeaderMap, HeaderValue, header::USER_AGENT};
use http::{Request, Response};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::Connect;
#[cfg(any(feature = "rustls", feature = "native-tls"))]
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::{Builder, Client, ResponseFuture};
#[cfg(any(feature = "rustls", feature = "native-tls"))]
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tower::BoxError;

use super::config_error::{Cause, ConfigError};
#[cfg(any(feature = "rustls", feature = "native-tls"))]
use super::connector::Tcp;
use super::connector::{Within, tcp};
use super::endpoint::Endpoint;
use super::pool::Pools;
#[cfg(any(feature = "rustls", feature = "native-tls"))]
use super::stage::Stage;
#[cfg(any(feature = "rustls", feature = "native-tls"))]
use super::tls::Tls;

/// The longest head of an answer, in bytes.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// How long a connection may take to open: DNS, TCP, a proxy and TLS. On a working network they take a fraction of this, and the
/// attempt (1.5 seconds) ends before a second try could.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long an idle connection is kept: less than load balancers do, which is 60 seconds or more.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// How many idle connections are kept: a quarter of the mints that may be in flight by default.
pub(crate) const MAX_IDLE: usize = 32;

/// What is sent.
type Body = Full<Cursor<Vec<u8>>>;

/// What is received: not read yet, and of any length.
pub(crate) type Reply = Response<ReplyBody>;

/// Its body.
pub(crate) type ReplyBody = Either<Incoming, reqwest::Body>;

/// Sends requests and keeps connections for the next ones.
pub(crate) enum Transport {
    /// What the client is, without its connector's type.
    Hyper(Box<dyn Fn(Request<Body>) -> ResponseFuture + Send + Sync>),
    Reqwest(reqwest::Client),
}

impl Transport {
    /// What hyper's client is called. The application's own has a name of its own.
    pub(crate) const USER_AGENT: &str = concat!("tower-released/", env!("CARGO_PKG_VERSION"));

    /// Over hyper, to this endpoint and to nowhere else: clients that share everything but their connections.
    pub(crate) fn hyper(endpoint: &Endpoint) -> Result<Pools, ConfigError> {
        let tcp = tcp(CONNECT_TIMEOUT);
        if !endpoint.is_https() {
            return Ok(Self::over(tcp));
        }
        #[cfg(any(feature = "rustls", feature = "native-tls"))]
        return Self::over_tls(tcp, endpoint);
        #[cfg(not(any(feature = "rustls", feature = "native-tls")))]
        Err(Cause::NoTls.into())
    }

    #[cfg(any(feature = "rustls", feature = "native-tls"))]
    fn over_tls(tcp: Tcp, endpoint: &Endpoint) -> Result<Pools, ConfigError> {
        let tls = Tls::new()?;
        // A proxy has no business with this machine's own addresses.
        let proxy = if endpoint.is_loopback() { None } else { Matcher::from_system().intercept(endpoint.uri()) };
        let Some(proxy) = proxy else { return Ok(Self::over(Stage::Tls.of(tls.to_released(tcp)))) };
        if !matches!(proxy.uri().scheme_str(), Some("http" | "https")) {
            return Err(Cause::Proxy.into());
        }
        let mut tunnel = Tunnel::new(proxy.uri().clone(), tls.to_proxy(tcp))
            .with_headers(HeaderMap::from_iter([(USER_AGENT, HeaderValue::from_static(Self::USER_AGENT))]));
        if let Some(authorization) = proxy.basic_auth() {
            tunnel = tunnel.with_auth(authorization.clone());
        }
        Ok(Self::over(Stage::Tls.of(tls.to_released(Stage::Proxy.of(tunnel)))))
    }

    fn over<C>(connector: C) -> Pools
    where
        C: Clone + Send + Sync + 'static,
        Within<C>: Connect,
    {
        let connector = Within { connector, limit: CONNECT_TIMEOUT };
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .http1_max_buf_size(MAX_HEAD_BYTES)
            // One small buffer for head and body costs less than two that the kernel puts together.
            .http1_writev(false)
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(MAX_IDLE);
        Pools::of(move || {
            let client: Client<_, Body> = builder.build(connector.clone());
            Self::Hyper(Box::new(move |request| client.request(request)))
        })
    }

    /// Sends a request and waits for the head of the answer. Dropping the future closes the connection that it has.
    // No `async fn`, which would hold the request until it ends.
    pub(crate) fn send(&self, request: Request<Vec<u8>>) -> impl Future<Output = Result<Reply, BoxError>> + use<> {
        let sending = match self {
            Self::Hyper(send) => Either::Left(send(request.map(|body| Full::new(Cursor::new(body))))),
            Self::Reqwest(client) => {
                let client = client.clone();
                Either::Right(Box::pin(async move { client.execute(request.try_into()?).await }))
            }
        };
        async {
            match sending {
                Either::Left(sending) => Ok(sending.await?.map(Either::Left)),
                Either::Right(sending) => Ok(Response::from(sending.await?).map(Either::Right)),
            }
        }
    }
}
