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

use std::borrow::Cow;

use super::origin;
use super::policy::{Kind, Policy, covers};
use super::script::is_base64;

pub use super::csp_layer::{CspLayer, CspResponseFuture, CspService};
pub use super::origin::InvalidSource;

/// The hosts of the players that YouTube and Loom document for embedding.
const VIDEO_PLAYERS: &[&str] = &[
    "https://www.youtube.com",
    "https://www.youtube-nocookie.com",
    "https://www.loom.com",
];

/// Returns the shortest list of hosts that Released documents.
///
/// It holds no host of a frame. Add yours with [`hub`](Sources::hub).
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
///
/// It holds no host of a frame. Add yours with [`hub`](Sources::hub).
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

/// Finds the nonce of the scripts in the value of a `Content-Security-Policy` header, for
/// [`Script::nonce`](crate::embed::Script::nonce).
///
/// If the value has several policies, separated by commas, the first one that restricts scripts is searched. The nonce
/// is in base64 or URL-safe base64. Returns `None` if there is no such policy, or no such nonce in it.
///
/// # Example
///
/// ```
/// use tower_released::embed::csp;
///
/// let policy = "script-src 'self' 'nonce-aB3_-w=='";
/// assert_eq!(csp::nonce_of(policy), Some("aB3_-w=="));
///
/// let policies = format!("frame-ancestors 'none', {policy}");
/// assert_eq!(csp::nonce_of(&policies), Some("aB3_-w=="));
///
/// assert_eq!(csp::nonce_of("script-src 'self'"), None);
/// ```
pub fn nonce_of(policies: &str) -> Option<&str> {
    let nonces: Vec<_> = policies.split(',').find_map(|policy| {
        let policy = Policy::parse(policy);
        let sources = policy.sources(Kind::Script)?;
        Some(sources.iter().filter_map(nonce_in).collect())
    })?;
    nonces.first().copied()
}

fn nonce_in<'a>(source: &Cow<'a, str>) -> Option<&'a str> {
    // What was parsed and not changed is borrowed.
    let Cow::Borrowed(source) = source else {
        return None;
    };
    // The keyword is case-insensitive, the nonce is not.
    let (keyword, nonce) = source.split_at_checked("'nonce-".len())?;
    let nonce = nonce.strip_suffix('\'')?;
    (keyword.eq_ignore_ascii_case("'nonce-") && is_base64(nonce)).then_some(nonce)
}

/// Holds the sources that an embed needs; see the [module](self).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources {
    pub(crate) by_kind: Vec<(Kind, Vec<String>)>,
    pub(super) has_hub: bool,
}

impl Sources {
    fn new(lists: &[(Kind, &[&str])]) -> Self {
        let own = |list: &[&str]| list.iter().map(|source| (*source).to_owned()).collect();
        Self {
            by_kind: lists
                .iter()
                .map(|(kind, list)| (*kind, own(list)))
                .collect(),
            has_hub: false,
        }
    }

    /// Allows the portal's frame from this host: `SUBDOMAIN.releasedhub.com`, or your own hub host.
    ///
    /// Without it, a policy that restricts frames blocks the portal's frame, and the embed shows "Communication error".
    /// [`CspLayer`] logs a warning then.
    ///
    /// # Errors
    ///
    /// `host` is not the name of a host, without a scheme and a port. A policy cannot allow a name with `_`, nor an IPv6
    /// address.
    pub fn hub(mut self, host: &str) -> Result<Self, InvalidSource> {
        let hub = origin::of_hub(host)?;
        self.add(Kind::Frame, &hub);
        self.has_hub = true;
        Ok(self)
    }

    /// Allows scripts and connections of another origin, such as a [`FakeReleased`](crate::testing::FakeReleased), or a
    /// server with your own copy of the script.
    ///
    /// # Errors
    ///
    /// `origin` is not an origin such as `https://example.com:8443`. A policy cannot allow a host with `_`, nor an IPv6
    /// address. A wildcard is not an origin.
    pub fn origin(self, origin: &str) -> Result<Self, InvalidSource> {
        self.with(&[Kind::Script, Kind::Connect], origin)
    }

    /// Allows images of this origin, for example those in your posts.
    ///
    /// # Errors
    ///
    /// As those of [`origin`](Self::origin).
    pub fn image(self, origin: &str) -> Result<Self, InvalidSource> {
        self.with(&[Kind::Image], origin)
    }

    /// Allows video and audio files of this origin, for example those in your posts.
    ///
    /// # Errors
    ///
    /// As those of [`origin`](Self::origin).
    pub fn media(self, origin: &str) -> Result<Self, InvalidSource> {
        self.with(&[Kind::Media], origin)
    }

    /// Allows frames of this origin, for example those of a video player in your posts.
    ///
    /// For the portal's own frame, use [`hub`](Self::hub).
    ///
    /// # Errors
    ///
    /// As those of [`origin`](Self::origin).
    pub fn frame(self, origin: &str) -> Result<Self, InvalidSource> {
        self.with(&[Kind::Frame], origin)
    }

    /// Allows videos of YouTube and Loom in posts, as media and as frames.
    ///
    /// Released documents that `media-src` and `frame-src` must allow them, and names no hosts. The hosts are a guess:
    /// those of the players that YouTube and Loom document for embedding. For video files, use [`media`](Self::media)
    /// with the host of the files.
    pub fn videos(mut self) -> Self {
        for player in VIDEO_PLAYERS {
            self.add(Kind::Media, player);
            self.add(Kind::Frame, player);
        }
        self
    }

    /// Allows the script of [`token_script`](crate::embed::token_script) and its requests, from the page's own origin.
    pub fn token_script(mut self) -> Self {
        for kind in [Kind::Script, Kind::Connect] {
            self.add(kind, "'self'");
        }
        self
    }

    fn with(mut self, kinds: &[Kind], origin: &str) -> Result<Self, InvalidSource> {
        let origin = origin::checked(origin)?;
        for kind in kinds {
            self.add(*kind, &origin);
        }
        Ok(self)
    }

    fn add(&mut self, kind: Kind, source: &str) {
        let source = source.to_owned();
        match self.by_kind.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, sources)) if sources.contains(&source) => {}
            Some((_, sources)) => sources.push(source),
            None => self.by_kind.push((kind, vec![source])),
        }
    }

    /// Adds what is missing to the value of a `Content-Security-Policy` header, and returns the new value.
    ///
    /// A second merge changes nothing. If a policy says nothing about a kind of request, that kind is allowed already,
    /// and nothing is added. If the value has several policies, separated by commas, each is merged, because a browser
    /// enforces all of them. A directive with other characters than ASCII stays as it is and does not count, because
    /// browsers ignore it.
    pub fn merge_into(&self, policies: &str) -> String {
        let merged: Vec<_> = policies
            .split(',')
            .map(|policy| self.merge_into_one(policy))
            .collect();
        merged.join(", ")
    }

    fn merge_into_one(&self, policy: &str) -> String {
        let mut policy = Policy::parse(policy);
        for kind in Kind::ALL {
            if let Some((_, needed)) = self.by_kind.iter().find(|(known, _)| *known == kind) {
                policy.allow(kind, needed);
            }
        }
        policy.to_string()
    }
}

/// Returns whether one of these policies, into which sources without a hub were merged, blocks the portal's frame.
///
/// Without [`hub`](Sources::hub) the host is unknown. Then a policy that allows a host of Released's may allow it.
pub(super) fn leaves_hub_blocked(policies: &str) -> bool {
    policies.split(',').any(|policy| {
        Policy::parse(policy)
            .sources(Kind::Frame)
            .is_some_and(|sources| !sources.iter().any(|source| may_be_a_hub(source)))
    })
}

pub(crate) fn may_be_a_hub(source: &str) -> bool {
    if covers(source, "https://*.releasedhub.com") {
        return true;
    }
    let source = source.to_ascii_lowercase();
    let (_, host) = source.split_once("://").unwrap_or(("", &source));
    host.split([':', '/'])
        .next()
        .is_some_and(|host| host.ends_with(".releasedhub.com"))
}
