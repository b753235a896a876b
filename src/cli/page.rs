//! Looks at a page: would the portal in it open?

use http::header::{
    AGE, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName,
};
use url::Url;

use super::fetch::Fetched;
use super::html::{Element, Html};
use super::policy::{Blocked, Needs};
use crate::AuthToken;
use crate::client::CheckReport;
use crate::client::check_token::{self, Origin};
use crate::client::page::is_this_machine;
use crate::embed::csp::Sources;
use crate::embed::policy::Kind;

const AFTER_THE_PAGE: [&str; 7] = [
    "https", "cache", "policy", "script", "element", PAGE_TOKEN, PAGE_LIFE,
];

const PAGE_TOKEN: &str = "page-token";
const PAGE_LIFE: &str = "page-life";

const COEP: HeaderName = HeaderName::from_static("cross-origin-embedder-policy");

const AS_A_USER: &str =
    "pass the cookie of a signed-in user, from the browser's network panel: --header 'Cookie: …'";

/// Reports that nothing of the page was seen.
pub(crate) fn skip(report: &mut CheckReport, reason: &str) {
    for check in AFTER_THE_PAGE {
        report.skipped(check, reason);
    }
}

pub(crate) fn report(report: &mut CheckReport, fetched: &Fetched, needs: &Sources) {
    let html = Html::parse(&fetched.body);
    if !report_page(report, fetched, &html) {
        skip(report, "this is not the page");
        return;
    }
    report_https(report, &fetched.url);
    let has_token = html.elements.iter().any(|element| element.token.is_some());
    report_cache(report, fetched, has_token);
    let script = embed_script(&html, &fetched.url);
    report_policies(report, fetched, &html, needs, script.as_ref());
    report_script(report, &html, &fetched.url);
    report_elements(report, &html, script.is_some());
    report_tokens(report, &html, fetched);
}

/// Reports what was fetched. Returns whether it is the page, and not a sign-in or an error.
fn report_page(report: &mut CheckReport, fetched: &Fetched, html: &Html) -> bool {
    const CHECK: &str = "page";

    let (status, place) = (fetched.status.as_u16(), place(&fetched.url));
    let is_sign_in = html.elements.is_empty()
        && (html.has_password_field || fetched.redirects > 0 && is_named_sign_in(&fetched.url));
    if is_sign_in {
        let found = if fetched.redirects > 0 {
            format!("redirects to a sign-in page, {place}")
        } else {
            format!("{place} is a sign-in page")
        };
        report.failed(CHECK, found, AS_A_USER);
        return false;
    }
    if matches!(status, 401 | 403 | 407) {
        report.failed(CHECK, format!("{place} answers {status}"), AS_A_USER);
        return false;
    }
    if !fetched.status.is_success() {
        report.failed(
            CHECK,
            format!("{place} answers {status}"),
            "check the URL of the page, and the log of its server",
        );
        return false;
    }
    let headers = &fetched.headers;
    if let Some(encoding) = headers
        .get(CONTENT_ENCODING)
        .filter(|encoding| *encoding != "identity")
    {
        let encoding = encoding.to_str().unwrap_or("an unknown way");
        report.failed(
            CHECK,
            format!("compressed ({encoding}), although that was not asked for"),
            "switch the compression off for requests with Accept-Encoding: identity, and check again",
        );
        return false;
    }
    let is_html = headers.get(CONTENT_TYPE).is_none_or(|value| {
        let value = value.as_bytes().to_ascii_lowercase();
        value.starts_with(b"text/html") || value.starts_with(b"application/xhtml+xml")
    });
    if !is_html {
        report.failed(
            CHECK,
            format!("{place} is not HTML"),
            "check the URL of the page",
        );
        return false;
    }
    if fetched.redirects > 0 {
        report.ok(CHECK, format!("{status}, after a redirect to {place}"));
    } else {
        report.ok(CHECK, format!("{status} {place}"));
    }
    true
}

/// The URL without its query, which may hold secrets.
fn place(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    url.to_string()
}

/// Returns whether a host or a path has one of the names of sign-in pages.
fn is_named_sign_in(url: &Url) -> bool {
    const NAMES: [&str; 14] = [
        "login",
        "log-in",
        "log_in",
        "signin",
        "sign-in",
        "sign_in",
        "sso",
        "saml",
        "saml2",
        "oauth",
        "oauth2",
        "openid",
        "auth",
        "authorize",
    ];
    let host = url.host_str().unwrap_or_default().split('.');
    let path = url.path_segments().into_iter().flatten();
    host.chain(path)
        .any(|part| NAMES.contains(&part.to_ascii_lowercase().as_str()))
}

fn report_https(report: &mut CheckReport, url: &Url) {
    if url.scheme() == "https" {
        report.ok(
            "https",
            "yes; is its host a trusted domain in Released's settings?",
        );
    } else if is_this_machine(url) {
        report.warning(
            "https",
            "plain http on this machine, which Released's embed probably refuses",
            "use the fake in development; everywhere else, serve the page over HTTPS",
        );
    } else {
        report.failed(
            "https",
            "plain http: Released's embed shows \"Invalid origin\"",
            "serve the page over HTTPS",
        );
    }
}

fn report_cache(report: &mut CheckReport, fetched: &Fetched, has_token: bool) {
    const CHECK: &str = "cache";
    const CURE: &str =
        "exclude the page from the rules of caches and CDNs; the guide on caching says how";

    let headers = &fetched.headers;
    let has_no_store = headers.get_all(CACHE_CONTROL).iter().any(|value| {
        let value = value.to_str().unwrap_or_default().to_ascii_lowercase();
        value
            .split(',')
            .any(|directive| directive.trim() == "no-store")
    });
    let age = headers
        .get(AGE)
        .and_then(|age| age.to_str().ok()?.trim().parse::<u64>().ok());
    match (age, has_no_store) {
        (Some(age), _) if has_token && age > 0 => report.failed(
            CHECK,
            format!("Age: {age}, so a cache sent this page, and the token with it"),
            CURE,
        ),
        (Some(age), _) => {
            report.warning(CHECK, format!("Age: {age}, so a cache keeps this page"), CURE);
        }
        (None, true) => report.ok(CHECK, "no-store, and no Age"),
        (None, false) if has_token => report.failed(
            CHECK,
            "the page has a token, and no Cache-Control: no-store",
            "find what replaces the layer's Cache-Control: a proxy, another layer, or CacheControl::Unchanged",
        ),
        (None, false) => report.ok(CHECK, "no token in the page, so it may be kept"),
    }
}

/// Returns the URL and the nonce of the embed's script.
fn embed_script(html: &Html, page: &Url) -> Option<(Url, Option<String>)> {
    html.scripts.iter().find_map(|script| {
        let url = page.join(&script.src).ok()?;
        is_embed(&url).then(|| (url, script.nonce.clone()))
    })
}

/// The loader, a pinned build, or another server's copy, such as the fake's.
fn is_embed(url: &Url) -> bool {
    url.path().ends_with("/embed.js")
        && (url.host_str() == Some("embed.released.so") || url.path().split('/').count() == 3)
}

fn report_policies(
    report: &mut CheckReport,
    fetched: &Fetched,
    html: &Html,
    sources: &Sources,
    script: Option<&(Url, Option<String>)>,
) {
    let needs = Needs {
        sources,
        page: &fetched.url,
        script: script.cloned(),
        asks_itself: html.elements.iter().any(|element| {
            let endpoint = element.endpoint.as_deref();
            let url = endpoint.and_then(|endpoint| fetched.url.join(endpoint).ok());
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
        .is_some_and(|value| value == "require-corp")
    {
        report.warning(
            "policy",
            "Cross-Origin-Embedder-Policy: require-corp probably blocks the portal's frame",
            "try without the header",
        );
    }
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
        Kind::Frame if missing.is_empty() => report.failed(
            CHECK,
            format!(
                "{directive} blocks the portal's frame: the embed shows \"Communication error\""
            ),
            format!(
                "{}, with .hub(..). If your hub has a host of its own, pass it with --hub",
                add("https://SUBDOMAIN.releasedhub.com")
            ),
        ),
        Kind::Frame => report.failed(
            CHECK,
            format!(
                "{directive} blocks the portal's frame: the embed shows \"Communication error\""
            ),
            format!("{}, with .hub(..)", add(&list)),
        ),
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
        Kind::Style | Kind::StyleAttribute => {
            report.warning(
                CHECK,
                format!("{directive} blocks the embed's styles"),
                add(&list),
            );
        }
        Kind::Image => {
            report.warning(
                CHECK,
                format!("{directive} blocks the embed's images"),
                add(&list),
            );
        }
        Kind::Font => {
            report.warning(
                CHECK,
                format!("{directive} blocks the embed's fonts"),
                add(&list),
            );
        }
        Kind::Media => {
            report.warning(
                CHECK,
                format!("{directive} blocks videos in posts"),
                add(&list),
            );
        }
    }
}

fn report_script(report: &mut CheckReport, html: &Html, page: &Url) {
    const CHECK: &str = "script";

    let mut embeds = html.scripts.iter().filter_map(|script| {
        let url = page.join(&script.src).ok()?;
        is_embed(&url).then_some((script, url))
    });
    let Some((script, url)) = embeds.next() else {
        report.failed(
            CHECK,
            "Released's script is not in the page",
            "write embed::script() into the page's <head>; if another script adds it, look for it in the browser",
        );
        return;
    };
    let is_released = url.scheme() == "https" && url.host_str() == Some("embed.released.so");
    if !script.is_run {
        report.failed(
            CHECK,
            "its type keeps the browser from running it",
            "remove the attribute type; a consent manager sets it until the user agrees",
        );
    } else if embeds.next().is_some() {
        report.warning(
            CHECK,
            "it is in the page more than once",
            "write it once, in the <head>",
        );
    } else if !is_released {
        report.warning(
            CHECK,
            format!("{} is not Released's", place(&url)),
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
        let attribute = if *name == "released-form" {
            "form-id"
        } else {
            "channel-id"
        };
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
