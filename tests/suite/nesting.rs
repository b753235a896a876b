//! Layers inside of layers: a handler never gets a token that a layer further out minted for somebody else.

use std::future::ready;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use tower::{BoxError, ServiceBuilder, ServiceExt, service_fn};
use tower_released::filter::always;
use tower_released::testing::StubMinter;
use tower_released::{
    AuthToken, AuthTokenRejection, MintTiming, PendingToken, ReleasedTokenLayer, resolver_fn,
};

use crate::support::{ada, by_header, request_from_ada};

const TIMINGS: [MintTiming; 3] = [
    MintTiming::BeforeHandler,
    MintTiming::AlongsideHandler,
    MintTiming::OnExtraction,
];

#[tokio::test]
async fn a_layer_that_skips_a_request_leaves_nothing_of_a_layer_further_out() {
    for timing in TIMINGS {
        let outer = ReleasedTokenLayer::new(StubMinter::new(), by_header())
            .timing(timing)
            .mint_when(always);
        let act_as = resolver_fn(|_| ready(ada()));
        let inner = ReleasedTokenLayer::new(StubMinter::new(), act_as)
            .timing(timing)
            .mint_when(|_| false);
        let page = service_fn(async |request: Request<()>| {
            let extensions = request.extensions();
            assert!(
                extensions.get::<AuthToken>().is_none(),
                "the outer layer's token"
            );
            assert!(
                extensions.get::<PendingToken>().is_none(),
                "the outer layer's promise"
            );
            Ok::<_, BoxError>(Response::new(()))
        });
        let service = ServiceBuilder::new()
            .layer(outer)
            .layer(inner)
            .service(page);
        service.oneshot(request_from_ada(())).await.unwrap();
    }
}

#[tokio::test]
async fn a_handler_behind_a_layer_that_skips_is_told_so_even_in_a_task_of_its_own() {
    async fn page(token: Result<AuthToken, AuthTokenRejection>) -> &'static str {
        match token {
            Err(AuthTokenRejection::Skipped) => "skipped",
            Err(_) => "another rejection",
            Ok(_) => "somebody's token",
        }
    }
    for timing in TIMINGS {
        let outer = ReleasedTokenLayer::new(StubMinter::new(), by_header())
            .timing(timing)
            .mint_when(always);
        let inner = ReleasedTokenLayer::new(StubMinter::new(), by_header()).mint_when(|_| false);
        let spawned = tower::layer::layer_fn(|inner: axum::routing::Route| {
            service_fn(move |request: Request<Body>| {
                let response = tokio::spawn(inner.clone().oneshot(request));
                async { response.await.unwrap() }
            })
        });
        let app = Router::new()
            .route("/", get(page))
            .layer(spawned)
            .layer(inner)
            .layer(outer);
        let response = app.oneshot(request_from_ada(Body::empty())).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "skipped", "{timing:?}");
    }
}

#[tokio::test]
async fn with_two_accounts_the_handler_gets_the_inner_accounts_token_or_none() {
    let (outer_account, inner_account) = (StubMinter::new(), StubMinter::new());
    for timing in TIMINGS {
        for (mints, expected) in [(true, 1), (false, 0)] {
            let before = inner_account.calls();
            let outer = ReleasedTokenLayer::new(outer_account.clone(), by_header()).timing(timing);
            let inner = ReleasedTokenLayer::new(inner_account.clone(), by_header())
                .mint_when(move |_| mints);
            let page = service_fn(async |request: Request<()>| {
                let token = match request.extensions().get::<PendingToken>() {
                    Some(pending) => pending.get().await.unwrap(),
                    None => None,
                };
                Ok::<_, BoxError>(Response::new(token.is_some()))
            });
            let service = ServiceBuilder::new()
                .layer(outer)
                .layer(inner)
                .service(page);
            let has_token = service
                .oneshot(request_from_ada(()))
                .await
                .unwrap()
                .into_body();
            assert_eq!(
                (has_token, inner_account.calls() - before),
                (mints, expected),
                "{timing:?}"
            );
        }
    }
}
