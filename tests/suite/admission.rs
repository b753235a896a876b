//! When a client may ask Released at all: refused secrets, probes that nobody polls, and holds.

use std::fmt;
use std::fs;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::mpsc;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::sync::watch;
use tower_released::client::{CircuitReason, CircuitState, SecretFile, SharedSecret};
use tower_released::testing::{FakeReleased, Reply};
use tower_released::{MintErrorKind, ReleasedClient, User};
use tracing::span;

use crate::leaks::Log;
use crate::support::{ada, builder_with, once, open_for};

fn user(number: usize) -> User {
    User::new(
        format!("user-{number}"),
        format!("user-{number}@example.com"),
    )
    .unwrap()
}

async fn kind_of(client: &ReleasedClient, user: &User) -> Option<MintErrorKind> {
    client.mint(user).await.err().map(|error| error.kind())
}

/// A thousand pages of a hundred users, six at a time.
async fn a_thousand_pages(client: &ReleasedClient) -> Vec<Option<MintErrorKind>> {
    let visitor = async |visitor: usize| {
        let mut kinds = Vec::new();
        for page in 0..167 {
            kinds.push(kind_of(client, &user((page * 6 + visitor) % 100)).await);
        }
        kinds
    };
    let kinds: Vec<_> = join_all((0..6).map(visitor))
        .await
        .into_iter()
        .flatten()
        .collect();
    assert!(kinds.len() >= 1000);
    kinds
}

fn all_unauthorized(kinds: &[Option<MintErrorKind>]) -> bool {
    kinds
        .iter()
        .all(|kind| *kind == Some(MintErrorKind::Unauthorized))
}

#[tokio::test]
async fn a_wrong_secret_costs_a_thousand_pages_a_dozen_calls_and_a_pushed_one_works_at_once() {
    let (log, _guard) = Log::capture_filtered("tower_released=info");
    let released = FakeReleased::start().await.unwrap();
    let (push, secret) = watch::channel(SharedSecret::new("wrong").unwrap());
    let client = builder_with(&released, secret).build().unwrap();

    let kinds = a_thousand_pages(&client).await;
    assert!(all_unauthorized(&kinds), "{kinds:?}");
    assert!(
        released.counts().requests <= 12,
        "{} calls",
        released.counts().requests
    );
    let error = client.mint(&ada()).await.unwrap_err();
    assert!(
        error.to_string().contains("RELEASED_SHARED_SECRET"),
        "{error}"
    );
    assert!(
        error
            .retry_after()
            .is_some_and(|wait| wait <= Duration::from_secs(6)),
        "{error:?}"
    );
    let logged = log.text();
    assert_eq!(
        logged.matches("Released refuses the shared secret").count(),
        1,
        "{logged}"
    );
    assert!(
        logged.contains(r#"reason="refused""#) && logged.contains("open_for_ms="),
        "{logged}"
    );

    push.send_replace(SharedSecret::new(released.shared_secret()).unwrap());
    assert_eq!(kind_of(&client, &ada()).await, None, "the very next page");
}

#[tokio::test]
async fn a_wrong_secret_in_a_file_is_mended_within_a_second() {
    let released = FakeReleased::start().await.unwrap();
    let path = std::env::temp_dir().join(format!("tower-released-{}-refused", std::process::id()));
    fs::write(&path, "wrong").unwrap();
    let client = builder_with(&released, SecretFile::open(&path).unwrap())
        .build()
        .unwrap();

    let kinds = a_thousand_pages(&client).await;
    assert!(all_unauthorized(&kinds), "{kinds:?}");
    assert!(
        released.counts().requests <= 12,
        "{} calls",
        released.counts().requests
    );

    fs::write(&path, released.shared_secret()).unwrap();
    // Longer than a secret file is left alone after a look at it.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(kind_of(&client, &ada()).await, None, "the very next page");
    fs::remove_file(path).unwrap();
}

#[tokio::test]
async fn a_wrong_secret_that_never_changes_is_probed_and_works_when_released_takes_it() {
    let released = FakeReleased::start().await.unwrap();
    let moment = Duration::from_millis(500);
    let client = released
        .client_builder()
        .circuit(open_for(moment))
        .build()
        .unwrap();
    released.reply_always(Reply::status(401));
    for page in 0..5 {
        assert_eq!(
            kind_of(&client, &user(page)).await,
            Some(MintErrorKind::Unauthorized)
        );
    }
    let before = released.counts().requests;
    assert_eq!(
        kind_of(&client, &ada()).await,
        Some(MintErrorKind::Unauthorized)
    );
    assert_eq!(released.counts().requests, before, "nothing is sent");
    tokio::time::sleep(Duration::from_millis(650)).await;
    assert_eq!(
        kind_of(&client, &ada()).await,
        Some(MintErrorKind::Unauthorized)
    );
    assert_eq!(released.counts().requests, before + 1, "one probe");

    released.recover();
    tokio::time::sleep(Duration::from_millis(650)).await;
    assert_eq!(kind_of(&client, &ada()).await, None);
}

#[tokio::test]
async fn one_person_whom_released_refuses_does_not_close_the_portal_for_the_others() {
    let released = FakeReleased::start().await.unwrap();
    let client = released.client().unwrap();
    for page in 0..40 {
        released.reply_next(Reply::status(401));
        assert_eq!(
            kind_of(&client, &ada()).await,
            Some(MintErrorKind::Unauthorized)
        );
        if page % 7 == 6 {
            assert_eq!(kind_of(&client, &user(page)).await, None, "page {page}");
        }
    }
    // Nor does 403, which Released does not document.
    released.reply_always(Reply::status(403));
    for page in 0..20 {
        assert_eq!(
            kind_of(&client, &user(page)).await,
            Some(MintErrorKind::Unauthorized)
        );
    }
    released.recover();
    assert_eq!(kind_of(&client, &user(1)).await, None);
}

#[tokio::test]
async fn a_probe_that_nobody_polls_passes_on_after_the_deadline_and_a_second() {
    let released = FakeReleased::start().await.unwrap();
    let moment = Duration::from_millis(50);
    let client = released
        .client_builder()
        .retry(once())
        .deadline(Duration::from_millis(500))
        .circuit(open_for(moment))
        .build()
        .unwrap();
    released.reply_always(Reply::status(500));
    for _ in 0..5 {
        assert_eq!(
            kind_of(&client, &ada()).await,
            Some(MintErrorKind::Unavailable)
        );
    }
    released.recover();
    tokio::time::sleep(Duration::from_millis(100)).await;

    // The probe is polled once, and then its page has other things to do.
    let (probing_user, start) = (ada(), Instant::now());
    let mut parked = pin!(client.mint(&probing_user));
    assert!(
        poll_fn(|cx| Poll::Ready(parked.as_mut().poll(cx)))
            .await
            .is_pending()
    );
    let first = loop {
        match kind_of(&client, &user(1)).await {
            Some(MintErrorKind::CircuitOpen) if start.elapsed() < Duration::from_secs(10) => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            other => break other,
        }
    };
    assert_eq!(first, None, "another mint probes");
    assert!(
        start.elapsed() >= Duration::from_millis(1490),
        "{:?}",
        start.elapsed()
    );

    // What becomes of it afterwards says nothing.
    let _ = parked.await;
    assert_eq!(kind_of(&client, &user(2)).await, None);
}

#[tokio::test]
async fn a_mint_that_pauses_does_not_hold_the_others_for_longer_or_say_so_again() {
    let (log, _guard) = Log::capture_filtered("tower_released=warn");
    let released = FakeReleased::start().await.unwrap();
    let client = released
        .client_builder()
        .deadline(Duration::from_secs(30))
        .build()
        .unwrap();
    released.reply_next(Reply::status(503).header("retry-after", "1"));
    let user = ada();
    let (first, second) = tokio::join!(client.mint(&user), async {
        released
            .wait_until(|counts| counts.requests == 1 && counts.in_flight == 0)
            .await;
        released.reply_next(Reply::status(429).header("retry-after", "3"));
        let error = client.mint(&user).await.unwrap_err();
        (error, Instant::now())
    });
    assert_eq!(
        (first.unwrap_err().kind(), second.0.kind()),
        (MintErrorKind::RateLimited, MintErrorKind::RateLimited)
    );
    let warnings = log
        .text()
        .lines()
        .filter(|line| line.contains("Released asked to"))
        .count();
    assert_eq!(warnings, 1, "{}", log.text());
    tokio::time::sleep((Duration::from_millis(3050)).saturating_sub(second.1.elapsed())).await;
    assert_eq!(kind_of(&client, &user).await, None);
}

/// A subscriber that looks at the client in every event.
struct Curious(std::sync::OnceLock<ReleasedClient>, mpsc::Sender<String>);

struct Shared(std::sync::Arc<Curious>);

impl tracing::Subscriber for Shared {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with("tower_released") && metadata.is_event()
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        struct Message(String);
        impl tracing::field::Visit for Message {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn fmt::Debug) {
                if field.name() == "message" {
                    self.0 = format!("{value:?}");
                }
            }
        }
        let mut message = Message(String::new());
        event.record(&mut message);
        if let Some(client) = self.0.0.get() {
            self.0.1.send(format!("{}: {client:?}", message.0)).unwrap();
        }
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[test]
fn a_subscriber_may_format_the_client_in_any_of_its_events() {
    let (tell, told) = mpsc::channel();
    let (done, is_done) = mpsc::channel();
    // On a thread of its own, which is left behind if it hangs.
    std::thread::spawn(move || {
        let curious = std::sync::Arc::new(Curious(std::sync::OnceLock::new(), tell));
        let _guard = tracing::subscriber::set_default(Shared(std::sync::Arc::clone(&curious)));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let released = FakeReleased::start().await.unwrap();
            let moment = Duration::from_millis(50);
            let client = released
                .client_builder()
                .retry(once())
                .circuit(open_for(moment))
                .build()
                .unwrap();
            assert!(curious.0.set(client.clone()).is_ok());
            released.reply_always(Reply::status(500));
            for _ in 0..5 {
                kind_of(&client, &ada()).await;
            }
            released.recover();
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert_eq!(kind_of(&client, &ada()).await, None);
            released.reply_next(Reply::status(429).header("retry-after", "20"));
            assert_eq!(
                kind_of(&client, &ada()).await,
                Some(MintErrorKind::RateLimited)
            );
        });
        done.send(()).unwrap();
    });
    is_done
        .recv_timeout(Duration::from_secs(30))
        .expect("it hangs, or the test failed on its thread");
    let told: Vec<String> = told.try_iter().collect();
    for message in [
        "Released keeps failing",
        "Released answers again",
        "Released asked to",
    ] {
        assert!(
            told.iter()
                .any(|told| told.contains(message) && told.contains("ReleasedClient {")),
            "{told:?}"
        );
    }
}

#[tokio::test]
async fn the_status_tells_of_an_outage_and_of_a_rotation() {
    let released = FakeReleased::start().await.unwrap();
    let (push, secret) = watch::channel(SharedSecret::new(released.shared_secret()).unwrap());
    let short = Duration::from_secs(1);
    let client = builder_with(&released, secret)
        .retry(once())
        .circuit(open_for(short))
        .build()
        .unwrap();
    let status = client.status();
    assert_eq!(
        (
            status.circuit,
            status.mints_in_flight,
            status.secret_generation
        ),
        (CircuitState::Closed, 0, 1)
    );
    assert!(status.last_success.is_none() && status.last_error.is_none());

    assert_eq!(kind_of(&client, &ada()).await, None);
    assert!(client.status().last_success.unwrap() < Duration::from_secs(10));
    released.set_latency(Duration::from_secs(60));
    let user = ada();
    tokio::select! {
        _ = client.mint(&user) => panic!("the API takes a minute"),
        () = async {
            released.wait_until(|counts| counts.in_flight == 1).await;
            assert_eq!(client.status().mints_in_flight, 1);
        } => {}
    }
    released.wait_until(|counts| counts.in_flight == 0).await;
    assert_eq!(client.status().mints_in_flight, 0);

    released.recover();
    released.reply_always(Reply::status(500));
    for _ in 0..5 {
        assert_eq!(
            kind_of(&client, &ada()).await,
            Some(MintErrorKind::Unavailable)
        );
    }
    assert_eq!(
        kind_of(&client, &ada()).await,
        Some(MintErrorKind::CircuitOpen)
    );
    let status = client.status();
    let CircuitState::Open {
        reason: CircuitReason::Failing,
        remaining,
        ..
    } = status.circuit
    else {
        panic!("{status:?}")
    };
    assert!(remaining <= short.mul_f64(1.2), "{remaining:?}");
    // Not of the mint that was turned away.
    let last_error = status.last_error.unwrap();
    assert_eq!(last_error.kind, MintErrorKind::Unavailable);
    assert!(last_error.age <= status.last_success.unwrap());
    assert_eq!(
        (
            status.circuit.as_str(),
            status.circuit.reason().unwrap().as_str()
        ),
        ("open", "failing")
    );

    tokio::time::sleep(short.mul_f64(1.3)).await;
    let status = client.status();
    assert!(
        matches!(
            status.circuit,
            CircuitState::Open {
                remaining: Duration::ZERO,
                ..
            }
        ),
        "{status:?}"
    );
    released.set_latency(Duration::from_secs(60));
    tokio::select! {
        _ = client.mint(&user) => panic!("the API takes a minute"),
        () = async {
            released.wait_until(|counts| counts.in_flight == 1).await;
            assert_eq!(client.status().circuit.as_str(), "probing");
        } => {}
    }
    released.recover();
    released.set_latency(Duration::ZERO);
    assert_eq!(kind_of(&client, &ada()).await, None);
    assert_eq!(client.status().circuit, CircuitState::Closed);

    push.send_replace(SharedSecret::new(released.rotate_secret()).unwrap());
    assert_eq!(kind_of(&client, &ada()).await, None);
    assert_eq!(client.status().secret_generation, 2);
    let printed = format!("{:?}", client.status());
    for forbidden in ["ada", "example.com", &released.shared_secret()] {
        assert!(!printed.contains(forbidden), "{printed}");
    }
}

#[tokio::test]
async fn the_status_names_a_refused_secret_and_a_request_to_wait() {
    let released = FakeReleased::start().await.unwrap();
    let client = released.client().unwrap();
    released.reply_always(Reply::status(401));
    for page in 0..5 {
        assert_eq!(
            kind_of(&client, &user(page)).await,
            Some(MintErrorKind::Unauthorized)
        );
    }
    assert_eq!(
        client.status().circuit.reason(),
        Some(CircuitReason::Refused)
    );
    assert_eq!(
        client.status().last_error.unwrap().kind,
        MintErrorKind::Unauthorized
    );

    let client = released.client().unwrap();
    released.reply_always(Reply::status(429).header("retry-after", "20"));
    assert_eq!(
        kind_of(&client, &ada()).await,
        Some(MintErrorKind::RateLimited)
    );
    let CircuitState::Open {
        reason: CircuitReason::Throttled,
        remaining,
        ..
    } = client.status().circuit
    else {
        panic!("{:?}", client.status())
    };
    assert!(remaining <= Duration::from_secs(20));
}
