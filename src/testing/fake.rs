//! The fake: the handle that a test holds.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use serde::Serialize;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::builder::FakeReleasedBuilder;
use super::lock;
use super::reply::Reply;
use super::rules::Account;
use super::server::{
    Behaviour, EMAIL_ONLY_PATH, EMBED_PATH, IMPERSONATION_PATH, Shared, random_secret, serve,
};
use super::unknowns::Unknowns;
use crate::user::User;

/// Runs a fake of Released: a real HTTP server on a free port of 127.0.0.1. Dropping the last clone stops the server.
///
/// It enforces the documented rules of both token APIs, and answers with signed tokens that live for two minutes. It
/// exchanges them for sessions, as the portal does. Its `embed.js` defines the four elements, which show "Verified as
/// …" or "Access denied: …", so that a page works offline. See the [module](super).
///
/// # What Released does not document
///
/// In these cases the fake chooses, and Released may do something else:
///
/// - A refusal has the status 401 for a wrong secret, as documented, but 400, 404 or 415 for anything else.
/// - A token can be exchanged more than once, and by several elements.
/// - An element exchanges its token as soon as it is in the page, and notices a token that is set later.
/// - A new secret stops the old one at once.
/// - Pages of this machine need no HTTPS, and every domain is trusted.
///
/// # Several accounts
///
/// A handle is for one account: its credentials, its users and its portal. [`add_account`](Self::add_account) returns a
/// handle for another account of the same server. The counts, the latency and the scripted answers belong to the server.
/// Its elements do not say of which account they are, so they show tokens of every account.
///
/// ```
/// # #[cfg(feature = "client")]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use tower_released::testing::{AccessDenied, FakeReleased};
/// use tower_released::User;
///
/// let acme = FakeReleased::builder().account("acc_acme").start().await?;
/// let globex = acme.add_account("acc_globex", "a secret of its own");
///
/// let token = globex.client()?.mint(&User::new("42", "ada@example.com")?).await?;
/// assert!(globex.open_session(token.as_str()).is_ok());
/// let denied = acme.open_session(token.as_str());
/// assert_eq!(denied, Err(AccessDenied::OtherAccount));
/// # Ok(()) }
/// # #[cfg(not(feature = "client"))] fn main() {}
/// ```
#[derive(Clone)]
pub struct FakeReleased {
    address: SocketAddr,
    account: Arc<Account>,
    shared: Arc<Shared>,
    _server: Arc<Server>,
}

/// The server's task, which ends with the last handle.
struct Server(JoinHandle<()>);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Counts what a [`FakeReleased`] has seen so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Connections that were opened.
    pub connections: usize,
    /// Requests for a token.
    pub requests: usize,
    /// Requests for a token that are neither answered nor cancelled.
    pub in_flight: usize,
    /// Requests for a token that the caller cancelled before the answer.
    pub cancelled: usize,
    /// Tokens that were minted.
    pub minted: usize,
    /// Requests for a token that broke a rule.
    pub refused: usize,
    /// Tokens that were exchanged for a session.
    pub sessions: usize,
    /// Exchanges that were denied.
    pub denied: usize,
}

/// Describes the session that an embed gets for its token.
#[derive(Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Session {
    /// The user's id. `None` if the token came from the API without ids.
    pub user_id: Option<String>,
    /// The e-mail address.
    pub email: String,
    /// The name, if the application sent one.
    pub name: Option<String>,
    /// The life of the session, in seconds: three days.
    pub expires_in: u64,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("expires_in", &self.expires_in)
            .finish_non_exhaustive()
    }
}

/// Says why an embed gets no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AccessDenied {
    /// This fake did not sign the token.
    Signature,
    /// The token has expired. By default its life is two minutes.
    Expired,
    /// The page is neither on HTTPS nor on this machine. Released also wants a trusted domain.
    InvalidOrigin,
    /// The token was exchanged before, and [`Unknowns`] forbid to do so again.
    Used,
    /// The token is of another account.
    OtherAccount,
}

impl fmt::Display for AccessDenied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Signature => "this fake did not sign the token",
            Self::Expired => "the token has expired",
            Self::InvalidOrigin => "invalid_origin",
            Self::Used => "the token was used before",
            Self::OtherAccount => "the token is of another account",
        })
    }
}

impl std::error::Error for AccessDenied {}

impl FakeReleased {
    /// Starts a server with an account of its own.
    ///
    /// # Errors
    ///
    /// No port of 127.0.0.1 can be opened.
    ///
    /// # Panics
    ///
    /// Panics outside of a `tokio` runtime with I/O and time.
    pub async fn start() -> io::Result<Self> {
        Self::builder().start().await
    }

    /// Creates a builder of a server whose port, account id or shared secret are given, for example to keep them over a
    /// restart.
    ///
    /// # Example
    ///
    /// ```
    /// # async fn run() -> std::io::Result<()> {
    /// use tower_released::testing::FakeReleased;
    ///
    /// let released = FakeReleased::builder()
    ///     .port(4000)
    ///     .account("acc_dev")
    ///     .secret("dev-secret")
    ///     .start()
    ///     .await?;
    /// assert_eq!(released.origin(), "http://127.0.0.1:4000");
    /// # Ok(()) }
    /// ```
    pub fn builder() -> FakeReleasedBuilder {
        FakeReleasedBuilder::new()
    }

    pub(crate) fn serve_on(
        listener: TcpListener,
        account_id: String,
        secret: String,
    ) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let account = Arc::new(Account::new(account_id, secret));
        let shared = Arc::new(Shared::new(Arc::clone(&account)));
        let server = tokio::spawn(serve(listener, Arc::clone(&shared)));
        Ok(Self {
            address,
            account,
            shared,
            _server: Arc::new(Server(server)),
        })
    }

    /// Adds an account to the server, and returns a handle for it. If there is one with this id, it gets this secret.
    pub fn add_account(&self, id: impl Into<String>, secret: impl Into<String>) -> Self {
        Self {
            account: self.shared.add_account(id.into(), secret.into()),
            ..self.clone()
        }
    }

    /// Returns the id of its account.
    pub fn account_id(&self) -> &str {
        &self.account.id
    }

    /// Returns the shared secret of its account. Every start makes a new one, unless the [builder](Self::builder) has
    /// one.
    pub fn shared_secret(&self) -> String {
        lock(&self.account.secret).clone()
    }

    /// Generates and returns a new shared secret. The old one is refused from now on. When Released stops accepting an
    /// old one is not documented.
    pub fn rotate_secret(&self) -> String {
        let rotated = random_secret();
        lock(&self.account.secret).clone_from(&rotated);
        rotated
    }

    /// Returns its origin, such as `http://127.0.0.1:49152`, for a Content-Security-Policy.
    pub fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the URL of its current token API, for
    /// [`TokenApi::Impersonation`](crate::client::TokenApi::Impersonation).
    pub fn impersonation_url(&self) -> String {
        self.origin() + IMPERSONATION_PATH
    }

    /// Returns the URL of its older token API, for [`TokenApi::EmailOnly`](crate::client::TokenApi::EmailOnly).
    pub fn email_only_url(&self) -> String {
        self.origin() + EMAIL_ONLY_PATH
    }

    /// Returns the URL of its replacement for Released's embed script.
    pub fn embed_script_url(&self) -> String {
        self.origin() + EMBED_PATH
    }

    /// Creates a client for its account and its current token API.
    ///
    /// # Errors
    ///
    /// The HTTP client cannot be built.
    #[cfg(feature = "client")]
    pub fn client(&self) -> Result<crate::ReleasedClient, crate::client::ConfigError> {
        self.client_builder().build()
    }

    /// Returns the builder of [`client`](Self::client), for a client with other settings, such as the deadline.
    #[cfg(feature = "client")]
    pub fn client_builder(&self) -> crate::client::ReleasedClientBuilder {
        crate::ReleasedClient::builder(self.account_id(), self.shared_secret())
            .endpoint(self.impersonation_url())
    }

    /// Delays every later answer to a request for a token by this time. Default: no delay.
    pub fn set_latency(&self, latency: Duration) {
        self.behaviour().latency = latency;
    }

    /// Sets the life of every later token, in whole seconds. With zero, tokens have expired when they arrive. Default:
    /// two minutes.
    pub fn set_token_life(&self, life: Duration) {
        self.behaviour().token_life = life;
    }

    /// Changes what the fake does where Released documents nothing. Later requests see the change, also those for
    /// `embed.js`. Test your pages with both answers if they depend on one of them.
    ///
    /// # Example
    ///
    /// ```
    /// # async fn run() -> std::io::Result<()> {
    /// use tower_released::testing::FakeReleased;
    ///
    /// let released = FakeReleased::start().await?;
    /// released.set_unknowns(|unknowns| unknowns.reuses_token = false);
    /// # Ok(()) }
    /// ```
    pub fn set_unknowns(&self, change: impl FnOnce(&mut Unknowns)) {
        change(&mut self.behaviour().unknowns);
    }

    /// Answers the next request for a token with `reply`, without checking it. Several calls queue up.
    pub fn reply_next(&self, reply: Reply) {
        self.behaviour().next.push_back(reply);
    }

    /// Answers every later request for a token with `reply`, without checking it, as in an outage.
    pub fn reply_always(&self, reply: Reply) {
        self.behaviour().always = Some(reply);
    }

    /// Removes all scripted answers and the latency, which ends an outage.
    pub fn recover(&self) {
        let mut behaviour = self.behaviour();
        behaviour.latency = Duration::ZERO;
        behaviour.next.clear();
        behaviour.always = None;
    }

    /// Returns what it has seen so far.
    pub fn counts(&self) -> Counts {
        *self.shared.counts.borrow()
    }

    /// Waits until `wanted` returns true for what it has seen, and returns the counts.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn wait_until(&self, wanted: impl FnMut(&Counts) -> bool) -> Counts {
        let mut counts = self.shared.counts.subscribe();
        // The sender is in `self`, so it is not closed during the wait.
        counts
            .wait_for(wanted)
            .await
            .map_or_else(|_closed| self.counts(), |counts| *counts)
    }

    /// Returns the users for whom its account has minted, in order. The API without ids gives every user the id
    /// `email-only`.
    pub fn users(&self) -> Vec<User> {
        lock(&self.account.users).clone()
    }

    /// Exchanges a token for a session, as the embed does.
    ///
    /// Released does not document whether a token can be exchanged twice. Here it can, because one page may hold
    /// several embeds with the same token.
    ///
    /// # Errors
    ///
    /// The token was not signed by this fake, has expired, or is of another account. Then Released's embed probably shows "access denied", as it
    /// does for an expired token.
    pub fn open_session(&self, token: &str) -> Result<Session, AccessDenied> {
        self.shared.open_session(token, "", Some(&self.account.id))
    }

    fn behaviour(&self) -> MutexGuard<'_, Behaviour> {
        lock(&self.shared.behaviour)
    }
}

impl fmt::Debug for FakeReleased {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeReleased")
            .field("address", &self.address)
            .field("account_id", &self.account.id)
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn a_clone_keeps_the_server_and_the_last_one_ends_it() {
        let released = FakeReleased::start().await.expect("a port");
        let clone = released.clone();
        assert_eq!(released.rotate_secret(), clone.shared_secret());
        drop(released);
        assert!(TcpStream::connect(clone.address).await.is_ok());
        let address = clone.address;
        let other = clone.add_account("acc_other", "s3cret");
        drop(clone);
        assert!(TcpStream::connect(address).await.is_ok());
        drop(other);
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    }
}
