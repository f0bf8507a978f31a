//! A small document over HTTP, for probes that ask somebody else about their target. Each connection comes from the
//! network layer: resolver, egress rules and trust are those of every check.

use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper::http::header::{ACCEPT, CONNECTION, HOST, LOCATION, RETRY_AFTER, USER_AGENT};
use hyper::http::{HeaderMap, Request};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, timeout_at};
use url::Url;

use super::ProbeContext;
use super::authority::Authority;
use super::net::{IpVersion, Profile, Stream, TlsOptions};
use super::talk;
use crate::model::{Failure, Fault, Observation, Phase};

const MAX_HEAD: usize = 64 * 1024;
const MAX_REDIRECTS: usize = 5;

/// An answer that is not a redirect.
pub struct Fetched {
    /// Its code.
    pub status: u16,
    /// `Retry-After`, where it is a number of seconds.
    pub retry_after: Option<Duration>,
    /// The body, whole.
    pub body: Vec<u8>,
}

/// Gets a document of at most `most` bytes, following up to five redirects, never from https to http. Phases and address go to what was seen;
/// the certificate does not: it is not the target's.
pub async fn get(
    url: &Url,
    accept: &str,
    most: usize,
    profile: Profile,
    context: &ProbeContext<'_>,
    seen: &mut Observation,
) -> Result<Fetched, Fault> {
    let mut url = url.clone();
    for _ in 0..=MAX_REDIRECTS {
        let hop = hop(&url, accept, most, profile, context, seen).await;
        seen.certificate = None;
        let next = match hop? {
            Hop::End(fetched) => return Ok(fetched),
            Hop::To(location) => url.join(&location).ok(),
        };
        let blocked = || Fault::new(Failure::RedirectBlocked, format!("{} redirects to where nobody may follow", url));
        let next = next.ok_or_else(blocked)?;
        if !matches!((url.scheme(), next.scheme()), (_, "https") | ("http", "http")) {
            return Err(blocked());
        }
        url = next;
    }
    Err(Fault::new(Failure::RedirectLimit, format!("{url} is the end of more than {MAX_REDIRECTS} redirects")))
}

enum Hop {
    End(Fetched),
    To(String),
}

async fn hop(
    url: &Url,
    accept: &str,
    most: usize,
    profile: Profile,
    context: &ProbeContext<'_>,
    seen: &mut Observation,
) -> Result<Hop, Fault> {
    let (Some(host), Some(port)) = (url.host(), url.port_or_known_default()) else {
        return Err(Fault::new(Failure::Internal, "a URL without a host"));
    };
    let place = Authority { host: host.to_owned(), port };
    let stream = talk::connect(&place, IpVersion::Any, profile, context, seen).await?;
    let stream = if url.scheme() == "https" {
        talk::secure(stream, &place, &TlsOptions::default(), context, seen).await?
    } else {
        Stream::Plain(stream)
    };
    let path = url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
    let bare = url.port().map_or_else(|| host.to_string(), |port| format!("{host}:{port}"));
    let request = Request::get(path).header(HOST, bare).header(USER_AGENT, context.net.user_agent());
    let request = request.header(ACCEPT, accept).header(CONNECTION, "close").body(Empty::<Bytes>::new());
    let request = request.map_err(|_| Fault::new(Failure::Internal, format!("{url} cannot be asked for")))?;
    exchange(stream, request, &place, most, context.deadline, seen).await
}

async fn exchange(
    stream: Stream,
    request: Request<Empty<Bytes>>,
    place: &Authority,
    most: usize,
    deadline: Instant,
    seen: &mut Observation,
) -> Result<Hop, Fault> {
    let broken = |error: hyper::Error| of_hyper(&error, place);
    let late = |what: &str| Fault::new(Failure::ResponseTimeout, format!("{place} did not {what} within the timeout"));
    let begin = Instant::now();
    let mut builder = http1::Builder::new();
    builder.max_buf_size(MAX_HEAD);
    let sent = Arc::new(OnceLock::new());
    let stream = Noted { stream, wrote: false, sent: Arc::clone(&sent) };
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let mut connection = pin!(connection);
    let mut driven = false;
    let mut answer = pin!(sender.send_request(request));
    let head = loop {
        tokio::select! {
            biased;
            answered = timeout_at(deadline, &mut answer) => break answered,
            _ = &mut connection, if !driven => driven = true,
        }
    };
    let ended = Instant::now();
    seen.timings.add(Phase::Send, *sent.get().unwrap_or(&ended) - begin);
    if let Some(sent) = sent.get() {
        seen.timings.add(Phase::Wait, ended - *sent);
    }
    let (head, body) = head.map_err(|_| late("answer"))?.map_err(broken)?.into_parts();
    if head.status.is_redirection()
        && let Some(location) = head.headers.get(LOCATION).and_then(|value| value.to_str().ok())
    {
        return Ok(Hop::To(location.to_owned()));
    }
    let received = Instant::now();
    let mut reading = pin!(Limited::new(body, most).collect());
    let body = loop {
        tokio::select! {
            biased;
            read = timeout_at(deadline, &mut reading) => break read,
            _ = &mut connection, if !driven => driven = true,
        }
    };
    seen.timings.add(Phase::Receive, received.elapsed());
    let body = body.map_err(|_| late("send its whole answer"))?.map_err(|error| {
        if error.is::<LengthLimitError>() {
            return Fault::new(Failure::BodyTooLarge, format!("{place} answered with more than {most} bytes"));
        }
        Fault::new(Failure::BodyTruncated, format!("the answer of {place} broke off"))
    })?;
    let (status, retry_after) = (head.status.as_u16(), retry_after(&head.headers));
    Ok(Hop::End(Fetched { status, retry_after, body: body.to_bytes().into() }))
}

/// A connection that notes when the request had left: hyper flushes once it has handed all of it over.
struct Noted {
    stream: Stream,
    wrote: bool,
    sent: Arc<OnceLock<Instant>>,
}

impl AsyncRead for Noted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Noted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, buf))?;
        self.wrote |= written > 0;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        if self.wrote {
            // A second time changes nothing.
            let _ = self.sent.set(Instant::now());
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

fn of_hyper(error: &hyper::Error, place: &Authority) -> Fault {
    if error.is_parse() {
        return Fault::new(Failure::HttpProtocol, format!("{place} does not speak HTTP"));
    }
    Fault::new(Failure::ConnectionClosed, format!("{place} closed the connection instead of answering"))
}
