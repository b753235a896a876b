//! A minter without a network.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use tower::Service;

use super::lock;
use crate::error::MintError;
use crate::token::AuthToken;
use crate::user::User;

/// Mints tokens without a network: `stub-token-1`, `stub-token-2` and so on. No embed accepts them.
///
/// Clones share their counter and their users. The latency uses `tokio`'s time, so tests with paused time do not wait.
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use tower::ServiceExt;
/// use tower_released::testing::StubMinter;
/// use tower_released::{MintError, MintErrorKind, User};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let minter = StubMinter::new().with_latency(Duration::from_millis(5));
/// let ada = User::new("ada", "ada@example.com").unwrap();
/// let token = minter.clone().oneshot(ada.clone()).await.unwrap();
/// assert_eq!(token.as_str(), "stub-token-1");
/// assert_eq!(minter.users(), [ada.clone()]);
///
/// let down = StubMinter::failing(MintError::new(MintErrorKind::Unavailable));
/// let error = down.oneshot(ada).await.unwrap_err();
/// assert_eq!(error.kind(), MintErrorKind::Unavailable);
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct StubMinter {
    latency: Duration,
    failure: Option<MintError>,
    users: Arc<Mutex<Vec<User>>>,
}

impl StubMinter {
    /// Creates a minter that always succeeds, without a delay.
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates a minter that always fails with this error.
    pub fn failing(error: MintError) -> Self {
        Self {
            failure: Some(error),
            ..Self::default()
        }
    }

    /// Sets how long every mint takes. Default: no delay.
    pub fn with_latency(mut self, latency: Duration) -> Self {
        self.latency = latency;
        self
    }

    /// Returns the users of all mints, in order.
    pub fn users(&self) -> Vec<User> {
        lock(&self.users).clone()
    }

    /// Returns the number of mints.
    pub fn calls(&self) -> usize {
        lock(&self.users).len()
    }

    /// Records the call, and returns its number.
    fn note(&self, user: User) -> usize {
        let mut users = lock(&self.users);
        users.push(user);
        users.len()
    }
}

impl Service<User> for StubMinter {
    type Response = AuthToken;
    type Error = MintError;
    type Future = Pin<Box<dyn Future<Output = Result<AuthToken, MintError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), MintError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, user: User) -> Self::Future {
        let number = self.note(user);
        let Self {
            latency, failure, ..
        } = self.clone();
        Box::pin(async move {
            if !latency.is_zero() {
                tokio::time::sleep(latency).await;
            }
            match failure {
                Some(error) => Err(error),
                None => Ok(AuthToken::new(format!("stub-token-{number}"))?),
            }
        })
    }
}
