//! Who may sign in, with axum-login and sessions in memory.

use std::convert::Infallible;
use std::fmt;

use axum::extract::{Form, Request};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{Redirect, Response};
use axum_login::tower_sessions::cookie::SameSite;
use axum_login::tower_sessions::{SessionManagerLayer, SessionStore};
use axum_login::{AuthManagerLayer, AuthManagerLayerBuilder, AuthUser, AuthnBackend, UserId};
use serde::Deserialize;

/// A user of this site. A real site has a database and passwords.
#[derive(Clone, Copy)]
pub(crate) struct Account {
    pub(crate) id: &'static str,
    pub(crate) email: &'static str,
    pub(crate) name: &'static str,
    pub(crate) avatar_url: &'static str,
}

pub(crate) const ACCOUNTS: &[Account] = &[
    Account {
        id: "ada",
        email: "ada@example.com",
        name: "Ada Lovelace",
        avatar_url: "https://example.com/avatars/ada.png",
    },
    Account {
        id: "grace",
        email: "grace@example.com",
        name: "Grace Hopper",
        avatar_url: "https://example.com/avatars/grace.png",
    },
    Account {
        id: "mallory",
        email: "mallory@example.com",
        name: "\"><script>Mallory</script>",
        avatar_url: "https://example.com/avatars/mallory.png",
    },
];

/// Names nobody: axum-login logs users for debugging.
impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Account")
    }
}

impl AuthUser for Account {
    type Id = String;

    fn id(&self) -> String {
        self.id.to_owned()
    }

    // Of a password, it would end the session when the password changes.
    fn session_auth_hash(&self) -> &[u8] {
        self.id.as_bytes()
    }
}

/// All accounts. A real site has a connection to its database here.
#[derive(Clone, Debug)]
pub(crate) struct Accounts;

/// What axum-login leaves in the request's extensions.
pub(crate) type AuthSession = axum_login::AuthSession<Accounts>;

type Error = axum_login::Error<Accounts>;

/// In a session: whether this is not the first visit.
const HAS_VISITED: &str = "has_visited";

impl AuthnBackend for Accounts {
    type User = Account;
    /// The id. Nobody has a password.
    type Credentials = String;
    type Error = Infallible;

    async fn authenticate(&self, id: String) -> Result<Option<Account>, Infallible> {
        self.get_user(&id).await
    }

    async fn get_user(&self, id: &UserId<Self>) -> Result<Option<Account>, Infallible> {
        Ok(ACCOUNTS.iter().find(|account| account.id == id).copied())
    }
}

/// The authentication layer.
pub(crate) fn layer<S: SessionStore + Clone>(store: S) -> AuthManagerLayer<Accounts, S> {
    let sessions = SessionManagerLayer::new(store)
        // The demo has no TLS.
        .with_secure(false)
        .with_same_site(SameSite::Lax);
    AuthManagerLayerBuilder::new(Accounts, sessions).build()
}

/// Signs Ada in at the first visit, so that there is something to see.
pub(crate) async fn welcome(mut auth: AuthSession, mut request: Request, next: Next) -> Response {
    if let Ok(true) = welcome_ada(&mut auth).await {
        // The resolver reads it.
        request.extensions_mut().insert(auth);
    }
    next.run(request).await
}

async fn welcome_ada(auth: &mut AuthSession) -> Result<bool, Error> {
    if auth.session.get(HAS_VISITED).await?.unwrap_or(false) {
        return Ok(false);
    }
    auth.session.insert(HAS_VISITED, true).await?;
    if auth.user.is_none() {
        auth.login(&ACCOUNTS[0]).await?;
    }
    Ok(true)
}

#[derive(Deserialize)]
pub(crate) struct SignIn {
    user: String,
}

/// Signs in the user that the button names, or signs out.
pub(crate) async fn sign_in(
    mut auth: AuthSession,
    Form(SignIn { user }): Form<SignIn>,
) -> Result<Redirect, StatusCode> {
    match switch_to(&mut auth, user).await {
        Ok(()) => Ok(Redirect::to("/")),
        Err(_) => Err(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

async fn switch_to(auth: &mut AuthSession, id: String) -> Result<(), Error> {
    let account = auth.authenticate(id).await?;
    // Another user gets another session.
    auth.logout().await?;
    auth.session.insert(HAS_VISITED, true).await?;
    match account {
        Some(account) => auth.login(&account).await,
        None => Ok(()),
    }
}
