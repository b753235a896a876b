use http::{Request, Response};
use tower_released::testing::StubMinter;
use tower_released::{ReleasedTokenLayer, User, from_extension};

struct Body;

fn main() {
    let layer = ReleasedTokenLayer::new(StubMinter::new(), from_extension(|user: &User| user.clone()));
    let inner = tower::service_fn(async |_: Request<()>| Ok::<_, std::io::Error>(Response::new(Body)));
    let mut service = tower::Layer::layer(&layer.reject_without_token(), inner);
    let _ = tower::Service::call(&mut service, Request::new(()));
}
