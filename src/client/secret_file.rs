//! A file with the shared secret in it, which is rotated without a restart.

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

/// How often a secret file is looked at. By content, for Kubernetes swaps symbolic links, which nothing reports.
const LOOK_AFTER: Duration = Duration::from_secs(30);

/// How often a secret file is looked at when Released refuses what was in it.
const LOOK_AFTER_REFUSAL: Duration = Duration::from_secs(1);

/// How long a mint that was refused waits for that.
const LOOK_PATIENCE: Duration = Duration::from_millis(500);

/// A changed file must still be the same after this long, or it is being written.
const SETTLED_AFTER: Duration = Duration::from_millis(20);

/// How long a look may take. A file system that answers at all does so within this, however busy it is; one that hangs
/// (NFS, FUSE, a pipe) may never answer, and the next look is to start all the same.
const LOST_AFTER: Duration = Duration::from_secs(10);

/// How many reads may be under way. One that hangs cannot be cancelled, and keeps its thread.
const MOST_READS: usize = 4;

/// How often one more read is started while that many hang, perhaps for ever.
const EXTRA_READ_AFTER: Duration = Duration::from_secs(10 * 60);

/// The longest file that is read, in bytes. Secrets are much shorter.
const MAX_FILE_BYTES: u64 = 16 * 1024;

/// A file with the shared secret in it, such as a mounted Kubernetes or Docker secret.
///
/// It is read again in the background: every 30 seconds, when a mint is asked for, and when Released answers 401. So a
/// rotation needs no restart. When the file cannot be read, is empty, or is being written, the last valid secret stays
/// in use, with a warning. Replace it by renaming a whole file over it, as Kubernetes does.
///
/// A file system that hangs holds up no mint: a read is given up after 10 seconds, and the next one starts on time. While 4
/// such reads hang, one more is started every 10 minutes.
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
    /// Where each look puts what it found, for all clients of this file.
    secret: watch::Sender<SharedSecret>,
    state: Mutex<State>,
    /// Tells those who wait for a look that it is over.
    looked: Notify,
    /// The places of the reads, also of those that were given up and still hang.
    reads: Arc<Semaphore>,
}

#[derive(Debug)]
struct State {
    looked_at: Instant,
    /// When the look under way began. There is never more than one: a slow file, on a network, must not take a thread for
    /// each mint.
    looking_since: Option<Instant>,
    /// When a read was started although all places were taken.
    last_extra_read: Instant,
}

impl SecretFile {
    /// Reads the file, and blocks for that long.
    ///
    /// # Errors
    ///
    /// [`ConfigErrorKind::SecretFile`](super::ConfigErrorKind::SecretFile) if the file cannot be read, is longer than 16 KiB, or
    /// holds no valid secret. The text shows the path only if it names a file or is in an existing folder: otherwise it may be
    /// the secret itself.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, ConfigError> {
        let path = path.into();
        let secret = read(&path).map_err(|error| ConfigError::secret_file(&path, error))?;
        let now = Instant::now();
        let state = Mutex::new(State {
            looked_at: now,
            looking_since: None,
            last_extra_read: now,
        });
        Ok(Self {
            path,
            secret: watch::Sender::new(secret),
            state,
            looked: Notify::new(),
            reads: Arc::new(Semaphore::new(MOST_READS)),
        })
    }

    /// Returns a receiver of the secret that was last read.
    pub(crate) fn subscribe(&self) -> watch::Receiver<SharedSecret> {
        self.secret.subscribe()
    }

    /// Starts a look at the file if the last one is 30 seconds old. A mint does not wait for it.
    pub(crate) fn look(self: &Arc<Self>) {
        self.look_if_older_than(LOOK_AFTER);
    }

    /// Looks at the file if it may hold another secret than this one. A mint waits for that at most half a second.
    pub(crate) async fn look_after_refusal(self: &Arc<Self>, refused: &SharedSecret) {
        // Before the look, or its end could be missed.
        let mut looked = pin!(self.looked.notified());
        looked.as_mut().enable();
        if *self.secret.borrow() == *refused {
            self.look_if_older_than(LOOK_AFTER_REFUSAL);
            let looking_since = self.state().looking_since;
            if let Some(since) = looking_since {
                // From its beginning, so that a file that hangs holds up no mint after that. A later mint will know.
                let _ = timeout_at(since + LOOK_PATIENCE, looked).await;
            }
        }
    }

    /// Starts a look that goes on whatever becomes of the mint that asked for it.
    fn look_if_older_than(self: &Arc<Self>, age: Duration) {
        let mut state = self.state();
        if state.looking_since.is_some() || state.looked_at.elapsed() < age {
            return;
        }
        state.looking_since = Some(Instant::now());
        drop(state);
        let look = Look {
            file: Arc::clone(self),
        };
        tokio::spawn(async move {
            // What a read finds after its look was given up goes nowhere, as another look may have found a newer secret.
            let found = timeout(LOST_AFTER, look.file.read_settled()).await;
            match found.unwrap_or(Err(SecretFileError::Hangs)) {
                Ok(secret) => drop(look.file.secret.send_replace(secret)),
                Err(error) => {
                    let path = look.file.path.display().to_string();
                    warn!(
                        path = path,
                        "could not reload the secret file; keeping the last valid secret: {error}"
                    );
                }
            }
        });
    }

    /// Reads the file twice if there is something new in it, so that half a secret is not taken for one.
    async fn read_settled(&self) -> Result<SharedSecret, SecretFileError> {
        let place = Arc::clone(&self.reads)
            .try_acquire_owned()
            .ok()
            .map(Arc::new);
        if place.is_none() && !self.may_read_without_place() {
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

    /// On a thread that may block: the file may be on a network.
    async fn read_in_background(
        &self,
        place: Option<Arc<OwnedSemaphorePermit>>,
    ) -> Result<SharedSecret, SecretFileError> {
        let path = self.path.clone();
        let (tell, told) = oneshot::channel();
        // Paused time stands still only while the runtime's own threads are busy.
        #[cfg(test)]
        let tell = {
            let (told_still, still) = std::sync::mpsc::channel::<()>();
            tokio::task::spawn_blocking(move || still.recv());
            (tell, told_still)
        };
        // Not on a thread of the runtime, which would wait for it when it ends.
        let thread = std::thread::Builder::new()
            .name("tower-released".to_owned())
            .spawn(move || {
                let _place = place;
                let found = read(&path);
                #[cfg(test)]
                let (tell, _told_still) = tell;
                // Nobody may be waiting any more.
                let _ = tell.send(found);
            });
        thread?;
        told.await
            .unwrap_or(Err(SecretFileError::Unreadable(io::ErrorKind::Other)))
    }

    /// Whether one look more may hang, although all places are taken: what hangs may be a file that is not there any more.
    fn may_read_without_place(&self) -> bool {
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

/// A look under way; however it ends, those who wait are told.
struct Look {
    file: Arc<SecretFile>,
}

impl Drop for Look {
    fn drop(&mut self) {
        let mut state = self.file.state();
        state.looking_since = None;
        state.looked_at = Instant::now();
        drop(state);
        self.file.looked.notify_waiters();
    }
}

fn read(path: &Path) -> Result<SharedSecret, SecretFileError> {
    let mut file = File::open(path)?.take(MAX_FILE_BYTES + 1);
    // Of its final size from the start: a buffer that grows leaves copies behind.
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

/// Why there is no secret to be had from a secret file. None of the texts holds anything of its content.
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
    /// Its content is no secret.
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
                "the secret file was not read within 10 seconds; check the file system that it is on, and that it is no pipe",
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

    // Paused time stands still while the file is read, so the order of what happens is fixed.

    fn open(file: &TemporaryFile) -> Arc<SecretFile> {
        Arc::new(SecretFile::open(&file.0).unwrap())
    }

    fn known(source: &SecretFile) -> SharedSecret {
        source.subscribe().borrow().clone()
    }

    fn current(source: &Arc<SecretFile>) -> SharedSecret {
        source.look();
        known(source)
    }

    async fn after_refusal(source: &Arc<SecretFile>, refused: &SharedSecret) -> SharedSecret {
        source.look_after_refusal(refused).await;
        known(source)
    }

    /// Looks, and waits for the end of it.
    async fn look(source: &Arc<SecretFile>) -> SharedSecret {
        let looked = source.looked.notified();
        source.look_if_older_than(Duration::ZERO);
        looked.await;
        known(source)
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_is_being_written_is_left_alone_until_it_is_whole() {
        let file = TemporaryFile::new("half", "the old secret");
        let source = open(&file);
        file.write("the new sec");
        let (found, ()) = tokio::join!(look(&source), async {
            sleep(SETTLED_AFTER / 2).await;
            file.write("the new secret");
        });
        assert_eq!(found, secret("the old secret"));
        assert_eq!(look(&source).await, secret("the new secret"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_is_looked_at_every_thirty_seconds_and_nobody_waits_for_it() {
        let file = TemporaryFile::new("every", "the old secret");
        let source = open(&file);
        file.write("the new secret");
        advance(Duration::from_secs(29)).await;
        current(&source);
        assert!(source.state().looking_since.is_none());
        advance(Duration::from_secs(2)).await;
        let looked = source.looked.notified();
        assert_eq!(current(&source), secret("the old secret"));
        looked.await;
        assert_eq!(current(&source), secret("the new secret"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_looks_at_most_once_a_second() {
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
    async fn a_look_goes_on_although_the_mint_that_asked_for_it_is_dropped() {
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
    async fn a_file_that_hangs_takes_one_thread_and_holds_up_nobody_for_long() {
        let file = TemporaryFile::new("hangs", "the old secret");
        let source = open(&file);
        let old = secret("the old secret");
        // A pipe that nobody writes to: to open it for reading takes for ever.
        std::fs::remove_file(&file.0).unwrap();
        assert!(
            std::process::Command::new("mkfifo")
                .arg(&file.0)
                .status()
                .unwrap()
                .success()
        );
        source.state().looked_at = Instant::now().checked_sub(Duration::from_secs(60)).unwrap();
        for _ in 0..3 {
            assert_eq!(after_refusal(&source, &old).await, old);
            assert_eq!(current(&source), old);
            assert!(
                source.state().looking_since.is_some(),
                "it is the same look all the time"
            );
        }
        // Let the thread go, so that the test can end.
        std::fs::OpenOptions::new()
            .write(true)
            .open(&file.0)
            .unwrap();
    }

    /// A pipe in the place of a file: to open it for reading takes until somebody writes to it.
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
            // For reading, too, so that this does not wait for a reader.
            let mut pipe = std::fs::OpenOptions::new()
                .read(true)
                .write(true)
                .open(self.path())
                .unwrap();
            io::Write::write_all(&mut pipe, content.as_bytes()).unwrap();
            // Closed before a reader has come, it would be empty.
            std::thread::sleep(Duration::from_millis(50));
        }

        /// Ends all reads, also those whose threads are late.
        fn end_all_reads(&self, source: &SecretFile, content: &str) {
            while source.reads.available_permits() < MOST_READS {
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
            // Or the runtime would wait for the threads for ever, also when a test fails.
            self.write("");
            let _ = std::fs::remove_file(self.path());
        }
    }

    /// Looks while time goes by, which it does not by itself while a read hangs.
    #[cfg(unix)]
    async fn look_for(source: &Arc<SecretFile>, at_most: Duration) {
        let step = Duration::from_millis(1);
        let mut looked = pin!(source.looked.notified());
        source.look_if_older_than(Duration::ZERO);
        let start = Instant::now();
        while timeout(Duration::ZERO, looked.as_mut()).await.is_err() && start.elapsed() < at_most {
            std::thread::sleep(step);
            advance(step).await;
        }
    }

    /// Looks at a file that hangs until the look is lost.
    #[cfg(unix)]
    async fn lose_a_look(source: &Arc<SecretFile>) {
        look_for(source, Duration::from_millis(50)).await;
        assert!(source.state().looking_since.is_some());
        advance(LOST_AFTER).await;
        tokio::task::yield_now().await;
        assert!(source.state().looking_since.is_none(), "it is not lost yet");
    }

    #[cfg(unix)]
    #[tokio::test(start_paused = true)]
    async fn a_file_that_hung_once_is_read_again_and_what_is_read_too_late_changes_nothing() {
        let file = TemporaryFile::new("hung", "the old secret");
        let source = open(&file);
        let pipe = Pipe::instead_of(&file);
        lose_a_look(&source).await;
        assert_eq!(known(&source), secret("the old secret"));

        pipe.replace("the new secret");
        look_for(&source, LOST_AFTER).await;
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
            lose_a_look(&source).await;
            assert_eq!(MOST_READS - source.reads.available_permits(), hung);
        }
        // A look that would take a fifth thread ends at once.
        let before = Instant::now();
        assert_eq!(look(&source).await, secret("the old secret"));
        assert_eq!(before.elapsed(), Duration::ZERO);

        pipe.end_all_reads(&source, "");
        pipe.replace("the new secret");
        assert_eq!(look(&source).await, secret("the new secret"));
    }

    /// A mount that is gone for good (`umount -l`, a pipe nobody writes to) never gives its four threads back.
    #[cfg(unix)]
    #[tokio::test(start_paused = true)]
    async fn a_file_that_was_mended_is_read_although_four_reads_hang_for_ever() {
        let file = TemporaryFile::new("for-ever", "the old secret");
        let source = open(&file);
        let pipe = Pipe::instead_of(&file);
        for _ in 0..4 {
            lose_a_look(&source).await;
        }
        pipe.replace("the new secret");
        advance(EXTRA_READ_AFTER).await;
        look_for(&source, LOST_AFTER).await;
        let found = source.secret.borrow().clone();
        pipe.end_all_reads(&source, "");
        assert_eq!(found, secret("the new secret"));
    }
}
