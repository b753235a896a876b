//! A check says what is wrong with a setup and what to do, and shows nothing that is secret.

use std::convert::Infallible;
use std::future::pending;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, SystemTime};

use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Bytes;
use tower::service_fn;
use tower_released::client::{CheckOutcome, CheckReport, CircuitState, ReleasedClientBuilder};
use tower_released::testing::{FakeReleased, Reply};
use tower_released::{ReleasedClient, User};

use crate::support::fault_server::{FaultServer, Reset, Stall};
use crate::support::{ada, circuit, once, retry};

use CheckOutcome::{Failed, Ok as Well, Skipped, Warning};

const SECRET: &str = "s3cret-of-the-account";

fn outcome(report: &CheckReport, check: &str) -> CheckOutcome {
    let mut lines = report.lines().iter().filter(|line| line.check == check);
    let line = lines
        .next()
        .unwrap_or_else(|| panic!("no line {check}:\n{report}"));
    assert!(lines.next().is_none(), "two lines {check}:\n{report}");
    let needs_cure = matches!(line.outcome, Failed | Warning);
    assert_eq!(line.cure.is_some(), needs_cure, "{report}");
    line.outcome
}

#[track_caller]
fn assert_outcomes(report: &CheckReport, expected: &[(&str, CheckOutcome)]) {
    for (check, expected) in expected {
        assert_eq!(outcome(report, check), *expected, "{check}:\n{report}");
    }
}

#[track_caller]
fn assert_says(report: &CheckReport, words: &str) {
    // Wherever the lines are wrapped.
    let text = report.to_string();
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(text.contains(words), "{words:?} is not in\n{report}");
}

/// In all the forms in which somebody could print it.
fn forms(report: &CheckReport) -> String {
    format!(
        "{report}{report:?}{}",
        serde_json::to_string(report).unwrap()
    )
}

fn at(address: SocketAddr) -> ReleasedClientBuilder {
    ReleasedClient::builder("acc", SECRET)
        .endpoint(format!("http://{address}/token"))
        .retry(once())
}

#[tokio::test]
async fn a_good_setup_is_well_from_the_configuration_to_the_token() {
    let released = FakeReleased::start().await.unwrap();
    let client = released.client().unwrap();

    let report = client.check().await;
    assert!(report.is_ok(), "{report}");
    assert_outcomes(
        &report,
        &[
            ("account", Well),
            ("secret", Well),
            // It is no URL of Released's.
            ("url", Warning),
            ("proxy", Well),
            ("dns", Skipped),
            ("tcp", Well),
            ("tls", Skipped),
            ("answer", Well),
            ("clock", Well),
        ],
    );
    assert_eq!(report.lines().len(), 9);
    let counts = released.counts();
    assert_eq!(
        (counts.requests, counts.minted, counts.connections),
        (0, 0, 1)
    );

    let report = client.check_as(&ada()).await;
    assert!(report.is_ok(), "{report}");
    assert_outcomes(&report, &[("mint", Well), ("token", Well), ("life", Well)]);
    assert_says(&report, "a JWT, ");
    assert_says(&report, "2 min until the embed must use it");
    // It used the connections of mints.
    let counts = released.counts();
    assert_eq!(
        (counts.requests, counts.minted, counts.connections),
        (1, 1, 1)
    );
    assert!(client.status().last_success.is_some());
}

#[tokio::test]
async fn a_refused_mint_names_the_secret_or_the_account() {
    let released = FakeReleased::start().await.unwrap();
    let url = released.impersonation_url();
    let with = |account: &str, secret: &str| {
        let client = ReleasedClient::builder(account, secret).endpoint(&url);
        client.retry(once()).build().unwrap()
    };
    let (account, secret) = (released.account_id(), released.shared_secret());
    for (client, words) in [
        (
            with(account, "wrong"),
            "Released refused the shared secret (401)",
        ),
        (
            with("another", &secret),
            "probably the account id is wrong: check RELEASED_ACCOUNT_ID",
        ),
    ] {
        // Nothing of it shows without a mint.
        assert!(client.check().await.is_ok());
        let report = client.check_as(&ada()).await;
        assert_outcomes(
            &report,
            &[("mint", Failed), ("token", Skipped), ("life", Skipped)],
        );
        assert_says(&report, words);
    }
    let report = with("same", "same").check().await;
    assert_outcomes(&report, &[("account", Failed)]);
    let report = with(account, &format!("'{secret}'")).check().await;
    assert_outcomes(&report, &[("secret", Warning)]);
    assert_says(&report, "quote");
}

#[tokio::test]
async fn a_failed_connection_names_its_stage_and_nothing_is_minted() {
    let closed = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .unwrap()
        .local_addr()
        .unwrap();
    let (stalls, resets) = tokio::join!(
        FaultServer::start(vec![vec![Stall]]),
        FaultServer::start(vec![vec![Reset]]),
    );
    let short = Duration::from_millis(300);
    let nowhere = || {
        let builder = ReleasedClient::builder("acc", SECRET).retry(once());
        builder.endpoint("https://nowhere.invalid/token")
    };
    let no_connection = [
        ("answer", Skipped),
        ("clock", Skipped),
        ("mint", Skipped),
        ("life", Skipped),
    ];
    for (client, outcomes, words) in [
        (
            at(closed),
            &[("tcp", Failed), ("tls", Skipped)][..],
            "connection refused by 127.0.0.1",
        ),
        (
            nowhere(),
            &[("dns", Failed), ("tcp", Skipped), ("tls", Skipped)],
            "could not be resolved",
        ),
    ] {
        let report = client.build().unwrap().check_as(&ada()).await;
        assert!(!report.is_ok());
        assert_outcomes(&report, outcomes);
        assert_outcomes(&report, &no_connection);
        assert_says(&report, words);
        assert!(!forms(&report).contains(SECRET));
    }
    for (client, words) in [
        (
            at(stalls.address).deadline(short),
            "no answer from 127.0.0.1",
        ),
        (at(resets.address), "127.0.0.1"),
    ] {
        let report = client.build().unwrap().check().await;
        assert_outcomes(
            &report,
            &[("tcp", Well), ("answer", Failed), ("clock", Skipped)],
        );
        assert_says(&report, words);
    }
}

/// Elsewhere, a full queue may refuse.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_connection_that_hangs_names_the_stage_that_hangs() {
    use tokio::net::{TcpListener, TcpSocket, TcpStream};
    use tokio::time::timeout;

    // It accepts connections, and says nothing.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let silent = format!("https://{}/token", silent.local_addr().unwrap());
    // Its queue is full, so the system drops what else arrives.
    let full = TcpSocket::new_v4().unwrap();
    full.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let full = full.listen(0).unwrap();
    let address = full.local_addr().unwrap();
    let mut queue = Vec::new();
    let short = Duration::from_millis(300);
    while let Ok(stream) = timeout(short, TcpStream::connect(address)).await {
        queue.push(stream.unwrap());
    }
    let full = format!("http://{address}/token");

    // A deadline before the one of connections, and one after it.
    for deadline in [short, Duration::from_secs(3)] {
        for (url, outcomes, words) in [
            (
                &silent,
                &[("tcp", Well), ("tls", Failed)][..],
                "did not answer the TLS handshake in time",
            ),
            (
                &full,
                &[("tcp", Failed), ("tls", Skipped)],
                "no connection to 127.0.0.1",
            ),
        ] {
            let client = ReleasedClient::builder("acc", SECRET).endpoint(url);
            let client = client.retry(once()).deadline(deadline).build().unwrap();
            let report = client.check_as(&ada()).await;
            assert_outcomes(&report, outcomes);
            assert_outcomes(
                &report,
                &[("answer", Skipped), ("clock", Skipped), ("mint", Skipped)],
            );
            assert_says(&report, words);
        }
    }
}

#[tokio::test]
async fn a_service_that_never_answers_is_not_said_to_connect() {
    let service = service_fn(|_: Request<Full<Bytes>>| {
        pending::<Result<Response<Full<Bytes>>, Infallible>>()
    });
    let client = ReleasedClient::builder("acc", SECRET).http_service(service);
    let client = client.deadline(Duration::from_millis(50)).build().unwrap();
    let report = client.check().await;
    assert_outcomes(
        &report,
        &[("service", Skipped), ("answer", Failed), ("clock", Skipped)],
    );
}

/// A client whose server answers with these headers.
fn answering(status: u16, headers: &'static [(&'static str, &'static str)]) -> ReleasedClient {
    let service = service_fn(move |_: Request<Full<Bytes>>| async move {
        let mut answer = Response::builder().status(status);
        for (name, value) in headers {
            answer = answer.header(*name, *value);
        }
        Ok::<_, Infallible>(answer.body(Full::<Bytes>::default()).unwrap())
    });
    let client = ReleasedClient::builder("acc", SECRET).http_service(service);
    client.build().unwrap()
}

#[tokio::test]
async fn an_answer_that_is_not_released_s_is_noticed() {
    for (status, headers, expected, words) in [
        (
            404,
            &[][..],
            Well,
            "status 404; without the secret, any answer is good",
        ),
        (
            302,
            &[("location", "https://wifi.example/sign-in?token=hidden")],
            Failed,
            "a redirect (302) to https://wifi.example, which is not followed",
        ),
        (
            200,
            &[("content-type", "text/html")],
            Warning,
            "a page (200)",
        ),
        (503, &[], Warning, "the server is failing (503)"),
    ] {
        let report = answering(status, headers).check().await;
        assert_outcomes(
            &report,
            &[("url", Well), ("service", Well), ("answer", expected)],
        );
        assert_says(&report, words);
        assert!(!forms(&report).contains("hidden"));
    }
}

#[tokio::test]
async fn a_clock_that_is_wrong_is_a_warning() {
    for (difference, expected, words) in [
        (0, Well, "clock the same as the server's"),
        (20, Well, "s behind the server's"),
        (-20, Well, "s ahead of the server's"),
        (
            3700,
            Warning,
            "this machine's clock is 1 h 1 min behind the server's",
        ),
        (
            -3700,
            Warning,
            "this machine's clock is 1 h 1 min ahead of the server's",
        ),
    ] {
        let service = service_fn(move |_: Request<Full<Bytes>>| async move {
            let now = SystemTime::now();
            let by = Duration::from_secs(u64::from(i32::unsigned_abs(difference)));
            let date = if difference < 0 { now - by } else { now + by };
            let answer = Response::builder().header("date", httpdate::fmt_http_date(date));
            Ok::<_, Infallible>(answer.body(Full::<Bytes>::default()).unwrap())
        });
        let client = ReleasedClient::builder("acc", SECRET).http_service(service);
        let report = client.build().unwrap().check().await;
        assert_outcomes(&report, &[("clock", expected)]);
        assert_says(&report, words);
    }
    let report = answering(404, &[]).check().await;
    assert_outcomes(&report, &[("clock", Skipped)]);
}

#[tokio::test]
async fn a_check_is_no_mint_for_the_circuit_but_a_mint_of_it_is() {
    let released = FakeReleased::start().await.unwrap();
    let client = released
        .client_builder()
        .retry(once())
        .circuit(circuit(|circuit| circuit.failures_in_a_row = 1))
        .build()
        .unwrap();
    released.reply_always(Reply::status(500));
    for _ in 0..3 {
        client.check().await;
    }
    assert_eq!(client.status().circuit, CircuitState::Closed);

    let report = client.check_as(&ada()).await;
    assert_outcomes(&report, &[("mint", Failed)]);
    assert_ne!(client.status().circuit, CircuitState::Closed);

    // It sees what pages get.
    released.recover();
    let report = client.check_as(&ada()).await;
    assert_outcomes(&report, &[("mint", Failed)]);
    assert_says(&report, "the circuit breaker is open");
    assert_eq!(released.counts().requests, 1);
}

#[tokio::test]
async fn a_report_shows_neither_the_secret_nor_the_token_nor_the_user() {
    let released = FakeReleased::start().await.unwrap();
    let user = User::new("lovelace-id", "lovelace@example.com").unwrap();
    let client = released.client_builder().retry(once()).build().unwrap();
    let token = client.mint(&user).await.unwrap();
    let mut printed = forms(&client.check_as(&user).await);
    for reply in [
        Reply::status(200).body(format!("\"{}\"", token.as_str())),
        Reply::status(200).body("{\"remote-words\":1}"),
        Reply::status(307).header("location", "https://remote-words.example/"),
        Reply::status(400).body("remote-words lovelace@example.com"),
        Reply::status(429)
            .header("retry-after", "120")
            .body("remote-words"),
    ] {
        released.reply_next(reply);
        printed += &forms(&client.check_as(&user).await);
    }
    // The variables, interchanged.
    let interchanged = ReleasedClient::builder(released.shared_secret(), released.account_id())
        .endpoint(released.impersonation_url())
        .retry(retry(|retry| retry.max_attempts = 1))
        .build()
        .unwrap();
    printed += &forms(&interchanged.check_as(&user).await);
    for forbidden in [
        released.shared_secret().as_str(),
        token.as_str(),
        "eyJ",
        "lovelace",
        "remote-words",
    ] {
        assert!(!printed.contains(forbidden), "{forbidden} is in\n{printed}");
    }
    assert!(printed.contains("SHA-256"), "{printed}");
}

#[tokio::test]
async fn a_disabled_client_says_that_it_is_disabled_and_not_that_there_is_no_connection() {
    let client = ReleasedClient::disabled();
    let report = client.check().await;
    assert_outcomes(&report, &[("config", Failed)]);
    let text = report.to_string();
    assert!(text.starts_with("failed  config     the client"), "{text}");
    let report = client.check_as(&ada()).await;
    assert_outcomes(
        &report,
        &[("mint", Failed), ("token", Skipped), ("life", Skipped)],
    );
    assert!(!report.to_string().contains("connection"), "{report}");
}
