//! The numbers on an operator's dashboard.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{Request, Response};
use http_body_util::BodyExt;
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use tower::ServiceExt;
use tower_released::client::{SecretFile, SharedSecret};
use tower_released::embed::fill::FillLayer;
use tower_released::testing::{FakeReleased, Reply, StubMinter};
use tower_released::{
    BoxError, InvalidUser, MintError, MintErrorKind, MintTiming, ReleasedClient,
    ReleasedTokenLayer, User, resolver_fn,
};

use crate::support::{ada, builder_with, by_header, once, open_for, request_from_ada};

/// Every metric with its labels, and how often or how much.
type Numbers = HashMap<String, f64>;

/// Runs `work` and tells what was measured during it, and by what it returned.
fn measured<T>(work: impl AsyncFnOnce() -> T) -> Numbers {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let metrics = metrics::with_local_recorder(&recorder, || {
        let _kept = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(work());
        snapshotter.snapshot().into_vec()
    });
    metrics
        .into_iter()
        .map(|(key, unit, description, value)| {
            assert!(
                unit.is_some() && description.is_some_and(|text| !text.is_empty()),
                "{key:?} is not described"
            );
            let labels: String = key
                .key()
                .labels()
                .map(|label| format!(" {}={}", label.key(), label.value()))
                .collect();
            let value = match value {
                DebugValue::Counter(count) => f64::from(u32::try_from(count).unwrap()),
                DebugValue::Gauge(value) => value.into_inner(),
                DebugValue::Histogram(values) => f64::from(u32::try_from(values.len()).unwrap()),
            };
            (key.key().name().to_owned() + &labels, value)
        })
        .collect()
}

async fn mint(client: &ReleasedClient, times: usize) {
    for _ in 0..times {
        let _ = client.mint(&ada()).await;
    }
}

/// A rate of a counter that begins with its first failure misses that failure.
#[test]
fn every_counter_and_gauge_is_there_at_zero_before_the_first_mint() {
    let numbers = measured(async || {
        let client = ReleasedClient::builder("acc", "s3cret")
            .endpoint("http://127.0.0.1:9/")
            .build()
            .unwrap();
        let layer = ReleasedTokenLayer::new(StubMinter::new(), by_header());
        (client, layer)
    });
    // Whatever the guides list is there.
    let guide = include_str!("../../src/docs/monitoring.md");
    let named = |line: &'static str| line.strip_prefix("| `")?.split('`').next();
    for metric in guide
        .lines()
        .filter(|line| line.contains("| counter") || line.contains("| gauge"))
        .filter_map(named)
    {
        assert!(
            numbers
                .keys()
                .any(|key| key.split(' ').next() == Some(metric)),
            "{metric} is not in {numbers:?}"
        );
    }
    let kinds = include_str!("../../src/docs/operating.md");
    let (_, kinds) = kinds.split_once("| kind |").expect("the table of kinds");
    let (kinds, _) = kinds.split_once("\n\n").expect("its end");
    let kinds: Vec<_> = kinds.lines().filter_map(named).collect();
    assert_eq!(kinds.len(), 15, "{kinds:?}");
    for outcome in ["minted", "anonymous", "cancelled"]
        .into_iter()
        .chain(kinds)
    {
        let metric = format!("released_pages_total outcome={outcome}");
        assert_eq!(numbers.get(&metric), Some(&0.0), "{metric}");
    }
    for metric in [
        "released_mints_in_flight",
        "released_circuit_open reason=failing",
        "released_circuit_open reason=throttled",
        "released_circuit_open reason=refused",
        "released_mint_retries_total",
        "released_mint_shed_total",
        "released_secret_changes_total",
    ] {
        assert_eq!(numbers.get(metric), Some(&0.0), "{metric}");
    }
    assert!(numbers.values().all(|number| *number == 0.0), "{numbers:?}");
}

#[test]
fn a_second_client_or_layer_sets_nothing_back() {
    let numbers = measured(async || {
        let (minter, client) = (StubMinter::new(), ReleasedClient::disabled());
        page(ReleasedTokenLayer::new(minter.clone(), by_header())).await;
        let released = FakeReleased::start().await.unwrap();
        released.set_latency(Duration::from_secs(60));
        let busy = released.client().unwrap();
        let mut mint = Box::pin(async move { busy.mint(&ada()).await });
        tokio::select! {
            _ = &mut mint => panic!("the API takes a minute"),
            _ = released.wait_until(|counts| counts.in_flight == 1) => {}
        }
        let later = ReleasedTokenLayer::new(minter, by_header());
        (mint, client, released.client().unwrap(), later)
    });
    assert_eq!(numbers["released_pages_total outcome=minted"], 1.0);
    assert_eq!(numbers["released_mints_in_flight"], 1.0);
}

#[test]
fn pages_of_a_disabled_client_have_an_outcome_of_their_own() {
    let numbers = measured(async || {
        let client = ReleasedClient::disabled();
        for _ in 0..3 {
            page(ReleasedTokenLayer::new(client.clone(), by_header())).await;
        }
        let nobody = resolver_fn(|_: &Parts| ready(None::<User>));
        page(ReleasedTokenLayer::new(client, nobody)).await;
    });
    for (outcome, count) in [("disabled", 3.0), ("anonymous", 1.0), ("config", 0.0)] {
        let metric = format!("released_pages_total outcome={outcome}");
        assert_eq!(numbers[&metric], count, "{metric}");
    }
    assert_eq!(
        numbers["released_mint_duration_seconds outcome=disabled"],
        3.0
    );
}

#[test]
fn an_operator_can_tell_how_mints_end() {
    let numbers = measured(async || {
        let released = FakeReleased::start().await.unwrap();
        let client = released
            .client_builder()
            .deadline(Duration::from_secs(30))
            .build()
            .unwrap();
        mint(&client, 3).await;
        released.reply_next(Reply::status(500));
        mint(&client, 1).await;
        released.reply_next(Reply::status(401));
        mint(&client, 1).await;
    });
    assert_eq!(
        numbers["released_mint_duration_seconds outcome=minted"],
        4.0
    );
    assert_eq!(
        numbers["released_mint_duration_seconds outcome=unauthorized"],
        1.0
    );
    assert_eq!(numbers["released_mint_retries_total"], 1.0);
}

#[test]
fn an_operator_can_tell_an_outage_from_too_much_traffic() {
    let numbers = measured(async || {
        let released = FakeReleased::start().await.unwrap();
        let client = released.client_builder().retry(once()).build().unwrap();
        released.reply_always(Reply::status(500));
        mint(&client, 7).await;
        client
    });
    assert_eq!(numbers["released_circuit_open reason=failing"], 1.0);
    assert_eq!(
        numbers["released_mint_duration_seconds outcome=unavailable"],
        5.0
    );
    assert_eq!(
        numbers["released_mint_duration_seconds outcome=circuit_open"],
        2.0
    );

    let numbers = measured(async || {
        let released = FakeReleased::start().await.unwrap();
        let client = released.client_builder().max_in_flight(1).build().unwrap();
        released.set_latency(Duration::from_secs(60));
        tokio::select! {
            () = mint(&client, 1) => panic!("the API takes a minute"),
            () = async {
                released.wait_until(|counts| counts.in_flight == 1).await;
                mint(&client, 2).await;
            } => {}
        }
    });
    assert_eq!(numbers["released_mint_shed_total"], 2.0);
    assert_eq!(
        numbers["released_mint_duration_seconds outcome=overloaded"],
        2.0
    );
}

/// A client that had five failures, of which the circuit opened.
async fn open_client(released: &FakeReleased) -> ReleasedClient {
    let client = released.client_builder().retry(once()).build().unwrap();
    released.reply_always(Reply::status(500));
    mint(&client, 6).await;
    released.recover();
    client
}

#[test]
fn a_second_client_does_not_reset_the_first_ones_gauges() {
    let numbers = measured(async || {
        let released = FakeReleased::start().await.unwrap();
        let first = open_client(&released).await;
        let second = released.client().unwrap();
        mint(&second, 1).await;
        (first, second)
    });
    assert_eq!(numbers["released_circuit_open reason=failing"], 1.0);

    let numbers = measured(async || {
        let released = FakeReleased::start().await.unwrap();
        (open_client(&released).await, open_client(&released).await)
    });
    assert_eq!(numbers["released_circuit_open reason=failing"], 2.0);

    // A client that is gone is not open any more.
    let numbers = measured(async || {
        let released = FakeReleased::start().await.unwrap();
        drop(open_client(&released).await);
        open_client(&released).await
    });
    assert_eq!(numbers["released_circuit_open reason=failing"], 1.0);
}

#[test]
fn an_operator_can_tell_why_mints_are_turned_away() {
    let numbers = measured(async || {
        let released = FakeReleased::start().await.unwrap();
        let (refused, held) = (released.client().unwrap(), released.client().unwrap());
        released.reply_always(Reply::status(401));
        for number in 0..6 {
            let user = User::new(format!("user-{number}"), "user@example.com").unwrap();
            refused.mint(&user).await.unwrap_err();
        }
        released.reply_always(Reply::status(429).header("retry-after", "20"));
        mint(&held, 1).await;
        (refused, held)
    });
    assert_eq!(numbers["released_circuit_open reason=refused"], 1.0);
    assert_eq!(numbers["released_circuit_open reason=throttled"], 1.0);
    assert_eq!(numbers["released_circuit_open reason=failing"], 0.0);

    let numbers = measured(async || {
        let released = FakeReleased::start().await.unwrap();
        let client = open_client(&released).await;
        let short = Duration::from_millis(50);
        let recovered = released
            .client_builder()
            .retry(once())
            .circuit(open_for(short))
            .build()
            .unwrap();
        released.reply_always(Reply::status(500));
        mint(&recovered, 5).await;
        released.recover();
        tokio::time::sleep(Duration::from_millis(100)).await;
        mint(&recovered, 1).await;
        (client, recovered)
    });
    assert_eq!(numbers["released_circuit_open reason=failing"], 1.0);
}

#[test]
fn an_operator_can_see_how_many_mints_are_in_flight() {
    let numbers = measured(async || {
        let released = FakeReleased::start().await.unwrap();
        released.set_latency(Duration::from_secs(60));
        let (client, other) = (released.client().unwrap(), released.client().unwrap());
        let mints = [&client, &client, &other].map(|client| {
            let client = client.clone();
            Box::pin(async move { client.mint(&ada()).await })
        });
        let [mut first, mut second, mut third] = mints;
        tokio::select! {
            _ = &mut first => panic!("the API takes a minute"),
            _ = &mut second => panic!("the API takes a minute"),
            _ = &mut third => panic!("the API takes a minute"),
            _ = released.wait_until(|counts| counts.in_flight == 3) => {}
        }
        drop(second);
        (first, third)
    });
    assert_eq!(numbers["released_mints_in_flight"], 2.0);
}

#[test]
fn an_operator_can_see_that_a_rotation_arrived() {
    let numbers = measured(async || {
        let released = FakeReleased::start().await.unwrap();
        let path =
            std::env::temp_dir().join(format!("tower-released-metrics-{}", std::process::id()));
        std::fs::write(&path, released.shared_secret()).unwrap();
        let secret = SecretFile::open(&path).unwrap();
        let client = builder_with(&released, secret).build().unwrap();
        std::fs::write(&path, released.rotate_secret()).unwrap();
        // Longer than a secret file is left alone after a look at it.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        mint(&client, 2).await;
        std::fs::remove_file(path).unwrap();
    });
    assert_eq!(numbers["released_secret_changes_total"], 1.0);
    assert_eq!(
        numbers["released_mint_duration_seconds outcome=minted"],
        2.0
    );
}

#[test]
fn no_label_tells_who_somebody_is() {
    let secret = SharedSecret::new("s3cret-of-the-account").unwrap();
    let numbers = measured(async || {
        let released = FakeReleased::start().await.unwrap();
        mint(&released.client().unwrap(), 1).await;
        mint(&builder_with(&released, secret).build().unwrap(), 1).await;
    });
    let names: String = numbers.into_keys().collect();
    for forbidden in ["ada", "example.com", "s3cret", "acc_fake"] {
        assert!(!names.contains(forbidden), "{names}");
    }
}

#[test]
fn an_operator_can_tell_that_nobody_is_signed_in_from_that_nobody_can_be_vouched_for() {
    let numbers = measured(async || {
        let minter = StubMinter::new();
        let down = StubMinter::failing(MintError::new(MintErrorKind::Timeout));
        let nobody = Arc::new(resolver_fn(|_: &Parts| ready(None::<User>)));
        let failing =
            resolver_fn(|_: &Parts| ready(Err::<User, BoxError>("the database is gone".into())));
        let invalid = resolver_fn(|_: &Parts| ready(Err::<User, _>(InvalidUser::Email)));
        page(ReleasedTokenLayer::new(minter.clone(), by_header())).await;
        page(ReleasedTokenLayer::new(minter.clone(), nobody.clone())).await;
        page(ReleasedTokenLayer::new(minter.clone(), nobody)).await;
        page(ReleasedTokenLayer::new(minter.clone(), failing)).await;
        page(ReleasedTokenLayer::new(minter.clone(), invalid)).await;
        page(ReleasedTokenLayer::new(down, by_header())).await;
        // Nobody asks, so no page needs a token.
        page(ReleasedTokenLayer::new(minter, by_header()).timing(MintTiming::OnExtraction)).await;
        let slow = StubMinter::new().with_latency(Duration::from_secs(60));
        let dropped = page(ReleasedTokenLayer::new(slow, by_header()));
        let _ = tokio::time::timeout(Duration::from_millis(10), dropped).await;
    });
    let pages = |outcome: &str| {
        numbers
            .get(&format!("released_pages_total outcome={outcome}"))
            .copied()
    };
    for (outcome, count) in [
        ("minted", 1.0),
        ("anonymous", 2.0),
        ("resolver", 1.0),
        ("invalid_user", 1.0),
        ("timeout", 1.0),
        ("cancelled", 1.0),
    ] {
        assert_eq!(pages(outcome), Some(count), "{outcome}");
    }
}

#[test]
fn a_page_to_fill_without_an_element_requested_no_token() {
    let numbers = measured(async || {
        for (html, timing) in [
            ("<p>", MintTiming::OnExtraction),
            ("<released-page>", MintTiming::OnExtraction),
        ] {
            let handler = tower::service_fn(move |_: Request<()>| {
                let mut response = Response::new(html.to_owned());
                let kind = http::HeaderValue::from_static("text/html");
                response.headers_mut().insert("content-type", kind);
                ready(Ok::<_, Infallible>(response))
            });
            let page = tower::ServiceBuilder::new()
                .layer(ReleasedTokenLayer::new(StubMinter::new(), by_header()).timing(timing))
                .layer(FillLayer::new())
                .service(handler)
                .oneshot(request_from_ada(()))
                .await
                .unwrap();
            page.into_body().collect().await.unwrap();
        }
    });
    let pages = numbers
        .iter()
        .filter(|(name, count)| name.starts_with("released_pages_total") && **count > 0.0);
    assert_eq!(
        pages.collect::<Vec<_>>(),
        [(&"released_pages_total outcome=minted".to_owned(), &1.0)]
    );
}

/// Serves one page from Ada.
async fn page<L>(layer: L)
where
    L: tower::Layer<Handler>,
    L::Service: tower::Service<Request<()>, Response = Response<()>, Error = Infallible>,
{
    layer
        .layer(tower::service_fn(handler as fn(_) -> _))
        .oneshot(request_from_ada(()))
        .await
        .unwrap();
}

type Handler = tower::util::ServiceFn<fn(Request<()>) -> Ready<Result<Response<()>, Infallible>>>;

fn handler(_: Request<()>) -> Ready<Result<Response<()>, Infallible>> {
    ready(Ok(Response::new(())))
}
