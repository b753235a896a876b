//! Decides whether a mint may ask Released now. While Released fails, refuses the secret or asked to wait, mints fail
//! at once.

use std::hash::{BuildHasher, RandomState};
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::circuit::{Event, State, Verdict};
use super::config::CircuitConfig;
use super::metrics;
use super::secret::SharedSecret;
use super::status::{CircuitState, LastError};
use crate::error::MintError;
use crate::user::UserId;

/// How long after its deadline a mint may report. A later mint was not polled in the meantime, so its result is old.
const GRACE: Duration = Duration::from_secs(1);

/// The circuit breaker, together with the time for which Released asked to wait.
///
/// The circuit opens after failures in a row, when too large a part of many mints fails, or when Released refused one
/// secret for several users in a row. After a while, one mint probes. Its success closes the circuit.
#[derive(Debug)]
pub(crate) struct Admission {
    /// How long a mint may take.
    deadline: Duration,
    /// Hashes users, to distinguish them without storing who they are.
    users: RandomState,
    state: Mutex<State>,
}

impl Admission {
    /// Creates the admission of mints that take no longer than `deadline`.
    pub(crate) fn new(config: CircuitConfig, deadline: Duration) -> Self {
        Self {
            deadline,
            users: RandomState::new(),
            state: Mutex::new(State::new(config.within_bounds())),
        }
    }

    /// Admits a mint that starts now. The error says why it may not start, and when to retry.
    pub(crate) fn admit(&self, now: Instant) -> Result<Ticket<'_>, MintError> {
        let expires = now + self.deadline + GRACE;
        self.change(now, |state, _| {
            let is_probe = state.admit(now, expires)?;
            Ok(Ticket {
                admission: self,
                era: state.era,
                expires,
                is_probe,
                reported: false,
            })
        })
    }

    /// Fails if Released asked to wait since this mint was admitted.
    pub(crate) fn check_hold(&self, now: Instant) -> Result<(), MintError> {
        self.change(now, |state, _| state.check_hold(now))
    }

    /// Closes the circuit if refusals of another secret than this one opened it. Returns whether it did.
    pub(crate) fn close_for(&self, secret: &SharedSecret) -> bool {
        let now = Instant::now();
        self.change(now, |state, events| {
            events.extend(state.close_for(secret, now));
            !events.is_empty()
        })
    }

    /// Returns the circuit, the age of the last success, and the last error, for a [`Status`](super::Status).
    pub(crate) fn status(&self) -> (CircuitState, Option<Duration>, Option<LastError>) {
        let now = Instant::now();
        // A change, for the gauge: a hold may have ended since the last mint.
        self.change(now, |state, _| {
            let age = |at: Instant| now.saturating_duration_since(at);
            let last_error = state
                .last_error
                .map(|(kind, at)| LastError { kind, age: age(at) });
            (
                state.circuit_state(now),
                state.last_success.map(age),
                last_error,
            )
        })
    }

    /// Returns the circuit, or `None` if it is locked: for `Debug`, which may be called from anywhere.
    pub(crate) fn try_circuit(&self) -> Option<CircuitState> {
        Some(self.state.try_lock().ok()?.circuit_state(Instant::now()))
    }

    /// Creates the verdict of a 401 to this secret. It contains only a hash of the user.
    pub(crate) fn refused<'a>(&self, secret: &'a SharedSecret, user: &UserId) -> Verdict<'a> {
        Verdict::Refused(secret, self.users.hash_one(user.as_str()))
    }

    fn report(&self, ticket: &Ticket<'_>, verdict: Verdict<'_>, error: Option<&MintError>) {
        let now = Instant::now();
        if now >= ticket.expires {
            return;
        }
        // A mint that a hold turned away says nothing about Released.
        let answered = error.filter(|error| !error.is_turned_away());
        self.change(now, |state, events| {
            if error.is_none() {
                state.last_success = Some(now);
            }
            if let Some(error) = answered {
                state.last_error = Some((error.kind(), now));
            }
            if ticket.era == state.era {
                events.extend(if ticket.is_probe {
                    state.record_probe(verdict, now)
                } else {
                    state.record(verdict, now)
                });
            }
            // A `Retry-After` counts in every era.
            events.extend(answered.and_then(|error| state.hold_for(error, now)));
        });
    }

    /// Changes the state. Logs the events when the lock is free, because a subscriber may format the client.
    fn change<T>(&self, now: Instant, change: impl FnOnce(&mut State, &mut Vec<Event>) -> T) -> T {
        let mut events = Vec::new();
        let (result, before, after) = {
            let mut state = self.lock();
            let result = change(&mut state, &mut events);
            let after = state.circuit_state(now).reason();
            (result, mem::replace(&mut state.counted, after), after)
        };
        if before != after {
            metrics::circuit_changed(before, after);
        }
        events.into_iter().for_each(Event::log);
        result
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The gauge counts a dropped client no more.
impl Drop for Admission {
    fn drop(&mut self) {
        let counted = self.lock().counted.take();
        if counted.is_some() {
            metrics::circuit_changed(counted, None);
        }
    }
}

/// An admitted mint, which reports its end. If a probe is dropped without a report, the next mint probes. So it does if
/// the probe has not reported one second after its deadline; a report after that is ignored.
#[derive(Debug)]
pub(crate) struct Ticket<'a> {
    admission: &'a Admission,
    era: u64,
    expires: Instant,
    is_probe: bool,
    reported: bool,
}

impl Ticket<'_> {
    /// Returns whether this mint alone decides if the circuit closes.
    pub(crate) fn is_probe(&self) -> bool {
        self.is_probe
    }

    /// Reports the mint's end. `error` is `None` if it succeeded.
    pub(crate) fn report(mut self, verdict: Verdict<'_>, error: Option<&MintError>) {
        self.reported = true;
        self.admission.report(&self, verdict, error);
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        if !self.is_probe || self.reported {
            return;
        }
        let now = Instant::now();
        self.admission
            .change(now, |state, _| state.give_up_probe(self.era, now));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::time::advance;

    use super::*;
    use crate::client::circuit::PROBE_TAKES;
    use crate::client::status::CircuitReason;
    use crate::error::MintErrorKind;

    const DEADLINE: Duration = Duration::from_secs(3);

    fn admission() -> Admission {
        Admission::new(CircuitConfig::default(), DEADLINE)
    }

    fn admit(admission: &Admission) -> Result<Ticket<'_>, MintError> {
        admission.admit(Instant::now())
    }

    /// Returns the kind and the `Retry-After` with which a mint fails at once.
    fn turned_away(admission: &Admission) -> (MintErrorKind, Duration) {
        let error = admit(admission).expect_err("open");
        assert!(error.is_turned_away());
        (error.kind(), error.retry_after().expect("a time"))
    }

    fn is_open(admission: &Admission) -> bool {
        admission.status().0 != CircuitState::Closed
    }

    fn end(ticket: Ticket<'_>, verdict: Verdict<'_>) {
        let error = MintError::new(MintErrorKind::Unavailable);
        ticket.report(
            verdict,
            (!matches!(verdict, Verdict::Success)).then_some(&error),
        );
    }

    fn report(admission: &Admission, verdict: Verdict<'_>) {
        end(admit(admission).expect("admitted"), verdict);
    }

    fn secret(text: &str) -> SharedSecret {
        SharedSecret::new(text).expect("a good secret")
    }

    fn refuse(admission: &Admission, secret: &SharedSecret, user: u64) {
        report(admission, Verdict::Refused(secret, user));
    }

    fn held(admission: &Admission, kind: MintErrorKind, seconds: u64) {
        let error = MintError::new(kind).with_retry_after(Duration::from_secs(seconds));
        admit(admission)
            .expect("admitted")
            .report(Verdict::Unrelated, Some(&error));
    }

    fn opened() -> Admission {
        let admission = admission();
        for _ in 0..5 {
            report(&admission, Verdict::Failure);
        }
        assert!(is_open(&admission));
        admission
    }

    #[tokio::test(start_paused = true)]
    async fn five_failures_in_a_row_open_it() {
        let admission = admission();
        for _ in 0..4 {
            report(&admission, Verdict::Failure);
        }
        report(&admission, Verdict::Success);
        for _ in 0..4 {
            report(&admission, Verdict::Failure);
        }
        assert!(!is_open(&admission));
        report(&admission, Verdict::Failure);
        let (kind, left) = turned_away(&admission);
        assert_eq!(kind, MintErrorKind::CircuitOpen);
        assert!(
            left >= Duration::from_secs(4) && left <= Duration::from_secs(6),
            "{left:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn half_of_twenty_in_ten_seconds_open_it() {
        let admission = admission();
        for _ in 0..9 {
            report(&admission, Verdict::Failure);
            report(&admission, Verdict::Success);
        }
        report(&admission, Verdict::Success);
        assert!(!is_open(&admission));
        // The twentieth mint, and the tenth that failed: a 429 counts here.
        report(&admission, Verdict::Throttled);
        assert!(is_open(&admission));
    }

    #[tokio::test(start_paused = true)]
    async fn mints_older_than_ten_seconds_are_not_counted() {
        let admission = admission();
        for _ in 0..9 {
            report(&admission, Verdict::Failure);
            report(&admission, Verdict::Success);
        }
        advance(Duration::from_secs(11)).await;
        for _ in 0..4 {
            report(&admission, Verdict::Failure);
        }
        assert!(!is_open(&admission));
    }

    #[tokio::test(start_paused = true)]
    async fn a_429_is_no_failure_in_a_row_and_other_answers_are_not_counted() {
        let admission = admission();
        for _ in 0..10 {
            report(&admission, Verdict::Throttled);
        }
        for _ in 0..100 {
            report(&admission, Verdict::Unrelated);
            drop(admit(&admission).expect("admitted"));
        }
        assert!(!is_open(&admission));
    }

    #[tokio::test(start_paused = true)]
    async fn one_probe_at_a_time_decides() {
        let admission = opened();
        advance(Duration::from_secs(6)).await;
        let probe = admit(&admission).expect("the probe");
        assert!(probe.is_probe());
        assert_eq!(
            turned_away(&admission),
            (MintErrorKind::CircuitOpen, PROBE_TAKES)
        );
        assert_eq!(
            admission.status().0,
            CircuitState::Probing {
                reason: CircuitReason::Failing
            }
        );
        end(probe, Verdict::Success);
        assert!(!is_open(&admission));
        report(&admission, Verdict::Success);
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_is_dropped_lets_the_next_one_probe() {
        let admission = opened();
        advance(Duration::from_secs(6)).await;
        drop(admit(&admission).expect("the probe"));
        end(
            admit(&admission).expect("the next probe"),
            Verdict::Unrelated,
        );
        assert!(!is_open(&admission), "an answer is a sign of life");
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_is_not_polled_to_its_end_is_lost_after_the_deadline_and_a_second() {
        for late in [Some(Verdict::Success), Some(Verdict::Failure), None] {
            let admission = opened();
            advance(Duration::from_secs(6)).await;
            let parked = admit(&admission).expect("the probe");
            advance(DEADLINE + Duration::from_millis(999)).await;
            assert!(admit(&admission).is_err());
            advance(Duration::from_millis(1)).await;
            let next = admit(&admission).expect("the next probe");
            assert!(next.is_probe() && admit(&admission).is_err());

            // The end of the first probe changes nothing.
            match late {
                Some(verdict) => end(parked, verdict),
                None => drop(parked),
            }
            assert_eq!(turned_away(&admission).1, PROBE_TAKES, "{late:?}");
            end(next, Verdict::Success);
            assert!(!is_open(&admission));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_report_of_a_parked_mint_is_ignored() {
        let late = DEADLINE + GRACE;
        // Even if no other mint has probed yet.
        let admission = opened();
        advance(Duration::from_secs(6)).await;
        let parked = admit(&admission).expect("the probe");
        advance(late).await;
        end(parked, Verdict::Success);
        assert!(is_open(&admission));
        assert!(admit(&admission).expect("the next probe").is_probe());

        // Mints that are not polled are no outage, and their `Retry-After` does not count.
        let admission = self::admission();
        let parked: Vec<_> = (0..10)
            .map(|_| admit(&admission).expect("admitted"))
            .collect();
        advance(late).await;
        let error =
            MintError::new(MintErrorKind::Timeout).with_retry_after(Duration::from_secs(20));
        for ticket in parked {
            ticket.report(Verdict::Failure, Some(&error));
        }
        assert!(!is_open(&admission));
        assert!(admission.status().2.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn every_probe_that_fails_doubles_the_wait_up_to_a_minute() {
        let wrong = secret("wrong");
        let refusing = admission();
        (0..5).for_each(|user| refuse(&refusing, &wrong, user));
        for (admission, is_refused) in [(opened(), false), (refusing, true)] {
            for (user, seconds) in (0..).zip([10, 20, 40, 60, 60, 60]) {
                advance(Duration::from_secs(72)).await;
                report(
                    &admission,
                    if is_refused {
                        Verdict::Refused(&wrong, user)
                    } else {
                        Verdict::Failure
                    },
                );
                let left = turned_away(&admission).1.as_secs_f64() / f64::from(seconds);
                assert!((0.8..=1.2).contains(&left), "{left} of {seconds} s");
            }
            advance(Duration::from_secs(72)).await;
            report(&admission, Verdict::Success);
            for _ in 0..5 {
                report(&admission, Verdict::Failure);
            }
            assert!(
                turned_away(&admission).1 <= Duration::from_secs(6),
                "it starts anew"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn mints_that_were_admitted_before_it_opened_are_not_counted_afterwards() {
        let admission = admission();
        let (late_success, late_failure) = (
            admit(&admission).expect("one"),
            admit(&admission).expect("two"),
        );
        for _ in 0..5 {
            report(&admission, Verdict::Failure);
        }
        end(late_success, Verdict::Success);
        assert!(is_open(&admission));
        advance(Duration::from_secs(6)).await;
        report(&admission, Verdict::Success);
        end(late_failure, Verdict::Failure);
        assert!(!is_open(&admission));
    }

    #[tokio::test(start_paused = true)]
    async fn five_refusals_of_one_secret_for_several_users_open_it_and_another_secret_closes_it() {
        let admission = admission();
        let wrong = secret("wrong");
        for user in [1, 1, 1, 2] {
            refuse(&admission, &wrong, user);
        }
        assert!(!is_open(&admission));
        refuse(&admission, &wrong, 1);
        let (kind, left) = turned_away(&admission);
        assert_eq!(kind, MintErrorKind::Unauthorized);
        assert!(
            left >= Duration::from_secs(4) && left <= Duration::from_secs(6),
            "{left:?}"
        );
        assert!(!admission.close_for(&wrong));
        assert!(is_open(&admission));
        assert!(admission.close_for(&secret("another")));
        assert!(!is_open(&admission));
        // Another secret does not end an outage.
        assert!(!opened().close_for(&secret("another")));
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_of_one_user_of_several_secrets_or_with_a_success_in_between_do_not_open_it() {
        let admission = admission();
        for _ in 0..100 {
            refuse(&admission, &secret("refuses one user"), 1);
        }
        for user in 0..100 {
            refuse(
                &admission,
                &secret(if user % 2 == 0 { "one" } else { "another" }),
                user,
            );
        }
        for user in 0..100 {
            refuse(&admission, &secret("good"), user);
            if user % 4 == 3 {
                report(&admission, Verdict::Success);
            }
        }
        assert!(!is_open(&admission));
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_of_a_refused_secret_closes_it_with_any_answer_but_the_same() {
        let (wrong, another) = (secret("wrong"), secret("another"));
        for (verdict, turns_away) in [
            (Verdict::Success, None),
            (Verdict::Unrelated, None),
            (Verdict::Refused(&another, 1), None),
            (
                Verdict::Refused(&wrong, 1),
                Some(MintErrorKind::Unauthorized),
            ),
            // Now Released fails, and the secret may be right.
            (Verdict::Failure, Some(MintErrorKind::CircuitOpen)),
        ] {
            let admission = admission();
            (0..5).for_each(|user| refuse(&admission, &wrong, user));
            advance(Duration::from_secs(6)).await;
            report(&admission, verdict);
            assert_eq!(
                admit(&admission).err().map(|error| error.kind()),
                turns_away,
                "{verdict:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn mints_are_held_for_the_retry_after() {
        let admission = admission();
        let early = [
            admit(&admission).expect("admitted"),
            admit(&admission).expect("admitted"),
        ];
        held(&admission, MintErrorKind::RateLimited, 30);
        advance(Duration::from_secs(2)).await;
        // A mint that was under way does not shorten the hold. A mint that the hold turned away does not extend it.
        let [first, second] = early;
        let shorter =
            MintError::new(MintErrorKind::Unavailable).with_retry_after(Duration::from_secs(5));
        first.report(Verdict::Failure, Some(&shorter));
        let error = admission.check_hold(Instant::now()).expect_err("held");
        advance(Duration::from_secs(1)).await;
        second.report(Verdict::Throttled, Some(&error));

        assert_eq!(
            turned_away(&admission),
            (MintErrorKind::RateLimited, Duration::from_secs(27))
        );
        let remaining = Duration::from_secs(27);
        assert_eq!(
            admission.status().0,
            CircuitState::Open {
                reason: CircuitReason::Throttled,
                remaining
            }
        );
        advance(remaining).await;
        assert!(!is_open(&admission));
        assert!(!admit(&admission).expect("admitted").is_probe());
        held(&admission, MintErrorKind::RateLimited, 0);
        assert!(admit(&admission).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_hold_outlasts_a_circuit_that_closes_and_is_outlasted_by_one_that_does_not() {
        let admission = opened();
        advance(Duration::from_secs(6)).await;
        let error =
            MintError::new(MintErrorKind::Unavailable).with_retry_after(Duration::from_secs(30));
        admit(&admission)
            .expect("the probe")
            .report(Verdict::Failure, Some(&error));
        assert_eq!(
            turned_away(&admission),
            (MintErrorKind::Unavailable, Duration::from_secs(30))
        );
        advance(Duration::from_secs(30)).await;
        assert!(admit(&admission).expect("the probe").is_probe());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Admit,
        Report(usize, Answer),
        Drop(usize),
        Wait(u64),
        ChangeSecret,
    }

    #[derive(Clone, Copy, Debug)]
    enum Answer {
        Success,
        Failure,
        Throttled(u64),
        Refused(u64),
        Unrelated,
    }

    fn any_step() -> impl Strategy<Value = Step> {
        let answer = prop_oneof![
            1 => Just(Answer::Success),
            4 => Just(Answer::Failure),
            1 => (0..30_u64).prop_map(Answer::Throttled),
            2 => (0..3_u64).prop_map(Answer::Refused),
            1 => Just(Answer::Unrelated),
        ];
        prop_oneof![
            30 => Just(Step::Admit),
            30 => (any::<usize>(), answer).prop_map(|(index, answer)| Step::Report(index, answer)),
            10 => any::<usize>().prop_map(Step::Drop),
            10 => (0..20_000_u64).prop_map(Step::Wait),
            1 => Just(Step::ChangeSecret),
        ]
    }

    proptest! {
        /// After any steps in any order: at most one probe is under way, no mint is admitted too early, and a success
        /// still closes the circuit.
        #[test]
        fn its_invariants_hold_under_any_history(steps in prop::collection::vec(any_step(), 0..300)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            runtime.block_on(async {
                let admission = admission();
                let mut admitted: Vec<Ticket<'_>> = Vec::new();
                let mut earliest: Option<Instant> = None;
                let mut secret = secret("number 0");
                for step in steps {
                    match step {
                        Step::Admit => match admit(&admission) {
                            Ok(ticket) => {
                                prop_assert!(earliest.is_none_or(|earliest| Instant::now() >= earliest));
                                prop_assert_eq!(ticket.is_probe, is_open(&admission));
                                admitted.push(ticket);
                            }
                            Err(error) => {
                                prop_assert!(is_open(&admission) && error.is_turned_away());
                                let wait = error.retry_after().expect("a time");
                                prop_assert!(wait <= Duration::from_secs(72));
                                let is_probing = matches!(admission.status().0, CircuitState::Probing { .. });
                                earliest = (!is_probing).then(|| Instant::now() + wait);
                            }
                        },
                        Step::Report(index, answer) if !admitted.is_empty() => {
                            let ticket = admitted.swap_remove(index % admitted.len());
                            if ticket.is_probe {
                                earliest = None;
                            }
                            let mut error = MintError::new(MintErrorKind::Unavailable);
                            let verdict = match answer {
                                Answer::Success => Verdict::Success,
                                Answer::Failure => Verdict::Failure,
                                Answer::Throttled(seconds) => {
                                    error = error.with_retry_after(Duration::from_secs(seconds));
                                    Verdict::Throttled
                                }
                                Answer::Refused(user) => Verdict::Refused(&secret, user),
                                Answer::Unrelated => Verdict::Unrelated,
                            };
                            ticket.report(verdict, (!matches!(answer, Answer::Success)).then_some(&error));
                        }
                        Step::Drop(index) if !admitted.is_empty() => {
                            let index = index % admitted.len();
                            drop(admitted.swap_remove(index));
                        }
                        Step::Wait(milliseconds) => advance(Duration::from_millis(milliseconds)).await,
                        Step::ChangeSecret => {
                            secret = self::secret(&format!("number {}", fastrand::u64(..)));
                            if admission.close_for(&secret) {
                                earliest = None;
                            }
                        }
                        Step::Report(..) | Step::Drop(_) => {}
                    }
                    let era = admission.lock().era;
                    let is_live = |ticket: &&Ticket<'_>| ticket.era == era && Instant::now() < ticket.expires;
                    prop_assert!(admitted.iter().filter(|ticket| ticket.is_probe).filter(is_live).count() <= 1);
                }
                admitted.clear();
                advance(Duration::from_secs(72)).await;
                end(admit(&admission).expect("after the longest wait there is a probe, or it is closed"), Verdict::Success);
                prop_assert!(!is_open(&admission));
                Ok(())
            })?;
        }
    }
}
