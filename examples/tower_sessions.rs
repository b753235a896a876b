//! Sessions of tower-sessions, without axum-login: `cargo run --example tower_sessions`.
//!
//! The session holds the id of the account and nothing else. The resolver looks the account up for each token.
//!
//! It mints with the account of `RELEASED_ACCOUNT_ID` and `RELEASED_SHARED_SECRET` (or `RELEASED_SHARED_SECRET_FILE`), or
//! with a fake of Released if none of them is set. `PORT` is 3000 by default.

// The address is for a person to open.
#![allow(clippy::print_stdout)]

#[path = "support/account.rs"]
mod account;

use std::collections::HashMap;
use std::env;
use std::sync::{Arc, RwLock};

use axum::Router;
use axum::extract::Form;
use axum::http::StatusCode;
use axum::response::{Html, Redirect};
use axum::routing::{get, post};
use serde::Deserialize;
use tokio::net::TcpListener;
use tower_released::embed::{self, Script};
use tower_released::testing::FakeReleased;
use tower_released::{
    AuthToken, BoxError, Minter, ReleasedClient, ReleasedTokenLayer, User, UserResolver,
    from_extractor,
};
use tower_sessions::cookie::SameSite;
use tower_sessions::{Session, SessionManagerLayer, SessionStore};
use tracing::error;

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
    #[allow(clippy::unused_async)] // a database would be awaited
    async fn by_id(&self, id: i64) -> Result<Option<Account>, BoxError> {
        let accounts = self.0.read().map_err(|_| "the accounts are unavailable")?;
        Ok(accounts.get(&id).cloned())
    }
}

/// In a session: the id of the signed-in account. An address here would stay after the user has changed it.
const ACCOUNT_ID: &str = "account_id";

/// Finds the account of the session. Without a store or a database, the page has no token: it fails closed.
fn signed_in(accounts: Accounts) -> impl UserResolver {
    from_extractor((), move |session: Session| {
        let accounts = accounts.clone();
        async move {
            let user = look_up(&session, &accounts).await;
            // Only this says what failed. The layer's warning does not, because an error may name a person.
            user.inspect_err(|_| error!("could not read the session or its account"))
        }
    })
}

async fn look_up(session: &Session, accounts: &Accounts) -> Result<Option<User>, BoxError> {
    let Some(id) = session.get::<i64>(ACCOUNT_ID).await? else {
        return Ok(None);
    };
    match accounts.by_id(id).await? {
        Some(account) if account.is_confirmed => Ok(Some(User::new(id, account.email)?)),
        _ => Ok(None),
    }
}

pub(crate) fn app(
    released: impl Minter,
    accounts: Accounts,
    store: impl SessionStore + Clone,
    script: Script,
) -> Router {
    let sessions = SessionManagerLayer::new(store)
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
        .route_layer(ReleasedTokenLayer::new(released, signed_in(accounts)))
        .route("/sign-in", post(sign_in))
        .route("/sign-out", post(sign_out))
        // Added last, so it runs first: the resolver finds its session.
        .layer(sessions)
}

#[derive(Deserialize)]
struct Credentials {
    id: i64,
}

/// An id is enough to sign in here. Your application checks a password.
async fn sign_in(
    session: Session,
    Form(Credentials { id }): Form<Credentials>,
) -> Result<Redirect, StatusCode> {
    let signed_in = async {
        session.cycle_id().await?; // a session id that somebody planted before signs nobody in
        session.insert(ACCOUNT_ID, id).await
    };
    signed_in
        .await
        .map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(Redirect::to("/"))
}

async fn sign_out(session: Session) -> Result<Redirect, StatusCode> {
    let signed_out = session.flush().await;
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
        email: "ada@example.com".to_owned(),
        is_confirmed: true,
    };
    let accounts = Accounts(Arc::new(RwLock::new(HashMap::from([(1, ada)]))));
    let store = tower_sessions::MemoryStore::default();

    let port = env::var("PORT").map_or(Ok(3000), |port| port.parse::<u16>())?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    println!("http://localhost:{}/", listener.local_addr()?.port());
    axum::serve(listener, app(released, accounts, store, script)).await?;
    Ok(())
}
