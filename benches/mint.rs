//! One mint: its CPU time and its allocations, beside the same POST through bare reqwest and through hyper, and what `warm_up`
//! saves where there is TLS. The allocator counts, which costs all of them a little.
//!
//! For Linux, where a file of certificates can be named in the environment.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

#[allow(dead_code)]
#[path = "../tests/suite/support/authority.rs"]
mod authority;
mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use authority::Authority;
use criterion::Criterion;
use support::by_hand::ByHand;
use support::floor::Floor;
use support::{ACCOUNT, ADA, Ratios, SECRET, Server, ada, client, runtime, thread_cpu_time};
use tower::Service;
use tower_released::ReleasedClient;

/// The CPU time of this thread that so many calls take.
fn cpu_time(calls: u64, mut call: impl FnMut()) -> Duration {
    let start = thread_cpu_time();
    for _ in 0..calls {
        call();
    }
    thread_cpu_time().saturating_sub(start)
}

fn mints(criterion: &mut Criterion) {
    let (api, runtime) = (Server::api(), runtime());
    let _guard = runtime.enter();
    let (released, user) = (client(&api), ada());
    let (by_hand, floor) = (ByHand::new(api.url()), Floor::new(&api.url()));

    let mint = || drop(runtime.block_on(released.mint(&user)).unwrap());
    let mut service = released.clone();
    let mut call = || drop(runtime.block_on(service.call(user.clone())).unwrap());
    let by_hand = || drop(runtime.block_on(by_hand.mint(&ADA)).unwrap());
    let floor = || drop(runtime.block_on(floor.mint()));

    let mut ratios = Ratios::default();
    let mut group = criterion.benchmark_group("mint, CPU time of the client");
    group.bench_function("tower_released", |bencher| {
        ratios.measure(
            bencher,
            "tower_released",
            |n| cpu_time(n, mint),
            |n| cpu_time(n, by_hand),
        );
    });
    group.bench_function("floor", |bencher| {
        ratios.measure(
            bencher,
            "floor",
            |n| cpu_time(n, floor),
            |n| cpu_time(n, by_hand),
        );
    });
    group.finish();
    ratios.print("what is written by hand");

    println!("\nallocations of one mint:");
    print_allocations("ReleasedClient::mint", mint);
    print_allocations("ReleasedClient as a service", &mut call);
    print_allocations("what is written by hand", by_hand);
    print_allocations("floor", floor);
}

fn print_allocations(name: &str, mut mint: impl FnMut()) {
    const MINTS: u64 = 1000;

    mint();
    let counted = allocation_counter::measure(|| (0..MINTS).for_each(|_| mint()));
    println!(
        "{name}: {} allocations, {} bytes",
        counted.count_total / MINTS,
        counted.bytes_total / MINTS
    );
}

fn first_mints(criterion: &mut Criterion, authority_file: &str) {
    let authority = Authority::new();
    std::fs::write(authority_file, authority.pem()).unwrap();
    let (api, runtime) = (
        Server::tls_api(authority.server_for("localhost", 2090)),
        runtime(),
    );
    let user = ada();
    let new_client = || {
        let url = format!(
            "https://localhost:{}/auth/api/impersonation/token",
            api.address.port()
        );
        ReleasedClient::builder(ACCOUNT, SECRET)
            .endpoint(url)
            .build()
            .unwrap()
    };
    let steady = new_client();
    // Not measured: to prepare, and what closing its connections takes.
    let first_mint = |is_warm: bool| {
        runtime.block_on(async {
            let client = new_client();
            if is_warm {
                client.warm_up().await.unwrap();
            }
            // What was done last is to build a client and to shake hands, after which the processor's caches hold little
            // of what a mint needs, whichever client's it is.
            steady.mint(&user).await.unwrap();
            let start = Instant::now();
            client.mint(&user).await.unwrap();
            start.elapsed()
        })
    };
    let steady_mint = || {
        runtime.block_on(async {
            let start = Instant::now();
            steady.mint(&user).await.unwrap();
            start.elapsed()
        })
    };
    steady_mint();
    let sum = |count, one: &dyn Fn() -> Duration| (0..count).map(|_| one()).sum();

    let mut ratios = Ratios::default();
    let mut group = criterion.benchmark_group("mint, latency with TLS");
    for (name, is_warm) in [
        ("first after warm_up", true),
        ("first without warm_up", false),
    ] {
        group.bench_function(name, |bencher| {
            ratios.measure(
                bencher,
                name,
                |n| sum(n, &|| first_mint(is_warm)),
                |n| sum(n, &steady_mint),
            );
        });
    }
    group.finish();
    ratios.print("a later mint");
}

/// Runs itself once more, as what the system trusts is told by an environment variable that is read at the start.
fn main() {
    const AUTHORITY: &str = "SSL_CERT_FILE";
    const CHILD: &str = "TOWER_RELEASED_BENCH_CHILD";

    if std::env::var_os(CHILD).is_none() {
        let file =
            std::env::temp_dir().join(format!("tower-released-bench-{}.pem", std::process::id()));
        let arguments = std::env::args_os().skip(1);
        let mut child = Command::new(std::env::current_exe().unwrap());
        let status = child
            .args(arguments)
            .env(CHILD, "1")
            .env(AUTHORITY, &file)
            .status()
            .unwrap();
        let _ = std::fs::remove_file(file);
        std::process::exit(status.code().unwrap_or(1));
    }
    let authority_file = std::env::var(AUTHORITY).unwrap();
    let mut criterion = Criterion::default().configure_from_args();
    mints(&mut criterion);
    first_mints(&mut criterion, &authority_file);
    criterion.final_summary();
}
