//! What the examples decide for themselves, and that the documents show what they say.

use std::ffi::OsString;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request};
use tower::ServiceExt;
use tower_released::testing::StubMinter;

#[path = "../../examples/support/account.rs"]
mod account;
#[path = "../../examples/reverse_proxy/app.rs"]
mod reverse_proxy;

#[test]
fn an_example_starts_the_fake_only_if_no_variable_names_an_account() {
    for (variables, is_named) in [
        (&[][..], false),
        (&[("RELEASED_ACCOUNT_ID", "")], false),
        (
            &[
                ("RELEASED_ACCOUNT_ID", ""),
                ("RELEASED_SHARED_SECRET", ""),
                ("RELEASED_SHARED_SECRET_FILE", ""),
            ],
            false,
        ),
        (&[("RELEASED_CHANNEL_ID", "c1")], false),
        (&[("RELEASED_ACCOUNT_ID", "acc")], true),
        (&[("RELEASED_SHARED_SECRET", "s3cret")], true),
        (
            &[("RELEASED_SHARED_SECRET_FILE", "/run/secrets/released")],
            true,
        ),
        (
            &[
                ("RELEASED_ACCOUNT_ID", ""),
                ("RELEASED_SHARED_SECRET", "s3cret"),
            ],
            true,
        ),
    ] {
        let variable = |wanted: &str| {
            let found = variables.iter().find(|(name, _)| *name == wanted);
            found.map(|(_, value)| OsString::from(value))
        };
        assert_eq!(account::is_named_by(variable), is_named, "{variables:?}");
    }
}

#[test]
fn the_quick_start_is_the_same_in_the_readme_the_front_page_and_the_example() {
    let example = include_str!("../../examples/quickstart.rs");
    let (_, example) = example
        .split_once("\n\n")
        .expect("a line about it, and the code");

    let readme = include_str!("../../README.md");
    let (_, readme) = readme
        .split_once("```rust,no_run\n")
        .expect("the quick start");
    let (readme, _) = readme.split_once("```\n").expect("its end");
    assert_eq!(readme, example);

    let front_page = include_str!("../../src/lib.rs");
    let (_, front_page) = front_page
        .split_once("//! ```no_run\n")
        .expect("the quick start");
    let (front_page, _) = front_page.split_once("//! ```\n").expect("its end");
    let shown = front_page
        .lines()
        .map(|line| line.strip_prefix("//!").expect("a doc comment"));
    let shown = shown
        .map(|line| line.strip_prefix(' ').unwrap_or(line))
        .filter(|line| !line.starts_with("# "));
    assert_eq!(
        shown.collect::<Vec<_>>(),
        example.lines().collect::<Vec<_>>()
    );
}

#[test]
fn code_in_the_readme_and_the_guides_is_at_most_80_columns_wide() {
    for (name, document) in [
        ("README.md", include_str!("../../README.md")),
        ("caching.md", include_str!("../../src/docs/caching.md")),
        ("csp.md", include_str!("../../src/docs/csp.md")),
        ("embedding.md", include_str!("../../src/docs/embedding.md")),
        (
            "existing_pages.md",
            include_str!("../../src/docs/existing_pages.md"),
        ),
        (
            "leaked_secret.md",
            include_str!("../../src/docs/leaked_secret.md"),
        ),
        (
            "monitoring.md",
            include_str!("../../src/docs/monitoring.md"),
        ),
        ("operating.md", include_str!("../../src/docs/operating.md")),
        (
            "scaling_out.md",
            include_str!("../../src/docs/scaling_out.md"),
        ),
        (
            "setting_up.md",
            include_str!("../../src/docs/setting_up.md"),
        ),
        (
            "signing_in.md",
            include_str!("../../src/docs/signing_in.md"),
        ),
        (
            "signing_out.md",
            include_str!("../../src/docs/signing_out.md"),
        ),
        (
            "single_page_apps.md",
            include_str!("../../src/docs/single_page_apps.md"),
        ),
        (
            "troubleshooting.md",
            include_str!("../../src/docs/troubleshooting.md"),
        ),
        ("vouching.md", include_str!("../../src/docs/vouching.md")),
    ] {
        // What docs.rs hides does not count.
        let code = document
            .split("```")
            .skip(1)
            .step_by(2)
            .flat_map(str::lines)
            .filter(|line| !line.starts_with("# "));
        for line in code {
            assert!(line.chars().count() <= 80, "{name}: {line}");
        }
    }
}

#[tokio::test]
async fn the_reverse_proxy_passes_no_header_of_a_connection() {
    let application = Router::new().fallback(async |headers: HeaderMap| {
        let mut lines: Vec<_> = headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().expect("text")))
            .filter(|line| !line.starts_with("host: "))
            .collect();
        lines.sort();
        let answer = [
            ("connection", "x-hop"),
            ("x-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("x-end", "2"),
        ];
        (answer, lines.join("\n"))
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a free port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move { axum::serve(listener, application).await });
    let proxy =
        reverse_proxy::app(StubMinter::new(), &format!("http://{address}/")).expect("an address");

    let request = Request::get("/page?a=b")
        .header("host", "acme.example")
        .header("connection", "keep-alive, x-hop")
        .header("x-hop", "1")
        .header("te", "trailers")
        .header("upgrade", "h2c")
        .header("x-forwarded-host", "elsewhere.example")
        .header("x-end", "2")
        .body(Body::empty())
        .expect("a request");
    let response = proxy.oneshot(request).await.expect("infallible");
    for name in ["connection", "x-hop", "keep-alive"] {
        assert!(!response.headers().contains_key(name), "{name}");
    }
    assert_eq!(response.headers()["x-end"], "2");
    let seen = to_bytes(response.into_body(), 4096).await.expect("a body");
    assert_eq!(
        seen,
        "x-end: 2\nx-forwarded-host: acme.example\nx-forwarded-proto: http"
    );
}
