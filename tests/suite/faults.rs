//! Every way in which Released, or what stands in for it, can fail a mint.
//!
//! Each case says what kind of failure it is, how many requests reach the server, and what a page that needs its token
//! answers; and in each, nothing leaks, and the mint ends within its deadline.

#[cfg(not(feature = "native-tls"))]
use std::error::Error;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use futures_util::future::join_all;
use http::Request;
use http_body_util::BodyExt;
use reqwest::dns::{Name, Resolve, Resolving};
use tokio::net::TcpSocket;
use tower::ServiceExt;
use tower_released::client::{ReleasedClientBuilder, RetryConfig};
use tower_released::{
    AuthToken, MintError, MintErrorKind, ReleasedClient, ReleasedTokenLayer, User, resolver_fn,
};

use crate::leaks::{Log, forms};
#[cfg(not(feature = "native-tls"))]
use crate::support::authority::Authority;
use crate::support::fault_server::{FaultServer, Read, Reset, Stall, Step, forever, reply, write};
use crate::support::retry;

const SECRET: &str = "s3cret-of-the-account";
const EMAIL: &str = "ada.lovelace@example.com";

/// What the remote end writes wherever it can.
const REMOTE: &str = "remote-words";

/// For what stalls: two attempts fit in, and a third does not, because 250 ms must be left for it.
const STALLS: Limits = Limits {
    deadline: Duration::from_millis(2250),
    attempt: Duration::from_secs(1),
};

/// For what is answered: long enough for all three attempts, however busy the machine is.
const ANSWERS: Limits = Limits {
    deadline: Duration::from_secs(30),
    attempt: Duration::from_secs(10),
};

/// More than any mint may take beyond its deadline, however busy the machine is.
const GRACE: Duration = Duration::from_secs(10);

#[derive(Clone, Copy)]
struct Limits {
    deadline: Duration,
    attempt: Duration,
}

impl Limits {
    fn of(kind: MintErrorKind) -> Self {
        if kind == MintErrorKind::Timeout {
            STALLS
        } else {
            ANSWERS
        }
    }

    /// The budget is another test's; here every case may have all its attempts.
    fn retry(self) -> RetryConfig {
        retry(|retry| (retry.attempt_timeout, retry.budget) = (self.attempt, 2.0))
    }

    fn once(self) -> RetryConfig {
        let mut retry = self.retry();
        retry.max_attempts = 1;
        retry
    }
}

/// How a page that needs its token answers.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Page {
    /// 503 with `Retry-After`.
    Unavailable,
    /// 504
    Deadline,
    /// 502
    BadGateway,
    /// 500
    Internal,
}

impl Page {
    fn status(self) -> u16 {
        match self {
            Self::Unavailable => 503,
            Self::Deadline => 504,
            Self::BadGateway => 502,
            Self::Internal => 500,
        }
    }
}

struct Case {
    name: &'static str,
    script: Vec<Step>,
    kind: MintErrorKind,
    /// How many requests the server reads for one mint.
    requests: usize,
    page: Page,
}

fn case(
    name: &'static str,
    script: Vec<Step>,
    kind: MintErrorKind,
    requests: usize,
    page: Page,
) -> Case {
    Case {
        name,
        script,
        kind,
        requests,
        page,
    }
}

fn user() -> User {
    User::new("ada", EMAIL)
        .unwrap()
        .with_name("Countess Lovelace")
}

fn builder(endpoint: String, kind: MintErrorKind) -> ReleasedClientBuilder {
    let limits = Limits::of(kind);
    ReleasedClient::builder("acc", SECRET)
        .endpoint(endpoint)
        .deadline(limits.deadline)
        .retry(limits.retry())
}

/// Everything that somebody could read after a mint failed, in Rust and in a browser.
async fn mint_and_visit(
    name: &str,
    client: ReleasedClient,
    kind: MintErrorKind,
    page: Page,
) -> (String, usize) {
    let start = Instant::now();
    let error: MintError = client.mint(&user()).await.expect_err(name);
    assert!(
        start.elapsed() < Limits::of(kind).deadline + GRACE,
        "{name}"
    );
    assert_eq!(error.kind(), kind, "{name}");
    let mut printed = forms(&error) + &format!("{client:?}");

    let layer = ReleasedTokenLayer::new(client, resolver_fn(|_| std::future::ready(user())))
        .reject_without_token();
    let app = Router::new()
        .route("/", get(async |token: AuthToken| token.to_string()))
        .layer(layer);
    let response = app.oneshot(Request::new(Body::empty())).await.unwrap();
    assert_eq!(response.status(), page.status(), "{name}");
    assert_eq!(
        response.headers().contains_key("retry-after"),
        page == Page::Unavailable,
        "{name}"
    );
    printed += &format!("{:?}", response.headers());
    printed +=
        std::str::from_utf8(&response.into_body().collect().await.unwrap().to_bytes()).unwrap();
    assert_nothing_leaks(name, &printed);
    (printed, 2)
}

fn assert_nothing_leaks(what: &str, text: &str) {
    for forbidden in [SECRET, EMAIL, "Lovelace", REMOTE, "eyJ"] {
        assert!(
            !text.contains(forbidden),
            "{forbidden:?} is {what}:\n{text}"
        );
    }
}

async fn run(cases: Vec<Case>) {
    let (log, _guard) = Log::capture();
    join_all(cases.into_iter().map(
        async |Case {
                   name,
                   script,
                   kind,
                   requests,
                   page,
               }| {
            let server = FaultServer::start(vec![script]).await;
            let client = builder(format!("http://{}/token", server.address), kind)
                .build()
                .unwrap();
            let (_, mints) = mint_and_visit(name, client, kind, page).await;
            if kind == MintErrorKind::Timeout {
                // On a busy machine there may be no time for the second attempt of a mint.
                assert!(
                    (mints..=requests * mints).contains(&server.requests()),
                    "{name}: {}",
                    server.requests()
                );
            } else {
                assert_eq!(server.requests(), requests * mints, "{name}");
            }
            if requests == 0 {
                assert_eq!(
                    server.connections(),
                    3 * mints,
                    "{name}: every attempt opens a connection"
                );
            }
        },
    ))
    .await;
    assert_nothing_leaks("logged", &log.text());
}

#[tokio::test]
async fn transport() {
    use MintErrorKind::{Connect, Interrupted, Timeout};
    use Page::{Deadline, Unavailable};

    let head = format!("HTTP/1.1 200 {REMOTE}\r\nx-words: {REMOTE}\r\n");
    run(vec![
        case(
            "accept, then reset",
            vec![Reset],
            Interrupted,
            0,
            Unavailable,
        ),
        case("read, then close", vec![Read], Interrupted, 3, Unavailable),
        case(
            "read, then reset",
            vec![Read, Reset],
            Interrupted,
            3,
            Unavailable,
        ),
        case(
            "headers never arrive",
            vec![Read, Stall],
            Timeout,
            2,
            Deadline,
        ),
        case(
            "half the headers arrive",
            vec![Read, write(head.clone()), Stall],
            Timeout,
            2,
            Deadline,
        ),
        case(
            "the body drips",
            vec![
                Read,
                write(format!("{head}content-length: 9000\r\n\r\n\"")),
                forever("a", Duration::from_millis(20)),
            ],
            Timeout,
            2,
            Deadline,
        ),
        case(
            "the body is cut off",
            vec![
                Read,
                write(format!("{head}content-length: 99\r\n\r\n\"eyJ{REMOTE}")),
            ],
            Interrupted,
            3,
            Unavailable,
        ),
        case(
            "informational answers without end",
            vec![
                Read,
                forever(
                    "HTTP/1.1 103 Early Hints\r\nlink: </remote-words>\r\n\r\n",
                    Duration::from_millis(5),
                ),
            ],
            Timeout,
            2,
            Deadline,
        ),
    ])
    .await;

    // Nobody listens.
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let client = builder(format!("http://{address}/token"), Connect)
        .build()
        .unwrap();
    let (printed, _) = mint_and_visit("refused", client, Connect, Unavailable).await;
    assert_nothing_leaks("refused", &printed);
}

/// A listener whose queue is full, so that the system answers no further knock.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_black_hole_is_a_timeout() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut knocks = Vec::new();
    loop {
        let knock = tokio::net::TcpStream::connect(address);
        match tokio::time::timeout(Duration::from_millis(200), knock).await {
            Ok(stream) => knocks.push(stream.unwrap()),
            Err(_elapsed) => break,
        }
    }
    let client = builder(format!("http://{address}/token"), MintErrorKind::Timeout)
        .build()
        .unwrap();
    mint_and_visit("black hole", client, MintErrorKind::Timeout, Page::Deadline).await;

    // And it is the connection that times out, long before the attempt does.
    let start = Instant::now();
    let client = builder(format!("http://{address}/token"), MintErrorKind::Connect)
        .retry(ANSWERS.once())
        .build()
        .unwrap();
    assert_eq!(
        client.mint(&user()).await.unwrap_err().kind(),
        MintErrorKind::Timeout
    );
    assert!(start.elapsed() < ANSWERS.attempt);
}

/// Names that cannot be resolved, or never are, and how often somebody asked.
struct Names {
    are_unknown: bool,
    asked: Arc<AtomicUsize>,
}

impl Resolve for Names {
    fn resolve(&self, _: Name) -> Resolving {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if self.are_unknown {
            Box::pin(async { Err(format!("no such name, says {REMOTE}").into()) })
        } else {
            Box::pin(std::future::pending())
        }
    }
}

#[tokio::test]
async fn names() {
    let (log, _guard) = Log::capture();
    for (are_unknown, kind, page) in [
        (true, MintErrorKind::Connect, Page::Unavailable),
        (false, MintErrorKind::Timeout, Page::Deadline),
    ] {
        let asked = Arc::<AtomicUsize>::default();
        let names = Names {
            are_unknown,
            asked: Arc::clone(&asked),
        };
        let http = reqwest::Client::builder()
            .no_proxy()
            .dns_resolver(Arc::new(names))
            .build()
            .unwrap();
        let client = builder("https://released.example/token".to_owned(), kind)
            .http_client(http)
            .build()
            .unwrap();
        let (_, mints) = mint_and_visit("names", client, kind, page).await;
        let asked = asked.load(Ordering::SeqCst);
        assert!(
            if are_unknown {
                asked == 3 * mints
            } else {
                asked >= mints
            },
            "asked {asked} times"
        );
    }
    // The system's resolver finds out without asking anybody: no part of a name is so long.
    let impossible = format!("https://{}.example/token", "a".repeat(64));
    let client = builder(impossible, MintErrorKind::Connect).build().unwrap();
    mint_and_visit(
        "a name that cannot be",
        client,
        MintErrorKind::Connect,
        Page::Unavailable,
    )
    .await;
    assert_nothing_leaks("logged", &log.text());
}

// With both TLS libraries, reqwest takes the system's, which has its own ways with roots.
#[cfg(not(feature = "native-tls"))]
#[tokio::test]
async fn certificates() {
    let (log, _guard) = Log::capture();
    let authority = Authority::new();
    let script = || vec![vec![Read, reply("200 OK", "\"a.b.c\"")]];

    let good = FaultServer::start_tls(script(), authority.server_for("localhost", 2090)).await;
    let endpoint =
        |server: &FaultServer| format!("https://localhost:{}/token", server.address.port());
    let client = builder(endpoint(&good), MintErrorKind::Connect)
        .http_client(authority.trusting_client())
        .build()
        .unwrap();
    assert_eq!(client.mint(&user()).await.unwrap().as_str(), "a.b.c");

    for (name, server, http) in [
        (
            "expired",
            authority.server_for("localhost", 2021),
            Some(authority.trusting_client()),
        ),
        (
            "of another host",
            authority.server_for("remote-words.example", 2090),
            Some(authority.trusting_client()),
        ),
        (
            "of an unknown authority",
            authority.server_for("localhost", 2090),
            None,
        ),
    ] {
        let server = FaultServer::start_tls(script(), server).await;
        let mut builder = builder(endpoint(&server), MintErrorKind::Connect);
        if let Some(http) = http {
            builder = builder.http_client(http);
        }
        let (printed, mints) = mint_and_visit(
            name,
            builder.build().unwrap(),
            MintErrorKind::Connect,
            Page::Unavailable,
        )
        .await;
        assert_nothing_leaks(name, &printed);
        // Waiting does not mend a certificate, so nothing is tried again.
        assert_eq!(
            (server.connections(), server.requests()),
            (mints, 0),
            "{name}"
        );
    }

    let stalled = FaultServer::start(vec![vec![Stall]]).await;
    let client = builder(endpoint(&stalled), MintErrorKind::Timeout)
        .build()
        .unwrap();
    mint_and_visit(
        "a handshake that stalls",
        client,
        MintErrorKind::Timeout,
        Page::Deadline,
    )
    .await;
    assert!((2..=4).contains(&stalled.connections()));
    assert_nothing_leaks("logged", &log.text());
}

fn malformed(name: &'static str, script: Step) -> Case {
    case(
        name,
        vec![Read, script],
        MintErrorKind::MalformedResponse,
        1,
        Page::BadGateway,
    )
}

#[tokio::test]
async fn hostile_replies() {
    let headers = |count: usize| {
        (0..count)
            .map(|n| format!("x-{n}: {REMOTE}\r\n"))
            .collect::<String>()
    };
    let token = "\"eyJhbGciOiJIUzI1NiJ9.e30.c2ln\"";
    let gzip_of_a_token = [
        0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0x53, 0x4a, 0xd4, 0x4b, 0xd2, 0x4b, 0x56, 2, 0, 0xf7,
        0xb5, 0x45, 0xc6, 7, 0, 0, 0,
    ];
    run(vec![
        malformed(
            "150 headers",
            write(format!(
                "HTTP/1.1 200 OK\r\n{}content-length: 31\r\n\r\n{token}",
                headers(150)
            )),
        ),
        malformed(
            "a header of 600 KB",
            write(format!(
                "HTTP/1.1 200 OK\r\nx: {}\r\ncontent-length: 31\r\n\r\n{token}",
                REMOTE.repeat(50_000)
            )),
        ),
        malformed(
            "two lengths",
            write(format!(
                "HTTP/1.1 200 OK\r\ncontent-length: 31\r\ncontent-length: 32\r\n\r\n{token} "
            )),
        ),
        case(
            "10 GB are declared",
            vec![
                Read,
                write("HTTP/1.1 200 OK\r\ncontent-length: 10000000000\r\n\r\n"),
                Stall,
            ],
            MintErrorKind::MalformedResponse,
            1,
            Page::BadGateway,
        ),
        case(
            "chunks without end",
            vec![
                Read,
                write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"),
                forever(format!("400\r\n{:1024}\r\n", ""), Duration::ZERO),
            ],
            MintErrorKind::MalformedResponse,
            1,
            Page::BadGateway,
        ),
        malformed(
            "gzip",
            reply("200 OK\r\ncontent-encoding: gzip", gzip_of_a_token),
        ),
        malformed(
            "another protocol",
            write(format!("SSH-2.0-{REMOTE}\r\n\r\n")),
        ),
        malformed(
            "HTML",
            reply(
                "200 OK\r\ncontent-type: text/html",
                format!("<!doctype html><p>{REMOTE}"),
            ),
        ),
        malformed("an empty string", reply("200 OK", "\"\"")),
        malformed("null", reply("200 OK", "null")),
        malformed("a number", reply("200 OK", "42")),
        malformed("an array", reply("200 OK", format!("[{token}]"))),
        malformed(
            "an object",
            reply("200 OK", format!("{{\"token\":{token}}}")),
        ),
        malformed(
            "trailing bytes",
            reply("200 OK", format!("{token}{REMOTE}")),
        ),
        malformed(
            "a byte order mark",
            reply("200 OK", format!("\u{feff}{token}")),
        ),
        malformed("invalid UTF-8", reply("200 OK", b"\"eyJ\xff\"")),
        malformed(
            "a token that ends an attribute",
            reply("200 OK", "\"eyJ\\\"><script>\""),
        ),
        malformed(
            "a token that ends a header",
            reply("200 OK", "\"eyJ\\r\\nset-cookie: a=b\""),
        ),
        malformed("204", write("HTTP/1.1 204 No Content\r\n\r\n")),
        malformed("an empty 200", reply("200 OK", "")),
        malformed(
            "a redirect",
            reply(
                &format!("307 Temporary Redirect\r\nlocation: https://{REMOTE}.example/"),
                "",
            ),
        ),
    ])
    .await;
}

#[tokio::test]
async fn statuses() {
    use MintErrorKind::{RateLimited, Rejected, Unauthorized, Unavailable};
    use Page::Internal;

    let status = |name, head: &str, kind, requests, page| {
        case(
            name,
            vec![
                Read,
                reply(
                    &format!("{head} {REMOTE}"),
                    format!("{REMOTE} {SECRET} {EMAIL}"),
                ),
            ],
            kind,
            requests,
            page,
        )
    };
    run(vec![
        status("400", "400", Rejected, 1, Internal),
        status("422", "422", Rejected, 1, Internal),
        status("401", "401", Unauthorized, 1, Internal),
        status("403", "403", Unauthorized, 1, Internal),
        status("404", "404", Rejected, 1, Internal),
        status("500", "500", Unavailable, 3, Page::Unavailable),
        status("501", "501", Unavailable, 1, Page::Unavailable),
        status("503", "503", Unavailable, 3, Page::Unavailable),
        status("505", "505", Unavailable, 1, Page::Unavailable),
        case(
            "429 with a nonsensical Retry-After",
            vec![
                Read,
                reply(&format!("429 {REMOTE}\r\nretry-after: {REMOTE}"), REMOTE),
            ],
            RateLimited,
            3,
            Page::Unavailable,
        ),
    ])
    .await;
}

#[tokio::test]
async fn a_connection_that_was_closed_while_idle_is_not_noticed() {
    let once = vec![Read, reply("200 OK", "\"a.b.c\"")];
    let server = FaultServer::start(vec![once]).await;
    let client = builder(
        format!("http://{}/token", server.address),
        MintErrorKind::Interrupted,
    )
    .retry(ANSWERS.once())
    .build()
    .unwrap();
    for _ in 0..5 {
        client.mint(&user()).await.unwrap();
        // Until the client has seen the end of the connection it would reuse.
        tokio::task::yield_now().await;
    }
    assert_eq!((server.requests(), server.connections()), (5, 5));
}

#[tokio::test]
async fn a_connection_that_breaks_under_its_second_request_costs_one_attempt() {
    for end in [vec![], vec![Reset]] {
        let mut script = vec![Read, reply("200 OK", "\"a.b.c\""), Read];
        script.extend(end);
        let server = FaultServer::start(vec![script.clone()]).await;
        let endpoint = format!("http://{}/token", server.address);

        let once = builder(endpoint.clone(), MintErrorKind::Interrupted)
            .retry(ANSWERS.once())
            .build()
            .unwrap();
        once.mint(&user()).await.unwrap();
        assert_eq!(
            once.mint(&user()).await.unwrap_err().kind(),
            MintErrorKind::Interrupted
        );

        let thrice = builder(endpoint, MintErrorKind::Interrupted)
            .build()
            .unwrap();
        thrice.mint(&user()).await.unwrap();
        thrice.mint(&user()).await.unwrap();
        assert_eq!((server.requests(), server.connections()), (5, 3));
    }
}

#[cfg(not(feature = "native-tls"))]
#[test]
fn a_machine_without_root_certificates_is_told_so() {
    const CHILD: &str = "TOWER_RELEASED_TEST_WITHOUT_ROOTS";
    if std::env::var_os(CHILD).is_some() {
        let error = ReleasedClient::new("acc", SECRET).expect_err("no roots");
        let text = error.to_string();
        assert!(text.contains("root certificates"), "{text}");
        assert_nothing_leaks("config error", &forms(&error as &dyn Error));
        return;
    }
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "faults::a_machine_without_root_certificates_is_told_so",
        ])
        .env(CHILD, "1")
        .env("SSL_CERT_FILE", "/nonexistent/file")
        .env("SSL_CERT_DIR", "/nonexistent/directory")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}"
    );
}
