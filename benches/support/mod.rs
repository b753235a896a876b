//! What the benchmarks share: an API to mint at, servers whose CPU time can be told, visitors, and ratios of one run.

// Every benchmark is a crate of its own and uses a part of this; figures are for people to read.
#![allow(dead_code, clippy::print_stdout, clippy::unwrap_used)]

pub(crate) mod by_hand;
pub(crate) mod elsewhere;
pub(crate) mod floor;

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
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::time::{ClockId, clock_gettime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
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

pub(crate) const ADA: CurrentUser = CurrentUser {
    id: "user-42",
    email: "ada@example.com",
    name: "Ada Lovelace",
};

pub(crate) fn ada() -> User {
    User::new(ADA.id, ADA.email).unwrap().with_name(ADA.name)
}

/// A client with the defaults.
pub(crate) fn client(api: &Server) -> ReleasedClient {
    ReleasedClient::builder(ACCOUNT, SECRET)
        .endpoint(api.url())
        .build()
        .unwrap()
}

/// The resolver's closure.
pub(crate) fn vouch(user: &CurrentUser) -> Result<User, InvalidUser> {
    User::new(user.id, user.email).map(|vouched| vouched.with_name(user.name))
}

/// A token like Released's: a signed JWT of some 300 bytes.
fn token() -> String {
    let exp = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs()
        + 120;
    let claims = format!(
        r#"{{"iss":"released","aud":"portal","sub":"user-42","email":"ada@example.com","name":"Ada Lovelace","iat":{},"exp":{exp}}}"#,
        exp - 120,
    );
    let part = |text: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(text);
    format!(
        "{}.{}.{}",
        part(br#"{"alg":"HS256","typ":"JWT"}"#),
        part(claims.as_bytes()),
        part(&[7; 32])
    )
}

/// What the token API answers.
fn reply() -> Bytes {
    Bytes::from(format!("\"{}\"", token()))
}

async fn accept(listener: &TcpListener) -> TcpStream {
    let (stream, _) = listener.accept().await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Answers every request of a connection.
async fn answer(stream: impl AsyncRead + AsyncWrite + Unpin, reply: Bytes, latency: Duration) {
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let reply = reply.clone();
        async move {
            // Read to its end, or the connection could not be used again.
            request.into_body().collect().await.unwrap();
            if !latency.is_zero() {
                tokio::time::sleep(latency).await;
            }
            let mut response = Response::new(Full::new(reply));
            response
                .headers_mut()
                .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            Ok::<_, Infallible>(response)
        }
    });
    // It ends with an error when the client has gone.
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
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
                ready
                    .send((listener.local_addr().unwrap(), Handle::current()))
                    .unwrap();
                tokio::select! {
                    () = serve(listener) => {}
                    _ = stopped => {}
                }
            });
        };
        thread.spawn(run).unwrap();
        let (address, handle) = started.recv().unwrap();
        Self {
            address,
            handle,
            _stop: stop,
        }
    }

    /// An application.
    pub(crate) fn app(app: Router) -> Self {
        Self::start("app", async |listener| {
            axum::serve(listener, app).await.unwrap();
        })
    }

    /// A token API that answers at once, and always with the same token.
    pub(crate) fn api() -> Self {
        Self::slow_api(Duration::ZERO)
    }

    /// A token API that takes its time.
    pub(crate) fn slow_api(latency: Duration) -> Self {
        Self::start("api", async move |listener| {
            let reply = reply();
            loop {
                let stream = accept(&listener).await;
                tokio::spawn(answer(stream, reply.clone(), latency));
            }
        })
    }

    /// A token API behind TLS.
    pub(crate) fn tls_api(tls: TlsAcceptor) -> Self {
        Self::start("api", async move |listener| {
            let reply = reply();
            loop {
                let (stream, tls, reply) = (accept(&listener).await, tls.clone(), reply.clone());
                tokio::spawn(async move {
                    answer(tls.accept(stream).await.unwrap(), reply, Duration::ZERO).await;
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
            let _ = tell.send(thread_cpu_time());
        });
        told.recv().unwrap()
    }
}

pub(crate) fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// As many connections as keep a server busy.
const CONNECTIONS: usize = 32;

/// Connections of browsers, each of which loads one page after the other.
struct Visitors {
    runtime: Runtime,
    connections: Vec<SendRequest<Empty<Bytes>>>,
    request: Request<Empty<Bytes>>,
}

impl Visitors {
    /// Opens so many connections, to load pages with these headers.
    fn arrive(server: &Server, connections: usize, headers: &[(&str, &str)]) -> Self {
        let runtime = runtime();
        let address = server.address;
        let connections = runtime.block_on(async {
            let mut opened = Vec::new();
            for _ in 0..connections {
                let stream = TcpStream::connect(address).await.unwrap();
                stream.set_nodelay(true).unwrap();
                let (requests, connection) =
                    hyper::client::conn::http1::handshake(TokioIo::new(stream))
                        .await
                        .unwrap();
                tokio::spawn(connection);
                opened.push(requests);
            }
            opened
        });
        let mut request = Request::get("/roadmap")
            .header("host", address.to_string())
            .header("accept", "text/html");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Self {
            runtime,
            connections,
            request: request.body(Empty::new()).unwrap(),
        }
    }

    /// Loads so many pages, and makes sure that each holds what it should.
    fn load(&mut self, pages: u64, expected: &'static str) {
        let left = Arc::new(AtomicI64::new(pages.try_into().unwrap()));
        let request = self.request.clone();
        let connections = std::mem::take(&mut self.connections);
        self.connections = self.runtime.block_on(async move {
            let mut visits = JoinSet::new();
            for mut requests in connections {
                let (left, request) = (Arc::clone(&left), request.clone());
                visits.spawn(async move {
                    while left.fetch_sub(1, Ordering::Relaxed) > 0 {
                        requests.ready().await.unwrap();
                        let response = requests.send_request(request.clone()).await.unwrap();
                        assert_eq!(response.status(), 200);
                        let page = response.into_body().collect().await.unwrap().to_bytes();
                        assert!(
                            page.windows(expected.len())
                                .any(|part| part == expected.as_bytes())
                        );
                    }
                    requests
                });
            }
            visits.join_all().await
        });
    }
}

impl Visitors {
    /// Loads one page, and says how long its first bytes took.
    fn wait_for_first_byte(&mut self) -> Duration {
        let (request, requests) = (self.request.clone(), &mut self.connections[0]);
        self.runtime.block_on(async {
            requests.ready().await.unwrap();
            let start = Instant::now();
            let response = requests.send_request(request).await.unwrap();
            let mut body = response.into_body();
            body.frame().await.unwrap().unwrap();
            let took = start.elapsed();
            body.collect().await.unwrap();
            took
        })
    }
}

/// How many iterations of the one before it is the other's turn: some milliseconds, as the machine's pace changes in less than a
/// second.
const IN_TURN: u64 = 256;

/// Measures things beside another, in turn, so that what else goes on in the machine hits both.
#[derive(Default)]
pub(crate) struct Ratios {
    pairs: Vec<(String, Vec<Pair>)>,
}

/// How long one iteration took, in microseconds.
struct Pair {
    own: f64,
    other: f64,
    iterations: u64,
}

impl Ratios {
    /// Measures `own`, and `other` in turn with it. Criterion reports the former.
    pub(crate) fn measure(
        &mut self,
        bencher: &mut Bencher<'_>,
        name: &str,
        mut own: impl FnMut(u64) -> Duration,
        mut other: impl FnMut(u64) -> Duration,
    ) {
        let mut pairs = Vec::new();
        bencher.iter_custom(|iterations| {
            let (mut own_took, mut other_took) = (Duration::ZERO, Duration::ZERO);
            let mut left = iterations;
            while left > 0 {
                let now = left.min(IN_TURN);
                own_took += own(now);
                other_took += other(now);
                left -= now;
            }
            #[allow(clippy::cast_precision_loss)]
            let each = |took: Duration| took.as_secs_f64() * 1e6 / iterations as f64;
            pairs.push(Pair {
                own: each(own_took),
                other: each(other_took),
                iterations,
            });
            own_took
        });
        match self.pairs.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => known.append(&mut pairs),
            None => self.pairs.push((name.to_owned(), pairs)),
        }
    }

    /// Prints what each takes, and what part of the other that is: medians. Not in `cargo test`, which measures nothing.
    pub(crate) fn print(&self, other: &str) {
        if !is_measured() {
            return;
        }
        println!();
        for (name, pairs) in &self.pairs {
            // Criterion warms up with few iterations.
            let most = pairs.iter().map(|pair| pair.iterations).max().unwrap();
            let median = |of: fn(&Pair) -> f64| {
                let mut values: Vec<f64> = pairs
                    .iter()
                    .filter(|pair| pair.iterations >= most / 10)
                    .map(of)
                    .collect();
                values.sort_by(f64::total_cmp);
                values[values.len() / 2]
            };
            let (own, beside) = (median(|pair| pair.own), median(|pair| pair.other));
            let ratio = median(|pair| pair.own / pair.other);
            println!("{name}: {own:.2} µs, {ratio:.3} of {other} ({beside:.2} µs)");
        }
    }
}

/// Whether this is `cargo bench`; `cargo test` only wants to see that it works.
pub(crate) fn is_measured() -> bool {
    std::env::args().any(|argument| argument == "--bench")
}

/// The CPU time that this thread has used, in the kernel too.
pub(crate) fn thread_cpu_time() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap()
}

/// The time that so many calls take.
pub(crate) fn wall_time<T>(iterations: u64, mut call: impl FnMut() -> T) -> Duration {
    let start = Instant::now();
    for _ in 0..iterations {
        black_box(call());
    }
    start.elapsed()
}

/// A server, and whoever visits it.
pub(crate) struct Site {
    server: Server,
    visitors: Visitors,
    expected: &'static str,
    // Which must not stop before.
    _api: Server,
}

impl Site {
    /// Opens an application whose pages hold what is `expected`, and visits it until it is warm.
    pub(crate) fn open(
        api: Server,
        app: impl Fn(&Server) -> Router,
        headers: &[(&str, &str)],
        expected: &'static str,
    ) -> Self {
        let mut site = Self::open_to(CONNECTIONS, api, app, headers, expected);
        site.visitors.load(1000, expected);
        site
    }

    /// The same with a single visitor, who waits for each page.
    pub(crate) fn open_to_one(
        api: Server,
        app: impl Fn(&Server) -> Router,
        expected: &'static str,
    ) -> Self {
        let mut site = Self::open_to(1, api, app, &[], expected);
        site.visitors.load(1, expected);
        site
    }

    fn open_to(
        connections: usize,
        api: Server,
        app: impl Fn(&Server) -> Router,
        headers: &[(&str, &str)],
        expected: &'static str,
    ) -> Self {
        let server = Server::app(app(&api));
        let visitors = Visitors::arrive(&server, connections, headers);
        Self {
            server,
            visitors,
            expected,
            _api: api,
        }
    }

    /// How much CPU time the server spends on so many pages.
    pub(crate) fn cpu_time(&mut self, pages: u64) -> Duration {
        let before = self.server.cpu_time();
        self.visitors.load(pages, self.expected);
        self.server.cpu_time().saturating_sub(before)
    }

    /// How long a visitor waits for so many pages.
    pub(crate) fn latency(&mut self, pages: u64) -> Duration {
        let start = Instant::now();
        self.visitors.load(pages, self.expected);
        start.elapsed()
    }

    /// How long a visitor waits for the first bytes of so many pages. The rest is loaded, too.
    pub(crate) fn latency_of_first_byte(&mut self, pages: u64) -> Duration {
        (0..pages)
            .map(|_| self.visitors.wait_for_first_byte())
            .sum()
    }
}
