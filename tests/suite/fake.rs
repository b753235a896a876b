//! The fake as a process beside an application: the same address and credentials at each start.

use std::io::ErrorKind;
use std::time::Duration;

use tower_released::testing::{AccessDenied, FakeReleased};
use tower_released::{MintErrorKind, ReleasedClient};

use crate::support::ada;

#[allow(dead_code)]
#[path = "../../examples/fake.rs"]
mod example;

/// Returns the port of an origin.
fn port_of(fake: &FakeReleased) -> u16 {
    fake.origin().rsplit_once(':').unwrap().1.parse().unwrap()
}

#[tokio::test]
async fn a_fake_that_is_restarted_keeps_its_address_and_its_credentials() {
    let start = async |port| {
        FakeReleased::builder()
            .port(port)
            .account("acc_dev")
            .secret("dev-secret")
            .start()
            .await
    };
    let first = start(0).await.unwrap();
    let (port, url) = (port_of(&first), first.impersonation_url());
    let client = first.client().unwrap();
    let token = client.mint(&ada()).await.unwrap();
    drop(first);
    // The old server's task ends a moment later.
    let second = loop {
        match start(port).await {
            Ok(second) => break second,
            Err(error) => assert_eq!(error.kind(), ErrorKind::AddrInUse, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_eq!(second.impersonation_url(), url);
    assert_eq!(
        (second.account_id(), second.shared_secret().as_str()),
        ("acc_dev", "dev-secret")
    );
    // The application goes on with the client that it has.
    assert!(client.mint(&ada()).await.is_ok());
    // But the new process has another key.
    assert_eq!(
        second.open_session(token.as_str()),
        Err(AccessDenied::Signature)
    );
}

#[tokio::test]
async fn a_port_in_use_is_an_error_that_names_it() {
    let first = FakeReleased::start().await.unwrap();
    let port = port_of(&first);
    let error = FakeReleased::builder()
        .port(port)
        .start()
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    let text = error.to_string();
    assert!(
        text.contains(&port.to_string()) && text.contains("in use"),
        "{text}"
    );
    assert!(first.client().unwrap().mint(&ada()).await.is_ok());
}

#[tokio::test]
async fn without_settings_every_fake_has_a_secret_and_a_port_of_its_own() {
    let (one, two) = (
        FakeReleased::start().await.unwrap(),
        FakeReleased::builder().start().await.unwrap(),
    );
    assert_ne!(one.shared_secret(), two.shared_secret());
    assert_ne!(one.origin(), two.origin());
}

#[tokio::test]
async fn credentials_that_no_client_accepts_are_an_error_of_the_client() {
    let fake = FakeReleased::builder()
        .account(" ")
        .secret("\n")
        .start()
        .await
        .unwrap();
    assert!(fake.client().is_err());
}

#[tokio::test]
async fn an_account_that_is_added_again_gets_the_new_secret() {
    let fake = FakeReleased::start().await.unwrap();
    let added = fake.add_account("acc_two", "the first");
    let old = added.client().unwrap();
    let again = fake.add_account("acc_two", "the second");
    assert_eq!(added.shared_secret(), "the second");
    let error = old.mint(&ada()).await.unwrap_err();
    assert_eq!(error.kind(), MintErrorKind::Unauthorized);
    assert!(again.client().unwrap().mint(&ada()).await.is_ok());
    assert_eq!(added.users(), again.users());
    assert_eq!(fake.users(), []);
}

#[tokio::test]
async fn an_application_mints_with_the_lines_that_the_example_prints() {
    let fake = example::start(0).await.unwrap();
    let lines = example::variables(&fake);
    let value = |name: &str| {
        let start = format!("export {name}=");
        let line = lines.lines().find_map(|line| line.strip_prefix(&start));
        line.unwrap_or_else(|| panic!("{name} is not in {lines}"))
            .to_owned()
    };
    let client = ReleasedClient::builder(
        value("RELEASED_ACCOUNT_ID"),
        value("RELEASED_SHARED_SECRET"),
    )
    .endpoint(value("RELEASED_TOKEN_URL"))
    .build()
    .unwrap();
    let token = client.mint(&ada()).await.unwrap();
    assert!(fake.open_session(token.as_str()).is_ok());
    assert!(lines.contains(&fake.embed_script_url()), "{lines}");
    // A shell can read all of it.
    assert!(
        lines
            .lines()
            .all(|line| line.starts_with("export ") || line.starts_with("# "))
    );

    let again = example::start(0).await.unwrap();
    assert_eq!(
        (again.account_id(), again.shared_secret()),
        (fake.account_id(), fake.shared_secret())
    );
}

#[tokio::test]
async fn a_page_of_this_machine_may_have_a_name_below_localhost() {
    let fake = FakeReleased::start().await.unwrap();
    let token = fake.client().unwrap().mint(&ada()).await.unwrap();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    for (origin, status) in [
        ("http://localhost:3000", 200),
        ("http://acme.localhost:3000", 200),
        ("http://acmelocalhost:3000", 403),
        ("http://localhost.evil.example", 403),
    ] {
        let request = http
            .post(fake.origin() + "/session")
            .header("origin", origin);
        let body = serde_json::json!({ "token": token.as_str() }).to_string();
        let response = request.body(body).send().await.unwrap();
        assert_eq!(response.status(), status, "{origin}");
    }
}
