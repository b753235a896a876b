//! Where the shared secret comes from.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use zeroize::Zeroizing;

use super::config_error::ConfigError;
use super::secret::{InvalidSecret, SharedSecret};
use super::secret_file::SecretFile;
use crate::telemetry::info;

/// Where a [`ReleasedClient`](crate::ReleasedClient) takes its secret from: a string or a [`SharedSecret`] that never changes, a
/// [`SecretFile`], or a `tokio::sync::watch::Receiver<SharedSecret>` into which the application pushes.
///
/// A string that cannot be a secret is an error of [`build`](super::ReleasedClientBuilder::build). A `String` is wiped from
/// memory.
///
/// # Example
///
/// ```
/// use tokio::sync::watch;
/// use tower_released::ReleasedClient;
/// use tower_released::client::SharedSecret;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (rotate, secret) = watch::channel(SharedSecret::new("the first")?);
/// let released = ReleasedClient::builder("account", secret)
///     # .endpoint("http://127.0.0.1:9/")
///     .build()?;
/// rotate.send_replace(SharedSecret::new("the second")?);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct SecretSource(Result<Source, InvalidSecret>);

#[derive(Clone, Debug)]
struct Source {
    /// The only place that the secret is read from. A fixed one has no sender.
    secret: watch::Receiver<SharedSecret>,
    /// The file whose looks send into it, if it is one.
    file: Option<Arc<SecretFile>>,
}

impl Source {
    fn fixed(secret: SharedSecret) -> Self {
        Self {
            secret: watch::channel(secret).1,
            file: None,
        }
    }
}

impl From<&str> for SecretSource {
    fn from(secret: &str) -> Self {
        Self(SharedSecret::from_text(secret).map(Source::fixed))
    }
}

impl From<String> for SecretSource {
    fn from(secret: String) -> Self {
        Zeroizing::new(secret).as_str().into()
    }
}

impl From<&String> for SecretSource {
    fn from(secret: &String) -> Self {
        secret.as_str().into()
    }
}

impl From<SharedSecret> for SecretSource {
    fn from(secret: SharedSecret) -> Self {
        Self(Ok(Source::fixed(secret)))
    }
}

impl From<SecretFile> for SecretSource {
    fn from(file: SecretFile) -> Self {
        Self(Ok(Source {
            secret: file.subscribe(),
            file: Some(Arc::new(file)),
        }))
    }
}

impl From<watch::Receiver<SharedSecret>> for SecretSource {
    fn from(secret: watch::Receiver<SharedSecret>) -> Self {
        Self(Ok(Source { secret, file: None }))
    }
}

/// The secret of one client.
#[derive(Debug)]
pub(crate) struct Secret {
    source: Source,
    /// The one that was last used, to tell when another comes.
    in_use: Mutex<Option<SharedSecret>>,
    /// How often another one came.
    changes: AtomicU64,
}

impl Secret {
    pub(crate) fn new(SecretSource(source): SecretSource) -> Result<Self, ConfigError> {
        Ok(Self {
            source: source?,
            in_use: Mutex::default(),
            changes: AtomicU64::default(),
        })
    }

    /// Returns the secret as it is known now. Nobody waits for a file.
    pub(crate) fn current(&self) -> SharedSecret {
        if let Some(file) = &self.source.file {
            file.look();
        }
        self.known()
    }

    /// Looks for another secret than the one that Released refused.
    pub(crate) async fn other_than(&self, refused: &SharedSecret) -> Option<SharedSecret> {
        if let Some(file) = &self.source.file {
            file.look_after_refusal(refused).await;
        }
        Some(self.known()).filter(|secret| secret != refused)
    }

    /// 1 for the first secret, and one more for each change that was seen.
    pub(crate) fn generation(&self) -> u64 {
        self.changes.load(Ordering::Relaxed) + 1
    }

    /// Reads the secret, and says so if it is another one than before.
    fn known(&self) -> SharedSecret {
        let (secret, is_changed) = {
            // Read under the lock: of two mints during a rotation, the one that read first must not be the last to note.
            let mut in_use = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
            let secret = self.source.secret.borrow().clone();
            let is_changed = in_use.as_ref().is_some_and(|before| *before != secret);
            if is_changed || in_use.is_none() {
                *in_use = Some(secret.clone());
            }
            (secret, is_changed)
        };
        if is_changed {
            self.changes.fetch_add(1, Ordering::Relaxed);
            info!("the shared secret was changed, and the new one is used from now on");
            super::metrics::secret_changed();
        }
        secret
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn secret(text: &str) -> SharedSecret {
        SharedSecret::new(text).unwrap()
    }

    /// Two mints: one reads the secret just before a rotation, the other just after, and the first is the last to say so.
    #[test]
    fn every_rotation_is_told_once() {
        const ROTATIONS: u64 = 300;
        let (push, receiver) = watch::channel(secret("number 0"));
        let source = Secret::new(receiver.into()).unwrap();
        source.current();
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        source.current();
                    }
                });
            }
            for number in 1..=ROTATIONS {
                push.send_replace(secret(&format!("number {number}")));
                std::thread::sleep(Duration::from_millis(3));
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert!(
            source.generation() <= ROTATIONS + 1,
            "{} changes of {ROTATIONS}",
            source.generation() - 1
        );
    }
}
