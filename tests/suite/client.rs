//! `ReleasedClient` against a real server: what it sends, what it accepts, what it refuses.

use std::env;
use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tower::ServiceExt;
use tower_released::client::{ConfigErrorKind, TokenApi};
use tower_released::testing::{AccessDenied, FakeReleased, Reply};
use tower_released::{MintError, MintErrorKind, ReleasedClient, User, UserId};

use crate::support::{ada, once, retry};

#[tokio::test]
async fn the_current_api_is_told_everything_about_the_user() {
    let released = FakeReleased::start().await.unwrap();
    let user = User::new(UserId::encode("auth0|507f"), "ada@example.com")
        .unwrap()
        .with_name("Ada “Countess” Lovelace 👩‍💻")
        .with_avatar_url("https://example.com/ada.png?size=64");
    let token = released.client().unwrap().mint(&user).await.unwrap();

    assert_eq!(released.users(), std::slice::from_ref(&user));
    let session = released.open_session(token.as_str()).unwrap();
    assert_eq!(session.user_id.as_deref(), Some(user.id().as_str()));
    assert_eq!(session.name.as_deref(), user.name());
    assert_eq!(session.expires_in, 3 * 24 * 60 * 60);
    // Two minutes, less the fraction of a second that a JWT does not tell.
    assert!(
        token.remaining() > Duration::from_secs(110)
            && token.remaining() <= Duration::from_secs(120)
    );
}

#[tokio::test]
async fn the_older_api_is_told_the_address_alone() {
    let released = FakeReleased::start().await.unwrap();
    let client = released
        .client_builder()
        .api(TokenApi::EmailOnly)
        .endpoint(released.email_only_url())
        .build()
        .unwrap();
    let token = client.mint(&ada().with_name("Ada")).await.unwrap();

    let session = released.open_session(token.as_str()).unwrap();
    assert_eq!(
        (session.user_id, session.email.as_str(), session.name),
        (None, "ada@example.com", None)
    );
}

#[tokio::test]
async fn mints_share_their_connections() {
    let released = FakeReleased::start().await.unwrap();
    let client = released.client().unwrap();
    for _ in 0..5 {
        client.clone().oneshot(ada()).await.unwrap();
    }
    assert_eq!(
        (released.counts().minted, released.counts().connections),
        (5, 1)
    );
}

#[tokio::test]
async fn a_token_is_refused_by_the_embed_once_it_is_too_old_or_not_ours() {
    let released = FakeReleased::start().await.unwrap();
    released.set_token_life(Duration::ZERO);
    let expired = released.client().unwrap().mint(&ada()).await.unwrap();
    assert_eq!(
        released.open_session(expired.as_str()),
        Err(AccessDenied::Expired)
    );

    let other = FakeReleased::start().await.unwrap();
    let foreign = other.client().unwrap().mint(&ada()).await.unwrap();
    assert_eq!(
        released.open_session(foreign.as_str()),
        Err(AccessDenied::Signature)
    );
}

async fn failure(client: &ReleasedClient) -> MintError {
    client.mint(&ada()).await.unwrap_err()
}

#[tokio::test]
async fn the_fake_is_as_strict_as_released() {
    let released = FakeReleased::start().await.unwrap();
    let (account, secret) = (released.account_id().to_owned(), released.shared_secret());
    let client = |account: &str, secret: &str| {
        ReleasedClient::builder(account, secret)
            .endpoint(released.impersonation_url())
            .build()
            .unwrap()
    };
    assert!(
        client(&account, &format!(" {secret}\n"))
            .mint(&ada())
            .await
            .is_ok()
    );
    assert_eq!(
        failure(&client(&account, "wrong")).await.kind(),
        MintErrorKind::Unauthorized
    );
    assert_eq!(
        failure(&client("nobody", &secret)).await.kind(),
        MintErrorKind::Rejected
    );

    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let good = serde_json::json!({"account_id": account, "user_id": "u1", "user_email": "ada@example.com"});
    let with = |key: &str, value: serde_json::Value| {
        let mut body = good.clone();
        body[key] = value;
        body
    };
    let without = |key: &str| {
        let mut body = good.clone();
        body.as_object_mut().unwrap().remove(key);
        body
    };
    for (status, body) in [
        (200, good.clone()),
        (
            200,
            with(
                "profile",
                serde_json::json!({"name": "Ada", "avatar_url": "https://example.com/a.png"}),
            ),
        ),
        (
            200,
            with("profile", serde_json::json!({"name": "😀".repeat(100)})),
        ),
        (
            400,
            with("profile", serde_json::json!({"name": "😀".repeat(101)})),
        ),
        (400, with("profile", serde_json::json!({"name": 42}))),
        (
            400,
            with("profile", serde_json::json!({"avatar_url": "not a URL"})),
        ),
        (400, without("account_id")),
        (400, without("user_id")),
        (400, without("user_email")),
        (400, with("user_id", "auth0|507f".into())),
        (400, with("user_id", "".into())),
        (400, with("user_id", "x".repeat(256).into())),
        (400, with("user_email", "not an address".into())),
        (404, with("account_id", "another".into())),
        (400, serde_json::json!("a string")),
    ] {
        let request = http.post(released.impersonation_url()).bearer_auth(&secret);
        let response = request
            .header("content-type", "application/json")
            .body(body.to_string())
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), status, "{body}");
    }
    let post = || {
        http.post(released.impersonation_url())
            .body(good.to_string())
    };
    let statuses = [
        (401, post().header("content-type", "application/json")),
        (
            401,
            post()
                .header("content-type", "application/json")
                .bearer_auth(format!("{secret}x")),
        ),
        (415, post().bearer_auth(&secret)),
        (
            415,
            post()
                .bearer_auth(&secret)
                .header("content-type", "text/plain"),
        ),
        (
            405,
            http.get(released.impersonation_url()).bearer_auth(&secret),
        ),
        (
            404,
            http.post(released.origin() + "/elsewhere")
                .bearer_auth(&secret),
        ),
        (
            413,
            post()
                .bearer_auth(&secret)
                .header("content-type", "application/json")
                .body("x".repeat(65 * 1024)),
        ),
    ];
    for (status, request) in statuses {
        assert_eq!(request.send().await.unwrap().status(), status);
    }
}

#[tokio::test]
async fn every_answer_has_its_kind() {
    let released = FakeReleased::start().await.unwrap();
    let client = released.client_builder().retry(once()).build().unwrap();
    for (kind, reply) in [
        (MintErrorKind::Rejected, Reply::status(400)),
        (MintErrorKind::Unauthorized, Reply::status(401)),
        (MintErrorKind::Unauthorized, Reply::status(403)),
        (MintErrorKind::Rejected, Reply::status(404)),
        (MintErrorKind::Timeout, Reply::status(408)),
        (MintErrorKind::Rejected, Reply::status(422)),
        (MintErrorKind::RateLimited, Reply::status(429)),
        (MintErrorKind::Unavailable, Reply::status(500)),
        (MintErrorKind::Unavailable, Reply::status(503)),
        (MintErrorKind::MalformedResponse, Reply::status(204)),
        (MintErrorKind::MalformedResponse, Reply::status(200)),
        (
            MintErrorKind::MalformedResponse,
            Reply::status(200).body("<!doctype html>"),
        ),
        (
            MintErrorKind::MalformedResponse,
            Reply::status(200).body(r#"{"token":"a.b.c"}"#),
        ),
        (
            MintErrorKind::MalformedResponse,
            Reply::status(200).body(r#""\"><script>alert(1)</script>""#),
        ),
    ] {
        released.reply_next(reply.clone());
        assert_eq!(failure(&client).await.kind(), kind, "{reply:?}");
    }
    assert!(client.mint(&ada()).await.is_ok());
}

#[tokio::test]
async fn a_redirect_takes_neither_the_secret_nor_the_user_elsewhere() {
    let (released, elsewhere) = (
        FakeReleased::start().await.unwrap(),
        FakeReleased::start().await.unwrap(),
    );
    let client = released.client().unwrap();
    for status in [301, 302, 303, 307, 308] {
        released
            .reply_next(Reply::status(status).header("location", &elsewhere.impersonation_url()));
        assert_eq!(
            failure(&client).await.kind(),
            MintErrorKind::MalformedResponse,
            "{status}"
        );
    }
    assert_eq!(elsewhere.counts().connections, 0);
}

#[tokio::test]
async fn a_reply_is_read_up_to_sixteen_kibibytes() {
    let released = FakeReleased::start().await.unwrap();
    let client = released.client().unwrap();
    let padded = |length: usize| format!("{:>length$}", r#""a.b.c""#);

    released.reply_next(Reply::status(200).body(padded(16 * 1024)));
    assert_eq!(client.mint(&ada()).await.unwrap().as_str(), "a.b.c");
    released.reply_next(Reply::status(200).body(padded(16 * 1024 + 1)));
    assert_eq!(
        failure(&client).await.kind(),
        MintErrorKind::MalformedResponse
    );
}

#[tokio::test]
async fn a_reply_without_end_is_cut_off() {
    let (listener, client) = listener_and_client(Duration::from_secs(30)).await;
    let server = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_request(&mut stream).await;
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            .await
            .unwrap();
        // Until the client hangs up.
        while stream.write_all(b"400\r\n").await.is_ok()
            && stream.write_all(&[b' '; 1024]).await.is_ok()
            && stream.write_all(b"\r\n").await.is_ok()
        {}
    };
    let (error, ()) = tokio::join!(failure(&client), server);
    assert_eq!(error.kind(), MintErrorKind::MalformedResponse);
}

#[tokio::test]
async fn a_mint_ends_with_its_deadline() {
    let released = FakeReleased::start().await.unwrap();
    released.set_latency(Duration::from_secs(60));
    let client = released
        .client_builder()
        .deadline(Duration::from_millis(50))
        .build()
        .unwrap();
    assert_eq!(failure(&client).await.kind(), MintErrorKind::Timeout);
    let counts = released.wait_until(|counts| counts.in_flight == 0).await;
    assert_eq!(counts.cancelled, 1);
}

#[tokio::test]
async fn a_port_that_nobody_listens_on_is_a_connect_error() {
    let (listener, client) = listener_and_client(Duration::from_secs(30)).await;
    drop(listener);
    let error = failure(&client).await;
    assert_eq!(error.kind(), MintErrorKind::Connect);
    // Of what failed, the operating system's own error is the source.
    let source = std::error::Error::source(&error)
        .and_then(|failure| failure.source())
        .unwrap();
    assert!(
        source.downcast_ref::<std::io::Error>().is_some(),
        "{source}"
    );
}

#[tokio::test]
async fn a_connection_that_breaks_is_an_interruption_and_no_http_is_malformed() {
    for (answer, kind) in [
        (&b""[..], MintErrorKind::Interrupted),
        (b"HTTP/1.1 200 OK\r\n", MintErrorKind::Interrupted),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n\"a.b",
            MintErrorKind::Interrupted,
        ),
        (
            b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
            MintErrorKind::MalformedResponse,
        ),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\ncontent-length: 9\r\n\r\n\"a.b.c\"",
            MintErrorKind::MalformedResponse,
        ),
    ] {
        let (listener, client) = listener_and_client(Duration::from_secs(30)).await;
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_request(&mut stream).await;
            stream.write_all(answer).await.unwrap();
        };
        let (error, ()) = tokio::join!(failure(&client), server);
        assert_eq!(error.kind(), kind, "{}", answer.escape_ascii());
    }
}

#[tokio::test]
async fn a_request_says_no_more_than_it_must() {
    let (listener, client) = listener_and_client(Duration::from_secs(30)).await;
    let server = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let request = read_request(&mut stream).await;
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n\"a.b.c\"")
            .await
            .unwrap();
        request
    };
    let user = ada();
    let (token, request) = tokio::join!(client.mint(&user), server);
    assert_eq!(token.unwrap().as_str(), "a.b.c");

    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let mut lines = head.split("\r\n");
    assert_eq!(lines.next(), Some("POST /token HTTP/1.1"));
    let mut headers: Vec<_> = lines.filter(|line| !line.starts_with("host: ")).collect();
    headers.sort_unstable();
    let user_agent = concat!("user-agent: tower-released/", env!("CARGO_PKG_VERSION"));
    assert_eq!(
        headers,
        [
            "accept-encoding: identity",
            "accept: application/json",
            "authorization: Bearer s3cret",
            "content-length: 67",
            "content-type: application/json",
            user_agent,
        ]
    );
    assert_eq!(
        body,
        r#"{"account_id":"acc","user_id":"ada","user_email":"ada@example.com"}"#
    );
}

/// A proxy in the environment must not be told what goes to this machine. The variables are read when a client is
/// built, so this test runs itself once more with them.
#[tokio::test]
async fn a_proxy_in_the_environment_is_not_used_for_loopback() {
    const CHILD: &str = "TOWER_RELEASED_TEST_ENDPOINT";
    const NAME: &str = "client::a_proxy_in_the_environment_is_not_used_for_loopback";

    if let Ok(endpoint) = env::var(CHILD) {
        let (account, secret) = (
            env::var("FAKE_ACCOUNT").unwrap(),
            env::var("FAKE_SECRET").unwrap(),
        );
        let client = ReleasedClient::builder(account, secret)
            .endpoint(endpoint)
            .build()
            .unwrap();
        client.mint(&ada()).await.unwrap();
        return;
    }
    let (released, proxy) = (
        FakeReleased::start().await.unwrap(),
        FakeReleased::start().await.unwrap(),
    );
    let mut child = Command::new(env::current_exe().unwrap());
    child
        .args(["--exact", NAME])
        .env(CHILD, released.impersonation_url())
        .env("FAKE_ACCOUNT", released.account_id())
        .env("FAKE_SECRET", released.shared_secret());
    for variable in [
        "HTTP_PROXY",
        "http_proxy",
        "HTTPS_PROXY",
        "https_proxy",
        "ALL_PROXY",
        "all_proxy",
    ] {
        child.env(variable, proxy.origin());
    }
    for variable in ["NO_PROXY", "no_proxy"] {
        child.env_remove(variable);
    }
    let output = tokio::task::spawn_blocking(move || child.output().unwrap())
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}"
    );
    assert_eq!(
        (released.counts().minted, proxy.counts().connections),
        (1, 0)
    );
}

#[test]
fn a_wrong_configuration_is_told_before_any_call_and_without_the_secret() {
    let build = |account: &str, secret: &str, endpoint: &str| {
        ReleasedClient::builder(account, secret)
            .endpoint(endpoint)
            .build()
            .unwrap_err()
    };
    const GOOD: &str = "https://accounts.releasedhub.com/auth/api/token";

    let errors = [
        build("", "s3cret", GOOD),
        build("acc\n2", "s3cret", GOOD),
        build("acc", "", GOOD),
        build("acc", "s3cr\u{e9}t", GOOD),
        build("acc", "s3c\nret", GOOD),
        build("acc", "s3cret", "http://accounts.releasedhub.com/"),
        build("acc", "s3cret", "https://s3cret@accounts.releasedhub.com/"),
        build(
            "acc",
            "s3cret",
            "https://accounts.releasedhub.com/?secret=s3cret",
        ),
        build("acc", "s3cret", "s3cret"),
    ];
    for error in &errors {
        let texts = format!("{error} {error:?}");
        assert!(!texts.contains("s3c"), "{texts}");
    }
    for (number, kind, cause) in [
        (0, ConfigErrorKind::AccountId, "is empty"),
        (2, ConfigErrorKind::Secret, "is empty"),
        (3, ConfigErrorKind::Secret, "not ASCII"),
        (4, ConfigErrorKind::Secret, "control character"),
        (5, ConfigErrorKind::Endpoint, "must be https"),
        (6, ConfigErrorKind::Endpoint, "user name"),
    ] {
        assert_eq!(errors[number].kind(), kind);
        assert!(
            errors[number].to_string().contains(cause),
            "{}",
            errors[number]
        );
    }
}

async fn listener_and_client(deadline: Duration) -> (TcpListener, ReleasedClient) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let endpoint = format!("http://{}/token", listener.local_addr().unwrap());
    let builder = ReleasedClient::builder("acc", "s3cret")
        .endpoint(endpoint)
        .deadline(deadline);
    let retry = retry(|retry| (retry.max_attempts, retry.attempt_timeout) = (1, deadline));
    let client = builder.retry(retry).build().unwrap();
    (listener, client)
}

/// Reads a request to the end of its body.
async fn read_request(stream: &mut tokio::net::TcpStream) -> String {
    let mut request = Vec::new();
    while !request.ends_with(b"}") {
        assert_ne!(
            stream.read_buf(&mut request).await.unwrap(),
            0,
            "the client hung up"
        );
    }
    String::from_utf8(request).unwrap()
}

#[tokio::test]
async fn the_life_of_a_token_counts_from_when_it_was_asked_for() {
    const LATENCY: Duration = Duration::from_millis(600);
    let released = FakeReleased::start().await.unwrap();
    let client = released.client().unwrap();
    client.warm_up().await.unwrap();
    released.set_latency(LATENCY);
    let token = client.mint(&ada()).await.unwrap();
    assert!(
        token.remaining() <= Duration::from_secs(120).checked_sub(LATENCY).unwrap(),
        "{:?}",
        token.remaining()
    );
    assert!(token.minted_at().elapsed().unwrap() >= LATENCY);
}
