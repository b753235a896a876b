//! Guides that are longer than a type's documentation.
//!
//! ```
//! // Every example in them is compiled, as this one is.
//! use tower_released::ReleasedClient;
//! ```

#[doc = include_str!("docs/operating.md")]
pub mod operating {}
