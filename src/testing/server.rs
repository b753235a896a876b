//! The fake's server.

use std::collections::{HashMap, HashSet, VecDeque};
use std::convert::Infallible;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_ORIGIN, ALLOW, CACHE_CONTROL, CONTENT_TYPE,
    HOST, ORIGIN,
};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use url::{Host, Url};

use super::fake::{AccessDenied, Counts, Session};
use super::jwt::{Claims, Key};
use super::lock;
use super::reply::Reply;
use super::rules::{Account, Api, Refusal, check};
use super::unknowns::Unknowns;
use crate::user::User;

/// The life of a token that Released documents.
const TOKEN_LIFE: Duration = Duration::from_secs(2 * 60);

/// The life of an embed's session that Released documents.
const SESSION_LIFE: Duration = Duration::from_secs(3 * 24 * 60 * 60);

/// The longest body that is accepted, in bytes.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// The id of the account, unless the builder has another one.
pub(crate) const DEFAULT_ACCOUNT: &str = "acc_fake";

pub(crate) const IMPERSONATION_PATH: &str = "/auth/api/impersonation/token";
pub(crate) const EMAIL_ONLY_PATH: &str = "/auth/api/token";
pub(crate) const EMBED_PATH: &str = "/1/embed.js";
const SESSION_PATH: &str = "/session";

/// The state that the server and its handles share.
pub(crate) struct Shared {
    accounts: Mutex<Vec<Arc<Account>>>,
    pub(crate) key: Key,
    pub(crate) behaviour: Mutex<Behaviour>,
    /// For each token that was exchanged, by its number: the kinds of elements that did.
    used: Mutex<HashMap<String, HashSet<String>>>,
    pub(crate) counts: watch::Sender<Counts>,
}

/// Sets how the server answers.
pub(crate) struct Behaviour {
    pub(crate) latency: Duration,
    pub(crate) token_life: Duration,
    pub(crate) next: VecDeque<Reply>,
    pub(crate) always: Option<Reply>,
    pub(crate) unknowns: Unknowns,
}

/// Serves until it is aborted. That also closes its connections.
pub(crate) async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        shared.counts.send_modify(|counts| counts.connections += 1);
        // Answers are small, and tests measure latency.
        let _ = stream.set_nodelay(true);
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let service = service_fn(move |request| answer(Arc::clone(&shared), request));
            // The caller sees its error.
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
        // Drops closed connections.
        while connections.try_join_next().is_some() {}
    }
}

async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let api = match parts.uri.path() {
        IMPERSONATION_PATH => Api::Impersonation,
        EMAIL_ONLY_PATH => Api::EmailOnly,
        EMBED_PATH => {
            let unknowns = lock(&shared.behaviour).unknowns;
            return Ok(embed_script(unknowns, &parts.headers));
        }
        SESSION_PATH => return Ok(shared.session(&parts.method, &parts.headers, body).await),
        _ => return Ok(empty(StatusCode::NOT_FOUND)),
    };
    if parts.method != Method::POST {
        let mut response = empty(StatusCode::METHOD_NOT_ALLOWED);
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("POST"));
        return Ok(response);
    }
    Ok(shared.token(api, &parts.headers, body).await)
}

impl Shared {
    pub(crate) fn new(account: Arc<Account>) -> Self {
        Self {
            accounts: Mutex::new(vec![account]),
            key: Key::new(
                &[random(), random(), random(), random()]
                    .map(u64::to_be_bytes)
                    .concat(),
            ),
            behaviour: Mutex::new(Behaviour {
                latency: Duration::ZERO,
                token_life: TOKEN_LIFE,
                next: VecDeque::new(),
                always: None,
                unknowns: Unknowns::default(),
            }),
            used: Mutex::default(),
            counts: watch::Sender::default(),
        }
    }

    /// Adds an account, or gives this secret to the one with this id.
    pub(crate) fn add_account(&self, id: String, secret: String) -> Arc<Account> {
        let mut accounts = lock(&self.accounts);
        if let Some(account) = accounts.iter().find(|account| account.id == id) {
            *lock(&account.secret) = secret;
            return Arc::clone(account);
        }
        let account = Arc::new(Account::new(id, secret));
        accounts.push(Arc::clone(&account));
        account
    }

    /// Answers a request for a token.
    async fn token(&self, api: Api, headers: &HeaderMap, body: Incoming) -> Response<Full<Bytes>> {
        let mut in_flight = InFlight::enter(&self.counts);
        let response = self.token_or_refusal(api, headers, body).await;
        in_flight.done = true;
        response
    }

    async fn token_or_refusal(
        &self,
        api: Api,
        headers: &HeaderMap,
        body: Incoming,
    ) -> Response<Full<Bytes>> {
        let body = read(body).await;
        let (latency, token_life, unknowns, scripted) = {
            let mut behaviour = lock(&self.behaviour);
            let scripted = behaviour
                .next
                .pop_front()
                .or_else(|| behaviour.always.clone());
            (
                behaviour.latency,
                behaviour.token_life,
                behaviour.unknowns,
                scripted,
            )
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
        let accounts = lock(&self.accounts).clone();
        let checked = match body {
            Some(body) => check(&accounts, api, headers, &body, unknowns.accepts_blank_name),
            None => Err(Refusal {
                status: StatusCode::PAYLOAD_TOO_LARGE,
                reason: "the body is too long",
            }),
        };
        match checked {
            Ok((account, user)) => {
                let token = self.key.sign(&claims(api, account, &user, token_life));
                lock(&account.users).push(user);
                self.counts.send_modify(|counts| counts.minted += 1);
                json(StatusCode::OK, &token)
            }
            Err(Refusal { status, reason }) => {
                self.counts.send_modify(|counts| counts.refused += 1);
                json(status, &ErrorBody { error: reason })
            }
        }
    }

    /// Answers an embed that asks for a session. Pages have another origin, so the answer has CORS headers.
    async fn session(
        &self,
        method: &Method,
        headers: &HeaderMap,
        body: Incoming,
    ) -> Response<Full<Bytes>> {
        #[derive(Deserialize)]
        struct Exchange {
            token: String,
            /// The element that exchanges it.
            #[serde(default)]
            embed: String,
        }
        let mut response = if method == Method::OPTIONS {
            empty(StatusCode::NO_CONTENT)
        } else {
            let exchange = read(body)
                .await
                .and_then(|body| serde_json::from_slice(&body).ok());
            match exchange {
                Some(Exchange { token, embed }) if may_embed(headers.get(ORIGIN)) => {
                    // An element does not say of which account it is.
                    match self.open_session(&token, &embed, None) {
                        Ok(session) => json(StatusCode::OK, &session),
                        Err(denied) => json(
                            StatusCode::FORBIDDEN,
                            &ErrorBody {
                                error: &denied.to_string(),
                            },
                        ),
                    }
                }
                Some(_) => {
                    self.counts.send_modify(|counts| counts.denied += 1);
                    json(
                        StatusCode::FORBIDDEN,
                        &ErrorBody {
                            error: &AccessDenied::InvalidOrigin.to_string(),
                        },
                    )
                }
                None => empty(StatusCode::BAD_REQUEST),
            }
        };
        let headers = response.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        headers.insert(
            ACCESS_CONTROL_ALLOW_HEADERS,
            HeaderValue::from_static("content-type"),
        );
        response
    }

    /// Opens a session for the element of this kind. A test has none, and passes an empty text. If an account is given,
    /// a token of another one is denied.
    pub(crate) fn open_session(
        &self,
        token: &str,
        embed: &str,
        account: Option<&str>,
    ) -> Result<Session, AccessDenied> {
        let session = match self.key.verify(token) {
            None => Err(AccessDenied::Signature),
            Some(claims) if claims.exp <= now() => Err(AccessDenied::Expired),
            Some(claims) if account.is_some_and(|account| account != claims.iss) => {
                Err(AccessDenied::OtherAccount)
            }
            Some(claims) if !self.may_use(&claims.jti, embed) => Err(AccessDenied::Used),
            Some(Claims {
                sub, email, name, ..
            }) => {
                let user_id = (sub != email).then_some(sub);
                Ok(Session {
                    user_id,
                    email,
                    name,
                    expires_in: SESSION_LIFE.as_secs(),
                })
            }
        };
        self.counts.send_modify(|counts| match session {
            Ok(_) => counts.sessions += 1,
            Err(_) => counts.denied += 1,
        });
        session
    }

    /// Notes that an element uses a token. Returns whether it may.
    fn may_use(&self, token: &str, embed: &str) -> bool {
        let unknowns = lock(&self.behaviour).unknowns;
        let mut used = lock(&self.used);
        let before = used.entry(token.to_owned()).or_default();
        let is_again = before.contains(embed);
        let is_shared = before.iter().any(|other| other != embed);
        before.insert(embed.to_owned());
        (unknowns.reuses_token || !is_again) && (unknowns.shares_token || !is_shared)
    }
}

/// Counts a request for a token. If it is dropped before it is done, the request counts as cancelled.
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
        Self {
            counts,
            done: false,
        }
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

fn claims(api: Api, account: &Account, user: &User, life: Duration) -> Claims {
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
        iss: account.id.clone(),
    }
}

/// Released requires HTTPS and a trusted domain. The fake trusts every domain, and this machine without HTTPS.
fn may_embed(origin: Option<&HeaderValue>) -> bool {
    let Some(origin) = origin else { return true };
    let origin = origin
        .to_str()
        .ok()
        .and_then(|origin| Url::parse(origin).ok());
    origin.is_some_and(|origin| match (origin.scheme(), origin.host()) {
        ("https", Some(_)) => true,
        ("http", Some(Host::Domain(name))) => name == "localhost" || name.ends_with(".localhost"),
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

fn embed_script(unknowns: Unknowns, headers: &HeaderMap) -> Response<Full<Bytes>> {
    // Not by the script's own URL, from which an application may have redirected here.
    let host = headers.get(HOST).map(HeaderValue::as_bytes);
    let host = host.and_then(|host| Authority::try_from(host).ok());
    let server = host.map_or_else(String::new, |host| format!("http://{host}"));
    let choice = serde_json::to_string(&unknowns).expect("booleans can be written");
    let source = include_str!("embed.js")
        .replace("{/* unknowns */}", &choice)
        .replace("/* server */", &server);
    let mut response = Response::new(Full::from(source));
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/javascript; charset=utf-8"),
    );
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if unknowns.sends_cors_headers {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    }
    response
}

fn json(status: StatusCode, body: &impl Serialize) -> Response<Full<Bytes>> {
    let body = serde_json::to_vec(body).expect("strings and numbers can be written");
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn empty(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

pub(crate) fn random_secret() -> String {
    format!("fake-secret-{:016x}", random())
}

/// Returns a number that is random enough for a fake. The system seeds the standard library's hash maps.
fn random() -> u64 {
    RandomState::new().hash_one(())
}
