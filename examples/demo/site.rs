//! The site: who is signed in, which layer stands where, and the routes.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::{Form, Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, COOKIE, SET_COOKIE};
use axum::http::request::Parts;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use serde::Deserialize;
use tower_released::embed::csp::{self, CspLayer};
use tower_released::embed::token_script;
use tower_released::testing::{FakeReleased, Reply};
use tower_released::{
    BoxError, MintTiming, ReleasedClient, ReleasedTokenLayer, User, from_extension, token_endpoint,
};
use tracing::info;

use crate::{facts, pages};

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
    let vouch = |user: &CurrentUser| {
        User::new(user.id, user.email).map(|vouched| {
            vouched
                .with_name(user.name)
                .with_avatar_url(user.avatar_url)
        })
    };
    let layer = ReleasedTokenLayer::new(client.clone(), from_extension(vouch));

    // A policy that allows nothing, into which what an embed needs is merged where there is a token.
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
        .layer(CspLayer::new(sources.clone()));
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

    Ok(Router::new()
        .merge(pages)
        .merge(strict)
        .merge(strict_static)
        .merge(api)
        // These have no token in them, and so no layer around them.
        .route("/static", get(pages::cacheable))
        .route("/swap", get(pages::swap))
        .route("/about", get(pages::about))
        .route("/sign-in", post(sign_in))
        .route("/fault", post(fault))
        .route("/released-token.js", get(token_script))
        .route(
            "/demo.css",
            get(async || asset("text/css", include_str!("assets/demo.css"))),
        )
        .route(
            "/demo.js",
            get(async || asset("text/javascript", include_str!("assets/demo.js"))),
        )
        .route(
            "/htmx.js",
            get(async || asset("text/javascript", include_str!("assets/htmx.min.js"))),
        )
        .route(
            "/facts.js",
            get(async || asset("text/javascript", include_str!("assets/facts.js"))),
        )
        // Outermost, so that the resolver finds who is signed in.
        .layer(from_fn(authenticate))
        .with_state(portal.clone())
        .merge(facts::routes(client, portal)?))
}

/// Who may sign in. A real site has a session store and passwords here.
#[derive(Clone, Copy)]
pub(crate) struct CurrentUser {
    pub(crate) id: &'static str,
    pub(crate) email: &'static str,
    pub(crate) name: &'static str,
    pub(crate) avatar_url: &'static str,
}

pub(crate) const USERS: &[CurrentUser] = &[
    CurrentUser {
        id: "ada",
        email: "ada@example.com",
        name: "Ada Lovelace",
        avatar_url: "https://example.com/avatars/ada.png",
    },
    CurrentUser {
        id: "grace",
        email: "grace@example.com",
        name: "Grace Hopper",
        avatar_url: "https://example.com/avatars/grace.png",
    },
    CurrentUser {
        id: "mallory",
        email: "mallory@example.com",
        name: "\"><script>Mallory</script>",
        avatar_url: "https://example.com/avatars/mallory.png",
    },
];

/// Leaves the signed-in user in the request's extensions, as authentication layers do.
async fn authenticate(mut request: Request, next: Next) -> Response {
    let cookies = request
        .headers()
        .get_all(COOKIE)
        .iter()
        .filter_map(|cookies| cookies.to_str().ok());
    let id = cookies
        .flat_map(|cookies| cookies.split("; "))
        .find_map(|cookie| cookie.strip_prefix("demo-user="));
    // Ada is signed in at first, so that there is something to see.
    let id = id.unwrap_or("ada");
    if let Some(user) = USERS.iter().find(|user| user.id == id).copied() {
        request.extensions_mut().insert(user);
    }
    next.run(request).await
}

#[derive(Deserialize)]
struct SignIn {
    user: String,
}

async fn sign_in(Form(SignIn { user }): Form<SignIn>) -> impl IntoResponse {
    let id = USERS
        .iter()
        .map(|user| user.id)
        .find(|id| *id == user)
        .unwrap_or("nobody");
    (
        [(
            SET_COOKIE,
            format!("demo-user={id}; Path=/; HttpOnly; SameSite=Lax"),
        )],
        Redirect::to("/"),
    )
}

#[derive(Deserialize)]
struct Fault {
    fault: String,
}

/// Makes the fake slow, takes it down, or lets it hand out tokens that nobody can use.
async fn fault(State(portal): State<Portal>, Form(Fault { fault }): Form<Fault>) -> Redirect {
    if let Some(fake) = &portal.fake {
        fake.recover();
        fake.set_token_life(Duration::from_secs(120));
        match fault.as_str() {
            "slow" => fake.set_latency(Duration::from_secs(2)),
            "down" => fake.reply_always(Reply::status(503)),
            "late" => fake.set_token_life(Duration::ZERO),
            _ => {}
        }
        info!("the fake of Released is {fault:?} now");
        if let Ok(mut current) = portal.fault.lock() {
            *current = fault;
        }
    }
    Redirect::to("/")
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

fn asset(kind: &'static str, content: &'static str) -> impl IntoResponse {
    (
        [
            (CONTENT_TYPE, format!("{kind}; charset=utf-8")),
            (CACHE_CONTROL, "no-cache".to_owned()),
        ],
        content,
    )
}

/// Whoever is signed in, for pages that greet them.
pub(crate) type SignedIn = Option<Extension<CurrentUser>>;
