//! How many mints may be in flight, so that a slow Released does not eat the server.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::metrics;
use crate::error::{MintError, MintErrorKind};

/// How long a mint waits for a place: a burst passes in less, and behind more mints than that a page had better do without a
/// token.
pub(crate) const QUEUE_WAIT: Duration = Duration::from_millis(50);

/// How long after its deadline a mint keeps its place. One that has not ended by then is not polled any more, as in a
/// `select!` whose loser is kept: it must not keep the others from minting for as long as it lies there.
const GRACE: Duration = Duration::from_secs(1);

/// The places of the mints in flight. A place is a lease.
#[derive(Debug)]
pub(crate) struct Limit {
    size: usize,
    /// How long a mint waits for a place.
    patience: Duration,
    /// How long a mint may keep its place.
    lease: Duration,
    taken: Mutex<Taken>,
    /// Tells all who wait that a place is free. Not a semaphore: it would give a place to the first in the queue, which may
    /// not be polled any more.
    freed: Notify,
}

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    until: HashMap<u64, Instant>,
}

/// A mint's place among those in flight.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    limit: &'a Limit,
    number: u64,
}

impl Limit {
    /// For mints that take no longer than `deadline`.
    pub(crate) fn new(places: usize, patience: Duration, deadline: Duration) -> Self {
        let lease = deadline + GRACE;
        Self {
            size: places.max(1),
            patience,
            lease,
            taken: Mutex::default(),
            freed: Notify::new(),
        }
    }

    pub(crate) fn try_enter(&self) -> Option<Place<'_>> {
        let now = Instant::now();
        let (number, lost) = {
            let mut taken = self.taken();
            let lost = if taken.until.len() < self.size {
                0
            } else {
                taken.drop_lost(now)
            };
            let number = (taken.until.len() < self.size).then(|| {
                taken.next += 1;
                let number = taken.next;
                taken.until.insert(number, now + self.lease);
                number
            });
            (number, lost)
        };
        metrics::left_flight(lost);
        let number = number?;
        metrics::entered_flight();
        Some(Place {
            limit: self,
            number,
        })
    }

    /// Waits for a place.
    pub(crate) async fn enter(&self, deadline: Instant) -> Result<Place<'_>, MintError> {
        let end = deadline.min(Instant::now() + self.patience);
        loop {
            // Before the question, or a place that becomes free in between would be missed.
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

impl Taken {
    /// Frees the places of mints that are not polled any more, and returns how many there were.
    fn drop_lost(&mut self, now: Instant) -> usize {
        let before = self.until.len();
        self.until.retain(|_, until| *until > now);
        before - self.until.len()
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        // It may have been lost to another mint.
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

    const PATIENCE: Duration = Duration::from_millis(50);
    const DEADLINE: Duration = Duration::from_secs(3);

    fn limit(places: usize) -> Limit {
        Limit::new(places, PATIENCE, DEADLINE)
    }

    #[tokio::test(start_paused = true)]
    async fn a_mint_waits_for_a_place_for_a_moment() {
        let limit = limit(1);
        let first = limit.try_enter().expect("a place");
        assert!(limit.try_enter().is_none());
        let start = Instant::now();
        let error = limit.enter(start + DEADLINE).await.expect_err("no place");
        assert_eq!(
            (error.kind(), start.elapsed()),
            (MintErrorKind::Overloaded, PATIENCE)
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
    async fn a_place_is_lost_after_the_deadline_and_a_second() {
        let limit = limit(1);
        let parked = limit.try_enter().expect("a place");
        advance(DEADLINE + GRACE).await;
        assert_eq!(limit.in_flight(), 0);
        let next = limit.try_enter().expect("the parked one's place");
        // Its late end frees no place of another's.
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
