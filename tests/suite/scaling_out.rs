//! What the guide `scaling_out` says of many servers is what they do.

use std::time::Duration;

#[path = "../../benches/support/servers.rs"]
mod servers;

use servers::{Fault, Figures, simulate};

const GUIDE: &str = include_str!("../../src/docs/scaling_out.md");

/// As in the guide's tables.
const MINTS_PER_SECOND: f64 = 5.0;

/// The longest time that a circuit stays open: 60 s and a fifth of it.
const LONGEST_OPEN: f64 = 72.0;

#[tokio::test(start_paused = true)]
async fn servers_do_to_a_failing_released_what_the_guide_says() {
    let figures = simulate(5, MINTS_PER_SECOND, Fault::Unavailable).await;
    is_as_promised(5, &figures);
    assert!(figures.onset.requests <= 5 * 25, "{figures:?}");
    is_row_of("503", 5, &figures);
}

#[tokio::test(start_paused = true)]
async fn servers_do_to_a_silent_released_what_the_guide_says() {
    let figures = simulate(5, MINTS_PER_SECOND, Fault::Silent).await;
    is_as_promised(5, &figures);
    // Three seconds of mints, which all wait.
    assert!(figures.onset.most_in_flight <= 5 * 20, "{figures:?}");
    is_row_of("no answer", 5, &figures);
}

#[tokio::test(start_paused = true)]
async fn servers_that_are_asked_to_wait_come_back_together() {
    let figures = simulate(5, MINTS_PER_SECOND, Fault::Throttled).await;
    assert!(figures.onset.requests <= 5 * 3, "{figures:?}");
    let last = figures.recovered(5).expect("all of them");
    assert!(last <= Duration::from_secs(31), "{figures:?}");
}

/// What holds for any number of servers.
fn is_as_promised(servers: u32, figures: &Figures) {
    let settled = figures.settled.per_second;
    // One probe in 48 to 72 seconds, and the wait for a mint that probes.
    let expected = f64::from(servers) / 80.0..=f64::from(servers) / 48.0;
    assert!(expected.contains(&settled), "{figures:?}");
    let last = figures.recovered(servers).expect("all of them");
    assert!(last.as_secs_f64() <= LONGEST_OPEN + 5.0, "{figures:?}");
    assert!(
        figures.after.busiest_second <= figures.before.busiest_second * 3 / 2,
        "{figures:?}"
    );
}

/// The rounded figures of the guide's table with this heading are near these.
fn is_row_of(heading: &str, servers: u32, figures: &Figures) {
    let (_, table) = GUIDE
        .split_once(&format!("| {heading} |"))
        .expect("the table");
    let row = table
        .lines()
        .find_map(|line| line.strip_prefix(&format!("| {servers} |")))
        .expect("the row");
    let cells: Vec<&str> = row.split('|').map(str::trim).collect();
    for (cell, figure) in [
        (cells[0], figures.before.per_second),
        (cells[1], f64::from(figures.onset.requests)),
        (cells[2], figures.settled.per_second),
        (cells[3], f64::from(figures.onset.busiest_second)),
        (cells[4], f64::from(figures.onset.most_in_flight)),
    ] {
        let shown: f64 = cell.replace(',', "").parse().expect("a number");
        let is_near = (figure - shown).abs() <= 0.25 * figure.max(shown);
        assert!(is_near, "the guide has {shown} for {figure}: {figures:?}");
    }
}
