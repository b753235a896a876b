//! A resolver that runs an extractor.

use std::any::type_name;

use axum_core::extract::FromRequestParts;
use axum_core::response::IntoResponse;
use http::StatusCode;
use http::request::Parts;
use tower::BoxError;

use crate::resolver::{ExtractorRejected, IntoUser, Resolver, UserResolver};

/// Makes a resolver from any axum extractor, such as axum-login's `AuthSession` or tower-sessions' `Session`.
///
/// `state` is what the extractor takes from the application's state; `()` for most. If the extractor rejects with 401, 403 or
/// a redirection, nobody is signed in; any other rejection is an error of the resolver. The closure takes the extractor by
/// value and returns a future of who is signed in ([`IntoUser`]).
///
/// A rejection with another status most often means that the layer which the extractor needs is missing, or that it is
/// inside of the [`ReleasedTokenLayer`](crate::ReleasedTokenLayer): the warning names the extractor and the status. What the
/// closure returns as an error is never logged, because it may name a person: log it in the closure.
///
/// Every mint runs the extractor on a copy of the request's head, extensions included, because the resolver may run
/// beside the handler. What the extractor changes in the copy is lost.
///
/// A database handle that the closure captures must be cloned for each call: `move |session: Session| { let db = db.clone();
/// async move { .. } }`.
///
/// # Example
///
/// ```
/// use axum::extract::FromRequestParts;
/// use tower_released::{BoxError, User, from_extractor};
/// # use axum::http::{StatusCode, request::Parts};
/// # #[derive(Clone)] struct Account { id: String, email: String }
/// # struct AuthSession { user: Option<Account> }
/// # impl<S: Send + Sync> FromRequestParts<S> for AuthSession {
/// #     type Rejection = StatusCode;
/// #     async fn from_request_parts(_: &mut Parts, _: &S) -> Result<Self, StatusCode> {
/// #         Ok(AuthSession { user: None })
/// #     }
/// # }
/// # type Session = AuthSession;
/// # impl Session {
/// #     async fn get<T>(&self, _: &str) -> Result<Option<Account>, std::io::Error> { Ok(None) }
/// # }
/// # fn is_resolver(_: impl tower_released::UserResolver) {}
///
/// let resolver = from_extractor((), async |session: AuthSession| {
///     session.user.map(|account| User::new(account.id, account.email))
/// });
/// # is_resolver(resolver);
///
/// let resolver = from_extractor((), async |session: Session| {
///     let account = session.get::<Account>("account").await?;
///     Ok::<_, BoxError>(account.map(|account| User::new(account.id, account.email)))
/// });
/// # is_resolver(resolver);
/// ```
pub fn from_extractor<E, S, F, Fut>(state: S, f: F) -> impl UserResolver<Error = BoxError>
where
    E: FromRequestParts<S> + Send + 'static,
    S: Clone + Send + Sync + 'static,
    F: Fn(E) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output: IntoUser> + Send + 'static,
{
    Resolver(move |parts: &Parts| {
        let (mut parts, state, f) = (parts.clone(), state.clone(), f.clone());
        async move {
            // Mapped at once: a rejection need not be `Send`, so it must not live across the next await.
            let extracted =
                E::from_request_parts(&mut parts, &state).await.map_err(|rejection| rejection.into_response().status());
            match extracted {
                Ok(extracted) => f(extracted).await.into_user(),
                Err(status) if means_nobody(status) => Ok(None),
                Err(status) => Err(ExtractorRejected { extractor: type_name::<E>(), status }.into()),
            }
        }
    })
}

/// Whether an extractor's rejection says that nobody is signed in. The response is not looked into: it may hold anything.
fn means_nobody(status: StatusCode) -> bool {
    status.is_redirection() || matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
}
