//! The steps of a mint, from the call to the token.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use http::StatusCode;
use tokio::time::{Instant, timeout_at};

use super::admission::{Admission, Ticket};
use super::attempts::{Attempts, Failure};
use super::circuit::Verdict;
use super::exchange::Exchange;
use super::limit::Limit;
use super::pool::Waiting;
use super::secret::SharedSecret;
use super::secret_source::Secret;
use super::trace::ExchangeSpan;
use crate::error::{MintError, MintErrorKind};
use crate::token::AuthToken;
use crate::user::User;

/// The steps of every mint, in this order: deadline, admission, limit, attempts, exchange.
pub(crate) struct Pipeline {
    pub(crate) deadline: Duration,
    pub(crate) admission: Admission,
    pub(crate) limit: Limit,
    pub(crate) attempts: Attempts,
    pub(crate) secret: Secret,
    pub(crate) exchange: Exchange,
}

impl Pipeline {
    pub(crate) async fn mint(&self, user: &User) -> Result<AuthToken, MintError> {
        // First: it says nothing about Released, and must not probe or take a place.
        self.exchange.check_account(user)?;
        let deadline = Instant::now() + self.deadline;
        let mut ticket = self.admit(deadline).await?;
        let mut place = self.limit.try_enter();
        if place.is_none() {
            // While this mint waits, others may open the circuit.
            drop(ticket);
            place = Some(self.limit.enter(deadline).await?);
            ticket = self.admit(deadline).await?;
        }
        let mut max_attempts = u32::MAX;
        if ticket.is_probe() {
            max_attempts = 1;
            // The connections in the pool may have died since it was last used.
            self.exchange.renew_connections();
        }
        let sent = Sent::default();
        let attempt = |number, end| self.attempt(user, number, end, &sent);
        let on_no_answer =
            |error: &mut MintError| self.exchange.ended_without_answer(&sent.waiting, error);
        let result = self
            .attempts
            .run(deadline, max_attempts, attempt, on_no_answer)
            .await;
        ticket.report(self.verdict(&result, user, &sent), result.as_ref().err());
        drop(place);
        result
    }

    /// Asks for admission. If the circuit is open because of a refused secret, looks for another secret first.
    async fn admit(&self, deadline: Instant) -> Result<Ticket<'_>, MintError> {
        let refused = match self.admission.admit(Instant::now()) {
            Err(error) if error.kind() == MintErrorKind::Unauthorized => error,
            other => return other,
        };
        let secret = self.secret.current();
        if !self.admission.close_for(&secret) {
            let other = timeout_at(deadline, self.secret.other_than(&secret)).await;
            let Ok(Some(other)) = other else {
                return Err(refused);
            };
            self.admission.close_for(&other);
        }
        self.admission.admit(Instant::now())
    }

    /// Returns what the end of a mint says about Released.
    fn verdict<'a>(
        &self,
        result: &Result<AuthToken, MintError>,
        user: &User,
        sent: &'a Sent,
    ) -> Verdict<'a> {
        let Err(error) = result else {
            return Verdict::Success;
        };
        match (error.kind(), error.status()) {
            // Turned away by a hold, during the pause before a retry.
            _ if error.is_turned_away() => Verdict::Unrelated,
            (MintErrorKind::RateLimited, _) => Verdict::Throttled,
            (_, Some(StatusCode::UNAUTHORIZED)) => {
                sent.refused.get().map_or(Verdict::Unrelated, |secret| {
                    self.admission.refused(secret, user.id())
                })
            }
            // Also 408 and 425: the server is available.
            (_, Some(status)) if status.is_client_error() => Verdict::Unrelated,
            (
                MintErrorKind::Connect
                | MintErrorKind::Timeout
                | MintErrorKind::Interrupted
                | MintErrorKind::Unavailable,
                _,
            ) => Verdict::Failure,
            _ => Verdict::Unrelated,
        }
    }

    /// Makes an attempt. If Released refuses the secret and there is another one, sends the mint once more.
    async fn attempt(
        &self,
        user: &User,
        number: u32,
        end: Instant,
        sent: &Sent,
    ) -> Result<AuthToken, Failure> {
        if number > 1 {
            // Released may have asked another mint to wait during the pause.
            self.admission
                .check_hold(Instant::now())
                .map_err(Failure::lasting)?;
        }
        let exchange = async |secret: &SharedSecret| {
            let span = ExchangeSpan::new(
                &self.exchange.endpoint,
                sent.exchanges.fetch_add(1, Ordering::Relaxed),
                end,
            );
            let result = span
                .around(self.exchange.run(user, secret, &span, &sent.waiting))
                .await;
            span.end(&result);
            result
        };
        let mut secret = self.secret.current();
        let mut result = exchange(&secret).await;
        if is_refused(&result) && !sent.again.load(Ordering::Relaxed) {
            if let Some(changed) = self.secret.other_than(&secret).await {
                sent.again.store(true, Ordering::Relaxed);
                secret = changed;
                result = exchange(&secret).await;
            }
        }
        if is_refused(&result) {
            // The first value is the only one: a 401 is not retried.
            let _ = sent.refused.set(secret);
        }
        result
    }
}

fn is_refused(result: &Result<AuthToken, Failure>) -> bool {
    matches!(result, Err(failure) if failure.error.status() == Some(StatusCode::UNAUTHORIZED))
}

/// What one mint has sent.
#[derive(Default)]
struct Sent {
    exchanges: AtomicU32,
    /// Whether the mint was sent once more, with another secret.
    again: AtomicBool,
    /// The last secret that was sent, if Released refused it.
    refused: OnceLock<SharedSecret>,
    waiting: Waiting,
}
