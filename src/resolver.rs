//! Resolvers, which find the signed-in user of a request.

use std::any::type_name;
use std::fmt;
use std::future::{self, Future};
use std::sync::Arc;

use http::StatusCode;
use http::request::Parts;
use tower::BoxError;

use crate::telemetry::debug;
use crate::user::User;

/// Finds the signed-in user of a request, from its head.
///
/// Most applications use a ready-made resolver: [`from_extension`] reads what an authentication layer left in the
/// request's extensions, [`from_extractor`](crate::from_extractor) runs an axum extractor, and [`resolver_fn`] calls a
/// closure. If `R` is a resolver, `Arc<R>` is one, too.
///
/// # Example
///
/// ```
/// use http::request::Parts;
/// use tower_released::{BoxError, User, UserResolver};
/// # #[derive(Clone)] struct Accounts;
/// # impl Accounts { async fn by_session(&self, _: String) -> Result<Option<(String, String)>, std::io::Error> { Ok(None) } }
///
/// struct BySession {
///     accounts: Accounts,
/// }
///
/// type Found = Result<Option<User>, BoxError>;
///
/// impl UserResolver for BySession {
///     type Error = BoxError;
///
///     fn resolve(
///         &self,
///         parts: &Parts,
///     ) -> impl Future<Output = Found> + Send + 'static {
///         // Copy what the future needs: it may outlive the borrows.
///         let session = parts.headers.get("x-session");
///         let session = session.and_then(|id| id.to_str().ok());
///         let session = session.map(str::to_owned);
///         let accounts = self.accounts.clone();
///         async move {
///             let Some(session) = session else { return Ok(None) };
///             let account = accounts.by_session(session).await?;
///             let Some((id, email)) = account else { return Ok(None) };
///             Ok(Some(User::new(id, email)?))
///         }
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not find the signed-in user: it is not a `UserResolver`",
    label = "not a `UserResolver`",
    note = "a closure becomes a resolver in `resolver_fn(|parts: &Parts| ..)`, or in `from_extension(|user: &YourUser| ..)` \
            if an authentication layer leaves `YourUser` in the request's extensions",
    note = "with feature `axum`, `from_extractor(state, |user: YourExtractor| ..)` runs an extractor"
)]
pub trait UserResolver: Send + Sync + 'static {
    /// The error of the resolver. It becomes the source of a [`MintError`](crate::MintError), which never prints it,
    /// because it may name a person. Log it in the resolver if you want to see it.
    type Error: Into<BoxError>;

    /// Finds the user who sent this request. `Ok(None)` means that nobody is signed in.
    ///
    /// Copy what is needed from `parts` before the future starts, and do slow work in the future. The future may be
    /// polled late, alongside the handler, or never.
    ///
    /// # Errors
    ///
    /// The resolver's own error. The mint then fails with [`MintErrorKind::Resolver`](crate::MintErrorKind::Resolver),
    /// or with [`MintErrorKind::InvalidUser`](crate::MintErrorKind::InvalidUser) if the error is an
    /// [`InvalidUser`](crate::InvalidUser).
    ///
    /// # Cancel safety
    ///
    /// The future is dropped with the request, at any of its awaits.
    fn resolve(
        &self,
        parts: &Parts,
    ) -> impl Future<Output = Result<Option<User>, Self::Error>> + Send + 'static;
}

impl<R: UserResolver> UserResolver for Arc<R> {
    type Error = R::Error;

    fn resolve(
        &self,
        parts: &Parts,
    ) -> impl Future<Output = Result<Option<User>, Self::Error>> + Send + 'static {
        R::resolve(self, parts)
    }
}

/// Why `from_extractor` cannot find the user. Its text holds no data of the request.
#[derive(Debug)]
#[cfg_attr(not(feature = "axum"), allow(dead_code))]
pub(crate) struct ExtractorRejected {
    pub(crate) extractor: &'static str,
    pub(crate) status: StatusCode,
}

impl fmt::Display for ExtractorRejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { extractor, status } = self;
        write!(
            f,
            "the extractor `{extractor}` rejected the request with {}; check that the layer which it needs is there, and \
             outside of the ReleasedTokenLayer",
            status.as_u16()
        )
    }
}

impl std::error::Error for ExtractorRejected {}

/// Converts what the closure of a ready-made resolver returns: a [`User`], or an `Option` or `Result` of one, nested as
/// you like.
///
/// `None` means that nobody is signed in. An error can be anything that is `Into<BoxError>`, such as
/// [`InvalidUser`](crate::InvalidUser). Implement the trait for your own type if many resolvers return it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say who is signed in",
    label = "expected a `User`, or an `Option` or `Result` of one",
    note = "`User::new(id, email)` returns a `Result` that a resolver's closure can return as it is",
    note = "the closure of `from_extension` returns it; those of `resolver_fn` and `from_extractor` return a future of it"
)]
pub trait IntoUser {
    /// Returns the signed-in user, or `None` if nobody is signed in.
    ///
    /// # Errors
    ///
    /// The error of a `Result`.
    fn into_user(self) -> Result<Option<User>, BoxError>;
}

impl IntoUser for User {
    fn into_user(self) -> Result<Option<User>, BoxError> {
        Ok(Some(self))
    }
}

impl<T: IntoUser> IntoUser for Option<T> {
    fn into_user(self) -> Result<Option<User>, BoxError> {
        self.map_or(Ok(None), T::into_user)
    }
}

impl<T: IntoUser, E: Into<BoxError>> IntoUser for Result<T, E> {
    fn into_user(self) -> Result<Option<User>, BoxError> {
        self.map_err(Into::into)?.into_user()
    }
}

/// Creates a resolver from a closure that gets the request's head and returns a future.
///
/// The future returns the signed-in user ([`IntoUser`]). An error that it returns is never logged, because it may name
/// a person: log it in the closure.
///
/// The e-mail address is an authorisation key: vouch only for an address that the user has confirmed. See
/// [who may be vouched for](crate::docs::vouching).
///
/// # What the future may hold
///
/// The future must own what it needs:
///
/// - Copy out of `parts` before `async move`. `async |parts: &Parts|` does not compile, because its future borrows
///   `parts`.
/// - Clone a captured database handle for each call.
/// - If there is nothing to await, return [`std::future::ready`].
///
/// # Example
///
/// ```
/// use http::request::Parts;
/// use std::future::ready;
/// use tower_released::{User, UserId, resolver_fn};
/// # #[derive(Clone)] struct Accounts;
/// # impl Accounts {
/// #     async fn by_session(&self, _: String) -> Option<(String, String)> { None }
/// # }
/// # let accounts = Accounts;
///
/// let resolver = resolver_fn(move |parts: &Parts| {
///     let session = parts.headers.get("x-session");
///     let session = session.and_then(|id| id.to_str().ok()).map(str::to_owned);
///     let accounts = accounts.clone();
///     async move {
///         let (id, email) = accounts.by_session(session?).await?;
///         Some(User::new(id, email))
///     }
/// });
/// # fn is_resolver(_: impl tower_released::UserResolver) {} is_resolver(resolver);
///
/// // Behind a proxy that authenticates, there is nothing to await. The proxy
/// // must remove this header from the requests that it receives.
/// let resolver = resolver_fn(|parts: &Parts| {
///     let email = parts.headers.get("x-auth-email");
///     let email = email.and_then(|email| email.to_str().ok());
///     ready(email.map(|email| User::new(UserId::encode(email), email)))
/// });
/// # is_resolver(resolver);
/// ```
pub fn resolver_fn<F, Fut>(f: F) -> impl UserResolver<Error = BoxError>
where
    F: Fn(&Parts) -> Fut + Send + Sync + 'static,
    Fut: Future<Output: IntoUser> + Send + 'static,
{
    Resolver(move |parts: &Parts| {
        let user = f(parts);
        async move { user.await.into_user() }
    })
}

/// Creates a resolver that reads a `T` from the request's extensions, where authentication layers leave their user.
///
/// If the extensions hold no `T`, nobody is signed in, and the closure is not called. To await something, use
/// [`resolver_fn`].
///
/// The e-mail address is an authorisation key: vouch only for an address that the user has confirmed. See
/// [who may be vouched for](crate::docs::vouching).
///
/// # Example
///
/// ```
/// use tower_released::{User, from_extension};
///
/// #[derive(Clone)]
/// struct CurrentUser {
///     id: String,
///     email: String,
/// }
///
/// let vouch = |user: &CurrentUser| User::new(&user.id, &user.email);
/// let resolver = from_extension(vouch);
/// # fn is_resolver(_: impl tower_released::UserResolver) {} is_resolver(resolver);
/// ```
pub fn from_extension<T, F, U>(user: F) -> impl UserResolver<Error = BoxError>
where
    T: Send + Sync + 'static,
    F: Fn(&T) -> U + Send + Sync + 'static,
    U: IntoUser,
{
    Resolver(move |parts: &Parts| {
        let extension = parts.extensions.get::<T>();
        if extension.is_none() {
            debug!(
                extension = type_name::<T>(),
                "this extension is missing: nobody is signed in, or the ReleasedTokenLayer is outside of the authentication layer"
            );
        }
        future::ready(extension.map(&user).into_user())
    })
}

/// A ready-made resolver: a closure that returns a future of the user.
pub(crate) struct Resolver<F>(pub(crate) F);

impl<F, Fut> UserResolver for Resolver<F>
where
    F: Fn(&Parts) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Option<User>, BoxError>> + Send + 'static,
{
    type Error = BoxError;

    fn resolve(
        &self,
        parts: &Parts,
    ) -> impl Future<Output = Result<Option<User>, BoxError>> + Send + 'static {
        (self.0)(parts)
    }
}
