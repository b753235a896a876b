//! The bodies of the endpoint's answers.

use serde::{Deserialize, Deserializer, Serialize, de};

use crate::rejection::AuthTokenRejection;
use crate::token::AuthToken;

/// The JSON of an answer with a token: `{"token": "eyJ…", "expires_in": 119}`.
///
/// # `OpenAPI`
///
/// Both fields are required: `token` is a string, `expires_in` an integer of seconds, at least 0. With utoipa, describe them
/// with a struct of your own:
///
/// ```text
/// #[derive(utoipa::ToSchema)]
/// struct TokenReply { token: String, expires_in: u64 }
///
/// #[utoipa::path(post, path = "/api/released-token", responses(
///     (status = 200, body = TokenReply), (status = 401, body = ErrorReply),
/// ))]
/// async fn released_token(parts: Parts) -> Response { token_endpoint(parts).await }
/// ```
///
/// # Example
///
/// ```
/// use tower_released::endpoint::TokenReply;
///
/// let json = r#"{"token": "e30.e30.c2ln", "expires_in": 119}"#;
/// let reply: TokenReply = serde_json::from_str(json)?;
/// assert_eq!(reply.token.as_str(), "e30.e30.c2ln");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TokenReply {
    /// The token. Reading a reply whose token has characters that [`AuthToken::new`] refuses fails.
    #[serde(deserialize_with = "token")]
    pub token: AuthToken,
    /// How long the embed can still use the token, in whole seconds, rounded down.
    pub expires_in: u64,
}

/// Takes the seconds from the token.
impl From<AuthToken> for TokenReply {
    fn from(token: AuthToken) -> Self {
        let expires_in = token.remaining().as_secs();
        Self { token, expires_in }
    }
}

fn token<'de, D: Deserializer<'de>>(deserializer: D) -> Result<AuthToken, D::Error> {
    let text = String::deserialize(deserializer)?;
    // The reason holds nothing of the token.
    AuthToken::new(text).map_err(|_| de::Error::custom("the auth token is malformed"))
}

/// The JSON of an answer without a token: `{"error": "Nobody is signed in."}`.
///
/// The answer's status says what happened; the text is for people, and may change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ErrorReply {
    /// What happened, as a sentence that says nothing of the configuration or of Released.
    pub error: String,
}

impl ErrorReply {
    pub(crate) fn new(text: &str) -> Self {
        Self {
            error: text.to_owned(),
        }
    }
}

/// Takes the rejection's text for clients.
impl From<&AuthTokenRejection> for ErrorReply {
    fn from(rejection: &AuthTokenRejection) -> Self {
        Self {
            error: rejection.body_text(),
        }
    }
}
