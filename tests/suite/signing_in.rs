//! The examples of ways to sign in: whom their pages have a token for.

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::response::Response;
use http::header::{CONTENT_TYPE, COOKIE, LOCATION, SET_COOKIE};
use http::{Request, StatusCode};
use tower::ServiceExt;
use tower_released::embed;
use tower_released::testing::FakeReleased;
use tower_sessions::session::{Id, Record};
use tower_sessions::{MemoryStore, SessionStore, session_store};

use crate::leaks::Log;

#[allow(dead_code, clippy::duplicate_mod)]
#[path = "../../examples/axum_login.rs"]
mod axum_login;
#[allow(dead_code, clippy::duplicate_mod)]
#[path = "../../examples/header_proxy.rs"]
mod header_proxy;
#[allow(dead_code, clippy::duplicate_mod)]
#[path = "../../examples/tower_sessions.rs"]
mod tower_sessions_example;

/// Sends what a browser would.
async fn send(app: &Router, request: http::request::Builder, body: &'static str) -> Response {
    let request = request.body(Body::from(body)).unwrap();
    app.clone().oneshot(request).await.unwrap()
}

/// Signs in as the account 1, and returns the session's cookie.
async fn sign_in(app: &Router, cookie: Option<&str>) -> String {
    let mut request = Request::post("/sign-in");
    if let Some(cookie) = cookie {
        request = request.header(COOKIE, cookie);
    }
    let request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
    let response = send(app, request, "id=1").await;
    assert_eq!(response.status(), StatusCode::SEE_OTHER);
    assert_eq!(response.headers()[LOCATION], "/");
    let cookie = response.headers()[SET_COOKIE].to_str().unwrap();
    cookie.split_once(';').unwrap().0.to_owned()
}

/// Opens the page, and returns the address for which its token opens a session.
async fn email(app: &Router, released: &FakeReleased, headers: &[(&str, &str)]) -> Option<String> {
    let mut request = Request::get("/");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = send(app, request, "").await;
    assert_eq!(response.status(), StatusCode::OK);
    let page = to_bytes(response.into_body(), 65_536).await.unwrap();
    let page = String::from_utf8(page.into()).unwrap();
    assert!(page.contains("<released-page"), "{page}");
    let (_, token) = page.split_once("auth-token=\"")?;
    let (token, _) = token.split_once('"').unwrap();
    Some(released.open_session(token).unwrap().email)
}

#[tokio::test]
async fn axum_login_vouches_for_the_account_of_the_session_as_it_is_now() {
    for is_extractor in [false, true] {
        let released = FakeReleased::start().await.unwrap();
        let accounts = axum_login::Accounts::default();
        let change = |change: &dyn Fn(&mut axum_login::Account)| {
            let mut accounts = accounts.0.write().unwrap();
            change(accounts.entry(1).or_insert(axum_login::Account {
                id: 1,
                email: "ada@example.com".to_owned(),
                is_confirmed: true,
            }));
        };
        change(&|_| ());
        let (client, script) = (released.client().unwrap(), embed::script());
        let app = if is_extractor {
            axum_login::app(client, axum_login::by_extractor(), accounts.clone(), script)
        } else {
            axum_login::app(client, axum_login::by_extension(), accounts.clone(), script)
        };

        assert_eq!(email(&app, &released, &[]).await, None);
        let cookie = sign_in(&app, None).await;
        let cookies = [("cookie", cookie.as_str())];
        let ada = email(&app, &released, &cookies).await;
        assert_eq!(ada.as_deref(), Some("ada@example.com"));

        // Between two requests of one session.
        change(&|ada| {
            ada.email = "ada@acme.example".to_owned();
            ada.is_confirmed = false;
        });
        assert_eq!(email(&app, &released, &cookies).await, None);
        change(&|ada| ada.is_confirmed = true);
        let ada = email(&app, &released, &cookies).await;
        assert_eq!(ada.as_deref(), Some("ada@acme.example"));
        accounts.0.write().unwrap().clear();
        assert_eq!(email(&app, &released, &cookies).await, None);

        change(&|_| ());
        assert!(email(&app, &released, &cookies).await.is_some());
        let sign_out = Request::post("/sign-out").header(COOKIE, &cookie);
        send(&app, sign_out, "").await;
        assert_eq!(email(&app, &released, &cookies).await, None);
        assert_eq!(
            email(&app, &released, &[("cookie", "id=forged")]).await,
            None
        );
    }
}

#[tokio::test]
async fn axum_login_shows_no_address_in_its_own_logs() {
    let account = axum_login::Account {
        id: 1,
        email: "ada@example.com".to_owned(),
        is_confirmed: true,
    };
    assert!(!format!("{account:?}").contains("ada"));
}

fn tower_sessions_app(
    released: &FakeReleased,
    store: impl SessionStore + Clone,
) -> (Router, tower_sessions_example::Accounts) {
    let accounts = tower_sessions_example::Accounts::default();
    let ada = tower_sessions_example::Account {
        email: "ada@example.com".to_owned(),
        is_confirmed: true,
    };
    accounts.0.write().unwrap().insert(1, ada);
    let client = released.client().unwrap();
    let app = tower_sessions_example::app(client, accounts.clone(), store, embed::script());
    (app, accounts)
}

#[tokio::test]
async fn tower_sessions_vouches_for_the_account_as_it_is_now() {
    let released = FakeReleased::start().await.unwrap();
    let (app, accounts) = tower_sessions_app(&released, MemoryStore::default());

    assert_eq!(email(&app, &released, &[]).await, None);
    let cookie = sign_in(&app, None).await;
    let cookies = [("cookie", cookie.as_str())];
    let ada = email(&app, &released, &cookies).await;
    assert_eq!(ada.as_deref(), Some("ada@example.com"));

    // A sign-in gives the session another id, and the one before is worth nothing.
    let another = sign_in(&app, Some(&cookie)).await;
    assert_ne!(another, cookie);
    assert_eq!(email(&app, &released, &cookies).await, None);

    let cookies = [("cookie", another.as_str())];
    let change = |change: &dyn Fn(&mut tower_sessions_example::Account)| {
        change(accounts.0.write().unwrap().get_mut(&1).unwrap());
    };
    change(&|ada| ada.is_confirmed = false);
    assert_eq!(email(&app, &released, &cookies).await, None);
    change(&|ada| {
        ada.email = "ada@acme.example".to_owned();
        ada.is_confirmed = true;
    });
    let ada = email(&app, &released, &cookies).await;
    assert_eq!(ada.as_deref(), Some("ada@acme.example"));
    accounts.0.write().unwrap().clear();
    assert_eq!(email(&app, &released, &cookies).await, None);
}

/// A store whose database is down.
#[derive(Clone, Debug)]
struct Down;

#[tonic::async_trait]
impl SessionStore for Down {
    async fn save(&self, _: &Record) -> session_store::Result<()> {
        unreachable!("nobody signs in")
    }

    async fn load(&self, _: &Id) -> session_store::Result<Option<Record>> {
        Err(session_store::Error::Backend("no database".to_owned()))
    }

    async fn delete(&self, _: &Id) -> session_store::Result<()> {
        unreachable!("nobody signs out")
    }
}

#[tokio::test]
async fn tower_sessions_vouches_for_nobody_while_its_store_is_down() {
    let (log, _guard) = Log::capture();
    let released = FakeReleased::start().await.unwrap();
    let (app, _) = tower_sessions_app(&released, Down);
    let cookies = [("cookie", "id=AAAAAAAAAAAAAAAAAAAAAA")];
    assert_eq!(email(&app, &released, &cookies).await, None);
    assert_eq!(released.counts().connections, 0);
    let log = log.text();
    assert!(log.contains("could not read the session"), "{log}");
    assert!(log.contains("error.type=\"resolver\""), "{log}");
}

const PROXY_SECRET: &str = "8e2f0c5a9d7b4e1fb6a3c8d2e5f70914";

#[tokio::test]
async fn the_header_proxy_vouches_only_for_one_user_whom_the_proxy_itself_named() {
    let secret = ("x-proxy-secret", PROXY_SECRET);
    let user = ("x-auth-request-user", "auth0|7");
    let grace = ("x-auth-request-email", "grace@acme.example");
    let mallory = ("x-auth-request-email", "mallory@evil.example");
    for (headers, is_vouched_for, in_log) in [
        (&[secret, user, grace][..], true, ""),
        // A visitor, and a health check that comes around the proxy.
        (&[secret], false, ""),
        (&[], false, ""),
        (
            &[
                secret,
                ("x-auth-request-user", ""),
                ("x-auth-request-email", ""),
            ],
            false,
            "",
        ),
        // A browser that reaches the application directly.
        (&[user, grace], false, "did not come through the proxy"),
        (
            &[("x-proxy-secret", ""), user, grace],
            false,
            "did not come through the proxy",
        ),
        (
            &[("x-proxy-secret", "guess"), user, grace],
            false,
            "did not come through the proxy",
        ),
        (
            &[("x-proxy-secret", &PROXY_SECRET[..31]), user, grace],
            false,
            "did not come through",
        ),
        // A proxy that adds its headers beside those of the browser, in both orders.
        (
            &[secret, user, mallory, grace],
            false,
            "x-auth-request-email is there twice",
        ),
        (
            &[secret, user, grace, mallory],
            false,
            "x-auth-request-email is there twice",
        ),
        (
            &[secret, user, grace, grace],
            false,
            "x-auth-request-email is there twice",
        ),
        (
            &[secret, user, user, grace],
            false,
            "x-auth-request-user is there twice",
        ),
        (
            &[secret, secret, user, grace],
            false,
            "x-proxy-secret is there twice",
        ),
        (
            &[secret, ("x-proxy-secret", "guess"), user, grace],
            false,
            "x-proxy-secret is there twice",
        ),
        (
            &[secret, user, grace, ("x-auth-request-email", "")],
            false,
            "is there twice",
        ),
        // The same in one line.
        (
            &[
                secret,
                user,
                (
                    "x-auth-request-email",
                    "mallory@evil.example, grace@acme.example",
                ),
            ],
            false,
            "vouched for nobody",
        ),
        (&[secret, user], false, "a user without an address"),
        (&[secret, grace], false, "or an address without a user"),
        (
            &[secret, user, ("x-auth-request-email", "Grace")],
            false,
            "vouched for nobody",
        ),
        (
            &[
                secret,
                user,
                ("x-auth-request-email", "gr\u{e4}ce@acme.example"),
            ],
            false,
            "vouched for nobody",
        ),
        // nginx drops underscores; other servers take them for hyphens.
        (
            &[
                secret,
                ("x_auth_request_user", "7"),
                ("x_auth_request_email", "grace@acme.example"),
            ],
            false,
            "",
        ),
    ] {
        let (log, _guard) = Log::capture();
        let released = FakeReleased::start().await.unwrap();
        let proxy = header_proxy::Proxy::new(PROXY_SECRET).unwrap();
        let app = header_proxy::app(released.client().unwrap(), proxy, embed::script());
        let found = email(&app, &released, headers).await;
        let expected = is_vouched_for.then(|| "grace@acme.example".to_owned());
        assert_eq!(found, expected, "{headers:?}");
        let log = log.text();
        assert!(log.contains(in_log), "{headers:?}: {log}");
        assert_eq!(
            log.contains("ERROR"),
            !in_log.is_empty(),
            "{headers:?}: {log}"
        );
        for private in ["acme.example", "evil", "auth0", PROXY_SECRET] {
            assert!(!log.contains(private), "{private}: {log}");
        }
    }
}

#[test]
fn the_header_proxy_refuses_a_secret_that_can_be_guessed() {
    for secret in ["", "short", &PROXY_SECRET[..31]] {
        assert!(header_proxy::Proxy::new(secret).is_err(), "{secret:?}");
    }
}
