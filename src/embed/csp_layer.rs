//! Merges Released's sources into the policies of responses that carry a token.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::header::{CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY_REPORT_ONLY, HeaderName};
use http::{HeaderMap, HeaderValue, Response};
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use super::csp::Sources;
use crate::cache::CarriesToken;

/// Merges [`Sources`] into the `Content-Security-Policy` of responses that may carry a token, and into
/// `Content-Security-Policy-Report-Only`; see [`csp`](super::csp).
///
/// It stands *outside* of the [`ReleasedTokenLayer`](crate::ReleasedTokenLayer) and of whatever sets the policy. A response
/// without a policy, or without a token, is left alone.
///
/// # Example
///
/// ```
/// use axum::Router;
/// use tower_released::embed::csp::{self, CspLayer};
///
/// # fn main() -> Result<(), csp::InvalidSource> {
/// let app: Router = Router::new()
///     // .route_layer(the ReleasedTokenLayer)
///     // .layer(what sets the policy)
///     .layer(CspLayer::new(csp::strict().hub("acme.releasedhub.com")?));
/// # Ok(()) }
/// ```
#[must_use = "a layer does nothing until it is put around a service"]
#[derive(Clone, Debug)]
pub struct CspLayer {
    sources: Arc<Sources>,
}

impl CspLayer {
    /// A layer that merges these sources.
    pub fn new(sources: Sources) -> Self {
        Self { sources: Arc::new(sources) }
    }
}

impl<S> Layer<S> for CspLayer {
    type Service = CspService<S>;

    fn layer(&self, inner: S) -> CspService<S> {
        CspService { inner, sources: Arc::clone(&self.sources) }
    }
}

/// The service that a [`CspLayer`] makes of another one.
#[derive(Clone, Debug)]
pub struct CspService<S> {
    inner: S,
    sources: Arc<Sources>,
}

impl<S, Request, Body> Service<Request> for CspService<S>
where
    S: Service<Request, Response = Response<Body>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = CspResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        CspResponseFuture { inner: self.inner.call(request), sources: Arc::clone(&self.sources) }
    }
}

pin_project! {
    /// The response future of a [`CspService`].
    #[derive(Debug)]
    pub struct CspResponseFuture<F> {
        #[pin]
        inner: F,
        sources: Arc<Sources>,
    }
}

impl<F, Body, E> Future for CspResponseFuture<F>
where
    F: Future<Output = Result<Response<Body>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut result = ready!(this.inner.poll(cx));
        if let Ok(response) = &mut result {
            if response.extensions().get::<CarriesToken>().is_some() {
                for name in [CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY_REPORT_ONLY] {
                    merge(response.headers_mut(), name, this.sources);
                }
            }
        }
        Poll::Ready(result)
    }
}

/// Each header of this name is a policy of its own.
fn merge(headers: &mut HeaderMap, name: HeaderName, sources: &Sources) {
    let http::header::Entry::Occupied(mut policies) = headers.entry(name) else { return };
    for policy in policies.iter_mut() {
        // What is not text is no policy, and what is stays one.
        if let Some(merged) = policy.to_str().ok().and_then(|text| HeaderValue::try_from(sources.merge_into(text)).ok())
        {
            *policy = merged;
        }
    }
}
