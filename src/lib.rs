//! Tower middleware that vouches for your signed-in users to [Released](https://released.so).
//!
//! Released is a changelog, roadmap and feedback portal that you embed in your own pages. A *private* portal asks
//! people to sign in, but opens at once for those whom your application vouches for. [`ReleasedTokenLayer`] finds the
//! signed-in user of a request, mints a short-lived [`AuthToken`] for them, and hands it to your handler. The handler
//! puts it in the page with [`embed`].
//!
//! ```text
//! person              your application               Released
//!   │── opens /roadmap ──▶│── user, shared secret ──▶│ token API
//!   │◀─ page, auth-token ─│◀────── auth token ───────│
//!   │                                                │
//! embed, in the browser ──────── auth token ────────▶│ checks it
//!   │◀──────────────────────────── a session of its own
//! ```
//!
//! | what | who holds it | for how long |
//! |---|---|---|
//! | shared secret | your server | until you rotate it |
//! | auth token | one page | until the embed uses it, which must be within two minutes |
//! | session | the embed, in the browser | up to three days |
//!
//! When Released is slow or down, the page is served without a token. Nothing is kept between requests: one token
//! belongs to one request.
//!
//! # Quick start
//!
//! ```no_run
//! # #[cfg(all(feature = "axum", feature = "client"))]
//! # mod quick_start {
//! use axum::{Extension, Router, response::Html, routing::get};
//! use tower_released::{AuthToken, ReleasedClient, ReleasedTokenLayer, User};
//! use tower_released::{embed, from_extension};
//!
//! /// What your authentication leaves in the request's extensions.
//! #[derive(Clone)]
//! struct CurrentUser {
//!     id: String,
//!     email: String,
//! }
//!
//! async fn roadmap(token: Option<AuthToken>) -> Html<String> {
//!     let script = embed::script();
//!     let portal = embed::page("YOUR-CHANNEL-ID").maybe_token(token.as_ref());
//!     Html(format!("<!doctype html><head>{script}</head>{portal}"))
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     tracing_subscriber::fmt().init(); // shows why a mint failed
//!
//!     // Reads RELEASED_ACCOUNT_ID and RELEASED_SHARED_SECRET.
//!     let released = ReleasedClient::from_env()?;
//!     let vouch = |user: &CurrentUser| User::new(&user.id, &user.email);
//!     let ada = CurrentUser {
//!         id: "42".to_owned(),
//!         email: "ada@example.com".to_owned(), // an address that Ada confirmed
//!     };
//!
//!     let app = Router::new()
//!         .route("/roadmap", get(roadmap))
//!         .route_layer(ReleasedTokenLayer::new(released, from_extension(vouch)))
//!         .layer(Extension(ada)); // your authentication layer goes here
//!
//!     let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
//!     println!("http://localhost:3000/roadmap");
//!     axum::serve(listener, app).await?;
//!     Ok(())
//! }
//! # }
//! # fn main() {}
//! ```
//!
//! # How a request flows
//!
//! 1. A [`filter`] decides whether the request wants a token.
//! 2. A [`UserResolver`] finds the signed-in user. The layer must be *inside* of your authentication.
//! 3. A [`Minter`] mints the token, at the time that [`MintTiming`] names.
//! 4. The handler takes `Option<AuthToken>`, [`AuthToken`], `Result<AuthToken, AuthTokenRejection>` or
//!    [`PendingToken`].
//! 5. The layer adds `Cache-Control: private, no-store` to a response that may carry the token.
//!
//! # The names
//!
//! | the layer | |
//! |---|---|
//! | [`ReleasedTokenLayer`] | mints a token for the signed-in user of each request |
//! | [`MintTiming`] | says when: before the handler, alongside it, or when it asks |
//!
//! | who is signed in | |
//! |---|---|
//! | [`from_extension`] | reads a value that your authentication left in the request's extensions |
//! | [`from_extractor`] | runs an axum extractor |
//! | [`resolver_fn`] | calls a closure that returns a future |
//! | [`UserResolver`] | the trait behind these three |
//! | [`IntoUser`] | what their closures may return |
//! | [`User`] | a person: id, e-mail address, name, picture |
//! | [`UserId`] | an id that Released accepts |
//! | [`InvalidUser`] | why a [`User`] or a [`UserId`] was refused |
//!
//! | the token | |
//! |---|---|
//! | [`AuthToken`] | the token, for the page |
//! | [`PendingToken`] | the promise of a token, which a handler can await |
//! | [`AuthTokenRejection`] | why a handler cannot have a token, and the answer to its client |
//! | [`token_endpoint`] | an axum handler that returns a token as JSON |
//!
//! | minting | |
//! |---|---|
//! | [`ReleasedClient`] | mints with Released's token API |
//! | [`Minter`] | any `tower::Service<User, Response = AuthToken>` |
//! | [`MintError`] | why a mint failed, and what to do |
//! | [`MintErrorKind`] | the kind of a [`MintError`], for code, logs and metrics |
//! | [`BoxError`] | the error of resolvers, the same type as tower's |
//!
//! | module | |
//! |---|---|
//! | [`client`] | the client's builder, secret, errors and status |
//! | [`filter`] | which requests want a token |
//! | [`middleware`] | the layer's service and future, and cache headers |
//! | [`endpoint`] | [`token_endpoint`] behind a proxy that changes `Host`, and the types of its replies |
//! | [`embed`] | Released's elements and script tags, and the Content-Security-Policy in [`embed::csp`] |
//! | [`embed::fill`] | the token in pages that know nothing of tokens |
//! | [`testing`] | a fake of Released, and a minter without a network |
//! | [`docs`] | guides, such as [troubleshooting](docs::troubleshooting) and [monitoring](docs::monitoring) |
//!
//! # Features
//!
//! On by default: `axum`, `client` and `rustls`. Off: `native-tls`, `reqwest`, `metrics`, `fill`, `maud`, `askama`,
//! `minijinja`, `testing` and `cli` (the program `released`, which checks a setup). Without any feature there are the layer
//! and the types, for a minter of your own.

#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod account;
#[cfg(feature = "axum")]
mod axum;
#[cfg(feature = "cli")]
#[cfg_attr(docsrs, doc(cfg(feature = "cli")))]
pub mod cli;
#[cfg(feature = "client")]
#[cfg_attr(docsrs, doc(cfg(feature = "client")))]
pub mod client;
// Without a client, there are no connections.
#[cfg_attr(not(feature = "client"), allow(dead_code))]
mod connection;
#[cfg(all(feature = "client", feature = "axum", any(doc, doctest)))]
#[cfg_attr(docsrs, doc(cfg(feature = "client")))]
pub mod docs;
pub mod embed;
mod error;
pub mod filter;
pub mod middleware;
mod minter;
mod outcomes;
mod pending;
mod rejection;
mod resolver;
mod sync;
mod telemetry;
#[cfg(feature = "testing")]
#[cfg_attr(docsrs, doc(cfg(feature = "testing")))]
pub mod testing;
mod token;
mod user;

#[cfg(feature = "axum")]
#[cfg_attr(docsrs, doc(cfg(feature = "axum")))]
pub use crate::axum::{endpoint, from_extractor, token_endpoint};
#[cfg(feature = "client")]
#[cfg_attr(docsrs, doc(cfg(feature = "client")))]
pub use crate::client::ReleasedClient;
#[cfg(all(fuzzing, feature = "client"))]
pub use crate::client::fuzzing;
pub use crate::error::{MintError, MintErrorKind};
pub use crate::middleware::layer::ReleasedTokenLayer;
pub use crate::middleware::settings::MintTiming;
pub use crate::minter::Minter;
pub use crate::pending::PendingToken;
pub use crate::rejection::AuthTokenRejection;
pub use crate::resolver::{IntoUser, UserResolver, from_extension, resolver_fn};
pub use crate::token::AuthToken;
pub use crate::user::{InvalidUser, User, UserId};
pub use tower::BoxError;

/// Compiles the README's code.
#[cfg(all(doctest, feature = "axum", feature = "client", feature = "testing"))]
#[doc = include_str!("../README.md")]
struct Readme;
