//! The pages, each of which shows one way to have an embed.

use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::header::CACHE_CONTROL;
use axum::response::IntoResponse;
use maud::{DOCTYPE, Markup, html};
use tower_released::client::{CircuitReason, CircuitState, Status};
use tower_released::embed::{self, ColorScheme, Modules, Position, Script};
use tower_released::{AuthToken, AuthTokenRejection, User};
use tracing::info;

use crate::site::{Nonce, Portal};
use crate::users::{ACCOUNTS, Account, AuthSession};

const NAVIGATION: &[(&str, &str)] = &[
    ("/", "Roadmap"),
    ("/widget", "Widget and form"),
    ("/strict", "Strict policy"),
    ("/static", "Cached page"),
    ("/swap", "Swapped in"),
    ("/status", "Status"),
    ("/facts", "Facts"),
    ("/about", "About"),
];

/// Returns the path of the page in the navigation that has this path, or of the first page.
pub(crate) fn path_of(path: &str) -> &'static str {
    let mut paths = NAVIGATION.iter().map(|(path, _)| *path);
    paths.find(|known| *known == path).unwrap_or("/")
}

const FORM: &str = "demo-form";

type Token = Result<AuthToken, AuthTokenRejection>;

/// The page with the portal. It works without a token, too: an outage of Released costs the portal, not the page.
pub(crate) async fn roadmap(
    State(portal): State<Portal>,
    auth: AuthSession,
    token: Token,
) -> Markup {
    let body = html! {
        p.lead { "What we are building next, for customers only." }
        (portal_of(&portal).maybe_token(token.as_ref().ok()))
        p.note { (note(&token)) }
        section {
            h2 { "For single-page apps" }
            p { "The same resolver serves " code { "POST /api/released-token" } "." }
            button type="button" id="ask" { "Ask for a token" }
            " " output id="answer" {}
        }
    };
    Page::new("/", "Roadmap", body)
        .with_embeds(&portal)
        .personal(auth)
        .render(&portal)
}

/// A widget, and a form that a button opens. One token serves both.
pub(crate) async fn widget(
    State(portal): State<Portal>,
    auth: AuthSession,
    token: Token,
) -> Markup {
    let widget = embed::widget(&portal.channel_id)
        .title("What's new")
        .position(Position::BottomRight)
        .trigger("#news");
    let form = embed::form(FORM)
        .title("Tell us")
        .placeholder("What do you miss?")
        .dialog(true);
    let body = html! {
        p.lead { "One token is enough for all the embeds of a page." }
        p {
            button type="button" id="news" { "What's new" }
            " "
            button type="button" id="feedback" data-form=(FORM) { "Give feedback" }
        }
        (widget.maybe_token(token.as_ref().ok()))
        (form.maybe_token(token.as_ref().ok()))
        p.note { (note(&token)) }
    };
    Page::new("/widget", "Widget and form", body)
        .with_embeds(&portal)
        .personal(auth)
        .render(&portal)
}

/// The portal under a Content-Security-Policy that allows nothing by itself.
pub(crate) async fn strict(
    State(portal): State<Portal>,
    Extension(Nonce(nonce)): Extension<Nonce>,
    auth: AuthSession,
    token: Token,
) -> Markup {
    let body = html! {
        p.lead { "The policy of this page is " code { "default-src 'none'" } " and little else." }
        (portal_of(&portal).maybe_token(token.as_ref().ok()))
        p.note { "The " code { "CspLayer" } " added what the embed needs. " (note(&token)) }
    };
    Page::new("/strict", "Strict policy", body)
        .with_embeds(&portal)
        .personal(auth)
        .with_nonce(&nonce)
        .render(&portal)
}

/// The same bytes for everybody: caches may keep it, and the script fetches the token.
pub(crate) async fn cacheable(State(portal): State<Portal>) -> impl IntoResponse {
    let body = html! {
        p.lead { "A cache may keep this page: it is the same for everybody." }
        (portal_of(&portal).token_from("/api/released-token"))
        p.note id="script-note" { "The script asks for a token …" }
    };
    let page = Page::new("/static", "Cached page", body)
        .with_embeds(&portal)
        .with_token_script();
    (
        [(CACHE_CONTROL, "public, max-age=60")],
        page.render(&portal),
    )
}

/// The same under a policy that allows nothing by itself. A nonce is never cached, so neither is this page.
pub(crate) async fn cacheable_strict(
    State(portal): State<Portal>,
    Extension(Nonce(nonce)): Extension<Nonce>,
) -> impl IntoResponse {
    let body = html! {
        (portal_of(&portal).token_from("/api/released-token"))
        p.note id="script-note" { "The script asks for a token …" }
    };
    let page = Page::new("/static-strict", "Script under a strict policy", body)
        .with_embeds(&portal)
        .with_token_script()
        .with_nonce(&nonce);
    ([(CACHE_CONTROL, "no-store")], page.render(&portal))
}

/// A page into which htmx swaps the portal.
pub(crate) async fn swap(State(portal): State<Portal>, auth: AuthSession) -> Markup {
    let body = html! {
        p.lead { "htmx swaps the portal in, with a token or with the script's mark." }
        p {
            button type="button" hx-get="/swap/portal" hx-target="#slot" { "Swap in, with a token" }
            " "
            button type="button" id="by-script" hx-get="/swap/portal?by=script" hx-target="#slot" {
                "Swap in, for the script"
            }
        }
        div id="slot" hx-history="false" {}
        p.note id="script-note" {}
    };
    let mut page = Page::new("/swap", "Swapped in", body)
        .with_embeds(&portal)
        .with_token_script();
    page.scripts.push(embed::script().src("/htmx.js"));
    page.personal(auth).render(&portal)
}

/// What is swapped in: a fragment with a token of its own, or one for which the script fetches it.
pub(crate) async fn portal_fragment(
    State(portal): State<Portal>,
    query: axum::extract::RawQuery,
    token: Option<AuthToken>,
) -> Markup {
    let element = portal_of(&portal);
    let by_script = query.0.as_deref() == Some("by=script");
    html! {
        @if by_script { (element.token_from("/api/released-token")) }
        @else { (element.maybe_token(token.as_ref())) }
    }
}

/// What Released does where its documentation says nothing; see `facts.js`.
pub(crate) fn facts(portal: &Portal, first: &User, second: &User) -> Markup {
    let (first, second) = (
        first.name().unwrap_or_default(),
        second.name().unwrap_or_default(),
    );
    let body = html! {
        p.lead { "What does Released do where its documentation says nothing?" }
        p {
            "Seven experiments run in this browser, against what this demo mints at. They take about a minute, and mint some twelve \
             tokens for " (first) " and " (second) ". With an account of Released, open this page in a private window, or a \
             session that is still open decides."
        }
        p { button type="button" id="run" { "Run the experiments" } }
        table id="answers" {}
        h2 { "The report" }
        p { "It names your hub, and no token, id or e-mail address. Paste it into an issue." }
        p { textarea id="report" rows="12" readonly aria-label="The report" {} }
        p { button type="button" id="copy" { "Copy the report" } }
        div id="asked" {}
        div id="triggers" {}
        div id="stage" {}
        div id="facts" data-channel=(portal.channel_id) data-form=(FORM) data-first=(first) data-second=(second) hidden {}
        script src="/facts.js" defer {}
    };
    Page::new("/facts", "Facts", body)
        .with_embeds(portal)
        .render(portal)
}

/// What the client knows of Released. Nothing is minted for the page itself.
pub(crate) fn status(portal: &Portal, auth: AuthSession, status: &Status) -> Markup {
    let body = html! {
        p.lead { "What " code { "ReleasedClient::status()" } " returns, once a second." }
        div id="status" { (status_table(status)) }
        @if portal.fake.is_some() {
            form method="post" action="/status/mint" {
                button id="mint" { "Mint six tokens" }
                span.note { "Break Released with the buttons below, then mint." }
            }
        }
        p.note {
            "The circuit opens after five failures in a row. Then mints fail at once, and after some seconds one of them probes: mint \
             again to see it. None of this is a secret, but it is for operators: a real site shows it to them alone."
        }
    };
    Page::new("/status", "Status", body)
        .personal(auth)
        .render(portal)
}

pub(crate) fn status_table(status: &Status) -> Markup {
    let ago = |time: Duration| format!("{} s ago", time.as_secs());
    let meaning = match status.circuit {
        CircuitState::Closed => "mints are sent".to_owned(),
        CircuitState::Open { remaining, .. } if remaining.is_zero() => {
            "the next mint probes".to_owned()
        }
        CircuitState::Open { remaining, .. } => {
            format!("mints fail at once, for {:.1} s", remaining.as_secs_f32())
        }
        CircuitState::Probing { .. } => "one mint probes, the others fail at once".to_owned(),
        _ => "mints fail at once".to_owned(),
    };
    let rows = [
        ("Circuit", format!("{}: {meaning}", status.circuit.as_str())),
        (
            "Reason",
            status
                .circuit
                .reason()
                .map_or("-", CircuitReason::as_str)
                .to_owned(),
        ),
        ("Mints in flight", status.mints_in_flight.to_string()),
        (
            "Last success",
            status.last_success.map_or("-".to_owned(), ago),
        ),
        (
            "Last error",
            status.last_error.map_or("-".to_owned(), |error| {
                format!("{}, {}", error.kind.as_str(), ago(error.age))
            }),
        ),
        (
            "Generation of the secret",
            status.secret_generation.to_string(),
        ),
    ];
    html! {
        table data-circuit=(status.circuit.as_str()) {
            @for (name, value) in rows { tr { td { (name) } td { (value) } } }
        }
    }
}

/// A page without an embed. It is outside of the layer, so nothing is minted for it.
pub(crate) async fn about(State(portal): State<Portal>, auth: AuthSession) -> Markup {
    let body = html! {
        p.lead { "This page has no embed." }
        p {
            "Its route stands outside of the " code { "ReleasedTokenLayer" } ", so no token was minted for it."
        }
        p {
            "Tokens come from "
            @if portal.fake.is_some() {
                "a fake of Released that runs in this process; its embeds show only the name of the verified user."
            } @else {
                "Released itself."
            }
        }
    };
    Page::new("/about", "About", body)
        .personal(auth)
        .render(&portal)
}

fn portal_of(portal: &Portal) -> embed::Page {
    embed::page(&portal.channel_id)
        .modules(Modules::All)
        .color_scheme(ColorScheme::System)
}

fn note(token: &Token) -> String {
    match token {
        Ok(token) => {
            let seconds = token.remaining().as_secs();
            info!("minted a token for this page; the embed has {seconds} s to use it");
            format!("A token was minted for this page. The embed had {seconds} s to use it.")
        }
        Err(AuthTokenRejection::Anonymous) => {
            "Nobody is signed in, so nothing was minted. Choose somebody above.".to_owned()
        }
        Err(rejection) => {
            info!("this page goes without a token: {rejection}");
            "There is no token right now, and the page works all the same.".to_owned()
        }
    }
}

/// A page around a body.
struct Page {
    path: &'static str,
    title: &'static str,
    body: Markup,
    scripts: Vec<Script>,
    /// The session, on pages that say who is signed in.
    auth: Option<AuthSession>,
}

impl Page {
    fn new(path: &'static str, title: &'static str, body: Markup) -> Self {
        let scripts = vec![embed::script().src("/demo.js")];
        Self {
            path,
            title,
            body,
            scripts,
            auth: None,
        }
    }

    fn with_embeds(mut self, portal: &Portal) -> Self {
        self.scripts.push(match &portal.fake {
            Some(fake) => embed::script().src(fake.embed_script_url()),
            None => embed::script(),
        });
        self
    }

    fn with_token_script(mut self) -> Self {
        let script = embed::token_script_tag("/released-token.js");
        self.scripts.push(script);
        self
    }

    fn with_nonce(mut self, nonce: &str) -> Self {
        for script in &mut self.scripts {
            // Hexadecimal digits are base64.
            if let Ok(with_nonce) = script.clone().nonce(nonce) {
                *script = with_nonce;
            }
        }
        self
    }

    fn personal(mut self, auth: AuthSession) -> Self {
        self.auth = Some(auth);
        self
    }

    fn render(self, portal: &Portal) -> Markup {
        // A page that is the same for everybody says nothing of the moment.
        let fault = self
            .auth
            .as_ref()
            .and_then(|_| portal.fault.lock().ok().map(|fault| fault.clone()));
        html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    title { (self.title) " · Tidewater" }
                    link rel="icon" href="data:,";
                    link rel="stylesheet" href="/demo.css";
                    @for script in &self.scripts { (script) }
                }
                body {
                    header {
                        a.brand href="/" { "Tidewater" }
                        @if let Some(auth) = &self.auth { (account(auth.user.as_ref())) }
                    }
                    nav {
                        @for (path, name) in NAVIGATION {
                            a href=(path) aria-current=[(*path == self.path).then_some("page")] { (name) }
                        }
                    }
                    main {
                        h1 { (self.title) }
                        (self.body)
                    }
                    @if portal.fake.is_some() { (faults(self.path, &fault.unwrap_or_default())) }
                }
            }
        }
    }
}

/// The buttons to break Released with.
fn faults(page: &str, current: &str) -> Markup {
    const FAULTS: &[(&str, &str)] = &[
        ("well", "well"),
        ("slow", "slow"),
        ("down", "down"),
        ("refusing", "refusing"),
        ("late", "late: its tokens expired"),
    ];
    html! {
        footer {
            form method="post" action="/fault" {
                span { "The fake of Released is" }
                input type="hidden" name="page" value=(page);
                @for (fault, name) in FAULTS {
                    button name="fault" value=(fault) aria-pressed=(*fault == current) { (name) }
                }
            }
        }
    }
}

/// The buttons to sign in with.
fn account(user: Option<&Account>) -> Markup {
    let choices = ACCOUNTS.iter().map(|choice| (choice.id, choice.name));
    let current = user.map_or("nobody", |user| user.id);
    html! {
        form method="post" action="/sign-in" aria-label="Signed in as" {
            @for (id, name) in choices.chain([("nobody", "Nobody")]) {
                button name="user" value=(id) aria-pressed=(id == current) { (name) }
            }
        }
    }
}
