//! Turns a failure below HTTP into an error: its kind, its cause, and whether it is transient.

use std::error::Error;
use std::io;
use std::sync::Arc;

use hyper_util::client::legacy;

use super::attempts::Failure;
use super::transport::TooLong;
use super::transport::stage::{FailedStage, Stage};
use crate::connection::{Cause, ConnectionFailure};
use crate::error::{MintError, MintErrorKind};

/// Turns an error of the transport into a failure. The error itself is dropped, because its texts may contain the URL
/// and text from the network. Only the operating system's error is kept, created again from its number.
pub(crate) fn transport_failure(error: &(dyn Error + 'static), server: &Arc<str>) -> Failure {
    let kind = if causes(error).any(is_timeout) {
        MintErrorKind::Timeout
    } else if causes(error).any(is_connect) {
        MintErrorKind::Connect
    } else if causes(error).any(is_unreadable) {
        // The connection works.
        return Failure::lasting(MintError::new(MintErrorKind::MalformedResponse));
    } else {
        MintErrorKind::Interrupted
    };
    let code = io_errors(error).find_map(io::Error::raw_os_error);
    let failure = ConnectionFailure::new(
        cause_of(error, kind),
        Arc::clone(server),
        code.map(io::Error::from_raw_os_error),
    );
    Failure {
        error: MintError::new(kind).with_source(failure),
        is_transient: kind != MintErrorKind::Connect || !is_bad_certificate(error),
    }
}

/// Recognises the cause by types and by the system's error kinds, because texts may change.
fn cause_of(error: &(dyn Error + 'static), kind: MintErrorKind) -> Cause {
    let stage = causes(error).find_map(|cause| Some(cause.downcast_ref::<FailedStage>()?.stage()));
    match (stage, kind) {
        (Some(Stage::Dns), _) => Cause::Dns,
        (Some(Stage::Tls), _) => Cause::Tls,
        (Some(Stage::Proxy), _) => Cause::Proxy,
        // Neither the connectors of the application's own client nor an open connection name a stage.
        (None, _) if causes(error).any(is_tls) => Cause::Tls,
        (_, MintErrorKind::Timeout) => Cause::TimedOut,
        (_, MintErrorKind::Interrupted) => {
            io_errors(error).find_map(of_io).unwrap_or(Cause::Closed)
        }
        _ => io_errors(error).find_map(of_io).unwrap_or(Cause::Other),
    }
}

fn of_io(error: &io::Error) -> Option<Cause> {
    Some(match error.kind() {
        io::ErrorKind::ConnectionRefused => Cause::Refused,
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => Cause::Reset,
        io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::NetworkDown => Cause::Unreachable,
        io::ErrorKind::BrokenPipe | io::ErrorKind::NotConnected | io::ErrorKind::UnexpectedEof => {
            Cause::Closed
        }
        _ => return None,
    })
}

fn is_tls(cause: &(dyn Error + 'static)) -> bool {
    #[cfg(feature = "rustls")]
    if cause.is::<rustls::Error>() {
        return true;
    }
    #[cfg(feature = "native-tls")]
    if cause.is::<native_tls::Error>() {
        return true;
    }
    let _ = cause;
    false
}

fn is_timeout(cause: &(dyn Error + 'static)) -> bool {
    #[cfg(feature = "reqwest")]
    if cause.downcast_ref().is_some_and(reqwest::Error::is_timeout) {
        return true;
    }
    let io_error = cause.downcast_ref::<io::Error>();
    io_error.is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
        // tower's `Timeout` around the application's own service.
        || cause.is::<tower::timeout::error::Elapsed>()
}

/// Recognises errors of hyper's client, which reqwest uses, too.
fn is_connect(cause: &(dyn Error + 'static)) -> bool {
    cause.downcast_ref().is_some_and(legacy::Error::is_connect)
}

/// Returns whether the answer is not valid HTTP, or too long.
fn is_unreadable(cause: &(dyn Error + 'static)) -> bool {
    cause.is::<TooLong>() || cause.downcast_ref().is_some_and(hyper::Error::is_parse)
}

/// Returns whether a certificate is bad, which a retry does not change. Each TLS library has its own type for that, but
/// all use this word. The outermost error is skipped, because reqwest's quotes the URL.
fn is_bad_certificate(error: &(dyn Error + 'static)) -> bool {
    causes(error)
        .skip(1)
        .any(|cause| cause.to_string().contains("certificate"))
}

/// Returns whether no connection could be opened. Otherwise an open connection failed.
pub(crate) fn has_no_connection(error: &(dyn Error + 'static)) -> bool {
    causes(error).any(is_connect)
}

/// Says what is wrong with the server's certificate, then what to do, if the TLS library tells.
pub(crate) fn certificate_fault(
    error: &(dyn Error + 'static),
) -> Option<(&'static str, &'static str)> {
    #[cfg(feature = "rustls")]
    {
        use rustls::CertificateError as Fault;

        let fault = causes(error).find_map(|cause| match cause.downcast_ref()? {
            rustls::Error::InvalidCertificate(fault) => Some(fault),
            _ => None,
        })?;
        match fault {
            Fault::Expired | Fault::ExpiredContext { .. } => Some((
                "its certificate has expired",
                "renew the server's certificate; if it is valid, set this machine's clock",
            )),
            Fault::NotValidYet | Fault::NotValidYetContext { .. } => Some((
                "its certificate is not valid yet",
                "set this machine's clock",
            )),
            Fault::NotValidForName | Fault::NotValidForNameContext { .. } => Some((
                "its certificate is for another host",
                "check the host name, and whether a proxy intercepts TLS",
            )),
            Fault::UnknownIssuer => Some((
                "nobody whom this machine trusts signed its certificate",
                "install this machine's root certificates (the package ca-certificates), and those of a proxy that \
                 intercepts TLS",
            )),
            _ => None,
        }
    }
    #[cfg(not(feature = "rustls"))]
    {
        let _ = error;
        None
    }
}

fn io_errors<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a io::Error> {
    causes(error).filter_map(|cause| cause.downcast_ref())
}

/// Returns the error and its sources, the outermost first.
pub(crate) fn causes<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| {
        // TLS libraries put their errors into an `io::Error`, whose `source` skips them.
        match error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
        {
            Some(inner) => Some(inner),
            None => error.source(),
        }
    })
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use tower::BoxError;

    use super::*;

    #[test]
    fn the_stage_says_more_than_what_the_system_says_of_it() {
        use MintErrorKind::{Connect, Interrupted, Timeout};

        let io = |kind: ErrorKind| BoxError::from(io::Error::from(kind));
        let at = |stage: Stage, error: BoxError| stage.failed(error);
        for (error, kind, cause) in [
            (
                at(Stage::Tcp, io(ErrorKind::ConnectionRefused)),
                Connect,
                Cause::Refused,
            ),
            (
                at(Stage::Tcp, io(ErrorKind::ConnectionReset)),
                Connect,
                Cause::Reset,
            ),
            (
                at(Stage::Tcp, io(ErrorKind::HostUnreachable)),
                Connect,
                Cause::Unreachable,
            ),
            (
                at(Stage::Tcp, io(ErrorKind::NetworkUnreachable)),
                Connect,
                Cause::Unreachable,
            ),
            (
                at(Stage::Tcp, io(ErrorKind::AddrNotAvailable)),
                Connect,
                Cause::Other,
            ),
            (
                at(Stage::Tcp, io(ErrorKind::TimedOut)),
                Timeout,
                Cause::TimedOut,
            ),
            (
                at(Stage::Tls, at(Stage::Tcp, io(ErrorKind::ConnectionRefused))),
                Connect,
                Cause::Refused,
            ),
            (
                at(
                    Stage::Tls,
                    at(Stage::Tcp, at(Stage::Dns, io(ErrorKind::Other))),
                ),
                Connect,
                Cause::Dns,
            ),
            (
                at(Stage::Tls, io(ErrorKind::ConnectionReset)),
                Connect,
                Cause::Tls,
            ),
            (
                at(
                    Stage::Tls,
                    at(
                        Stage::Proxy,
                        at(Stage::Tcp, io(ErrorKind::ConnectionRefused)),
                    ),
                ),
                Connect,
                Cause::Proxy,
            ),
            (
                at(
                    Stage::Proxy,
                    at(Stage::Tcp, at(Stage::Dns, io(ErrorKind::Other))),
                ),
                Connect,
                Cause::Proxy,
            ),
            (
                at(Stage::Proxy, at(Stage::Tcp, io(ErrorKind::TimedOut))),
                Timeout,
                Cause::Proxy,
            ),
            (io(ErrorKind::ConnectionRefused), Connect, Cause::Refused),
            (io(ErrorKind::Other), Connect, Cause::Other),
            (io(ErrorKind::ConnectionReset), Interrupted, Cause::Reset),
            (io(ErrorKind::BrokenPipe), Interrupted, Cause::Closed),
            (io(ErrorKind::Other), Interrupted, Cause::Closed),
            (
                io::Error::other(io::Error::from(ErrorKind::ConnectionReset)).into(),
                Interrupted,
                Cause::Reset,
            ),
        ] {
            assert_eq!(cause_of(&*error, kind), cause, "{error:?}");
        }
    }
}
