//! The requests to the token API, and the meaning of its answers.

use http::{HeaderMap, StatusCode};
use serde::Serialize;

use super::attempts::Failure;
use super::retry_after::retry_after;
use crate::error::{MintError, MintErrorKind};
use crate::token::AuthToken;
use crate::user::User;

/// Selects one of Released's two token APIs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TokenApi {
    /// The current API, "impersonation". It gets the user's id, e-mail address, name and picture.
    #[default]
    Impersonation,
    /// The older API. It gets only the e-mail address.
    ///
    /// Released withdrew it from its guide in February 2026, so it may stop at any time. The shape of its answer is known
    /// only from old demos. The address is still an authorisation key; see [who may be vouched
    /// for](crate::docs::vouching).
    EmailOnly,
}

impl TokenApi {
    /// Returns the URL that Released documents for this API.
    pub(crate) fn documented_url(self) -> &'static str {
        match self {
            Self::Impersonation => "https://accounts.releasedhub.com/auth/api/impersonation/token",
            Self::EmailOnly => "https://accounts.releasedhub.com/auth/api/token",
        }
    }

    /// Returns the body of a request for a token.
    pub(crate) fn body(self, account_id: &str, user: &User) -> Vec<u8> {
        let body = match self {
            Self::Impersonation => TokenRequest {
                account_id,
                user_id: Some(user.id().as_str()),
                user_email: user.email(),
                profile: Profile::of(user),
            },
            Self::EmailOnly => TokenRequest {
                account_id,
                user_id: None,
                user_email: user.email(),
                profile: None,
            },
        };
        // Longer than most. Strings and options of them can always be written.
        let mut json = Vec::with_capacity(512);
        let _ = serde_json::to_writer(&mut json, &body);
        json
    }
}

#[derive(Serialize)]
struct TokenRequest<'a> {
    account_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<&'a str>,
    user_email: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<Profile<'a>>,
}

#[derive(Serialize)]
struct Profile<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    avatar_url: Option<&'a str>,
}

impl<'a> Profile<'a> {
    fn of(user: &'a User) -> Option<Self> {
        let profile = Self {
            name: user.name(),
            avatar_url: user.avatar_url(),
        };
        (profile.name.is_some() || profile.avatar_url.is_some()).then_some(profile)
    }
}

/// Parses a successful answer: a bare JSON string, the token.
pub(crate) fn parse_reply(body: &[u8]) -> Result<AuthToken, MintError> {
    // Borrowed, unless the string has escapes, which a token does not need.
    if let Ok(token) = serde_json::from_slice::<&str>(body) {
        return AuthToken::new(token);
    }
    // Without the parser's error, which may quote the body.
    let token: String = serde_json::from_slice(body)
        .map_err(|_| MintError::new(MintErrorKind::MalformedResponse))?;
    AuthToken::new(token)
}

/// Turns a status other than success into a failure.
///
/// Released documents only 401, for a wrong secret. The others have HTTP's meaning, and 403 is probably the secret, too.
pub(crate) fn refusal(status: StatusCode, headers: &HeaderMap) -> Failure {
    let kind = match status.as_u16() {
        401 | 403 => MintErrorKind::Unauthorized,
        408 => MintErrorKind::Timeout,
        429 => MintErrorKind::RateLimited,
        425 | 500..=599 => MintErrorKind::Unavailable,
        400..=499 => MintErrorKind::Rejected,
        // A redirect is not followed: it would send the secret and the e-mail address elsewhere.
        _ => MintErrorKind::MalformedResponse,
    };
    let mut error = MintError::new(kind).with_status(status);
    if let (429 | 503, Some(delay)) = (status.as_u16(), retry_after(headers)) {
        error = error.with_retry_after(delay);
    }
    let is_transient = matches!(status.as_u16(), 408 | 425 | 429 | 500 | 502 | 503 | 504);
    Failure {
        error,
        is_transient,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(api: TokenApi, user: &User) -> serde_json::Value {
        serde_json::from_slice(&api.body("acc", user)).expect("JSON")
    }

    #[test]
    fn each_api_is_sent_what_it_documents_and_no_more() {
        let plain = User::new("u1", "ada@example.com").expect("valid");
        let full = plain
            .clone()
            .with_name("Ada \"<b>\"")
            .with_avatar_url("https://example.com/a.png");

        assert_eq!(
            body(TokenApi::Impersonation, &plain),
            serde_json::json!({"account_id": "acc", "user_id": "u1", "user_email": "ada@example.com"}),
        );
        assert_eq!(
            body(TokenApi::Impersonation, &full),
            serde_json::json!({
                "account_id": "acc", "user_id": "u1", "user_email": "ada@example.com",
                "profile": {"name": "Ada \"<b>\"", "avatar_url": "https://example.com/a.png"},
            }),
        );
        assert_eq!(
            body(TokenApi::EmailOnly, &full),
            serde_json::json!({"account_id": "acc", "user_email": "ada@example.com"}),
        );
    }

    #[test]
    fn a_blank_name_and_a_blank_avatar_url_are_not_sent() {
        let plain = User::new("u1", "ada@example.com").expect("valid");
        let blank = plain.clone().with_name("").with_avatar_url(" ");
        assert_eq!(
            body(TokenApi::Impersonation, &blank),
            body(TokenApi::Impersonation, &plain)
        );
    }

    #[test]
    fn only_a_bare_json_string_with_a_token_is_a_reply() {
        for good in [
            &br#""a.b.c""#[..],
            b" \"a.b.c\"\n",
            br#""a\/b""#,
            br#""\u0061""#,
        ] {
            assert!(parse_reply(good).is_ok(), "{}", good.escape_ascii());
        }
        for bad in [
            &b""[..],
            b"a.b.c",
            br#""""#,
            b"null",
            b"42",
            br#"["a.b.c"]"#,
            br#"{"token":"a.b.c"}"#,
            br#""a.b.c"x"#,
            br#""a.b.c" "d""#,
            b"\xef\xbb\xbf\"a.b.c\"",
            b"\"a\xff\"",
            br#""\"><script>""#,
            br#""a\r\nb""#,
            b"<!doctype html>",
        ] {
            let error = parse_reply(bad).expect_err("malformed");
            assert_eq!(
                error.kind(),
                MintErrorKind::MalformedResponse,
                "{}",
                bad.escape_ascii()
            );
        }
    }

    #[test]
    fn every_status_has_its_kind_and_may_pass_or_not() {
        for (status, kind, is_transient) in [
            (301, MintErrorKind::MalformedResponse, false),
            (307, MintErrorKind::MalformedResponse, false),
            (400, MintErrorKind::Rejected, false),
            (401, MintErrorKind::Unauthorized, false),
            (403, MintErrorKind::Unauthorized, false),
            (404, MintErrorKind::Rejected, false),
            (408, MintErrorKind::Timeout, true),
            (422, MintErrorKind::Rejected, false),
            (425, MintErrorKind::Unavailable, true),
            (429, MintErrorKind::RateLimited, true),
            (500, MintErrorKind::Unavailable, true),
            (501, MintErrorKind::Unavailable, false),
            (502, MintErrorKind::Unavailable, true),
            (503, MintErrorKind::Unavailable, true),
            (504, MintErrorKind::Unavailable, true),
            (505, MintErrorKind::Unavailable, false),
            (999, MintErrorKind::MalformedResponse, false),
        ] {
            let failure = refusal(
                StatusCode::from_u16(status).expect("a status"),
                &HeaderMap::new(),
            );
            assert_eq!(
                (failure.error.kind(), failure.is_transient),
                (kind, is_transient),
                "{status}"
            );
        }
        let text = refusal(StatusCode::UNAUTHORIZED, &HeaderMap::new())
            .error
            .to_string();
        assert!(
            text.starts_with("Released refused the shared secret (401):"),
            "{text}"
        );
        let text = refusal(StatusCode::FORBIDDEN, &HeaderMap::new())
            .error
            .to_string();
        assert!(
            text.starts_with("Released refused the mint (403): probably the shared secret"),
            "{text}"
        );
    }

    #[test]
    fn retry_after_is_heeded_where_it_makes_sense() {
        let headers = HeaderMap::from_iter([(
            http::header::RETRY_AFTER,
            http::HeaderValue::from_static("7"),
        )]);
        for (status, heeded) in [
            (429, true),
            (503, true),
            (500, false),
            (400, false),
            (301, false),
        ] {
            let failure = refusal(StatusCode::from_u16(status).expect("a status"), &headers);
            assert_eq!(failure.error.retry_after().is_some(), heeded, "{status}");
        }
    }
}
