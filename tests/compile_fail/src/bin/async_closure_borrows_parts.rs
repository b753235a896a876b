use http::request::Parts;
use tower_released::{User, resolver_fn};

fn main() {
    let _ = resolver_fn(async |parts: &Parts| {
        let id = parts.headers.get("x-user")?.to_str().ok()?;
        Some(User::new(id, "ada@example.com"))
    });
}
