//! Extractors, a resolver that runs extractors, and the token endpoint; on axum-core alone.

use std::any::type_name;
use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;

use axum_core::body::Body;
use axum_core::extract::{FromRequestParts, OptionalFromRequestParts};
use axum_core::response::{IntoResponse, Response};
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderName, ORIGIN};
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode};
use serde::Serialize;
use tower::BoxError;

use crate::pending::PendingToken;
use crate::rejection::AuthTokenRejection;
use crate::resolver::{ExtractorRejected, IntoUser, UserResolver};
use crate::skipped;
use crate::telemetry::warn;
use crate::token::AuthToken;
use crate::user::User;

/// Waits for the request's token, and rejects the request if there is none.
///
/// Take `Option<AuthToken>` for pages that have to work without one, and `Result<AuthToken, AuthTokenRejection>` to know
/// why.
impl<S: Send + Sync> FromRequestParts<S> for AuthToken {
    type Rejection = AuthTokenRejection;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, AuthTokenRejection> {
        match pending(parts)?.get().await {
            Ok(Some(token)) => Ok(token),
            Ok(None) => Err(AuthTokenRejection::Anonymous),
            Err(error) => Err(AuthTokenRejection::Mint(error)),
        }
    }
}

/// `None` if nobody is signed in, the filter passed the request over, or the mint failed, which was logged; a page must
/// survive an outage of Released. A missing layer is still rejected.
impl<S: Send + Sync> OptionalFromRequestParts<S> for AuthToken {
    type Rejection = AuthTokenRejection;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Option<Self>, AuthTokenRejection> {
        match <Self as FromRequestParts<S>>::from_request_parts(parts, state).await {
            Err(missing @ AuthTokenRejection::MissingLayer) => Err(missing),
            token => Ok(token.ok()),
        }
    }
}

/// Takes the promise of the token without waiting for it.
impl<S: Send + Sync> FromRequestParts<S> for PendingToken {
    type Rejection = AuthTokenRejection;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, AuthTokenRejection> {
        pending(parts)
    }
}

/// `None` if the filter passed the request over.
impl<S: Send + Sync> OptionalFromRequestParts<S> for PendingToken {
    type Rejection = AuthTokenRejection;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, AuthTokenRejection> {
        match pending(parts) {
            Err(missing @ AuthTokenRejection::MissingLayer) => Err(missing),
            pending => Ok(pending.ok()),
        }
    }
}

fn pending(parts: &Parts) -> Result<PendingToken, AuthTokenRejection> {
    match parts.extensions.get::<PendingToken>() {
        Some(pending) => Ok(pending.clone()),
        None if skipped::is_marked(&parts.extensions) => Err(AuthTokenRejection::Skipped),
        None => Err(AuthTokenRejection::MissingLayer),
    }
}

impl IntoResponse for AuthTokenRejection {
    fn into_response(self) -> Response {
        if matches!(self, Self::MissingLayer | Self::Skipped) {
            warn!("a handler asked for an auth token that it cannot have: {self}");
        }
        let mut response = (self.status(), self.body_text()).into_response();
        self.insert_headers(response.headers_mut());
        response
    }
}

/// Makes a resolver of any axum extractor, such as axum-login's `AuthSession` or tower-sessions' `Session`.
///
/// `state` is what the extractor takes from the application's state; `()` for most. If it rejects with 401, 403 or a
/// redirection, nobody is signed in; any other rejection is an error of the resolver. The closure returns who is signed
/// in ([`IntoUser`]), or a boxed future of that.
///
/// A rejection with another status most often means that the layer which the extractor needs is missing, or that it is
/// inside of the [`ReleasedTokenLayer`](crate::ReleasedTokenLayer): the warning names the extractor and the status. What the
/// closure returns as an error is never logged, because it may name a person: log it in the closure.
///
/// Every mint runs the extractor on a copy of the request's head, extensions included, because the resolver may run
/// beside the handler. What the extractor changes in the copy is lost.
///
/// # Example
///
/// ```
/// use axum::extract::FromRequestParts;
/// use tower_released::{User, from_extractor};
/// # use axum::http::{StatusCode, request::Parts};
/// # #[derive(Clone)] struct Account { id: String, email: String }
/// # struct AuthSession { user: Option<Account> }
/// # impl<S: Send + Sync> FromRequestParts<S> for AuthSession {
/// #     type Rejection = StatusCode;
/// #     async fn from_request_parts(_: &mut Parts, _: &S) -> Result<Self, StatusCode> { Ok(AuthSession { user: None }) }
/// # }
/// # type Session = AuthSession;
/// # impl Session { async fn get<T>(&self, _: &str) -> Result<Option<Account>, std::io::Error> { Ok(None) } }
/// # fn is_resolver(_: impl tower_released::UserResolver) {}
///
/// let resolver = from_extractor((), |session: AuthSession| {
///     session.user.map(|account| User::new(account.id, account.email))
/// });
/// # is_resolver(resolver);
///
/// // What has to be awaited goes into a boxed future.
/// let resolver = from_extractor((), |session: Session| {
///     Box::pin(async move {
///         let account = session.get::<Account>("account").await?;
///         Ok::<_, tower::BoxError>(account.map(|account| User::new(account.id, account.email)))
///     })
/// });
/// # is_resolver(resolver);
/// ```
pub fn from_extractor<E, S>(
    state: S,
    closure: impl ExtractedUser<E> + Clone + Send + 'static,
) -> impl UserResolver<Error = BoxError> + Clone + fmt::Debug
where
    E: FromRequestParts<S> + Send + 'static,
    S: Clone + Send + Sync + 'static,
{
    FromExtractor { state, closure, extractor: PhantomData }
}

/// A closure from what an extractor found to who that is; what [`from_extractor`] takes.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not turn the extractor `{E}` into a user",
    label = "expected a closure `|extracted: {E}| ..` that returns a `User`, or an `Option` or `Result` of one",
    note = "what has to be awaited goes into `Box::pin(async move {{ .. }})`"
)]
pub trait ExtractedUser<E>: Fn(E) -> <Self as ExtractedUser<E>>::Output {
    /// What the closure returns.
    type Output: NowOrBoxed + Send;
}

impl<E, F, O> ExtractedUser<E> for F
where
    F: Fn(E) -> O,
    O: NowOrBoxed + Send,
{
    type Output = O;
}

/// Who is signed in, or a boxed future of that; what [`from_extractor`]'s closure returns.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say who is signed in",
    label = "expected a `User`, or an `Option` or `Result` of one",
    note = "what has to be awaited goes into `Box::pin(async move {{ .. }})`"
)]
pub trait NowOrBoxed {
    /// Tells who is signed in.
    fn resolved(self) -> impl Future<Output = Result<Option<User>, BoxError>> + Send;
}

// Not for every `T: IntoUser`: a `Pin<Box<_>>` could be one in another crate.
impl NowOrBoxed for User {
    async fn resolved(self) -> Result<Option<User>, BoxError> {
        self.into_user()
    }
}

impl<T: IntoUser + Send> NowOrBoxed for Option<T> {
    async fn resolved(self) -> Result<Option<User>, BoxError> {
        self.into_user()
    }
}

impl<T: IntoUser + Send, E: Into<BoxError> + Send> NowOrBoxed for Result<T, E> {
    async fn resolved(self) -> Result<Option<User>, BoxError> {
        self.into_user()
    }
}

impl<F> NowOrBoxed for Pin<Box<F>>
where
    F: Future<Output: IntoUser> + Send + ?Sized,
{
    async fn resolved(self) -> Result<Option<User>, BoxError> {
        self.await.into_user()
    }
}

struct FromExtractor<E, S, F> {
    state: S,
    closure: F,
    extractor: PhantomData<fn() -> E>,
}

impl<E, S: Clone, F: Clone> Clone for FromExtractor<E, S, F> {
    fn clone(&self) -> Self {
        Self { state: self.state.clone(), closure: self.closure.clone(), extractor: PhantomData }
    }
}

impl<E, S, F> fmt::Debug for FromExtractor<E, S, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FromExtractor").finish_non_exhaustive()
    }
}

impl<E, S, F> UserResolver for FromExtractor<E, S, F>
where
    E: FromRequestParts<S> + Send + 'static,
    S: Clone + Send + Sync + 'static,
    F: ExtractedUser<E> + Clone + Send + 'static,
{
    type Error = BoxError;

    fn resolve(&self, parts: &Parts) -> impl Future<Output = Result<Option<User>, BoxError>> + Send + 'static {
        let mut parts = parts.clone();
        let state = self.state.clone();
        let closure = self.closure.clone();
        async move {
            // Mapped at once: a rejection need not be `Send`, so it must not live across the next await.
            let extracted =
                E::from_request_parts(&mut parts, &state).await.map_err(|rejection| rejection.into_response().status());
            match extracted {
                Ok(extracted) => closure(extracted).resolved().await,
                Err(status) if means_nobody(status) => Ok(None),
                Err(status) => Err(ExtractorRejected { extractor: type_name::<E>(), status }.into()),
            }
        }
    }
}

/// Whether an extractor's rejection says that nobody is signed in. The response is not looked into: it may hold anything.
fn means_nobody(status: StatusCode) -> bool {
    status.is_redirection() || matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
}

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
