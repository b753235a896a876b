//! What the benchmarks share: an API to mint at, servers whose CPU time can be told, visitors, and ratios of one run.

// Every benchmark is a crate of its own and uses a part of this; figures are for people to read.
#![allow(dead_code, clippy::print_stdout, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use criterion::Bencher;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rustix::time::{ClockId, clock_gettime};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tower_released::{InvalidUser, ReleasedClient, User};

pub(crate) const ACCOUNT: &str = "acc_bench";

pub(crate) const SECRET: &str = "a-shared-secret-of-the-usual-length-0123456789";

/// What an authentication layer leaves in a request's extensions.
#[derive(Clone)]
pub(crate) struct CurrentUser {
    pub(crate) id: &'static str,
    pub(crate) email: &'static str,
    pub(crate) name: &'static str,
}

pub(crate) const ADA: CurrentUser = CurrentUser { id: "user-42", email: "ada@example.com", name: "Ada Lovelace" };

pub(crate) fn ada() -> User {
    User::new(ADA.id, ADA.email).unwrap().with_name(ADA.name)
}

/// A client with the defaults.
pub(crate) fn client(api: &Server) -> ReleasedClient {
    ReleasedClient::builder(ACCOUNT, SECRET).endpoint(api.url()).build().unwrap()
}

/// The resolver's closure.
pub(crate) fn vouch(user: &CurrentUser) -> Result<User, InvalidUser> {
    User::new(user.id, user.email).map(|vouched| vouched.with_name(user.name))
}

/// A token like Released's: a signed JWT of some 300 bytes.
pub(crate) fn token() -> String {
    let exp = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() + 120;
    let claims = format!(
        r#"{{"iss":"released","aud":"portal","sub":"user-42","email":"ada@example.com","name":"Ada Lovelace","iat":{},"exp":{exp}}}"#,
        exp - 120,
    );
    let part = |text: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(text);
    format!("{}.{}.{}", part(br#"{"alg":"HS256","typ":"JWT"}"#), part(claims.as_bytes()), part(&[7; 32]))
}

/// Something that runs on a thread of its own, so that its CPU time is told from everything else's.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    handle: Handle,
    _stop: oneshot::Sender<()>,
}

impl Server {
    /// Serves on a free port of loopback, with a runtime of one thread.
    fn start<F>(name: &str, serve: impl FnOnce(TcpListener) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()>,
    {
        let (ready, started) = std::sync::mpsc::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        // Named for profilers.
        let thread = std::thread::Builder::new().name(name.to_owned());
        let run = move || {
            runtime().block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                ready.send((listener.local_addr().unwrap(), Handle::current())).unwrap();
                tokio::select! {
                    () = serve(listener) => {}
                    _ = stopped => {}
                }
            });
        };
        thread.spawn(run).unwrap();
        let (address, handle) = started.recv().unwrap();
        Self { address, handle, _stop: stop }
    }

    /// An application.
    pub(crate) fn app(app: Router) -> Self {
        Self::start("app", async |listener| axum::serve(listener, app).await.unwrap())
    }

    /// A token API that answers at once, and always with the same token.
    pub(crate) fn api() -> Self {
        Self::start("api", async |listener| {
            let reply = Bytes::from(format!("\"{}\"", token()));
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let reply = reply.clone();
                tokio::spawn(async move {
                    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                        let reply = reply.clone();
                        async move {
                            // Read to its end, or the connection could not be used again.
                            request.into_body().collect().await.unwrap();
                            let mut response = Response::new(Full::new(reply));
                            let json = http::HeaderValue::from_static("application/json");
                            response.headers_mut().insert(http::header::CONTENT_TYPE, json);
                            Ok::<_, Infallible>(response)
                        }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        })
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/auth/api/impersonation/token", self.address)
    }

    /// How much CPU time its thread has used, in the kernel too.
    fn cpu_time(&self) -> Duration {
        let (tell, told) = std::sync::mpsc::channel();
        self.handle.spawn(async move {
            let now = clock_gettime(ClockId::ThreadCPUTime);
            let _ = tell.send(Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap()));
        });
        told.recv().unwrap()
    }
}

pub(crate) fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Connections of browsers, each of which loads one page after the other.
pub(crate) struct Visitors {
    runtime: Runtime,
    connections: Vec<SendRequest<Empty<Bytes>>>,
    host: String,
}

impl Visitors {
    /// Opens so many connections.
    pub(crate) fn arrive(server: &Server, connections: usize) -> Self {
        let runtime = runtime();
        let address = server.address;
        let connections = runtime.block_on(async {
            let mut opened = Vec::new();
            for _ in 0..connections {
                let stream = TcpStream::connect(address).await.unwrap();
                stream.set_nodelay(true).unwrap();
                let (requests, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
                tokio::spawn(connection);
                opened.push(requests);
            }
            opened
        });
        Self { runtime, connections, host: address.to_string() }
    }

    /// Loads so many pages, and makes sure that each holds what it should.
    pub(crate) fn load(&mut self, pages: u64, expected: &'static str) {
        let left = Arc::new(AtomicI64::new(pages.try_into().unwrap()));
        let host = self.host.clone();
        let connections = std::mem::take(&mut self.connections);
        self.connections = self.runtime.block_on(async move {
            let mut visits = JoinSet::new();
            for mut requests in connections {
                let (left, host) = (Arc::clone(&left), host.clone());
                visits.spawn(async move {
                    while left.fetch_sub(1, Ordering::Relaxed) > 0 {
                        requests.ready().await.unwrap();
                        let request = Request::get("/roadmap").header("host", &host).header("accept", "text/html");
                        let response = requests.send_request(request.body(Empty::new()).unwrap()).await.unwrap();
                        assert_eq!(response.status(), 200);
                        let page = response.into_body().collect().await.unwrap().to_bytes();
                        assert!(page.windows(expected.len()).any(|part| part == expected.as_bytes()));
                    }
                    requests
                });
            }
            visits.join_all().await
        });
    }
}

/// What was measured in this run, for ratios between its parts.
#[derive(Default)]
pub(crate) struct Ratios {
    // In nanoseconds for one iteration.
    samples: BTreeMap<&'static str, Vec<f64>>,
}

impl Ratios {
    /// Measures, and remembers.
    pub(crate) fn time(
        &mut self,
        bencher: &mut Bencher<'_>,
        name: &'static str,
        mut measure: impl FnMut(u64) -> Duration,
    ) {
        let samples = self.samples.entry(name).or_default();
        bencher.iter_custom(|iterations| {
            let took = measure(iterations);
            #[allow(clippy::cast_precision_loss)]
            samples.push(took.as_secs_f64() * 1e9 / iterations as f64);
            took
        });
    }

    /// The median, in nanoseconds.
    pub(crate) fn median(&self, name: &str) -> Option<f64> {
        let mut samples = self.samples.get(name)?.clone();
        samples.sort_by(f64::total_cmp);
        samples.get(samples.len() / 2).copied()
    }

    /// Prints what `name` takes, and what part of `beside` that is.
    pub(crate) fn print(&self, name: &str, beside: &str) {
        if let (Some(own), Some(other)) = (self.median(name), self.median(beside)) {
            let (own_us, other_us) = (own / 1000.0, other / 1000.0);
            println!("{name}: {own_us:.2} µs, {:.3} of {beside} ({other_us:.2} µs)", own / other);
        }
    }
}

/// The time that so many calls take.
pub(crate) fn wall_time<T>(iterations: u64, mut call: impl FnMut() -> T) -> Duration {
    let start = Instant::now();
    for _ in 0..iterations {
        black_box(call());
    }
    start.elapsed()
}

/// The CPU time that a server spends while its visitors load so many pages.
pub(crate) fn cpu_time(server: &Server, visitors: &mut Visitors, pages: u64, expected: &'static str) -> Duration {
    let before = server.cpu_time();
    visitors.load(pages, expected);
    server.cpu_time().saturating_sub(before)
}
