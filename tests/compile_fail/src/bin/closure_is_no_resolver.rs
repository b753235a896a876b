use http::request::Parts;
use tower_released::{ReleasedTokenLayer, User, testing::StubMinter};
fn main() {
    let _ = ReleasedTokenLayer::new(StubMinter::new(), |_: &Parts| None::<User>);
}
