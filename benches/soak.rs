//! Ten thousand mints in flight, an outage, a recovery, and what is left of it, four times: `cargo bench --bench soak`.
//!
//! It takes about six minutes. It fails if memory or tasks grow from one round to the next, which would be a leak. The
//! client and the fake of Released each need some 10,100 open files (`ulimit -n`); the figures come from Linux's `/proc`.

// Figures are for people to read.
#![allow(clippy::cast_precision_loss, clippy::print_stdout, clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use std::{env, fmt, fs};

use support::elsewhere::{FAKE, FakeElsewhere, ROLE, serve};
use support::{ada, is_measured};
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tower_released::ReleasedClient;
use tower_released::client::{CircuitConfig, RetryConfig};

/// Counts what is allocated: resident memory says more of the allocator, which keeps what it once had.
#[global_allocator]
static HEAP: cap::Cap<std::alloc::System> = cap::Cap::new(std::alloc::System, usize::MAX);

const ONE_MIB: usize = 1024 * 1024;

#[tokio::main]
async fn main() {
    if env::var(ROLE).is_ok_and(|role| role == FAKE) {
        return serve().await;
    }
    if !cfg!(target_os = "linux") {
        println!("The figures come from Linux's /proc.");
        return;
    }
    // Few where `cargo test` only wants to see that it works.
    let (mints, rounds, slow) = if is_measured() {
        (10_000, 4, Duration::from_secs(2))
    } else {
        (100, 1, Duration::from_millis(20))
    };
    let mut fake = FakeElsewhere::start();
    let (mut retry, mut circuit) = (RetryConfig::default(), CircuitConfig::default());
    retry.attempt_timeout = Duration::from_secs(60);
    (circuit.first_open, circuit.longest_open) = (Duration::from_secs(1), Duration::from_secs(1));
    let client = fake
        .client_builder()
        .deadline(Duration::from_secs(60))
        .retry(retry)
        .max_in_flight(mints)
        .circuit(circuit)
        .build()
        .unwrap();
    let at_start = Figures::now();
    print("at the start", &at_start);

    for round in 1..=rounds {
        println!("\nround {round}");

        fake.set_latency(Duration::from_secs(600));
        let waiting = start(&client, mints);
        fake.wait_for(mints);
        print("in flight", Figures::now());
        drop(waiting);
        fake.wait_for(0);
        print("all of them dropped", Figures::now());

        fake.set_latency(slow);
        print("answered late", ends(start(&client, mints)).await);

        fake.fail();
        print("during an outage", ends(start(&client, mints)).await);

        fake.recover();
        let since = Instant::now();
        while client.mint(&ada()).await.is_err() {
            sleep(Duration::from_millis(10)).await;
        }
        print(
            "recovered",
            format!("after {:.1} s", since.elapsed().as_secs_f64()),
        );

        if is_measured() {
            // The pool closes what is idle for 30 s, when it next looks.
            let since = Instant::now();
            let tasks = || Handle::current().metrics().num_alive_tasks();
            while tasks() > 0 && since.elapsed() < Duration::from_secs(75) {
                sleep(Duration::from_secs(1)).await;
            }
            let at_rest = Figures::now();
            print("at rest", &at_rest);
            assert!(
                at_rest.heap <= at_start.heap + ONE_MIB,
                "memory was left behind"
            );
            assert_eq!(at_rest.tasks, 0, "tasks were left behind");
        }
    }
}

fn print(what: &str, figures: impl fmt::Display) {
    println!("{what:24} {figures}");
}

fn start(client: &ReleasedClient, mints: usize) -> JoinSet<&'static str> {
    let mut tasks = JoinSet::new();
    for _ in 0..mints {
        let client = client.clone();
        tasks.spawn(async move {
            let token = client.mint(&ada()).await;
            token.map_or_else(|error| error.kind().as_str(), |_| "minted")
        });
    }
    tasks
}

/// How the mints ended, and how long that took.
async fn ends(mut mints: JoinSet<&'static str>) -> String {
    let since = Instant::now();
    let mut ends: BTreeMap<&str, usize> = BTreeMap::new();
    while let Some(end) = mints.join_next().await {
        *ends.entry(end.unwrap()).or_default() += 1;
    }
    format!("{ends:?} in {:.1} s", since.elapsed().as_secs_f64())
}

/// What this process holds.
struct Figures {
    heap: usize,
    resident_kib: u64,
    open_files: usize,
    tasks: usize,
}

impl Figures {
    fn now() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let resident = resident.unwrap().trim().trim_end_matches(" kB");
        Self {
            heap: HEAP.allocated(),
            resident_kib: resident.parse().unwrap(),
            open_files: fs::read_dir("/proc/self/fd").unwrap().count(),
            tasks: Handle::current().metrics().num_alive_tasks(),
        }
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: f64| bytes / ONE_MIB as f64;
        write!(
            f,
            "{:.2} MiB of heap, {:.0} resident, {} open files, {} tasks",
            mib(self.heap as f64),
            mib(self.resident_kib as f64 * 1024.0),
            self.open_files,
            self.tasks
        )
    }
}
