//! An error says why the connection failed, and of which server.
//!
//! Some cases depend on the environment, which is read when a client is built, so that test runs itself once more with it.

#[cfg(target_os = "linux")]
use std::env;
use std::error::Error;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
#[cfg(target_os = "linux")]
use std::process::Command;
use std::time::Duration;

use futures_util::future::join_all;
use tower_released::client::{ReleasedClientBuilder, RetryConfig};
use tower_released::{MintErrorKind, ReleasedClient, User};

use crate::leaks::{Log, forms};
#[cfg(any(target_os = "linux", not(feature = "native-tls")))]
use crate::support::authority::Authority;
#[cfg(not(feature = "native-tls"))]
use crate::support::fault_server::reply;
use crate::support::fault_server::{FaultServer, Read, Reset, Stall, Step, write};
use crate::support::retry;

const SECRET: &str = "s3cret-of-the-account";
const EMAIL: &str = "ada.lovelace@example.com";

/// What the remote end writes wherever it can.
const REMOTE: &str = "remote-words";

/// More than anything here takes, however busy the machine is.
const LONG: Duration = Duration::from_secs(30);

struct Case {
    name: &'static str,
    client: ReleasedClientBuilder,
    kind: MintErrorKind,
    /// What the source says; nothing else is in its place.
    source: String,
    /// What the text names, and a word of its cure.
    text: &'static [&'static str],
    /// Whether the system's own error is the source's source, where it is not by chance.
    has_system_error: Option<bool>,
}

fn once_within(time: Duration) -> RetryConfig {
    retry(|retry| (retry.max_attempts, retry.attempt_timeout) = (1, time))
}

fn at(endpoint: String) -> ReleasedClientBuilder {
    ReleasedClient::builder("acc", SECRET)
        .endpoint(endpoint)
        .deadline(LONG)
        .retry(once_within(LONG))
}

fn at_address(address: SocketAddr) -> ReleasedClientBuilder {
    at(format!("http://{address}/token"))
}

fn at_localhost(server: &FaultServer) -> ReleasedClientBuilder {
    at(format!("https://localhost:{}/token", server.address.port()))
}

async fn run(cases: Vec<Case>) {
    let (log, _guard) = Log::capture();
    join_all(cases.into_iter().map(
        async |Case {
                   name,
                   client,
                   kind,
                   source,
                   text,
                   has_system_error,
               }| {
            let client = client.build().unwrap();
            let user = User::new("ada", EMAIL).unwrap();
            let error = client.mint(&user).await.expect_err(name);
            assert_eq!(error.kind(), kind, "{name}");
            let failure = error
                .source()
                .unwrap_or_else(|| panic!("{name}: no source"));
            assert_eq!(failure.to_string(), source, "{name}");
            let system = failure.source();
            assert!(
                has_system_error.is_none_or(|has| has == system.is_some()),
                "{name}: {system:?}"
            );
            assert!(
                system.is_none_or(|error| error
                    .downcast_ref::<io::Error>()
                    .unwrap()
                    .get_ref()
                    .is_none()),
                "{name}"
            );
            let said = error.to_string();
            assert!(
                text.iter().all(|part| said.contains(part)),
                "{name}: {said}"
            );
            assert_nothing_leaks(name, &forms(&error));
        },
    ))
    .await;
    assert_nothing_leaks("logged", &log.text());
}

fn assert_nothing_leaks(what: &str, text: &str) {
    for forbidden in [SECRET, EMAIL, REMOTE, "eyJ"] {
        assert!(
            !text.contains(forbidden),
            "{forbidden:?} is {what}:\n{text}"
        );
    }
}

async fn server(script: Vec<Step>) -> FaultServer {
    FaultServer::start(vec![script]).await
}

/// A port that nobody listens on.
fn closed_port() -> SocketAddr {
    std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .unwrap()
        .local_addr()
        .unwrap()
}

#[tokio::test]
async fn a_broken_connection_says_how_it_broke() {
    let head = format!("HTTP/1.1 200 {REMOTE}\r\nx-words: {REMOTE}\r\ncontent-length: 99\r\n\r\n");
    let (reset, closed, cut_off, stalled) = tokio::join!(
        server(vec![Read, Reset]),
        server(vec![Read]),
        server(vec![Read, write(format!("{head}\"eyJ{REMOTE}"))]),
        server(vec![Read, Stall]),
    );
    let case = |name, client, kind, source, has_system_error| Case {
        name,
        client,
        kind,
        source,
        text: &[],
        has_system_error,
    };
    let refused = closed_port();
    run(vec![
        Case {
            text: &[
                "could be opened (refused): ",
                "the host and the port in RELEASED_TOKEN_URL",
            ],
            ..case(
                "a closed port",
                at_address(refused),
                MintErrorKind::Connect,
                format!("connection refused by {refused}"),
                Some(true),
            )
        },
        case(
            "reset after the request",
            at_address(reset.address),
            MintErrorKind::Interrupted,
            format!("connection reset by {}", reset.address),
            Some(true),
        ),
        case(
            "closed before the answer",
            at_address(closed.address),
            MintErrorKind::Interrupted,
            format!(
                "connection closed by {} before the answer was complete",
                closed.address
            ),
            Some(false),
        ),
        case(
            "closed within the answer",
            at_address(cut_off.address),
            MintErrorKind::Interrupted,
            format!(
                "connection closed by {} before the answer was complete",
                cut_off.address
            ),
            Some(false),
        ),
        case(
            "no answer",
            at_address(stalled.address).retry(once_within(Duration::from_millis(200))),
            MintErrorKind::Timeout,
            format!("no answer from {} in time", stalled.address),
            Some(false),
        ),
        case(
            "no handshake",
            at_localhost(&stalled),
            MintErrorKind::Timeout,
            format!(
                "no answer from localhost:{} in time",
                stalled.address.port()
            ),
            Some(false),
        ),
    ])
    .await;
}

/// A client of the application's own tells less, but what it tells is said.
#[cfg(not(feature = "native-tls"))]
#[tokio::test]
async fn a_client_of_the_applications_own_says_what_it_knows() {
    let authority = Authority::new();
    let http = || reqwest::Client::builder().no_proxy().build().unwrap();
    let script = vec![vec![Read, reply("200 OK", "\"a.b.c\"")]];
    let expired = FaultServer::start_tls(script, authority.server_for("localhost", 2021)).await;
    let (reset, closed) = tokio::join!(server(vec![Read, Reset]), server(vec![Read]));
    let refused = closed_port();
    let case = |name, client, kind, source, text, has_system_error| Case {
        name,
        client,
        kind,
        source,
        text,
        has_system_error,
    };
    run(vec![
        case(
            "a closed port",
            at_address(refused).http_client(http()),
            MintErrorKind::Connect,
            format!("connection refused by {refused}"),
            &["(refused)"],
            Some(true),
        ),
        case(
            "an expired certificate",
            at_localhost(&expired).http_client(authority.trusting_client()),
            MintErrorKind::Connect,
            format!("TLS with localhost:{} failed", expired.address.port()),
            &["(tls)", "certificate", "clock"],
            Some(false),
        ),
        case(
            "a name that cannot be",
            at(format!("https://{}.example/token", "a".repeat(64))).http_client(http()),
            MintErrorKind::Connect,
            format!("connection to {}.example:443 failed", "a".repeat(64)),
            &["could be opened: check DNS"],
            Some(false),
        ),
        case(
            "reset after the request",
            at_address(reset.address).http_client(http()),
            MintErrorKind::Interrupted,
            format!("connection reset by {}", reset.address),
            &[],
            Some(true),
        ),
        case(
            "closed before the answer",
            at_address(closed.address).http_client(http()),
            MintErrorKind::Interrupted,
            format!(
                "connection closed by {} before the answer was complete",
                closed.address
            ),
            &[],
            Some(false),
        ),
    ])
    .await;
}

/// Elsewhere, systems do not let a variable say whom they trust.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn names_certificates_and_proxies_are_told_apart() {
    const NAME: &str = "connections::names_certificates_and_proxies_are_told_apart";
    const PORTS: &str = "TOWER_RELEASED_TEST_CAUSES";

    if let Ok(ports) = env::var(PORTS) {
        let [plain, expired, hangs_up] = ports.split(' ').collect::<Vec<_>>()[..] else {
            panic!("three ports")
        };
        let tls = |name, port: &str| Case {
            name,
            client: at(format!("https://localhost:{port}/token")),
            kind: MintErrorKind::Connect,
            source: format!("TLS with localhost:{port} failed"),
            text: &[
                "could be opened (tls): ",
                "certificate",
                "clock",
                "intercepts",
            ],
            has_system_error: Some(false),
        };
        run(vec![
            tls("TLS to a port of plain HTTP", plain),
            tls("an expired certificate", expired),
            // With a reset if its part of the handshake was there already.
            Case {
                has_system_error: None,
                ..tls("a server that hangs up within the handshake", hangs_up)
            },
            Case {
                name: "a name that nobody has",
                client: at("https://nowhere.invalid/token".to_owned()),
                kind: MintErrorKind::Connect,
                source: "the host name of nowhere.invalid:443 could not be resolved".to_owned(),
                text: &["could be opened (dns): ", "RELEASED_TOKEN_URL", "DNS"],
                has_system_error: Some(false),
            },
            Case {
                name: "a proxy that refuses",
                client: at("https://released.example:8443/token".to_owned()),
                kind: MintErrorKind::Connect,
                source: "the proxy opened no connection to released.example:8443".to_owned(),
                text: &["could be opened (proxy): ", "HTTPS_PROXY"],
                has_system_error: None,
            },
        ])
        .await;
        return;
    }

    let authority = Authority::new();
    let trusted = authority.server_for("localhost", 2021);
    let (plain, expired, hangs_up, proxy) = tokio::join!(
        server(vec![write(format!("HTTP/1.1 400 {REMOTE}\r\n\r\n")), Stall]),
        FaultServer::start_tls(vec![vec![Read]], trusted),
        server(vec![]),
        server(vec![
            write(format!(
                "HTTP/1.1 403 {REMOTE}\r\nx-words: {REMOTE}\r\n\r\n"
            )),
            Stall
        ]),
    );
    let roots = env::temp_dir().join(format!("tower-released-causes-{}.pem", std::process::id()));
    std::fs::write(&roots, authority.pem()).unwrap();
    let child = |proxy: SocketAddr| {
        let mut child = Command::new(env::current_exe().unwrap());
        child
            .args(["--exact", NAME])
            .env(
                PORTS,
                [&plain, &expired, &hangs_up]
                    .map(|server| server.address.port().to_string())
                    .join(" "),
            )
            .env("SSL_CERT_FILE", &roots)
            .env("HTTPS_PROXY", format!("http://ada:{SECRET}@{proxy}"))
            .env("NO_PROXY", "nowhere.invalid");
        for variable in ["https_proxy", "no_proxy", "ALL_PROXY", "all_proxy"] {
            child.env_remove(variable);
        }
        tokio::task::spawn_blocking(move || child.output().unwrap())
    };
    // A proxy that answers and will not, and then one that hangs up.
    for proxy in [&proxy, &hangs_up] {
        let output = child(proxy.address).await.unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && said.contains("1 passed"),
            "{said}"
        );
    }
    std::fs::remove_file(&roots).unwrap();
    assert!(proxy.connections() > 0);
}
