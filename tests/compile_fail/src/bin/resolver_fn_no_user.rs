use http::request::Parts;
use tower_released::resolver_fn;
fn main() {
    let _ = resolver_fn(|_: &Parts| "ada".to_owned());
}
