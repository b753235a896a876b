//! A signed JSON Web Token says who is signed in: `cargo run --bin jwt`.
//!
//! A gateway in front sends it with each request: as `Authorization: Bearer …`, or in a header of its own, such as
//! Cloudflare Access's `Cf-Access-Jwt-Assertion`. Unlike a plain header, a token can be checked by itself: for its
//! signature, its issuer, its audience and its life.
//!
//! | variable | value |
//! |---|---|
//! | `JWT_KEYS` | the path of the issuer's public keys, as a JSON Web Key Set |
//! | `JWT_ISSUER`, `JWT_AUDIENCE` | `iss` and `aud` of the tokens; the audience is this application |
//! | `JWT_HEADER` | the header. Default: `authorization` |
//!
//! It mints with the account of `RELEASED_ACCOUNT_ID` and `RELEASED_SHARED_SECRET`, or with a fake of Released if none of
//! them is set. `PORT` is 3000 by default.

#[path = "../support/account.rs"]
mod account;
#[cfg(test)]
mod test_keys;

use std::env;
use std::fs;
use std::future::ready;
use std::sync::Arc;

use axum::Router;
use axum::response::Html;
use axum::routing::get;
use http::HeaderName;
use http::request::Parts;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde::Deserialize;
use tokio::net::TcpListener;
use tower_released::embed::{self, Script};
use tower_released::testing::FakeReleased;
use tower_released::{
    AuthToken, BoxError, Minter, ReleasedClient, ReleasedTokenLayer, User, UserId, resolver_fn,
};
use tracing::{error, info};

/// The claims that this application reads. A token without an issuer or a subject is refused.
#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    email: Option<String>,
    /// Cloudflare Access and some others do not send it. Vouch for their users only after you found out that each login
    /// method confirms addresses.
    email_verified: Option<bool>,
}

/// What this application accepts.
pub(crate) struct Tokens {
    keys: JwkSet,
    header: HeaderName,
    validation: Validation,
}

impl Tokens {
    pub(crate) fn new(keys: JwkSet, header: HeaderName, issuer: &str, audience: &str) -> Self {
        // The algorithm is chosen here, never by the token: `none`, or a public key taken for a secret, would pass otherwise.
        let mut validation = Validation::new(Algorithm::RS256);
        validation.set_issuer(&[issuer]);
        validation.set_audience(&[audience]);
        // A claim that is missing is not checked, unless it is required.
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        validation.validate_nbf = true;
        Self {
            keys,
            header,
            validation,
        }
    }

    /// Returns the user of the request's token, if its address is confirmed.
    ///
    /// # Errors
    ///
    /// A token that is not good is an error, and no visitor. The text holds nothing of the token.
    fn signed_in(&self, parts: &Parts) -> Result<Option<User>, BoxError> {
        let mut values = parts.headers.get_all(&self.header).iter();
        let Some(value) = values.next() else {
            return Ok(None);
        };
        if values.next().is_some() {
            return Err(
                "there are two tokens: the gateway must replace the header, not add it".into(),
            );
        }
        let token = match value.to_str()?.split_once(' ') {
            None => value.to_str()?,
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token,
            Some(_) => return Ok(None), // another scheme, such as Basic
        };
        let claims = self.verify(token)?;
        match (claims.email, claims.email_verified) {
            (Some(email), Some(true)) => {
                // `sub` is unique only within its issuer.
                let id = UserId::encode(format!("{}|{}", claims.iss, claims.sub));
                Ok(Some(User::new(id, email)?))
            }
            _ => Ok(None),
        }
    }

    fn verify(&self, token: &str) -> Result<Claims, BoxError> {
        let header =
            decode_header(token).map_err(|_| "the token is not a JWT of a known algorithm")?;
        // Nobody has vouched for the header yet. All that it may do is to choose among the issuer's keys.
        let kid = header.kid.ok_or("the token names no key")?;
        let key: &Jwk = self
            .keys
            .find(&kid)
            .ok_or("the token's key is unknown: was it rotated?")?;
        let token = decode::<Claims>(token, &DecodingKey::from_jwk(key)?, &self.validation);
        let token = token.map_err(|error| match error.kind() {
            ErrorKind::ExpiredSignature => "the token has expired",
            ErrorKind::InvalidAudience => "the token is for another application",
            ErrorKind::InvalidIssuer => "the token is of another issuer",
            ErrorKind::InvalidAlgorithm => "the token has another algorithm",
            ErrorKind::InvalidSignature => "the token's signature is wrong",
            // The other texts may hold a part of the token.
            _ => "the token, or one of its claims, has another form",
        })?;
        Ok(token.claims)
    }
}

pub(crate) fn app(released: impl Minter, tokens: Arc<Tokens>, script: Script) -> Router {
    let signed_in = resolver_fn(move |parts: &Parts| {
        let user = tokens.signed_in(parts);
        if let Err(reason) = &user {
            error!("vouched for nobody: {reason}");
        }
        ready(user)
    });
    let page = async move |token: Option<AuthToken>| {
        let portal = embed::page("demo-channel").maybe_token(token.as_ref());
        Html(format!("<!doctype html><head>{script}</head>{portal}"))
    };
    Router::new()
        .route("/", get(page))
        .route_layer(ReleasedTokenLayer::new(released, signed_in))
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    tracing_subscriber::fmt().init();
    let setting = |name: &str| env::var(name).map_err(|error| format!("{name}: {error}"));
    // Cloudflare serves its keys at https://<team>.cloudflareaccess.com/cdn-cgi/access/certs, and rotates them: a server
    // that runs for weeks reads them again.
    let keys = serde_json::from_slice(&fs::read(setting("JWT_KEYS")?)?)?;
    let header = env::var("JWT_HEADER").unwrap_or_else(|_| "authorization".to_owned());
    let (issuer, audience) = (setting("JWT_ISSUER")?, setting("JWT_AUDIENCE")?);
    let tokens = Arc::new(Tokens::new(keys, header.parse()?, &issuer, &audience));

    let fake = if account::is_named_by(|name| env::var_os(name)) {
        None
    } else {
        Some(FakeReleased::start().await?)
    };
    let (released, script) = match &fake {
        Some(fake) => (fake.client()?, embed::script().src(fake.embed_script_url())),
        None => (ReleasedClient::from_env()?, embed::script()),
    };
    let port = env::var("PORT").map_or(Ok(3000), |port| port.parse::<u16>())?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    info!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app(released, tokens, script)).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use http::Request;
    use jsonwebtoken::get_current_timestamp;
    use serde_json::{Value, json};
    use tower::ServiceExt;

    use super::test_keys::{self, SigningKey};
    use super::*;

    const ISSUER: &str = "https://id.example";

    fn claims() -> Value {
        json!({
            "iss": ISSUER,
            "aud": ["another", "this-app"],
            "sub": "7",
            "exp": get_current_timestamp() + 300,
            "email": "ada@example.com",
            "email_verified": true,
        })
    }

    /// The claims with one of them changed, or removed by `null`.
    fn but(name: &str, value: Value) -> Value {
        let mut claims = claims();
        let object = claims.as_object_mut().unwrap();
        match value {
            Value::Null => object.remove(name),
            value => object.insert(name.to_owned(), value),
        };
        claims
    }

    /// Opens the page, and returns the address for which its token opens a session.
    async fn email(keys: &SigningKey, header: &str, values: &[String]) -> Option<String> {
        let released = FakeReleased::start().await.unwrap();
        let tokens = Tokens::new(keys.public(), header.parse().unwrap(), ISSUER, "this-app");
        let app = app(
            released.client().unwrap(),
            Arc::new(tokens),
            embed::script(),
        );
        let mut request = Request::get("/");
        for value in values {
            request = request.header(header, value);
        }
        let page = app.oneshot(request.body(Body::empty()).unwrap()).await;
        let page = to_bytes(page.unwrap().into_body(), 65_536).await.unwrap();
        let page = String::from_utf8(page.into()).unwrap();
        assert!(page.contains("<released-page"), "{page}");
        let (_, token) = page.split_once("auth-token=\"")?;
        let (token, _) = token.split_once('"').unwrap();
        let session = released.open_session(token).unwrap();
        // The bar of `issuer|sub` is encoded.
        assert_eq!(
            released.users()[0].id(),
            &UserId::encode(format!("{ISSUER}|7"))
        );
        Some(session.email)
    }

    #[tokio::test]
    async fn a_good_token_in_either_header_is_vouched_for() {
        let key = SigningKey::new("k1");
        let token = key.sign(&claims());
        for (header, value) in [
            ("authorization", format!("Bearer {token}")),
            ("authorization", format!("bearer {token}")),
            ("cf-access-jwt-assertion", token),
        ] {
            let ada = email(&key, header, &[value]).await;
            assert_eq!(ada.as_deref(), Some("ada@example.com"), "{header}");
        }
        let one_audience = key.sign(&but("aud", json!("this-app")));
        let ada = email(&key, "authorization", &[format!("Bearer {one_audience}")]).await;
        assert!(ada.is_some());
    }

    #[tokio::test]
    async fn nobody_is_vouched_for_without_a_good_token_of_a_confirmed_address() {
        let (key, other) = (SigningKey::new("k1"), SigningKey::new("k1"));
        let now = get_current_timestamp();
        let good = key.sign(&claims());
        let (head, signature) = good.rsplit_once('.').unwrap();
        // What an attacker can make of the public key.
        let public = serde_json::to_vec(&key.public().keys[0]).unwrap();
        let public = String::from_utf8(public).unwrap();
        for (what, token) in [
            ("another key of the same name", other.sign(&claims())),
            ("an unknown key", SigningKey::new("k2").sign(&claims())),
            ("no signature", format!("{head}.")),
            ("an older signature", {
                let payload = key.sign(&but("email", json!("mallory@example.com")));
                format!("{}.{signature}", payload.rsplit_once('.').unwrap().0)
            }),
            ("alg none", test_keys::unsigned("none", &claims())),
            ("alg NONE", test_keys::unsigned("NONE", &claims())),
            (
                "the public key as a secret",
                test_keys::signed_with(&public, &claims()),
            ),
            ("no JWT", "ada@example.com".to_owned()),
            ("nothing", String::new()),
            ("expired", key.sign(&but("exp", json!(now - 120)))),
            ("for ever", key.sign(&but("exp", Value::Null))),
            ("not yet", key.sign(&but("nbf", json!(now + 300)))),
            ("another audience", key.sign(&but("aud", json!("another")))),
            ("no audience", key.sign(&but("aud", Value::Null))),
            (
                "another issuer",
                key.sign(&but("iss", json!("https://evil.example"))),
            ),
            (
                "two issuers",
                key.sign(&but("iss", json!([ISSUER, "https://evil.example"]))),
            ),
            ("no issuer", key.sign(&but("iss", Value::Null))),
            ("no subject", key.sign(&but("sub", Value::Null))),
            ("no address", key.sign(&but("email", Value::Null))),
            ("no valid address", key.sign(&but("email", json!("Ada")))),
            ("unverified", key.sign(&but("email_verified", json!(false)))),
            ("nobody says", key.sign(&but("email_verified", Value::Null))),
            ("a text", key.sign(&but("email_verified", json!("true")))),
        ] {
            let value = format!("Bearer {token}");
            assert_eq!(email(&key, "authorization", &[value]).await, None, "{what}");
        }
        assert_eq!(email(&key, "authorization", &[]).await, None);
        for scheme in ["Basic YTpi".to_owned(), format!("Basic {good}")] {
            assert_eq!(email(&key, "authorization", &[scheme]).await, None);
        }
        // The browser's and the gateway's, in both orders.
        let good = format!("Bearer {good}");
        for two in [
            [good.clone(), "Basic YTpi".to_owned()],
            ["Basic YTpi".to_owned(), good.clone()],
            [good.clone(), good.clone()],
        ] {
            assert_eq!(email(&key, "authorization", &two).await, None);
        }
        let folded = format!("{good}, {good}");
        assert_eq!(email(&key, "authorization", &[folded]).await, None);
    }
}
