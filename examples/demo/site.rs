//! The site: who is signed in, which layer stands where, and the routes.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{Form, Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum_login::tower_sessions::MemoryStore;
use serde::Deserialize;
use tower_released::embed::csp::{self, CspLayer};
use tower_released::embed::token_script;
use tower_released::testing::{FakeReleased, Reply};
use tower_released::{
    BoxError, InvalidUser, MintTiming, ReleasedClient, ReleasedTokenLayer, User, from_extension,
    token_endpoint,
};
use tracing::info;

use crate::users::AuthSession;
use crate::{facts, pages, status, users};

/// Which portal is shown, and the fake that shows it, if it is one.
#[derive(Clone)]
pub(crate) struct Portal {
    pub(crate) channel_id: String,
    pub(crate) fake: Option<Arc<FakeReleased>>,
    /// What was chosen to be wrong with it.
    pub(crate) fault: Arc<Mutex<String>>,
}

impl Portal {
    pub(crate) fn new(channel_id: impl Into<String>, fake: Option<Arc<FakeReleased>>) -> Self {
        Self {
            channel_id: channel_id.into(),
            fake,
            fault: Arc::new(Mutex::new("well".to_owned())),
        }
    }
}

pub(crate) fn site(client: ReleasedClient, portal: Portal) -> Result<Router, BoxError> {
    let layer = ReleasedTokenLayer::new(client.clone(), from_extension(vouch));

    // A policy that allows nothing, into which the layer merges what an embed needs.
    let mut sources = csp::strict();
    if let Some(fake) = &portal.fake {
        sources = sources.origin(&fake.origin())?;
    }
    // The hub, whose frame is to be allowed. The fake portal has no frame.
    let hub = std::env::var("RELEASED_HUB");
    sources = sources.hub(hub.as_deref().unwrap_or("acme.releasedhub.com"))?;
    let strict = Router::new()
        .route("/strict", get(pages::strict))
        .route_layer(layer.clone())
        .layer(from_fn(strictest_policy))
        .layer(CspLayer::new(sources.clone()).on_every_response());
    // No token is in this one, but its script fetches one.
    let strict_static = Router::new()
        .route("/static-strict", get(pages::cacheable_strict))
        .layer(from_fn(strictest_policy))
        .layer(CspLayer::new(sources.token_script()).on_every_response());

    let pages = Router::new()
        .route("/", get(pages::roadmap))
        .route("/widget", get(pages::widget))
        .route("/swap/portal", get(pages::portal_fragment))
        .route_layer(layer.clone());

    // What the endpoint refuses is not minted for.
    let api = Router::new()
        .route("/api/released-token", post(api_token))
        .route_layer(layer.timing(MintTiming::OnExtraction));

    let personal = Router::new()
        .merge(pages)
        .merge(strict)
        .merge(api)
        .route("/swap", get(pages::swap))
        .route("/about", get(pages::about))
        .merge(status::routes(client.clone(), portal.clone())?)
        .layer(from_fn(users::welcome));

    Ok(Router::new()
        .merge(personal)
        // These are the same for everybody.
        .merge(strict_static)
        .route("/static", get(pages::cacheable))
        .route("/sign-in", post(users::sign_in))
        .route("/fault", post(fault))
        .route("/released-token.js", get(token_script))
        .route(
            "/demo.css",
            get(async || css(include_str!("assets/demo.css"))),
        )
        .route("/demo.js", get(async || js(include_str!("assets/demo.js"))))
        .route(
            "/htmx.js",
            get(async || js(include_str!("assets/htmx.min.js"))),
        )
        .route(
            "/facts.js",
            get(async || js(include_str!("assets/facts.js"))),
        )
        // Outermost, so that the resolver finds who is signed in.
        .layer(users::layer(MemoryStore::default()))
        .with_state(portal.clone())
        .merge(facts::routes(client, portal)?))
}

/// The user that axum-login found, if somebody is signed in.
fn vouch(auth: &AuthSession) -> Option<Result<User, InvalidUser>> {
    let account = auth.user.as_ref()?;
    let user = User::new(account.id, account.email);
    Some(user.map(|user| {
        user.with_name(account.name)
            .with_avatar_url(account.avatar_url)
    }))
}

#[derive(Deserialize)]
struct Fault {
    fault: String,
    page: String,
}

/// Makes the fake slow, takes it down, lets it refuse the secret, or lets it hand out tokens that nobody can use.
async fn fault(State(portal): State<Portal>, Form(Fault { fault, page }): Form<Fault>) -> Redirect {
    if let Some(fake) = &portal.fake {
        fake.recover();
        fake.set_token_life(Duration::from_secs(120));
        match fault.as_str() {
            "slow" => fake.set_latency(Duration::from_secs(2)),
            "down" => fake.reply_always(Reply::status(503)),
            "refusing" => fake.reply_always(Reply::status(401)),
            "late" => fake.set_token_life(Duration::ZERO),
            _ => {}
        }
        info!("the fake of Released is {fault:?} now");
        if let Ok(mut current) = portal.fault.lock() {
            *current = fault;
        }
    }
    Redirect::to(pages::path_of(&page))
}

/// The endpoint, and a line in the log.
async fn api_token(parts: Parts) -> Response {
    let response = token_endpoint(parts).await;
    info!("the token endpoint answered {}", response.status().as_u16());
    response
}

/// The nonce of a response's policy.
#[derive(Clone)]
pub(crate) struct Nonce(pub(crate) String);

/// Allows the site's own files, and scripts with the response's nonce.
async fn strictest_policy(mut request: Request, next: Next) -> Response {
    // A real site takes the nonce from a cryptographic source of randomness.
    let nonce = format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'self'; img-src data:; connect-src 'self'; \
         base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    );
    request.extensions_mut().insert(Nonce(nonce));
    let response = next.run(request).await;
    ([("content-security-policy", policy)], response).into_response()
}

fn css(content: &'static str) -> impl IntoResponse {
    asset("text/css; charset=utf-8", content)
}

fn js(content: &'static str) -> impl IntoResponse {
    asset("text/javascript; charset=utf-8", content)
}

fn asset(kind: &'static str, content: &'static str) -> impl IntoResponse {
    ([(CONTENT_TYPE, kind), (CACHE_CONTROL, "no-cache")], content)
}
