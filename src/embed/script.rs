//! The tag of Released's script.

use std::fmt;

use super::attribute_name::{self, InvalidAttribute};
use super::attributes::Element;

/// The loader, which redirects to the current build.
const LOADER: &str = "https://embed.released.so/1/embed.js";

/// Creates the tag for Released's script, which goes into the page's `<head>`, once.
///
/// The script is a loader that redirects to the newest build.
///
/// # Example
///
/// ```
/// use tower_released::embed;
///
/// assert_eq!(
///     embed::script().to_string(),
///     r#"<script src="https://embed.released.so/1/embed.js" defer></script>"#,
/// );
///
/// // Under a Content-Security-Policy with nonces:
/// let script = embed::script().nonce("r4nd0m-URL_safe")?;
/// assert!(script.to_string().contains(r#"nonce="r4nd0m-URL_safe""#));
///
/// // A build that never changes, for PCI compliance:
/// let script = embed::script().pinned("1a2b3c")?;
/// assert!(script.to_string().contains("embed.released.so/1a2b3c/embed.js"));
///
/// // The browser also checks the file, by a digest that you compute:
/// let script = script.integrity("sha384-oqVuAfXRKap7fdgcCY5uykM6")?;
/// assert!(script.to_string().contains(r#"crossorigin="anonymous""#));
///
/// // Any other attribute:
/// let script = embed::script().attribute("data-preconnect", "")?;
/// assert!(script.to_string().contains(r#" data-preconnect="""#));
/// # Ok::<(), embed::InvalidScript>(())
/// ```
pub fn script() -> Script {
    Script::new(LOADER)
}

/// Writes a `<script>` tag; see [`script`].
#[must_use = "a tag does nothing until it is written into a page"]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    element: Element,
}

impl Script {
    pub(crate) fn new(url: impl Into<String>) -> Self {
        let mut element = Element::new("script");
        element.set("src", url);
        element.set_flag("defer");
        Self { element }
    }

    /// Sets another URL for the script, such as that of a [`FakeReleased`](crate::testing::FakeReleased).
    pub fn src(mut self, url: impl Into<String>) -> Self {
        self.element.set("src", url);
        self
    }

    /// Pins one build of the script, by the hash in its URL. A build never changes.
    ///
    /// The hash is in the URL to which the loader redirects. Released does not document what a build loads itself.
    ///
    /// # Errors
    ///
    /// The hash has other characters than letters, digits, `-` and `_`.
    pub fn pinned(mut self, hash: &str) -> Result<Self, InvalidScript> {
        let is_inside = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        if hash.is_empty() || !hash.bytes().all(is_inside) {
            return Err(InvalidScript::Hash);
        }
        self.element
            .set("src", format!("https://embed.released.so/{hash}/embed.js"));
        Ok(self)
    }

    /// Lets the browser check the script by its digest, such as `sha384-…`. Use it with [`pinned`](Self::pinned),
    /// because the loader changes.
    ///
    /// It also sets `crossorigin`, without which a browser cannot check a script of another origin. The server must
    /// then answer with CORS headers. Released does not document whether its builds do.
    ///
    /// # Errors
    ///
    /// The integrity is not `sha256-`, `sha384-` or `sha512-` followed by base64.
    pub fn integrity(mut self, integrity: &str) -> Result<Self, InvalidScript> {
        let digest = ["sha256-", "sha384-", "sha512-"]
            .iter()
            .find_map(|algorithm| integrity.strip_prefix(algorithm));
        if !digest.is_some_and(is_base64) {
            return Err(InvalidScript::Integrity);
        }
        self.element.set("integrity", integrity);
        self.element.set("crossorigin", "anonymous");
        Ok(self)
    }

    /// Sets any other attribute, such as `id`, `fetchpriority` or `data-preconnect`. The value is escaped, and may be
    /// empty. A later value replaces an earlier one.
    ///
    /// # Errors
    ///
    /// The name is invalid, is that of an event handler, or is `src`, `defer`, `integrity`, `crossorigin` or `nonce`;
    /// see [`InvalidAttribute`].
    pub fn attribute(
        mut self,
        name: &str,
        value: impl Into<String>,
    ) -> Result<Self, InvalidScript> {
        attribute_name::check(name, attribute_name::OF_SCRIPTS)?;
        self.element.set(name.to_owned(), value);
        Ok(self)
    }

    /// Adds the nonce of the page's Content-Security-Policy.
    ///
    /// # Errors
    ///
    /// The nonce is not base64 or URL-safe base64.
    pub fn nonce(mut self, nonce: &str) -> Result<Self, InvalidScript> {
        if !is_base64(nonce) {
            return Err(InvalidScript::Nonce);
        }
        self.element.set("nonce", nonce);
        Ok(self)
    }
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.element.fmt(f)
    }
}

/// Returns whether a text is CSP's `base64-value`: either alphabet, and padding at the end.
pub(crate) fn is_base64(text: &str) -> bool {
    let unpadded = text.trim_end_matches('=');
    !unpadded.is_empty()
        && text.len() - unpadded.len() <= 2
        && unpadded
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+/-_".contains(&byte))
}

/// Says why a [`Script`] was refused.
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidScript {
    /// The build's hash has other characters than letters, digits, `-` and `_`.
    Hash,
    /// The integrity is not `sha256-`, `sha384-` or `sha512-` followed by base64.
    Integrity,
    /// The nonce is not base64.
    Nonce,
    /// The name of an attribute was refused.
    Attribute(InvalidAttribute),
}

impl From<InvalidAttribute> for InvalidScript {
    fn from(error: InvalidAttribute) -> Self {
        Self::Attribute(error)
    }
}

impl fmt::Display for InvalidScript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hash => {
                "the hash of the pinned build has other characters than letters, digits, - and _; copy it from the URL \
                 to which the loader redirects"
            }
            Self::Integrity => {
                "the integrity is not sha256-, sha384- or sha512- followed by base64; compute it from the pinned build"
            }
            Self::Nonce => "the nonce is not base64; make it of random bytes in base64",
            Self::Attribute(error) => return error.fmt(f),
        })
    }
}

crate::error::debug_as_text!(InvalidScript);

impl std::error::Error for InvalidScript {}
