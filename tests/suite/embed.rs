//! Elements, policies and the script, as a browser would read them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt;
use proptest::prelude::*;
use scraper::Html;
use tower::{BoxError, ServiceBuilder, ServiceExt};
use tower_released::embed::csp::{self, CspLayer, Sources};
use tower_released::embed::{
    self, Anchor, ColorScheme, InvalidAttribute, InvalidScript, Locale, Modules, Position,
    token_script,
};
use tower_released::middleware::CacheControl;
use tower_released::testing::StubMinter;
use tower_released::{AuthToken, ReleasedTokenLayer};

use crate::support::{by_header, request_from_ada};

/// The one element of a fragment, by an HTML parser: its name and its attributes.
fn parsed(html: &str) -> (String, BTreeMap<String, String>) {
    let document = Html::parse_fragment(html);
    let elements: Vec<_> = document
        .root_element()
        .descendent_elements()
        .skip(1)
        .collect();
    assert_eq!(elements.len(), 1, "{html}");
    assert_eq!(
        document.root_element().text().collect::<String>(),
        "",
        "{html}"
    );
    let element = elements[0].value();
    let attributes = element
        .attrs()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    (element.name().to_owned(), attributes)
}

fn token() -> AuthToken {
    AuthToken::new("eyJ.e30.c2ln").unwrap()
}

fn pairs(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

#[test]
fn every_documented_attribute_can_be_set() {
    let page = embed::page("c1")
        .modules(Modules::All)
        .header(false)
        .cover_images(true)
        .title("News")
        .sub_title("and plans")
        .changelog_category("api")
        .color_scheme(ColorScheme::Dark)
        .color_primary("#0d74ce")
        .top_offset(64)
        .z_index(-1)
        .locale(Locale::German)
        .refresh(Duration::from_secs(90))
        .token(&token());
    let common = [
        ("channel-id", "c1"),
        ("title", "News"),
        ("sub-title", "and plans"),
        ("auth-token", "eyJ.e30.c2ln"),
    ];
    let mut expected = pairs(&common);
    expected.extend(pairs(&[
        ("modules", "all"),
        ("header", "false"),
        ("cover-images", "true"),
        ("changelog-category", "api"),
        ("color-scheme", "dark"),
        ("color-primary", "#0d74ce"),
        ("top-offset", "64"),
        ("z-index", "-1"),
        ("locale", "de"),
        ("refresh", "90s"),
    ]));
    assert_eq!(
        parsed(&page.to_string()),
        ("released-page".to_owned(), expected)
    );
    assert_eq!(
        parsed(
            &embed::page("c1")
                .top_offset(9)
                .no_sticky_titles()
                .to_string()
        )
        .1["top-offset"],
        "false"
    );

    let widget = embed::widget("c1")
        .modules(Modules::Changelog)
        .title("News")
        .sub_title("and plans")
        .position(Position::BottomLeft)
        .anchor(Anchor::Viewport)
        .trigger("#news > a")
        .boost(true)
        .badge(false)
        .changelog_category("api")
        .color_scheme(ColorScheme::Light)
        .color_primary("red")
        .color_secondary("blue")
        .z_index(9)
        .locale(Locale::Chinese)
        .refresh(Duration::ZERO)
        .data("plan", "pro")
        .unwrap()
        .token(&token());
    let mut expected = pairs(&common);
    expected.extend(pairs(&[
        ("modules", "changelog"),
        ("position", "bottom-left"),
        ("anchor", "viewport"),
        ("trigger", "#news > a"),
        ("boost", "true"),
        ("badge", "false"),
        ("changelog-category", "api"),
        ("color-scheme", "light"),
        ("color-primary", "red"),
        ("color-secondary", "blue"),
        ("z-index", "9"),
        ("locale", "zh"),
        ("refresh", "1s"),
        ("data-plan", "pro"),
    ]));
    assert_eq!(
        parsed(&widget.to_string()),
        ("released-widget".to_owned(), expected)
    );

    let form = embed::form("f1")
        .title("Ideas")
        .sub_title("for us")
        .placeholder("What do you miss?")
        .position(Position::TopRight)
        .dialog(true)
        .color_scheme(ColorScheme::System)
        .locale(Locale::Dutch)
        .data("page", "/pricing")
        .unwrap()
        .token_from("/api/released-token");
    let expected = pairs(&[
        ("form-id", "f1"),
        ("title", "Ideas"),
        ("sub-title", "for us"),
        ("placeholder", "What do you miss?"),
        ("position", "top-right"),
        ("dialog", "true"),
        ("color-scheme", "system"),
        ("locale", "nl"),
        ("data-page", "/pricing"),
        ("data-released-auth", "/api/released-token"),
    ]);
    assert_eq!(
        parsed(&form.to_string()),
        ("released-form".to_owned(), expected)
    );

    let badge = embed::badge("c1").maybe_token(None);
    assert_eq!(
        parsed(&badge.to_string()),
        ("released-badge".to_owned(), pairs(&[("channel-id", "c1")]))
    );
    assert!(!format!("{:?}", embed::badge("c1").token(&token())).contains("eyJ"));
}

#[test]
fn data_attributes_have_names_that_a_parser_leaves_alone() {
    for bad in ["", "a b", "onload=x", "Plan", "plan\"", "ä"] {
        assert_eq!(
            embed::widget("c1").data(bad, "x"),
            Err(InvalidAttribute::Name),
            "{bad:?}"
        );
    }
    for own in ["released-auth", "on-click"] {
        assert!(embed::form("f1").data(own, "x").is_err(), "{own:?}");
    }
}

/// Names that a browser, a parser or a script library would read as something else, and why each is refused.
const BAD_NAMES: &[(&str, InvalidAttribute)] = &[
    ("", InvalidAttribute::Name),
    (" ", InvalidAttribute::Name),
    ("a b", InvalidAttribute::Name),
    ("a\tonclick", InvalidAttribute::Name),
    ("a\nb", InvalidAttribute::Name),
    ("a\u{c}b", InvalidAttribute::Name),
    ("a\0", InvalidAttribute::Name),
    ("a>", InvalidAttribute::Name),
    ("a/", InvalidAttribute::Name),
    ("a/onclick", InvalidAttribute::Name),
    ("a=\"x\" onclick", InvalidAttribute::Name),
    ("a=", InvalidAttribute::Name),
    ("a\"", InvalidAttribute::Name),
    ("a'", InvalidAttribute::Name),
    ("a<b", InvalidAttribute::Name),
    ("=", InvalidAttribute::Name),
    ("1a", InvalidAttribute::Name),
    ("-a", InvalidAttribute::Name),
    ("_", InvalidAttribute::Name),
    (":class", InvalidAttribute::Name),
    ("data-", InvalidAttribute::Name),
    ("ä", InvalidAttribute::Name),
    ("dat\u{430}", InvalidAttribute::Name),
    ("\u{fffe}", InvalidAttribute::Name),
    ("Title", InvalidAttribute::Name),
    ("AUTH-TOKEN", InvalidAttribute::Name),
    ("onClick", InvalidAttribute::Name),
    ("@click", InvalidAttribute::Name),
    ("(click)", InvalidAttribute::Name),
    ("[class]", InvalidAttribute::Name),
    ("onclick", InvalidAttribute::EventHandler),
    ("onload", InvalidAttribute::EventHandler),
    ("on", InvalidAttribute::EventHandler),
    ("onfuture", InvalidAttribute::EventHandler),
    ("on:click", InvalidAttribute::EventHandler),
    ("on-click", InvalidAttribute::EventHandler),
    ("hx-on:click", InvalidAttribute::EventHandler),
    ("hx-on--after-request", InvalidAttribute::EventHandler),
    ("x-on:click.once", InvalidAttribute::EventHandler),
    ("v-on:click", InvalidAttribute::EventHandler),
    ("data-on-click", InvalidAttribute::EventHandler),
    ("data-hx-on", InvalidAttribute::EventHandler),
];

const GOOD_NAMES: &[&str] = &[
    "id",
    "class",
    "style",
    "hidden",
    "lang",
    "data-preconnect",
    "data-plan",
    "data-controller",
    "data-only",
    "aria-label",
    "wire:ignore",
    "x",
    "a1",
    "v2_5.x",
    "future-attribute",
];

#[test]
fn an_attribute_of_the_pages_own_has_a_name_that_runs_nothing_and_is_not_the_builders() {
    for (name, why) in BAD_NAMES {
        assert_eq!(
            embed::page("c1").attribute(name, "x"),
            Err(*why),
            "{name:?}"
        );
        assert_eq!(
            embed::script().attribute(name, "x"),
            Err(InvalidScript::Attribute(*why)),
            "{name:?}"
        );
        let inline = embed::token_script_inline("abc").unwrap();
        assert_eq!(
            inline.attribute(name, "x"),
            Err(InvalidScript::Attribute(*why)),
            "{name:?}"
        );
    }
    for own in ["auth-token", "channel-id", "form-id", "data-released-auth"] {
        let refused = Err(InvalidAttribute::Reserved);
        assert_eq!(
            embed::page("c1").attribute(own, "x").map(drop),
            refused,
            "{own}"
        );
        assert_eq!(
            embed::widget("c1").attribute(own, "x").map(drop),
            refused,
            "{own}"
        );
        assert_eq!(
            embed::form("f1").attribute(own, "x").map(drop),
            refused,
            "{own}"
        );
        assert_eq!(
            embed::badge("c1").attribute(own, "x").map(drop),
            refused,
            "{own}"
        );
    }
    for own in ["src", "defer", "integrity", "crossorigin", "nonce"] {
        let refused = Err(InvalidScript::Attribute(InvalidAttribute::Reserved));
        assert_eq!(embed::script().attribute(own, "x"), refused, "{own}");
        let tag = embed::token_script_tag("/t.js").attribute(own, "x");
        assert_eq!(tag, refused, "{own}");
        let inline = embed::token_script_inline("abc").unwrap();
        let refused = Err(InvalidScript::Attribute(InvalidAttribute::Reserved));
        assert_eq!(inline.attribute(own, "x"), refused, "{own}");
    }

    let value = "\"><script>alert(1)</script>&amp;";
    for name in GOOD_NAMES {
        let page = embed::page("c1").attribute(name, value).unwrap();
        let expected = pairs(&[("channel-id", "c1"), (name, value)]);
        assert_eq!(
            parsed(&page.to_string()),
            ("released-page".to_owned(), expected)
        );
        let script = embed::script().attribute(name, value).unwrap();
        assert_eq!(parsed(&script.to_string()).1[*name], value, "{name}");
        let tag = embed::token_script_tag("/t.js").attribute(name, value);
        assert_eq!(parsed(&tag.unwrap().to_string()).1[*name], value, "{name}");

        let inline = embed::token_script_inline("abc").unwrap().to_string();
        let (_, script) = inline.split_once('>').unwrap();
        let inline = embed::token_script_inline("abc").unwrap();
        let inline = inline.attribute(name, value).unwrap().to_string();
        // Its start tag alone, because what is in the element is text.
        let tag = inline.strip_suffix(script).unwrap();
        let expected = pairs(&[("nonce", "abc"), (name, value)]);
        assert_eq!(parsed(&format!("{tag}</script>")).1, expected);
    }
}

#[test]
fn a_later_value_replaces_an_earlier_one_in_its_place() {
    // A locale that this version does not know.
    let page = embed::page("c1")
        .locale(Locale::German)
        .attribute("locale", "ja")
        .unwrap()
        .attribute("id", "one")
        .unwrap()
        .attribute("id", "two")
        .unwrap();
    assert_eq!(
        page.to_string(),
        r#"<released-page channel-id="c1" locale="ja" id="two"></released-page>"#
    );
    let page = page.locale(Locale::English).to_string();
    assert_eq!(page.matches("locale=").count(), 1, "{page}");
    assert!(page.contains(r#"locale="en""#), "{page}");
}

#[test]
fn a_script_tag_takes_only_what_it_knows() {
    let integrity = "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
    let pinned = embed::script()
        .pinned("9f86d081")
        .unwrap()
        .integrity(integrity)
        .unwrap()
        .nonce("abc")
        .unwrap();
    let expected = pairs(&[
        ("src", "https://embed.released.so/9f86d081/embed.js"),
        ("defer", ""),
        ("integrity", integrity),
        ("crossorigin", "anonymous"),
        ("nonce", "abc"),
    ]);
    assert_eq!(parsed(&pinned.to_string()), ("script".to_owned(), expected));
    let without_integrity = embed::script().pinned("9f86d081").unwrap().to_string();
    let expected = pairs(&[
        ("src", "https://embed.released.so/9f86d081/embed.js"),
        ("defer", ""),
    ]);
    assert_eq!(parsed(&without_integrity).1, expected);
    for bad in ["", "../evil", "a b", "a\"b", "a?b", "a#b", "ä"] {
        assert!(embed::script().pinned(bad).is_err(), "{bad:?}");
    }
    for bad in ["", "md5-abc", "sha256-", "sha256-a b", "sha384-\"><b>"] {
        assert!(embed::script().integrity(bad).is_err(), "{bad:?}");
    }
    for bad in ["", "=", "a b", "abc===", "\"><script>"] {
        assert!(embed::script().nonce(bad).is_err(), "{bad:?}");
        assert!(embed::token_script_inline(bad).is_err(), "{bad:?}");
    }
    let inline = embed::token_script_inline("r4nd-0m_==")
        .unwrap()
        .to_string();
    assert!(
        inline.starts_with("<script nonce=\"r4nd-0m_==\">")
            && inline.matches("</script").count() == 1
    );
}

proptest! {
    /// However hostile a value is, a parser finds one element, with this value in this attribute.
    #[test]
    fn no_value_changes_what_a_parser_finds(values in prop::array::uniform5(hostile()), endpoint in hostile()) {
        let [id, title, color, trigger, data] = values;
        let widget = embed::widget(&id).title(&title).color_primary(&color).trigger(&trigger).data("x", &data).unwrap();
        let (name, attributes) = parsed(&widget.token_from(&endpoint).to_string());
        prop_assert_eq!(name, "released-widget");
        // A parser replaces what HTML cannot carry.
        let carried = |value: &String| value.replace('\0', "\u{fffd}");
        let expected = [
            ("channel-id", id), ("title", title), ("color-primary", color), ("trigger", trigger), ("data-x", data),
            ("data-released-auth", endpoint),
        ];
        let expected = expected.into_iter().map(|(name, value)| (name.to_owned(), carried(&value))).collect();
        prop_assert_eq!(attributes, expected);
    }

    #[test]
    fn no_source_of_a_script_changes_what_a_parser_finds(url in hostile()) {
        let (name, attributes) = parsed(&embed::script().src(&url).to_string());
        prop_assert_eq!(name, "script");
        prop_assert_eq!(&attributes["src"], &url.replace('\0', "\u{fffd}"));
        prop_assert_eq!(attributes.len(), 2);
    }

    /// Whatever the name and the value are: an error, or a parser finds this one attribute more.
    #[test]
    fn no_attribute_of_the_pages_own_changes_what_a_parser_finds(name in any_name(), value in hostile()) {
        let carried = value.replace('\0', "\u{fffd}");
        if let Ok(page) = embed::page("c1").attribute(&name, &value) {
            let (element, attributes) = parsed(&page.to_string());
            prop_assert_eq!(element, "released-page");
            prop_assert_eq!(attributes, pairs(&[("channel-id", "c1"), (&name, &carried)]));
        }
        if let Ok(script) = embed::script().attribute(&name, &value) {
            let (element, mut attributes) = parsed(&script.to_string());
            prop_assert_eq!(element, "script");
            prop_assert_eq!(attributes.remove(&name), Some(carried));
            prop_assert_eq!(attributes, pairs(&[("src", "https://embed.released.so/1/embed.js"), ("defer", "")]));
        }
    }
}

fn any_name() -> impl Strategy<Value = String> {
    prop_oneof![
        hostile(),
        "[a-z][a-z0-9:._-]{0,12}",
        "(data-|aria-|on|x-)?[a-zA-Z\"'<>=/ \t\n@:-]{0,8}",
        prop::sample::select(BAD_NAMES).prop_map(|(name, _)| name.to_owned()),
        prop::sample::select(GOOD_NAMES).prop_map(str::to_owned),
    ]
}

fn hostile() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[\"'<>&=/ \r\n\t\0`;-]{0,12}",
        Just("\"><script>alert(1)</script>".to_owned()),
        Just("&quot;&#34;&amp;amp;&lt".to_owned()),
        Just("--></style></textarea><img onerror=x>".to_owned()),
    ]
}

#[cfg(all(feature = "askama", feature = "maud", feature = "minijinja"))]
#[test]
fn attributes_and_links_are_safe_values_of_template_engines() {
    fn askama(value: impl askama::filters::HtmlSafe) -> String {
        value.to_string()
    }
    let minijinja = |value: minijinja::Value| {
        let mut engine = minijinja::Environment::new();
        engine.add_template("page.html", "{{ it }}").unwrap();
        let page = engine.get_template("page.html").unwrap();
        page.render(minijinja::context! { it => value }).unwrap()
    };

    let page = embed::page("c1").attribute("title", "\"<&").unwrap();
    let expected = page.to_string();
    assert_eq!(parsed(&expected).1["title"], "\"<&");
    assert_eq!(maud::html! { (page) }.into_string(), expected);
    assert_eq!(minijinja(page.clone().into()), expected);
    assert_eq!(askama(page), expected);

    let links = embed::preconnect("acme.releasedhub.com").unwrap();
    let expected = links.to_string();
    assert_eq!(preconnected(&expected).len(), 3);
    assert_eq!(maud::html! { (links) }.into_string(), expected);
    assert_eq!(minijinja(links.clone().into()), expected);
    assert_eq!(askama(links), expected);
}

// --- policies ---

/// Which directives govern each kind of request, most specific first: CSP Level 3, section 6.8.3.
const FALLBACKS: &[&[&str]] = &[
    &["child-src", "script-src", "default-src"],
    &["connect-src", "default-src"],
    &["font-src", "default-src"],
    &["frame-src", "child-src", "default-src"],
    &["img-src", "default-src"],
    &["manifest-src", "default-src"],
    &["media-src", "default-src"],
    &["object-src", "default-src"],
    &["script-src-attr", "script-src", "default-src"],
    &["script-src-elem", "script-src", "default-src"],
    &["style-src-attr", "style-src", "default-src"],
    &["style-src-elem", "style-src", "default-src"],
    &["worker-src", "child-src", "script-src", "default-src"],
    // No fetch directives, and so without a fallback.
    &["base-uri"],
    &["form-action"],
    &["frame-ancestors"],
    &["sandbox"],
    &["report-uri"],
];

/// What governs a kind of request: `None` if everything is allowed. Without `'none'`, which is nothing.
fn effective(policy: &str, fallbacks: &[&str]) -> Option<BTreeSet<String>> {
    let directives: Vec<(String, BTreeSet<String>)> = policy
        .split(';')
        // Browsers ignore what is not ASCII.
        .filter(|directive| directive.is_ascii())
        .filter_map(|directive| {
            let mut words = directive.split_ascii_whitespace();
            let name = words.next()?.to_ascii_lowercase();
            Some((
                name,
                words
                    .filter(|word| !word.eq_ignore_ascii_case("'none'"))
                    .map(str::to_owned)
                    .collect(),
            ))
        })
        .collect();
    fallbacks.iter().find_map(|name| {
        Some(
            directives
                .iter()
                .find(|(known, _)| known == name)?
                .1
                .clone(),
        )
    })
}

/// What each kind of request needs of Released, by its most specific directive.
fn needed(kind: &str) -> &'static [&'static str] {
    match kind {
        "connect-src" => &["https://api.released.so", "https://events.released.so"],
        "script-src-elem" | "font-src" => &["https://embed.released.so"],
        "style-src-elem" => &[
            "'unsafe-inline'",
            "https://cdn.released.so",
            "https://embed.released.so",
        ],
        "style-src-attr" => &["'unsafe-inline'"],
        "img-src" => &[
            "https://cdn.released.so",
            "https://dwamxgqy3aotj.cloudfront.net",
            "https://images.example",
        ],
        "frame-src" => &[
            "https://acme.releasedhub.com",
            "https://player.example:8443",
        ],
        "media-src" => &["https://videos.example"],
        _ => &[],
    }
}

fn allows(allowed: &BTreeSet<String>, source: &str) -> bool {
    let is_host = source.starts_with("https://");
    let released = source.ends_with(".released.so");
    allowed.iter().any(|allowed| match allowed.as_str() {
        "*" | "https:" => is_host,
        "https://*.released.so" | "*.released.so" => released,
        other => other == source,
    })
}

fn sources() -> Sources {
    csp::strict()
        .hub("acme.releasedhub.com")
        .unwrap()
        .frame("https://player.example:8443")
        .unwrap()
        .image("https://images.example")
        .unwrap()
        .media("https://videos.example")
        .unwrap()
}

fn any_policy() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec![
        "default-src",
        "script-src",
        "script-src-elem",
        "script-src-attr",
        "style-src",
        "style-src-elem",
        "style-src-attr",
        "connect-src",
        "img-src",
        "font-src",
        "frame-src",
        "child-src",
        "worker-src",
        "media-src",
        "object-src",
        "base-uri",
        "frame-ancestors",
        "Script-Src",
    ]);
    let source = prop::sample::select(vec![
        "'self'",
        "'none'",
        "*",
        "https:",
        "https://cdn.example",
        "'unsafe-inline'",
        "'nonce-abc'",
        "data:",
        "https://embed.released.so",
        "https://*.released.so",
        "*.released.so",
        "'strict-dynamic'",
        "'NONE'",
        "caf\u{e9}",
    ]);
    let directive = (name, prop::collection::vec(source, 0..4))
        .prop_map(|(name, sources)| format!("{name} {}", sources.join(" ")));
    prop::collection::vec(directive, 0..7).prop_map(|directives| directives.join("; "))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// After a merge, what Released needs is allowed, what was allowed still is, and nothing else has come on top.
    #[test]
    fn a_merge_adds_what_is_needed_and_nothing_more(policy in any_policy()) {
        let merged = sources().merge_into(&policy);
        for fallbacks in FALLBACKS {
            let (before, after) = (effective(&policy, fallbacks), effective(&merged, fallbacks));
            let kind = fallbacks[0];
            let needs = needed(kind);
            let Some(before) = before else {
                prop_assert_eq!(after, None, "{} was free: {}", kind, merged);
                continue;
            };
            let after = after.unwrap();
            prop_assert!(before.is_subset(&after), "{} lost something: {}", kind, merged);
            for need in needs {
                prop_assert!(allows(&after, need), "{} does not allow {}: {}", kind, need, merged);
            }
            let trusts_scripts = before.contains("'strict-dynamic'");
            let is_inline = matches!(kind, "script-src-attr" | "style-src-attr");
            for added in after.difference(&before) {
                // Hosts mean nothing to attributes, nor where scripts are trusted to load others; and what `child-src`
                // stands for is looked at by itself, as frames and as workers.
                let is_host = added.starts_with("https:");
                let is_harmless = is_host && (is_inline || kind == "child-src" || (kind == "worker-src" && trusts_scripts));
                prop_assert!(needs.contains(&added.as_str()) || is_harmless, "{} got {}: {}", kind, added, merged);
            }
        }
    }

    #[test]
    fn a_second_merge_changes_nothing(policy in any_policy(), recommended: bool) {
        let sources = if recommended { csp::recommended() } else { sources() };
        let once = sources.merge_into(&policy);
        prop_assert_eq!(sources.merge_into(&once), once);
    }
}

#[test]
fn policies_are_merged_by_csps_own_rules() {
    let strict = csp::strict();
    for (policy, merged) in [
        // Nothing said, everything allowed.
        ("", ""),
        ("frame-ancestors 'none'", "frame-ancestors 'none'"),
        // 'none' is replaced, never mixed.
        (
            "connect-src 'none'",
            "connect-src https://api.released.so https://events.released.so",
        ),
        // What is there is not added twice, in whatever case.
        (
            "font-src HTTPS://Embed.Released.SO",
            "font-src HTTPS://Embed.Released.SO",
        ),
        ("font-src *", "font-src *"),
        ("font-src https:", "font-src https:"),
        (
            "img-src *.released.so",
            "img-src *.released.so https://dwamxgqy3aotj.cloudfront.net",
        ),
        // The more specific directive is the one that counts.
        (
            "script-src 'none'; script-src-elem 'self'",
            "script-src 'none'; script-src-elem 'self' https://embed.released.so",
        ),
        // Of two of one name the first counts.
        (
            "font-src 'self'; font-src *",
            "font-src 'self' https://embed.released.so; font-src *",
        ),
        // A directive that browsers ignore is no directive.
        (
            "font-src caf\u{e9} 'self'; FONT-SRC 'None'",
            "font-src caf\u{e9} 'self'; font-src https://embed.released.so",
        ),
        ("font-src caf\u{e9}", "font-src caf\u{e9}"),
        // What is left alone, whatever is around it.
        (
            "sandbox allow-scripts;;  ; require-trusted-types-for 'script'",
            "sandbox allow-scripts; require-trusted-types-for 'script'",
        ),
        // No policy between commas is no policy after the merge.
        (",", ", "),
        // Each of several policies is enforced.
        (
            "font-src 'self', font-src a.example",
            "font-src 'self' https://embed.released.so, font-src a.example https://embed.released.so",
        ),
    ] {
        assert_eq!(strict.merge_into(policy), merged, "{policy}");
    }
}

#[test]
fn media_images_and_frames_of_a_team_are_merged_into_their_directives() {
    let own = csp::strict()
        .image("https://images.example")
        .and_then(|own| own.media("https://videos.example"))
        .and_then(|own| own.frame("https://player.example"))
        .unwrap();
    for (policy, merged) in [
        (
            "img-src *.released.so https://dwamxgqy3aotj.cloudfront.net",
            "img-src *.released.so https://dwamxgqy3aotj.cloudfront.net https://images.example",
        ),
        (
            "media-src 'none'; frame-src *.example",
            "media-src https://videos.example; frame-src *.example",
        ),
        (
            "child-src 'self'",
            "child-src 'self'; frame-src 'self' https://player.example",
        ),
        ("media-src 'self' *", "media-src 'self' *"),
    ] {
        assert_eq!(own.merge_into(policy), merged, "{policy}");
    }
    // Without them, videos stay as they were.
    assert_eq!(
        csp::strict().merge_into("media-src 'none'"),
        "media-src 'none'"
    );
    let players = "https://www.youtube.com https://www.youtube-nocookie.com https://www.loom.com";
    assert_eq!(
        csp::strict()
            .videos()
            .videos()
            .merge_into("media-src 'self'; frame-src 'self'"),
        format!("media-src 'self' {players}; frame-src 'self' {players}")
    );
}

/// What is no host for a browser, or more than one.
const BAD_HOSTS: &[&str] = &[
    "",
    ".",
    "a b",
    "acme.releasedhub.com; script-src *",
    "a;sandbox",
    "a,b",
    "a'b",
    "'self'",
    "a.com/path",
    "a.com/",
    "a.com?x",
    "a.com#x",
    "a.com\\b",
    "u@a.com",
    "a.com\n",
    "a.com\t",
    " a.com",
    "a\0b",
    "*",
    "*.com",
    "*.a.com",
    "a.*",
    "a_b.example.com",
    "_dmarc.example.com",
    "[::1]",
    "[2001:db8::1]",
    "::1",
    "a..com",
    ".a.com",
    "a.com.",
    "b\u{fc}cher.example",
    "a%2eb",
    "a!b",
    "a$b",
    "a(b)",
    "a+b",
    "a~b",
    "a=b",
    "a&b",
    "a{b}",
    "a`b",
    "a\"b",
    "a:",
    "a:x",
    "a:*",
    "a:99999",
    "0x7f.1",
    "127.1",
];

#[test]
fn only_hosts_and_origins_are_allowed() {
    for bad in BAD_HOSTS.iter().copied().chain([
        "https://acme.releasedhub.com",
        "a.com:1",
        "a.com:443",
        "127.0.0.1",
        "10.1.2.3",
    ]) {
        assert!(csp::strict().hub(bad).is_err(), "{bad:?}");
        assert!(embed::preconnect(bad).is_err(), "{bad:?}");
    }
    let bad_origins = [
        "",
        "example.com",
        "https://example.com/",
        "https://example.com; script-src *",
        "data:x",
        "https://u@a.b",
        "https:",
        "https://",
        "*",
        "'unsafe-inline'",
        "blob:https://a.com",
        "ws://a.com",
        "wss://a.com",
        "ftp://a.com",
        "file:///a",
        "javascript:alert(1)",
        "https://a.com:443",
        "http://a.com:80",
        "HTTPS://a.com",
        "https://A.com",
        "https:a.com",
        "//a.com",
        "https://a.com https://b.com",
    ];
    let of_hosts = BAD_HOSTS.iter().map(|host| format!("https://{host}"));
    for bad in bad_origins.iter().map(ToString::to_string).chain(of_hosts) {
        assert!(csp::strict().origin(&bad).is_err(), "{bad:?}");
        assert!(csp::strict().image(&bad).is_err(), "{bad:?}");
        assert!(csp::strict().media(&bad).is_err(), "{bad:?}");
        assert!(csp::strict().frame(&bad).is_err(), "{bad:?}");
    }
    for good in [
        "https://a",
        "https://a-b.example.com",
        "https://xn--bcher-kva.example",
        "http://127.0.0.1:8080",
        "http://localhost:1",
        "https://a.com:8443",
    ] {
        let merged = csp::strict()
            .frame(good)
            .unwrap()
            .merge_into("frame-src 'none'");
        assert_eq!(merged, format!("frame-src {good}"));
    }
    // Names of hosts have no case.
    assert_eq!(
        csp::strict()
            .hub("News.Example.COM")
            .unwrap()
            .merge_into("frame-src 'none'"),
        "frame-src https://news.example.com"
    );
    let merged = csp::strict()
        .origin("http://127.0.0.1:8080")
        .unwrap()
        .merge_into("script-src 'self'");
    assert_eq!(
        merged,
        "script-src 'self' https://embed.released.so http://127.0.0.1:8080; worker-src 'self'"
    );
}

proptest! {
    /// Whatever a host or an origin is: an error, or it is one source of one directive of one policy.
    #[test]
    fn no_host_changes_more_than_its_directive(host in any_host()) {
        let one_word = |merged: String| {
            let source = merged.strip_prefix("frame-src ").unwrap();
            source.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.:/".contains(&byte))
        };
        if let Ok(sources) = csp::strict().hub(&host) {
            prop_assert!(one_word(sources.merge_into("frame-src 'none'")), "{}", host);
            let links = embed::preconnect(&*host).unwrap();
            let origin = format!("https://{}", host.to_ascii_lowercase());
            prop_assert_eq!(preconnected(&links.to_string()).pop(), Some((origin.clone(), false)));
            let header = links.header_value();
            let expected = format!(", <{origin}>; rel=preconnect");
            prop_assert!(header.to_str().unwrap().ends_with(&expected));
        }
        for origin in [format!("https://{host}"), format!("http://{host}"), host] {
            if let Ok(sources) = csp::strict().frame(&origin) {
                prop_assert!(one_word(sources.merge_into("frame-src 'none'")), "{}", origin);
            }
        }
    }
}

fn any_host() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[a-zA-Z0-9.-]{1,12}",
        "[a-z]{1,3}[;,' *_:/.@\"<>\\[\\]%a-z0-9-]{0,10}",
        prop::sample::select(BAD_HOSTS).prop_map(str::to_owned),
    ]
}

/// The origins of link tags, and whether each is for CORS, by an HTML parser.
fn preconnected(html: &str) -> Vec<(String, bool)> {
    let document = Html::parse_fragment(html);
    let elements = document.root_element().descendent_elements().skip(1);
    elements
        .map(|element| {
            let element = element.value();
            assert_eq!(element.name(), "link", "{html}");
            assert_eq!(element.attr("rel"), Some("preconnect"), "{html}");
            let is_cors = element.attr("crossorigin").is_some();
            assert_eq!(element.attrs().count(), 2 + usize::from(is_cors), "{html}");
            (element.attr("href").unwrap().to_owned(), is_cors)
        })
        .collect()
}

#[test]
fn a_browser_can_connect_to_what_an_embed_needs_first() {
    let first = [
        ("https://embed.released.so".to_owned(), false),
        ("https://api.released.so".to_owned(), true),
    ];
    let links = embed::preconnect(None).unwrap();
    assert_eq!(preconnected(&links.to_string()), first);
    assert_eq!(
        links.header_value(),
        "<https://embed.released.so>; rel=preconnect, \
         <https://api.released.so>; rel=preconnect; crossorigin"
    );

    let links = embed::preconnect("ACME.releasedhub.com").unwrap();
    let mut all = first.to_vec();
    all.push(("https://acme.releasedhub.com".to_owned(), false));
    assert_eq!(preconnected(&links.to_string()), all);
    assert_eq!(
        links.header_value(),
        "<https://embed.released.so>; rel=preconnect, \
         <https://api.released.so>; rel=preconnect; crossorigin, \
         <https://acme.releasedhub.com>; rel=preconnect"
    );
}

#[test]
fn nonces_of_both_alphabets_are_found() {
    for (policy, nonce) in [
        ("script-src 'nonce-r4nd0m'", Some("r4nd0m")),
        ("default-src 'nonce-a+/=='", Some("a+/==")),
        ("script-src 'nonce-a-_'", Some("a-_")),
        ("script-src 'NONCE-Ab'", Some("Ab")),
        (
            "script-src-elem 'nonce-one'; script-src 'nonce-two'",
            Some("one"),
        ),
        ("style-src 'nonce-style'", None),
        ("script-src 'nonce-\"><b>'", None),
        ("", None),
        (",;,", None),
        // The first policy says nothing about scripts, so the second one decides.
        ("style-src 'nonce-a', script-src 'nonce-b'", Some("b")),
        (
            "frame-ancestors 'none',, default-src 'nonce-b', script-src 'nonce-c'",
            Some("b"),
        ),
        // The first policy that restricts scripts has none.
        ("script-src 'self', script-src 'nonce-b'", None),
        ("script-src, script-src 'nonce-b'", None),
        // Of two directives of one name the first counts.
        ("script-src 'self'; script-src 'nonce-b'", None),
        ("SCRIPT-SRC 'Nonce-b'", Some("b")),
        // Browsers ignore a directive that is not ASCII.
        (
            "script-src 'nonce-a' \u{e9}; script-src 'nonce-b'",
            Some("b"),
        ),
        // What is no nonce is skipped, and so is half of one.
        ("script-src 'nonce-' 'nonce-a' 'nonce-b'", Some("a")),
        ("script-src 'nonce-a", None),
        ("script-src '\u{20ac}\u{20ac}\u{20ac}'", None),
    ] {
        assert_eq!(csp::nonce_of(policy), nonce, "{policy}");
    }
}

#[tokio::test]
async fn the_layer_merges_into_pages_with_a_token_alone() {
    async fn page(token: Option<AuthToken>) -> Response<Body> {
        let mut response = Response::new(Body::from(
            token.map_or_else(String::new, |token| token.to_string()),
        ));
        let headers = response.headers_mut();
        headers.append(
            "content-security-policy",
            HeaderValue::from_static("font-src 'self'"),
        );
        headers.append(
            "content-security-policy",
            HeaderValue::from_static("img-src *"),
        );
        headers.append(
            "content-security-policy-report-only",
            HeaderValue::from_static("font-src 'none'"),
        );
        response
    }
    for cache_control in [CacheControl::NoStore, CacheControl::Unchanged] {
        let app = Router::new()
            .route("/", get(page))
            .route_layer(
                ReleasedTokenLayer::new(StubMinter::new(), by_header())
                    .cache_control(cache_control),
            )
            .layer(CspLayer::new(csp::strict()));
        let policies = async |request: Request<Body>| {
            let response = app.clone().oneshot(request).await.unwrap();
            let all = |name| {
                response
                    .headers()
                    .get_all(name)
                    .iter()
                    .cloned()
                    .collect::<Vec<_>>()
            };
            (
                all("content-security-policy"),
                all("content-security-policy-report-only"),
            )
        };
        let (enforced, reported) = policies(request_from_ada(Body::empty())).await;
        assert_eq!(
            enforced,
            ["font-src 'self' https://embed.released.so", "img-src *"]
        );
        assert_eq!(reported, ["font-src https://embed.released.so"]);
        let (enforced, _) = policies(Request::new(Body::empty())).await;
        assert_eq!(enforced, ["font-src 'self'", "img-src *"]);
    }

    let everywhere = Router::new().route(
        "/",
        get(async || ([("content-security-policy", "connect-src 'none'")], "")),
    );
    let everywhere =
        everywhere.layer(CspLayer::new(csp::strict().token_script()).on_every_response());
    let response = everywhere
        .oneshot(Request::new(Body::empty()))
        .await
        .unwrap();
    let policy = "connect-src https://api.released.so https://events.released.so 'self'";
    assert_eq!(response.headers()["content-security-policy"], policy);
}

/// Serves a response with these headers through a layer, and returns the headers of this name.
async fn merged_by_the_layer(headers: &[(&'static str, &[u8])], name: &str) -> Vec<Vec<u8>> {
    let mut response = Response::new(Body::empty());
    for (name, value) in headers {
        let value = HeaderValue::from_bytes(value).unwrap();
        response.headers_mut().append(*name, value);
    }
    let mut response = Some(response);
    let page = tower::service_fn(move |_: Request<Body>| {
        std::future::ready(Ok::<_, BoxError>(response.take().unwrap()))
    });
    let service = ServiceBuilder::new()
        .layer(CspLayer::new(sources()).on_every_response())
        .service(page);
    let response = service.oneshot(Request::new(Body::empty())).await.unwrap();
    let values = response.headers().get_all(name).iter();
    values.map(|value| value.as_bytes().to_vec()).collect()
}

#[tokio::test]
async fn a_policy_with_bytes_that_are_not_ascii_is_merged_and_keeps_its_bytes() {
    const ENFORCED: &str = "content-security-policy";
    const REPORTED: &str = "content-security-policy-report-only";
    for (policy, merged) in [
        // UTF-8, and bytes that are not UTF-8.
        (
            &b"report-uri /caf\xc3\xa9; font-src 'self'"[..],
            &b"report-uri /caf\xc3\xa9; font-src 'self' https://embed.released.so"[..],
        ),
        (
            b"report-uri /\xff\x80; font-src 'none'",
            b"report-uri /\xff\x80; font-src https://embed.released.so",
        ),
        // No-break space and next line are no white space of ASCII.
        (
            b"font-src\xa0'self'; font-src\t'none'",
            b"font-src\xa0'self'; font-src https://embed.released.so",
        ),
        (b"\x85font-src 'none'\x85", b"\x85font-src 'none'\x85"),
        // Another policy in the same header.
        (
            b"font-src \xe9, font-src 'self'",
            b"font-src \xe9, font-src 'self' https://embed.released.so",
        ),
    ] {
        for name in [ENFORCED, REPORTED] {
            let values = merged_by_the_layer(&[(name, policy)], name).await;
            assert_eq!(values, [merged], "{}", String::from_utf8_lossy(policy));
        }
    }
}

#[tokio::test]
async fn every_header_of_a_response_is_merged_by_itself() {
    let headers: &[(&str, &[u8])] = &[
        ("Content-Security-Policy", b"FONT-SRC 'Self'"),
        ("content-security-policy", b""),
        ("content-security-policy-report-only", b"font-src *"),
        ("CONTENT-SECURITY-POLICY", b"font-src 'self', img-src *"),
        ("x-content-security-policy", b"font-src 'self'"),
    ];
    let headers = headers
        .iter()
        .map(|(name, value)| (*name, *value))
        .collect::<Vec<_>>();
    let enforced = merged_by_the_layer(&headers, "content-security-policy").await;
    let expected: [&[u8]; 3] = [
        b"font-src 'Self' https://embed.released.so",
        b"",
        b"font-src 'self' https://embed.released.so, img-src *",
    ];
    assert_eq!(enforced, expected);
    let reported = merged_by_the_layer(&headers, "content-security-policy-report-only").await;
    assert_eq!(reported, [b"font-src *"]);
    let other = merged_by_the_layer(&headers, "x-content-security-policy").await;
    assert_eq!(other, [b"font-src 'self'"]);
}

proptest! {
    /// Whatever bytes a header has, the layer writes a legal header, keeps the number of policies, and loses no word.
    #[test]
    fn no_header_loses_a_word(bytes in prop::collection::vec(header_byte(), 0..60), policy in any_policy()) {
        for value in [bytes.clone(), [policy.as_bytes(), b"; ", &bytes].concat()] {
            let Ok(header) = HeaderValue::from_bytes(&value) else { continue };
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let name = "content-security-policy";
            let merged = runtime.block_on(merged_by_the_layer(&[(name, header.as_bytes())], name));
            prop_assert_eq!(merged.len(), 1);
            let (before, after) = (words(header.as_bytes()), words(&merged[0]));
            prop_assert_eq!(before.len(), after.len());
            for (before, after) in before.iter().zip(&after) {
                prop_assert!(before.is_subset(after), "{:?} lost a word: {:?}", value, merged[0]);
            }
        }
    }
}

fn header_byte() -> impl Strategy<Value = u8> {
    prop_oneof![any::<u8>(), prop::sample::select(b" \t;,'*:/-".to_vec())]
}

/// The words of each policy, without `'none'`, which is replaced.
fn words(policies: &[u8]) -> Vec<BTreeSet<Vec<u8>>> {
    let is_between = |byte: &u8| byte.is_ascii_whitespace() || *byte == b';';
    let of_one = |policy: &[u8]| {
        let words = policy.split(is_between).map(<[u8]>::to_ascii_lowercase);
        words
            .filter(|word| !word.is_empty() && word != b"'none'")
            .collect()
    };
    policies.split(|byte| *byte == b',').map(of_one).collect()
}

// --- the script ---

#[tokio::test]
async fn the_script_is_kept_for_a_year_under_its_own_url_and_asked_for_again_under_others() {
    let app = Router::new().route("/released-token.js", get(token_script));
    let tag = embed::token_script_tag("/released-token.js").to_string();
    let versioned = parsed(&tag).1["src"].clone();
    assert!(
        parsed(&embed::token_script_tag("/a.js?b=1").to_string()).1["src"]
            .starts_with("/a.js?b=1&v=")
    );
    let fetch = async |url: &str, etag: Option<&HeaderValue>| {
        let mut request = Request::get(url);
        if let Some(etag) = etag {
            request = request.header("if-none-match", etag);
        }
        app.clone()
            .oneshot(request.body(Body::empty()).unwrap())
            .await
            .unwrap()
    };

    let response = fetch(&versioned, None).await;
    assert_eq!(
        response.headers()["cache-control"],
        "public, max-age=31536000, immutable"
    );
    assert_eq!(
        response.headers()["content-type"],
        "text/javascript; charset=utf-8"
    );
    let etag = response.headers()["etag"].clone();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    // Its size is a test in Node, which can compress.
    let body = std::str::from_utf8(&body).unwrap();
    assert!(body.starts_with("// released-token.js") && body.ends_with("})();\n"));
    let comments = body
        .lines()
        .filter(|line| line.trim_start().starts_with("//"));
    assert_eq!(comments.count(), 1, "comments are not served");

    for other in ["/released-token.js", "/released-token.js?v=0"] {
        assert_eq!(
            fetch(other, None).await.headers()["cache-control"],
            "no-cache"
        );
    }
    let known = fetch("/released-token.js", Some(&etag)).await;
    assert_eq!(known.status(), StatusCode::NOT_MODIFIED);
    assert!(
        known
            .into_body()
            .collect()
            .await
            .unwrap()
            .to_bytes()
            .is_empty()
    );
    let stale = HeaderValue::from_static("\"0\"");
    assert_eq!(
        fetch("/released-token.js", Some(&stale)).await.status(),
        StatusCode::OK
    );
}

#[test]
fn an_error_that_ends_main_says_what_to_do() {
    let error: tower_released::BoxError =
        embed::csp::strict().hub("https://acme").unwrap_err().into();
    // What `main` prints.
    let printed = format!("{error:?}");
    assert!(
        printed.starts_with("InvalidSource: not a host"),
        "{printed}"
    );
    let printed = format!("{:?}", tower_released::User::new("42", "ada").unwrap_err());
    assert!(printed.contains("a bare address such as"), "{printed}");
}
