//! A proxy in front signs people in, and says in headers who they are: `cargo run --example header_proxy`.
//!
//! Such headers are plain text. Anybody who reaches this application can write them, so a request counts only with a
//! secret that the proxy and the application share: `PROXY_SECRET`, of at least 32 characters. With nginx and oauth2-proxy
//! (`--set-xauthrequest`), which must let nobody in without a confirmed address:
//!
//! ```text
//! auth_request /oauth2/auth;
//! auth_request_set $user $upstream_http_x_auth_request_user;
//! auth_request_set $email $upstream_http_x_auth_request_email;
//! proxy_set_header X-Auth-Request-User $user;
//! proxy_set_header X-Auth-Request-Email $email;
//! proxy_set_header X-Proxy-Secret "the same as PROXY_SECRET";
//! ```
//!
//! `proxy_set_header` replaces what the browser sent. A proxy that adds its header beside the browser's is refused here.
//!
//! It mints with the account of `RELEASED_ACCOUNT_ID` and `RELEASED_SHARED_SECRET` (or `RELEASED_SHARED_SECRET_FILE`), or
//! with a fake of Released if none of them is set. `PORT` is 3000 by default. Play the proxy with
//! `curl -H "x-proxy-secret: $PROXY_SECRET" -H 'x-auth-request-user: 7' -H 'x-auth-request-email: ada@example.com'`.

#[path = "support/account.rs"]
mod account;

use std::env;
use std::future::ready;

use axum::Router;
use axum::response::Html;
use axum::routing::get;
use hmac_sha256::Hash;
use http::HeaderMap;
use http::request::Parts;
use tokio::net::TcpListener;
use tower_released::embed::{self, Script};
use tower_released::testing::FakeReleased;
use tower_released::{
    AuthToken, BoxError, Minter, ReleasedClient, ReleasedTokenLayer, User, UserId, resolver_fn,
};
use tracing::{error, info};

const SECRET: &str = "x-proxy-secret";
const USER: &str = "x-auth-request-user";
const EMAIL: &str = "x-auth-request-email";

/// The proxy in front of this application.
#[derive(Clone)]
pub(crate) struct Proxy {
    secret: [u8; 32],
}

impl Proxy {
    /// Creates it from the secret that it sends. A short or missing one would let anybody in.
    pub(crate) fn new(secret: &str) -> Result<Self, BoxError> {
        if secret.len() < 32 {
            return Err(
                "PROXY_SECRET is shorter than 32 characters; try `openssl rand -hex 32`".into(),
            );
        }
        let secret = Hash::hash(secret.as_bytes());
        Ok(Self { secret })
    }

    /// Returns the user that the proxy signed in, or why its headers are refused. The reason holds no value of them.
    fn signed_in(&self, headers: &HeaderMap) -> Result<Option<User>, BoxError> {
        let (user, email) = (only(headers, USER)?, only(headers, EMAIL)?);
        if user.is_none() && email.is_none() {
            return Ok(None); // the proxy lets visitors see this page
        }
        // Hashes are compared, so that the time that it takes says nothing of the secret.
        let secret = only(headers, SECRET)?.map(|secret| Hash::hash(secret.as_bytes()));
        if secret != Some(self.secret) {
            return Err(
                "a request names a user, and did not come through the proxy: check X-Proxy-Secret"
                    .into(),
            );
        }
        let (Some(user), Some(email)) = (user, email) else {
            return Err(
                "the proxy named a user without an address, or an address without a user".into(),
            );
        };
        Ok(Some(User::new(UserId::encode(user), email)?))
    }
}

/// Returns the value of a header that may be there once. An empty one is none: nginx removes it, other proxies send it.
fn only<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, BoxError> {
    let mut values = headers.get_all(name).iter();
    let value = values.next();
    // Whose is which? One of them may be the browser's.
    if values.next().is_some() {
        return Err(format!("{name} is there twice: the proxy must replace it, not add it").into());
    }
    let value = value.map(http::HeaderValue::to_str).transpose()?;
    Ok(value.filter(|value| !value.is_empty()))
}

pub(crate) fn app(released: impl Minter, proxy: Proxy, script: Script) -> Router {
    let signed_in = resolver_fn(move |parts: &Parts| {
        let user = proxy.signed_in(&parts.headers);
        if let Err(reason) = &user {
            error!("vouched for nobody: {reason}");
        }
        ready(user)
    });
    let page = async move |token: Option<AuthToken>| {
        let portal = embed::page("demo-channel").maybe_token(token.as_ref());
        Html(format!("<!doctype html><head>{script}</head>{portal}"))
    };
    Router::new()
        .route("/", get(page))
        .route_layer(ReleasedTokenLayer::new(released, signed_in))
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    tracing_subscriber::fmt().init();
    let proxy = Proxy::new(&env::var("PROXY_SECRET").unwrap_or_default())?;
    let fake = if account::is_named_by(|name| env::var_os(name)) {
        None
    } else {
        Some(FakeReleased::start().await?)
    };
    let (released, script) = match &fake {
        Some(fake) => (fake.client()?, embed::script().src(fake.embed_script_url())),
        None => (ReleasedClient::from_env()?, embed::script()),
    };

    let port = env::var("PORT").map_or(Ok(3000), |port| port.parse::<u16>())?;
    // Loopback: only the proxy on this machine is to reach it.
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    info!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app(released, proxy, script)).await?;
    Ok(())
}
