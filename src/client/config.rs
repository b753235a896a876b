//! The settings of the retries and of the circuit breaker.

use std::time::Duration;

/// The longest duration of any setting. `Instant` cannot add much longer ones.
pub(crate) const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Sets how a [`ReleasedClient`](crate::ReleasedClient) retries; see [`retry`](super::ReleasedClientBuilder::retry).
///
/// The client retries after a failed or broken connection, after a timeout, and after the statuses 408, 425, 429, 500,
/// 502, 503 and 504. A retry needs 250 milliseconds of the deadline, and a place in the [`budget`](Self::budget).
///
/// Durations of more than a year count as a year.
///
/// # Example
///
/// ```
/// use tower_released::client::RetryConfig;
///
/// let mut retry = RetryConfig::default();
/// retry.max_attempts = 2;
/// # assert_eq!(retry.attempt_timeout.as_millis(), 1500);
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct RetryConfig {
    /// The number of attempts of a mint, including the first. Default: 3. More would rarely help. Zero counts as one.
    pub max_attempts: u32,
    /// How long one attempt may take, including its connection and its body. Default: 1.5 seconds, so that two attempts
    /// that stall fit into the default deadline.
    pub attempt_timeout: Duration,
    /// The longest pause before the second attempt. Default: 50 milliseconds, which a user does not notice.
    ///
    /// The pause is a random part of it, so that mints that failed together do not retry together. It doubles with each
    /// attempt, and is four times as long after 429 and 503.
    pub first_pause: Duration,
    /// The longest pause before any attempt. Default: 400 milliseconds, so that attempts take most of the deadline.
    pub longest_pause: Duration,
    /// The longest `Retry-After` that a mint waits for. Default: 1 second, a third of the default deadline.
    ///
    /// After a longer one, the mint fails. All mints fail at once until that time, but for at most 30 seconds.
    pub longest_retry_after: Duration,
    /// The number of retries within ten seconds, as a fraction of the mints. One retry a second comes on top. Default:
    /// 0.1, so that a failing Released gets a tenth more requests, not three times as many.
    ///
    /// Below 1, it is rounded up to 1/2, 1/3, 1/4 and so on: 0.4 counts as 1/2. Less than 0 counts as 0, more than 10
    /// as 10.
    pub budget: f32,
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self {
            max_attempts: 3,
            attempt_timeout: Duration::from_millis(1500),
            first_pause: Duration::from_millis(50),
            longest_pause: Duration::from_millis(400),
            longest_retry_after: Duration::from_secs(1),
            budget: 0.1,
        }
    }
}

impl RetryConfig {
    pub(crate) fn within_bounds(self) -> Self {
        Self {
            max_attempts: self.max_attempts.max(1),
            attempt_timeout: self.attempt_timeout.min(LONGEST),
            first_pause: self.first_pause.min(LONGEST),
            longest_pause: self.longest_pause.min(LONGEST),
            longest_retry_after: self.longest_retry_after.min(LONGEST),
            // `TpsBudget` panics for a larger or a negative budget.
            budget: if self.budget.is_nan() {
                0.0
            } else {
                self.budget.clamp(0.0, 10.0)
            },
        }
    }
}

/// Sets when the circuit breaker of a [`ReleasedClient`](crate::ReleasedClient) opens, and for how long; see
/// [`circuit`](super::ReleasedClientBuilder::circuit).
///
/// While it is open, mints fail at once. Then one mint probes: its success closes the circuit, its failure keeps it
/// open for twice as long. The circuit never opens if [`failures_in_a_row`](Self::failures_in_a_row) and
/// [`of_at_least`](Self::of_at_least) are both `u32::MAX`.
///
/// Durations of more than a year count as a year.
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use tower_released::client::CircuitConfig;
///
/// let mut circuit = CircuitConfig::default();
/// circuit.longest_open = Duration::from_secs(30);
/// # assert_eq!(circuit.first_open, Duration::from_secs(5));
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct CircuitConfig {
    /// The number of failures in a row that opens it. Default: 5, more than a short fault of the network causes. Zero
    /// counts as one.
    ///
    /// It also opens when Released answers 401 to the same secret so many times in a row, for at least two users.
    pub failures_in_a_row: u32,
    /// The part of the mints within ten seconds, from 0 to 1, whose failure opens it. Default: 0.5, for an outage in
    /// which some mints succeed.
    pub failing_part: f32,
    /// The number of mints within ten seconds from which on [`failing_part`](Self::failing_part) counts. Default: 20,
    /// because the part of fewer mints is random. Zero counts as one.
    pub of_at_least: u32,
    /// How long it stays open at first, plus or minus a fifth. Default: 5 seconds, which a restart of a server takes.
    pub first_open: Duration,
    /// How long it stays open at most, plus or minus a fifth. Default: 60 seconds, so that tokens return within a
    /// minute after Released does.
    pub longest_open: Duration,
}

impl Default for CircuitConfig {
    fn default() -> Self {
        Self {
            failures_in_a_row: 5,
            failing_part: 0.5,
            of_at_least: 20,
            first_open: Duration::from_secs(5),
            longest_open: Duration::from_secs(60),
        }
    }
}

impl CircuitConfig {
    pub(crate) fn within_bounds(self) -> Self {
        Self {
            failures_in_a_row: self.failures_in_a_row.max(1),
            failing_part: self.failing_part,
            of_at_least: self.of_at_least.max(1),
            first_open: self.first_open.min(LONGEST),
            longest_open: self.longest_open.min(LONGEST),
        }
    }
}
