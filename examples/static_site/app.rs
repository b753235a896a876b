//! The server: files, and the layers that fill them.

use axum::Router;
use axum::response::Redirect;
use axum::routing::get;
use tower_http::services::ServeDir;
use tower_released::embed::fill::FillLayer;
use tower_released::{MintTiming, Minter, ReleasedTokenLayer, User, from_extension};

/// The pages. Nothing in them knows of tokens.
pub(crate) const SITE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/static_site/site");

/// Creates the application. An authentication layer around it puts the `User` into the request's extensions.
pub(crate) fn app(released: impl Minter, embed_script: String) -> Router {
    // Only a page with an element mints, and only for somebody who is signed in.
    let tokens = ReleasedTokenLayer::new(released, from_extension(User::clone))
        .timing(MintTiming::OnExtraction);
    Router::new()
        .fallback_service(ServeDir::new(SITE))
        .layer(FillLayer::new())
        .layer(tokens)
        // With an account, the pages name Released's script themselves.
        .route(
            "/embed.js",
            get(async move || Redirect::temporary(&embed_script)),
        )
}
