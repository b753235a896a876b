//! Looks at the embed in a page: its script, its elements and their tokens.

use url::Url;

use super::fetch::Fetched;
use super::html::{Element, Html, Script};
use super::page::{AS_A_USER, PAGE_LIFE, PAGE_TOKEN, place};
use super::policy::EmbedScript;
use crate::AuthToken;
use crate::client::CheckReport;
use crate::client::check_token::{self, Origin};
use crate::embed::id_attribute;

/// Reports the script, the elements and the tokens.
pub(crate) fn report(report: &mut CheckReport, fetched: &Fetched, html: &Html, has_script: bool) {
    report_script(report, html, &fetched.url);
    report_elements(report, html, has_script);
    report_tokens(report, html, fetched);
}

/// Returns the embed's script.
pub(crate) fn script(html: &Html, page: &Url) -> Option<EmbedScript> {
    let (script, url) = scripts(html, page).into_iter().next()?;
    Some(EmbedScript {
        url,
        nonce: script.nonce.clone(),
        integrity: script.integrity.clone(),
    })
}

/// Returns the tags of Released's script, with their URLs: the loader, or a pinned build. Without any, those that may be
/// another server's copy, such as the fake's. If a browser runs some of them, returns only these.
fn scripts<'a>(html: &'a Html, page: &Url) -> Vec<(&'a Script, Url)> {
    let base = html.base(page);
    let with_url = html.scripts.iter().filter_map(|script| {
        let url = base.join(&script.src).ok()?;
        url.path().ends_with("/embed.js").then_some((script, url))
    });
    // Other services have an embed.js, too.
    let (mut scripts, others): (Vec<_>, Vec<_>) = with_url.partition(|(_, url)| is_released(url));
    if scripts.is_empty() {
        let is_copy = |url: &Url| url.path().split('/').count() == 3;
        scripts = others;
        scripts.retain(|(_, url)| is_copy(url));
    }
    if scripts.iter().any(|(script, _)| script.is_run) {
        scripts.retain(|(script, _)| script.is_run);
    }
    scripts
}

fn is_released(url: &Url) -> bool {
    url.host_str() == Some("embed.released.so")
}

fn report_script(report: &mut CheckReport, html: &Html, page: &Url) {
    const CHECK: &str = "script";

    let embeds = scripts(html, page);
    let Some((script, url)) = embeds.first() else {
        report.failed(
            CHECK,
            "Released's script is not in the page",
            "write embed::script() into the page's <head>; if another script adds it, look for it in the browser",
        );
        return;
    };
    if !script.is_run {
        report.failed(
            CHECK,
            "its type keeps the browser from running it",
            "remove the attribute type; a consent manager sets it until the user agrees",
        );
    } else if embeds.len() > 1 {
        report.warning(
            CHECK,
            "it is in the page more than once",
            "write it once, in the <head>",
        );
    } else if url.scheme() != "https" || !is_released(url) {
        report.warning(
            CHECK,
            format!("{} is not Released's", place(url)),
            "use embed::script() as it is, unless this is a fake or your own copy",
        );
    } else if url.path() == "/1/embed.js" {
        report.ok(CHECK, "the loader of embed.released.so");
    } else {
        report.ok(CHECK, "a pinned build of embed.released.so");
    }
}

fn report_elements(report: &mut CheckReport, html: &Html, has_script: bool) {
    const CHECK: &str = "element";

    if html.elements.is_empty() {
        let (found, cure) = (
            "none of Released's elements is in the HTML",
            "write embed::page(..) into the page; if a script adds the element, look for it in the browser",
        );
        if has_script {
            report.warning(CHECK, found, cure);
        } else {
            report.failed(CHECK, found, cure);
        }
    }
    for Element { name, id, .. } in &html.elements {
        let attribute = id_attribute(name);
        match id.as_deref() {
            None | Some("") => report.failed(
                CHECK,
                format!("<{name}> has no {attribute}"),
                "copy the id from Released's embed dialog",
            ),
            Some(id) if !is_uuid(id) => report.warning(
                CHECK,
                format!("the {attribute} of <{name}> is not a UUID"),
                "copy the id from Released's embed dialog",
            ),
            Some(_) => report.ok(CHECK, format!("<{name}> with a {attribute}")),
        }
    }
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(index, byte)| match index {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

fn report_tokens(report: &mut CheckReport, html: &Html, fetched: &Fetched) {
    const CHECK: &str = PAGE_TOKEN;

    // Nothing is documented about a token of a badge.
    let needs_token = |element: &&Element| element.name != "released-badge";
    let elements: Vec<&Element> = html.elements.iter().filter(needs_token).collect();
    if elements.is_empty() {
        report.skipped(CHECK, "there is no element that needs one");
        report.skipped(PAGE_LIFE, "there is no token");
        return;
    }
    // The elements of a page have the same token.
    let mut tokens: Vec<&str> = Vec::new();
    for Element {
        name,
        token,
        endpoint,
        ..
    } in elements
    {
        match (token.as_deref(), endpoint) {
            (None, Some(_)) => report.ok(
                CHECK,
                format!("the browser fetches that of <{name}>, as data-released-auth says"),
            ),
            (None, None) => report.failed(
                CHECK,
                format!("<{name}> has no auth-token: nobody is signed in, or the mint failed"),
                format!("{AS_A_USER}; if you did, the server's log says why, with RUST_LOG=info,tower_released=debug"),
            ),
            (Some(token), _) if tokens.contains(&token) => {
                report.ok(CHECK, format!("<{name}>: the same token"));
            }
            (Some("undefined" | "null" | "None" | "nil"), _) => report.failed(
                CHECK,
                format!("the auth-token of <{name}> is a word for nothing, which the code or the template wrote"),
                "write the attribute only if there is a token, as maybe_token(..) does",
            ),
            (Some(token), _) if AuthToken::new(token).is_err() => report.failed(
                CHECK,
                format!("the auth-token of <{name}> is not a token"),
                "check what the code or the template writes into it",
            ),
            (Some(token), _) => {
                report.ok(CHECK, format!("<{name}>: {}", check_token::shape(token)));
                tokens.push(token);
            }
        }
    }
    for token in &tokens {
        check_token::report_life(report, token, Origin::Page, fetched.at);
    }
    if tokens.is_empty() {
        report.skipped(PAGE_LIFE, "there is no token");
    }
}
