//! Extractors, a resolver and a handler for axum, on axum-core alone.

mod extract;
mod from_extractor;
mod token_endpoint;

pub use self::from_extractor::from_extractor;
pub use self::token_endpoint::token_endpoint;
