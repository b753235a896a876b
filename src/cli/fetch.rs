//! Fetches a page as a browser does when a user opens it.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, LOCATION, UPGRADE_INSECURE_REQUESTS, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use tokio::time::timeout;
use url::Url;

use super::page::{AS_A_USER, is_named_sign_in, place};
use crate::client::page::{Unreachable, get};

/// How many redirects are followed. A sign-in takes two or three.
const MAX_REDIRECTS: usize = 8;

/// How long the page may take, with its redirects. After more than that, no user waits.
const LIMIT: Duration = Duration::from_secs(20);

/// A page that was received.
pub(crate) struct Fetched {
    /// Where the page is, after all redirects.
    pub(crate) url: Url,
    /// How many redirects led there.
    pub(crate) redirects: usize,
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// When it arrived.
    pub(crate) at: SystemTime,
}

/// Gets the page, and follows its redirects. `own` are the headers of the command line.
pub(crate) async fn fetch(url: Url, own: &HeaderMap) -> Result<Fetched, Unreachable> {
    timeout(LIMIT, follow(url, own)).await.unwrap_or_else(|_| {
        Err(Unreachable {
            found: format!("no page within {} s", LIMIT.as_secs()),
            cure: "check whether the page's server is slow".to_owned(),
        })
    })
}

async fn follow(mut url: Url, own: &HeaderMap) -> Result<Fetched, Unreachable> {
    let first = url.clone();
    let mut redirects = 0;
    loop {
        let mut headers = of_a_browser();
        if may_have_headers_of(&first, &url) {
            // They replace a browser's.
            for name in own.keys() {
                headers.remove(name);
            }
            for (name, value) in own {
                headers.append(name, value.clone());
            }
        }
        let answer = get(&url, headers).await.map_err(|failure| {
            if redirects == 0 {
                return failure;
            }
            Unreachable {
                found: format!("redirects to {}: {}", place(&url), failure.found),
                cure: if is_named_sign_in(&url) {
                    AS_A_USER.to_owned()
                } else {
                    failure.cure
                },
            }
        })?;
        match next(&url, &answer) {
            Some(target) if redirects < MAX_REDIRECTS => {
                url = target;
                redirects += 1;
            }
            Some(_) => {
                return Err(Unreachable {
                    found: format!("more than {MAX_REDIRECTS} redirects"),
                    cure: "pass the cookies of a signed-in user: --header 'Cookie: …'; this command keeps none that \
                           the server sets"
                        .to_owned(),
                });
            }
            None => {
                let (head, body) = answer.into_parts();
                return Ok(Fetched {
                    url,
                    redirects,
                    status: head.status,
                    headers: head.headers,
                    body,
                    at: SystemTime::now(),
                });
            }
        }
    }
}

/// Returns whether the headers for one URL may be sent to another: to the same origin only, or to the same host over
/// HTTPS, to which most servers redirect.
fn may_have_headers_of(first: &Url, url: &Url) -> bool {
    let is_upgrade = (first.scheme(), url.scheme()) == ("http", "https")
        && (first.port(), url.port()) == (None, None)
        && first.host() == url.host();
    url.origin() == first.origin() || is_upgrade
}

/// Returns where a redirect leads.
fn next(url: &Url, answer: &Response<Bytes>) -> Option<Url> {
    if !matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    // Browsers, too, take it for UTF-8.
    let location = String::from_utf8_lossy(answer.headers().get(LOCATION)?.as_bytes());
    let target = url.join(&location).ok()?;
    matches!(target.scheme(), "http" | "https").then_some(target)
}

/// The headers with which a browser opens a page (<https://www.w3.org/TR/fetch-metadata/>).
fn of_a_browser() -> HeaderMap {
    [
        (
            USER_AGENT,
            concat!(
                "Mozilla/5.0 (compatible; released-check/",
                env!("CARGO_PKG_VERSION"),
                ")"
            ),
        ),
        (
            ACCEPT,
            "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
        ),
        // What is compressed would have to be decompressed.
        (ACCEPT_ENCODING, "identity"),
        (UPGRADE_INSECURE_REQUESTS, "1"),
        (HeaderName::from_static("sec-fetch-dest"), "document"),
        (HeaderName::from_static("sec-fetch-mode"), "navigate"),
        (HeaderName::from_static("sec-fetch-site"), "none"),
        (HeaderName::from_static("sec-fetch-user"), "?1"),
    ]
    .into_iter()
    .map(|(name, value)| (name, HeaderValue::from_static(value)))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_goes_to_its_own_host_only() {
        for (first, url, may) in [
            ("https://a.example/x", "https://a.example/y", true),
            ("http://a.example/", "https://a.example/", true),
            ("http://a.example:8080/", "https://a.example/", false),
            ("https://a.example/", "http://a.example/", false),
            ("https://a.example/", "https://a.example:8443/", false),
            ("https://a.example/", "https://login.a.example/", false),
            ("http://a.example/", "https://b.example/", false),
        ] {
            let parse = |url: &str| Url::parse(url).expect("a URL");
            assert_eq!(
                may_have_headers_of(&parse(first), &parse(url)),
                may,
                "{first} {url}"
            );
        }
    }
}
