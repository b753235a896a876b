use http::request::Parts;
use tower_released::{User, resolver_fn};
fn main() {
    let _ = resolver_fn(|parts: &Parts| async move {
        parts.headers.len();
        None::<User>
    });
}
