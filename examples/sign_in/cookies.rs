//! An encrypted cookie says who is signed in, without a store of sessions: `cargo run --bin cookies`.
//!
//! The cookie holds the id of the account and the time of the sign-in. The resolver looks the account up, because an
//! address in the cookie would stay after a change.
//!
//! `COOKIE_KEY` is the key, of at least 64 bytes. Without it, each start makes another one, which signs everybody out.
//! It mints with the account of `RELEASED_ACCOUNT_ID` and `RELEASED_SHARED_SECRET`, or with a fake of Released if none of
//! them is set. `PORT` is 3000 by default.

#[path = "../support/account.rs"]
mod account;

use std::collections::HashMap;
use std::env;
use std::sync::{Arc, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::Form;
use axum::response::{Html, Redirect};
use axum::routing::{get, post};
use axum_extra::extract::PrivateCookieJar;
use axum_extra::extract::cookie::{Cookie, Key, SameSite};
use serde::Deserialize;
use tokio::net::TcpListener;
use tower_released::embed::{self, Script};
use tower_released::testing::FakeReleased;
use tower_released::{
    AuthToken, BoxError, Minter, ReleasedClient, ReleasedTokenLayer, User, UserResolver,
    from_extractor,
};
use tracing::{error, info};

/// An account of this site, as your database has it.
#[derive(Clone)]
pub(crate) struct Account {
    pub(crate) email: String,
    /// Whether the owner followed the link that was mailed to this address.
    pub(crate) is_confirmed: bool,
}

/// All accounts. Your application has a pool of database connections here.
#[derive(Clone, Default)]
pub(crate) struct Accounts(pub(crate) Arc<RwLock<HashMap<i64, Account>>>);

impl Accounts {
    async fn by_id(&self, id: i64) -> Result<Option<Account>, BoxError> {
        let accounts = self.0.read().map_err(|_| "the accounts are unavailable")?;
        Ok(accounts.get(&id).cloned())
    }
}

/// On a site with TLS, call it `__Host-signed_in`: no other host of the domain can set such a cookie.
const COOKIE: &str = "signed_in";
/// A copy of the cookie works for so long, also after a sign-out. In seconds.
const LIFE: u64 = 12 * 3600;

/// Returns the id of the signed-in account. The jar has only cookies that were made with the key.
fn signed_in(jar: &PrivateCookieJar) -> Option<i64> {
    let cookie = jar.get(COOKIE)?;
    let (id, since) = cookie.value().split_once('.')?;
    // The server checks the age, because a browser's `Max-Age` binds only the browser.
    let age = now().checked_sub(since.parse().ok()?)?;
    (age < LIFE).then(|| id.parse().ok()).flatten()
}

/// Makes the cookie of an account.
fn cookie(id: i64, since: u64) -> Cookie<'static> {
    Cookie::build((COOKIE, format!("{id}.{since}")))
        .path("/")
        .http_only(true)
        .same_site(SameSite::Lax)
        .secure(false) // this example has no TLS
        .build()
}

/// In seconds since 1970.
fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

/// The state of the extractor is the key.
fn resolver(key: Key, accounts: Accounts) -> impl UserResolver {
    from_extractor(key, move |jar: PrivateCookieJar| {
        let accounts = accounts.clone();
        async move {
            let Some(id) = signed_in(&jar) else {
                return Ok(None);
            };
            let account = accounts.by_id(id).await;
            let account = account.inspect_err(|_| error!("could not look up an account"))?;
            match account {
                Some(account) if account.is_confirmed => Ok(Some(User::new(id, account.email)?)),
                _ => Ok::<_, BoxError>(None),
            }
        }
    })
}

pub(crate) fn app(released: impl Minter, key: Key, accounts: Accounts, script: Script) -> Router {
    let layer = ReleasedTokenLayer::new(released, resolver(key.clone(), accounts));
    let page = async move |token: Option<AuthToken>| {
        let portal = embed::page("demo-channel").maybe_token(token.as_ref());
        let form = r#"<form method="post" action="/sign-in"><button name=id value=1>Sign in as Ada</button></form>"#;
        Html(format!(
            "<!doctype html><head>{script}</head>{form}{portal}"
        ))
    };
    Router::new()
        .route("/", get(page))
        .route_layer(layer)
        .route("/sign-in", post(sign_in))
        .with_state(key)
}

#[derive(Deserialize)]
struct Credentials {
    id: i64,
}

/// An id is enough to sign in here. Your application checks a password.
async fn sign_in(
    jar: PrivateCookieJar,
    Form(Credentials { id }): Form<Credentials>,
) -> (PrivateCookieJar, Redirect) {
    (jar.add(cookie(id, now())), Redirect::to("/"))
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    tracing_subscriber::fmt().init();
    let key = match env::var("COOKIE_KEY") {
        Ok(key) => Key::try_from(key.as_bytes())?,
        Err(_) => Key::generate(),
    };
    let fake = if account::is_named_by(|name| env::var_os(name)) {
        None
    } else {
        Some(FakeReleased::start().await?)
    };
    let (released, script) = match &fake {
        Some(fake) => (fake.client()?, embed::script().src(fake.embed_script_url())),
        None => (ReleasedClient::from_env()?, embed::script()),
    };
    let ada = Account {
        email: "ada@example.com".to_owned(),
        is_confirmed: true,
    };
    let accounts = Accounts(Arc::new(RwLock::new(HashMap::from([(1, ada)]))));

    let port = env::var("PORT").map_or(Ok(3000), |port| port.parse::<u16>())?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    info!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app(released, key, accounts, script)).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use http::Request;
    use http::header::{CONTENT_TYPE, COOKIE as HEADER, SET_COOKIE};
    use tower::ServiceExt;

    use super::*;

    struct Site {
        app: Router,
        released: FakeReleased,
        accounts: Accounts,
        key: Key,
    }

    impl Site {
        async fn new() -> Self {
            let released = FakeReleased::start().await.unwrap();
            let (accounts, key) = (Accounts::default(), Key::generate());
            let ada = Account {
                email: "ada@example.com".to_owned(),
                is_confirmed: true,
            };
            accounts.0.write().unwrap().insert(1, ada);
            let client = released.client().unwrap();
            let app = app(client, key.clone(), accounts.clone(), embed::script());
            Self {
                app,
                released,
                accounts,
                key,
            }
        }

        /// Signs in as the account 1, and returns the cookie.
        async fn sign_in(&self) -> String {
            let request = Request::post("/sign-in")
                .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(Body::from("id=1"))
                .unwrap();
            let response = self.app.clone().oneshot(request).await.unwrap();
            let cookie = response.headers()[SET_COOKIE].to_str().unwrap();
            assert!(cookie.contains("HttpOnly"), "{cookie}");
            cookie.split_once(';').unwrap().0.to_owned()
        }

        /// Opens the page, and returns the address for which its token opens a session.
        async fn email(&self, cookie: &str) -> Option<String> {
            let request = Request::get("/").header(HEADER, cookie);
            let request = request.body(Body::empty()).unwrap();
            let page = self.app.clone().oneshot(request).await.unwrap();
            let page = to_bytes(page.into_body(), 65_536).await.unwrap();
            let page = String::from_utf8(page.into()).unwrap();
            assert!(page.contains("<released-page"), "{page}");
            let (_, token) = page.split_once("auth-token=\"")?;
            let (token, _) = token.split_once('"').unwrap();
            Some(self.released.open_session(token).unwrap().email)
        }

        /// A cookie as the server with this key makes it.
        fn cookie(key: &Key, id: i64, since: u64) -> String {
            let jar = PrivateCookieJar::<Key>::new(key.clone()).add(cookie(id, since));
            let response = axum::response::IntoResponse::into_response(jar);
            let cookie = response.headers()[SET_COOKIE].to_str().unwrap();
            cookie.split_once(';').unwrap().0.to_owned()
        }
    }

    #[tokio::test]
    async fn the_cookie_names_an_account_and_the_account_has_the_address() {
        let site = Site::new().await;
        let cookie = site.sign_in().await;
        assert_eq!(
            site.email(&cookie).await.as_deref(),
            Some("ada@example.com")
        );

        let change = |change: &dyn Fn(&mut Account)| {
            change(site.accounts.0.write().unwrap().get_mut(&1).unwrap());
        };
        change(&|ada| ada.is_confirmed = false);
        assert_eq!(site.email(&cookie).await, None);
        change(&|ada| {
            ada.email = "ada@acme.example".to_owned();
            ada.is_confirmed = true;
        });
        assert_eq!(
            site.email(&cookie).await.as_deref(),
            Some("ada@acme.example")
        );
        site.accounts.0.write().unwrap().clear();
        assert_eq!(site.email(&cookie).await, None);
    }

    #[tokio::test]
    async fn a_cookie_that_the_server_did_not_make_or_that_is_old_signs_nobody_in() {
        let site = Site::new().await;
        let now = now();
        let made = Site::cookie(&site.key, 1, now);
        assert!(site.email(&made).await.is_some());
        let (name, value) = made.split_once('=').unwrap();
        for cookie in [
            String::new(),
            format!("{COOKIE}=1.{now}"),
            Site::cookie(&Key::generate(), 1, now),
            Site::cookie(&site.key, 1, now - LIFE),
            Site::cookie(&site.key, 1, now + 60),
            Site::cookie(&site.key, 2, now),
            // The name is a part of what was encrypted.
            format!("other={value}"),
            format!("{name}={}", &value[..value.len() - 4]),
        ] {
            assert_eq!(site.email(&cookie).await, None, "{cookie}");
        }
    }
}
