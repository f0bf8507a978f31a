//! What no client should send, and some do.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{admin_token, daemon, get};
use crate::daemon::on;
use crate::support::daemon::Home;
use crate::support::postgres::TestDb;
use crate::support::target::until;

async fn open(address: &str) -> TcpStream {
    TcpStream::connect(address.strip_prefix("http://").unwrap()).await.unwrap()
}

/// Sends bytes and reads all answers until the server closes; their status codes.
async fn raw(address: &str, request: &[u8]) -> Vec<u16> {
    let mut stream = open(address).await;
    // It may close before it has read everything.
    let _ = stream.write_all(request).await;
    let mut bytes = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut bytes)).await.expect("it closes");
    let text = String::from_utf8_lossy(&bytes);
    text.split("HTTP/1.").skip(1).map(|answer| answer[2..5].parse().unwrap()).collect()
}

#[tokio::test]
async fn malformed_requests_get_an_error_and_the_server_goes_on() {
    let db = TestDb::new().await;
    let home = Home::new(&on(&db.url, ""));
    let (_daemon, address) = daemon(&home).await;
    let token = admin_token(&home);
    let head = format!("host: localhost\r\nauthorization: Bearer {token}\r\n");
    let close = "connection: close\r\n\r\n";
    let smuggled = "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let cases: Vec<(String, u16)> = vec![
        (format!("GET /api/v1/monitors/%00 HTTP/1.1\r\n{head}{close}"), 400),
        (format!("GET /api/v1/monitors/a\0b HTTP/1.1\r\n{head}{close}"), 400),
        (format!("GET /api/v1/monitors/%zz HTTP/1.1\r\n{head}{close}"), 400),
        (format!("GET /api/v1/monitors/%ff HTTP/1.1\r\n{head}{close}"), 400),
        (format!("GET /api/v1/monitors/..%2f..%2fetc HTTP/1.1\r\n{head}{close}"), 404),
        (format!("GET /api/v1/monitors/'%20OR%201=1-- HTTP/1.1\r\n{head}{close}"), 404),
        (format!("GET /api/v1/incidents/99999999999999999999 HTTP/1.1\r\n{head}{close}"), 404),
        (format!("GET /api/v1/incidents/-1 HTTP/1.1\r\n{head}{close}"), 404),
        (format!("GET /api/v1/monitors?q=%00 HTTP/1.1\r\n{head}{close}"), 400),
        (format!("GET /api/v1/monitors?cursor=%ff HTTP/1.1\r\n{head}{close}"), 400),
        (format!("GET /api/v1/monitors?cursor=AAAA HTTP/1.1\r\n{head}{close}"), 400),
        (format!("GET /api/v1/monitors?limt=5 HTTP/1.1\r\n{head}{close}"), 400),
        (format!("GET /api/v1/monitors?q={} HTTP/1.1\r\n{head}{close}", "x".repeat(9000)), 414),
        (format!("GET /api/v1/monitors?q={} HTTP/1.1\r\n{head}{close}", "x".repeat(1 << 20)), 431),
        (format!("GET / HTTP/1.1\r\n{head}x: {}\r\n{close}", "x".repeat(100_000)), 431),
        (format!("GET / HTTP/1.1\r\n{head}{}{close}", "x: y\r\n".repeat(200)), 431),
        (format!("GET http://evil.example.com/healthz HTTP/1.1\r\n{head}{close}"), 421),
        (format!("GET http://localhost/healthz HTTP/1.1\r\n{head}{close}"), 200),
        (format!("GET /healthz HTTP/1.1\r\n{close}"), 400),
        (format!("GET /healthz HTTP/1.1\r\nhost: localhost\r\nhost: localhost\r\n{close}"), 400),
        (format!("GET /healthz HTTP/1.0\r\n{close}"), 200),
        (format!("GET /healthz HTTP/1.0\r\nhost: evil.example.com\r\n{close}"), 421),
        ("GET / HTTP/2.0\r\n\r\n".to_owned(), 400),
        ("\x16\x03\x01\x02\0\x01\0\x01\u{fc}\x03\x03\r\n\r\n".to_owned(), 400),
        // One answer each: what follows is not taken for a request, also where a proxy might.
        (format!("POST /healthz HTTP/1.1\r\n{head}content-length: 5\r\ncontent-length: 6\r\n\r\n{smuggled}"), 400),
        (
            format!(
                "POST /healthz HTTP/1.1\r\n{head}content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}"
            ),
            405,
        ),
        (
            format!(
                "POST /healthz HTTP/1.1\r\n{head}transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n{smuggled}"
            ),
            405,
        ),
        (format!("POST /healthz HTTP/1.1\r\n{head}transfer-encoding: xchunked\r\n\r\n{smuggled}"), 400),
        (format!("POST /healthz HTTP/1.1\r\n{head}content-length: +5\r\n\r\n{smuggled}"), 400),
        (format!("POST /healthz HTTP/1.1\r\n{head}content-length: -1\r\n\r\n{smuggled}"), 400),
        (format!("POST /healthz HTTP/1.0\r\n{head}transfer-encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}"), 400),
    ];
    for (request, expected) in cases {
        let answers = raw(&address, request.as_bytes()).await;
        assert_eq!(answers, [expected], "{}", &request[..request.len().min(300)]);
    }
    assert_eq!(get(&address, "", "/healthz").await.status, 200);
}

#[tokio::test]
async fn large_and_slow_bodies_are_cut() {
    let db = TestDb::new().await;
    let home = Home::new(&on(&db.url, ""));
    let (_daemon, address) = daemon(&home).await;
    let token = admin_token(&home);
    let head = format!("POST /api/v1/reload HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n");
    let mut stream = open(&address).await;
    // Refused at once, before any of it was sent.
    stream.write_all(format!("{head}content-length: 104857600\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = vec![0; 12];
    tokio::time::timeout(Duration::from_secs(5), stream.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(answer, b"HTTP/1.1 413");
    // Somebody who sends it all the same is cut off, and has read the answer.
    let whole = [format!("{head}content-length: 104857600\r\n\r\n").into_bytes(), vec![b'x'; 100 << 20]].concat();
    assert_eq!(raw(&address, &whole).await, [413]);
    // Without a length: at the cap.
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    let chunked = format!("{head}transfer-encoding: chunked\r\n\r\n{}", chunk.repeat(1600));
    assert_eq!(raw(&address, chunked.as_bytes()).await, [413]);
    // Without a token nothing of it is read.
    let anonymous =
        format!("POST /api/v1/reload HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n{chunk}");
    assert_eq!(raw(&address, anonymous.as_bytes()).await, [401]);
    // A body that never comes.
    assert_eq!(raw(&address, format!("{head}content-length: 10\r\n\r\nx").as_bytes()).await, [408]);
    // A small one that nobody needs does no harm, and the connection goes on.
    let two = format!(
        "{head}content-length: 2\r\n\r\n{{}}GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    );
    assert_eq!(raw(&address, two.as_bytes()).await, [200, 200]);
}

#[tokio::test]
async fn wrong_tokens_are_slowed_down() {
    let db = TestDb::new().await;
    let home = Home::new(&on(&db.url, ""));
    let (daemon, address) = daemon(&home).await;
    let mut statuses = Vec::new();
    for _ in 0..40 {
        statuses.push(get(&address, "lamp_wrong", "/api/v1/monitors").await.status);
    }
    assert!(statuses[..10].iter().all(|status| *status == 401), "{statuses:?}");
    assert!(statuses.contains(&429), "{statuses:?}");
    assert_eq!(get(&address, &admin_token(&home), "/api/v1/monitors").await.status, 200);
    assert_eq!(get(&address, "", "/healthz").await.status, 200);
    assert!(daemon.log().matches("wrong, revoked or expired").count() <= 3, "{}", daemon.log());
    until("it is forgiven", Duration::from_secs(20), async || {
        (get(&address, "lamp_wrong", "/api/v1/monitors").await.status == 401).then_some(())
    })
    .await;
}
