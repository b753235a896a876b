//! The token script in a page's life: late elements, frameworks, hidden and cached pages, another user.

use std::time::Duration;

use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::{Setup, trials};

/// The kinds of embed: whether it notices a token that is set late. Which kind Released's is, nobody documents.
const EMBEDS: [Embed; 2] = [
    Embed {
        notices_late_token: true,
    },
    Embed {
        notices_late_token: false,
    },
];

#[derive(Clone, Copy, Debug)]
struct Embed {
    notices_late_token: bool,
}

const ADA: &str = "Verified as Ada Lovelace";
const GRACE: &str = "Verified as Grace Hopper";

pub(crate) fn trials() -> Vec<Trial> {
    trials![
        a_token_that_comes_late_is_exchanged_once_by_either_kind_of_embed,
        an_element_that_is_reconnected_keeps_its_place_and_the_focus,
        a_page_to_which_the_user_comes_back_after_sign_in_asks_again,
        a_token_for_the_user_before_is_not_handed_out_when_the_page_comes_back,
        a_reset_while_a_token_is_under_way_gives_it_to_nobody,
        an_element_that_is_added_after_an_account_switch_is_the_new_users,
        after_a_sign_out_and_a_reset_no_embed_shows_the_user_before,
        a_prerendered_page_asks_when_the_user_looks_at_it,
        a_hidden_tab_asks_for_nothing_until_it_is_shown,
        a_token_that_a_frozen_tab_got_too_late_is_not_handed_out,
        a_widget_of_the_fake_that_waits_for_its_trigger_exchanges_its_token_once,
        every_swap_of_htmx_is_one_request,
        a_page_from_the_history_of_htmx_has_no_used_token,
        a_redirect_to_another_origin_is_told_as_signed_out,
        headers_of_the_page_reach_the_endpoint,
    ]
}

pub(crate) fn trials_with_turbo() -> Vec<Trial> {
    trials![
        a_visit_of_turbo_is_one_request,
        a_preview_of_turbo_asks_for_nothing,
        a_permanent_element_of_turbo_is_verified_after_each_visit,
    ]
}

impl Setup {
    /// Opens a page with this kind of embed in it.
    async fn open_with(&self, embed: Embed, path: &str) {
        let Embed { notices_late_token } = embed;
        self.released
            .set_unknowns(|unknowns| unknowns.notices_late_token = notices_late_token);
        self.open(path).await;
    }

    /// Signs somebody in, as a single-page app does it: without another page.
    async fn switch_to(&self, user: &str) {
        let script = "const [user, done] = arguments;
             fetch('/sign-in', { method: 'POST', body: new URLSearchParams({ user }), redirect: 'manual' }).then(() => done());";
        self.browser
            .execute_async(script, vec![json!(user)])
            .await
            .unwrap();
    }

    /// Goes to another page and back, and waits until the page is there again, out of the back/forward cache.
    async fn leave_and_come_back(&self, meanwhile: impl AsyncFnOnce()) {
        self.run("window.cameBack = false; addEventListener('pageshow', event => { window.cameBack = event.persisted; });")
            .await;
        self.open("/about").await;
        meanwhile().await;
        self.browser.back().await.unwrap();
        self.eventually("return window.cameBack === true").await;
    }

    /// Counts this page's requests for tokens, and what its embeds say, from now on.
    async fn watch(&self) {
        self.run(
            "const ask = window.fetch;
             window.asked = 0;
             window.fetch = (url, ...rest) => (window.asked += String(url).startsWith('/api/'), ask(url, ...rest));
             window.said = [];
             const note = () => {
               for (const element of document.querySelectorAll('released-page')) {
                 const text = element.shadowRoot?.querySelector('[part=state]').textContent;
                 if (text && !window.said.includes(text)) window.said.push(text);
               }
             };
             new MutationObserver(note).observe(document, { subtree: true, childList: true, attributes: true });",
        )
        .await;
    }

    async fn asked(&self) -> Value {
        self.run("return window.asked").await
    }

    /// Waits until the page of this name is shown by Turbo, and its embed is verified.
    async fn turbo_shows(&self, name: &str) {
        let script = format!(
            "return document.body.dataset.name === '{name}' && !document.documentElement.hasAttribute('data-turbo-preview')
               && document.querySelector('released-page')?.dataset.state === 'verified'"
        );
        self.eventually(&script).await;
    }
}

async fn a_token_that_comes_late_is_exchanged_once_by_either_kind_of_embed(setup: Setup) {
    for (turn, embed) in (1..).zip(EMBEDS) {
        setup.open_with(embed, "/lab/a").await;
        assert_eq!(setup.said_by("released-page").await, ADA, "{embed:?}");
        // Released's script comes later than the element, and the token later than both.
        assert_eq!(setup.released.counts().sessions, turn, "{embed:?}");
        assert_eq!(setup.released.counts().requests, turn, "{embed:?}");
    }
    for embed in EMBEDS {
        setup.open_with(embed, "/lab/empty").await;
        let before = setup.released.counts();
        setup
            .run(
                "const late = document.createElement('released-page');
                 late.setAttribute('channel-id', 'demo-channel');
                 document.querySelector('main').append(late);
                 late.dataset.releasedAuth = '/api/released-token';",
            )
            .await;
        assert_eq!(setup.said_by("released-page").await, ADA, "{embed:?}");
        let after = setup.released.counts();
        assert_eq!(after.sessions, before.sessions + 1, "{embed:?}");
        assert_eq!(after.requests, before.requests + 1, "{embed:?}");
        assert_eq!(after.denied, 0, "{embed:?}");
    }
}

async fn an_element_that_is_reconnected_keeps_its_place_and_the_focus(setup: Setup) {
    setup.open("/lab/empty").await;
    setup
        .run(
            "const main = document.querySelector('main');
             main.innerHTML = '<p></p><released-page></released-page><p></p>';
             window.kept = main.querySelector('released-page');
             window.field = document.createElement('input');
             window.kept.shadowRoot.append(window.field);
             window.field.focus();
             window.wasFocused = window.kept.shadowRoot.activeElement === window.field;
             window.kept.dataset.releasedAuth = '/api/released-token';",
        )
        .await;
    assert_eq!(setup.said_by("released-page").await, ADA);
    let is_kept = "return document.querySelector('p + released-page:has(+ p)') === window.kept
        && document.querySelector('main').childNodes.length === 3
        && window.wasFocused && window.kept.shadowRoot.activeElement === window.field";
    assert_eq!(setup.run(is_kept).await, json!(true));
}

async fn a_page_to_which_the_user_comes_back_after_sign_in_asks_again(setup: Setup) {
    for embed in EMBEDS {
        setup.open("/about").await;
        setup.switch_to("nobody").await;
        setup.open_with(embed, "/static").await;
        let note =
            "return document.querySelector('#script-note').textContent.includes('has stopped')";
        setup.eventually(note).await;
        setup
            .leave_and_come_back(async || setup.switch_to("ada").await)
            .await;
        assert_eq!(setup.said_by("released-page").await, ADA, "{embed:?}");
    }
}

async fn a_token_for_the_user_before_is_not_handed_out_when_the_page_comes_back(setup: Setup) {
    for (turn, embed) in (1..).zip(EMBEDS) {
        setup.open("/about").await;
        setup.switch_to("ada").await;
        setup.released.set_latency(crate::PATIENCE);
        let before = setup.released.counts();
        setup.open_with(embed, "/lab/a").await;
        let under_way = setup
            .released
            .wait_until(|counts| counts.requests > before.requests);
        under_way.await;
        setup.watch().await;
        setup.released.recover();
        setup
            .leave_and_come_back(async || setup.switch_to("grace").await)
            .await;
        assert_eq!(setup.said_by("released-page").await, GRACE, "{embed:?}");
        let said = setup.run("return window.said").await;
        assert!(!said.to_string().contains("Ada"), "{said}");
        assert_eq!(setup.released.counts().sessions, turn);
    }
}

async fn a_reset_while_a_token_is_under_way_gives_it_to_nobody(setup: Setup) {
    for embed in EMBEDS {
        setup.open("/about").await;
        setup.switch_to("ada").await;
        let before = setup.released.counts();
        setup.released.set_latency(crate::PATIENCE);
        setup.open_with(embed, "/lab/a").await;
        let under_way = setup
            .released
            .wait_until(|counts| counts.requests > before.requests);
        under_way.await;
        setup.watch().await;
        setup.released.recover();
        setup.switch_to("grace").await;
        setup
            .run("document.dispatchEvent(new Event('released:reset'))")
            .await;
        assert_eq!(setup.said_by("released-page").await, GRACE, "{embed:?}");
        assert_eq!(setup.asked().await, json!(1));

        // And once more, after the session is open.
        setup.switch_to("ada").await;
        setup
            .run("document.dispatchEvent(new Event('released:reset'))")
            .await;
        setup
            .eventually(&format!(
                "return document.querySelector('released-page').shadowRoot.textContent.includes('{ADA}')"
            ))
            .await;
        assert_eq!(setup.asked().await, json!(2));
    }
}

async fn an_element_that_is_added_after_an_account_switch_is_the_new_users(setup: Setup) {
    for embed in EMBEDS {
        setup.open("/about").await;
        setup.switch_to("ada").await;
        setup.open_with(embed, "/lab/a").await;
        assert_eq!(setup.said_by("released-page").await, ADA);
        setup.switch_to("grace").await;
        setup
            .run(
                "const other = document.createElement('released-page');
                 other.id = 'other';
                 other.dataset.releasedAuth = '/api/released-token';
                 document.body.append(other);",
            )
            .await;
        assert_eq!(setup.said_by("#other").await, GRACE, "{embed:?}");
        assert_eq!(setup.said_by("main released-page").await, ADA, "{embed:?}");
    }
}

async fn after_a_sign_out_and_a_reset_no_embed_shows_the_user_before(setup: Setup) {
    for embed in EMBEDS {
        setup.open("/about").await;
        setup.switch_to("ada").await;
        setup.open_with(embed, "/lab/a").await;
        assert_eq!(setup.said_by("released-page").await, ADA, "{embed:?}");
        setup.switch_to("nobody").await;
        setup
            .run(
                "document.addEventListener('released:error', event => { window.detail = event.detail; });
                 document.dispatchEvent(new Event('released:reset'));",
            )
            .await;
        setup.eventually("return window.detail?.signedOut").await;
        let shown = setup
            .run("return document.querySelector('released-page').shadowRoot.querySelector('[part=state]').textContent")
            .await;
        assert!(!shown.to_string().contains("Ada"), "{embed:?}: {shown}");
    }
}

async fn a_prerendered_page_asks_when_the_user_looks_at_it(setup: Setup) {
    for (turn, embed) in (1..).zip(EMBEDS) {
        setup.open_with(embed, "/lab/empty").await;
        let before = setup.released.counts().requests;
        let name = format!("prerendered-{turn}");
        setup
            .run(&format!(
                "const rules = document.createElement('script');
                 rules.type = 'speculationrules';
                 rules.textContent = JSON.stringify({{ prerender: [{{ source: 'list', urls: ['/lab/{name}'] }}] }});
                 document.head.append(rules);"
            ))
            .await;
        setup.lab.wait_for(&name).await;
        assert_eq!(setup.released.counts().requests, before, "{embed:?}");
        setup.run(&format!("location = '/lab/{name}'")).await;
        setup
            .eventually(&format!("return document.body.dataset.name === '{name}'"))
            .await;
        assert_eq!(setup.said_by("released-page").await, ADA, "{embed:?}");
        let was_prerendered =
            "return performance.getEntriesByType('navigation')[0].activationStart > 0";
        assert_eq!(setup.run(was_prerendered).await, json!(true));
        assert_eq!(setup.released.counts().requests, before + 1, "{embed:?}");
    }
}

async fn a_hidden_tab_asks_for_nothing_until_it_is_shown(setup: Setup) {
    for (turn, embed) in (1..).zip(EMBEDS) {
        setup.open_with(embed, "/lab/empty").await;
        let before = setup.released.counts().requests;
        setup
            .run(&format!(
                "addEventListener('visibilitychange', () => {{
                   if (!document.hidden) return;
                   const late = document.createElement('released-page');
                   late.dataset.releasedAuth = '/api/released-token';
                   document.body.append(late);
                   // The script would have asked in a microtask.
                   setTimeout(() => fetch('/report/hidden-{turn}'));
                 }}, {{ once: true, capture: true }});"
            ))
            .await;
        let tab = setup.browser.window().await.unwrap();
        let other = setup.browser.new_window(true).await.unwrap().handle;
        setup.browser.switch_to_window(other).await.unwrap();
        setup.lab.wait_for(&format!("hidden-{turn}")).await;
        assert_eq!(setup.released.counts().requests, before, "{embed:?}");
        setup.browser.close_window().await.unwrap();
        setup.browser.switch_to_window(tab).await.unwrap();
        assert_eq!(setup.said_by("released-page").await, ADA, "{embed:?}");
        assert_eq!(setup.released.counts().requests, before + 1, "{embed:?}");
    }
}

async fn a_token_that_a_frozen_tab_got_too_late_is_not_handed_out(setup: Setup) {
    let life = Duration::from_secs(3);
    setup.released.set_token_life(life);
    setup.released.set_latency(Duration::from_secs(1));
    setup.open("/lab/a").await;
    setup
        .released
        .wait_until(|counts| counts.requests == 1)
        .await;
    let freeze = |state| setup.devtools("Page.setWebLifecycleState", json!({ "state": state }));
    freeze("frozen").await;
    setup.released.wait_until(|counts| counts.minted == 1).await;
    setup.released.recover();
    // Until the token is over, which nothing but time brings about.
    tokio::time::sleep(life).await;
    freeze("active").await;
    // It woke up in the background, where the script discarded the token and asks for no other.
    let tab = setup.browser.window().await.unwrap();
    let other = setup.browser.new_window(true).await.unwrap().handle;
    setup.browser.switch_to_window(other).await.unwrap();
    setup.browser.close_window().await.unwrap();
    setup.browser.switch_to_window(tab).await.unwrap();
    assert_eq!(setup.said_by("released-page").await, ADA);
    assert_eq!(setup.released.counts().denied, 0);
    assert_eq!(setup.released.counts().sessions, 1);
}

async fn a_widget_of_the_fake_that_waits_for_its_trigger_exchanges_its_token_once(setup: Setup) {
    setup.released.set_unknowns(|unknowns| {
        unknowns.widget_exchanges_on_load = false;
        unknowns.reuses_token = false;
    });
    setup.open("/lab/empty").await;
    setup
        .run(
            "document.body.insertAdjacentHTML('beforeend', `<button id='open'>Open</button>
               <released-widget channel-id='c' trigger='#open' data-released-auth='/api/released-token'></released-widget>`);",
        )
        .await;
    setup
        .eventually("return document.querySelector('released-widget').hasAttribute('auth-token')")
        .await;
    setup.click("#open").await;
    setup
        .eventually("return ['verified', 'denied'].includes(document.querySelector('released-widget').dataset.state)")
        .await;
    let said = "return document.querySelector('released-widget').shadowRoot.querySelector('[part=state]').textContent";
    assert_eq!(setup.run(said).await, json!(ADA));
    assert_eq!(setup.released.counts().denied, 0);
}

async fn every_swap_of_htmx_is_one_request(setup: Setup) {
    for embed in EMBEDS {
        setup.open_with(embed, "/swap").await;
        setup.watch().await;
        for turn in 1..=3 {
            setup
                .run("document.querySelector('released-page')?.setAttribute('data-old', '')")
                .await;
            setup.click("#by-script").await;
            let verified = "return document.querySelector('released-page:not([data-old])')?.dataset.state === 'verified'";
            setup.eventually(verified).await;
            assert_eq!(setup.asked().await, json!(turn), "{embed:?}");
        }
        // A swap with a token of the server's own is none.
        setup.click("[hx-get='/swap/portal']").await;
        setup
            .eventually("return document.querySelector('released-page:not([data-released-auth])')?.dataset.state === 'verified'")
            .await;
        assert_eq!(setup.asked().await, json!(3), "{embed:?}");
        assert_eq!(setup.released.counts().denied, 0, "{embed:?}");
    }
}

async fn a_page_from_the_history_of_htmx_has_no_used_token(setup: Setup) {
    for embed in EMBEDS {
        setup.open_with(embed, "/swap").await;
        setup.watch().await;
        // The demo keeps its pages out of that history. This page forgets to.
        setup
            .run("document.querySelector('[hx-history]').removeAttribute('hx-history')")
            .await;
        setup.click("#by-script").await;
        setup
            .eventually(
                "return document.querySelector('released-page')?.dataset.state === 'verified'",
            )
            .await;
        let before = setup.released.counts();
        setup
            .run("htmx.ajax('GET', '/swap/portal?by=script', { target: '#slot', push: '/swap?next' })")
            .await;
        setup.eventually("return location.search === '?next'").await;
        setup
            .eventually(
                "return document.querySelector('released-page')?.dataset.state === 'verified'",
            )
            .await;
        let stored = setup
            .run("return JSON.stringify([{ ...sessionStorage }, { ...localStorage }])")
            .await;
        let stored = stored.as_str().unwrap();
        assert!(stored.contains("released-page"), "{stored}");
        assert!(!stored.contains("auth-token"), "{stored}");
        setup.run("history.back()").await;
        setup.eventually("return location.search === ''").await;
        setup
            .eventually(
                "return document.querySelector('released-page')?.dataset.state === 'verified'",
            )
            .await;
        assert_eq!(setup.asked().await, json!(3), "{embed:?}");
        let after = setup.released.counts();
        assert_eq!(after.sessions, before.sessions + 2, "{embed:?}");
    }
}

async fn a_redirect_to_another_origin_is_told_as_signed_out(setup: Setup) {
    setup.open("/lab/empty").await;
    setup.watch().await;
    setup
        .run(
            "addEventListener('released:error', ({ detail }) => { window.error = detail; });
             const element = document.createElement('released-page');
             element.dataset.releasedAuth = '/api/behind-sign-in';
             document.body.append(element);",
        )
        .await;
    assert_eq!(
        setup.eventually("return window.error").await,
        json!({ "status": null, "final": true, "retryIn": null, "signedOut": true })
    );
}

async fn headers_of_the_page_reach_the_endpoint(setup: Setup) {
    setup.open("/lab/empty").await;
    setup
        .run(
            "window.ReleasedToken = { headers: async () => new Headers({ 'x-csrf': '1' }) };
             addEventListener('released:token', ({ detail }) => { window.detail = detail; });
             const element = document.createElement('released-page');
             element.dataset.releasedAuth = '/api/behind-sign-in';
             document.body.append(element);",
        )
        .await;
    // The endpoint does not say how long its token lives.
    assert_eq!(
        setup.eventually("return window.detail").await,
        json!({ "expiresIn": 120 })
    );
}

async fn a_visit_of_turbo_is_one_request(setup: Setup) {
    for embed in EMBEDS {
        setup.open_with(embed, "/turbo/a").await;
        setup.turbo_shows("a").await;
        setup.watch().await;
        setup.click("a[href='/turbo/b']").await;
        setup.turbo_shows("b").await;
        assert_eq!(setup.asked().await, json!(1), "{embed:?}");
        // Turbo shows its own copy of the page.
        setup.browser.back().await.unwrap();
        setup.turbo_shows("a").await;
        assert_eq!(setup.asked().await, json!(2), "{embed:?}");
        setup.click("a[href='/turbo/b']").await;
        setup.turbo_shows("b").await;
        assert_eq!(setup.asked().await, json!(3), "{embed:?}");
        assert_eq!(setup.released.counts().denied, 0, "{embed:?}");
    }
    let counts = setup.released.counts();
    assert_eq!((counts.requests, counts.sessions), (8, 8));
}

async fn a_preview_of_turbo_asks_for_nothing(setup: Setup) {
    for embed in EMBEDS {
        setup.open_with(embed, "/turbo/a").await;
        setup.turbo_shows("a").await;
        setup.watch().await;
        setup.click("a[href='/turbo/b']").await;
        setup.turbo_shows("b").await;
        setup.lab.set_gate(false);
        setup.click("a[href='/turbo/a']").await;
        setup
            .eventually("return document.documentElement.hasAttribute('data-turbo-preview') && document.body.dataset.name === 'a'")
            .await;
        assert_eq!(setup.asked().await, json!(1), "{embed:?}");
        let token = "return document.querySelector('released-page').getAttribute('auth-token')";
        assert_eq!(setup.run(token).await, Value::Null);
        setup.lab.set_gate(true);
        setup.turbo_shows("a").await;
        assert_eq!(setup.asked().await, json!(2), "{embed:?}");
    }
    let counts = setup.released.counts();
    assert_eq!((counts.requests, counts.sessions), (6, 6));
}

async fn a_permanent_element_of_turbo_is_verified_after_each_visit(setup: Setup) {
    for embed in EMBEDS {
        setup.open_with(embed, "/turbo/kept").await;
        setup.turbo_shows("kept").await;
        setup.watch().await;
        setup
            .run("document.querySelector('released-page').id = 'first'; Turbo.visit('/turbo/kept')")
            .await;
        setup.eventually("return window.asked === 1").await;
        assert_eq!(setup.said_by("#first").await, ADA);
        assert_eq!(setup.released.counts().denied, 0, "{embed:?}");
    }
}
