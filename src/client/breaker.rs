//! The circuit breaker: while Released is failing, mints fail at once instead of one by one.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::telemetry::{info, warn};

/// The window over which the rate of failures is taken, in seconds.
const WINDOW_SECONDS: usize = 10;

/// How far the time that the breaker stays open strays in both directions, so that servers do not probe in step.
const JITTER: f64 = 0.2;

/// What a mint tells about Released's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It works.
    Success,
    /// It does not: no connection, no answer, or a 5xx.
    Failure,
    /// It works, but not for everybody: counts towards the rate, not towards the row.
    Throttled,
    /// It answered, and the answer says nothing about its health.
    Unrelated,
}

/// Opens after failures in a row, or when half of many fail; lets one probe through at a time when it has been open for
/// a while, and closes with its success.
#[derive(Debug)]
pub(crate) struct Breaker {
    limits: BreakerLimits,
    state: Mutex<State>,
}

/// What can be chosen of the breaker.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct BreakerLimits {
    /// How many failures in a row open it.
    pub(crate) opens_after: u32,
    /// Which part of the mints in the window must fail to open it,
    pub(crate) failing_part: f64,
    /// and of how many at least: of fewer it says nothing.
    pub(crate) of_at_least: u32,
    /// How long it stays open at first; doubled each time a probe fails.
    pub(crate) first_open: Duration,
    pub(crate) longest_open: Duration,
}

impl BreakerLimits {
    pub(crate) const DEFAULT: Self = Self {
        opens_after: 5,
        failing_part: 0.5,
        of_at_least: 20,
        first_open: Duration::from_secs(5),
        longest_open: Duration::from_secs(60),
    };
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// Changes whenever the breaker opens or closes: what was admitted before says nothing of what is now.
    era: u64,
    failures_in_a_row: u32,
    window: Window,
    next_open: Duration,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Closed,
    /// Nothing passes until then; afterwards, one probe.
    Open(Instant),
    /// The probe is under way.
    Probing,
}

impl Breaker {
    pub(crate) fn new(limits: BreakerLimits) -> Self {
        super::metrics::circuit_open(false);
        let state = State {
            phase: Phase::Closed,
            era: 0,
            failures_in_a_row: 0,
            window: Window::new(Instant::now()),
            next_open: limits.first_open,
        };
        Self { limits, state: Mutex::new(state) }
    }

    /// Lets a mint through, or tells after how long it makes sense to try again.
    pub(crate) fn admit(&self) -> Result<Admission<'_>, Duration> {
        let mut state = self.state();
        let is_probe = match state.phase {
            Phase::Closed => false,
            Phase::Open(until) => {
                let left = until.saturating_duration_since(Instant::now());
                if !left.is_zero() {
                    return Err(left);
                }
                state.phase = Phase::Probing;
                true
            }
            // The probe's answer is due any moment.
            Phase::Probing => return Err(Duration::from_secs(1)),
        };
        Ok(Admission { breaker: self, era: state.era, is_probe, reported: false })
    }

    /// Whether mints are held back.
    pub(crate) fn is_open(&self) -> bool {
        !matches!(self.state().phase, Phase::Closed)
    }

    fn report(&self, admission: &Admission<'_>, verdict: Verdict) {
        let mut state = self.state();
        if admission.era != state.era {
            return;
        }
        let now = Instant::now();
        if admission.is_probe {
            match verdict {
                Verdict::Failure | Verdict::Throttled => self.open(&mut state, now),
                // Any other answer is a sign of life.
                Verdict::Success | Verdict::Unrelated => self.close(&mut state, now),
            }
            return;
        }
        match verdict {
            Verdict::Success => {
                state.failures_in_a_row = 0;
                state.window.add(now, false);
            }
            Verdict::Failure => {
                state.failures_in_a_row += 1;
                state.window.add(now, true);
            }
            Verdict::Throttled => state.window.add(now, true),
            Verdict::Unrelated => return,
        }
        if state.failures_in_a_row >= self.limits.opens_after || state.window.is_failing(now, &self.limits) {
            self.open(&mut state, now);
        }
    }

    fn open(&self, state: &mut State, now: Instant) {
        let stray = 1.0 - JITTER + 2.0 * JITTER * fastrand::f64();
        let open_for = state.next_open.mul_f64(stray);
        state.phase = Phase::Open(now + open_for);
        state.era += 1;
        state.next_open = state.next_open.saturating_mul(2).min(self.limits.longest_open);
        warn!(
            open_for_ms = u64::try_from(open_for.as_millis()).unwrap_or(u64::MAX),
            "Released keeps failing: the circuit breaker is open, and mints fail at once until a probe succeeds"
        );
        super::metrics::circuit_open(true);
    }

    fn close(&self, state: &mut State, now: Instant) {
        state.phase = Phase::Closed;
        state.era += 1;
        state.failures_in_a_row = 0;
        state.window = Window::new(now);
        state.next_open = self.limits.first_open;
        info!("Released answers again: the circuit breaker is closed");
        super::metrics::circuit_open(false);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A mint that was let through, and owes a report. A probe that is dropped without one lets the next mint probe.
#[derive(Debug)]
pub(crate) struct Admission<'a> {
    breaker: &'a Breaker,
    era: u64,
    is_probe: bool,
    reported: bool,
}

impl Admission<'_> {
    /// Whether this mint alone decides if the breaker closes.
    pub(crate) fn is_probe(&self) -> bool {
        self.is_probe
    }

    pub(crate) fn report(mut self, verdict: Verdict) {
        self.reported = true;
        self.breaker.report(&self, verdict);
    }
}

impl Drop for Admission<'_> {
    fn drop(&mut self) {
        if self.is_probe && !self.reported {
            self.breaker.state().phase = Phase::Open(Instant::now());
        }
    }
}

/// Successes and failures of the last seconds, one bucket each.
#[derive(Debug)]
struct Window {
    start: Instant,
    buckets: [Bucket; WINDOW_SECONDS],
}

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    second: usize,
    all: u32,
    failed: u32,
}

impl Window {
    fn new(start: Instant) -> Self {
        Self { start, buckets: [Bucket::default(); WINDOW_SECONDS] }
    }

    fn add(&mut self, now: Instant, failed: bool) {
        let second = self.second(now);
        let bucket = &mut self.buckets[second % WINDOW_SECONDS];
        if bucket.second != second {
            *bucket = Bucket { second, ..Bucket::default() };
        }
        bucket.all += 1;
        bucket.failed += u32::from(failed);
    }

    /// Whether too large a part of enough mints failed.
    fn is_failing(&self, now: Instant, limits: &BreakerLimits) -> bool {
        let second = self.second(now);
        let recent = self.buckets.iter().filter(|bucket| second - bucket.second < WINDOW_SECONDS);
        let (all, failed) = recent.fold((0, 0), |(all, failed), bucket| (all + bucket.all, failed + bucket.failed));
        all >= limits.of_at_least && f64::from(failed) >= f64::from(all) * limits.failing_part
    }

    fn second(&self, now: Instant) -> usize {
        usize::try_from(now.saturating_duration_since(self.start).as_secs()).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::time::advance;

    use super::*;

    fn breaker() -> Breaker {
        Breaker::new(BreakerLimits::DEFAULT)
    }

    fn report(breaker: &Breaker, verdict: Verdict) {
        breaker.admit().expect("admitted").report(verdict);
    }

    fn opened() -> Breaker {
        let breaker = breaker();
        for _ in 0..5 {
            report(&breaker, Verdict::Failure);
        }
        assert!(breaker.is_open());
        breaker
    }

    #[tokio::test(start_paused = true)]
    async fn five_failures_in_a_row_open_it() {
        let breaker = breaker();
        for _ in 0..4 {
            report(&breaker, Verdict::Failure);
        }
        report(&breaker, Verdict::Success);
        for _ in 0..4 {
            report(&breaker, Verdict::Failure);
        }
        assert!(!breaker.is_open());
        report(&breaker, Verdict::Failure);
        let left = breaker.admit().expect_err("open");
        assert!(left >= Duration::from_secs(4) && left <= Duration::from_secs(6), "{left:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn half_of_twenty_in_ten_seconds_open_it() {
        let breaker = breaker();
        for _ in 0..9 {
            report(&breaker, Verdict::Failure);
            report(&breaker, Verdict::Success);
        }
        report(&breaker, Verdict::Success);
        assert!(!breaker.is_open());
        // The twentieth, and the tenth that failed; being throttled counts here.
        report(&breaker, Verdict::Throttled);
        assert!(breaker.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_older_than_ten_seconds_is_forgotten() {
        let breaker = breaker();
        for _ in 0..9 {
            report(&breaker, Verdict::Failure);
            report(&breaker, Verdict::Success);
        }
        advance(Duration::from_secs(11)).await;
        for _ in 0..4 {
            report(&breaker, Verdict::Failure);
        }
        assert!(!breaker.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn being_throttled_is_no_failure_in_a_row_and_other_answers_are_not_counted() {
        let breaker = breaker();
        for _ in 0..10 {
            report(&breaker, Verdict::Throttled);
        }
        for _ in 0..100 {
            report(&breaker, Verdict::Unrelated);
            drop(breaker.admit().expect("admitted"));
        }
        assert!(!breaker.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn one_probe_at_a_time_decides() {
        let breaker = opened();
        advance(Duration::from_secs(6)).await;
        let probe = breaker.admit().expect("the probe");
        assert!(breaker.admit().is_err());
        probe.report(Verdict::Success);
        assert!(!breaker.is_open());
        report(&breaker, Verdict::Success);
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_is_dropped_lets_the_next_one_probe() {
        let breaker = opened();
        advance(Duration::from_secs(6)).await;
        drop(breaker.admit().expect("the probe"));
        breaker.admit().expect("the next probe").report(Verdict::Unrelated);
        assert!(!breaker.is_open(), "an answer is a sign of life");
    }

    #[tokio::test(start_paused = true)]
    async fn every_probe_that_fails_doubles_the_wait_up_to_a_minute() {
        let breaker = opened();
        for seconds in [10, 20, 40, 60, 60, 60] {
            advance(Duration::from_secs(72)).await;
            breaker.admit().expect("the probe").report(Verdict::Failure);
            let left = breaker.admit().expect_err("open again").as_secs_f64() / f64::from(seconds);
            assert!((0.8..=1.2).contains(&left), "{left} of {seconds} s");
        }
        advance(Duration::from_secs(72)).await;
        report(&breaker, Verdict::Success);
        for _ in 0..5 {
            report(&breaker, Verdict::Failure);
        }
        assert!(breaker.admit().expect_err("open") <= Duration::from_secs(6), "it starts anew");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_admitted_before_it_opened_says_nothing_afterwards() {
        let breaker = breaker();
        let (late_success, late_failure) = (breaker.admit().expect("one"), breaker.admit().expect("two"));
        for _ in 0..5 {
            report(&breaker, Verdict::Failure);
        }
        late_success.report(Verdict::Success);
        assert!(breaker.is_open());
        advance(Duration::from_secs(6)).await;
        report(&breaker, Verdict::Success);
        late_failure.report(Verdict::Failure);
        assert!(!breaker.is_open());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Admit,
        Report(usize, Verdict),
        Drop(usize),
        Wait(u64),
    }

    fn any_step() -> impl Strategy<Value = Step> {
        let verdict = prop_oneof![
            1 => Just(Verdict::Success),
            4 => Just(Verdict::Failure),
            1 => Just(Verdict::Throttled),
            1 => Just(Verdict::Unrelated),
        ];
        prop_oneof![
            3 => Just(Step::Admit),
            3 => (any::<usize>(), verdict).prop_map(|(index, verdict)| Step::Report(index, verdict)),
            1 => any::<usize>().prop_map(Step::Drop),
            1 => (0..20_000_u64).prop_map(Step::Wait),
        ]
    }

    proptest! {
        /// Whatever happens in whatever order: at most one probe is under way, an open breaker admits nothing before
        /// its time, and it can always be brought back.
        #[test]
        fn its_invariants_hold_under_any_history(steps in prop::collection::vec(any_step(), 0..300)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            runtime.block_on(async {
                let breaker = breaker();
                let mut admitted: Vec<Admission<'_>> = Vec::new();
                let mut earliest: Option<Instant> = None;
                for step in steps {
                    match step {
                        Step::Admit => match breaker.admit() {
                            Ok(admission) => {
                                prop_assert!(earliest.is_none_or(|earliest| Instant::now() >= earliest));
                                admitted.push(admission);
                            }
                            Err(wait) => {
                                prop_assert!(breaker.is_open());
                                prop_assert!(wait <= Duration::from_secs(72));
                                let probing = admitted.iter().any(|admission| admission.is_probe);
                                earliest = (!probing).then(|| Instant::now() + wait);
                            }
                        },
                        Step::Report(index, verdict) if !admitted.is_empty() => {
                            let index = index % admitted.len();
                            let was_probe = admitted[index].is_probe;
                            admitted.swap_remove(index).report(verdict);
                            if was_probe {
                                earliest = None;
                            }
                        }
                        Step::Drop(index) if !admitted.is_empty() => {
                            let index = index % admitted.len();
                            drop(admitted.swap_remove(index));
                        }
                        Step::Wait(milliseconds) => advance(Duration::from_millis(milliseconds)).await,
                        Step::Report(..) | Step::Drop(_) => {}
                    }
                    prop_assert!(admitted.iter().filter(|admission| admission.is_probe).count() <= 1);
                }
                admitted.clear();
                advance(Duration::from_secs(72)).await;
                breaker.admit().expect("after the longest wait there is a probe, or it is closed").report(Verdict::Success);
                prop_assert!(!breaker.is_open());
                Ok(())
            })?;
        }
    }
}
