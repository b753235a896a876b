//! Sign-in by axum-login, and a page that vouches for the signed-in user: `cargo run --example axum_login`.
//!
//! It mints with the account of `RELEASED_ACCOUNT_ID` and `RELEASED_SHARED_SECRET` (or `RELEASED_SHARED_SECRET_FILE`), or
//! with a fake of Released if none of them is set. `PORT` is 3000 by default. In your `Cargo.toml`: `axum-login` 0.18 and
//! `tower-sessions` 0.14, which has the store in memory.

// The address is for a person to open.
#![allow(clippy::print_stdout)]

#[path = "support/account.rs"]
mod account;

use std::collections::HashMap;
use std::convert::Infallible;
use std::env;
use std::fmt;
use std::sync::{Arc, RwLock};

use axum::Router;
use axum::extract::Form;
use axum::http::StatusCode;
use axum::response::{Html, Redirect};
use axum::routing::{get, post};
use axum_login::tower_sessions::cookie::SameSite;
use axum_login::tower_sessions::{MemoryStore, SessionManagerLayer};
use axum_login::{AuthManagerLayerBuilder, AuthUser, AuthnBackend};
use serde::Deserialize;
use tokio::net::TcpListener;
use tower_released::embed::{self, Script};
use tower_released::testing::FakeReleased;
use tower_released::{
    AuthToken, BoxError, InvalidUser, Minter, ReleasedClient, ReleasedTokenLayer, User,
    UserResolver, from_extension, from_extractor,
};

/// An account of this site, as your database has it.
#[derive(Clone)]
pub(crate) struct Account {
    pub(crate) id: i64,
    pub(crate) email: String,
    /// Whether the owner followed the link that was mailed to this address.
    pub(crate) is_confirmed: bool,
}

/// axum-login logs accounts at `debug`. So nothing of a person is shown.
impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account").finish_non_exhaustive()
    }
}

impl AuthUser for Account {
    type Id = i64;

    fn id(&self) -> i64 {
        self.id
    }

    /// Of the password's hash, so that a new password ends the sessions of the old one. Nobody has a password here.
    fn session_auth_hash(&self) -> &[u8] {
        b"no password"
    }
}

/// All accounts. Your application has its database here.
#[derive(Clone, Debug, Default)]
pub(crate) struct Accounts(pub(crate) Arc<RwLock<HashMap<i64, Account>>>);

impl AuthnBackend for Accounts {
    type User = Account;
    /// An id is enough to sign in here. Your application checks a password.
    type Credentials = i64;
    type Error = Infallible;

    async fn authenticate(&self, id: i64) -> Result<Option<Account>, Infallible> {
        self.get_user(&id).await
    }

    /// axum-login calls it for each request, so a changed or deleted account counts from the next request on.
    async fn get_user(&self, id: &i64) -> Result<Option<Account>, Infallible> {
        let accounts = self.0.read().expect("not poisoned");
        Ok(accounts.get(id).cloned())
    }
}

/// What axum-login leaves in the extensions of each request, also if nobody is signed in.
type AuthSession = axum_login::AuthSession<Accounts>;

/// Returns nobody without a confirmed address: Released opens portals by address.
fn vouch(session: &AuthSession) -> Option<Result<User, InvalidUser>> {
    let account = session.user.as_ref()?;
    account
        .is_confirmed
        .then(|| User::new(account.id, &account.email))
}

/// Reads the session from the request's extensions. Use this one.
pub(crate) fn by_extension() -> impl UserResolver {
    from_extension(vouch)
}

/// Finds the same user with the extractor. Use it if the closure has something to await.
#[allow(dead_code)] // only the tests call it
pub(crate) fn by_extractor() -> impl UserResolver {
    from_extractor((), async |session: AuthSession| vouch(&session))
}

pub(crate) fn app(
    released: impl Minter,
    resolver: impl UserResolver,
    accounts: Accounts,
    script: Script,
) -> Router {
    let sessions = SessionManagerLayer::new(MemoryStore::default())
        .with_secure(false) // this example has no TLS
        .with_same_site(SameSite::Lax); // with `Strict`, who follows a link from a mail arrives signed out
    let page = async move |token: Option<AuthToken>| {
        let portal = embed::page("demo-channel").maybe_token(token.as_ref());
        let form = |path, button| format!(r#"<form method="post" action="{path}">{button}</form>"#);
        let sign_in = form(
            "/sign-in",
            "<button name=id value=1>Sign in as Ada</button>",
        );
        let sign_out = form("/sign-out", "<button>Sign out</button>");
        Html(format!(
            "<!doctype html><head>{script}</head>{sign_in}{sign_out}{portal}"
        ))
    };
    Router::new()
        .route("/", get(page))
        .route_layer(ReleasedTokenLayer::new(released, resolver))
        .route("/sign-in", post(sign_in))
        .route("/sign-out", post(sign_out))
        // Added last, so it runs first: the resolver finds its session.
        .layer(AuthManagerLayerBuilder::new(accounts, sessions).build())
}

#[derive(Deserialize)]
struct Credentials {
    id: i64,
}

/// Redirects, so that the page is another request: the session in the extensions is that of the request's start.
async fn sign_in(
    mut session: AuthSession,
    Form(Credentials { id }): Form<Credentials>,
) -> Result<Redirect, StatusCode> {
    let account = session.authenticate(id).await;
    let account = account.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    let account = account.ok_or(StatusCode::UNAUTHORIZED)?;
    let signed_in = session.login(&account).await;
    signed_in.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(Redirect::to("/"))
}

async fn sign_out(mut session: AuthSession) -> Result<Redirect, StatusCode> {
    let signed_out = session.logout().await;
    signed_out.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(Redirect::to("/"))
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    tracing_subscriber::fmt().init();
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
        id: 1,
        email: "ada@example.com".to_owned(),
        is_confirmed: true,
    };
    let accounts = Accounts(Arc::new(RwLock::new(HashMap::from([(ada.id, ada)]))));

    let port = env::var("PORT").map_or(Ok(3000), |port| port.parse::<u16>())?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    println!("http://localhost:{}/", listener.local_addr()?.port());
    axum::serve(listener, app(released, by_extension(), accounts, script)).await?;
    Ok(())
}
