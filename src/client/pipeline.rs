//! What a mint goes through, from the call to the token.

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

/// What every mint goes through, in this order: deadline, admission, limit, attempts, one exchange.
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
        let deadline = Instant::now() + self.deadline;
        let mut ticket = self.admit(deadline).await?;
        let mut place = self.limit.try_enter();
        if place.is_none() {
            // While it waits, others may find out that there is no sense in asking.
            drop(ticket);
            place = Some(self.limit.enter(deadline).await?);
            ticket = self.admit(deadline).await?;
        }
        // A probe asks once: it is there to find out, not to succeed at any price.
        let attempts = if ticket.is_probe() { 1 } else { u32::MAX };
        let sent = Sent::default();
        if ticket.is_probe() {
            // The connections in the pool may have died since it was last used.
            self.exchange.renew_connections();
        }
        let attempt = |number, end| self.attempt(user, number, end, &sent);
        let without_answer =
            |error: &mut MintError| self.exchange.ended_without_answer(&sent.waiting, error);
        let result = self
            .attempts
            .run(deadline, attempts, attempt, without_answer)
            .await;
        ticket.report(self.verdict(&result, user, &sent), result.as_ref().err());
        drop(place);
        result
    }

    /// Asks whether to ask. If it is the secret that keeps mints back, looks for another one first.
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

    /// What the end of a mint tells about Released.
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
            // By a hold, during its pause.
            _ if error.is_turned_away() => Verdict::Unrelated,
            (MintErrorKind::RateLimited, _) => Verdict::Throttled,
            (_, Some(StatusCode::UNAUTHORIZED)) => {
                sent.refused.get().map_or(Verdict::Unrelated, |secret| {
                    self.admission.refused(secret, user.id())
                })
            }
            // 408 and 425 too: a server that answers so is available.
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

    /// One attempt, which is given until `end`, and a second exchange within it if the secret was changed in the meantime.
    async fn attempt(
        &self,
        user: &User,
        number: u32,
        end: Instant,
        sent: &Sent,
    ) -> Result<AuthToken, Failure> {
        if number > 1 {
            // Another mint may have been told to wait during the pause.
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
            // Nothing is tried again after this, so it is the only one.
            let _ = sent.refused.set(secret);
        }
        result
    }
}

fn is_refused(result: &Result<AuthToken, Failure>) -> bool {
    matches!(result, Err(failure) if failure.error.status() == Some(StatusCode::UNAUTHORIZED))
}

/// What was sent for one mint.
#[derive(Default)]
struct Sent {
    exchanges: AtomicU32,
    /// Once more, because the secret was changed.
    again: AtomicBool,
    /// The secret that Released refused in the end.
    refused: OnceLock<SharedSecret>,
    waiting: Waiting,
}
