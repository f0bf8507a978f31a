//! The HTTP probe: what it asks, and servers that do not let it come to an answer.

use std::io::Write as _;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use lamplighter::model::Failure::*;
use serde_json::{Value, json};

use crate::support::probing::{check, phases};
use crate::support::servers::http::{Act, Server, answer, closed_port, text};

mod answers;
mod bounds;
mod curl;
mod http2;
mod https;
mod nginx;
mod proxies;
mod redirects;

pub(crate) use redirects::maze;

/// Enough for what succeeds or fails by itself, also on a busy machine.
const LONG: Duration = Duration::from_secs(20);
/// For what can only end by the deadline.
const SHORT: Duration = Duration::from_secs(1);

const TO_SEND: &[&str] = &["connect", "send"];
const TO_WAIT: &[&str] = &["connect", "send", "wait"];
const TO_RECEIVE: &[&str] = &["connect", "send", "wait", "receive"];

fn monitor(url: &str, keys: &Value) -> Value {
    let mut monitor = keys.clone();
    monitor["url"] = json!(url);
    monitor
}

fn reading() -> Value {
    json!({ "expect": { "body_contains": "x" } })
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn an_early_answer_counts_while_the_request_is_refused() {
    let head = answer("413 Content Too Large", "", b"no");
    let server = Server::at_accept(head).await;
    let keys = json!({ "method": "POST", "body": "x".repeat(1 << 20) });
    let seen = check(&monitor(&server.url("/"), &keys), LONG).await;
    assert_eq!(seen.fault, None);
    assert_eq!(seen.http.unwrap().status, 413);
}

#[tokio::test]
async fn a_server_that_speaks_first_is_not_http() {
    for acts in [vec![text("SSH-2.0-OpenSSH_9.2\r\n")], vec![text("220 mail ESMTP\r\n"), Act::Hang]] {
        let server = Server::at_accept(acts).await;
        let seen = check(&monitor(&server.url("/"), &json!({})), LONG).await;
        assert_eq!(seen.fault.unwrap().failure, HttpProtocol);
    }
}

#[tokio::test]
async fn nobody_listens() {
    let url = format!("http://{}/?token=hunter2", closed_port().await);
    let seen = check(&json!({ "url": url }), LONG).await;
    let fault = seen.fault.clone().unwrap();
    assert_eq!((fault.failure, phases(&seen)), (ConnectRefused, vec!["connect"]));
    assert!(!fault.message.contains("hunter2"));
    assert!(seen.address.is_some());
}

#[tokio::test]
async fn a_reader_that_never_reads_times_out_while_sending() {
    // The backlog takes the connection; nobody reads the request, which is larger than the buffers.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    socket2::SockRef::from(&listener).set_recv_buffer_size(4096).unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let keys = json!({ "url": url, "method": "POST", "body": "x".repeat(1 << 20) });
    let mut seen = check(&keys, SHORT).await;
    // Loopback may take all of it when the sender's buffer is large; then it waits for an answer.
    let fault = seen.fault.take().unwrap();
    assert_eq!(fault.failure, ResponseTimeout);
    assert!(phases(&seen) == TO_SEND || phases(&seen) == TO_WAIT, "{:?}", seen.timings);
}

#[tokio::test]
async fn folded_headers_become_one_line() {
    let server =
        Server::start(|_| vec![text("HTTP/1.1 200 OK\r\nX-Long: one\r\n  two\r\nContent-Length: 0\r\n\r\n")]).await;
    let seen = check(&monitor(&server.url("/"), &json!({})), LONG).await;
    let http = seen.http.unwrap();
    let value = http.headers.iter().find(|(name, _)| &**name == "x-long").unwrap();
    assert_eq!(value.1.split_whitespace().collect::<Vec<_>>(), ["one", "two"]);
    assert_eq!(http.version, "HTTP/1.1");
}

#[tokio::test]
async fn what_the_server_is_asked() {
    let server = Server::start(|_| answer("200 OK", "", b"")).await;
    let ask = async |path: &str, keys: Value| {
        let seen = check(&monitor(&server.url(path), &keys), LONG).await;
        assert_eq!(seen.fault, None);
        assert_eq!(seen.address, Some(server.address));
        server.requests().pop().unwrap()
    };
    let plain = ask("/a/b?c=d%20e#f", json!({})).await;
    assert_eq!(plain.line, "GET /a/b?c=d%20e HTTP/1.1");
    let host = server.address.to_string();
    for (name, value) in [
        ("Host", host.as_str()),
        ("User-Agent", "lamplighter-test/1"),
        ("Accept", "*/*"),
        ("Accept-Encoding", "identity"),
        ("Connection", "close"),
    ] {
        assert!(plain.headers.contains(&(name.to_owned(), value.to_owned())), "{name}: {:?}", plain.headers);
    }
    assert_eq!(plain.headers.len(), 5);
    let keys = json!({ "headers": { "Host": "other.example", "User-Agent": "mine", "X-One": "1" },
        "auth": { "basic": { "username": "Aladdin", "password": "open sesame" } } });
    let own = ask("/", keys).await;
    assert_eq!(own.header("host"), Some("other.example"));
    assert_eq!((own.header("user-agent"), own.header("x-one")), (Some("mine"), Some("1")));
    assert_eq!(own.header("authorization"), Some("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="));
    assert_eq!(ask("/", json!({ "auth": { "bearer": "tok" } })).await.header("authorization"), Some("Bearer tok"));
    let posted = ask("/", json!({ "method": "POST", "body": "päyload" })).await;
    assert_eq!((posted.header("content-length"), &posted.body[..]), (Some("8"), "päyload".as_bytes()));
    assert_eq!(ask("/", json!({ "method": "POST" })).await.header("content-length"), Some("0"));
    assert_eq!(ask("/", json!({ "method": "PURGE" })).await.line, "PURGE / HTTP/1.1");
}
