//! Guides that are longer than a type's documentation. Every example in them is compiled.
//!
//! ```
//! // As this one is.
//! use tower_released::embed;
//! ```

#[doc = include_str!("docs/embedding.md")]
pub mod embedding {}

#[doc = include_str!("docs/csp.md")]
pub mod csp {}

#[doc = include_str!("docs/caching.md")]
pub mod caching {}

#[doc = include_str!("docs/single_page_apps.md")]
pub mod single_page_apps {}

#[doc = include_str!("docs/signing_out.md")]
pub mod signing_out {}

#[doc = include_str!("docs/operating.md")]
pub mod operating {}
