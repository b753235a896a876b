//! What a page's Content-Security-Policies block of an embed.

use std::borrow::Cow;

use url::Url;

use crate::embed::csp::{Sources, may_be_a_hub};
use crate::embed::policy::{Kind, Policy};

/// A kind of request that a policy blocks.
#[derive(Debug)]
pub(crate) struct Blocked {
    pub(crate) kind: Kind,
    /// The directive that blocks it.
    pub(crate) directive: &'static str,
    /// The sources that it lacks. Empty if that is not what blocks.
    pub(crate) missing: Vec<String>,
}

/// What a page needs of its policies.
pub(crate) struct Needs<'a> {
    pub(crate) sources: &'a Sources,
    /// The page's own URL, for `'self'`.
    pub(crate) page: &'a Url,
    pub(crate) script: Option<EmbedScript>,
    /// Whether the browser asks the page's own origin for a token.
    pub(crate) asks_itself: bool,
}

/// The tag of Released's script.
#[derive(Clone, Debug)]
pub(crate) struct EmbedScript {
    pub(crate) url: Url,
    pub(crate) nonce: Option<String>,
    pub(crate) integrity: Option<String>,
}

impl EmbedScript {
    /// Returns whether a policy allows it, wherever it is from: by its nonce, or by all hashes of its integrity (CSP Level
    /// 3, section 6.7.1.1).
    fn is_known_to(&self, sources: &[Cow<'_, str>]) -> bool {
        let has = |kind: &str, value: &str| {
            sources.iter().any(|source| {
                let quoted = source
                    .strip_prefix('\'')
                    .and_then(|it| it.strip_suffix('\''));
                let parts = quoted.and_then(|it| it.split_once('-'));
                // The keyword is case-insensitive, the value is not.
                parts.is_some_and(|(keyword, allowed)| {
                    keyword.eq_ignore_ascii_case(kind) && allowed == value
                })
            })
        };
        if self.nonce.as_ref().is_some_and(|nonce| has("nonce", nonce)) {
            return true;
        }
        let hashes = self.integrity.as_deref().unwrap_or_default();
        let is_allowed = |hash: &str| {
            hash.split_once('-')
                .is_some_and(|(kind, value)| has(kind, value))
        };
        !hashes.trim().is_empty() && hashes.split_ascii_whitespace().all(is_allowed)
    }
}

impl Needs<'_> {
    /// Returns what one policy blocks. Browsers enforce each policy of a page.
    pub(crate) fn blocked_by(&self, policy: &str) -> Vec<Blocked> {
        let policy = Policy::parse(policy);
        Kind::ALL
            .into_iter()
            .filter_map(|kind| self.blocked_kind(&policy, kind))
            .collect()
    }

    fn blocked_kind(&self, policy: &Policy<'_>, kind: Kind) -> Option<Blocked> {
        let sources = policy.sources(kind)?;
        let is_governing = |name: &&&str| policy.position(name).is_some();
        let directive = kind.directives().iter().find(is_governing)?;
        let blocked = |missing| {
            Some(Blocked {
                kind,
                directive,
                missing,
            })
        };
        let needed = self.needed(kind);
        if kind == Kind::Frame && needed.is_empty() {
            // The hub is unknown, so any host of Released's may be it.
            let allows_a_hub = self.allows(kind, sources, "https://a.releasedhub.com")
                || sources.iter().any(|source| may_be_a_hub(source));
            return if allows_a_hub {
                None
            } else {
                blocked(Vec::new())
            };
        }
        if kind == Kind::Script {
            if self
                .script
                .as_ref()
                .is_some_and(|script| script.is_known_to(sources))
            {
                return None;
            }
            if has_keyword(sources, "'strict-dynamic'") {
                return blocked(Vec::new());
            }
        }
        let missing: Vec<String> = needed
            .into_iter()
            .filter(|source| !self.allows(kind, sources, source))
            .collect();
        let is_overruled = matches!(kind, Kind::Style | Kind::StyleAttribute)
            && sources.iter().any(|source| is_nonce_or_hash(source));
        if missing.is_empty() && !is_overruled {
            return None;
        }
        blocked(missing)
    }

    fn needed(&self, kind: Kind) -> Vec<String> {
        let lists = &self.sources.by_kind;
        let listed = lists.iter().find(|(known, _)| *known == kind);
        let mut needed = listed.map(|(_, list)| list.clone()).unwrap_or_default();
        match (kind, &self.script) {
            (Kind::Script, Some(script)) => {
                needed = vec![script.url.origin().ascii_serialization()];
            }
            (Kind::Connect, _) if self.asks_itself => needed.push("'self'".to_owned()),
            _ => {}
        }
        needed
    }

    fn allows(&self, kind: Kind, sources: &[Cow<'_, str>], needed: &str) -> bool {
        let (url, has_path) = match &self.script {
            Some(script) if kind == Kind::Script => (Ok(script.url.clone()), true),
            // Of what else is asked for, the path is unknown.
            _ if needed == "'self'" => (Ok(self.page.clone()), false),
            _ => (Url::parse(needed), false),
        };
        sources.iter().any(|source| match &url {
            Ok(url) => matches(source, url, has_path, self.page),
            Err(_keyword) => source.eq_ignore_ascii_case(needed),
        })
    }
}

/// Returns whether a source of a policy allows a URL (CSP Level 3, section 6.7.2.8).
fn matches(source: &str, url: &Url, has_path: bool, page: &Url) -> bool {
    if source == "*" {
        return matches!(url.scheme(), "http" | "https");
    }
    if source.eq_ignore_ascii_case("'self'") {
        let is_upgrade = page.host() == url.host()
            && (page.port(), url.port()) == (None, None)
            && matches_scheme(page.scheme(), url);
        return page.origin() == url.origin() || is_upgrade;
    }
    if let Some(scheme) = source.strip_suffix(':') {
        return matches_scheme(scheme, url);
    }
    // Without a scheme, a source means the page's own.
    let (scheme, rest) = source.split_once("://").unwrap_or((page.scheme(), source));
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    matches_scheme(scheme, url)
        && matches_host(host, url)
        && matches_port(port, url)
        && (!has_path || matches_path(path, url))
}

fn matches_scheme(scheme: &str, url: &Url) -> bool {
    // What is allowed without TLS is also allowed with it.
    scheme.eq_ignore_ascii_case(url.scheme())
        || scheme.eq_ignore_ascii_case("http") && url.scheme() == "https"
}

fn matches_host(pattern: &str, url: &Url) -> bool {
    let (pattern, host) = (
        pattern.to_ascii_lowercase(),
        url.host_str().unwrap_or_default(),
    );
    match pattern.strip_prefix('*') {
        Some(domain) => host.ends_with(domain),
        None => pattern == host,
    }
}

fn matches_port(port: Option<&str>, url: &Url) -> bool {
    match port {
        None => url.port().is_none(),
        Some("*") => true,
        Some("80") if url.scheme() == "https" => url.port().is_none(),
        Some(port) => port.parse().ok() == url.port_or_known_default(),
    }
}

fn matches_path(path: &str, url: &Url) -> bool {
    match path {
        "" => true,
        folder if folder.ends_with('/') => url.path().starts_with(folder),
        file => url.path() == file,
    }
}

fn has_keyword(sources: &[Cow<'_, str>], keyword: &str) -> bool {
    sources
        .iter()
        .any(|source| source.eq_ignore_ascii_case(keyword))
}

fn is_nonce_or_hash(source: &str) -> bool {
    let source = source.to_ascii_lowercase();
    ["'nonce-", "'sha256-", "'sha384-", "'sha512-"]
        .iter()
        .any(|start| source.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embed::csp;

    fn blocked(policy: &str, nonce: Option<&str>) -> Vec<(&'static str, String)> {
        let page = Url::parse("https://app.example.com/").expect("a URL");
        let script = Url::parse("https://embed.released.so/1/embed.js").expect("a URL");
        let needs = Needs {
            sources: &csp::strict(),
            page: &page,
            script: Some(EmbedScript {
                url: script,
                nonce: nonce.map(str::to_owned),
                integrity: None,
            }),
            asks_itself: true,
        };
        let blocked = needs.blocked_by(policy).into_iter();
        blocked
            .map(|blocked| (blocked.directive, blocked.missing.join(" ")))
            .collect()
    }

    #[test]
    fn what_a_policy_blocks_is_what_a_merge_would_add() {
        let needs = csp::recommended()
            .hub("acme.releasedhub.com")
            .expect("a host")
            .token_script();
        for policy in [
            "default-src 'self'",
            "default-src 'none'; style-src 'self'",
            "script-src 'self'; frame-src 'none'; connect-src *",
            "img-src 'self'; font-src data:; child-src 'self'",
        ] {
            assert!(!blocked(policy, None).is_empty(), "{policy}");
            assert_eq!(blocked(&needs.merge_into(policy), None), [], "{policy}");
        }
        assert_eq!(blocked("", None), []);
        assert_eq!(blocked("frame-ancestors 'none'; report-uri /r", None), []);
    }

    #[test]
    fn the_directive_that_applies_is_named() {
        for (policy, directive, missing) in [
            ("frame-src 'self'", "frame-src", ""),
            (
                "default-src *; child-src 'self' 'unsafe-inline'",
                "child-src",
                "",
            ),
            (
                "connect-src 'self' https://api.released.so",
                "connect-src",
                "https://events.released.so",
            ),
            ("connect-src https://*.released.so", "connect-src", "'self'"),
            (
                "script-src 'self'",
                "script-src",
                "https://embed.released.so",
            ),
            (
                "script-src-elem 'none'; script-src *",
                "script-src-elem",
                "https://embed.released.so",
            ),
            (
                "script-src 'strict-dynamic' 'nonce-b' https:",
                "script-src",
                "",
            ),
        ] {
            let all = blocked(policy, Some("a"));
            assert_eq!(
                all.first(),
                Some(&(directive, missing.to_owned())),
                "{policy}: {all:?}"
            );
        }
    }

    #[test]
    fn what_is_allowed_in_another_way_is_not_blocked() {
        for policy in [
            "script-src 'nonce-a' 'strict-dynamic'",
            "script-src https://embed.released.so/1/embed.js",
            "script-src embed.released.so:443",
            "script-src https:",
            "frame-src https://acme.releasedhub.com",
            "connect-src https://app.example.com https://*.released.so:*",
            "style-src 'unsafe-inline' https:",
        ] {
            assert_eq!(blocked(policy, Some("a")), [], "{policy}");
        }
    }

    #[test]
    fn sources_match_as_in_a_browser() {
        let released = "https://embed.released.so/1/embed.js";
        let copy = "http://127.0.0.1:9000/1/embed.js";
        for (page, script, source, is_allowed) in [
            // A source with http also allows https.
            ("https://a.example/", released, "http:", true),
            (
                "https://a.example/",
                released,
                "http://embed.released.so",
                true,
            ),
            (
                "https://a.example/",
                released,
                "http://*.released.so:80",
                true,
            ),
            (
                "https://a.example/",
                released,
                "HTTPS://EMBED.released.so",
                true,
            ),
            ("https://a.example/", released, "https://*", true),
            ("https://a.example/", released, "*:*", true),
            ("https://a.example/", released, "*:8443", false),
            (
                "https://a.example/",
                released,
                "https://embed.released.so:8443",
                false,
            ),
            (
                "https://a.example/",
                released,
                "wss://embed.released.so",
                false,
            ),
            ("https://a.example/", released, "data:", false),
            (
                "https://a.example/",
                released,
                "embed.released.so.evil.example",
                false,
            ),
            (
                "https://a.example/",
                released,
                "https://*.embed.released.so",
                false,
            ),
            // A path counts, because this script is asked for without a redirect.
            (
                "https://a.example/",
                released,
                "https://embed.released.so/",
                true,
            ),
            (
                "https://a.example/",
                released,
                "https://embed.released.so/1/",
                true,
            ),
            (
                "https://a.example/",
                released,
                "https://embed.released.so/1",
                false,
            ),
            (
                "https://a.example/",
                released,
                "https://embed.released.so/1a2b/embed.js",
                false,
            ),
            // A copy at a port of its own.
            (
                "http://127.0.0.1:3000/",
                copy,
                "http://127.0.0.1:9000",
                true,
            ),
            ("http://127.0.0.1:3000/", copy, "http://127.0.0.1:*", true),
            ("http://127.0.0.1:3000/", copy, "127.0.0.1:9000", true),
            ("http://127.0.0.1:3000/", copy, "127.0.0.1:*/1/", true),
            ("http://127.0.0.1:3000/", copy, "*", true),
            ("http://127.0.0.1:3000/", copy, "https:", false),
            ("http://127.0.0.1:3000/", copy, "http://127.0.0.1", false),
            ("http://127.0.0.1:3000/", copy, "'self'", false),
            ("http://127.0.0.1:9000/", copy, "'self'", true),
            (
                "https://a.example/",
                "https://a.example/1/embed.js",
                "'SELF'",
                true,
            ),
        ] {
            let (page, url) = (
                Url::parse(page).expect("a URL"),
                Url::parse(script).expect("a URL"),
            );
            let needs = Needs {
                sources: &csp::strict(),
                page: &page,
                script: Some(EmbedScript {
                    url,
                    nonce: None,
                    integrity: None,
                }),
                asks_itself: false,
            };
            let blocked = needs.blocked_by(&format!("script-src {source}"));
            assert_eq!(blocked.is_empty(), is_allowed, "{source} for {script}");
        }
        // The same for what is needed besides the script.
        for source in [
            "http:",
            "http://*.released.so http://*.releasedhub.com 'self'",
        ] {
            assert_eq!(blocked(&format!("connect-src 'self' {source}"), None), []);
            assert_eq!(blocked(&format!("frame-src {source}"), None), []);
        }
    }

    #[test]
    fn a_script_may_be_allowed_by_its_hash() {
        let page = Url::parse("https://app.example.com/").expect("a URL");
        for (integrity, policy, is_allowed) in [
            ("sha384-ab+/", "script-src 'sha384-ab+/'", true),
            (
                "sha384-ab+/",
                "script-src 'strict-dynamic' 'sha384-ab+/'",
                true,
            ),
            (
                "sha384-ab+/ sha256-cd",
                "script-src 'SHA384-ab+/' 'sha256-cd'",
                true,
            ),
            (
                "sha384-ab+/",
                "script-src 'strict-dynamic' 'sha384-AB+/'",
                false,
            ),
            ("sha384-ab+/ sha256-cd", "script-src 'sha256-cd'", false),
            ("", "script-src 'strict-dynamic' 'sha256-cd'", false),
        ] {
            let needs = Needs {
                sources: &csp::strict(),
                page: &page,
                script: Some(EmbedScript {
                    url: Url::parse("https://embed.released.so/1a2b/embed.js").expect("a URL"),
                    nonce: None,
                    integrity: Some(integrity.to_owned()),
                }),
                asks_itself: false,
            };
            assert_eq!(
                needs.blocked_by(policy).is_empty(),
                is_allowed,
                "{integrity} {policy}"
            );
        }
    }

    #[test]
    fn a_nonce_switches_inline_styles_off() {
        let policy = "style-src 'unsafe-inline' https: 'nonce-a'";
        assert!(blocked(policy, None).contains(&("style-src", String::new())));
    }
}
