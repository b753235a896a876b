//! An embed in an Askama template: `cargo run --example askama --features askama`.

#![allow(clippy::print_stdout)]

use askama::Template;
use tower_released::AuthToken;
use tower_released::embed::{self, Modules, Page, Script};

#[derive(Template)]
#[template(
    ext = "html",
    source = "<!doctype html>
<head><title>{{ title }}</title>{{ script }}</head>
<body>{{ portal }}</body>"
)]
struct Roadmap<'a> {
    title: &'a str,
    script: Script,
    portal: Page,
}

/// In an application, a handler calls it with the `Option<AuthToken>` that it took.
fn roadmap<'a>(title: &'a str, token: Option<&AuthToken>) -> Roadmap<'a> {
    let portal = embed::page("YOUR-CHANNEL")
        .modules(Modules::Roadmap)
        .title(title)
        .maybe_token(token);
    Roadmap {
        title,
        script: embed::script(),
        portal,
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let token = AuthToken::new("eyJhbGciOiJIUzI1NiJ9.e30.c2ln")?;
    let page = roadmap("What's \"next\"?", Some(&token)).render()?;
    assert!(
        page.contains(
            r#"title="What's &quot;next&quot;?" auth-token="eyJhbGciOiJIUzI1NiJ9.e30.c2ln"></released-page>"#
        )
    );
    println!("{page}");
    Ok(())
}
