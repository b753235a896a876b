//! Pools of connections, and how one that may be dead is replaced.
//!
//! A load balancer's failover leaves connections behind that look open and never answer again. Hyper's client takes an idle
//! connection wherever there is one, so an attempt that must not is given a client of its own, whose pool is empty.

use std::mem;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use tokio::time::Instant;

use super::transport::Transport;

/// A client with the connections that it keeps.
pub(crate) struct Pool {
    pub(crate) transport: Transport,
    /// How many attempts more its mints may make.
    pub(crate) allowance: Arc<Allowance>,
}

impl Pool {
    fn new(transport: Transport) -> Arc<Self> {
        Arc::new(Self {
            transport,
            allowance: Arc::default(),
        })
    }
}

/// The pool in use, and how to open the next one.
pub(crate) struct Pools {
    /// Nothing for a service of the application's own, which cannot be made anew.
    open: Option<Box<dyn Fn() -> Transport + Send + Sync>>,
    current: RwLock<Current>,
}

struct Current {
    pool: Arc<Pool>,
    /// When the last pool was retired whose mints may have more attempts for it.
    allowed_at: Option<Instant>,
}

impl Pools {
    /// Of this service for ever.
    pub(crate) fn only(transport: Transport) -> Self {
        Self {
            open: None,
            current: RwLock::new(Current {
                pool: Pool::new(transport),
                allowed_at: None,
            }),
        }
    }

    /// Of clients that are made like this.
    pub(crate) fn of(open: impl Fn() -> Transport + Send + Sync + 'static) -> Self {
        let first = Self::only(open());
        Self {
            open: Some(Box::new(open)),
            ..first
        }
    }

    /// Whether it is not a service of the application's own that sends.
    pub(crate) fn are_ours(&self) -> bool {
        self.open.is_some()
    }

    pub(crate) fn current(&self) -> Arc<Pool> {
        Arc::clone(&self.read().pool)
    }

    /// Retires the pool in use: whatever is sent from now on opens a new connection.
    pub(crate) fn renew(&self) {
        let current = self.current();
        current.allowance.forfeit();
        self.retire(&current);
    }

    /// Retires this pool unless it is retired already, so that a hundred attempts that fail together do it once. What is in
    /// flight goes on. Tells how many attempts more there may be for it.
    pub(crate) fn retire(&self, pool: &Arc<Pool>) -> Option<Arc<Allowance>> {
        let open = self.open.as_ref()?;
        let retired = {
            let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
            if Arc::ptr_eq(&current.pool, pool) {
                let now = Instant::now();
                if pool.allowance.has_any()
                    && current
                        .allowed_at
                        .is_none_or(|at| now - at >= Allowance::ONCE_IN)
                {
                    current.allowed_at = Some(now);
                } else {
                    pool.allowance.forfeit();
                }
                Some(mem::replace(&mut current.pool, Pool::new(open())))
            } else {
                None
            }
        };
        // Closes its idle connections, which need not happen under the lock.
        drop(retired);
        Some(Arc::clone(&pool.allowance))
    }

    fn read(&self) -> RwLockReadGuard<'_, Current> {
        // Nothing panics while it is held.
        self.current.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many retries there may be after a pool died, before the retry budget is asked: one for each of its mints that
/// succeeded, [`MOST`](Self::MOST) at most.
///
/// The budget keeps retries from multiplying the load on a Released that fails under it. When the pool is dead, nothing
/// reached Released, and as many pages as the pool has connections draw a dead one at once: more than the budget has.
/// It stays bounded, as it is earned by successes and granted to one pool in ten seconds: while Released stalls altogether,
/// no further pool earns any.
#[derive(Debug, Default)]
pub(crate) struct Allowance(AtomicU32);

impl Allowance {
    /// As many as there are idle connections by default.
    const MOST: u32 = 32;

    const FORFEITED: u32 = u32::MAX;

    /// The window of the retry budget.
    const ONCE_IN: Duration = Duration::from_secs(10);

    /// A mint succeeded.
    pub(crate) fn earn(&self) {
        self.update(|left| (left < Self::MOST).then(|| left + 1));
    }

    /// Whether there may be one retry more.
    pub(crate) fn draw(&self) -> bool {
        self.update(|left| (1..=Self::MOST).contains(&left).then(|| left - 1))
    }

    /// From now on, it neither grows nor gives.
    fn forfeit(&self) {
        self.0.store(Self::FORFEITED, Ordering::Relaxed);
    }

    fn has_any(&self) -> bool {
        (1..=Self::MOST).contains(&self.0.load(Ordering::Relaxed))
    }

    fn update(&self, change: impl Fn(u32) -> Option<u32>) -> bool {
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, change)
            .is_ok()
    }
}

/// The pool that an attempt draws its connection from, until there is an answer. It is retired if there is none.
#[derive(Default)]
pub(crate) struct Waiting(Mutex<Option<Arc<Pool>>>);

impl Waiting {
    pub(crate) fn begin(&self, pool: &Arc<Pool>) {
        self.set(Some(Arc::clone(pool)));
    }

    pub(crate) fn end(&self) {
        self.set(None);
    }

    pub(crate) fn take(&self) -> Option<Arc<Pool>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn set(&self, pool: Option<Arc<Pool>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = pool;
    }
}

#[cfg(test)]
mod tests {
    use std::iter;

    use bytes::Bytes;
    use http::{Request, Response};
    use http_body_util::Full;
    use tokio::time::advance;

    use super::*;
    use crate::client::endpoint::Endpoint;
    use crate::client::transport::hyper;

    fn pools() -> Pools {
        let endpoint = Endpoint::parse("http://127.0.0.1:1/").expect("an endpoint");
        hyper::pools(&endpoint).expect("a transport")
    }

    /// Retires a pool that minted so many tokens, and tells how many attempts that allows for.
    fn allowed_after(pools: &Pools, mints: u32) -> usize {
        let pool = pools.current();
        (0..mints).for_each(|_| pool.allowance.earn());
        let allowance = pools.retire(&pool).expect("it can be made anew");
        iter::from_fn(|| allowance.draw().then_some(())).count()
    }

    #[tokio::test(start_paused = true)]
    async fn a_pool_is_retired_once() {
        let pools = pools();
        let first = pools.current();
        pools.retire(&first);
        let second = pools.current();
        assert!(!Arc::ptr_eq(&first, &second));
        for _ in 0..100 {
            pools.retire(&first);
        }
        assert!(Arc::ptr_eq(&second, &pools.current()));
        pools.renew();
        assert!(!Arc::ptr_eq(&second, &pools.current()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_of_the_applications_own_is_kept() {
        let never = tower_test::mock::spawn::<Request<Full<Bytes>>, Response<Full<Bytes>>>()
            .0
            .into_inner();
        let pools = Pools::only(Transport::new(never));
        let pool = pools.current();
        pool.allowance.earn();
        assert!(
            pools.retire(&pool).is_none(),
            "and allows for nothing, as its next connection may be as dead"
        );
        pools.renew();
        assert!(Arc::ptr_eq(&pool, &pools.current()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pool_that_died_allows_for_one_attempt_a_success_and_32_at_most() {
        for (mints, allowed) in [(0, 0), (1, 1), (24, 24), (32, 32), (1000, 32)] {
            assert_eq!(allowed_after(&pools(), mints), allowed);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn within_ten_seconds_one_pool_allows_for_attempts() {
        let pools = pools();
        // A pool without a success is none.
        assert_eq!(allowed_after(&pools, 0), 0);
        assert_eq!(allowed_after(&pools, 5), 5);
        advance(Duration::from_secs(9)).await;
        let late = pools.current();
        assert_eq!(allowed_after(&pools, 5), 0);
        late.allowance.earn();
        assert!(!late.allowance.draw(), "a late success changes nothing");
        advance(Duration::from_secs(1)).await;
        assert_eq!(allowed_after(&pools, 5), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pool_that_is_left_for_a_probe_uses_up_nothing() {
        let pools = pools();
        let left = pools.current();
        left.allowance.earn();
        pools.renew();
        assert!(!left.allowance.draw());
        assert_eq!(allowed_after(&pools, 5), 5);
    }
}
