//! The demo in a real browser: headless Chromium, driven through `WebDriver`.
//!
//! It needs the programs `chromium` and `chromedriver`. Without them the tests are ignored; with the variable
//! `TOWER_RELEASED_BROWSER` set to `required`, they fail. Those with Turbo also need what `.ci/run javascript` installs.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fantoccini::{Client, ClientBuilder, Locator};
use libtest_mimic::{Arguments, Trial};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tower_released::testing::{FakeReleased, Reply};

#[path = "../examples/demo/facts.rs"]
mod facts;
#[path = "browser/facts.rs"]
mod facts_page;
#[path = "browser/fill.rs"]
mod fill;
#[path = "browser/lab.rs"]
mod lab;
#[path = "../examples/demo/pages.rs"]
mod pages;
#[path = "browser/react.rs"]
mod react;
#[path = "../examples/demo/site.rs"]
mod site;
#[path = "../examples/demo/status.rs"]
mod status;
#[path = "browser/token_script.rs"]
mod token_script;
#[path = "../examples/demo/users.rs"]
mod users;

use lab::Lab;

/// More than anything takes that is waited for, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(60);

/// Each of these runs on a runtime of its own, with a browser of its own. (The compiler warns of one that is not listed.)
macro_rules! trials {
    ($($test:ident,)*) => { vec![$(crate::trial(stringify!($test), $test)),*] };
}
use trials;

fn main() -> ExitCode {
    let is_required =
        std::env::var("TOWER_RELEASED_BROWSER").is_ok_and(|value| value == "required");
    let is_ignored = !is_required && !is_browser_there();
    let trials = trials![
        a_page_with_a_token_is_verified,
        nobody_and_an_outage_leave_the_page,
        a_token_that_is_too_old_is_denied,
        the_strictest_policy_is_not_violated,
        two_tabs_of_two_users_are_not_mixed_up,
        a_hostile_name_changes_nothing,
        the_page_on_the_status_shows_an_outage_by_itself,
        a_cached_page_asks_for_its_token_itself_and_once,
        an_embed_that_is_added_late_is_verified,
        a_401_stops_the_script,
        the_script_goes_on_when_the_outage_is_over,
        a_page_that_comes_back_from_the_back_forward_cache_after_its_tickets_life_is_verified,
        a_page_that_comes_back_before_released_own_script_is_there_is_verified_later,
        a_cached_page_works_under_a_policy_that_allows_nothing_by_itself,
        the_endpoint_keeps_the_contract_of_the_vendors_demo,
    ];
    // What needs a package of npm's, or a page that npm builds, is ignored where it is not there.
    let groups = [
        (trials, true),
        (token_script::trials(), true),
        (facts_page::trials(), true),
        (fill::trials(), true),
        (token_script::trials_with_turbo(), lab::is_turbo_there()),
        (react::trials(), react::is_page_there()),
    ];
    let trials = groups.into_iter().flat_map(|(trials, is_there)| {
        let is_ignored = is_ignored || (!is_there && !is_required);
        trials
            .into_iter()
            .map(move |trial| trial.with_ignored_flag(is_ignored))
    });
    let trials = trials.collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn trial<F: Future<Output = ()>>(
    name: &str,
    test: impl FnOnce(Setup) -> F + Send + 'static,
) -> Trial {
    Trial::test(name, move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async { test(Setup::new().await).await });
        Ok(())
    })
}

fn is_browser_there() -> bool {
    ["chromium", "chromedriver"]
        .iter()
        .all(|program| Command::new(program).arg("--version").output().is_ok())
}

/// The demo, the fake behind it, and a browser to look at it with.
struct Setup {
    released: Arc<FakeReleased>,
    lab: Lab,
    origin: String,
    browser: Client,
    // It ends the browser, and removes its profile.
    _driver: Driver,
}

struct Driver {
    process: Child,
    profile: PathBuf,
}

impl Driver {
    /// Starts one on a free port. It takes the port twice, for both versions of IP, so another may come in between.
    async fn start(profile: PathBuf) -> (Self, u16) {
        for _ in 0..10 {
            let mut process = Command::new("chromedriver")
                .arg("--port=0")
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut said = BufReader::new(process.stdout.take().unwrap()).lines();
            let driver = Self {
                process,
                profile: profile.clone(),
            };
            let port = tokio::task::spawn_blocking(move || {
                let port = said.by_ref().map_while(Result::ok).find_map(|line| {
                    let (_, port) = line.split_once("started successfully on port ")?;
                    port.trim_end_matches('.').parse::<u16>().ok()
                });
                // It must not be stopped by a pipe that nobody reads.
                std::thread::spawn(move || said.for_each(drop));
                port
            });
            if let Some(port) = port.await.unwrap() {
                return (driver, port);
            }
        }
        panic!("chromedriver finds no port");
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        // The browser outlives its driver, in process groups of its own; all of it names its profile.
        let _ = Command::new("pkill")
            .arg("-KILL")
            .arg("-f")
            .arg(&self.profile)
            .status();
        let _ = std::fs::remove_dir_all(&self.profile);
    }
}

impl Setup {
    async fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);

        assert!(
            is_browser_there(),
            "chromium and chromedriver are required, and not there"
        );
        let released = Arc::new(FakeReleased::start().await.unwrap());
        let portal = site::Portal::new("demo-channel", Some(Arc::clone(&released)));
        let lab = Lab::new();
        let site = site::site(released.client().unwrap(), portal)
            .unwrap()
            .merge(lab.routes(&released));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let origin = format!("http://localhost:{}", listener.local_addr().unwrap().port());
        tokio::spawn(async { axum::serve(listener, site).await.unwrap() });

        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let profile = std::env::temp_dir().join(format!(
            "tower-released-browser-{}-{number}",
            std::process::id()
        ));
        let (driver, port) = Driver::start(profile.clone()).await;
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
        ];
        let mut arguments: Vec<_> = arguments.map(str::to_owned).to_vec();
        arguments.push(format!("--user-data-dir={}", profile.display()));
        let Value::Object(capabilities) = json!({
            "goog:chromeOptions": { "args": arguments, "binary": "/usr/bin/chromium" },
            "goog:loggingPrefs": { "browser": "ALL" },
        }) else {
            unreachable!("it is an object");
        };
        let browser = ClientBuilder::new(hyper_util::client::legacy::connect::HttpConnector::new())
            .capabilities(capabilities)
            .connect(&format!("http://127.0.0.1:{port}"))
            .await;
        Self {
            released,
            lab,
            origin,
            browser: browser.unwrap(),
            _driver: driver,
        }
    }

    async fn open(&self, path: &str) {
        self.browser
            .goto(&format!("{}{path}", self.origin))
            .await
            .unwrap();
    }

    async fn sign_in(&self, user: &str) {
        self.open("/about").await;
        self.submit(&format!("button[name=user][value={user}]"))
            .await;
    }

    /// Clicks what leads to another page, and waits until that is there.
    async fn submit(&self, selector: &str) {
        self.run("window.isLeft = true").await;
        self.click(selector).await;
        self.eventually("return !window.isLeft && document.readyState === 'complete'")
            .await;
    }

    async fn click(&self, selector: &str) {
        self.browser
            .find(Locator::Css(selector))
            .await
            .unwrap()
            .click()
            .await
            .unwrap();
    }

    async fn run(&self, script: &str) -> Value {
        self.browser.execute(script, Vec::new()).await.unwrap()
    }

    /// What the embed says, once it says something final.
    async fn said_by(&self, element: &str) -> String {
        let script = format!(
            "const element = document.querySelector('{element}');
             const state = element?.dataset.state;
             const isFinal = state && state !== 'pending';
             // Where the script fetches the token, to have none is only the beginning.
             const isLast = isFinal && !(state === 'anonymous' && element.hasAttribute('data-released-auth'));
             return isLast ? element.shadowRoot.querySelector('[part=state]').textContent : null;"
        );
        self.eventually(&script).await.as_str().unwrap().to_owned()
    }

    /// Waits until a script returns something.
    async fn eventually(&self, script: &str) -> Value {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let value = self.run(script).await;
            if !matches!(value, Value::Null | Value::Bool(false)) {
                return value;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "this never came true: {script}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Tells the browser something that only its developer tools can say.
    async fn devtools(&self, command: &'static str, parameters: Value) {
        self.browser
            .issue_cmd(DevTools {
                command,
                parameters,
            })
            .await
            .unwrap();
    }

    /// Collects violations of the policy, and errors, from the moment a page is there.
    async fn violations(&self) -> Vec<String> {
        let messages = self.browser.issue_cmd(Log).await.unwrap();
        let messages = messages.as_array().unwrap().iter();
        messages
            .filter_map(|entry| entry["message"].as_str())
            .filter(|text| is_violation(text))
            .map(str::to_owned)
            .collect()
    }
}

fn is_violation(message: &str) -> bool {
    message.contains("Content Security Policy") || message.contains("Uncaught")
}

/// The browser's console, which `WebDriver` knows only in Chromium's dialect.
#[derive(Debug)]
struct Log;

impl fantoccini::wd::WebDriverCompatibleCommand for Log {
    fn endpoint(
        &self,
        base: &url::Url,
        session: Option<&str>,
    ) -> Result<url::Url, url::ParseError> {
        base.join(&format!("session/{}/se/log", session.unwrap_or_default()))
    }

    fn method_and_body(&self, _: &url::Url) -> (http::Method, Option<String>) {
        (
            http::Method::POST,
            Some(json!({ "type": "browser" }).to_string()),
        )
    }
}

#[derive(Debug)]
struct DevTools {
    command: &'static str,
    parameters: Value,
}

impl fantoccini::wd::WebDriverCompatibleCommand for DevTools {
    fn endpoint(
        &self,
        base: &url::Url,
        session: Option<&str>,
    ) -> Result<url::Url, url::ParseError> {
        base.join(&format!(
            "session/{}/goog/cdp/execute",
            session.unwrap_or_default()
        ))
    }

    fn method_and_body(&self, _: &url::Url) -> (http::Method, Option<String>) {
        (
            http::Method::POST,
            Some(json!({ "cmd": self.command, "params": self.parameters }).to_string()),
        )
    }
}

async fn a_page_with_a_token_is_verified(setup: Setup) {
    setup.open("/").await;
    assert_eq!(
        setup.said_by("released-page").await,
        "Verified as Ada Lovelace"
    );
    setup.open("/widget").await;
    assert_eq!(
        setup.said_by("released-widget").await,
        "Verified as Ada Lovelace"
    );
    assert_eq!(
        setup.said_by("released-form").await,
        "Verified as Ada Lovelace"
    );
    assert_eq!(
        setup
            .run("return document.querySelector('released-form').hidden")
            .await,
        json!(true)
    );
    setup.click("#feedback").await;
    assert_eq!(
        setup
            .run("return document.querySelector('released-form').hidden")
            .await,
        json!(false)
    );
    assert_eq!(setup.released.counts().minted, 2, "one token a page");
    assert_eq!(setup.violations().await, [""; 0]);
}

async fn nobody_and_an_outage_leave_the_page(setup: Setup) {
    setup.sign_in("nobody").await;
    assert!(
        setup
            .said_by("released-page")
            .await
            .contains("Not signed in")
    );
    assert_eq!(setup.released.counts().minted, 0);

    setup.sign_in("ada").await;
    setup.submit("[value=down]").await;
    assert!(
        setup
            .said_by("released-page")
            .await
            .contains("Not signed in")
    );
    let note = setup
        .browser
        .find(Locator::Css(".note"))
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert_eq!(
        note,
        "There is no token right now, and the page works all the same."
    );
}

async fn a_token_that_is_too_old_is_denied(setup: Setup) {
    setup.open("/").await;
    setup.submit("[value=late]").await;
    assert_eq!(
        setup.said_by("released-page").await,
        "Access denied: the token has expired"
    );
}

async fn the_strictest_policy_is_not_violated(setup: Setup) {
    setup.open("/strict").await;
    assert_eq!(
        setup.said_by("released-page").await,
        "Verified as Ada Lovelace"
    );
    assert_eq!(setup.violations().await, [""; 0]);
    // And the test would see a violation: what the policy does not allow is reported.
    setup
        .run("const image = new Image(); image.src = 'https://elsewhere.example/x.png'; document.body.append(image);")
        .await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while setup.violations().await.is_empty() {
        assert!(
            tokio::time::Instant::now() < deadline,
            "the browser reports no violation at all"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn two_tabs_of_two_users_are_not_mixed_up(setup: Setup) {
    setup.sign_in("ada").await;
    assert_eq!(
        setup.said_by("released-page").await,
        "Verified as Ada Lovelace"
    );
    let first = setup.browser.window().await.unwrap();
    let second = setup.browser.new_window(true).await.unwrap().handle;
    setup.browser.switch_to_window(second).await.unwrap();
    setup.sign_in("grace").await;
    assert_eq!(
        setup.said_by("released-page").await,
        "Verified as Grace Hopper"
    );
    setup.open("/static").await;
    assert_eq!(
        setup.said_by("released-page").await,
        "Verified as Grace Hopper"
    );

    // The first tab is as it was until it is loaded anew.
    setup.browser.switch_to_window(first).await.unwrap();
    assert_eq!(
        setup.said_by("released-page").await,
        "Verified as Ada Lovelace"
    );
    setup.browser.refresh().await.unwrap();
    assert_eq!(
        setup.said_by("released-page").await,
        "Verified as Grace Hopper"
    );
}

async fn a_hostile_name_changes_nothing(setup: Setup) {
    setup.sign_in("mallory").await;
    assert_eq!(
        setup.said_by("released-page").await,
        "Verified as \"><script>Mallory</script>"
    );
    assert_eq!(setup.run("return document.scripts.length").await, json!(2));
    assert_eq!(setup.violations().await, [""; 0]);
}

async fn the_page_on_the_status_shows_an_outage_by_itself(setup: Setup) {
    setup.open("/status").await;
    let table = "return document.querySelector('#status').innerText";
    let text = setup.run(table).await.as_str().unwrap().to_owned();
    assert!(text.contains("closed: mints are sent"), "{text}");
    for (fault, reason, kind) in [
        ("down", "failing", "unavailable"),
        ("refusing", "refused", "unauthorized"),
    ] {
        setup.submit(&format!("[value={fault}]")).await;
        assert_eq!(setup.run("return location.pathname").await, "/status");
        setup.submit("#mint").await;
        // Without another visit.
        let is_open = "return !!document.querySelector('[data-circuit=open]')";
        setup.eventually(is_open).await;
        let text = setup.run(table).await.as_str().unwrap().to_owned();
        for words in [reason, kind, "mints fail at once, for"] {
            assert!(text.contains(words), "{words} is not in {text}");
        }
        setup.submit("[value=well]").await;
        // The first mint after the circuit's time is the probe.
        setup
            .eventually(
                "await fetch('/status/mint', { method: 'POST', redirect: 'manual' });
                 return !!document.querySelector('[data-circuit=closed]')",
            )
            .await;
    }
    let text = setup.run("return document.body.innerText").await;
    let text = text.as_str().unwrap().to_owned();
    for secret in [
        setup.released.shared_secret(),
        setup.released.account_id().to_owned(),
    ] {
        assert!(!text.contains(&secret), "{text}");
    }
    for other in ["@", "127.0.0.1", "localhost"] {
        assert!(!text.contains(other), "{other} is in {text}");
    }
    assert_eq!(setup.violations().await, [""; 0]);
}

async fn a_cached_page_asks_for_its_token_itself_and_once(setup: Setup) {
    setup.open("/static").await;
    assert_eq!(
        setup.said_by("released-page").await,
        "Verified as Ada Lovelace"
    );
    // Ten embeds that are added at once are one request.
    setup
        .run(
            "const page = document.querySelector('released-page');
             for (const name of ['auth-token', 'data-released-fetched', 'data-state']) page.removeAttribute(name);
             const ten = Array.from({ length: 10 }, () => page.cloneNode());
             page.replaceWith(...ten);",
        )
        .await;
    let all_verified =
        "return [...document.querySelectorAll('released-page')].every(e => e.dataset.state === 'verified')
        && document.querySelectorAll('released-page').length === 10";
    setup.eventually(all_verified).await;
    assert_eq!(setup.released.counts().minted, 2);
}

async fn an_embed_that_is_added_late_is_verified(setup: Setup) {
    setup.open("/swap").await;
    setup.click("[hx-get='/swap/portal']").await;
    assert_eq!(
        setup.said_by("released-page[auth-token]").await,
        "Verified as Ada Lovelace"
    );
    setup.click("#by-script").await;
    assert_eq!(
        setup.said_by("released-page[data-released-auth]").await,
        "Verified as Ada Lovelace"
    );
    // Each swap is a mount with a ticket of its own.
    let before = setup.released.counts().minted;
    setup
        .run("document.querySelector('released-page').dataset.old = 1")
        .await;
    setup.click("#by-script").await;
    setup
        .eventually("return document.querySelector('released-page:not([data-old])')?.dataset.state === 'verified'")
        .await;
    assert!(setup.released.counts().minted > before);
}

async fn a_401_stops_the_script(setup: Setup) {
    setup.sign_in("nobody").await;
    setup.open("/static").await;
    let note = "return document.querySelector('#script-note').textContent.includes('has stopped')";
    setup.eventually(note).await;
    setup.run("const ask = window.fetch; window.fetch = (...all) => (window.asked = (window.asked ?? 0) + 1, ask(...all))").await;
    setup.run("window.dispatchEvent(new Event('online'))").await;
    assert_eq!(setup.run("return window.asked ?? 0").await, json!(0));
    // Another mount is another matter, and shows that the count counts.
    setup
        .run("document.body.append(document.querySelector('released-page').cloneNode())")
        .await;
    setup.eventually("return window.asked === 1").await;
}

async fn the_script_goes_on_when_the_outage_is_over(setup: Setup) {
    setup.released.reply_always(Reply::status(500));
    setup.open("/static").await;
    setup
        .eventually(
            "return document.querySelector('#script-note').textContent.includes('tries again')",
        )
        .await;
    setup.released.recover();
    setup.run("window.dispatchEvent(new Event('online'))").await;
    assert_eq!(
        setup.said_by("released-page").await,
        "Verified as Ada Lovelace"
    );
}

async fn a_page_that_comes_back_from_the_back_forward_cache_after_its_tickets_life_is_verified(
    setup: Setup,
) {
    let life = Duration::from_secs(5);
    setup.released.set_token_life(life);
    setup.open("/static").await;
    setup
        .run("addEventListener('pageshow', event => { window.cameBack = event.persisted; })")
        .await;
    assert_eq!(
        setup.said_by("released-page").await,
        "Verified as Ada Lovelace"
    );
    setup.open("/about").await;
    // Until the ticket is over, which nothing but time brings about.
    tokio::time::sleep(life).await;
    setup.browser.back().await.unwrap();
    setup.eventually("return window.cameBack === true").await;
    assert_eq!(
        setup.said_by("released-page").await,
        "Verified as Ada Lovelace"
    );
    assert_eq!(
        setup.released.counts().minted,
        1,
        "the embed has its session, and needs no other ticket"
    );
}

async fn a_page_that_comes_back_before_released_own_script_is_there_is_verified_later(
    setup: Setup,
) {
    // Released's own script does not come at first. So no ticket is asked for that nobody could take in time.
    setup.devtools("Network.enable", json!({})).await;
    setup
        .devtools(
            "Network.setBlockedURLs",
            json!({ "urls": ["*/1/embed.js"] }),
        )
        .await;
    setup.open("/static").await;
    setup
        .run("addEventListener('pageshow', event => { window.cameBack = event.persisted; })")
        .await;
    setup.open("/about").await;
    setup.browser.back().await.unwrap();
    setup.eventually("return window.cameBack === true").await;
    assert_eq!(setup.released.counts().minted, 0);

    setup
        .devtools("Network.setBlockedURLs", json!({ "urls": [] }))
        .await;
    let script = setup.released.embed_script_url();
    setup
        .run(&format!("document.head.append(Object.assign(document.createElement('script'), {{ src: '{script}' }}))"))
        .await;
    assert_eq!(
        setup.said_by("released-page").await,
        "Verified as Ada Lovelace"
    );
}

/// A cached page under the strictest policy: the script's own request must be allowed, too.
async fn a_cached_page_works_under_a_policy_that_allows_nothing_by_itself(setup: Setup) {
    setup.open("/static-strict").await;
    assert_eq!(
        setup.said_by("released-page").await,
        "Verified as Ada Lovelace"
    );
    assert_eq!(setup.violations().await, [""; 0]);
}

/// What the vendor's own demo expects of a server: `POST /api/released-token`, without a body.
async fn the_endpoint_keeps_the_contract_of_the_vendors_demo(setup: Setup) {
    setup.open("/about").await;
    let answer = setup
        .browser
        .execute_async(
            "const done = arguments[0];
             fetch('/api/released-token', { method: 'POST' }).then(async (response) => {
               const { token } = await response.json();
               const page = document.createElement('released-page');
               page.setAttribute('auth-token', token);
               document.body.append(page);
               done([response.status, typeof token]);
             });",
            Vec::new(),
        )
        .await
        .unwrap();
    assert_eq!(answer, json!([200, "string"]));
    let token = setup
        .run("return document.querySelector('released-page').getAttribute('auth-token')")
        .await;
    assert!(setup.released.open_session(token.as_str().unwrap()).is_ok());
}
