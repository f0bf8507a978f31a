//! WebSocket: a real server, and those that break RFC 6455 in every way.

use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures_util::{SinkExt as _, StreamExt as _};
use lamplighter::model::Failure::{self, *};
use serde_json::{Value, json};
use sha1::{Digest as _, Sha1};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request as Handshake, Response};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use crate::support::probing::{check, phases};
use crate::support::servers::http::{Act, Request, Server, answer, closed_port, text};

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_secs(1);
const ALL: &[&str] = &["connect", "send", "wait", "receive"];

/// A real server: says "hello", answers "status" by a broadcast and "ok", and tells how each connection ended.
struct Real {
    address: SocketAddr,
    ends: mpsc::Receiver<String>,
    _task: tokio::task::JoinSet<()>,
}

async fn real(subprotocol: Option<&'static str>) -> Real {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, ends) = mpsc::channel(16);
    let mut task = tokio::task::JoinSet::new();
    task.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            #[allow(clippy::result_large_err, reason = "the library's own type")]
            let choose = |request: &Handshake, mut response: Response| -> Result<Response, ErrorResponse> {
                assert_eq!(request.headers()["user-agent"], "lamplighter-test/1");
                if let Some(name) = subprotocol {
                    response.headers_mut().insert("sec-websocket-protocol", name.parse().unwrap());
                }
                Ok(response)
            };
            let mut socket = tokio_tungstenite::accept_hdr_async(stream, choose).await.unwrap();
            socket.send(Message::text("hello")).await.unwrap();
            let mut end = "cut off".to_owned();
            while let Some(Ok(message)) = socket.next().await {
                match message {
                    Message::Text(asked) if asked.as_str() == "status" => {
                        socket.send(Message::text("news: none")).await.unwrap();
                        socket.send(Message::binary(&b"status: ok"[..])).await.unwrap();
                    }
                    Message::Text(asked) if asked.as_str() == "leave" => {
                        let frame = CloseFrame { code: 4000.into(), reason: "not you".into() };
                        socket.close(Some(frame)).await.unwrap();
                    }
                    Message::Close(frame) => end = format!("{:?}", frame.map(|frame| u16::from(frame.code))),
                    _ => {}
                }
            }
            sender.send(end).await.unwrap();
        }
    });
    Real { address, ends, _task: task }
}

fn monitor(address: SocketAddr, keys: &Value) -> Value {
    let mut monitor = keys.clone();
    monitor["url"] = json!(format!("ws://{address}/socket?a=1"));
    monitor
}

#[tokio::test]
async fn a_real_server_is_pinged_asked_and_left() {
    let mut server = real(Some("chat")).await;
    let chat = json!({ "subprotocol": "chat" });
    let ask = |steps: Value| json!({ "subprotocol": "chat", "exchange": steps });
    let expect = |pattern: &str| json!({ "expect": pattern });
    let status = || json!({ "send": "status" });
    for (keys, fault) in [
        (chat.clone(), None),
        (ask(json!([expect("^hello$"), status(), expect("^status: ok$")])), None),
        // A message stands by itself: what came before it is not searched again.
        (ask(json!([expect("hello"), status(), expect("^news"), expect("^status")])), None),
        (ask(json!([status(), expect("nobody says this")])), Some(ExchangeMismatch)),
        (ask(json!([expect("hello"), expect("more")])), Some(ResponseTimeout)),
        (ask(json!([expect("hello"), { "send": "leave" }, expect("bye")])), Some(ConnectionClosed)),
    ] {
        let timeout = if matches!(fault, Some(ExchangeMismatch | ResponseTimeout)) { SHORT } else { LONG };
        let seen = check(&monitor(server.address, &keys), timeout).await;
        let found = seen.fault.as_ref().map(|fault| fault.failure);
        assert_eq!((found, &*phases(&seen)), (fault, ALL), "{keys}: {:?}", seen.fault);
        let end = server.ends.recv().await.unwrap();
        assert_eq!(end, if fault.is_none() { "Some(1000)" } else { "cut off" }, "{keys}");
    }
    let seen = check(&monitor(server.address, &chat), LONG).await;
    let details = serde_json::to_value(seen.details.unwrap()).unwrap();
    assert_eq!(details, json!({ "subprotocol": "chat" }));
}

#[tokio::test]
async fn subprotocols_that_differ() {
    for (chosen, wanted, fault) in [
        (None, Some("chat"), Some(HeaderMismatch)),
        (Some("other"), Some("chat"), Some(HeaderMismatch)),
        (Some("other"), None, Some(HttpProtocol)),
        (None, None, None),
    ] {
        let server = real(chosen).await;
        let keys = wanted.map_or(json!({}), |wanted| json!({ "subprotocol": wanted }));
        let seen = check(&monitor(server.address, &keys), LONG).await;
        assert_eq!(seen.fault.map(|fault| fault.failure), fault, "{chosen:?} {wanted:?}");
    }
}

fn accept_of(request: &Request) -> String {
    let key = request.header("sec-websocket-key").unwrap();
    assert_eq!(BASE64.decode(key).unwrap().len(), 16);
    BASE64.encode(Sha1::digest(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11")))
}

pub(crate) fn switching(request: &Request, more: &str) -> Act {
    let accept = accept_of(request);
    text(&format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n{more}\r\n"
    ))
}

async fn run(name: &str, timeout: Duration, script: impl Fn(&Request) -> Vec<Act> + Send + Sync + 'static) -> Failure {
    let server = Server::start(script).await;
    let seen = check(&monitor(server.address, &json!({})), timeout).await;
    assert_eq!(phases(&seen)[..2], ["connect", "send"], "{name}");
    let fault = seen.fault.unwrap_or_else(|| panic!("{name}: up"));
    assert!(fault.message.contains(&server.address.to_string()), "{name}: {fault:?}");
    fault.failure
}

#[tokio::test]
async fn handshakes_that_fail() {
    let fixed = |acts: Vec<Act>| move |_: &Request| acts.clone();
    let accepted = "Upgrade: websocket\r\nConnection: Upgrade\r\n";
    let rows: Vec<(&str, Duration, Vec<Act>, Failure)> = vec![
        ("a page", LONG, answer("200 OK", "", b"hi"), StatusUnexpected),
        ("not found", LONG, answer("404 Not Found", "", b""), StatusUnexpected),
        ("not allowed", LONG, answer("403 Forbidden", "", b""), StatusUnexpected),
        ("moved", LONG, answer("302 Found", "Location: ws://elsewhere/\r\n", b""), StatusUnexpected),
        (
            "another version",
            LONG,
            answer("426 Upgrade Required", "Sec-WebSocket-Version: 8\r\n", b""),
            StatusUnexpected,
        ),
        (
            "no accept",
            LONG,
            vec![text(&format!("HTTP/1.1 101 Switching Protocols\r\n{accepted}\r\n")), Act::Hang],
            HttpProtocol,
        ),
        (
            "accept of another",
            LONG,
            vec![text(&format!(
                "HTTP/1.1 101 Switching Protocols\r\n{accepted}Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
            ))],
            HttpProtocol,
        ),
        ("no upgrade", LONG, vec![text("HTTP/1.1 101 Switching Protocols\r\n\r\n"), Act::Hang], HttpProtocol),
        (
            "another upgrade",
            LONG,
            vec![text("HTTP/1.1 101 x\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n")],
            HttpProtocol,
        ),
        ("no http", LONG, vec![text("220 mail\r\n"), Act::Hang], HttpProtocol),
        ("no header", LONG, vec![text("HTTP/1.1 101 x\r\nwhat is this\r\n\r\n"), Act::Hang], HttpProtocol),
        ("a TLS port", LONG, vec![Act::Send(vec![0x15, 3, 3, 0, 2, 2, 70])], HttpProtocol),
        ("endless header", LONG, vec![text("HTTP/1.1 101 x\r\nX: "), Act::Endless(vec![b'y'; 4096])], HttpProtocol),
        ("endless headers", LONG, vec![text("HTTP/1.1 101 x\r\n"), Act::Endless(b"X: y\r\n".to_vec())], HttpProtocol),
        ("endless 103s", LONG, vec![Act::Endless(b"HTTP/1.1 103 Early Hints\r\n\r\n".to_vec())], HttpProtocol),
        ("silence", SHORT, vec![Act::Hang], ResponseTimeout),
        ("half a head", SHORT, vec![text("HTTP/1.1 101"), Act::Hang], ResponseTimeout),
        ("closed", LONG, vec![], ConnectionClosed),
        ("closed in the head", LONG, vec![text("HTTP/1.1 101 x\r\n")], ConnectionClosed),
        ("reset", LONG, vec![Act::Reset], ConnectionReset),
    ];
    let runs = rows.into_iter().map(|(name, timeout, acts, wanted)| async move {
        assert_eq!(run(name, timeout, fixed(acts)).await, wanted, "{name}");
    });
    futures_util::future::join_all(runs).await;
    let extension = run("extension", LONG, |request| {
        vec![switching(request, "Sec-WebSocket-Extensions: permessage-deflate\r\n"), Act::Hang]
    });
    assert_eq!(extension.await, HttpProtocol);

    let server = Server::start(|_| answer("401 Unauthorized", "WWW-Authenticate: Basic\r\n", b"")).await;
    let keys = json!({ "auth": { "bearer": "token" }, "headers": { "Origin": "https://a.example" } });
    let seen = check(&monitor(server.address, &keys), LONG).await;
    assert_eq!(seen.http.unwrap().status, 401);
    assert!(seen.fault.unwrap().message.contains("auth"));
    let request = server.requests().remove(0);
    assert_eq!(request.line, "GET /socket?a=1 HTTP/1.1");
    assert_eq!(request.header("authorization"), Some("Bearer token"));
    assert_eq!(request.header("origin"), Some("https://a.example"));
    assert_eq!(request.header("host"), Some(&*server.address.to_string()));
}

#[tokio::test]
async fn interim_answers_and_chatter_are_no_harm() {
    let server = Server::start(|request| {
        let hints = text("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
        // A ping, a fragmented message with a ping inside, a foreign pong; the echo of our ping comes by nobody.
        let chatter = b"\x89\x02hi\x01\x03abc\x89\x00\x80\x03def\x8a\x01x\x82\x7e\x01\x00".to_vec();
        vec![hints, switching(request, ""), Act::Send(chatter), Act::Send(vec![7; 256]), Act::Hang]
    })
    .await;
    let seen = check(&monitor(server.address, &json!({})), SHORT).await;
    assert_eq!(seen.fault.unwrap().failure, ResponseTimeout);
    let keys = json!({ "exchange": [{ "expect": "^abcdef$" }, { "expect": "(?-u)^\\x07" }] });
    let seen = check(&monitor(server.address, &keys), LONG).await;
    assert_eq!(seen.fault, None);
}

#[tokio::test]
async fn frames_against_the_rules() {
    let rows: Vec<(&str, Duration, Vec<Act>, Failure)> = vec![
        ("masked", LONG, vec![Act::Send(b"\x81\x81abcdx".to_vec()), Act::Hang], ExchangeMismatch),
        ("reserved bit", LONG, vec![Act::Send(b"\xc1\x01x".to_vec()), Act::Hang], ExchangeMismatch),
        ("unknown sort", LONG, vec![Act::Send(b"\x83\x01x".to_vec()), Act::Hang], ExchangeMismatch),
        ("long control", LONG, vec![Act::Send(b"\x89\x7e\x00\x7e".to_vec()), Act::Hang], ExchangeMismatch),
        ("ping in parts", LONG, vec![Act::Send(b"\x09\x01x".to_vec()), Act::Hang], ExchangeMismatch),
        ("a part of nothing", LONG, vec![Act::Send(b"\x80\x01x".to_vec()), Act::Hang], ExchangeMismatch),
        ("two beginnings", LONG, vec![Act::Send(b"\x01\x01x\x81\x01y".to_vec()), Act::Hang], ExchangeMismatch),
        (
            "impossible length",
            LONG,
            vec![Act::Send(b"\x82\x7f\xff\0\0\0\0\0\0\x01".to_vec()), Act::Hang],
            ExchangeMismatch,
        ),
        ("no UTF-8", LONG, vec![Act::Send(b"\x81\x02\xff\xfe".to_vec()), Act::Hang], ExchangeMismatch),
        (
            "a frame of exabytes",
            LONG,
            vec![Act::Send(b"\x82\x7f\x0f\0\0\0\0\0\0\0".to_vec()), Act::Endless(vec![0; 4096])],
            ExchangeMismatch,
        ),
        ("endless frames", LONG, vec![Act::Endless(b"\x81\x02hi".repeat(1000))], ExchangeMismatch),
        (
            "endless parts",
            LONG,
            vec![Act::Send(b"\x01\x00".to_vec()), Act::Endless(b"\0\x02hi".repeat(999))],
            ExchangeMismatch,
        ),
        ("endless pings", LONG, vec![Act::Endless(b"\x89\x00".repeat(2000))], ExchangeMismatch),
        ("silence", SHORT, vec![Act::Hang], ResponseTimeout),
        ("a stall in a frame", SHORT, vec![Act::Send(b"\x81\x7d".to_vec()), Act::Hang], ResponseTimeout),
        ("closed", LONG, vec![], ConnectionClosed),
        ("closed in a frame", LONG, vec![Act::Send(b"\x81\x7dhalf".to_vec())], ConnectionClosed),
        ("said to be closed", LONG, vec![Act::Send(b"\x88\x05\x03\xe9bye".to_vec()), Act::Hang], ConnectionClosed),
        ("reset", LONG, vec![Act::Reset], ConnectionReset),
    ];
    let runs = rows.into_iter().map(|(name, timeout, acts, wanted)| async move {
        let script = move |request: &Request| [&[switching(request, "")], &*acts].concat();
        assert_eq!(run(name, timeout, script).await, wanted, "{name}");
    });
    futures_util::future::join_all(runs).await;
}

#[tokio::test]
async fn wss_and_what_is_below() {
    let server = Server::start_tls(|request| vec![switching(request, ""), text("\u{1}"), Act::Hang]).await;
    let at = |keys: Value| {
        let mut monitor = keys;
        monitor["url"] = json!(format!("wss://{}/", server.address));
        monitor
    };
    let seen = check(&at(json!({})), LONG).await;
    assert_eq!(seen.fault.unwrap().failure, CertUntrusted);
    let hello = json!({ "tls": { "verify": false }, "exchange": [{ "expect": "x" }] });
    let seen = check(&at(hello), SHORT).await;
    assert!(seen.certificate.is_some());
    assert_eq!(phases(&seen), ["connect", "tls", "send", "wait", "receive"]);
    let refused = check(&json!({ "url": format!("ws://{}/", closed_port().await) }), LONG).await;
    assert_eq!(refused.fault.unwrap().failure, ConnectRefused);
    let blocked = check(&json!({ "url": "ws://169.254.169.254/" }), LONG).await;
    assert_eq!(blocked.fault.unwrap().failure, EgressBlocked);
}
