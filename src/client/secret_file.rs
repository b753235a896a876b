//! A file that contains the shared secret, and is rotated without a restart.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use zeroize::Zeroizing;

use super::config_error::ConfigError;
use super::secret::{InvalidSecret, SharedSecret};
use crate::telemetry::warn;

/// How often the file is read. File events do not report that Kubernetes swaps symbolic links.
const CHECK_EVERY: Duration = Duration::from_secs(30);

/// How often the file is read while Released refuses its secret.
const CHECK_EVERY_AFTER_REFUSAL: Duration = Duration::from_secs(1);

/// How long a refused mint waits for that.
const CHECK_WAIT: Duration = Duration::from_millis(500);

/// The time between the two reads of a changed file. If they differ, the file is being written.
const SETTLED_AFTER: Duration = Duration::from_millis(20);

/// How long a check may take. A busy file system answers within this time. One that hangs (NFS, FUSE, a pipe) may never
/// answer, and must not block the next check.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);

/// The limit of reads under way. A read that hangs cannot be cancelled, and keeps its thread.
const MAX_READS: usize = 4;

/// How often an extra read starts while that many hang, perhaps for ever.
const EXTRA_READ_AFTER: Duration = Duration::from_secs(10 * 60);

/// The longest file that is accepted, in bytes. Secrets are much shorter.
const MAX_FILE_BYTES: u64 = 16 * 1024;

/// Reads the shared secret from a file, such as a mounted Kubernetes or Docker secret.
///
/// The client reads the file again in the background, so a rotation needs no restart. A mint starts a read if the last
/// one was 30 seconds ago, or if Released answers 401. If the file cannot be read, is empty, or is being written, the
/// client keeps the last valid secret and logs a warning. To rotate the secret, rename a new file over the old one, as
/// Kubernetes does.
///
/// A file system that hangs does not delay mints. After 10 seconds, a read counts as failed, and the next one starts on
/// time. While 4 reads hang, one more starts every 10 minutes.
///
/// # Example
///
/// ```no_run
/// use tower_released::ReleasedClient;
/// use tower_released::client::SecretFile;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let secret = SecretFile::open("/run/secrets/released")?;
/// let released = ReleasedClient::new("account", secret)?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct SecretFile {
    path: PathBuf,
    /// The last valid secret, for all clients of this file.
    secret: watch::Sender<SharedSecret>,
    state: Mutex<State>,
    /// Wakes the mints that wait for the end of a check.
    checked: Notify,
    /// Limits the reads, with those that timed out and still hang.
    reads: Arc<Semaphore>,
}

#[derive(Debug)]
struct State {
    checked_at: Instant,
    /// The start of the check under way. There is at most one, so that a slow file does not take a thread for each
    /// mint.
    checking_since: Option<Instant>,
    /// The start of the last read beyond the limit.
    last_extra_read: Instant,
}

impl SecretFile {
    /// Reads the file. Blocks the thread for that long.
    ///
    /// # Errors
    ///
    /// [`ConfigErrorKind::SecretFile`](super::ConfigErrorKind::SecretFile) if the file cannot be read, is longer than
    /// 16 KiB, or contains no valid secret. The text shows the path only if the file or its folder exists: otherwise
    /// the path may be the secret itself.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, ConfigError> {
        let path = path.into();
        let secret = read(&path).map_err(|error| ConfigError::secret_file(&path, error))?;
        let now = Instant::now();
        Ok(Self {
            path,
            secret: watch::Sender::new(secret),
            state: Mutex::new(State {
                checked_at: now,
                checking_since: None,
                last_extra_read: now,
            }),
            checked: Notify::new(),
            reads: Arc::new(Semaphore::new(MAX_READS)),
        })
    }

    /// Returns a receiver of the last valid secret.
    pub(crate) fn subscribe(&self) -> watch::Receiver<SharedSecret> {
        self.secret.subscribe()
    }

    /// Starts a check if the last one was 30 seconds ago. Does not wait for it.
    pub(crate) fn check(self: &Arc<Self>) {
        self.check_if_older_than(CHECK_EVERY);
    }

    /// Checks the file after Released refused this secret. Waits for that for at most half a second.
    pub(crate) async fn check_after_refusal(self: &Arc<Self>, refused: &SharedSecret) {
        // Before the check, whose end would be missed otherwise.
        let mut checked = pin!(self.checked.notified());
        checked.as_mut().enable();
        if *self.secret.borrow() == *refused {
            self.check_if_older_than(CHECK_EVERY_AFTER_REFUSAL);
            let checking_since = self.state().checking_since;
            if let Some(since) = checking_since {
                // From the start of the check, so that a file that hangs delays only the first mints.
                let _ = timeout_at(since + CHECK_WAIT, checked).await;
            }
        }
    }

    /// Starts a check in a task of its own, which goes on if the mint is dropped.
    fn check_if_older_than(self: &Arc<Self>, age: Duration) {
        let mut state = self.state();
        if state.checking_since.is_some() || state.checked_at.elapsed() < age {
            return;
        }
        state.checking_since = Some(Instant::now());
        drop(state);
        let check = Check(Arc::clone(self));
        tokio::spawn(async move {
            let file = &check.0;
            // The secret of a late read is dropped: a later check may have found a newer one.
            let found = timeout(CHECK_TIMEOUT, file.read_settled()).await;
            match found.unwrap_or(Err(SecretFileError::Hangs)) {
                Ok(secret) => drop(file.secret.send_replace(secret)),
                Err(error) => warn!(
                    path = file.path.display().to_string(),
                    "could not reload the secret file; keeping the last valid secret: {error}"
                ),
            }
        });
    }

    /// Reads the file, and reads it again if it changed: it may be only partly written.
    async fn read_settled(&self) -> Result<SharedSecret, SecretFileError> {
        let place = Arc::clone(&self.reads)
            .try_acquire_owned()
            .ok()
            .map(Arc::new);
        if place.is_none() && !self.may_read_beyond_limit() {
            return Err(SecretFileError::Hangs);
        }
        let first = self.read_in_background(place.clone()).await?;
        if first == *self.secret.borrow() {
            return Ok(first);
        }
        sleep(SETTLED_AFTER).await;
        let second = self.read_in_background(place).await?;
        if first == second {
            Ok(second)
        } else {
            Err(SecretFileError::BeingWritten)
        }
    }

    /// Reads the file on a thread of its own, because the file may be on a network.
    async fn read_in_background(
        &self,
        place: Option<Arc<OwnedSemaphorePermit>>,
    ) -> Result<SharedSecret, SecretFileError> {
        let path = self.path.clone();
        let (sender, receiver) = oneshot::channel();
        // Paused time stops only while a blocking task of the runtime runs.
        #[cfg(test)]
        let sender = {
            let (end, ended) = std::sync::mpsc::channel::<()>();
            tokio::task::spawn_blocking(move || ended.recv());
            (sender, end)
        };
        // A runtime waits at its end for its own blocking threads, so this is not one of them.
        let thread = std::thread::Builder::new()
            .name("tower-released".to_owned())
            .spawn(move || {
                let _place = place;
                let found = read(&path);
                #[cfg(test)]
                let (sender, _end) = sender;
                // Fails if the check has timed out.
                let _ = sender.send(found);
            });
        thread?;
        receiver
            .await
            .unwrap_or(Err(SecretFileError::Unreadable(io::ErrorKind::Other)))
    }

    /// Returns whether a read may start beyond the limit. The reads that hang may be of a file that was replaced.
    fn may_read_beyond_limit(&self) -> bool {
        let mut state = self.state();
        let may_read = state.last_extra_read.elapsed() >= EXTRA_READ_AFTER;
        if may_read {
            state.last_extra_read = Instant::now();
        }
        may_read
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A check under way. Dropping it ends the check and wakes the mints that wait for it, even after a panic.
struct Check(Arc<SecretFile>);

impl Drop for Check {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.checking_since = None;
        state.checked_at = Instant::now();
        drop(state);
        self.0.checked.notify_waiters();
    }
}

fn read(path: &Path) -> Result<SharedSecret, SecretFileError> {
    let mut file = File::open(path)?.take(MAX_FILE_BYTES + 1);
    // Of its final size from the start: a buffer that grows leaves copies in memory.
    let mut content = Zeroizing::new(vec![
        0;
        usize::try_from(MAX_FILE_BYTES).unwrap_or_default() + 1
    ]);
    let mut length = 0;
    loop {
        match file.read(&mut content[length..]) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    if length == content.len() {
        return Err(SecretFileError::TooLong);
    }
    let text = std::str::from_utf8(&content[..length]).map_err(|_| InvalidSecret::NotAscii)?;
    Ok(SharedSecret::from_text(text)?)
}

/// Says why a secret file has no valid secret. The texts contain no part of its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SecretFileError {
    /// It cannot be read.
    Unreadable(io::ErrorKind),
    /// It was not read within 10 seconds.
    Hangs,
    /// It is longer than 16 KiB.
    TooLong,
    /// Its content changed while it was read.
    BeingWritten,
    /// Its content is not a valid secret.
    Invalid(InvalidSecret),
}

impl From<io::Error> for SecretFileError {
    fn from(error: io::Error) -> Self {
        Self::Unreadable(error.kind())
    }
}

impl From<InvalidSecret> for SecretFileError {
    fn from(invalid: InvalidSecret) -> Self {
        Self::Invalid(invalid)
    }
}

impl fmt::Display for SecretFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(kind) => {
                write!(f, "the secret file cannot be read: {kind}; check its path and permissions")
            }
            Self::Hangs => f.write_str(
                "the secret file was not read within 10 seconds; check its file system, and that it is not a pipe",
            ),
            Self::TooLong => f.write_str("the secret file is longer than 16 KiB; check that it is the right file"),
            Self::BeingWritten => f.write_str("the secret file changed while it was read; rename a whole file over it"),
            Self::Invalid(invalid) => write!(f, "the secret file has no valid secret in it: {}", invalid.text()),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn secret(text: &str) -> SharedSecret {
        SharedSecret::new(text).unwrap()
    }

    struct TemporaryFile(PathBuf);

    impl TemporaryFile {
        fn new(name: &str, content: &str) -> Self {
            let file = Self(std::env::temp_dir().join(format!(
                "tower-released-source-{}-{name}",
                std::process::id()
            )));
            file.write(content);
            file
        }

        fn write(&self, content: &str) {
            std::fs::write(&self.0, content).unwrap();
        }
    }

    impl Drop for TemporaryFile {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    // Paused time stops while the file is read, so the order of events is fixed.

    fn open(file: &TemporaryFile) -> Arc<SecretFile> {
        Arc::new(SecretFile::open(&file.0).unwrap())
    }

    fn known(source: &SecretFile) -> SharedSecret {
        source.subscribe().borrow().clone()
    }

    fn current(source: &Arc<SecretFile>) -> SharedSecret {
        source.check();
        known(source)
    }

    async fn after_refusal(source: &Arc<SecretFile>, refused: &SharedSecret) -> SharedSecret {
        source.check_after_refusal(refused).await;
        known(source)
    }

    /// Starts a check, and waits for its end.
    async fn check(source: &Arc<SecretFile>) -> SharedSecret {
        let checked = source.checked.notified();
        source.check_if_older_than(Duration::ZERO);
        checked.await;
        known(source)
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_is_being_written_is_not_used_until_it_is_complete() {
        let file = TemporaryFile::new("half", "the old secret");
        let source = open(&file);
        file.write("the new sec");
        let (found, ()) = tokio::join!(check(&source), async {
            sleep(SETTLED_AFTER / 2).await;
            file.write("the new secret");
        });
        assert_eq!(found, secret("the old secret"));
        assert_eq!(check(&source).await, secret("the new secret"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_is_checked_every_thirty_seconds_and_nobody_waits_for_it() {
        let file = TemporaryFile::new("every", "the old secret");
        let source = open(&file);
        file.write("the new secret");
        advance(Duration::from_secs(29)).await;
        current(&source);
        assert!(source.state().checking_since.is_none());
        advance(Duration::from_secs(2)).await;
        let checked = source.checked.notified();
        assert_eq!(current(&source), secret("the old secret"));
        checked.await;
        assert_eq!(current(&source), secret("the new secret"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_checks_at_most_once_a_second() {
        let file = TemporaryFile::new("refusal", "the old secret");
        let source = open(&file);
        let old = secret("the old secret");
        file.write("the new secret");
        assert_eq!(
            after_refusal(&source, &old).await,
            old,
            "it was just opened"
        );
        advance(Duration::from_secs(1)).await;
        assert_eq!(after_refusal(&source, &old).await, secret("the new secret"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_check_goes_on_although_its_mint_is_dropped() {
        let file = TemporaryFile::new("dropped", "the old secret");
        let source = open(&file);
        let old = secret("the old secret");
        file.write("the new secret");
        advance(Duration::from_secs(1)).await;
        let asked = tokio::spawn({
            let (source, old) = (Arc::clone(&source), old.clone());
            async move { after_refusal(&source, &old).await }
        });
        tokio::task::yield_now().await;
        asked.abort();
        assert_eq!(after_refusal(&source, &old).await, secret("the new secret"));
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_file_that_hangs_takes_one_thread_and_delays_nobody_for_long() {
        let file = TemporaryFile::new("hangs", "the old secret");
        let source = open(&file);
        let old = secret("the old secret");
        // Opening a pipe for reading takes for ever while nobody writes to it.
        std::fs::remove_file(&file.0).unwrap();
        assert!(
            std::process::Command::new("mkfifo")
                .arg(&file.0)
                .status()
                .unwrap()
                .success()
        );
        source.state().checked_at = Instant::now().checked_sub(Duration::from_secs(60)).unwrap();
        for _ in 0..3 {
            assert_eq!(after_refusal(&source, &old).await, old);
            assert_eq!(current(&source), old);
            assert!(
                source.state().checking_since.is_some(),
                "it is the same check all the time"
            );
        }
        // Ends the thread, so that the test can end.
        std::fs::OpenOptions::new()
            .write(true)
            .open(&file.0)
            .unwrap();
    }

    /// A pipe in the place of a file. Opening it for reading takes until somebody writes to it.
    #[cfg(unix)]
    struct Pipe<'a>(&'a TemporaryFile);

    #[cfg(unix)]
    impl<'a> Pipe<'a> {
        fn instead_of(file: &'a TemporaryFile) -> Self {
            std::fs::remove_file(&file.0).unwrap();
            let pipe = Self(file);
            assert!(
                std::process::Command::new("mkfifo")
                    .arg(pipe.path())
                    .status()
                    .unwrap()
                    .success()
            );
            std::os::unix::fs::symlink(pipe.path(), &file.0).unwrap();
            pipe
        }

        fn path(&self) -> PathBuf {
            self.0.0.with_extension("pipe")
        }

        /// Ends the reads that hang; one of them gets this content.
        fn write(&self, content: &str) {
            // Also for reading, so that this does not wait for a reader.
            let mut pipe = std::fs::OpenOptions::new()
                .read(true)
                .write(true)
                .open(self.path())
                .unwrap();
            io::Write::write_all(&mut pipe, content.as_bytes()).unwrap();
            // If it is closed before a reader opens it, its content is lost.
            std::thread::sleep(Duration::from_millis(50));
        }

        /// Ends all reads, with those whose threads start late.
        fn end_all_reads(&self, source: &SecretFile, content: &str) {
            while source.reads.available_permits() < MAX_READS {
                self.write(content);
            }
        }

        /// Puts a file in the place of the pipe, as a rotation does.
        fn replace(&self, content: &str) {
            std::fs::remove_file(&self.0.0).unwrap();
            self.0.write(content);
        }
    }

    #[cfg(unix)]
    impl Drop for Pipe<'_> {
        fn drop(&mut self) {
            // The runtime waits for the threads, also after a failed test.
            self.write("");
            let _ = std::fs::remove_file(self.path());
        }
    }

    /// Starts a check, and advances the time, which stops while a read hangs.
    #[cfg(unix)]
    async fn check_for(source: &Arc<SecretFile>, at_most: Duration) {
        let step = Duration::from_millis(1);
        let mut checked = pin!(source.checked.notified());
        source.check_if_older_than(Duration::ZERO);
        let start = Instant::now();
        while timeout(Duration::ZERO, checked.as_mut()).await.is_err() && start.elapsed() < at_most
        {
            std::thread::sleep(step);
            advance(step).await;
        }
    }

    /// Checks a file that hangs, until the check times out.
    #[cfg(unix)]
    async fn hang_until_timeout(source: &Arc<SecretFile>) {
        check_for(source, Duration::from_millis(50)).await;
        assert!(source.state().checking_since.is_some());
        advance(CHECK_TIMEOUT).await;
        tokio::task::yield_now().await;
        assert!(
            source.state().checking_since.is_none(),
            "it has not timed out yet"
        );
    }

    #[cfg(unix)]
    #[tokio::test(start_paused = true)]
    async fn a_file_that_hung_once_is_read_again_and_what_is_read_too_late_changes_nothing() {
        let file = TemporaryFile::new("hung", "the old secret");
        let source = open(&file);
        let pipe = Pipe::instead_of(&file);
        hang_until_timeout(&source).await;
        assert_eq!(known(&source), secret("the old secret"));

        pipe.replace("the new secret");
        check_for(&source, CHECK_TIMEOUT).await;
        assert_eq!(known(&source), secret("the new secret"));
        pipe.end_all_reads(&source, "the old secret");
        tokio::task::yield_now().await;
        assert_eq!(current(&source), secret("the new secret"));
    }

    #[cfg(unix)]
    #[tokio::test(start_paused = true)]
    async fn no_more_than_four_reads_hang_at_a_time() {
        let file = TemporaryFile::new("four", "the old secret");
        let source = open(&file);
        let pipe = Pipe::instead_of(&file);
        for hung in 1..=4 {
            hang_until_timeout(&source).await;
            assert_eq!(MAX_READS - source.reads.available_permits(), hung);
        }
        // A check that needs a fifth thread fails at once.
        let before = Instant::now();
        assert_eq!(check(&source).await, secret("the old secret"));
        assert_eq!(before.elapsed(), Duration::ZERO);

        pipe.end_all_reads(&source, "");
        pipe.replace("the new secret");
        assert_eq!(check(&source).await, secret("the new secret"));
    }

    /// A mount that is lost (`umount -l`, a pipe that nobody writes to) never returns its four threads.
    #[cfg(unix)]
    #[tokio::test(start_paused = true)]
    async fn a_file_that_was_replaced_is_read_although_four_reads_hang_for_ever() {
        let file = TemporaryFile::new("for-ever", "the old secret");
        let source = open(&file);
        let pipe = Pipe::instead_of(&file);
        for _ in 0..4 {
            hang_until_timeout(&source).await;
        }
        pipe.replace("the new secret");
        advance(EXTRA_READ_AFTER).await;
        check_for(&source, CHECK_TIMEOUT).await;
        let found = source.secret.borrow().clone();
        pipe.end_all_reads(&source, "");
        assert_eq!(found, secret("the new secret"));
    }
}
