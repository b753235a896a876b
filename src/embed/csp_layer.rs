//! Merges Released's sources into the policies of responses that carry a token.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::header::{
    CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY_REPORT_ONLY, CONTENT_TYPE, HeaderName,
};
use http::{HeaderMap, HeaderValue, Request, Response};
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use super::csp::{Sources, leaves_hub_blocked};
use crate::middleware::CarriesToken;
use crate::pending::PendingToken;
use crate::telemetry::{Once, warn};

/// Merges [`Sources`] into the `Content-Security-Policy` and `Content-Security-Policy-Report-Only` of responses that
/// may carry a token; see [`csp`](super::csp).
///
/// A response without a policy is not changed. A response without a token is not changed either, unless you call
/// [`on_every_response`](Self::on_every_response). Call it if a page shows an embed without a token: to visitors, or while
/// Released is down.
///
/// # Its place
///
/// Put it *outside* of the [`ReleasedTokenLayer`](crate::ReleasedTokenLayer), and outside of the layer that sets the
/// policy. It finds responses with a token by the marker [`CarriesToken`](crate::middleware::CarriesToken), so a layer
/// between the two must keep the response's extensions.
///
/// If a page with a token has no policy, or if this layer is inside of the `ReleasedTokenLayer`, it logs one warning.
///
/// # "Communication error"
///
/// The embed shows this if the policy blocks the frame of Released's hub. If the sources have no
/// [`hub`](Sources::hub), and a policy that they are merged into restricts frames and allows no host of
/// `releasedhub.com`, the layer logs one warning. `.hub(..)` is also the cure for a hub host of your own.
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
///     // .layer(the layer that sets the policy)
///     .layer(
///         CspLayer::new(csp::strict().hub("acme.releasedhub.com")?)
///             .on_every_response(),
///     );
/// # Ok(()) }
/// ```
#[must_use = "a layer does nothing until it is put around a service"]
#[derive(Clone, Debug)]
pub struct CspLayer {
    sources: Arc<Sources>,
    on_every_response: bool,
    warned: Arc<Warned>,
}

/// The warnings that were logged already: a layer in the wrong place would log them for every page.
#[derive(Debug, Default)]
struct Warned {
    is_inside: Once,
    has_no_policy: Once,
    hub_is_blocked: Once,
}

impl CspLayer {
    /// Creates a layer that merges these sources.
    pub fn new(sources: Sources) -> Self {
        Self {
            sources: Arc::new(sources),
            on_every_response: false,
            warned: Arc::default(),
        }
    }

    /// Merges the sources into responses without a token, too. Use it for pages that show an embed to visitors or while
    /// Released is down, and for pages whose token the browser fetches.
    pub fn on_every_response(mut self) -> Self {
        self.on_every_response = true;
        self
    }

    fn merge_into(&self, headers: &mut HeaderMap, carries_token: bool) {
        let mut has_policy = false;
        for name in [CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY_REPORT_ONLY] {
            has_policy |= merge(headers, name, &self.sources);
        }
        if !is_page(headers) {
            return;
        }
        if carries_token && !has_policy && self.warned.has_no_policy.is_first() {
            warn!(
                "a response with an auth token has no Content-Security-Policy to merge into; put the CspLayer outside of \
                 what sets the policy, or remove it"
            );
        }
        // A policy that only reports blocks nothing.
        let blocks_hub = || {
            let mut policies = headers.get_all(CONTENT_SECURITY_POLICY).iter();
            !self.sources.has_hub && policies.any(|policy| leaves_hub_blocked(&decode(policy)))
        };
        if self.warned.hub_is_blocked.is_first_if(blocks_hub) {
            warn!(
                "a Content-Security-Policy blocks the frame of Released's hub, so the embed shows \"Communication \
                 error\"; call hub(..) on the sources of the CspLayer, with the hub's host, such as acme.releasedhub.com"
            );
        }
    }
}

impl<S> Layer<S> for CspLayer {
    type Service = CspService<S>;

    fn layer(&self, inner: S) -> CspService<S> {
        CspService {
            inner,
            layer: self.clone(),
        }
    }
}

/// Calls the inner service, and merges the sources into its response; see [`CspLayer`].
#[derive(Clone, Debug)]
pub struct CspService<S> {
    inner: S,
    layer: CspLayer,
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for CspService<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = CspResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let is_inside = request.extensions().get::<PendingToken>().is_some();
        if is_inside && self.layer.warned.is_inside.is_first() {
            warn!(
                "the CspLayer is inside of the ReleasedTokenLayer, so it cannot see which responses carry a token; put it \
                 outside"
            );
        }
        CspResponseFuture {
            inner: self.inner.call(request),
            layer: self.layer.clone(),
        }
    }
}

pin_project! {
    /// Returns the response of a [`CspService`].
    #[derive(Debug)]
    pub struct CspResponseFuture<F> {
        #[pin]
        inner: F,
        layer: CspLayer,
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
            let carries_token = response.extensions().get::<CarriesToken>().is_some();
            if carries_token || this.layer.on_every_response {
                this.layer.merge_into(response.headers_mut(), carries_token);
            }
        }
        Poll::Ready(result)
    }
}

/// Returns whether this is a page, which a policy is for. An answer of the token endpoint needs none.
fn is_page(headers: &HeaderMap) -> bool {
    let content_type = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
        .to_ascii_lowercase();
    content_type.starts_with("text/html") || content_type.starts_with("application/xhtml+xml")
}

/// Merges the sources into each header of this name, which is a policy of its own. Returns whether there is one.
fn merge(headers: &mut HeaderMap, name: HeaderName, sources: &Sources) -> bool {
    let http::header::Entry::Occupied(mut policies) = headers.entry(name) else {
        return false;
    };
    for policy in policies.iter_mut() {
        // A merged value is always a legal header: the sources are ASCII, and the rest was legal before.
        if let Some(merged) = encode(&sources.merge_into(&decode(policy))) {
            *policy = merged;
        }
    }
    true
}

/// Reads each byte as one character, as browsers do (CSP Level 3, section 2.2.1). A value with bytes that are not ASCII
/// is a policy, too.
fn decode(value: &HeaderValue) -> String {
    value.as_bytes().iter().copied().map(char::from).collect()
}

fn encode(text: &str) -> Option<HeaderValue> {
    let bytes: Result<Vec<u8>, _> = text.chars().map(u8::try_from).collect();
    HeaderValue::from_bytes(&bytes.ok()?).ok()
}
