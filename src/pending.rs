//! The promise of a token, one to a request.
//!
//! A mint that was started is always driven to its end: by the response future until the response's head leaves, and
//! then, while a body still holds the promise, by a task of its own. A mint that is polled once and then never again
//! would keep what it holds: a place among those in flight, a session's lock, a pooled connection.

use std::fmt;
use std::future::poll_fn;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use crate::error::{MintError, MintErrorKind};
use crate::sync::{AtomicUsize, Mutex, MutexGuard, Ordering};
use crate::token::AuthToken;

/// How a mint ends: with a token, with nobody to mint for, or with an error.
pub(crate) type Outcome = Result<Option<AuthToken>, MintError>;

/// A mint, from the resolver to the token, as a boxed future.
pub(crate) type Mint = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// Promises the token of one request. [`get`](Self::get) waits for it.
///
/// The layer puts it into the request's extensions, with every [`MintTiming`](crate::MintTiming). All clones share one
/// mint and get the same result.
///
/// # Who drives the mint
///
/// A mint that was started goes on until it ends, even if nobody awaits [`get`](Self::get) any more. The layer drives
/// it until the response's head leaves. After that, a `tokio` task drives it for as long as a clone exists, for example
/// in a streamed body. Outside of a `tokio` runtime there is no such task, so a body must poll what it started.
///
/// # Example
///
/// ```
/// use http::Request;
/// use tower_released::{PendingToken, embed};
///
/// // hyper, tonic, or any other service behind the layer:
/// async fn portal<B>(request: &Request<B>) -> String {
///     let Some(pending) = request.extensions().get::<PendingToken>() else {
///         return String::new(); // the filter skipped this request
///     };
///     match pending.get().await {
///         Ok(Some(token)) => embed::page("CHANNEL").token(&token).to_string(),
///         Ok(None) => "<p>Sign in to see the roadmap.</p>".to_owned(),
///         Err(_) => "<p>The roadmap is unavailable.</p>".to_owned(),
///     }
/// }
/// ```
pub struct PendingToken {
    shared: Arc<Shared>,
}

impl PendingToken {
    /// Waits for the token. Returns `Ok(None)` if nobody is signed in.
    ///
    /// A request mints at most once, however often this is called. The result is kept, even an error.
    ///
    /// # Errors
    ///
    /// The mint failed. If the request was dropped before its mint ended, the kind is [`MintErrorKind::Interrupted`].
    ///
    /// # Cancel safety
    ///
    /// Dropping this future loses nothing: the mint goes on, and the next call gets its result. A future that is polled
    /// once and then neither polled nor dropped does not delay other callers.
    pub async fn get(&self) -> Result<Option<AuthToken>, MintError> {
        let outcome = poll_fn(|cx| self.shared.poll(cx, Asker::Holder)).await;
        if matches!(outcome, Ok(Some(_))) {
            self.shared.holders.fetch_or(TAKEN, Ordering::Release);
        }
        outcome
    }
}

impl Clone for PendingToken {
    fn clone(&self) -> Self {
        self.shared.holders.fetch_add(ONE_HOLDER, Ordering::Relaxed);
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl Drop for PendingToken {
    fn drop(&mut self) {
        let before = self.shared.holders.fetch_sub(ONE_HOLDER, Ordering::AcqRel);
        if before & !TAKEN == ONE_HOLDER {
            self.shared.end_if_the_head_has_left();
        }
    }
}

impl fmt::Debug for PendingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never waits: a mint may print this while it is polled.
        let outcome = match self.shared.state.try_lock().as_deref() {
            Ok(State::Done(outcome)) => Some(outcome.clone()),
            _ => None,
        };
        f.debug_struct("PendingToken").field("outcome", &outcome).finish_non_exhaustive()
    }
}

/// Drives the mint of a promise, for the response future that keeps it. Dropping it cancels the mint.
pub(crate) struct Driver {
    shared: Option<Arc<Shared>>,
}

impl Driver {
    /// Creates a promise of what `mint` will return. Nothing happens before it is polled.
    pub(crate) fn new(mint: Mint) -> (PendingToken, Self) {
        let running = Running { mint, driver: None, is_started: false, has_head_left: false, is_detached: false };
        let shared = Arc::new(Shared {
            state: Mutex::new(State::Running(running)),
            wakers: Mutex::new(Wakers { waiting: Vec::new(), is_awake: true }),
            holders: AtomicUsize::new(ONE_HOLDER),
        });
        (PendingToken { shared: Arc::clone(&shared) }, Self { shared: Some(shared) })
    }

    /// Drives the mint, and starts it if it has not started.
    pub(crate) fn start(&self, cx: &mut Context<'_>) -> Poll<Outcome> {
        self.poll(cx, Asker::Starter)
    }

    /// Drives the mint if it has started. Otherwise the task is woken when it starts.
    pub(crate) fn drive(&self, cx: &mut Context<'_>) -> Poll<Outcome> {
        self.poll(cx, Asker::Driver)
    }

    fn poll(&self, cx: &mut Context<'_>, asker: Asker) -> Poll<Outcome> {
        match &self.shared {
            Some(shared) => shared.poll(cx, asker),
            None => Poll::Ready(interrupted()),
        }
    }

    /// Notes that the token is in the request's extensions, where it can be read without a call.
    pub(crate) fn mark_taken(&self) {
        if let Some(shared) = &self.shared {
            shared.holders.fetch_or(TAKEN, Ordering::Release);
        }
    }

    /// Ends the layer's part, when the response's head leaves. If the promise is still held, a task drives the mint
    /// from now on; otherwise the mint ends. Returns whether the response may carry the token.
    pub(crate) fn leave(mut self) -> bool {
        let Some(shared) = self.shared.take() else { return false };
        let (may_carry_token, must_detach) = shared.let_head_leave();
        if must_detach {
            detach(shared);
        }
        may_carry_token
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if let Some(shared) = &self.shared {
            shared.cancel();
        }
    }
}

/// Drives the mint in a task, which ends with the mint or with the promise's last clone.
fn detach(shared: Arc<Shared>) {
    // In a runtime that is not tokio's, the holders of the promise drive it.
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(async move { poll_fn(|cx| shared.poll(cx, Asker::Starter)).await.map(drop) });
    }
}

/// Set in [`Shared::holders`] when a holder got the token.
const TAKEN: usize = 1;

/// Added to [`Shared::holders`] for each [`PendingToken`].
const ONE_HOLDER: usize = 2;

struct Shared {
    /// Locked for one poll at a time. If it were locked from the first poll to the last, a waiter that is no longer
    /// polled would stop all others.
    state: Mutex<State>,
    /// Locked after `state`, if both are: the mint may wake while it is polled.
    wakers: Mutex<Wakers>,
    /// How many hold the promise, and whether the token was taken out of it. Both are in one number, because a renderer
    /// may take the token and drop the promise between two reads.
    holders: AtomicUsize,
}

enum State {
    Running(Running),
    Done(Outcome),
}

struct Running {
    mint: Mint,
    /// The response future's waker, while nobody has started the mint.
    driver: Option<Waker>,
    is_started: bool,
    has_head_left: bool,
    /// A task drives the mint.
    is_detached: bool,
}

/// All wakers that wait for one mint: the task that polled it last may not be there to poll it next.
struct Wakers {
    waiting: Vec<Waker>,
    /// The mint was woken since its last poll. Without this, the layer and the handler would poll it whenever their
    /// task is woken for another reason.
    is_awake: bool,
}

/// Who polls a mint.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asker {
    /// The application, which starts the mint. Possibly nothing else drives it.
    Holder,
    /// The layer or the task, which starts the mint and will poll it again.
    Starter,
    /// The layer, which waits until the application starts the mint.
    Driver,
}

impl Shared {
    fn poll(self: &Arc<Self>, cx: &mut Context<'_>, asker: Asker) -> Poll<Outcome> {
        let mut state = self.state();
        let running = match &mut *state {
            State::Done(outcome) => return Poll::Ready(outcome.clone()),
            State::Running(running) => running,
        };
        if asker == Asker::Driver && !running.is_started {
            match &mut running.driver {
                Some(driver) => driver.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            }
            return Poll::Pending;
        }
        running.is_started = true;
        {
            let mut wakers = self.wakers();
            if !mem::take(&mut wakers.is_awake) {
                wakers.add(cx.waker());
                return Poll::Pending;
            }
        }
        let waker = Waker::from(Arc::clone(self));
        let unless_it_panics = WakeOnDrop(self);
        let polled = running.mint.as_mut().poll(&mut Context::from_waker(&waker));
        mem::forget(unless_it_panics);
        if let Poll::Ready(outcome) = polled {
            self.finish(state, outcome.clone());
            return Poll::Ready(outcome);
        }
        // After the poll, because most mints without a user end with the first poll, and then there is no waker to add.
        let mut wakers = self.wakers();
        wakers.add(cx.waker());
        if let Some(driver) = running.driver.take() {
            wakers.add(&driver);
        }
        let was_woken = wakers.is_awake;
        drop(wakers);
        let must_detach = asker == Asker::Holder && running.must_detach();
        drop(state);
        if was_woken {
            self.wake_all();
        }
        if must_detach {
            detach(Arc::clone(self));
        }
        Poll::Pending
    }

    /// Returns whether the response may carry the token, and whether a task must drive the mint from now on.
    fn let_head_leave(&self) -> (bool, bool) {
        let mut state = self.state();
        match &mut *state {
            State::Done(outcome) => {
                let is_token = matches!(outcome, Ok(Some(_)));
                (is_token && self.holders.load(Ordering::Acquire) != 0, false)
            }
            // Nobody has taken what is not there yet.
            State::Running(_) if self.holders.load(Ordering::Acquire) == 0 => {
                self.finish(state, interrupted());
                (false, false)
            }
            State::Running(running) => {
                running.has_head_left = true;
                (true, running.must_detach())
            }
        }
    }

    /// Drops the mint and its connection, if it is not done. Waiting callers get an error.
    fn cancel(&self) {
        let state = self.state();
        if matches!(*state, State::Running(_)) {
            self.finish(state, interrupted());
        }
    }

    /// Drops the mint if nothing needs it any more: the promise has no holder, and the response future is gone.
    fn end_if_the_head_has_left(&self) {
        let state = self.state();
        if matches!(&*state, State::Running(running) if running.has_head_left) {
            self.finish(state, interrupted());
        }
    }

    /// Keeps the outcome and wakes all waiting tasks.
    fn finish(&self, mut state: MutexGuard<'_, State>, outcome: Outcome) {
        let before = mem::replace(&mut *state, State::Done(outcome));
        // What is dropped or woken must not find the lock held.
        drop(state);
        drop(before);
        self.wake_all();
    }

    fn wake_all(&self) {
        let waiting = mem::take(&mut self.wakers().waiting);
        waiting.into_iter().for_each(Waker::wake);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| {
            // The mint panicked, so it cannot go on.
            let mut state = PoisonError::into_inner(poisoned);
            if matches!(*state, State::Running(_)) {
                *state = State::Done(interrupted());
            }
            state
        })
    }

    fn wakers(&self) -> MutexGuard<'_, Wakers> {
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Running {
    /// Returns whether the mint is started, and nothing but its holders would drive it.
    fn must_detach(&mut self) -> bool {
        let must_detach = self.is_started && self.has_head_left && !self.is_detached;
        self.is_detached |= must_detach;
        must_detach
    }
}

impl Wakers {
    fn add(&mut self, waker: &Waker) {
        if !self.waiting.iter().any(|known| known.will_wake(waker)) {
            self.waiting.push(waker.clone());
        }
    }
}

/// The mint's own waker. It keeps `Shared` alive in a cycle until the mint ends. The response future or the promise's
/// last clone ends the mint.
impl Wake for Shared {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Set before the wakers are taken: a task that is added after that polls the mint.
        self.wakers().is_awake = true;
        self.wake_all();
    }
}

/// Wakes all tasks if the mint panics in the poll of one, so that the others get an error.
struct WakeOnDrop<'a>(&'a Shared);

impl Drop for WakeOnDrop<'_> {
    fn drop(&mut self) {
        self.0.wake_all();
    }
}

fn interrupted() -> Outcome {
    Err(MintError::new(MintErrorKind::Interrupted))
}

#[cfg(all(test, not(tower_released_loom)))]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn a_mint_is_polled_again_only_when_it_was_woken() {
        let polls = Arc::<AtomicUsize>::default();
        let waker = Arc::<Mutex<Option<Waker>>>::default();
        let (_pending, driver) = Driver::new({
            let (polls, waker) = (Arc::clone(&polls), Arc::clone(&waker));
            Box::pin(poll_fn(move |cx| {
                *waker.lock().expect("nobody panics") = Some(cx.waker().clone());
                if polls.fetch_add(1, Ordering::Relaxed) < 2 { Poll::Pending } else { Poll::Ready(Ok(None)) }
            }))
        });
        let cx = &mut Context::from_waker(Waker::noop());
        let wake = || waker.lock().expect("nobody panics").take().expect("polled").wake();

        for woken in 0..3 {
            // As often as other events wake the task.
            for _ in 0..3 {
                assert_eq!(driver.start(cx).is_ready(), woken == 2);
                assert_eq!(polls.load(Ordering::Relaxed), woken + 1);
            }
            if woken < 2 {
                wake();
            }
        }
    }

    #[test]
    fn debug_does_not_wait_for_a_mint_that_prints_its_own_promise() {
        let promise = Arc::<std::sync::OnceLock<PendingToken>>::default();
        let (pending, driver) = Driver::new({
            let promise = Arc::clone(&promise);
            Box::pin(async move {
                assert!(format!("{promise:?}").contains("PendingToken"));
                Ok(None)
            })
        });
        promise.set(pending).expect("the first");
        assert!(driver.start(&mut Context::from_waker(Waker::noop())).is_ready());
    }
}

/// Every order of events that the threads can have: RUSTFLAGS="--cfg tower_released_loom" cargo test --lib loom
#[cfg(all(test, tower_released_loom))]
mod loom {
    use ::loom::future::{AtomicWaker, block_on};
    use ::loom::sync::atomic::AtomicBool;
    use ::loom::thread;

    use super::*;

    fn check(model: impl Fn() + Send + Sync + 'static) {
        let mut builder = ::loom::model::Builder::new();
        // More switches between threads than that find no more, and take for ever.
        builder.preemption_bound = Some(3);
        builder.check(model);
    }

    fn token() -> Outcome {
        Ok(Some(AuthToken::new("t").expect("a token")))
    }

    /// What a mint waits for.
    #[derive(Default)]
    struct Gate {
        is_open: AtomicBool,
        waker: AtomicWaker,
    }

    impl Gate {
        fn open(&self) {
            self.is_open.store(true, Ordering::Release);
            self.waker.wake();
        }

        /// A mint that ends when the gate is open.
        fn mint(self: &Arc<Self>) -> Mint {
            let gate = Arc::clone(self);
            Box::pin(poll_fn(move |cx| {
                gate.waker.register_by_ref(cx.waker());
                if gate.is_open.load(Ordering::Acquire) { Poll::Ready(token()) } else { Poll::Pending }
            }))
        }
    }

    #[test]
    fn nobody_who_waits_is_forgotten() {
        check(|| {
            let gate = Arc::<Gate>::default();
            let (pending, driver) = Driver::new(gate.mint());
            let other = thread::spawn({
                let pending = pending.clone();
                move || block_on(pending.get())
            });
            let opener = thread::spawn(move || gate.open());
            assert!(matches!(block_on(pending.get()), Ok(Some(_))));
            assert!(matches!(other.join().expect("no panic"), Ok(Some(_))));
            opener.join().expect("no panic");
            assert!(driver.leave());
        });
    }

    #[test]
    fn a_wake_that_comes_during_a_poll_is_not_lost() {
        check(|| {
            let gate = Arc::<Gate>::default();
            let (_pending, driver) = Driver::new(gate.mint());
            let opener = thread::spawn(move || gate.open());
            assert!(matches!(block_on(poll_fn(|cx| driver.start(cx))), Ok(Some(_))));
            opener.join().expect("no panic");
        });
    }

    #[test]
    fn the_layer_goes_on_where_somebody_else_left_the_mint_alone() {
        check(|| {
            let gate = Arc::<Gate>::default();
            let (pending, driver) = Driver::new(gate.mint());
            let starter = thread::spawn({
                let pending = pending.clone();
                move || {
                    let mut asked = std::pin::pin!(pending.get());
                    let _ = asked.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                    // Neither dropped nor polled any more while the layer waits.
                    gate.open();
                }
            });
            assert!(matches!(block_on(poll_fn(|cx| driver.drive(cx))), Ok(Some(_))));
            starter.join().expect("no panic");
            drop(pending);
        });
    }

    #[test]
    fn a_response_whose_token_was_taken_is_never_called_free_of_it() {
        check(|| {
            let (pending, driver) = Driver::new(Box::pin(async { token() }));
            let renderer = thread::spawn(move || {
                let token = block_on(pending.get());
                drop(pending);
                assert!(matches!(token, Ok(Some(_)) | Err(_)));
                token.is_ok()
            });
            let may_carry_token = driver.leave();
            let has_token = renderer.join().expect("no panic");
            assert!(may_carry_token || !has_token, "the response would stay public");
        });
    }

    #[test]
    fn a_mint_that_outlives_the_head_gets_exactly_one_task() {
        check(|| {
            let gate = Arc::<Gate>::default();
            let (pending, mut driver) = Driver::new(gate.mint());
            let shared = driver.shared.take().expect("it is new");
            let body = thread::spawn({
                let shared = Arc::clone(&shared);
                move || {
                    let _ = shared.poll(&mut Context::from_waker(Waker::noop()), Asker::Holder);
                }
            });
            let (may_carry_token, _) = shared.let_head_leave();
            body.join().expect("no panic");
            let state = shared.state();
            assert!(matches!(&*state, State::Running(running) if running.is_detached), "nobody drives it");
            assert!(may_carry_token);
            drop(state);
            drop(pending);
        });
    }

    #[test]
    fn the_task_ends_with_the_promises_last_clone() {
        check(|| {
            let gate = Arc::<Gate>::default();
            let (pending, mut driver) = Driver::new(gate.mint());
            let shared = driver.shared.take().expect("it is new");
            let _ = shared.poll(&mut Context::from_waker(Waker::noop()), Asker::Starter);
            assert_eq!(shared.let_head_leave(), (true, true));
            let task = thread::spawn(move || block_on(poll_fn(|cx| shared.poll(cx, Asker::Starter))));
            let clone = pending.clone();
            let other = thread::spawn(move || drop(clone));
            drop(pending);
            other.join().expect("no panic");
            let outcome = task.join().expect("no panic");
            assert_eq!(outcome.expect_err("the gate stays shut").kind(), MintErrorKind::Interrupted);
        });
    }
}
