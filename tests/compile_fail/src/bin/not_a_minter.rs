use tower_released::{ReleasedTokenLayer, User, from_extension};
fn main() {
    let _ = ReleasedTokenLayer::new("secret", from_extension(|u: &User| u.clone()));
}
