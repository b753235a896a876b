//! Why a connection to Released failed.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;

/// Says why a connection could not be opened, or broke, and to which server. It is the source of a
/// [`MintError`](crate::MintError).
///
/// It contains no text from the network: its texts are chosen here, and its source is the operating system's own error,
/// created again from its number.
#[derive(Debug)]
pub(crate) struct ConnectionFailure {
    cause: Cause,
    server: Arc<str>,
    source: Option<io::Error>,
}

impl ConnectionFailure {
    /// `server` is the host and the port of the endpoint, even if a proxy is in between.
    pub(crate) fn new(cause: Cause, server: Arc<str>, source: Option<io::Error>) -> Self {
        Self {
            cause,
            server,
            source,
        }
    }

    pub(crate) fn cause(&self) -> Cause {
        self.cause
    }

    /// Returns the host and the port of the token API.
    pub(crate) fn server(&self) -> &str {
        &self.server
    }
}

impl fmt::Display for ConnectionFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let server = self.server();
        match self.cause {
            Cause::Refused => write!(f, "connection refused by {server}"),
            Cause::Dns => write!(f, "the host name of {server} could not be resolved"),
            Cause::Tls => write!(f, "TLS with {server} failed"),
            Cause::Proxy => write!(f, "the proxy opened no connection to {server}"),
            Cause::Reset => write!(f, "connection reset by {server}"),
            Cause::Unreachable => write!(f, "{server} is unreachable"),
            Cause::TimedOut => write!(f, "no answer from {server} in time"),
            Cause::Closed => write!(
                f,
                "connection closed by {server} before the answer was complete"
            ),
            Cause::Other => write!(f, "connection to {server} failed"),
        }
    }
}

impl Error for ConnectionFailure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}

/// What made a connection fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Nothing listens there, or a firewall refuses.
    Refused,
    /// The host name could not be resolved.
    Dns,
    /// The handshake failed, or what was received later could not be decrypted.
    Tls,
    /// The proxy on the way could not be reached, or opened no connection.
    Proxy,
    Reset,
    /// There is no route.
    Unreachable,
    TimedOut,
    /// The other end closed the connection too early.
    Closed,
    /// Something else: this machine has no socket left, or the application's own client does not say.
    Other,
}

impl Cause {
    /// Returns its name in `snake_case`, for logs.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Dns => "dns",
            Self::Tls => "tls",
            Self::Proxy => "proxy",
            Self::Reset => "reset",
            Self::Unreachable => "unreachable",
            Self::TimedOut => "timed_out",
            Self::Closed => "closed",
            Self::Other => "other",
        }
    }

    /// Returns what to check if no connection can be opened.
    pub(crate) fn what_to_do(self) -> &'static str {
        match self {
            Self::Refused => {
                "check the host and the port in RELEASED_TOKEN_URL, and whether a firewall refuses connections"
            }
            Self::Dns => "check the host name in RELEASED_TOKEN_URL and this machine's DNS",
            Self::Tls => {
                "check the server's certificate, this machine's clock and root certificates, and whether a proxy \
                 intercepts TLS"
            }
            Self::Proxy => {
                "check HTTPS_PROXY, and whether the proxy allows connections to Released"
            }
            Self::Reset | Self::Closed => {
                "check whether a firewall or a proxy ends connections to Released"
            }
            Self::Unreachable => "check this machine's network, routes and firewall",
            Self::TimedOut => "check whether a firewall drops what is sent to Released",
            Self::Other => "check DNS, the network, proxies and the TLS certificates",
        }
    }
}
