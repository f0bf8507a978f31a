//! `grpc` and `grpcs`: one call of `grpc.health.v1.Health/Check` over one fresh connection of HTTP/2: in plain by prior
//! knowledge, under TLS by ALPN, without which there is no gRPC.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use hyper::http::header::{
    ACCEPT_ENCODING, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderName,
    HeaderValue, TE, TRANSFER_ENCODING, UPGRADE, USER_AGENT,
};
use hyper::http::{Method, Request, Uri};
use tokio::time::Instant;
use url::Url;

use self::call::Call;
use self::wire::Ended;
use crate::model::{Failure, Fault, Observation};
use crate::probe::authority::{Authority, Shape};
use crate::probe::form::Form;
use crate::probe::net::{IpVersion, Profile, Stream, TlsOptions};
use crate::probe::request::{read_auth, read_headers};
use crate::probe::{Kind, Prepared, Probe, ProbeContext, talk};
use crate::settings::reader::TableReader;
use crate::verdict::expectation::{Accepts, Expectations};

mod call;
mod health;
mod wire;

/// The row of the registration table.
pub(super) const KIND: Kind = Kind {
    name: "grpc",
    schemes: &["grpc", "grpcs"],
    form: Form::Authority,
    example_url: "grpcs://example.com:50051",
    keys: &["service", "headers", "ip_version", "auth", "tls", "expect"],
    prepare,
    example: include_str!("grpc/example.toml"),
};

const METHOD: &str = "/grpc.health.v1.Health/Check";
const MAX_SERVICE_BYTES: usize = 255;
/// Name of HTTP/2 in a TLS handshake (RFC 9113, 3.2).
const ALPN: &str = "h2";

/// Headers that make the call, and those that HTTP/2 does not have.
const OURS: [HeaderName; 10] = [
    HOST,
    CONNECTION,
    UPGRADE,
    CONTENT_TYPE,
    CONTENT_LENGTH,
    CONTENT_ENCODING,
    TRANSFER_ENCODING,
    ACCEPT_ENCODING,
    TE,
    HeaderName::from_static("grpc-timeout"),
];

struct GrpcProbe {
    authority: Authority,
    ip_version: IpVersion,
    profile: Profile,
    /// None: in plain.
    tls: Option<TlsOptions>,
    uri: Uri,
    headers: HeaderMap,
    service: String,
}

fn prepare(url: &Url, reader: &mut TableReader<'_>) -> Option<Prepared> {
    let before = reader.findings().count();
    let secure = url.scheme() == "grpcs";
    let authority = Authority::read(url, reader, Shape::bare(secure.then_some(443), "grpc://orders.example:50051"));
    let service = reader.string("service").unwrap_or_default();
    if service.len() > MAX_SERVICE_BYTES {
        reader.error("service", "is too long", format!("at most {MAX_SERVICE_BYTES} bytes"));
    }
    let mut headers = read_headers(reader, &OURS);
    read_auth(reader, &mut headers);
    let ip_version = super::read_ip_version(reader);
    let tls = TlsOptions::read(reader).map(|tls| tls.with_alpn(&[ALPN]));
    let expect = Expectations::read(reader, Accepts { certificate: secure, ..Accepts::default() });
    let authority = authority?;
    let scheme = if secure { "https" } else { "http" };
    let uri = format!("{scheme}://{authority}{METHOD}").parse().ok();
    if uri.is_none() {
        reader.error("url", "not a host that a request can name", None);
    }
    if reader.findings().count() > before {
        return None;
    }
    let mut put = |name: HeaderName, value: &'static str| headers.insert(name, HeaderValue::from_static(value));
    put(TE, "trailers");
    put(CONTENT_TYPE, "application/grpc");
    put(HeaderName::from_static("grpc-accept-encoding"), "identity");
    let profile = super::profile_of(reader);
    let tls = Some(tls?).filter(|_| secure);
    let probe = GrpcProbe { authority, ip_version, profile, tls, uri: uri?, headers, service };
    Some(Prepared { probe: Arc::new(probe), expect: Arc::new(expect) })
}

impl Probe for GrpcProbe {
    fn probe<'a>(&'a self, context: &'a ProbeContext<'a>) -> BoxFuture<'a, Observation> {
        Box::pin(async move {
            let start = Instant::now();
            let mut seen = Observation::new(context.started_at);
            match self.connect(context, &mut seen).await {
                Err(fault) => {
                    seen.fault = Some(fault);
                    super::close_timings(&mut seen, start);
                }
                Ok(stream) => {
                    let ended = self.call(stream, context, &mut seen).await;
                    super::close_timings(&mut seen, start);
                    match ended {
                        Ok(ended) => ended.leave(context.deadline).await,
                        Err(fault) => seen.fault = Some(fault),
                    }
                }
            }
            seen
        })
    }
}

impl GrpcProbe {
    async fn connect(&self, context: &ProbeContext<'_>, seen: &mut Observation) -> Result<Stream, Fault> {
        let stream = talk::connect(&self.authority, self.ip_version, self.profile, context, seen).await?;
        let Some(options) = &self.tls else { return Ok(Stream::Plain(stream)) };
        let stream = talk::secure(stream, &self.authority, options, context, seen).await?;
        match &stream {
            Stream::Tls(tls) if tls.get_ref().1.alpn_protocol() == Some(ALPN.as_bytes()) => Ok(stream),
            _ => {
                let text = format!(
                    "{} did not choose HTTP/2 in the TLS handshake (ALPN), and gRPC is spoken over nothing else",
                    self.authority
                );
                Err(Fault::new(Failure::TlsHandshake, text))
            }
        }
    }

    fn request(&self, context: &ProbeContext<'_>) -> Request<()> {
        let mut headers = self.headers.clone();
        if !headers.contains_key(USER_AGENT) {
            let agent = HeaderValue::from_str(context.net.user_agent());
            headers.insert(USER_AGENT, agent.unwrap_or(HeaderValue::from_static("lamplighter")));
        }
        // The server need not work on what nobody waits for; at most 8 digits (gRPC over HTTP/2).
        let left = context.deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let left = format!("{}m", left.as_millis().min(99_999_999));
        if let Ok(left) = HeaderValue::from_str(&left) {
            headers.insert("grpc-timeout", left);
        }
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = headers;
        request
    }

    async fn call(&self, stream: Stream, context: &ProbeContext<'_>, seen: &mut Observation) -> Result<Ended, Fault> {
        let message = Bytes::from(health::request(&self.service));
        let call = Call::new(&self.authority, context.deadline, self.request(context), message);
        let (answer, ended) = call.run(stream, seen).await?;
        seen.note("grpc_status", answer.status.name());
        if answer.status != call::Status::OK {
            return Err(health::refusal(&self.authority, answer.status, answer.said.as_deref(), &self.service));
        }
        let serving = health::read(&self.authority, &answer.message)?;
        seen.note("serving_status", serving.name());
        health::judge(&self.authority, serving, &self.service).map(|()| ended)
    }
}
