//! Replaces Released in the tests of applications, and for work without a network.
//!
//! | type | what it is | use it for |
//! |---|---|---|
//! | [`FakeReleased`] | an HTTP server on loopback that enforces Released's documented rules | tests of the client, of embeds and of outages |
//! | [`StubMinter`] | a minter without a network | tests of your pages |
//!
//! Give [`FakeReleased::client`] to the layer. To configure an application from outside, set `RELEASED_TOKEN_URL`,
//! `RELEASED_ACCOUNT_ID` and `RELEASED_SHARED_SECRET` to the fake's `impersonation_url()`, `account_id()` and
//! `shared_secret()`. For an outage, call `set_latency(..)` or `reply_always(Reply::status(503))`, and then
//! `recover()`.
//!
//! # Example
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

use std::sync::{Mutex, MutexGuard, PoisonError};

mod fake;
mod jwt;
mod reply;
mod rules;
mod server;
mod stub;
mod unknowns;

pub use self::fake::{AccessDenied, Counts, FakeReleased, Session};
pub use self::reply::Reply;
pub use self::stub::StubMinter;
pub use self::unknowns::Unknowns;

/// Locks a mutex, also after a test panicked while it held the lock.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
