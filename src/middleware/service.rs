//! The service: it decides whether a request gets a mint, and when.

use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use tower::Service;

use super::cache;
use super::future::{Drives, ResponseFuture};
use super::policy::TokenPolicy;
use super::settings::{CacheControl, MintTiming, Settings};
use crate::filter::{Skipped, is_ahead_of_time, is_named_file, selects_visit};
use crate::pending::{Driver, PendingToken};
use crate::telemetry::warn;
use crate::token::AuthToken;

/// Mints a token for each request, and calls the inner service; see [`ReleasedTokenLayer`](crate::ReleasedTokenLayer).
///
/// # Errors
///
/// Its error is always the inner service's. A failed mint is not an error of the service.
#[derive(Clone, Debug)]
pub struct ReleasedTokenService<S, P = super::FailOpen> {
    inner: S,
    settings: Arc<Settings>,
    policy: P,
}

impl<S, P> ReleasedTokenService<S, P> {
    pub(crate) fn new(inner: S, settings: Arc<Settings>, policy: P) -> Self {
        Self {
            inner,
            settings,
            policy,
        }
    }

    fn warn_of_nesting(&self) {
        if self.settings.warned_of_nesting.is_first() {
            warn!(
                "two ReleasedTokenLayers minted for one request, and the handler gets the inner one's token; give each route one layer, \
                 or `.timing(MintTiming::OnExtraction)` to the outer one; for several accounts, see client::by_account"
            );
        }
    }
}

impl<S, P, ReqBody, ResBody> Service<Request<ReqBody>> for ReleasedTokenService<S, P>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone,
    P: TokenPolicy<ResBody>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S, ReqBody, S::Future, P>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let (mut parts, body) = request.into_parts();
        // A token that a layer further out left may be for somebody else.
        parts.extensions.remove::<AuthToken>();
        if !(self.settings.filter)(&parts) {
            parts.extensions.remove::<PendingToken>();
            parts.extensions.insert(Skipped);
            let is_early = self.settings.cache_control == CacheControl::NoStore
                && is_ahead_of_time(&parts)
                && selects_visit(&*self.settings.filter, &parts);
            if is_early && !is_named_file(&parts.headers) {
                cache::make_unconditional(&mut parts.headers);
            }
            let inner = self.inner.call(Request::from_parts(parts, body));
            return ResponseFuture::passing(inner, is_early);
        }

        let (pending, driver) = Driver::new(|gate| (self.settings.mint)(&parts, gate));
        let outer = parts.extensions.insert(pending);
        if outer.is_some_and(|outer| outer.has_started()) {
            self.warn_of_nesting();
        }
        let request = Request::from_parts(parts, body);
        let settings = Arc::clone(&self.settings);
        match self.settings.timing {
            MintTiming::BeforeHandler => {
                // The service that was polled ready is the one to call, later; the clone takes its place.
                let clone = self.inner.clone();
                let ready = mem::replace(&mut self.inner, clone);
                ResponseFuture::minting(driver, request, ready, self.policy, settings)
            }
            MintTiming::AlongsideHandler => {
                // The future polls the mint first, but calls the handler before that: a layer in there must see it.
                driver.mark_started();
                ResponseFuture::responding(
                    self.inner.call(request),
                    driver,
                    Drives::FromTheStart,
                    settings,
                )
            }
            MintTiming::OnExtraction => ResponseFuture::responding(
                self.inner.call(request),
                driver,
                Drives::OnceStarted,
                settings,
            ),
        }
    }
}
