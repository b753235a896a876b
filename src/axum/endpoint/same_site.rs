//! Whether a page of the same site asks.

use std::fmt;

use http::header::{FORWARDED, HOST, HeaderName, ORIGIN};
use http::request::Parts;
use http::{HeaderMap, HeaderValue};
use url::Url;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// How much of a header is logged, in bytes: more than hosts have.
const LOGGED: usize = 100;

/// Names the header in which a proxy tells the host that the browser asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProxyHeader {
    /// `Forwarded: host=app.example;proto=https` (RFC 7239).
    Forwarded,
    /// `X-Forwarded-Host: app.example`.
    XForwardedHost,
}

/// Says that a text is not an origin, such as `https://app.example`.
#[derive(Clone, PartialEq, Eq)]
pub struct InvalidOrigin(String);

impl fmt::Display for InvalidOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is not an origin. Write the scheme, the host and perhaps the port, such as https://app.example",
            self.0
        )
    }
}

crate::error::debug_as_text!(InvalidOrigin);

impl std::error::Error for InvalidOrigin {}

/// The rules of one endpoint.
#[derive(Clone, Debug, Default)]
pub(crate) struct SameSite {
    pub(crate) proxy_header: Option<ProxyHeader>,
    allowed: Vec<String>,
}

/// Why a request is refused.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The browser says so, or says something invalid.
    OtherSite,
    /// The origin is not the host that the server sees, which a proxy may have changed.
    OtherHost { origin: String, host: String },
}

impl Refusal {
    pub(crate) fn text(&self) -> &'static str {
        match self {
            Self::OtherSite => "Another site may not ask for a token.",
            Self::OtherHost { .. } => {
                "Another site may not ask for a token. If this is the same site, a proxy changed Host: see TokenEndpoint of \
                 tower-released."
            }
        }
    }
}

/// The host that the browser asked, and the scheme if it is known.
struct Asked {
    host: String,
    scheme: Option<String>,
}

impl SameSite {
    pub(crate) fn allow(&mut self, origin: &str) -> Result<(), InvalidOrigin> {
        // Before an `@` is a password, perhaps.
        let shown = origin.rsplit('@').next().unwrap_or_default();
        let invalid = || InvalidOrigin(shown.to_owned());
        let url = Url::parse(origin).map_err(|_| invalid())?;
        let is_origin = matches!(url.scheme(), "http" | "https")
            && url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none()
            && !url.authority().contains('@')
            && !url.authority().contains('*');
        if !is_origin {
            return Err(invalid());
        }
        // As browsers write it: in lower case, in Punycode, and without the scheme's own port.
        self.allowed.push(url.origin().ascii_serialization());
        Ok(())
    }

    /// Refuses what a browser says that a page of another site sent, or says something invalid of. Callers that are not
    /// browsers send neither header, and carry no user's cookies.
    ///
    /// Browsers without fetch metadata say only whether the origin is the same, so for them, sibling hosts are refused.
    pub(crate) fn check(&self, parts: &Parts) -> Result<(), Refusal> {
        let site = only(&parts.headers, &SEC_FETCH_SITE).map_err(|()| Refusal::OtherSite)?;
        let origin = only(&parts.headers, &ORIGIN);
        if let Ok(Some(origin)) = origin {
            if self.allowed.iter().any(|allowed| origin == allowed) {
                return Ok(());
            }
        }
        match (site, origin) {
            (Some(site), _) => ["same-origin", "same-site", "none"]
                .iter()
                .any(|good| site == good)
                .then_some(())
                .ok_or(Refusal::OtherSite),
            (None, Ok(None)) => Ok(()),
            (None, Ok(Some(origin))) => self.compare(origin, parts),
            (None, Err(())) => Err(Refusal::OtherSite),
        }
    }

    fn compare(&self, origin: &HeaderValue, parts: &Parts) -> Result<(), Refusal> {
        // `Origin: null` has no scheme, and is of no site.
        let Some((scheme, authority)) = origin
            .to_str()
            .ok()
            .and_then(|origin| origin.split_once("://"))
        else {
            return Err(Refusal::OtherSite);
        };
        let asked = self.asked(parts);
        let is_same = asked.as_ref().is_some_and(|asked| {
            // Browsers leave a scheme's own port out, some proxies add it.
            let own_port = if scheme == "https" { ":443" } else { ":80" };
            let host = asked.host.strip_suffix(own_port).unwrap_or(&asked.host);
            let is_scheme = |asked: &String| asked.eq_ignore_ascii_case(scheme);
            authority.eq_ignore_ascii_case(host) && asked.scheme.as_ref().is_none_or(is_scheme)
        });
        if is_same {
            return Ok(());
        }
        Err(Refusal::OtherHost {
            origin: beginning(origin.as_bytes()),
            host: beginning(asked.map(|asked| asked.host).unwrap_or_default().as_bytes()),
        })
    }

    /// Returns the host that the browser asked. A trusted header that is there and says nothing valid is no reason to
    /// trust another.
    fn asked(&self, parts: &Parts) -> Option<Asked> {
        let told = |name| parts.headers.get_all(name).iter().next_back();
        match self.proxy_header {
            Some(ProxyHeader::Forwarded) => {
                if let Some(value) = told(FORWARDED) {
                    return forwarded(value.to_str().ok()?);
                }
            }
            Some(ProxyHeader::XForwardedHost) => {
                if let Some(value) = told(X_FORWARDED_HOST) {
                    let host = value.to_str().ok()?.rsplit(',').next()?.trim();
                    return (!host.is_empty()).then(|| Asked::without_scheme(host));
                }
            }
            None => {}
        }
        match parts.uri.authority() {
            Some(authority) => Some(Asked::without_scheme(authority.as_str())),
            None => Some(Asked::without_scheme(
                only(&parts.headers, &HOST).ok()??.to_str().ok()?,
            )),
        }
    }
}

impl Asked {
    fn without_scheme(host: &str) -> Self {
        Self {
            host: host.to_owned(),
            scheme: None,
        }
    }
}

/// Returns a header that may be there once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a HeaderValue>, ()> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (first, None) => Ok(first),
        _ => Err(()),
    }
}

/// Returns what the last element of `Forwarded` says, the one that the nearest proxy added (RFC 7239, section 4). The
/// whole value must be valid, so that nobody hides an element in the quotes of another.
fn forwarded(value: &str) -> Option<Asked> {
    let (mut host, mut scheme) = (None, None);
    let mut rest = value.trim();
    while !rest.is_empty() {
        if let Some(next) = rest.strip_prefix(',') {
            (host, scheme) = (None, None);
            rest = next.trim_start();
            // A comma at the end begins an element that says nothing.
            continue;
        }
        if let Some(next) = rest.strip_prefix(';') {
            rest = next.trim_start();
            continue;
        }
        let (name, after) = rest.split_once('=')?;
        let (value, after) = if let Some(quoted) = after.strip_prefix('"') {
            unquoted(quoted)?
        } else {
            // Strictly, a port needs quotes; many proxies' configurations have none.
            let end = after
                .find([';', ',', ' ', '\t', '"'])
                .unwrap_or(after.len());
            (after[..end].to_owned(), &after[end..])
        };
        let known = match name.to_ascii_lowercase().as_str() {
            "host" => Some(&mut host),
            "proto" => Some(&mut scheme),
            name if name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') =>
            {
                None
            }
            _ => return None,
        };
        // Each may be there once.
        if let Some(known) = known {
            if value.is_empty() || known.replace(value).is_some() {
                return None;
            }
        }
        rest = after.trim_start();
        if !(rest.is_empty() || rest.starts_with([';', ','])) {
            return None;
        }
    }
    Some(Asked {
        host: host?,
        scheme,
    })
}

/// Returns the text of a `quoted-string` after its first quote (RFC 9110, section 5.6.4), and what follows it.
fn unquoted(quoted: &str) -> Option<(String, &str)> {
    let mut text = String::new();
    let mut characters = quoted.char_indices();
    while let Some((index, character)) = characters.next() {
        match character {
            '"' => return Some((text, &quoted[index + 1..])),
            '\\' => text.push(characters.next()?.1),
            other => text.push(other),
        }
    }
    None
}

/// Returns the beginning of a header for the log.
fn beginning(text: &[u8]) -> String {
    String::from_utf8_lossy(&text[..text.len().min(LOGGED)]).into_owned()
}
