//! The handler that returns a token as JSON.

use axum_core::body::Body;
use axum_core::extract::FromRequestParts;
use axum_core::response::Response;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderName, ORIGIN};
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode};
use serde::Serialize;

use crate::token::AuthToken;

/// Answers `POST` with a token, for pages that the browser puts together.
///
/// Route it with `post(token_endpoint)` behind the layer. The token is for the user that the resolver finds; the
/// request's body is ignored.
///
/// | answer | when |
/// |---|---|
/// | `200 {"token": "…", "expires_in": 119}` | there is a token; `expires_in` is the time left in whole seconds, because browsers' clocks may be wrong |
/// | `401 {"error": "…"}` | nobody is signed in |
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
pub async fn token_endpoint(mut parts: Parts) -> Response {
    if parts.method != Method::POST {
        let mut response = no_store(
            StatusCode::METHOD_NOT_ALLOWED,
            &Failure {
                error: "Only POST is answered.",
            },
        );
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("POST"));
        return response;
    }
    if is_cross_site(&parts) {
        return no_store(
            StatusCode::FORBIDDEN,
            &Failure {
                error: "Another site may not ask for a token.",
            },
        );
    }
    match <AuthToken as FromRequestParts<()>>::from_request_parts(&mut parts, &()).await {
        Ok(token) => {
            let expires_in = token.remaining().as_secs();
            no_store(StatusCode::OK, &Minted { token, expires_in })
        }
        Err(rejection) => {
            let mut response = no_store(
                rejection.status(),
                &Failure {
                    error: &rejection.body_text(),
                },
            );
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

/// Returns whether a browser says that a page of another site sent this request, or says something invalid. Callers
/// that are not browsers send neither header, and carry no user's cookies.
///
/// Browsers without fetch metadata say only whether the origin is the same, so for them, sibling hosts are refused.
fn is_cross_site(parts: &Parts) -> bool {
    const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
    let mut sites = parts.headers.get_all(SEC_FETCH_SITE).iter();
    if let Some(site) = sites.next() {
        return sites.next().is_some()
            || !["same-origin", "same-site", "none"]
                .iter()
                .any(|good| site == good);
    }
    let Some(origin) = parts.headers.get(ORIGIN) else {
        return false;
    };
    let host = match parts.uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => parts.headers.get(HOST).and_then(|host| host.to_str().ok()),
    };
    // `Origin: null` has no scheme, and is of no site.
    let origin = origin
        .to_str()
        .ok()
        .and_then(|origin| origin.split_once("://"));
    let (Some((scheme, origin)), Some(host)) = (origin, host) else {
        return true;
    };
    // Browsers leave a scheme's own port out, some proxies add it.
    let own_port = if scheme == "https" { ":443" } else { ":80" };
    !origin.eq_ignore_ascii_case(host.strip_suffix(own_port).unwrap_or(host))
}
