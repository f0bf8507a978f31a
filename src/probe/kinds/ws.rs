//! `ws` and `wss`: the handshake of RFC 6455, then a ping and its pong, or an exchange of messages.
//!
//! Redirects are not followed: browsers do not either, and a status but 101 is the answer of something else.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use hyper::http::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderName, TRANSFER_ENCODING, UPGRADE, USER_AGENT};
use tokio::time::Instant;
use url::Url;

use self::frames::{OPCODE_CLOSE, Socket, frame};
use crate::model::{Failure, Fault, Observation};
use crate::probe::authority::{Authority, Shape};
use crate::probe::exchange::{self, Script};
use crate::probe::form::Form;
use crate::probe::net::{IpVersion, Profile, Stream, TlsOptions};
use crate::probe::request::{host_header, read_auth, read_headers, request_uri};
use crate::probe::talk::{self, Talk};
use crate::probe::{Kind, Prepared, Probe, ProbeContext};
use crate::settings::reader::TableReader;
use crate::verdict::expectation::{Accepts, Expectations};

pub(crate) mod frames;
mod upgrade;

/// The row of the registration table.
pub(super) const KIND: Kind = Kind {
    name: "ws",
    schemes: &["ws", "wss"],
    form: Form::Authority,
    example_url: "wss://example.com/socket",
    keys: &["headers", "subprotocol", "ip_version", "auth", "tls", "exchange", "expect"],
    prepare,
    example: include_str!("ws/example.toml"),
};

/// All that is received in one check, the handshake's answer included, bytes.
const MAX_RECEIVED_BYTES: usize = 1 << 20;
const MAX_SUBPROTOCOL_BYTES: usize = 128;
/// Close with the code 1000 (RFC 6455, 7.4.1).
const NORMAL: [u8; 2] = 1000_u16.to_be_bytes();

/// Headers that make the handshake.
const OURS: [HeaderName; 8] = [
    CONNECTION,
    UPGRADE,
    CONTENT_LENGTH,
    TRANSFER_ENCODING,
    HeaderName::from_static("sec-websocket-key"),
    HeaderName::from_static("sec-websocket-version"),
    HeaderName::from_static("sec-websocket-extensions"),
    HeaderName::from_static("sec-websocket-protocol"),
];

struct WsProbe {
    authority: Authority,
    ip_version: IpVersion,
    profile: Profile,
    /// None: in plain.
    tls: Option<TlsOptions>,
    /// The request up to its last header, but for the key and, unless it is named, the user agent.
    head: Vec<u8>,
    names_agent: bool,
    subprotocol: Option<String>,
    script: Script,
}

fn prepare(url: &Url, reader: &mut TableReader<'_>) -> Option<Prepared> {
    let before = reader.findings().count();
    let secure = url.scheme() == "wss";
    let port = if secure { 443 } else { 80 };
    let shape = Shape { path: true, query: true, ..Shape::bare(Some(port), "wss://chat.example/socket") };
    let authority = Authority::read(url, reader, shape);
    let mut headers = read_headers(reader, &OURS);
    read_auth(reader, &mut headers);
    let subprotocol = read_subprotocol(reader);
    let ip_version = super::read_ip_version(reader);
    let tls = TlsOptions::read(reader).map(|tls| tls.with_alpn(&["http/1.1"]));
    let script = exchange::read(reader, exchange::MAX_SENT_BYTES);
    let expect = Expectations::read(reader, Accepts { certificate: secure, ..Accepts::default() });
    let uri = request_uri(url);
    if uri.is_none() {
        reader.error("url", "path and query are not valid in a request", "URL characters".to_owned());
    }
    if reader.findings().count() > before {
        return None;
    }
    if let Some(host) = host_header(url) {
        headers.entry(HOST).or_insert(host);
    }
    let probe = WsProbe {
        authority: authority?,
        ip_version,
        profile: super::profile_of(reader),
        tls: Some(tls?).filter(|_| secure),
        names_agent: headers.contains_key(USER_AGENT),
        head: upgrade::head(&uri?, &headers, subprotocol.as_deref()),
        subprotocol,
        script,
    };
    Some(Prepared { probe: Arc::new(probe), expect: Arc::new(expect) })
}

fn read_subprotocol(reader: &mut TableReader<'_>) -> Option<String> {
    let name = reader.string("subprotocol")?;
    // A token of HTTP, as names of headers are.
    if name.len() > MAX_SUBPROTOCOL_BYTES || HeaderName::from_bytes(name.as_bytes()).is_err() {
        let allowed = format!("one word of at most {MAX_SUBPROTOCOL_BYTES} letters, such as \"graphql-transport-ws\"");
        reader.error("subprotocol", "is not a name of a subprotocol", allowed);
        return None;
    }
    Some(name)
}

impl Probe for WsProbe {
    fn probe<'a>(&'a self, context: &'a ProbeContext<'a>) -> BoxFuture<'a, Observation> {
        Box::pin(async move {
            let start = Instant::now();
            let mut seen = Observation::new(context.started_at);
            let result = self.run(context, &mut seen).await;
            super::close_timings(&mut seen, start);
            match result {
                Err(fault) => seen.fault = Some(fault),
                // RFC 6455, 7.1.1: the server closes the connection first.
                Ok(stream) => {
                    if let Ok(close) = frame(OPCODE_CLOSE, &NORMAL) {
                        talk::part(stream, &close, context.deadline).await;
                    }
                }
            }
            seen
        })
    }
}

impl WsProbe {
    async fn run(&self, context: &ProbeContext<'_>, seen: &mut Observation) -> Result<Stream, Fault> {
        let stream = talk::connect(&self.authority, self.ip_version, self.profile, context, seen).await?;
        let stream = match &self.tls {
            Some(tls) => talk::secure(stream, &self.authority, tls, context, seen).await?,
            None => Stream::Plain(stream),
        };
        let place = &self.authority;
        let mut talk = Talk::new(stream, context.deadline, &mut seen.timings, MAX_RECEIVED_BYTES);
        let agent = (!self.names_agent).then(|| context.net.user_agent());
        let (key, accept) = upgrade::key().map_err(|error| talk::broken(&error, place))?;
        let request = upgrade::request(&self.head, agent, &key);
        talk.send(&request).await.map_err(|end| end.fault(place, "the handshake's answer"))?;
        let answer = upgrade::answer(&mut talk, place).await?;
        if answer.status != 101 {
            let fault = upgrade::refusal(&answer, place);
            seen.http = Some(answer);
            return Err(fault);
        }
        upgrade::check(&answer, &accept, self.subprotocol.as_deref(), place)?;
        let mut socket = Socket::new(talk, place);
        let done = if self.script.is_empty() { socket.ping().await } else { self.script.run(&mut socket, place).await };
        let (stream, close_code) = socket.into_parts();
        if let Some(subprotocol) = &self.subprotocol {
            seen.note("subprotocol", subprotocol.as_str());
        }
        if let Some(code) = close_code {
            seen.note("close_code", code);
        }
        done.map(|()| stream)
    }
}

/// What is wrong below the messages: this is not WebSocket.
fn foreign(place: &Authority, what: &str) -> Fault {
    Fault::new(Failure::ExchangeMismatch, format!("{place} {what} (RFC 6455)"))
}
