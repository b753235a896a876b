//! A fake of Released in a process of its own, for an application under development: `cargo run --example fake`.
//!
//! It prints the variables that the application needs, and the URL of its embed script. They are the same at each start, so
//! that the application keeps them when either of the two is restarted. `PORT` is 4000 by default.

// The output is for a shell.
#![allow(clippy::print_stdout)]

use std::env;

use tower_released::BoxError;
use tower_released::testing::FakeReleased;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let port = env::var("PORT").map_or(Ok(4000), |port| port.parse::<u16>())?;
    let fake = start(port).await?;
    print!("{}", variables(&fake));
    tokio::signal::ctrl_c().await?;
    Ok(())
}

/// Starts a fake whose credentials are always the same. Only this machine can reach it.
pub(crate) async fn start(port: u16) -> std::io::Result<FakeReleased> {
    FakeReleased::builder()
        .port(port)
        .account("acc_dev")
        .secret("dev-secret")
        .start()
        .await
}

/// Returns what the application needs, as lines of a shell.
pub(crate) fn variables(fake: &FakeReleased) -> String {
    format!(
        "export RELEASED_TOKEN_URL={}\n\
         export RELEASED_ACCOUNT_ID={}\n\
         export RELEASED_SHARED_SECRET={}\n\
         # The embed script, for embed::script().src(..): {}\n",
        fake.impersonation_url(),
        fake.account_id(),
        fake.shared_secret(),
        fake.embed_script_url(),
    )
}
