//! The layer's answer in the handler's place, as gRPC.

use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue, Response};

use crate::rejection::{AuthTokenRejection, Failure};

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Turns a response into one of trailers only (gRPC over HTTP/2, "Responses"): the status in the headers, and no body.
pub(crate) fn answer<B>(
    response: &mut Response<B>,
    request: &HeaderMap,
    rejection: &AuthTokenRejection,
) {
    let headers = response.headers_mut();
    if let Some(content_type) = request.get(CONTENT_TYPE) {
        headers.insert(CONTENT_TYPE, content_type.clone());
    }
    headers.insert(GRPC_STATUS, HeaderValue::from_static(status(rejection)));
    headers.insert(
        GRPC_MESSAGE,
        HeaderValue::from_static(rejection.client_text()),
    );
}

/// Returns the code's number, as in `tonic::Code`.
fn status(rejection: &AuthTokenRejection) -> &'static str {
    const DEADLINE_EXCEEDED: &str = "4";
    const INTERNAL: &str = "13";
    const UNAVAILABLE: &str = "14";
    const UNAUTHENTICATED: &str = "16";
    match rejection {
        AuthTokenRejection::Anonymous => UNAUTHENTICATED,
        AuthTokenRejection::MissingLayer | AuthTokenRejection::Skipped => INTERNAL,
        AuthTokenRejection::Mint(error) => match Failure::of(error.kind()) {
            Failure::Unavailable => UNAVAILABLE,
            Failure::DeadlineExceeded => DEADLINE_EXCEEDED,
            Failure::BadGateway | Failure::Internal => INTERNAL,
        },
    }
}

/// Returns whether this is the head of a gRPC message: `application/grpc`, `application/grpc+proto`,
/// `application/grpc-web`.
pub(crate) fn has_grpc_content(headers: &HeaderMap) -> bool {
    const GRPC: &str = "application/grpc";
    let content_type = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    content_type
        .get(..GRPC.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(GRPC))
        && matches!(
            content_type.as_bytes().get(GRPC.len()),
            None | Some(b'+' | b'-' | b';' | b' ')
        )
}
