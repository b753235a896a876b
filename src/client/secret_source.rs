//! The sources of the shared secret.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use zeroize::Zeroizing;

use super::config_error::ConfigError;
use super::secret::{InvalidSecret, SharedSecret};
use super::secret_file::SecretFile;
use crate::telemetry::info;

/// Provides the secret of a [`ReleasedClient`](crate::ReleasedClient).
///
/// It is created from a string or a [`SharedSecret`] that never changes, from a [`SecretFile`], or from a
/// `tokio::sync::watch::Receiver<SharedSecret>`, to which the application sends new secrets. If a string is not a valid
/// secret, [`build`](super::ReleasedClientBuilder::build) returns the error. A `String` is wiped from memory.
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
    /// Holds the secret. It has no sender if the secret never changes.
    secret: watch::Receiver<SharedSecret>,
    /// The file that sends to `secret`, if the source is a file.
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
    /// The secret that was used last, to notice a change.
    in_use: Mutex<Option<SharedSecret>>,
    /// The number of changes.
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

    /// Returns the last known secret. Does not wait for a file.
    pub(crate) fn current(&self) -> SharedSecret {
        if let Some(file) = &self.source.file {
            file.check();
        }
        self.known()
    }

    /// Returns another secret than the one that Released refused, if there is one.
    pub(crate) async fn other_than(&self, refused: &SharedSecret) -> Option<SharedSecret> {
        if let Some(file) = &self.source.file {
            file.check_after_refusal(refused).await;
        }
        Some(self.known()).filter(|secret| secret != refused)
    }

    /// Returns 1 for the first secret, and one more for each change.
    pub(crate) fn generation(&self) -> u64 {
        self.changes.load(Ordering::Relaxed) + 1
    }

    /// Reads the secret. Counts and logs a change.
    fn known(&self) -> SharedSecret {
        let (secret, is_changed) = {
            // Read under the lock. Otherwise, during a rotation, a mint could store the old secret after another mint
            // stored the new one.
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
            info!("the shared secret was changed; using the new one");
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

    /// One mint may read the secret before a rotation, and store it after another mint has stored the new one.
    #[test]
    fn every_rotation_is_counted_once() {
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
