//! The connectors of the default client, and their time limits.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use std::{future, io};

use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::{GaiAddrs, GaiResolver};
use tokio::time::timeout;
use tower::util::{MapErr, MapResponse};
use tower::{BoxError, Service};

use super::stage::{FailedStage, Progress, Stage};

/// TCP keepalive: the idle time before the first probe, the time between probes, and the number of probes.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(15), Duration::from_secs(15), 3);

/// How long sent data may go unacknowledged before the connection counts as dead.
#[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(5);

/// The system's resolver, with errors that name the stage.
type Resolver =
    MapErr<MapResponse<GaiResolver, fn(GaiAddrs) -> GaiAddrs>, fn(io::Error) -> FailedStage>;

/// Opens TCP connections.
pub(crate) fn tcp(limit: Duration) -> HttpConnector<Resolver> {
    let noted = MapResponse::new(
        GaiResolver::new(),
        (|addresses| {
            Progress::note(Stage::Dns);
            addresses
        }) as fn(_) -> _,
    );
    let mut tcp = HttpConnector::new_with_resolver(MapErr::new(
        noted,
        (|error| FailedStage::new(Stage::Dns, error)) as fn(_) -> _,
    ));
    // The TLS connectors use it for `https`, too.
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    // The addresses of a name share the limit, so one that does not answer leaves time for the next.
    tcp.set_connect_timeout(Some(limit));
    let (idle, interval, retries) = KEEPALIVE;
    tcp.set_keepalive(Some(idle));
    tcp.set_keepalive_interval(Some(interval));
    tcp.set_keepalive_retries(Some(retries));
    #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
    tcp.set_tcp_user_timeout(Some(TCP_USER_TIMEOUT));
    tcp
}

/// A connector with a time limit for all of DNS, TCP, a proxy and TLS.
#[derive(Clone)]
pub(crate) struct Within<C> {
    pub(crate) connector: C,
    pub(crate) limit: Duration,
}

impl<C> Service<Uri> for Within<C>
where
    C: Service<Uri, Error: Into<BoxError>, Future: Send> + Clone + Send + 'static,
{
    type Response = C::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<C::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, url: Uri) -> Self::Future {
        let Self {
            mut connector,
            limit,
        } = self.clone();
        Box::pin(async move {
            Progress::note_start();
            let connect = async {
                future::poll_fn(|cx| connector.poll_ready(cx))
                    .await
                    .map_err(Into::into)?;
                connector.call(url).await.map_err(Into::into)
            };
            timeout(limit, connect)
                .await
                .unwrap_or_else(|_elapsed| Err(io::Error::from(io::ErrorKind::TimedOut).into()))
        })
    }
}
