//! One exchange with the token API: a request, its answer.

use std::error::Error;
use std::io;

use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method};
use reqwest::{Request, Response};

use super::attempts::Failure;
use super::endpoint::Endpoint;
use super::secret::SharedSecret;
use super::trace::ExchangeSpan;
use super::wire::{TokenApi, parse_reply, refusal};
use crate::error::{MintError, MintErrorKind};
use crate::token::AuthToken;
use crate::user::User;

/// The longest reply that is read, in bytes: twice the longest token.
const MAX_REPLY_BYTES: usize = 16 * 1024;

/// Where to ask, as whom, and in which of the two APIs.
pub(crate) struct Exchange {
    pub(crate) http: reqwest::Client,
    pub(crate) endpoint: Endpoint,
    pub(crate) api: TokenApi,
    pub(crate) account_id: String,
}

impl Exchange {
    /// Asks once. Dropping the future closes the connection unless the answer was complete.
    pub(crate) async fn run(
        &self,
        user: &User,
        secret: &SharedSecret,
        span: &ExchangeSpan,
    ) -> Result<AuthToken, Failure> {
        let response =
            self.http.execute(self.request(user, secret)).await.map_err(|error| transport_failure(&error))?;
        span.status(response.status());
        // The body of a refusal is never read: nothing in it is documented, and it may quote what was sent.
        if !response.status().is_success() {
            return Err(refusal(response.status(), response.headers()));
        }
        parse_reply(&read_capped(response).await?).map_err(Failure::lasting)
    }

    /// Opens a connection and leaves it in the pool. It carries neither the secret nor anybody's data, so whatever is
    /// answered to it is fine.
    pub(crate) async fn warm_up(&self) -> Result<(), MintError> {
        let request = Request::new(Method::HEAD, self.endpoint.url().clone());
        match self.http.execute(request).await {
            Ok(_) => Ok(()),
            Err(error) => Err(transport_failure(&error).error),
        }
    }

    fn request(&self, user: &User, secret: &SharedSecret) -> Request {
        let mut request = Request::new(Method::POST, self.endpoint.url().clone());
        let headers = request.headers_mut();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        // A compressed answer could be larger than it looks.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        headers.insert(AUTHORIZATION, secret.authorization());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        *request.body_mut() = Some(self.api.body(&self.account_id, user).into());
        request
    }
}

async fn read_capped(mut response: Response) -> Result<Vec<u8>, Failure> {
    let too_long = || Failure::lasting(MintError::new(MintErrorKind::MalformedResponse));
    if response.content_length().is_some_and(|length| length > MAX_REPLY_BYTES as u64) {
        return Err(too_long());
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| transport_failure(&error))? {
        if body.len() + chunk.len() > MAX_REPLY_BYTES {
            return Err(too_long());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// What a failure below HTTP is, and whether it may pass. The error itself is not kept, for its texts hold the URL and
/// what the remote end wrote; only the operating system's own error is, made anew from its number.
fn transport_failure(error: &reqwest::Error) -> Failure {
    let kind = if error.is_timeout() {
        MintErrorKind::Timeout
    } else if error.is_connect() {
        MintErrorKind::Connect
    } else if is_unreadable(error) {
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

/// Whether something answered that does not speak HTTP as it should.
fn is_unreadable(error: &reqwest::Error) -> bool {
    causes(error).filter_map(|cause| cause.downcast_ref::<hyper::Error>()).any(hyper::Error::is_parse)
}

/// Whether a certificate is at fault, which waiting does not mend. Each TLS library has a type of its own for that, but
/// all say it in the same word. The outermost error is left out, as it quotes the URL.
fn is_bad_certificate(error: &reqwest::Error) -> bool {
    causes(error).skip(1).any(|cause| cause.to_string().contains("certificate"))
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}
