//! Counts the mints of the last ten seconds.

use tokio::time::Instant;

/// The length of the window, in seconds.
const SECONDS: usize = 10;

/// The successes and failures of the last ten seconds, one bucket a second.
#[derive(Debug)]
pub(crate) struct Window {
    start: Instant,
    buckets: [Bucket; SECONDS],
}

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    second: usize,
    all: u32,
    failed: u32,
}

impl Window {
    pub(crate) fn new(start: Instant) -> Self {
        Self {
            start,
            buckets: [Bucket::default(); SECONDS],
        }
    }

    pub(crate) fn add(&mut self, now: Instant, failed: bool) {
        let second = self.second(now);
        let bucket = &mut self.buckets[second % SECONDS];
        if bucket.second != second {
            *bucket = Bucket {
                second,
                ..Bucket::default()
            };
        }
        bucket.all += 1;
        bucket.failed += u32::from(failed);
    }

    /// Returns whether at least this part of at least so many mints failed.
    pub(crate) fn is_failing(&self, now: Instant, failing_part: f32, of_at_least: u32) -> bool {
        let second = self.second(now);
        // Times are taken before the lock, so one may be slightly earlier than the one before.
        let recent = self
            .buckets
            .iter()
            .filter(|bucket| second.saturating_sub(bucket.second) < SECONDS);
        let (all, failed) = recent.fold((0, 0), |(all, failed), bucket| {
            (all + bucket.all, failed + bucket.failed)
        });
        // Without a failure, even a part of 0 does not open the circuit.
        failed > 0
            && all >= of_at_least
            && f64::from(failed) >= f64::from(all) * f64::from(failing_part)
    }

    fn second(&self, now: Instant) -> usize {
        usize::try_from(now.saturating_duration_since(self.start).as_secs()).unwrap_or(usize::MAX)
    }
}
