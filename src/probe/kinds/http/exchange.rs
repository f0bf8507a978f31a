//! One request and its response over one fresh connection, driven on the caller's task.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1;
use hyper::http::header::{CONTENT_ENCODING, HeaderValue, LOCATION};
use hyper::http::{HeaderMap, Request, Version};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout_at};
use url::Url;

use super::body::{Body, Broken, EXCERPT_BYTES, Fed};
use super::fault::{self, Stage};
use super::redirect;
use super::wire::{MAX_HEAD_BYTES, Wire, WireIo};
use crate::model::{Failure, Fault, HttpFacts, Timings};
use crate::probe::net::Stream;

/// What is done with the response.
pub(super) struct Plan<'a> {
    /// A redirect is not read beyond its head.
    pub(super) follow: bool,
    /// The whole body is needed, so that one beyond the cap is a failure.
    pub(super) needs_body: bool,
    /// Cap on the body, encoded and decoded, bytes.
    pub(super) max_body: usize,
    /// What was asked; messages name its host and port.
    pub(super) url: &'a Url,
}

impl Plan<'_> {
    fn place(&self) -> String {
        redirect::place(self.url)
    }
}

/// Sends the request and reads the response. `facts` holds what was seen of it, also when it failed later; the value
/// of `Location` is given when the response is a redirect to follow.
pub(super) async fn exchange(
    stream: Stream,
    request: Request<Full<Bytes>>,
    plan: &Plan<'_>,
    deadline: Instant,
    timings: &mut Timings,
    facts: &mut Option<HttpFacts>,
) -> Result<Option<HeaderValue>, Fault> {
    let wire = Wire::new();
    let mut body = None;
    let talk = converse(stream, request, plan, &wire, facts, &mut body);
    let result = timeout_at(deadline, talk).await;
    wire.settle(timings);
    let stage = if facts.is_some() { Stage::Body } else { Stage::Head };
    if let (Some(facts), Some(body)) = (facts, body) {
        facts.body_bytes = body.encoded();
        facts.body = body.into_kept();
    }
    result.unwrap_or_else(|_| Err(fault::timed_out(stage, &wire, &plan.place())))
}

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

async fn converse(
    stream: Stream,
    request: Request<Full<Bytes>>,
    plan: &Plan<'_>,
    wire: &Wire,
    facts: &mut Option<HttpFacts>,
    body: &mut Option<Body>,
) -> Result<Option<HeaderValue>, Fault> {
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
    let mut answer = pin!(sender.send_request(request));
    let response = poll_fn(|cx| {
        driver.drive(cx);
        answer.as_mut().poll(cx)
    });
    let (head, incoming) = response.await.map_err(head_fault)?.into_parts();
    wire.head_is_done();
    *facts = Some(HttpFacts {
        status: head.status.as_u16(),
        version: version_name(head.version),
        headers: shown(&head.headers),
        ..HttpFacts::default()
    });
    if plan.follow
        && redirect::redirects(head.status)
        && let Some(location) = head.headers.get(LOCATION)
    {
        return Ok(Some(location.clone()));
    }
    let encoding = head.headers.get(CONTENT_ENCODING).and_then(|value| value.to_str().ok());
    let keep = if plan.needs_body { plan.max_body } else { EXCERPT_BYTES };
    let body = body.insert(Body::new(encoding, keep, plan.max_body));
    receive(incoming, &mut driver, body, plan, wire).await.map(|()| None)
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

/// A body beyond the cap is a failure only to an expectation that would have read it.
fn judged(fed: Result<Fed, Broken>, plan: &Plan<'_>) -> Result<Fed, Fault> {
    let fault = |failure, text: String| Err(Fault::new(failure, text));
    match fed {
        Ok(Fed::Full) if plan.needs_body => {
            let text = format!(
                "the body from {} is larger than probe.max_body ({} bytes), and an expectation reads it",
                plan.place(),
                plan.max_body
            );
            fault(Failure::BodyTooLarge, text)
        }
        Ok(fed) => Ok(fed),
        Err(Broken::Corrupt) => fault(
            Failure::HttpProtocol,
            format!("the body from {} is not what its Content-Encoding says", plan.place()),
        ),
        Err(Broken::Truncated) => {
            fault(Failure::BodyTruncated, format!("the compressed body from {} ends too early", plan.place()))
        }
    }
}

const fn version_name(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}

fn shown(headers: &HeaderMap) -> Vec<(Box<str>, Box<str>)> {
    headers
        .iter()
        .map(|(name, value)| (name.as_str().into(), String::from_utf8_lossy(value.as_bytes()).into()))
        .collect()
}
