//! What can be chosen of the retries and of the circuit breaker.

use std::time::Duration;

/// Longer durations make no sense, and are more than clocks can add.
pub(crate) const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// How a [`ReleasedClient`](crate::ReleasedClient) retries; set with [`retry`](super::ReleasedClientBuilder::retry).
///
/// Retried is what may pass: no connection, a broken one, no answer, and the statuses 408, 425, 429, 500, 502, 503 and 504. A
/// retry must fit into the deadline with 250 milliseconds left for it, and into the [`budget`](Self::budget).
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
    /// How often a mint is attempted, the first attempt included. Default: 3, as more would rarely help. Zero counts as one.
    pub max_attempts: u32,
    /// How long one attempt may take, its connection and its body included. Default: 1.5 seconds, so that two attempts that
    /// stall fit into the default deadline.
    pub attempt_timeout: Duration,
    /// The longest pause before the second attempt. Default: 50 milliseconds, which a person does not notice. The pause is a
    /// random part of it, so that mints that failed together do not come back together. It doubles with each attempt, and is
    /// four times as long after 429 and 503.
    pub first_pause: Duration,
    /// The longest pause before any attempt. Default: 400 milliseconds, so that the deadline is spent on attempts and not on
    /// pauses.
    pub longest_pause: Duration,
    /// The longest `Retry-After` that a mint waits for. Default: 1 second, a third of the default deadline. For a longer
    /// one the mint fails, and all mints with it, until then or for 30 seconds.
    pub longest_retry_after: Duration,
    /// How many retries there may be within ten seconds, as a fraction of the mints. One retry a second comes on top. Default:
    /// 0.1, so that Released gets a tenth more requests while it is failing and not three times as many.
    ///
    /// Below 1, it is taken for the next larger fraction with 1 above the line: 0.4 counts as a half. Less than 0 counts as 0,
    /// more than 10 as 10.
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
            // What `TpsBudget` takes without a panic.
            budget: if self.budget.is_nan() {
                0.0
            } else {
                self.budget.clamp(0.0, 10.0)
            },
        }
    }
}

/// When the circuit breaker of a [`ReleasedClient`](crate::ReleasedClient) opens, and for how long; set with
/// [`circuit`](super::ReleasedClientBuilder::circuit).
///
/// While it is open, mints fail at once and Released is left alone. Then one mint probes: its success closes the circuit, its
/// failure keeps it open for twice as long. With [`failures_in_a_row`](Self::failures_in_a_row) and
/// [`of_at_least`](Self::of_at_least) both at `u32::MAX`, it never opens.
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
    /// How many mints must fail in a row to open it. Default: 5, which is more than a passing fault of the network. Zero counts
    /// as one.
    ///
    /// It opens, too, when Released answers 401 to the same secret so many times in a row, for at least two users.
    pub failures_in_a_row: u32,
    /// Which part of the mints within ten seconds must fail to open it, from 0 to 1. Default: 0.5, for an outage that lets some
    /// mints through.
    pub failing_part: f32,
    /// Of how many mints within ten seconds that part is taken, at least. Default: 20, as a part of fewer says nothing. Zero
    /// counts as one.
    pub of_at_least: u32,
    /// How long it stays open at first, give or take a fifth. Default: 5 seconds, which a restart of a server takes.
    pub first_open: Duration,
    /// How long it stays open at most, give or take a fifth. Default: 60 seconds, so that tokens are back within a minute
    /// of Released.
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
