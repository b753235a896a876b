//! The README's quick start: `cargo run --example quickstart`. A test keeps the two equal.
#![allow(clippy::print_stdout)] // the address is for a person to open

use axum::{Extension, Router, response::Html, routing::get};
use tower_released::{AuthToken, ReleasedClient, ReleasedTokenLayer, User};
use tower_released::{embed, from_extension};

/// What your authentication leaves in the request's extensions.
#[derive(Clone)]
struct CurrentUser {
    id: String,
    email: String,
}

async fn roadmap(token: Option<AuthToken>) -> Html<String> {
    let script = embed::script();
    let portal = embed::page("YOUR-CHANNEL-ID").maybe_token(token.as_ref());
    Html(format!("<!doctype html><head>{script}</head>{portal}"))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().init(); // shows why a mint failed

    // Reads RELEASED_ACCOUNT_ID and RELEASED_SHARED_SECRET.
    let released = ReleasedClient::from_env()?;
    let vouch = |user: &CurrentUser| User::new(&user.id, &user.email);
    let ada = CurrentUser {
        id: "42".to_owned(),
        email: "ada@example.com".to_owned(), // an address that Ada confirmed
    };

    let app = Router::new()
        .route("/roadmap", get(roadmap))
        .route_layer(ReleasedTokenLayer::new(released, from_extension(vouch)))
        .layer(Extension(ada)); // your authentication layer goes here

    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    println!("http://localhost:3000/roadmap");
    axum::serve(listener, app).await?;
    Ok(())
}
