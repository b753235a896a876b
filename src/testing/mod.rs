//! Released, without Released: for the tests of applications, and for work without a network.
//!
//! [`FakeReleased`] is a real HTTP server on loopback, as strict as the vendor's. Point a
//! [`ReleasedClient`](crate::ReleasedClient) at it, and a page's embeds too. [`StubMinter`] is no server at all, only a
//! minter that hands out tokens, for tests that are about the page.
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
//! let user_of = |user: &CurrentUser| User::new(user.0, "ada@example.com");
//! let app = Router::new()
//!     .route("/roadmap", get(async |token: AuthToken| token.to_string()))
//!     .layer(ReleasedTokenLayer::new(released.client()?, from_extension(user_of)))
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

pub use self::fake::{AccessDenied, Counts, FakeReleased, Session};
pub use self::reply::Reply;
pub use self::stub::StubMinter;

/// Locks what stays usable although a test panicked while it held it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
