//! A reverse proxy that fills the pages of another application: `cargo run --example reverse_proxy http://localhost:8080`.
//!
//! Without an address it starts a small application of its own. The pages come from the application, so its HTML needs
//! an element and Released's script, and nothing else.
//!
//! It mints with the account of `RELEASED_ACCOUNT_ID` and `RELEASED_SHARED_SECRET` (or `RELEASED_SHARED_SECRET_FILE`), or
//! with a fake of Released if none of them is set. `PORT` is 3000 by default.

// The address is for a person to open.
#![allow(clippy::print_stdout)]

#[path = "../support/account.rs"]
mod account;
mod app;
mod upstream;

use std::env;

use axum::Extension;
use tokio::net::TcpListener;
use tower_released::testing::FakeReleased;
use tower_released::{BoxError, ReleasedClient, User};

/// Where Released's own script is.
const SCRIPT: &str = "https://embed.released.so/1/embed.js";

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    tracing_subscriber::fmt().init();
    let fake = if account::is_named_by(|name| env::var_os(name)) {
        None
    } else {
        Some(FakeReleased::start().await?)
    };
    let (released, script) = match &fake {
        Some(fake) => (fake.client()?, fake.embed_script_url()),
        None => (ReleasedClient::from_env()?, SCRIPT.to_owned()),
    };
    let upstream = match env::args().nth(1) {
        Some(address) => address,
        None => upstream::start(&script).await?,
    };

    let ada = User::new("42", "ada@example.com")?.with_name("Ada Lovelace");
    let app = app::app(released, &upstream)?.layer(Extension(ada)); // your authentication layer goes here

    let port = env::var("PORT").map_or(Ok(3000), |port| port.parse::<u16>())?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let port = listener.local_addr()?.port();
    println!("http://localhost:{port}/ is in front of {upstream}");
    axum::serve(listener, app).await?;
    Ok(())
}
