//! Gets a page of the application, for `released check --page`.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, Uri};
use http_body_util::Full;
use tracing::Span;
use url::Url;

use super::config_error::ConfigErrorKind;
use super::endpoint::host_and_port;
pub(crate) use super::endpoint::is_this_machine;
use super::failure::{certificate_fault, transport_failure};
use super::transport::hyper;
use crate::connection::Cause;

/// Says why there is no answer, and what to do.
#[derive(Debug)]
pub(crate) struct Unreachable {
    pub(crate) found: String,
    pub(crate) cure: String,
}

/// Sends one request over a connection of its own, which is opened like those to Released: the same TLS, and the same
/// proxy for `https`. Redirects are not followed.
pub(crate) async fn get(url: &Url, headers: HeaderMap) -> Result<Response<Bytes>, Unreachable> {
    let unreachable = |found: String, cure: &str| Unreachable {
        found,
        cure: cure.to_owned(),
    };
    // A fragment is not sent.
    let mut sent = url.clone();
    sent.set_fragment(None);
    let uri: Uri = sent
        .as_str()
        .parse()
        .map_err(|_| unreachable("the URL is too long".to_owned(), "shorten it"))?;
    let transport = hyper::for_pages(&uri, is_this_machine(url)).map_err(|error| {
        // The error's own text is about the token URL.
        match error.kind() {
            ConfigErrorKind::Proxy => unreachable(
                "the proxy in HTTPS_PROXY or ALL_PROXY is neither http:// nor https://".to_owned(),
                "set NO_PROXY for the page's host, or set HTTPS_PROXY to another proxy",
            ),
            ConfigErrorKind::NoTls => unreachable(
                "this program was built without TLS".to_owned(),
                "install it with the feature rustls or native-tls",
            ),
            _ => unreachable(error.to_string(), "check this machine's TLS"),
        }
    })?;
    let mut request = Request::new(Full::<Bytes>::default());
    *request.method_mut() = Method::GET;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    let error = match transport.send(request, &Span::none()).await {
        Ok(answer) => return Ok(answer),
        Err(error) => error,
    };
    let server: Arc<str> = host_and_port(url).into();
    let failure = transport_failure(&*error, &server).error;
    let Some(connection) = failure.connection_failure() else {
        return Err(unreachable(
            format!("the answer of {server} is not HTTP, or is longer than 8 MiB"),
            "check the URL of the page",
        ));
    };
    Err(match (certificate_fault(&*error), connection.cause()) {
        (Some((fault, cure)), _) => unreachable(format!("{connection}: {fault}"), cure),
        (None, Cause::Refused | Cause::Dns) => unreachable(
            connection.to_string(),
            "check the URL of the page, and whether its server runs",
        ),
        (None, Cause::Tls) => unreachable(connection.to_string(), Cause::Tls.what_to_do()),
        (None, Cause::Proxy) => unreachable(
            connection.to_string(),
            "check HTTPS_PROXY, and whether the proxy allows connections to the page's host",
        ),
        (None, _) => unreachable(
            connection.to_string(),
            "check the page's server, and the network between it and this machine",
        ),
    })
}
