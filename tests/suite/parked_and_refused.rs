//! What one user, one page or one file that hangs cannot do to the others.

#[cfg(feature = "metrics")]
use std::collections::HashMap;
use std::fs;
use std::future::poll_fn;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::sleep;
use tower_released::client::SecretFile;
use tower_released::client::{CircuitReason, CircuitState};
use tower_released::testing::{FakeReleased, Reply};
use tower_released::{MintErrorKind, ReleasedClient, User};

use crate::leaks::Log;
#[cfg(feature = "metrics")]
use crate::support::retry;
use crate::support::{ada, builder_with, circuit, open_for};

const SECOND: Duration = Duration::from_secs(1);

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

/// Polls a mint once. It is left alone afterwards, by a page that went on without its token and still streams.
macro_rules! park {
    ($mint:ident) => {
        assert!(
            poll_fn(|cx| Poll::Ready($mint.as_mut().poll(cx)))
                .await
                .is_pending()
        );
    };
}

/// A place is a lease like the probe: a direct `client.mint()` in a `select!` that lost must not keep it for as long as its
/// page streams.
#[tokio::test]
async fn a_parked_mint_gives_its_place_back_after_the_deadline_and_a_second() {
    let released = FakeReleased::start().await.unwrap();
    let client = released
        .client_builder()
        .max_in_flight(1)
        .deadline(SECOND / 2)
        .build()
        .unwrap();
    let parked_user = ada();
    let mut parked = pin!(client.mint(&parked_user));
    park!(parked);
    assert_eq!(
        kind_of(&client, &user(1)).await,
        Some(MintErrorKind::Overloaded)
    );
    sleep(SECOND * 2).await;
    assert_eq!(
        kind_of(&client, &user(1)).await,
        None,
        "long after the parked mint's deadline"
    );
    assert_eq!(
        client.status().mints_in_flight,
        0,
        "nothing of it is under way any more"
    );
}

/// The semaphore is fair: a place that becomes free is kept for the first in the queue, also if nobody polls that one again.
#[tokio::test]
async fn a_mint_that_is_parked_in_the_queue_does_not_take_a_place_with_it() {
    let released = FakeReleased::start().await.unwrap();
    released.set_latency(SECOND / 5);
    let client = released.client_builder().max_in_flight(1).build().unwrap();
    let (first_user, parked_user) = (ada(), user(1));
    let mut first = pin!(client.mint(&first_user));
    park!(first);
    let mut parked = pin!(client.mint(&parked_user));
    park!(parked);
    first.await.unwrap();
    // The parked one's time to wait is over by far.
    assert_eq!(kind_of(&client, &user(2)).await, None);
}

/// Somebody whom Released refuses for their own sake reloads often enough to be every probe.
#[tokio::test]
async fn one_person_who_is_refused_does_not_keep_the_refused_circuit_open_for_the_others() {
    let released = FakeReleased::start().await.unwrap();
    let moment = Duration::from_millis(50);
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
    assert_eq!(
        client.status().circuit.reason(),
        Some(CircuitReason::Refused)
    );

    // Released takes the secret again, from everybody but Ada.
    let mut others = Vec::new();
    for _ in 0..10 {
        sleep(moment * 2).await;
        released.recover();
        released.reply_next(Reply::status(401));
        assert_eq!(
            kind_of(&client, &ada()).await,
            Some(MintErrorKind::Unauthorized),
            "the probe, sent"
        );
        released.recover();
        others.push(kind_of(&client, &user(1)).await);
    }
    assert!(
        others.contains(&None),
        "ten probes of one person kept all others out: {others:?}"
    );
}

/// 429 counts towards the rate alone. Mints that waited as they were told, and were then turned away by a hold, were answered
/// 429 and nothing else.
#[tokio::test]
async fn mints_that_a_hold_turns_away_are_no_failures_in_a_row() {
    let released = FakeReleased::start().await.unwrap();
    let client = released
        .client_builder()
        .deadline(Duration::from_secs(30))
        .build()
        .unwrap();
    for _ in 0..4 {
        released.reply_next(Reply::status(429).header("retry-after", "1"));
    }
    let users: Vec<User> = (0..4).map(user).collect();
    let waiting = join_all(users.iter().map(|user| kind_of(&client, user)));
    let (kinds, ()) = tokio::join!(waiting, async {
        released
            .wait_until(|counts| counts.requests == 4 && counts.in_flight == 0)
            .await;
        released.reply_next(Reply::status(503).header("retry-after", "2"));
        assert_eq!(
            kind_of(&client, &ada()).await,
            Some(MintErrorKind::Unavailable)
        );
    });
    assert!(kinds.iter().all(Option::is_some), "{kinds:?}");
    assert_eq!(released.counts().requests, 5, "one 503 in all");
    sleep(SECOND * 2).await;
    assert_eq!(
        client.status().circuit,
        CircuitState::Closed,
        "one 503 is no outage"
    );
    assert_eq!(
        kind_of(&client, &ada()).await,
        None,
        "Released asked for two seconds"
    );
}

/// The pool's allowance is for dead connections. Where every answer closes its connection there are none, so what a failing
/// Released interrupts has the retry budget and no more.
#[tokio::test]
async fn without_idle_connections_a_flood_of_interruptions_keeps_to_the_retry_budget() {
    const SUCCESSES: usize = 32;
    const FAILURES: usize = 60;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let client = ReleasedClient::builder("account", "secret")
        .endpoint(format!("http://{}/", listener.local_addr().unwrap()))
        .circuit(circuit(|circuit| {
            (circuit.failures_in_a_row, circuit.of_at_least) = (u32::MAX, u32::MAX);
        }))
        .deadline(Duration::from_secs(30))
        .build()
        .unwrap();
    let requests = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&requests);
    let server = tokio::spawn(async move {
        loop {
            let (mut connection, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"}") {
                connection.read_buf(&mut request).await.unwrap();
            }
            if seen.fetch_add(1, Ordering::SeqCst) < SUCCESSES {
                let reply =
                    b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 7\r\n\r\n\"a.b.c\"";
                connection.write_all(reply).await.unwrap();
            }
        }
    });
    let start = Instant::now();
    for _ in 0..SUCCESSES {
        assert_eq!(kind_of(&client, &ada()).await, None);
    }
    let users: Vec<User> = (0..FAILURES).map(user).collect();
    let kinds = join_all(users.iter().map(|user| kind_of(&client, user))).await;
    assert!(
        kinds
            .iter()
            .all(|kind| *kind == Some(MintErrorKind::Interrupted)),
        "{kinds:?}"
    );
    server.abort();
    assert!(start.elapsed() < SECOND * 10, "one window of the budget");
    let extra = requests.load(Ordering::SeqCst) - SUCCESSES - FAILURES;
    let budget = (SUCCESSES + FAILURES) / 10 + 10;
    // Half as much again, for the seconds that go by.
    assert!(
        extra <= budget * 3 / 2,
        "{extra} calls more than mints; the budget has {budget}"
    );
}

/// A part of 0, as a setting that is meant to switch it off: what never failed has not failed too often.
#[tokio::test]
async fn mints_that_all_succeed_never_open_the_circuit() {
    let released = FakeReleased::start().await.unwrap();
    for part in [0.0, -1.0] {
        let client = released
            .client_builder()
            .circuit(circuit(|circuit| circuit.failing_part = part))
            .build()
            .unwrap();
        for mint in 0..40 {
            assert_eq!(
                kind_of(&client, &ada()).await,
                None,
                "mint {mint}, of which a part of {part} may fail"
            );
        }
    }
}

/// A gauge that alarms until the next visitor comes.
#[cfg(feature = "metrics")]
#[test]
fn a_hold_that_is_over_is_over_in_the_metrics_too() {
    use metrics_util::debugging::{DebugValue, DebuggingRecorder};

    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    metrics::with_local_recorder(&recorder, || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(async {
                let released = FakeReleased::start().await.unwrap();
                let client = released
                    .client_builder()
                    .retry(retry(|retry| retry.longest_retry_after = Duration::ZERO))
                    .build()
                    .unwrap();
                released.reply_next(Reply::status(429).header("retry-after", "1"));
                assert_eq!(
                    kind_of(&client, &ada()).await,
                    Some(MintErrorKind::RateLimited)
                );
                sleep(SECOND * 3 / 2).await;
                assert_eq!(client.status().circuit, CircuitState::Closed);
                let gauges: HashMap<String, f64> = snapshotter
                    .snapshot()
                    .into_vec()
                    .into_iter()
                    .filter_map(|(key, _, _, value)| match value {
                        DebugValue::Gauge(value) => {
                            Some((format!("{:?}", key.key()), value.into_inner()))
                        }
                        _ => None,
                    })
                    .filter(|(name, _)| name.contains("circuit_open"))
                    .collect();
                assert!(
                    gauges.len() == 3 && gauges.values().all(|value| *value == 0.0),
                    "{gauges:?}"
                );
            });
    });
}

/// A secret file that hangs on its file system, for as long as this lives.
#[cfg(unix)]
struct Hanging {
    directory: PathBuf,
}

#[cfg(unix)]
impl Hanging {
    fn path(&self) -> PathBuf {
        self.directory.join("secret")
    }

    fn new(name: &str, secret: &str) -> Self {
        let directory =
            std::env::temp_dir().join(format!("tower-released-{}-{name}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let file = Self { directory };
        fs::write(file.path(), secret).unwrap();
        file
    }

    fn hang(&self) {
        fs::remove_file(self.path()).unwrap();
        assert!(
            std::process::Command::new("mkfifo")
                .arg(self.path())
                .status()
                .unwrap()
                .success()
        );
    }
}

#[cfg(unix)]
impl Drop for Hanging {
    fn drop(&mut self) {
        // Ends the reads.
        let _ = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.path());
        std::thread::sleep(Duration::from_millis(50));
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// `#[tokio::main]` drops its runtime at the end of `main`, which waits for blocking tasks without limit.
#[cfg(unix)]
#[test]
fn a_secret_file_that_hangs_does_not_keep_the_server_from_ending() {
    let (done, is_done) = mpsc::channel();
    let (ready, is_ready) = mpsc::channel();
    let file = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let released = FakeReleased::start().await.unwrap();
            let file = Hanging::new("ends", &released.shared_secret());
            let client = builder_with(&released, SecretFile::open(file.path()).unwrap())
                .build()
                .unwrap();
            assert_eq!(kind_of(&client, &ada()).await, None);
            file.hang();
            sleep(SECOND * 11 / 10).await;
            released.reply_next(Reply::status(401));
            assert_eq!(
                kind_of(&client, &ada()).await,
                Some(MintErrorKind::Unauthorized)
            );
            ready.send(file).unwrap();
        });
        let start = Instant::now();
        drop(runtime);
        done.send(start.elapsed()).unwrap();
    });
    let hanging = is_ready
        .recv_timeout(SECOND * 20)
        .expect("the server has something to end");
    let ended = is_done.recv_timeout(SECOND * 5);
    drop(hanging);
    file.join().unwrap();
    assert!(
        ended.is_ok(),
        "main does not return while the file system hangs"
    );
}

/// Whoever chooses a long name for themselves chooses how many warnings the application logs: the resolver makes its `User` anew
/// for every page.
#[test]
fn a_name_that_is_too_long_is_not_a_warning_for_every_page() {
    let (log, _guard) = Log::capture_filtered("tower_released=warn");
    for _ in 0..1000 {
        let _ = ada().with_name("a".repeat(201)).with_avatar_url("no URL");
    }
    let warnings = log.text().lines().count();
    assert!(
        warnings <= 10,
        "{warnings} warnings for 1000 pages of one user"
    );
}
