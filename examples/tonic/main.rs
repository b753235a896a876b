//! A gRPC service that hands its callers a Released token: `cargo run --example tonic`.
//!
//! It mints with the account of `RELEASED_ACCOUNT_ID` and `RELEASED_SHARED_SECRET` (or `RELEASED_SHARED_SECRET_FILE`), or
//! with a fake of Released if none of them is set. It serves on `PORT` (50051 by default), calls itself twice, as Ada and as nobody, and goes on serving.

#[path = "../support/account.rs"]
mod account;
#[rustfmt::skip]
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
mod roadmap;

use std::env;
use std::error::Error;
use std::future::ready;
use std::net::Ipv4Addr;

use http::request::Parts;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Code, Request, Response, Status};
use tower_released::filter::always;
use tower_released::testing::FakeReleased;
use tower_released::{AuthToken, ReleasedClient, ReleasedTokenLayer, User, resolver_fn};
use tracing::info;

use crate::roadmap::roadmap_client::RoadmapClient;
use crate::roadmap::roadmap_server::{Roadmap, RoadmapServer};
use crate::roadmap::{PortalReply, PortalRequest};

struct Portals;

#[tonic::async_trait]
impl Roadmap for Portals {
    async fn portal(
        &self,
        request: Request<PortalRequest>,
    ) -> Result<Response<PortalReply>, Status> {
        // With `reject_without_token` and the filter `always`, no request comes here without one.
        let token = request
            .extensions()
            .get::<AuthToken>()
            .ok_or_else(|| Status::internal("no ReleasedTokenLayer"))?;
        Ok(Response::new(PortalReply {
            channel_id: "demo".to_owned(),
            auth_token: Some(token.to_string()),
        }))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().init();

    let is_real = account::is_named_by(|name| env::var_os(name));
    let fake = if is_real {
        None
    } else {
        Some(FakeReleased::start().await?)
    };
    let released = fake
        .as_ref()
        .map_or_else(ReleasedClient::from_env, FakeReleased::client)?;

    // Trust such metadata only from a proxy in front that sets it.
    let signed_in = resolver_fn(|parts: &Parts| {
        let id = parts.headers.get("x-user").and_then(|id| id.to_str().ok());
        ready(id.map(|id| User::new(id, format!("{id}@example.com"))))
    });
    let layer = ReleasedTokenLayer::new(released, signed_in)
        .mint_when(always)
        .reject_without_token();

    let port = env::var("PORT").map_or(Ok(50051), |port| port.parse::<u16>())?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    let address = listener.local_addr()?;
    let server = Server::builder()
        .layer(layer)
        .add_service(RoadmapServer::new(Portals))
        .serve_with_incoming(TcpListenerStream::new(listener));
    let server = tokio::spawn(server);
    info!("serving roadmap.v1.Roadmap on http://{address}");

    let mut client = RoadmapClient::connect(format!("http://{address}")).await?;
    let mut as_ada = Request::new(PortalRequest {});
    as_ada.metadata_mut().insert("x-user", "ada".parse()?);
    let portal = client.portal(as_ada).await?.into_inner();
    info!(
        "as Ada: a token of {} characters",
        portal.auth_token().len()
    );

    let refusal = client
        .portal(PortalRequest {})
        .await
        .expect_err("nobody is signed in");
    assert_eq!(refusal.code(), Code::Unauthenticated);
    info!("as nobody: {refusal}");

    server.await??;
    Ok(())
}
