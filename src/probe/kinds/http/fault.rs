//! What a failed exchange is called. Names come from typed errors; texts only explain.

use std::error::Error as _;
use std::io;

use h2::Reason;

use super::wire::Wire;
use crate::model::{Failure, Fault};
use crate::probe::net::tls_fault;

/// How far the exchange had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Head,
    Body,
}

/// First byte of a TLS alert record (RFC 8446, 5.1): what a TLS port answers to plain HTTP.
const TLS_ALERT: u8 = 0x15;

/// The fault of an error that hyper met.
pub(super) fn of_hyper(error: &hyper::Error, stage: Stage, wire: &Wire, place: &str) -> Fault {
    if wire.flooded() {
        let text = format!("{place} sent interim responses without end instead of a final one");
        return Fault::new(Failure::HttpProtocol, text);
    }
    if let Some(cause) = io_cause(error) {
        return of_io(cause, stage, wire, place);
    }
    if error.is_parse() {
        let text = match wire.first_byte() {
            Some(TLS_ALERT) => format!("{place} speaks TLS, not plain HTTP: use an https URL"),
            _ => format!("the answer of {place} is not valid HTTP/1.1: {error}"),
        };
        return Fault::new(Failure::HttpProtocol, text);
    }
    if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
        return closed(stage, wire, place);
    }
    if error.is_user() {
        return Fault::new(Failure::Internal, format!("the request to {place} could not be made: {error}"));
    }
    Fault::new(Failure::HttpProtocol, format!("the exchange with {place} failed: {error}"))
}

/// The fault of an error that HTTP/2 met.
///
/// A server that gives up a request or ends the connection in good order says the same as one that closes a connection
/// of HTTP/1.1; one that complains about us, or breaks the protocol itself, is `http_protocol`.
pub(super) fn of_h2(error: &h2::Error, stage: Stage, wire: &Wire, place: &str) -> Fault {
    if wire.flooded() {
        let text = format!("{place} sent interim responses or control frames without end instead of an answer");
        return Fault::new(Failure::HttpProtocol, text);
    }
    if let Some(cause) = error.get_io() {
        // The library's word for a connection that ended.
        return if cause.kind() == io::ErrorKind::BrokenPipe {
            closed(stage, wire, place)
        } else {
            of_io(cause, stage, wire, place)
        };
    }
    let Some(reason) = error.reason() else {
        return Fault::new(Failure::Internal, format!("the request to {place} could not be made: {error}"));
    };
    if !error.is_remote() {
        let text = format!("the answer of {place} is not valid HTTP/2 ({reason:?}: {})", reason.description());
        return Fault::new(Failure::HttpProtocol, text);
    }
    let what = if error.is_go_away() { "ended the connection" } else { "gave up the request" };
    let text = format!("{place} {what} with the HTTP/2 code {reason:?} ({})", reason.description());
    let failure = match (gives_up(reason), stage) {
        (false, _) => Failure::HttpProtocol,
        (true, Stage::Head) => Failure::ConnectionClosed,
        (true, Stage::Body) => Failure::BodyTruncated,
    };
    Fault::new(failure, text)
}

/// Error codes (RFC 9113, 7) that say nothing about how the protocol was spoken.
fn gives_up(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::NO_ERROR
            | Reason::INTERNAL_ERROR
            | Reason::REFUSED_STREAM
            | Reason::CANCEL
            | Reason::CONNECT_ERROR
            | Reason::ENHANCE_YOUR_CALM
    )
}

fn io_cause(error: &hyper::Error) -> Option<&io::Error> {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(found) = cause.downcast_ref::<io::Error>() {
            return Some(found);
        }
        source = cause.source();
    }
    None
}

fn of_io(error: &io::Error, stage: Stage, wire: &Wire, place: &str) -> Fault {
    use io::ErrorKind as Kind;
    // With TLS 1.3 a server refuses a client's certificate after the handshake, in place of the answer.
    if let Some(fault) = tls_fault(error) {
        return fault;
    }
    match error.kind() {
        Kind::UnexpectedEof => closed(stage, wire, place),
        Kind::InvalidData | Kind::InvalidInput => {
            Fault::new(Failure::HttpProtocol, format!("{place} sent a body with broken framing: {error}"))
        }
        Kind::TimedOut => timed_out(stage, wire, place),
        Kind::HostUnreachable => Fault::new(Failure::HostUnreachable, format!("{place} became unreachable")),
        Kind::NetworkUnreachable => {
            Fault::new(Failure::NetworkUnreachable, format!("the network of {place} became unreachable"))
        }
        Kind::OutOfMemory => Fault::new(Failure::ResourceExhausted, "no memory for the exchange"),
        kind => Fault::new(Failure::ConnectionReset, format!("the connection to {place} broke: {kind}")),
    }
}

fn closed(stage: Stage, wire: &Wire, place: &str) -> Fault {
    // The reset was met by the write; the read after it only saw the end.
    if wire.write_broken() {
        let text = format!("{place} reset the connection while the request was sent");
        return Fault::new(Failure::ConnectionReset, text);
    }
    match (stage, wire.has_begun()) {
        (Stage::Body, _) => {
            let text = format!("{place} closed the connection before the body was complete");
            Fault::new(Failure::BodyTruncated, text)
        }
        (Stage::Head, false) => {
            Fault::new(Failure::ConnectionClosed, format!("{place} closed the connection without an answer"))
        }
        (Stage::Head, true) => {
            Fault::new(Failure::ConnectionClosed, format!("{place} closed the connection within the response head"))
        }
    }
}

/// The deadline passed.
pub(super) fn timed_out(stage: Stage, wire: &Wire, place: &str) -> Fault {
    match (stage, wire.has_begun()) {
        (Stage::Body, _) => {
            Fault::new(Failure::BodyTimeout, format!("the body from {place} was not complete within the timeout"))
        }
        (Stage::Head, true) => {
            let text = format!("{place} began to answer, but the head was not complete within the timeout");
            Fault::new(Failure::ResponseTimeout, text)
        }
        (Stage::Head, false) => {
            Fault::new(Failure::ResponseTimeout, format!("{place} did not answer within the timeout"))
        }
    }
}
