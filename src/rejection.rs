//! Answering in the handler's place, over HTTP and over gRPC.

use std::fmt;
use std::time::Duration;

use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};

use crate::error::{MintError, MintErrorKind};

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// What `Retry-After` says where the error does not know better: as long as the circuit breaker first stays open.
const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(5);

/// Why a handler that asks for an [`AuthToken`](crate::AuthToken) cannot have one.
///
/// Its texts go to the client, so they tell nothing of the configuration or of Released; only a missing layer, which is
/// met while developing, is explained.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum AuthTokenRejection {
    /// There is no [`ReleasedTokenLayer`](crate::ReleasedTokenLayer) around the handler.
    MissingLayer,
    /// Nobody is signed in.
    Anonymous,
    /// The layer's filter passed this request over.
    Skipped,
    /// The mint failed.
    Mint(MintError),
}

impl AuthTokenRejection {
    /// The status of the answer: 401 for [`Anonymous`](Self::Anonymous); 503, 504, 502 or 500 by kind for
    /// [`Mint`](Self::Mint); else 500.
    ///
    /// Released's own refusal of the shared secret is a 500: a 401 would send the person to sign in again, and again.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Anonymous => StatusCode::UNAUTHORIZED,
            Self::MissingLayer | Self::Skipped => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Mint(error) => match Failure::of(error.kind()) {
                Failure::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
                Failure::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
                Failure::BadGateway => StatusCode::BAD_GATEWAY,
                Failure::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            },
        }
    }

    /// The text of the answer.
    pub fn body_text(&self) -> String {
        self.to_string()
    }

    /// When the client should try again; with status 503 only.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Mint(error) if self.status() == StatusCode::SERVICE_UNAVAILABLE => {
                Some(error.retry_after().unwrap_or(DEFAULT_RETRY_AFTER))
            }
            _ => None,
        }
    }

    /// The answer, without a text, to a request with this head: gRPC clients get gRPC's form of it.
    pub(crate) fn response<B: Default>(&self, method: &Method, request: &HeaderMap) -> Response<B> {
        let mut response = Response::new(B::default());
        // A browser that says it speaks gRPC must not get a page with status 200, which somebody could keep.
        if *method == Method::POST && has_grpc_content(request) {
            // A response of trailers only (gRPC over HTTP/2, "Responses"): the status in the headers, and no body.
            let headers = response.headers_mut();
            if let Some(content_type) = request.get(CONTENT_TYPE) {
                headers.insert(CONTENT_TYPE, content_type.clone());
            }
            headers.insert(GRPC_STATUS, HeaderValue::from_static(self.grpc_status()));
            headers.insert(GRPC_MESSAGE, HeaderValue::from_static(self.client_text()));
        } else {
            *response.status_mut() = self.status();
            self.insert_headers(response.headers_mut());
        }
        response
    }

    /// The headers of an answer over HTTP. Some caches keep errors, too.
    pub(crate) fn insert_headers(&self, headers: &mut HeaderMap) {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(delay) = self.retry_after() {
            // Rounded up, or clients come back too early.
            let seconds = delay.as_secs().saturating_add(u64::from(delay.subsec_nanos() > 0));
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
    }

    /// The code's number, as in `tonic::Code`.
    fn grpc_status(&self) -> &'static str {
        const DEADLINE_EXCEEDED: &str = "4";
        const INTERNAL: &str = "13";
        const UNAVAILABLE: &str = "14";
        const UNAUTHENTICATED: &str = "16";
        match self {
            Self::Anonymous => UNAUTHENTICATED,
            Self::MissingLayer | Self::Skipped => INTERNAL,
            Self::Mint(error) => match Failure::of(error.kind()) {
                Failure::Unavailable => UNAVAILABLE,
                Failure::DeadlineExceeded => DEADLINE_EXCEEDED,
                Failure::BadGateway | Failure::Internal => INTERNAL,
            },
        }
    }

    /// Of ASCII without `%`, so that it needs no encoding in `grpc-message`.
    fn client_text(&self) -> &'static str {
        match self {
            Self::MissingLayer => {
                "No ReleasedTokenLayer is around this handler. Add `.layer(ReleasedTokenLayer::new(client, resolver))` \
                 to the router, after the route."
            }
            Self::Anonymous => "Nobody is signed in.",
            Self::Skipped => {
                "The filter of the ReleasedTokenLayer passed this request over, so it has no auth token. \
                 Take an `Option` of it in the handler, or include the request with `.mint_when(..)`."
            }
            Self::Mint(error) => match Failure::of(error.kind()) {
                Failure::Unavailable => "The auth token is not available right now.",
                Failure::DeadlineExceeded => "The auth token did not arrive in time.",
                Failure::BadGateway | Failure::Internal => "The auth token could not be minted.",
            },
        }
    }
}

impl fmt::Display for AuthTokenRejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.client_text())
    }
}

impl std::error::Error for AuthTokenRejection {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Mint(error) => Some(error),
            _ => None,
        }
    }
}

/// What a failed mint is to a client.
enum Failure {
    /// Try again later.
    Unavailable,
    /// It took too long.
    DeadlineExceeded,
    /// Released's answer made no sense.
    BadGateway,
    /// Something is wrong at this end.
    Internal,
}

impl Failure {
    fn of(kind: MintErrorKind) -> Self {
        match kind {
            MintErrorKind::RateLimited
            | MintErrorKind::Overloaded
            | MintErrorKind::CircuitOpen
            | MintErrorKind::Connect
            | MintErrorKind::Interrupted
            | MintErrorKind::Unavailable => Self::Unavailable,
            MintErrorKind::Timeout => Self::DeadlineExceeded,
            MintErrorKind::MalformedResponse => Self::BadGateway,
            MintErrorKind::InvalidUser
            | MintErrorKind::Resolver
            | MintErrorKind::Unauthorized
            | MintErrorKind::Rejected
            | MintErrorKind::Config => Self::Internal,
        }
    }
}

/// Whether this is the head of a gRPC message: `application/grpc`, `application/grpc+proto`, `application/grpc-web`.
pub(crate) fn has_grpc_content(headers: &HeaderMap) -> bool {
    const GRPC: &str = "application/grpc";
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    content_type.get(..GRPC.len()).is_some_and(|start| start.eq_ignore_ascii_case(GRPC))
        && matches!(content_type.as_bytes().get(GRPC.len()), None | Some(b'+' | b'-' | b';' | b' '))
}
