//! The server: React's files, the token endpoint and the scripts.

use axum::response::Redirect;
use axum::routing::{get, post};
use axum::{Extension, Router};
use tower_http::services::ServeDir;
use tower_released::embed::token_script;
use tower_released::{InvalidUser, MintTiming, ReleasedClient, ReleasedTokenLayer, User};
use tower_released::{from_extension, token_endpoint};

/// Where `npm run build` leaves the page.
pub(crate) const DIST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/react/dist");

/// Creates the application. Its user is always Ada; yours comes from your authentication layer.
pub(crate) fn app(released: ReleasedClient, embed_script: String) -> Result<Router, InvalidUser> {
    let ada = User::new("42", "ada@example.com")?.with_name("Ada Lovelace");
    // The endpoint mints only for requests that it answers.
    let layer = ReleasedTokenLayer::new(released, from_extension(User::clone))
        .timing(MintTiming::OnExtraction);
    Ok(Router::new()
        .route("/api/released-token", post(token_endpoint))
        .route_layer(layer)
        .layer(Extension(ada))
        .route("/released-token.js", get(token_script))
        // With an account, index.html names Released's script itself.
        .route(
            "/embed.js",
            get(async move || Redirect::temporary(&embed_script)),
        )
        .fallback_service(ServeDir::new(DIST)))
}
