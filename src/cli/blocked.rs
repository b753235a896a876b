//! Says what a page's Content-Security-Policies block, and how to allow it.

use http::HeaderName;
use http::header::CONTENT_SECURITY_POLICY;

use super::fetch::Fetched;
use super::html::Html;
use super::policy::{Blocked, EmbedScript, Needs};
use crate::client::CheckReport;
use crate::embed::csp::Sources;
use crate::embed::policy::Kind;

const COEP: HeaderName = HeaderName::from_static("cross-origin-embedder-policy");

pub(crate) fn report(
    report: &mut CheckReport,
    fetched: &Fetched,
    html: &Html,
    sources: &Sources,
    script: Option<&EmbedScript>,
) {
    let base = html.base(&fetched.url);
    let needs = Needs {
        sources,
        page: &fetched.url,
        script: script.cloned(),
        asks_itself: html.elements.iter().any(|element| {
            let endpoint = element.endpoint.as_deref();
            let url = endpoint.and_then(|endpoint| base.join(endpoint).ok());
            url.is_some_and(|url| url.origin() == fetched.url.origin())
        }),
    };
    let headers = fetched.headers.get_all(CONTENT_SECURITY_POLICY);
    // Each byte is one character, as in browsers.
    let headers: Vec<String> = headers
        .iter()
        .map(|value| value.as_bytes().iter().copied().map(char::from).collect())
        .collect();
    let policies: Vec<&str> = headers
        .iter()
        .flat_map(|value| value.split(','))
        .chain(html.policies.iter().map(String::as_str))
        .collect();
    let mut blocked: Vec<Blocked> = Vec::new();
    for policy in &policies {
        for new in needs.blocked_by(policy) {
            // One line for each kind of request, even if several policies block it.
            let is_known = blocked
                .iter()
                .any(|known| known.kind == new.kind || is_style(known.kind) && is_style(new.kind));
            if !is_known {
                blocked.push(new);
            }
        }
    }
    if policies.is_empty() {
        report.ok("policy", "the page has no Content-Security-Policy");
    } else if blocked.is_empty() {
        report.ok(
            "policy",
            "the Content-Security-Policy allows what the embed needs",
        );
    }
    for blocked in &blocked {
        report_blocked(report, blocked);
    }
    if fetched
        .headers
        .get(COEP)
        .is_some_and(|value| is_item(value.as_bytes(), b"require-corp"))
    {
        report.warning(
            "policy",
            "Cross-Origin-Embedder-Policy: require-corp probably blocks the portal's frame",
            "try without the header",
        );
    }
}

/// Returns whether a structured field is this token, with or without parameters (RFC 9651).
fn is_item(value: &[u8], token: &[u8]) -> bool {
    let item = value.split(|byte| *byte == b';').next();
    item.is_some_and(|item| item.trim_ascii() == token)
}

fn is_style(kind: Kind) -> bool {
    matches!(kind, Kind::Style | Kind::StyleAttribute)
}

fn report_blocked(report: &mut CheckReport, blocked: &Blocked) {
    const CHECK: &str = "policy";

    let Blocked {
        kind,
        directive,
        missing,
    } = blocked;
    let list = missing.join(" ");
    let is_fallback = matches!(*directive, "default-src" | "child-src");
    let add = |what: &str| {
        if is_fallback {
            let specific = match kind {
                Kind::Script => "script-src",
                Kind::Style | Kind::StyleAttribute => "style-src",
                other => other.directives()[0],
            };
            format!(
                "add {specific} with the sources of {directive} and {what}; a CspLayer does this"
            )
        } else {
            format!("add {what} to {directive}; a CspLayer does this")
        }
    };
    match kind {
        Kind::Frame => {
            let cure = if missing.is_empty() {
                let guess = add("https://SUBDOMAIN.releasedhub.com");
                format!(
                    "{guess}, with .hub(..). If your hub has a host of its own, pass it with --hub"
                )
            } else {
                format!("{}, with .hub(..)", add(&list))
            };
            let found = "blocks the portal's frame: the embed shows \"Communication error\"";
            report.failed(CHECK, format!("{directive} {found}"), cure);
        }
        Kind::Script if missing.is_empty() => report.failed(
            CHECK,
            format!(
                "{directive} has 'strict-dynamic', so Released's script needs the policy's nonce"
            ),
            "write the nonce into the script's tag: embed::script().nonce(..)",
        ),
        Kind::Script => report.failed(
            CHECK,
            format!("{directive} blocks Released's script, so there is no embed"),
            add(&list),
        ),
        Kind::Connect => report.failed(
            CHECK,
            format!("{directive} blocks the embed's requests to {list}"),
            add(&list),
        ),
        Kind::Style | Kind::StyleAttribute if missing.is_empty() => report.warning(
            CHECK,
            format!(
                "{directive} has a nonce or a hash, which switches 'unsafe-inline' off: no styles"
            ),
            format!("remove nonces and hashes from {directive}"),
        ),
        Kind::Style | Kind::StyleAttribute | Kind::Image | Kind::Font | Kind::Media => {
            let what = match kind {
                Kind::Image => "the embed's images",
                Kind::Font => "the embed's fonts",
                Kind::Media => "videos in posts",
                _ => "the embed's styles",
            };
            report.warning(CHECK, format!("{directive} blocks {what}"), add(&list));
        }
    }
}
