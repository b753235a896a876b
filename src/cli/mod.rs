//! The program `released`: why is my portal empty?
//!
//! ```sh
//! cargo install tower-released --features cli
//! released check --as 42 you@example.com --page https://app.example.com/roadmap
//! ```
//!
//! It reads the same environment variables as [`ReleasedClient::from_env`]. `released check` alone sends one request
//! without the secret, and mints nothing.
//!
//! | argument | what it adds |
//! |---|---|
//! | `--as ID EMAIL` | mints a real token for this user: are the secret and the account right? Pass yourself: Released learns of the user |
//! | `--page URL` | looks at a page as a browser gets it: HTTPS, caches, Content-Security-Policy, script, elements, token |
//! | `--header 'Cookie: …'` | sends this header for the page, so that somebody is signed in. It can be given several times |
//! | `--hub HOST` | the portal's host, for the check of the policy, if it is not at `releasedhub.com` |
//! | `--json` | writes the report as JSON |
//!
//! Without any of the `RELEASED_` variables, `--page` looks at the page alone, from any machine.
//!
//! | exit code | what it means |
//! |---|---|
//! | 0 | nothing failed. There may be warnings |
//! | 1 | something failed. Its line says what to do |
//! | 2 | the arguments or the variables are wrong |
//!
//! The report is that of [`ReleasedClient::check`] and [`check_as`](ReleasedClient::check_as), with more lines for the
//! page. It shows neither the secret nor a token: the secret's SHA-256 is there in part, to compare two servers.

mod arguments;
mod blocked;
mod embed;
mod fetch;
mod html;
mod page;
mod policy;

use std::env;
use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::error::KindFormatter;

use self::arguments::{Check, command};
use self::fetch::fetch;
use crate::ReleasedClient;
use crate::client::{CheckReport, ConfigErrorKind, ReleasedClientBuilder};

/// The arguments or the environment are wrong.
const USAGE: u8 = 2;

/// Runs the program with the arguments and the environment of this process.
pub fn main() -> ExitCode {
    let arguments = match command().try_get_matches() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Also for `--help`, which is a success. An error does not repeat what was typed: it may be a cookie.
            let code = u8::try_from(error.exit_code()).unwrap_or(USAGE);
            let _ = error.apply::<KindFormatter>().print();
            return ExitCode::from(code);
        }
    };
    let Some(("check", arguments)) = arguments.subcommand() else {
        return ExitCode::from(USAGE);
    };
    let check = match Check::from_arguments(arguments) {
        Ok(check) => check,
        Err(text) => {
            let _ = writeln!(io::stderr(), "error: {text}");
            return ExitCode::from(USAGE);
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: no runtime could be started: {error}");
            return ExitCode::FAILURE;
        }
    };
    let (report, is_configured) = runtime.block_on(check.run());
    // A name that is still being resolved must not hold up the end.
    runtime.shutdown_background();
    let text = if check.is_json {
        serde_json::to_string_pretty(&report).unwrap_or_default() + "\n"
    } else {
        report.to_string()
    };
    // The reader may have closed the pipe.
    let _ = io::stdout().write_all(text.as_bytes());
    if !is_configured {
        ExitCode::from(USAGE)
    } else if report.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Returns what to do about a client that cannot be built.
fn cure(kind: ConfigErrorKind) -> &'static str {
    match kind {
        ConfigErrorKind::SecretFile => {
            "check the path in RELEASED_SHARED_SECRET_FILE, and whether this user may read the file"
        }
        ConfigErrorKind::Proxy => {
            "set NO_PROXY for the token URL's host, or set HTTPS_PROXY to another proxy"
        }
        ConfigErrorKind::NoTls => "install this program with the feature rustls or native-tls",
        ConfigErrorKind::HttpClient => "install this machine's root certificates",
        _ => "set the variables that released check --help lists, as your server has them",
    }
}

impl Check {
    /// Returns the report, and whether the configuration is good.
    async fn run(&self) -> (CheckReport, bool) {
        let mut is_configured = true;
        let mut report = match ReleasedClient::from_env() {
            Ok(client) => match &self.user {
                Some(user) => client.check_as(user).await,
                None => client.check().await,
            },
            Err(error) => {
                let mut report = CheckReport::default();
                let is_elsewhere = self.page.is_some()
                    && self.user.is_none()
                    && ReleasedClientBuilder::has_no_credential(|name| env::var(name));
                if is_elsewhere {
                    report.skipped(
                        "config",
                        "no RELEASED_ variable is set here, so only the page is checked",
                    );
                } else {
                    is_configured = false;
                    report.failed("config", error.to_string(), cure(error.kind()));
                }
                report
            }
        };
        if let Some(page) = &self.page {
            match fetch(page.url.clone(), &page.headers).await {
                Ok(fetched) => page::report(&mut report, &fetched, &page.needs),
                Err(failure) => {
                    report.failed("page", failure.found, failure.cure);
                    page::skip(&mut report, "the page could not be fetched");
                }
            }
        }
        (report, is_configured)
    }
}
