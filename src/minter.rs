//! The trait of everything that mints.

use tower::Service;

use crate::error::MintError;
use crate::token::AuthToken;
use crate::user::User;

/// Mints auth tokens. It is implemented for every `tower::Service<User, Response = AuthToken>` that is
/// `Clone + Send + Sync` and whose error is `Into<MintError>`.
///
/// Such services are [`ReleasedClient`](crate::ReleasedClient), the [`StubMinter`](crate::testing::StubMinter) for
/// tests, and both inside of tower's own `timeout`, `retry`, `concurrency_limit`, `load_shed` or `buffer`. So `fn
/// app(minter: impl Minter) -> Router` works in production and in tests.
///
/// # Limits around a `ReleasedClient`
///
/// A `ReleasedClient` has its own deadline and its own limit, with a bounded queue. Prefer `deadline` and
/// `max_in_flight` of its builder. Two mistakes are easy with tower's layers:
///
/// - `concurrency_limit(8).timeout(1 s)` queues without limit, and outside of the time limit. When Released stalls, the
///   64th page waits for 8 seconds. Put `load_shed` outermost, as below, so that a mint without a place fails at once.
/// - A `timeout` that is shorter than the client's own attempt (1.5 seconds) hides every stall from its circuit
///   breaker, because mints that are dropped do not count as failures.
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use tower::ServiceBuilder;
/// use tower_released::Minter;
/// # use tower_released::{AuthToken, MintError, User};
/// # #[cfg(feature = "testing")] {
/// # let released = tower_released::testing::StubMinter::new();
///
/// let at_most_eight_at_once = ServiceBuilder::new()
///     .load_shed()
///     .concurrency_limit(8)
///     .timeout(Duration::from_secs(1))
///     .service(released);
/// fn is_minter(_: impl Minter) {}
/// is_minter(at_most_eight_at_once);
/// # }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot mint: it is not a `tower::Service<User, Response = AuthToken>` that is `Clone + Send + Sync`",
    label = "not a minter",
    note = "is it a `Result` of a minter? Then `?` is missing",
    note = "most applications give the layer a `ReleasedClient`, and tests a `testing::StubMinter`",
    note = "a minter's error must be `Into<MintError>`, as `BoxError` is, and its future `Send`"
)]
pub trait Minter:
    Service<User, Response = AuthToken, Error: Into<MintError>, Future: Send>
    + Clone
    + Send
    + Sync
    + 'static
{
}

#[diagnostic::do_not_recommend]
impl<M> Minter for M where
    M: Service<User, Response = AuthToken, Error: Into<MintError>, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static
{
}
