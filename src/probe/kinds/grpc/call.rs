//! One unary call (gRPC over HTTP/2): its phases, its answer, and what its failures are called.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use h2::{Reason, RecvStream};
use hyper::http::header::{CONTENT_TYPE, HeaderMap};
use hyper::http::{Request, Response};
use percent_encoding::percent_decode;
use tokio::time::{Instant, timeout_at};

use super::wire::{Counted, Driver, Ended, Passed};
use crate::model::{Failure, Fault, HttpFacts, Observation, Phase, Timings};
use crate::probe::authority::Authority;
use crate::probe::net::Stream;
use crate::probe::{login, talk};
use crate::verdict::text;

/// A health answer has 7 bytes; this much is read of one.
const MAX_BODY_BYTES: usize = 16 * 1024;
/// Of a head or trailers, as HTTP/2 counts them: what gRPC's own clients take (grpc.max_metadata_size, 16 KiB).
const MAX_HEAD_BYTES: u32 = 16 * 1024;
const MAX_QUOTED: usize = 80;

/// A status code of gRPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Status(u32);

impl Status {
    pub(super) const OK: Self = Self(0);
    pub(super) const NOT_FOUND: Self = Self(5);
    pub(super) const PERMISSION_DENIED: Self = Self(7);
    pub(super) const UNIMPLEMENTED: Self = Self(12);
    pub(super) const UNAUTHENTICATED: Self = Self(16);

    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];

    pub(super) fn name(self) -> String {
        let known = usize::try_from(self.0).ok().and_then(|code| Self::NAMES.get(code));
        known.map_or_else(|| format!("the unknown code {}", self.0), |name| (*name).to_owned())
    }
}

/// What a call gave.
pub(super) struct Answer {
    pub(super) status: Status,
    /// The server's sentence, quoted.
    pub(super) said: Option<String>,
    /// With its prefix.
    pub(super) message: Bytes,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Head,
    Body,
}

/// A call to be made.
pub(super) struct Call<'a> {
    place: &'a Authority,
    deadline: Instant,
    request: Request<()>,
    message: Bytes,
    passed: Arc<Passed>,
}

impl<'a> Call<'a> {
    pub(super) fn new(place: &'a Authority, deadline: Instant, request: Request<()>, message: Bytes) -> Self {
        Self { place, deadline, request, message, passed: Arc::default() }
    }

    /// Makes it. The head goes to what was seen when it arrived.
    pub(super) async fn run(self, stream: Stream, seen: &mut Observation) -> Result<(Answer, Ended), Fault> {
        let mut mark = Mark::new();
        let (deadline, place, passed) = (self.deadline, self.place, Arc::clone(&self.passed));
        let mut stage = Stage::Head;
        let result = timeout_at(deadline, self.converse(stream, seen, &mut mark, &mut stage)).await;
        mark.pass(&mut seen.timings);
        result.unwrap_or_else(|_| {
            let (failure, what) = match stage {
                Stage::Head => (Failure::ResponseTimeout, "did not answer the health check"),
                Stage::Body => (Failure::BodyTimeout, "did not end its answer to the health check"),
            };
            let fault = Fault::new(failure, format!("{place} {what} within the timeout"));
            Err(other_protocol(place, &passed).unwrap_or(fault))
        })
    }

    async fn converse(
        self,
        stream: Stream,
        seen: &mut Observation,
        mark: &mut Mark,
        stage: &mut Stage,
    ) -> Result<(Answer, Ended), Fault> {
        let head_fault = |error: &h2::Error| self.fault(error, Stage::Head);
        let mut builder = h2::client::Builder::new();
        builder.enable_push(false).max_header_list_size(MAX_HEAD_BYTES).initial_window_size(MAX_BODY_BYTES as u32);
        let stream = Counted::new(stream, Arc::clone(&self.passed));
        let (mut sender, connection) =
            builder.handshake::<_, Bytes>(stream).await.map_err(|error| head_fault(&error))?;
        let mut driver = Driver::new(connection);
        let (answer, mut body) =
            sender.send_request(self.request.clone(), false).map_err(|error| head_fault(&error))?;
        body.send_data(self.message.clone(), true).map_err(|error| head_fault(&error))?;
        driver.push().await;
        mark.turn(Phase::Wait, &mut seen.timings);
        let mut answer = pin!(answer);
        let response = poll_fn(|cx| {
            driver.drive(cx);
            answer.as_mut().poll(cx)
        });
        let response = match response.await {
            Ok(response) => response,
            Err(error) => return Err(self.fault(&driver.error().unwrap_or(error), Stage::Head)),
        };
        mark.turn(Phase::Receive, &mut seen.timings);
        *stage = Stage::Body;
        drop((sender, body));
        let answer = self.receive(response, &mut driver, seen).await?;
        Ok((answer, Ended(driver)))
    }

    async fn receive(
        &self,
        response: Response<RecvStream>,
        driver: &mut Driver,
        seen: &mut Observation,
    ) -> Result<Answer, Fault> {
        let (head, mut body) = response.into_parts();
        seen.http = Some(HttpFacts {
            status: head.status.as_u16(),
            version: "HTTP/2",
            headers: shown(&head.headers),
            ..HttpFacts::default()
        });
        self.check_head(head.status.as_u16(), &head.headers)?;
        // Trailers only: the head is the end.
        if let Some((status, said)) = status_of(&head.headers) {
            return Ok(Answer { status, said, message: Bytes::new() });
        }
        let mut message = BytesMut::new();
        loop {
            let data = poll_fn(|cx| {
                driver.drive(cx);
                body.poll_data(cx)
            });
            match data.await {
                None => break,
                Some(Ok(data)) => {
                    message.extend_from_slice(&data);
                    if message.len() > MAX_BODY_BYTES {
                        let text = format!("{} answered with far more than a health answer can be", self.place);
                        return Err(Fault::new(Failure::BodyTooLarge, text));
                    }
                    // The window is as large as what is read at the most; given back, it never stalls short of that.
                    let _ = body.flow_control().release_capacity(data.len());
                }
                Some(Err(error)) => return Err(self.fault(&driver.error().unwrap_or(error), Stage::Body)),
            }
        }
        let trailers = poll_fn(|cx| {
            driver.drive(cx);
            body.poll_trailers(cx)
        });
        let trailers = match trailers.await {
            Ok(trailers) => trailers.unwrap_or_default(),
            Err(error) => return Err(self.fault(&driver.error().unwrap_or(error), Stage::Body)),
        };
        match status_of(&trailers) {
            Some((status, said)) => Ok(Answer { status, said, message: message.freeze() }),
            None => Err(self.protocol("ended its answer without a grpc-status: is there a proxy that drops trailers?")),
        }
    }

    fn check_head(&self, status: u16, headers: &HeaderMap) -> Result<(), Fault> {
        let place = self.place;
        if status != 200 {
            let text = format!("{place} answered with HTTP status {status}, where gRPC has 200: is there a proxy?");
            return Err(Fault::new(Failure::StatusUnexpected, text));
        }
        let kind = headers.get(CONTENT_TYPE).map(|kind| String::from_utf8_lossy(kind.as_bytes()));
        match kind {
            Some(kind) if kind.starts_with("application/grpc") => Ok(()),
            Some(kind) => {
                let kind = text::quote(&kind, MAX_QUOTED);
                Err(self.protocol(&format!("answered with the content type {kind}, which is not gRPC")))
            }
            None => Err(self.protocol("answered without a content type, which is not gRPC")),
        }
    }

    fn protocol(&self, what: &str) -> Fault {
        Fault::new(Failure::HttpProtocol, format!("{} {what}", self.place))
    }

    /// The fault of an error of h2. A server that gives up the request or the connection in good order has closed it;
    /// one that complains about us, or breaks HTTP/2 itself, is `http_protocol`.
    fn fault(&self, error: &h2::Error, stage: Stage) -> Fault {
        let place = self.place;
        if self.passed.flooded() {
            return self.protocol("sent control frames without end instead of an answer");
        }
        if let Some(fault) = other_protocol(place, &self.passed) {
            return fault;
        }
        let gone = match stage {
            Stage::Head => Failure::ConnectionClosed,
            Stage::Body => Failure::BodyTruncated,
        };
        if let Some(cause) = error.get_io() {
            // The library's word for a connection that ended, and TLS's.
            use std::io::ErrorKind::{BrokenPipe, UnexpectedEof};
            return match cause.kind() {
                BrokenPipe | UnexpectedEof => {
                    Fault::new(gone, format!("{place} closed the connection before it had answered the health check"))
                }
                _ => talk::broken(cause, place),
            };
        }
        let Some(reason) = error.reason() else {
            return Fault::new(Failure::Internal, format!("the call to {place} could not be made: {error}"));
        };
        if !error.is_remote() {
            return self.protocol(&format!("sent what is not HTTP/2 ({})", reason.description()));
        }
        let what = if error.is_go_away() { "ended the connection" } else { "gave up the call" };
        let text = format!("{place} {what} with the HTTP/2 code {reason:?} ({})", reason.description());
        Fault::new(if gives_up(reason) { gone } else { Failure::HttpProtocol }, text)
    }
}

/// Codes (RFC 9113, 7) that say nothing about how the protocol was spoken.
fn gives_up(reason: Reason) -> bool {
    [
        Reason::NO_ERROR,
        Reason::INTERNAL_ERROR,
        Reason::REFUSED_STREAM,
        Reason::CANCEL,
        Reason::CONNECT_ERROR,
        Reason::ENHANCE_YOUR_CALM,
    ]
    .contains(&reason)
}

/// The fault of a peer whose first bytes are another protocol's.
fn other_protocol(place: &Authority, passed: &Passed) -> Option<Fault> {
    let what = if passed.begins_with(b"HTTP/") {
        "speaks HTTP/1.1, and gRPC is spoken over HTTP/2 only"
    } else if passed.begins_with(b"\x15\x03") {
        "speaks TLS, not plain HTTP/2: use a grpcs URL"
    } else {
        return None;
    };
    Some(Fault::new(Failure::HttpProtocol, format!("{place} {what}")))
}

/// `grpc-status` and `grpc-message` of a head or of trailers. A status that is no number counts as UNKNOWN, as the
/// protocol has it.
fn status_of(headers: &HeaderMap) -> Option<(Status, Option<String>)> {
    let status = headers.get("grpc-status")?;
    let status = status.to_str().ok().and_then(|text| text.parse().ok()).map_or(Status(2), Status);
    let said = headers.get("grpc-message").map(|said| percent_decode(said.as_bytes()).collect::<Vec<u8>>());
    Some((status, said.filter(|said| !said.is_empty()).map(|said| login::said(&said))))
}

fn shown(headers: &HeaderMap) -> Vec<(Box<str>, Box<str>)> {
    let text = |bytes: &[u8]| -> Box<str> { String::from_utf8_lossy(bytes).into() };
    headers.iter().map(|(name, value)| (name.as_str().into(), text(value.as_bytes()))).collect()
}

/// Which phase runs, and since when.
struct Mark {
    phase: Phase,
    since: Instant,
}

impl Mark {
    fn new() -> Self {
        Self { phase: Phase::Send, since: Instant::now() }
    }

    fn turn(&mut self, next: Phase, timings: &mut Timings) {
        self.pass(timings);
        self.phase = next;
    }

    fn pass(&mut self, timings: &mut Timings) {
        let now = Instant::now();
        timings.add(self.phase, now - self.since);
        self.since = now;
    }
}
