//! The extractors of `AuthToken` and `PendingToken`.

use axum_core::extract::{FromRequestParts, OptionalFromRequestParts};
use axum_core::response::{IntoResponse, Response};
use http::request::Parts;

use crate::filter::Skipped;
use crate::pending::PendingToken;
use crate::rejection::AuthTokenRejection;
use crate::telemetry::{debug, warn};
use crate::token::AuthToken;

/// Waits for the request's token, and rejects the request if there is none.
///
/// Take `Option<AuthToken>` for pages that must work without a token. Take `Result<AuthToken, AuthTokenRejection>` to
/// know why there is none.
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

/// Waits for the request's token. Returns `None` if nobody is signed in, the filter skipped the request, or the mint
/// failed, which the layer has logged. A missing layer is still rejected.
impl<S: Send + Sync> OptionalFromRequestParts<S> for AuthToken {
    type Rejection = AuthTokenRejection;

    async fn from_request_parts(
        parts: &mut Parts,
        state: &S,
    ) -> Result<Option<Self>, AuthTokenRejection> {
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

/// Takes the promise of the token. Returns `None` if the filter skipped the request.
impl<S: Send + Sync> OptionalFromRequestParts<S> for PendingToken {
    type Rejection = AuthTokenRejection;

    async fn from_request_parts(
        parts: &mut Parts,
        _: &S,
    ) -> Result<Option<Self>, AuthTokenRejection> {
        match pending(parts) {
            Err(missing @ AuthTokenRejection::MissingLayer) => Err(missing),
            pending => Ok(pending.ok()),
        }
    }
}

fn pending(parts: &Parts) -> Result<PendingToken, AuthTokenRejection> {
    match parts.extensions.get::<PendingToken>() {
        Some(pending) => Ok(pending.clone()),
        None if parts.extensions.get::<Skipped>().is_some() => Err(AuthTokenRejection::Skipped),
        None => Err(AuthTokenRejection::MissingLayer),
    }
}

impl IntoResponse for AuthTokenRejection {
    fn into_response(self) -> Response {
        match self {
            Self::MissingLayer => {
                warn!("a handler asked for an auth token that it cannot have: {self}");
            }
            // Anybody can send the headers that the filter goes by.
            Self::Skipped => {
                debug!("a handler asked for an auth token that it cannot have: {self}");
            }
            Self::Anonymous | Self::Mint(_) => {}
        }
        let mut response = (self.status(), self.body_text()).into_response();
        self.insert_headers(response.headers_mut());
        response
    }
}
