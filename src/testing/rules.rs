//! The rules for a request for a token that Released documents, checked on the bytes that arrived.

use std::sync::{Arc, Mutex};

use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;

use super::lock;
use crate::user::{InvalidUser, User};

/// Which of the two APIs was called.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Api {
    Impersonation,
    EmailOnly,
}

/// An account whose requests are accepted.
pub(crate) struct Account {
    pub(crate) id: String,
    /// It can be rotated.
    pub(crate) secret: Mutex<String>,
    /// For whom it has minted, in order.
    pub(crate) users: Mutex<Vec<User>>,
}

/// Says why a request is refused. Released documents only 401 for a wrong secret, so the other statuses and all texts are
/// the fake's own.
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) reason: &'static str,
}

#[derive(Deserialize)]
struct Body {
    account_id: Option<String>,
    user_id: Option<String>,
    user_email: Option<String>,
    profile: Option<Profile>,
}

#[derive(Deserialize)]
struct Profile {
    name: Option<String>,
    avatar_url: Option<String>,
}

impl Account {
    pub(crate) fn new(id: String, secret: String) -> Self {
        Self {
            id,
            secret: Mutex::new(secret),
            users: Mutex::default(),
        }
    }

    fn has_secret(&self, headers: &HeaderMap) -> bool {
        let bearer = headers.get(AUTHORIZATION).map(http::HeaderValue::as_bytes);
        bearer == Some(format!("Bearer {}", lock(&self.secret)).as_bytes())
    }
}

/// Returns the account of a request, and the user that it vouches for.
pub(crate) fn check<'a>(
    accounts: &'a [Arc<Account>],
    api: Api,
    headers: &HeaderMap,
    body: &[u8],
    accepts_blank_name: bool,
) -> Result<(&'a Account, User), Refusal> {
    let wrong_secret = Refusal {
        status: StatusCode::UNAUTHORIZED,
        reason: "the shared secret is wrong",
    };
    if !accounts.iter().any(|account| account.has_secret(headers)) {
        return Err(wrong_secret);
    }
    let is_json = headers.get(CONTENT_TYPE).is_some_and(|value| {
        value
            .to_str()
            .is_ok_and(|value| value.split(';').next() == Some("application/json"))
    });
    if !is_json {
        return Err(Refusal {
            status: StatusCode::UNSUPPORTED_MEDIA_TYPE,
            reason: "not application/json",
        });
    }
    let body: Body =
        serde_json::from_slice(body).map_err(|_| bad_request("not the JSON that is documented"))?;
    let account_id = body
        .account_id
        .ok_or(bad_request("account_id is missing"))?;
    let account = accounts
        .iter()
        .find(|account| account.id == account_id)
        .ok_or(Refusal {
            status: StatusCode::NOT_FOUND,
            reason: "there is no such account",
        })?;
    if !account.has_secret(headers) {
        return Err(wrong_secret);
    }
    let email = body
        .user_email
        .ok_or(bad_request("user_email is missing"))?;
    let id = match api {
        Api::Impersonation => body.user_id.ok_or(bad_request("user_id is missing"))?,
        // This API has no ids, and neither have its sessions.
        Api::EmailOnly => "email-only".to_owned(),
    };
    let mut user = User::new(id, email).map_err(reason)?;
    if let (Some(profile), Api::Impersonation) = (body.profile, api) {
        if let Some(name) = profile.name {
            if !accepts_blank_name && name.trim().is_empty() {
                return Err(bad_request("profile.name is blank"));
            }
            user = user.try_with_name(name).map_err(reason)?;
        }
        if let Some(url) = profile.avatar_url {
            user = user.try_with_avatar_url(url).map_err(reason)?;
        }
    }
    Ok((account, user))
}

fn bad_request(reason: &'static str) -> Refusal {
    Refusal {
        status: StatusCode::BAD_REQUEST,
        reason,
    }
}

fn reason(invalid: InvalidUser) -> Refusal {
    bad_request(match invalid {
        InvalidUser::EmptyId | InvalidUser::IdTooLong | InvalidUser::IdCharacter => {
            "user_id does not match ^[a-zA-Z0-9:_-]{1,255}$"
        }
        InvalidUser::Email => "user_email is not an e-mail address",
        InvalidUser::NameTooLong => "profile.name has more than 200 characters",
        InvalidUser::AvatarUrl => "profile.avatar_url is not a valid URL",
    })
}
