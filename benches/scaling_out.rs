//! What many servers do to Released, before, during and after an outage: `cargo bench --bench scaling_out`.
//!
//! It prints the tables of the guide `scaling_out`. With arguments, it simulates other servers: their
//! number, and the mints a second of each, as in `cargo bench --bench scaling_out -- 40 0.5`.

// Figures are for people to read.
#![allow(clippy::print_stdout)]

#[path = "support/servers.rs"]
mod servers;

use std::env;

use servers::{Fault, Figures, simulate};

/// The servers of the guide's tables.
const SERVERS: [u32; 6] = [1, 2, 5, 10, 50, 200];

/// The mints a second of each of them.
const MINTS_PER_SECOND: f64 = 5.0;

fn main() {
    let is_measured = env::args().any(|argument| argument == "--bench");
    let mut numbers = env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'));
    let servers = match numbers.next().and_then(|number| number.parse().ok()) {
        Some(servers) => vec![servers],
        None if is_measured => SERVERS.to_vec(),
        // Where `cargo test` only wants to see that it works.
        None => vec![1, 2],
    };
    let mints_per_second = numbers.next().and_then(|number| number.parse().ok());
    let mints_per_second = mints_per_second.unwrap_or(MINTS_PER_SECOND);
    for (fault, name) in [
        (Fault::Unavailable, "503"),
        (Fault::Silent, "no answer"),
        (Fault::Throttled, "429"),
    ] {
        println!(
            "\n| {name} | requests/s before | in the first 10 s | requests/s later | busiest second | most in flight | \
             half mint again | all mint again | busiest second before, after |"
        );
        println!("|---|---|---|---|---|---|---|---|---|");
        for number in &servers {
            print(*number, &run(*number, mints_per_second, fault));
        }
    }
}

fn run(servers: u32, mints_per_second: f64, fault: Fault) -> Figures {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime")
        .block_on(simulate(servers, mints_per_second, fault))
}

fn print(servers: u32, figures: &Figures) {
    let Figures {
        before,
        onset,
        settled,
        after,
        ..
    } = figures;
    let seconds = |part| match figures.recovered(part) {
        Some(time) => format!("{:.0} s", time.as_secs_f64()),
        None => "later".to_owned(),
    };
    println!(
        "| {servers} | {:.0} | {} | {:.2} | {} | {} | {} | {} | {}, {} |",
        before.per_second,
        onset.requests,
        settled.per_second,
        onset.busiest_second,
        onset.most_in_flight,
        seconds(servers.div_ceil(2)),
        seconds(servers),
        before.busiest_second,
        after.busiest_second,
    );
}
