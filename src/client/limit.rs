//! The limit of mints in flight, so that a slow Released does not exhaust the server.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::metrics;
use crate::error::{MintError, MintErrorKind};

/// How long a mint waits for a place. A burst ends sooner. In a longer queue, a page without a token is better than a
/// late one.
pub(crate) const QUEUE_WAIT: Duration = Duration::from_millis(50);

/// How long after its deadline a mint keeps its place. A mint that has not ended by then is not polled any more, for
/// example in a `select!` that keeps the loser. It must not block other mints.
const GRACE: Duration = Duration::from_secs(1);

/// The places of the mints in flight. A place expires.
#[derive(Debug)]
pub(crate) struct Limit {
    size: usize,
    /// How long a mint waits for a place.
    queue_wait: Duration,
    /// How long a mint keeps its place.
    lease: Duration,
    taken: Mutex<Taken>,
    /// Wakes all waiting mints when a place is free. A semaphore would give the place to the first mint in the queue,
    /// which may not be polled any more.
    freed: Notify,
}

#[derive(Debug, Default)]
struct Taken {
    last_number: u64,
    /// When each place expires, by its number.
    until: HashMap<u64, Instant>,
}

/// A mint's place among those in flight.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    limit: &'a Limit,
    number: u64,
}

impl Limit {
    /// Creates a limit for mints that take no longer than `deadline`.
    pub(crate) fn new(places: usize, queue_wait: Duration, deadline: Duration) -> Self {
        Self {
            size: places.max(1),
            queue_wait,
            lease: deadline + GRACE,
            taken: Mutex::default(),
            freed: Notify::new(),
        }
    }

    pub(crate) fn try_enter(&self) -> Option<Place<'_>> {
        let now = Instant::now();
        let (number, expired) = {
            let mut taken = self.taken();
            let before = taken.until.len();
            if before >= self.size {
                taken.until.retain(|_, until| *until > now);
            }
            let expired = before - taken.until.len();
            let number = (taken.until.len() < self.size).then(|| {
                taken.last_number += 1;
                let number = taken.last_number;
                taken.until.insert(number, now + self.lease);
                number
            });
            (number, expired)
        };
        metrics::left_flight(expired);
        let number = number?;
        metrics::entered_flight();
        Some(Place {
            limit: self,
            number,
        })
    }

    /// Waits for a place. Fails if none is free in time.
    pub(crate) async fn enter(&self, deadline: Instant) -> Result<Place<'_>, MintError> {
        let end = deadline.min(Instant::now() + self.queue_wait);
        loop {
            // Before the check: a place may become free right after it.
            let mut freed = pin!(self.freed.notified());
            freed.as_mut().enable();
            if let Some(place) = self.try_enter() {
                return Ok(place);
            }
            if timeout_at(end, freed).await.is_err() {
                metrics::shed();
                return Err(MintError::new(MintErrorKind::Overloaded));
            }
        }
    }

    pub(crate) fn in_flight(&self) -> usize {
        let now = Instant::now();
        self.taken()
            .until
            .values()
            .filter(|until| **until > now)
            .count()
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        // Nothing panics while it is held.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        // The place may have expired.
        let was_taken = self.limit.taken().until.remove(&self.number).is_some();
        metrics::left_flight(usize::from(was_taken));
        self.limit.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Poll;

    #[cfg(feature = "testing")]
    use futures_util::future::join_all;
    use tokio::time::advance;

    use super::*;
    #[cfg(feature = "testing")]
    use crate::testing::{FakeReleased, Reply};
    #[cfg(feature = "testing")]
    use crate::user::User;

    const DEADLINE: Duration = Duration::from_secs(3);

    fn limit(places: usize) -> Limit {
        Limit::new(places, QUEUE_WAIT, DEADLINE)
    }

    #[tokio::test(start_paused = true)]
    async fn a_mint_waits_for_a_place_for_50_milliseconds() {
        let limit = limit(1);
        let first = limit.try_enter().expect("a place");
        assert!(limit.try_enter().is_none());
        let start = Instant::now();
        let error = limit.enter(start + DEADLINE).await.expect_err("no place");
        assert_eq!(
            (error.kind(), start.elapsed()),
            (MintErrorKind::Overloaded, QUEUE_WAIT)
        );

        let (second, ()) = tokio::join!(limit.enter(Instant::now() + DEADLINE), async {
            tokio::task::yield_now().await;
            drop(first);
        });
        assert_eq!(limit.in_flight(), 1);
        drop(second);
        assert_eq!(limit.in_flight(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_expires_one_second_after_the_deadline() {
        let limit = limit(1);
        let parked = limit.try_enter().expect("a place");
        advance(DEADLINE + GRACE).await;
        assert_eq!(limit.in_flight(), 0);
        let next = limit.try_enter().expect("the parked one's place");
        // The end of the parked mint does not free another mint's place.
        drop(parked);
        assert!(limit.try_enter().is_none());
        drop(next);
        assert!(limit.try_enter().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_is_not_given_to_a_mint_that_is_not_polled_any_more() {
        let limit = limit(1);
        let first = limit.try_enter().expect("a place");
        let mut parked = pin!(limit.enter(Instant::now() + DEADLINE));
        assert!(
            poll_fn(|cx| Poll::Ready(parked.as_mut().poll(cx)))
                .await
                .is_pending()
        );
        drop(first);
        assert!(limit.try_enter().is_some());
    }

    #[cfg(feature = "testing")]
    #[tokio::test]
    async fn pages_that_queue_behind_a_wrong_secret_are_not_sent_after_it_was_refused() {
        let released = FakeReleased::start().await.expect("a port");
        released.reply_always(Reply::status(401));
        let minute = Duration::from_secs(60);
        let client = released
            .client_builder()
            .max_in_flight(6)
            .queue_wait(minute)
            .build()
            .expect("a client");
        let user = |number: usize| {
            User::new(
                format!("user-{number}"),
                format!("user-{number}@example.com"),
            )
        };
        let users: Vec<User> = (0..1000)
            .map(|number| user(number).expect("valid"))
            .collect();
        let ends = join_all(users.iter().map(|user| client.mint(user))).await;
        let kinds: Vec<_> = ends
            .into_iter()
            .map(|end| end.map_err(|error| error.kind()))
            .collect();
        assert!(
            kinds
                .iter()
                .all(|kind| *kind == Err(MintErrorKind::Unauthorized)),
            "{kinds:?}"
        );
        assert!(
            released.counts().requests <= 12,
            "{} calls",
            released.counts().requests
        );
    }
}
