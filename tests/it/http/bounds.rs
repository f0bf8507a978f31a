//! What servers without measure cost: memory of the real program, against that of a plain check.

use std::time::Duration;

use serde_json::{Value, json};

use super::gzip;
use crate::support::cost::{self, MOST_KIB};
use crate::support::servers::http::{Act, Server, answer, text};
use crate::support::servers::http2::{self, Http2Server, STATUS_200, data, field, head, ping, settings, status};

const TIMEOUT: Duration = Duration::from_secs(3);

/// One check in a process of its own: its failure and its peak memory.
async fn cost(url: &str, reads: bool) -> (Value, u64) {
    let mut monitor = json!({ "url": url, "tls": { "verify": false } });
    if reads {
        monitor["expect"] = json!({ "body_contains": "never there" });
    }
    let (check, peak) = cost::of(&monitor, TIMEOUT).await;
    (check["failure"].clone(), peak)
}

/// The dearest of a few plain checks.
async fn baseline(url: &str) -> u64 {
    let mut most = 0;
    for reads in [true, false, true] {
        most = most.max(cost(url, reads).await.1);
    }
    most
}

#[tokio::test]
async fn no_server_costs_a_mebibyte() {
    let turn = crate::support::alone().await;
    let ok = "HTTP/1.1 200 OK\r\n";
    let bomb = gzip(&vec![b'x'; 16 << 20]);
    let endless = |head: &str, piece: Vec<u8>| vec![text(head), Act::Endless(piece)];
    let plain = Server::start(|_| answer("200 OK", "", b"x")).await;
    let base = baseline(&plain.url("/")).await;
    for (name, acts, reads, wanted) in [
        ("headers", endless(ok, b"X: y\r\n".repeat(700)), false, "http_protocol"),
        ("one header", endless("HTTP/1.1 200 OK\r\nX: ", vec![b'y'; 4096]), false, "http_protocol"),
        (
            "a byte a second",
            vec![text(ok), Act::Drip(vec![b'X'; 99], Duration::from_secs(1))],
            false,
            "response_timeout",
        ),
        ("103s", endless("", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(90)), false, "http_protocol"),
        ("100s", endless("", b"HTTP/1.1 100 Continue\r\n\r\n".repeat(90)), false, "http_protocol"),
        ("10 GB", endless("HTTP/1.1 200 OK\r\nContent-Length: 10737418240\r\n\r\n", vec![b'x'; 65_536]), false, ""),
        ("10 GB, read", endless("HTTP/1.1 200 OK\r\n\r\n", vec![b'x'; 65_536]), true, "body_too_large"),
        ("gzip", endless("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n", bomb.clone()), false, ""),
        ("gzip, read", endless("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n", bomb), true, "body_too_large"),
        (
            "chunk extensions",
            endless("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", vec![b'x'; 4096]),
            false,
            "http_protocol",
        ),
        (
            "trailers",
            endless("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n".repeat(700)),
            false,
            "http_protocol",
        ),
    ] {
        let server = Server::start(move |_| acts.clone()).await;
        within(name, &server.url("/"), reads, wanted, base).await;
    }

    let good = Http2Server::start(|_| vec![Act::Send([head(0, STATUS_200), data(1, b"x")].concat())]).await;
    let base = baseline(&good.url()).await;
    // One entry of 4 KB in the table of the compression, then fifteen references of a byte each: 60 KB of head from 15.
    let fat = [vec![0x40], field("x", &"y".repeat(3900)).split_off(1)].concat();
    let bloated = [status(103), vec![0xbe; 15]].concat();
    let ok = head(0, STATUS_200);
    let frame = http2::frame;
    for (name, acts, wanted) in [
        ("h2 103s", vec![Act::Endless(head(0, &status(103)).repeat(50))], "http_protocol"),
        (
            "h2 bloated 103s",
            vec![Act::Send(head(0, &[status(103), fat].concat())), Act::Endless(head(0, &bloated))],
            "http_protocol",
        ),
        (
            "h2 CONTINUATION",
            vec![Act::Send(frame(1, 0, 1, STATUS_200)), Act::Endless(frame(9, 0, 1, &field("a", "b")))],
            "http_protocol",
        ),
        ("h2 SETTINGS", vec![Act::Endless(settings())], "http_protocol"),
        ("h2 PING", vec![Act::Endless(ping())], "http_protocol"),
        ("h2 PING in a body", vec![Act::Send(ok.clone()), Act::Endless(ping())], "body_timeout"),
        ("h2 SETTINGS in a body", vec![Act::Send(ok.clone()), Act::Endless(settings())], "body_timeout"),
        ("h2 empty DATA", vec![Act::Send(ok.clone()), Act::Endless(data(0, b""))], "http_protocol"),
        ("h2 beyond its window", vec![Act::Send(ok), Act::Endless(data(0, &[b'x'; 16_000]))], "http_protocol"),
    ] {
        let server = Http2Server::start(move |_| acts.clone()).await;
        within(name, &server.url(), false, wanted, base).await;
    }
    drop(turn);
}

async fn within(name: &str, url: &str, reads: bool, wanted: &str, base: u64) {
    let (failure, peak) = cost(url, reads).await;
    println!("{name}: {} KiB over {base} KiB, {failure}", peak.saturating_sub(base));
    assert_eq!(failure.as_str().unwrap_or_default(), wanted, "{name}");
    assert!(peak < base + MOST_KIB, "{name}: {peak} KiB, a plain check has {base} KiB");
}
