//! The settings of a layer, shared by all its services.

use std::fmt;
use std::sync::Arc;

use http::request::Parts;

use crate::pending::{Gate, Mint};
use crate::telemetry::Once;

/// Says when the token is minted, relative to the handler.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MintTiming {
    /// Before the handler, which starts with the token. The page takes as long as the mint and the handler together.
    #[default]
    BeforeHandler,
    /// While inner middleware and the handler run, in the same task. The page takes as long as the slower of the two,
    /// if the handler takes [`PendingToken`](crate::PendingToken) and awaits it last.
    AlongsideHandler,
    /// When a handler asks for the token. If no handler asks, nothing is minted. For pages that seldom need a token.
    OnExtraction,
}

/// Says what the layer does with the cache headers of a response that may carry a token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheControl {
    /// Sets `Cache-Control: private, no-store`, and removes `ETag`, `Last-Modified`, `Expires` and the headers that
    /// direct CDNs. Otherwise a cache could serve one user's token to others.
    ///
    /// A handler's own `public` or `s-maxage` is replaced, and a `tracing` event says so. gRPC responses are not
    /// changed.
    ///
    /// # Files of a page
    ///
    /// If nobody took the token from its promise, images, fonts, audio, video, style sheets and 304 are not changed, even
    /// if the token was in the request's extensions. An SVG image that was opened as a document is changed, and so is a
    /// 304 for a document.
    ///
    /// # Prefetched documents
    ///
    /// A document that was skipped because the browser prefetched it has no token. It still gets these headers, so that
    /// the browser asks again when the user opens it. See the guide `docs::caching`.
    ///
    /// # Conditional requests
    ///
    /// With [`MintTiming::BeforeHandler`](crate::MintTiming::BeforeHandler), a GET or HEAD for a document that gets a
    /// token also loses `If-None-Match` and `If-Modified-Since`, so that no 304 brings back a page from before the user
    /// signed in. So does a prefetch of such a document, with every timing. All other requests keep their conditions.
    ///
    /// With the other timings, the handler runs before the layer knows whether there is a token. Then send no `ETag`
    /// with a page that differs for signed-in users.
    #[default]
    NoStore,
    /// Leaves the response's cache headers and the request's conditions as they are. Choose it only if nothing between
    /// the handler and the user caches.
    Unchanged,
}

/// Makes the mint of a request, which passes the gate after its resolver.
pub(crate) type MakeMint = dyn Fn(&Parts, Gate) -> Mint + Send + Sync;

#[derive(Clone)]
pub(crate) struct Settings {
    /// Makes the mint of a request, from its head to the token. The mint is not started. One closure, so that the layer
    /// has no type parameters for the minter and the resolver.
    pub(crate) mint: Arc<MakeMint>,
    pub(crate) filter: Arc<dyn Fn(&Parts) -> bool + Send + Sync>,
    pub(crate) timing: MintTiming,
    pub(crate) cache_control: CacheControl,
    /// Whether a handler was warned of that makes responses public: it does so for every page.
    pub(crate) warned_of_public: Arc<Once>,
    /// Whether a second layer around the same handler was warned of: it mints for every page.
    pub(crate) warned_of_nesting: Arc<Once>,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("timing", &self.timing)
            .field("cache_control", &self.cache_control)
            .finish_non_exhaustive()
    }
}
