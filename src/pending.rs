//! The promise of a token, one to a request.
//!
//! A mint that was started is always driven to its end: by the response future until the response's head leaves, and
//! then, while a body still holds the promise, by a task of its own. A promise that was made by hand has no response
//! future, so it gets such a task when it is started. A mint that is polled once and then never again would keep what it
//! holds: a place among those in flight, a session's lock, a pooled connection.

use std::fmt;
use std::future::poll_fn;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};

use tokio::runtime::Handle as Runtime;

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
    /// Creates a promise of what this future returns, for frameworks that are not built on Tower. Behind a
    /// [`ReleasedTokenLayer`](crate::ReleasedTokenLayer) you need none: the layer makes its own.
    ///
    /// The future returns `Ok(None)` if nobody is signed in. It may first find out who is, and then mint.
    ///
    /// # Who drives it
    ///
    /// The future is not polled before the first [`get`](Self::get). If it does not end at once, a task drives it from then
    /// on, in the `tokio` runtime in which `get` was polled, until it ends or the promise's last clone is dropped. So it
    /// goes on while your code does something else, and whatever becomes of the first `get`. To start it early, spawn a
    /// task that calls `get` on a clone.
    ///
    /// Outside of a `tokio` runtime there is no such task: then await `get` to its end, or drop the promise.
    ///
    /// # Cancel safety
    ///
    /// Dropping the promise's last clone drops the future, and so cancels the mint. A promise that nobody asks does
    /// nothing.
    ///
    /// # What the layer would do
    ///
    /// A future that panics does so in the caller that polls it. All others get [`MintErrorKind::Interrupted`].
    ///
    /// Nothing is logged or counted, so log the error. Call
    /// [`forbid_caching`](crate::middleware::forbid_caching) on every response that may carry the token. If you put the
    /// promise into the extensions of a request, the axum extractors find it.
    ///
    /// # Example
    ///
    /// ```
    /// use http::Response;
    /// use tower_released::{PendingToken, User, embed, middleware::forbid_caching};
    /// # #[cfg(feature = "client")]
    /// # use tower_released::ReleasedClient;
    ///
    /// # #[cfg(feature = "client")]
    /// async fn roadmap(released: ReleasedClient, user: Option<User>) -> Response<String> {
    ///     let pending = PendingToken::new(async move {
    ///         let Some(user) = user else { return Ok(None) };
    ///         released.mint(&user).await.map(Some)
    ///     });
    ///     // The mint and the query run at the same time.
    ///     let (token, report) = tokio::join!(pending.get(), slow_query());
    ///     let token = token.inspect_err(|error| tracing::warn!("{error}")).ok().flatten();
    ///     let portal = embed::page("CHANNEL").maybe_token(token.as_ref());
    ///     let mut response = Response::new(format!("{report}{portal}"));
    ///     forbid_caching(response.headers_mut());
    ///     response
    /// }
    /// # async fn slow_query() -> String { String::new() }
    /// ```
    pub fn new(
        token: impl Future<Output = Result<Option<AuthToken>, MintError>> + Send + 'static,
    ) -> Self {
        Self {
            shared: Shared::new(|_| Box::pin(token), Head::Absent),
        }
    }

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
        poll_fn(|cx| self.poll_get(cx)).await
    }
}

impl PendingToken {
    /// Polls [`get`](Self::get).
    pub(crate) fn poll_get(&self, cx: &mut Context<'_>) -> Poll<Outcome> {
        let outcome = self.shared.poll(cx, Asker::Holder);
        if matches!(outcome, Poll::Ready(Ok(Some(_)))) {
            self.shared.holders.fetch_or(TAKEN, Ordering::Release);
        }
        outcome
    }

    /// Waits for the resolver alone, and starts it if it has not started. Nothing is minted for this.
    #[cfg_attr(not(feature = "fill"), allow(dead_code))]
    pub(crate) fn poll_visitor(&self, cx: &mut Context<'_>) -> Poll<Visitor> {
        self.shared.poll_visitor(cx)
    }

    /// Returns whether somebody asked for the token, or the mint has ended.
    pub(crate) fn has_started(&self) -> bool {
        match &*self.shared.state() {
            State::Running(running) => running.asked_for == AskedFor::Token,
            State::Done(_) => true,
        }
    }
}

/// What the resolver says of who visits the page.
#[cfg_attr(not(feature = "fill"), allow(dead_code))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Visitor {
    Anonymous,
    SignedIn,
    /// The resolver or the mint has failed already: there will be no token.
    WithoutToken,
}

impl From<&Outcome> for Visitor {
    fn from(outcome: &Outcome) -> Self {
        match outcome {
            Ok(Some(_)) => Self::SignedIn,
            Ok(None) => Self::Anonymous,
            Err(_) => Self::WithoutToken,
        }
    }
}

/// Where a mint waits between the resolver and the minter, until somebody asks for the token itself.
pub(crate) struct Gate {
    shared: Weak<Shared>,
}

impl Gate {
    /// Waits until somebody asks for the token. That caller polls the mint, so this registers no waker.
    pub(crate) async fn pass(&self) {
        poll_fn(|_| {
            let is_open = self.shared.upgrade().is_none_or(|shared| shared.resolve());
            if is_open {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }
}

impl Clone for PendingToken {
    fn clone(&self) -> Self {
        self.shared.holders.fetch_add(ONE_HOLDER, Ordering::Relaxed);
        Self {
            shared: Arc::clone(&self.shared),
        }
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
        let outcome = match &*self.shared.state() {
            State::Done(outcome) => Some(outcome.clone()),
            State::Running(_) => None,
        };
        f.debug_struct("PendingToken")
            .field("outcome", &outcome)
            .finish_non_exhaustive()
    }
}

/// Drives the mint of a promise, for the response future that keeps it. Dropping it cancels the mint.
pub(crate) struct Driver {
    shared: Option<Arc<Shared>>,
}

impl Driver {
    /// Creates a promise of what the mint will return, which passes the gate after its resolver. Nothing happens before
    /// it is polled.
    pub(crate) fn new(mint: impl FnOnce(Gate) -> Mint) -> (PendingToken, Self) {
        let shared = Shared::new(mint, Head::Coming);
        (
            PendingToken {
                shared: Arc::clone(&shared),
            },
            Self {
                shared: Some(shared),
            },
        )
    }

    /// Notes that the layer starts the mint with its first poll.
    pub(crate) fn mark_started(&self) {
        if let Some(shared) = &self.shared {
            if let State::Running(running) = &mut *shared.state() {
                running.asked_for = AskedFor::Token;
            }
        }
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

    /// Ends the layer's part, when the response's head leaves. If the promise is still held, a task drives the mint
    /// from now on; otherwise the mint ends. Returns whether the response may carry the token, because somebody took it
    /// out of the promise, or can still do so.
    pub(crate) fn leave(mut self) -> bool {
        let Some(shared) = self.shared.take() else {
            return false;
        };
        shared.let_head_leave()
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
fn detach(runtime: &Runtime, shared: Arc<Shared>) {
    /// Ends the mint with its task: when the runtime ends, nothing else drives it.
    struct Task(Arc<Shared>);

    impl Drop for Task {
        fn drop(&mut self) {
            self.0.cancel();
        }
    }

    let task = Task(shared);
    runtime.spawn(async move {
        let _ = poll_fn(|cx| task.0.poll(cx, Asker::Driver)).await;
    });
}

/// Set in [`Shared::holders`] when a holder got the token.
const TAKEN: usize = 1;

/// Added to [`Shared::holders`] for each [`PendingToken`].
const ONE_HOLDER: usize = 2;

struct Shared {
    /// Never locked while the mint is polled: whoever drops a promise, or asks for it, must not wait for a resolver that
    /// blocks its thread.
    state: Mutex<State>,
    /// How many hold the promise, and whether the token was taken out of it. Both are in one number, because a renderer
    /// may take the token and drop the promise between two reads.
    holders: AtomicUsize,
}

enum State {
    Running(Running),
    Done(Outcome),
}

struct Running {
    /// `None` while somebody polls it.
    mint: Option<Mint>,
    /// All wakers that wait for the mint: the task that polled it last may not be there to poll it next.
    waiting: Vec<Waker>,
    /// The mint was woken since its last poll. Without this, the layer and the handler would poll it whenever their
    /// task is woken for another reason.
    is_awake: bool,
    /// The response future's waker, while nobody has started the mint.
    driver: Option<Waker>,
    /// The mint is started by the first who asks for anything, and passes its gate for the first who asks for the token.
    asked_for: AskedFor,
    /// The resolver returned a user. The mint is at its gate, or past it.
    is_resolved: bool,
    /// Somebody waits for the resolver alone.
    resolver_is_awaited: bool,
    head: Head,
}

/// What somebody asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AskedFor {
    Nothing,
    /// Whether somebody is signed in.
    Visitor,
    Token,
}

/// Where the response's head is, and so who drives the mint.
enum Head {
    /// The response future drives it.
    Coming,
    /// It has left. A task in this runtime is to drive the mint once it is started. `None` when there is such a task, or
    /// outside of `tokio`.
    Left(Option<Runtime>),
    /// There is none: the promise was made by hand. A task in the runtime of the first poll is to drive the mint.
    Absent,
}

/// Who polls a mint.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asker {
    /// The application, which starts the mint. Possibly nothing else drives it.
    Holder,
    /// The layer, which starts the mint and will poll it again.
    Starter,
    /// The layer or the task, which drives what the application started, as far as the application wants it.
    Driver,
    /// A caller that asks only whether somebody is signed in, which starts the resolver.
    Visitor,
}

impl Shared {
    /// Creates the state of a promise that one holds.
    fn new(mint: impl FnOnce(Gate) -> Mint, head: Head) -> Arc<Self> {
        Arc::new_cyclic(|shared| {
            let gate = Gate {
                shared: Weak::clone(shared),
            };
            let running = Running {
                mint: Some(mint(gate)),
                waiting: Vec::new(),
                is_awake: true,
                driver: None,
                asked_for: AskedFor::Nothing,
                is_resolved: false,
                resolver_is_awaited: false,
                head,
            };
            Self {
                state: Mutex::new(State::Running(running)),
                holders: AtomicUsize::new(ONE_HOLDER),
            }
        })
    }

    fn poll(self: &Arc<Self>, cx: &mut Context<'_>, asker: Asker) -> Poll<Outcome> {
        let mut mint = {
            let mut state = self.state();
            let running = match &mut *state {
                State::Done(outcome) => return Poll::Ready(outcome.clone()),
                State::Running(running) => running,
            };
            if asker == Asker::Driver && running.asked_for == AskedFor::Nothing {
                match &mut running.driver {
                    Some(driver) => driver.clone_from(cx.waker()),
                    none => *none = Some(cx.waker().clone()),
                }
                return Poll::Pending;
            }
            match asker {
                Asker::Holder | Asker::Starter if running.asked_for != AskedFor::Token => {
                    running.asked_for = AskedFor::Token;
                    // The mint may be at its gate, which wakes nobody.
                    running.is_awake = true;
                }
                Asker::Visitor if running.asked_for == AskedFor::Nothing => {
                    running.asked_for = AskedFor::Visitor;
                }
                _ => {}
            }
            match &mut running.mint {
                mint @ Some(_) if mem::take(&mut running.is_awake) => mint.take(),
                // It has nothing new, or somebody else polls it right now, who wakes all who wait.
                _ => {
                    running.add(cx.waker());
                    // It may have been started where there was no runtime.
                    let task = (asker == Asker::Holder).then(|| running.take_task());
                    drop(state);
                    if let Some(runtime) = task.flatten() {
                        detach(&runtime, Arc::clone(self));
                    }
                    return Poll::Pending;
                }
            }
        };
        let waker = Waker::from(Arc::clone(self));
        let if_it_panics = EndOnDrop(self);
        let polled = mint
            .as_mut()
            .map(|mint| mint.as_mut().poll(&mut Context::from_waker(&waker)));
        mem::forget(if_it_panics);
        match polled {
            Some(Poll::Pending) => self.put_back(mint, cx, asker),
            Some(Poll::Ready(outcome)) => Poll::Ready(self.finish(outcome)),
            None => Poll::Pending,
        }
    }

    /// Keeps a mint that is not done for its next poll, unless it was cancelled in the meantime.
    fn put_back(
        self: &Arc<Self>,
        mint: Option<Mint>,
        cx: &mut Context<'_>,
        asker: Asker,
    ) -> Poll<Outcome> {
        let (was_woken, task) = {
            let mut state = self.state();
            let running = match &mut *state {
                // The mint is dropped after the lock is free.
                State::Done(outcome) => return Poll::Ready(outcome.clone()),
                State::Running(running) => running,
            };
            running.mint = mint;
            // After the poll, because most mints for nobody end with their first one: there is nobody to wake then.
            running.add(cx.waker());
            if let Some(driver) = running.driver.take() {
                running.add(&driver);
            }
            let task = if matches!(asker, Asker::Holder | Asker::Visitor) {
                running.take_task()
            } else {
                None
            };
            (running.is_awake, task)
        };
        if was_woken {
            self.wake_by_ref();
        }
        if let Some(runtime) = task {
            detach(&runtime, Arc::clone(self));
        }
        Poll::Pending
    }

    fn poll_visitor(self: &Arc<Self>, cx: &mut Context<'_>) -> Poll<Visitor> {
        match &mut *self.state() {
            State::Done(outcome) => return Poll::Ready(Visitor::from(&*outcome)),
            State::Running(running) if running.is_resolved => {
                return Poll::Ready(Visitor::SignedIn);
            }
            State::Running(running) => running.resolver_is_awaited = true,
        }
        if let Poll::Ready(outcome) = self.poll(cx, Asker::Visitor) {
            return Poll::Ready(Visitor::from(&outcome));
        }
        match &*self.state() {
            State::Done(outcome) => Poll::Ready(Visitor::from(outcome)),
            State::Running(running) if running.is_resolved => Poll::Ready(Visitor::SignedIn),
            State::Running(_) => Poll::Pending,
        }
    }

    /// Notes that the resolver returned a user, and tells all who wait for that. Returns whether the mint may go on.
    fn resolve(&self) -> bool {
        let (waiting, is_open) = match &mut *self.state() {
            State::Done(_) => return true,
            State::Running(running) => {
                running.is_resolved = true;
                let waiting = if mem::take(&mut running.resolver_is_awaited) {
                    mem::take(&mut running.waiting)
                } else {
                    Vec::new()
                };
                (waiting, running.asked_for == AskedFor::Token)
            }
        };
        waiting.into_iter().for_each(Waker::wake);
        is_open
    }

    /// Ends the layer's part, and returns whether the response may carry the token.
    fn let_head_leave(self: &Arc<Self>) -> bool {
        let task = {
            let mut state = self.state();
            match &mut *state {
                State::Done(outcome) => {
                    return matches!(outcome, Ok(Some(_)))
                        && self.holders.load(Ordering::Acquire) != 0;
                }
                // Nobody can take what is not there yet.
                State::Running(_) if self.holders.load(Ordering::Acquire) == 0 => {
                    drop(state);
                    self.cancel();
                    return false;
                }
                State::Running(running) => {
                    // The server's own runtime, whichever thread the body is written on later.
                    running.head = Head::Left(Runtime::try_current().ok());
                    running.take_task()
                }
            }
        };
        if let Some(runtime) = task {
            detach(&runtime, Arc::clone(self));
        }
        true
    }

    /// Drops the mint and its connection, if it is not done. Waiting callers get an error.
    fn cancel(&self) {
        let _ = self.finish(interrupted());
    }

    /// Drops the mint if nothing needs it any more: the promise has no holder, and the response future is gone.
    fn end_if_the_head_has_left(&self) {
        let has_left = match &*self.state() {
            State::Running(running) => !matches!(running.head, Head::Coming),
            State::Done(_) => false,
        };
        if has_left {
            self.cancel();
        }
    }

    /// Keeps this outcome unless there is one, wakes all who wait, and returns the one that is kept.
    fn finish(&self, outcome: Outcome) -> Outcome {
        let before = {
            let mut state = self.state();
            if let State::Done(kept) = &*state {
                return kept.clone();
            }
            mem::replace(&mut *state, State::Done(outcome.clone()))
        };
        // What is dropped or woken must not find the lock held.
        if let State::Running(Running { mint, waiting, .. }) = before {
            drop(mint);
            waiting.into_iter().for_each(Waker::wake);
        }
        outcome
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Running {
    fn add(&mut self, waker: &Waker) {
        if !self.waiting.iter().any(|known| known.will_wake(waker)) {
            self.waiting.push(waker.clone());
        }
    }

    /// The runtime for the task that must drive the mint from now on: it is under way, and nobody but its holders would.
    /// At its gate it holds nothing, and nobody waits for it.
    fn take_task(&mut self) -> Option<Runtime> {
        let is_under_way = match self.asked_for {
            AskedFor::Nothing => false,
            AskedFor::Visitor => !self.is_resolved,
            AskedFor::Token => true,
        };
        match &mut self.head {
            Head::Left(runtime) if is_under_way => runtime.take(),
            head @ Head::Absent if is_under_way => {
                let runtime = Runtime::try_current().ok();
                // Without one, a later poll may be in a runtime.
                if runtime.is_some() {
                    *head = Head::Left(None);
                }
                runtime
            }
            Head::Left(_) | Head::Coming | Head::Absent => None,
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
        let waiting = match &mut *self.state() {
            State::Running(running) => {
                running.is_awake = true;
                mem::take(&mut running.waiting)
            }
            State::Done(_) => return,
        };
        waiting.into_iter().for_each(Waker::wake);
    }
}

/// Ends the promise if the mint panics under the poll of one: the others must find out.
struct EndOnDrop<'a>(&'a Shared);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.cancel();
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
        let (_pending, driver) = Driver::new(|_| {
            let (polls, waker) = (Arc::clone(&polls), Arc::clone(&waker));
            Box::pin(poll_fn(move |cx| {
                *waker.lock().expect("nobody panics") = Some(cx.waker().clone());
                if polls.fetch_add(1, Ordering::Relaxed) < 2 {
                    Poll::Pending
                } else {
                    Poll::Ready(Ok(None))
                }
            }))
        });
        let cx = &mut Context::from_waker(Waker::noop());
        let wake = || {
            waker
                .lock()
                .expect("nobody panics")
                .take()
                .expect("polled")
                .wake();
        };

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
        let (pending, driver) = Driver::new(|_| {
            let promise = Arc::clone(&promise);
            Box::pin(async move {
                assert!(format!("{promise:?}").contains("PendingToken"));
                Ok(None)
            })
        });
        promise.set(pending).expect("the first");
        assert!(
            driver
                .start(&mut Context::from_waker(Waker::noop()))
                .is_ready()
        );
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
                if gate.is_open.load(Ordering::Acquire) {
                    Poll::Ready(token())
                } else {
                    Poll::Pending
                }
            }))
        }
    }

    #[test]
    fn nobody_who_waits_is_forgotten() {
        check(|| {
            let gate = Arc::<Gate>::default();
            let (pending, driver) = Driver::new(|_| gate.mint());
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
            let (_pending, driver) = Driver::new(|_| gate.mint());
            let opener = thread::spawn(move || gate.open());
            assert!(matches!(
                block_on(poll_fn(|cx| driver.start(cx))),
                Ok(Some(_))
            ));
            opener.join().expect("no panic");
        });
    }

    #[test]
    fn the_layer_goes_on_where_somebody_else_left_the_mint_alone() {
        check(|| {
            let gate = Arc::<Gate>::default();
            let (pending, driver) = Driver::new(|_| gate.mint());
            let starter = thread::spawn({
                let pending = pending.clone();
                move || {
                    let mut asked = std::pin::pin!(pending.get());
                    let _ = asked.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                    // Neither dropped nor polled any more while the layer waits.
                    gate.open();
                }
            });
            assert!(matches!(
                block_on(poll_fn(|cx| driver.drive(cx))),
                Ok(Some(_))
            ));
            starter.join().expect("no panic");
            drop(pending);
        });
    }

    #[test]
    fn a_response_whose_token_was_taken_is_never_called_free_of_it() {
        check(|| {
            let (pending, driver) = Driver::new(|_| Box::pin(async { token() }));
            let renderer = thread::spawn(move || {
                let token = block_on(pending.get());
                drop(pending);
                assert!(matches!(token, Ok(Some(_)) | Err(_)));
                token.is_ok()
            });
            let may_carry_token = driver.leave();
            let has_token = renderer.join().expect("no panic");
            assert!(
                may_carry_token || !has_token,
                "the response would stay public"
            );
        });
    }

    #[test]
    fn a_mint_that_outlives_the_head_gets_exactly_one_task() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime");
        check(move || {
            let _entered = runtime.enter();
            let gate = Arc::<Gate>::default();
            let (pending, mut driver) = Driver::new(|_| gate.mint());
            let shared = driver.shared.take().expect("it is new");
            let body = thread::spawn({
                let shared = Arc::clone(&shared);
                move || {
                    let _ = shared.poll(&mut Context::from_waker(Waker::noop()), Asker::Holder);
                }
            });
            assert!(shared.let_head_leave());
            body.join().expect("no panic");
            let is_left_to_task = matches!(&*shared.state(), State::Running(running) if matches!(running.head, Head::Left(None)));
            assert!(is_left_to_task, "nobody drives it");
            // One for the test, one for the promise, one for the task; the mint's own waker is not known to the gate any more.
            drop(pending);
        });
    }

    #[test]
    fn a_promise_made_by_hand_gets_exactly_one_task_when_two_ask() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime");
        check(move || {
            let _entered = runtime.enter();
            let gate = Arc::<Gate>::default();
            let pending = PendingToken {
                shared: Shared::new(|_| gate.mint(), Head::Absent),
            };
            let ask_once = |pending: &PendingToken| {
                let cx = &mut Context::from_waker(Waker::noop());
                assert!(pending.shared.poll(cx, Asker::Holder).is_pending());
            };
            let other = thread::spawn({
                let pending = pending.clone();
                move || ask_once(&pending)
            });
            ask_once(&pending);
            other.join().expect("no panic");
            let has_task = matches!(&*pending.shared.state(), State::Running(running) if matches!(running.head, Head::Left(None)));
            assert!(has_task, "nobody drives it");
        });
    }

    #[test]
    fn the_task_ends_with_the_promises_last_clone() {
        check(|| {
            let gate = Arc::<Gate>::default();
            let (pending, mut driver) = Driver::new(|_| gate.mint());
            let shared = driver.shared.take().expect("it is new");
            let _ = shared.poll(&mut Context::from_waker(Waker::noop()), Asker::Starter);
            assert!(shared.let_head_leave());
            let task =
                thread::spawn(move || block_on(poll_fn(|cx| shared.poll(cx, Asker::Starter))));
            let clone = pending.clone();
            let other = thread::spawn(move || drop(clone));
            drop(pending);
            other.join().expect("no panic");
            let outcome = task.join().expect("no panic");
            assert_eq!(
                outcome.expect_err("the gate stays shut").kind(),
                MintErrorKind::Interrupted
            );
        });
    }

    /// A mint that passes its gate and ends, and says that it has passed.
    fn gated(gate: super::Gate, has_passed: &Arc<AtomicBool>) -> Mint {
        let has_passed = Arc::clone(has_passed);
        Box::pin(async move {
            gate.pass().await;
            has_passed.store(true, Ordering::Release);
            token()
        })
    }

    #[test]
    fn who_asks_for_the_visitor_alone_is_told_whoever_polls_the_mint_and_starts_none() {
        check(|| {
            let has_passed = Arc::new(AtomicBool::new(false));
            let (pending, driver) = Driver::new(|gate| gated(gate, &has_passed));
            let asker = thread::spawn({
                let pending = pending.clone();
                move || block_on(poll_fn(|cx| pending.poll_visitor(cx)))
            });
            let visitor = block_on(poll_fn(|cx| pending.poll_visitor(cx)));
            let _ = driver.drive(&mut Context::from_waker(Waker::noop()));
            assert_eq!(visitor, Visitor::SignedIn);
            assert_eq!(asker.join().expect("no panic"), Visitor::SignedIn);
            assert!(
                !has_passed.load(Ordering::Acquire),
                "it was minted for nobody"
            );
            drop(driver);
        });
    }

    #[test]
    fn a_mint_at_its_gate_goes_on_for_the_first_who_wants_the_token() {
        check(|| {
            let has_passed = Arc::new(AtomicBool::new(false));
            let (pending, driver) = Driver::new(|gate| gated(gate, &has_passed));
            let visitor = thread::spawn({
                let pending = pending.clone();
                move || block_on(poll_fn(|cx| pending.poll_visitor(cx)))
            });
            assert!(matches!(block_on(pending.get()), Ok(Some(_))));
            assert_eq!(visitor.join().expect("no panic"), Visitor::SignedIn);
            assert!(driver.leave());
        });
    }

    #[test]
    fn a_mint_that_is_cancelled_during_a_poll_is_dropped_and_everybody_is_told() {
        check(|| {
            let gate = Arc::<Gate>::default();
            let (pending, driver) = Driver::new(|_| gate.mint());
            let asker = thread::spawn(move || block_on(pending.get()));
            drop(driver);
            assert_eq!(
                asker
                    .join()
                    .expect("no panic")
                    .expect_err("it was cancelled")
                    .kind(),
                MintErrorKind::Interrupted
            );
            // The mint and its wakers are gone, the one in the gate apart.
            gate.waker.take_waker();
            assert_eq!(Arc::strong_count(&gate), 1, "the mint is still there");
        });
    }
}
