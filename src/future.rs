//! The response, and the mint ahead of it or beside it.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{Request, Response};
use pin_project_lite::pin_project;
use tower::Service;

use crate::cache::{self, CarriesToken};
use crate::layer::{CacheControl, TokenPolicy};
use crate::pending::{Mint, Outcome, PendingToken, log_failure};
use crate::rejection::AuthTokenRejection;
use crate::skipped;

pin_project! {
    /// The response future of a [`ReleasedTokenService`](crate::ReleasedTokenService).
    ///
    /// Dropping it cancels everything that it started.
    pub struct ResponseFuture<S, B, F, P> {
        #[pin]
        state: State<S, B, F, P>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<S, B, F, P> {
        // The filter said no: only the inner service's future.
        Passing { #[pin] inner: F },
        // The handler waits for the token.
        Minting { mint: Mint, waiting: Option<Waiting<S, B>>, policy: P, with_token: WithToken },
        // The handler runs, and the mint beside it if it is to be driven.
        Responding { #[pin] inner: F, pending: CancelOnDrop, drives: bool, with_token: WithToken },
    }
}

/// What becomes of a response that may carry a token.
#[derive(Clone, Copy)]
pub(crate) struct WithToken {
    pub(crate) cache_control: CacheControl,
    /// Whether a layer further out has asked to be told.
    pub(crate) is_told: bool,
}

impl WithToken {
    fn mark<B>(self, response: &mut Response<B>) {
        if self.is_told {
            response.extensions_mut().insert(CarriesToken);
        }
        if self.cache_control == CacheControl::NoStore {
            cache::forbid(response.headers_mut());
        }
    }
}

/// What waits for its token: the service that was polled ready, and the request for it.
struct Waiting<S, B> {
    service: S,
    request: Request<B>,
}

impl<S, B, F, P> ResponseFuture<S, B, F, P> {
    pub(crate) fn passing(inner: F) -> Self {
        Self { state: State::Passing { inner } }
    }

    pub(crate) fn minting(mint: Mint, request: Request<B>, service: S, policy: P, with_token: WithToken) -> Self {
        Self { state: State::Minting { mint, waiting: Some(Waiting { service, request }), policy, with_token } }
    }

    pub(crate) fn responding(inner: F, pending: PendingToken, drives: bool, with_token: WithToken) -> Self {
        Self { state: State::Responding { inner, pending: CancelOnDrop(Some(pending)), drives, with_token } }
    }
}

impl<S, B, P, ResBody> Future for ResponseFuture<S, B, S::Future, P>
where
    S: Service<Request<B>, Response = Response<ResBody>>,
    P: TokenPolicy<ResBody>,
{
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProjection::Passing { inner } => return skipped::scope(|| inner.poll(cx)),
                StateProjection::Minting { mint, waiting, policy, with_token } => {
                    let with_token = *with_token;
                    let outcome = ready!(mint.as_mut().poll(cx));
                    log_failure(&outcome);
                    let Waiting { mut service, mut request } = waiting.take().expect("polled after completion");
                    if let Some(rejection) = why_there_is_none(&outcome) {
                        if let Some(answer) = policy.answer(request.method(), request.headers(), &rejection) {
                            return Poll::Ready(Ok(answer));
                        }
                    }
                    let pending = hand_over(outcome, &mut request);
                    let inner = service.call(request);
                    this.state.set(State::Responding {
                        inner,
                        pending: CancelOnDrop(Some(pending)),
                        drives: false,
                        with_token,
                    });
                }
                StateProjection::Responding { inner, pending, drives, with_token } => {
                    if let (true, Some(pending)) = (*drives, &pending.0) {
                        *drives = pending.poll(cx).is_pending();
                    }
                    let mut result = ready!(inner.poll(cx));
                    if let (Some(pending), Ok(response)) = (pending.0.take(), &mut result) {
                        if pending.may_be_in_the_response() {
                            with_token.mark(response);
                        }
                    }
                    return Poll::Ready(result);
                }
            }
        }
    }
}

fn why_there_is_none(outcome: &Outcome) -> Option<AuthTokenRejection> {
    match outcome {
        Ok(Some(_)) => None,
        Ok(None) => Some(AuthTokenRejection::Anonymous),
        Err(error) => Some(AuthTokenRejection::Mint(error.clone())),
    }
}

/// Puts what is known into the request's extensions: the promise that every timing gives, and the plain token for code
/// that knows neither extractors nor futures.
fn hand_over<B>(outcome: Outcome, request: &mut Request<B>) -> PendingToken {
    let token = outcome.as_ref().ok().cloned().flatten();
    let pending = PendingToken::kept(outcome);
    if let Some(token) = token {
        request.extensions_mut().insert(token);
        // Nobody can tell whether the plain token is read.
        pending.mark_handed_out();
        cache::make_unconditional(request.headers_mut());
    }
    request.extensions_mut().insert(pending.clone());
    pending
}

/// Cancels the mint if the response is dropped before it is there.
struct CancelOnDrop(Option<PendingToken>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if let Some(pending) = &self.0 {
            pending.cancel();
        }
    }
}

impl<S, B, F, P> fmt::Debug for ResponseFuture<S, B, F, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Passing { .. } => "Passing",
            State::Minting { .. } => "Minting",
            State::Responding { .. } => "Responding",
        };
        f.debug_struct("ResponseFuture").field("state", &state).finish_non_exhaustive()
    }
}
