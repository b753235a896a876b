//! The layer.

use std::fmt;
use std::sync::Arc;

use tower::Layer;

use super::service::FillService;
use super::settings::Settings;

/// Sets `auth-token` on Released's elements in the HTML of the inner service; see the [module](crate::embed::fill).
///
/// It belongs *inside* of the [`ReleasedTokenLayer`](crate::ReleasedTokenLayer).
#[must_use = "a layer does nothing until it is put around a service"]
#[derive(Clone, Debug, Default)]
pub struct FillLayer {
    settings: Arc<Settings>,
}

impl FillLayer {
    /// Creates a layer that fills all of Released's pages, widgets and forms.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the path of a [`token_endpoint`](crate::token_endpoint). If the mint fails, elements get it as
    /// `data-released-auth`, and the script of [`token_script`](crate::embed::token_script) fetches the token later.
    /// The page must load that script.
    ///
    /// # Errors
    ///
    /// The path does not start with one `/`, or it has other characters than a URL's path and query.
    ///
    /// # Example
    ///
    /// ```
    /// use tower_released::embed::fill::FillLayer;
    ///
    /// assert!(FillLayer::new().fallback("/api/released-token").is_ok());
    /// assert!(FillLayer::new().fallback("//elsewhere.example/token").is_err());
    /// ```
    pub fn fallback(mut self, path: &str) -> Result<Self, InvalidFallback> {
        if !is_path(path) {
            return Err(InvalidFallback(()));
        }
        let attribute = format!(" data-released-auth=\"{}\"", path.replace('&', "&amp;"));
        Arc::make_mut(&mut self.settings).fallback = Some(attribute.into());
        Ok(self)
    }

    /// Fills only elements with one of these ids: the `channel-id` of a page or a widget, or the `form-id` of a form.
    /// Default: all elements.
    ///
    /// # Example
    ///
    /// ```
    /// use tower_released::embed::fill::FillLayer;
    ///
    /// let layer = FillLayer::new().channels(["YOUR-CHANNEL", "YOUR-FORM"]);
    /// # drop(layer);
    /// ```
    pub fn channels(mut self, ids: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Arc::make_mut(&mut self.settings).ids = Some(ids.into_iter().map(Into::into).collect());
        self
    }
}

impl<S> Layer<S> for FillLayer {
    type Service = FillService<S>;

    fn layer(&self, inner: S) -> FillService<S> {
        FillService::new(inner, Arc::clone(&self.settings))
    }
}

/// Says that a fallback was refused; see [`FillLayer::fallback`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct InvalidFallback(());

impl fmt::Display for InvalidFallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "the fallback is not the path of a token endpoint; it must start with one slash and have only characters of \
             a URL's path and query, such as /api/released-token",
        )
    }
}

crate::error::debug_as_text!(InvalidFallback);

impl std::error::Error for InvalidFallback {}

/// Returns whether this is an absolute path, possibly with a query (RFC 3986, sections 3.3 and 3.4). `//` starts a host.
fn is_path(path: &str) -> bool {
    let is_legal =
        |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/?%".contains(&byte);
    path.starts_with('/') && !path.starts_with("//") && path.bytes().all(is_legal)
}
