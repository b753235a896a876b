//! Pages that know nothing of tokens: files, and those of an application behind a proxy.

use std::future::Future;
use std::net::Ipv4Addr;
use std::pin::Pin;

use axum::{Extension, Router};
use libtest_mimic::Trial;
use serde_json::json;
use tokio::net::TcpListener;
use tower::{ServiceExt, service_fn};
use tower_released::testing::Reply;
use tower_released::{AuthToken, BoxError, Minter, User};

#[path = "../../examples/reverse_proxy/app.rs"]
mod reverse_proxy;
#[path = "../../examples/static_site/app.rs"]
mod static_site;
#[path = "../../examples/reverse_proxy/upstream.rs"]
mod upstream;

use crate::{Setup, trials};

const ADA: &str = "Verified as Ada Lovelace";

pub(crate) fn trials() -> Vec<Trial> {
    trials![
        a_file_is_filled_and_verified,
        a_page_behind_a_proxy_is_filled_and_verified,
        a_file_is_shown_before_its_token_is_there,
        a_page_behind_a_proxy_is_shown_before_its_token_is_there,
        a_filled_page_is_whole_without_a_token_in_an_outage,
        a_file_is_untouched_if_nobody_is_signed_in,
    ]
}

fn ada() -> Extension<User> {
    let ada = User::new("42", "ada@example.com").unwrap();
    Extension(ada.with_name("Ada Lovelace"))
}

/// Serves an application on a free port, and returns its origin.
async fn serve(app: Router) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async { axum::serve(listener, app).await.unwrap() });
    format!("http://localhost:{port}")
}

impl Setup {
    async fn static_site(&self, released: impl Minter) -> String {
        let app = static_site::app(released, self.released.embed_script_url());
        serve(app.layer(ada())).await
    }

    async fn reverse_proxy(&self, released: impl Minter) -> String {
        let upstream = upstream::start(&self.released.embed_script_url()).await;
        let app = reverse_proxy::app(released, &upstream.unwrap()).unwrap();
        serve(app.layer(ada())).await
    }

    /// A minter that asks Released for nothing until the browser shows the text before the element, and not the element.
    fn minter_that_waits_for_the_text(&self) -> impl Minter {
        let (lab, released) = (self.lab.clone(), self.released.client().unwrap());
        service_fn(move |user: User| {
            let (lab, released) = (lab.clone(), released.clone());
            let mint = async move {
                lab.wait_for("text-alone").await;
                Ok(released.oneshot(user).await?)
            };
            Box::pin(mint) as Pin<Box<dyn Future<Output = Result<AuthToken, BoxError>> + Send>>
        })
    }

    /// Opens a page that tells the lab when its text is there before its element.
    async fn open_watched(&self, url: &str) {
        let watch = format!(
            "new MutationObserver((changes, observer) => {{
               if (!document.querySelector('h1')) return;
               observer.disconnect();
               const isAlone = !document.querySelector('released-page');
               fetch('{}/report/' + (isAlone ? 'text-alone' : 'all-at-once'), {{ mode: 'no-cors' }});
             }}).observe(document, {{ childList: true, subtree: true }});",
            self.origin
        );
        self.devtools(
            "Page.addScriptToEvaluateOnNewDocument",
            json!({ "source": watch }),
        )
        .await;
        self.browser.goto(url).await.unwrap();
    }
}

async fn a_file_is_filled_and_verified(setup: Setup) {
    let site = setup.static_site(setup.released.client().unwrap()).await;
    setup.browser.goto(&site).await.unwrap();
    assert_eq!(setup.released.counts().minted, 0, "no element, no mint");
    setup.submit("[href='/roadmap.html']").await;
    assert_eq!(setup.said_by("released-page").await, ADA);
    assert_eq!(setup.released.counts().minted, 1);
}

async fn a_page_behind_a_proxy_is_filled_and_verified(setup: Setup) {
    let proxy = setup.reverse_proxy(setup.released.client().unwrap()).await;
    setup.browser.goto(&proxy).await.unwrap();
    assert_eq!(setup.said_by("released-page").await, ADA);
    // What is no page passes in both directions.
    let post = "const [done] = arguments;
        fetch('/echo', { method: 'POST', body: '<released-page></released-page>' })
            .then((response) => response.text()).then(done);";
    let echo = setup.browser.execute_async(post, vec![]).await.unwrap();
    assert_eq!(echo, json!("<released-page></released-page>"));
    assert_eq!(setup.released.counts().minted, 1);
}

async fn a_file_is_shown_before_its_token_is_there(setup: Setup) {
    let site = setup
        .static_site(setup.minter_that_waits_for_the_text())
        .await;
    setup.open_watched(&format!("{site}/roadmap.html")).await;
    assert_eq!(setup.said_by("released-page").await, ADA);
}

async fn a_page_behind_a_proxy_is_shown_before_its_token_is_there(setup: Setup) {
    let proxy = setup
        .reverse_proxy(setup.minter_that_waits_for_the_text())
        .await;
    setup.open_watched(&proxy).await;
    assert_eq!(setup.said_by("released-page").await, ADA);
}

async fn a_filled_page_is_whole_without_a_token_in_an_outage(setup: Setup) {
    let site = setup.static_site(setup.released.client().unwrap()).await;
    setup.released.reply_always(Reply::status(503));
    let url = format!("{site}/roadmap.html");
    setup.browser.goto(&url).await.unwrap();
    let said = setup.said_by("released-page").await;
    assert!(said.starts_with("Not signed in"), "{said}");
    let end = setup.run("return !!document.querySelector('[href=\"/\"]')");
    assert_eq!(end.await, json!(true));
}

async fn a_file_is_untouched_if_nobody_is_signed_in(setup: Setup) {
    let released = setup.released.client().unwrap();
    let site = serve(static_site::app(
        released,
        setup.released.embed_script_url(),
    ))
    .await;
    let url = format!("{site}/roadmap.html");
    setup.browser.goto(&url).await.unwrap();
    let said = setup.said_by("released-page").await;
    assert!(said.starts_with("Not signed in"), "{said}");

    let read = "const [done] = arguments;
        fetch(location).then(async (response) => done([
            await response.text(),
            response.headers.has('last-modified'),
            response.headers.has('content-length'),
            response.headers.get('cache-control'),
        ]));";
    let seen = setup.browser.execute_async(read, vec![]).await.unwrap();
    let file = std::fs::read_to_string(format!("{}/roadmap.html", static_site::SITE)).unwrap();
    assert_eq!(seen, json!([file, true, true, null]));
    assert_eq!(setup.released.counts().requests, 0);
}
