//! The promise of a token, one to a request.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Wake, Waker, ready};

use crate::error::{MintError, MintErrorKind};
use crate::telemetry::warn;
use crate::token::AuthToken;

/// How a mint ends: with a token, with nobody to mint for, or with an error.
pub(crate) type Outcome = Result<Option<AuthToken>, MintError>;

/// A mint, from the resolver to the token, that nobody needs to name.
pub(crate) type Mint = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// The token of one request, minted or not yet.
///
/// The layer puts it into the request's extensions whatever the [`MintTiming`](crate::MintTiming). All clones share one
/// mint: whoever awaits [`get`](Self::get) drives it, and everybody gets its result.
///
/// # Example
///
/// ```
/// use http::Request;
/// use tower_released::PendingToken;
///
/// // hyper, tonic, or any other service behind the layer:
/// async fn embed<B>(request: &Request<B>) -> String {
///     let Some(pending) = request.extensions().get::<PendingToken>() else {
///         return String::new(); // the filter passed this request over
///     };
///     match pending.get().await {
///         Ok(Some(token)) => format!(r#"<released-page channel-id="c1" auth-token="{token}"></released-page>"#),
///         Ok(None) => "<p>Sign in to see the roadmap.</p>".to_owned(),
///         Err(_) => "<p>The roadmap is having a rest.</p>".to_owned(),
///     }
/// }
/// ```
#[derive(Clone)]
pub struct PendingToken {
    shared: Arc<Shared>,
}

struct Shared {
    outcome: OnceLock<Outcome>,
    // Locked for one poll at a time. A lock that is held from the first poll to the last, such as the permit of tokio's
    // `OnceCell`, would let a waiter that is not polled any more stop all the others.
    running: Mutex<Option<Running>>,
    handed_out: AtomicBool,
}

struct Running {
    mint: Mint,
    /// From the first poll on.
    waiters: Option<Arc<Waiters>>,
}

impl PendingToken {
    /// The promise of what `mint` will yield. Nothing happens before somebody asks.
    pub(crate) fn new(mint: Mint) -> Self {
        Self::with(OnceLock::new(), Some(Running { mint, waiters: None }))
    }

    /// The promise of what is known already.
    pub(crate) fn kept(outcome: Outcome) -> Self {
        Self::with(OnceLock::from(outcome), None)
    }

    fn with(outcome: OnceLock<Outcome>, running: Option<Running>) -> Self {
        let handed_out = AtomicBool::new(false);
        Self { shared: Arc::new(Shared { outcome, running: Mutex::new(running), handed_out }) }
    }

    /// Waits for the token; `Ok(None)` if nobody is signed in.
    ///
    /// There is one mint a request, however many ask and however often: its result is kept, an error too.
    ///
    /// # Errors
    ///
    /// Why there is no token although somebody is signed in. If the request was dropped before its mint was done, that is
    /// [`MintErrorKind::Interrupted`].
    ///
    /// # Cancel safety
    ///
    /// Dropping this future, or leaving it alone half way, neither loses the mint nor holds up others who ask: it goes
    /// on where it was when the next one does.
    pub async fn get(&self) -> Result<Option<AuthToken>, MintError> {
        let outcome = poll_fn(|cx| self.poll(cx)).await;
        if matches!(outcome, Ok(Some(_))) {
            self.mark_handed_out();
        }
        outcome.clone()
    }

    /// Drives the mint, and tells how it ended.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<&Outcome> {
        if let Some(outcome) = self.shared.outcome.get() {
            return Poll::Ready(outcome);
        }
        let mut slot = self.running();
        let Some(running) = slot.as_mut() else {
            drop(slot);
            // Done in the meantime. Or it panicked under somebody else's poll, and will never be.
            return Poll::Ready(self.shared.outcome.get_or_init(interrupted));
        };
        let waiters = running.waiters.get_or_insert_default();
        waiters.add(cx.waker());
        if !waiters.take_wake() {
            return Poll::Pending;
        }
        let wake_all = Waker::from(Arc::clone(waiters));
        let unless_it_panics = WakeOnDrop(waiters);
        let polled = running.mint.as_mut().poll(&mut Context::from_waker(&wake_all));
        std::mem::forget(unless_it_panics);
        let outcome = ready!(polled);
        log_failure(&outcome);
        Poll::Ready(self.finish(slot, outcome))
    }

    /// Drops the mint, and with it its connection, if it is not done. Whoever still waits is told so.
    pub(crate) fn cancel(&self) {
        let slot = self.running();
        if slot.is_some() {
            self.finish(slot, interrupted());
        }
    }

    fn finish(&self, mut slot: MutexGuard<'_, Option<Running>>, outcome: Outcome) -> &Outcome {
        let outcome = self.shared.outcome.get_or_init(|| outcome);
        let running = slot.take();
        // What is woken or dropped must not find the lock held.
        drop(slot);
        if let Some(Running { mint, waiters }) = running {
            drop(mint);
            if let Some(waiters) = waiters {
                waiters.wake_all();
            }
        }
        outcome
    }

    fn running(&self) -> MutexGuard<'_, Option<Running>> {
        self.shared.running.lock().unwrap_or_else(|poisoned| {
            // The mint panicked, so it cannot go on.
            let mut slot = PoisonError::into_inner(poisoned);
            *slot = None;
            slot
        })
    }

    pub(crate) fn mark_handed_out(&self) {
        self.shared.handed_out.store(true, Ordering::Relaxed);
    }

    /// Whether somebody got the token, or may still get it: a body that is streamed later may hold a clone.
    pub(crate) fn may_be_in_the_response(&self) -> bool {
        match self.shared.outcome.get() {
            Some(Ok(None) | Err(_)) => false,
            Some(Ok(Some(_))) | None => {
                self.shared.handed_out.load(Ordering::Relaxed) || Arc::strong_count(&self.shared) > 1
            }
        }
    }
}

/// Everybody who waits for one mint: whoever polled it last may not be the one who is there to poll it next.
#[derive(Default)]
struct Waiters {
    wakers: Mutex<Vec<Waker>>,
    /// Nothing has changed for the mint since its last poll. The layer and the handler poll it in turn, and so does
    /// everything else that wakes their task.
    is_asleep: AtomicBool,
}

impl Waiters {
    /// Whether the mint is to be polled; not again until it was woken.
    fn take_wake(&self) -> bool {
        !self.is_asleep.swap(true, Ordering::AcqRel)
    }

    fn wake_mint(&self) {
        // Before the wakers are taken: who is added after that finds it awake.
        self.is_asleep.store(false, Ordering::Release);
        self.wake_all();
    }

    fn add(&self, waker: &Waker) {
        let mut wakers = self.wakers();
        if !wakers.iter().any(|known| known.will_wake(waker)) {
            wakers.push(waker.clone());
        }
    }

    fn wake_all(&self) {
        let wakers = std::mem::take(&mut *self.wakers());
        for waker in wakers {
            waker.wake();
        }
    }

    fn wakers(&self) -> MutexGuard<'_, Vec<Waker>> {
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wakes everybody if the mint panics under the poll of one: the others must find out.
struct WakeOnDrop<'a>(&'a Waiters);

impl Drop for WakeOnDrop<'_> {
    fn drop(&mut self) {
        self.0.wake_all();
    }
}

impl Wake for Waiters {
    fn wake(self: Arc<Self>) {
        self.wake_mint();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.wake_mint();
    }
}

fn interrupted() -> Outcome {
    Err(MintError::new(MintErrorKind::Interrupted))
}

/// Says that a page goes on without its token. Here, because every mint's result comes by once.
pub(crate) fn log_failure(outcome: &Outcome) {
    if let Err(error) = outcome {
        warn!("error.type" = error.kind().as_str(), "no auth token for this request: {error}");
    }
}

impl fmt::Debug for PendingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingToken").field("outcome", &self.shared.outcome.get()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn a_mint_is_polled_again_only_when_it_was_woken() {
        let polls = Arc::<AtomicUsize>::default();
        let waker = Arc::<Mutex<Option<Waker>>>::default();
        let pending = PendingToken::new({
            let (polls, waker) = (Arc::clone(&polls), Arc::clone(&waker));
            Box::pin(poll_fn(move |cx| {
                *waker.lock().expect("nobody panics") = Some(cx.waker().clone());
                if polls.fetch_add(1, Ordering::Relaxed) < 2 { Poll::Pending } else { Poll::Ready(Ok(None)) }
            }))
        });
        let cx = &mut Context::from_waker(Waker::noop());
        let wake = || waker.lock().expect("nobody panics").take().expect("polled").wake();

        for woken in 0..3 {
            // As often as whatever else wakes the task.
            for _ in 0..3 {
                assert_eq!(pending.poll(cx).is_ready(), woken == 2);
                assert_eq!(polls.load(Ordering::Relaxed), woken + 1);
            }
            if woken < 2 {
                wake();
            }
        }
    }
}
