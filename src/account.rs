//! Why a minter does not serve a user's account.

use std::fmt;

/// Says why a minter does not serve the account of a [`User`](crate::User). The texts name neither the user nor the
/// account, which may come from the request.
// Only a client has an account.
#[cfg_attr(not(feature = "client"), allow(dead_code))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WrongAccount {
    /// The minter has a client for each account, and the user has no account.
    Missing,
    /// The minter has no client for the account.
    Unknown,
    /// The client is for another account.
    Other,
}

impl fmt::Display for WrongAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => {
                "the user has no account; set it in the resolver with User::in_account"
            }
            Self::Unknown => {
                "by_account has no client for it; check the id, and return None from the resolver for users whose \
                 account has no portal"
            }
            Self::Other => {
                "the client is for another account; let client::by_account pick the client"
            }
        })
    }
}

impl std::error::Error for WrongAccount {}
