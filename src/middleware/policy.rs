//! What a layer does for a request that gets no token.

use http::{HeaderMap, Method, Response};

use super::grpc;
use crate::rejection::AuthTokenRejection;

/// Lets a request without a token go on to the handler. Default of [`ReleasedTokenLayer`](crate::ReleasedTokenLayer).
#[derive(Clone, Copy, Debug)]
pub struct FailOpen;

/// Rejects a request without a token; see
/// [`reject_without_token`](crate::ReleasedTokenLayer::reject_without_token).
#[derive(Clone, Copy, Debug)]
pub struct FailClosed;

/// Decides what a layer does for a request that gets no token. `B` is the response's body. Sealed: nobody can name it.
#[diagnostic::on_unimplemented(
    message = "`.reject_without_token()` cannot answer with a `{B}`: this response body is not `Default`",
    note = "the bodies of tower-http's `TraceLayer` and `RequestBodyLimitLayer` and of tonic's interceptors have no `Default`: \
            put them outside of the ReleasedTokenLayer, not inside"
)]
pub trait TokenPolicy<B>: Copy {
    /// Returns the answer in the handler's place to a request with this head, or `None` to call the handler.
    fn answer(
        self,
        method: &Method,
        headers: &HeaderMap,
        rejection: &AuthTokenRejection,
    ) -> Option<Response<B>>;
}

impl<B> TokenPolicy<B> for FailOpen {
    fn answer(self, _: &Method, _: &HeaderMap, _: &AuthTokenRejection) -> Option<Response<B>> {
        None
    }
}

#[diagnostic::do_not_recommend]
impl<B: Default> TokenPolicy<B> for FailClosed {
    fn answer(
        self,
        method: &Method,
        headers: &HeaderMap,
        rejection: &AuthTokenRejection,
    ) -> Option<Response<B>> {
        let mut response = Response::new(B::default());
        // A gRPC answer has status 200, which a cache could keep, so only a POST gets it: a browser may claim gRPC in a
        // GET.
        if *method == Method::POST && grpc::has_grpc_content(headers) {
            grpc::answer(&mut response, headers, rejection);
        } else {
            *response.status_mut() = rejection.status();
            rejection.insert_headers(response.headers_mut());
        }
        Some(response)
    }
}
