//! A client that sends with a Tower service of the application's own.

use std::future::pending;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tower::{BoxError, ServiceBuilder, service_fn};
use tower_released::testing::FakeReleased;
use tower_released::{MintErrorKind, ReleasedClient};

use crate::support::{ada, once};

/// With an endpoint that no feature is needed for: the service may do TLS or not.
const ENDPOINT: &str = "https://released.example/token";

#[tokio::test]
async fn a_service_is_sent_the_whole_request_and_any_body_of_its_answer_is_read() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let service = service_fn({
        let seen = Arc::clone(&seen);
        move |request: Request<Full<Bytes>>| {
            let seen = Arc::clone(&seen);
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await?.to_bytes();
                seen.lock().unwrap().push((head, body));
                // Not `Bytes`.
                Ok::<_, BoxError>(Response::new(Full::new(&br#""a.b.c""#[..])))
            }
        }
    });
    let client = ReleasedClient::builder("acc", "s3cret")
        .endpoint(ENDPOINT)
        .http_service(service)
        .build()
        .unwrap();
    assert_eq!(client.mint(&ada()).await.unwrap().as_str(), "a.b.c");

    let (head, body) = seen.lock().unwrap().pop().unwrap();
    assert_eq!(
        (head.method, head.uri.to_string().as_str()),
        (Method::POST, ENDPOINT)
    );
    assert!(
        head.headers["authorization"] == "Bearer s3cret"
            && head.headers["authorization"].is_sensitive()
    );
    assert_eq!(head.headers["content-length"], body.len().to_string());
    // These are the service's own.
    assert!(!head.headers.contains_key("host") && !head.headers.contains_key("user-agent"));
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(
        (&body["account_id"], &body["user_email"]),
        (&"acc".into(), &ada().email().into())
    );
}

#[tokio::test]
async fn clients_that_share_a_service_share_its_connections_and_wait_until_it_is_ready() {
    let released = FakeReleased::start().await.unwrap();
    let http = Client::builder(TokioExecutor::new()).build_http();
    // A service that is called unready panics here.
    let http = ServiceBuilder::new().concurrency_limit(1).service(http);
    let client = || {
        released
            .client_builder()
            .http_service(http.clone())
            .build()
            .unwrap()
    };
    let (one, other) = (client(), client());
    for client in [&one, &other, &one] {
        client.mint(&ada()).await.unwrap();
    }
    let user = ada();
    let (first, second) = tokio::join!(one.mint(&user), other.mint(&user));
    assert!(first.is_ok() && second.is_ok());
    assert_eq!(
        (released.counts().minted, released.counts().connections),
        (5, 1)
    );
}

#[tokio::test]
async fn an_error_of_a_service_is_told_by_its_type() {
    let reset = || io::Error::from(io::ErrorKind::ConnectionReset);
    let fails = service_fn(move |_: Request<Full<Bytes>>| async move {
        Err::<Response<Full<Bytes>>, BoxError>(Box::new(reset()))
    });
    let builder = || {
        ReleasedClient::builder("acc", "s3cret")
            .endpoint(ENDPOINT)
            .retry(once())
    };
    let error = builder()
        .http_service(fails)
        .build()
        .unwrap()
        .mint(&ada())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), MintErrorKind::Interrupted);
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(source, "connection reset by released.example:443");

    let stalls =
        service_fn(|_: Request<Full<Bytes>>| pending::<Result<Response<Full<Bytes>>, BoxError>>());
    let stalls = ServiceBuilder::new()
        .timeout(Duration::from_millis(20))
        .service(stalls);
    let error = builder()
        .http_service(stalls)
        .build()
        .unwrap()
        .mint(&ada())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), MintErrorKind::Timeout);
}
