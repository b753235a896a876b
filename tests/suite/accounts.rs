//! Several accounts: everybody is vouched for by their own, or not at all.

use std::collections::HashMap;
use std::future::ready;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use axum::body::Body;
use futures_util::future::join_all;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tower::{BoxError, ServiceBuilder, ServiceExt, service_fn};
use tower_released::client::{ByAccount, CircuitState, by_account};
use tower_released::embed;
use tower_released::testing::{AccessDenied, FakeReleased, Reply, StubMinter};
use tower_released::{
    AuthToken, MintError, MintErrorKind, Minter, PendingToken, ReleasedClient, ReleasedTokenLayer,
    User, resolver_fn,
};

use crate::leaks::{Log, forms};
use crate::support::{ada, once, open_for, request_from_ada};

#[allow(dead_code)]
#[path = "../../examples/accounts.rs"]
mod example;

/// A server with two accounts.
async fn two_accounts() -> (FakeReleased, FakeReleased) {
    let acme = FakeReleased::builder()
        .account("acc_acme")
        .start()
        .await
        .unwrap();
    let globex = acme.add_account("acc_globex", "a secret of its own");
    (acme, globex)
}

fn in_account(account: &FakeReleased) -> User {
    ada().in_account(account.account_id())
}

/// The minter of these clients, by the ids of their accounts.
fn minter(clients: &[(&FakeReleased, &ReleasedClient)]) -> ByAccount {
    let clients: HashMap<String, ReleasedClient> = clients
        .iter()
        .map(|(account, client)| (account.account_id().to_owned(), (*client).clone()))
        .collect();
    by_account(move |id| clients.get(id).cloned())
}

async fn mint(minter: &ByAccount, user: User) -> Result<AuthToken, MintError> {
    minter.clone().oneshot(user).await
}

#[tokio::test]
async fn the_same_user_gets_the_token_of_the_account_that_they_are_in() {
    let (acme, globex) = two_accounts().await;
    let minter = minter(&[
        (&acme, &acme.client().unwrap()),
        (&globex, &globex.client().unwrap()),
    ]);
    // At the same time, and in turns.
    let mints = (0..40).map(|number| {
        let (own, other) = if number % 2 == 0 {
            (&acme, &globex)
        } else {
            (&globex, &acme)
        };
        let minter = &minter;
        async move {
            let token = mint(minter, in_account(own)).await.unwrap();
            assert!(own.open_session(token.as_str()).is_ok());
            assert_eq!(
                other.open_session(token.as_str()),
                Err(AccessDenied::OtherAccount)
            );
        }
    });
    join_all(mints).await;
    assert_eq!((acme.users().len(), globex.users().len()), (20, 20));
    assert!(acme.users().iter().all(|user| *user == ada()));
}

#[tokio::test]
async fn a_user_without_an_account_or_with_an_unknown_one_gets_no_token_and_nothing_is_sent() {
    let (acme, _globex) = two_accounts().await;
    let minter = minter(&[(&acme, &acme.client().unwrap())]);
    for (user, words) in [
        (ada(), "the user has no account"),
        (ada().in_account("acc_initech"), "has no client for it"),
        (ada().in_account(""), "has no client for it"),
        (ada().in_account("ACC_ACME"), "has no client for it"),
    ] {
        let error = mint(&minter, user).await.unwrap_err();
        assert_eq!(error.kind(), MintErrorKind::WrongAccount);
        let text = forms(&error);
        assert!(text.contains(words), "{words} is not in {text}");
        for forbidden in ["ada", "example.com", "acc_"] {
            assert!(!text.contains(forbidden), "{text}");
        }
    }
    assert_eq!(acme.counts().connections, 0);
}

#[tokio::test]
async fn a_client_of_one_account_refuses_a_user_of_another_before_anything_is_sent() {
    let (acme, globex) = two_accounts().await;
    let client = acme.client().unwrap();
    for user in [
        in_account(&globex),
        ada().in_account(""),
        ada().in_account("acc_acm"),
    ] {
        let error = client.mint(&user).await.unwrap_err();
        assert_eq!(error.kind(), MintErrorKind::WrongAccount);
        assert!(error.to_string().contains("by_account"), "{error}");
        // So does a client that was picked by mistake.
        let (client, user) = (client.clone(), user.clone());
        let mistaken = by_account(move |_| Some(client.clone()));
        let error = mint(&mistaken, user).await.unwrap_err();
        assert_eq!(error.kind(), MintErrorKind::WrongAccount);
    }
    assert_eq!(acme.counts().connections, 0);
    // It says nothing about Released.
    assert!(client.status().last_error.is_none());

    assert!(client.mint(&in_account(&acme)).await.is_ok());
    assert!(
        client.mint(&ada()).await.is_ok(),
        "a user without an account"
    );
    assert!(client.mint(&ada().in_account(" acc_acme\n")).await.is_ok());
}

#[tokio::test]
async fn users_of_another_account_neither_open_the_circuit_nor_use_up_its_probe() {
    let (acme, globex) = two_accounts().await;
    let client = acme
        .client_builder()
        .retry(once())
        .circuit(open_for(Duration::from_millis(50)))
        .build()
        .unwrap();
    for number in 0..50 {
        let stranger = User::new(number, "a@example.com").unwrap();
        let stranger = stranger.in_account(globex.account_id());
        client.mint(&stranger).await.unwrap_err();
    }
    assert_eq!(client.status().circuit, CircuitState::Closed);

    acme.reply_always(Reply::status(500));
    for _ in 0..5 {
        client.mint(&ada()).await.unwrap_err();
    }
    acme.recover();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let error = client.mint(&in_account(&globex)).await.unwrap_err();
    assert_eq!(error.kind(), MintErrorKind::WrongAccount);
    assert!(client.mint(&ada()).await.is_ok(), "the probe is still free");
}

#[tokio::test]
async fn the_circuit_of_one_account_opens_alone() {
    let (acme, globex) = two_accounts().await;
    let wrong = ReleasedClient::builder(acme.account_id(), "not its secret")
        .endpoint(acme.impersonation_url())
        .build()
        .unwrap();
    let right = globex.client().unwrap();
    let minter = minter(&[(&acme, &wrong), (&globex, &right)]);
    for number in 0..8 {
        let user = User::new(number, "a@example.com").unwrap();
        let refused = mint(&minter, user.clone().in_account(acme.account_id())).await;
        assert_eq!(refused.unwrap_err().kind(), MintErrorKind::Unauthorized);
        mint(&minter, user.in_account(globex.account_id()))
            .await
            .unwrap();
    }
    assert_eq!(wrong.status().circuit.as_str(), "open");
    assert_eq!(right.status().circuit, CircuitState::Closed);
    assert_eq!(acme.counts().refused, 5, "the circuit opened after five");
}

#[tokio::test]
async fn the_secret_of_one_account_does_not_mint_for_another() {
    let (acme, globex) = two_accounts().await;
    for (account, secret) in [(&acme, &globex), (&globex, &acme)] {
        let mixed = ReleasedClient::builder(account.account_id(), secret.shared_secret())
            .endpoint(acme.impersonation_url())
            .build()
            .unwrap();
        let error = mixed.mint(&ada()).await.unwrap_err();
        assert_eq!(error.kind(), MintErrorKind::Unauthorized);
    }
    let before = globex.shared_secret();
    acme.rotate_secret();
    assert_eq!(globex.shared_secret(), before, "each is rotated alone");
    assert!(globex.client().unwrap().mint(&ada()).await.is_ok());
}

#[tokio::test]
async fn an_account_that_was_taken_away_mints_no_more() {
    let (acme, globex) = two_accounts().await;
    let clients = Arc::new(RwLock::new(HashMap::from([
        (acme.account_id().to_owned(), acme.client().unwrap()),
        (globex.account_id().to_owned(), globex.client().unwrap()),
    ])));
    let minter = by_account({
        let clients = Arc::clone(&clients);
        move |id| clients.read().unwrap().get(id).cloned()
    });
    mint(&minter, in_account(&globex)).await.unwrap();
    clients.write().unwrap().remove(globex.account_id());
    let error = mint(&minter, in_account(&globex)).await.unwrap_err();
    assert_eq!(error.kind(), MintErrorKind::WrongAccount);
    mint(&minter, in_account(&acme)).await.unwrap();
}

#[tokio::test]
async fn one_account_may_be_disabled_while_another_mints() {
    let (acme, globex) = two_accounts().await;
    let minter = minter(&[
        (&acme, &acme.client().unwrap()),
        (&globex, &ReleasedClient::disabled()),
    ]);
    mint(&minter, in_account(&acme)).await.unwrap();
    let error = mint(&minter, in_account(&globex)).await.unwrap_err();
    assert_eq!(error.kind(), MintErrorKind::Disabled);
}

#[tokio::test]
async fn clients_share_the_connections_of_one_service() {
    let (acme, globex) = two_accounts().await;
    let http = Client::builder(TokioExecutor::new()).build_http();
    let client = |account: &FakeReleased| {
        account
            .client_builder()
            .http_service(http.clone())
            .build()
            .unwrap()
    };
    let minter = minter(&[(&acme, &client(&acme)), (&globex, &client(&globex))]);
    for _ in 0..5 {
        mint(&minter, in_account(&acme)).await.unwrap();
        // The connection goes back into the pool in a task of its own.
        tokio::time::sleep(Duration::from_millis(20)).await;
        mint(&minter, in_account(&globex)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(acme.counts().connections, 1);
    assert_eq!((acme.users().len(), globex.users().len()), (5, 5));
}

#[tokio::test]
async fn a_wrong_account_is_a_warning_without_names_and_an_error_of_this_application() {
    let (log, _guard) = Log::capture();
    let (acme, _globex) = two_accounts().await;
    let minter = minter(&[(&acme, &acme.client().unwrap())]);
    let unknown = resolver_fn(|_| ready(ada().in_account("acc_initech")));
    let layer = ReleasedTokenLayer::new(minter, unknown).reject_without_token();
    let page = service_fn(async |_: Request<()>| Ok::<_, BoxError>(Response::new(())));
    let service = ServiceBuilder::new().layer(layer).service(page);
    let response = service.oneshot(request_from_ada(())).await.unwrap();
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);

    let text = log.text();
    let warned: Vec<_> = text.lines().filter(|line| line.contains("WARN")).collect();
    assert_eq!(warned.len(), 1, "{warned:#?}");
    assert!(
        warned[0].contains(r#"error.type="wrong_account""#),
        "{warned:?}"
    );
    for forbidden in ["ada@", "acc_initech", "acc_acme"] {
        assert!(!text.contains(forbidden), "{forbidden} is in {text}");
    }
}

/// With filters that overlap, both layers mint; the outer account's token reaches nobody.
#[tokio::test]
async fn of_two_layers_for_two_accounts_only_the_inner_ones_token_reaches_the_handler() {
    let (acme, globex) = two_accounts().await;
    for (inner_selects, expected) in [(true, Some("acc_globex")), (false, None)] {
        let (log, _guard) = Log::capture_filtered("warn");
        let layer = |account: &FakeReleased| {
            let id = account.account_id().to_owned();
            let signed_in = resolver_fn(move |_| ready(ada().in_account(id.clone())));
            ReleasedTokenLayer::new(account.client().unwrap(), signed_in)
        };
        let page = service_fn(async |request: Request<()>| {
            let extensions = request.extensions();
            let token = match extensions.get::<PendingToken>() {
                Some(pending) => pending.get().await.unwrap(),
                None => None,
            };
            assert_eq!(extensions.get::<AuthToken>(), token.as_ref());
            Ok::<_, BoxError>(Response::new(token))
        });
        let service = ServiceBuilder::new()
            .layer(layer(&acme))
            .layer(layer(&globex).mint_when(move |_| inner_selects))
            .service(page);
        let before = acme.users().len();
        let token = service.oneshot(request_from_ada(())).await.unwrap();
        let token = token.into_body();
        assert_eq!(token.is_some(), expected.is_some());
        if let Some(token) = token {
            assert!(globex.open_session(token.as_str()).is_ok());
            assert!(acme.open_session(token.as_str()).is_err());
        }
        assert_eq!(acme.users().len(), before + 1, "the outer one minted");
        let warned = log.text().contains("client::by_account");
        assert_eq!(warned, inner_selects, "{}", log.text());
    }
}

#[test]
fn neither_the_minter_nor_a_fake_shows_credentials() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let builder = FakeReleased::builder().secret("s3cret");
        assert!(!format!("{builder:?}").contains("s3cret"));
        let fake = builder.start().await.unwrap();
        let other = fake.add_account("acc_other", "an0ther");
        let client = other.client().unwrap();
        let minter = minter(&[(&other, &client)]);
        let text = format!(
            "{fake:?} {other:?} {client:?} {minter:?} {:?}",
            in_account(&other)
        );
        for forbidden in ["s3cret", "an0ther", "ada"] {
            assert!(!text.contains(forbidden), "{text}");
        }
    });
}

mod brands {
    use super::*;

    async fn visit(app: &axum::Router, host: &str, user: Option<&str>) -> (StatusCode, String) {
        let mut request = Request::builder().uri("/").header("host", host);
        if let Some(user) = user {
            request = request.header("x-user", user);
        }
        let request = request.body(Body::empty()).unwrap();
        let response = app.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    fn token_in(page: &str) -> Option<&str> {
        let (_, rest) = page.split_once("auth-token=\"")?;
        rest.split('"').next()
    }

    #[tokio::test]
    async fn each_brand_of_the_example_vouches_for_its_own_members_with_its_own_account() {
        let (acme, globex) = two_accounts().await;
        let released = example::clients(&[acme.clone(), globex.clone()]).unwrap();
        let app = example::app(released, embed::script());
        for (host, user, account) in [
            ("acme.localhost:3000", Some("ada"), Some(&acme)),
            ("acme.localhost", Some("grace"), Some(&acme)),
            ("GLOBEX.localhost", Some("grace"), Some(&globex)),
            ("globex.localhost:3000", Some("ada"), None),
            ("globex.localhost", None, None),
        ] {
            let (status, page) = visit(&app, host, user).await;
            assert_eq!(status, StatusCode::OK, "{host}");
            let token = token_in(&page);
            assert_eq!(token.is_some(), account.is_some(), "{host} {user:?}");
            if let (Some(token), Some(account)) = (token, account) {
                assert!(account.open_session(token).is_ok(), "{host} {user:?}");
            }
        }
        let before = acme.counts().requests;
        for host in ["evil.example", "acme.localhost.evil.example", "", "a b"] {
            let (status, page) = visit(&app, host, Some("ada")).await;
            assert_eq!(status, StatusCode::NOT_FOUND, "{host}");
            assert_eq!(token_in(&page), None);
        }
        assert_eq!(acme.counts().requests, before, "nobody was vouched for");
    }

    #[tokio::test]
    async fn the_examples_application_takes_any_minter_in_its_tests() {
        fn app(minter: impl Minter) -> axum::Router {
            example::app(minter, embed::script())
        }
        let stub = StubMinter::new();
        let (_, page) = visit(&app(stub.clone()), "acme.localhost", Some("ada")).await;
        assert_eq!(token_in(&page), Some("stub-token-1"));
        assert_eq!(stub.users()[0].account(), Some("acc_acme"));
    }
}
