//! The script that fetches tokens in the browser, for pages that are cached or that the browser puts together.

use std::fmt;
use std::sync::{LazyLock, OnceLock};

use hmac_sha256::Hash;

use super::attribute_name;
use super::attributes::Element;
use super::script::{InvalidScript, Script, is_base64};

/// The script, as it is served: without comments and indentation, which are a third of its size.
static SERVED: LazyLock<String> = LazyLock::new(|| {
    let name = concat!(
        "// released-token.js of tower-released ",
        env!("CARGO_PKG_VERSION"),
        "\n"
    );
    let code = include_str!("released-token.js")
        .lines()
        .map(str::trim_start)
        .filter(|line| !line.starts_with("//"))
        .flat_map(|line| [line, "\n"]);
    std::iter::once(name).chain(code).collect()
});

/// Creates the tag for the script that [`token_script`] serves at `path`. It goes into the page's `<head>`.
///
/// The URL changes with the script, so browsers can keep the script for a year.
///
/// # Example
///
/// ```
/// use tower_released::embed;
///
/// let tag = embed::token_script_tag("/released-token.js").to_string();
/// assert!(tag.starts_with(r#"<script src="/released-token.js?v="#));
/// ```
pub fn token_script_tag(path: &str) -> Script {
    let separator = if path.contains('?') { '&' } else { '?' };
    Script::new(format!("{path}{separator}v={}", version()))
}

/// Creates a `<script>` element with the script in it, and with the nonce of the page's Content-Security-Policy.
///
/// # Errors
///
/// The nonce is not base64 or URL-safe base64.
pub fn token_script_inline(nonce: &str) -> Result<InlineScript, InvalidScript> {
    if is_base64(nonce) {
        let mut element = Element::new("script");
        element.set("nonce", nonce);
        Ok(InlineScript { element })
    } else {
        Err(InvalidScript::Nonce)
    }
}

/// Writes a `<script>` element with the script in it; see [`token_script_inline`].
#[must_use = "a script does nothing until it is written into a page"]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InlineScript {
    element: Element,
}

impl InlineScript {
    /// Sets any other attribute, such as `id` or `data-cfasync`. The value is escaped, and may be empty. A later value
    /// replaces an earlier one.
    ///
    /// # Errors
    ///
    /// As those of [`Script::attribute`].
    pub fn attribute(
        mut self,
        name: &str,
        value: impl Into<String>,
    ) -> Result<Self, InvalidScript> {
        attribute_name::check(name, attribute_name::OF_SCRIPTS)?;
        self.element.set(name.to_owned(), value);
        Ok(self)
    }
}

impl fmt::Display for InlineScript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.element.write_around(&SERVED, f)
    }
}

/// Returns the version of the script: the start of its SHA-256.
fn version() -> &'static str {
    static VERSION: OnceLock<String> = OnceLock::new();
    VERSION.get_or_init(|| {
        Hash::hash(SERVED.as_bytes())
            .iter()
            .take(8)
            .map(|byte| format!("{byte:02x}"))
            .collect()
    })
}

/// Serves the script that fetches tokens in the browser. Route it with `get(token_script)`, outside of the layer.
///
/// The script has 12 KB, or 3.9 KB compressed. It finds elements with the attribute that
/// [`token_from`](crate::embed::Page::token_from) writes, now and later, and gives each of them a token of its own. The
/// guide [single-page apps](crate::docs::single_page_apps) has its rules, its events and its settings.
///
/// Caches may keep it for a year at the URL of [`token_script_tag`]. At any other URL they must revalidate it with its
/// `ETag`.
///
/// # Example
///
/// ```
/// use axum::{Router, routing::get};
/// use tower_released::embed::token_script;
///
/// let app: Router = Router::new().route("/released-token.js", get(token_script));
/// ```
#[cfg(feature = "axum")]
#[cfg_attr(docsrs, doc(cfg(feature = "axum")))]
pub async fn token_script(parts: http::request::Parts) -> axum_core::response::Response {
    use axum_core::body::Body;
    use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH, X_CONTENT_TYPE_OPTIONS};
    use http::{HeaderValue, StatusCode};

    let etag = format!("\"{}\"", version());
    let is_known = parts.headers.get_all(IF_NONE_MATCH).iter().any(|tags| {
        tags.to_str().is_ok_and(|tags| {
            tags.split(',')
                .any(|tag| tag.trim().trim_start_matches("W/") == etag)
        })
    });
    let is_versioned = parts.uri.query().is_some_and(|query| {
        query
            .split('&')
            .any(|pair| pair == format!("v={}", version()))
    });

    let mut response = axum_core::response::Response::new(if is_known {
        Body::empty()
    } else {
        Body::from(SERVED.as_str())
    });
    if is_known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let headers = response.headers_mut();
    let caching = if is_versioned {
        "public, max-age=31536000, immutable"
    } else {
        "no-cache"
    };
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(caching));
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/javascript; charset=utf-8"),
    );
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // Hexadecimal digits and quotes can stand in a header.
    if let Ok(etag) = HeaderValue::try_from(etag) {
        headers.insert(ETAG, etag);
    }
    response
}
