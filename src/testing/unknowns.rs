//! What Released does not document, and so what a fake may do in one way or another.

use serde::Serialize;

/// Says what the fake does where Released documents nothing; see
/// [`set_unknowns`](super::FakeReleased::set_unknowns). By default, all of it is true.
///
/// The page `/facts` of the crate's demo finds out in the browser what Released does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
// Seven questions, each with a yes and a no.
#[allow(clippy::struct_excessive_bools)]
pub struct Unknowns {
    /// An element that is in the page notices an `auth-token` that is set later. If not, it reads the token only when
    /// it is connected.
    pub notices_late_token: bool,
    /// Elements of different kinds can exchange the same token.
    pub shares_token: bool,
    /// Elements of one kind can exchange the same token again.
    pub reuses_token: bool,
    /// A token of another person replaces the live session. If not, the embed keeps the session of the first person,
    /// until the tab is closed.
    pub replaces_session: bool,
    /// The token API accepts a blank name. If not, it answers 400.
    pub accepts_blank_name: bool,
    /// The embed's script has CORS headers, so that a browser can check its `integrity`.
    pub sends_cors_headers: bool,
    /// A widget exchanges its token when it is loaded. If not, it does so when its `trigger` is clicked.
    pub widget_exchanges_on_load: bool,
}

impl Default for Unknowns {
    fn default() -> Self {
        Self {
            notices_late_token: true,
            shares_token: true,
            reuses_token: true,
            replaces_session: true,
            accepts_blank_name: true,
            sends_cors_headers: true,
            widget_exchanges_on_load: true,
        }
    }
}
