//! The program `released`: what people, scripts and other programs see of it.

// The outputs are shown by `cargo test --features cli --test cli -- --nocapture`.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

#[allow(dead_code)]
#[path = "suite/support/authority.rs"]
mod authority;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;

use axum::Router;
use axum::http::header::{
    AGE, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, COOKIE, LOCATION,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::serve::Listener;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tower_released::embed;
use tower_released::testing::{FakeReleased, Reply};
use tower_released::{AuthToken, User};

use self::authority::Authority;

const ID: &str = "lovelace-42";
const EMAIL: &str = "lovelace@example.com";
const CHANNEL: &str = "5e8a1c62-0f0b-4d8e-9a53-2f1f0c8f6b11";

/// How the program is run: with its variables and nothing else of the environment.
#[derive(Default)]
struct Run {
    variables: Vec<(&'static str, String)>,
    /// What must not be in the output.
    hidden: Vec<String>,
}

struct Output {
    text: String,
    /// The same, wherever it is wrapped.
    words: String,
    code: i32,
}

impl Run {
    fn with(account: &str, secret: &str, url: &str) -> Self {
        Self::default()
            .set("RELEASED_ACCOUNT_ID", account)
            .set("RELEASED_SHARED_SECRET", secret)
            .set("RELEASED_TOKEN_URL", url)
            .hide(secret)
    }

    fn at(released: &FakeReleased) -> Self {
        Self::with(
            released.account_id(),
            &released.shared_secret(),
            &released.impersonation_url(),
        )
    }

    fn set(mut self, name: &'static str, value: &str) -> Self {
        self.variables.push((name, value.to_owned()));
        self
    }

    fn hide(mut self, text: &str) -> Self {
        self.hidden.push(text.to_owned());
        self
    }

    async fn check(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_released"));
        command.env_clear().arg("check").args(arguments);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        let output = tokio::task::spawn_blocking(move || command.output().unwrap());
        let output = output.await.unwrap();
        let text =
            String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        // Shown by `cargo test -- --nocapture`.
        println!("$ released check {}\n{text}", arguments.join(" "));
        for hidden in ["eyJ", "lovelace", "s3ssion"] {
            assert!(!text.contains(hidden), "{hidden} is in\n{text}");
        }
        for hidden in &self.hidden {
            assert!(!text.contains(hidden), "{hidden} is in\n{text}");
        }
        Output {
            words: text.split_whitespace().collect::<Vec<_>>().join(" "),
            text,
            code: output.status.code().unwrap(),
        }
    }
}

impl Output {
    #[track_caller]
    fn says(&self, code: i32, parts: &[&str]) -> &Self {
        assert_eq!(self.code, code, "{}", self.text);
        for part in parts {
            assert!(
                self.words.contains(part),
                "{part:?} is not in\n{}",
                self.text
            );
        }
        let is_narrow = |line: &str| line.chars().count() <= 80;
        let is_report = !self.text.starts_with("error: ");
        assert!(
            !is_report || self.text.lines().all(is_narrow),
            "{}",
            self.text
        );
        self
    }
}

async fn serve(app: Router) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

struct Tls(TcpListener, TlsAcceptor);

impl Listener for Tls {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, address) = self.0.accept().await.unwrap();
            if let Ok(stream) = self.1.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// Serves over TLS, and returns the origin.
async fn serve_tls(app: Router, tls: TlsAcceptor) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move { axum::serve(Tls(listener, tls), app).await });
    format!("https://localhost:{port}")
}

/// A file that this process alone uses.
struct Roots(PathBuf);

impl Roots {
    fn of(authority: &Authority, name: &str) -> Self {
        let file = format!("tower-released-cli-{name}-{}.pem", std::process::id());
        let path = std::env::temp_dir().join(file);
        std::fs::write(&path, authority.pem()).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Roots {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A page with a token, for whoever has the cookie. Everybody else is sent to a sign-in.
fn pages(token: AuthToken, headers: Vec<(HeaderName, &'static str)>) -> Router {
    let page = async move |request: HeaderMap| {
        let is_signed_in = request
            .get(COOKIE)
            .is_some_and(|cookie| cookie == "id=s3ssion");
        if !is_signed_in {
            return (
                StatusCode::SEE_OTHER,
                [(LOCATION, "/account?next=hidden-part")],
            )
                .into_response();
        }
        assert_eq!(request["sec-fetch-mode"], "navigate");
        let portal = embed::page(CHANNEL).token(&token);
        let html = format!("<!doctype html><head>{}</head>{portal}", embed::script());
        let mut answer = ([(CONTENT_TYPE, "text/html; charset=utf-8")], html).into_response();
        for (name, value) in &headers {
            answer.headers_mut().append(name, value.parse().unwrap());
        }
        answer
    };
    let sign_in = async || {
        let html = "<!doctype html><form><input type=password></form>";
        ([(CONTENT_TYPE, "text/html")], html)
    };
    Router::new()
        .route("/roadmap", get(page))
        .route("/account", get(sign_in))
}

fn no_store() -> (HeaderName, &'static str) {
    (CACHE_CONTROL, "private, no-store")
}

async fn token(released: &FakeReleased) -> AuthToken {
    let user = User::new(ID, EMAIL).unwrap();
    released.client().unwrap().mint(&user).await.unwrap()
}

const AS: [&str; 3] = ["--as", ID, EMAIL];

#[tokio::test]
async fn a_good_setup_is_well() {
    let released = FakeReleased::start().await.unwrap();
    let run = Run::at(&released);
    run.check(&[]).await.says(
        0,
        &[
            "ok account 8 characters, SHA-256",
            "ok tcp connected to",
            "ok answer status 405",
        ],
    );
    assert_eq!(released.counts().requests, 0);
    run.check(&AS).await.says(
        0,
        &[
            "ok mint the secret and the account were accepted",
            "ok token a JWT",
            "ok life 2 min until",
        ],
    );
    assert_eq!(released.counts().minted, 1);
}

#[tokio::test]
async fn a_wrong_secret_and_a_wrong_account_are_told_apart() {
    let released = FakeReleased::start().await.unwrap();
    let (account, secret) = (released.account_id(), released.shared_secret());
    let url = released.impersonation_url();
    Run::with(account, "an-old-secret", &url).check(&AS).await.says(
        1,
        &["failed mint Released refused the shared secret (401) do this: check RELEASED_SHARED_SECRET"],
    );
    Run::with("another", &secret, &url).check(&AS).await.says(
        1,
        &["failed mint Released refused the mint (404) do this: probably the account id is wrong"],
    );
}

#[tokio::test]
async fn a_closed_port_is_refused_and_nothing_is_minted() {
    let closed = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .unwrap()
        .local_addr()
        .unwrap();
    Run::with("acc", "s3cret-of-acc", &format!("http://{closed}/token"))
        .check(&AS)
        .await
        .says(
            1,
            &[
                "failed tcp connection refused by 127.0.0.1:",
                "do this: check the host and the port in RELEASED_TOKEN_URL",
                "skipped there is no connection: tls, answer, clock, mint",
            ],
        );
}

/// Elsewhere, systems do not let a variable say whom they trust.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_expired_certificate_is_named() {
    let authority = Authority::new();
    let roots = Roots::of(&authority, "expired");
    let origin = serve_tls(Router::new(), authority.server_for("localhost", 2021)).await;
    let run = Run::with("acc", "s3cret-of-acc", &format!("{origin}/token"))
        .set("SSL_CERT_FILE", roots.path());
    let output = run.check(&["--page", &origin]).await;
    output.says(
        1,
        &[
            "ok dns localhost has an address",
            "failed tls TLS with localhost:",
            "failed page TLS with localhost:",
            "clock",
        ],
    );
    if cfg!(not(feature = "native-tls")) {
        output.says(1, &["its certificate has expired do this: renew"]);
    }
}

#[tokio::test]
async fn a_redirect_to_a_sign_in_page_is_named() {
    let released = FakeReleased::start().await.unwrap();
    let run = Run::at(&released);
    let address = serve(pages(token(&released).await, vec![no_store()])).await;
    let url = format!("http://{address}/roadmap");
    let sign_in = format!(
        "failed page redirects to a sign-in page, http://{address}/account do this: pass the cookie"
    );
    let output = run.check(&["--page", &url]).await;
    output.says(1, &[&sign_in, "skipped this is not the page: https, cache"]);
    assert!(!output.text.contains("hidden-part"), "{}", output.text);
    // With the cookie, the page is there.
    let output = run
        .check(&["--page", &url, "--header", "Cookie: id=s3ssion"])
        .await;
    output.says(
        0,
        &[
            "ok page 200",
            "warning https plain http",
            "ok element <released-page>",
            "ok page-life",
        ],
    );

    // The cookie does not leave its host.
    let elsewhere = format!("http://{address}/roadmap");
    let redirect = get(async move || (StatusCode::FOUND, [(LOCATION, elsewhere.clone())]));
    let url = format!(
        "http://{}/",
        serve(Router::new().route("/", redirect)).await
    );
    let output = run
        .check(&["--page", &url, "--header", "Cookie: id=s3ssion"])
        .await;
    output.says(1, &[&sign_in]);

    // The token API itself redirects, as a network with a sign-in does.
    released.reply_always(Reply::status(302).header("location", "https://wifi.example/"));
    run.check(&AS).await.says(
        1,
        &[
            "failed mint the answer is not a token (302)",
            "a proxy's page",
        ],
    );
}

#[tokio::test]
async fn a_policy_that_blocks_the_frame_is_named() {
    let released = FakeReleased::start().await.unwrap();
    let policy = |policy| vec![no_store(), (CONTENT_SECURITY_POLICY, policy)];
    for (headers, code, parts) in [
        (
            policy(
                "default-src 'self'; script-src https:; connect-src https:; style-src https: 'unsafe-inline'; img-src *; font-src *",
            ),
            1,
            &[
                "failed policy default-src blocks the portal's frame: the embed shows \"Communication error\"",
                "do this: add frame-src with the sources of default-src and https://SUBDOMAIN.releasedhub.com",
            ][..],
        ),
        (
            policy("frame-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'"),
            1,
            &[
                "failed policy frame-src blocks the portal's frame",
                "failed policy script-src blocks Released's script",
                "add https://embed.released.so to script-src",
                "failed policy connect-src blocks the embed's requests to https://api.released.so https://events.released.so",
                "warning policy img-src blocks the embed's images",
            ],
        ),
        (
            policy("frame-src https://acme.releasedhub.com"),
            0,
            &["ok policy"],
        ),
        (policy("img-src 'self'"), 0, &["warning policy img-src"]),
    ] {
        let address = serve(pages(token(&released).await, headers)).await;
        let url = format!("http://{address}/roadmap");
        // The page alone, from any machine.
        let run = Run::default();
        let output = run
            .check(&["--page", &url, "--header", "Cookie: id=s3ssion"])
            .await;
        output
            .says(code, parts)
            .says(code, &["skipped config no RELEASED_ variable is set here"]);
    }
    let address = serve(pages(
        token(&released).await,
        policy("frame-src https://acme.releasedhub.com"),
    ))
    .await;
    let url = format!("http://{address}/roadmap");
    let output = Run::default()
        .check(&[
            "--page",
            &url,
            "--header",
            "Cookie: id=s3ssion",
            "--hub",
            "portal.example.com",
        ])
        .await;
    output.says(1, &["add https://portal.example.com to frame-src"]);
}

#[tokio::test]
async fn a_page_that_caches_keep_is_noticed() {
    let released = FakeReleased::start().await.unwrap();
    for (headers, parts) in [
        (
            vec![],
            "failed cache the page has a token, and no Cache-Control: no-store",
        ),
        (
            vec![no_store(), (AGE, "90")],
            "failed cache Age: 90, so a cache sent this page",
        ),
    ] {
        let address = serve(pages(token(&released).await, headers)).await;
        let url = format!("http://{address}/roadmap");
        Run::default()
            .check(&["--page", &url, "--header", "Cookie: id=s3ssion"])
            .await
            .says(1, &[parts]);
    }
}

#[tokio::test]
async fn the_html_of_a_page_is_read() {
    let html = |body: &'static str| {
        Router::new().route(
            "/",
            get(async move || ([(CONTENT_TYPE, "text/html")], body)),
        )
    };
    for (app, code, parts) in [
        (
            html("<p>Hello"),
            1,
            &[
                "failed script",
                "failed element",
                "skipped page-token there is no element",
            ][..],
        ),
        (
            html("<script src=https://embed.released.so/1a2b/embed.js></script><div id=root>"),
            0,
            &[
                "ok script a pinned build",
                "warning element none of Released's elements",
            ],
        ),
        (
            html(
                "<script type=text/plain src=https://embed.released.so/1/embed.js></script><released-page channel-id=YOUR-CHANNEL-ID auth-token=undefined>",
            ),
            1,
            &[
                "failed script its type",
                "warning element the channel-id of <released-page> is not a UUID",
                "failed page-token the auth-token of <released-page> is a word for nothing",
            ],
        ),
        (
            html(
                "<script src=/1/embed.js></script><released-form form-id=5e8a1c62-0f0b-4d8e-9a53-2f1f0c8f6b11></released-form><released-page auth-token='{{ token }}'>",
            ),
            1,
            &[
                "warning script",
                "is not Released's",
                "ok element <released-form> with a form-id",
                "failed element <released-page> has no channel-id",
                "failed page-token <released-form> has no auth-token",
                "failed page-token the auth-token of <released-page> is not a token",
            ],
        ),
        (
            html(
                "<script src=https://embed.released.so/1/embed.js></script><released-page channel-id=5e8a1c62-0f0b-4d8e-9a53-2f1f0c8f6b11 data-released-auth=/api/token>",
            ),
            0,
            &[
                "ok script the loader",
                "ok cache no token in the page",
                "ok page-token the browser fetches that of <released-page>",
            ],
        ),
        (Router::new(), 1, &["failed page", "answers 404"]),
    ] {
        let url = format!("http://{}/", serve(app).await);
        Run::default()
            .check(&["--page", &url])
            .await
            .says(code, parts);
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn all_is_well_over_https_and_json_says_the_same() {
    let released = FakeReleased::start().await.unwrap();
    let authority = Authority::new();
    let roots = Roots::of(&authority, "good");
    let policy = (
        CONTENT_SECURITY_POLICY,
        "default-src 'self' https: 'unsafe-inline'",
    );
    let app = pages(token(&released).await, vec![no_store(), policy]);
    let origin = serve_tls(app, authority.server_for("localhost", 2099)).await;
    let url = format!("{origin}/roadmap?q=hidden-part");
    let run = Run::at(&released)
        .set("SSL_CERT_FILE", roots.path())
        .hide("hidden-part");
    let arguments = [
        "--as",
        ID,
        EMAIL,
        "--page",
        &url,
        "--header",
        "Cookie: id=s3ssion",
    ];
    let text = run.check(&arguments).await;
    text.says(
        0,
        &[
            "ok https yes",
            "ok cache no-store, and no Age",
            "ok policy",
            "ok script the loader",
            "ok page-token <released-page>: a JWT",
        ],
    );
    let json = run.check(&[&arguments[..], &["--json"]].concat()).await;
    let report: serde_json::Value = serde_json::from_str(&json.text).unwrap();
    assert_eq!(report["ok"], true);
    let checks: Vec<&str> = report["lines"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| line["check"].as_str().unwrap())
        .collect();
    assert_eq!(
        checks.join(" "),
        "account secret url proxy dns tcp tls answer clock mint token life page https cache policy script element \
         page-token page-life"
    );
}

#[tokio::test]
async fn wrong_arguments_and_a_wrong_configuration_are_2() {
    let none = Run::default();
    none.check(&[]).await.says(
        2,
        &["failed config the environment variable RELEASED_ACCOUNT_ID is not set"],
    );
    let json = none.check(&["--json"]).await;
    assert_eq!(json.code, 2);
    let report: serde_json::Value = serde_json::from_str(&json.text).unwrap();
    assert_eq!(
        (&report["ok"], &report["lines"][0]["check"]),
        (&false.into(), &"config".into())
    );
    Run::with("acc", "s3cret-of-acc", "http://example.com/token")
        .check(&[])
        .await
        .says(2, &["must be https"]);
    for arguments in [
        &["--as", ID][..],
        &["--as", ID, "no-address"],
        &["--page", "example.com"],
        &["--page", "https://example.com", "--header", "s3ssion"],
        &["--lovelace"],
    ] {
        none.check(arguments).await.says(2, &["error: "]);
    }
    let help = none.check(&["--help"]).await;
    assert_eq!(help.code, 0);
    for word in [
        "RELEASED_SHARED_SECRET_FILE",
        "--as <ID> <EMAIL>",
        "Exit codes",
    ] {
        assert!(help.text.contains(word), "{}", help.text);
    }
}

/// A page with this HTML and these headers.
async fn page(html: &'static str, headers: &[(HeaderName, &'static str)]) -> String {
    let headers = headers.to_vec();
    let page = get(async move || {
        let mut answer = ([(CONTENT_TYPE, "text/html")], html).into_response();
        for (name, value) in &headers {
            answer.headers_mut().append(name, value.parse().unwrap());
        }
        answer
    });
    format!("http://{}/", serve(Router::new().route("/", page)).await)
}

#[tokio::test]
async fn what_a_redirect_or_a_script_says_of_a_visitor_is_not_shown() {
    // `check` looks for these words in every output.
    for target in [
        "/verify/eyJhbGciOiJIUzI1NiJ9.e30.c2ln",
        "/welcome/lovelace@example.com",
        "/welcome/lovelace%40example.com",
        "/account;jsessionid=s3ssion",
    ] {
        let redirect = get(async move || (StatusCode::FOUND, [(LOCATION, target)]));
        let app = Router::new().route("/", redirect);
        let url = format!("http://{}/", serve(app).await);
        let output = Run::default().check(&["--page", &url]).await;
        output.says(1, &["failed page", "answers 404"]);
    }
    let target = format!(
        "http://lovelace:s3ssion@{}/somewhere",
        serve(Router::new()).await
    );
    let redirect = get(async move || (StatusCode::FOUND, [(LOCATION, target)]));
    let url = format!(
        "http://{}/",
        serve(Router::new().route("/", redirect)).await
    );
    let output = Run::default().check(&["--page", &url]).await;
    output.says(1, &["failed page", "/somewhere answers 404"]);

    let url = page(
        "<script src=https://lovelace:s3ssion@cdn.example/1/embed.js></script>",
        &[],
    )
    .await;
    let output = Run::default().check(&["--page", &url]).await;
    output.says(
        0,
        &["warning script https://cdn.example/1/embed.js is not Released's"],
    );
}

#[tokio::test]
async fn the_script_that_the_browser_runs_is_the_one_that_is_looked_at() {
    for (html, code, parts) in [
        // Another service's script with the same name.
        (
            "<script src=//embed.typeform.com/next/embed.js></script>\
             <script src=https://embed.released.so/1/embed.js></script><div id=root>",
            1,
            &[
                "failed policy script-src blocks Released's script",
                "add https://embed.released.so to script-src",
                "ok script the loader of embed.released.so",
            ][..],
        ),
        // A consent manager's copy, and one that runs.
        (
            "<script type=text/plain src=https://embed.released.so/1/embed.js></script>\
             <script src=https://embed.released.so/1a2b/embed.js></script>",
            1,
            &["ok script a pinned build of embed.released.so"],
        ),
        (
            "<base href=https://embed.released.so/1/><base href=/2/><script src=embed.js></script>",
            1,
            &["ok script the loader of embed.released.so"],
        ),
    ] {
        let policy = (
            CONTENT_SECURITY_POLICY,
            "script-src https://embed.typeform.com",
        );
        let url = page(html, &[policy]).await;
        let output = Run::default().check(&["--page", &url]).await;
        output.says(code, parts);
    }
}

#[tokio::test]
async fn an_embedder_policy_that_also_names_a_report_is_one() {
    let name = HeaderName::from_static("cross-origin-embedder-policy");
    let url = page("", &[(name, "require-corp; report-to=\"default\"")]).await;
    let output = Run::default().check(&["--page", &url]).await;
    output.says(1, &["warning policy Cross-Origin-Embedder-Policy"]);
}

#[tokio::test]
async fn a_header_that_lets_a_cdn_keep_a_token_is_noticed() {
    let released = FakeReleased::start().await.unwrap();
    for name in ["cdn-cache-control", "surrogate-control"] {
        let headers = vec![no_store(), (HeaderName::from_static(name), "max-age=600")];
        let address = serve(pages(token(&released).await, headers)).await;
        let url = format!("http://{address}/roadmap");
        Run::default()
            .check(&["--page", &url, "--header", "Cookie: id=s3ssion"])
            .await
            .says(1, &[&format!("failed cache {name} tells CDNs")]);
    }
    let harmless = HeaderName::from_static("cdn-cache-control");
    let headers = vec![no_store(), (harmless, "no-store")];
    let address = serve(pages(token(&released).await, headers)).await;
    let url = format!("http://{address}/roadmap");
    Run::default()
        .check(&["--page", &url, "--header", "Cookie: id=s3ssion"])
        .await
        .says(0, &["ok cache no-store"]);
}

#[tokio::test]
async fn a_page_in_utf_16_is_not_taken_for_one_without_an_embed() {
    let html = "<script src=https://embed.released.so/1/embed.js></script>";
    let body: Vec<u8> = "\u{feff}"
        .encode_utf16()
        .chain(html.encode_utf16())
        .flat_map(u16::to_le_bytes)
        .collect();
    let page = get(async move || ([(CONTENT_TYPE, "text/html")], body));
    let url = format!("http://{}/", serve(Router::new().route("/", page)).await);
    let output = Run::default().check(&["--page", &url]).await;
    output.says(
        1,
        &["failed page", "UTF-16", "skipped this is not the page"],
    );
    assert!(!output.words.contains("failed script"), "{}", output.text);
}

#[tokio::test]
async fn what_to_do_about_a_proxy_is_said_where_the_proxy_is_the_reason() {
    let closed = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .unwrap()
        .local_addr()
        .unwrap();
    // A page is not Released.
    let run = Run::default().set("HTTPS_PROXY", &format!("http://lovelace:s3ssion@{closed}"));
    let output = run.check(&["--page", "https://app.example.com/"]).await;
    output.says(
        1,
        &["failed page the proxy opened no connection to app.example.com:443 do this: check HTTPS_PROXY"],
    );
    assert!(
        !output.words.contains("connections to Released"),
        "{}",
        output.text
    );

    let socks = format!("socks5://lovelace:s3ssion@{closed}");
    let run = Run::default().set("HTTPS_PROXY", &socks);
    let output = run.check(&["--page", "https://app.example.com/"]).await;
    output.says(1, &["failed page", "HTTPS_PROXY", "NO_PROXY"]);
    assert!(!output.words.contains("token URL"), "{}", output.text);

    let run = Run::with("acc", "s3cret-of-acc", "https://nowhere.invalid/token")
        .set("HTTPS_PROXY", &socks);
    let output = run.check(&[]).await;
    output.says(2, &["failed config", "HTTPS_PROXY", "NO_PROXY"]);
    // The variables that the help lists are all set.
    assert!(!output.words.contains("--help"), "{}", output.text);
}

#[tokio::test]
async fn an_id_may_start_with_a_hyphen() {
    let released = FakeReleased::start().await.unwrap();
    let run = Run::at(&released);
    run.check(&["--as", "-V1StGXR8_Z5jdHi6B", EMAIL])
        .await
        .says(0, &["ok mint"]);
}

#[tokio::test]
async fn a_redirect_is_followed_as_browsers_follow_it() {
    // They take the bytes for UTF-8 and encode them.
    let location = HeaderValue::from_bytes("/zugang/für-alle".as_bytes()).unwrap();
    let app = Router::new()
        .route(
            "/",
            get(async move || (StatusCode::FOUND, [(LOCATION, location.clone())])),
        )
        .route(
            "/zugang/{name}",
            get(async || {
                let html = "<form><input type=password></form>";
                ([(CONTENT_TYPE, "text/html")], html)
            }),
        );
    let url = format!("http://{}/", serve(app).await);
    let output = Run::default().check(&["--page", &url]).await;
    output.says(1, &["failed page redirects to a sign-in page"]);
}

#[tokio::test]
async fn a_sign_in_that_cannot_be_reached_is_not_taken_for_the_page() {
    let closed = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .unwrap()
        .local_addr()
        .unwrap();
    for (path, cure) in [
        ("sso/start", "do this: pass the cookie of a signed-in user"),
        ("news", "do this: check the URL of the page"),
    ] {
        let target = format!("http://{closed}/{path}?next=s3ssion");
        let redirect = get(async move || (StatusCode::FOUND, [(LOCATION, target.clone())]));
        let url = format!(
            "http://{}/",
            serve(Router::new().route("/", redirect)).await
        );
        let output = Run::default().check(&["--page", &url]).await;
        let found = format!(
            "failed page redirects to http://{closed}/{path}: connection refused by {closed}"
        );
        output.says(1, &[&found, cure]);
    }
}
