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
use tower::ServiceExt;
use tower_released::embed::csp::{self, CspLayer, Sources};
use tower_released::embed::{self, Anchor, ColorScheme, Locale, Modules, Position, token_script};
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
        parsed(&embed::page("c1").top_offset(9).no_top_offset().to_string()).1["top-offset"],
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
        let set = std::panic::catch_unwind(|| embed::widget("c1").data(bad, "x"));
        assert!(set.is_err(), "{bad:?}");
    }
}

#[test]
fn a_script_tag_takes_only_what_it_knows() {
    let integrity = "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
    let pinned = embed::script()
        .pinned("9f86d081", integrity)
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
    assert!(embed::script().pinned("../evil", integrity).is_err());
    assert!(embed::script().pinned("9f86d081", "md5-abc").is_err());
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
        let widget = embed::widget(&id).title(&title).color_primary(&color).trigger(&trigger).data("x", &data);
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
        ],
        "frame-src" => &["https://acme.releasedhub.com"],
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
    csp::strict().hub("acme.releasedhub.com").unwrap()
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
fn only_hosts_and_origins_are_allowed() {
    for bad in [
        "",
        "https://acme.releasedhub.com",
        "a b",
        "acme.releasedhub.com; script-src *",
        "a.com/path",
        "a.com:1",
        "*",
    ] {
        assert!(csp::strict().hub(bad).is_err(), "{bad:?}");
    }
    for bad in [
        "",
        "example.com",
        "https://example.com/",
        "https://example.com; script-src *",
        "data:x",
        "https://u@a.b",
    ] {
        assert!(csp::strict().origin(bad).is_err(), "{bad:?}");
    }
    let merged = csp::strict()
        .origin("http://127.0.0.1:8080")
        .unwrap()
        .merge_into("script-src 'self'");
    assert_eq!(
        merged,
        "script-src 'self' https://embed.released.so http://127.0.0.1:8080; worker-src 'self'"
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
