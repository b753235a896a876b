use tower_released::testing::StubMinter;
use tower_released::{ReleasedTokenLayer, User, from_extension};

fn main() {
    let minter = Ok::<_, std::io::Error>(StubMinter::new());
    ReleasedTokenLayer::new(minter, from_extension(|user: &User| user.clone()));
}
