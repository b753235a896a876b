//! The builder of a fake, which can keep its address and its credentials over a restart.

use std::fmt;
use std::io;
use std::net::Ipv4Addr;

use tokio::net::TcpListener;

use super::fake::FakeReleased;
use super::server::{DEFAULT_ACCOUNT, random_secret};

/// Builds a [`FakeReleased`]; see [`FakeReleased::builder`].
#[must_use = "a builder does nothing until `start` is called"]
pub struct FakeReleasedBuilder {
    port: u16,
    account_id: String,
    secret: Option<String>,
}

impl FakeReleasedBuilder {
    pub(crate) fn new() -> Self {
        Self {
            port: 0,
            account_id: DEFAULT_ACCOUNT.to_owned(),
            secret: None,
        }
    }

    /// Sets the port of 127.0.0.1. Default: 0, which takes a free one.
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Sets the id of its account. Default: `acc_fake`.
    pub fn account(mut self, id: impl Into<String>) -> Self {
        self.account_id = id.into();
        self
    }

    /// Sets the shared secret of its account. Default: a new one for each start.
    pub fn secret(mut self, secret: impl Into<String>) -> Self {
        self.secret = Some(secret.into());
        self
    }

    /// Starts the server.
    ///
    /// # Errors
    ///
    /// The port cannot be opened; most often another process has it. The text names the port.
    ///
    /// # Panics
    ///
    /// Panics outside of a `tokio` runtime with I/O and time.
    pub async fn start(self) -> io::Result<FakeReleased> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, self.port))
            .await
            .map_err(|error| self.cannot_open(&error))?;
        let secret = self.secret.unwrap_or_else(random_secret);
        FakeReleased::serve_on(listener, self.account_id, secret)
    }

    fn cannot_open(&self, error: &io::Error) -> io::Error {
        let (kind, port) = (error.kind(), self.port);
        let text = if kind == io::ErrorKind::AddrInUse {
            format!(
                "port {port} of 127.0.0.1 is in use; end the process that has it, perhaps another fake, or choose another \
                 port"
            )
        } else {
            format!("port {port} of 127.0.0.1 cannot be opened: {error}")
        };
        io::Error::new(kind, text)
    }
}

// By hand, because of the secret.
impl fmt::Debug for FakeReleasedBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeReleasedBuilder")
            .field("port", &self.port)
            .field("account_id", &self.account_id)
            .finish_non_exhaustive()
    }
}
