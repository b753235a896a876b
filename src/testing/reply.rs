//! Answers that a fake is told to give.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};

/// An answer for [`FakeReleased::reply_next`](super::FakeReleased::reply_next).
///
/// # Example
///
/// ```
/// use tower_released::testing::Reply;
///
/// let busy = Reply::status(429).header("retry-after", "1");
/// let portal = Reply::status(200).body("<!doctype html><title>Sign in to the hotel's network</title>");
/// ```
#[derive(Clone, Debug)]
pub struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) body: Bytes,
}

impl Reply {
    /// An empty answer with this status.
    ///
    /// # Panics
    ///
    /// If it is not a status from 200 to 999.
    pub fn status(status: u16) -> Self {
        assert!(status >= 200, "a final status is 200 or more");
        let status = StatusCode::from_u16(status).expect("a status has three digits");
        Self { status, headers: Vec::new(), body: Bytes::new() }
    }

    /// Adds a header.
    ///
    /// # Panics
    ///
    /// If the name or the value is not one that HTTP allows.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let name = name.parse().expect("a header's name");
        let value = value.parse().expect("a header's value");
        self.headers.push((name, value));
        self
    }

    /// Sets the body. It may be anything.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }
}
