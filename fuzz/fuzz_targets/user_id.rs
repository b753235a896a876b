//! Whatever ids go in, legal ones come out, and never the same one for two; of blank ones, none comes out.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tower_released::{User, UserId};

fuzz_target!(|ids: (&str, &str)| {
    let (one, other) = ids;
    let encoded = UserId::encode(one);
    if one.trim().is_empty() {
        assert!(User::new(encoded, "ada@example.com").is_err());
        return;
    }
    assert!(User::new(encoded.as_str(), "ada@example.com").is_ok());
    assert_eq!(encoded == UserId::encode(other), one == other);
    assert_eq!(UserId::encode(encoded.as_str()) == encoded, encoded.as_str() == one);
    if encoded.as_str() == one {
        assert_eq!(UserId::new(one), Ok(encoded));
    }
});
