//! Extractors, a resolver and a handler for axum, on axum-core alone.

pub mod endpoint;
mod extract;
mod from_extractor;

pub use self::endpoint::token_endpoint;
pub use self::from_extractor::from_extractor;
