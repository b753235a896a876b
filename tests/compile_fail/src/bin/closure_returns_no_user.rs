use tower_released::from_extension;
fn main() {
    let _ = from_extension(|user: &String| user.clone());
}
