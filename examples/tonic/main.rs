//! A gRPC service that hands its callers a Released token, with health checks and reflection: `cargo run --example tonic`.
//!
//! It mints with the account of `RELEASED_ACCOUNT_ID` and `RELEASED_SHARED_SECRET` (or `RELEASED_SHARED_SECRET_FILE`), or
//! with a fake of Released if none of them is set. It serves on `PORT` (50051 by default), calls itself as Ada and as nobody,
//! checks its health, and goes on serving:
//! `grpcurl -plaintext -H 'x-user: ada' localhost:50051 roadmap.v1.Roadmap/Portal`.

#[path = "../support/account.rs"]
mod account;
mod app;

use std::env;
use std::net::Ipv4Addr;

use tokio::net::TcpListener;
use tonic::transport::Channel;
use tonic::{Code, Request};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tower_released::testing::FakeReleased;
use tower_released::{BoxError, ReleasedClient};
use tracing::info;

use crate::app::roadmap::PortalRequest;
use crate::app::roadmap::roadmap_client::RoadmapClient;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
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

    let port = env::var("PORT").map_or(Ok(50051), |port| port.parse::<u16>())?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    let address = format!("http://{}", listener.local_addr()?);
    let server = tokio::spawn(app::serve(listener, released));
    info!("serving roadmap.v1.Roadmap on {address}");

    let channel = Channel::from_shared(address)?.connect().await?;
    let mut roadmap = RoadmapClient::new(channel.clone());
    let mut as_ada = Request::new(PortalRequest {});
    as_ada.metadata_mut().insert("x-user", "ada".parse()?);
    let portal = roadmap.portal(as_ada).await?.into_inner();
    info!(
        "as Ada: a token of {} characters",
        portal.auth_token().len()
    );

    let refusal = roadmap
        .portal(PortalRequest {})
        .await
        .expect_err("nobody is signed in");
    assert_eq!(refusal.code(), Code::Unauthenticated);
    info!("as nobody: {refusal}");

    let mut health = HealthClient::new(channel);
    let checked = health.check(HealthCheckRequest::default()).await?;
    info!(
        "health, without sign-in: {:?}",
        checked.into_inner().status()
    );

    server.await?
}
