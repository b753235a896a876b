//! Looks at a page: would the portal in it open?

use http::header::{AGE, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue};
use url::Url;

use super::fetch::Fetched;
use super::html::Html;
use super::{blocked, embed};
use crate::client::CheckReport;
use crate::client::page::is_this_machine;
use crate::embed::csp::Sources;

const AFTER_THE_PAGE: [&str; 7] = [
    "https", "cache", "policy", "script", "element", PAGE_TOKEN, PAGE_LIFE,
];

pub(crate) const PAGE_TOKEN: &str = "page-token";
pub(crate) const PAGE_LIFE: &str = "page-life";

pub(crate) const AS_A_USER: &str =
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
    let script = embed::script(&html, &fetched.url);
    blocked::report(report, fetched, &html, needs, script.as_ref());
    embed::report(report, fetched, &html, script.is_some());
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
    if is_utf_16(fetched) {
        report.failed(
            CHECK,
            "encoded as UTF-16, which this command does not read",
            "serve the page as UTF-8, as HTML demands",
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

/// Returns whether a browser reads the page as UTF-16. Other encodings have the ASCII of tags in common.
fn is_utf_16(fetched: &Fetched) -> bool {
    let kind = fetched.headers.get(CONTENT_TYPE);
    let kind = kind.map(|kind| kind.as_bytes().to_ascii_lowercase());
    let is_named = kind.is_some_and(|kind| kind.windows(6).any(|part| part == b"utf-16"));
    let body = &fetched.body;
    // A byte order mark counts before the header.
    match body.get(..2) {
        Some([0xfe, 0xff] | [0xff, 0xfe]) => true,
        _ => is_named && !body.starts_with("\u{feff}".as_bytes()),
    }
}

/// The longest part of a path that is shown. Words are shorter, and tokens are longer.
const LONGEST_SEGMENT: usize = 20;

/// The URL without what may be secret or personal: the user name, the password and the query, and in the path what may be
/// a token, a session or an e-mail address.
pub(crate) fn place(url: &Url) -> String {
    let origin = url.origin().ascii_serialization();
    let path: Vec<&str> = url.path().split('/').map(shown_segment).collect();
    format!("{origin}{}", path.join("/"))
}

fn shown_segment(segment: &str) -> &str {
    // Java's servers write a session after a semicolon.
    let (shown, _) = segment.split_once(';').unwrap_or((segment, ""));
    let has_address = shown.contains('@') || shown.to_ascii_lowercase().contains("%40");
    if has_address || shown.len() > LONGEST_SEGMENT {
        "…"
    } else {
        shown
    }
}

/// Returns whether a host or a path has one of the names of sign-in pages.
pub(crate) fn is_named_sign_in(url: &Url) -> bool {
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
    if let Some(name) = headers.iter().find_map(keeps_at_cdns).filter(|_| has_token) {
        report.failed(
            CHECK,
            format!("{name} tells CDNs to keep this page, and the token with it"),
            "find the proxy or the layer that sets the header, and remove it from pages with a token",
        );
        return;
    }
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

/// Returns the name of a header that CDNs use instead of `Cache-Control` (RFC 9213; Edge Architecture), if it does not
/// forbid them to keep the page.
fn keeps_at_cdns<'a>((name, value): (&'a HeaderName, &HeaderValue)) -> Option<&'a str> {
    let name = name.as_str();
    let value = value.to_str().unwrap_or_default().to_ascii_lowercase();
    let forbids = value.split(',').any(|directive| {
        matches!(
            directive.trim(),
            "no-store" | "private" | "no-cache" | "max-age=0"
        )
    });
    ((name.ends_with("-cache-control") || name == "surrogate-control") && !forbids).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_shows_nothing_that_is_secret_or_personal() {
        for (url, shown) in [
            (
                "https://example.com:8443/a/b/?c#d",
                "https://example.com:8443/a/b/",
            ),
            (
                "https://ada:s3cret@example.com:443/a",
                "https://example.com/a",
            ),
            (
                "http://[::1]:3000/sign-in;jsessionid=s3cret/a",
                "http://[::1]:3000/sign-in/a",
            ),
            (
                "https://example.com/ada@example.com/a",
                "https://example.com/…/a",
            ),
            (
                "https://example.com/ada%40example.com",
                "https://example.com/…",
            ),
            (
                "https://example.com/verify/eyJhbGciOiJIUzI1NiJ9.e30.c2ln",
                "https://example.com/verify/…",
            ),
        ] {
            let url = Url::parse(url).expect("a URL");
            assert_eq!(place(&url), shown);
        }
    }
}
