//! Replaces Released in the tests of applications, and for work without a network.
//!
//! | type | what it is | use it for |
//! |---|---|---|
//! | [`FakeReleased`] | an HTTP server on loopback that enforces Released's documented rules | tests of the client, of embeds and of outages |
//! | [`StubMinter`] | a minter without a network | tests of your pages |
//!
//! Give [`FakeReleased::client`] to the layer. For an outage, call `set_latency(..)` or `reply_always(Reply::status(503))`,
//! and then `recover()`.
//!
//! # A test of a page
//!
//! ```sh
//! cargo add --dev tower --features util
//! cargo add --dev tower-released --features testing
//! ```
//!
//! ```rust,test_harness
//! use axum::{Extension, Router, body, http::Request, routing::get};
//! use tower::ServiceExt;
//! use tower_released::{AuthToken, BoxError, Minter, ReleasedTokenLayer};
//! use tower_released::{User, from_extension, testing::StubMinter};
//!
//! fn app(minter: impl Minter) -> Router {
//!     let layer = ReleasedTokenLayer::new(minter, from_extension(User::clone));
//!     let page = get(async |token: AuthToken| token.to_string());
//!     Router::new().route("/", page).route_layer(layer)
//! }
//!
//! #[tokio::test]
//! async fn ada_gets_a_token() -> Result<(), BoxError> {
//!     let ada = User::new("42", "ada@example.com")?;
//!     let app = app(StubMinter::new()).layer(Extension(ada));
//!     let request = Request::get("/").body(body::Body::empty())?;
//!     let page = app.oneshot(request).await?.into_body();
//!     assert_eq!(body::to_bytes(page, 4096).await?, "stub-token-1");
//!     Ok(())
//! }
//! ```
//!
//! In production, `main` calls `app` with the [`ReleasedClient`](crate::ReleasedClient), and adds the routes that need the client
//! itself, such as a readiness page.
//!
//! # The fake in a test
//!
//! ```
//! # #[cfg(all(feature = "axum", feature = "client"))]
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use axum::{Extension, Router, body::Body, http::Request, routing::get};
//! use tower::ServiceExt;
//! use tower_released::testing::FakeReleased;
//! use tower_released::{AuthToken, ReleasedTokenLayer, User, from_extension};
//!
//! #[derive(Clone)]
//! struct CurrentUser(&'static str);
//!
//! let released = FakeReleased::start().await?;
//! let vouch = |user: &CurrentUser| User::new(user.0, "ada@example.com");
//! let layer = ReleasedTokenLayer::new(released.client()?, from_extension(vouch));
//! let app = Router::new()
//!     .route("/roadmap", get(async |token: AuthToken| token.to_string()))
//!     .layer(layer)
//!     .layer(Extension(CurrentUser("ada")));
//!
//! let page = app.oneshot(Request::get("/roadmap").body(Body::empty())?).await?;
//! let token = axum::body::to_bytes(page.into_body(), 8192).await?;
//! let session = released.open_session(std::str::from_utf8(&token)?)?;
//! assert_eq!(session.email, "ada@example.com");
//! # Ok(()) }
//! # #[cfg(not(all(feature = "axum", feature = "client")))] fn main() {}
//! ```
//!
//! # Your own application against the fake
//!
//! Save this as `examples/fake.rs` of your application, with the feature `testing` in its `dev-dependencies`, and run
//! `cargo run --example fake`. The address and the credentials are the same at each start, so a restart of either process
//! changes nothing for the other.
//!
//! ```no_run
//! use tower_released::testing::FakeReleased;
//!
//! #[tokio::main]
//! async fn main() -> std::io::Result<()> {
//!     let fake = FakeReleased::builder().port(4000);
//!     let fake = fake.account("acc_dev").secret("dev-secret").start().await?;
//!     println!("export RELEASED_TOKEN_URL={}", fake.impersonation_url());
//!     println!("export RELEASED_ACCOUNT_ID={}", fake.account_id());
//!     println!("export RELEASED_SHARED_SECRET={}", fake.shared_secret());
//!     println!("# embed script: {}", fake.embed_script_url());
//!     std::future::pending().await
//! }
//! ```
//!
//! In another shell, set the three variables and start your application. It needs
//! [`ReleasedClient::from_env`](crate::ReleasedClient::from_env), and in development the fake's embed script instead of
//! Released's, for example from a variable of your own: `embed::script().src("http://127.0.0.1:4000/1/embed.js")`. With a Content-Security-Policy,
//! add the fake's origin, in development only: `csp::strict().origin("http://127.0.0.1:4000")?`.
//!
//! # Tests in a browser
//!
//! The fake's elements say what came of their token, as text and in the attribute `data-state`. Wait for it with a selector,
//! such as `released-page[data-state=verified]`. Both are the fake's own: Released documents no such attribute.
//!
//! | `data-state` | text | what it means |
//! |---|---|---|
//! | `anonymous` | "Not signed in: …" | the element has no `auth-token`: nobody is signed in, or the mint failed |
//! | `pending` | "Verifying …" | the token is being exchanged |
//! | `verified` | "Verified as Ada Lovelace", or as the e-mail address of a user without a name | the embed has a session |
//! | `denied` | "Access denied: …" | the token has expired, is of another fake or was used before, the page is neither on HTTPS nor on this machine, or the fake is unreachable |
//! | `closed` | "Not opened yet." | a widget that exchanges its token when it is opened, and was not opened yet; see [`Unknowns::widget_exchanges_on_load`] |
//!
//! An element has no `data-state` before the script has defined it.

use std::sync::{Mutex, MutexGuard, PoisonError};

mod builder;
mod fake;
mod jwt;
mod reply;
mod rules;
mod server;
mod stub;
mod unknowns;

pub use self::builder::FakeReleasedBuilder;
pub use self::fake::{AccessDenied, Counts, FakeReleased, Session};
pub use self::reply::Reply;
pub use self::stub::StubMinter;
pub use self::unknowns::Unknowns;

/// Locks a mutex, also after a test panicked while it held the lock.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
