//! As little as can be done with hyper to mint: nothing is built that can be kept, and nothing is checked.

use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use super::{ACCOUNT, ADA, SECRET};

#[derive(Clone)]
pub(crate) struct Floor {
    http: Client<HttpConnector, Full<Bytes>>,
    url: Uri,
    authorization: HeaderValue,
    body: Bytes,
}

impl Floor {
    pub(crate) fn new(url: &str) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let body = format!(
            r#"{{"account_id":"{ACCOUNT}","user_id":"{}","user_email":"{}","profile":{{"name":"{}"}}}}"#,
            ADA.id, ADA.email, ADA.name
        );
        Self {
            http: Client::builder(TokioExecutor::new()).build(connector),
            url: url.parse().unwrap(),
            authorization: format!("Bearer {SECRET}").parse().unwrap(),
            body: body.into(),
        }
    }

    pub(crate) async fn mint(&self) -> Bytes {
        let mut post = Request::new(Full::new(self.body.clone()));
        *post.method_mut() = Method::POST;
        *post.uri_mut() = self.url.clone();
        post.headers_mut()
            .insert(AUTHORIZATION, self.authorization.clone());
        post.headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let reply = self
            .http
            .request(post)
            .await
            .unwrap()
            .into_body()
            .collect()
            .await
            .unwrap()
            .to_bytes();
        reply.slice(1..reply.len() - 1)
    }
}
