//! Pools of connections, and the replacement of a pool whose connections may be dead.
//!
//! A load balancer's failover leaves connections that look open and never answer again. Hyper's client always prefers
//! an idle connection. To open a new one, an attempt needs a new client, whose pool is empty.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::Instant;

use super::transport::Transport;

/// An HTTP client with its connections.
pub(crate) struct Pool {
    pub(crate) transport: Transport,
    /// The extra retries for its mints, should its connections die.
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

/// The pool in use, and a function that opens the next one.
pub(crate) struct Pools {
    /// `None` for the application's own service, which cannot be replaced.
    open: Option<Box<dyn Fn() -> Transport + Send + Sync>>,
    current: RwLock<Current>,
}

struct Current {
    pool: Arc<Pool>,
    /// When a retired pool last kept its allowance.
    allowed_at: Option<Instant>,
}

impl Pools {
    /// Uses this service for ever.
    pub(crate) fn fixed(transport: Transport) -> Self {
        Self {
            open: None,
            current: RwLock::new(Current {
                pool: Pool::new(transport),
                allowed_at: None,
            }),
        }
    }

    /// Uses clients that `open` creates.
    pub(crate) fn new(open: impl Fn() -> Transport + Send + Sync + 'static) -> Self {
        Self {
            current: Self::fixed(open()).current,
            open: Some(Box::new(open)),
        }
    }

    /// Returns whether this crate's client sends, not the application's own service.
    pub(crate) fn are_ours(&self) -> bool {
        self.open.is_some()
    }

    pub(crate) fn current(&self) -> Arc<Pool> {
        // Nothing panics while it is held.
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&current.pool)
    }

    /// Retires the pool in use. Later requests open new connections.
    pub(crate) fn renew(&self) {
        let current = self.current();
        current.allowance.forfeit();
        self.retire(&current);
    }

    /// Retires this pool, unless it is retired already: a hundred attempts may fail together. Requests in flight go on.
    /// Returns the pool's allowance.
    pub(crate) fn retire(&self, pool: &Arc<Pool>) -> Option<Arc<Allowance>> {
        let open = self.open.as_ref()?;
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if Arc::ptr_eq(&current.pool, pool) {
            let now = Instant::now();
            let is_due = |at| now - at >= Allowance::EVERY;
            if pool.allowance.has_any() && current.allowed_at.is_none_or(is_due) {
                current.allowed_at = Some(now);
            } else {
                pool.allowance.forfeit();
            }
            // The caller still has the retired pool, so nothing is closed under the lock.
            current.pool = Pool::new(open());
        }
        Some(Arc::clone(&pool.allowance))
    }
}

/// The retries that do not use the budget, for the mints of a pool that died: one for each mint of the pool that
/// succeeded, at most [`MAX`](Self::MAX).
///
/// The budget protects Released from too many retries. But the requests on dead connections did not reach Released, and
/// one for each connection may fail at the same time, which is more than the budget allows. Successes earn the
/// allowance, and one pool in ten seconds may use it. So an outage earns none.
#[derive(Debug, Default)]
pub(crate) struct Allowance(AtomicU32);

impl Allowance {
    /// As many as the default pool has idle connections.
    const MAX: u32 = 32;

    const FORFEITED: u32 = u32::MAX;

    /// The window of the retry budget.
    const EVERY: Duration = Duration::from_secs(10);

    /// Counts a mint that succeeded.
    pub(crate) fn earn(&self) {
        self.update(|left| (left < Self::MAX).then(|| left + 1));
    }

    /// Uses one retry. Returns whether there was one.
    pub(crate) fn draw(&self) -> bool {
        self.update(|left| (1..=Self::MAX).contains(&left).then(|| left - 1))
    }

    /// Ends the allowance: it neither grows nor allows retries any more.
    fn forfeit(&self) {
        self.0.store(Self::FORFEITED, Ordering::Relaxed);
    }

    fn has_any(&self) -> bool {
        (1..=Self::MAX).contains(&self.0.load(Ordering::Relaxed))
    }

    fn update(&self, change: impl Fn(u32) -> Option<u32>) -> bool {
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, change)
            .is_ok()
    }
}

/// The pool whose connection an attempt uses, until it has an answer. If there is no answer, the pool is retired.
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
    use crate::client::transport::Reading;
    use crate::client::transport::hyper;

    fn pools() -> Pools {
        let endpoint = Endpoint::parse("http://127.0.0.1:1/").expect("an endpoint");
        hyper::pools(&endpoint).expect("a transport")
    }

    /// Retires a pool that minted so many tokens, and returns how many retries that allows.
    fn allowed_after(pools: &Pools, mints: u32) -> usize {
        let pool = pools.current();
        (0..mints).for_each(|_| pool.allowance.earn());
        let allowance = pools.retire(&pool).expect("it can be replaced");
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
        let pools = Pools::fixed(Transport::new(never, Reading::TOKEN));
        let pool = pools.current();
        pool.allowance.earn();
        assert!(
            pools.retire(&pool).is_none(),
            "it allows no retries: its next connection may be dead, too"
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
        // A pool without a success does not count.
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
