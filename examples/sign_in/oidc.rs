//! Sign-in by OpenID Connect, with the code flow: `cargo run --bin oidc`.
//!
//! The ID token is verified once, after the sign-in. The session then holds who it was, and the address only if the
//! provider says that it is confirmed: `email_verified` is `true`. Anything else vouches for nobody.
//!
//! `OIDC_ISSUER`, `OIDC_CLIENT_ID` and `OIDC_CLIENT_SECRET` name the provider. Register `http://localhost:3000/callback`
//! there. It mints with the account of `RELEASED_ACCOUNT_ID` and `RELEASED_SHARED_SECRET`, or with a fake of Released if
//! none of them is set. `PORT` is 3000 by default.

#[path = "../support/account.rs"]
mod account;
#[cfg(test)]
mod test_keys;

use std::env;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{Html, Redirect};
use axum::routing::get;
use openidconnect::core::{
    CoreAuthenticationFlow, CoreClient, CoreJwsSigningAlgorithm, CoreProviderMetadata,
};
use openidconnect::{
    AuthorizationCode, ClientId, ClientSecret, CsrfToken, EndpointMaybeSet, EndpointNotSet,
    EndpointSet, HttpRequest, HttpResponse, IssuerUrl, Nonce, PkceCodeChallenge, PkceCodeVerifier,
    RedirectUrl, Scope, TokenResponse,
};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tower_released::embed::{self, Script};
use tower_released::testing::FakeReleased;
use tower_released::{
    AuthToken, BoxError, Minter, ReleasedClient, ReleasedTokenLayer, User, UserId, UserResolver,
    from_extractor,
};
use tower_sessions::cookie::SameSite;
use tower_sessions::cookie::time;
use tower_sessions::{Expiry, MemoryStore, Session, SessionManagerLayer};
use tracing::{error, info};

type Client = CoreClient<
    EndpointSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointMaybeSet,
    EndpointMaybeSet,
>;

/// The provider, and this application as the provider knows it.
pub(crate) struct Provider {
    client: Client,
    http: reqwest::Client,
}

impl Provider {
    /// Reads what the provider publishes, its keys included. It rotates them: a server that runs for weeks does it again.
    pub(crate) async fn discover(
        issuer: String,
        client_id: String,
        client_secret: String,
        callback: String,
    ) -> Result<Self, BoxError> {
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none()) // the client's secret stays with the provider
            .timeout(Duration::from_secs(10))
            .build()?;
        let send = |request| send(http.clone(), request);
        let metadata = CoreProviderMetadata::discover_async(IssuerUrl::new(issuer)?, &send).await?;
        let (id, secret) = (ClientId::new(client_id), ClientSecret::new(client_secret));
        let client = CoreClient::from_provider_metadata(metadata, id, Some(secret))
            .set_redirect_uri(RedirectUrl::new(callback)?);
        Ok(Self { client, http })
    }

    /// Exchanges the code for an ID token, and verifies it: signature, issuer, audience, expiry and nonce.
    ///
    /// # Errors
    ///
    /// The library's texts can hold parts of the token. So each error is a text of ours.
    async fn signed_in(&self, code: String, started: Started) -> Result<SignedIn, &'static str> {
        let send = |request| send(self.http.clone(), request);
        let exchange = self.client.exchange_code(AuthorizationCode::new(code));
        let exchange = exchange.map_err(|_| "the provider publishes no token endpoint")?;
        let answer = exchange
            .set_pkce_verifier(started.verifier)
            .request_async(&send)
            .await
            .map_err(|_| "the provider gave nothing for the code")?;
        let token = answer.id_token().ok_or("the provider sent no ID token")?;
        // The algorithm is chosen here, not by the token and not by what the provider lists.
        let verifier = self.client.id_token_verifier();
        let verifier = verifier.set_allowed_algs([CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha256]);
        let claims = token
            .claims(&verifier, &started.nonce)
            .map_err(|_| "the ID token could not be verified")?;
        let email = claims
            .email()
            .filter(|_| claims.email_verified() == Some(true));
        Ok(SignedIn {
            // `sub` is unique only within its issuer.
            id: format!("{}|{}", **claims.issuer(), **claims.subject()),
            confirmed_email: email.map(|email| email.to_string()),
        })
    }
}

/// openidconnect 4 brings an older reqwest as a feature. This is ours.
async fn send(http: reqwest::Client, request: HttpRequest) -> Result<HttpResponse, reqwest::Error> {
    let mut answer = http.execute(request.try_into()?).await?;
    let (status, headers) = (answer.status(), std::mem::take(answer.headers_mut()));
    let mut response = HttpResponse::new(answer.bytes().await?.into());
    (*response.status_mut(), *response.headers_mut()) = (status, headers);
    Ok(response)
}

/// In a session: what a sign-in that is under way must come back with.
#[derive(Serialize, Deserialize)]
struct Started {
    state: CsrfToken,
    nonce: Nonce,
    verifier: PkceCodeVerifier,
}

/// In a session: who signed in.
#[derive(Serialize, Deserialize)]
struct SignedIn {
    id: String,
    /// The address, if the provider said that it is confirmed.
    confirmed_email: Option<String>,
}

const STARTED: &str = "started";
const SIGNED_IN: &str = "signed_in";

fn resolver() -> impl UserResolver {
    from_extractor((), async |session: Session| {
        let signed_in = session.get::<SignedIn>(SIGNED_IN).await;
        let signed_in = signed_in.inspect_err(|_| error!("could not read the session"))?;
        let user = signed_in.and_then(
            |SignedIn {
                 id,
                 confirmed_email,
             }| { confirmed_email.map(|email| User::new(UserId::encode(id), email)) },
        );
        Ok::<_, BoxError>(user.transpose()?)
    })
}

pub(crate) fn app(released: impl Minter, provider: Provider, script: Script) -> Router {
    let sessions = SessionManagerLayer::new(MemoryStore::default())
        .with_secure(false) // this example has no TLS
        .with_same_site(SameSite::Lax) // the callback comes from the provider's site
        // What the provider said of the address grows old. Nothing here renews it but another sign-in.
        .with_expiry(Expiry::OnInactivity(time::Duration::hours(12)));
    let page = async move |token: Option<AuthToken>| {
        let portal = embed::page("demo-channel").maybe_token(token.as_ref());
        let link = r#"<a href="/sign-in">Sign in</a>"#;
        Html(format!(
            "<!doctype html><head>{script}</head>{link}{portal}"
        ))
    };
    Router::new()
        .route("/", get(page))
        .route_layer(ReleasedTokenLayer::new(released, resolver()))
        .route("/sign-in", get(sign_in))
        .route("/callback", get(callback))
        .with_state(Arc::new(provider))
        // Added last, so it runs first: the resolver finds its session.
        .layer(sessions)
}

async fn sign_in(
    State(provider): State<Arc<Provider>>,
    session: Session,
) -> Result<Redirect, StatusCode> {
    let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
    let flow = CoreAuthenticationFlow::AuthorizationCode;
    let request = provider
        .client
        .authorize_url(flow, CsrfToken::new_random, Nonce::new_random)
        .add_scope(Scope::new("email".to_owned()))
        .set_pkce_challenge(challenge);
    let (url, state, nonce) = request.url();
    let started = Started {
        state,
        nonce,
        verifier,
    };
    let stored = session.insert(STARTED, started).await;
    stored.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(Redirect::to(url.as_str()))
}

#[derive(Deserialize)]
struct Callback {
    code: String,
    state: String,
}

async fn callback(
    State(provider): State<Arc<Provider>>,
    session: Session,
    Query(Callback { code, state }): Query<Callback>,
) -> Result<Redirect, StatusCode> {
    let failed = |_| StatusCode::INTERNAL_SERVER_ERROR;
    // Removed, so that a code and a state count once.
    let started = session.remove::<Started>(STARTED).await.map_err(failed)?;
    let started = started.filter(|started| *started.state.secret() == state);
    // Otherwise somebody could be signed in as the person who sent them this link.
    let started = started.ok_or(StatusCode::UNAUTHORIZED)?;
    let signed_in = provider.signed_in(code, started).await.map_err(|reason| {
        error!("could not sign somebody in: {reason}");
        StatusCode::UNAUTHORIZED
    })?;
    session.cycle_id().await.map_err(failed)?;
    session.insert(SIGNED_IN, signed_in).await.map_err(failed)?;
    Ok(Redirect::to("/"))
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    tracing_subscriber::fmt().init();
    let setting = |name: &str| env::var(name).map_err(|error| format!("{name}: {error}"));
    let (issuer, client_id) = (setting("OIDC_ISSUER")?, setting("OIDC_CLIENT_ID")?);
    let client_secret = setting("OIDC_CLIENT_SECRET")?;
    let port = env::var("PORT").map_or(Ok(3000), |port| port.parse::<u16>())?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let site = format!("http://localhost:{}", listener.local_addr()?.port());
    let callback = format!("{site}/callback");
    let provider = Provider::discover(issuer, client_id, client_secret, callback).await?;

    let fake = if account::is_named_by(|name| env::var_os(name)) {
        None
    } else {
        Some(FakeReleased::start().await?)
    };
    let (released, script) = match &fake {
        Some(fake) => (fake.client()?, embed::script().src(fake.embed_script_url())),
        None => (ReleasedClient::from_env()?, embed::script()),
    };
    info!("listening on {site}");
    axum::serve(listener, app(released, provider, script)).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Mutex;

    use axum::Json;
    use axum::body::{Body, to_bytes};
    use axum::routing::post;
    use http::header::{COOKIE, LOCATION, SET_COOKIE};
    use http::{Request, Response};
    use serde_json::{Value, json};
    use tower::ServiceExt;

    use super::test_keys::{self, SigningKey};
    use super::*;

    /// A provider, which answers each code with the ID token that a test chose.
    struct TestProvider {
        issuer: String,
        key: SigningKey,
        id_token: Arc<Mutex<String>>,
    }

    impl TestProvider {
        async fn start() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let issuer = format!("http://{}", listener.local_addr().unwrap());
            let key = SigningKey::new("k1");
            let id_token = Arc::new(Mutex::new(String::new()));
            let metadata = json!({
                "issuer": issuer,
                "authorization_endpoint": format!("{issuer}/authorize"),
                "token_endpoint": format!("{issuer}/token"),
                "jwks_uri": format!("{issuer}/jwks"),
                "response_types_supported": ["code"],
                "subject_types_supported": ["public"],
                // A provider that lists too much.
                "id_token_signing_alg_values_supported": ["RS256", "HS256", "none"],
            });
            let keys = serde_json::to_value(key.public()).unwrap();
            let answer = id_token.clone();
            let token = async move |form: String| {
                assert!(form.contains("code_verifier="), "{form}");
                let id_token = answer.lock().unwrap().clone();
                Json(json!({ "access_token": "a", "token_type": "Bearer", "id_token": id_token }))
            };
            let app = Router::new()
                .route(
                    "/.well-known/openid-configuration",
                    get(async move || Json(metadata)),
                )
                .route("/jwks", get(async move || Json(keys)))
                .route("/token", post(token));
            tokio::spawn(async move { axum::serve(listener, app).await });
            Self {
                issuer,
                key,
                id_token,
            }
        }
    }

    struct Site {
        provider: TestProvider,
        released: FakeReleased,
        app: Router,
    }

    impl Site {
        async fn start() -> Self {
            let provider = TestProvider::start().await;
            let released = FakeReleased::start().await.unwrap();
            let discovered = Provider::discover(
                provider.issuer.clone(),
                "this-app".to_owned(),
                "a secret".to_owned(),
                "http://localhost:3000/callback".to_owned(),
            );
            let client = released.client().unwrap();
            let app = app(client, discovered.await.unwrap(), embed::script());
            Self {
                provider,
                released,
                app,
            }
        }

        async fn get(&self, path: &str, cookie: &str) -> Response<Body> {
            let request = Request::get(path).header(COOKIE, cookie);
            let request = request.body(Body::empty()).unwrap();
            self.app.clone().oneshot(request).await.unwrap()
        }

        /// Goes to the provider, and returns the session's cookie, the state and the nonce.
        async fn start_sign_in(&self) -> (String, String, String) {
            let response = self.get("/sign-in", "").await;
            let url: reqwest::Url = response.headers()[LOCATION]
                .to_str()
                .unwrap()
                .parse()
                .unwrap();
            let query: HashMap<_, _> = url.query_pairs().into_owned().collect();
            assert_eq!(query["code_challenge_method"], "S256");
            let cookie = cookie_of(&response).unwrap();
            (cookie, query["state"].clone(), query["nonce"].clone())
        }

        fn claims(&self, nonce: &str) -> Value {
            let now = jsonwebtoken::get_current_timestamp();
            json!({
                "iss": self.provider.issuer,
                "aud": "this-app",
                "sub": "7",
                "iat": now,
                "exp": now + 300,
                "nonce": nonce,
                "email": "ada@example.com",
                "email_verified": true,
            })
        }

        /// Signs in with this ID token. Returns the status of the callback, and the address for which the page's token
        /// opens a session.
        async fn sign_in(
            &self,
            token: impl FnOnce(&SigningKey, Value) -> String,
        ) -> (StatusCode, Option<String>) {
            let (cookie, state, nonce) = self.start_sign_in().await;
            let token = token(&self.provider.key, self.claims(&nonce));
            *self.provider.id_token.lock().unwrap() = token;
            let response = self
                .get(&format!("/callback?code=c&state={state}"), &cookie)
                .await;
            let after = cookie_of(&response).unwrap_or(cookie.clone());
            if response.status().is_redirection() {
                assert_ne!(after, cookie, "a sign-in gives the session another id");
            }
            (response.status(), self.email(&after).await)
        }

        async fn email(&self, cookie: &str) -> Option<String> {
            let page = self.get("/", cookie).await;
            let page = to_bytes(page.into_body(), 65_536).await.unwrap();
            let page = String::from_utf8(page.into()).unwrap();
            assert!(page.contains("<released-page"), "{page}");
            let (_, token) = page.split_once("auth-token=\"")?;
            let (token, _) = token.split_once('"').unwrap();
            Some(self.released.open_session(token).unwrap().email)
        }
    }

    fn cookie_of(response: &Response<Body>) -> Option<String> {
        let cookie = response.headers().get(SET_COOKIE)?.to_str().unwrap();
        Some(cookie.split_once(';').unwrap().0.to_owned())
    }

    /// The claims with one of them changed, or removed by `null`.
    fn but(mut claims: Value, name: &str, value: Value) -> Value {
        let object = claims.as_object_mut().unwrap();
        match value {
            Value::Null => object.remove(name),
            value => object.insert(name.to_owned(), value),
        };
        claims
    }

    #[tokio::test]
    async fn only_a_confirmed_address_is_vouched_for() {
        let site = Site::start().await;
        for (email_verified, expected) in [
            (json!(true), Some("ada@example.com")),
            (json!(false), None),
            (Value::Null, None),
        ] {
            let (status, email) = site
                .sign_in(|key, claims| {
                    key.sign(&but(claims, "email_verified", email_verified.clone()))
                })
                .await;
            assert_eq!(status, StatusCode::SEE_OTHER, "{email_verified}");
            assert_eq!(email.as_deref(), expected, "{email_verified}");
        }
        let id = UserId::encode(format!("{}|7", site.provider.issuer));
        assert_eq!(site.released.users()[0].id(), &id);
        let (status, email) = site
            .sign_in(|key, claims| key.sign(&but(claims, "email", Value::Null)))
            .await;
        assert_eq!((status, email), (StatusCode::SEE_OTHER, None));
    }

    #[tokio::test]
    async fn an_id_token_that_is_not_good_signs_nobody_in() {
        let site = Site::start().await;
        for (name, value) in [
            ("aud", json!("another-app")),
            ("aud", json!(["this-app", "another-app"])),
            ("aud", Value::Null),
            ("iss", json!("https://evil.example")),
            ("exp", json!(1_000_000_000)),
            ("exp", Value::Null),
            ("nonce", json!("of another sign-in")),
            ("nonce", Value::Null),
            ("sub", Value::Null),
            ("email_verified", json!("true")),
        ] {
            let answer = site
                .sign_in(|key, claims| key.sign(&but(claims, name, value.clone())))
                .await;
            assert_eq!(answer, (StatusCode::UNAUTHORIZED, None), "{name}: {value}");
        }
        let forgeries: [fn(&SigningKey, Value) -> String; 4] = [
            |_, claims| SigningKey::new("k1").sign(&claims),
            |_, claims| test_keys::unsigned("none", &claims),
            |_, claims| test_keys::signed_with("a secret", &claims), // the client's secret
            |_, _| "no.jwt.at-all".to_owned(),
        ];
        for forgery in forgeries {
            let answer = site.sign_in(forgery).await;
            assert_eq!(answer, (StatusCode::UNAUTHORIZED, None));
        }
    }

    #[tokio::test]
    async fn a_callback_counts_once_and_only_in_the_browser_that_asked() {
        let site = Site::start().await;
        let (cookie, state, nonce) = site.start_sign_in().await;
        let token = site.provider.key.sign(&site.claims(&nonce));
        *site.provider.id_token.lock().unwrap() = token;
        let callback = format!("/callback?code=c&state={state}");
        let (other, ..) = site.start_sign_in().await;
        for stranger in ["", other.as_str()] {
            let response = site.get(&callback, stranger).await;
            assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
            assert_eq!(site.email(stranger).await, None);
        }
        let response = site.get(&callback, &cookie).await;
        assert_eq!(response.status(), StatusCode::SEE_OTHER);
        let cookie = cookie_of(&response).unwrap();
        let again = site.get(&callback, &cookie).await;
        assert_eq!(again.status(), StatusCode::UNAUTHORIZED);
    }
}
