//! One exchange with the token API: a request and its answer.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST,
    USER_AGENT,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body_util::Full;
use tower::BoxError;
use tracing::Span;

use super::attempts::Failure;
use super::endpoint::Endpoint;
use super::failure::transport_failure;
use super::pool::{Allowance, Pools, Waiting};
use super::secret::SharedSecret;
use super::trace::ExchangeSpan;
use super::transport::hyper;
use super::wire::{TokenApi, parse_reply, refusal};
use crate::account::WrongAccount;
use crate::connection::{Cause, ConnectionFailure};
use crate::error::{MintError, MintErrorKind};
use crate::token::AuthToken;
use crate::user::User;

/// Sends requests for one account to one of the two APIs.
pub(crate) struct Exchange {
    pub(crate) endpoint: Endpoint,
    pub(crate) api: TokenApi,
    pools: Pools,
    /// The endpoint's host and port, for errors.
    server: Arc<str>,
    account_id: String,
    /// The headers of every request.
    headers: HeaderMap,
}

impl Exchange {
    pub(crate) fn new(pools: Pools, endpoint: Endpoint, api: TokenApi, account_id: String) -> Self {
        // Room for one more: a full map grows even if the name to insert is in it.
        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        // A compressed answer could be larger than it looks.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        // Places for the secret and the length: a copy of the map does not grow for them, which saves one allocation of 18.
        headers.insert(AUTHORIZATION, HeaderValue::from_static(""));
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static(""));
        // The application's own service adds these itself.
        if pools.are_ours() {
            if let Some(host) = endpoint
                .uri()
                .authority()
                .and_then(|host| host.as_str().parse().ok())
            {
                headers.insert(HOST, host);
            }
            headers.insert(USER_AGENT, HeaderValue::from_static(hyper::USER_AGENT));
        }
        Self {
            server: endpoint.server().into(),
            endpoint,
            api,
            pools,
            account_id,
            headers,
        }
    }

    /// Sends one request. Dropping the future closes the connection, unless the answer was complete.
    pub(crate) async fn run(
        &self,
        user: &User,
        secret: &SharedSecret,
        span: &ExchangeSpan,
        waiting: &Waiting,
    ) -> Result<AuthToken, Failure> {
        let pool = self.pools.current();
        waiting.begin(&pool);
        let asked_at = (Instant::now(), SystemTime::now());
        let sending = pool.transport.send(self.request(user, secret), span.span());
        let reply = sending
            .await
            .map_err(|error| transport_failure(&*error, &self.server))?;
        if !reply.status().is_success() {
            waiting.end();
            return Err(refusal(reply.status(), reply.headers()));
        }
        let token = parse_reply(reply.body()).map_err(Failure::lasting)?;
        // A connection that Released closes cannot be found dead later.
        let is_kept = reply
            .headers()
            .get(CONNECTION)
            .is_none_or(|value| !value.as_bytes().eq_ignore_ascii_case(b"close"));
        if is_kept {
            pool.allowance.earn();
        }
        Ok(token.asked_for_at(asked_at.0, asked_at.1))
    }

    /// Fails if the user is in another account. A user without an account is in this one.
    pub(crate) fn check_account(&self, user: &User) -> Result<(), WrongAccount> {
        match user.account() {
            Some(account) if account != self.account_id => Err(WrongAccount::Other),
            _ => Ok(()),
        }
    }

    /// Adds the server to the error of an attempt without an answer. Retires its pool, whose connections may be dead,
    /// so that the next attempt opens a new one. Returns the pool's allowance.
    pub(crate) fn ended_without_answer(
        &self,
        waiting: &Waiting,
        error: &mut MintError,
    ) -> Option<Arc<Allowance>> {
        // Without a pool, the attempt was not waiting for the server.
        let pool = waiting.take()?;
        if error.connection_failure().is_none() {
            *error = self.timed_out();
        }
        self.pools.retire(&pool)
    }

    /// Creates the error of a timeout.
    pub(crate) fn timed_out(&self) -> MintError {
        let failure = ConnectionFailure::new(Cause::TimedOut, Arc::clone(&self.server), None);
        MintError::new(MintErrorKind::Timeout).with_source(failure)
    }

    /// Retires the pool in use. Later requests open new connections.
    pub(crate) fn renew_connections(&self) {
        self.pools.renew();
    }

    /// Opens a connection and leaves it in the pool. Accepts any answer.
    pub(crate) async fn warm_up(&self) -> Result<(), MintError> {
        match self.ask_without_secret().await {
            Ok(_) => Ok(()),
            Err(error) => Err(transport_failure(&*error, &self.server).error),
        }
    }

    /// Sends a request with neither the secret nor personal data. It opens a connection as a mint does.
    pub(crate) async fn ask_without_secret(&self) -> Result<Response<Bytes>, BoxError> {
        let mut request = Request::new(Full::default());
        *request.method_mut() = Method::HEAD;
        *request.uri_mut() = self.endpoint.uri().clone();
        *request.headers_mut() = self.headers.clone();
        for name in [AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE] {
            request.headers_mut().remove(name);
        }
        let pool = self.pools.current();
        pool.transport.send(request, &Span::none()).await
    }

    /// Returns whether this crate's client sends, not the application's own service.
    pub(crate) fn has_own_client(&self) -> bool {
        self.pools.are_ours()
    }

    /// Returns the endpoint's host and port, for texts.
    pub(crate) fn server(&self) -> &Arc<str> {
        &self.server
    }

    pub(crate) fn account_id(&self) -> &str {
        &self.account_id
    }

    fn request(&self, user: &User, secret: &SharedSecret) -> Request<Full<Bytes>> {
        let body = self.api.body(&self.account_id, user);
        let mut headers = self.headers.clone();
        headers.insert(AUTHORIZATION, secret.authorization());
        headers.insert(CONTENT_LENGTH, body.len().into());
        let mut request = Request::new(Full::new(body.into()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.endpoint.uri().clone();
        *request.headers_mut() = headers;
        request
    }
}
