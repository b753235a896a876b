//! Whatever Released answers, what comes out of it as a token can stand in an attribute and a header.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    if let Ok(token) = tower_released::fuzzing::parse_reply(body) {
        let text = token.to_string();
        assert!(!text.is_empty() && text.len() <= 8192);
        assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte)));
        assert!(!token.is_expired());
        // Every token that is accepted is accepted again as it was written.
        assert_eq!(tower_released::AuthToken::new(text).unwrap(), token);
    }
});
