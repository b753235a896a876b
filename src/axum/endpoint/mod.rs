//! [`token_endpoint`](crate::token_endpoint) with settings, and the types of its replies.
//!
//! Most applications need only `post(token_endpoint)`. [`TokenEndpoint`] is for a proxy that changes `Host`, and for pages
//! of another origin. [`TokenReply`] and [`ErrorReply`] are for clients in Rust, tests and `OpenAPI`.
//!
//! # Example
//!
//! ```
//! use axum::Router;
//! use axum::routing::post_service;
//! use tower_released::endpoint::{ProxyHeader, TokenEndpoint};
//!
//! // nginx: proxy_set_header X-Forwarded-Host $http_host;
//! let endpoint =
//!     TokenEndpoint::new().trust_proxy(ProxyHeader::XForwardedHost);
//! let app: Router =
//!     Router::new().route("/api/released-token", post_service(endpoint));
//! ```

mod replies;
mod same_site;

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::LazyLock;
use std::task::{Context, Poll};

use axum_core::body::Body;
use axum_core::extract::FromRequestParts;
use axum_core::response::Response;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderValue, Method, Request, StatusCode};
use serde::Serialize;
use tower::Service;

pub use self::replies::{ErrorReply, TokenReply};
pub use self::same_site::{InvalidOrigin, ProxyHeader};
use self::same_site::{Refusal, SameSite};
use crate::telemetry::{Once, warn};
use crate::token::AuthToken;

/// Answers `POST` with a token, for pages that the browser puts together.
///
/// Route it with `post(token_endpoint)` behind the layer. The token is for the user that the resolver finds; the
/// request's body is ignored. Behind a proxy that changes `Host`, use [`TokenEndpoint`] instead.
///
/// | answer | when |
/// |---|---|
/// | `200 {"token": "…", "expires_in": 119}` ([`TokenReply`]) | there is a token; `expires_in` is the time left in whole seconds, because browsers' clocks may be wrong |
/// | `401 {"error": "…"}` ([`ErrorReply`]) | nobody is signed in |
/// | `403 {"error": "…"}` | the request comes from another site (`Sec-Fetch-Site`, or else `Origin` compared with `Host`) |
/// | `405` | the method is not `POST`; `post(..)` answers this itself, without JSON |
/// | `502`, `503`, `504 {"error": "…"}` | Released is failing, see [`AuthTokenRejection::status`](crate::AuthTokenRejection::status) |
/// | `500 {"error": "…"}` | this application or its configuration is wrong |
///
/// Every answer says `no-store`.
///
/// # Its layer
///
/// Give it a layer of its own:
///
/// - with [`MintTiming::OnExtraction`](crate::MintTiming::OnExtraction), so that nothing is minted for a refused
///   request
/// - without the filter [`navigations`](crate::filter::navigations), which skips requests that scripts make
/// - without `reject_without_token`, which would answer first, and without JSON
///
/// # Example
///
/// ```
/// use axum::{Router, routing::post};
/// use tower_released::{MintTiming, ReleasedTokenLayer, User};
/// use tower_released::{from_extension, token_endpoint};
/// # use tower_released::{AuthToken, MintError};
/// # #[derive(Clone)] struct CurrentUser { id: String, email: String }
/// # let released = tower::service_fn(|_: User| async { AuthToken::new("t").map_err(MintError::from) });
///
/// let vouch = |user: &CurrentUser| User::new(&user.id, &user.email);
/// let layer = ReleasedTokenLayer::new(released, from_extension(vouch))
///     .timing(MintTiming::OnExtraction);
/// let app: Router = Router::new()
///     .route("/api/released-token", post(token_endpoint))
///     .route_layer(layer);
/// ```
pub async fn token_endpoint(parts: Parts) -> Response {
    static ENDPOINT: LazyLock<TokenEndpoint> = LazyLock::new(TokenEndpoint::new);
    ENDPOINT.answer(parts).await
}

/// Answers like [`token_endpoint`](crate::token_endpoint), with settings that say who may ask. A service: route it with
/// `post_service(endpoint)`.
///
/// # Who may ask
///
/// A request is answered if one of these is true, and refused with 403 otherwise:
///
/// | the request | because |
/// |---|---|
/// | has an `Origin` that was allowed with [`allow_origin`](Self::allow_origin) | the application says so |
/// | has `Sec-Fetch-Site: same-origin`, `same-site` or `none` | all browsers since 2023 say it over HTTPS |
/// | has no `Sec-Fetch-Site`, and an `Origin` with the server's own host | older browsers, and plain HTTP |
/// | has neither header | it is not from a browser, so it carries no user's cookies |
///
/// The server's own host is what `Host` says. Behind a proxy that changes `Host`, requests of older browsers are refused,
/// and the first refusal is logged. Then do one of these, best first:
///
/// 1. Let the proxy keep `Host`; in nginx, `proxy_set_header Host $http_host;`.
/// 2. Let the proxy tell the host in another header, and trust it: [`trust_proxy`](Self::trust_proxy).
/// 3. Name the origins of the pages: [`allow_origin`](Self::allow_origin).
///
/// # Example
///
/// ```
/// use tower_released::endpoint::TokenEndpoint;
///
/// let endpoint =
///     TokenEndpoint::new().allow_origin("https://app.example")?;
/// # Ok::<(), tower_released::endpoint::InvalidOrigin>(())
/// ```
#[must_use = "an endpoint does nothing until it is routed"]
#[derive(Clone, Debug, Default)]
pub struct TokenEndpoint {
    same_site: SameSite,
    /// Whether a refusal was logged that a proxy may have caused. All such refusals have the same cause.
    warned: Arc<Once>,
}

impl TokenEndpoint {
    /// Creates an endpoint that trusts only `Host`, as [`token_endpoint`](crate::token_endpoint) does.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the server's own host from a header that the proxy sets. Without the header, `Host` counts.
    ///
    /// Of several values, the last one counts: the one of the nearest proxy. `Forwarded` must name `host` there, and if it
    /// names `proto`, this must be the origin's scheme.
    ///
    /// # Security
    ///
    /// Trust the header only if the proxy sets or extends it in *every* request. Otherwise its client chooses it.
    pub fn trust_proxy(mut self, header: ProxyHeader) -> Self {
        self.same_site.proxy_header = Some(header);
        self
    }

    /// Answers pages of this origin, such as `https://app.example` or `http://localhost:5173`, also if their site is
    /// another one. Call it once for each origin.
    ///
    /// For a cross-origin page, the application must also have a CORS layer that allows credentials, and cookies with
    /// `SameSite=None` if the site is another one.
    ///
    /// # Errors
    ///
    /// [`InvalidOrigin`] if this is not `http` or `https`, a host and perhaps a port. There are no wildcards.
    pub fn allow_origin(mut self, origin: &str) -> Result<Self, InvalidOrigin> {
        self.same_site.allow(origin)?;
        Ok(self)
    }

    /// Answers a request with this head, for handlers of the application's own.
    pub async fn answer(&self, mut parts: Parts) -> Response {
        if parts.method != Method::POST {
            let mut response = failure(StatusCode::METHOD_NOT_ALLOWED, "Only POST is answered.");
            response
                .headers_mut()
                .insert(ALLOW, HeaderValue::from_static("POST"));
            return response;
        }
        if let Err(refusal) = self.same_site.check(&parts) {
            if let Refusal::OtherHost { origin, host } = &refusal {
                if self.warned.is_first() {
                    warn!(
                        ?origin,
                        ?host,
                        "refused a request for a token, because its Origin is not this server's host. If a proxy changes \
                         Host, let it keep Host, or use TokenEndpoint::trust_proxy or TokenEndpoint::allow_origin"
                    );
                }
            }
            return failure(StatusCode::FORBIDDEN, refusal.text());
        }
        match <AuthToken as FromRequestParts<()>>::from_request_parts(&mut parts, &()).await {
            Ok(token) => no_store(StatusCode::OK, &TokenReply::from(token)),
            Err(rejection) => {
                let mut response = no_store(rejection.status(), &ErrorReply::from(&rejection));
                rejection.insert_headers(response.headers_mut());
                response
            }
        }
    }
}

impl<B> Service<Request<B>> for TokenEndpoint {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (endpoint, (parts, _)) = (self.clone(), request.into_parts());
        Box::pin(async move { Ok(endpoint.answer(parts).await) })
    }
}

fn failure(status: StatusCode, text: &str) -> Response {
    no_store(status, &ErrorReply::new(text))
}

fn no_store(status: StatusCode, body: &impl Serialize) -> Response {
    // Neither of the two replies can fail to be written.
    let json = serde_json::to_vec(body).unwrap_or_default();
    let mut response = Response::new(Body::from(json));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
