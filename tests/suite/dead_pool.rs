//! A load balancer's failover: idle connections that look open and never answer again, while new ones work.
//!
//! Over real sockets, with a balancer between the client and the fake.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tower_released::client::ReleasedClientBuilder;
use tower_released::testing::{FakeReleased, Reply};
use tower_released::{MintErrorKind, ReleasedClient};

use crate::support::{ada, circuit, open_for, retry};

/// How long an attempt may take. Much longer than an answer takes, however busy the machine is.
const ATTEMPT: Duration = Duration::from_secs(1);

/// How many connections are idle when they die.
const POOLED: usize = 24;

/// Passes bytes on between clients and a server, until it goes silent: then it keeps its connections open, and swallows what
/// comes over them.
struct Balancer {
    address: SocketAddr,
    counts: Arc<Counts>,
    /// Connections that were opened before this many are silent.
    silent_before: watch::Sender<usize>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Counts {
    connections: AtomicUsize,
    open: AtomicUsize,
    /// Reads of the clients' bytes that begin with a request.
    requests: AtomicUsize,
}

impl Balancer {
    async fn before(released: &FakeReleased) -> Self {
        let origin = released.origin();
        let server: SocketAddr = origin.strip_prefix("http://").unwrap().parse().unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (silent_before, silent) = watch::channel(0);
        let counts = Arc::<Counts>::default();
        let seen = Arc::clone(&counts);
        let task = tokio::spawn(async move {
            let mut open = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let number = seen.connections.fetch_add(1, Ordering::SeqCst);
                seen.open.fetch_add(1, Ordering::SeqCst);
                let (seen, mut silent) = (Arc::clone(&seen), silent.clone());
                open.spawn(async move {
                    pass_on(client, server, &seen, async {
                        let _ = silent.wait_for(|before| number < *before).await;
                    })
                    .await;
                    seen.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self {
            address,
            counts,
            silent_before,
            task,
        }
    }

    /// Silences every connection there is; new ones work.
    fn fail_over(&self) {
        self.silent_before.send_replace(self.connections());
    }

    /// Silences every connection there is or will be.
    fn stall(&self) {
        self.silent_before.send_replace(usize::MAX);
    }

    fn connections(&self) -> usize {
        self.counts.connections.load(Ordering::SeqCst)
    }

    fn open(&self) -> usize {
        self.counts.open.load(Ordering::SeqCst)
    }

    fn requests(&self) -> usize {
        self.counts.requests.load(Ordering::SeqCst)
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Until the client hangs up.
async fn pass_on(
    mut client: TcpStream,
    server: SocketAddr,
    counts: &Counts,
    silence: impl Future<Output = ()>,
) {
    let mut server = TcpStream::connect(server).await.unwrap();
    let (mut from_client, mut from_server) = ([0; 4096], [0; 4096]);
    let mut is_silent = false;
    tokio::pin!(silence);
    loop {
        tokio::select! {
            biased;
            () = &mut silence, if !is_silent => is_silent = true,
            read = client.read(&mut from_client) => {
                let Ok(length @ 1..) = read else { return };
                let bytes = &from_client[..length];
                counts.requests.fetch_add(usize::from(bytes.starts_with(b"POST ")), Ordering::SeqCst);
                if !is_silent && server.write_all(bytes).await.is_err() {
                    return;
                }
            }
            read = server.read(&mut from_server), if !is_silent => {
                let Ok(length @ 1..) = read else { return };
                if client.write_all(&from_server[..length]).await.is_err() {
                    return;
                }
            }
        }
    }
}

fn builder(released: &FakeReleased, balancer: &Balancer) -> ReleasedClientBuilder {
    let endpoint = released
        .impersonation_url()
        .replace(&released.origin(), &format!("http://{}", balancer.address));
    released
        .client_builder()
        .endpoint(endpoint)
        .retry(retry(|retry| retry.attempt_timeout = ATTEMPT))
        .deadline(Duration::from_secs(30))
}

/// Mints as many at once, and tells how each ended and how long it took.
async fn mints(client: &ReleasedClient, count: usize) -> Vec<(Option<MintErrorKind>, Duration)> {
    join_all((0..count).map(async |_| {
        let start = Instant::now();
        let kind = client.mint(&ada()).await.err().map(|error| error.kind());
        (kind, start.elapsed())
    }))
    .await
}

async fn mint(client: &ReleasedClient) -> (Option<MintErrorKind>, Duration) {
    mints(client, 1).await[0]
}

/// Leaves so many idle connections in the client's pool.
async fn fill_pool(
    client: &ReleasedClient,
    released: &FakeReleased,
    balancer: &Balancer,
    count: usize,
) {
    // So that none of them is free again before the last one is opened.
    released.set_latency(ATTEMPT / 4);
    let ends = mints(client, count).await;
    assert!(ends.iter().all(|(kind, _)| kind.is_none()), "{ends:?}");
    released.recover();
    assert_eq!((balancer.connections(), balancer.open()), (count, count));
}

async fn pooled() -> (FakeReleased, Balancer, ReleasedClient) {
    let released = FakeReleased::start().await.unwrap();
    let balancer = Balancer::before(&released).await;
    let client = builder(&released, &balancer).build().unwrap();
    fill_pool(&client, &released, &balancer, POOLED).await;
    (released, balancer, client)
}

#[tokio::test]
async fn pages_that_all_draw_a_dead_connection_have_their_tokens_after_one_attempt() {
    let (_released, balancer, client) = pooled().await;
    balancer.fail_over();
    let ends = mints(&client, POOLED).await;
    let without = ends.iter().filter(|(kind, _)| kind.is_some()).count();
    let slowest = ends.iter().map(|(_, took)| *took).max().unwrap();
    assert!(without <= 3, "{ends:?}");
    assert!(slowest < 2 * ATTEMPT, "{ends:?}");

    // The circuit is closed, and every page has its token at once.
    for _ in 0..2 {
        let ends = mints(&client, POOLED).await;
        assert!(
            ends.iter()
                .all(|(kind, took)| kind.is_none() && *took < ATTEMPT),
            "{ends:?}"
        );
    }
    assert!(
        balancer.open() <= POOLED,
        "the dead connections are closed, of {}",
        balancer.connections()
    );
}

#[tokio::test]
async fn of_pages_one_after_the_other_the_first_alone_waits_for_a_dead_connection() {
    let (_released, balancer, client) = pooled().await;
    balancer.fail_over();
    let (kind, took) = mint(&client).await;
    assert_eq!(kind, None);
    assert!(took >= ATTEMPT && took < 2 * ATTEMPT, "{took:?}");
    for _ in 0..POOLED {
        let (kind, took) = mint(&client).await;
        assert!(kind.is_none() && took < ATTEMPT, "{kind:?} after {took:?}");
    }
    assert_eq!(
        (balancer.connections(), balancer.open()),
        (POOLED + 1, 1),
        "all share the connection of the retry"
    );
}

#[tokio::test]
async fn a_mint_that_is_not_retried_leaves_no_dead_connection_to_the_next() {
    let released = FakeReleased::start().await.unwrap();
    let balancer = Balancer::before(&released).await;
    let client = builder(&released, &balancer)
        .retry(retry(|retry| {
            (retry.max_attempts, retry.attempt_timeout) = (1, ATTEMPT);
        }))
        .build()
        .unwrap();
    fill_pool(&client, &released, &balancer, POOLED).await;
    balancer.fail_over();
    assert_eq!(mint(&client).await.0, Some(MintErrorKind::Timeout));
    assert_eq!(mint(&client).await.0, None);
}

#[tokio::test]
async fn a_probe_opens_a_new_connection() {
    let released = FakeReleased::start().await.unwrap();
    let balancer = Balancer::before(&released).await;
    let moment = Duration::from_millis(50);
    let client = builder(&released, &balancer)
        .retry(retry(|retry| {
            (retry.max_attempts, retry.attempt_timeout) = (1, ATTEMPT);
        }))
        .circuit(open_for(moment))
        .build()
        .unwrap();
    fill_pool(&client, &released, &balancer, POOLED).await;

    released.reply_always(Reply::status(500));
    for _ in 0..5 {
        assert_eq!(mint(&client).await.0, Some(MintErrorKind::Unavailable));
    }
    assert_eq!(mint(&client).await.0, Some(MintErrorKind::CircuitOpen));
    assert_eq!(balancer.connections(), POOLED, "the pool is alive");
    balancer.fail_over();
    released.recover();

    let first_that_is_let_through = loop {
        match mint(&client).await.0 {
            Some(MintErrorKind::CircuitOpen) => tokio::time::sleep(Duration::from_millis(5)).await,
            other => break other,
        }
    };
    assert_eq!(first_that_is_let_through, None);
    let ends = mints(&client, POOLED).await;
    assert!(
        ends.iter()
            .all(|(kind, took)| kind.is_none() && *took < ATTEMPT),
        "{ends:?}"
    );
}

#[tokio::test]
async fn while_released_stalls_there_are_no_more_retries_than_the_budget_and_one_pool_allow() {
    let released = FakeReleased::start().await.unwrap();
    let balancer = Balancer::before(&released).await;
    // Without the breaker, which would end it sooner.
    let client = builder(&released, &balancer)
        .retry(retry(|retry| {
            retry.attempt_timeout = Duration::from_millis(500);
        }))
        .circuit(circuit(|circuit| {
            (circuit.failures_in_a_row, circuit.of_at_least) = (u32::MAX, u32::MAX);
        }))
        .build()
        .unwrap();
    fill_pool(&client, &released, &balancer, POOLED).await;
    balancer.stall();

    let mut extra = Vec::new();
    for _ in 0..3 {
        let before = balancer.requests();
        let ends = mints(&client, 100).await;
        assert!(
            ends.iter()
                .all(|(kind, _)| *kind == Some(MintErrorKind::Timeout)),
            "{ends:?}"
        );
        extra.push(balancer.requests() - before - 100);
    }
    // A tenth of the mints, one a second with ten to start with, and once a retry for each connection that had answered.
    assert!(extra[0] <= POOLED + 10 + 10 + 10, "{extra:?}");
    assert!(extra[1] + extra[2] <= 2 * 10 + 10 + 10, "{extra:?}");
}

#[tokio::test]
async fn a_page_that_goes_away_leaves_the_pool_as_it_is() {
    let (released, balancer, client) = pooled().await;
    released.set_latency(Duration::from_secs(60));
    let before = released.counts().requests;
    tokio::select! {
        end = mint(&client) => panic!("the API takes a minute: {end:?}"),
        _ = released.wait_until(|counts| counts.requests == before + 1) => {}
    }
    released.wait_until(|counts| counts.in_flight == 0).await;
    released.recover();

    released.set_latency(ATTEMPT / 4);
    let ends = mints(&client, POOLED - 1).await;
    assert!(ends.iter().all(|(kind, _)| kind.is_none()), "{ends:?}");
    assert_eq!(
        (balancer.connections(), balancer.open()),
        (POOLED, POOLED - 1)
    );
}

#[tokio::test]
async fn an_answer_of_408_leaves_the_pool_as_it_is() {
    let released = FakeReleased::start().await.unwrap();
    let balancer = Balancer::before(&released).await;
    let client = builder(&released, &balancer).build().unwrap();
    fill_pool(&client, &released, &balancer, 2).await;
    released.reply_next(Reply::status(408));
    assert_eq!(mint(&client).await.0, None);
    assert_eq!(mint(&client).await.0, None);
    assert_eq!(balancer.connections(), 2);
}
