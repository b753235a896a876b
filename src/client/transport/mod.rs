//! The transport of requests to the token API: any Tower service over `http`'s types. Default: hyper's client.
//!
//! reqwest is not the default: half of its instructions for a mint are for redirects, cookies and retries, which are
//! not used.

mod connector;
pub(crate) mod hyper;
#[cfg(feature = "reqwest")]
pub(crate) mod reqwest;
pub(crate) mod stage;
#[cfg(any(feature = "rustls", feature = "native-tls"))]
mod tls;

use std::error::Error;
use std::fmt;
use std::future::poll_fn;
use std::pin::{Pin, pin};

use ::hyper::body::{Body, Buf, Frame};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tower::{BoxError, Service};
use tracing::Span;

use super::trace;

/// What is read of a reply.
#[derive(Clone, Copy)]
pub(crate) struct Reading {
    /// The longest body, in bytes.
    pub(crate) limit: usize,
    /// Whether the body of an answer that is no success is read, too.
    pub(crate) refusals: bool,
}

impl Reading {
    /// A token: at most twice the longest one. The body of a refusal is not read: Released does not document it, and it
    /// may quote the request.
    pub(crate) const TOKEN: Self = Self {
        limit: 16 * 1024,
        refusals: false,
    };
}

type Sending = Pin<Box<dyn Future<Output = Result<Response<Bytes>, BoxError>> + Send>>;

/// A service that sends requests, with its type erased.
pub(crate) struct Transport(Box<dyn Fn(Request<Full<Bytes>>, Span) -> Sending + Send + Sync>);

impl Transport {
    pub(crate) fn new<S, B>(service: S, reading: Reading) -> Self
    where
        S: Service<
                Request<Full<Bytes>>,
                Response = Response<B>,
                Error: Into<BoxError>,
                Future: Send,
            > + Clone
            + Send
            + Sync
            + 'static,
        B: Body<Error: Into<BoxError>> + Send + 'static,
    {
        Self(Box::new(move |request, span| {
            let mut service = service.clone();
            Box::pin(async move {
                poll_fn(|cx| service.poll_ready(cx))
                    .await
                    .map_err(Into::into)?;
                let reply = service.call(request).await.map_err(Into::into)?;
                trace::record_head(&span, reply.status(), reply.version());
                let (head, body) = reply.into_parts();
                let body = if reading.refusals || head.status.is_success() {
                    read(body, reading.limit).await?
                } else {
                    Bytes::new()
                };
                Ok(Response::from_parts(head, body))
            })
        }))
    }

    /// Sends a request and reads the reply, or only its head if its status is not a success. The span gets the head's
    /// fields as soon as the head is there. Dropping the future drops the service's own.
    pub(crate) fn send(&self, request: Request<Full<Bytes>>, span: &Span) -> Sending {
        (self.0)(request, span.clone())
    }
}

/// Reads a body to its end.
///
/// # Errors
///
/// The body's own error, or [`TooLong`].
async fn read<B: Body<Error: Into<BoxError>>>(body: B, limit: usize) -> Result<Bytes, BoxError> {
    if body.size_hint().lower() > limit as u64 {
        return Err(TooLong { limit }.into());
    }
    let as_bytes = |frame: Frame<B::Data>| {
        // Those of hyper and reqwest are `Bytes`, which are not copied.
        frame.map_data(|mut data| data.copy_to_bytes(data.remaining()))
    };
    let mut body = pin!(body.map_frame(as_bytes));
    // Most replies are one piece, which is not copied. More pieces are copied, because each keeps a whole buffer of
    // hyper's, of 8 KiB or more.
    let mut first = Bytes::new();
    let mut pieces = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(piece) = frame.map_err(Into::into)?.into_data() else {
            continue;
        };
        if first.len().max(pieces.len()) + piece.len() > limit {
            return Err(TooLong { limit }.into());
        }
        if first.is_empty() {
            first = piece;
            continue;
        }
        if pieces.is_empty() {
            pieces.extend_from_slice(&first);
        }
        pieces.extend_from_slice(&piece);
    }
    Ok(if pieces.is_empty() {
        first
    } else {
        pieces.into()
    })
}

/// The reply is longer than the limit, in bytes.
#[derive(Debug)]
pub(crate) struct TooLong {
    limit: usize,
}

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the reply is longer than {} bytes", self.limit)
    }
}

impl Error for TooLong {}
