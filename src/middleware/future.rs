//! The response future, which drives the mint before the handler or alongside it.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::{Request, Response, StatusCode};
use pin_project_lite::pin_project;
use tower::Service;

use super::cache;
use super::policy::TokenPolicy;
use super::settings::{CacheControl, Settings};
use crate::filter::is_for_document;
use crate::pending::{Driver, Outcome};
use crate::rejection::AuthTokenRejection;

pin_project! {
    /// Returns the response of a [`ReleasedTokenService`](super::ReleasedTokenService).
    ///
    /// # Cancel safety
    ///
    /// Dropping it cancels everything that it started, the mint included.
    pub struct ResponseFuture<S, B, F, P> {
        #[pin]
        state: State<S, B, F, P>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<S, B, F, P> {
        // The filter skipped the request: only the inner service's future.
        Passing { #[pin] inner: F, is_early: bool },
        // The handler waits for the token.
        Minting { driver: Option<Driver>, waiting: Option<Waiting<S, B>>, policy: P, settings: Arc<Settings> },
        // The handler runs, and the mint meanwhile.
        Responding {
            #[pin]
            inner: F,
            driver: Option<Driver>,
            drives: Drives,
            plain_token: PlainToken,
            settings: Arc<Settings>,
        },
        Done,
    }
}

/// Which mint is driven while the handler runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Drives {
    /// The one that the layer starts.
    FromTheStart,
    /// The one that the handler starts, and may then no longer await.
    OnceStarted,
    /// None: it is done.
    NoMore,
}

/// Whether the request's extensions have the token itself, which can be read without a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PlainToken {
    No,
    /// The request is for a document, or for a part of one.
    ForDocument,
    /// The request is for anything else.
    ForOther,
}

/// A call that waits for its token: the service that was polled ready, and the request for it.
struct Waiting<S, B> {
    service: S,
    request: Request<B>,
}

impl<S, B, F, P> ResponseFuture<S, B, F, P> {
    /// For a request that the filter skipped. `is_early`: because the user has not opened the document yet.
    pub(crate) fn passing(inner: F, is_early: bool) -> Self {
        Self {
            state: State::Passing { inner, is_early },
        }
    }

    pub(crate) fn minting(
        driver: Driver,
        request: Request<B>,
        service: S,
        policy: P,
        settings: Arc<Settings>,
    ) -> Self {
        let waiting = Some(Waiting { service, request });
        Self {
            state: State::Minting {
                driver: Some(driver),
                waiting,
                policy,
                settings,
            },
        }
    }

    pub(crate) fn responding(
        inner: F,
        driver: Driver,
        first: Drives,
        settings: Arc<Settings>,
    ) -> Self {
        Self {
            state: State::Responding {
                inner,
                driver: Some(driver),
                drives: first,
                plain_token: PlainToken::No,
                settings,
            },
        }
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
                StateProjection::Passing { inner, is_early } => {
                    let mut result = ready!(inner.poll(cx));
                    if let (true, Ok(response)) = (*is_early, &mut result) {
                        cache::forbid_reuse(response);
                    }
                    return Poll::Ready(result);
                }
                StateProjection::Minting {
                    driver,
                    waiting,
                    policy,
                    settings,
                } => {
                    let outcome =
                        ready!(driver.as_ref().expect("polled after completion").start(cx));
                    let driver = driver.take();
                    let Waiting {
                        mut service,
                        mut request,
                    } = waiting.take().expect("polled after completion");
                    if let Some(rejection) = rejection_for(&outcome) {
                        if let Some(answer) =
                            policy.answer(request.method(), request.headers(), &rejection)
                        {
                            return Poll::Ready(Ok(answer));
                        }
                    }
                    let mut plain_token = PlainToken::No;
                    if let Ok(Some(token)) = outcome {
                        // For code that uses neither extractors nor futures.
                        request.extensions_mut().insert(token);
                        plain_token = PlainToken::ForOther;
                        if is_for_document(request.method(), request.headers()) {
                            plain_token = PlainToken::ForDocument;
                            if settings.cache_control == CacheControl::NoStore {
                                cache::make_unconditional(request.headers_mut());
                            }
                        }
                    }
                    let (inner, settings) = (service.call(request), Arc::clone(settings));
                    this.state.set(State::Responding {
                        inner,
                        driver,
                        drives: Drives::NoMore,
                        plain_token,
                        settings,
                    });
                }
                StateProjection::Responding {
                    inner,
                    driver,
                    drives,
                    plain_token,
                    settings,
                } => {
                    if let Some(driver) = driver {
                        match drives {
                            Drives::FromTheStart if driver.start(cx).is_ready() => {
                                *drives = Drives::NoMore;
                            }
                            Drives::OnceStarted if driver.drive(cx).is_ready() => {
                                *drives = Drives::NoMore;
                            }
                            _ => {}
                        }
                    }
                    let mut result = ready!(inner.poll(cx));
                    let (driver, plain_token) = (driver.take(), *plain_token);
                    let settings = Arc::clone(settings);
                    // The inner future may hold the request, and so the promise, as tower's `Retry` does.
                    this.state.set(State::Done);
                    let was_promised = driver.is_some_and(Driver::leave);
                    if let Ok(response) = &mut result {
                        if was_promised || may_hold(plain_token, response) {
                            cache::mark(response, &settings);
                        }
                    }
                    return Poll::Ready(result);
                }
                StateProjection::Done => panic!("polled after completion"),
            }
        }
    }
}

/// Returns whether a response may hold the token from the request's extensions. Nobody can tell whether it was read.
fn may_hold<B>(plain_token: PlainToken, response: &Response<B>) -> bool {
    match plain_token {
        PlainToken::No => false,
        PlainToken::ForDocument => !cache::is_asset(response),
        PlainToken::ForOther => {
            !cache::is_asset(response) && !cache::is_svg(response)
                // It has no body, and it confirms a response that a cache could keep: one without a token.
                && response.status() != StatusCode::NOT_MODIFIED
        }
    }
}

fn rejection_for(outcome: &Outcome) -> Option<AuthTokenRejection> {
    match outcome {
        Ok(Some(_)) => None,
        Ok(None) => Some(AuthTokenRejection::Anonymous),
        Err(error) => Some(AuthTokenRejection::Mint(error.clone())),
    }
}

impl<S, B, F, P> fmt::Debug for ResponseFuture<S, B, F, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Passing { .. } => "Passing",
            State::Minting { .. } => "Minting",
            State::Responding { .. } => "Responding",
            State::Done => "Done",
        };
        f.debug_struct("ResponseFuture")
            .field("state", &state)
            .finish_non_exhaustive()
    }
}
