//! What a client remembers from one mint to the next: outages, limits, and its secret.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use proptest::prelude::*;
use tokio::sync::watch;
use tower_released::client::{ConfigErrorKind, ReleasedClientBuilder, SecretFile, SharedSecret};
use tower_released::testing::{FakeReleased, Reply};
use tower_released::{MintErrorKind, ReleasedClient, User};

use crate::leaks::Log;
use crate::support::fault_server::{FaultServer, Read, Stall};
use crate::support::{ada, builder_with, circuit, once, open_for, retry};

async fn kind_of(client: &ReleasedClient) -> Option<MintErrorKind> {
    client.mint(&ada()).await.err().map(|error| error.kind())
}

/// A client whose breaker opens for a moment only.
fn with_short_breaker(released: &FakeReleased) -> ReleasedClientBuilder {
    released
        .client_builder()
        .retry(once())
        .circuit(open_for(Duration::from_millis(50)))
}

/// Mints until the breaker lets a mint through.
async fn first_that_is_let_through(client: &ReleasedClient) -> Option<MintErrorKind> {
    loop {
        match kind_of(client).await {
            Some(MintErrorKind::CircuitOpen) => tokio::time::sleep(Duration::from_millis(5)).await,
            other => return other,
        }
    }
}

#[tokio::test]
async fn during_an_outage_mints_fail_at_once_and_after_it_one_probe_brings_them_back() {
    let released = FakeReleased::start().await.unwrap();
    let client = with_short_breaker(&released)
        .circuit(open_for(Duration::from_secs(60)))
        .build()
        .unwrap();
    released.reply_always(Reply::status(500));
    for _ in 0..5 {
        assert_eq!(kind_of(&client).await, Some(MintErrorKind::Unavailable));
    }
    let error = client.mint(&ada()).await.unwrap_err();
    assert_eq!(error.kind(), MintErrorKind::CircuitOpen);
    assert!(error.retry_after().unwrap() > Duration::from_secs(30));
    assert_eq!(released.counts().requests, 5);

    let client = with_short_breaker(&released).build().unwrap();
    for _ in 0..5 {
        kind_of(&client).await;
    }
    let before = released.counts().requests;
    assert_eq!(
        first_that_is_let_through(&client).await,
        Some(MintErrorKind::Unavailable)
    );
    assert_eq!(released.counts().requests, before + 1, "one probe");

    released.recover();
    assert_eq!(first_that_is_let_through(&client).await, None);
    assert_eq!(kind_of(&client).await, None);
}

#[tokio::test]
async fn a_probe_that_is_dropped_lets_the_next_mint_probe() {
    let released = FakeReleased::start().await.unwrap();
    let client = with_short_breaker(&released).build().unwrap();
    released.reply_always(Reply::status(500));
    for _ in 0..5 {
        kind_of(&client).await;
    }
    released.recover();
    released.set_latency(Duration::from_secs(60));
    tokio::select! {
        kind = first_that_is_let_through(&client) => panic!("the API takes a minute: {kind:?}"),
        _ = released.wait_until(|counts| counts.in_flight == 1) => {}
    }
    released.wait_until(|counts| counts.in_flight == 0).await;
    released.recover();
    assert_eq!(first_that_is_let_through(&client).await, None);
}

#[tokio::test]
async fn a_wrong_secret_is_not_an_outage() {
    let released = FakeReleased::start().await.unwrap();
    let client = released.client_builder().build().unwrap();
    released.reply_always(Reply::status(401));
    for _ in 0..30 {
        assert_eq!(kind_of(&client).await, Some(MintErrorKind::Unauthorized));
    }
    assert_eq!(released.counts().requests, 30, "and nothing is tried again");
}

#[tokio::test]
async fn whoever_answers_with_4xx_is_there() {
    for status in [404, 408, 425] {
        let released = FakeReleased::start().await.unwrap();
        let client = released.client_builder().retry(once()).build().unwrap();
        released.reply_always(Reply::status(status));
        for _ in 0..10 {
            assert_ne!(
                kind_of(&client).await,
                Some(MintErrorKind::CircuitOpen),
                "{status}"
            );
        }
    }
}

#[tokio::test]
async fn a_probe_asks_once() {
    let released = FakeReleased::start().await.unwrap();
    let client = with_short_breaker(&released)
        .retry(retry(|retry| retry.budget = 5.0))
        .build()
        .unwrap();
    released.reply_always(Reply::status(500));
    for _ in 0..5 {
        assert_eq!(kind_of(&client).await, Some(MintErrorKind::Unavailable));
    }
    let before = released.counts().requests;
    assert_eq!(
        first_that_is_let_through(&client).await,
        Some(MintErrorKind::Unavailable)
    );
    assert_eq!(released.counts().requests, before + 1);
}

#[tokio::test]
async fn a_mint_that_pauses_does_not_pass_a_gate_that_was_shut_in_the_meantime() {
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
        released.reply_next(Reply::status(429).header("retry-after", "30"));
        client.mint(&user).await
    });
    assert_eq!(second.unwrap_err().kind(), MintErrorKind::RateLimited);
    assert_eq!(first.unwrap_err().kind(), MintErrorKind::RateLimited);
    assert_eq!(released.counts().requests, 2);
}

#[tokio::test]
async fn the_longest_durations_are_no_panic() {
    let released = FakeReleased::start().await.unwrap();
    let client = released
        .client_builder()
        .deadline(Duration::MAX)
        .retry(retry(|retry| {
            retry.max_attempts = 1;
            retry.attempt_timeout = Duration::MAX;
            retry.first_pause = Duration::MAX;
            retry.longest_pause = Duration::MAX;
            retry.longest_retry_after = Duration::MAX;
        }))
        .circuit(open_for(Duration::MAX))
        .build()
        .unwrap();
    assert_eq!(kind_of(&client).await, None);
    released.reply_always(Reply::status(500));
    for _ in 0..6 {
        assert!(kind_of(&client).await.is_some());
    }
}

#[tokio::test]
async fn a_mint_is_sent_again_for_a_changed_secret_once() {
    let released = FakeReleased::start().await.unwrap();
    let (push, secret) = watch::channel(SharedSecret::new("the first").unwrap());
    let client = builder_with(&released, secret)
        .retry(retry(|retry| retry.budget = 5.0))
        .build()
        .unwrap();
    // Every answer comes after another rotation.
    for status in [401, 503, 401, 503] {
        released.reply_next(Reply::status(status));
    }
    released.reply_always(Reply::status(401));
    let user = ada();
    let mint = client.mint(&user);
    let rotate = async {
        for number in 1..=4 {
            released
                .wait_until(|counts| counts.requests >= number)
                .await;
            push.send_replace(SharedSecret::new(format!("number {number}")).unwrap());
        }
    };
    let error = tokio::select! {
        error = mint => error.unwrap_err(),
        () = async { rotate.await; std::future::pending().await } => unreachable!("it waits for ever"),
    };
    assert_eq!(error.kind(), MintErrorKind::Unauthorized);
    assert!(
        released.counts().requests <= 4,
        "{} requests",
        released.counts().requests
    );
}

#[tokio::test]
async fn two_failures_and_a_success_are_three_calls() {
    let released = FakeReleased::start().await.unwrap();
    released.reply_next(Reply::status(503));
    released.reply_next(Reply::status(503));
    assert_eq!(kind_of(&released.client().unwrap()).await, None);
    assert_eq!(released.counts().requests, 3);
}

#[tokio::test]
async fn a_short_retry_after_is_waited_for() {
    for seconds in ["0", "1"] {
        let released = FakeReleased::start().await.unwrap();
        released.reply_next(Reply::status(429).header("retry-after", seconds));
        // With time to spare, however busy the machine is.
        let client = released
            .client_builder()
            .deadline(Duration::from_secs(30))
            .build()
            .unwrap();
        let start = Instant::now();
        assert_eq!(kind_of(&client).await, None);
        assert!(start.elapsed() >= Duration::from_secs(seconds.parse().unwrap()));
        assert_eq!(released.counts().requests, 2);
    }
}

#[tokio::test]
async fn a_long_retry_after_holds_every_mint_for_thirty_seconds_at_most() {
    let released = FakeReleased::start().await.unwrap();
    let client = released.client().unwrap();
    released.reply_next(Reply::status(429).header("retry-after", "86400"));
    for _ in 0..3 {
        let error = client.mint(&ada()).await.unwrap_err();
        assert_eq!(error.kind(), MintErrorKind::RateLimited);
        let retry_after = error.retry_after().unwrap();
        assert!(
            retry_after <= Duration::from_secs(30) && retry_after > Duration::from_secs(10),
            "{retry_after:?}"
        );
    }
    assert_eq!(released.counts().requests, 1);
}

#[tokio::test]
async fn a_flood_of_failures_does_not_become_a_larger_one() {
    let released = FakeReleased::start().await.unwrap();
    released.reply_always(Reply::status(503));
    // Without the breaker, which would end it sooner.
    let client = released
        .client_builder()
        .circuit(circuit(|circuit| circuit.failures_in_a_row = u32::MAX))
        .max_in_flight(1000)
        .build()
        .unwrap();
    let mints = 19; // fewer than the rate is taken of
    join_all((0..mints).map(|_| kind_of(&client))).await;
    let extra = released.counts().requests - mints;
    assert!((1..=12).contains(&extra), "{extra} calls more than mints");
}

#[tokio::test]
async fn the_129th_mint_in_flight_is_turned_away_at_once() {
    let server = FaultServer::start(vec![vec![Read, Stall]]).await;
    let endpoint = format!("http://{}/token", server.address);
    let client = ReleasedClient::builder("acc", "s3cret")
        .endpoint(endpoint)
        .deadline(Duration::from_secs(60))
        .retry(retry(|retry| {
            retry.attempt_timeout = Duration::from_secs(60);
        }))
        .build()
        .unwrap();
    let user = ada();
    let mut stalled = Box::pin(join_all((0..128).map(|_| client.mint(&user))));
    tokio::select! {
        _ = &mut stalled => panic!("none of them is answered"),
        () = async {
            while server.requests() < 128 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        } => {}
    }
    let start = Instant::now();
    assert_eq!(kind_of(&client).await, Some(MintErrorKind::Overloaded));
    // Fifty milliseconds, on a machine with time; at any rate not the minute of the deadline.
    assert!(start.elapsed() < Duration::from_secs(10));
    assert_eq!(server.requests(), 128);

    // Those who go away make room.
    drop(stalled);
    tokio::select! {
        kind = kind_of(&client) => panic!("{kind:?}"),
        () = async {
            while server.requests() < 129 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        } => {}
    }
}

#[tokio::test]
async fn a_mint_that_is_dropped_frees_its_place_and_its_connection_and_is_not_tried_again() {
    let released = FakeReleased::start().await.unwrap();
    released.set_latency(Duration::from_secs(60));
    let client = released.client_builder().max_in_flight(1).build().unwrap();
    for _ in 0..3 {
        tokio::select! {
            kind = kind_of(&client) => panic!("the API takes a minute: {kind:?}"),
            _ = released.wait_until(|counts| counts.in_flight == 1) => {}
        }
        released.wait_until(|counts| counts.in_flight == 0).await;
    }
    let counts = released.counts();
    assert_eq!(
        (counts.requests, counts.cancelled, counts.connections),
        (3, 3, 3)
    );
}

#[tokio::test]
async fn warming_up_opens_the_connection_that_the_first_mint_uses() {
    let released = FakeReleased::start().await.unwrap();
    let client = released.client().unwrap();
    client.warm_up().await.unwrap();
    assert_eq!(
        (released.counts().connections, released.counts().requests),
        (1, 0)
    );
    assert_eq!(kind_of(&client).await, None);
    assert_eq!(released.counts().connections, 1);

    let client = released.client().unwrap();
    drop(released);
    assert_eq!(
        client.warm_up().await.unwrap_err().kind(),
        MintErrorKind::Connect
    );
}

/// A directory that is gone with the test.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("tower-released-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join("secret");
        fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn with_file(released: &FakeReleased, path: &Path) -> ReleasedClient {
    builder_with(released, SecretFile::open(path).unwrap())
        .build()
        .unwrap()
}

/// Longer than a secret file is left alone after a look at it.
async fn until_the_file_may_be_read_again() {
    tokio::time::sleep(Duration::from_millis(1100)).await;
}

#[tokio::test]
async fn a_rotated_secret_costs_nobody_a_token() {
    let released = FakeReleased::start().await.unwrap();
    let directory = Directory::new("rotated");
    let path = directory.file(format!("{}\n", released.shared_secret()));
    let client = with_file(&released, &path);
    assert_eq!(kind_of(&client).await, None);

    let rotated = released.rotate_secret();
    assert_eq!(
        kind_of(&client).await,
        Some(MintErrorKind::Unauthorized),
        "the file still has the old one"
    );
    directory.file(&rotated);
    until_the_file_may_be_read_again().await;
    let before = released.counts().requests;
    assert_eq!(kind_of(&client).await, None);
    assert_eq!(
        released.counts().requests,
        before + 2,
        "refused with the old one, resent once with the new one"
    );
    assert_eq!(kind_of(&client).await, None);
    assert_eq!(
        released.counts().requests,
        before + 3,
        "and from now on with the new one"
    );
}

#[cfg(unix)]
#[tokio::test]
async fn a_secret_is_rotated_by_a_symbolic_link_as_kubernetes_does() {
    let released = FakeReleased::start().await.unwrap();
    let directory = Directory::new("symlink");
    let (old, new, link) = (
        directory.0.join("old"),
        directory.0.join("new"),
        directory.0.join("link"),
    );
    fs::write(&old, released.shared_secret()).unwrap();
    std::os::unix::fs::symlink(&old, &link).unwrap();
    let client = with_file(&released, &link);
    assert_eq!(kind_of(&client).await, None);

    fs::write(&new, released.rotate_secret()).unwrap();
    let swap = directory.0.join("swap");
    std::os::unix::fs::symlink(&new, &swap).unwrap();
    fs::rename(&swap, &link).unwrap();
    until_the_file_may_be_read_again().await;
    assert_eq!(kind_of(&client).await, None);
}

#[tokio::test]
async fn a_hundred_refusals_at_once_are_one_look_at_the_file() {
    let released = FakeReleased::start().await.unwrap();
    let directory = Directory::new("storm");
    // However busy the machine is, a hundred mints at once must all have their time.
    let minute = Duration::from_secs(60);
    let secret = SecretFile::open(directory.file(released.shared_secret())).unwrap();
    let retry = retry(|retry| retry.attempt_timeout = minute);
    let client = builder_with(&released, secret)
        .deadline(minute)
        .retry(retry)
        .build()
        .unwrap();
    directory.file(released.rotate_secret());
    until_the_file_may_be_read_again().await;

    let (log, _guard) = Log::capture();
    assert_eq!(kind_of(&client).await, None);
    let failures = join_all((0..100).map(|_| kind_of(&client))).await;
    assert!(failures.iter().all(Option::is_none), "{failures:?}");
    assert_eq!(
        log.text().matches("the shared secret was changed").count(),
        1
    );
    assert_eq!(kind_of(&client).await, None, "the breaker is closed");

    // A secret that stays wrong is not looked up for everybody.
    released.rotate_secret();
    until_the_file_may_be_read_again().await;
    let before = released.counts().requests;
    let failures = join_all((0..100).map(|_| kind_of(&client))).await;
    assert!(
        failures
            .iter()
            .all(|kind| *kind == Some(MintErrorKind::Unauthorized))
    );
    assert_eq!(
        released.counts().requests,
        before + 100,
        "nothing is resent with the same secret"
    );
}

#[tokio::test]
async fn a_file_that_is_of_no_use_leaves_the_last_good_secret() {
    let released = FakeReleased::start().await.unwrap();
    let directory = Directory::new("useless");
    let path = directory.file(released.shared_secret());
    let client = with_file(&released, &path);
    let (log, _guard) = Log::capture();

    let contents: [Option<&[u8]>; 5] = [
        None,
        Some(b""),
        Some(b" \n"),
        Some(b"\xff\xfe\x00"),
        Some(b"a\0b"),
    ];
    for content in contents {
        match content {
            Some(content) => fs::write(&path, content).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        until_the_file_may_be_read_again().await;
        // A refusal makes it look.
        released.reply_next(Reply::status(401));
        assert_eq!(kind_of(&client).await, Some(MintErrorKind::Unauthorized));
        assert_eq!(kind_of(&client).await, None, "{content:?}");
    }
    let text = log.text();
    let warnings: Vec<_> = text
        .lines()
        .filter(|line| {
            line.contains("could not reload the secret file; keeping the last valid secret")
        })
        .collect();
    assert_eq!(warnings.len(), contents.len(), "{text}");
    let path = format!("path={:?}", path.display().to_string());
    assert!(
        warnings.iter().all(|line| line.contains(&path)),
        "{path} is not in {text}"
    );
}

#[test]
fn a_secret_file_must_be_good_when_the_client_is_built() {
    let directory = Directory::new("built");
    let missing = directory.0.join("missing");
    let error = SecretFile::open(&missing).unwrap_err();
    assert_eq!(error.kind(), ConfigErrorKind::SecretFile);
    assert!(
        error
            .to_string()
            .contains("the secret file cannot be read: entity not found"),
        "{error}"
    );
    assert!(
        error.to_string().contains(missing.to_str().unwrap()),
        "{error}"
    );
    for content in [
        &b""[..],
        b"\n",
        b"s3cret\xff",
        b"s3c\0ret",
        b"s3cret\r\ns3cret",
    ] {
        let error = SecretFile::open(directory.file(content)).unwrap_err();
        assert_eq!(error.kind(), ConfigErrorKind::SecretFile);
        assert!(
            error
                .to_string()
                .contains("the secret file has no valid secret in it"),
            "{error}"
        );
        assert!(!format!("{error} {error:?}").contains("s3c"), "{error}");
    }
    let error = SecretFile::open(directory.file("x".repeat(17 * 1024))).unwrap_err();
    assert_eq!(error.kind(), ConfigErrorKind::SecretFile);
    assert!(error.to_string().contains("longer than 16 KiB"), "{error}");
    assert!(SecretFile::open(directory.file(" s3cret\r\n")).is_ok());
    assert!(
        !format!("{:?}", SecretFile::open(directory.file("s3cret")).unwrap()).contains("s3cret")
    );
}

#[tokio::test]
async fn a_secret_that_the_application_pushes_is_used_at_once() {
    let released = FakeReleased::start().await.unwrap();
    let (push, secret) = watch::channel(SharedSecret::new(released.shared_secret()).unwrap());
    let client = builder_with(&released, secret).build().unwrap();
    assert_eq!(kind_of(&client).await, None);

    push.send_replace(SharedSecret::new(released.rotate_secret()).unwrap());
    let before = released.counts().requests;
    assert_eq!(kind_of(&client).await, None);
    assert_eq!(released.counts().requests, before + 1);

    // The last one stays, although nobody will push another.
    drop(push);
    assert_eq!(kind_of(&client).await, None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Whatever is slow, fails or is given up, a token that somebody gets is their own.
    #[test]
    fn nobody_ever_gets_anybody_elses_token(
        visits in prop::collection::vec((0..8_u8, 0..30_u64, prop::option::weighted(0.3, 0..20_u64)), 1..60),
        failures in prop::collection::vec((0..60_usize, prop::sample::select(vec![401_u16, 429, 500, 503])), 0..12),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let released = FakeReleased::start().await.unwrap();
            let client = released.client_builder().circuit(circuit(|circuit| circuit.failures_in_a_row = u32::MAX)).build().unwrap();
            let got = join_all(visits.iter().enumerate().map(async |(number, (user, latency, gives_up))| {
                tokio::time::sleep(Duration::from_millis(*latency)).await;
                released.set_latency(Duration::from_millis(*latency));
                for (_, status) in failures.iter().filter(|(at, _)| *at == number) {
                    released.reply_next(Reply::status(*status));
                }
                let id = format!("user-{user}");
                let person = User::new(&id, format!("{id}@example.com")).unwrap();
                let patience = gives_up.map_or(Duration::from_secs(60), Duration::from_millis);
                let token = tokio::time::timeout(patience, client.mint(&person)).await.ok()?.ok()?;
                Some((id, token))
            }))
            .await;
            let patient = visits.iter().any(|(_, _, gives_up)| gives_up.is_none());
            prop_assert!(got.iter().any(Option::is_some) || !patient || !failures.is_empty());
            for (id, token) in got.into_iter().flatten() {
                let session = released.open_session(token.as_str()).unwrap();
                prop_assert_eq!(session.email, format!("{id}@example.com"));
                prop_assert_eq!(session.user_id, Some(id));
            }
            Ok(())
        })?;
    }
}
