//! A fake of Released in a process of its own, so that the figures are the client's alone.

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use tower_released::ReleasedClient;
use tower_released::client::ReleasedClientBuilder;
use tower_released::testing::{FakeReleased, Reply};

/// Set to [`FAKE`] in the process of the fake.
pub(crate) const ROLE: &str = "TOWER_RELEASED_BENCH_ROLE";

pub(crate) const FAKE: &str = "fake";

/// The handle: it writes a command to the other process, which answers with one line when it is done.
pub(crate) struct FakeElsewhere {
    process: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    url: String,
    account_id: String,
    secret: String,
}

impl FakeElsewhere {
    /// Starts this program again, as the fake.
    pub(crate) fn start() -> Self {
        let mut process = Command::new(env::current_exe().unwrap())
            .env(ROLE, FAKE)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let commands = process.stdin.take().unwrap();
        let answers = BufReader::new(process.stdout.take().unwrap());
        let mut fake = Self {
            process,
            commands,
            answers,
            url: String::new(),
            account_id: String::new(),
            secret: String::new(),
        };
        [fake.url, fake.account_id, fake.secret] = [fake.line(), fake.line(), fake.line()];
        fake
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn client_builder(&self) -> ReleasedClientBuilder {
        ReleasedClient::builder(&self.account_id, &self.secret).endpoint(&self.url)
    }

    /// Waits until the fake has exactly this many requests to answer.
    pub(crate) fn wait_for(&mut self, requests: usize) {
        self.run(&format!("wait {requests}"));
    }

    pub(crate) fn set_latency(&mut self, latency: Duration) {
        self.run(&format!("latency {}", latency.as_millis()));
    }

    pub(crate) fn fail(&mut self) {
        self.run("fail");
    }

    pub(crate) fn recover(&mut self) {
        self.run("recover");
    }

    /// Blocks, while the runtime's other threads go on.
    fn run(&mut self, command: &str) {
        tokio::task::block_in_place(|| {
            writeln!(self.commands, "{command}").unwrap();
            self.line();
        });
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        let length = self.answers.read_line(&mut line).unwrap();
        assert!(length > 0, "the fake has stopped");
        line.trim_end().to_owned()
    }
}

impl Drop for FakeElsewhere {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Serves the commands of a [`FakeElsewhere`], until its process ends.
pub(crate) async fn serve() {
    let fake = FakeReleased::start().await.unwrap();
    println!("{}", fake.impersonation_url());
    println!("{}\n{}", fake.account_id(), fake.shared_secret());
    loop {
        let mut line = String::new();
        let read = || std::io::stdin().read_line(&mut line);
        if tokio::task::block_in_place(read).unwrap() == 0 {
            return;
        }
        let (command, number) = line
            .trim_end()
            .split_once(' ')
            .unwrap_or((line.trim_end(), "0"));
        let number: u32 = number.parse().unwrap();
        match command {
            "wait" => {
                let wanted = number as usize;
                fake.wait_until(|counts| counts.in_flight == wanted).await;
            }
            "latency" => fake.set_latency(Duration::from_millis(number.into())),
            "fail" => fake.reply_always(Reply::status(503)),
            _ => fake.recover(),
        }
        println!("done");
    }
}
