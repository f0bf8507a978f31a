//! The keys of an HTTP monitor, read once into what every request is built from.

use bytes::Bytes;
use hyper::http::header::{
    ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LANGUAGE,
    CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, PRAGMA, TRANSFER_ENCODING, USER_AGENT,
};
use hyper::http::{Method, Uri};
use url::Url;

use super::exchange::{ALPN_HTTP1, ALPN_HTTP2};
use super::redirect::Rules;
use crate::probe::kinds::{profile_of, read_ip_version};
use crate::probe::net::{IpVersion, Profile, TlsOptions};
use crate::probe::request::{host_header, read_auth, read_headers, request_uri};
use crate::settings::proxy::Choice;
use crate::settings::reader::TableReader;
use crate::verdict::expectation::{Accepts, Expectations};

/// `max_redirects` when it is not set; browsers follow 20.
const DEFAULT_REDIRECTS: u16 = 10;
/// A request body is part of the configuration; more than this is an upload, not a check.
const MAX_REQUEST_BODY_BYTES: usize = 1024 * 1024;
const MAX_METHOD_BYTES: usize = 32;
/// Methods of RFC 9110 and RFC 5789. They are case-sensitive: "get" is another method, which nobody means.
const METHODS: &[&str] = &["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"];
/// Headers that another origin may see; also those that describe a body which goes along (307, 308).
const HARMLESS: &[HeaderName] = &[
    ACCEPT,
    ACCEPT_ENCODING,
    ACCEPT_LANGUAGE,
    CACHE_CONTROL,
    CONNECTION,
    CONTENT_ENCODING,
    CONTENT_LANGUAGE,
    CONTENT_LENGTH,
    CONTENT_TYPE,
    PRAGMA,
    USER_AGENT,
];

/// The length of the body is counted.
const COUNTED: &[HeaderName] = &[CONTENT_LENGTH, TRANSFER_ENCODING];

/// A prepared HTTP monitor. Cloning its parts for a request copies no text.
pub(super) struct Spec {
    /// Without fragment.
    pub(super) url: Url,
    /// Its path and query.
    pub(super) uri: Uri,
    pub(super) method: Method,
    pub(super) body: Bytes,
    /// All but the `User-Agent`, which is the network layer's unless `names_agent`.
    pub(super) headers: HeaderMap,
    pub(super) names_agent: bool,
    pub(super) follow: bool,
    pub(super) redirects: Rules,
    pub(super) ip_version: IpVersion,
    pub(super) profile: Profile,
    pub(super) proxy: Choice,
    pub(super) tls: TlsOptions,
    /// For hosts that only a redirect named: who we are is not their business.
    pub(super) tls_abroad: TlsOptions,
    /// An expectation reads the body.
    pub(super) needs_body: bool,
}

/// Reads all keys; what is wrong goes to the reader, and then there is no spec.
pub(super) fn read(url: &Url, reader: &mut TableReader<'_>) -> Option<(Spec, Expectations)> {
    let before = reader.findings().count();
    let mut url = url.clone();
    url.set_fragment(None);
    let uri = read_url(&url, reader);
    let method = read_method(reader);
    let body = read_body(reader, &method);
    let mut headers = read_headers(reader, COUNTED);
    read_auth(reader, &mut headers);
    let follow = reader.boolean("follow_redirects").unwrap_or(true);
    let most = reader.integer("max_redirects", 0..=50);
    let redirects = Rules {
        most: most.and_then(|most| u16::try_from(most).ok()).unwrap_or(DEFAULT_REDIRECTS),
        downgrade: reader.boolean("redirect_downgrade").unwrap_or(false),
    };
    let ip_version = read_ip_version(reader);
    let proxy = Choice::read(reader);
    let tls = TlsOptions::read(reader).map(|tls| tls.with_alpn(&[ALPN_HTTP2, ALPN_HTTP1]));
    let accepts =
        Accepts { status: true, body: true, headers: true, json: true, certificate: true, ..Accepts::default() };
    let expect = Expectations::read(reader, accepts);
    let host = host_header(&url);
    if reader.findings().count() > before {
        return None;
    }
    let tls = tls?;
    complete(&mut headers, host?, &method, &body);
    let spec = Spec {
        uri: uri?,
        names_agent: headers.contains_key(USER_AGENT),
        profile: profile_of(reader),
        needs_body: expect.reads_body(),
        tls_abroad: tls.clone().without_client(),
        tls,
        proxy,
        url,
        method,
        body,
        headers,
        follow,
        redirects,
        ip_version,
    };
    Some((spec, expect))
}

/// Adds what every request has, unless the owner said otherwise.
fn complete(headers: &mut HeaderMap, host: HeaderValue, method: &Method, body: &Bytes) {
    let mut default = |name: HeaderName, value: HeaderValue| {
        headers.entry(name).or_insert(value);
    };
    default(HOST, host);
    default(ACCEPT, HeaderValue::from_static("*/*"));
    default(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    default(CONNECTION, HeaderValue::from_static("close"));
    // RFC 9110, 8.6: said even when there is none, where a body would mean something. hyper counts the others.
    if body.is_empty() && [Method::POST, Method::PUT, Method::PATCH].contains(method) {
        default(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
}

/// Keeps the headers that another origin may see.
pub(super) fn keep_harmless(headers: &mut HeaderMap) {
    let all = std::mem::take(headers);
    for name in HARMLESS {
        for value in all.get_all(name) {
            headers.append(name, value.clone());
        }
    }
}

fn read_url(url: &Url, reader: &TableReader<'_>) -> Option<Uri> {
    if !url.username().is_empty() || url.password().is_some() {
        let way_out = "use auth = { basic = { username = \"…\", password = { file = \"…\" } } }";
        reader.error("url", "credentials in the URL are not accepted", way_out.to_owned());
    }
    if url.host_str().is_none_or(str::is_empty) {
        reader.error("url", "no host", "such as \"https://shop.example/health\"".to_owned());
    }
    if url.port() == Some(0) {
        reader.error("url", "port 0 cannot be connected to", "must be 1 to 65535".to_owned());
    }
    let uri = request_uri(url);
    if uri.is_none() {
        reader.error("url", "path and query are not valid in a request", "at most 64 KiB of URL characters".to_owned());
    }
    uri
}

fn read_method(reader: &mut TableReader<'_>) -> Method {
    let Some(text) = reader.string("method") else { return Method::GET };
    let upper = text.to_ascii_uppercase();
    if upper == "CONNECT" {
        let allowed = format!("a method for a resource, such as {}", METHODS.join(", "));
        reader.error("method", "CONNECT asks a proxy for a tunnel, not a server for an answer", allowed);
    } else if upper != text && METHODS.contains(&upper.as_str()) {
        reader.error(
            "method",
            format!("methods are case-sensitive, found {text:?}"),
            format!("did you mean {upper:?}?"),
        );
    } else if text.len() <= MAX_METHOD_BYTES
        && let Ok(method) = Method::from_bytes(text.as_bytes())
    {
        return method;
    } else {
        let allowed = format!("one word of at most {MAX_METHOD_BYTES} letters, such as GET or PURGE");
        reader.error("method", format!("{text:?} is not a method"), allowed);
    }
    Method::GET
}

fn read_body(reader: &mut TableReader<'_>, method: &Method) -> Bytes {
    let Some(text) = reader.string("body") else { return Bytes::new() };
    if text.len() > MAX_REQUEST_BODY_BYTES {
        reader.error("body", format!("{} bytes", text.len()), format!("at most {MAX_REQUEST_BODY_BYTES}"));
    }
    if *method == Method::TRACE && !text.is_empty() {
        reader.error(
            "body",
            "a TRACE request has no body (RFC 9110, 9.3.8)",
            "remove it, or use another method".to_owned(),
        );
    }
    text.into()
}

#[cfg(test)]
#[path = "spec_tests.rs"]
mod tests;
