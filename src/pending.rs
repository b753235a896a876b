//! The promise of a token, one to a request.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{Mutex, OnceCell};

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
/// mint: whoever awaits [`get`](Self::get) first drives it, everybody gets its result.
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
    outcome: OnceCell<Outcome>,
    // Locked only by whoever holds the permit of `outcome`, so nobody ever waits for the lock; it lends the mint
    // out instead of giving it away, so that a mint survives the waiter that drove it.
    mint: Mutex<Option<Mint>>,
    handed_out: AtomicBool,
}

impl PendingToken {
    /// The promise of what `mint` will yield. Nothing happens before somebody asks.
    pub(crate) fn new(mint: Mint) -> Self {
        Self::with(OnceCell::new(), Some(mint))
    }

    /// The promise of what is known already.
    pub(crate) fn kept(outcome: Outcome) -> Self {
        Self::with(OnceCell::from(outcome), None)
    }

    fn with(outcome: OnceCell<Outcome>, mint: Option<Mint>) -> Self {
        let handed_out = AtomicBool::new(false);
        Self { shared: Arc::new(Shared { outcome, mint: Mutex::new(mint), handed_out }) }
    }

    /// Waits for the token; `Ok(None)` if nobody is signed in.
    ///
    /// There is one mint a request, however many ask and however often: its result is kept, an error too.
    ///
    /// # Errors
    ///
    /// Why there is no token although somebody is signed in.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future loses nothing: the mint goes on where it was, driven by the next who asks or asked. But
    /// a future that is neither polled nor dropped may hold the mint up for the others.
    pub async fn get(&self) -> Result<Option<AuthToken>, MintError> {
        let outcome = self.outcome().await;
        if matches!(outcome, Ok(Some(_))) {
            self.mark_handed_out();
        }
        outcome.clone()
    }

    /// Runs the mint without asking for its result.
    pub(crate) async fn drive(self) {
        self.outcome().await;
    }

    async fn outcome(&self) -> &Outcome {
        self.shared.outcome.get_or_init(|| self.run()).await
    }

    async fn run(&self) -> Outcome {
        let mut slot = self.shared.mint.lock().await;
        let Some(mint) = slot.as_mut() else {
            return Err(MintError::new(MintErrorKind::Interrupted));
        };
        let outcome = mint.await;
        *slot = None;
        log_failure(&outcome);
        outcome
    }

    /// Drops the mint, and with it its connection, unless somebody is waiting for it right now.
    pub(crate) fn cancel(&self) {
        if let Ok(mut mint) = self.shared.mint.try_lock() {
            *mint = None;
        }
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
