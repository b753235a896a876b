//! Scripted answers of a fake.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};

/// Holds an answer for [`FakeReleased::reply_next`](super::FakeReleased::reply_next) and
/// [`reply_always`](super::FakeReleased::reply_always).
///
/// # Example
///
/// ```
/// use tower_released::testing::Reply;
///
/// let busy = Reply::status(429).header("retry-after", "1");
/// let portal = Reply::status(200).body("<title>Sign in to the network</title>");
/// ```
#[derive(Clone, Debug)]
pub struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) body: Bytes,
}

impl Reply {
    /// Creates an empty answer with this status.
    ///
    /// # Panics
    ///
    /// Panics if the status is not from 200 to 999.
    pub fn status(status: u16) -> Self {
        assert!(status >= 200, "a final status is 200 or more");
        let status = StatusCode::from_u16(status).expect("a status has three digits");
        Self {
            status,
            headers: Vec::new(),
            body: Bytes::new(),
        }
    }

    /// Adds a header.
    ///
    /// # Panics
    ///
    /// Panics if HTTP does not allow the name or the value.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let name = name.parse().expect("a header's name");
        let value = value.parse().expect("a header's value");
        self.headers.push((name, value));
        self
    }

    /// Sets the body, to any bytes.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }
}
