//! The parts of [`ReleasedTokenLayer`](crate::ReleasedTokenLayer): its service, its future, and the cache headers of
//! responses that carry a token.
//!
//! Most applications need none of these names. Use them to store the service in a struct, or to change the cache
//! headers.
//!
//! # Example
//!
//! ```
//! use tower::Layer;
//! use tower_released::middleware::{CacheControl, ReleasedTokenService};
//! use tower_released::{ReleasedTokenLayer, User, from_extension};
//! # use tower_released::{AuthToken, MintError};
//! # #[derive(Clone)] struct CurrentUser { id: String, email: String }
//! # let released = tower::service_fn(|_: User| async { AuthToken::new("t").map_err(MintError::from) });
//!
//! struct Site<S> {
//!     pages: ReleasedTokenService<S>,
//! }
//!
//! let vouch = |user: &CurrentUser| User::new(&user.id, &user.email);
//! let layer = ReleasedTokenLayer::new(released, from_extension(vouch))
//!     .cache_control(CacheControl::Unchanged);
//! # let handler = tower::service_fn(async |_: http::Request<()>| {
//! #     Ok::<_, std::convert::Infallible>(http::Response::new(()))
//! # });
//! let site = Site { pages: layer.layer(handler) };
//! # drop(site.pages);
//! ```

pub(crate) mod cache;
mod future;
pub(crate) mod grpc;
pub(crate) mod layer;
mod policy;
mod service;
pub(crate) mod settings;

pub use self::cache::{CarriesToken, forbid_caching};
pub use self::future::ResponseFuture;
pub use self::policy::{FailClosed, FailOpen};
pub use self::service::ReleasedTokenService;
pub use self::settings::CacheControl;
