//! An embed in a `MiniJinja` template: `cargo run --example minijinja --features minijinja`.

#![allow(clippy::print_stdout)]

use minijinja::{Environment, Value, context};
use tower_released::AuthToken;
use tower_released::embed::{self, Modules};

const ROADMAP: &str = "<!doctype html>
<head><title>{{ title }}</title>{{ script }}</head>
<body>{{ portal }}</body>";

/// In an application, a handler calls it with the `Option<AuthToken>` that it took.
fn roadmap(
    templates: &Environment<'_>,
    title: &str,
    token: Option<&AuthToken>,
) -> Result<String, minijinja::Error> {
    let portal = embed::page("YOUR-CHANNEL")
        .modules(Modules::Roadmap)
        .title(title)
        .maybe_token(token);
    let (script, portal) = (Value::from(embed::script()), Value::from(portal));
    templates
        .get_template("roadmap.html")?
        .render(context! { title, script, portal })
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut templates = Environment::new();
    templates.add_template("roadmap.html", ROADMAP)?;
    let token = AuthToken::new("eyJhbGciOiJIUzI1NiJ9.e30.c2ln")?;
    let page = roadmap(&templates, "What's \"next\"?", Some(&token))?;
    assert!(
        page.contains(
            r#"title="What's &quot;next&quot;?" auth-token="eyJhbGciOiJIUzI1NiJ9.e30.c2ln"></released-page>"#
        )
    );
    println!("{page}");
    Ok(())
}
