//! What holds for every input.

use http::HeaderValue;
use proptest::prelude::*;
use tower_released::{AuthToken, User, UserId};

fn is_legal(id: &str) -> bool {
    (1..=255).contains(&id.len())
        && id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b":_-".contains(&byte))
}

fn is_blank(text: &str) -> bool {
    text.trim().is_empty()
}

/// Ids as they come: legal ones, those of identity providers, anything, long ones, and encoded ones.
fn any_id() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-zA-Z0-9:_-]{1,255}",
        "(auth0|google-oauth2)\\|[0-9a-f]{24}",
        "[a-z.]{1,20}@[a-z]{1,10}\\.example",
        "\\{[0-9a-f]{8}-[0-9a-f]{4}\\}",
        ".{0,40}",
        "[ \t\r\n]{0,3}",
        "[a-z|]{250,300}",
        ".{0,20}".prop_map(|id| String::from(UserId::encode(id))),
        "sha256:[0-9a-f]{63,65}",
        "sha256:[0-9A-Fg]{64}",
    ]
}

proptest! {
    #[test]
    fn what_is_accepted_as_a_token_can_stand_anywhere_unescaped(text in prop_oneof![any::<String>(), "[A-Za-z0-9._~+/-]{1,40}={0,3}"]) {
        let Ok(token) = AuthToken::new(text.clone()) else { return Ok(()) };
        let written = token.to_string();
        prop_assert_eq!(&written, &text);
        // Nothing that ends or alters an attribute, quoted in either way or not at all, or a script or a URL's query.
        prop_assert!(!written.contains(['"', '\'', '<', '>', '&', '`', '\\', ' ', '\t', '\n', '\r', '\0', ';', ',']));
        prop_assert!(written.is_ascii() && !written.is_empty() && written.len() <= 8192);
        prop_assert!(HeaderValue::from_str(&written).is_ok());
        prop_assert_eq!(serde_json::to_string(&token).unwrap(), format!("\"{written}\""));
        // Shorter ones are in the word `AuthToken`, or in the number of seconds that remain.
        let debug = format!("{token:?}");
        prop_assert!(written.len() < 20 || !debug.contains(&written));
    }

    #[test]
    fn every_bearer_token_is_accepted(text in "[A-Za-z0-9._~+/-]{1,400}={0,3}") {
        prop_assert!(AuthToken::new(text).is_ok());
    }

    #[test]
    fn an_encoded_id_is_always_legal_and_always_the_same(id in any_id()) {
        prop_assume!(!is_blank(&id));
        let encoded = UserId::encode(&id);
        prop_assert!(is_legal(encoded.as_str()), "{}", encoded.as_str());
        prop_assert_eq!(&encoded, &UserId::encode(&id));
        prop_assert!(User::new(encoded, "ada@example.com").is_ok());
    }

    #[test]
    fn an_encoded_id_makes_a_user_unless_it_is_blank(id in any_id()) {
        prop_assert_eq!(User::new(UserId::encode(&id), "ada@example.com").is_ok(), !is_blank(&id));
    }

    #[test]
    fn two_ids_are_never_encoded_as_the_same(one in any_id(), other in any_id()) {
        prop_assume!(!is_blank(&one) && !is_blank(&other));
        prop_assert_eq!(one == other, UserId::encode(&one) == UserId::encode(&other));
        // Not even if one of them is what the other becomes.
        let encoded = String::from(UserId::encode(&one));
        prop_assert_eq!(encoded == one, UserId::encode(&encoded) == UserId::encode(&one));
    }

    #[test]
    fn a_legal_id_is_kept_unless_it_looks_encoded(id in "[a-zA-Z0-9:_-]{1,255}") {
        let encoded = UserId::encode(&id);
        prop_assert_eq!(encoded.as_str(), &id);
    }

    #[test]
    fn only_legal_ids_make_a_user(id in any_id()) {
        prop_assert_eq!(User::new(&id, "ada@example.com").is_ok(), is_legal(&id));
    }

    #[test]
    fn a_name_is_cut_to_what_released_counts_and_no_shorter(name in prop_oneof![".{0,300}", "[a😀é]{150,260}"]) {
        let user = User::new("u", "ada@example.com").unwrap();
        let units = |text: &str| text.encode_utf16().count();
        let kept = user.clone().with_name(&name);
        prop_assert_eq!(kept.name().is_none(), is_blank(&name));
        let Some(kept) = kept.name() else { return Ok(()) };
        prop_assert!(name.starts_with(kept));
        prop_assert!(units(kept) <= 200);
        prop_assert!(kept == name || units(kept) >= 199, "cut too short");
        prop_assert_eq!(user.try_with_name(&name).is_ok(), units(&name) <= 200);
    }

    #[test]
    fn an_avatar_url_is_kept_or_dropped_and_never_costs_the_login(url in prop_oneof![any::<String>(), "https?://[a-z]{1,9}\\.example/[a-z]{0,9}"]) {
        let user = User::new("u", "ada@example.com").unwrap();
        let strict = user.clone().try_with_avatar_url(&url);
        prop_assert_eq!(strict.is_ok(), user.with_avatar_url(&url).avatar_url() == Some(&url));
    }

    #[test]
    fn no_address_with_a_line_break_or_a_display_name_makes_a_user(local in "[a-z]{1,9}", end in "[\r\n\t <>]{1,3}.{0,9}") {
        let address = format!("{local}@example.com{end}");
        prop_assert!(User::new("u", &address).is_err(), "{address:?}");
        let display_name = format!("Ada <{local}@example.com>");
        prop_assert!(User::new("u", display_name).is_err());
    }

    #[test]
    fn nothing_around_an_address_makes_a_user(before in "[\r\n\t <A\"]{0,3}", after in "[\r\n\t >]{0,3}") {
        let address = format!("{before}ada@example.com{after}");
        let is_bare = after.is_empty() && before.bytes().all(|byte| byte == b'A');
        prop_assert_eq!(User::new("u", &address).is_ok(), is_bare, "{:?}", address);
    }
}
