//! The order of layers in a tonic server: the example's, and two that do not work.

use std::net::SocketAddr;

use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::service::{InterceptorLayer, LayerExt};
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::server::health_reporter;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tower_released::testing::{FakeReleased, StubMinter};
use tower_released::{ReleasedTokenLayer, from_extension};

use crate::support::listen;
use crate::support::tonic_example::roadmap::PortalRequest;
use crate::support::tonic_example::roadmap::roadmap_client::RoadmapClient;
use crate::support::tonic_example::roadmap::roadmap_server::RoadmapServer;
use crate::support::tonic_example::{Portals, serve, sign_in, tokens, vouch};

/// Starts a server, and connects to it.
async fn start<F>(serve: impl FnOnce(TcpListener) -> F) -> Channel
where
    F: Future<Output: Send> + Send + 'static,
{
    let (listener, address): (_, SocketAddr) = listen().await;
    tokio::spawn(serve(listener));
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    endpoint.connect().await.unwrap()
}

async fn token_for(user: Option<&str>, server: &Channel) -> Result<String, Status> {
    let mut request = Request::new(PortalRequest {});
    if let Some(user) = user {
        let user = user.parse().unwrap();
        request.metadata_mut().insert("x-user", user);
    }
    let reply = RoadmapClient::new(server.clone()).portal(request).await?;
    Ok(reply.into_inner().auth_token().to_owned())
}

async fn health_of(service: &str, server: &Channel) -> Result<ServingStatus, Status> {
    let service = service.to_owned();
    let reply = HealthClient::new(server.clone())
        .check(HealthCheckRequest { service })
        .await?;
    Ok(reply.into_inner().status())
}

#[tokio::test]
async fn only_the_service_behind_the_layer_needs_a_sign_in() {
    let released = FakeReleased::start().await.unwrap();
    let client = released.client().unwrap();
    let server = start(|listener| serve(listener, client)).await;

    let token = token_for(Some("ada"), &server).await.unwrap();
    let session = released.open_session(&token).unwrap();
    assert_eq!(session.user_id.as_deref(), Some("ada"));

    let refusal = token_for(None, &server).await.unwrap_err();
    assert_eq!(refusal.code(), Code::Unauthenticated);

    for service in ["", "roadmap.v1.Roadmap"] {
        let health = health_of(service, &server).await.unwrap();
        assert_eq!(health, ServingStatus::Serving, "{service}");
    }
    let request = ServerReflectionRequest {
        message_request: Some(MessageRequest::ListServices(String::new())),
        ..ServerReflectionRequest::default()
    };
    let mut replies = ServerReflectionClient::new(server)
        .server_reflection_info(tokio_stream::once(request))
        .await
        .unwrap()
        .into_inner();
    let reply = replies.message().await.unwrap().unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(list)) = reply else {
        panic!("{reply:?}")
    };
    assert!(
        list.service
            .iter()
            .any(|it| it.name == "roadmap.v1.Roadmap"),
        "{list:?}"
    );
    assert_eq!(released.counts().minted, 1);
}

#[tokio::test]
async fn metadata_of_a_client_does_not_switch_the_layer_off() {
    let server = start(|listener| serve(listener, StubMinter::new())).await;
    let mut request = Request::new(PortalRequest {});
    let image = "image".parse().unwrap();
    request.metadata_mut().insert("sec-fetch-dest", image);
    let refusal = RoadmapClient::new(server)
        .portal(request)
        .await
        .unwrap_err();
    assert_eq!(refusal.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn a_layer_around_the_whole_server_rejects_health_checks() {
    let server = start(|listener| {
        let (_, health) = health_reporter();
        Server::builder()
            .layer(InterceptorLayer::new(sign_in))
            .layer(tokens(StubMinter::new()))
            .add_service(RoadmapServer::new(Portals))
            .add_service(health)
            .serve_with_incoming(TcpListenerStream::new(listener))
    })
    .await;
    token_for(Some("ada"), &server).await.unwrap();
    let refusal = health_of("", &server).await.unwrap_err();
    assert_eq!(refusal.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn an_interceptor_inside_of_the_layer_signs_nobody_in() {
    let server = start(|listener| {
        // A layer that rejects does not compile here: the interceptor's body is not `Default`.
        let tokens = ReleasedTokenLayer::new(StubMinter::new(), from_extension(vouch));
        let roadmap = RoadmapServer::with_interceptor(Portals, sign_in);
        Server::builder()
            .add_service(tokens.named_layer(roadmap))
            .serve_with_incoming(TcpListenerStream::new(listener))
    })
    .await;
    let refusal = token_for(Some("ada"), &server).await.unwrap_err();
    assert_eq!(refusal.message(), "no token for this call");
}

#[tokio::test]
async fn an_interceptor_around_the_layer_of_one_service_signs_in() {
    let server = start(|listener| {
        let roadmap = tokens(StubMinter::new()).named_layer(RoadmapServer::new(Portals));
        Server::builder()
            .add_service(InterceptorLayer::new(sign_in).named_layer(roadmap))
            .serve_with_incoming(TcpListenerStream::new(listener))
    })
    .await;
    token_for(Some("ada"), &server).await.unwrap();
}
