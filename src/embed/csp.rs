//! Merges what Released needs into a page's Content-Security-Policy.
//!
//! A page with a policy must allow Released's hosts, and it is easy to break a policy by hand: if a page has only
//! `default-src`, a new `connect-src` takes away everything that `default-src` allowed. [`Sources::merge_into`] follows
//! CSP's own rules (CSP Level 3, section 6.1): it adds what is missing, keeps what was allowed, and changes nothing
//! else.
//!
//! # Example
//!
//! ```
//! use tower_released::embed::csp;
//!
//! let needs = csp::strict().hub("acme.releasedhub.com")?;
//! assert_eq!(
//!     needs.merge_into("default-src 'self'; img-src *; frame-src 'none'"),
//!     "default-src 'self'; img-src *; frame-src https://acme.releasedhub.com; \
//!      connect-src 'self' https://api.released.so https://events.released.so; \
//!      worker-src 'self'; \
//!      script-src 'self' https://embed.released.so; \
//!      style-src 'self' 'unsafe-inline' \
//!      https://cdn.released.so https://embed.released.so; \
//!      font-src 'self' https://embed.released.so",
//! );
//! # Ok::<(), csp::InvalidSource>(())
//! ```

use std::fmt;

use url::{Host, Url};

use super::script::is_base64;

pub use super::csp_layer::{CspLayer, CspResponseFuture, CspService};

/// The directives that apply to each kind of request, most specific first, and the one that is added.
const FALLBACKS: &[Need] = &[
    Need {
        kind: Kind::Frame,
        directive: "frame-src",
        fallbacks: &["frame-src", "child-src", "default-src"],
    },
    Need {
        kind: Kind::Connect,
        directive: "connect-src",
        fallbacks: &["connect-src", "default-src"],
    },
    Need {
        kind: Kind::Script,
        directive: "script-src",
        fallbacks: &["script-src-elem", "script-src", "default-src"],
    },
    Need {
        kind: Kind::Style,
        directive: "style-src",
        fallbacks: &["style-src-elem", "style-src", "default-src"],
    },
    Need {
        kind: Kind::StyleAttribute,
        directive: "style-src",
        fallbacks: &["style-src-attr", "style-src", "default-src"],
    },
    Need {
        kind: Kind::Image,
        directive: "img-src",
        fallbacks: &["img-src", "default-src"],
    },
    Need {
        kind: Kind::Font,
        directive: "font-src",
        fallbacks: &["font-src", "default-src"],
    },
];

struct Need {
    kind: Kind,
    directive: &'static str,
    fallbacks: &'static [&'static str],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Frame,
    Connect,
    Script,
    Style,
    StyleAttribute,
    Image,
    Font,
}

/// Returns the shortest list that Released documents: its hosts one by one.
pub fn strict() -> Sources {
    Sources::new(&[
        (
            Kind::Connect,
            &["https://api.released.so", "https://events.released.so"],
        ),
        (Kind::Script, &["https://embed.released.so"]),
        (
            Kind::Style,
            &[
                "'unsafe-inline'",
                "https://cdn.released.so",
                "https://embed.released.so",
            ],
        ),
        (Kind::StyleAttribute, &["'unsafe-inline'"]),
        (
            Kind::Image,
            &[
                "https://cdn.released.so",
                "https://dwamxgqy3aotj.cloudfront.net",
            ],
        ),
        (Kind::Font, &["https://embed.released.so"]),
    ])
}

/// Returns the list that Released recommends: all of its hosts by a wildcard, so that a new host breaks nothing.
pub fn recommended() -> Sources {
    const ALL: &str = "https://*.released.so";
    Sources::new(&[
        (Kind::Connect, &[ALL]),
        (Kind::Script, &[ALL]),
        (Kind::Style, &["'unsafe-inline'", ALL]),
        (Kind::StyleAttribute, &["'unsafe-inline'"]),
        (Kind::Image, &[ALL, "https://dwamxgqy3aotj.cloudfront.net"]),
        (Kind::Font, &[ALL]),
    ])
}

/// Finds the nonce of a policy's scripts, for [`Script::nonce`](crate::embed::Script::nonce).
///
/// The nonce is in base64 or URL-safe base64.
///
/// # Example
///
/// ```
/// use tower_released::embed::csp;
///
/// let policy = "script-src 'self' 'nonce-aB3_-w=='";
/// assert_eq!(csp::nonce_of(policy), Some("aB3_-w=="));
/// assert_eq!(csp::nonce_of("script-src 'self'"), None);
/// ```
pub fn nonce_of(policy: &str) -> Option<&str> {
    let first = policy.split(',').next()?;
    let parsed = Policy::parse(first);
    let script = ["script-src-elem", "script-src", "default-src"]
        .iter()
        .find_map(|name| parsed.position(name))?;
    let nonce = parsed.directives[script]
        .sources
        .iter()
        .find_map(|source| {
            // The keyword is case-insensitive, the nonce is not.
            let start = source
                .get(..7)
                .filter(|start| start.eq_ignore_ascii_case("'nonce-"))?;
            let nonce = source[start.len()..].strip_suffix('\'')?;
            is_base64(nonce).then(|| nonce.to_owned())
        })?;
    // The parsed policy owns its words; the caller's own are returned.
    first
        .find(&nonce)
        .map(|start| &first[start..start + nonce.len()])
}

/// Holds the sources that an embed needs; see the [module](self).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources {
    by_kind: Vec<(Kind, Vec<String>)>,
}

impl Sources {
    fn new(lists: &[(Kind, &[&str])]) -> Self {
        let own = |list: &[&str]| list.iter().map(|source| (*source).to_owned()).collect();
        Self {
            by_kind: lists
                .iter()
                .map(|(kind, list)| (*kind, own(list)))
                .collect(),
        }
    }

    /// Allows the portal's frame from this host: `SUBDOMAIN.releasedhub.com`, or your own hub host.
    ///
    /// # Errors
    ///
    /// `host` is not the name of a host.
    pub fn hub(mut self, host: &str) -> Result<Self, InvalidSource> {
        let is_name = host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte));
        let url = format!("https://{host}");
        match Url::parse(&url).map_err(|_| InvalidSource)?.host() {
            Some(Host::Domain(_)) if is_name => {
                self.add(Kind::Frame, url);
                Ok(self)
            }
            _ => Err(InvalidSource),
        }
    }

    /// Allows scripts and connections of another origin, such as a [`FakeReleased`](crate::testing::FakeReleased), or a
    /// server with your own copy of the script.
    ///
    /// # Errors
    ///
    /// `origin` is not an origin such as `https://example.com:8443`.
    pub fn origin(mut self, origin: &str) -> Result<Self, InvalidSource> {
        let parsed = Url::parse(origin).map_err(|_| InvalidSource)?;
        if !matches!(parsed.scheme(), "http" | "https")
            || parsed.origin().ascii_serialization() != origin
        {
            return Err(InvalidSource);
        }
        for kind in [Kind::Script, Kind::Connect] {
            self.add(kind, origin.to_owned());
        }
        Ok(self)
    }

    /// Allows the script of [`token_script`](crate::embed::token_script) and its requests, from the page's own origin.
    pub fn token_script(mut self) -> Self {
        for kind in [Kind::Script, Kind::Connect] {
            self.add(kind, "'self'".to_owned());
        }
        self
    }

    fn add(&mut self, kind: Kind, source: String) {
        match self.by_kind.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, sources)) => sources.push(source),
            None => self.by_kind.push((kind, vec![source])),
        }
    }

    /// Adds what is missing to the value of a `Content-Security-Policy` header, and returns the new value.
    ///
    /// A second merge changes nothing. If a policy says nothing about a kind of request, that kind is allowed already,
    /// and nothing is added. If the value has several policies, separated by commas, each is merged, because a browser
    /// enforces all of them.
    pub fn merge_into(&self, policies: &str) -> String {
        let merged: Vec<_> = policies
            .split(',')
            .map(|policy| self.merge_into_one(policy))
            .collect();
        merged.join(", ")
    }

    fn merge_into_one(&self, policy: &str) -> String {
        let mut policy = Policy::parse(policy);
        for Need {
            kind,
            directive,
            fallbacks,
        } in FALLBACKS
        {
            let Some((_, needed)) = self.by_kind.iter().find(|(known, _)| known == kind) else {
                continue;
            };
            policy.allow(needed, directive, fallbacks);
        }
        policy.to_string()
    }
}

/// Says that a string is not a source that can be allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidSource;

impl fmt::Display for InvalidSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a hub is the name of a host, such as acme.releasedhub.com, and an origin a scheme, a host and a port",
        )
    }
}

impl std::error::Error for InvalidSource {}

/// A parsed policy.
struct Policy {
    directives: Vec<Directive>,
}

struct Directive {
    /// In lower case.
    name: String,
    sources: Vec<String>,
    /// As it was written, unless it was changed.
    unchanged: Option<String>,
}

impl Policy {
    fn parse(policy: &str) -> Self {
        let directives = policy.split(';').filter_map(|text| {
            let text = text.trim_matches(|character: char| character.is_ascii_whitespace());
            let mut words = text.split_ascii_whitespace();
            let name = words.next()?.to_ascii_lowercase();
            Some(Directive {
                name,
                sources: words.map(str::to_owned).collect(),
                unchanged: Some(text.to_owned()),
            })
        });
        Self {
            directives: directives.collect(),
        }
    }

    /// Browsers apply the first of several directives with one name.
    fn position(&self, name: &str) -> Option<usize> {
        self.directives
            .iter()
            .position(|directive| directive.name == name)
    }

    /// Adds these sources to the directive that governs a kind of request.
    fn allow(&mut self, needed: &[String], directive: &str, fallbacks: &[&str]) {
        // Without a directive, everything is allowed.
        let Some(governing) = fallbacks.iter().find_map(|name| self.position(name)) else {
            return;
        };
        let sources = &self.directives[governing].sources;
        let missing: Vec<String> = needed
            .iter()
            .filter(|source| !sources.iter().any(|allowed| covers(allowed, source)))
            .cloned()
            .collect();
        if missing.is_empty() {
            return;
        }
        let mut sources = sources.clone();
        sources.retain(|source| !source.eq_ignore_ascii_case("'none'"));
        sources.extend(missing);

        // A directive for several kinds of requests stays as it is, and a more specific one is added.
        let is_wider = matches!(
            self.directives[governing].name.as_str(),
            "default-src" | "child-src"
        );
        let name = if is_wider {
            directive.to_owned()
        } else {
            self.directives[governing].name.clone()
        };
        if name == "script-src" {
            self.keep_workers(governing);
        }
        let changed = Directive {
            name,
            sources,
            unchanged: None,
        };
        if is_wider {
            self.directives.push(changed);
        } else {
            self.directives[governing] = changed;
        }
    }

    /// Keeps what workers were allowed. They fall back to `script-src`, so they get their own directive before it
    /// changes. With `'strict-dynamic'` they need none, because hosts do not count then.
    fn keep_workers(&mut self, governing: usize) {
        let sources = &self.directives[governing].sources;
        let has_own = self
            .position("worker-src")
            .or(self.position("child-src"))
            .is_some();
        if !has_own
            && !sources
                .iter()
                .any(|source| source.eq_ignore_ascii_case("'strict-dynamic'"))
        {
            let sources = sources.clone();
            self.directives.push(Directive {
                name: "worker-src".to_owned(),
                sources,
                unchanged: None,
            });
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (
            index,
            Directive {
                name,
                sources,
                unchanged,
            },
        ) in self.directives.iter().enumerate()
        {
            if index > 0 {
                f.write_str("; ")?;
            }
            if let Some(text) = unchanged {
                f.write_str(text)?;
            } else {
                f.write_str(name)?;
                sources
                    .iter()
                    .try_for_each(|source| write!(f, " {source}"))?;
            }
        }
        Ok(())
    }
}

/// Returns whether a source that is allowed covers the one that is needed: the same source, a wildcard or a scheme.
fn covers(allowed: &str, needed: &str) -> bool {
    if allowed.eq_ignore_ascii_case(needed) {
        return true;
    }
    let Some((scheme, host)) = needed.split_once("://") else {
        return false;
    };
    if allowed == "*" || allowed.eq_ignore_ascii_case("https:") && scheme == "https" {
        return true;
    }
    // Without a scheme, a source means the page's own scheme, and always https, too.
    let (allowed_scheme, pattern) = allowed.split_once("://").unwrap_or(("https", allowed));
    if !allowed_scheme.eq_ignore_ascii_case(scheme) {
        return false;
    }
    let (pattern, host) = (pattern.to_ascii_lowercase(), host.to_ascii_lowercase());
    match pattern.strip_prefix("*.") {
        // A wildcard that is needed is covered by a wider one.
        Some(domain) => host
            .strip_suffix(domain)
            .is_some_and(|start| start.ends_with('.')),
        None => pattern == host,
    }
}
