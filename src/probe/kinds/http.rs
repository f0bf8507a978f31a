//! `http` and `https`: one request over one fresh connection a hop, redirects by our own loop, every phase timed.
//!
//! Each check sends `Connection: close`, because it never comes back on the same connection: servers then mostly close
//! first, and TIME_WAIT uses up their state instead of our ports. `headers` may say otherwise.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use hyper::http::header::{
    CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT,
};
use hyper::http::{Method, Request, StatusCode, Uri};
use tokio::time::Instant;
use url::Url;

use self::exchange::{ALPN_HTTP1, Answer, Plan, exchange};
use self::spec::Spec;
use crate::model::{Failure, Fault, Observation};
use crate::probe::form::Form;
use crate::probe::net::{Destination, Stream, TlsOptions};
use crate::probe::{Kind, Prepared, Probe, ProbeContext, request};
use crate::settings::proxy::Choice;
use crate::settings::reader::TableReader;

pub(crate) mod body;
mod exchange;
mod fault;
mod frames;
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzz;
mod http1;
mod http2;
mod proxied;
mod redirect;
mod spec;
mod wire;

/// The row of the registration table.
pub(super) const KIND: Kind = Kind {
    name: "http",
    schemes: &["http", "https"],
    form: Form::Authority,
    example_url: "https://example.com/path",
    keys: &[
        "method",
        "headers",
        "body",
        "follow_redirects",
        "max_redirects",
        "redirect_downgrade",
        "ip_version",
        "proxy",
        "auth",
        "tls",
        "expect",
    ],
    prepare,
    example: include_str!("http/example.toml"),
};

fn prepare(url: &Url, reader: &mut TableReader<'_>) -> Option<Prepared> {
    let (spec, expect) = spec::read(url, reader)?;
    Some(Prepared { probe: Arc::new(HttpProbe { spec }), expect: Arc::new(expect) })
}

struct HttpProbe {
    spec: Spec,
}

impl Probe for HttpProbe {
    fn probe<'a>(&'a self, context: &'a ProbeContext<'a>) -> BoxFuture<'a, Observation> {
        Box::pin(async move {
            let start = Instant::now();
            let mut seen = Observation::new(context.started_at);
            seen.fault = self.spec.run(context, &mut seen).await.err();
            super::close_timings(&mut seen, start);
            seen
        })
    }
}

/// What the next request is, besides its URL.
struct Turn {
    method: Method,
    uri: Uri,
    /// The chain never left the origin of the monitor's own URL.
    home: bool,
    with_body: bool,
}

impl Spec {
    async fn run(&self, context: &ProbeContext<'_>, seen: &mut Observation) -> Result<(), Fault> {
        let mut turn = Turn { method: self.method.clone(), uri: self.uri.clone(), home: true, with_body: true };
        // Stays empty, and so costs nothing, until there is a redirect.
        let mut asked: Vec<(Method, Url)> = Vec::new();
        let mut followed: u16 = 0;
        loop {
            let here = asked.last().map_or(&self.url, |(_, url)| url);
            let result = self.hop(here, &turn, context, seen).await;
            if let Some(facts) = &mut seen.http {
                facts.redirects = followed;
            }
            let Some((status, location)) = result.map_err(|fault| after(followed, fault))? else { return Ok(()) };
            if asked.is_empty() {
                asked.push((turn.method.clone(), self.url.clone()));
            }
            let hop = redirect::next(self.redirects, &asked, status, location.as_bytes())?;
            followed = followed.saturating_add(1);
            turn = Turn {
                uri: request::request_uri(&hop.url).ok_or_else(|| unusable(&hop.url))?,
                method: hop.method.clone(),
                home: turn.home && self.url.origin() == hop.url.origin(),
                with_body: turn.with_body && !hop.drops_body,
            };
            asked.push((hop.method, hop.url));
        }
    }

    /// Beyond its origin a request has none of the owner's headers but the harmless ones; the first hop away settles
    /// it, so that nobody can send the chain back home with them.
    fn request(&self, url: &Url, turn: &Turn, user_agent: &str) -> Request<Bytes> {
        let mut headers = self.headers.clone();
        if !turn.home {
            spec::keep_harmless(&mut headers);
            if let Some(host) = request::host_header(url) {
                headers.insert(HOST, host);
            }
        }
        if !self.names_agent {
            let agent = HeaderValue::from_str(user_agent);
            headers.insert(USER_AGENT, agent.unwrap_or(HeaderValue::from_static("lamplighter")));
        }
        if !turn.with_body {
            for name in [CONTENT_TYPE, CONTENT_LENGTH, CONTENT_ENCODING, CONTENT_LANGUAGE] {
                headers.remove(name);
            }
        }
        let body = if turn.with_body { self.body.clone() } else { Bytes::new() };
        let mut request = Request::new(body);
        *request.method_mut() = turn.method.clone();
        *request.uri_mut() = turn.uri.clone();
        *request.headers_mut() = headers;
        request
    }

    /// One connection and one exchange on it; gives status and `Location` of a redirect to follow.
    async fn hop(
        &self,
        url: &Url,
        turn: &Turn,
        context: &ProbeContext<'_>,
        seen: &mut Observation,
    ) -> Result<Option<(StatusCode, HeaderValue)>, Fault> {
        let plan = Plan { follow: self.follow, needs_body: self.needs_body, max_body: context.net.max_body(), url };
        let tls = if turn.home { &self.tls } else { &self.tls_abroad };
        let mut answer = self.once(tls, turn, &plan, context, seen).await?;
        if matches!(answer, Answer::Http1Required) {
            let tls = tls.clone().with_alpn(&[ALPN_HTTP1]);
            answer = self.once(&tls, turn, &plan, context, seen).await?;
        }
        let status = seen.http.as_ref().and_then(|facts| StatusCode::from_u16(facts.status).ok());
        match answer {
            Answer::Redirect(location) => Ok(status.map(|status| (status, location))),
            Answer::Final | Answer::Http1Required => Ok(None),
        }
    }

    async fn once(
        &self,
        tls: &TlsOptions,
        turn: &Turn,
        plan: &Plan<'_>,
        context: &ProbeContext<'_>,
        seen: &mut Observation,
    ) -> Result<Answer, Fault> {
        let url = plan.url;
        (seen.http, seen.certificate) = (None, None);
        let (Some(host), Some(port)) = (url.host(), url.port_or_known_default()) else {
            return Err(Fault::new(Failure::Internal, "the URL has no host"));
        };
        let destination = Destination { host: host.clone(), port, ip_version: self.ip_version, profile: self.profile };
        let secure = url.scheme() == "https";
        let proxy = match &self.proxy {
            Choice::Probe => context.net.proxy(),
            Choice::Direct => None,
            Choice::Own(own) => Some(&**own),
        };
        let (dialled, forwarder) = match proxy {
            None => (context.net.dial(&destination, context.deadline, &mut seen.timings).await, None),
            Some(proxy) => {
                seen.note("proxy", proxy.to_string());
                let via = context.net.dial_via(proxy, &destination, !secure, context.deadline, &mut seen.timings);
                // Boxed: few have a proxy.
                match Box::pin(via).await {
                    Ok(via) => (Ok(via.dialled), via.forwards.then_some(proxy)),
                    Err(not) => (Err(not), None),
                }
            }
        };
        let dialled = match dialled {
            Ok(dialled) => dialled,
            Err(not) => {
                seen.address = not.address.or(seen.address);
                return Err(not.fault);
            }
        };
        seen.address = Some(dialled.address);
        let stream = if secure {
            let (now, deadline) = (context.started_at, context.deadline);
            let handshake = context.net.handshake(dialled.stream, &host, tls, now, deadline, &mut seen.timings);
            let shaken = handshake.await;
            seen.certificate = shaken.certificate;
            Stream::Tls(Box::new(shaken.result?))
        } else {
            Stream::Plain(dialled.stream)
        };
        let mut request = self.request(url, turn, context.net.user_agent());
        if let Some(proxy) = forwarder {
            proxied::forwarded(&mut request, url, proxy)?;
        }
        let answer = exchange(stream, request, plan, context.deadline, &mut seen.timings, &mut seen.http).await?;
        match (forwarder, &seen.http) {
            (Some(proxy), Some(facts)) => proxied::own_words(facts, proxy).map_or(Ok(answer), Err),
            _ => Ok(answer),
        }
    }
}

fn unusable(url: &Url) -> Fault {
    let text = format!("redirected to a URL of {} that is not valid in a request", redirect::place(url));
    Fault::new(Failure::HttpProtocol, text)
}

fn after(followed: u16, mut fault: Fault) -> Fault {
    if followed > 0 {
        let plural = if followed == 1 { "" } else { "s" };
        fault.message = format!("after {followed} redirect{plural}: {}", fault.message);
    }
    fault
}
