//! A page that React and Vite built, with the token script and with the endpoint alone.

use std::net::Ipv4Addr;
use std::path::Path;

use libtest_mimic::Trial;
use tokio::net::TcpListener;

#[path = "../../examples/react/app.rs"]
mod app;

use crate::{Setup, trials};

const ADA: &str = "Verified as Ada Lovelace";

/// Whether `npm run build` has built the page.
pub(crate) fn is_page_there() -> bool {
    Path::new(app::DIST).join("index.html").exists()
}

pub(crate) fn trials() -> Vec<Trial> {
    trials![
        an_element_that_react_mounts_gets_its_token_from_the_script_each_time,
        an_element_that_react_mounts_with_a_token_of_the_endpoint_is_verified_each_time,
        a_page_of_react_shows_its_element_without_a_token_in_an_outage,
    ]
}

impl Setup {
    /// Serves the page that React built, and opens it.
    async fn open_react(&self) {
        let released = self.released.client().unwrap();
        let app = app::app(released, self.released.embed_script_url()).unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async { axum::serve(listener, app).await.unwrap() });
        let url = format!("http://localhost:{port}/");
        self.browser.goto(&url).await.unwrap();
        self.eventually("return !!document.querySelector('#script')")
            .await;
    }

    /// Mounts the element in one way or the other, unmounts it, and mounts it again.
    async fn mount_twice(&self, button: &str) {
        for notices_late_token in [true, false] {
            self.released
                .set_unknowns(|unknowns| unknowns.notices_late_token = notices_late_token);
            self.open_react().await;
            for _ in 0..2 {
                let before = self.released.counts();
                self.click(button).await;
                assert_eq!(
                    self.said_by("released-page").await,
                    ADA,
                    "{notices_late_token}"
                );
                let after = self.released.counts();
                assert_eq!(after.sessions, before.sessions + 1, "{notices_late_token}");
                assert_eq!(after.denied, 0, "{notices_late_token}");
                self.click("#home").await;
                self.eventually("return !document.querySelector('released-page')")
                    .await;
            }
        }
    }
}

async fn an_element_that_react_mounts_gets_its_token_from_the_script_each_time(setup: Setup) {
    setup.mount_twice("#script").await;
}

async fn an_element_that_react_mounts_with_a_token_of_the_endpoint_is_verified_each_time(
    setup: Setup,
) {
    setup.mount_twice("#endpoint").await;
}

async fn a_page_of_react_shows_its_element_without_a_token_in_an_outage(setup: Setup) {
    use tower_released::testing::Reply;

    setup.open_react().await;
    setup.released.reply_always(Reply::status(503));
    setup.click("#endpoint").await;
    let said = setup.said_by("released-page").await;
    assert!(said.starts_with("Not signed in"), "{said}");
}
