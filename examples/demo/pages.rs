//! The pages, each of which shows one way to have an embed.

use std::fmt;

use axum::Extension;
use axum::extract::State;
use axum::http::header::CACHE_CONTROL;
use axum::response::{Html, IntoResponse};
use tower_released::embed::{self, ColorScheme, Modules, Position, Script};
use tower_released::{AuthToken, AuthTokenRejection, User};
use tracing::info;

use crate::site::{CurrentUser, Nonce, Portal, SignedIn, USERS};

const NAVIGATION: &[(&str, &str)] = &[
    ("/", "Roadmap"),
    ("/widget", "Widget and form"),
    ("/strict", "Strict policy"),
    ("/static", "Cached page"),
    ("/swap", "Swapped in"),
    ("/facts", "Facts"),
    ("/about", "About"),
];

const FORM: &str = "demo-form";

type Token = Result<AuthToken, AuthTokenRejection>;

/// The page with the portal. It works without a token, too: an outage of Released costs the portal, not the page.
pub(crate) async fn roadmap(
    State(portal): State<Portal>,
    user: SignedIn,
    token: Token,
) -> Html<String> {
    let element = portal_of(&portal).maybe_token(token.as_ref().ok());
    let body = format!(
        r#"<p class="lead">What we are building next, for customers only.</p>
{element}
<p class="note">{}</p>
<section>
  <h2>For single-page apps</h2>
  <p>The same resolver serves <code>POST /api/released-token</code>.</p>
  <button type="button" id="ask">Ask for a token</button> <output id="answer"></output>
</section>"#,
        note(&token),
    );
    Page::new("/", "Roadmap", body)
        .with_embeds(&portal)
        .personal(user)
        .render(&portal)
}

/// A widget, and a form that a button opens. One token serves both.
pub(crate) async fn widget(
    State(portal): State<Portal>,
    user: SignedIn,
    token: Token,
) -> Html<String> {
    let widget = embed::widget(&portal.channel_id)
        .title("What's new")
        .position(Position::BottomRight)
        .trigger("#news");
    let form = embed::form(FORM)
        .title("Tell us")
        .placeholder("What do you miss?")
        .dialog(true);
    let body = format!(
        r#"<p class="lead">One token is enough for all the embeds of a page.</p>
<p><button type="button" id="news">What's new</button>
<button type="button" id="feedback" data-form="{FORM}">Give feedback</button></p>
{}
{}
<p class="note">{}</p>"#,
        widget.maybe_token(token.as_ref().ok()),
        form.maybe_token(token.as_ref().ok()),
        note(&token),
    );
    Page::new("/widget", "Widget and form", body)
        .with_embeds(&portal)
        .personal(user)
        .render(&portal)
}

/// The portal under a Content-Security-Policy that allows nothing by itself.
pub(crate) async fn strict(
    State(portal): State<Portal>,
    Extension(Nonce(nonce)): Extension<Nonce>,
    user: SignedIn,
    token: Token,
) -> Html<String> {
    let element = portal_of(&portal).maybe_token(token.as_ref().ok());
    let body = format!(
        r#"<p class="lead">The policy of this page is <code>default-src 'none'</code> and little else.</p>
{element}
<p class="note">The <code>CspLayer</code> added what the embed needs, because there is a token. {}</p>"#,
        note(&token),
    );
    let page = Page::new("/strict", "Strict policy", body)
        .with_embeds(&portal)
        .personal(user);
    page.with_nonce(&nonce).render(&portal)
}

/// The same bytes for everybody: caches may keep it, and the script fetches the token.
pub(crate) async fn cacheable(State(portal): State<Portal>) -> impl IntoResponse {
    let element = portal_of(&portal).token_from("/api/released-token");
    let body = format!(
        r#"<p class="lead">A cache may keep this page: it is the same for everybody.</p>
{element}
<p class="note" id="script-note">The script asks for a token …</p>"#
    );
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
    let element = portal_of(&portal).token_from("/api/released-token");
    let body =
        format!(r#"{element}<p class="note" id="script-note">The script asks for a token …</p>"#);
    let page = Page::new("/static-strict", "Script under a strict policy", body)
        .with_embeds(&portal)
        .with_token_script();
    (
        [(CACHE_CONTROL, "no-store")],
        page.with_nonce(&nonce).render(&portal),
    )
}

/// A page into which htmx swaps the portal.
pub(crate) async fn swap(State(portal): State<Portal>, user: SignedIn) -> Html<String> {
    let body = r##"<p class="lead">htmx swaps the portal in, with a token or with the script's mark.</p>
<p><button type="button" hx-get="/swap/portal" hx-target="#slot">Swap in, with a token</button>
<button type="button" id="by-script" hx-get="/swap/portal?by=script" hx-target="#slot">Swap in, for the script</button></p>
<div id="slot" hx-history="false"></div>
<p class="note" id="script-note"></p>"##;
    let page = Page::new("/swap", "Swapped in", body.to_owned())
        .with_embeds(&portal)
        .with_token_script();
    page.with_head(r#"<script src="/htmx.js" defer></script>"#)
        .personal(user)
        .render(&portal)
}

/// What is swapped in: a fragment with a token of its own, or one for which the script fetches it.
pub(crate) async fn portal_fragment(
    State(portal): State<Portal>,
    query: axum::extract::RawQuery,
    token: Option<AuthToken>,
) -> Html<String> {
    let element = portal_of(&portal);
    Html(match query.0.as_deref() {
        Some("by=script") => element.token_from("/api/released-token").to_string(),
        _ => element.maybe_token(token.as_ref()).to_string(),
    })
}

/// What Released does where its documentation says nothing; see `facts.js`.
pub(crate) fn facts(portal: &Portal, first: &User, second: &User) -> Html<String> {
    let name = |user: &User| Escaped(user.name().unwrap_or_default()).to_string();
    let body = format!(
        r#"<p class="lead">What does Released do where its documentation says nothing?</p>
<p>Seven experiments run in this browser, against what this demo mints at. They take about a minute, and mint some ten tokens for
{first} and {second}. With an account of Released, open this page in a private window, or a session that is still open decides.</p>
<p><button type="button" id="run">Run the experiments</button></p>
<table id="answers"></table>
<h2>The report</h2>
<p>It names your hub, and no token, id or e-mail address. Paste it into an issue.</p>
<p><textarea id="report" rows="12" readonly aria-label="The report"></textarea></p>
<p><button type="button" id="copy">Copy the report</button></p>
<div id="asked"></div>
<div id="triggers"></div>
<div id="stage"></div>
<div id="facts" data-channel="{channel}" data-form="{FORM}" data-first="{first}" data-second="{second}" hidden></div>
<script src="/facts.js" defer></script>"#,
        channel = Escaped(&portal.channel_id),
        first = name(first),
        second = name(second),
    );
    Page::new("/facts", "Facts", body)
        .with_embeds(portal)
        .render(portal)
}

/// A page without an embed. It is outside of the layer, so nothing is minted for it.
pub(crate) async fn about(State(portal): State<Portal>, user: SignedIn) -> Html<String> {
    let source = match portal.fake {
        Some(_) => {
            "a fake of Released that runs in this process; its embeds only show whom it verified"
        }
        None => "Released itself",
    };
    let body = format!(
        r#"<p class="lead">This page has no embed.</p>
<p>Its route stands outside of the <code>ReleasedTokenLayer</code>, so no token was minted for it.</p>
<p>Tokens come from {source}.</p>"#
    );
    Page::new("/about", "About", body)
        .personal(user)
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
    body: String,
    scripts: Vec<Script>,
    head: &'static str,
    /// Who is signed in, on pages that say so.
    user: Option<SignedIn>,
    nonce: Option<String>,
}

impl Page {
    fn new(path: &'static str, title: &'static str, body: String) -> Self {
        let scripts = vec![embed::script().src("/demo.js")];
        Self {
            path,
            title,
            body,
            scripts,
            head: "",
            user: None,
            nonce: None,
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
        self.scripts
            .push(embed::token_script_tag("/released-token.js"));
        self
    }

    fn with_head(mut self, head: &'static str) -> Self {
        self.head = head;
        self
    }

    fn with_nonce(mut self, nonce: &str) -> Self {
        self.nonce = Some(nonce.to_owned());
        self
    }

    fn personal(mut self, user: SignedIn) -> Self {
        self.user = Some(user);
        self
    }

    fn render(self, portal: &Portal) -> Html<String> {
        let mut head = self.head.to_owned();
        for script in self.scripts {
            let script = match &self.nonce {
                // Hexadecimal digits are base64.
                Some(nonce) => script.clone().nonce(nonce).unwrap_or(script),
                None => script,
            };
            head.push_str(&script.to_string());
        }
        let navigation = NAVIGATION.iter().map(|(path, name)| {
            let current = if *path == self.path {
                " aria-current=\"page\""
            } else {
                ""
            };
            format!("<a href=\"{path}\"{current}>{name}</a>")
        });
        // A page that is the same for everybody says nothing of the moment.
        let current = if self.user.is_some() {
            portal.fault.lock().ok().map(|fault| fault.clone())
        } else {
            None
        };
        let footer = if portal.fake.is_some() {
            faults(&current.unwrap_or_default())
        } else {
            String::new()
        };
        Html(
            include_str!("assets/page.html")
                .replace("{title}", self.title)
                .replace("{head}", &head)
                .replace(
                    "{account}",
                    &self
                        .user
                        .map_or_else(String::new, |user| account(user.as_deref())),
                )
                .replace("{navigation}", &navigation.collect::<String>())
                .replace("{footer}", &footer)
                .replace("{body}", &self.body),
        )
    }
}

/// The buttons to break Released with.
fn faults(current: &str) -> String {
    const FAULTS: &[(&str, &str)] = &[
        ("well", "well"),
        ("slow", "slow"),
        ("down", "down"),
        ("late", "late: its tokens have expired"),
    ];
    let buttons = FAULTS.iter().map(|(fault, name)| {
        let pressed = *fault == current;
        format!(r#"<button name="fault" value="{fault}" aria-pressed="{pressed}">{name}</button>"#)
    });
    let buttons = buttons.collect::<String>();
    format!(
        r#"<footer><form method="post" action="/fault"><span>The fake of Released is</span>{buttons}</form></footer>"#
    )
}

/// The buttons to sign in with.
fn account(user: Option<&CurrentUser>) -> String {
    let choices = USERS
        .iter()
        .map(|choice| (choice.id, choice.name))
        .chain([("nobody", "Nobody")]);
    let buttons = choices.map(|(id, name)| {
        let pressed = user.map_or("nobody", |user| user.id) == id;
        format!(
            r#"<button name="user" value="{id}" aria-pressed="{pressed}">{}</button>"#,
            Escaped(name)
        )
    });
    format!(
        r#"<form method="post" action="/sign-in" aria-label="Signed in as">{}</form>"#,
        buttons.collect::<String>()
    )
}

/// Text between tags, or in quotes.
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
