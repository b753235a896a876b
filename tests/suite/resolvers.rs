//! The ready-made resolvers, and what their closures may return.

use std::error::Error as _;
use std::future::ready;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::response::{IntoResponse, Redirect, Response};
use http::request::Parts;
use http::{Request, StatusCode};
use tower::{BoxError, ServiceBuilder, ServiceExt, service_fn};
use tower_released::testing::StubMinter;
use tower_released::{
    InvalidUser, MintError, MintErrorKind, PendingToken, ReleasedTokenLayer, User, UserResolver,
    from_extension, from_extractor, resolver_fn,
};

use crate::support::ada;

#[derive(Clone)]
struct Account {
    id: &'static str,
}

impl Account {
    fn vouch(&self) -> Result<User, InvalidUser> {
        User::new(self.id, "ada@example.com")
    }
}

/// What a layer with this resolver finds in a request.
async fn who(
    resolver: impl UserResolver,
    request: Request<()>,
) -> Result<Option<String>, MintError> {
    let minter = StubMinter::new();
    let layer = ReleasedTokenLayer::new(minter.clone(), resolver);
    let page = service_fn(async |request: Request<()>| {
        let pending = request.extensions().get::<PendingToken>().cloned().unwrap();
        Ok::<_, BoxError>(http::Response::new(pending.get().await))
    });
    let response = ServiceBuilder::new()
        .layer(layer)
        .service(page)
        .oneshot(request)
        .await
        .unwrap();
    let token = response.into_body()?;
    assert_eq!(token.is_some(), minter.calls() == 1);
    Ok(minter
        .users()
        .first()
        .map(|user| user.id().as_str().to_owned()))
}

fn empty() -> Request<()> {
    Request::new(())
}

fn with(id: &'static str) -> Request<()> {
    let mut request = empty();
    request.extensions_mut().insert(Account { id });
    request
}

fn found(id: &str) -> Option<String> {
    id.to_owned().into()
}

#[tokio::test]
async fn from_extension_reads_what_authentication_left() {
    let resolver = Arc::new(from_extension(|account: &Account| account.vouch()));
    assert_eq!(
        who(resolver.clone(), with("ada")).await.unwrap(),
        found("ada")
    );
    assert_eq!(who(resolver.clone(), empty()).await.unwrap(), None);

    let error = who(resolver, with("auth0|1")).await.unwrap_err();
    assert_eq!(error.kind(), MintErrorKind::InvalidUser);
    assert_eq!(
        error.source().unwrap().downcast_ref(),
        Some(&InvalidUser::IdCharacter)
    );

    let never = from_extension(|_: &Account| None::<User>);
    assert_eq!(who(never, with("ada")).await.unwrap(), None);
    let always = from_extension(|_: &Account| ada());
    assert_eq!(who(always, with("grace")).await.unwrap(), found("ada"));
}

#[tokio::test]
async fn resolver_fn_takes_closures_that_return_a_future() {
    let now =
        resolver_fn(|parts: &Parts| ready(parts.extensions.get::<Account>().map(Account::vouch)));
    assert_eq!(who(now, with("ada")).await.unwrap(), found("ada"));

    let later = Arc::new(resolver_fn(|parts: &Parts| {
        let account = parts.extensions.get::<Account>().cloned();
        async move {
            tokio::task::yield_now().await;
            account.map(|account| account.vouch())
        }
    }));
    assert_eq!(who(later.clone(), with("ada")).await.unwrap(), found("ada"));
    assert_eq!(who(Arc::new(later), empty()).await.unwrap(), None);

    let fails =
        resolver_fn(|_: &Parts| async { Err::<User, _>(std::io::Error::other("no database")) });
    let error = who(fails, empty()).await.unwrap_err();
    assert_eq!(error.kind(), MintErrorKind::Resolver);
    assert_eq!(error.source().unwrap().to_string(), "no database");
}

/// An extractor of an application, with state.
struct SignedIn(Account);

impl FromRequestParts<&'static str> for SignedIn {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &&'static str) -> Result<Self, Response> {
        assert_eq!(*state, "the state");
        match parts
            .headers
            .get("x-answer")
            .and_then(|answer| answer.to_str().ok())
        {
            None => Ok(Self(Account { id: "ada" })),
            Some("login") => Err(Redirect::to("/login").into_response()),
            Some(status) => Err(status
                .parse::<u16>()
                .map(|status| StatusCode::from_u16(status).unwrap())
                .unwrap()
                .into_response()),
        }
    }
}

fn answering(answer: &str) -> Request<()> {
    Request::builder()
        .header("x-answer", answer)
        .body(())
        .unwrap()
}

#[tokio::test]
async fn from_extractor_runs_any_extractor() {
    let resolver = Arc::new(from_extractor("the state", async |SignedIn(account)| {
        account.vouch()
    }));
    assert_eq!(who(resolver.clone(), empty()).await.unwrap(), found("ada"));
    for nobody in ["401", "403", "login"] {
        assert_eq!(
            who(resolver.clone(), answering(nobody)).await.unwrap(),
            None,
            "{nobody}"
        );
    }
    for broken in ["500", "400"] {
        let error = who(resolver.clone(), answering(broken)).await.unwrap_err();
        assert_eq!(error.kind(), MintErrorKind::Resolver, "{broken}");
        assert!(error.source().unwrap().to_string().contains(broken));
    }

    let waiting = from_extractor("the state", async |SignedIn(account)| {
        tokio::task::yield_now().await;
        Ok::<_, BoxError>(Some(account.vouch()?))
    });
    assert_eq!(who(waiting, empty()).await.unwrap(), found("ada"));
}

/// A resolver of an application that is not `Clone`, which `Arc` makes up for.
struct ByTable {
    accounts: Vec<Account>,
}

impl UserResolver for ByTable {
    type Error = InvalidUser;

    fn resolve(
        &self,
        parts: &Parts,
    ) -> impl Future<Output = Result<Option<User>, InvalidUser>> + Send + 'static {
        let wanted = parts.headers.get("x-user").and_then(|id| id.to_str().ok());
        let account = self
            .accounts
            .iter()
            .find(|account| Some(account.id) == wanted)
            .cloned();
        async move { account.map(|account| account.vouch()).transpose() }
    }
}

#[tokio::test]
async fn a_resolver_of_ones_own_is_used_through_an_arc() {
    let resolver = Arc::new(ByTable {
        accounts: vec![Account { id: "ada" }],
    });
    let request = Request::builder().header("x-user", "ada").body(()).unwrap();
    assert_eq!(
        who(Arc::clone(&resolver), request).await.unwrap(),
        found("ada")
    );
    assert_eq!(who(resolver, empty()).await.unwrap(), None);
}
