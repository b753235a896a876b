//! Whatever policy a page has, merging twice is merging once, and no source or directive is lost.
#![no_main]

use std::collections::BTreeSet;

use libfuzzer_sys::fuzz_target;
use tower_released::embed::csp;

/// The words of each policy in a value, without `'none'`, which is replaced.
fn words(policies: &str) -> Vec<BTreeSet<String>> {
    let words = |policy: &str| policy.split([';', ' ', '\t', '\n', '\r', '\x0c']).map(str::to_ascii_lowercase).collect();
    let mut policies: Vec<BTreeSet<String>> = policies.split(',').map(words).collect();
    for policy in &mut policies {
        policy.remove("'none'");
        policy.remove("");
    }
    policies
}

fuzz_target!(|policies: &str| {
    for sources in [csp::strict().hub("acme.releasedhub.com").unwrap(), csp::recommended()] {
        let once = sources.merge_into(policies);
        assert_eq!(sources.merge_into(&once), once);
        let (before, after) = (words(policies), words(&once));
        assert_eq!(before.len(), after.len());
        for (before, after) in before.iter().zip(&after) {
            assert!(before.is_subset(after), "{policies:?} became {once:?}");
        }
    }
    if let Some(nonce) = csp::nonce_of(policies) {
        assert!(policies.contains(nonce) && tower_released::embed::script().nonce(nonce).is_ok());
    }
});
