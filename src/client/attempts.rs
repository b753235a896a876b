//! The attempts of one mint: when to try again, and after how long.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::time::{Instant, sleep, timeout_at};
use tower::retry::budget::{Budget, TpsBudget};

use super::config::RetryConfig;
use super::pool::Allowance;
use crate::error::{MintError, MintErrorKind};

/// A new attempt is only worth it if this much of the deadline is left for it.
const WORTH_AN_ATTEMPT: Duration = Duration::from_millis(250);

/// After 429 and 503, which ask for patience, pauses are so many times as long.
const PATIENCE: u32 = 4;

/// The window of the retry budget.
const BUDGET_WINDOW: Duration = Duration::from_secs(10);

/// How an attempt failed, and whether another one could succeed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: MintError,
    pub(crate) is_transient: bool,
}

impl Failure {
    /// Trying again would change nothing.
    pub(crate) fn lasting(error: impl Into<MintError>) -> Self {
        Self {
            error: error.into(),
            is_transient: false,
        }
    }

    pub(crate) fn transient(error: impl Into<MintError>) -> Self {
        Self {
            error: error.into(),
            is_transient: true,
        }
    }

    /// Whether nothing was heard on the connection, or not to its end. A 408 is an answer.
    fn is_without_answer(&self) -> bool {
        matches!(
            self.error.kind(),
            MintErrorKind::Timeout | MintErrorKind::Interrupted
        ) && self.error.status().is_none()
    }
}

/// Tries again what may succeed, within the deadline and a budget for all mints together: without one, retries would
/// multiply the load on a Released that is failing under it.
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

    /// Calls `attempt` with 1, 2, 3 until it succeeds, or there is no sense in another one; and with the time until which it
    /// may take.
    /// `at_most` so often, if that is less than its own maximum.
    ///
    /// Calls `without_answer` after an attempt that timed out or was interrupted, be there another one or not, to let it add
    /// what it knows to the error. What it returns allows for further attempts before the budget does.
    pub(crate) async fn run<T, A>(
        &self,
        deadline: Instant,
        at_most: u32,
        attempt: impl Fn(u32, Instant) -> A,
        without_answer: impl Fn(&mut MintError) -> Option<Arc<Allowance>>,
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
            let allowance = if failure.is_without_answer() {
                without_answer(&mut failure.error)
            } else {
                None
            };
            match self.pause_after(&failure, number, at_most, deadline, allowance.as_deref()) {
                Some(pause) => sleep(pause).await,
                None => return Err(failure.error),
            }
            number += 1;
            super::metrics::retried();
        }
    }

    /// How long to pause before the next attempt, if there is to be one.
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
        // The allowance and the budget last: neither takes back.
        let is_allowed = || allowance.is_some_and(Allowance::draw) || self.budget.withdraw();
        (pause + WORTH_AN_ATTEMPT <= left && is_allowed()).then_some(pause)
    }

    /// Full jitter: anything from nothing to the whole, so that those who failed together do not come back together.
    fn random_pause(&self, number: u32, status: Option<StatusCode>) -> Duration {
        let factor = match status {
            Some(StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) => PATIENCE,
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

    /// No pool, as nothing here has one.
    fn nothing(_: &mut MintError) -> Option<Arc<Allowance>> {
        None
    }

    /// Runs attempts that fail as told, and tells the result, the number of attempts and how long they took.
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
    async fn what_may_succeed_is_tried_three_times() {
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
    async fn what_lasts_is_not_tried_again() {
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
        assert!(took <= RetryConfig::default().first_pause * PATIENCE);
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
            // Without pauses between the mints, so that none of the budget comes back with time.
            let deadline = Instant::now() + DEADLINE;
            let attempt = |_, _| {
                calls.set(calls.get() + 1);
                async { Err::<(), _>(transient()) }
            };
            let _ = attempts.run(deadline, u32::MAX, attempt, nothing).await;
        }
        // A tenth of the 200, and one a second: 10 from the start, and what came with the seconds that the pauses took.
        let extra = calls.get() - 200;
        assert!((10..=45).contains(&extra), "{extra} calls more than mints");
    }

    #[tokio::test(start_paused = true)]
    async fn every_attempt_without_an_answer_and_no_other_is_told_of() {
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
            let told = Cell::new(0);
            let tell = |_: &mut MintError| {
                told.set(told.get() + 1);
                None
            };
            let attempt = |_, _| async {
                Err::<(), _>(Failure {
                    error: failure.error.clone(),
                    is_transient: true,
                })
            };
            let result = attempts()
                .run(Instant::now() + DEADLINE, u32::MAX, attempt, tell)
                .await;
            assert!(result.is_err());
            assert_eq!(told.get(), times, "{:?}", failure.error);
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
            // The budget looks at the runtime's clock.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            let _entered = runtime.enter();
            prop_assert!(attempts().random_pause(number, status) <= RetryConfig::default().longest_pause);
            prop_assert!(attempts().random_pause(1, None) <= RetryConfig::default().first_pause);
        }

        /// However mints fail, succeed and are spread over time, the budget is kept.
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
            // Ten in every window come on top of the tenth. Tower's budget moves on by two of its ten slots where a slot is
            // over for a moment already, so its ten seconds may be five; and one more window may touch the whole time.
            let windows = 2 + u32::try_from(took.as_secs() / 5).unwrap();
            prop_assert!(calls - firsts <= firsts / 10 + 1 + windows * 10, "{calls} calls for {firsts} mints in {took:?}");
        }
    }
}
