//! A page that React builds, and the server with its token endpoint: `cargo run --example react`.
//!
//! Build the page first: `npm install && npm run build` in `examples/react`. The portal is a fake of Released.

// The address is for a person to open.
#![allow(clippy::print_stdout)]

mod app;

use tower_released::testing::FakeReleased;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().init();
    if !std::fs::exists(app::DIST)? {
        return Err("the page is not built: npm install && npm run build".into());
    }
    let fake = FakeReleased::start().await?;
    let app = app::app(fake.client()?, fake.embed_script_url())?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    println!("http://{}/", listener.local_addr()?);
    axum::serve(listener, app).await?;
    Ok(())
}
