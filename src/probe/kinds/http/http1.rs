//! An exchange of HTTP/1.1, or 1.0 where the server speaks that.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1;
use hyper::http::Request;
use hyper_util::rt::TokioIo;

use super::body::{Body, Fed};
use super::exchange::{Answer, Plan, Sight, judged};
use super::fault::{self, Stage};
use super::wire::{MAX_HEAD_BYTES, Wire, WireIo};
use crate::model::Fault;
use crate::probe::net::Stream;

type Connection<'a> = http1::Connection<TokioIo<WireIo<'a>>, Full<Bytes>>;

/// hyper's connection, polled by who waits for its response: no task of its own.
struct Driver<'a, 'b> {
    connection: Pin<&'b mut Connection<'a>>,
    done: bool,
    error: Option<hyper::Error>,
}

impl Driver<'_, '_> {
    fn drive(&mut self, cx: &mut Context<'_>) {
        if !self.done
            && let Poll::Ready(result) = self.connection.as_mut().poll(cx)
        {
            self.done = true;
            self.error = result.err();
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
    let head_fault = |error: hyper::Error| fault::of_hyper(&error, Stage::Head, wire, &plan.place());
    let mut builder = http1::Builder::new();
    // Browsers write names so, and there are servers that compare them. 100 headers are hyper's own bound.
    builder.title_case_headers(true).max_buf_size(MAX_HEAD_BYTES).max_header_size(MAX_HEAD_BYTES);
    // RFC 9112, 5.2: a user agent replaces a folded line by a space.
    builder.allow_obsolete_multiline_headers_in_responses(true);
    let io = TokioIo::new(WireIo::new(stream, wire));
    let (mut sender, connection) = builder.handshake(io).await.map_err(head_fault)?;
    let connection = pin!(connection);
    let mut driver = Driver { connection, done: false, error: None };
    let mut answer = pin!(sender.send_request(request.map(Full::new)));
    let response = poll_fn(|cx| {
        driver.drive(cx);
        answer.as_mut().poll(cx)
    });
    let (head, incoming) = response.await.map_err(head_fault)?.into_parts();
    match sight.head(&head, plan, wire) {
        Err(location) => Ok(Answer::Redirect(location)),
        Ok(body) => receive(incoming, &mut driver, body, plan, wire).await.map(|()| Answer::Final),
    }
}

async fn receive(
    mut incoming: Incoming,
    driver: &mut Driver<'_, '_>,
    body: &mut Body,
    plan: &Plan<'_>,
    wire: &Wire,
) -> Result<(), Fault> {
    loop {
        let frame = poll_fn(|cx| match Pin::new(&mut incoming).poll_frame(cx) {
            Poll::Pending => {
                driver.drive(cx);
                Pin::new(&mut incoming).poll_frame(cx)
            }
            ready => ready,
        });
        let fed = match frame.await {
            Some(Ok(frame)) => match frame.data_ref() {
                Some(data) => body.feed(data),
                // Trailers.
                None => continue,
            },
            Some(Err(error)) => {
                // The connection knows more when the body only heard that it is gone.
                let known = driver.error.as_ref().unwrap_or(&error);
                return Err(fault::of_hyper(known, Stage::Body, wire, &plan.place()));
            }
            None => return judged(body.finish(), plan).map(|_| ()),
        };
        if judged(fed, plan)? == Fed::Full {
            return Ok(());
        }
    }
}
