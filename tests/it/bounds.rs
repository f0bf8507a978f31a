//! What servers without measure cost, of every kind but http (which has its own): memory of the real program against
//! that of a plain check of the same kind, and the time, which is the deadline's.

use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};
use sha1::{Digest as _, Sha1};
use tokio::io::AsyncReadExt as _;

use crate::support::cost::{self, MOST_KIB};
use crate::support::servers::http::{Act, Request, Server, answer, text};
use crate::support::servers::http2::{
    self, CONTINUATION, HEADERS, STATUS_200, data, field, frame, head, ping, settings,
};
use crate::support::servers::tls::{Identity, RawServer, TlsServer, config, leaf_params, self_signed};

const TIMEOUT: Duration = Duration::from_secs(2);
/// Programs at a time: there is a process for each, whose memory no other changes.
const AT_ONCE: usize = 4;

/// Anything that listens, and ends with this.
type Alive = Box<dyn std::any::Any + Send>;

struct Case {
    name: &'static str,
    monitor: Value,
    /// What it is called; several where how far the server gets is a matter of time.
    wanted: &'static [&'static str],
    /// The plain check that it is held against.
    plain: usize,
    _server: Alive,
}

/// Cases and the plain checks of their kinds.
#[derive(Default)]
struct Cases {
    plain: Vec<(Value, Alive)>,
    cases: Vec<Case>,
}

const MISMATCH: &[&str] = &["exchange_mismatch"];
const LATE: &[&str] = &["response_timeout"];

impl Cases {
    /// The next cases are of the kind of this check.
    fn plain(&mut self, monitor: Value, server: impl Send + 'static) {
        self.plain.push((monitor, Box::new(server)));
    }

    fn add(
        &mut self,
        name: &'static str,
        monitor: Value,
        server: impl Send + 'static,
        wanted: &'static [&'static str],
    ) {
        let plain = self.plain.len() - 1;
        self.cases.push(Case { name, monitor, wanted, plain, _server: Box::new(server) });
    }

    /// Servers that speak at once; `to` makes the monitor.
    async fn speak(
        &mut self,
        to: impl Fn(SocketAddr) -> Value,
        cases: Vec<(&'static str, Vec<Act>, &'static [&'static str])>,
    ) {
        for (name, acts, wanted) in cases {
            let server = Server::at_accept(acts).await;
            self.add(name, to(server.address), server, wanted);
        }
    }

    async fn hold(self) {
        let base = |(monitor, _): &(Value, Alive)| {
            let monitor = monitor.clone();
            async move {
                let (first, second) = (cost::of(&monitor, TIMEOUT).await, cost::of(&monitor, TIMEOUT).await);
                first.1.max(second.1)
            }
        };
        let bases: Vec<u64> = stream::iter(&self.plain).map(base).buffered(AT_ONCE).collect().await;
        let run = |case: &Case| {
            let (name, monitor, wanted, base) = (case.name, case.monitor.clone(), case.wanted, bases[case.plain]);
            async move {
                let (check, mut peak) = cost::of(&monitor, TIMEOUT).await;
                if peak >= base + MOST_KIB {
                    // Which pages of the program are in memory is a matter of chance as well; what it needs it needs again.
                    peak = peak.min(cost::of(&monitor, TIMEOUT).await.1);
                }
                let failure = check["failure"].as_str().unwrap_or_default();
                println!("{name}: {} KiB over {base} KiB, {failure}", peak.saturating_sub(base));
                let named = wanted.contains(&failure);
                let small = peak < base + MOST_KIB;
                (!named || !small)
                    .then(|| format!("{name}: {peak} KiB, a plain check has {base} KiB; {wanted:?}: {check}"))
            }
        };
        let wrong: Vec<Option<String>> = stream::iter(&self.cases).map(run).buffered(AT_ONCE).collect().await;
        let wrong: Vec<String> = wrong.into_iter().flatten().collect();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}

fn endless(head: &[u8], piece: impl Into<Vec<u8>>) -> Vec<Act> {
    vec![Act::Send(head.to_vec()), Act::Endless(piece.into())]
}

fn hung(head: &[u8]) -> Vec<Act> {
    vec![Act::Send(head.to_vec()), Act::Hang]
}

/// A leaf, and after it certificates of somebody else until it is a mebibyte.
fn mebibyte_chain() -> Identity {
    let mut identity = self_signed(&leaf_params(&["127.0.0.1"]));
    let padding = self_signed(&leaf_params(&["padding.test"]));
    let (one, length) = (padding.chain[0].clone(), padding.chain[0].len());
    identity.chain.extend(std::iter::repeat_n(one, (1 << 20) / length));
    identity
}

async fn tls(cases: &mut Cases) {
    let good = TlsServer::start(config(&self_signed(&leaf_params(&["127.0.0.1"])), rustls::ALL_VERSIONS, None)).await;
    let lax = |scheme: &str, address: SocketAddr| json!({ "url": format!("{scheme}://{address}"), "tls": { "verify": false } });
    cases.plain(lax("tls", good.address), good);
    for scheme in ["tls", "https", "rediss", "grpcs", "wss"] {
        let server = TlsServer::start(config(&mebibyte_chain(), rustls::ALL_VERSIONS, None)).await;
        cases.add("chain of 1 MiB", lax(scheme, server.address), server, &["tls_handshake", "cert_invalid"]);
    }
    // A record that promises 16 KiB of a ServerHello, a byte at a time.
    let stalled = [&[0x16, 3, 3, 0x40, 0, 2, 0, 0x3f, 0xfc][..], &[0; 500]].concat();
    let ccs = [0x14, 3, 3, 0, 1, 1].repeat(600);
    let warning = [0x15, 3, 3, 0, 2, 1, 90].repeat(600);
    let hello_request = [0x16, 3, 3, 0, 4, 0, 0, 0, 0].repeat(400);
    let half = [&[0x16, 3, 3, 0x40, 0, 2, 0xff, 0xff, 0xff][..], &[0; 16_381]].concat();
    let broken: &[&str] = &["tls_handshake"];
    let rows = vec![
        ("silent TLS", vec![Act::Hang], &["tls_timeout"][..]),
        ("stalled TLS", vec![Act::Drip(stalled, Duration::from_millis(20)), Act::Hang], &["tls_timeout"]),
        ("TLS, change_cipher_spec", endless(b"", ccs), broken),
        ("TLS, warnings", endless(b"", warning), broken),
        ("TLS, hello requests", endless(b"", hello_request), broken),
        (
            "TLS, one hello of 16 MiB",
            endless(&half, half[..5].iter().copied().chain([0; 16_384]).collect::<Vec<_>>()),
            broken,
        ),
    ];
    cases.speak(|address| lax("tls", address), rows).await;
}

/// A server of WebSocket that shakes hands and then acts.
async fn socket(acts: Vec<Act>) -> Server {
    Server::start(move |request: &Request| {
        let key = request.header("sec-websocket-key").unwrap();
        let accept = BASE64.encode(Sha1::digest(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11")));
        let head = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        [vec![text(&head)], acts.clone()].concat()
    })
    .await
}

async fn websocket(cases: &mut Cases) {
    let to = |address: SocketAddr| json!({ "url": format!("ws://{address}/"), "exchange": [{ "expect": "never" }] });
    let plain = socket(vec![Act::Send(vec![0x88, 0])]).await;
    cases.plain(to(plain.address), plain);
    let huge = [&[0x82, 127][..], &(1_u64 << 62).to_be_bytes()].concat();
    for (name, acts, wanted) in [
        ("ws, texts", endless(b"", b"\x81\x04nope".repeat(700)), MISMATCH),
        ("ws, empty texts", endless(b"", b"\x81\x00".repeat(2000)), &["exchange_mismatch", "response_timeout"]),
        ("ws, parts", endless(b"\x01\x01x", b"\x00\x01x".repeat(1300)), &["exchange_mismatch", "response_timeout"]),
        ("ws, one huge frame", endless(&huge, vec![b'x'; 65_536]), &["exchange_mismatch", "response_timeout"]),
        ("ws, one huge header", hung(&huge), LATE),
        ("ws, pings", endless(b"", b"\x89\x04ping".repeat(700)), &["exchange_mismatch", "response_timeout"]),
        ("ws, large texts", endless(b"", [&[0x81, 126, 0xff, 0xff][..], &[b'x'; 65_535]].concat()), MISMATCH),
    ] {
        let server = socket(acts).await;
        cases.add(name, to(server.address), server, wanted);
    }
}

/// A name server by TCP that answers with `rest` behind the identity of the question and the flags of an answer.
async fn name_server(counts: [u16; 4], rest: Vec<u8>) -> RawServer {
    RawServer::start(move |mut stream| {
        let rest = rest.clone();
        async move {
            use tokio::io::AsyncWriteExt as _;
            let mut question = vec![0; usize::from(stream.read_u16().await.unwrap_or_default())];
            if stream.read_exact(&mut question).await.is_err() {
                return;
            }
            let counts = counts.map(u16::to_be_bytes).concat();
            // Of the question only the question: without its EDNS record of 11 octets.
            let asked = &question[12..question.len() - 11];
            let message = [&question[..2], &[0x81, 0x80], &counts, asked, &rest].concat();
            let _ = stream.write_u16(u16::try_from(message.len()).unwrap()).await;
            let _ = stream.write_all(&message).await;
        }
    })
    .await
}

async fn dns(cases: &mut Cases) {
    let to = |address: SocketAddr, record: &str| json!({ "url": "dns:shop.example", "resolver": format!("tcp://{address}"), "record": record });
    let a = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 192, 0, 2, 1];
    let plain = name_server([1, 1, 0, 0], a.to_vec()).await;
    cases.plain(to(plain.address, "A"), plain);
    // What is read behind a head and a question of 30 octets.
    const ROOM: usize = 32_700;
    let filled = |record: &[u8], room: usize| {
        let number = room / record.len();
        (u16::try_from(number).unwrap(), record.repeat(number))
    };
    // The longest of names, once; every record after it names it twice in four octets.
    let label = [&[63][..], &[b'x'; 63]].concat();
    let long = [&label.repeat(3)[..], &[61], &[b'x'; 61], &[0]].concat();
    let first = [&long[..], &[0, 5, 0, 1, 0, 0, 0, 9, 0, 2, 0xc0, 30]].concat();
    let (links, chain) = filled(&[0xc0, 30, 0, 5, 0, 1, 0, 0, 0, 9, 0, 2, 0xc0, 30], ROOM - first.len());
    let (alone, roots) = filled(&[0, 0, 1, 0, 1, 0, 0, 0, 9, 0, 0], ROOM);
    let (options, padding) = (ROOM - 11, |piece: &[u8]| piece.repeat((ROOM - 11) / piece.len()));
    let texts =
        [&[0xc0, 12, 0, 16, 0, 1, 0, 0, 0, 9][..], &u16::try_from(options).unwrap().to_be_bytes(), &vec![0; options]]
            .concat();
    let edns = padding(&[0xff, 0, 0, 0]);
    let edns =
        [&[0, 0, 41, 4, 0xd0, 0, 0, 0, 0][..], &u16::try_from(edns.len()).unwrap().to_be_bytes(), &edns].concat();
    let error: &[&str] = &["dns_error", "dns_no_records", "dns_answer_mismatch"];
    for (name, counts, rest, record, wanted) in [
        ("dns, CNAMEs", [1, links + 1, 0, 0], [first, chain].concat(), "A", error),
        ("dns, empty records", [1, alone, 0, 0], roots.clone(), "A", error),
        ("dns, 65535 records", [1, 0xffff, 0xffff, 0xffff], roots, "A", error),
        ("dns, texts", [1, 1, 0, 0], texts, "TXT", &[""][..]),
        ("dns, options", [1, 0, 0, 1], edns, "A", error),
        ("dns, a long answer", [1, 1, 0, 0], vec![0; 65_000], "A", &["dns_error"]),
    ] {
        let server = name_server(counts, rest).await;
        cases.add(name, to(server.address, record), server, wanted);
    }
}

async fn greetings(cases: &mut Cases) {
    for (scheme, greeting) in
        [("smtp", "220-x\r\n"), ("ftp", "220-x\r\n"), ("imap", "* x\r\n"), ("pop3", "+x\r\n"), ("xmpp", "<a>")]
    {
        let to = |address: SocketAddr| json!({ "url": format!("starttls+{scheme}://{address}") });
        let plain = Server::at_accept(vec![text("no\r\n")]).await;
        cases.plain(to(plain.address), plain);
        let rows = vec![
            ("starttls, endless lines", endless(b"", greeting.as_bytes().repeat(500)), MISMATCH),
            ("starttls, an endless line", endless(b"", vec![b'2'; 4096]), MISMATCH),
        ];
        cases.speak(to, rows).await;
    }
    let to = |address: SocketAddr| json!({ "url": format!("ssh://{address}"), "host_key": ["SHA256:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"] });
    let plain = Server::at_accept(vec![text("SSH-2.0-x\r\n")]).await;
    cases.plain(to(plain.address), plain);
    let rows = vec![
        ("ssh, endless lines", endless(b"", b"welcome\r\n".repeat(400)), MISMATCH),
        ("ssh, an endless line", endless(b"SSH-2.0-", vec![b'x'; 4096]), MISMATCH),
        ("ssh, a huge packet", endless(b"SSH-2.0-x\r\n\xff\xff\xff\xff\x04", vec![20; 4096]), MISMATCH),
        ("ssh, a long packet", endless(b"SSH-2.0-x\r\n\x00\x00\x80\x00\x04", vec![20; 4096]), MISMATCH),
        // SSH_MSG_IGNORE, with four bytes of padding.
        (
            "ssh, ignored packets",
            endless(b"SSH-2.0-x\r\n", b"\0\0\0\x0c\x06\x02\0\0\0\0\0\0\0\0\0\0".repeat(250)),
            MISMATCH,
        ),
    ];
    cases.speak(to, rows).await;
}

/// A name, the head of a frame, and what follows without end.
type Announced = (&'static str, &'static [u8], Vec<u8>);

async fn logins(cases: &mut Cases) {
    let pile = vec![b'x'; 65_536];
    // Heads of frames and lengths as large as each protocol can say.
    let mongodb = [&0x7fff_ffff_u32.to_le_bytes()[..], &[1, 0, 0, 0], &[0; 4], &2013_u32.to_le_bytes()].concat();
    let rows: [(&str, Vec<Announced>); 6] = [
        (
            "mysql",
            vec![
                ("mysql, 16 MB", b"\xff\xff\xff\0\x0a", pile.clone()),
                ("mysql, errors", b"", b"\x01\0\0\0\x0a".repeat(800)),
            ],
        ),
        (
            "postgres",
            vec![
                ("postgres, 2 GB", b"R\x7f\xff\xff\xff", pile.clone()),
                ("postgres, notices", b"", b"N\0\0\0\x05\0".repeat(600)),
            ],
        ),
        (
            "redis",
            vec![
                ("redis, 512 MB", b"$536870912\r\n", pile.clone()),
                ("redis, arrays", b"*2147483647\r\n", b"*1\r\n".repeat(900)),
            ],
        ),
        (
            "mongodb",
            vec![
                ("mongodb, 2 GB", mongodb.leak(), pile.clone()),
                ("mongodb, small", b"", 21_u32.to_le_bytes().repeat(900)),
            ],
        ),
        (
            "amqp",
            vec![
                ("amqp, 4 GB", b"\x01\0\0\xff\xff\xff\xff", pile.clone()),
                ("amqp, heartbeats", b"", b"\x08\0\0\0\0\0\0\xce".repeat(500)),
            ],
        ),
        ("mqtt", vec![("mqtt, 256 MB", b"\x20\xff\xff\xff\x7f", pile), ("mqtt, pongs", b"", b"\xd0\0".repeat(2000))]),
    ];
    for (scheme, rows) in rows {
        let to = |address: SocketAddr| json!({ "url": format!("{scheme}://user@{address}"), "auth": { "basic": { "password": "pass-word" } } });
        let plain = Server::at_accept(vec![text("no such thing here\r\n")]).await;
        cases.plain(to(plain.address), plain);
        let rows = rows.into_iter().map(|(name, head, piece)| (name, endless(head, piece), MISMATCH)).collect();
        cases.speak(to, rows).await;
    }
}

async fn registries(cases: &mut Cases) {
    let to = |server: &Server| json!({ "url": "domain:shop.example", "rdap": server.url("/") });
    let plain = Server::start(|_| answer("200 OK", "", b"{\"objectClassName\":\"domain\"}")).await;
    cases.plain(to(&plain), plain);
    let ok = "HTTP/1.1 200 OK\r\n";
    let body = |piece: &str, length: usize| {
        answer("200 OK", "", format!("[{}0]", piece.repeat(length / piece.len())).as_bytes())
    };
    for (name, acts) in [
        ("rdap, endless body", endless(format!("{ok}\r\n").as_bytes(), vec![b' '; 65_536])),
        ("rdap, endless head", endless(ok.as_bytes(), b"X: y\r\n".repeat(700))),
        ("rdap, 103s", endless(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n".repeat(100))),
        ("rdap, a long list", body("0,", 130_000)),
        ("rdap, many objects", body("{\"a\":0},", 130_000)),
        ("rdap, fewer objects", body("{\"a\":0},", 4000)),
        ("rdap, all that is read", body(&["{\"a\":0},".repeat(500), "\"ab\",".repeat(3400)].concat(), 21_000)),
        ("rdap, deep", answer("200 OK", "", "[".repeat(130_000).as_bytes())),
    ] {
        let server = Server::start(move |_| acts.clone()).await;
        cases.add(name, to(&server), server, &["query_failed"]);
    }
}

async fn calls(cases: &mut Cases) {
    let to = |address: SocketAddr| json!({ "url": format!("grpc://{address}") });
    let plain = Server::at_accept(hung(&[settings(), head(1, STATUS_200)].concat())).await;
    cases.plain(to(plain.address), plain);
    let kind = http2::field("content-type", "application/grpc");
    let ok = [settings(), head(0, &[STATUS_200, &kind].concat())].concat();
    // How far a flood gets by the deadline is a matter of the machine.
    let protocol: &[&str] = &["http_protocol", "response_timeout", "body_timeout"];
    let begun = [settings(), frame(HEADERS, 0, 1, STATUS_200)].concat();
    let rows = vec![
        ("grpc, SETTINGS", endless(b"", settings().repeat(450)), protocol),
        ("grpc, PING", endless(&settings(), ping().repeat(240)), protocol),
        ("grpc, CONTINUATION", endless(&begun, frame(CONTINUATION, 0, 1, &field("a", "b"))), protocol),
        ("grpc, empty DATA", endless(&ok, data(0, b"").repeat(450)), protocol),
        ("grpc, DATA", endless(&ok, data(0, &[0; 16_000])), &["http_protocol", "body_too_large"]),
        ("grpc, PING in an answer", endless(&ok, ping().repeat(240)), protocol),
        ("grpc, no frames", endless(&settings(), frame(0xfa, 0, 0, b"grease").repeat(270)), protocol),
        ("grpc, a long frame", endless(&settings(), frame(0xfa, 0, 0, &[0; 16_384])), protocol),
    ];
    cases.speak(to, rows).await;
}

#[tokio::test]
async fn no_server_of_any_kind_costs_a_mebibyte() {
    let turn = crate::support::alone().await;
    let mut cases = Cases::default();
    tls(&mut cases).await;
    websocket(&mut cases).await;
    dns(&mut cases).await;
    greetings(&mut cases).await;
    logins(&mut cases).await;
    registries(&mut cases).await;
    calls(&mut cases).await;
    cases.hold().await;
    drop(turn);
}
