//! The attempts of one mint: whether to retry, and after how long.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::time::{Instant, sleep, timeout_at};
use tower::retry::budget::{Budget, TpsBudget};

use super::config::RetryConfig;
use super::pool::Allowance;
use crate::error::{MintError, MintErrorKind};

/// The time that must be left of the deadline for a retry.
const MIN_ATTEMPT_TIME: Duration = Duration::from_millis(250);

/// The factor by which pauses are longer after 429 and 503, with which a server asks for fewer requests.
const BUSY_FACTOR: u32 = 4;

/// The window of the retry budget.
const BUDGET_WINDOW: Duration = Duration::from_secs(10);

/// The error of an attempt, and whether a retry may succeed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: MintError,
    pub(crate) is_transient: bool,
}

impl Failure {
    pub(crate) fn lasting(error: MintError) -> Self {
        Self {
            error,
            is_transient: false,
        }
    }

    pub(crate) fn transient(error: MintError) -> Self {
        Self {
            error,
            is_transient: true,
        }
    }

    /// Returns whether the connection brought no complete answer. A 408 is an answer.
    fn has_no_answer(&self) -> bool {
        matches!(
            self.error.kind(),
            MintErrorKind::Timeout | MintErrorKind::Interrupted
        ) && self.error.status().is_none()
    }
}

/// Retries transient failures within the deadline and within a budget that all mints share. Without the budget, retries
/// would multiply the load on an overloaded Released.
#[derive(Debug)]
pub(crate) struct Attempts {
    config: RetryConfig,
    budget: TpsBudget,
}

impl Attempts {
    pub(crate) fn new(config: RetryConfig) -> Self {
        let config = config.within_bounds();
        Self {
            budget: TpsBudget::new(BUDGET_WINDOW, 1, config.budget),
            config,
        }
    }

    /// Calls `attempt` until it succeeds or must not be retried, with the attempt's number from 1 and its time limit.
    /// Makes at most `at_most` attempts, and never more than the configuration allows.
    ///
    /// Calls `on_no_answer` after each attempt that timed out or was interrupted, even the last one. It may add to the
    /// error. Retries use the allowance that it returns before they use the budget.
    pub(crate) async fn run<T, A>(
        &self,
        deadline: Instant,
        at_most: u32,
        attempt: impl Fn(u32, Instant) -> A,
        on_no_answer: impl Fn(&mut MintError) -> Option<Arc<Allowance>>,
    ) -> Result<T, MintError>
    where
        A: Future<Output = Result<T, Failure>>,
    {
        self.budget.deposit();
        let mut number = 1;
        loop {
            let end = deadline.min(Instant::now() + self.config.attempt_timeout);
            let mut failure = match timeout_at(end, attempt(number, end)).await {
                Ok(Ok(done)) => return Ok(done),
                Ok(Err(failure)) => failure,
                Err(_elapsed) => Failure::transient(MintError::new(MintErrorKind::Timeout)),
            };
            let no_answer = failure.has_no_answer();
            let allowance = no_answer
                .then(|| on_no_answer(&mut failure.error))
                .flatten();
            match self.pause_after(&failure, number, at_most, deadline, allowance.as_deref()) {
                Some(pause) => sleep(pause).await,
                None => return Err(failure.error),
            }
            number += 1;
            super::metrics::retried();
        }
    }

    /// Returns the pause before the next attempt, or `None` if the failure must not be retried.
    fn pause_after(
        &self,
        failure: &Failure,
        number: u32,
        at_most: u32,
        deadline: Instant,
        allowance: Option<&Allowance>,
    ) -> Option<Duration> {
        if !failure.is_transient || number >= self.config.max_attempts.min(at_most) {
            return None;
        }
        let asked_for = failure.error.retry_after().unwrap_or_default();
        if asked_for > self.config.longest_retry_after {
            return None;
        }
        let pause = self
            .random_pause(number, failure.error.status())
            .max(asked_for);
        let left = deadline.saturating_duration_since(Instant::now());
        // Last, because what was drawn from the allowance or the budget cannot be returned.
        let is_allowed = || allowance.is_some_and(Allowance::draw) || self.budget.withdraw();
        (pause + MIN_ATTEMPT_TIME <= left && is_allowed()).then_some(pause)
    }

    /// Full jitter: from zero to the whole pause, so that mints that failed together do not retry together.
    fn random_pause(&self, number: u32, status: Option<StatusCode>) -> Duration {
        let factor = match status {
            Some(StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) => BUSY_FACTOR,
            _ => 1,
        };
        let doubled = 2_u32.saturating_pow(number - 1).saturating_mul(factor);
        let whole = self
            .config
            .first_pause
            .saturating_mul(doubled)
            .min(self.config.longest_pause);
        whole.mul_f64(fastrand::f64())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(3);

    fn attempts() -> Attempts {
        Attempts::new(RetryConfig::default())
    }

    fn transient() -> Failure {
        Failure::transient(MintError::new(MintErrorKind::Unavailable))
    }

    /// No pool, so no allowance.
    fn nothing(_: &mut MintError) -> Option<Arc<Allowance>> {
        None
    }

    /// Runs attempts that fail as `fail` says. Returns whether one succeeded, their number and their time.
    async fn run(
        attempts: &Attempts,
        fail: impl Fn(u32) -> Option<Failure>,
    ) -> (bool, u32, Duration) {
        let (start, calls) = (Instant::now(), Cell::new(0));
        let result = attempts
            .run(
                start + DEADLINE,
                u32::MAX,
                |number, _| {
                    calls.set(number);
                    let failure = fail(number);
                    async { failure.map_or(Ok(()), Err) }
                },
                nothing,
            )
            .await;
        (result.is_ok(), calls.get(), start.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn transient_failures_are_tried_three_times() {
        assert!(matches!(
            run(&attempts(), |_| None).await,
            (true, 1, Duration::ZERO)
        ));
        let (succeeded, calls, took) =
            run(&attempts(), |number| (number < 3).then(transient)).await;
        assert_eq!((succeeded, calls), (true, 3));
        assert!(took <= Duration::from_millis(50 + 100), "{took:?}");
        let (succeeded, calls, _) = run(&attempts(), |_| Some(transient())).await;
        assert_eq!((succeeded, calls), (false, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_may_allow_fewer_attempts() {
        let calls = Cell::new(0);
        let attempts = attempts();
        let attempt = |number, _| {
            calls.set(number);
            async { Err::<(), _>(transient()) }
        };
        let once = attempts.run(Instant::now() + DEADLINE, 1, attempt, nothing);
        assert!(once.await.is_err());
        assert_eq!(calls.get(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn lasting_failures_are_not_retried() {
        let lasting = |_| Some(Failure::lasting(MintError::new(MintErrorKind::Rejected)));
        assert!(matches!(
            run(&attempts(), lasting).await,
            (false, 1, Duration::ZERO)
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_that_stalls_leaves_time_for_another() {
        let start = Instant::now();
        let attempt = |number, _| async move {
            if number == 1 {
                sleep(Duration::from_secs(60)).await;
            }
            Ok::<_, Failure>(number)
        };
        let result = attempts()
            .run(start + DEADLINE, u32::MAX, attempt, nothing)
            .await;
        assert_eq!(result.expect("the second attempt"), 2);
        assert!(
            start.elapsed() >= Duration::from_millis(1500)
                && start.elapsed() < Duration::from_millis(1560)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn two_stalls_end_within_the_deadline() {
        let (start, calls) = (Instant::now(), Cell::new(0));
        let attempt = |number, _| {
            calls.set(number);
            async { std::future::pending::<Result<(), Failure>>().await }
        };
        let result = attempts()
            .run(start + DEADLINE, u32::MAX, attempt, nothing)
            .await;
        assert_eq!(result.expect_err("a stall").kind(), MintErrorKind::Timeout);
        assert_eq!(calls.get(), 2);
        assert!(start.elapsed() <= DEADLINE);
    }

    fn throttled(seconds: u64) -> Failure {
        let error = MintError::new(MintErrorKind::RateLimited)
            .with_status(StatusCode::TOO_MANY_REQUESTS)
            .with_retry_after(Duration::from_secs(seconds));
        Failure::transient(error)
    }

    #[tokio::test(start_paused = true)]
    async fn a_short_retry_after_is_waited_for_and_a_long_one_is_not() {
        let (succeeded, calls, took) =
            run(&attempts(), |number| (number == 1).then(|| throttled(1))).await;
        assert_eq!((succeeded, calls, took), (true, 2, Duration::from_secs(1)));
        let (succeeded, calls, took) =
            run(&attempts(), |number| (number == 1).then(|| throttled(0))).await;
        assert_eq!((succeeded, calls), (true, 2));
        assert!(took <= RetryConfig::default().first_pause * BUSY_FACTOR);
        assert!(matches!(
            run(&attempts(), |_| Some(throttled(2))).await,
            (false, 1, Duration::ZERO)
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn there_is_no_attempt_without_time_for_it() {
        let start = Instant::now();
        let attempts = attempts();
        let attempt = |_, _| async {
            sleep(Duration::from_millis(20)).await;
            Err::<(), _>(transient())
        };
        let result = attempts.run(
            start + Duration::from_millis(260),
            u32::MAX,
            attempt,
            nothing,
        );
        assert!(result.await.is_err());
        assert_eq!(start.elapsed(), Duration::from_millis(20));
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_failures_is_retried_within_the_budget() {
        let attempts = attempts();
        let calls = Cell::new(0_u32);
        for _ in 0..200 {
            // Without pauses between the mints, in which the budget would recover.
            let deadline = Instant::now() + DEADLINE;
            let attempt = |_, _| {
                calls.set(calls.get() + 1);
                async { Err::<(), _>(transient()) }
            };
            let _ = attempts.run(deadline, u32::MAX, attempt, nothing).await;
        }
        // A tenth of the 200, and one a second: 10 from the start, and some for the seconds of the pauses.
        let extra = calls.get() - 200;
        assert!((10..=45).contains(&extra), "{extra} calls more than mints");
    }

    #[tokio::test(start_paused = true)]
    async fn only_attempts_without_an_answer_are_reported() {
        let of = |kind| Failure::transient(MintError::new(kind));
        for (failure, times) in [
            (of(MintErrorKind::Timeout), 3),
            (of(MintErrorKind::Interrupted), 3),
            (of(MintErrorKind::Connect), 0),
            (transient(), 0),
            (
                Failure::transient(
                    MintError::new(MintErrorKind::Timeout).with_status(StatusCode::REQUEST_TIMEOUT),
                ),
                0,
            ),
        ] {
            let reported = Cell::new(0);
            let report = |_: &mut MintError| {
                reported.set(reported.get() + 1);
                None
            };
            let attempt = |_, _| async {
                Err::<(), _>(Failure {
                    error: failure.error.clone(),
                    is_transient: true,
                })
            };
            let result = attempts()
                .run(Instant::now() + DEADLINE, u32::MAX, attempt, report)
                .await;
            assert!(result.is_err());
            assert_eq!(reported.get(), times, "{:?}", failure.error);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_allowance_is_used_up_before_the_budget() {
        let attempts = Attempts::new(RetryConfig {
            max_attempts: 2,
            budget: 0.0,
            ..RetryConfig::default()
        });
        let (calls, allowance) = (Cell::new(0_u32), Arc::<Allowance>::default());
        (0..20).for_each(|_| allowance.earn());
        let run = async |mints| {
            let before = calls.get();
            let attempt = |_, _| {
                calls.set(calls.get() + 1);
                async {
                    Err::<(), _>(Failure::transient(MintError::new(
                        MintErrorKind::Interrupted,
                    )))
                }
            };
            for _ in 0..mints {
                let _ = attempts
                    .run(Instant::now() + DEADLINE, u32::MAX, attempt, |_| {
                        Some(Arc::clone(&allowance))
                    })
                    .await;
            }
            calls.get() - before - mints
        };
        assert_eq!(run(20).await, 20);
        let extra = run(100).await;
        assert!((10..=25).contains(&extra), "{extra} calls more than mints");
    }

    proptest! {
        #[test]
        fn pauses_are_random_and_bounded(number in 1..40_u32, throttled: bool) {
            let status = throttled.then_some(StatusCode::SERVICE_UNAVAILABLE);
            // The budget reads the runtime's clock.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            let _entered = runtime.enter();
            prop_assert!(attempts().random_pause(number, status) <= RetryConfig::default().longest_pause);
            prop_assert!(attempts().random_pause(1, None) <= RetryConfig::default().first_pause);
        }

        /// No history of mints exceeds the budget.
        #[test]
        fn the_budget_is_kept_under_any_history(mints in prop::collection::vec((0..4_u32, 0..300_u64), 1..120)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            let (calls, firsts, took) = runtime.block_on(async {
                let attempts = attempts();
                let calls = Cell::new(0_u32);
                let start = Instant::now();
                for (failures, wait) in &mints {
                    let attempt = |number, _| {
                        calls.set(calls.get() + 1);
                        let failure = (number <= *failures).then(transient);
                        async { failure.map_or(Ok(()), Err) }
                    };
                    let _ = attempts.run(Instant::now() + DEADLINE, u32::MAX, attempt, nothing).await;
                    sleep(Duration::from_millis(*wait)).await;
                }
                (calls.get(), u32::try_from(mints.len()).unwrap(), start.elapsed())
            });
            // In each window, ten retries come on top of the tenth. Tower's budget can skip two of its ten slots at
            // once, so a window of ten seconds may last only five. One more window may overlap the whole time.
            let windows = 2 + u32::try_from(took.as_secs() / 5).unwrap();
            prop_assert!(calls - firsts <= firsts / 10 + 1 + windows * 10, "{calls} calls for {firsts} mints in {took:?}");
        }
    }
}
