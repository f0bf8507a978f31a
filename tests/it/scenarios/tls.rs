//! TLS: chains, alerts, versions and keys, and ports that speak something else.

use serde_json::json;

use super::staging::Serves::{AtAccept, Https, Nobody, Presents};
use super::staging::{Made, Room, Row, Serves, made, row};
use crate::support::servers::http::{Act, Server, answer, text};
use crate::support::servers::openssl::OpenSsl;
use crate::support::servers::tls::{Authority, RawServer, TlsServer, config, leaf_params, self_signed};

const SHAKEN: &str = "connect tls";
const NAMED: &str = "dns connect tls";
const NO_TLS: &str = "down tls_handshake";

fn wanted(failure: Option<&'static str>) -> &'static str {
    match failure {
        None => "up",
        // A wanted outcome is one text; leaked, because a table of names is small.
        Some(name) => format!("down {name}").leak(),
    }
}

/// Every chain of `crate::tls`, and what hangs on names and time.
pub(super) fn chains(room: &Room) -> Vec<Row> {
    let root = &room.root;
    let mut rows: Vec<Row> = crate::tls::chains(root)
        .into_iter()
        .map(|(name, identity, failure, _)| {
            row(
                format!("chain: {name}"),
                Presents(identity.into()),
                wanted(failure.map(|failure| failure.name())),
                NAMED,
            )
        })
        .collect();
    let names = |names: &[&str]| Presents(root.issue(&leaf_params(names)).into());
    let good = || names(&["shop.test"]);
    let mut hundred = root.issue(&leaf_params(&["shop.test"]));
    hundred.chain.extend(std::iter::repeat_n(Authority::root("Stranger").der(), 99));
    let mut megabyte = root.issue(&leaf_params(&["shop.test"]));
    let one = megabyte.chain[0].clone();
    megabyte.chain.extend(std::iter::repeat_n(one.clone(), (1 << 20) / one.len()));
    let left = |days: u32| json!({ "expect": { "certificate_days_left": days } });
    rows.extend([
        row("chain: another host", names(&["x.test"]), "down cert_hostname_mismatch", NAMED),
        row("chain: one of two hosts", names(&["x.test", "shop.test"]), "up", NAMED),
        row("chain: the host below", names(&["*.shop.test"]), "down cert_hostname_mismatch", NAMED),
        row("chain: no host", names(&[]), "down cert_hostname_mismatch", NAMED),
        row("chain: an address", names(&["127.0.0.1"]), "down cert_hostname_mismatch", NAMED),
        row("chain: another host, not verified", names(&["x.test"]), "up", NAMED)
            .keys(json!({ "tls": { "verify": false } })),
        row("chain: ends soon enough", good(), "degraded cert_expiring", NAMED).keys(left(36_500)),
        row("chain: ends late enough", good(), "up", NAMED).keys(left(30)),
        row("chain: a hundred certificates", Presents(hundred.into()), "up", NAMED),
        row("chain: a megabyte", Presents(megabyte.into()), NO_TLS, NAMED),
        row(
            "chain: with the key of another",
            Presents(
                root.issue(&leaf_params(&["shop.test"])).with_key_of(self_signed(&leaf_params(&["shop.test"]))).into(),
            ),
            "down cert_invalid",
            NAMED,
        ),
    ]);
    rows
}

/// Every alert of RFC 8446, 6, those of older versions, and one unheard of; in place of the server's first message.
pub(super) fn alerts() -> Vec<Row> {
    let alert = |code: u8| AtAccept("tls", vec![Act::Send(vec![0x15, 3, 3, 0, 2, 2, code]), Act::Hang]);
    let codes = [
        10, 20, 21, 22, 30, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51, 60, 71, 80, 86, 100, 109, 110, 111, 112,
        113, 114, 115, 116, 120, 200,
    ];
    let mut rows: Vec<Row> =
        codes.iter().map(|code| row(format!("tls: alert {code}"), alert(*code), NO_TLS, SHAKEN)).collect();
    rows.push(row("tls: alert 70, version", alert(70), "down tls_version", SHAKEN));
    // The end (RFC 8446, 6.1), with and without one of the connection.
    let end = Act::Send(vec![0x15, 3, 3, 0, 2, 1, 0]);
    rows.push(row("tls: says goodbye and closes", AtAccept("tls", vec![end.clone()]), NO_TLS, SHAKEN));
    rows.push(row("tls: says goodbye and stays", AtAccept("tls", vec![end, Act::Hang]), "down tls_timeout", SHAKEN));
    rows
}

/// `openssl s_server`, with these arguments and this certificate.
fn openssl(certificate: &'static str, arguments: &'static [&str]) -> Serves {
    made(move |room| async move {
        let (files, net) = room.old().await;
        let server = OpenSsl::start(files, certificate, arguments).await;
        let url = format!("tls://shop.test:{}", server.port);
        Made::at(url, server).with("ip_version", 4).through(net.clone())
    })
}

/// A server that asks for a client's certificate, over these versions.
fn members_only(versions: &'static [&'static rustls::SupportedProtocolVersion]) -> Serves {
    made(move |room| async move {
        let server = TlsServer::start(config(&room.own(), versions, Some(&room.root))).await;
        Made::at(format!("tls://{}", server.address), server).through(room.trusting().await)
    })
}

fn raw(acts: &'static [&'static [u8]], then: fn(&tokio::net::TcpStream)) -> Serves {
    made(move |_| async move {
        let server = RawServer::start(move |mut stream| async move {
            use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
            let _ = stream.read(&mut [0; 16]).await;
            for bytes in acts {
                let _ = stream.write_all(bytes).await;
            }
            then(&stream);
        })
        .await;
        Made::at(format!("tls://{}", server.address), server)
    })
}

pub(super) fn handshakes() -> Vec<Row> {
    let lax = || json!({ "tls": { "verify": false } });
    let least = |version: &str| json!({ "tls": { "min_version": version } });
    let version = "down tls_version";
    let invalid = "down cert_invalid";
    let tls = |acts| AtAccept("tls", acts);
    let resets = |stream: &tokio::net::TcpStream| {
        socket2::SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    };
    vec![
        row("tls: refused", Nobody("tls"), "down connect_refused", "connect"),
        row("tls: stalls", tls(vec![Act::Hang]), "down tls_timeout", SHAKEN),
        row(
            "tls: stalls within a record",
            tls(vec![Act::Send(vec![0x16, 3, 3, 0, 100, 2]), Act::Hang]),
            "down tls_timeout",
            SHAKEN,
        ),
        row("tls: closes", tls(vec![]), NO_TLS, SHAKEN),
        row("tls: closes within a record", tls(vec![Act::Send(vec![0x16, 3, 3, 0, 100, 2])]), NO_TLS, SHAKEN),
        row("tls: resets", raw(&[], resets), "down connection_reset", SHAKEN),
        row("tls: a mail server", tls(vec![text("220 mail\r\n"), Act::Hang]), NO_TLS, SHAKEN),
        row("tls: an ssh server", tls(vec![text("SSH-2.0-OpenSSH_9.2\r\n"), Act::Hang]), NO_TLS, SHAKEN),
        row("tls: endless messages", tls(vec![Act::Endless(record(&[0x0b, 0xff, 0xff, 0xff]))]), NO_TLS, SHAKEN),
        row("tls: of SSL 2", tls(vec![Act::Send(vec![0x80, 0x2e, 4, 0, 1, 0, 2]), Act::Hang]), NO_TLS, SHAKEN),
        row("tls: 1.0", raw(HELLO_OF_1_0, |_| {}), version, SHAKEN),
        row("tls: 1.1", openssl("rsa2048", &["-tls1_1"]), version, NAMED),
        row("tls: 1.2", openssl("rsa2048", &["-tls1_2"]), "up", NAMED),
        row("tls: 1.3", openssl("rsa2048", &["-tls1_3"]), "up", NAMED),
        row("tls: 1.2, and 1.3 is wanted", openssl("rsa2048", &["-tls1_2"]), version, NAMED).keys(least("1.3")),
        row("tls: no cipher in common", openssl("rsa2048", &["-tls1_2", "-cipher", "AES128-SHA"]), NO_TLS, NAMED),
        row(
            "tls: no certificate for the name",
            openssl(
                "rsa2048",
                &[
                    "-servername",
                    "elsewhere.test",
                    "-servername_fatal",
                    "-cert2",
                    "rsa2048.pem",
                    "-key2",
                    "rsa2048.key",
                ],
            ),
            NO_TLS,
            NAMED,
        ),
        row("key: RSA of 1024 bits", openssl("rsa1024", &[]), invalid, NAMED),
        row("key: RSA of 1024 bits, not verified", openssl("rsa1024", &[]), invalid, NAMED).keys(lax()),
        row("key: of the issuer has 1024 bits", openssl("under1024", &[]), invalid, NAMED),
        row("signature: SHA-1", openssl("sha1", &[]), invalid, NAMED),
        row("signature: SHA-1, not verified", openssl("sha1", &[]), "up", NAMED).keys(lax()),
        row("tls: 1.2, wants a client certificate", members_only(ONLY_1_2), NO_TLS, SHAKEN),
        row("tls: 1.3, wants a client certificate", members_only(ONLY_1_3), NO_TLS, SHAKEN),
    ]
}

/// A record of TLS that is full, of a message that begins like this.
fn record(message: &[u8]) -> Vec<u8> {
    let mut record = [&[0x16, 3, 3, 0x40, 0], message].concat();
    record.resize(5 + 0x4000, 0);
    record
}

/// What a server of another age answers (RFC 2246, 7.4.1.3): its random bytes are zeros.
const HELLO_OF_1_0: &[&[u8]] = &[&[0x16, 3, 1, 0, 42, 2, 0, 0, 38, 3, 1], &[0; 32], &[0, 0, 0x2f, 0]];

static ONLY_1_2: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS12];
static ONLY_1_3: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// TLS where a plain port is meant, and the reverse.
pub(super) fn ports() -> Vec<Row> {
    let page = || answer("400 Bad Request", "", b"");
    let mut rows: Vec<Row> = ["tls", "https", "wss", "grpcs", "rediss", "mqtts", "amqps"]
        .into_iter()
        .map(|scheme| row(format!("{scheme}: a port of plain HTTP"), AtAccept(scheme, page()), NO_TLS, SHAKEN))
        .collect();
    let mismatch = "down exchange_mismatch";
    let all = "connect send wait receive";
    let protocol = "down http_protocol";
    for (scheme, outcome, phases) in [
        ("http", protocol, all),
        ("ws", protocol, all),
        // What has no frame in it has not begun to answer.
        ("grpc", protocol, "connect send wait"),
        ("redis", mismatch, all),
        ("mqtt", mismatch, all),
        ("amqp", mismatch, all),
        // Both wait for the other to begin.
        ("starttls+smtp", "down response_timeout", "connect wait"),
    ] {
        rows.push(row(format!("{scheme}: a port of TLS"), Https(scheme, page()), outcome, phases));
    }
    rows.extend([
        row("tcp: a port of TLS", Https("tcp", page()), mismatch, "connect send wait receive")
            .keys(json!({ "exchange": [{ "send": "EHLO a\r\n" }, { "expect": "^220" }] })),
        row("tcp: a port of TLS, only opened", Https("tcp", page()), "up", "connect"),
        row(
            "https: a port of plain HTTP that waits for the end of a head",
            made(|_| async {
                let server = Server::start(|_| answer("400 Bad Request", "", b"")).await;
                Made::at(format!("https://{}/", server.address), server)
            }),
            "down tls_timeout",
            SHAKEN,
        ),
    ]);
    rows
}
