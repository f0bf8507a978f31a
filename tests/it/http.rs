//! The HTTP probe against servers that misbehave, byte by byte.

use std::io::Write as _;
use std::time::Duration;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use lamplighter::model::Failure::{self, *};
use lamplighter::model::Observation;
use serde_json::{Value, json};

use crate::support::nginx::Nginx;
use crate::support::probing::{MAX_BODY, check, phases};
use crate::support::servers::http::{Act, Request, Server, answer, closed_port, text};

mod bounds;
mod curl;
mod http2;
mod proxies;

/// Enough for what succeeds or fails by itself, also on a busy machine.
const LONG: Duration = Duration::from_secs(20);
/// For what can only end by the deadline.
const SHORT: Duration = Duration::from_secs(1);

const TO_SEND: &[&str] = &["connect", "send"];
const TO_WAIT: &[&str] = &["connect", "send", "wait"];
const TO_RECEIVE: &[&str] = &["connect", "send", "wait", "receive"];

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

fn redirect(status: &str, to: &str) -> Vec<Act> {
    answer(status, &format!("Location: {to}\r\n"), b"moved")
}

/// `/n` leads to `/n-1`, `/0` answers; the other paths are traps.
pub(crate) fn maze(request: &Request) -> Vec<Act> {
    match request.path() {
        "/0" => answer("200 OK", "", b"there"),
        "/loop" => redirect("302 Found", "/loop2"),
        "/loop2" => redirect("302 Found", "loop"),
        "/relative" => redirect("301 Moved", "?a=b"),
        "/relative?a=b" => redirect("301 Moved", "./0#frag"),
        "/nowhere" => answer("302 Found", "", b"no location"),
        "/ftp" => redirect("302 Found", "ftp://127.0.0.1/"),
        "/userinfo" => redirect("302 Found", "http://u:p@127.0.0.1/"),
        "/broken" => redirect("302 Found", "http://["),
        "/metadata" => redirect("302 Found", "http://169.254.169.254/latest/meta-data"),
        "/see" => redirect("303 See Other", "/0"),
        "/found" => redirect("302 Found", "/0"),
        "/again" => redirect("307 Temporary Redirect", "/0"),
        "/300" => redirect("300 Multiple Choices", "/0"),
        path => redirect("302 Found", &format!("/{}", path[1..].parse::<u32>().unwrap() - 1)),
    }
}

#[tokio::test]
async fn redirects_are_followed_counted_and_bounded() {
    let server = Server::start(maze).await;
    for (path, keys, status, redirects, fault) in [
        ("/3", json!({}), Some(200), 3, None),
        ("/10", json!({}), Some(200), 10, None),
        ("/11", json!({}), Some(302), 10, Some(RedirectLimit)),
        ("/1", json!({ "max_redirects": 0 }), Some(302), 0, Some(RedirectLimit)),
        ("/1", json!({ "follow_redirects": false }), Some(302), 0, None),
        ("/loop", json!({}), Some(302), 1, Some(RedirectLoop)),
        ("/relative", json!({}), Some(200), 2, None),
        ("/nowhere", json!({}), Some(302), 0, None),
        ("/300", json!({}), Some(300), 0, None),
        ("/ftp", json!({}), Some(302), 0, Some(RedirectBlocked)),
        ("/userinfo", json!({}), Some(302), 0, Some(RedirectBlocked)),
        ("/broken", json!({}), Some(302), 0, Some(HttpProtocol)),
        ("/metadata", json!({}), None, 0, Some(EgressBlocked)),
    ] {
        let seen = check(&monitor(&server.url(path), &keys), LONG).await;
        assert_eq!(seen.fault.as_ref().map(|fault| fault.failure), fault, "{path}: {:?}", seen.fault);
        assert_eq!(seen.http.as_ref().map(|http| http.status), status, "{path}");
        assert_eq!(seen.http.map_or(0, |http| http.redirects), redirects, "{path}");
    }
}

#[tokio::test]
async fn methods_and_bodies_through_redirects() {
    let server = Server::start(maze).await;
    for (path, line, body) in
        [("/see", "GET /0 HTTP/1.1", ""), ("/found", "GET /0 HTTP/1.1", ""), ("/again", "POST /0 HTTP/1.1", "data")]
    {
        let keys = json!({ "method": "POST", "body": "data", "headers": { "Content-Type": "text/plain" } });
        let seen = check(&monitor(&server.url(path), &keys), LONG).await;
        assert_eq!(seen.fault, None);
        let last = server.requests().pop().unwrap();
        assert_eq!((last.line.as_str(), &last.body[..]), (line, body.as_bytes()), "{path}");
        assert_eq!(last.header("content-type").is_some(), !body.is_empty(), "{path}");
    }
}

#[tokio::test]
async fn secrets_stay_with_their_origin() {
    let away = Server::start(|request| match request.path() {
        "/back" => redirect("302 Found", &format!("http://{}/last", request.header("x-home").unwrap_or("127.0.0.1:1"))),
        _ => answer("200 OK", "", b""),
    })
    .await;
    let target = away.url("/away");
    let home = Server::start(move |request| match request.path() {
        "/here" => redirect("302 Found", "/again"),
        "/again" => redirect("307 Temporary Redirect", &target),
        _ => answer("200 OK", "", b""),
    })
    .await;
    let keys = json!({ "headers": { "Cookie": "sid=1", "X-Api-Key": "k", "Host": "virtual", "Accept": "text/html" },
        "auth": { "bearer": "tok" } });
    let seen = check(&monitor(&home.url("/here"), &keys), LONG).await;
    assert_eq!((seen.fault, seen.http.map(|http| http.redirects)), (None, Some(2)));
    for request in home.requests() {
        assert_eq!(request.header("authorization"), Some("Bearer tok"));
        assert_eq!((request.header("cookie"), request.header("host")), (Some("sid=1"), Some("virtual")));
    }
    let stranger = away.requests().pop().unwrap();
    for name in ["authorization", "cookie", "x-api-key"] {
        assert_eq!(stranger.header(name), None, "{name}");
    }
    assert_eq!(stranger.header("host"), Some(away.address.to_string().as_str()));
    assert_eq!(stranger.header("accept"), Some("text/html"));
    assert_eq!(stranger.header("user-agent"), Some("lamplighter-test/1"));
}

#[tokio::test]
async fn https_and_the_way_down() {
    let plain = Server::start(|_| answer("200 OK", "", b"plain")).await;
    let target = plain.url("/");
    let secure = Server::start_tls(move |request| match request.path() {
        "/down" => redirect("302 Found", &target),
        _ => answer("200 OK", "", b"secure"),
    })
    .await;
    let url = |path: &str| format!("https://{}{path}", secure.address);
    let keys = json!({ "tls": { "verify": false } });
    let seen = check(&monitor(&url("/"), &keys), LONG).await;
    assert_eq!(seen.fault, None);
    assert_eq!(phases(&seen), ["connect", "tls", "send", "wait", "receive"]);
    assert_eq!(&seen.http.unwrap().body[..], b"secure");
    assert_eq!(seen.certificate.unwrap().chain_length, 1);

    let seen = check(&monitor(&url("/down"), &keys), LONG).await;
    assert_eq!(seen.fault.unwrap().failure, RedirectBlocked);
    let keys = json!({ "tls": { "verify": false }, "redirect_downgrade": true });
    let seen = check(&monitor(&url("/down"), &keys), LONG).await;
    assert_eq!((seen.fault, seen.certificate), (None, None));
    assert_eq!(&seen.http.unwrap().body[..], b"plain");

    let seen = check(&monitor(&url("/"), &json!({})), LONG).await;
    assert_eq!(seen.fault.clone().unwrap().failure, CertUntrusted);
    assert!(seen.certificate.is_some());
    assert_eq!(phases(&seen), ["connect", "tls"]);
    let seen = check(&json!({ "url": format!("http://{}/", secure.address) }), LONG).await;
    let fault = seen.fault.unwrap();
    assert_eq!(fault.failure, HttpProtocol);
    assert!(fault.message.contains("speaks TLS"), "{}", fault.message);
    let plain = Server::at_accept(answer("400 Bad Request", "", b"")).await;
    let seen = check(&json!({ "url": format!("https://{}/", plain.address) }), LONG).await;
    assert_eq!(seen.fault.unwrap().failure, TlsHandshake);
}

#[tokio::test]
async fn tls_that_ends_badly() {
    let keys = json!({ "tls": { "verify": false } });
    let ask = async |server: &Server| check(&monitor(&format!("https://{}/", server.address), &keys), LONG).await;
    // TLS 1.3 lets a client send before the server has looked for its certificate.
    let seen = ask(&Server::start_tls_for_members(|_| answer("200 OK", "", b"")).await).await;
    assert_eq!(seen.fault.clone().unwrap().failure, TlsHandshake, "{:?}", seen.fault);
    // RFC 9112, 9.8: without a length, only close_notify says that a body is whole.
    let seen = ask(&Server::start_tls(|_| vec![text("HTTP/1.1 200 OK\r\n\r\nabc"), Act::Reset]).await).await;
    assert_eq!(seen.fault.unwrap().failure, BodyTruncated);
    let seen = ask(&Server::start_tls(|_| vec![text("HTTP/1.1 200 OK\r\n\r\nabc")]).await).await;
    assert_eq!((seen.fault, &seen.http.unwrap().body[..]), (None, &b"abc"[..]));
}

#[tokio::test]
async fn a_real_server() {
    let nginx = Nginx::start().await;
    let gzip = json!({ "headers": { "Accept-Encoding": "gzip" }, "expect": { "body_contains": "x" } });
    let keep = json!({ "headers": { "Connection": "keep-alive" } });
    for (path, keys, status, redirects, fault) in [
        ("/page", json!({}), Some(200), 0, None),
        ("/page", gzip, Some(200), 0, None),
        ("/page", keep, Some(200), 0, None),
        ("/page", json!({ "method": "HEAD" }), Some(200), 0, None),
        ("/missing", json!({}), Some(404), 0, None),
        ("/folder", json!({}), Some(403), 1, None),
        ("/large", json!({}), Some(200), 0, None),
        ("/large", reading(), Some(200), 0, Some(BodyTooLarge)),
        ("/silent", json!({}), None, 0, Some(ConnectionClosed)),
        ("/turn", json!({}), Some(301), 1, Some(RedirectLoop)),
        ("/page", json!({ "method": "POST", "body": "a=b" }), Some(405), 0, None),
    ] {
        let seen = check(&monitor(&nginx.url(path), &keys), LONG).await;
        assert_eq!(seen.fault.as_ref().map(|fault| fault.failure), fault, "{path} {keys}: {:?}", seen.fault);
        assert_eq!(seen.http.as_ref().map(|http| http.status), status, "{path} {keys}");
        assert_eq!(seen.http.as_ref().map_or(0, |http| http.redirects), redirects, "{path} {keys}");
        if keys["headers"]["Accept-Encoding"] == "gzip" {
            let http = seen.http.unwrap();
            assert_eq!(&http.body[..], "x".repeat(20_000).as_bytes());
            assert!(http.body_bytes < 1000, "it was compressed");
        }
    }
    let seen = check(&json!({ "url": nginx.url("/slow") }), SHORT).await;
    assert_eq!(seen.fault.unwrap().failure, BodyTimeout);
}

#[tokio::test]
async fn a_real_server_and_the_keys_about_trust() {
    let nginx = Nginx::start().await;
    let path = |name: &str| nginx.folder.path().join(name);
    let client = json!({ "verify": false, "client_certificate": path("client.pem"), "client_key": path("client.key") });
    let ask = async |address: std::net::SocketAddr, keys: Value| {
        check(&monitor(&format!("https://{address}/"), &keys), LONG).await
    };
    let body = |seen: &Observation| String::from_utf8(seen.http.as_ref().unwrap().body.to_vec()).unwrap();

    let seen = ask(nginx.members, json!({ "tls": client, "auth": { "bearer": "tok" } })).await;
    assert_eq!((seen.fault.clone(), body(&seen).as_str()), (None, "CN=lamp Bearer tok"));
    let seen = ask(nginx.members, json!({ "tls": { "verify": false } })).await;
    // nginx completes the handshake, and then refuses the request.
    assert_eq!(seen.http.map(|http| http.status), Some(400));

    for (minimum, wanted) in [("1.2", None), ("1.3", Some(TlsVersion))] {
        let seen = ask(nginx.old, json!({ "tls": { "verify": false, "min_version": minimum } })).await;
        assert_eq!(seen.fault.as_ref().map(|fault| fault.failure), wanted, "{minimum}");
        assert!(wanted.is_some() || body(&seen) == "TLSv1.2");
    }
    let seen = ask(nginx.old, json!({ "ip_version": 6 })).await;
    assert_eq!(seen.fault.unwrap().failure, DnsNoRecords);
}
