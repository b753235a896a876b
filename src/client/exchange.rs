//! One exchange with the token API: a request, its answer.

use std::error::Error;
use std::io;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request};
use http_body_util::BodyExt;
use hyper::body::Body;
use hyper_util::client::legacy;

use super::attempts::Failure;
use super::endpoint::Endpoint;
use super::secret::SharedSecret;
use super::trace::ExchangeSpan;
use super::transport::{ReplyBody, Transport};
use super::wire::{TokenApi, parse_reply, refusal};
use crate::error::{MintError, MintErrorKind};
use crate::token::AuthToken;
use crate::user::User;

/// The longest reply that is read, in bytes: twice the longest token.
const MAX_REPLY_BYTES: usize = 16 * 1024;

/// Where to ask, as whom, and in which of the two APIs.
pub(crate) struct Exchange {
    pub(crate) endpoint: Endpoint,
    pub(crate) api: TokenApi,
    transport: Transport,
    account_id: String,
    /// What every request says. The places of the secret and of the length are kept for them.
    headers: HeaderMap,
}

impl Exchange {
    pub(crate) fn new(transport: Transport, endpoint: Endpoint, api: TokenApi, account_id: String) -> Self {
        // All that is sent, so that no copy has to grow; and with room to spare, for whoever asks for a place in a full
        // map has it grow even if the place is taken.
        let mut headers = HeaderMap::with_capacity(12);
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        // A compressed answer could be larger than it looks.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(AUTHORIZATION, HeaderValue::from_static(""));
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static(""));
        // A client of the application's own adds what it thinks right.
        if let Transport::Hyper(_) = transport {
            if let Some(host) = endpoint.uri().authority().and_then(|host| host.as_str().parse().ok()) {
                headers.insert(HOST, host);
            }
            headers.insert(USER_AGENT, HeaderValue::from_static(Transport::USER_AGENT));
        }
        Self { endpoint, api, transport, account_id, headers }
    }

    /// Asks once. Dropping the future closes the connection unless the answer was complete.
    pub(crate) async fn run(
        &self,
        user: &User,
        secret: &SharedSecret,
        span: &ExchangeSpan,
    ) -> Result<AuthToken, Failure> {
        let asked_at = (Instant::now(), SystemTime::now());
        let body = {
            let reply =
                self.transport.send(self.request(user, secret)).await.map_err(|error| transport_failure(&*error))?;
            span.status(reply.status());
            // The body of a refusal is never read: nothing in it is documented, and it may quote what was sent.
            if !reply.status().is_success() {
                return Err(refusal(reply.status(), reply.headers()));
            }
            reply.into_body()
        };
        let token = parse_reply(&read_capped(body).await?).map_err(Failure::lasting)?;
        Ok(token.asked_for_at(asked_at.0, asked_at.1))
    }

    /// Opens a connection and leaves it in the pool. It carries neither the secret nor anybody's data, so whatever is
    /// answered to it is fine.
    pub(crate) async fn warm_up(&self) -> Result<(), MintError> {
        let mut request = Request::new(Vec::new());
        *request.method_mut() = Method::HEAD;
        *request.uri_mut() = self.endpoint.uri().clone();
        *request.headers_mut() = self.headers.clone();
        for name in [AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE] {
            request.headers_mut().remove(name);
        }
        match self.transport.send(request).await {
            Ok(_) => Ok(()),
            Err(error) => Err(transport_failure(&*error).error),
        }
    }

    fn request(&self, user: &User, secret: &SharedSecret) -> Request<Vec<u8>> {
        let body = self.api.body(&self.account_id, user);
        let mut headers = self.headers.clone();
        headers.insert(AUTHORIZATION, secret.authorization());
        headers.insert(CONTENT_LENGTH, body.len().into());
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.endpoint.uri().clone();
        *request.headers_mut() = headers;
        request
    }
}

async fn read_capped(mut body: ReplyBody) -> Result<Bytes, Failure> {
    let too_long = || Failure::lasting(MintError::new(MintErrorKind::MalformedResponse));
    if body.size_hint().lower() > MAX_REPLY_BYTES as u64 {
        return Err(too_long());
    }
    // Most replies are of one piece, which is not copied. Of more, each would keep a whole buffer of hyper's.
    let mut first = Bytes::new();
    let mut pieces = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(piece) = frame.map_err(|error| transport_failure(&*error))?.into_data() else { continue };
        if first.len().max(pieces.len()) + piece.len() > MAX_REPLY_BYTES {
            return Err(too_long());
        }
        if first.is_empty() {
            first = piece;
            continue;
        }
        if pieces.is_empty() {
            pieces.extend_from_slice(&first);
        }
        pieces.extend_from_slice(&piece);
    }
    Ok(if pieces.is_empty() { first } else { pieces.into() })
}

/// What a failure below HTTP is, and whether it may pass. The error itself is not kept, for its texts may hold the URL and
/// what the remote end wrote; only the operating system's own error is, made anew from its number.
fn transport_failure(error: &(dyn Error + 'static)) -> Failure {
    let kind = if causes(error).any(is_timeout) {
        MintErrorKind::Timeout
    } else if causes(error).any(is_connect) {
        MintErrorKind::Connect
    } else if causes(error).any(is_unreadable) {
        MintErrorKind::MalformedResponse
    } else {
        MintErrorKind::Interrupted
    };
    let mut mint_error = MintError::new(kind);
    if let Some(code) = causes(error).find_map(|cause| cause.downcast_ref::<io::Error>()?.raw_os_error()) {
        mint_error = mint_error.with_source(io::Error::from_raw_os_error(code));
    }
    let is_transient = match kind {
        MintErrorKind::Connect => !is_bad_certificate(error),
        MintErrorKind::MalformedResponse => false,
        _ => true,
    };
    Failure { error: mint_error, is_transient }
}

fn is_timeout(cause: &(dyn Error + 'static)) -> bool {
    cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
        || cause.downcast_ref().is_some_and(reqwest::Error::is_timeout)
}

/// Of hyper's client, which is within reqwest, too.
fn is_connect(cause: &(dyn Error + 'static)) -> bool {
    cause.downcast_ref().is_some_and(legacy::Error::is_connect)
}

/// Whether something answered that does not speak HTTP as it should.
fn is_unreadable(cause: &(dyn Error + 'static)) -> bool {
    cause.downcast_ref().is_some_and(hyper::Error::is_parse)
}

/// Whether a certificate is at fault, which waiting does not mend. Each TLS library has a type of its own for that, but
/// all say it in the same word. The outermost error is left out, as reqwest's quotes the URL.
fn is_bad_certificate(error: &(dyn Error + 'static)) -> bool {
    causes(error).skip(1).any(|cause| cause.to_string().contains("certificate"))
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| {
        // An error that was put into an `io::Error`, as TLS libraries do, is not its source, but in its place.
        match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        }
    })
}
