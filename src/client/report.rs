//! The report of a check: one line for each thing that was checked.

use std::fmt;

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

/// Says what was checked, what was found, and what to do; see [`ReleasedClient::check`](crate::ReleasedClient::check).
///
/// `Display` writes it for people, in at most 80 columns where the words allow. `Serialize` writes `ok` and `lines`, for
/// programs.
///
/// It contains no secret, no token and no e-mail address, so it can be shown to every operator.
///
/// # Example
///
/// ```
/// use tower_released::ReleasedClient;
/// use tower_released::client::CheckOutcome;
///
/// # async fn run(released: ReleasedClient) {
/// let report = released.check().await;
/// for line in report.lines() {
///     if line.outcome == CheckOutcome::Failed {
///         eprintln!("{}: {}", line.check, line.found);
///     }
/// }
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    lines: Vec<CheckLine>,
}

/// Holds one line of a [`CheckReport`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CheckLine {
    /// The name of what was checked, in one word: `config`, `account`, `secret`, `url`, `proxy`, `dns`, `tcp`, `tls`,
    /// `service`, `answer`, `clock`, `mint`, `token` or `life`. The program `released` adds others. Later versions may have
    /// other names.
    pub check: &'static str,
    /// Whether it is well.
    pub outcome: CheckOutcome,
    /// What was found.
    pub found: String,
    /// What to do. `None` if there is nothing to do.
    pub cure: Option<String>,
}

/// Says whether one thing is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CheckOutcome {
    /// It is well.
    Ok,
    /// It works, or may work. Look at it.
    Warning,
    /// It does not work.
    Failed,
    /// It was not checked. The line says why.
    Skipped,
}

impl CheckOutcome {
    /// Returns its name: `ok`, `warning`, `failed` or `skipped`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

impl CheckReport {
    /// Returns the lines, in the order in which the things were checked.
    pub fn lines(&self) -> &[CheckLine] {
        &self.lines
    }

    /// Returns whether nothing failed. A warning is no failure.
    pub fn is_ok(&self) -> bool {
        self.count(CheckOutcome::Failed) == 0
    }

    pub(crate) fn ok(&mut self, check: &'static str, found: impl Into<String>) {
        self.push(check, CheckOutcome::Ok, found.into(), None);
    }

    pub(crate) fn skipped(&mut self, check: &'static str, found: impl Into<String>) {
        self.push(check, CheckOutcome::Skipped, found.into(), None);
    }

    pub(crate) fn warning(
        &mut self,
        check: &'static str,
        found: impl Into<String>,
        cure: impl Into<String>,
    ) {
        let cure = Some(cure.into());
        self.push(check, CheckOutcome::Warning, found.into(), cure);
    }

    pub(crate) fn failed(
        &mut self,
        check: &'static str,
        found: impl Into<String>,
        cure: impl Into<String>,
    ) {
        let cure = Some(cure.into());
        self.push(check, CheckOutcome::Failed, found.into(), cure);
    }

    fn push(
        &mut self,
        check: &'static str,
        outcome: CheckOutcome,
        found: String,
        cure: Option<String>,
    ) {
        self.lines.push(CheckLine {
            check,
            outcome,
            found,
            cure,
        });
    }

    fn count(&self, outcome: CheckOutcome) -> usize {
        let has_it = |line: &&CheckLine| line.outcome == outcome;
        self.lines.iter().filter(has_it).count()
    }
}

/// Writes `{"ok": …, "lines": […]}`.
impl Serialize for CheckReport {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut report = serializer.serialize_struct("CheckReport", 2)?;
        report.serialize_field("ok", &self.is_ok())?;
        report.serialize_field("lines", &self.lines)?;
        report.end()
    }
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What was skipped for one reason is one row.
        let is_alike = |one: &CheckLine, next: &CheckLine| {
            one.outcome == CheckOutcome::Skipped
                && one.outcome == next.outcome
                && one.found == next.found
        };
        for lines in self.lines.chunk_by(is_alike) {
            let CheckLine {
                check,
                outcome,
                found,
                cure,
            } = &lines[0];
            if lines.len() > 1 {
                let checks: Vec<&str> = lines.iter().map(|line| line.check).collect();
                let text = format!("{found}: {}", checks.join(", "));
                write_row(f, outcome.as_str(), "", &text)?;
            } else {
                write_row(f, outcome.as_str(), check, found)?;
            }
            if let Some(cure) = cure {
                write_row(f, "", "do this:", cure)?;
            }
        }
        let mut separator = "";
        for outcome in [
            CheckOutcome::Ok,
            CheckOutcome::Warning,
            CheckOutcome::Failed,
            CheckOutcome::Skipped,
        ] {
            let count = self.count(outcome);
            if count > 0 {
                write!(f, "{separator}{count} {}", outcome.as_str())?;
                separator = ", ";
            }
        }
        f.write_str("\n")
    }
}

/// The width of most terminals.
const COLUMNS: usize = 80;

/// Writes two columns of names, and a text that is wrapped between words.
fn write_row(f: &mut fmt::Formatter<'_>, first: &str, second: &str, text: &str) -> fmt::Result {
    let margin = format!("{first:<8}{second:<10} ");
    f.write_str(&margin)?;
    let mut column = margin.len();
    for word in text.split(' ') {
        let width = word.chars().count();
        if column > margin.len() && column + 1 + width > COLUMNS {
            write!(f, "\n{:1$}", "", margin.len())?;
            column = margin.len();
        } else if column > margin.len() {
            f.write_str(" ")?;
            column += 1;
        }
        f.write_str(word)?;
        column += width;
    }
    f.write_str("\n")
}

/// Writes a time with the two largest units that it has.
pub(crate) fn in_words(seconds: u64) -> String {
    let (days, hours) = (seconds / 86400, seconds / 3600 % 24);
    let (minutes, rest) = (seconds / 60 % 60, seconds % 60);
    let parts: Vec<String> = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
        .into_iter()
        .skip_while(|(number, _)| *number == 0)
        .take(2)
        .filter(|(number, _)| *number > 0)
        .map(|(number, unit)| format!("{number} {unit}"))
        .collect();
    if parts.is_empty() {
        return "0 s".to_owned();
    }
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> CheckReport {
        let mut report = CheckReport::default();
        report.ok("account", "8 characters");
        report.failed(
            "tcp",
            "connection refused by 127.0.0.1:9",
            "check the host and the port in RELEASED_TOKEN_URL, and whether a firewall refuses connections",
        );
        report.skipped("tls", "there is no connection");
        report.skipped("answer", "there is no connection");
        report
    }

    #[test]
    fn people_read_it_in_80_columns() {
        let text = report().to_string();
        assert_eq!(
            text,
            "ok      account    8 characters\n\
             failed  tcp        connection refused by 127.0.0.1:9\n\
             \x20       do this:   check the host and the port in RELEASED_TOKEN_URL, and\n\
             \x20                  whether a firewall refuses connections\n\
             skipped            there is no connection: tls, answer\n\
             1 ok, 1 failed, 2 skipped\n"
        );
        assert!(text.lines().all(|line| line.len() <= 80));
    }

    #[test]
    fn programs_read_names_that_stay() {
        let json = serde_json::to_value(report()).expect("JSON");
        assert_eq!(json["ok"], false);
        assert_eq!(
            json["lines"][2],
            serde_json::json!({"check": "tls", "outcome": "skipped", "found": "there is no connection", "cure": null})
        );
    }

    #[test]
    fn times_have_two_units() {
        for (seconds, words) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (118, "1 min 58 s"),
            (3600, "1 h"),
            (3605, "1 h"),
            (7260, "2 h 1 min"),
            (3 * 86400 + 4 * 3600, "3 d 4 h"),
        ] {
            assert_eq!(in_words(seconds), words);
        }
    }
}
