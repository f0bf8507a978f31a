//! Servers that are something else, or lie: each check ends by its deadline, with the right name and little memory.

use std::time::Duration;

use lamplighter::model::Failure::{self, *};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{LONG, SHORT, judged};
use crate::support::probing::net;
use crate::support::servers::http::{Act, Server, text};
use crate::support::servers::tls::RawServer;

const KINDS: [&str; 4] = ["redis", "postgres", "mysql", "mongodb"];
/// What a check may make a server send: its own limit and what fits into two sockets.
const MOST_SENT: u64 = 16 << 20;

fn monitor(kind: &str, address: std::net::SocketAddr) -> Value {
    let mut monitor = json!({
        "url": format!("{kind}://user@{address}"),
        "auth": { "basic": { "password": "pass-word" } },
    });
    if kind != "mongodb" {
        monitor["query"] = "GET x".into();
    }
    monitor
}

async fn meets(kind: &str, name: &str, acts: Vec<Act>, wanted: Failure) {
    let server = Server::at_accept(acts).await;
    let timeout = if wanted == ResponseTimeout { SHORT } else { LONG };
    let (found, message, _) = judged(&net(), &monitor(kind, server.address), timeout).await;
    assert_eq!(found, Some(wanted), "{kind}, {name}: {message}");
    assert!(server.sent() < MOST_SENT, "{kind}, {name}: {} bytes", server.sent());
}

#[tokio::test]
async fn what_speaks_otherwise_or_not_at_all() {
    let alert = |minor| vec![Act::Send(vec![0x15, 3, minor, 0, 2, 2, 40])];
    let rows: Vec<(&str, Vec<Act>, Failure)> = vec![
        ("ssh", vec![text("SSH-2.0-OpenSSH_9.2\r\n"), Act::Hang], ExchangeMismatch),
        ("short ssh", vec![text("SSH-2.0\r\n"), Act::Hang], ExchangeMismatch),
        ("http", vec![text("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")], ExchangeMismatch),
        ("smtp", vec![text("220 mail.example ESMTP\r\n"), Act::Hang], ExchangeMismatch),
        ("alert of TLS 1.0", alert(1), ExchangeMismatch),
        ("alert of TLS 1.2", alert(3), ExchangeMismatch),
        ("zeros", vec![Act::Endless(vec![0; 4096])], ExchangeMismatch),
        ("ones", vec![Act::Endless(vec![0xff; 4096])], ExchangeMismatch),
        ("text", vec![Act::Endless(b"lorem ipsum\n".repeat(300))], ExchangeMismatch),
        ("silence", vec![Act::Hang], ResponseTimeout),
        ("close", vec![], ConnectionClosed),
        ("reset", vec![Act::Reset], ConnectionReset),
    ];
    let runs = rows
        .into_iter()
        .flat_map(|(name, acts, wanted)| KINDS.into_iter().map(move |kind| (kind, name, acts.clone(), wanted)));
    let runs = runs.map(|(kind, name, acts, wanted)| meets(kind, name, acts, wanted));
    futures_util::future::join_all(runs).await;
}

#[tokio::test]
async fn what_begins_well_and_lies() {
    let send = |bytes: &[u8]| Act::Send(bytes.to_vec());
    let drip = |head: &[u8]| vec![Act::Drip([head, &[b'1'; 4000]].concat(), Duration::from_millis(5)), Act::Hang];
    let deep = b"*1\r\n".repeat(100_000);
    let rows: Vec<(&str, &str, Vec<Act>, Failure)> = vec![
        ("redis", "half", vec![send(b"+PO")], ConnectionClosed),
        ("redis", "half a string", vec![send(b"$10\r\nabc")], ConnectionClosed),
        ("redis", "drip", drip(b"+"), ResponseTimeout),
        ("redis", "endless line", vec![Act::Endless(vec![b'+'; 4096])], ExchangeMismatch),
        ("redis", "long string", vec![send(b"$4294967295\r\n"), Act::Hang], ExchangeMismatch),
        ("redis", "long list", vec![send(b"*4294967295\r\n"), Act::Hang], ExchangeMismatch),
        ("redis", "deep list", vec![Act::Send(deep), Act::Hang], ExchangeMismatch),
        ("redis", "no number", vec![send(b"$-4\r\n"), Act::Hang], ExchangeMismatch),
        ("redis", "no pong", vec![send(b"+OK\r\n+OK\r\n"), Act::Hang], ExchangeMismatch),
        ("postgres", "half", vec![send(b"R\0\0\0")], ConnectionClosed),
        ("postgres", "drip", drip(b"S\0\0\x20\0"), ResponseTimeout),
        ("postgres", "length", vec![send(b"R\xff\xff\xff\xff"), Act::Hang], ExchangeMismatch),
        ("postgres", "short length", vec![send(b"R\0\0\0\0"), Act::Hang], ExchangeMismatch),
        ("postgres", "endless settings", vec![Act::Endless(b"S\0\0\0\x08a\0b\0".repeat(400))], ExchangeMismatch),
        ("postgres", "unknown way", vec![send(b"R\0\0\0\x08\0\0\0\x63"), Act::Hang], ExchangeMismatch),
        ("postgres", "gssapi", vec![send(b"R\0\0\0\x08\0\0\0\x07"), Act::Hang], QueryFailed),
        ("postgres", "md5 without a salt", vec![send(b"R\0\0\0\x0a\0\0\0\x05ab"), Act::Hang], ExchangeMismatch),
        ("postgres", "rows unasked", vec![send(b"D\0\0\0\x06\0\0"), Act::Hang], ExchangeMismatch),
        ("postgres", "no process", vec![send(b"Ecould not fork new process\n\0")], QueryFailed),
        ("mysql", "half", vec![send(&[40, 0, 0, 0, 10])], ConnectionClosed),
        ("mysql", "drip", drip(&[0xa0, 0x0f, 0, 0]), ResponseTimeout),
        ("mysql", "length", vec![send(&[0xff, 0xff, 0xff, 0]), Act::Hang], ExchangeMismatch),
        ("mysql", "out of turn", vec![send(&[1, 0, 0, 7, 10]), Act::Hang], ExchangeMismatch),
        ("mysql", "cut greeting", vec![send(&[4, 0, 0, 0, 10, b'8', 0, 1]), Act::Hang], ExchangeMismatch),
        ("mysql", "old greeting", vec![send(b"\x05\0\0\0\x093.2\0"), Act::Hang], ExchangeMismatch),
        ("mongodb", "half", vec![send(&[40, 0, 0])], ConnectionClosed),
        ("mongodb", "drip", drip(&[0, 32, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0xdd, 7, 0, 0]), ResponseTimeout),
        ("mongodb", "length", vec![send(&[0xff; 4]), Act::Hang], ExchangeMismatch),
        ("mongodb", "large length", vec![send(&[0xff, 0xff, 0xff, 0x7f]), Act::Hang], ExchangeMismatch),
        (
            "mongodb",
            "another message",
            vec![send(&[30, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xdc, 7, 0, 0]), Act::Hang],
            ExchangeMismatch,
        ),
    ];
    let runs = rows.into_iter().map(|(kind, name, acts, wanted)| meets(kind, name, acts, wanted));
    futures_util::future::join_all(runs).await;
}

#[tokio::test]
async fn answers_to_a_request_for_tls() {
    for (name, answer, wanted, part) in [
        ("no", &b"N"[..], TlsHandshake, "does not offer TLS: switch ssl on there, or remove tls"),
        ("an error", b"E\0\0\0\x0bMtext\0\0", QueryFailed, "answered a request for TLS with an error"),
        ("more than one byte", b"SR", ExchangeMismatch, "as PostgreSQL does"),
        ("another protocol", b"H", ExchangeMismatch, "as PostgreSQL does"),
        ("and then no TLS", b"S", TlsHandshake, ""),
    ] {
        let server = RawServer::start(move |mut stream| async move {
            let mut asked = [0; 8];
            stream.read_exact(&mut asked).await.unwrap();
            assert_eq!(asked, [0, 0, 0, 8, 4, 210, 22, 47]);
            stream.write_all(answer).await.unwrap();
            if answer == b"S" {
                let mut sink = [0; 1024];
                let _ = stream.read(&mut sink).await;
                let _ = stream.write_all(b"R\0\0\0\x08\0\0\0\0").await;
            }
            let _ = stream.read(&mut [0; 1024]).await;
        })
        .await;
        let mut monitor = monitor("postgres", server.address);
        monitor["tls"] = json!({ "verify": false });
        let (found, message, _) = judged(&net(), &monitor, LONG).await;
        assert_eq!(found, Some(wanted), "{name}: {message}");
        assert!(message.contains(part), "{name}: {message}");
    }
}

/// A request for authentication.
fn framed(kind: u32, body: &str) -> Vec<u8> {
    let length = u32::try_from(body.len() + 8).unwrap().to_be_bytes();
    [b"R", &length[..], &kind.to_be_bytes(), body.as_bytes()].concat()
}

#[tokio::test]
async fn scram_of_postgres_that_goes_wrong() {
    for (name, first, last, part) in [
        ("rounds", "r=NONCEx,s=AAAA,i=4000000000", (12, "v=AAAA"), "asks for 4000000000 rounds"),
        ("rounds beyond all", "r=NONCEx,s=AAAA,i=40000000000", (12, "v=AAAA"), "a SCRAM message that is none"),
        ("another nonce", "r=other,s=AAAA,i=4096", (12, "v=AAAA"), "a SCRAM message that is none"),
        ("a wrong proof", "r=NONCEx,s=AAAA,i=4096", (12, "v=AAAA"), "did not prove that it knows the password"),
        ("no proof", "r=NONCEx,s=AAAA,i=4096", (0, ""), "did not prove that it knows the password"),
    ] {
        let end = framed(last.0, last.1);
        let server = RawServer::start(move |mut stream| {
            let end = end.clone();
            async move {
                let mut buffer = [0; 1024];
                let _ = stream.read(&mut buffer).await;
                stream.write_all(&framed(10, "SCRAM-SHA-256\0\0")).await.unwrap();
                let length = stream.read(&mut buffer).await.unwrap();
                let said = String::from_utf8_lossy(&buffer[..length]).into_owned();
                let nonce = said.split_once(",r=").unwrap().1;
                stream.write_all(&framed(11, &first.replace("NONCE", nonce))).await.unwrap();
                let _ = stream.read(&mut buffer).await;
                let _ = stream.write_all(&end).await;
                let _ = stream.read(&mut buffer).await;
            }
        })
        .await;
        let (found, message, _) = judged(&net(), &monitor("postgres", server.address), LONG).await;
        assert_eq!(found, Some(QueryFailed), "{name}: {message}");
        assert!(message.contains(part), "{name}: {message}");
    }
}
