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

mod fetch;
mod html;
mod page;
mod policy;

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::error::KindFormatter;
use clap::{Arg, ArgAction, ArgMatches, Command};
use http::{HeaderMap, HeaderName, HeaderValue};
use url::Url;

use self::fetch::fetch;
use crate::client::{CheckReport, ConfigErrorKind};
use crate::embed::csp::{self, Sources};
use crate::{ReleasedClient, User, UserId};

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
    // Whoever reads it may have closed the pipe.
    let _ = io::stdout().write_all(text.as_bytes());
    if !is_configured {
        ExitCode::from(USAGE)
    } else if report.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn command() -> Command {
    let argument = |name: &'static str| Arg::new(name).long(name);
    Command::new("released")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Checks how an application vouches for its users to Released")
        .arg_required_else_help(true)
        .subcommand_required(true)
        .subcommand(
            Command::new("check")
                .about("Finds out why a portal is empty")
                .after_help(
                    "Environment:\n  \
                     RELEASED_ACCOUNT_ID          the account id\n  \
                     RELEASED_SHARED_SECRET       the shared secret, or\n  \
                     RELEASED_SHARED_SECRET_FILE  the path of a file with it\n  \
                     RELEASED_TOKEN_URL           unset, except for a fake or a proxy of yours\n\n\
                     Exit codes:\n  \
                     0  nothing failed\n  \
                     1  something failed\n  \
                     2  the arguments or the environment are wrong",
                )
                .arg(
                    argument("as")
                        .num_args(2)
                        .value_names(["ID", "EMAIL"])
                        .help("Mint a real token for this user, such as yourself"),
                )
                .arg(
                    argument("page")
                        .value_name("URL")
                        .help("Look at this page as a browser gets it"),
                )
                .arg(
                    argument("header")
                        .value_name("HEADER")
                        .action(ArgAction::Append)
                        .requires("page")
                        .help("Send this header for the page, such as 'Cookie: session=…'"),
                )
                .arg(
                    argument("hub")
                        .value_name("HOST")
                        .requires("page")
                        .help("The portal's host, such as acme.releasedhub.com"),
                )
                .arg(
                    argument("json")
                        .action(ArgAction::SetTrue)
                        .help("Write the report as JSON"),
                ),
        )
}

/// What to check.
struct Check {
    user: Option<User>,
    page: Option<Page>,
    is_json: bool,
}

struct Page {
    url: Url,
    /// The headers of the command line, which may be secret.
    headers: HeaderMap,
    needs: Sources,
}

impl Check {
    /// # Errors
    ///
    /// The text says what is wrong, without the values.
    fn from_arguments(arguments: &ArgMatches) -> Result<Self, String> {
        let text = |name: &str| arguments.get_one::<String>(name).map(String::as_str);
        let user = arguments
            .get_many::<String>("as")
            .map(|mut values| {
                let mut next = || values.next().map(String::as_str).unwrap_or_default();
                let (id, email) = (next(), next());
                // As applications do with ids that Released refuses. An id that is encoded already stays as it is.
                let id = UserId::new(id).unwrap_or_else(|_| UserId::encode(id));
                User::new(id, email).map_err(|error| format!("--as: {error}"))
            })
            .transpose()?;
        let page = text("page")
            .map(|url| {
                let url = Url::parse(url)
                    .ok()
                    .filter(|url| matches!(url.scheme(), "http" | "https"))
                    .ok_or("--page is not a URL; it must start with https://")?;
                if !url.username().is_empty() || url.password().is_some() {
                    return Err(
                        "--page has a user name or a password; pass --header 'Authorization: …' instead"
                            .to_owned(),
                    );
                }
                let mut headers = HeaderMap::new();
                for header in arguments.get_many::<String>("header").into_iter().flatten() {
                    let (name, value) = parse_header(header)
                        .ok_or("--header is not a header; write it as 'Name: value'")?;
                    headers.append(name, value);
                }
                let needs = match text("hub") {
                    Some(hub) => csp::strict()
                        .hub(hub)
                        .map_err(|error| format!("--hub: {error}"))?,
                    None => csp::strict(),
                };
                Ok(Page {
                    url,
                    headers,
                    needs,
                })
            })
            .transpose()?;
        Ok(Self {
            user,
            page,
            is_json: arguments.get_flag("json"),
        })
    }

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
                    && error.kind() == ConfigErrorKind::MissingVariable
                    && !has_variables();
                if is_elsewhere {
                    report.skipped(
                        "config",
                        "no RELEASED_ variable is set here, so only the page is checked",
                    );
                } else {
                    is_configured = false;
                    report.failed(
                        "config",
                        error.to_string(),
                        "set the variables that released check --help lists, as your server has them",
                    );
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

fn has_variables() -> bool {
    [
        "RELEASED_ACCOUNT_ID",
        "RELEASED_SHARED_SECRET",
        "RELEASED_SHARED_SECRET_FILE",
    ]
    .into_iter()
    .any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
}

fn parse_header(header: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = header.split_once(':')?;
    let mut value = HeaderValue::from_str(value.trim()).ok()?;
    value.set_sensitive(true);
    Some((name.trim().parse().ok()?, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Check, String> {
        let matches = command()
            .try_get_matches_from(["released", "check"].iter().chain(arguments))
            .map_err(|error| error.apply::<KindFormatter>().to_string())?;
        let (_, matches) = matches.subcommand().ok_or("no command")?;
        Check::from_arguments(matches)
    }

    #[test]
    fn the_arguments_are_consistent() {
        command().debug_assert();
        let check = parse(&[
            "--as",
            "auth0|42",
            "ada@example.com",
            "--page",
            "https://app.example.com/?q",
            "--header",
            "Cookie: a=b",
            "--header",
            "x-user:ada",
            "--hub",
            "acme.releasedhub.com",
            "--json",
        ])
        .expect("good arguments");
        let page = check.page.expect("a page");
        assert_eq!(
            (page.headers.len(), &page.headers["cookie"]),
            (2, &"a=b".parse().expect("a value"))
        );
        assert!(
            check.is_json
                && check
                    .user
                    .is_some_and(|user| user.id().as_str().starts_with("sha256:"))
        );
    }

    #[test]
    fn a_wrong_argument_is_not_repeated() {
        for arguments in [
            &["--as", "s3cret"][..],
            &["--as", "42", "s3cret"],
            &["--page", "s3cret"],
            &["--page", "ftp://s3cret/"],
            &["--page", "https://s3cret@example.com/"],
            &["--page", "https://example.com/", "--header", "s3cret"],
            &[
                "--page",
                "https://example.com/",
                "--header",
                "a: b",
                "s3cret=s3cret",
            ],
            &["--page", "https://example.com/", "--hub", "https://s3cret"],
            &["--header", "s3cret: b"],
            &["--s3cret"],
        ] {
            let Err(text) = parse(arguments) else {
                panic!("{arguments:?}")
            };
            assert!(!text.contains("s3cret"), "{text}");
        }
    }
}
