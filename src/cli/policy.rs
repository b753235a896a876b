//! What a page's Content-Security-Policies block of an embed.

use std::borrow::Cow;

use url::Url;

use crate::embed::csp::{Sources, may_be_a_hub};
use crate::embed::policy::{Kind, Policy, covers};

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
    /// The script's URL, and the nonce of its tag.
    pub(crate) script: Option<(Url, Option<String>)>,
    /// Whether the browser asks the page's own origin for a token.
    pub(crate) asks_itself: bool,
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
            let allows_a_hub = sources.iter().any(|source| may_be_a_hub(source));
            return if allows_a_hub {
                None
            } else {
                blocked(Vec::new())
            };
        }
        if kind == Kind::Script {
            let nonce = self.script.as_ref().and_then(|(_, nonce)| nonce.as_ref());
            let has_nonce = nonce.is_some_and(|nonce| {
                let source = format!("'nonce-{nonce}'");
                sources.iter().any(|allowed| *allowed == source)
            });
            if has_nonce {
                return None;
            }
            if has_keyword(sources, "'strict-dynamic'") {
                return blocked(Vec::new());
            }
        }
        let missing: Vec<String> = needed
            .into_iter()
            .filter(|source| !self.allows(sources, source))
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
            (Kind::Script, Some((script, _))) => {
                needed = vec![script.origin().ascii_serialization()];
            }
            (Kind::Connect, _) if self.asks_itself => needed.push("'self'".to_owned()),
            _ => {}
        }
        needed
    }

    fn allows(&self, sources: &[Cow<'_, str>], needed: &str) -> bool {
        let own = self.page.origin().ascii_serialization();
        sources.iter().any(|allowed| {
            let is_own = allowed.eq_ignore_ascii_case("'self'");
            if needed == "'self'" {
                return is_own || covers(allowed, &own);
            }
            is_own && own == needed || covers(without_path(allowed), needed)
        })
    }
}

/// Removes the path and the standard port, which change nothing for what is needed here.
fn without_path(source: &str) -> &str {
    let start = source.find("://").map_or(0, |at| at + 3);
    let end = source[start..]
        .find('/')
        .map_or(source.len(), |at| start + at);
    let origin = &source[..end];
    let origin = origin.strip_suffix(":443").unwrap_or(origin);
    origin.strip_suffix(":*").unwrap_or(origin)
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
            script: Some((script, nonce.map(str::to_owned))),
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
    fn a_nonce_switches_inline_styles_off() {
        let policy = "style-src 'unsafe-inline' https: 'nonce-a'";
        assert!(blocked(policy, None).contains(&("style-src", String::new())));
    }
}
