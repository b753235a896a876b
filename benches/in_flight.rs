//! What ten thousand mints in flight take of memory, and whether it is given back when they are dropped.
//!
//! Memory is no matter of time, so this one does without criterion. Every subject has a process of its own, as allocators
//! keep what they once had, and so has the fake of Released, so that the figures are the client's alone. Each needs some 10,100 open
//! files (`ulimit -n`); the figures come from Linux's `/proc`.

// Figures are for people to read.
#![allow(clippy::cast_precision_loss, clippy::print_stdout, clippy::unwrap_used)]

mod support;

use std::env;
use std::fs;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use support::by_hand::ByHand;
use support::elsewhere::{FAKE, FakeElsewhere, ROLE, serve};
use support::{ADA, ada, is_measured};
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tower_released::client::RetryConfig;

/// Counts what is allocated.
#[global_allocator]
static HEAP: cap::Cap<std::alloc::System> = cap::Cap::new(std::alloc::System, usize::MAX);

const OWN: &str = "tower_released";
const BY_HAND: &str = "what is written by hand";

/// How often it is done; what grew from one round to the next would be a leak.
const ROUNDS: usize = 3;

/// Longer than any of it takes.
const LONG: Duration = Duration::from_secs(600);

fn main() {
    match env::var(ROLE) {
        Ok(role) if role == FAKE => runtime().block_on(serve()),
        Ok(subject) => runtime().block_on(measure(&subject)),
        Err(_) => {
            if !cfg!(target_os = "linux") {
                println!("The figures come from Linux's /proc.");
                return;
            }
            let limit = getrlimit(Resource::Nofile).current;
            let needed = mints() as u64 + 100;
            assert!(
                limit.is_none_or(|limit| limit >= needed),
                "{needed} open files are needed: see `ulimit -n`"
            );
            for subject in [OWN, BY_HAND] {
                let mut child = Command::new(env::current_exe().unwrap());
                let status = child
                    .args(env::args_os().skip(1))
                    .env(ROLE, subject)
                    .status()
                    .unwrap();
                assert!(status.success(), "{subject} failed");
            }
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// Ten thousand, or few where `cargo test` only wants to see that it works.
fn mints() -> usize {
    if is_measured() { 10_000 } else { 100 }
}

async fn measure(subject: &str) {
    let mints = mints();
    let mut fake = FakeElsewhere::start();
    fake.set_latency(LONG);
    let mut retry = RetryConfig::default();
    retry.attempt_timeout = LONG;
    let client = fake
        .client_builder()
        .deadline(LONG)
        .retry(retry)
        .max_in_flight(mints)
        .build()
        .unwrap();
    let (by_hand, user) = (ByHand::new(fake.url().to_owned()), ada());
    let start = || -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        for _ in 0..mints {
            if subject == BY_HAND {
                let by_hand = by_hand.clone();
                tasks.spawn(async move { drop(by_hand.mint(&ADA).await.unwrap()) });
            } else {
                let (client, user) = (client.clone(), user.clone());
                tasks.spawn(async move { drop(client.mint(&user).await.unwrap()) });
            }
        }
        tasks
    };

    println!("\n{subject}:");
    let at_start = Figures::now();
    for round in 1..=ROUNDS {
        let tasks = start();
        fake.wait_for(mints);
        // What all of them have left to do.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let in_flight = Figures::now();
        drop(tasks);
        fake.wait_for(0);
        while Handle::current().metrics().num_alive_tasks() > 0 {
            tokio::task::yield_now().await;
        }
        println!(
            "round {round}: {}; afterwards {}",
            in_flight.since(&at_start, mints),
            Figures::now().heap_kib()
        );
    }
}

/// What this process holds, and the kernel for all of them, in KiB.
struct Figures {
    heap: f64,
    resident: f64,
    kernel: f64,
}

impl Figures {
    fn now() -> Self {
        let field = |file: &str, name: &str| -> f64 {
            let text = fs::read_to_string(file).unwrap();
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .unwrap();
            line.split_whitespace().next().unwrap().parse().unwrap()
        };
        Self {
            heap: HEAP.allocated() as f64 / 1024.0,
            resident: field("/proc/self/status", "VmRSS:"),
            // Where sockets, their files and their buffers are.
            kernel: field("/proc/meminfo", "Slab:"),
        }
    }

    fn since(&self, before: &Self, mints: usize) -> String {
        let each = |now: f64, before: f64| (now - before) / mints as f64;
        format!(
            "{:.1} KiB of heap each, {:.1} resident, {:.1} in the kernel",
            each(self.heap, before.heap),
            each(self.resident, before.resident),
            // The other end of each connection is on this machine, too.
            each(self.kernel, before.kernel) / 2.0,
        )
    }

    fn heap_kib(&self) -> String {
        format!("{:.0} KiB of heap in all", self.heap)
    }
}
