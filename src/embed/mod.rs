//! Writes Released's elements and script tags into the page, and merges its hosts into the Content-Security-Policy.
//!
//! Elements render with `Display`, so they fit into `format!` and any template engine. Every attribute value is
//! escaped. `auth-token` is written only if there is a token.
//!
//! # Example
//!
//! ```
//! use tower_released::AuthToken;
//! use tower_released::embed::{self, ColorScheme, Modules};
//!
//! fn roadmap(token: Option<&AuthToken>) -> String {
//!     let portal = embed::page("YOUR-CHANNEL")
//!         .modules(Modules::Roadmap)
//!         .title("What's \"next\"?")
//!         .color_scheme(ColorScheme::System)
//!         .maybe_token(token);
//!     let head = format!("<title>Roadmap</title>{}", embed::script());
//!     format!("<!doctype html>{head}{portal}")
//! }
//!
//! assert_eq!(
//!     roadmap(None),
//!     "<!doctype html><title>Roadmap</title>\
//!      <script src=\"https://embed.released.so/1/embed.js\" defer></script>\
//!      <released-page channel-id=\"YOUR-CHANNEL\" modules=\"roadmap\" \
//!      title=\"What's &quot;next&quot;?\" \
//!      color-scheme=\"system\"></released-page>",
//! );
//! ```

mod attribute_name;
mod attributes;
pub mod csp;
mod csp_layer;
mod elements;
#[cfg(feature = "fill")]
#[cfg_attr(docsrs, doc(cfg(feature = "fill")))]
pub mod fill;
mod origin;
pub(crate) mod policy;
mod preconnect;
mod script;
#[cfg(any(feature = "askama", feature = "maud", feature = "minijinja"))]
mod templates;
mod token_script;

pub use self::attribute_name::InvalidAttribute;
pub use self::attributes::{Anchor, ColorScheme, Locale, Modules, Position};
#[cfg(any(feature = "cli", feature = "fill"))]
pub(crate) use self::elements::id_attribute;
pub use self::elements::{Badge, Form, Page, Widget, badge, form, page, widget};
pub use self::preconnect::{Preconnect, preconnect};
pub use self::script::{InvalidScript, Script, script};
#[cfg(feature = "axum")]
#[cfg_attr(docsrs, doc(cfg(feature = "axum")))]
pub use self::token_script::token_script;
pub use self::token_script::{InlineScript, token_script_inline, token_script_tag};
