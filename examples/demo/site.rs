//! The site: who is signed in, and the pages.

use std::fmt;

use axum::extract::{Form, Request, State};
use axum::http::header::{COOKIE, SET_COOKIE};
use axum::http::request::Parts;
use axum::middleware::{Next, from_fn};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use serde::Deserialize;
use tower_released::testing::FakeReleased;
use tower_released::{
    AuthToken, AuthTokenRejection, MintTiming, ReleasedClient, ReleasedTokenLayer, User, from_extension, token_endpoint,
};
use tracing::info;

/// Where the embeds come from, and which portal they show.
#[derive(Clone)]
pub(crate) struct Portal {
    script_url: String,
    channel_id: String,
    is_fake: bool,
}

impl Portal {
    pub(crate) fn of_released(channel_id: String) -> Self {
        Self { script_url: "https://embed.released.so/1/embed.js".to_owned(), channel_id, is_fake: false }
    }

    pub(crate) fn of_fake(fake: &FakeReleased) -> Self {
        Self { script_url: fake.embed_script_url(), channel_id: "demo-channel".to_owned(), is_fake: true }
    }
}

pub(crate) fn site(released: ReleasedClient, portal: Portal) -> Router {
    let user_of = |user: &CurrentUser| {
        User::new(user.id, user.email)
            .map(|vouched_for| vouched_for.with_name(user.name).with_avatar_url(user.avatar_url))
    };
    let layer = ReleasedTokenLayer::new(released, from_extension(user_of));
    let pages = Router::new().route("/", get(roadmap)).route_layer(layer.clone());
    // What the endpoint refuses is not minted for.
    let api =
        Router::new().route("/api/released-token", post(api_token)).route_layer(layer.timing(MintTiming::OnExtraction));

    Router::new()
        .route("/about", get(about))
        .route("/sign-in", post(sign_in))
        .merge(pages)
        .merge(api)
        // Outermost, so that the resolver finds who is signed in.
        .layer(from_fn(authenticate))
        .with_state(portal)
}

/// The page with the portal. It works without a token, too: an outage of Released costs the portal, not the page.
async fn roadmap(
    State(portal): State<Portal>,
    user: Option<Extension<CurrentUser>>,
    token: Result<AuthToken, AuthTokenRejection>,
) -> Html<String> {
    let (attribute, note) = match &token {
        Ok(token) => {
            let seconds = token.remaining().as_secs();
            info!("minted a token for this page; the embed has {seconds} s to use it");
            (
                format!(r#" auth-token="{token}""#),
                format!("A token was minted for this page. The embed had {seconds} s to use it."),
            )
        }
        Err(AuthTokenRejection::Anonymous) => {
            (String::new(), "Nobody is signed in, so nothing was minted. Choose somebody above.".to_owned())
        }
        Err(rejection) => {
            info!("this page goes without a token: {rejection}");
            (String::new(), "There is no token right now, and the page works all the same.".to_owned())
        }
    };
    let channel_id = Escaped(&portal.channel_id);
    let body = format!(
        r#"<p class="lead">What we are building next, for customers only.</p>
<released-page channel-id="{channel_id}"{attribute}></released-page>
<p class="note">{note}</p>
{endpoint}"#,
        endpoint = include_str!("endpoint.html"),
    );
    page(&portal, user.as_deref(), "Roadmap", &body)
}

/// The endpoint, and a line in the log.
async fn api_token(parts: Parts) -> Response {
    let response = token_endpoint(parts).await;
    info!("the token endpoint answered {}", response.status().as_u16());
    response
}

/// A page without an embed. It is outside of the layer, so nothing is minted for it.
async fn about(State(portal): State<Portal>, user: Option<Extension<CurrentUser>>) -> Html<String> {
    let source = if portal.is_fake {
        "a fake of Released that runs in this process; its embed only shows whom it verified"
    } else {
        "Released itself"
    };
    let body = format!(
        r#"<p class="lead">This page has no embed.</p>
<p>Its route stands outside of the <code>ReleasedTokenLayer</code>, so no token was minted for it.</p>
<p>Tokens come from {source}.</p>"#
    );
    page(&portal, user.as_deref(), "About", &body)
}

fn page(portal: &Portal, user: Option<&CurrentUser>, title: &str, body: &str) -> Html<String> {
    let choices: String = USERS
        .iter()
        .map(|choice| (choice.id, choice.name))
        .chain([("nobody", "Nobody")])
        .map(|(id, name)| {
            let pressed = user.map_or("nobody", |user| user.id) == id;
            format!(r#"<button name="user" value="{id}" aria-pressed="{pressed}">{name}</button>"#)
        })
        .collect();
    Html(
        include_str!("page.html")
            .replace("{title}", title)
            .replace("{script_url}", &Escaped(&portal.script_url).to_string())
            .replace("{choices}", &choices)
            .replace("{body}", body),
    )
}

/// Who may sign in. A real site has a session store and passwords here.
#[derive(Clone, Copy)]
struct CurrentUser {
    id: &'static str,
    email: &'static str,
    name: &'static str,
    avatar_url: &'static str,
}

const USERS: &[CurrentUser] = &[
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
];

/// Leaves the signed-in user in the request's extensions, as authentication layers do.
async fn authenticate(mut request: Request, next: Next) -> Response {
    let cookies = request.headers().get_all(COOKIE).iter().filter_map(|cookies| cookies.to_str().ok());
    let id = cookies.flat_map(|cookies| cookies.split("; ")).find_map(|cookie| cookie.strip_prefix("demo-user="));
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
    let id = USERS.iter().map(|user| user.id).find(|id| *id == user).unwrap_or("nobody");
    ([(SET_COOKIE, format!("demo-user={id}; Path=/; HttpOnly; SameSite=Lax"))], Redirect::to("/"))
}

/// Text for an HTML attribute.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|character| match character {
            '&' => f.write_str("&amp;"),
            '<' => f.write_str("&lt;"),
            '"' => f.write_str("&quot;"),
            other => write!(f, "{other}"),
        })
    }
}
