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

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ::hyper::body::{Body, Frame, SizeHint};
use bytes::{Buf, Bytes};
use http::{Request, Response};
use http_body_util::Full;
use http_body_util::combinators::UnsyncBoxBody;
use pin_project_lite::pin_project;
use tower::{BoxError, Service};

/// An answer whose body is not read yet, and may have any length.
pub(crate) type Reply = Response<ReplyBody>;

pub(crate) type ReplyBody = UnsyncBoxBody<Bytes, BoxError>;

type Sending = Pin<Box<dyn Future<Output = Result<Reply, BoxError>> + Send>>;

/// A service that sends requests, with its type erased.
pub(crate) struct Transport(Box<dyn Fn(Request<Full<Bytes>>) -> Sending + Send + Sync>);

impl Transport {
    pub(crate) fn new<S, B>(service: S) -> Self
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
        Self(Box::new(move |request| {
            let mut service = service.clone();
            Box::pin(async move {
                poll_fn(|cx| service.poll_ready(cx))
                    .await
                    .map_err(Into::into)?;
                let reply = service.call(request).await.map_err(Into::into)?;
                Ok(reply.map(|body| UnsyncBoxBody::new(Pieces { body })))
            })
        }))
    }

    /// Sends a request, and waits for the head of the answer. Dropping the future drops the service's own future.
    pub(crate) fn send(&self, request: Request<Full<Bytes>>) -> Sending {
        (self.0)(request)
    }
}

pin_project! {
    /// A body whose data is `Bytes`. It does not copy the data of hyper and reqwest.
    struct Pieces<B> {
        #[pin]
        body: B,
    }
}

impl<B: Body<Error: Into<BoxError>>> Body for Pieces<B> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(self.project().body.poll_frame(cx));
        Poll::Ready(frame.map(|frame| match frame {
            Ok(frame) => Ok(frame.map_data(|mut data| data.copy_to_bytes(data.remaining()))),
            Err(error) => Err(error.into()),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
