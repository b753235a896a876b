//! Which account of Released the examples mint with.

use std::ffi::OsString;

/// Tells whether the environment names an account of Released. Otherwise an example starts a fake.
///
/// A variable that is empty counts as not set, as it does for `ReleasedClient::from_env`.
pub(crate) fn is_named_by(variable: impl Fn(&str) -> Option<OsString>) -> bool {
    [
        "RELEASED_ACCOUNT_ID",
        "RELEASED_SHARED_SECRET",
        "RELEASED_SHARED_SECRET_FILE",
    ]
    .into_iter()
    .any(|name| variable(name).is_some_and(|value| !value.is_empty()))
}
