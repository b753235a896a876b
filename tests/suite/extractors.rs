//! What handlers take, and what clients get where there is nothing to take.

use axum::body::Body;
use axum::response::IntoResponse;
use axum::routing::{any, get, post};
use axum::{Extension, Json, Router};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::request::Parts;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::future::ready;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tower::ServiceExt;
use tower_released::testing::StubMinter;
use tower_released::{
    AuthToken, AuthTokenRejection, MintError, MintErrorKind, MintTiming, PendingToken,
    ReleasedTokenLayer, User, from_extension, resolver_fn, token_endpoint,
};

use crate::support::{by_header, request_from_ada};

async fn required(token: AuthToken) -> String {
    token.to_string()
}

async fn optional(token: Option<AuthToken>) -> String {
    token.map_or_else(|| "none".to_owned(), |token| token.to_string())
}

async fn telling(token: Result<AuthToken, AuthTokenRejection>) -> String {
    match token {
        Ok(token) => token.to_string(),
        Err(AuthTokenRejection::MissingLayer) => "missing".to_owned(),
        Err(AuthTokenRejection::Anonymous) => "anonymous".to_owned(),
        Err(AuthTokenRejection::Skipped) => "skipped".to_owned(),
        Err(AuthTokenRejection::Mint(error)) => error.kind().as_str().to_owned(),
        Err(other) => panic!("{other:?}"),
    }
}

async fn promised(pending: PendingToken) -> String {
    pending
        .get()
        .await
        .unwrap()
        .map_or_else(|| "nobody".to_owned(), |token| token.to_string())
}

async fn perhaps_promised(pending: Option<PendingToken>) -> String {
    match pending {
        Some(pending) => promised(pending).await,
        None => "none".to_owned(),
    }
}

fn routes() -> Router {
    Router::new()
        .route("/required", get(required))
        .route("/optional", get(optional))
        .route("/telling", get(telling))
        .route("/promised", get(promised))
        .route("/perhaps-promised", get(perhaps_promised))
        .route(
            "/plain",
            get(async |Extension(token): Extension<AuthToken>| token.to_string()),
        )
        .route("/api/released-token", any(token_endpoint))
}

fn app(minter: StubMinter) -> Router {
    routes().layer(ReleasedTokenLayer::new(minter, by_header()))
}

fn from(user: Option<&str>, path: &str) -> Request<Body> {
    let mut request = Request::builder().uri(path);
    if let Some(user) = user {
        request = request.header("x-user", user);
    }
    request.body(Body::empty()).unwrap()
}

async fn answer(app: &Router, request: Request<Body>) -> (StatusCode, String) {
    text(app.clone().oneshot(request).await.unwrap()).await
}

async fn text(response: Response<Body>) -> (StatusCode, String) {
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

fn ok(text: &str) -> (StatusCode, String) {
    (StatusCode::OK, text.to_owned())
}

#[tokio::test]
async fn a_signed_in_user_has_a_token_in_every_form() {
    for path in [
        "/required",
        "/optional",
        "/telling",
        "/promised",
        "/perhaps-promised",
        "/plain",
    ] {
        assert_eq!(
            answer(&app(StubMinter::new()), from(Some("ada"), path)).await,
            ok("stub-token-1"),
            "{path}"
        );
    }
}

#[tokio::test]
async fn nobody_has_none() {
    let app = app(StubMinter::new());
    assert_eq!(
        answer(&app, from(None, "/required")).await.0,
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(answer(&app, from(None, "/optional")).await, ok("none"));
    assert_eq!(answer(&app, from(None, "/telling")).await, ok("anonymous"));
    assert_eq!(answer(&app, from(None, "/promised")).await, ok("nobody"));
}

#[tokio::test]
async fn a_missing_layer_is_named_however_the_token_is_taken() {
    for path in ["/required", "/optional", "/promised", "/perhaps-promised"] {
        let (status, text) = answer(&routes(), from(Some("ada"), path)).await;
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR, "{path}");
        assert!(
            text.contains("ReleasedTokenLayer") && text.contains(".layer("),
            "{text}"
        );
    }
    assert_eq!(
        answer(&routes(), from(None, "/telling")).await,
        ok("missing")
    );
}

#[tokio::test]
async fn a_request_that_was_passed_over_is_told_from_a_missing_layer() {
    let inside = routes()
        .layer(ReleasedTokenLayer::new(StubMinter::new(), by_header()).mint_when(|_| false));
    // A buffer polls what is inside from where it is polled itself.
    let buffered = routes()
        .layer(
            tower::ServiceBuilder::new()
                .layer(axum::error_handling::HandleErrorLayer::new(
                    async |error: tower::BoxError| error.to_string(),
                ))
                .buffer(4),
        )
        .layer(ReleasedTokenLayer::new(StubMinter::new(), by_header()).mint_when(|_| false));
    for app in [inside, buffered] {
        let (status, text) = answer(&app, from(Some("ada"), "/required")).await;
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(text.contains("mint_when"), "{text}");
        assert_eq!(
            answer(&app, from(Some("ada"), "/optional")).await,
            ok("none")
        );
        assert_eq!(
            answer(&app, from(Some("ada"), "/perhaps-promised")).await,
            ok("none")
        );
        assert_eq!(
            answer(&app, from(Some("ada"), "/telling")).await,
            ok("skipped")
        );
    }
    // Nor does it matter if the handler runs in a task of its own, so that it survives a client that hangs up.
    let spawned = routes()
        .layer(axum::middleware::from_fn(
            async |request, next: axum::middleware::Next| {
                tokio::spawn(next.run(request)).await.unwrap()
            },
        ))
        .layer(ReleasedTokenLayer::new(StubMinter::new(), by_header()).mint_when(|_| false))
        .layer(Extension("anything"));
    assert_eq!(
        answer(&spawned, from(Some("ada"), "/optional")).await,
        ok("none")
    );
    assert_eq!(
        answer(&spawned, from(Some("ada"), "/telling")).await,
        ok("skipped")
    );

    // And what was passed over leaves no trace for the next.
    assert_eq!(
        answer(&routes(), from(Some("ada"), "/telling")).await,
        ok("missing")
    );
}

#[tokio::test]
async fn every_kind_of_failure_has_its_status_and_tells_clients_nothing_of_the_inside() {
    for (kind, status) in [
        (MintErrorKind::InvalidUser, 500),
        (MintErrorKind::Resolver, 500),
        (MintErrorKind::Unauthorized, 500),
        (MintErrorKind::Rejected, 500),
        (MintErrorKind::RateLimited, 503),
        (MintErrorKind::Overloaded, 503),
        (MintErrorKind::CircuitOpen, 503),
        (MintErrorKind::Connect, 503),
        (MintErrorKind::Timeout, 504),
        (MintErrorKind::Interrupted, 503),
        (MintErrorKind::Unavailable, 503),
        (MintErrorKind::MalformedResponse, 502),
        (MintErrorKind::Config, 500),
        (MintErrorKind::Disabled, 503),
        (MintErrorKind::WrongAccount, 500),
    ] {
        let app = app(StubMinter::failing(MintError::new(kind)));
        let response = app
            .clone()
            .oneshot(from(Some("ada"), "/required"))
            .await
            .unwrap();
        assert_eq!(
            response.headers().contains_key("retry-after"),
            status == 503 && kind != MintErrorKind::Disabled,
            "{kind:?}"
        );
        assert_eq!(response.headers()["cache-control"], "no-store", "{kind:?}");
        let (found, text) = text(response).await;
        assert_eq!(found, status, "{kind:?}");
        assert!(!text.contains("RELEASED_"), "{text}");

        assert_eq!(
            answer(&app, from(Some("ada"), "/optional")).await,
            ok("none"),
            "{kind:?}"
        );
        assert_eq!(
            answer(&app, from(Some("ada"), "/telling")).await,
            ok(kind.as_str()),
            "{kind:?}"
        );
    }
}

#[tokio::test]
async fn retry_after_is_what_released_said_rounded_up() {
    let error =
        MintError::new(MintErrorKind::RateLimited).with_retry_after(Duration::from_millis(6500));
    let response = app(StubMinter::failing(error))
        .oneshot(from(Some("ada"), "/required"))
        .await
        .unwrap();
    assert_eq!(response.headers()["retry-after"], "7");

    let never = MintError::new(MintErrorKind::Unavailable).with_retry_after(Duration::MAX);
    let response = app(StubMinter::failing(never))
        .oneshot(from(Some("ada"), "/required"))
        .await
        .unwrap();
    assert_eq!(response.headers()["retry-after"], u64::MAX.to_string());
}

#[tokio::test]
async fn only_a_grpc_call_gets_a_grpc_answer_and_no_other_answer_is_kept() {
    let app = routes()
        .layer(ReleasedTokenLayer::new(StubMinter::new(), by_header()).reject_without_token());
    for (method, content_type, is_grpc) in [
        ("POST", "application/grpc", true),
        ("POST", "application/grpc+proto", true),
        ("POST", "Application/gRPC-Web", true),
        ("POST", "application/grpcx", false),
        ("POST", "application/json", false),
        // Its answer, a 200, could be kept as the page by a cache.
        ("GET", "application/grpc", false),
    ] {
        let request = Request::builder()
            .method(method)
            .uri("/required")
            .header("content-type", content_type);
        let response = app
            .clone()
            .oneshot(request.body(Body::empty()).unwrap())
            .await
            .unwrap();
        let headers = response.headers();
        assert_eq!(
            headers.contains_key("grpc-status"),
            is_grpc,
            "{method} {content_type}"
        );
        assert_eq!(
            headers
                .get("cache-control")
                .is_some_and(|value| value == "no-store"),
            !is_grpc
        );
        assert_eq!(
            response.status(),
            if is_grpc { 200 } else { 401 },
            "{method} {content_type}"
        );
    }
}

#[tokio::test]
async fn a_layer_further_in_decides_for_itself() {
    let nobody = Arc::new(resolver_fn(|_: &Parts| ready(None::<User>)));
    for timing in [
        MintTiming::BeforeHandler,
        MintTiming::AlongsideHandler,
        MintTiming::OnExtraction,
    ] {
        let app = routes()
            .layer(ReleasedTokenLayer::new(StubMinter::new(), nobody.clone()).timing(timing))
            .layer(ReleasedTokenLayer::new(StubMinter::new(), by_header()));
        assert_eq!(
            answer(&app, from(Some("ada"), "/optional")).await,
            ok("none"),
            "{timing:?}"
        );
        assert_eq!(
            answer(&app, from(Some("ada"), "/plain")).await.0,
            StatusCode::INTERNAL_SERVER_ERROR,
            "{timing:?}"
        );
    }
}

#[tokio::test]
async fn layers_stand_where_axum_puts_them() {
    let layer = || ReleasedTokenLayer::new(StubMinter::new(), by_header());

    let on_a_route = Router::new().route("/required", get(required).layer(layer()));
    let as_route_layer = Router::new()
        .route("/required", get(required))
        .route_layer(layer());
    let around_the_router = Router::new()
        .route("/required", get(required))
        .layer(layer());
    let nested = Router::new()
        .nest("/app", Router::new().route("/required", get(required)))
        .layer(layer());
    for (app, path) in [
        (on_a_route, "/required"),
        (as_route_layer, "/required"),
        (around_the_router, "/required"),
        (nested, "/app/required"),
    ] {
        assert_eq!(
            answer(&app, from(Some("ada"), path)).await,
            ok("stub-token-1"),
            "{path}"
        );
    }
}

/// The example test of an application: the layer reads who is signed in from what authentication left.
#[tokio::test]
async fn an_application_vouches_for_whom_its_authentication_found() {
    #[derive(Clone)]
    struct CurrentUser {
        id: u64,
        email: String,
    }
    let minter = StubMinter::new();
    let vouch = |user: &CurrentUser| User::new(user.id.to_string(), &user.email);
    let app = Router::new()
        .route("/", get(required))
        .layer(ReleasedTokenLayer::new(
            minter.clone(),
            from_extension(vouch),
        ))
        .layer(Extension(CurrentUser {
            id: 42,
            email: "ada@example.com".to_owned(),
        }));

    assert_eq!(answer(&app, from(None, "/")).await, ok("stub-token-1"));
    assert_eq!(minter.users()[0].id().as_str(), "42");
}

async fn ask_endpoint(
    app: &Router,
    user: Option<&str>,
    headers: &[(&str, &str)],
) -> (StatusCode, Value) {
    let mut request = Request::post("/api/released-token")
        .body(Body::from(r#"{"user_id":"grace"}"#))
        .unwrap();
    for (name, value) in headers
        .iter()
        .copied()
        .chain(user.map(|user| ("x-user", user)))
    {
        let name: http::HeaderName = name.parse().unwrap();
        request.headers_mut().append(name, value.parse().unwrap());
    }
    let response = app.clone().oneshot(request).await.unwrap();
    assert!(
        response.headers()["cache-control"]
            .to_str()
            .unwrap()
            .contains("no-store")
    );
    assert_eq!(response.headers()["content-type"], "application/json");
    let (status, text) = text(response).await;
    (status, serde_json::from_str(&text).unwrap())
}

#[tokio::test]
async fn the_endpoint_answers_with_a_token_and_its_whole_seconds() {
    let minter = StubMinter::new();
    let (status, body) = ask_endpoint(
        &app(minter.clone()),
        Some("ada"),
        &[("sec-fetch-site", "same-origin")],
    )
    .await;
    assert_eq!(
        (status, &body["token"]),
        (StatusCode::OK, &json!("stub-token-1"))
    );
    // Whole seconds of two minutes, a little of which is over.
    assert!(
        (60..120).contains(&body["expires_in"].as_u64().unwrap()),
        "{body}"
    );
    assert_eq!(body.as_object().unwrap().len(), 2);
    // Whoever the body names.
    assert_eq!(minter.users()[0].id().as_str(), "ada");
}

#[tokio::test]
async fn the_seconds_that_the_endpoint_gives_are_the_tokens_own_however_wrong_the_clock_is() {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    for issued_at in [now - 3600, now, now + 3600] {
        let claims = json!({ "iat": issued_at, "exp": issued_at + 120 }).to_string();
        let token: Arc<str> = format!(
            "eyJhbGciOiJIUzI1NiJ9.{}.c2ln",
            BASE64_URL_SAFE_NO_PAD.encode(claims)
        )
        .into();
        let minter = tower::service_fn(move |_: User| {
            let token = AuthToken::new(Arc::clone(&token));
            async { token }
        });
        let layer = ReleasedTokenLayer::new(minter, by_header());
        let app = Router::new()
            .route("/api/released-token", post(token_endpoint))
            .layer(layer);
        let (status, body) = ask_endpoint(&app, Some("ada"), &[]).await;
        assert_eq!(status, StatusCode::OK);
        assert!(
            (60..120).contains(&body["expires_in"].as_u64().unwrap()),
            "{body}"
        );
    }
}

#[tokio::test]
async fn the_endpoint_answers_every_failure_with_an_error() {
    assert_eq!(
        ask_endpoint(&app(StubMinter::new()), None, &[]).await.0,
        401
    );
    for (kind, expected) in [
        (MintErrorKind::Unavailable, 503),
        (MintErrorKind::Timeout, 504),
        (MintErrorKind::MalformedResponse, 502),
        (MintErrorKind::Unauthorized, 500),
    ] {
        let (status, body) = ask_endpoint(
            &app(StubMinter::failing(MintError::new(kind))),
            Some("ada"),
            &[],
        )
        .await;
        assert_eq!(status, expected, "{kind:?}");
        assert!(
            body["error"].is_string() && body.get("token").is_none(),
            "{body}"
        );
    }
    let (status, body) = ask_endpoint(&routes(), Some("ada"), &[]).await;
    assert_eq!(status, 500);
    assert!(
        body["error"]
            .as_str()
            .unwrap()
            .contains("ReleasedTokenLayer"),
        "{body}"
    );
    assert_eq!(
        answer(
            &app(StubMinter::new()),
            from(Some("ada"), "/api/released-token")
        )
        .await
        .0,
        405
    );
}

#[tokio::test]
async fn a_route_of_the_endpoint_by_post_answers_405_itself_and_without_json() {
    let layer = ReleasedTokenLayer::new(StubMinter::new(), by_header());
    let app = Router::new()
        .route("/api/released-token", post(token_endpoint))
        .route_layer(layer);
    assert_eq!(
        answer(&app, from(Some("ada"), "/api/released-token")).await,
        (StatusCode::METHOD_NOT_ALLOWED, String::new())
    );
}

#[tokio::test]
async fn the_endpoint_answers_no_other_site() {
    let on_demand = routes().layer(
        ReleasedTokenLayer::new(StubMinter::new(), by_header()).timing(MintTiming::OnExtraction),
    );
    let host = ("host", "app.example");
    for (status, headers) in [
        (200, &[host][..]),
        (200, &[host, ("sec-fetch-site", "same-origin")]),
        (200, &[host, ("sec-fetch-site", "same-site")]),
        (200, &[host, ("sec-fetch-site", "none")]),
        (403, &[host, ("sec-fetch-site", "cross-site")]),
        (200, &[host, ("origin", "https://app.example")]),
        (200, &[host, ("origin", "https://APP.example")]),
        (403, &[host, ("origin", "https://app.example:8443")]),
        (403, &[host, ("origin", "https://app.example.evil.example")]),
        (403, &[host, ("origin", "https://evil.example")]),
        (403, &[host, ("origin", "null")]),
        (403, &[("origin", "https://app.example")]),
        (
            200,
            &[
                ("host", "app.example:443"),
                ("origin", "https://app.example"),
            ],
        ),
        (
            200,
            &[("host", "app.example:80"), ("origin", "http://app.example")],
        ),
        (
            403,
            &[
                ("host", "app.example:80"),
                ("origin", "https://app.example"),
            ],
        ),
        (403, &[host, ("sec-fetch-site", "Cross-Site")]),
        (403, &[host, ("sec-fetch-site", "")]),
        (
            403,
            &[
                host,
                ("sec-fetch-site", "same-origin"),
                ("sec-fetch-site", "cross-site"),
            ],
        ),
        // The browser's own word counts more than the comparison, which a proxy may have spoilt.
        (
            200,
            &[
                host,
                ("sec-fetch-site", "same-origin"),
                ("origin", "https://other.example"),
            ],
        ),
    ] {
        assert_eq!(
            ask_endpoint(&on_demand, Some("ada"), headers).await.0,
            status,
            "{headers:?}"
        );
    }
}

#[tokio::test]
async fn a_token_is_a_string_in_json() {
    let app = Router::new()
        .route(
            "/",
            get(async |token: AuthToken| Json(json!({"auth": token})).into_response()),
        )
        .layer(ReleasedTokenLayer::new(StubMinter::new(), by_header()));
    let (_, text) = text(app.oneshot(request_from_ada(Body::empty())).await.unwrap()).await;
    assert_eq!(text, r#"{"auth":"stub-token-1"}"#);
}
