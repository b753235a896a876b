//! The demo's page `/facts`: each experiment sees both answers that Released may give.

use libtest_mimic::Trial;
use serde_json::json;
use tower_released::testing::{FakeReleased, Reply, Unknowns};

use crate::{Setup, trials};

pub(crate) fn trials() -> Vec<Trial> {
    trials![
        every_experiment_sees_the_difference,
        the_experiment_with_a_blank_name_follows_no_redirect,
    ]
}

/// An experiment, and the answer to it in the fake.
type Fact = (&'static str, fn(&mut Unknowns) -> &mut bool);

const FACTS: [Fact; 7] = [
    ("late-attribute", |fake| &mut fake.notices_late_token),
    ("two-embeds", |fake| &mut fake.shares_token),
    ("twice", |fake| &mut fake.reuses_token),
    ("second-person", |fake| &mut fake.replaces_session),
    ("blank-name", |fake| &mut fake.accepts_blank_name),
    ("integrity", |fake| &mut fake.sends_cors_headers),
    ("widget-on-load", |fake| &mut fake.widget_exchanges_on_load),
];

async fn every_experiment_sees_the_difference(setup: Setup) {
    // Each experiment sees a yes and a no, and neighbours see different ones.
    for different in [vec![0, 2, 4, 6], vec![1, 3, 5]] {
        setup.released.set_unknowns(|unknowns| {
            *unknowns = Unknowns::default();
            for fact in &different {
                *FACTS[*fact].1(unknowns) = false;
            }
        });
        setup.open("/facts?quiet=300").await;
        // The session that the fake keeps would decide the next case.
        setup.run("sessionStorage.clear()").await;
        setup.click("#run").await;
        setup
            .eventually("return document.body.dataset.facts === 'done'")
            .await;
        for (number, (name, _)) in FACTS.iter().enumerate() {
            let script = format!("return document.querySelector('#fact-{name}').dataset.answer");
            let expected = if different.contains(&number) {
                "no"
            } else {
                "yes"
            };
            let answer = setup.run(&script).await;
            assert_eq!(
                answer,
                json!(expected),
                "{name} where {different:?} is different"
            );
        }
        let report = setup
            .run("return document.querySelector('#report').value")
            .await;
        let report = report.as_str().unwrap();
        assert!(!report.contains("eyJ") && !report.contains('@'), "{report}");
    }
}

/// A redirect would carry the person's address and the account to another server.
async fn the_experiment_with_a_blank_name_follows_no_redirect(setup: Setup) {
    let elsewhere = FakeReleased::start().await.unwrap();
    let redirect = Reply::status(307).header("location", &elsewhere.impersonation_url());
    setup.released.reply_always(redirect);
    setup.open("/about").await;
    let mint = "const [done] = arguments; fetch('/facts/token?person=blank', { method: 'POST' }).then(() => done());";
    setup.browser.execute_async(mint, vec![]).await.unwrap();
    assert_eq!(elsewhere.counts().requests, 0);
}
