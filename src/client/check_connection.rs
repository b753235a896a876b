//! What one request says of the way to the token API: proxy, DNS, TCP, TLS, the answer, and the clock.

use std::error::Error;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, DATE, LOCATION};
use http::{HeaderMap, Response};
use url::{Host, Url};

use super::check_token::LARGEST_SKEW;
#[cfg(any(feature = "rustls", feature = "native-tls"))]
use super::endpoint::host_and_port;
use super::exchange::Exchange;
use super::failure::{certificate_fault, has_no_connection, transport_failure};
use super::report::{CheckReport, in_words};
#[cfg(any(feature = "rustls", feature = "native-tls"))]
use super::transport::hyper;
use super::transport::stage::{Progress, Stage};
use crate::connection::Cause;
use crate::error::MintErrorKind;

/// Why something was not checked.
pub(crate) const NO_CONNECTION: &str = "there is no connection";

/// The proxy's host and port, if the client uses one.
fn proxy_of(exchange: &Exchange) -> Option<String> {
    #[cfg(any(feature = "rustls", feature = "native-tls"))]
    {
        let endpoint = &exchange.endpoint;
        let proxy = hyper::proxy_for(endpoint.uri(), endpoint.is_loopback())?;
        // Without the user name and the password.
        let url = Url::parse(&proxy.uri().to_string()).ok()?;
        url.has_host().then(|| host_and_port(&url))
    }
    #[cfg(not(any(feature = "rustls", feature = "native-tls")))]
    {
        let _ = exchange;
        None
    }
}

/// A stage that failed, what was found, and the cure.
type Fault = (&'static str, String, &'static str);

/// Reports the stages of a connection: all are well, or one failed and the later ones were not reached.
fn report_stages(report: &mut CheckReport, exchange: &Exchange, fault: Option<&Fault>) {
    if !exchange.has_own_client() {
        match fault {
            Some((_, found, cure)) => report.failed("service", found, *cure),
            None => report.ok("service", "the application's own HTTP service connects"),
        }
        return;
    }
    let proxy = proxy_of(exchange);
    let host = exchange.endpoint.url().host();
    let server = exchange.server();
    let mut is_reached = true;
    for check in ["proxy", "dns", "tcp", "tls"] {
        let is_by_proxy = proxy.is_some() && matches!(check, "dns" | "tcp");
        if let Some((_, found, cure)) = fault.filter(|(failed, ..)| *failed == check) {
            report.failed(check, found, *cure);
            is_reached = false;
            continue;
        }
        match (check, &proxy, &host) {
            ("proxy", None, _) => report.ok(check, "none"),
            _ if !is_reached => report.skipped(check, NO_CONNECTION),
            ("proxy", Some(proxy), _) => report.ok(check, format!("{proxy} opens connections")),
            _ if is_by_proxy => report.skipped(check, "the proxy does this"),
            ("dns", _, Some(Host::Domain(name))) => {
                report.ok(check, format!("{name} has an address"));
            }
            ("dns", ..) => report.skipped(check, "the URL has an address, no name"),
            ("tcp", ..) => report.ok(check, format!("connected to {server}")),
            _ if exchange.endpoint.is_https() => report.ok(check, "the certificate is valid"),
            _ => report.skipped(check, "plain http, within this machine"),
        }
    }
}

/// Returns the stage in which opening a connection hung, as far as `progress` says.
fn hung(exchange: &Exchange, progress: &Progress) -> Option<Fault> {
    let server = exchange.server();
    let url = exchange.endpoint.url();
    let mut stages = Vec::new();
    if proxy_of(exchange).is_some() {
        stages.push(Stage::Proxy);
    } else {
        if matches!(url.host(), Some(Host::Domain(_))) {
            stages.push(Stage::Dns);
        }
        stages.push(Stage::Tcp);
    }
    if exchange.endpoint.is_https() {
        stages.push(Stage::Tls);
    }
    Some(match progress.hung(&stages)? {
        Stage::Dns => (
            "dns",
            format!(
                "{} was not resolved in time",
                url.host_str().unwrap_or_default()
            ),
            Cause::Dns.what_to_do(),
        ),
        Stage::Tcp => (
            "tcp",
            format!("no connection to {server} in time"),
            Cause::TimedOut.what_to_do(),
        ),
        Stage::Tls => (
            "tls",
            format!("{server} did not answer the TLS handshake in time"),
            "check whether a firewall or a proxy intercepts TLS",
        ),
        Stage::Proxy => (
            "proxy",
            format!("the proxy opened no connection to {server} in time"),
            Cause::Proxy.what_to_do(),
        ),
    })
}

/// Reports that there was no answer within the deadline.
pub(crate) fn report_timeout(report: &mut CheckReport, exchange: &Exchange, progress: &Progress) {
    if let Some(fault) = hung(exchange, progress) {
        report_no_connection(report, exchange, &fault);
    } else {
        let found = format!("no answer from {} in time", exchange.server());
        let cure = MintErrorKind::Timeout.what_to_do();
        report_no_answer(report, exchange, found, cure);
    }
}

fn report_no_connection(report: &mut CheckReport, exchange: &Exchange, fault: &Fault) {
    report_stages(report, exchange, Some(fault));
    for check in ["answer", "clock"] {
        report.skipped(check, NO_CONNECTION);
    }
}

fn report_no_answer(report: &mut CheckReport, exchange: &Exchange, found: String, cure: &str) {
    if exchange.has_own_client() {
        report_stages(report, exchange, None);
    } else {
        report.skipped(
            "service",
            "it is the application's own, and does not say whether it connects",
        );
    }
    report.failed("answer", found, cure);
    report.skipped("clock", "there is no answer");
}

pub(crate) fn report_failure(
    report: &mut CheckReport,
    exchange: &Exchange,
    error: &(dyn Error + 'static),
    progress: &Progress,
) {
    let failure = transport_failure(error, exchange.server()).error;
    let Some(connection) = failure.connection_failure() else {
        report_stages(report, exchange, None);
        report.failed(
            "answer",
            "the answer is not HTTP",
            MintErrorKind::MalformedResponse.what_to_do(),
        );
        report.skipped("clock", "the answer has no date");
        return;
    };
    let cause = connection.cause();
    let (found, cure) = (connection.to_string(), cause.what_to_do());
    let stage = match cause {
        Cause::Dns => "dns",
        Cause::Tls => "tls",
        Cause::Proxy => "proxy",
        _ if !has_no_connection(error) => {
            report_no_answer(report, exchange, found, cure);
            return;
        }
        _ if proxy_of(exchange).is_some() => "proxy",
        _ => "tcp",
    };
    let fault = match certificate_fault(error) {
        Some((fault, cure)) => (stage, format!("{found}: {fault}"), cure),
        None => Some(cause)
            .filter(|cause| *cause == Cause::TimedOut)
            .and_then(|_| hung(exchange, progress))
            .unwrap_or((stage, found, cure)),
    };
    report_no_connection(report, exchange, &fault);
}

pub(crate) fn report_answer(
    report: &mut CheckReport,
    exchange: &Exchange,
    answer: &Response<Bytes>,
    at: SystemTime,
) {
    report_stages(report, exchange, None);
    let (status, headers) = (answer.status(), answer.headers());
    let not_released = MintErrorKind::MalformedResponse.what_to_do();
    if status.is_redirection() {
        let target = redirect_target(headers, exchange.endpoint.url());
        report.failed(
            "answer",
            format!(
                "a redirect ({}){target}, which is not followed",
                status.as_u16()
            ),
            not_released,
        );
    } else if status.is_success() && is_html(headers) {
        report.warning(
            "answer",
            format!("a page ({}), where a token API has none", status.as_u16()),
            not_released,
        );
    } else if status.is_server_error() {
        report.warning(
            "answer",
            format!("the server is failing ({})", status.as_u16()),
            MintErrorKind::Unavailable.what_to_do(),
        );
    } else {
        report.ok(
            "answer",
            format!(
                "status {}; without the secret, any answer is good",
                status.as_u16()
            ),
        );
    }
    report_clock(report, headers, at);
}

/// Returns the origin to which a redirect leads. Its path could contain anything.
fn redirect_target(headers: &HeaderMap, base: &Url) -> String {
    let target = headers
        .get(LOCATION)
        .and_then(|location| location.to_str().ok())
        .and_then(|location| base.join(location).ok());
    target.map_or_else(String::new, |target| {
        format!(" to {}", target.origin().ascii_serialization())
    })
}

fn is_html(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| {
        value
            .as_bytes()
            .to_ascii_lowercase()
            .starts_with(b"text/html")
    })
}

/// Compares this machine's clock with the answer's date. `at` is when the answer was written, by this machine's clock.
fn report_clock(report: &mut CheckReport, headers: &HeaderMap, at: SystemTime) {
    let date = headers
        .get(DATE)
        .and_then(|date| date.to_str().ok())
        .and_then(|date| httpdate::parse_http_date(date).ok());
    let Some(date) = date else {
        report.skipped("clock", "the answer has no date");
        return;
    };
    // A date has no fractions of seconds: on average, it is half a second old.
    let date = date + Duration::from_millis(500);
    let (difference, side) = match at.duration_since(date) {
        Ok(ahead) => (ahead, "ahead of"),
        Err(behind) => (behind.duration(), "behind"),
    };
    if difference > LARGEST_SKEW {
        report.warning(
            "clock",
            format!(
                "this machine's clock is {} {side} the server's",
                in_words(difference.as_secs())
            ),
            "set this machine's clock, for example with NTP: certificates and the life of tokens depend on it",
        );
    } else if difference.as_secs() == 0 {
        report.ok("clock", "the same as the server's");
    } else {
        report.ok(
            "clock",
            format!("{} {side} the server's", in_words(difference.as_secs())),
        );
    }
}
