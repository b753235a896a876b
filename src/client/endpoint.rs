//! The URL of the token API, and the check that the secret may be sent there.

use http::Uri;
use url::{Host, Url};

/// The URL of the token API, to which the secret and users may be sent.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    url: Url,
    /// The same URL, for the HTTP client.
    uri: Uri,
}

impl Endpoint {
    /// Accepts `https` to any host, and `http` only to this machine. It checks the parsed host, because
    /// `http://127.0.0.1.example` and `http://[::1]@example` only look like this machine.
    pub(crate) fn parse(url: &str) -> Result<Self, InvalidEndpoint> {
        let url = Url::parse(url).map_err(|_| InvalidEndpoint::NotAUrl)?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(InvalidEndpoint::UserInfo);
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(InvalidEndpoint::QueryOrFragment);
        }
        match url.scheme() {
            "https" => {}
            "http" if is_loopback(&url) => {}
            "http" => return Err(InvalidEndpoint::PlainHttp),
            _ => return Err(InvalidEndpoint::Scheme),
        }
        // Fails only for a URL that is too long for a request.
        let uri = url.as_str().parse().map_err(|_| InvalidEndpoint::NotAUrl)?;
        Ok(Self { url, uri })
    }

    pub(crate) fn url(&self) -> &Url {
        &self.url
    }

    pub(crate) fn uri(&self) -> &Uri {
        &self.uri
    }

    /// Returns the host and the port, for errors.
    pub(crate) fn server(&self) -> String {
        host_and_port(&self.url)
    }

    pub(crate) fn is_https(&self) -> bool {
        self.url.scheme() == "https"
    }

    /// Returns whether the host is this machine, in any notation.
    pub(crate) fn is_loopback(&self) -> bool {
        is_this_machine(&self.url)
    }
}

/// Returns the host and the port of an `http` or `https` URL, which has both.
pub(crate) fn host_and_port(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    format!("{host}:{}", url.port_or_known_default().unwrap_or_default())
}

/// Returns whether a URL's host is this machine, in any notation.
pub(crate) fn is_this_machine(url: &Url) -> bool {
    let is_other_notation = match url.host() {
        // Browsers and resolvers take all of its subdomains for this machine (RFC 6761, section 6.3).
        Some(Host::Domain(name)) => {
            let name = name.strip_suffix('.').unwrap_or(name);
            name == "localhost" || name.ends_with(".localhost")
        }
        Some(Host::Ipv6(address)) => address
            .to_ipv4_mapped()
            .is_some_and(|address| address.is_loopback()),
        _ => false,
    };
    is_loopback(url) || is_other_notation
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// Says why a token URL is refused. The texts contain no part of the URL, because it may contain a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InvalidEndpoint {
    /// It is not an absolute URL.
    NotAUrl,
    /// Its scheme is neither `https` nor `http`.
    Scheme,
    /// It is `http` to another machine.
    PlainHttp,
    /// It has a user name or a password.
    UserInfo,
    /// It has a query or a fragment.
    QueryOrFragment,
}

impl InvalidEndpoint {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::NotAUrl => {
                "the token URL (RELEASED_TOKEN_URL) is not an absolute URL; it must start with https://"
            }
            Self::Scheme => "the token URL (RELEASED_TOKEN_URL) must start with https://",
            Self::PlainHttp => {
                "the token URL (RELEASED_TOKEN_URL) must be https: plain http would show the shared secret to the network, so it is only \
                 for 127.0.0.0/8, [::1] and localhost"
            }
            Self::UserInfo => {
                "the token URL (RELEASED_TOKEN_URL) must not have a user name or a password; remove them"
            }
            Self::QueryOrFragment => {
                "the token URL (RELEASED_TOKEN_URL) must not have a query or a fragment; remove it"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_many_names() {
        for (url, is_here) in [
            ("http://localhost:3000/", true),
            ("http://LOCALHOST./", true),
            ("http://acme.localhost:3000/", true),
            ("http://acme.localhost./", true),
            ("http://127.1.2.3/", true),
            ("http://[::1]/", true),
            ("http://[::ffff:127.0.0.1]/", true),
            ("http://notlocalhost/", false),
            ("http://localhost.example/", false),
            ("http://[::2]/", false),
            ("http://10.0.0.1/", false),
        ] {
            let url = Url::parse(url).expect("a URL");
            assert_eq!(is_this_machine(&url), is_here, "{url}");
        }
    }

    #[test]
    fn a_secret_goes_over_tls_or_stays_on_this_machine() {
        for good in [
            "https://accounts.releasedhub.com/auth/api/token",
            "https://example.com:8443",
            "http://127.0.0.1:3000/token",
            "http://127.9.9.9/",
            "http://[::1]:3000/",
            "http://localhost:3000/",
            "http://LOCALHOST/",
            "http://2130706433/", // 127.0.0.1 by the URL standard
        ] {
            assert!(Endpoint::parse(good).is_ok(), "{good}");
        }
        for (bad, why) in [
            ("", InvalidEndpoint::NotAUrl),
            ("/auth/api/token", InvalidEndpoint::NotAUrl),
            ("accounts.releasedhub.com", InvalidEndpoint::NotAUrl),
            ("ftp://localhost/", InvalidEndpoint::Scheme),
            ("file:///etc/passwd", InvalidEndpoint::Scheme),
            (
                "http://accounts.releasedhub.com/",
                InvalidEndpoint::PlainHttp,
            ),
            ("http://127.0.0.1.evil.example/", InvalidEndpoint::PlainHttp),
            ("http://localhost.evil.example/", InvalidEndpoint::PlainHttp),
            ("http://10.0.0.1/", InvalidEndpoint::PlainHttp),
            ("http://[::1]@evil.example/", InvalidEndpoint::UserInfo),
            ("http://127.0.0.1@evil.example/", InvalidEndpoint::UserInfo),
            (
                "https://user:password@example.com/",
                InvalidEndpoint::UserInfo,
            ),
            (
                "https://example.com/?token=1",
                InvalidEndpoint::QueryOrFragment,
            ),
            ("https://example.com/#a", InvalidEndpoint::QueryOrFragment),
        ] {
            let error = Endpoint::parse(bad).expect_err(bad);
            assert_eq!(error, why, "{bad}");
            assert!(!error.text().contains("password@"));
        }
    }
}
