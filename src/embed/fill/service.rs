//! The service, which decides what is filled, and its future, which holds the head until that is known.

use std::fmt;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::{Request, Response, response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower::Service;

use super::body::{FillBody, Found};
use super::head::{self, Reading};
use super::settings::Settings;
use crate::filter::Skipped;
use crate::pending::{PendingToken, Visitor};
use crate::telemetry::warn;

/// Calls the inner service, and fills its pages; see [`FillLayer`](super::FillLayer).
///
/// # Errors
///
/// Its error is always the inner service's.
#[derive(Clone, Debug)]
pub struct FillService<S> {
    inner: S,
    settings: Arc<Settings>,
}

impl<S> FillService<S> {
    pub(super) fn new(inner: S, settings: Arc<Settings>) -> Self {
        Self { inner, settings }
    }
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for FillService<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone,
    ResBody: Body,
{
    type Response = Response<FillBody<ResBody>>;
    type Error = S::Error;
    type Future = FillResponseFuture<S, ReqBody, S::Future, ResBody>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let state = match request.extensions().get::<PendingToken>() {
            Some(pending) if head::has_page(request.method()) => {
                let pending = pending.clone();
                // The service that was polled ready is the one to call, later; the clone takes its place.
                let clone = self.inner.clone();
                let service = mem::replace(&mut self.inner, clone);
                State::Asking {
                    waiting: Some(Waiting {
                        service,
                        request,
                        pending,
                    }),
                }
            }
            found => {
                let is_skipped = request.extensions().get::<Skipped>().is_some();
                if found.is_none()
                    && !is_skipped
                    && self.settings.warned.has_no_token_layer.is_first()
                {
                    warn!(
                        "the FillLayer fills nothing, because no ReleasedTokenLayer is around it; put it inside of one"
                    );
                }
                State::Calling {
                    inner: self.inner.call(request),
                    pending: None,
                }
            }
        };
        FillResponseFuture {
            state,
            settings: Arc::clone(&self.settings),
        }
    }
}

pin_project! {
    /// Returns the response of a [`FillService`].
    ///
    /// # Cancel safety
    ///
    /// Dropping it cancels everything that it started.
    pub struct FillResponseFuture<S, B, F, R: Body> {
        #[pin]
        state: State<S, B, F, R>,
        settings: Arc<Settings>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<S, B, F, R: Body> {
        // The resolver is asked whether somebody is signed in.
        Asking { waiting: Option<Waiting<S, B>> },
        // The handler runs. `pending` is there if its page may be filled.
        Calling { #[pin] inner: F, pending: Option<PendingToken> },
        // The head waits for what the handler has ready.
        Reading { response: Option<(response::Parts, FillBody<R>)>, length: Option<u64> },
        Done,
    }
}

/// A call that waits for the resolver: the service that was polled ready, and the request for it.
struct Waiting<S, B> {
    service: S,
    request: Request<B>,
    pending: PendingToken,
}

impl<S, B, ResBody> Future for FillResponseFuture<S, B, S::Future, ResBody>
where
    S: Service<Request<B>, Response = Response<ResBody>>,
    ResBody: Body,
{
    type Output = Result<Response<FillBody<ResBody>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProjection::Asking { waiting } => {
                    let pending = &waiting.as_ref().expect("polled after completion").pending;
                    let is_filled = match ready!(pending.poll_visitor(cx)) {
                        Visitor::Anonymous => false,
                        Visitor::SignedIn => true,
                        Visitor::WithoutToken => this.settings.fallback.is_some(),
                    };
                    let Waiting {
                        mut service,
                        mut request,
                        pending,
                    } = waiting.take().expect("polled after completion");
                    if is_filled {
                        head::ask_for_readable(&mut request);
                    }
                    let inner = service.call(request);
                    this.state.set(State::Calling {
                        inner,
                        pending: is_filled.then_some(pending),
                    });
                }
                StateProjection::Calling { inner, pending } => {
                    let response = match ready!(inner.poll(cx)) {
                        Ok(response) => response,
                        Err(error) => {
                            this.state.set(State::Done);
                            return Poll::Ready(Err(error));
                        }
                    };
                    let reading = pending.as_ref().map(|_| head::read(&response));
                    if let Some(Reading::Encoded) = reading {
                        if this.settings.warned.is_encoded.is_first() {
                            warn!(
                                "could not fill a page, because its HTML is encoded; put the compression layer outside of \
                                 the FillLayer, and let a proxied application obey `Accept-Encoding`"
                            );
                        }
                    }
                    let (Some(pending), Some(Reading::Html(encoding))) = (pending.take(), reading)
                    else {
                        // The promise is let go first: a response that cannot carry the token can be cached.
                        this.state.set(State::Done);
                        return Poll::Ready(Ok(response.map(FillBody::passing)));
                    };
                    let (parts, body) = response.into_parts();
                    let length = body.size_hint().exact().or(head::length(&parts.headers));
                    let settings = Arc::clone(this.settings);
                    let body = FillBody::filling(body, encoding, pending, settings);
                    this.state.set(State::Reading {
                        response: Some((parts, body)),
                        length,
                    });
                }
                StateProjection::Reading { response, length } => {
                    let (_, body) = response.as_mut().expect("polled after completion");
                    let found = ready!(body.poll_head(*length, cx));
                    let (mut parts, body) = response.take().expect("polled after completion");
                    this.state.set(State::Done);
                    if found == Found::Possibly {
                        head::fill(&mut parts.headers);
                    }
                    return Poll::Ready(Ok(Response::from_parts(parts, body)));
                }
                StateProjection::Done => panic!("polled after completion"),
            }
        }
    }
}

impl<S, B, F, R: Body> fmt::Debug for FillResponseFuture<S, B, F, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Asking { .. } => "Asking",
            State::Calling { .. } => "Calling",
            State::Reading { .. } => "Reading",
            State::Done => "Done",
        };
        f.debug_struct("FillResponseFuture")
            .field("state", &state)
            .finish_non_exhaustive()
    }
}
