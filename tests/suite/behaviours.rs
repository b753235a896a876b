//! What every stack must do, over real connections to a page and to the token API.

use std::time::Duration;

use futures_util::future::join_all;
use tower_released::filter::{always, can_use_token};
use tower_released::testing::{FakeReleased, Reply};
use tower_released::{MintTiming, ReleasedTokenLayer};

use crate::support::{Answer, Axum, Hyper, Refusal, Stack, Tonic, by_header};

const TIMINGS: [MintTiming; 3] = [
    MintTiming::BeforeHandler,
    MintTiming::AlongsideHandler,
    MintTiming::OnExtraction,
];

/// What a browser sends for a picture.
const FOR_AN_IMAGE: &[(&str, &str)] = &[("sec-fetch-dest", "image")];

fn layer(released: &FakeReleased) -> ReleasedTokenLayer {
    layer_with(released, Duration::from_secs(3))
}

fn layer_with(released: &FakeReleased, deadline: Duration) -> ReleasedTokenLayer {
    ReleasedTokenLayer::new(
        released
            .client_builder()
            .deadline(deadline)
            .build()
            .unwrap(),
        by_header(),
    )
}

async fn a_signed_in_user_gets_a_token_that_opens_their_session<S: Stack>() {
    for timing in TIMINGS {
        let released = FakeReleased::start().await.unwrap();
        let app = S::serve(layer(&released).timing(timing)).await;
        for user in ["ada", "grace"] {
            let (answer, headers) = app.visit(Some(user), &[]).await;
            let cache_control = headers
                .get("cache-control")
                .map(http::HeaderValue::as_bytes);
            assert_eq!(
                cache_control,
                S::CACHE_CONTROL.map(str::as_bytes),
                "{timing:?}"
            );
            let session = released.open_session(&answer.token()).unwrap();
            assert_eq!(session.user_id.as_deref(), Some(user), "{timing:?}");
        }
        assert_eq!(released.counts().minted, 2, "{timing:?}");
    }
}

async fn nobody_gets_the_page_without_a_token_and_without_a_mint<S: Stack>() {
    for timing in TIMINGS {
        let released = FakeReleased::start().await.unwrap();
        let app = S::serve(layer(&released).timing(timing)).await;
        let (answer, headers) = app.visit(None, &[]).await;
        assert_eq!(
            (answer, headers.get("cache-control")),
            (Answer::Page(None), None),
            "{timing:?}"
        );
        assert_eq!(released.counts().connections, 0, "{timing:?}");
    }
}

async fn an_outage_costs_the_token_and_not_the_page<S: Stack>() {
    for timing in TIMINGS {
        let released = FakeReleased::start().await.unwrap();
        let app = S::serve(layer(&released).timing(timing)).await;

        released.reply_always(Reply::status(503));
        assert_eq!(
            app.visit(Some("ada"), &[]).await.0,
            Answer::Page(None),
            "{timing:?}"
        );

        released.recover();
        app.visit(Some("ada"), &[]).await.0.token();

        drop(released);
        assert_eq!(
            app.visit(Some("ada"), &[]).await.0,
            Answer::Page(None),
            "{timing:?}"
        );
    }
}

async fn a_user_whom_released_would_refuse_costs_the_token_and_not_the_page<S: Stack>() {
    let released = FakeReleased::start().await.unwrap();
    let app = S::serve(layer(&released)).await;
    assert_eq!(
        app.visit(Some("auth0|507f"), &[]).await.0,
        Answer::Page(None)
    );
    assert_eq!(released.counts().connections, 0);
}

async fn what_cannot_use_a_token_is_passed_over<S: Stack>() {
    let released = FakeReleased::start().await.unwrap();

    let app = S::serve(layer(&released)).await;
    assert_eq!(
        app.visit(Some("ada"), FOR_AN_IMAGE).await.0,
        Answer::Page(None)
    );
    assert_eq!(released.counts().connections, 0);

    let app = S::serve(layer(&released).mint_when(always)).await;
    app.visit(Some("ada"), FOR_AN_IMAGE).await.0.token();
}

async fn a_strict_layer_answers_in_the_handlers_place<S: Stack>() {
    let released = FakeReleased::start().await.unwrap();
    let app = S::serve(layer(&released).reject_without_token()).await;

    app.visit(Some("ada"), &[]).await.0.token();
    assert_eq!(
        app.visit(None, &[]).await.0,
        Answer::Refused(Refusal::Unauthenticated)
    );
    assert_eq!(
        app.visit(Some("auth0|507f"), &[]).await.0,
        Answer::Refused(Refusal::Internal)
    );

    for (reply, refusal) in [
        (Reply::status(503), Refusal::Unavailable),
        (Reply::status(429), Refusal::Unavailable),
        // Never a 401 of the page's own, which would send people to sign in again and again.
        (Reply::status(401), Refusal::Internal),
        (Reply::status(422), Refusal::Internal),
        (
            Reply::status(200).body("<!doctype html>"),
            Refusal::Internal,
        ),
    ] {
        released.reply_always(reply.clone());
        assert_eq!(
            app.visit(Some("ada"), &[]).await.0,
            Answer::Refused(refusal),
            "{reply:?}"
        );
    }

    released.recover();
    released.set_latency(Duration::from_secs(60));
    let app =
        S::serve(layer_with(&released, Duration::from_millis(50)).reject_without_token()).await;
    assert_eq!(
        app.visit(Some("ada"), &[]).await.0,
        Answer::Refused(Refusal::DeadlineExceeded)
    );
}

async fn a_strict_layer_passes_over_what_its_filter_passes_over<S: Stack>() {
    let released = FakeReleased::start().await.unwrap();
    let app = S::serve(
        layer(&released)
            .mint_when(can_use_token)
            .reject_without_token(),
    )
    .await;
    assert_eq!(app.visit(None, FOR_AN_IMAGE).await.0, Answer::Page(None));
}

async fn users_who_come_at_once_never_get_each_others_token<S: Stack>() {
    for timing in TIMINGS {
        let released = FakeReleased::start().await.unwrap();
        released.set_latency(Duration::from_millis(20));
        let app = S::serve(layer(&released).timing(timing)).await;
        let visits = (0..20).map(|number| {
            let (app, released) = (&app, &released);
            async move {
                let user = format!("user-{number}");
                let token = app.visit(Some(&user), &[]).await.0.token();
                assert_eq!(released.open_session(&token).unwrap().user_id, Some(user));
            }
        });
        join_all(visits).await;
        assert_eq!(released.counts().minted, 20);
    }
}

macro_rules! on_every_stack {
    ($($behaviour:ident),* $(,)?) => {
        on_every_stack!(@axum Axum $($behaviour)*);
        on_every_stack!(@hyper Hyper $($behaviour)*);
        on_every_stack!(@tonic Tonic $($behaviour)*);
    };
    (@$module:ident $stack:ident $($behaviour:ident)*) => {
        mod $module {
            $(
                #[tokio::test]
                async fn $behaviour() {
                    super::$behaviour::<super::$stack>().await;
                }
            )*
        }
    };
}

on_every_stack!(
    a_signed_in_user_gets_a_token_that_opens_their_session,
    nobody_gets_the_page_without_a_token_and_without_a_mint,
    an_outage_costs_the_token_and_not_the_page,
    a_user_whom_released_would_refuse_costs_the_token_and_not_the_page,
    what_cannot_use_a_token_is_passed_over,
    a_strict_layer_answers_in_the_handlers_place,
    a_strict_layer_passes_over_what_its_filter_passes_over,
    users_who_come_at_once_never_get_each_others_token,
);
