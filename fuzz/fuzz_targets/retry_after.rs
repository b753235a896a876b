//! Whatever `Retry-After` says, nobody waits for longer than thirty seconds.
#![no_main]

use std::time::{Duration, SystemTime};

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u32, &str)| {
    let (now, value) = input;
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::from(now));
    if let Some(delay) = tower_released::fuzzing::parse_retry_after(value, now) {
        assert!(delay <= Duration::from_secs(30));
    }
});
