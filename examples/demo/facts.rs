//! A page that finds out, in the browser, what Released does where its documentation says nothing: `/facts`.
//!
//! It works with whatever the demo mints at. With an account, open it in a private window, and set
//! `RELEASED_FACTS_EMAILS` to two addresses that may see the portal, with a comma in between.

use std::env;

use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_LENGTH};
use axum::http::{Request, Response, StatusCode};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use http_body_util::{BodyExt, Full};
use maud::Markup;
use serde::Deserialize;
use serde_json::{Value, json};
use tower::service_fn;
use tower_released::client::ReleasedClientBuilder;
use tower_released::{BoxError, InvalidUser, MintErrorKind, ReleasedClient, User, UserId};

use crate::pages;
use crate::site::Portal;
use crate::users::ACCOUNTS;

#[derive(Clone)]
struct Facts {
    portal: Portal,
    released: ReleasedClient,
    /// Sends a blank name, which this crate's clients never do.
    nameless: ReleasedClient,
    first: User,
    second: User,
}

pub(crate) fn routes(released: ReleasedClient, portal: Portal) -> Result<Router, BoxError> {
    let emails = env::var("RELEASED_FACTS_EMAILS")
        .unwrap_or_else(|_| format!("{},{}", ACCOUNTS[0].email, ACCOUNTS[1].email));
    let (first, second) = emails
        .split_once(',')
        .ok_or("RELEASED_FACTS_EMAILS must be two addresses with a comma in between")?;
    let facts = Facts {
        nameless: nameless(&portal)?,
        first: person(first.trim(), "First Person")?,
        second: person(second.trim(), "Second Person")?,
        portal,
        released,
    };
    Ok(Router::new()
        .route("/facts", get(page))
        .route("/facts/token", post(token))
        .with_state(facts))
}

/// The report names the two persons, so a stranger's name is made up.
fn person(email: &str, stranger: &str) -> Result<User, InvalidUser> {
    let known = ACCOUNTS.iter().find(|user| user.email == email);
    let name = known.map_or(stranger, |user| user.name);
    Ok(User::new(UserId::encode(email), email)?.with_name(name))
}

/// A client whose requests get a blank name on their way.
fn nameless(portal: &Portal) -> Result<ReleasedClient, BoxError> {
    let builder = match &portal.fake {
        Some(fake) => fake.client_builder(),
        None => ReleasedClientBuilder::from_env()?,
    };
    // A redirect would carry the person's address elsewhere.
    let http = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .build()?;
    let service = service_fn(move |request: Request<Full<Bytes>>| {
        let http = http.clone();
        async move {
            let (mut head, body) = request.into_parts();
            let mut body: Value = serde_json::from_slice(&body.collect().await?.to_bytes())?;
            body["profile"]["name"] = "".into();
            head.headers.remove(CONTENT_LENGTH);
            let request = Request::from_parts(head, serde_json::to_vec(&body)?);
            let reply = http.execute(request.try_into()?).await?;
            Ok::<_, BoxError>(Response::<reqwest::Body>::from(reply))
        }
    });
    Ok(builder.http_service(service).build()?)
}

async fn page(State(facts): State<Facts>) -> Markup {
    pages::facts(&facts.portal, &facts.first, &facts.second)
}

#[derive(Deserialize)]
struct Wanted {
    person: String,
}

/// Mints for the person that an experiment names.
async fn token(State(facts): State<Facts>, Query(wanted): Query<Wanted>) -> impl IntoResponse {
    let (client, user) = match wanted.person.as_str() {
        "second" => (&facts.released, &facts.second),
        "blank" => (&facts.nameless, &facts.first),
        _ => (&facts.released, &facts.first),
    };
    let (status, answer) = match client.mint(user).await {
        Ok(token) => (StatusCode::OK, json!({ "token": token })),
        Err(error) => {
            let status = match error.kind() {
                MintErrorKind::Rejected => StatusCode::BAD_REQUEST,
                _ => StatusCode::BAD_GATEWAY,
            };
            (status, json!({ "error": error.to_string() }))
        }
    };
    (status, [(CACHE_CONTROL, "no-store")], Json(answer))
}
