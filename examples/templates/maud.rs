//! An embed in a Maud template: `cargo run --example maud --features maud`.

#![allow(clippy::print_stdout)]

use maud::{DOCTYPE, Markup, html};
use tower_released::AuthToken;
use tower_released::embed::{self, Modules};

/// In an application, a handler calls it with the `Option<AuthToken>` that it took.
fn roadmap(title: &str, token: Option<&AuthToken>) -> Markup {
    html! {
        (DOCTYPE)
        head { title { (title) } (embed::script()) }
        body { (embed::page("YOUR-CHANNEL").modules(Modules::Roadmap).title(title).maybe_token(token)) }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let token = AuthToken::new("eyJhbGciOiJIUzI1NiJ9.e30.c2ln")?;
    let page = roadmap("What's \"next\"?", Some(&token)).into_string();
    assert!(
        page.contains(
            r#"title="What's &quot;next&quot;?" auth-token="eyJhbGciOiJIUzI1NiJ9.e30.c2ln"></released-page>"#
        )
    );
    println!("{page}");
    Ok(())
}
