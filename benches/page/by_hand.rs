//! What a team would write by hand: thirty lines of `axum::middleware::from_fn`, and a `reqwest::Client` that is shared.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use serde::Serialize;

use crate::support::{ACCOUNT, ADA, CurrentUser, SECRET, Server};
use crate::{page, work};

#[derive(Clone)]
struct Minter {
    http: reqwest::Client,
    url: Arc<str>,
}

#[derive(Serialize)]
struct TokenRequest<'a> {
    account_id: &'a str,
    user_id: &'a str,
    user_email: &'a str,
    profile: Profile<'a>,
}

#[derive(Serialize)]
struct Profile<'a> {
    name: &'a str,
}

#[derive(Clone)]
struct Token(String);

impl Minter {
    async fn mint(&self, user: &CurrentUser) -> reqwest::Result<String> {
        let body = TokenRequest {
            account_id: ACCOUNT,
            user_id: user.id,
            user_email: user.email,
            profile: Profile { name: user.name },
        };
        let response = self.http.post(&*self.url).bearer_auth(SECRET).json(&body).send().await?;
        response.error_for_status()?.json().await
    }
}

async fn mint(
    State(minter): State<Minter>,
    Extension(user): Extension<CurrentUser>,
    mut request: Request,
    next: Next,
) -> Response {
    match minter.mint(&user).await {
        Ok(token) => {
            request.extensions_mut().insert(Token(token));
            next.run(request).await
        }
        Err(_) => http::StatusCode::BAD_GATEWAY.into_response(),
    }
}

pub(crate) fn app(api: &Server, takes: Duration) -> Router {
    let minter = Minter { http: reqwest::Client::new(), url: api.url().into() };
    let roadmap = async move |Extension(token): Extension<Token>| {
        work(takes).await;
        page(&token.0)
    };
    Router::new().route("/roadmap", get(roadmap)).route_layer(from_fn_with_state(minter, mint)).layer(Extension(ADA))
}
