//! Ten thousand mints in flight, an outage, a recovery, and what is left of it: `cargo run --release --example soak`.
//!
//! The fake of Released runs in a process of its own, so that the figures are the client's alone. Each of the two needs
//! about 10,100 open files (`ulimit -n`), and the figures come from Linux's `/proc`. Rounds must look alike: memory that
//! grew from one to the next would be a leak.

// Figures are for people to read.
#![allow(clippy::print_stdout, clippy::cast_precision_loss)]

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tower_released::client::{CircuitConfig, RetryConfig};
use tower_released::testing::{FakeReleased, Reply};
use tower_released::{ReleasedClient, User};

/// Counts what is allocated: resident memory alone says more of the allocator, which keeps what it once had.
#[global_allocator]
static HEAP: cap::Cap<std::alloc::System> = cap::Cap::new(std::alloc::System, usize::MAX);

type Failure = Box<dyn Error + Send + Sync>;

const MINTS: usize = 10_000;

const ONE_MIB: usize = 1024 * 1024;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    if std::env::args().nth(1).as_deref() == Some("fake") {
        return serve_fake().await;
    }
    let mut fake = Fake::start()?;
    let (mut retry, mut circuit) = (RetryConfig::default(), CircuitConfig::default());
    retry.attempt_timeout = Duration::from_secs(60);
    (circuit.first_open, circuit.longest_open) = (Duration::from_secs(1), Duration::from_secs(1));
    let client = ReleasedClient::builder(&fake.account_id, &fake.secret)
        .endpoint(&fake.url)
        .deadline(Duration::from_secs(60))
        .retry(retry)
        .max_in_flight(MINTS)
        .circuit(circuit)
        .build()?;
    let user = User::new("ada", "ada@example.com")?.with_name("Ada Lovelace");
    let at_start = Figures::now()?;
    println!("{:34} {at_start}", "at the start");

    for round in 1..=4 {
        println!("\nround {round}");

        fake.tell("latency 600000")?;
        let waiting = start_mints(&client, &user);
        fake.tell(&format!("await {MINTS}"))?;
        println!("{:34} {}", format!("{MINTS} in flight"), Figures::now()?);
        drop(waiting);
        fake.tell("await 0")?;
        println!("{:34} {}", "all of them dropped", Figures::now()?);

        fake.tell("latency 2000")?;
        println!(
            "{:34} {}",
            "answered after 2 s",
            ends(start_mints(&client, &user)).await?
        );

        fake.tell("outage")?;
        println!(
            "{:34} {}",
            "during an outage",
            ends(start_mints(&client, &user)).await?
        );

        fake.tell("recover")?;
        let start = Instant::now();
        while client.mint(&user).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        println!(
            "{:34} after {:.1} s",
            "recovered",
            start.elapsed().as_secs_f64()
        );

        // The pool closes what is idle for 30 s, when it next looks.
        let start = Instant::now();
        while Handle::current().metrics().num_alive_tasks() > 0
            && start.elapsed() < Duration::from_secs(75)
        {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let at_rest = Figures::now()?;
        println!("{:34} {at_rest}", "at rest");
        if at_rest.allocated_bytes > at_start.allocated_bytes + ONE_MIB || at_rest.tasks > 0 {
            return Err("something was left behind".into());
        }
    }
    Ok(())
}

fn start_mints(client: &ReleasedClient, user: &User) -> JoinSet<&'static str> {
    let mut mints = JoinSet::new();
    for _ in 0..MINTS {
        let (client, user) = (client.clone(), user.clone());
        mints.spawn(async move {
            client
                .mint(&user)
                .await
                .map_or_else(|error| error.kind().as_str(), |_| "minted")
        });
    }
    mints
}

/// How the mints ended, and how long that took.
async fn ends(mut mints: JoinSet<&'static str>) -> Result<String, Failure> {
    let start = Instant::now();
    let mut ends: BTreeMap<&str, usize> = BTreeMap::new();
    while let Some(end) = mints.join_next().await {
        *ends.entry(end?).or_default() += 1;
    }
    Ok(format!(
        "{ends:?} in {:.1} s",
        start.elapsed().as_secs_f64()
    ))
}

/// What this process holds.
struct Figures {
    allocated_bytes: usize,
    resident_kib: u64,
    open_files: usize,
    tasks: usize,
}

impl Figures {
    fn now() -> Result<Self, Failure> {
        let status = fs::read_to_string("/proc/self/status")?;
        let resident = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
        Ok(Self {
            allocated_bytes: HEAP.allocated(),
            resident_kib: resident.ok_or("no VmRSS")?.parse()?,
            open_files: fs::read_dir("/proc/self/fd")?.count(),
            tasks: Handle::current().metrics().num_alive_tasks(),
        })
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            allocated_bytes,
            resident_kib,
            open_files,
            tasks,
        } = self;
        let (allocated, resident) = (
            *allocated_bytes as f64 / 1024.0 / 1024.0,
            *resident_kib as f64 / 1024.0,
        );
        write!(
            f,
            "{allocated:.2} MiB allocated, {resident:.0} resident, {open_files} open files, {tasks} tasks"
        )
    }
}

/// The fake in its own process: a line in, a line out.
struct Fake {
    process: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    url: String,
    account_id: String,
    secret: String,
}

impl Fake {
    fn start() -> Result<Self, Failure> {
        let mut process = Command::new(std::env::current_exe()?)
            .arg("fake")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let commands = process.stdin.take().ok_or("no standard input")?;
        let answers = BufReader::new(process.stdout.take().ok_or("no standard output")?);
        let [url, account_id, secret] = [const { String::new() }; 3];
        let mut fake = Self {
            process,
            commands,
            answers,
            url,
            account_id,
            secret,
        };
        [fake.url, fake.account_id, fake.secret] = [fake.answer()?, fake.answer()?, fake.answer()?];
        Ok(fake)
    }

    /// Blocks until it is done, while the runtime's other threads go on.
    fn tell(&mut self, command: &str) -> Result<(), Failure> {
        tokio::task::block_in_place(|| {
            writeln!(self.commands, "{command}")?;
            self.answer().map(drop)
        })
    }

    fn answer(&mut self) -> Result<String, Failure> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn serve_fake() -> Result<(), Failure> {
    let released = FakeReleased::start().await?;
    println!(
        "{}\n{}\n{}",
        released.impersonation_url(),
        released.account_id(),
        released.shared_secret()
    );
    loop {
        let mut command = String::new();
        if tokio::task::block_in_place(|| std::io::stdin().read_line(&mut command))? == 0 {
            return Ok(());
        }
        match command.trim_end().split_once(' ') {
            Some(("latency", milliseconds)) => {
                released.set_latency(Duration::from_millis(milliseconds.parse()?));
            }
            Some(("await", in_flight)) => {
                let in_flight: usize = in_flight.parse()?;
                released
                    .wait_until(|counts| counts.in_flight == in_flight)
                    .await;
            }
            _ if command.starts_with("outage") => released.reply_always(Reply::status(503)),
            _ => released.recover(),
        }
        println!("done");
    }
}
