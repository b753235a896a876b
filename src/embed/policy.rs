//! One Content-Security-Policy: what it says about each kind of request, and how sources are merged into it.

use std::borrow::Cow;
use std::fmt;

/// The kinds of requests that an embed makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Frame,
    Connect,
    Script,
    Style,
    StyleAttribute,
    Image,
    Font,
    Media,
}

impl Kind {
    /// In the order in which directives are added.
    pub(crate) const ALL: [Self; 8] = [
        Self::Frame,
        Self::Connect,
        Self::Script,
        Self::Style,
        Self::StyleAttribute,
        Self::Image,
        Self::Font,
        Self::Media,
    ];

    /// Returns the directives that apply, most specific first (CSP Level 3, section 6.8.3).
    pub(crate) fn directives(self) -> &'static [&'static str] {
        match self {
            Self::Frame => &["frame-src", "child-src", "default-src"],
            Self::Connect => &["connect-src", "default-src"],
            Self::Script => &["script-src-elem", "script-src", "default-src"],
            Self::Style => &["style-src-elem", "style-src", "default-src"],
            Self::StyleAttribute => &["style-src-attr", "style-src", "default-src"],
            Self::Image => &["img-src", "default-src"],
            Self::Font => &["font-src", "default-src"],
            Self::Media => &["media-src", "default-src"],
        }
    }

    /// Returns the directive that is added where only a wider one applies.
    fn added(self) -> &'static str {
        match self {
            Self::Script => "script-src",
            Self::Style | Self::StyleAttribute => "style-src",
            other => other.directives()[0],
        }
    }
}

/// A parsed policy.
pub(crate) struct Policy<'a> {
    directives: Vec<Directive<'a>>,
}

struct Directive<'a> {
    /// In lower case. Empty if browsers ignore the directive.
    name: Cow<'a, str>,
    sources: Vec<Cow<'a, str>>,
    /// As it was written, unless it was changed.
    text: Option<&'a str>,
}

impl<'a> Policy<'a> {
    pub(crate) fn parse(policy: &'a str) -> Self {
        let directives = policy.split(';').filter_map(|text| {
            let text = text.trim_matches(|character: char| character.is_ascii_whitespace());
            let mut words = text.split_ascii_whitespace();
            let name = words.next()?.to_ascii_lowercase();
            Some(Directive {
                // Browsers ignore a directive that is not ASCII, and enforce the others (CSP Level 3, section 2.2.1).
                name: Cow::Owned(if text.is_ascii() { name } else { String::new() }),
                sources: words.map(Cow::Borrowed).collect(),
                text: Some(text),
            })
        });
        Self {
            directives: directives.collect(),
        }
    }

    /// Returns the sources that are allowed for a kind of request. `None` means that all are allowed.
    pub(crate) fn sources(&self, kind: Kind) -> Option<&[Cow<'a, str>]> {
        let governing = self.governing(kind)?;
        Some(&self.directives[governing].sources)
    }

    /// Adds the missing ones of these sources to the directive that applies to a kind of request.
    pub(crate) fn allow(&mut self, kind: Kind, needed: &'a [String]) {
        // Without a directive, everything is allowed.
        let Some(governing) = self.governing(kind) else {
            return;
        };
        let sources = &self.directives[governing].sources;
        let missing: Vec<_> = needed
            .iter()
            .filter(|source| !sources.iter().any(|allowed| covers(allowed, source)))
            .map(|source| Cow::Borrowed(source.as_str()))
            .collect();
        if missing.is_empty() {
            return;
        }
        let mut sources = sources.clone();
        sources.retain(|source| !source.eq_ignore_ascii_case("'none'"));
        sources.extend(missing);

        // A directive for several kinds of requests stays as it is, and a more specific one is added.
        let name = &self.directives[governing].name;
        let is_wider = matches!(name.as_ref(), "default-src" | "child-src");
        let name = if is_wider {
            Cow::Borrowed(kind.added())
        } else {
            name.clone()
        };
        if name == "script-src" {
            self.keep_workers(governing);
        }
        let changed = Directive {
            name,
            sources,
            text: None,
        };
        if is_wider {
            self.directives.push(changed);
        } else {
            self.directives[governing] = changed;
        }
    }

    fn governing(&self, kind: Kind) -> Option<usize> {
        kind.directives()
            .iter()
            .find_map(|name| self.position(name))
    }

    /// Browsers apply the first of several directives with one name.
    pub(crate) fn position(&self, name: &str) -> Option<usize> {
        self.directives
            .iter()
            .position(|directive| directive.name == name)
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
                name: Cow::Borrowed("worker-src"),
                sources,
                text: None,
            });
        }
    }
}

impl fmt::Display for Policy<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, directive) in self.directives.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            if let Some(text) = directive.text {
                f.write_str(text)?;
            } else {
                f.write_str(&directive.name)?;
                for source in &directive.sources {
                    write!(f, " {source}")?;
                }
            }
        }
        Ok(())
    }
}

/// Returns whether a source that is allowed covers the one that is needed: the same source, a wildcard or a scheme.
pub(crate) fn covers(allowed: &str, needed: &str) -> bool {
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
