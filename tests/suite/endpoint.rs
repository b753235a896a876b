//! The token endpoint with settings: who may ask, behind which proxy, and what it replies.

use axum::Router;
use axum::body::Body;
use axum::routing::{post, post_service};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use serde::Deserialize;
use serde_json::{Value, json};
use tower::ServiceExt;
use tower_released::endpoint::{ErrorReply, ProxyHeader, TokenEndpoint, TokenReply};
use tower_released::testing::StubMinter;
use tower_released::{
    AuthToken, AuthTokenRejection, MintTiming, ReleasedTokenLayer, token_endpoint,
};

use crate::leaks::Log;
use crate::support::by_header;

type Headers = [(&'static str, &'static str)];

async fn ask(endpoint: &TokenEndpoint, headers: &Headers) -> (u16, Value) {
    let layer = ReleasedTokenLayer::new(StubMinter::new(), by_header());
    let app = Router::new()
        .route("/", post_service(endpoint.clone()))
        .route_layer(layer.timing(MintTiming::OnExtraction));
    let mut request = Request::post("/").header("x-user", "ada");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = app
        .oneshot(request.body(Body::empty()).unwrap())
        .await
        .unwrap();
    let cache_control = response.headers()["cache-control"].to_str().unwrap();
    assert!(cache_control.ends_with("no-store"), "{cache_control}");
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap())
}

async fn check(endpoint: &TokenEndpoint, cases: &[(u16, &Headers)]) {
    for (expected, headers) in cases {
        let (status, body) = ask(endpoint, headers).await;
        assert_eq!(status, *expected, "{headers:?}");
        assert_eq!(body.get("token").is_some(), *expected == 200, "{headers:?}");
    }
}

/// What the application sees behind a proxy that changes the host.
const INSIDE: (&str, &str) = ("host", "app:3000");
const PAGE: (&str, &str) = ("origin", "https://app.example");
const EVIL: (&str, &str) = ("origin", "https://evil.example");

#[tokio::test]
async fn by_default_no_header_of_a_proxy_counts() {
    check(
        &TokenEndpoint::new(),
        &[
            (200, &[("host", "app.example"), PAGE]),
            (403, &[INSIDE, PAGE]),
            (403, &[INSIDE, PAGE, ("x-forwarded-host", "app.example")]),
            (403, &[INSIDE, PAGE, ("forwarded", "host=app.example")]),
            (
                403,
                &[
                    ("host", "app.example"),
                    EVIL,
                    ("x-forwarded-host", "evil.example"),
                ],
            ),
            (
                403,
                &[
                    ("host", "app.example"),
                    EVIL,
                    ("forwarded", "host=evil.example"),
                ],
            ),
            (
                403,
                &[("host", "app.example"), ("host", "evil.example"), EVIL],
            ),
            (403, &[("host", "app.example"), PAGE, EVIL]),
        ],
    )
    .await;
}

#[tokio::test]
async fn x_forwarded_host_counts_where_it_is_trusted_and_the_nearest_proxy_has_the_last_word() {
    const NAME: &str = "x-forwarded-host";
    check(
        &TokenEndpoint::new().trust_proxy(ProxyHeader::XForwardedHost),
        &[
            (200, &[INSIDE, PAGE, (NAME, "app.example")]),
            (200, &[INSIDE, PAGE, (NAME, " APP.example ")]),
            (200, &[INSIDE, PAGE, (NAME, "app.example:443")]),
            (403, &[INSIDE, PAGE, (NAME, "app.example:80")]),
            (403, &[INSIDE, PAGE, (NAME, "app.example:8443")]),
            (
                200,
                &[
                    INSIDE,
                    ("origin", "https://app.example:8443"),
                    (NAME, "app.example:8443"),
                ],
            ),
            (
                200,
                &[
                    INSIDE,
                    ("origin", "https://[2001:db8::1]:8443"),
                    (NAME, "[2001:db8::1]:8443"),
                ],
            ),
            (
                200,
                &[
                    INSIDE,
                    ("origin", "https://[2001:db8::1]"),
                    (NAME, "[2001:db8::1]:443"),
                ],
            ),
            (
                403,
                &[
                    INSIDE,
                    ("origin", "https://[2001:db8::1]"),
                    (NAME, "[2001:db8::2]"),
                ],
            ),
            // What a client sent is in front of what the proxy added.
            (403, &[INSIDE, EVIL, (NAME, "evil.example, app.example")]),
            (
                403,
                &[INSIDE, EVIL, (NAME, "evil.example"), (NAME, "app.example")],
            ),
            (200, &[INSIDE, PAGE, (NAME, "evil.example, app.example")]),
            (
                200,
                &[INSIDE, PAGE, (NAME, "evil.example"), (NAME, "app.example")],
            ),
            (403, &[INSIDE, PAGE, (NAME, "app.example, evil.example")]),
            // The header is there, so nothing else counts.
            (
                403,
                &[("host", "app.example"), PAGE, (NAME, "evil.example")],
            ),
            (403, &[("host", "app.example"), PAGE, (NAME, "")]),
            (
                403,
                &[("host", "app.example"), PAGE, (NAME, "app.example,")],
            ),
            (
                403,
                &[("host", "app.example"), PAGE, (NAME, "https://app.example")],
            ),
            (403, &[INSIDE, PAGE, ("forwarded", "host=app.example")]),
            (403, &[INSIDE, ("origin", "null"), (NAME, "null")]),
            // Without a proxy.
            (200, &[("host", "app.example"), PAGE]),
            (403, &[("host", "app.example"), EVIL]),
            // The browser's own word counts more.
            (
                403,
                &[
                    INSIDE,
                    PAGE,
                    (NAME, "app.example"),
                    ("sec-fetch-site", "cross-site"),
                ],
            ),
            (
                200,
                &[
                    INSIDE,
                    PAGE,
                    (NAME, "evil.example"),
                    ("sec-fetch-site", "same-origin"),
                ],
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn forwarded_counts_where_it_is_trusted_as_the_rfc_has_it() {
    const NAME: &str = "forwarded";
    check(
        &TokenEndpoint::new().trust_proxy(ProxyHeader::Forwarded),
        &[
            (200, &[INSIDE, PAGE, (NAME, "host=app.example")]),
            (
                200,
                &[
                    INSIDE,
                    PAGE,
                    (
                        NAME,
                        "for=192.0.2.1;host=app.example;proto=https;by=203.0.113.4",
                    ),
                ],
            ),
            (
                200,
                &[
                    INSIDE,
                    PAGE,
                    (
                        NAME,
                        "For=\"[2001:db8::1]:47011\" ; Host=\"APP.example:443\" ; Proto=HTTPS",
                    ),
                ],
            ),
            (200, &[INSIDE, PAGE, (NAME, r#"host="app\.example""#)]),
            (200, &[INSIDE, PAGE, (NAME, ";host=app.example;")]),
            // The scheme, if it is told.
            (403, &[INSIDE, PAGE, (NAME, "host=app.example;proto=http")]),
            (
                403,
                &[
                    INSIDE,
                    ("origin", "http://app.example"),
                    (NAME, "host=app.example;proto=https"),
                ],
            ),
            // Ports and IPv6, with the quotes that the RFC wants, and without.
            (
                200,
                &[
                    INSIDE,
                    ("origin", "https://app.example:8443"),
                    (NAME, "host=\"app.example:8443\""),
                ],
            ),
            (
                200,
                &[
                    INSIDE,
                    ("origin", "https://app.example:8443"),
                    (NAME, "host=app.example:8443;proto=https"),
                ],
            ),
            (
                200,
                &[
                    INSIDE,
                    ("origin", "https://[2001:db8::1]:8443"),
                    (NAME, "host=\"[2001:db8::1]:8443\""),
                ],
            ),
            (403, &[INSIDE, PAGE, (NAME, "host=\"app.example:8443\"")]),
            // The nearest proxy adds the last element.
            (
                403,
                &[INSIDE, EVIL, (NAME, "host=evil.example, host=app.example")],
            ),
            (
                403,
                &[
                    INSIDE,
                    EVIL,
                    (NAME, "host=evil.example"),
                    (NAME, "host=app.example"),
                ],
            ),
            (
                200,
                &[
                    INSIDE,
                    PAGE,
                    (NAME, "host=evil.example, for=192.0.2.1;host=app.example"),
                ],
            ),
            // It says nothing of the host, so what a client sent does not count either.
            (
                403,
                &[INSIDE, EVIL, (NAME, "host=evil.example, for=192.0.2.1")],
            ),
            (403, &[INSIDE, EVIL, (NAME, "host=evil.example,")]),
            (
                403,
                &[
                    INSIDE,
                    EVIL,
                    (NAME, "host=evil.example"),
                    (NAME, "for=192.0.2.1"),
                ],
            ),
            (
                403,
                &[("host", "app.example"), PAGE, (NAME, "for=192.0.2.1")],
            ),
            // A client that opens a quote, which the proxy's element then closes.
            (
                403,
                &[
                    INSIDE,
                    EVIL,
                    (
                        NAME,
                        "host=evil.example;by=\", for=\"192.0.2.1\";host=app.example",
                    ),
                ],
            ),
            (
                403,
                &[
                    INSIDE,
                    EVIL,
                    (
                        NAME,
                        "host=evil.example;by=\", for=192.0.2.1;host=\"app.example\"",
                    ),
                ],
            ),
            (
                403,
                &[
                    INSIDE,
                    EVIL,
                    (NAME, "host=evil.example;by=\", host=app.example"),
                ],
            ),
            (
                403,
                &[
                    INSIDE,
                    EVIL,
                    (NAME, r#"host=evil.example;by="\", host=app.example"#),
                ],
            ),
            // What is no such header.
            (
                403,
                &[INSIDE, PAGE, (NAME, "host=app.example;host=evil.example")],
            ),
            (
                403,
                &[INSIDE, PAGE, (NAME, "host=evil.example;host=app.example")],
            ),
            (
                403,
                &[INSIDE, PAGE, (NAME, "host=app.example evil.example")],
            ),
            (403, &[INSIDE, PAGE, (NAME, "host")]),
            (403, &[INSIDE, PAGE, (NAME, "host=")]),
            (403, &[INSIDE, PAGE, (NAME, "host=\"\"")]),
            (403, &[INSIDE, PAGE, (NAME, "ho st=app.example")]),
            (403, &[INSIDE, PAGE, (NAME, "app.example")]),
            (403, &[("host", "app.example"), PAGE, (NAME, "")]),
            (403, &[INSIDE, PAGE, ("x-forwarded-host", "app.example")]),
            // Without a proxy.
            (200, &[("host", "app.example"), PAGE]),
        ],
    )
    .await;
}

#[tokio::test]
async fn an_origin_that_is_allowed_may_ask_from_another_site_and_nobody_else() {
    let endpoint = TokenEndpoint::new()
        .allow_origin("https://app.example")
        .unwrap()
        .allow_origin("HTTP://LocalHost:5173/")
        .unwrap()
        .allow_origin("https://bücher.example:443")
        .unwrap();
    let cross_site = ("sec-fetch-site", "cross-site");
    check(
        &endpoint,
        &[
            (200, &[INSIDE, PAGE]),
            (200, &[INSIDE, PAGE, cross_site]),
            (
                200,
                &[INSIDE, ("origin", "http://localhost:5173"), cross_site],
            ),
            (
                200,
                &[
                    INSIDE,
                    ("origin", "https://xn--bcher-kva.example"),
                    cross_site,
                ],
            ),
            // The server's own host, as always.
            (200, &[INSIDE, ("origin", "http://app:3000")]),
            (403, &[INSIDE, EVIL]),
            (403, &[INSIDE, EVIL, cross_site]),
            (403, &[INSIDE, cross_site]),
            (403, &[INSIDE, ("origin", "http://app.example"), cross_site]),
            (
                403,
                &[
                    INSIDE,
                    ("origin", "https://app.example.evil.example"),
                    cross_site,
                ],
            ),
            (
                403,
                &[INSIDE, ("origin", "https://app.example:8443"), cross_site],
            ),
            (403, &[INSIDE, ("origin", "null"), cross_site]),
            (403, &[INSIDE, PAGE, EVIL, cross_site]),
            (403, &[INSIDE, PAGE, cross_site, cross_site]),
        ],
    )
    .await;
}

#[test]
fn what_is_no_origin_is_refused_and_the_text_says_how_one_looks() {
    for text in [
        "",
        "*",
        "null",
        "app.example",
        "https://*.app.example",
        "https://app.example/path",
        "https://app.example?a",
        "https://app.example#a",
        "https://user@app.example",
        "ftp://app.example",
        "file:///",
        "https://",
    ] {
        let error = TokenEndpoint::new().allow_origin(text).unwrap_err();
        let said = error.to_string();
        assert!(
            said.contains("https://app.example") && said.contains("Write"),
            "{said}"
        );
    }
}

#[tokio::test]
async fn a_proxy_that_changed_the_host_is_named_to_the_client_and_once_in_the_log() {
    let (log, _guard) = Log::capture_filtered("warn");
    let endpoint = TokenEndpoint::new();
    // No proxy's fault.
    for headers in [
        &[INSIDE, PAGE, ("sec-fetch-site", "cross-site")][..],
        &[INSIDE, ("origin", "null")],
    ] {
        let (_, body) = ask(&endpoint, headers).await;
        assert_eq!(
            body,
            json!({"error": "Another site may not ask for a token."})
        );
    }
    assert_eq!(log.text(), "");

    for _ in 0..3 {
        let (_, body) = ask(&endpoint, &[INSIDE, PAGE]).await;
        let error = body["error"].as_str().unwrap();
        assert!(
            error.contains("proxy") && error.contains("TokenEndpoint"),
            "{error}"
        );
        // A client learns nothing of the inside.
        assert!(!error.contains("app:3000"), "{error}");
    }
    let text = log.text();
    assert_eq!(text.lines().count(), 1, "{text}");
    for part in [
        "app:3000",
        "https://app.example",
        "trust_proxy",
        "allow_origin",
    ] {
        assert!(text.contains(part), "{text}");
    }
}

#[tokio::test]
async fn a_header_in_the_log_is_short_and_on_one_line() {
    let (log, _guard) = Log::capture_filtered("warn");
    let origin = format!("https://{}", "x".repeat(7_000)).leak();
    ask(&TokenEndpoint::new(), &[INSIDE, ("origin", origin)]).await;
    let text = log.text();
    assert!(text.len() < 700, "{} bytes", text.len());
    assert_eq!(text.lines().count(), 1, "{text}");
}

/// As a client writes it down, or an `OpenAPI` document.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Documented {
    token: String,
    expires_in: u64,
}

#[tokio::test]
async fn the_replies_are_what_their_types_say() {
    let (_, body) = ask(&TokenEndpoint::new(), &[]).await;
    let documented: Documented = serde_json::from_value(body.clone()).unwrap();
    let reply: TokenReply = serde_json::from_value(body.clone()).unwrap();
    assert_eq!(reply.token.as_str(), documented.token);
    assert_eq!(reply.expires_in, documented.expires_in);
    assert_eq!(serde_json::to_value(&reply).unwrap(), body);
    assert!(!format!("{reply:?}").contains(reply.token.as_str()));

    let reply = TokenReply::from(AuthToken::new("e30.e30.c2ln").unwrap());
    assert!((100..120).contains(&reply.expires_in));

    let error = ErrorReply::from(&AuthTokenRejection::Anonymous);
    let json = json!({"error": "Nobody is signed in."});
    assert_eq!(serde_json::to_value(&error).unwrap(), json);
    assert_eq!(serde_json::from_value::<ErrorReply>(json).unwrap(), error);
}

#[test]
fn a_reply_with_a_malformed_token_is_no_reply_and_its_error_does_not_show_the_token() {
    let json = r#"{"token": "secret\"><script>", "expires_in": 119}"#;
    let error = serde_json::from_str::<TokenReply>(json)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("malformed") && !error.contains("secret"),
        "{error}"
    );
}

#[tokio::test]
async fn the_simple_call_and_the_service_answer_alike() {
    for (method, user, status) in [("POST", "ada", 200), ("POST", "", 401), ("GET", "ada", 405)] {
        let layer = ReleasedTokenLayer::new(StubMinter::new(), by_header());
        let app = Router::new()
            .route("/simple", axum::routing::any(token_endpoint))
            .route("/service", axum::routing::any_service(TokenEndpoint::new()))
            .route(
                "/own",
                post(async |parts| TokenEndpoint::new().answer(parts).await),
            )
            .route_layer(layer);
        for path in ["/simple", "/service", "/own"] {
            let mut request = Request::builder().method(method).uri(path);
            if !user.is_empty() {
                request = request.header("x-user", user);
            }
            let request = request.body(Body::empty()).unwrap();
            let response = app.clone().oneshot(request).await.unwrap();
            assert_eq!(
                response.status(),
                StatusCode::from_u16(status).unwrap(),
                "{path}"
            );
        }
    }
}

#[test]
fn an_origin_with_a_password_is_refused_without_showing_it() {
    let error = TokenEndpoint::new()
        .allow_origin("https://ada:hunter2@app.example")
        .unwrap_err();
    let texts = format!("{error} {error:?}");
    assert!(
        texts.contains("app.example") && !texts.contains("hunter2"),
        "{texts}"
    );
}
