#![cfg_attr(all(feature = "axum", feature = "client", feature = "testing"), doc = include_str!("../README.md"))]
#![cfg_attr(
    not(all(feature = "axum", feature = "client", feature = "testing")),
    doc = "Tower middleware that vouches for your signed-in users to Released. The whole guide needs the features \
           `axum`, `client` and `testing`."
)]
#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "axum")]
mod axum;
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
pub use crate::axum::{from_extractor, token_endpoint};
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
