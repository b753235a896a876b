//! What a page's HTML says of Released's embed.

use std::collections::BTreeMap;

use html5gum::emitters::default::DefaultEmitter;
use html5gum::{HtmlString, Spanned, Token, Tokenizer};
use url::Url;

use crate::embed::id_attribute;

/// Released's elements that take a token.
const ELEMENTS: [&str; 4] = [
    "released-page",
    "released-widget",
    "released-form",
    "released-badge",
];

/// The tags of a page that matter here.
#[derive(Debug, Default)]
pub(crate) struct Html {
    pub(crate) scripts: Vec<Script>,
    pub(crate) elements: Vec<Element>,
    /// The policies of `<meta>` elements.
    pub(crate) policies: Vec<String>,
    pub(crate) has_password_field: bool,
    /// The `href` of the first `<base>` that has one.
    base: Option<String>,
}

/// A script with a URL.
#[derive(Debug)]
pub(crate) struct Script {
    pub(crate) src: String,
    pub(crate) nonce: Option<String>,
    pub(crate) integrity: Option<String>,
    /// Whether a browser runs it. Consent managers change the type, so that it does not.
    pub(crate) is_run: bool,
}

/// One of Released's elements. It has no `Debug`, because it holds a token.
pub(crate) struct Element {
    pub(crate) name: &'static str,
    /// The channel's id, or the form's.
    pub(crate) id: Option<String>,
    pub(crate) token: Option<String>,
    /// The value of `data-released-auth`.
    pub(crate) endpoint: Option<String>,
}

impl std::fmt::Debug for Element {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Element")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Html {
    /// Reads the tags as a browser with scripts does: those in comments, scripts, `<noscript>` and `<template>` are none.
    pub(crate) fn parse(body: &[u8]) -> Self {
        let mut html = Self::default();
        let mut emitter = DefaultEmitter::default();
        emitter.naively_switch_states(true);
        // For each open template, whether a browser shows its content.
        let mut templates: Vec<bool> = Vec::new();
        // How many of them it does not show.
        let mut hidden = 0_usize;
        for token in Tokenizer::new_with_emitter(body, emitter) {
            let Ok(token) = token;
            match token {
                Token::StartTag(tag) if tag.name.as_slice() == b"template" => {
                    let is_shown = attribute(&tag.attributes, "shadowrootmode").is_some();
                    hidden += usize::from(!is_shown);
                    templates.push(is_shown);
                }
                Token::EndTag(tag) if tag.name.as_slice() == b"template" => {
                    hidden -= usize::from(templates.pop() == Some(false));
                }
                Token::StartTag(tag) if hidden == 0 => {
                    html.add(&tag.name, &tag.attributes);
                }
                _ => {}
            }
        }
        html
    }

    /// Returns the URL that the page's own URLs are relative to.
    pub(crate) fn base(&self, page: &Url) -> Url {
        let base = self.base.as_ref().and_then(|base| page.join(base).ok());
        base.filter(|base| matches!(base.scheme(), "http" | "https"))
            .unwrap_or_else(|| page.clone())
    }

    fn add(&mut self, name: &[u8], attributes: &Attributes) {
        let get = |name| attribute(attributes, name);
        let is = |name, value| {
            get(name).is_some_and(|text: String| text.trim().eq_ignore_ascii_case(value))
        };
        match name {
            b"script" => {
                if let Some(src) = get("src") {
                    self.scripts.push(Script {
                        src,
                        nonce: get("nonce"),
                        integrity: get("integrity"),
                        is_run: get("type").is_none_or(|kind| is_javascript(&kind)),
                    });
                }
            }
            b"base" if self.base.is_none() => self.base = get("href"),
            b"meta" if is("http-equiv", "content-security-policy") => {
                self.policies.extend(get("content"));
            }
            b"input" if is("type", "password") => self.has_password_field = true,
            _ => {
                let known = ELEMENTS.iter().find(|known| known.as_bytes() == name);
                self.elements.extend(known.map(|name| Element {
                    name,
                    id: get(id_attribute(name)),
                    token: get("auth-token"),
                    endpoint: get("data-released-auth"),
                }));
            }
        }
    }
}

type Attributes = BTreeMap<HtmlString, Spanned<HtmlString, ()>>;

fn attribute(attributes: &Attributes, name: &str) -> Option<String> {
    let value = attributes.get(name.as_bytes())?;
    Some(String::from_utf8_lossy(value).into_owned())
}

fn is_javascript(kind: &str) -> bool {
    let kind = kind.trim().to_ascii_lowercase();
    kind.is_empty()
        || kind == "module"
        || kind.contains("javascript")
        || kind.contains("ecmascript")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_browser_takes_for_an_element_is_one() {
        let html = Html::parse(
            br#"<!doctype html><META http-equiv=content-security-policy content="frame-src 'none'">
            <script>"<released-page auth-token=a>"</script><!-- <released-page auth-token=b> -->
            <noscript><released-page auth-token=c></noscript>
            <template><p><released-page auth-token=d></released-page></template>
            <textarea><released-page auth-token=e></textarea>
            <script nonce=n SRC="https://embed.released.so/1/embed.js?a&amp;b"></script>
            <script type="text/plain" src="/later.js"></script>
            <Released-Page channel-id='c1' auth-token="t&amp;k"></released-page>
            <div><released-form form-id=f1 data-released-auth=/api/token></released-form></div>
            <input type=Password>"#,
        );
        assert_eq!(html.policies, ["frame-src 'none'"]);
        assert_eq!(html.scripts.len(), 2);
        assert_eq!(
            html.scripts[0].src,
            "https://embed.released.so/1/embed.js?a&b"
        );
        assert_eq!(html.scripts[0].nonce.as_deref(), Some("n"));
        assert!(html.scripts[0].is_run && !html.scripts[1].is_run);
        let elements: Vec<_> = html
            .elements
            .iter()
            .map(|element| {
                (
                    element.name,
                    element.id.as_deref(),
                    element.token.as_deref(),
                    element.endpoint.as_deref(),
                )
            })
            .collect();
        assert_eq!(
            elements,
            [
                ("released-page", Some("c1"), Some("t&k"), None),
                ("released-form", Some("f1"), None, Some("/api/token")),
            ]
        );
        assert!(html.has_password_field);
        assert!(!format!("{html:?}").contains("t&k"));
    }

    #[test]
    fn a_tag_costs_the_same_in_however_many_templates_it_is() {
        let depth = 100_000;
        let open = "<template shadowrootmode=open>".repeat(depth);
        let page = format!("{open}{}<released-page>", "<p>".repeat(depth));
        let start = std::time::Instant::now();
        assert_eq!(Html::parse(page.as_bytes()).elements.len(), 1);
        assert!(start.elapsed().as_secs() < 10, "{:?}", start.elapsed());
        let page = format!("{open}<template><released-page></template><released-page>");
        assert_eq!(Html::parse(page.as_bytes()).elements.len(), 1);
    }

    #[test]
    fn bytes_that_are_no_html_are_no_reason_to_fail() {
        for body in [
            &b""[..],
            b"\xff\xfe<",
            b"</template><released-page",
            b"<released-page auth-token",
        ] {
            assert!(Html::parse(body).elements.is_empty());
        }
    }
}
