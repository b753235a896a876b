//! Checks of a client, from its configuration to a token.

use std::time::{Instant, SystemTime};

use hmac_sha256::Hash;
use tokio::time::timeout;

use super::ReleasedClient;
use super::check_connection::{NO_CONNECTION, report_answer, report_failure, report_timeout};
use super::check_token::{self, Origin};
use super::exchange::Exchange;
use super::report::{CheckOutcome, CheckReport, in_words};
use super::transport::stage::Progress;
use crate::connection::ConnectionFailure;
use crate::error::{MintError, MintErrorKind};
use crate::user::User;

const WHERE_THE_SECRET_IS: &str = "copy it again from Released's settings, under User verification";

impl ReleasedClient {
    /// Checks the configuration and the way to Released: DNS, TCP, TLS, the proxy, and this machine's clock. The report
    /// says what was found and what to do.
    ///
    /// It sends one request without the secret, over the connections that mints use. Nothing is minted, and the circuit
    /// does not change. Whether the secret is right, only [`check_as`](Self::check_as) can say.
    ///
    /// Call it when the server starts, from a command for operators, or run the program `released check`, which the
    /// feature `cli` adds. It takes at most the deadline of a mint.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection.
    ///
    /// # Example
    ///
    /// ```
    /// use tower_released::ReleasedClient;
    ///
    /// async fn starts(released: &ReleasedClient) {
    ///     let report = released.check().await;
    ///     if !report.is_ok() {
    ///         tracing::warn!("Released cannot be reached:\n{report}");
    ///     }
    /// }
    /// ```
    pub async fn check(&self) -> CheckReport {
        let mut report = CheckReport::default();
        let Some(pipeline) = &self.pipeline else {
            report.failed(
                "config",
                "the client is disabled, so all pages are served without a token",
                "set RELEASED_ACCOUNT_ID and RELEASED_SHARED_SECRET",
            );
            return report;
        };
        let exchange = &pipeline.exchange;
        report_configuration(&mut report, exchange, pipeline.secret.current().bytes());

        let (started, at) = (Instant::now(), SystemTime::now());
        let progress = Progress::default();
        let asking = progress.watch(exchange.ask_without_secret());
        match timeout(pipeline.deadline, asking).await {
            Ok(Ok(answer)) => {
                // The server wrote its date in between.
                let at = at + started.elapsed() / 2;
                report_answer(&mut report, exchange, &answer, at);
            }
            Ok(Err(error)) => report_failure(&mut report, exchange, &*error, &progress),
            Err(_elapsed) => report_timeout(&mut report, exchange, &progress),
        }
        report
    }

    /// Checks the same as [`check`](Self::check), and then mints a token for this user: are the secret and the account
    /// right, what shape does the token have, and how long does it live?
    ///
    /// The mint is a real one. Released learns of the user, so pass yourself or a user for tests. It goes the same way as
    /// every other mint, so that the report says what pages get: it waits for a place, it is retried, an open circuit
    /// turns it away, and its end counts for the circuit. If there is no connection, nothing is minted.
    ///
    /// The report contains neither the token nor the user.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cancels the mint.
    ///
    /// # Example
    ///
    /// ```
    /// # #[cfg(feature = "testing")]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_released::{User, testing::FakeReleased};
    ///
    /// let fake = FakeReleased::start().await?;
    /// let ada = User::new("42", "ada@example.com")?;
    /// let report = fake.client()?.check_as(&ada).await;
    /// assert!(report.is_ok(), "{report}");
    /// # Ok(()) }
    /// # #[cfg(not(feature = "testing"))] fn main() {}
    /// ```
    pub async fn check_as(&self, user: &User) -> CheckReport {
        let mut report = self.check().await;
        let has_failed = |check: &str| {
            report
                .lines()
                .iter()
                .any(|line| line.check == check && line.outcome == CheckOutcome::Failed)
        };
        if ["proxy", "dns", "tcp", "tls", "service"]
            .into_iter()
            .any(has_failed)
        {
            for check in ["mint", "token", "life"] {
                report.skipped(check, NO_CONNECTION);
            }
            return report;
        }
        let started = Instant::now();
        match self.mint(user).await {
            Ok(token) => {
                let time = started.elapsed().as_millis();
                report.ok(
                    "mint",
                    format!("the secret and the account were accepted, in {time} ms"),
                );
                report.ok("token", check_token::shape(token.as_str()));
                let now = SystemTime::now();
                check_token::report_life(&mut report, token.as_str(), Origin::Mint, now);
            }
            Err(error) => {
                report_failed_mint(&mut report, &error);
                for check in ["token", "life"] {
                    report.skipped(check, "there is no token");
                }
            }
        }
        report
    }
}

/// Reports what can be said without a connection.
fn report_configuration(report: &mut CheckReport, exchange: &Exchange, secret: &[u8]) {
    let account = exchange.account_id().as_bytes();
    if account == secret {
        report.failed(
            "account",
            "RELEASED_ACCOUNT_ID and the shared secret are the same",
            "copy both again from Released's settings, under User verification",
        );
    } else {
        report_credential(report, "account", account);
    }
    report_credential(report, "secret", secret);

    let (url, documented) = (exchange.endpoint.url(), exchange.api.documented_url());
    if url.as_str() == documented {
        report.ok("url", documented);
    } else {
        report.warning(
            "url",
            format!("{url} is not the URL that Released documents"),
            "unset RELEASED_TOKEN_URL, unless this is your own fake or proxy: the portal accepts only Released's tokens",
        );
    }
}

/// Describes the account id or the secret. Neither is shown: the two variables may be interchanged.
fn report_credential(report: &mut CheckReport, check: &'static str, value: &[u8]) {
    let digest = Hash::hash(value);
    let start: String = digest[..4]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let text = String::from_utf8_lossy(value);
    let found = format!("{} characters, SHA-256 {start}…", text.chars().count());
    match oddity(&text) {
        Some(oddity) => report.warning(check, format!("{found}; {oddity}"), WHERE_THE_SECRET_IS),
        None => report.ok(check, found),
    }
}

/// Returns what an account id or a secret probably does not have.
fn oddity(text: &str) -> Option<&'static str> {
    let is_quote = |character| matches!(character, '"' | '\'' | '`' | '“' | '”' | '‘' | '’');
    if text.starts_with(is_quote) || text.ends_with(is_quote) {
        Some("it has a quote at its start or end")
    } else if text.contains(char::is_whitespace) {
        Some("it has white space inside")
    } else if text.contains("RELEASED_") {
        Some("it has the name of a variable inside")
    } else {
        None
    }
}

fn report_failed_mint(report: &mut CheckReport, error: &MintError) {
    let mut found = error.event();
    if let Some(failure) = error.connection_failure() {
        found = detailed(error, failure);
    }
    let mut cure = error.cure();
    match error.kind() {
        MintErrorKind::Unauthorized => {
            cure +=
                "; to compare it with another server's, use the first digits of its SHA-256, above";
        }
        MintErrorKind::Rejected => {
            // Released documents none of these statuses.
            cure = format!("probably the account id is wrong: {cure}");
        }
        _ => {}
    }
    if let Some(delay) = error.retry_after() {
        let delay = in_words(delay.as_secs().max(1));
        cure = format!("{cure}; it can be tried again in {delay}");
    }
    report.failed("mint", found, cure);
}

fn detailed(error: &MintError, failure: &ConnectionFailure) -> String {
    if error.kind() == MintErrorKind::Connect {
        failure.to_string()
    } else {
        format!("{}: {failure}", error.event())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_odd_about_a_credential_is_said_without_it() {
        for (value, found) in [
            ("s3cret", None),
            ("\"s3cret", Some("quote")),
            ("s3cret'", Some("quote")),
            ("s3 cret", Some("white space")),
            ("RELEASED_SHARED_SECRET=s3cret", Some("variable")),
        ] {
            let mut report = CheckReport::default();
            report_credential(&mut report, "secret", value.as_bytes());
            let text = report.to_string();
            assert_eq!(
                report.lines()[0].outcome == CheckOutcome::Warning,
                found.is_some(),
                "{text}"
            );
            assert!(found.is_none_or(|found| text.contains(found)), "{text}");
            assert!(!text.contains("s3"), "{text}");
        }
    }

    #[test]
    fn a_credential_is_recognised_by_its_digest() {
        let mut report = CheckReport::default();
        report_credential(&mut report, "secret", b"s3cret");
        // printf %s s3cret | sha256sum
        assert_eq!(report.lines()[0].found, "6 characters, SHA-256 1ec1c26b…");
    }
}
