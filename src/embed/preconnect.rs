//! The connections that a browser can open before the embed needs them.

use std::fmt;

use http::HeaderValue;

use super::origin::{self, InvalidSource};

/// The origins that every embed needs first, and whether the connection is one for CORS.
///
/// The script is loaded without CORS. Released does not document how its script makes requests to the API; that they
/// carry no cookies, as `crossorigin` says, is a guess.
const FIRST: &[(&str, bool)] = &[
    ("https://embed.released.so", false),
    ("https://api.released.so", true),
];

/// Creates link tags that let the browser connect to the hosts that an embed needs first: the script's, the API's, and
/// your hub's if you name it.
///
/// Write them at the start of the page's `<head>`, or send [`header_value`](Preconnect::header_value). They do not help
/// a script with [`integrity`](crate::embed::Script::integrity), which the browser loads over another connection, with
/// CORS.
///
/// # Errors
///
/// `hub` is not the name of a host; see [`Sources::hub`](crate::embed::csp::Sources::hub).
///
/// # Example
///
/// ```
/// use http::{Response, header::LINK};
/// use tower_released::embed;
///
/// let links = embed::preconnect("acme.releasedhub.com")?;
/// assert_eq!(
///     links.to_string(),
///     "<link rel=\"preconnect\" href=\"https://embed.released.so\">\
///      <link rel=\"preconnect\" href=\"https://api.released.so\" crossorigin>\
///      <link rel=\"preconnect\" href=\"https://acme.releasedhub.com\">",
/// );
///
/// let mut response = Response::new("the page");
/// response.headers_mut().append(LINK, links.header_value());
///
/// let without_hub = embed::preconnect(None)?;
/// assert!(!without_hub.to_string().contains("releasedhub.com"));
/// # Ok::<(), embed::csp::InvalidSource>(())
/// ```
pub fn preconnect<'a>(hub: impl Into<Option<&'a str>>) -> Result<Preconnect, InvalidSource> {
    let hub = hub.into().map(origin::of_hub).transpose()?;
    let mut links: Vec<String> = Vec::new();
    for (origin, is_cors) in origins(hub.as_deref()) {
        let crossorigin = if is_cors { "; crossorigin" } else { "" };
        links.push(format!("<{origin}>; rel=preconnect{crossorigin}"));
    }
    // A checked origin has no character that a header cannot carry.
    let header = HeaderValue::try_from(links.join(", ")).map_err(|_| InvalidSource)?;
    Ok(Preconnect { hub, header })
}

fn origins(hub: Option<&str>) -> impl Iterator<Item = (&str, bool)> {
    FIRST
        .iter()
        .copied()
        .chain(hub.map(|origin| (origin, false)))
}

/// Writes the link tags of the hosts that an embed needs first; see [`preconnect`].
#[must_use = "links do nothing until they are written into a page or a header"]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preconnect {
    hub: Option<String>,
    header: HeaderValue,
}

impl Preconnect {
    /// Returns the same links as the value of a `Link` header (RFC 8288), for the page's response or for early hints
    /// (status 103, RFC 8297).
    pub fn header_value(&self) -> HeaderValue {
        self.header.clone()
    }
}

impl fmt::Display for Preconnect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (origin, is_cors) in origins(self.hub.as_deref()) {
            let crossorigin = if is_cors { " crossorigin" } else { "" };
            write!(
                f,
                "<link rel=\"preconnect\" href=\"{origin}\"{crossorigin}>"
            )?;
        }
        Ok(())
    }
}
