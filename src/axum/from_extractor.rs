//! A resolver that runs an extractor.

use std::any::type_name;

use axum_core::extract::FromRequestParts;
use axum_core::response::IntoResponse;
use http::StatusCode;
use http::request::Parts;
use tower::BoxError;

use crate::resolver::{ExtractorRejected, IntoUser, Resolver, UserResolver};

/// Creates a resolver that runs an axum extractor, such as axum-login's `AuthSession` or tower-sessions' `Session`.
///
/// `state` is the application's state for the extractor, and `()` for most. The closure takes the extractor by value
/// and returns a future of the signed-in user ([`IntoUser`]).
///
/// The e-mail address is an authorisation key: vouch only for an address that the user has confirmed. See
/// [who may be vouched for](crate::docs::vouching).
///
/// # Rejections
///
/// If the extractor rejects with 401, 403 or a redirection, nobody is signed in. Any other rejection is an error of the
/// resolver, and a warning names the extractor and the status. Most often the layer that the extractor needs is
/// missing, or inside of the [`ReleasedTokenLayer`](crate::ReleasedTokenLayer).
///
/// An error that the closure returns is never logged, because it may name a person: log it in the closure.
///
/// # Copies
///
/// Every mint runs the extractor on a copy of the request's head and its extensions, because the resolver may run
/// alongside the handler. Changes that the extractor makes to the copy are lost.
///
/// Clone a captured database handle for each call:
/// `move |session: Session| { let db = db.clone(); async move { .. } }`.
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
///     session.user.map(|user| User::new(user.id, user.email))
/// });
/// # is_resolver(resolver);
///
/// let resolver = from_extractor((), async |session: Session| {
///     let account = session.get::<Account>("account").await?;
///     let user = account.map(|user| User::new(user.id, user.email));
///     Ok::<_, BoxError>(user)
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
            let extracted = E::from_request_parts(&mut parts, &state)
                .await
                .map_err(|rejection| rejection.into_response().status());
            match extracted {
                Ok(extracted) => f(extracted).await.into_user(),
                Err(status) if means_nobody(status) => Ok(None),
                Err(status) => Err(ExtractorRejected {
                    extractor: type_name::<E>(),
                    status,
                }
                .into()),
            }
        }
    })
}

/// Returns whether an extractor's rejection means that nobody is signed in. Its body is not read: it may hold anything.
fn means_nobody(status: StatusCode) -> bool {
    status.is_redirection() || matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
}
