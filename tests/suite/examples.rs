//! What the examples decide for themselves.

use std::ffi::OsString;

#[path = "../../examples/support/account.rs"]
mod account;

#[test]
fn an_example_starts_the_fake_only_if_no_variable_names_an_account() {
    for (variables, is_named) in [
        (&[][..], false),
        (&[("RELEASED_ACCOUNT_ID", "")], false),
        (&[("RELEASED_ACCOUNT_ID", ""), ("RELEASED_SHARED_SECRET", ""), ("RELEASED_SHARED_SECRET_FILE", "")], false),
        (&[("RELEASED_CHANNEL_ID", "c1")], false),
        (&[("RELEASED_ACCOUNT_ID", "acc")], true),
        (&[("RELEASED_SHARED_SECRET", "s3cret")], true),
        (&[("RELEASED_SHARED_SECRET_FILE", "/run/secrets/released")], true),
        (&[("RELEASED_ACCOUNT_ID", ""), ("RELEASED_SHARED_SECRET", "s3cret")], true),
    ] {
        let variable = |wanted: &str| {
            let found = variables.iter().find(|(name, _)| *name == wanted);
            found.map(|(_, value)| OsString::from(value))
        };
        assert_eq!(account::is_named_by(variable), is_named, "{variables:?}");
    }
}
