//! A server that misbehaves below HTTP, as no HTTP library would let one.

use std::borrow::Cow;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

/// What the server does with a connection, one after the other; then it closes it.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Reads one request to the end of its body.
    Read,
    Write(Cow<'static, [u8]>),
    /// Writes the same again and again until the client hangs up, with pauses.
    Forever(Cow<'static, [u8]>, Duration),
    /// Does nothing until the client hangs up.
    Stall,
    /// Closes the connection with a reset instead of an end.
    Reset,
}

pub(crate) use Step::{Read, Reset, Stall, Write};

pub(crate) fn write(bytes: impl Into<Vec<u8>>) -> Step {
    Write(Cow::Owned(bytes.into()))
}

pub(crate) fn forever(bytes: impl Into<Vec<u8>>, pause: Duration) -> Step {
    Step::Forever(Cow::Owned(bytes.into()), pause)
}

/// A whole answer with this body.
pub(crate) fn reply(head: &str, body: impl AsRef<[u8]>) -> Step {
    let body = body.as_ref();
    let mut bytes =
        format!("HTTP/1.1 {head}\r\ncontent-length: {}\r\n\r\n", body.len()).into_bytes();
    bytes.extend_from_slice(body);
    write(bytes)
}

pub(crate) struct FaultServer {
    pub(crate) address: SocketAddr,
    requests: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
    server: JoinHandle<()>,
}

impl FaultServer {
    /// Plays these scripts, one a connection; the last one for every further connection, too.
    pub(crate) async fn start(scripts: Vec<Vec<Step>>) -> Self {
        Self::start_with(scripts, None).await
    }

    /// The same behind TLS.
    #[cfg_attr(feature = "native-tls", allow(dead_code))]
    pub(crate) async fn start_tls(scripts: Vec<Vec<Step>>, tls: TlsAcceptor) -> Self {
        Self::start_with(scripts, Some(tls)).await
    }

    async fn start_with(scripts: Vec<Vec<Step>>, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (requests, connections) =
            (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let counts = (Arc::clone(&requests), Arc::clone(&connections));
        let server = tokio::spawn(async move {
            let (requests, connections) = counts;
            let mut open = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let number = connections.fetch_add(1, Ordering::SeqCst);
                let script = scripts
                    .get(number)
                    .or(scripts.last())
                    .cloned()
                    .unwrap_or_default();
                let (requests, tls) = (Arc::clone(&requests), tls.clone());
                open.spawn(async move {
                    match tls {
                        None => play(script, stream, &requests).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                play_on(&script, stream, &requests).await;
                            }
                        }
                    }
                });
            }
        });
        Self {
            address,
            requests,
            connections,
            server,
        }
    }

    /// How many requests were read.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for FaultServer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn play(script: Vec<Step>, stream: TcpStream, requests: &AtomicUsize) {
    let resets = script.iter().any(|step| matches!(step, Reset));
    let stream = play_on(&script, stream, requests).await;
    if resets {
        // A linger of nothing makes the system send a reset.
        stream.set_zero_linger().unwrap();
    }
}

async fn play_on<S>(script: &[Step], mut stream: S, requests: &AtomicUsize) -> S
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    for step in script {
        let goes_on = match step {
            Read => read_request(&mut stream, requests).await,
            Write(bytes) => stream.write_all(bytes).await.is_ok() && stream.flush().await.is_ok(),
            Step::Forever(bytes, pause) => {
                while stream.write_all(bytes).await.is_ok() && stream.flush().await.is_ok() {
                    tokio::time::sleep(*pause).await;
                }
                false
            }
            Stall => {
                // Until the client hangs up.
                let mut rest = [0; 1024];
                while matches!(stream.read(&mut rest).await, Ok(length) if length > 0) {}
                false
            }
            Reset => false,
        };
        if !goes_on {
            break;
        }
    }
    stream
}

/// Reads until the body's closing brace, and tells whether there was one.
async fn read_request(stream: &mut (impl AsyncRead + Unpin), requests: &AtomicUsize) -> bool {
    let mut request = Vec::new();
    while !request.ends_with(b"}") {
        if !matches!(stream.read_buf(&mut request).await, Ok(length) if length > 0) {
            return false;
        }
    }
    requests.fetch_add(1, Ordering::SeqCst);
    true
}
