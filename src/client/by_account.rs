//! Several accounts: the minter that picks a client for each user.

use std::fmt;
use std::future::ready;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tower::Service;

use super::ReleasedClient;
use crate::account::WrongAccount;
use crate::error::MintError;
use crate::token::AuthToken;
use crate::user::User;

/// Creates a minter that mints with the client of the user's account.
///
/// `client` is called for each mint with the id that the resolver set with [`User::in_account`], and returns the client of
/// this account, or `None` if there is none. Build the clients once, and return clones, which are cheap. Keep them in
/// memory: the closure must not block.
///
/// # Which users it serves
///
/// | the user | the mint |
/// |---|---|
/// | is in an account with a client | is sent, with the id and the secret of this account |
/// | is in an account without a client | fails |
/// | is in no account | fails |
/// | gets the client of another account | fails |
///
/// These mints fail with [`MintErrorKind::WrongAccount`](crate::MintErrorKind::WrongAccount) before anything is sent, and
/// the layer logs a warning that names neither the user nor the account. For a user whose account has no portal, return
/// `None` from the resolver.
///
/// # Where the account comes from
///
/// Take the id from your own records: the tenant of the signed-in user, or a list of your hosts. Whoever can choose the id
/// can choose whose portals are opened. If each account has users of its own, check that the user belongs to the account.
///
/// # What the accounts share
///
/// Each client has its own secret, circuit breaker, limit and [status](ReleasedClient::status), so that a wrong secret of
/// one account does not stop the mints of the others. It also has its own connections. With hundreds of accounts, give all
/// clients one service with [`http_service`](super::ReleasedClientBuilder::http_service): clients with clones of one
/// service share its connections. The metrics add up all clients.
///
/// # One layer, not two
///
/// Use one [`ReleasedTokenLayer`](crate::ReleasedTokenLayer) with this minter. Two layers around one handler, one for each
/// account, mint twice; see [there](crate::ReleasedTokenLayer#two-layers-around-one-handler).
///
/// # Example
///
/// ```
/// use std::collections::HashMap;
/// use tower_released::client::by_account;
/// use tower_released::{ReleasedClient, ReleasedTokenLayer, User};
/// use tower_released::from_extension;
///
/// #[derive(Clone)]
/// struct CurrentUser {
///     id: String,
///     email: String,
///     tenant_account: String, // from your database
/// }
///
/// # fn main() -> Result<(), tower_released::client::ConfigError> {
/// # let http = tower::service_fn(async |_: http::Request<http_body_util::Full<bytes::Bytes>>| {
/// #     Ok::<_, tower_released::BoxError>(http::Response::new(http_body_util::Full::<bytes::Bytes>::default()))
/// # });
/// let mut clients = HashMap::new();
/// for (id, secret) in [("acc_acme", "secret 1"), ("acc_globex", "secret 2")] {
///     let client = ReleasedClient::builder(id, secret)
///         .http_service(http.clone()) // one pool of connections
///         .build()?;
///     clients.insert(id, client);
/// }
/// let vouch = |user: &CurrentUser| {
///     User::new(&user.id, &user.email)
///         .map(|person| person.in_account(&user.tenant_account))
/// };
/// let released = by_account(move |id| clients.get(id).cloned());
/// let layer = ReleasedTokenLayer::new(released, from_extension(vouch));
/// # drop(layer);
/// # Ok(()) }
/// ```
pub fn by_account(
    client: impl Fn(&str) -> Option<ReleasedClient> + Send + Sync + 'static,
) -> ByAccount {
    ByAccount {
        client: Arc::new(client),
    }
}

/// Returns the client of the account with this id.
type PickClient = dyn Fn(&str) -> Option<ReleasedClient> + Send + Sync;

/// Mints with the client of the user's account; see [`by_account`].
///
/// It is a `tower::Service<User>`, and so a [`Minter`](crate::Minter). Clones are cheap.
#[derive(Clone)]
pub struct ByAccount {
    client: Arc<PickClient>,
}

impl ByAccount {
    fn client_of(&self, user: &User) -> Result<ReleasedClient, WrongAccount> {
        let account = user.account().ok_or(WrongAccount::Missing)?;
        (self.client)(account).ok_or(WrongAccount::Unknown)
    }
}

impl Service<User> for ByAccount {
    type Response = AuthToken;
    type Error = MintError;
    /// Dropping it cancels the mint.
    type Future = Pin<Box<dyn Future<Output = Result<AuthToken, MintError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), MintError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, user: User) -> Self::Future {
        match self.client_of(&user) {
            // A client is always ready. It refuses a user of another account itself.
            Ok(mut client) => client.call(user),
            Err(wrong) => Box::pin(ready(Err(wrong.into()))),
        }
    }
}

impl fmt::Debug for ByAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByAccount").finish_non_exhaustive()
    }
}
