//! What the services and the pages of a layer share.

use std::sync::Arc;

use bytes::Bytes;

use crate::telemetry::Once;

/// What the services and the pages of a layer share.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings {
    /// What an element gets in place of a token, as it is written into its tag.
    pub(super) fallback: Option<Bytes>,
    /// The ids of the elements to fill. `None` for all.
    pub(super) ids: Option<Arc<[String]>>,
    pub(super) warned: Arc<Warned>,
}

/// The warnings that were logged already: each would be logged for every page.
#[derive(Debug, Default)]
pub(super) struct Warned {
    pub(super) has_no_token_layer: Once,
    pub(super) is_encoded: Once,
    pub(super) cannot_be_read: Once,
}
