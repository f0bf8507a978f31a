//! An exchange of HTTP/2 (RFC 9113): one stream of one connection. What the server may make us keep is bounded by the
//! windows and limits that it is told first.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::client::{Builder, Connection};
use h2::{Reason, RecvStream, SendStream};
use hyper::http::header::{CONNECTION, HOST, HeaderName, TE, TRANSFER_ENCODING, UPGRADE};
use hyper::http::uri::{Authority, Scheme};
use hyper::http::{Request, Uri, Version};

use super::body::{Body, Fed};
use super::exchange::{Answer, Plan, Sight, judged};
use super::fault::{self, Stage};
use super::wire::{MAX_HEAD_BYTES, Wire, WireIo};
use crate::model::{Failure, Fault};
use crate::probe::net::Stream;

/// Body bytes in flight, of the stream and of the connection: the protocol's own default.
const WINDOW_BYTES: u32 = 65_535;

/// The smallest frame size that a server must accept, and that we accept.
const FRAME_BYTES: u32 = 16_384;

/// Headers of one connection, which HTTP/2 forbids (RFC 9113, 8.2.2).
const OF_CONNECTION: [HeaderName; 6] = [
    CONNECTION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// The connection, polled by who waits for its response: no task of its own.
struct Driver<'a, 'b> {
    connection: Pin<&'b mut Connection<WireIo<'a>>>,
    upload: Upload,
    done: bool,
    error: Option<h2::Error>,
}

impl Driver<'_, '_> {
    fn drive(&mut self, cx: &mut Context<'_>) {
        self.upload.drive(cx);
        if !self.done
            && let Poll::Ready(result) = self.connection.as_mut().poll(cx)
        {
            self.done = true;
            self.error = result.err();
        }
    }

    /// The connection may know more than the stream, which then only heard that it is gone.
    fn told(&self, error: h2::Error, stage: Stage, wire: &Wire, plan: &Plan<'_>) -> Fault {
        let known = self.error.as_ref().filter(|known| known.is_io() || known.is_library()).unwrap_or(&error);
        fault::of_h2(known, stage, wire, &plan.place())
    }
}

/// The body of the request, as fast as the server's windows allow.
struct Upload {
    stream: SendStream<Bytes>,
    rest: Bytes,
}

impl Upload {
    /// What goes wrong here is told by the response.
    fn drive(&mut self, cx: &mut Context<'_>) {
        while !self.rest.is_empty() {
            self.stream.reserve_capacity(self.rest.len());
            match self.stream.poll_capacity(cx) {
                Poll::Pending => return,
                Poll::Ready(Some(Ok(room))) if room > 0 => {
                    let piece = self.rest.split_to(room.min(self.rest.len()));
                    let is_last = self.rest.is_empty();
                    if self.stream.send_data(piece, is_last).is_err() {
                        self.rest.clear();
                    }
                }
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(_) => self.rest.clear(),
            }
        }
    }
}

/// Sends the request and reads the response, without a deadline of its own.
pub(super) async fn converse(
    stream: Stream,
    request: Request<Bytes>,
    plan: &Plan<'_>,
    wire: &Wire,
    sight: &mut Sight,
) -> Result<Answer, Fault> {
    let head_fault = |error: &h2::Error| fault::of_h2(error, Stage::Head, wire, &plan.place());
    let (request, body) = for_http2(request, plan)?;
    let mut builder = Builder::new();
    builder.enable_push(false).max_header_list_size(MAX_HEAD_BYTES as u32).max_frame_size(FRAME_BYTES);
    builder.initial_window_size(WINDOW_BYTES).initial_connection_window_size(WINDOW_BYTES);
    builder.max_send_buffer_size(FRAME_BYTES as usize);
    let handshake = builder.handshake::<_, Bytes>(WireIo::new(stream, wire)).await;
    // Kept to the end: the connection ends when nobody can ask for more.
    let (mut sender, connection) = handshake.map_err(|error| head_fault(&error))?;
    let sent = sender.send_request(request, body.is_empty());
    let (answer, upload) = sent.map_err(|error| head_fault(&error))?;
    let connection = pin!(connection);
    let upload = Upload { stream: upload, rest: body };
    let mut driver = Driver { connection, upload, done: false, error: None };
    let mut answer = pin!(answer);
    let response = poll_fn(|cx| {
        driver.drive(cx);
        answer.as_mut().poll(cx)
    });
    let (head, incoming) = match response.await {
        Ok(response) => response.into_parts(),
        Err(error) if error.is_remote() && error.reason() == Some(Reason::HTTP_1_1_REQUIRED) => {
            return Ok(Answer::Http1Required);
        }
        Err(error) => return Err(driver.told(error, Stage::Head, wire, plan)),
    };
    match sight.head(&head, plan, wire) {
        Err(location) => Ok(Answer::Redirect(location)),
        Ok(body) => receive(incoming, &mut driver, body, plan, wire).await.map(|()| Answer::Final),
    }
}

async fn receive(
    mut incoming: RecvStream,
    driver: &mut Driver<'_, '_>,
    body: &mut Body,
    plan: &Plan<'_>,
    wire: &Wire,
) -> Result<(), Fault> {
    loop {
        let piece = poll_fn(|cx| {
            driver.drive(cx);
            incoming.poll_data(cx)
        });
        let fed = match piece.await {
            Some(Ok(data)) => {
                // The window is opened again by what was taken; it fails only where the stream has.
                let _ = incoming.flow_control().release_capacity(data.len());
                body.feed(&data)
            }
            Some(Err(error)) => return Err(driver.told(error, Stage::Body, wire, plan)),
            None => return judged(body.finish(), plan).map(|_| ()),
        };
        if judged(fed, plan)? == Fed::Full {
            return Ok(());
        }
    }
}

/// The request as HTTP/2 has it: scheme and host are part of the target, and nothing is said about the connection.
fn for_http2(request: Request<Bytes>, plan: &Plan<'_>) -> Result<(Request<()>, Bytes), Fault> {
    let (mut head, body) = request.into_parts();
    let host = head.headers.remove(HOST);
    let authority = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
    for name in OF_CONNECTION {
        head.headers.remove(name);
    }
    let mut parts = head.uri.into_parts();
    (parts.scheme, parts.authority) = (Some(Scheme::HTTPS), authority);
    head.uri = Uri::from_parts(parts).map_err(|why| {
        Fault::new(Failure::Internal, format!("the request to {} could not be made: {why}", plan.place()))
    })?;
    head.version = Version::HTTP_2;
    Ok((Request::from_parts(head, ()), body))
}
