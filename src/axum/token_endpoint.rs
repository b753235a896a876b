//! The endpoint for pages that are put together in the browser.

use axum_core::body::Body;
use axum_core::extract::FromRequestParts;
use axum_core::response::Response;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderName, ORIGIN};
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode};
use serde::Serialize;

use crate::token::AuthToken;

/// Answers `POST` with a token, for pages that are put together in the browser.
///
/// Route it with `post(token_endpoint)` behind the layer. The person is whom the resolver finds, never what the body
/// says.
///
/// | answer | when |
/// |---|---|
/// | `200 {"token": "…", "expires_in": 119}` | whole seconds left; not an absolute time, because browsers' clocks lie |
/// | `401 {"error": "…"}` | nobody is signed in |
/// | `403 {"error": "…"}` | another site called (`Sec-Fetch-Site`, or else `Origin` against `Host`) |
/// | `405` | it was not `POST`; `post(..)` answers that itself, without JSON |
/// | `502`, `503`, `504 {"error": "…"}` | Released is failing, see [`AuthTokenRejection::status`] |
/// | `500 {"error": "…"}` | something is wrong at this end |
///
/// No cache keeps an answer: each says `no-store`.
///
/// Give it a layer of its own with [`MintTiming::OnExtraction`](crate::MintTiming::OnExtraction), so that nothing is minted
/// for what it refuses; without the filter [`navigations`](crate::navigations), because what a script fetches is none; and
/// without `reject_without_token`, which would answer first, and without JSON.
///
/// # Example
///
/// ```
/// use axum::{Router, routing::post};
/// use tower_released::{MintTiming, ReleasedTokenLayer, User, from_extension, token_endpoint};
/// # use tower_released::{AuthToken, MintError};
/// # #[derive(Clone)] struct CurrentUser { id: String, email: String }
/// # let released = tower::service_fn(|_: User| async { AuthToken::new("t").map_err(MintError::from) });
///
/// let vouch = |user: &CurrentUser| User::new(&user.id, &user.email);
/// let layer = ReleasedTokenLayer::new(released, from_extension(vouch)).timing(MintTiming::OnExtraction);
/// let app: Router = Router::new().route("/api/released-token", post(token_endpoint)).route_layer(layer);
/// ```
pub async fn token_endpoint(mut parts: Parts) -> Response {
    if parts.method != Method::POST {
        let mut response = no_store(StatusCode::METHOD_NOT_ALLOWED, &Failure { error: "Only POST is answered." });
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        return response;
    }
    if is_cross_site(&parts) {
        return no_store(StatusCode::FORBIDDEN, &Failure { error: "Another site may not ask for a token." });
    }
    match <AuthToken as FromRequestParts<()>>::from_request_parts(&mut parts, &()).await {
        Ok(token) => {
            let expires_in = token.remaining().as_secs();
            no_store(StatusCode::OK, &Minted { token, expires_in })
        }
        Err(rejection) => {
            let mut response = no_store(rejection.status(), &Failure { error: &rejection.body_text() });
            rejection.insert_headers(response.headers_mut());
            response
        }
    }
}

#[derive(Serialize)]
struct Minted {
    token: AuthToken,
    expires_in: u64,
}

#[derive(Serialize)]
struct Failure<'a> {
    error: &'a str,
}

fn no_store(status: StatusCode, body: &impl Serialize) -> Response {
    // Neither of the two structs can fail to be written.
    let json = serde_json::to_vec(body).unwrap_or_default();
    let mut response = Response::new(Body::from(json));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Whether a browser says that a page of another site sent this, or says nothing that makes sense. Callers that are no
/// browsers say nothing at all, and carry nobody's cookies.
///
/// Browsers without fetch metadata tell only whether the origin is the same, so there, sibling hosts are refused.
fn is_cross_site(parts: &Parts) -> bool {
    const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
    let mut sites = parts.headers.get_all(SEC_FETCH_SITE).iter();
    if let Some(site) = sites.next() {
        return sites.next().is_some() || !["same-origin", "same-site", "none"].iter().any(|good| site == good);
    }
    let Some(origin) = parts.headers.get(ORIGIN) else { return false };
    let host = match parts.uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => parts.headers.get(HOST).and_then(|host| host.to_str().ok()),
    };
    // `Origin: null` has no scheme, and is of no site.
    let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    let (Some((scheme, origin)), Some(host)) = (origin, host) else { return true };
    // Browsers leave a scheme's own port out, some proxies add it.
    let own_port = if scheme == "https" { ":443" } else { ":80" };
    !origin.eq_ignore_ascii_case(host.strip_suffix(own_port).unwrap_or(host))
}
