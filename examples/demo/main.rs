//! A small site with a private Released portal: `cargo run --example demo`, then open the address that it prints.
//!
//! With `RELEASED_ACCOUNT_ID` and `RELEASED_SHARED_SECRET` (or `RELEASED_SHARED_SECRET_FILE`) set it talks to Released, or
//! to `RELEASED_TOKEN_URL`, for the portal of `RELEASED_CHANNEL_ID`, whose frame is at `RELEASED_HUB`. With none of them set,
//! it starts a fake of Released in the process. `PORT` is 3000 by default.

// The address must be seen whatever is logged.
#![allow(clippy::print_stdout)]

#[path = "../support/account.rs"]
mod account;
mod facts;
mod pages;
mod site;
mod status;
mod users;

use std::env;
use std::sync::Arc;

use tokio::net::TcpListener;
use tower_released::testing::FakeReleased;
use tower_released::{BoxError, ReleasedClient};
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;

use crate::site::{Portal, site};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).init();

    let is_real = account::is_named_by(|name| env::var_os(name));
    let fake = if is_real {
        None
    } else {
        Some(Arc::new(FakeReleased::start().await?))
    };
    let (released, channel_id) = match &fake {
        None => {
            info!("minting with the account of RELEASED_ACCOUNT_ID");
            let channel_id = env::var("RELEASED_CHANNEL_ID").unwrap_or_default();
            if channel_id.is_empty() {
                warn!("RELEASED_CHANNEL_ID is not set, so the embed has no portal to show");
            }
            (ReleasedClient::from_env()?, channel_id)
        }
        Some(fake) => {
            info!(
                "RELEASED_ACCOUNT_ID and RELEASED_SHARED_SECRET are not set: a fake of Released answers at {}",
                fake.origin()
            );
            (fake.client()?, "demo-channel".to_owned())
        }
    };

    let port = match env::var("PORT") {
        Ok(port) => port
            .parse::<u16>()
            .map_err(|_| format!("PORT is {port:?}, which is no port"))?,
        Err(_) => 3000,
    };
    let listener = TcpListener::bind(("127.0.0.1", port))
        .await
        .map_err(|error| {
            format!("port {port} cannot be opened: {error}; set PORT to another one")
        })?;
    println!(
        "The demo is at http://localhost:{}",
        listener.local_addr()?.port()
    );
    axum::serve(listener, site(released, Portal::new(channel_id, fake))?)
        .with_graceful_shutdown(interrupted())
        .await?;
    Ok(())
}

async fn interrupted() {
    // Without a signal handler the system's own ends the process.
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}
