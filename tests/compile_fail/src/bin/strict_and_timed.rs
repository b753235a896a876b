use tower_released::testing::StubMinter;
use tower_released::{MintTiming, ReleasedTokenLayer, User, from_extension};

fn main() {
    let layer = ReleasedTokenLayer::new(StubMinter::new(), from_extension(|user: &User| user.clone()));
    layer.reject_without_token().timing(MintTiming::OnExtraction);
}
