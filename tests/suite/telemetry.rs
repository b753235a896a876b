//! What an operator reads in the log or sees in a trace.

use std::time::Duration;

use tower_released::testing::{FakeReleased, Reply};

use crate::leaks::Log;
use crate::support::{ada, once, retry};

/// The spans that were closed, with all their fields.
fn closed_spans<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let is_closed =
        |line: &&str| line.ends_with('s') && line.contains(" close ") && line.contains(name);
    text.lines().filter(is_closed).collect()
}

#[tokio::test]
async fn a_mint_and_each_of_its_exchanges_have_a_span_with_opentelemetrys_names() {
    let (log, _guard) = Log::capture();
    let released = FakeReleased::start().await.unwrap();
    released.reply_next(Reply::status(503));
    released
        .client_builder()
        .deadline(Duration::from_secs(30))
        .build()
        .unwrap()
        .mint(&ada())
        .await
        .unwrap();
    let text = log.text();
    let exchanges = closed_spans(&text, "POST{");
    assert_eq!(exchanges.len(), 2, "{text}");
    let url = format!("url.full=\"{}\"", released.impersonation_url());
    for exchange in &exchanges {
        for field in [
            r#"otel.kind="client""#,
            r#"http.request.method="POST""#,
            r#"server.address="127.0.0.1""#,
            "server.port=",
            r#"network.protocol.version="1.1""#,
            &url,
        ] {
            assert!(exchange.contains(field), "{field} is not in {exchange}");
        }
        assert!(exchange.contains("released_mint:"), "{exchange}");
    }
    for field in [
        "http.response.status_code=503",
        r#"error.type="unavailable""#,
        r#"otel.status_code="ERROR""#,
    ] {
        assert!(
            exchanges[0].contains(field),
            "{field} is not in {}",
            exchanges[0]
        );
        assert!(
            !exchanges[1].contains(field),
            "{field} is in {}",
            exchanges[1]
        );
    }
    assert!(!exchanges[0].contains("resend_count"), "{}", exchanges[0]);
    for field in [
        "http.response.status_code=200",
        "http.request.resend_count=1",
    ] {
        assert!(
            exchanges[1].contains(field),
            "{field} is not in {}",
            exchanges[1]
        );
    }
    assert!(
        !exchanges[1].contains("error.type") && !exchanges[1].contains("otel.status_code"),
        "{}",
        exchanges[1]
    );
    let mints = closed_spans(&text, "}: tower_released")
        .into_iter()
        .filter(|line| !line.contains("POST{"));
    assert!(
        mints.into_iter().all(|mint| !mint.contains("error.type")),
        "{text}"
    );
}

#[tokio::test]
async fn an_attempt_that_runs_into_its_time_limit_is_an_error_and_a_page_that_went_away_is_none() {
    let (log, _guard) = Log::capture_filtered("tower_released=trace");
    let released = FakeReleased::start().await.unwrap();
    released.set_latency(Duration::from_secs(60));
    let soon = retry(|retry| {
        (retry.max_attempts, retry.attempt_timeout) = (1, Duration::from_millis(200));
    });
    let client = released.client_builder().retry(soon).build().unwrap();
    client.mint(&ada()).await.unwrap_err();
    let text = log.text();
    let [exchange] = closed_spans(&text, "POST{")[..] else {
        panic!("{text}")
    };
    assert!(exchange.contains(r#"error.type="timeout""#), "{exchange}");
    assert!(
        exchange.contains(r#"otel.status_code="ERROR""#),
        "{exchange}"
    );
    let [mint] = closed_spans(&text, "released_mint{")
        .into_iter()
        .filter(|line| !line.contains("POST"))
        .collect::<Vec<_>>()[..]
    else {
        panic!("{text}")
    };
    assert!(
        mint.contains(r#"error.type="timeout""#) && mint.contains(r#"otel.status_code="ERROR""#),
        "{mint}"
    );

    released.wait_until(|counts| counts.in_flight == 0).await;
    let (log, _guard) = Log::capture_filtered("tower_released=trace");
    let client = released.client().unwrap();
    let user = ada();
    tokio::select! {
        _ = client.mint(&user) => panic!("the API takes a minute"),
        _ = released.wait_until(|counts| counts.in_flight == 1) => {}
    }
    let text = log.text();
    assert_eq!(closed_spans(&text, "POST{").len(), 1, "{text}");
    assert!(
        !text.contains("error.type") && !text.contains("otel.status_code"),
        "{text}"
    );
}

#[tokio::test]
async fn the_filter_in_the_guide_shows_the_spans() {
    let (log, _guard) = Log::capture_filtered("info,tower_released=debug");
    let released = FakeReleased::start().await.unwrap();
    released.client().unwrap().mint(&ada()).await.unwrap();
    for span in ["released_mint", "POST"] {
        assert!(
            log.text()
                .lines()
                .any(|line| line.contains(span) && line.contains(" close ")),
            "{}",
            log.text()
        );
    }
}

#[tokio::test]
async fn a_mint_that_succeeds_is_silent_at_the_level_of_info() {
    let (log, _guard) = Log::capture_filtered("info");
    let released = FakeReleased::start().await.unwrap();
    released.client().unwrap().mint(&ada()).await.unwrap();
    assert_eq!(log.text(), "");
}

#[tokio::test]
async fn an_operator_can_tell_a_wrong_secret_from_an_outage_from_a_request_to_slow_down() {
    let (log, _guard) = Log::capture();
    let released = FakeReleased::start().await.unwrap();
    let client = released.client_builder().retry(once()).build().unwrap();

    let mint = async || client.mint(&ada()).await.unwrap_err().to_string();
    released.reply_next(Reply::status(401));
    assert!(mint().await.contains("check RELEASED_SHARED_SECRET"));

    released.reply_always(Reply::status(500));
    for _ in 0..5 {
        assert!(mint().await.contains("whether Released has an outage"));
    }
    assert!(
        log.text()
            .contains("Released keeps failing; mints fail at once until a probe succeeds"),
        "{}",
        log.text()
    );
    assert!(mint().await.contains("tries again by itself"));

    let client = released.client_builder().retry(once()).build().unwrap();
    released.reply_always(Reply::status(429).header("retry-after", "20"));
    assert!(
        client
            .mint(&ada())
            .await
            .unwrap_err()
            .to_string()
            .contains("mint_when(navigations)")
    );
    assert!(
        log.text()
            .contains("Released asked to wait; mints fail at once until then"),
        "{}",
        log.text()
    );
}

#[tokio::test]
async fn released_status_is_not_written_into_the_applications_own_span() {
    let (log, _guard) = Log::capture_filtered("app=trace");
    let released = FakeReleased::start().await.unwrap();
    released.reply_always(Reply::status(401));
    let span = tracing::info_span!(target: "app", "request", http.response.status_code = tracing::field::Empty);
    let client = released.client().unwrap();
    let user = ada();
    tracing::Instrument::instrument(client.mint(&user), span.clone())
        .await
        .unwrap_err();
    span.record("http.response.status_code", 200);
    drop(span);
    assert!(
        log.text().contains("status_code=200") && !log.text().contains("status_code=401"),
        "{}",
        log.text()
    );
}

#[tokio::test]
async fn a_connection_that_is_kept_for_later_does_not_keep_the_span_of_its_page_open() {
    let (log, _guard) = Log::capture_filtered("app=trace");
    let released = FakeReleased::start().await.unwrap();
    let client = released.client().unwrap();
    let user = ada();
    let span = tracing::info_span!(target: "app", "request");
    tracing::Instrument::instrument(client.mint(&user), span.clone())
        .await
        .unwrap();
    drop(span);
    assert!(log.text().contains("close"), "{}", log.text());
    client.mint(&user).await.unwrap();
    assert_eq!(released.counts().connections, 1);
}
