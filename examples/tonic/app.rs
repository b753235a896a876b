//! The server: sign-in around everything, and the layer around the one service that needs tokens.

#[rustfmt::skip]
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
#[path = "roadmap.rs"]
pub(crate) mod roadmap;

use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::service::{InterceptorLayer, LayerExt};
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use tower_released::filter::always;
use tower_released::from_extension;
use tower_released::middleware::FailClosed;
use tower_released::{AuthToken, BoxError, InvalidUser, Minter, ReleasedTokenLayer, User};

use self::roadmap::roadmap_server::{Roadmap, RoadmapServer};
use self::roadmap::{PortalReply, PortalRequest};

/// Made of roadmap.proto, by `protoc --include_imports -o roadmap.bin roadmap.proto`.
const DESCRIPTORS: &[u8] = include_bytes!("roadmap.bin");

/// Serves until the process ends.
pub(crate) async fn serve(listener: TcpListener, released: impl Minter) -> Result<(), BoxError> {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<RoadmapServer<Portals>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .build_v1()?;
    Server::builder()
        // An interceptor of the service itself, as in `RoadmapServer::with_interceptor`, would run after the layer below,
        // which would then find nobody signed in.
        .layer(InterceptorLayer::new(sign_in))
        // Around the whole server, the layer would reject health checks, too.
        .add_service(tokens(released).named_layer(RoadmapServer::new(Portals)))
        .add_service(health)
        .add_service(reflection)
        .serve_with_incoming(TcpListenerStream::new(listener))
        .await?;
    Ok(())
}

/// What the interceptor leaves in the call's extensions.
#[derive(Clone)]
pub(crate) struct CurrentUser {
    id: String,
}

/// Leaves the signed-in user for the layer. It lets everybody pass, because some services need no sign-in.
// tonic's `Interceptor` returns this `Result`.
#[allow(clippy::result_large_err)]
pub(crate) fn sign_in(mut request: Request<()>) -> Result<Request<()>, Status> {
    // Trust such metadata only from a proxy in front that sets it.
    if let Some(id) = request.metadata().get("x-user") {
        let id = id
            .to_str()
            .map_err(|_| Status::unauthenticated("x-user is not text"))?;
        let user = CurrentUser { id: id.to_owned() };
        request.extensions_mut().insert(user);
    }
    Ok(request)
}

pub(crate) fn vouch(user: &CurrentUser) -> Result<User, InvalidUser> {
    User::new(&user.id, format!("{}@example.com", user.id))
}

/// Creates a layer that rejects calls without a token.
pub(crate) fn tokens(released: impl Minter) -> ReleasedTokenLayer<FailClosed> {
    ReleasedTokenLayer::new(released, from_extension(vouch))
        // The default filter reads metadata that a client chooses, and a call that it skips is not rejected.
        .mint_when(always)
        .reject_without_token()
}

pub(crate) struct Portals;

#[tonic::async_trait]
impl Roadmap for Portals {
    async fn portal(
        &self,
        request: Request<PortalRequest>,
    ) -> Result<Response<PortalReply>, Status> {
        let token = request
            .extensions()
            .get::<AuthToken>()
            .ok_or_else(|| Status::internal("no token for this call"))?;
        Ok(Response::new(PortalReply {
            channel_id: "demo".to_owned(),
            auth_token: Some(token.to_string()),
        }))
    }
}
