//! One exchange with the token API: a request, its answer.

use std::error::Error;
use std::io;

use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method};
use reqwest::{Request, Response};

use super::endpoint::Endpoint;
use super::secret::SharedSecret;
use super::wire::{TokenApi, error_for, parse_reply};
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
    pub(crate) secret: SharedSecret,
}

impl Exchange {
    /// Asks once. Dropping the future closes the connection unless the answer was complete.
    pub(crate) async fn run(&self, user: &User) -> Result<AuthToken, MintError> {
        let response = self.http.execute(self.request(user)).await.map_err(|error| transport_error(&error))?;
        // The body of a refusal is never read: nothing in it is documented, and it may quote what was sent.
        if !response.status().is_success() {
            return Err(error_for(response.status()));
        }
        parse_reply(&read_capped(response).await?)
    }

    fn request(&self, user: &User) -> Request {
        let mut request = Request::new(Method::POST, self.endpoint.url().clone());
        let headers = request.headers_mut();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        // A compressed answer could be larger than it looks.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        headers.insert(AUTHORIZATION, self.secret.authorization());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        *request.body_mut() = Some(self.api.body(&self.account_id, user).into());
        request
    }
}

async fn read_capped(mut response: Response) -> Result<Vec<u8>, MintError> {
    let too_long = || MintError::new(MintErrorKind::MalformedResponse);
    if response.content_length().is_some_and(|length| length > MAX_REPLY_BYTES as u64) {
        return Err(too_long());
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| transport_error(&error))? {
        if body.len() + chunk.len() > MAX_REPLY_BYTES {
            return Err(too_long());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// The kind of a failure below HTTP. The error itself is not kept, for its texts hold the URL and what the remote end
/// wrote; only the operating system's own error is, made anew from its number.
fn transport_error(error: &reqwest::Error) -> MintError {
    let kind = if error.is_timeout() {
        MintErrorKind::Timeout
    } else if error.is_connect() {
        MintErrorKind::Connect
    } else if is_unreadable(error) {
        MintErrorKind::MalformedResponse
    } else {
        MintErrorKind::Interrupted
    };
    let mint_error = MintError::new(kind);
    match causes(error).find_map(|cause| cause.downcast_ref::<io::Error>()?.raw_os_error()) {
        Some(code) => mint_error.with_source(io::Error::from_raw_os_error(code)),
        None => mint_error,
    }
}

/// Whether something answered that does not speak HTTP as it should.
fn is_unreadable(error: &reqwest::Error) -> bool {
    causes(error).filter_map(|cause| cause.downcast_ref::<hyper::Error>()).any(hyper::Error::is_parse)
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}
