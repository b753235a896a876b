//! Decides which hosts and origins a policy can allow.

use std::fmt;
use std::net::Ipv4Addr;

use url::{Host, Url};

/// Returns the origin of a hub's host.
pub(crate) fn of_hub(host: &str) -> Result<String, InvalidSource> {
    // The origin of a hub is `https` at its own port, and its certificate is for a name.
    if host.contains(':') || host.parse::<Ipv4Addr>().is_ok() {
        return Err(InvalidSource);
    }
    checked(&format!("https://{}", host.to_ascii_lowercase()))
}

/// Returns the origin if a browser would read it as one origin and nothing else.
///
/// `Url` accepts more than a policy can say: in `https://a;sandbox` and `https://a,b`, the host ends the directive or the
/// policy. `https://*` allows every host. An IPv6 address and `_` are no host of CSP's grammar (CSP Level 3, section
/// 2.3.1), so browsers ignore the source.
pub(crate) fn checked(origin: &str) -> Result<String, InvalidSource> {
    let url = Url::parse(origin).map_err(|_| InvalidSource)?;
    let is_host = match url.host() {
        Some(Host::Domain(name)) => name.split('.').all(is_label),
        Some(Host::Ipv4(_)) => true,
        _ => false,
    };
    let is_origin =
        matches!(url.scheme(), "http" | "https") && url.origin().ascii_serialization() == origin;
    if is_host && is_origin {
        Ok(origin.to_owned())
    } else {
        Err(InvalidSource)
    }
}

fn is_label(label: &str) -> bool {
    !label.is_empty()
        && label
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// Says that a string is not a host or an origin that a policy can allow.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct InvalidSource;

impl fmt::Display for InvalidSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "not a host or an origin that a policy can allow; write a hub as acme.releasedhub.com, and an origin as \
             https://example.com or https://example.com:8443, without a path, a wildcard, an underscore or an IPv6 \
             address",
        )
    }
}

crate::error::debug_as_text!(InvalidSource);

impl std::error::Error for InvalidSource {}
