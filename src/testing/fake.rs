//! The fake of Released: its server, and the handle that a test holds.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_ORIGIN, ALLOW, CACHE_CONTROL, CONTENT_TYPE, ORIGIN,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use url::{Host, Url};

use super::jwt::{Claims, Key};
use super::lock;
use super::reply::Reply;
use super::rules::{Account, Api, Refusal};
use crate::user::User;

/// The life of a token that Released documents.
const TOKEN_LIFE: Duration = Duration::from_secs(2 * 60);

/// The life of an embed's session that Released documents.
const SESSION_LIFE: Duration = Duration::from_secs(3 * 24 * 60 * 60);

/// The longest body that is read, in bytes.
const MAX_BODY_BYTES: usize = 64 * 1024;

const IMPERSONATION_PATH: &str = "/auth/api/impersonation/token";
const EMAIL_ONLY_PATH: &str = "/auth/api/token";
const EMBED_PATH: &str = "/1/embed.js";
const SESSION_PATH: &str = "/session";

/// Runs a fake of Released: a real HTTP server on a free port of 127.0.0.1. Dropping it stops the server.
///
/// It enforces the documented rules of both token APIs, and answers with signed tokens that live for two minutes. It
/// exchanges them for sessions, as the portal does. Its `embed.js` defines the four elements, which show "Verified as
/// …" or "Access denied: …", so that a page works offline. See the [module](super).
pub struct FakeReleased {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

struct Shared {
    account: Account,
    key: Key,
    behaviour: Mutex<Behaviour>,
    users: Mutex<Vec<User>>,
    counts: watch::Sender<Counts>,
}

struct Behaviour {
    latency: Duration,
    token_life: Duration,
    next: VecDeque<Reply>,
    always: Option<Reply>,
}

/// Counts what a [`FakeReleased`] has seen so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Connections that were opened.
    pub connections: usize,
    /// Requests for a token, whatever their end.
    pub requests: usize,
    /// Requests for a token that are neither answered nor cancelled.
    pub in_flight: usize,
    /// Requests for a token that the caller cancelled before the answer.
    pub cancelled: usize,
    /// Tokens that were minted.
    pub minted: usize,
    /// Requests for a token that broke a rule.
    pub refused: usize,
    /// Tokens that were exchanged for a session.
    pub sessions: usize,
    /// Exchanges that were denied.
    pub denied: usize,
}

/// Describes the session that an embed gets for its token.
#[derive(Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Session {
    /// The user's id. `None` if the token came from the API without ids.
    pub user_id: Option<String>,
    /// The e-mail address.
    pub email: String,
    /// The name, if the application sent one.
    pub name: Option<String>,
    /// The life of the session, in seconds: three days.
    pub expires_in: u64,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("expires_in", &self.expires_in).finish_non_exhaustive()
    }
}

/// Says why an embed gets no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AccessDenied {
    /// This fake did not sign the token.
    Signature,
    /// The token has expired. By default its life is two minutes.
    Expired,
    /// The page is neither on HTTPS nor on this machine.
    InvalidOrigin,
}

impl fmt::Display for AccessDenied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Signature => "the token is not one of ours",
            Self::Expired => "the token has expired",
            Self::InvalidOrigin => "invalid_origin",
        })
    }
}

impl std::error::Error for AccessDenied {}

impl FakeReleased {
    /// Starts a server with an account of its own.
    ///
    /// # Errors
    ///
    /// No port of 127.0.0.1 can be opened.
    ///
    /// # Panics
    ///
    /// Panics outside of a `tokio` runtime with I/O and time.
    pub async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            account: Account { id: "acc_fake".to_owned(), secret: Mutex::new(random_secret()) },
            key: Key::new(&[random(), random(), random(), random()].map(u64::to_be_bytes).concat()),
            behaviour: Mutex::new(Behaviour {
                latency: Duration::ZERO,
                token_life: TOKEN_LIFE,
                next: VecDeque::new(),
                always: None,
            }),
            users: Mutex::default(),
            counts: watch::Sender::default(),
        });
        let server = tokio::spawn(serve(listener, Arc::clone(&shared)));
        Ok(Self { address, shared, server })
    }

    /// Returns the id of its account.
    pub fn account_id(&self) -> &str {
        &self.shared.account.id
    }

    /// Returns the shared secret of its account. Every start makes a new one.
    pub fn shared_secret(&self) -> String {
        lock(&self.shared.account.secret).clone()
    }

    /// Generates and returns a new shared secret. The old one is refused from now on.
    pub fn rotate_secret(&self) -> String {
        let rotated = random_secret();
        lock(&self.shared.account.secret).clone_from(&rotated);
        rotated
    }

    /// Returns its origin, such as `http://127.0.0.1:49152`, for a Content-Security-Policy.
    pub fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the URL of its current token API, for
    /// [`TokenApi::Impersonation`](crate::client::TokenApi::Impersonation).
    pub fn impersonation_url(&self) -> String {
        self.origin() + IMPERSONATION_PATH
    }

    /// Returns the URL of its older token API, for [`TokenApi::EmailOnly`](crate::client::TokenApi::EmailOnly).
    pub fn email_only_url(&self) -> String {
        self.origin() + EMAIL_ONLY_PATH
    }

    /// Returns the URL of its replacement for Released's embed script.
    pub fn embed_script_url(&self) -> String {
        self.origin() + EMBED_PATH
    }

    /// Creates a client for its account and its current token API.
    ///
    /// # Errors
    ///
    /// The HTTP client cannot be built.
    #[cfg(feature = "client")]
    pub fn client(&self) -> Result<crate::ReleasedClient, crate::client::ConfigError> {
        self.client_builder().build()
    }

    /// Returns the builder of [`client`](Self::client), for a client with other settings, such as the deadline.
    #[cfg(feature = "client")]
    pub fn client_builder(&self) -> crate::client::ReleasedClientBuilder {
        crate::ReleasedClient::builder(self.account_id(), self.shared_secret()).endpoint(self.impersonation_url())
    }

    /// Delays every later answer to a request for a token by this time. Default: no delay.
    pub fn set_latency(&self, latency: Duration) {
        self.behaviour().latency = latency;
    }

    /// Sets the life of every later token, in whole seconds. With zero, tokens have expired when they arrive. Default:
    /// two minutes.
    pub fn set_token_life(&self, life: Duration) {
        self.behaviour().token_life = life;
    }

    /// Answers the next request for a token with `reply`, without checking it. Several calls queue up.
    pub fn reply_next(&self, reply: Reply) {
        self.behaviour().next.push_back(reply);
    }

    /// Answers every later request for a token with `reply`, without checking it, as in an outage.
    pub fn reply_always(&self, reply: Reply) {
        self.behaviour().always = Some(reply);
    }

    /// Removes all scripted answers and the latency, which ends an outage.
    pub fn recover(&self) {
        let mut behaviour = self.behaviour();
        behaviour.latency = Duration::ZERO;
        behaviour.next.clear();
        behaviour.always = None;
    }

    /// Returns what it has seen so far.
    pub fn counts(&self) -> Counts {
        *self.shared.counts.borrow()
    }

    /// Waits until `wanted` returns true for what it has seen, and returns the counts.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn wait_until(&self, wanted: impl FnMut(&Counts) -> bool) -> Counts {
        let mut counts = self.shared.counts.subscribe();
        // The sender is in `self`, so it is not closed during the wait.
        counts.wait_for(wanted).await.map_or_else(|_closed| self.counts(), |counts| *counts)
    }

    /// Returns the users for whom it has minted, in order. The API without ids gives every user the id `email-only`.
    pub fn users(&self) -> Vec<User> {
        lock(&self.shared.users).clone()
    }

    /// Exchanges a token for a session, as the embed does.
    ///
    /// Released does not document whether a token can be exchanged twice. Here it can, because one page may hold
    /// several embeds with the same token.
    ///
    /// # Errors
    ///
    /// The token was not signed by this fake, or has expired. Then the embed would show "access denied".
    pub fn open_session(&self, token: &str) -> Result<Session, AccessDenied> {
        self.shared.open_session(token)
    }

    fn behaviour(&self) -> MutexGuard<'_, Behaviour> {
        lock(&self.shared.behaviour)
    }
}

impl Drop for FakeReleased {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl fmt::Debug for FakeReleased {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeReleased")
            .field("address", &self.address)
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}

/// Serves until it is aborted; connections go with it.
async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        shared.counts.send_modify(|counts| counts.connections += 1);
        // Answers are small, and tests are about latency.
        let _ = stream.set_nodelay(true);
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let service = service_fn(move |request| answer(Arc::clone(&shared), request));
            // The caller sees the error.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
        // Closed connections need not be kept.
        while connections.try_join_next().is_some() {}
    }
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let api = match parts.uri.path() {
        IMPERSONATION_PATH => Api::Impersonation,
        EMAIL_ONLY_PATH => Api::EmailOnly,
        EMBED_PATH => return Ok(embed_script()),
        SESSION_PATH => return Ok(shared.session(&parts.method, &parts.headers, body).await),
        _ => return Ok(empty(StatusCode::NOT_FOUND)),
    };
    if parts.method != Method::POST {
        let mut response = empty(StatusCode::METHOD_NOT_ALLOWED);
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        return Ok(response);
    }
    Ok(shared.token(api, &parts.headers, body).await)
}

impl Shared {
    /// Answers a request for a token.
    async fn token(&self, api: Api, headers: &HeaderMap, body: Incoming) -> Response<Full<Bytes>> {
        let mut in_flight = InFlight::enter(&self.counts);
        let response = self.token_or_refusal(api, headers, body).await;
        in_flight.done = true;
        response
    }

    async fn token_or_refusal(&self, api: Api, headers: &HeaderMap, body: Incoming) -> Response<Full<Bytes>> {
        let body = read(body).await;
        let (latency, token_life, scripted) = {
            let mut behaviour = lock(&self.behaviour);
            let scripted = behaviour.next.pop_front().or_else(|| behaviour.always.clone());
            (behaviour.latency, behaviour.token_life, scripted)
        };
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        if let Some(reply) = scripted {
            let mut response = Response::new(Full::new(reply.body));
            *response.status_mut() = reply.status;
            response.headers_mut().extend(reply.headers);
            return response;
        }
        let checked = match body {
            Some(body) => self.account.check(api, headers, &body),
            None => Err(Refusal { status: StatusCode::PAYLOAD_TOO_LARGE, reason: "the body is too long" }),
        };
        match checked {
            Ok(user) => {
                let token = self.key.sign(&claims(api, &user, token_life));
                lock(&self.users).push(user);
                self.counts.send_modify(|counts| counts.minted += 1);
                json(StatusCode::OK, &token)
            }
            Err(Refusal { status, reason }) => {
                self.counts.send_modify(|counts| counts.refused += 1);
                json(status, &ErrorBody { error: reason })
            }
        }
    }

    /// Answers an embed that wants a session. Pages are of another origin, so the answer has CORS headers.
    async fn session(&self, method: &Method, headers: &HeaderMap, body: Incoming) -> Response<Full<Bytes>> {
        #[derive(Deserialize)]
        struct Exchange {
            token: String,
        }
        let mut response = if method == Method::OPTIONS {
            empty(StatusCode::NO_CONTENT)
        } else {
            let exchange = read(body).await.and_then(|body| serde_json::from_slice(&body).ok());
            match exchange {
                Some(Exchange { token }) if may_embed(headers.get(ORIGIN)) => match self.open_session(&token) {
                    Ok(session) => json(StatusCode::OK, &session),
                    Err(denied) => json(StatusCode::FORBIDDEN, &ErrorBody { error: &denied.to_string() }),
                },
                Some(_) => {
                    self.counts.send_modify(|counts| counts.denied += 1);
                    json(StatusCode::FORBIDDEN, &ErrorBody { error: &AccessDenied::InvalidOrigin.to_string() })
                }
                None => empty(StatusCode::BAD_REQUEST),
            }
        };
        let headers = response.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("content-type"));
        response
    }

    fn open_session(&self, token: &str) -> Result<Session, AccessDenied> {
        let session = match self.key.verify(token) {
            None => Err(AccessDenied::Signature),
            Some(claims) if claims.exp <= now() => Err(AccessDenied::Expired),
            Some(Claims { sub, email, name, .. }) => {
                let user_id = (sub != email).then_some(sub);
                Ok(Session { user_id, email, name, expires_in: SESSION_LIFE.as_secs() })
            }
        };
        self.counts.send_modify(|counts| match session {
            Ok(_) => counts.sessions += 1,
            Err(_) => counts.denied += 1,
        });
        session
    }
}

/// Counts a request for a token, and whether it was cancelled: then its future is dropped before it is done.
struct InFlight<'a> {
    counts: &'a watch::Sender<Counts>,
    done: bool,
}

impl<'a> InFlight<'a> {
    fn enter(counts: &'a watch::Sender<Counts>) -> Self {
        counts.send_modify(|counts| {
            counts.requests += 1;
            counts.in_flight += 1;
        });
        Self { counts, done: false }
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.counts.send_modify(|counts| {
            counts.in_flight -= 1;
            counts.cancelled += usize::from(!self.done);
        });
    }
}

fn claims(api: Api, user: &User, life: Duration) -> Claims {
    let iat = now();
    Claims {
        sub: match api {
            Api::Impersonation => user.id().as_str().to_owned(),
            Api::EmailOnly => user.email().to_owned(),
        },
        email: user.email().to_owned(),
        name: user.name().map(str::to_owned),
        iat,
        exp: iat + life.as_secs(),
        jti: format!("{:016x}", random()),
    }
}

/// Returns whether a page of this origin may embed. Released requires HTTPS and a trusted domain. The fake trusts every
/// domain, and this machine also without HTTPS.
fn may_embed(origin: Option<&HeaderValue>) -> bool {
    let Some(origin) = origin else { return true };
    let origin = origin.to_str().ok().and_then(|origin| Url::parse(origin).ok());
    origin.is_some_and(|origin| match (origin.scheme(), origin.host()) {
        ("https", Some(_)) => true,
        ("http", Some(Host::Domain(name))) => name == "localhost",
        ("http", Some(Host::Ipv4(address))) => address.is_loopback(),
        ("http", Some(Host::Ipv6(address))) => address.is_loopback(),
        _ => false,
    })
}

async fn read(body: Incoming) -> Option<Bytes> {
    let body = Limited::new(body, MAX_BODY_BYTES).collect().await.ok()?;
    Some(body.to_bytes())
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    error: &'a str,
}

fn embed_script() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(include_str!("embed.js")));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/javascript; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    response
}

fn json(status: StatusCode, body: &impl Serialize) -> Response<Full<Bytes>> {
    let body = serde_json::to_vec(body).expect("strings and numbers can be written");
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn empty(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn random_secret() -> String {
    format!("fake-secret-{:016x}", random())
}

/// Returns a number that is random enough for a fake: the standard library seeds its hash maps from the system.
fn random() -> u64 {
    RandomState::new().hash_one(())
}
