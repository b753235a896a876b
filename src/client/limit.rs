//! How many mints may be in flight.

use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout};

use super::metrics::{self, InFlight};
use crate::error::{MintError, MintErrorKind};

/// How long a mint waits for a place: a burst passes in less, and behind more mints than that a page had better do without a
/// token.
pub(crate) const QUEUE_WAIT: Duration = Duration::from_millis(50);

/// How many mints may be in flight, so that a slow Released does not eat the server.
pub(crate) struct Limit {
    places: Semaphore,
    size: usize,
    /// How long a mint waits for a place.
    patience: Duration,
}

/// A mint's place among those in flight.
pub(crate) struct Place<'a> {
    _permit: SemaphorePermit<'a>,
    _counted: InFlight,
}

impl Limit {
    pub(crate) fn new(places: usize, patience: Duration) -> Self {
        let size = places.clamp(1, Semaphore::MAX_PERMITS);
        Self { places: Semaphore::new(size), size, patience }
    }

    pub(crate) fn try_enter(&self) -> Option<Place<'_>> {
        self.places.try_acquire().ok().map(Place::new)
    }

    pub(crate) async fn enter(&self, deadline: Instant) -> Result<Place<'_>, MintError> {
        let left = deadline.saturating_duration_since(Instant::now());
        if let Ok(Ok(permit)) = timeout(left.min(self.patience), self.places.acquire()).await {
            return Ok(Place::new(permit));
        }
        metrics::shed();
        Err(MintError::new(MintErrorKind::Overloaded))
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.size.saturating_sub(self.places.available_permits())
    }
}

impl<'a> Place<'a> {
    fn new(permit: SemaphorePermit<'a>) -> Self {
        Self { _permit: permit, _counted: InFlight::start() }
    }
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use futures_util::future::join_all;

    use super::*;
    use crate::testing::{FakeReleased, Reply};
    use crate::user::User;

    #[tokio::test]
    async fn pages_that_queue_behind_a_wrong_secret_are_not_sent_after_it_was_refused() {
        let released = FakeReleased::start().await.expect("a port");
        released.reply_always(Reply::status(401));
        let minute = Duration::from_secs(60);
        let client = released.client_builder().max_in_flight(6).queue_wait(minute).build().expect("a client");
        let user = |number: usize| User::new(format!("user-{number}"), format!("user-{number}@example.com"));
        let users: Vec<User> = (0..1000).map(|number| user(number).expect("valid")).collect();
        let ends = join_all(users.iter().map(|user| client.mint(user))).await;
        let kinds: Vec<_> = ends.into_iter().map(|end| end.map_err(|error| error.kind())).collect();
        assert!(kinds.iter().all(|kind| *kind == Err(MintErrorKind::Unauthorized)), "{kinds:?}");
        assert!(released.counts().requests <= 12, "{} calls", released.counts().requests);
    }
}
