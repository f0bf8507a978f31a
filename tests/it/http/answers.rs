//! Answers that are odd, broken, slow or without end, byte by byte.

use std::io::Write as _;
use std::time::Duration;

use flate2::Compression;
use flate2::write::{DeflateEncoder, ZlibEncoder};
use lamplighter::model::Failure::{self, *};
use lamplighter::model::Observation;
use serde_json::{Value, json};

use super::{LONG, SHORT, TO_RECEIVE, TO_WAIT, gzip, monitor, reading};
use crate::support::probing::{MAX_BODY, check, phases};
use crate::support::servers::http::{Act, Server, answer, text};

struct Scenario {
    name: &'static str,
    acts: Vec<Act>,
    timeout: Duration,
    fault: Option<Failure>,
    status: Option<u16>,
    phases: &'static [&'static str],
    /// Keys of the monitor besides its URL.
    keys: Value,
    body: Option<Vec<u8>>,
}

fn scenario(name: &'static str, acts: Vec<Act>, fault: Option<Failure>) -> Scenario {
    let phases = TO_RECEIVE;
    Scenario { name, acts, timeout: LONG, fault, status: None, phases, keys: json!({}), body: None }
}

impl Scenario {
    const fn slow(mut self) -> Self {
        self.timeout = SHORT;
        self
    }

    const fn status(mut self, status: u16) -> Self {
        self.status = Some(status);
        self
    }

    const fn phases(mut self, phases: &'static [&'static str]) -> Self {
        self.phases = phases;
        self
    }

    fn keys(mut self, keys: Value) -> Self {
        self.keys = keys;
        self
    }

    fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self
    }
}

/// Runs those that end by themselves at once, then those that wait for their deadline: servers that send without end
/// keep the processor busy.
async fn run(scenarios: Vec<Scenario>) {
    let (slow, quick): (Vec<_>, Vec<_>) = scenarios.into_iter().partition(|scenario| scenario.timeout == SHORT);
    for group in [quick, slow] {
        let runs = group.into_iter().map(|scenario| async move {
            let acts = scenario.acts.clone();
            let server = Server::start(move |_| acts.clone()).await;
            let seen = check(&monitor(&server.url("/"), &scenario.keys), scenario.timeout).await;
            expect(&scenario, &seen);
        });
        futures_util::future::join_all(runs).await;
    }
}

fn expect(scenario: &Scenario, seen: &Observation) {
    let name = scenario.name;
    let fault = seen.fault.as_ref();
    assert_eq!(fault.map(|fault| fault.failure), scenario.fault, "{name}: {fault:?}");
    assert_eq!(phases(seen), scenario.phases, "{name}: {:?}", seen.timings);
    assert_eq!(seen.http.as_ref().map(|http| http.status), scenario.status, "{name}");
    if let Some(body) = &scenario.body {
        assert_eq!(&seen.http.as_ref().unwrap().body[..], &body[..], "{name}");
    }
}

fn drip(text: &str) -> Act {
    Act::Drip(text.as_bytes().to_vec(), Duration::from_millis(20))
}

const OK: &str = "HTTP/1.1 200 OK\r\n";

#[tokio::test]
async fn heads() {
    let many = |count: usize| (0..count).map(|i| format!("X-{i}: y\r\n")).collect::<String>();
    run(vec![
        scenario("plain", answer("200 OK", "", b"hi"), None).status(200).body("hi"),
        scenario("404", answer("404 Not Found", "", b""), None).status(404).body(""),
        scenario("unheard status", answer("799 Odd", "", b""), None).status(799),
        scenario("1.0, ended by closing", vec![text("HTTP/1.0 200 OK\r\n\r\nhello")], None).status(200).body("hello"),
        scenario("no reason phrase", vec![text("HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n")], None).status(200),
        scenario("silent", vec![Act::Hang], Some(ResponseTimeout)).slow().phases(TO_WAIT),
        scenario("dripping head", vec![drip(&format!("{OK}{}", many(99)))], Some(ResponseTimeout)).slow(),
        scenario(
            "endless header",
            vec![text("HTTP/1.1 200 OK\r\nX: "), Act::Endless(vec![b'y'; 4096])],
            Some(HttpProtocol),
        ),
        scenario("endless headers", vec![text(OK), Act::Endless(b"X: y\r\n".repeat(500))], Some(HttpProtocol)),
        scenario("a head of 70 KB", vec![text(&format!("{OK}X: {}\r\n\r\n", "y".repeat(70_000)))], Some(HttpProtocol)),
        scenario("a head of 60 KB", answer("200 OK", &format!("X: {}\r\n", "y".repeat(60_000)), b""), None).status(200),
        scenario("99 headers", answer("200 OK", &many(99), b""), None).status(200),
        scenario("101 headers", answer("200 OK", &many(101), b""), Some(HttpProtocol)),
        scenario(
            "endless 103s",
            vec![Act::Endless(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(50))],
            Some(HttpProtocol),
        ),
        scenario(
            "some 103s",
            vec![
                text(&"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(5)),
                answer("200 OK", "", b"x").remove(0),
            ],
            None,
        )
        .status(200)
        .body("x"),
        scenario("closed at once", vec![], Some(ConnectionClosed)).phases(TO_WAIT),
        scenario("closed within the head", vec![text("HTTP/1.1 200 OK\r\nX: ")], Some(ConnectionClosed)),
        scenario("reset", vec![Act::Reset], Some(ConnectionReset)).phases(TO_WAIT),
        scenario("HTTP/0.9", vec![text("<html>hello</html>")], Some(HttpProtocol)),
        scenario("HTTP/2 only", vec![Act::Send(b"\0\0\x12\x04\0\0\0\0\0".to_vec())], Some(HttpProtocol)),
        scenario("garbage", vec![Act::Send(vec![0xff; 64])], Some(HttpProtocol)),
        scenario("a TLS alert", vec![Act::Send(vec![0x15, 3, 1, 0, 2, 2, 70])], Some(HttpProtocol)),
        scenario("a header without a colon", vec![text("HTTP/1.1 200 OK\r\noops\r\n\r\n")], Some(HttpProtocol)),
        scenario(
            "101 unasked",
            vec![text("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n")],
            None,
        )
        .status(101),
        scenario("status of two digits", vec![text("HTTP/1.1 20 OK\r\n\r\n")], Some(HttpProtocol)),
    ])
    .await;
}

#[tokio::test]
async fn bodies() {
    let head = |length: &str| text(&format!("{OK}Content-Length: {length}\r\n\r\n"));
    let chunked = |chunks: &str| vec![text(&format!("{OK}Transfer-Encoding: chunked\r\n\r\n{chunks}"))];
    run(vec![
        scenario("chunked", chunked("3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: v\r\n\r\n"), None).status(200).body("abcde"),
        scenario("bad chunk size", chunked("zz\r\nabc\r\n"), Some(HttpProtocol)).status(200),
        scenario("chunk without its end", chunked("3\r\nabcd\r\n0\r\n\r\n"), Some(HttpProtocol)).status(200),
        scenario("chunk size overflow", chunked("fffffffffffffffff\r\n"), Some(HttpProtocol)).status(200),
        scenario("cut within a chunk", chunked("5\r\nab"), Some(BodyTruncated)).status(200).body("ab"),
        scenario("cut between chunks", chunked("2\r\nab\r\n"), Some(BodyTruncated)).status(200).body("ab"),
        scenario("shorter than its length", vec![head("10"), text("abc")], Some(BodyTruncated)).status(200).body("abc"),
        scenario("longer than its length", vec![head("2"), text("abc")], None).status(200).body("ab"),
        scenario(
            "two lengths",
            vec![text(&format!("{OK}Content-Length: 2\r\nContent-Length: 3\r\n\r\nab"))],
            Some(HttpProtocol),
        ),
        scenario("a length that is none", vec![head("two"), text("ab")], Some(HttpProtocol)),
        scenario("a negative length", vec![head("-2"), text("ab")], Some(HttpProtocol)),
        scenario("stalled", vec![head("10"), text("abc"), Act::Hang], Some(BodyTimeout)).slow().status(200).body("abc"),
        scenario("dripping", vec![head("1000"), drip(&"x".repeat(1000))], Some(BodyTimeout)).slow().status(200),
        scenario("reset within", vec![head("10"), text("abc"), Act::Reset], Some(ConnectionReset)).status(200),
        scenario("204 with a stray body", vec![text("HTTP/1.1 204 No Content\r\n\r\nstray")], None)
            .status(204)
            .body(""),
        scenario("304 with a length", vec![text("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n")], None)
            .status(304),
        scenario("HEAD", vec![text(&format!("{OK}Content-Length: 1000\r\nContent-Encoding: gzip\r\n\r\n"))], None)
            .keys(json!({ "method": "HEAD" }))
            .status(200)
            .body(""),
        scenario("no length, not closed", vec![text(&format!("{OK}\r\nabc")), Act::Hang], Some(BodyTimeout))
            .slow()
            .status(200),
    ])
    .await;
}

#[tokio::test]
async fn encodings() {
    let encoded = |name: &str, body: &[u8]| answer("200 OK", &format!("Content-Encoding: {name}\r\n"), body);
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
    zlib.write_all(b"hello x").unwrap();
    let mut raw = DeflateEncoder::new(Vec::new(), Compression::default());
    raw.write_all(b"hello x").unwrap();
    let whole = gzip(b"hello x");
    let mut broken = whole.clone();
    broken[whole.len() - 5] ^= 0x55;
    let bomb = gzip(&vec![b'x'; 32 << 20]);
    run(vec![
        scenario("gzip", encoded("GZip", &whole), None).status(200).body("hello x"),
        scenario("zlib", encoded("deflate", &zlib.finish().unwrap()), None).status(200).body("hello x"),
        scenario("raw deflate", encoded("deflate", &raw.finish().unwrap()), None).status(200).body("hello x"),
        scenario("unknown", encoded("br", b"as it is"), None).status(200).body("as it is"),
        scenario("empty", encoded("gzip", b""), None).status(200).body(""),
        scenario("broken", encoded("gzip", &broken), Some(HttpProtocol)).status(200),
        scenario("not gzip at all", encoded("gzip", b"<html>not compressed</html>"), Some(HttpProtocol)).status(200),
        scenario("cut", encoded("gzip", &whole[..whole.len() - 10]), Some(BodyTruncated)).status(200),
        scenario("bomb", encoded("gzip", &bomb), None).status(200).body(vec![b'x'; 4096]),
        scenario("bomb that is read", encoded("gzip", &bomb), Some(BodyTooLarge)).keys(reading()).status(200),
    ])
    .await;
}

#[tokio::test]
async fn bodies_around_the_cap() {
    let body = |length| answer("200 OK", "", &vec![b'x'; length]);
    run(vec![
        scenario("the cap", body(MAX_BODY), None).keys(reading()).status(200).body(vec![b'x'; MAX_BODY]),
        scenario("over it, read", body(MAX_BODY + 1), Some(BodyTooLarge)).keys(reading()).status(200),
        scenario("over it, not read", body(MAX_BODY + 1), None).status(200).body(vec![b'x'; 4096]),
    ])
    .await;
}

#[tokio::test]
async fn ten_gigabytes_are_left_where_they_are() {
    for keys in [json!({}), reading()] {
        let head = text(&format!("{OK}Content-Length: 10737418240\r\n\r\n"));
        let server = Server::start(move |_| vec![head.clone(), Act::Endless(vec![b'x'; 65_536])]).await;
        let seen = check(&monitor(&server.url("/"), &keys), LONG).await;
        let http = seen.http.unwrap();
        let read = keys != json!({});
        assert_eq!(seen.fault.map(|fault| fault.failure), read.then_some(BodyTooLarge));
        assert!(http.body.len() <= if read { MAX_BODY } else { 4096 });
        assert!(http.body_bytes > MAX_BODY as u64 && http.body_bytes <= 3 * MAX_BODY as u64, "{}", http.body_bytes);
        // What the kernel buffers of a loopback connection, and no more, was ever sent.
        assert!(server.sent() < 32 << 20, "{}", server.sent());
    }
}
