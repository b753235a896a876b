//! The layer around a plain hyper service, without any framework: `cargo run --example hyper`.
//!
//! It mints with the account of `RELEASED_ACCOUNT_ID` and `RELEASED_SHARED_SECRET` (or `RELEASED_SHARED_SECRET_FILE`), or
//! with a fake of Released if none of them is set. `PORT` is 3000 by default. Sign in with a header: `curl -H 'x-user: ada' http://localhost:3000`.

#[path = "support/account.rs"]
mod account;

use std::convert::Infallible;
use std::env;
use std::error::Error;
use std::future::ready;

use http::request::Parts;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tower::ServiceBuilder;
use tower_released::testing::FakeReleased;
use tower_released::{AuthToken, ReleasedClient, ReleasedTokenLayer, User, resolver_fn};
use tracing::info;

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

    // Trust such a header only from a proxy in front that sets it.
    let signed_in = resolver_fn(|parts: &Parts| {
        let id = parts.headers.get("x-user").and_then(|id| id.to_str().ok());
        ready(id.map(|id| User::new(id, format!("{id}@example.com"))))
    });
    let service = ServiceBuilder::new()
        .layer(ReleasedTokenLayer::new(released, signed_in))
        .service_fn(roadmap);

    let port = env::var("PORT").map_or(Ok(3000), |port| port.parse::<u16>())?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    info!(
        "listening on http://localhost:{}",
        listener.local_addr()?.port()
    );
    loop {
        let (stream, _) = listener.accept().await?;
        let service = TowerToHyperService::new(service.clone());
        tokio::spawn(async move {
            if let Err(error) = auto::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await
            {
                info!("a connection ended: {error}");
            }
        });
    }
}

/// Before the handler starts, the token is in the request's extensions, if there is one.
async fn roadmap(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let page = match request.extensions().get::<AuthToken>() {
        Some(token) => {
            format!(r#"<released-page channel-id="demo" auth-token="{token}"></released-page>"#)
        }
        None => "<p>Sign in to see the roadmap.</p>".to_owned(),
    };
    let mut response = Response::new(Full::from(page + "\n"));
    response.headers_mut().insert(
        "content-type",
        http::HeaderValue::from_static("text/html; charset=utf-8"),
    );
    Ok(response)
}
