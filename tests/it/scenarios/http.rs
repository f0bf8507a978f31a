//! HTTP of both versions, and expectations.

use serde_json::json;

use super::staging::Serves::{self, Asked, AtAccept, Http, Http2, Https, Nobody};
use super::staging::{Made, Row, made, row};
use crate::support::probing::MAX_BODY;
use crate::support::servers::http::{Act, Request, answer, text};
use crate::support::servers::http2::{
    END_STREAM, Http2Server, STATUS_200, data, field, goaway, head, ping, reset_stream, settings, status,
};

const WAITED: &str = "connect send wait";
const ALL: &str = "connect send wait receive";
const ALL_TLS: &str = "connect tls send wait receive";
const OK: &str = "HTTP/1.1 200 OK\r\n";
const PROTOCOL: &str = "down http_protocol";

fn said(bytes: &str) -> Serves {
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
        row("https: signs itself", Https("https", answer("200 OK", "", b"")), "down cert_untrusted", "connect tls"),
        row("https: not verified", Https("https", answer("200 OK", "", b"")), "up", ALL_TLS)
            .keys(json!({ "tls": { "verify": false } })),
        row(
            "https: a plain port",
            AtAccept("https", answer("400 Bad Request", "", b"")),
            "down tls_handshake",
            "connect tls",
        ),
        row(
            "https: no length, no close_notify",
            Https("https", vec![text("HTTP/1.1 200 OK\r\n\r\nabc"), Act::Reset]),
            "down body_truncated",
            ALL_TLS,
        )
        .keys(json!({ "tls": { "verify": false } })),
    ]
}

fn drip(text: &str) -> Act {
    Act::Drip(text.as_bytes().to_vec(), std::time::Duration::from_millis(20))
}

pub(super) fn heads() -> Vec<Row> {
    let many = |count: usize| (0..count).map(|i| format!("X-{i}: y\r\n")).collect::<String>();
    let method = |request: &Request| match request.line.split(' ').next() {
        Some("HEAD") => answer("405 Method Not Allowed", "Allow: GET\r\n", b""),
        _ => answer("200 OK", "", b"hi"),
    };
    let broken_get = |request: &Request| match request.line.split(' ').next() {
        Some("HEAD") => vec![text("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")],
        _ => answer("500 Oops", "", b""),
    };
    let head = || json!({ "method": "HEAD" });
    let empty = "Content-Length: 0\r\n\r\n";
    let endless = |line: &str| Http(vec![Act::Endless(line.repeat(50).into_bytes())]);
    vec![
        row("http: HEAD refused, GET fine; HEAD", Asked("http", "/", method), "down status_unexpected", ALL)
            .keys(head()),
        row("http: HEAD refused, GET fine; GET", Asked("http", "/", method), "up", ALL),
        row("http: HEAD fine, GET broken; HEAD", Asked("http", "/", broken_get), "up", ALL).keys(head()),
        row("http: HEAD fine, GET broken; GET", Asked("http", "/", broken_get), "down status_unexpected", ALL),
        row("http: 99 headers", Http(answer("200 OK", &many(99), b"")), "up", ALL),
        row("http: 101 headers", Http(answer("200 OK", &many(101), b"")), PROTOCOL, ALL),
        row("http: a head of 60 KB", said(&format!("{OK}X: {}\r\n{empty}", "y".repeat(60_000))), "up", ALL),
        row("http: a head of 70 KB", said(&format!("{OK}X: {}\r\n{empty}", "y".repeat(70_000))), PROTOCOL, ALL),
        row("http: 100 unasked", said(&format!("HTTP/1.1 100 Continue\r\n\r\n{OK}{empty}")), "up", ALL),
        row("http: 199 unheard of", said(&format!("HTTP/1.1 199 Odd\r\n\r\n{OK}{empty}")), "up", ALL),
        row("http: endless 100s", endless("HTTP/1.1 100 Continue\r\n\r\n"), PROTOCOL, ALL),
        row("http: endless 102s", endless("HTTP/1.1 102 Processing\r\n\r\n"), PROTOCOL, ALL),
        row(
            "http: a 103 and silence",
            Http(vec![text("HTTP/1.1 103 Early Hints\r\n\r\n"), Act::Hang]),
            "down response_timeout",
            ALL,
        ),
        row("http: a 103 and the end", said("HTTP/1.1 103 Early Hints\r\n\r\n"), "down connection_closed", ALL),
        row(
            "http: 101 unasked",
            said("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"),
            "down status_unexpected",
            ALL,
        ),
        row("http: 304", said("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"), "down status_unexpected", ALL),
        row("http: 204 with a body", said("HTTP/1.1 204 No Content\r\n\r\nstray"), "up", ALL),
        row("http: frames of HTTP/2", Http(vec![Act::Send(b"\0\0\x12\x04\0\0\0\0\0".to_vec())]), PROTOCOL, ALL),
        row("http: a dripping head", Http(vec![drip(&format!("{OK}{}", many(99)))]), "down response_timeout", ALL),
        row("http: an ssh server", AtAccept("http", vec![text("SSH-2.0-OpenSSH_9.2\r\n")]), PROTOCOL, ALL),
        row("http: a mail server", AtAccept("http", vec![text("220 mail ESMTP\r\n"), Act::Hang]), PROTOCOL, ALL),
        row("http: a space before the colon", said(&format!("{OK}X : y\r\n{empty}")), PROTOCOL, ALL),
        row("http: a NUL in a header", said(&format!("{OK}X: a\0b\r\n{empty}")), PROTOCOL, ALL),
        row("http: an empty header name", said(&format!("{OK}: y\r\n{empty}")), PROTOCOL, ALL),
        row("http: version 3.0", said(&format!("HTTP/3.0 200 OK\r\n{empty}")), PROTOCOL, ALL),
        row("http: version in small letters", said(&format!("http/1.1 200 OK\r\n{empty}")), PROTOCOL, ALL),
        row("http: status of letters", said(&format!("HTTP/1.1 abc OK\r\n{empty}")), PROTOCOL, ALL),
        row("http: status of four digits", said(&format!("HTTP/1.1 2000 OK\r\n{empty}")), PROTOCOL, ALL),
        row("http: lines end in LF", said("HTTP/1.1 200 OK\nContent-Length: 0\n\n"), "up", ALL),
        row(
            "http: bytes in a reason",
            Http(vec![Act::Send(b"HTTP/1.1 200 \xe4\r\nContent-Length: 0\r\n\r\n".to_vec())]),
            "up",
            ALL,
        ),
        row(
            "http: answers before it has the request",
            AtAccept("http", answer("413 Content Too Large", "", b"no")),
            "down status_unexpected",
            ALL,
        )
        .keys(json!({ "method": "POST", "body": "x".repeat(1 << 20) })),
    ]
}

pub(super) fn broken_bodies() -> Vec<Row> {
    let chunked = |chunks: &str| said(&format!("{OK}Transfer-Encoding: chunked\r\n\r\n{chunks}"));
    let counted = |length: &str, body: &str| said(&format!("{OK}Content-Length: {length}\r\n\r\n{body}"));
    let gzip = |body: &[u8]| Http(answer("200 OK", "Content-Encoding: gzip\r\n", body));
    let whole = crate::http::gzip(b"hello x");
    let mut broken = whole.clone();
    broken[whole.len() - 5] ^= 0x55;
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
        row("body: a bomb as large as the bound", gzip(&crate::http::gzip(&vec![b'x'; MAX_BODY])), "up", ALL)
            .keys(json!({ "expect": { "body_contains": "x" } })),
        row("body: over the bound", Http(answer("200 OK", "", &vec![b'x'; MAX_BODY + 1])), "down body_too_large", ALL)
            .keys(json!({ "expect": { "body_contains": "x" } })),
        row("body: over the bound, not read", Http(answer("200 OK", "", &vec![b'x'; MAX_BODY + 1])), "up", ALL),
        row("body: broken gzip", gzip(&broken), PROTOCOL, ALL),
        row("body: cut gzip", gzip(&whole[..whole.len() - 10]), "down body_truncated", ALL),
        row("body: no gzip, empty", gzip(b""), "up", ALL),
        row(
            "body: an encoding that nobody asked for",
            Http(answer("200 OK", "Content-Encoding: br\r\n", b"as it is")),
            "up",
            ALL,
        ),
        row("body: a negative length", counted("-2", "ab"), PROTOCOL, ALL),
        row("body: one length twice", counted("2\r\nContent-Length: 2", "ab"), "up", ALL),
        row("body: a length of twenty digits", counted("99999999999999999999", "ab"), PROTOCOL, ALL),
        row(
            "body: chunked and a length",
            said(&format!("{OK}Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n2\r\nab\r\n0\r\n\r\n")),
            "up",
            ALL,
        ),
        row("body: a negative chunk", chunked("-1\r\nabc\r\n"), PROTOCOL, ALL),
        row(
            "body: chunks without an end",
            Http(vec![text(&format!("{OK}Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n")), Act::Hang]),
            "down body_timeout",
            ALL,
        ),
        row(
            "body: drips",
            Http(vec![text(&format!("{OK}Content-Length: 1000\r\n\r\n")), drip(&"x".repeat(1000))]),
            "down body_timeout",
            ALL,
        ),
        row(
            "body: 10 GB, read",
            Http(vec![text(&format!("{OK}Content-Length: 10737418240\r\n\r\n")), Act::Endless(vec![b'x'; 65_536])]),
            "down body_too_large",
            ALL,
        )
        .keys(json!({ "expect": { "body_contains": "y" } })),
        row("body: HEAD", counted("1000", ""), "up", ALL).keys(json!({ "method": "HEAD" })),
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
        row("expect: text that must not be there", page(), "down body_forbidden", ALL)
            .keys(expect(json!({ "body_not_contains": "ok" }))),
        row("expect: text that is not there", page(), "up", ALL).keys(expect(json!({ "body_not_contains": "error" }))),
        row("expect: pattern holds", page(), "up", ALL).keys(expect(json!({ "body_matches": "\"ok\": ?true" }))),
        row("expect: pattern differs", page(), "down body_mismatch", ALL)
            .keys(expect(json!({ "body_matches": "^ok$" }))),
        row("expect: forbidden pattern", page(), "down body_forbidden", ALL)
            .keys(expect(json!({ "body_not_matches": "o[k]" }))),
        row("expect: header holds", page(), "up", ALL)
            .keys(expect(json!({ "headers": [{ "name": "x-env", "equals": "live" }] }))),
        row("expect: header differs", page(), "down header_mismatch", ALL)
            .keys(expect(json!({ "headers": [{ "name": "x-env", "equals": "test" }] }))),
        row("expect: header is missing", page(), "down header_mismatch", ALL)
            .keys(expect(json!({ "headers": [{ "name": "x-other", "contains": "x" }] }))),
        row("expect: one of two headers", Http(answer("200 OK", "X-Env: test\r\nX-Env: live\r\n", b"")), "up", ALL)
            .keys(expect(json!({ "headers": [{ "name": "x-env", "matches": "^live$" }] }))),
        row("expect: status before body", Http(answer("500 Oops", "", b"")), "down status_unexpected", ALL)
            .keys(expect(json!({ "body_contains": "x", "latency_down_above": "1ms" }))),
        row(
            "expect: text in a body that is cut",
            said(&format!("{OK}Content-Length: 9\r\n\r\nok")),
            "down body_truncated",
            ALL,
        )
        .keys(expect(json!({ "body_contains": "ok" }))),
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

pub(super) fn json_expectations() -> Vec<Row> {
    let says = |body: &str| Http(answer("200 OK", "Content-Type: application/json\r\n", body.as_bytes()));
    let rule = |rule| json!({ "expect": { "json": [rule] } });
    let status = |value: &str| json!({ "path": "$.status", "equals": value });
    let all_up = || json!({ "path": "$.parts[*].up", "equals": true });
    let down = "down json_mismatch";
    vec![
        row("json: holds", says("{\"status\":\"UP\"}"), "up", ALL).keys(rule(status("UP"))),
        row("json: differs", says("{\"status\":\"DOWN\"}"), down, ALL).keys(rule(status("UP"))),
        row("json: another type", says("{\"status\":[\"UP\"]}"), down, ALL).keys(rule(status("UP"))),
        row("json: nothing there", says("{}"), down, ALL).keys(rule(status("UP"))),
        row("json: null there", says("{\"status\":null}"), down, ALL).keys(rule(status("UP"))),
        row("json: several, all hold", says("{\"parts\":[{\"up\":true},{\"up\":true}]}"), "up", ALL)
            .keys(rule(all_up())),
        row("json: several, one differs", says("{\"parts\":[{\"up\":true},{\"up\":false}]}"), down, ALL)
            .keys(rule(all_up())),
        row("json: several, none selected", says("{\"parts\":[]}"), down, ALL).keys(rule(all_up())),
        row("json: exists", says("{\"a\":null}"), "up", ALL).keys(rule(json!({ "path": "$.a", "exists": true }))),
        row("json: exists and must not", says("{\"a\":1}"), down, ALL)
            .keys(rule(json!({ "path": "$.a", "exists": false }))),
        row("json: must not exist and does not", says("{}"), "up", ALL)
            .keys(rule(json!({ "path": "$.a", "exists": false }))),
        row("json: above", says("{\"n\":5.5}"), "up", ALL).keys(rule(json!({ "path": "$.n", "above": 5 }))),
        row("json: not above", says("{\"n\":5}"), down, ALL).keys(rule(json!({ "path": "$.n", "above": 5 }))),
        row("json: below, but a text", says("{\"n\":\"3\"}"), down, ALL)
            .keys(rule(json!({ "path": "$.n", "below": 5 }))),
        row("json: a filter", says("{\"jobs\":[{\"id\":1,\"ok\":false},{\"id\":2,\"ok\":true}]}"), "up", ALL)
            .keys(rule(json!({ "path": "$.jobs[?@.id==2].ok", "equals": true }))),
        row("json: a page", says("<html>"), down, ALL).keys(rule(status("UP"))),
        row("json: half of it", says("{\"status\":\"UP\""), down, ALL).keys(rule(status("UP"))),
        row("json: two of them", says("{\"status\":\"UP\"}{}"), down, ALL).keys(rule(status("UP"))),
        row("json: empty", says(""), down, ALL).keys(rule(status("UP"))),
        row("json: deeper than is read", says(&"[".repeat(10_000)), down, ALL).keys(rule(status("UP"))),
        row("json: after a byte order mark", says("\u{feff}{\"status\":\"UP\"}"), "up", ALL).keys(rule(status("UP"))),
        row("json: a bad status counts first", Http(answer("503 Busy", "", b"{}")), "down status_unexpected", ALL)
            .keys(rule(status("UP"))),
    ]
}

/// What lies between the rules of RFC 9112 and what servers do.
pub(super) fn oddities() -> Vec<Row> {
    let chunked = |chunks: &str| said(&format!("{OK}Transfer-Encoding: chunked\r\n\r\n{chunks}"));
    let with = |headers: &str, body: &str| said(&format!("{OK}{headers}\r\n{body}"));
    let coded = |name: &str, body: &[u8]| Http(answer("200 OK", &format!("Content-Encoding: {name}\r\n"), body));
    let hello = || json!({ "expect": { "body_contains": "hello" } });
    let no_error = || json!({ "expect": { "body_not_contains": "error" } });
    let whole = crate::http::gzip(b"hello x");
    let truncated = "down body_truncated";
    vec![
        row("odd: a list of equal lengths", with("Content-Length: 2, 2\r\n", "ab"), "up", ALL),
        row("odd: a list of lengths", with("Content-Length: 2, 3\r\n", "abc"), PROTOCOL, ALL),
        row("odd: a length with a sign", with("Content-Length: +2\r\n", "ab"), PROTOCOL, ALL),
        row("odd: an empty length", with("Content-Length: \r\n", "ab"), PROTOCOL, ALL),
        row(
            "odd: chunks of HTTP/1.0",
            said("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
            PROTOCOL,
            ALL,
        ),
        row(
            "odd: a huge chunk extension",
            chunked(&format!("2;{}\r\nab\r\n0\r\n\r\n", "x".repeat(100_000))),
            PROTOCOL,
            ALL,
        ),
        row("odd: endless trailers", chunked(&format!("2\r\nab\r\n0\r\n{}", "a: b\r\n".repeat(50_000))), PROTOCOL, ALL),
        row("odd: a trailer without a colon", chunked("2\r\nab\r\n0\r\nfoo\r\n\r\n"), PROTOCOL, ALL),
        row("odd: no line after the last chunk", chunked("2\r\nab\r\n0\r\n"), truncated, ALL),
        row("odd: twenty thousand chunks", chunked(&format!("{}0\r\n\r\n", "1\r\na\r\n".repeat(20_000))), "up", ALL),
        row("odd: empty lines first", said(&format!("\r\n\r\n{OK}Content-Length: 0\r\n\r\n")), "up", ALL),
        row("odd: nothing but empty lines", said("\r\n\r\n\r\n"), "down connection_closed", ALL),
        row("odd: a folded line first", said(&format!("{OK} x: y\r\nContent-Length: 0\r\n\r\n")), PROTOCOL, ALL),
        row("odd: a radio station", said("ICY 200 OK\r\n\r\nabc"), PROTOCOL, ALL),
        row("odd: version 1.2", said("HTTP/1.2 200 OK\r\nContent-Length: 0\r\n\r\n"), PROTOCOL, ALL),
        row("odd: status 000", said("HTTP/1.1 000 X\r\nContent-Length: 0\r\n\r\n"), PROTOCOL, ALL),
        row("odd: two gzip members", coded("gzip", &[&whole[..], &whole].concat()), "up", ALL)
            .keys(json!({ "expect": { "body_contains": "xhello" } })),
        row("odd: bytes behind gzip", coded("x-gzip", &[&whole[..], b"abc"].concat()), "up", ALL).keys(hello()),
        row("odd: gzip twice", coded("gzip, gzip", &crate::http::gzip(&whole)), "down body_mismatch", ALL)
            .keys(hello()),
        row("odd: what must not be there cannot be read", coded("br", b"\x8b\x02\x80x\x03"), "down body_mismatch", ALL)
            .keys(no_error()),
        row("odd: text under a wrong label", coded("utf-8", b"hello"), "up", ALL).keys(no_error()),
    ]
}

/// RFC 9113, 7: the codes by which a server only gives up a request.
const GIVES_UP: [u32; 6] = [0, 2, 7, 8, 10, 11];
/// RFC 9113, 7: the codes by which it complains; 13, "use HTTP/1.1", is not among them, 99 is unheard of.
const COMPLAINS: [u32; 8] = [1, 3, 4, 5, 6, 9, 12, 99];

fn codes() -> Vec<Row> {
    let waited = "connect tls send wait";
    let begun = || head(0, STATUS_200);
    let mut rows = Vec::new();
    for (codes, early, late) in
        [(&GIVES_UP[..], "down connection_closed", "down body_truncated"), (&COMPLAINS[..], PROTOCOL, PROTOCOL)]
    {
        for code in codes {
            let resets = || Act::Send(reset_stream(*code));
            rows.extend([
                row(format!("h2: RST_STREAM {code}"), Http2("https", vec![resets(), Act::Hang]), early, waited),
                row(
                    format!("h2: RST_STREAM {code} in the body"),
                    Http2("https", vec![Act::Send([begun(), data(0, b"ab")].concat()), resets(), Act::Hang]),
                    late,
                    ALL_TLS,
                ),
                row(
                    format!("h2: GOAWAY {code}"),
                    Http2("https", vec![Act::Send(goaway(0, *code)), Act::Hang]),
                    early,
                    waited,
                ),
            ]);
        }
    }
    rows
}

pub(super) fn http2() -> Vec<Row> {
    let send = |frames: &[Vec<u8>]| Http2("https", vec![Act::Send(frames.concat())]);
    let ok = || head(0, STATUS_200);
    let waited = "connect tls send wait";
    let counted = |length: &str| head(0, &[STATUS_200.to_vec(), field("content-length", length)].concat());
    let mut rows = vec![
        row("h2: plain", send(&[ok(), data(END_STREAM, b"hi")]), "up", ALL_TLS),
        row("h2: 404", send(&[head(END_STREAM, &status(404))]), "down status_unexpected", ALL_TLS),
        row("h2: goes away after it", send(&[ok(), data(END_STREAM, b"hi"), goaway(1, 0)]), "up", ALL_TLS),
        row("h2: closed", Http2("https", vec![]), "down connection_closed", waited),
        row("h2: reset", Http2("https", vec![Act::Reset]), "down connection_reset", waited),
        row("h2: silent", Http2("https", vec![Act::Hang]), "down response_timeout", waited),
        row("h2: endless pings", Http2("https", vec![Act::Endless(ping())]), PROTOCOL, waited),
        row("h2: endless settings", Http2("https", vec![Act::Endless(settings())]), PROTOCOL, waited),
        row("h2: body given up", send(&[ok(), data(0, b"ab"), reset_stream(2)]), "down body_truncated", ALL_TLS),
        row("h2: body cut", send(&[ok(), data(0, b"ab")]), "down body_truncated", ALL_TLS),
        row(
            "h2: body stalls",
            Http2("https", vec![Act::Send([ok(), data(0, b"ab")].concat()), Act::Hang]),
            "down body_timeout",
            ALL_TLS,
        ),
        row("h2: a length that is too long", send(&[counted("3"), data(END_STREAM, b"hi")]), PROTOCOL, ALL_TLS),
        row("h2: a length that is too short", send(&[counted("1"), data(END_STREAM, b"hi")]), PROTOCOL, ALL_TLS),
        row("h2: some 103s", send(&[head(0, &status(103)).repeat(9), ok(), data(END_STREAM, b"x")]), "up", ALL_TLS),
        row(
            "h2: endless 103s",
            Http2("https", vec![Act::Endless(head(0, &status(103)).repeat(50))]),
            PROTOCOL,
            ALL_TLS,
        ),
        row(
            "h2: a 103 and silence",
            Http2("https", vec![Act::Send(head(0, &status(103))), Act::Hang]),
            "down response_timeout",
            ALL_TLS,
        ),
        row("h2: data before a head", send(&[data(END_STREAM, b"hi")]), PROTOCOL, waited),
        row("h2: a head without a status", send(&[head(END_STREAM, &field("x", "y"))]), PROTOCOL, ALL_TLS),
        row("h2: a head that ends too early", send(&[head(END_STREAM, &[0x40])]), PROTOCOL, ALL_TLS),
        row(
            "h2: wants HTTP/1.1",
            made(|_| async {
                let server = Http2Server::start(|turn| match turn {
                    0 => vec![Act::Send(reset_stream(13))],
                    _ => answer("200 OK", "", b"hi"),
                });
                let server = server.await;
                Made::at(server.url(), server).with("tls", json!({ "verify": false }))
            }),
            "up",
            ALL_TLS,
        ),
    ];
    rows.extend(codes());
    rows
}
