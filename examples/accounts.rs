//! Two brands in one application, each with an account of Released of its own: `cargo run --example accounts`.
//!
//! The brand is that of the request's host. It mints with a fake of Released that has both accounts. `PORT` is 3000 by
//! default. Sign in with a header: `curl -H 'x-user: ada' http://acme.localhost:3000`.

// The addresses are for a person to open.
#![allow(clippy::print_stdout)]

use std::collections::HashMap;
use std::env;
use std::future::ready;

use axum::Router;
use axum::response::Html;
use axum::routing::get;
use http::StatusCode;
use http::header::HOST;
use http::request::Parts;
use http::uri::Authority;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tower_released::client::{ByAccount, ConfigError, by_account};
use tower_released::embed::{self, Script};
use tower_released::testing::FakeReleased;
use tower_released::{AuthToken, BoxError, Minter, ReleasedTokenLayer, User, resolver_fn};

/// A brand, as your database would know it.
struct Brand {
    host: &'static str,
    /// Its account of Released.
    account: &'static str,
    channel: &'static str,
    members: &'static [&'static str],
}

static BRANDS: [Brand; 2] = [
    Brand {
        host: "acme.localhost",
        account: "acc_acme",
        channel: "acme-channel",
        members: &["ada", "grace"],
    },
    Brand {
        host: "globex.localhost",
        account: "acc_globex",
        channel: "globex-channel",
        members: &["grace"],
    },
];

impl Brand {
    /// Returns the brand whose host the request names. A client may send any host, so only those of the list count.
    fn of(parts: &Parts) -> Option<&'static Self> {
        let named = parts.headers.get(HOST).and_then(|host| host.to_str().ok());
        let host: Authority = match parts.uri.authority() {
            Some(authority) => authority.clone(), // HTTP/2
            None => named?.parse().ok()?,
        };
        BRANDS
            .iter()
            .find(|brand| brand.host.eq_ignore_ascii_case(host.host()))
    }
}

/// The signed-in user, if the user belongs to the brand. The account comes from the brand, never from the request itself.
fn vouch(parts: &Parts) -> Option<Result<User, tower_released::InvalidUser>> {
    let brand = Brand::of(parts)?;
    // Trust such a header only from a proxy in front that sets it.
    let id = parts.headers.get("x-user")?.to_str().ok()?;
    brand.members.contains(&id).then(|| {
        let user = User::new(id, format!("{id}@example.com"))?;
        Ok(user.in_account(brand.account))
    })
}

/// The site of both brands. One layer serves both.
pub(crate) fn app(released: impl Minter, script: Script) -> Router {
    let layer = ReleasedTokenLayer::new(released, resolver_fn(|parts: &Parts| ready(vouch(parts))));
    let roadmap = async move |token: Option<AuthToken>, parts: Parts| {
        let brand = Brand::of(&parts).ok_or(StatusCode::NOT_FOUND)?;
        let portal = embed::page(brand.channel).maybe_token(token.as_ref());
        Ok::<_, StatusCode>(Html(format!(
            "<!doctype html><head>{script}</head>{portal}"
        )))
    };
    Router::new().route("/", get(roadmap)).route_layer(layer)
}

/// A client for each account. They share one pool of connections.
pub(crate) fn clients(accounts: &[FakeReleased]) -> Result<ByAccount, ConfigError> {
    let http = Client::builder(TokioExecutor::new()).build_http();
    let mut clients = HashMap::new();
    for account in accounts {
        let client = account.client_builder().http_service(http.clone());
        clients.insert(account.account_id().to_owned(), client.build()?);
    }
    Ok(by_account(move |id| clients.get(id).cloned()))
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    tracing_subscriber::fmt().init();
    let acme = FakeReleased::builder().account("acc_acme").start().await?;
    let globex = acme.add_account("acc_globex", "a secret of its own");
    let script = embed::script().src(acme.embed_script_url());
    let accounts = [acme, globex]; // the fake stops with its last handle
    let app = app(clients(&accounts)?, script);

    let port = env::var("PORT").map_or(Ok(3000), |port| port.parse::<u16>())?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let port = listener.local_addr()?.port();
    for Brand { host, .. } in &BRANDS {
        println!("http://{host}:{port}");
    }
    axum::serve(listener, app).await?;
    Ok(())
}
