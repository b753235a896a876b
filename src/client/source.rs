//! Where the shared secret comes from, and how it is rotated without a restart.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use zeroize::Zeroizing;

use super::secret::{InvalidSecret, SharedSecret};
use crate::telemetry::{info, warn};

/// How often a secret file is looked at. By content, for Kubernetes swaps symbolic links, which nothing reports.
const REREAD_AFTER: Duration = Duration::from_secs(30);

/// How often a secret file is looked at when Released refuses what was in it.
const REREAD_AFTER_REFUSAL: Duration = Duration::from_secs(1);

/// A changed file must still be the same after this long, or it is being written.
const SETTLED_AFTER: Duration = Duration::from_millis(20);

/// The longest file that is read, in bytes. Secrets are much shorter.
const MAX_FILE_BYTES: u64 = 16 * 1024;

/// Where a [`ReleasedClient`](crate::ReleasedClient) takes its secret from: a [`SharedSecret`] that never changes, a
/// [`SecretFile`], or a `tokio::sync::watch::Receiver<SharedSecret>` into which the application pushes.
///
/// # Example
///
/// ```
/// use tokio::sync::watch;
/// use tower_released::{ReleasedClient, SharedSecret};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (rotate, secret) = watch::channel(SharedSecret::new("the first")?);
/// # #[cfg(any(feature = "rustls", feature = "native-tls"))]
/// let released = ReleasedClient::builder("account", "").secret_source(secret).build()?;
/// # #[cfg(not(any(feature = "rustls", feature = "native-tls")))] drop(secret);
/// rotate.send_replace(SharedSecret::new("the second")?);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct SecretSource {
    source: Source,
}

#[derive(Clone, Debug)]
enum Source {
    Fixed(SharedSecret),
    File(Arc<SecretFile>),
    Pushed(watch::Receiver<SharedSecret>),
}

impl From<SharedSecret> for SecretSource {
    fn from(secret: SharedSecret) -> Self {
        Self { source: Source::Fixed(secret) }
    }
}

impl From<SecretFile> for SecretSource {
    fn from(file: SecretFile) -> Self {
        Self { source: Source::File(Arc::new(file)) }
    }
}

impl From<watch::Receiver<SharedSecret>> for SecretSource {
    fn from(receiver: watch::Receiver<SharedSecret>) -> Self {
        Self { source: Source::Pushed(receiver) }
    }
}

impl SecretSource {
    /// The secret as it is known now.
    pub(crate) async fn current(&self) -> SharedSecret {
        match &self.source {
            Source::Fixed(secret) => secret.clone(),
            Source::File(file) => file.current().await,
            Source::Pushed(receiver) => receiver.borrow().clone(),
        }
    }

    /// Looks for another secret than the one that Released refused.
    pub(crate) async fn other_than(&self, refused: &SharedSecret) -> Option<SharedSecret> {
        let now = match &self.source {
            Source::Fixed(_) => return None,
            Source::File(file) => file.after_refusal(refused).await,
            Source::Pushed(receiver) => receiver.borrow().clone(),
        };
        (now != *refused).then_some(now)
    }
}

/// A file with the shared secret in it, such as a mounted Kubernetes or Docker secret.
///
/// It is read again every 30 seconds, when a mint is asked for, and when Released answers 401, so that a rotation needs no
/// restart. When it cannot be read, is empty, or is being written, the last good secret stays in use, with a warning.
///
/// # Example
///
/// ```no_run
/// use tower_released::{ReleasedClient, SecretFile};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let secret = SecretFile::open("/run/secrets/released")?;
/// let released = ReleasedClient::builder("account", "").secret_source(secret).build()?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct SecretFile {
    path: PathBuf,
    known: Mutex<Known>,
    /// Held by whoever reads the file: one at a time.
    reading: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Known {
    secret: SharedSecret,
    read_at: Instant,
}

impl SecretFile {
    /// Reads the file, and blocks for that long.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or there is no secret in it.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, super::ConfigError> {
        let path = path.into();
        let secret = read(&path)?;
        let known = Mutex::new(Known { secret, read_at: Instant::now() });
        Ok(Self { path, known, reading: tokio::sync::Mutex::new(()) })
    }

    async fn current(&self) -> SharedSecret {
        if self.age() >= REREAD_AFTER {
            // One mint looks; the others go on with what is known.
            if let Ok(_reading) = self.reading.try_lock() {
                self.reread().await;
            }
        }
        self.known().secret.clone()
    }

    async fn after_refusal(&self, refused: &SharedSecret) -> SharedSecret {
        // Everybody whose secret was refused waits for the one who looks.
        let _reading = self.reading.lock().await;
        if self.known().secret == *refused && self.age() >= REREAD_AFTER_REFUSAL {
            self.reread().await;
        }
        self.known().secret.clone()
    }

    fn age(&self) -> Duration {
        self.known().read_at.elapsed()
    }

    /// Takes over what is in the file, if it is another secret, and a whole one.
    async fn reread(&self) {
        // Before the await: whoever is cancelled in it has looked, too.
        self.known().read_at = Instant::now();
        match self.read_settled().await {
            Ok(secret) => {
                let mut known = self.known();
                if known.secret != secret {
                    known.secret = secret;
                    drop(known);
                    info!("the secret file has another secret in it, which is used from now on");
                    super::metrics::secret_changed();
                }
            }
            Err(error) => warn!("the secret file is of no use now, so the last good secret stays in use: {error}"),
        }
    }

    /// Reads the file twice if there is something new in it, so that half a secret is not taken for one.
    async fn read_settled(&self) -> Result<SharedSecret, SecretFileError> {
        let first = read_in_background(&self.path).await?;
        if first == self.known().secret {
            return Ok(first);
        }
        sleep(SETTLED_AFTER).await;
        let second = read_in_background(&self.path).await?;
        if first == second { Ok(second) } else { Err(SecretFileError::BeingWritten) }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        // Nothing panics while it is held.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// On a thread that may block: the file may be on a network.
async fn read_in_background(path: &Path) -> Result<SharedSecret, SecretFileError> {
    let path = path.to_owned();
    let reading = tokio::task::spawn_blocking(move || read(&path));
    reading.await.unwrap_or(Err(SecretFileError::Unreadable(io::ErrorKind::Other)))
}

fn read(path: &Path) -> Result<SharedSecret, SecretFileError> {
    let mut file = File::open(path)?.take(MAX_FILE_BYTES + 1);
    // Of its final size from the start: a buffer that grows leaves copies behind.
    let mut content = Zeroizing::new(vec![0; usize::try_from(MAX_FILE_BYTES).unwrap_or_default() + 1]);
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

/// Why a secret file is of no use. None of the texts holds anything of its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SecretFileError {
    /// It cannot be read.
    Unreadable(io::ErrorKind),
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
            Self::Unreadable(kind) => write!(f, "the secret file cannot be read: {kind}"),
            Self::TooLong => f.write_str("the secret file is longer than 16 KiB, so there is something else in it"),
            Self::BeingWritten => f.write_str("the secret file is being written"),
            Self::Invalid(invalid) => write!(f, "the secret file has no secret in it: {invalid}"),
        }
    }
}

impl std::error::Error for SecretFileError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> SharedSecret {
        SharedSecret::new(text).unwrap()
    }

    struct TemporaryFile(PathBuf);

    impl TemporaryFile {
        fn new(name: &str, content: &str) -> Self {
            let file = Self(std::env::temp_dir().join(format!("tower-released-source-{}-{name}", std::process::id())));
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

    #[tokio::test(start_paused = true)]
    async fn a_file_that_is_being_written_is_left_alone_until_it_is_whole() {
        let file = TemporaryFile::new("half", "the old secret");
        let source = SecretFile::open(&file.0).unwrap();
        file.write("the new sec");
        tokio::join!(source.reread(), async {
            sleep(SETTLED_AFTER / 2).await;
            file.write("the new secret");
        });
        assert_eq!(source.known().secret, secret("the old secret"));
        source.reread().await;
        assert_eq!(source.known().secret, secret("the new secret"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_is_looked_at_every_thirty_seconds() {
        let file = TemporaryFile::new("every", "the old secret");
        let source = SecretFile::open(&file.0).unwrap();
        file.write("the new secret");
        tokio::time::advance(Duration::from_secs(29)).await;
        assert_eq!(source.current().await, secret("the old secret"));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(source.current().await, secret("the new secret"));
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_look_goes_on_with_what_is_known() {
        let file = TemporaryFile::new("known", "the old secret");
        let source = SecretFile::open(&file.0).unwrap();
        file.write("the new secret");
        tokio::time::advance(Duration::from_secs(31)).await;
        let (first, second) = tokio::join!(source.current(), source.current());
        assert_eq!((first, second), (secret("the new secret"), secret("the old secret")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_looks_at_most_once_a_second() {
        let file = TemporaryFile::new("refusal", "the old secret");
        let source = SecretFile::open(&file.0).unwrap();
        let old = secret("the old secret");
        file.write("the new secret");
        assert_eq!(source.after_refusal(&old).await, old, "it was just opened");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(source.after_refusal(&old).await, secret("the new secret"));
    }
}
