//! As little as can be done with hyper: nothing is built that can be kept, and nothing is checked.

use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::get;
use axum::{Extension, Router};
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use crate::page;
use crate::support::{ACCOUNT, ADA, SECRET, Server};

#[derive(Clone)]
struct Minter {
    http: Client<HttpConnector, Full<Bytes>>,
    url: http::Uri,
    authorization: HeaderValue,
    body: Bytes,
}

#[derive(Clone)]
struct Token(Bytes);

async fn mint(State(minter): State<Minter>, mut request: Request, next: Next) -> Response {
    let mut post = http::Request::new(Full::new(minter.body.clone()));
    *post.method_mut() = Method::POST;
    *post.uri_mut() = minter.url.clone();
    post.headers_mut().insert(AUTHORIZATION, minter.authorization.clone());
    post.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let reply = minter.http.request(post).await.unwrap().into_body().collect().await.unwrap().to_bytes();
    request.extensions_mut().insert(Token(reply.slice(1..reply.len() - 1)));
    next.run(request).await
}

pub(crate) fn app(api: &Server) -> Router {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let minter = Minter {
        http: Client::builder(TokioExecutor::new()).build(connector),
        url: api.url().parse().unwrap(),
        authorization: format!("Bearer {SECRET}").parse().unwrap(),
        body: format!(
            r#"{{"account_id":"{ACCOUNT}","user_id":"{}","user_email":"{}","profile":{{"name":"{}"}}}}"#,
            ADA.id, ADA.email, ADA.name
        )
        .into(),
    };
    let roadmap = async |Extension(token): Extension<Token>| page(std::str::from_utf8(&token.0).unwrap());
    Router::new().route("/roadmap", get(roadmap)).route_layer(from_fn_with_state(minter, mint)).layer(Extension(ADA))
}
