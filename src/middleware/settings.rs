//! The settings of a layer, shared by all its services.

use std::fmt;
use std::sync::Arc;

use http::request::Parts;

use super::cache::CacheControl;
use crate::pending::Mint;

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

#[derive(Clone)]
pub(crate) struct Settings {
    /// Makes the mint of a request, from its head to the token. The mint is not started. One closure, so that the layer
    /// has no type parameters for the minter and the resolver.
    pub(crate) mint: Arc<dyn Fn(&Parts) -> Mint + Send + Sync>,
    pub(crate) filter: Arc<dyn Fn(&Parts) -> bool + Send + Sync>,
    pub(crate) timing: MintTiming,
    pub(crate) cache_control: CacheControl,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("timing", &self.timing)
            .field("cache_control", &self.cache_control)
            .finish_non_exhaustive()
    }
}
