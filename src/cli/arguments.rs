//! The arguments of the program.

use clap::{Arg, ArgAction, ArgMatches, Command};
use http::{HeaderMap, HeaderName, HeaderValue};
use url::Url;

use crate::embed::csp::{self, Sources};
use crate::{User, UserId};

pub(crate) fn command() -> Command {
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
                        // An id may start with one.
                        .allow_hyphen_values(true)
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
pub(crate) struct Check {
    pub(crate) user: Option<User>,
    pub(crate) page: Option<Page>,
    pub(crate) is_json: bool,
}

/// The page to look at.
pub(crate) struct Page {
    pub(crate) url: Url,
    /// The headers of the command line, which may be secret.
    pub(crate) headers: HeaderMap,
    pub(crate) needs: Sources,
}

impl Check {
    /// # Errors
    ///
    /// The text says what is wrong, without the values.
    pub(crate) fn from_arguments(arguments: &ArgMatches) -> Result<Self, String> {
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
}

fn parse_header(header: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = header.split_once(':')?;
    let mut value = HeaderValue::from_str(value.trim()).ok()?;
    value.set_sensitive(true);
    Some((name.trim().parse().ok()?, value))
}

#[cfg(test)]
mod tests {
    use clap::error::KindFormatter;

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
