//! Secrets, tokens and addresses reach no log, no `Debug`, no error and no response that is not the page.

use std::error::Error;
use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use http_body_util::BodyExt;
use tower::ServiceExt;
use tower_released::testing::{FakeReleased, Reply};
use tower_released::{
    AuthToken, AuthTokenRejection, ReleasedClient, ReleasedTokenLayer, User, from_extension,
    resolver_fn,
};
use tracing_subscriber::fmt::MakeWriter;

use crate::support::{ada, by_header, once, request_from_ada};

/// What the remote end writes, in all the places where it can.
const REMOTE: &str = "remote-words";

/// Everything that is logged on this thread, at every level.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub(crate) fn capture() -> (Self, tracing::subscriber::DefaultGuard) {
        Self::capture_filtered("trace")
    }

    /// Only what this filter lets through, in the words of `RUST_LOG`.
    pub(crate) fn capture_filtered(filter: &str) -> (Self, tracing::subscriber::DefaultGuard) {
        // Some crates write to `log`. Only the first call takes effect, as it is meant to.
        let _ = tracing_log::LogTracer::init();
        let log = Self::default();
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_span_events(tracing_subscriber::fmt::format::FmtSpan::FULL)
            .with_ansi(false)
            .with_writer(log.clone())
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// An error in every form in which somebody could print it.
pub(crate) fn forms(error: &dyn Error) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        text.push_str(&format!("{error} {error:?} {error:#?}\n"));
        next = error.source();
    }
    text
}

#[tokio::test]
async fn no_failure_tells_what_it_must_not() {
    let (log, _guard) = Log::capture();
    let released = FakeReleased::start().await.unwrap();
    let client = released.client_builder().retry(once()).build().unwrap();
    let user = ada().with_name("Countess Lovelace");
    let layer = ReleasedTokenLayer::new(
        client.clone(),
        resolver_fn({
            let user = user.clone();
            move |_| std::future::ready(user.clone())
        }),
    );
    let app = Router::new()
        .route("/", get(async |token: AuthToken| token.to_string()))
        .layer(layer);

    let mut printed = String::new();
    for reply in [
        Reply::status(200).body(format!("\"{REMOTE} <b>\"")),
        Reply::status(200).body(format!("{{\"{REMOTE}\":1}}")),
        Reply::status(307).header("location", &format!("https://{REMOTE}.example/")),
        Reply::status(400).header("x-reason", REMOTE).body(REMOTE),
        Reply::status(401).body(REMOTE),
        Reply::status(429)
            .header("retry-after", REMOTE)
            .body(REMOTE),
        Reply::status(503).body(REMOTE),
    ] {
        released.reply_next(reply.clone());
        printed += &forms(&client.mint(&user).await.unwrap_err());
        released.reply_next(reply);
        let response = app
            .clone()
            .oneshot(request_from_ada(Body::empty()))
            .await
            .unwrap();
        assert!(!response.status().is_success());
        printed += &format!("{response:?}");
        printed +=
            std::str::from_utf8(&response.into_body().collect().await.unwrap().to_bytes()).unwrap();
    }
    // Then it works, and then there is nobody to talk to.
    let token = client.mint(&user).await.unwrap();
    let (account, secret) = (released.account_id().to_owned(), released.shared_secret());
    drop(released);
    printed += &forms(&client.mint(&user).await.unwrap_err());

    let rejection = AuthTokenRejection::Mint(client.mint(&user).await.unwrap_err());
    printed += &format!(
        "{client:?} {user:?} {token:?} {rejection:?} {rejection}",
        user = &user
    );
    printed += &format!(
        "{:?} {:?}",
        user.id(),
        ReleasedClient::builder(account, secret.clone())
    );

    let logged = log.text();
    // The test sees what is logged: failures, and what hyper says of its connections.
    assert!(
        logged.contains("no auth token for this request"),
        "{logged}"
    );
    assert!(logged.contains("hyper_util::client"), "{logged}");
    for (what, text) in [("printed", printed), ("logged", logged)] {
        for forbidden in [
            secret.as_str(),
            token.as_str(),
            "ada@example.com",
            "Lovelace",
            REMOTE,
        ] {
            assert!(
                !text.contains(forbidden),
                "{forbidden:?} is {what}:\n{text}"
            );
        }
    }
}

#[tokio::test]
async fn a_user_who_is_refused_or_trimmed_is_not_named() {
    let (log, _guard) = Log::capture();
    let endless = "Lovelace ".repeat(40);
    let user = ada()
        .with_name(&endless)
        .with_avatar_url("Lovelace's picture");
    assert_eq!(
        (user.name().map(str::len), user.avatar_url()),
        (Some(200), None)
    );

    let error = User::new("ada lovelace@example.com", "x").unwrap_err();
    let printed = forms(&error) + &forms(&User::new("ada", "lovelace at example.com").unwrap_err());
    let logged = log.text();
    assert!(
        logged.contains("it was cut") && logged.contains("it was left out"),
        "{logged}"
    );
    assert!(!(logged + &printed).to_lowercase().contains("lovelace"));
}

#[tokio::test]
async fn a_user_without_a_name_or_a_picture_is_no_reason_for_a_warning() {
    let (log, _guard) = Log::capture();
    let user = ada().with_name("").with_avatar_url(" ");
    assert_eq!((user.name(), user.avatar_url()), (None, None));
    assert_eq!(log.text(), "");
}

#[tokio::test]
async fn an_error_of_the_resolver_is_not_logged() {
    let (log, _guard) = Log::capture();
    let released = FakeReleased::start().await.unwrap();
    let fails =
        resolver_fn(|_| std::future::ready(Err::<User, _>("no account of ada@example.com")));
    let layer = ReleasedTokenLayer::new(released.client().unwrap(), fails);
    let app = Router::new()
        .route(
            "/",
            get(async |token: Option<AuthToken>| format!("{token:?}")),
        )
        .layer(layer);
    let response = app.oneshot(request_from_ada(Body::empty())).await.unwrap();
    assert_eq!(response.status(), 200);
    let logged = log.text();
    assert!(logged.contains("the user resolver failed"), "{logged}");
    assert!(!logged.contains("ada@example.com"), "{logged}");
}

#[tokio::test]
async fn a_handler_that_makes_a_page_with_a_token_public_is_told() {
    let (log, _guard) = Log::capture();
    let released = FakeReleased::start().await.unwrap();
    let page =
        async |token: AuthToken| ([("cache-control", "public, max-age=60")], token.to_string());
    let layer = ReleasedTokenLayer::new(released.client().unwrap(), by_header());
    let app = Router::new().route("/", get(page)).layer(layer);
    let response = app.oneshot(request_from_ada(Body::empty())).await.unwrap();
    assert_eq!(response.headers()["cache-control"], "private, no-store");
    assert!(
        log.text().contains("the handler made a response public"),
        "{}",
        log.text()
    );
}

#[tokio::test]
async fn nothing_that_can_be_printed_of_a_layer_shows_whom_it_is_for() {
    let layer = ReleasedTokenLayer::new(
        ReleasedClient::new("acc", "s3cret").unwrap(),
        from_extension(|user: &User| user.clone()),
    );
    let printed = format!("{layer:?} {:?}", tower::Layer::layer(&layer, ()));
    assert!(!printed.contains("s3cret"), "{printed}");
}
