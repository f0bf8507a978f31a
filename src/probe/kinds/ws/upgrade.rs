//! The handshake: a request of HTTP/1.1 and its answer (RFC 6455, 4).

use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hyper::http::Uri;
use hyper::http::header::{HeaderMap, HeaderName};
use sha1::{Digest as _, Sha1};

use crate::model::{Failure, Fault, HttpFacts};
use crate::probe::authority::Authority;
use crate::probe::talk::{End, Talk};
use crate::verdict::text;

/// The answer's head; the bound is that of the http kind.
const MAX_HEAD_BYTES: usize = 64 * 1024;
const MAX_HEADERS: usize = 100;
/// Interim answers (100 to 199 but 101) before the final one.
const MAX_INTERIM: usize = 8;
/// RFC 6455, 1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// First byte of a TLS alert (RFC 8446, 5.1): what a TLS port answers to plain HTTP.
const TLS_ALERT: u8 = 0x15;
const MAX_QUOTED: usize = 80;

/// The request without its key and its end.
pub(super) fn head(uri: &Uri, headers: &HeaderMap, subprotocol: Option<&str>) -> Vec<u8> {
    let mut head = format!("GET {uri} HTTP/1.1\r\n").into_bytes();
    let mut put = |name: &str, value: &[u8]| {
        head.extend_from_slice(name.as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value);
        head.extend_from_slice(b"\r\n");
    };
    for (name, value) in headers {
        put(&title_case(name), value.as_bytes());
    }
    put("Upgrade", b"websocket");
    put("Connection", b"Upgrade");
    put("Sec-WebSocket-Version", b"13");
    if let Some(subprotocol) = subprotocol {
        put("Sec-WebSocket-Protocol", subprotocol.as_bytes());
    }
    head
}

/// Browsers write names so, and there are servers that compare them.
fn title_case(name: &HeaderName) -> String {
    let mut begins = true;
    let letter = |letter: char| {
        let written = if begins { letter.to_ascii_uppercase() } else { letter };
        begins = letter == '-';
        written
    };
    name.as_str().chars().map(letter).collect()
}

/// The whole request.
pub(super) fn request(head: &[u8], agent: Option<&str>, key: &str) -> Vec<u8> {
    let mut request = head.to_vec();
    if let Some(agent) = agent {
        request.extend_from_slice(format!("User-Agent: {agent}\r\n").as_bytes());
    }
    request.extend_from_slice(format!("Sec-WebSocket-Key: {key}\r\n\r\n").as_bytes());
    request
}

/// A key of 16 random bytes, and what a server that has read it answers.
pub(super) fn key() -> io::Result<(String, String)> {
    let mut nonce = [0; 16];
    // The system gives no random bytes: out of resources.
    getrandom::fill(&mut nonce).map_err(|_| io::ErrorKind::OutOfMemory)?;
    let key = BASE64.encode(nonce);
    let accept = accept_of(&key);
    Ok((key, accept))
}

fn accept_of(key: &str) -> String {
    BASE64.encode(Sha1::new().chain_update(key).chain_update(GUID).finalize())
}

/// Reads heads up to the first that is final; 101 is.
pub(super) async fn answer(talk: &mut Talk<'_>, place: &Authority) -> Result<HttpFacts, Fault> {
    for _ in 0..=MAX_INTERIM {
        let answer = read_head(talk, place).await?;
        if answer.status == 101 || answer.status >= 200 {
            return Ok(answer);
        }
    }
    Err(protocol(place, "sent interim responses without end instead of a final one"))
}

async fn read_head(talk: &mut Talk<'_>, place: &Authority) -> Result<HttpFacts, Fault> {
    let mut left = MAX_HEAD_BYTES;
    let line = next_line(talk, place, &mut left).await?;
    let (status, version) = status_line(&line).ok_or_else(|| {
        let shown = text::quote(&String::from_utf8_lossy(&line), MAX_QUOTED);
        protocol(place, &format!("answered the handshake with {shown}, which is not HTTP/1.1"))
    })?;
    let mut headers: Vec<(Box<str>, Box<str>)> = Vec::new();
    loop {
        let line = next_line(talk, place, &mut left).await?;
        if line.is_empty() {
            return Ok(HttpFacts { status, version, headers, ..HttpFacts::default() });
        }
        let shown = String::from_utf8_lossy(&line);
        // RFC 9112, 5.2: a folded line goes on with the value before it.
        if shown.starts_with([' ', '\t'])
            && let Some((_, value)) = headers.last_mut()
        {
            *value = format!("{value} {}", shown.trim()).into();
            continue;
        }
        let field = shown.split_once(':').filter(|(name, _)| HeaderName::from_bytes(name.as_bytes()).is_ok());
        match field {
            Some((name, value)) if headers.len() < MAX_HEADERS => {
                headers.push((name.to_ascii_lowercase().into(), value.trim().into()));
            }
            _ => return Err(protocol(place, "sent a response head that is not valid HTTP/1.1")),
        }
    }
}

async fn next_line(talk: &mut Talk<'_>, place: &Authority, left: &mut usize) -> Result<Vec<u8>, Fault> {
    let line = match talk.line(*left).await {
        Ok(line) => line,
        Err(end) => return Err(head_fault(end, talk.unread(), place)),
    };
    *left = left.saturating_sub(line.len() + 1);
    Ok(line)
}

fn head_fault(end: End, unread: &[u8], place: &Authority) -> Fault {
    match end {
        End::TooMuch => protocol(place, "sent a response head of more than 64 KiB"),
        End::Closed | End::Deadline if unread.first() == Some(&TLS_ALERT) => {
            protocol(place, "speaks TLS, not plain HTTP: use a wss URL")
        }
        end => end.fault(place, "the handshake's answer"),
    }
}

fn status_line(line: &[u8]) -> Option<(u16, &'static str)> {
    let line = std::str::from_utf8(line).ok()?;
    let (version, rest) = line.split_once(' ')?;
    let version = match version {
        "HTTP/1.1" => "HTTP/1.1",
        "HTTP/1.0" => "HTTP/1.0",
        _ => return None,
    };
    let digits = rest.split(' ').next().filter(|digits| digits.len() == 3)?;
    let status = digits.parse().ok().filter(|status| (100..1000).contains(status))?;
    Some((status, version))
}

/// Every value of a header's list, lower-case.
fn tokens<'a>(answer: &'a HttpFacts, name: &'a str) -> impl Iterator<Item = String> + 'a {
    values(answer, name).flat_map(|value| value.split(',')).map(|token| token.trim().to_ascii_lowercase())
}

fn values<'a>(answer: &'a HttpFacts, name: &'a str) -> impl Iterator<Item = &'a str> {
    answer.headers.iter().filter(move |(there, _)| **there == *name).map(|(_, value)| &**value)
}

/// Holds the answer of status 101 against RFC 6455, 4.1.
pub(super) fn check(
    answer: &HttpFacts,
    accept: &str,
    subprotocol: Option<&str>,
    place: &Authority,
) -> Result<(), Fault> {
    let has = |name, wanted: &str| tokens(answer, name).any(|token| token == wanted);
    if !has("upgrade", "websocket") || !has("connection", "upgrade") {
        let what =
            "switched protocols, but not to WebSocket: \"Upgrade: websocket\" or \"Connection: Upgrade\" is missing";
        return Err(protocol(place, what));
    }
    let mut accepts = values(answer, "sec-websocket-accept");
    match (accepts.next(), accepts.next()) {
        (Some(there), None) if there == accept => {}
        (None, _) => return Err(protocol(place, "sent no Sec-WebSocket-Accept: it has not read the handshake")),
        _ => return Err(protocol(place, "sent a Sec-WebSocket-Accept that is not of this handshake: is it a cache?")),
    }
    if values(answer, "sec-websocket-extensions").any(|value| !value.is_empty()) {
        return Err(protocol(place, "uses a WebSocket extension that nobody offered"));
    }
    let chosen = values(answer, "sec-websocket-protocol").next();
    let mismatch = |what: String| Err(Fault::new(Failure::HeaderMismatch, format!("{place} {what}")));
    match (subprotocol, chosen) {
        (None, None) => Ok(()),
        (Some(wanted), Some(chosen)) if wanted == chosen => Ok(()),
        (None, Some(_)) => Err(protocol(place, "chose a subprotocol that nobody offered")),
        (Some(wanted), None) => mismatch(format!("did not choose the subprotocol {wanted:?}")),
        (Some(wanted), Some(chosen)) => {
            let chosen = text::quote(chosen, MAX_QUOTED);
            mismatch(format!("chose the subprotocol {chosen}, expected {wanted:?}"))
        }
    }
}

fn protocol(place: &Authority, what: &str) -> Fault {
    Fault::new(Failure::HttpProtocol, format!("{place} {what}"))
}

/// The fault of an answer whose status is not 101.
pub(super) fn refusal(answer: &HttpFacts, place: &Authority) -> Fault {
    let what = match answer.status {
        200..=299 => "the path is served, but not as WebSocket".to_owned(),
        300..=399 => {
            let to = values(answer, "location").next().map_or(String::new(), |to| text::quote(to, MAX_QUOTED));
            format!("redirects are not followed, write the address itself {to}").trim_end().to_owned()
        }
        401 | 403 => "it wants other credentials (auth), or another Origin (headers)".to_owned(),
        404 => "nothing is served at this path".to_owned(),
        426 => "it speaks another version of WebSocket".to_owned(),
        500.. => "the server or the one behind it is in trouble".to_owned(),
        _ => "the handshake was refused".to_owned(),
    };
    let text = format!("{place} answered the handshake with status {}, expected 101: {what}", answer.status);
    Fault::new(Failure::StatusUnexpected, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_the_rfc_is_accepted() {
        assert_eq!(accept_of("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_ne!(key().unwrap().0, key().unwrap().0);
    }

    #[test]
    fn status_lines() {
        for (line, wanted) in [
            ("HTTP/1.1 101 Switching Protocols", Some((101, "HTTP/1.1"))),
            ("HTTP/1.0 404", Some((404, "HTTP/1.0"))),
            ("HTTP/1.1 101", Some((101, "HTTP/1.1"))),
            ("HTTP/2 101", None),
            ("HTTP/1.1 1", None),
            ("HTTP/1.1 +10 x", None),
            ("220 mail ESMTP", None),
            ("", None),
        ] {
            assert_eq!(status_line(line.as_bytes()), wanted, "{line}");
        }
    }

    #[test]
    fn a_request_has_its_headers() {
        let mut headers = HeaderMap::new();
        headers.insert("x-api-key", "k".parse().unwrap());
        let head = head(&"/socket?a=1".parse().unwrap(), &headers, Some("chat"));
        let text = String::from_utf8(request(&head, Some("me/1"), "KEY")).unwrap();
        assert_eq!(
            text,
            "GET /socket?a=1 HTTP/1.1\r\nX-Api-Key: k\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: chat\r\nUser-Agent: me/1\r\nSec-WebSocket-Key: KEY\r\n\r\n"
        );
    }
}
