//! One request and its response over one fresh connection, driven on the caller's task.

use bytes::Bytes;
use hyper::http::header::{CONTENT_ENCODING, HeaderValue, LOCATION};
use hyper::http::response::Parts;
use hyper::http::{HeaderMap, Request, Version as HttpVersion};
use tokio::time::{Instant, timeout_at};
use url::Url;

use super::body::{Body, Broken, EXCERPT_BYTES, Fed};
use super::fault::{self, Stage};
use super::redirect;
use super::wire::{Version, Wire};
use super::{http1, http2};
use crate::model::{Failure, Fault, HttpFacts, Timings};
use crate::probe::net::Stream;

/// Names in a TLS handshake (RFC 7301, 6; RFC 9113, 3.2).
pub(super) const ALPN_HTTP1: &str = "http/1.1";
pub(super) const ALPN_HTTP2: &str = "h2";

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
    pub(super) fn place(&self) -> String {
        redirect::place(self.url)
    }
}

/// How an exchange ended.
#[derive(Debug)]
pub(super) enum Answer {
    /// With a response that is no redirect to follow.
    Final,
    /// With one that is: the value of its `Location`.
    Redirect(HeaderValue),
    /// HTTP/2 was offered and chosen, and then refused for this request (RFC 9113, 7: HTTP_1_1_REQUIRED).
    Http1Required,
}

/// What was seen of a response so far, also when it failed later.
#[derive(Default)]
pub(super) struct Sight {
    facts: Option<HttpFacts>,
    body: Option<Body>,
}

/// Sends the request and reads the response. `facts` holds what was seen of it, also when it failed later.
pub(super) async fn exchange(
    stream: Stream,
    request: Request<Bytes>,
    plan: &Plan<'_>,
    deadline: Instant,
    timings: &mut Timings,
    facts: &mut Option<HttpFacts>,
) -> Result<Answer, Fault> {
    let version = match &stream {
        Stream::Tls(tls) if tls.get_ref().1.alpn_protocol() == Some(ALPN_HTTP2.as_bytes()) => Version::Http2,
        _ => Version::Http1,
    };
    let wire = Wire::new(version);
    let mut sight = Sight::default();
    let result = match version {
        Version::Http1 => timeout_at(deadline, http1::converse(stream, request, plan, &wire, &mut sight)).await,
        Version::Http2 => {
            // Boxed: the smaller future is the more frequent one.
            timeout_at(deadline, Box::pin(http2::converse(stream, request, plan, &wire, &mut sight))).await
        }
    };
    wire.settle(timings);
    let stage = if sight.facts.is_some() { Stage::Body } else { Stage::Head };
    *facts = sight.facts;
    if let (Some(facts), Some(body)) = (facts, sight.body) {
        facts.body_bytes = body.encoded();
        facts.body = body.into_kept();
    }
    result.unwrap_or_else(|_| Err(fault::timed_out(stage, &wire, &plan.place())))
}

impl Sight {
    /// Notes a final head. Gives the `Location` of a redirect to follow, or a place for the body.
    pub(super) fn head(&mut self, head: &Parts, plan: &Plan<'_>, wire: &Wire) -> Result<&mut Body, HeaderValue> {
        wire.head_is_done();
        self.facts = Some(HttpFacts {
            status: head.status.as_u16(),
            version: version_name(head.version),
            headers: shown(&head.headers),
            ..HttpFacts::default()
        });
        if plan.follow
            && redirect::redirects(head.status)
            && let Some(location) = head.headers.get(LOCATION)
        {
            return Err(location.clone());
        }
        let encoding = head.headers.get(CONTENT_ENCODING).and_then(|value| value.to_str().ok());
        let keep = if plan.needs_body { plan.max_body } else { EXCERPT_BYTES };
        Ok(self.body.insert(Body::new(encoding, keep, plan.max_body)))
    }
}

/// A body beyond the cap is a failure only to an expectation that would have read it.
pub(super) fn judged(fed: Result<Fed, Broken>, plan: &Plan<'_>) -> Result<Fed, Fault> {
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

const fn version_name(version: HttpVersion) -> &'static str {
    match version {
        HttpVersion::HTTP_10 => "HTTP/1.0",
        HttpVersion::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}

fn shown(headers: &HeaderMap) -> Vec<(Box<str>, Box<str>)> {
    headers
        .iter()
        .map(|(name, value)| (name.as_str().into(), String::from_utf8_lossy(value.as_bytes()).into()))
        .collect()
}
