//! HTTP of both versions, redirects, expectations.

use serde_json::json;

use super::Serves::{AtAccept, Http, Http2, Https, Nobody, Paths};
use super::{Row, row};
use crate::support::servers::http::{Act, Request, answer, text};
use crate::support::servers::http2::{
    END_STREAM, STATUS_200, data, goaway, head, ping, reset_stream, settings, status,
};

const WAITED: &str = "connect send wait";
const ALL: &str = "connect send wait receive";
const ALL_TLS: &str = "connect tls send wait receive";
const OK: &str = "HTTP/1.1 200 OK\r\n";
const PROTOCOL: &str = "down http_protocol";

fn said(bytes: &str) -> super::Serves {
    Http(vec![text(bytes)])
}

pub(super) fn rows() -> Vec<Row> {
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
    vec![
        row("http: refused", Nobody("http"), "down connect_refused", "connect"),
        row("http: 200", Http(answer("200 OK", "", b"hi")), "up", ALL),
        row("http: 204", said("HTTP/1.1 204 No Content\r\n\r\n"), "up", ALL),
        row("http: 404", Http(answer("404 Not Found", "", b"")), "down status_unexpected", ALL),
        row("http: 500", Http(answer("500 Oops", "", b"")), "down status_unexpected", ALL),
        row("http: 799", Http(answer("799 Odd", "", b"")), "down status_unexpected", ALL),
        row("http: 1.0", said("HTTP/1.0 200 OK\r\n\r\nhello"), "up", ALL),
        row("http: 0.9", said("<html>hello</html>"), PROTOCOL, ALL),
        row("http: no reason", said("HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n"), "up", ALL),
        row("http: folded", said("HTTP/1.1 200 OK\r\nX: one\r\n  two\r\nContent-Length: 0\r\n\r\n"), "up", ALL),
        row("http: silent", Http(vec![Act::Hang]), "down response_timeout", WAITED),
        row("http: half a head", Http(vec![text(OK), Act::Hang]), "down response_timeout", ALL),
        row("http: closed at once", Http(vec![]), "down connection_closed", WAITED),
        row("http: closed in the head", said("HTTP/1.1 200 OK\r\nX: "), "down connection_closed", ALL),
        row("http: reset", Http(vec![Act::Reset]), "down connection_reset", WAITED),
        row(
            "http: endless header",
            Http(vec![text("HTTP/1.1 200 OK\r\nX: "), Act::Endless(vec![b'y'; 4096])]),
            PROTOCOL,
            ALL,
        ),
        row("http: endless 103s", Http(vec![Act::Endless(hints.repeat(50).into_bytes())]), PROTOCOL, ALL),
        row("http: some 103s", said(&format!("{}{OK}Content-Length: 0\r\n\r\n", hints.repeat(5))), "up", ALL),
        row("http: a TLS port", Http(vec![Act::Send(vec![0x15, 3, 1, 0, 2, 2, 70])]), PROTOCOL, ALL),
        row("http: a header without a colon", said("HTTP/1.1 200 OK\r\noops\r\n\r\n"), PROTOCOL, ALL),
        row("http: status of two digits", said("HTTP/1.1 20 OK\r\n\r\n"), PROTOCOL, ALL),
        row("http: garbage", Http(vec![Act::Send(vec![0xff; 64])]), PROTOCOL, ALL),
        row("https: signs itself", Https(answer("200 OK", "", b"")), "down cert_untrusted", "connect tls"),
        row("https: not verified", Https(answer("200 OK", "", b"")), "up", ALL_TLS)
            .keys(json!({ "tls": { "verify": false } })),
        row(
            "https: a plain port",
            AtAccept("https", answer("400 Bad Request", "", b"")),
            "down tls_handshake",
            "connect tls",
        ),
        row(
            "https: no length, no close_notify",
            Https(vec![text("HTTP/1.1 200 OK\r\n\r\nabc"), Act::Reset]),
            "down body_truncated",
            ALL_TLS,
        )
        .keys(json!({ "tls": { "verify": false } })),
    ]
}

pub(super) fn broken_bodies() -> Vec<Row> {
    let chunked = |chunks: &str| said(&format!("{OK}Transfer-Encoding: chunked\r\n\r\n{chunks}"));
    let counted = |length: &str, body: &str| said(&format!("{OK}Content-Length: {length}\r\n\r\n{body}"));
    let gzip = |body: &[u8]| Http(answer("200 OK", "Content-Encoding: gzip\r\n", body));
    let stalled = |more: &str| Http(vec![text(&format!("{OK}{more}\r\nabc")), Act::Hang]);
    vec![
        row("body: chunked", chunked("3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: v\r\n\r\n"), "up", ALL),
        row("body: bad chunk size", chunked("zz\r\nabc\r\n"), PROTOCOL, ALL),
        row("body: chunk without its end", chunked("3\r\nabcd\r\n0\r\n\r\n"), PROTOCOL, ALL),
        row("body: chunk size overflow", chunked("fffffffffffffffff\r\n"), PROTOCOL, ALL),
        row("body: cut within a chunk", chunked("5\r\nab"), "down body_truncated", ALL),
        row("body: cut between chunks", chunked("2\r\nab\r\n"), "down body_truncated", ALL),
        row("body: shorter than its length", counted("10", "abc"), "down body_truncated", ALL),
        row("body: longer than its length", counted("2", "abc"), "up", ALL),
        row("body: two lengths", counted("2\r\nContent-Length: 3", "ab"), PROTOCOL, ALL),
        row("body: a length that is none", counted("two", "ab"), PROTOCOL, ALL),
        row("body: stalls", stalled("Content-Length: 10\r\n"), "down body_timeout", ALL),
        row("body: never ends", stalled(""), "down body_timeout", ALL),
        row(
            "body: reset",
            Http(vec![text(&format!("{OK}Content-Length: 10\r\n\r\nabc")), Act::Reset]),
            "down connection_reset",
            ALL,
        ),
        row("body: not gzip at all", gzip(b"<html>not compressed</html>"), PROTOCOL, ALL),
        row("body: a bomb, not read", gzip(&crate::http::gzip(&vec![b'x'; 8 << 20])), "up", ALL),
        row("body: a bomb that is read", gzip(&crate::http::gzip(&vec![b'x'; 8 << 20])), "down body_too_large", ALL)
            .keys(json!({ "expect": { "body_contains": "y" } })),
        row("body: HEAD", counted("1000", ""), "up", ALL).keys(json!({ "method": "HEAD" })),
    ]
}

pub(super) fn redirects() -> Vec<Row> {
    let at = |path| Paths(path, crate::http::maze as fn(&Request) -> Vec<Act>);
    vec![
        row("redirect: three", at("/3"), "up", ALL),
        row("redirect: ten", at("/10"), "up", ALL),
        row("redirect: eleven", at("/11"), "down redirect_limit", ALL),
        row("redirect: none allowed", at("/1"), "down redirect_limit", ALL).keys(json!({ "max_redirects": 0 })),
        row("redirect: not followed", at("/1"), "down status_unexpected", ALL)
            .keys(json!({ "follow_redirects": false })),
        row("redirect: in circles", at("/loop"), "down redirect_loop", ALL),
        row("redirect: relative", at("/relative"), "up", ALL),
        row("redirect: no location", at("/nowhere"), "down status_unexpected", ALL),
        row("redirect: to ftp", at("/ftp"), "down redirect_blocked", ALL),
        row("redirect: with a password", at("/userinfo"), "down redirect_blocked", ALL),
        row("redirect: no URL", at("/broken"), PROTOCOL, ALL),
        row("redirect: to metadata", at("/metadata"), "down egress_blocked", ALL),
    ]
}

pub(super) fn expectations() -> Vec<Row> {
    let page = || Http(answer("200 OK", "X-Env: live\r\n", b"{\"ok\":true}"));
    let expect = |expect| json!({ "expect": expect });
    vec![
        row("expect: status holds", Http(answer("404 Not Found", "", b"")), "up", ALL)
            .keys(expect(json!({ "status": [404] }))),
        row("expect: status differs", page(), "down status_unexpected", ALL).keys(expect(json!({ "status": [404] }))),
        row("expect: text there", page(), "up", ALL).keys(expect(json!({ "body_contains": "ok" }))),
        row("expect: text missing", page(), "down body_mismatch", ALL).keys(expect(json!({ "body_contains": "gone" }))),
        row("expect: fast enough", page(), "up", ALL).keys(expect(json!({ "latency_below": "10s" }))),
        row(
            "expect: slow",
            Http([vec![Act::Pause(std::time::Duration::from_millis(50))], answer("200 OK", "", b"")].concat()),
            "degraded latency_exceeded",
            ALL,
        )
        .keys(expect(json!({ "latency_below": "20ms" }))),
        row(
            "expect: too slow",
            Http([vec![Act::Pause(std::time::Duration::from_millis(50))], answer("200 OK", "", b"")].concat()),
            "down latency_exceeded",
            ALL,
        )
        .keys(expect(json!({ "latency_down_above": "20ms" }))),
    ]
}

pub(super) fn http2() -> Vec<Row> {
    let send = |frames: &[Vec<u8>]| Http2(vec![Act::Send(frames.concat())]);
    let ok = || head(0, STATUS_200);
    let waited = "connect tls send wait";
    vec![
        row("h2: plain", send(&[ok(), data(END_STREAM, b"hi")]), "up", ALL_TLS),
        row("h2: 404", send(&[head(END_STREAM, &status(404))]), "down status_unexpected", ALL_TLS),
        row("h2: refused stream", send(&[reset_stream(7)]), "down connection_closed", waited),
        row("h2: protocol error", send(&[reset_stream(1)]), PROTOCOL, waited),
        row("h2: goes away", Http2(vec![Act::Send(goaway(0, 0)), Act::Hang]), "down connection_closed", waited),
        row("h2: accuses and goes", Http2(vec![Act::Send(goaway(0, 1)), Act::Hang]), PROTOCOL, waited),
        row("h2: goes away after it", send(&[ok(), data(END_STREAM, b"hi"), goaway(1, 0)]), "up", ALL_TLS),
        row("h2: closed", Http2(vec![]), "down connection_closed", waited),
        row("h2: reset", Http2(vec![Act::Reset]), "down connection_reset", waited),
        row("h2: silent", Http2(vec![Act::Hang]), "down response_timeout", waited),
        row("h2: endless pings", Http2(vec![Act::Endless(ping())]), PROTOCOL, waited),
        row("h2: endless settings", Http2(vec![Act::Endless(settings())]), PROTOCOL, waited),
        row("h2: body given up", send(&[ok(), data(0, b"ab"), reset_stream(2)]), "down body_truncated", ALL_TLS),
        row("h2: body cut", send(&[ok(), data(0, b"ab")]), "down body_truncated", ALL_TLS),
        row(
            "h2: body stalls",
            Http2(vec![Act::Send([ok(), data(0, b"ab")].concat()), Act::Hang]),
            "down body_timeout",
            ALL_TLS,
        ),
    ]
}
