//! Who is signed in: from a request to a [`User`].

use std::any::type_name;
use std::fmt;
use std::future::{self, Future};
use std::marker::PhantomData;
use std::sync::Arc;

use http::StatusCode;
use http::request::Parts;
use tower::BoxError;

use crate::telemetry::debug;
use crate::user::User;

/// Tells who is signed in, from a request's head.
///
/// Most applications need none of their own: [`from_extension`] reads what an authentication layer left in the
/// request's extensions, [`from_extractor`](crate::from_extractor) runs any axum extractor, and [`resolver_fn`] takes
/// a closure. `Arc<R>` is a resolver where `R` is.
///
/// # Example
///
/// ```
/// use http::request::Parts;
/// use tower_released::{User, UserResolver};
/// # #[derive(Clone)] struct Accounts;
/// # impl Accounts { async fn by_session(&self, _: String) -> Result<Option<(String, String)>, std::io::Error> { Ok(None) } }
///
/// struct BySession {
///     accounts: Accounts,
/// }
///
/// impl UserResolver for BySession {
///     type Error = tower::BoxError;
///
///     fn resolve(
///         &self,
///         parts: &Parts,
///     ) -> impl Future<Output = Result<Option<User>, Self::Error>> + Send + 'static {
///         // Copy now what the future needs: it may outlive the borrows.
///         let session = parts.headers.get("x-session").and_then(|id| id.to_str().ok()).map(str::to_owned);
///         let accounts = self.accounts.clone();
///         async move {
///             let Some(session) = session else { return Ok(None) };
///             let Some((id, email)) = accounts.by_session(session).await? else { return Ok(None) };
///             Ok(Some(User::new(id, email)?))
///         }
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not tell who is signed in: it is not a `UserResolver`",
    label = "not a `UserResolver`",
    note = "a closure becomes a resolver in `resolver_fn(|parts: &Parts| ..)`, or in `from_extension(|user: &YourUser| ..)` \
            if an authentication layer leaves `YourUser` in the request's extensions",
    note = "with feature `axum`, `from_extractor(state, |user: YourExtractor| ..)` runs an extractor"
)]
pub trait UserResolver {
    /// Why the resolver failed. It becomes the source of a [`MintError`](crate::MintError), which never prints it: it may
    /// name a person. Log it in the resolver if you want to see it.
    type Error: Into<BoxError>;

    /// Tells who sent this request; `Ok(None)` if nobody is signed in.
    ///
    /// Copy what is needed from `parts` now, and do slow work in the future: it may be polled late, beside the
    /// handler, or never. It is dropped with the request, at any of its awaits.
    fn resolve(&self, parts: &Parts) -> impl Future<Output = Result<Option<User>, Self::Error>> + Send + 'static;
}

impl<R: UserResolver + ?Sized> UserResolver for Arc<R> {
    type Error = R::Error;

    fn resolve(&self, parts: &Parts) -> impl Future<Output = Result<Option<User>, Self::Error>> + Send + 'static {
        R::resolve(self, parts)
    }
}

/// Why `from_extractor` cannot tell who is signed in. Its text holds no data of the request.
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

/// What the closure of a ready-made resolver may return: a [`User`], or an `Option` or `Result` of one, nested as you
/// like.
///
/// `None` is nobody, and any error that is `Into<BoxError>` will do, [`InvalidUser`](crate::InvalidUser) among them.
/// Implement it for your own type if many resolvers return it, which for `from_extractor` goes into an `Option`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say who is signed in",
    label = "expected a `User`, or an `Option` or `Result` of one",
    note = "`User::new(id, email)` returns a `Result` that a resolver's closure can return as it is",
    note = "a closure that has to await something is for `resolver_fn`"
)]
pub trait IntoUser {
    /// Tells who is signed in, if anybody.
    ///
    /// # Errors
    ///
    /// Whatever kept it from being told.
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

/// Makes a resolver of a closure over the request's head.
///
/// The closure returns who is signed in ([`IntoUser`]), or a future of that. The future must own what it needs. An error
/// that it returns is never logged, because it may name a person: log it in the closure.
///
/// # Example
///
/// ```
/// use http::request::Parts;
/// use tower_released::{InvalidUser, User, resolver_fn};
/// # async fn account_of(_: String) -> Option<(String, String)> { None }
///
/// let resolver = resolver_fn(|parts: &Parts| {
///     let session = parts.headers.get("x-session").and_then(|id| id.to_str().ok()).map(str::to_owned);
///     async move {
///         let Some((id, email)) = account_of(session?).await else { return None };
///         Some(User::new(id, email))
///     }
/// });
/// # fn is_resolver(_: impl tower_released::UserResolver) {} is_resolver(resolver);
///
/// // Behind a proxy that authenticates, nothing has to be awaited.
/// let resolver = resolver_fn(|parts: &Parts| {
///     let email = parts.headers.get("x-auth-email")?.to_str().ok()?;
///     Some(User::new(tower_released::UserId::encode(email), email))
/// });
/// # is_resolver(resolver);
/// ```
pub fn resolver_fn<F, O, W>(closure: F) -> ResolverFn<F, W>
where
    F: Fn(&Parts) -> O,
    O: NowOrLater<W>,
{
    ResolverFn { closure, when: PhantomData }
}

/// The [`UserResolver`] that [`resolver_fn`] makes.
pub struct ResolverFn<F, W> {
    closure: F,
    // A function pointer keeps the marker out of the auto traits.
    when: PhantomData<fn() -> W>,
}

impl<F: Clone, W> Clone for ResolverFn<F, W> {
    fn clone(&self) -> Self {
        Self { closure: self.closure.clone(), when: PhantomData }
    }
}

impl<F, W> fmt::Debug for ResolverFn<F, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResolverFn").finish_non_exhaustive()
    }
}

impl<F, O, W> UserResolver for ResolverFn<F, W>
where
    F: Fn(&Parts) -> O,
    O: NowOrLater<W>,
{
    type Error = BoxError;

    fn resolve(&self, parts: &Parts) -> impl Future<Output = Result<Option<User>, BoxError>> + Send + 'static {
        (self.closure)(parts).resolved()
    }
}

/// What [`resolver_fn`]'s closure returns: who is signed in, at once or as a future. `W` tells which, and is inferred.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say who is signed in, neither now nor later",
    label = "expected a `User`, an `Option` or `Result` of one, or a future of these that is `Send + 'static`",
    note = "copy what the future needs out of the request's parts before `async move`"
)]
pub trait NowOrLater<W> {
    /// Tells who is signed in.
    fn resolved(self) -> impl Future<Output = Result<Option<User>, BoxError>> + Send + 'static;
}

/// Marks a closure that returns a value; see [`NowOrLater`].
#[derive(Debug)]
pub enum Now {}

/// Marks a closure that returns a future; see [`NowOrLater`].
#[derive(Debug)]
pub enum Later {}

impl<T: IntoUser> NowOrLater<Now> for T {
    fn resolved(self) -> impl Future<Output = Result<Option<User>, BoxError>> + Send + 'static {
        future::ready(IntoUser::into_user(self))
    }
}

impl<T> NowOrLater<Later> for T
where
    T: Future<Output: IntoUser> + Send + 'static,
{
    async fn resolved(self) -> Result<Option<User>, BoxError> {
        self.await.into_user()
    }
}

/// Makes a resolver that reads a `T` from the request's extensions, where authentication layers leave their user.
///
/// Without a `T` in the extensions nobody is signed in, and the closure is not called.
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
/// let resolver = from_extension(|user: &CurrentUser| User::new(&user.id, &user.email));
/// # fn is_resolver(_: impl tower_released::UserResolver) {} is_resolver(resolver);
/// ```
pub fn from_extension<T>(closure: impl UserOf<T> + Clone) -> impl UserResolver<Error = BoxError> + Clone + fmt::Debug
where
    T: Send + Sync + 'static,
{
    FromExtension { closure, extension: PhantomData }
}

/// A closure from `&T` to who that is; what [`from_extension`] takes.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not turn a `&{T}` into a user",
    label = "expected a closure `|extension: &{T}| ..` that returns a `User`, or an `Option` or `Result` of one",
    note = "`resolver_fn` takes closures that have to await something"
)]
pub trait UserOf<T>: Fn(&T) -> <Self as UserOf<T>>::Output {
    /// What the closure returns.
    type Output: IntoUser;
}

impl<T, F, O> UserOf<T> for F
where
    F: Fn(&T) -> O,
    O: IntoUser,
{
    type Output = O;
}

struct FromExtension<T, F> {
    closure: F,
    extension: PhantomData<fn(&T)>,
}

impl<T, F: Clone> Clone for FromExtension<T, F> {
    fn clone(&self) -> Self {
        Self { closure: self.closure.clone(), extension: PhantomData }
    }
}

impl<T, F> fmt::Debug for FromExtension<T, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FromExtension").finish_non_exhaustive()
    }
}

impl<T, F> UserResolver for FromExtension<T, F>
where
    T: Send + Sync + 'static,
    F: UserOf<T>,
{
    type Error = BoxError;

    fn resolve(&self, parts: &Parts) -> impl Future<Output = Result<Option<User>, BoxError>> + Send + 'static {
        let extension = parts.extensions.get::<T>();
        if extension.is_none() {
            debug!(
                extension = type_name::<T>(),
                "nobody is signed in, or the ReleasedTokenLayer is outside of what authenticates"
            );
        }
        future::ready(extension.map(&self.closure).into_user())
    }
}
