//! A client without credentials: pages go on without tokens, and the log says so once.

use std::env;
use std::process::Command;

use axum::Router;
use axum::body::Body;
use axum::routing::{get, post};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use serde_json::Value;
use tower::{BoxError, ServiceBuilder, ServiceExt, service_fn};
use tower_released::client::{CircuitReason, CircuitState};
use tower_released::testing::FakeReleased;
use tower_released::{
    AuthToken, AuthTokenRejection, InvalidUser, MintErrorKind, MintTiming, PendingToken,
    ReleasedClient, ReleasedTokenLayer, User, resolver_fn, token_endpoint,
};

use crate::leaks::Log;
use crate::support::{Axum, Layer, Stack, Tonic, ada, by_header, request_from_ada};

const TIMINGS: [MintTiming; 3] = [
    MintTiming::BeforeHandler,
    MintTiming::AlongsideHandler,
    MintTiming::OnExtraction,
];

fn app(layer: ReleasedTokenLayer) -> Router {
    async fn optional(token: Option<AuthToken>) -> &'static str {
        token.map_or("no token", |_| "a token")
    }
    async fn required(_: AuthToken) -> &'static str {
        "a token"
    }
    async fn telling(token: Result<AuthToken, AuthTokenRejection>) -> &'static str {
        match token {
            Err(AuthTokenRejection::Mint(error)) => error.kind().as_str(),
            Err(AuthTokenRejection::Anonymous) => "anonymous",
            _ => "something else",
        }
    }
    async fn promised(pending: PendingToken) -> String {
        format!("{:?}", pending.get().await.map_err(|error| error.kind()))
    }
    Router::new()
        .route("/optional", get(optional))
        .route("/required", get(required))
        .route("/telling", get(telling))
        .route("/promised", get(promised))
        .route("/token", post(token_endpoint))
        .layer(layer)
}

async fn visit(app: &Router, method: &str, path: &str, user: Option<&str>) -> Response<Body> {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(user) = user {
        request = request.header("x-user", user);
    }
    let request = request.body(Body::empty()).unwrap();
    app.clone().oneshot(request).await.unwrap()
}

async fn text(response: Response<Body>) -> String {
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

#[tokio::test]
async fn a_page_that_can_do_without_a_token_is_served_without_one() {
    for timing in TIMINGS {
        let layer = ReleasedTokenLayer::new(ReleasedClient::disabled(), by_header()).timing(timing);
        let app = app(layer);
        for (path, user, expected) in [
            ("/optional", Some("ada"), "no token"),
            ("/optional", None, "no token"),
            ("/telling", Some("ada"), "disabled"),
            ("/telling", None, "anonymous"),
            ("/promised", Some("ada"), "Err(Disabled)"),
            ("/promised", None, "Ok(None)"),
        ] {
            let response = visit(&app, "GET", path, user).await;
            assert_eq!(response.status(), StatusCode::OK, "{path} {timing:?}");
            // It has no token, so it may be cached.
            assert!(!response.headers().contains_key("cache-control"), "{path}");
            assert_eq!(text(response).await, expected, "{path} {timing:?}");
        }
    }
}

#[tokio::test]
async fn a_page_that_needs_a_token_is_not_available_and_says_why_but_not_when_to_come_back() {
    let app = app(ReleasedTokenLayer::new(
        ReleasedClient::disabled(),
        by_header(),
    ));
    for (method, path) in [("GET", "/required"), ("POST", "/token")] {
        let response = visit(&app, method, path, Some("ada")).await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(!response.headers().contains_key("retry-after"), "{path}");
        assert_eq!(response.headers()["cache-control"], "no-store");
        let text = text(response).await;
        assert!(text.contains("Auth tokens are disabled"), "{text}");
        // Visitors may read it, so it names no variable.
        assert!(!text.contains("RELEASED_"), "{text}");

        let response = visit(&app, method, path, None).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{path}");
    }
    let response = visit(&app, "POST", "/token", Some("ada")).await;
    let reply: Value = serde_json::from_str(&text(response).await).unwrap();
    assert!(reply["error"].is_string(), "{reply}");
}

/// "Without credentials" must not open what the application closed.
#[tokio::test]
async fn the_strict_mode_lets_nobody_in() {
    let strict = || {
        Layer::from(
            ReleasedTokenLayer::new(ReleasedClient::disabled(), by_header()).reject_without_token(),
        )
    };
    let page = Router::new().route("/", get(async || "let in"));
    let Layer::FailClosed(layer) = strict() else {
        unreachable!("it is strict")
    };
    let page = page.layer(layer);
    let response = visit(&page, "GET", "/", Some("ada")).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(!response.headers().contains_key("retry-after"));
    assert_eq!(text(response).await, "");
    let response = visit(&page, "GET", "/", None).await;
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);

    let grpc = Tonic::serve(strict()).await;
    let (answer, _) = grpc.visit(Some("ada"), &[]).await;
    assert_eq!(format!("{answer:?}"), "Refused(Unavailable)");
}

#[tokio::test]
async fn it_is_said_once_at_the_start_and_never_for_a_page() {
    let (log, _guard) = Log::capture();
    let client = ReleasedClient::disabled();
    let started = log.text();
    assert_eq!(started.matches(" INFO ").count(), 1, "{started}");
    for words in [
        "the client is disabled",
        "RELEASED_ACCOUNT_ID",
        "RELEASED_SHARED_SECRET",
    ] {
        assert!(started.contains(words), "{words} is not in {started}");
    }

    let site = Axum::serve(ReleasedTokenLayer::new(client.clone(), by_header())).await;
    for _ in 0..5 {
        let _ = site.visit(Some("ada"), &[]).await;
    }
    let text = log.text();
    let pages: Vec<_> = text
        .lines()
        .filter(|line| line.contains("disabled"))
        .collect();
    assert!(pages.len() > 5, "each page is there for debugging: {text}");
    // Nor is a span an error, so that a trace of every page is not one.
    for word in [" WARN ", " ERROR ", "otel.status_code=\"ERROR\""] {
        assert!(!text.contains(word), "{text}");
    }
    assert_eq!(
        text.matches("the client is disabled; every page").count(),
        1
    );
    assert!(!text.contains("ada@example.com"), "{text}");
}

#[tokio::test]
async fn a_resolver_that_fails_is_still_warned_of() {
    let (log, _guard) = Log::capture_filtered("warn");
    let invalid = resolver_fn(|_| std::future::ready(Err::<User, _>(InvalidUser::Email)));
    let page = service_fn(async |_: Request<()>| Ok::<_, BoxError>(Response::new(())));
    ServiceBuilder::new()
        .layer(ReleasedTokenLayer::new(ReleasedClient::disabled(), invalid))
        .service(page)
        .oneshot(request_from_ada(()))
        .await
        .unwrap();
    assert!(log.text().contains("e-mail address is not valid"));
}

#[tokio::test]
async fn its_methods_answer_at_once() {
    let client = ReleasedClient::disabled();
    for user in [ada(), ada().in_account("acc")] {
        let error = client.mint(&user).await.unwrap_err();
        assert_eq!(error.kind(), MintErrorKind::Disabled);
        assert_eq!(error.retry_after(), None);
        assert_eq!(
            error.to_string(),
            "the client is disabled: set RELEASED_ACCOUNT_ID and RELEASED_SHARED_SECRET to mint auth tokens"
        );
    }
    client.warm_up().await.unwrap();

    let status = client.status();
    assert_eq!(status.circuit, CircuitState::Disabled);
    assert_eq!(status.circuit.as_str(), "disabled");
    assert_eq!(status.circuit.reason(), Some(CircuitReason::Disabled));
    assert_eq!((status.mints_in_flight, status.secret_generation), (0, 0));
    assert!(status.last_error.is_none() && status.last_success.is_none());
    assert_eq!(
        format!("{client:?}"),
        "ReleasedClient { circuit: Some(Disabled), .. }"
    );
}

/// The variables are those of a process, so this test runs itself once more with each set of them.
#[tokio::test]
async fn a_process_without_credentials_starts_and_one_with_half_of_them_does_not() {
    const CHILD: &str = "TOWER_RELEASED_TEST_EXPECTED";
    const NAME: &str =
        "disabled::a_process_without_credentials_starts_and_one_with_half_of_them_does_not";

    if let Ok(expected) = env::var(CHILD) {
        let found = match ReleasedClient::from_env_or_disabled() {
            Ok(client) => match client.mint(&ada()).await {
                Ok(_) => "a token".to_owned(),
                Err(error) => error.kind().as_str().to_owned(),
            },
            Err(error) => error.to_string(),
        };
        assert!(found.contains(&expected), "{found}, not {expected}");
        return;
    }
    let released = FakeReleased::start().await.unwrap();
    let (url, account, secret) = (
        released.impersonation_url(),
        released.account_id().to_owned(),
        released.shared_secret(),
    );
    for (account, secret, expected) in [
        (None, None, "disabled"),
        (Some(""), Some(""), "disabled"),
        (Some(&*account), Some(&*secret), "a token"),
        (Some(&*account), None, "RELEASED_SHARED_SECRET is not set"),
        (Some(""), Some(&*secret), "RELEASED_ACCOUNT_ID is not set"),
    ] {
        let mut child = Command::new(env::current_exe().unwrap());
        child
            .args(["--exact", NAME])
            .env(CHILD, expected)
            .env("RELEASED_TOKEN_URL", &url)
            .env_remove("RELEASED_SHARED_SECRET_FILE");
        for (name, value) in [
            ("RELEASED_ACCOUNT_ID", account),
            ("RELEASED_SHARED_SECRET", secret),
        ] {
            match value {
                Some(value) => child.env(name, value),
                None => child.env_remove(name),
            };
        }
        let output = tokio::task::spawn_blocking(move || child.output().unwrap())
            .await
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && said.contains("1 passed"),
            "{said}"
        );
    }
}
