//! HTTP/2: what is negotiated, and every way in which a server can spoil it.

use std::time::Duration;

use lamplighter::model::Failure::{self, *};
use lamplighter::model::Observation;
use serde_json::{Value, json};

use super::{LONG, SHORT, TO_RECEIVE, TO_WAIT, gzip};
use crate::support::nginx::Nginx;
use crate::support::probing::{MAX_BODY, check, phases};
use crate::support::servers::http::{Act, text};
use crate::support::servers::http2::*;

fn send(frames: &[Vec<u8>]) -> Act {
    Act::Send(frames.concat())
}

struct Scenario {
    name: &'static str,
    acts: Vec<Act>,
    fault: Option<Failure>,
    status: Option<u16>,
    /// Reached besides connection and handshake.
    phases: &'static [&'static str],
    timeout: Duration,
    keys: Value,
    body: Option<&'static [u8]>,
}

/// What fails before an answer began.
fn early(name: &'static str, acts: Vec<Act>, failure: Failure) -> Scenario {
    let phases = TO_WAIT;
    Scenario { name, acts, fault: Some(failure), status: None, phases, timeout: LONG, keys: json!({}), body: None }
}

/// What fails after an answer began, or not at all.
fn late(name: &'static str, acts: Vec<Act>, fault: Option<Failure>, status: Option<u16>) -> Scenario {
    Scenario { fault, status, phases: TO_RECEIVE, ..early(name, acts, Internal) }
}

impl Scenario {
    const fn slow(mut self) -> Self {
        self.timeout = SHORT;
        self
    }

    fn keys(mut self, keys: Value) -> Self {
        self.keys = keys;
        self
    }

    const fn body(mut self, body: &'static [u8]) -> Self {
        self.body = Some(body);
        self
    }
}

async fn run(scenarios: Vec<Scenario>) {
    let runs = scenarios.into_iter().map(|scenario| async move {
        let acts = scenario.acts.clone();
        let server = Http2Server::start(move |_| acts.clone()).await;
        let mut monitor = scenario.keys.clone();
        monitor["url"] = json!(server.url());
        monitor["tls"] = json!({ "verify": false });
        expect(&scenario, &check(&monitor, scenario.timeout).await);
        assert_eq!(server.requests(), 1, "{}", scenario.name);
    });
    futures_util::future::join_all(runs).await;
}

fn expect(scenario: &Scenario, seen: &Observation) {
    let (name, fault) = (scenario.name, seen.fault.as_ref());
    assert_eq!(fault.map(|fault| fault.failure), scenario.fault, "{name}: {fault:?}");
    assert_eq!(seen.http.as_ref().map(|http| http.status), scenario.status, "{name}");
    let wanted: Vec<&str> =
        scenario.phases.iter().take(1).chain(&["tls"]).chain(&scenario.phases[1..]).copied().collect();
    assert_eq!(phases(seen), wanted, "{name}: {:?}", seen.timings);
    if let Some(http) = &seen.http {
        assert_eq!(http.version, "HTTP/2", "{name}");
        if let Some(body) = scenario.body {
            assert_eq!(&http.body[..], body, "{name}");
        }
    }
}

#[tokio::test]
async fn answers() {
    let encoded = [STATUS_200.to_vec(), field("content-encoding", "gzip")].concat();
    let counted = |length: &str| head(0, &[STATUS_200.to_vec(), field("content-length", length)].concat());
    let ok = || head(0, STATUS_200);
    run(vec![
        late("plain", vec![send(&[ok(), data(END_STREAM, b"hi")])], None, Some(200)).body(b"hi"),
        late("no body", vec![send(&[head(END_STREAM, STATUS_200)])], None, Some(200)).body(b""),
        late("404", vec![send(&[head(END_STREAM, &status(404))])], None, Some(404)),
        late("in pieces", vec![send(&[ok(), data(0, b"a"), ping(), data(0, b""), data(1, b"b")])], None, Some(200))
            .body(b"ab"),
        late("trailers", vec![send(&[ok(), data(0, b"a"), head(END_STREAM, &field("x-sum", "1"))])], None, Some(200))
            .body(b"a"),
        late("gzip", vec![send(&[head(0, &encoded), data(1, &gzip(b"hello x"))])], None, Some(200)).body(b"hello x"),
        late("some 103s", vec![send(&vec![head(0, &status(103)); 9]), send(&[ok(), data(1, b"x")])], None, Some(200))
            .body(b"x"),
        late(
            "a head in three frames",
            vec![send(&[
                frame(HEADERS, 0, 1, STATUS_200),
                frame(CONTINUATION, 0, 1, &field("x-a", "1")),
                frame(CONTINUATION, END_HEADERS, 1, &field("x-b", "2")),
                data(END_STREAM, b"x"),
            ])],
            None,
            Some(200),
        ),
        late("counted", vec![send(&[counted("2"), data(END_STREAM, b"hi")])], None, Some(200)).body(b"hi"),
        late(
            "HEAD",
            vec![send(&[head(END_STREAM, &[STATUS_200.to_vec(), field("content-length", "9")].concat())])],
            None,
            Some(200),
        )
        .keys(json!({ "method": "HEAD" })),
        // The answer is whole, and nobody wants the rest of the request (RFC 9113, 8.1).
        late(
            "early, then NO_ERROR",
            vec![send(&[head(0, &status(413)), data(END_STREAM, b"no"), reset_stream(0)])],
            None,
            Some(413),
        )
        .keys(json!({ "method": "POST", "body": "x".repeat(1 << 20) }))
        .body(b"no"),
        late("going away after it", vec![send(&[ok(), data(END_STREAM, b"hi"), goaway(1, 0)])], None, Some(200)),
        late("going away before it", vec![send(&[goaway(1, 0), ok(), data(END_STREAM, b"hi")])], None, Some(200)),
    ])
    .await;
}

#[tokio::test]
async fn what_is_not_an_answer() {
    let refused = |name, code, failure| early(name, vec![send(&[reset_stream(code)])], failure);
    let leaving = |name, code, failure| early(name, vec![send(&[goaway(0, code)]), Act::Hang], failure);
    run(vec![
        refused("NO_ERROR", 0, ConnectionClosed),
        refused("PROTOCOL_ERROR", 1, HttpProtocol),
        refused("INTERNAL_ERROR", 2, ConnectionClosed),
        refused("FLOW_CONTROL_ERROR", 3, HttpProtocol),
        refused("SETTINGS_TIMEOUT", 4, HttpProtocol),
        refused("STREAM_CLOSED", 5, HttpProtocol),
        refused("FRAME_SIZE_ERROR", 6, HttpProtocol),
        refused("REFUSED_STREAM", 7, ConnectionClosed),
        refused("CANCEL", 8, ConnectionClosed),
        refused("COMPRESSION_ERROR", 9, HttpProtocol),
        refused("CONNECT_ERROR", 10, ConnectionClosed),
        refused("ENHANCE_YOUR_CALM", 11, ConnectionClosed),
        refused("INADEQUATE_SECURITY", 12, HttpProtocol),
        refused("a code of nobody", 0xbeef, HttpProtocol),
        leaving("going away in order", 0, ConnectionClosed),
        leaving("going away for our protocol", 1, HttpProtocol),
        leaving("going away, broken", 2, ConnectionClosed),
        leaving("going away, calm", 11, ConnectionClosed),
        leaving("going away, insecure", 12, HttpProtocol),
        early("closed", vec![], ConnectionClosed),
        early("reset", vec![Act::Reset], ConnectionReset),
        early("silent", vec![Act::Hang], ResponseTimeout).slow(),
        early("pings without end", vec![Act::Endless(ping())], HttpProtocol),
        early("settings without end", vec![Act::Endless(settings())], HttpProtocol),
        early("not HTTP/2", vec![text("HTTP/1.1 200 OK\r\n\r\n")], HttpProtocol),
        early("a frame too large", vec![send(&[frame(0xaa, 0, 0, &vec![0; 20_000])])], HttpProtocol),
        early("an unknown kind of frame, then nothing", vec![send(&[frame(0xaa, 0, 0, b"x")])], ConnectionClosed),
        early("a push", vec![send(&[frame(5, END_HEADERS, 1, &[0, 0, 0, 2, 0x82])])], HttpProtocol),
        early("data before a head", vec![send(&[data(0, b"x")])], HttpProtocol),
        early("a window of nothing", vec![send(&[frame(8, 0, 0, &[0; 4])])], HttpProtocol),
    ])
    .await;
}

#[tokio::test]
async fn answers_that_break() {
    let ok = || head(0, STATUS_200);
    let counted = |length: &str| head(0, &[STATUS_200.to_vec(), field("content-length", length)].concat());
    let fat = [STATUS_200.to_vec(), field("x", &"y".repeat(70_000))].concat();
    let mut pieces: Vec<Vec<u8>> = fat.chunks(16_000).map(|piece| frame(CONTINUATION, 0, 1, piece)).collect();
    pieces.push(frame(CONTINUATION, END_HEADERS, 1, &[]));
    run(vec![
        late("given up within", vec![send(&[ok(), data(0, b"ab"), reset_stream(2)])], Some(BodyTruncated), Some(200)),
        late("cancelled within", vec![send(&[ok(), data(0, b"ab"), reset_stream(8)])], Some(BodyTruncated), Some(200)),
        late("accused within", vec![send(&[ok(), data(0, b"a"), reset_stream(1)])], Some(HttpProtocol), Some(200)),
        late("left within", vec![send(&[ok(), data(0, b"ab"), goaway(0, 2)])], Some(BodyTruncated), Some(200)),
        late("closed within", vec![send(&[ok(), data(0, b"ab")])], Some(BodyTruncated), Some(200)).body(b"ab"),
        late("stalled", vec![send(&[ok(), data(0, b"ab")]), Act::Hang], Some(BodyTimeout), Some(200))
            .slow()
            .body(b"ab"),
        late(
            "dripping",
            vec![send(&[ok()]), Act::Drip(data(0, &[b'x'; 900]), Duration::from_millis(20))],
            Some(BodyTimeout),
            Some(200),
        )
        .slow(),
        late("shorter than its length", vec![send(&[counted("9"), data(1, b"ab")])], Some(HttpProtocol), Some(200)),
        late("longer than its length", vec![send(&[counted("1"), data(1, b"ab")])], Some(HttpProtocol), Some(200)),
        late(
            "beyond its window",
            vec![send(&[ok()]), Act::Endless(data(0, &[b'x'; 8000]))],
            Some(HttpProtocol),
            Some(200),
        ),
        late("no status", vec![send(&[head(END_STREAM, &field("x-a", "1"))])], Some(HttpProtocol), None),
        late("two statuses", vec![send(&[head(1, &[STATUS_200, STATUS_200].concat())])], Some(HttpProtocol), None),
        late(
            "upper case",
            vec![send(&[head(1, &[STATUS_200.to_vec(), field("X-A", "1")].concat())])],
            Some(HttpProtocol),
            None,
        ),
        late(
            "a header of connections",
            vec![send(&[head(1, &[STATUS_200.to_vec(), field("connection", "close")].concat())])],
            Some(HttpProtocol),
            None,
        ),
        late(
            "broken compression",
            vec![send(&[head(1, &[0xff, 0xff, 0xff, 0xff, 0xff, 0x7f])])],
            Some(HttpProtocol),
            None,
        ),
        late(
            "a head without end",
            vec![send(&[frame(HEADERS, 0, 1, STATUS_200)]), Act::Endless(frame(9, 0, 1, &[]))],
            Some(HttpProtocol),
            None,
        ),
        late(
            "a head of 70 KB",
            vec![send(&[frame(HEADERS, 0, 1, &[])]), send(&pieces), Act::Hang],
            Some(HttpProtocol),
            None,
        ),
        late("103s without end", vec![Act::Endless(head(0, &status(103)))], Some(HttpProtocol), None),
        late(
            "a dripping head",
            vec![Act::Drip(head(1, &[0; 900]), Duration::from_millis(20))],
            Some(ResponseTimeout),
            None,
        )
        .slow(),
        late(
            "a frame within a head",
            vec![send(&[frame(HEADERS, 0, 1, STATUS_200), ping()])],
            Some(HttpProtocol),
            None,
        ),
    ])
    .await;
}

#[tokio::test]
async fn a_server_that_wants_the_older_version_gets_it() {
    let server = Http2Server::start(|turn| match turn {
        0 => vec![send(&[reset_stream(13)]), Act::Hang],
        _ => vec![text("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")],
    })
    .await;
    let seen = check(&json!({ "url": server.url(), "tls": { "verify": false } }), LONG).await;
    assert_eq!(seen.fault, None);
    assert_eq!(seen.http.unwrap().version, "HTTP/1.1");
    assert_eq!(server.requests(), 2);
}

#[tokio::test]
async fn a_real_server_negotiates_it() {
    let nginx = Nginx::start().await;
    let ask = async |path: &str, mut keys: Value| {
        keys["url"] = json!(nginx.tls_url(path));
        keys["tls"] = json!({ "verify": false });
        let seen = check(&keys, LONG).await;
        assert_eq!(seen.fault, None, "{path} {keys}");
        seen.http.unwrap()
    };
    let page = ask("/page", json!({ "expect": { "body_contains": "x" } })).await;
    assert_eq!((page.version, page.status, page.body.len()), ("HTTP/2", 200, 20_000));
    let echoed = ask("/echo", json!({ "headers": { "Host": "virtual.example", "Connection": "close" } })).await;
    assert_eq!(&echoed.body[..], b"virtual.example HTTP/2.0");
    let posted = ask("/upload", json!({ "method": "POST", "body": "x".repeat(1 << 20) })).await;
    assert_eq!((posted.version, posted.status), ("HTTP/2", 200));
    let moved = ask("/folder", json!({})).await;
    assert_eq!((moved.status, moved.redirects), (403, 1));
    assert_eq!(ask("/page", json!({ "method": "HEAD" })).await.status, 200);
    let gzip = json!({ "headers": { "Accept-Encoding": "gzip" }, "expect": { "body_contains": "x" } });
    let small = ask("/page", gzip).await;
    assert!(small.body.len() == 20_000 && small.body_bytes < 1000);
    assert_eq!(ask("/large", json!({})).await.status, 200);
    let reading =
        json!({ "url": nginx.tls_url("/large"), "tls": { "verify": false }, "expect": { "body_contains": "x" } });
    let seen = check(&reading, LONG).await;
    assert_eq!(seen.fault.unwrap().failure, BodyTooLarge);
    assert_eq!(seen.http.unwrap().body.len(), MAX_BODY);
}
