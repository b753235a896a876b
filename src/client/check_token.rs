//! What a token says of itself, without the token.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use super::report::{CheckReport, in_words};
use crate::token::Claims;

/// The largest difference between two clocks that is no reason for a warning. NTP keeps clocks within a second; a quarter
/// of a token's life still leaves time to use it.
pub(crate) const LARGEST_SKEW: Duration = Duration::from_secs(30);

/// The shortest life that is no reason for a warning: the page and the embed's script must be loaded within it.
const SHORTEST_LIFE: f64 = 30.0;

/// The oldest token, in seconds, that may have been minted for the page that contains it.
const OLDEST_FRESH: f64 = 10.0;

/// Where a token is from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// It was minted at that time, for this check.
    Mint,
    /// It was in a page that was received at that time.
    Page,
}

/// Returns the token's shape and its length.
pub(crate) fn shape(token: &str) -> String {
    let shape = if is_jwt(token) { "a JWT" } else { "opaque" };
    format!("{shape}, {} characters", token.len())
}

/// Three parts, of which the first is a JSON object (RFC 7515, section 3.1).
fn is_jwt(token: &str) -> bool {
    let mut parts = token.split('.');
    let header = parts.next().unwrap_or_default();
    parts.count() == 2
        && BASE64_URL_SAFE_NO_PAD
            .decode(header)
            .is_ok_and(|header| serde_json::from_slice::<serde_json::Map<_, _>>(&header).is_ok())
}

/// Reports the token's life. `at` is the time when it arrived, by this machine's clock.
pub(crate) fn report_life(report: &mut CheckReport, token: &str, from: Origin, at: SystemTime) {
    let check = match from {
        Origin::Mint => "life",
        Origin::Page => "page-life",
    };
    let Some(Claims { exp, iat }) = Claims::of(token) else {
        report.ok(
            check,
            "the token does not say; Released documents 2 min until the embed must use it",
        );
        return;
    };
    let now = at
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64();
    let left = exp - now;
    let Some(iat) = iat else {
        if left <= 0.0 {
            report.failed(
                check,
                format!(
                    "the token expired {} ago, by this machine's clock",
                    words(-left)
                ),
                too_old(from),
            );
        } else {
            report.ok(
                check,
                format!("{} left, by this machine's clock", words(left)),
            );
        }
        return;
    };
    let (life, age) = (exp - iat, now - iat);
    let skew = LARGEST_SKEW.as_secs_f64();
    if life <= 0.0 {
        report.failed(
            check,
            "the token had expired when it was issued",
            "ask Released: the two times in the token contradict each other",
        );
    } else if age < -skew || (from == Origin::Mint && age > skew) {
        let side = if age < 0.0 { "behind" } else { "ahead of" };
        report.warning(
            check,
            format!(
                "{}; this machine's clock is {} {side} the one that issued the token",
                words(life),
                words(age.abs())
            ),
            "set this machine's clock, for example with NTP",
        );
    } else if left <= 0.0 {
        report.failed(
            check,
            format!("the token expired {} ago", words(-left)),
            too_old(from),
        );
    } else if from == Origin::Page && age > OLDEST_FRESH {
        report.warning(
            check,
            format!(
                "{} left of {}: the token is older than the page",
                words(left),
                words(life)
            ),
            too_old(from),
        );
    } else if life < SHORTEST_LIFE {
        report.warning(
            check,
            format!("{}, which is short", words(life)),
            "ask Released: the page and the embed's script must be loaded within that time",
        );
    } else {
        report.ok(
            check,
            match from {
                Origin::Mint => format!("{} until the embed must use it", words(life)),
                Origin::Page => format!("{} left of {}", words(left), words(life)),
            },
        );
    }
}

fn too_old(from: Origin) -> &'static str {
    match from {
        Origin::Mint => "set this machine's clock, for example with NTP",
        Origin::Page => {
            "exclude the page from caches and CDNs, and mint a token for each page; if it is neither, set this \
             machine's clock"
        }
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // It saturates.
fn words(seconds: f64) -> String {
    in_words(seconds.round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::report::CheckOutcome::{self, Failed, Ok, Warning};

    fn jwt(claims: &str) -> String {
        format!(
            "eyJhbGciOiJIUzI1NiJ9.{}.c2ln",
            BASE64_URL_SAFE_NO_PAD.encode(claims)
        )
    }

    fn life(token: &str, from: Origin) -> (CheckOutcome, String) {
        let mut report = CheckReport::default();
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        report_life(&mut report, token, from, at);
        let line = &report.lines()[0];
        assert_eq!(line.cure.is_some(), line.outcome != Ok);
        (line.outcome, line.found.clone())
    }

    #[test]
    fn a_token_is_described_by_its_shape_only() {
        for (token, expected) in [
            (jwt("{}"), "a JWT, 29 characters"),
            ("opaque".to_owned(), "opaque, 6 characters"),
            ("a.b.c".to_owned(), "opaque, 5 characters"),
            ("e30.e30".to_owned(), "opaque, 7 characters"),
        ] {
            assert_eq!(shape(&token), expected);
        }
    }

    #[test]
    fn the_life_is_what_the_token_claims_and_is_compared_with_the_clock() {
        use Origin::{Mint, Page};

        for (claims, from, outcome, found) in [
            (r#"{"iat":1000,"exp":1120}"#, Mint, Ok, "2 min until"),
            (
                r#"{"iat":1000,"exp":1120}"#,
                Page,
                Ok,
                "2 min left of 2 min",
            ),
            (r#"{"iat":975,"exp":1095}"#, Mint, Ok, "2 min until"),
            (
                r#"{"iat":940,"exp":1060}"#,
                Mint,
                Warning,
                "2 min; this machine's clock is 1 min ahead of",
            ),
            (
                r#"{"iat":1060,"exp":1180}"#,
                Mint,
                Warning,
                "clock is 1 min behind the one",
            ),
            (
                r#"{"iat":1060,"exp":1180}"#,
                Page,
                Warning,
                "clock is 1 min behind the one",
            ),
            (
                r#"{"iat":940,"exp":1060}"#,
                Page,
                Warning,
                "1 min left of 2 min: the token is older",
            ),
            (
                r#"{"iat":800,"exp":920}"#,
                Page,
                Failed,
                "expired 1 min 20 s ago",
            ),
            (
                r#"{"iat":1000,"exp":1010}"#,
                Mint,
                Warning,
                "10 s, which is short",
            ),
            (
                r#"{"iat":1000,"exp":1000}"#,
                Mint,
                Failed,
                "had expired when it was issued",
            ),
            (r#"{"exp":1100}"#, Mint, Ok, "1 min 40 s left"),
            (r#"{"exp":900}"#, Page, Failed, "expired 1 min 40 s ago"),
            ("{}", Mint, Ok, "does not say"),
            (r#"{"iat":-1e308,"exp":1e308}"#, Mint, Warning, "clock is"),
        ] {
            let (is, text) = life(&jwt(claims), from);
            assert_eq!(is, outcome, "{claims}: {text}");
            assert!(text.contains(found), "{claims}: {text}");
        }
    }
}
