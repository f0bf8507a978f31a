//! Conversations: STARTTLS, WebSocket, gRPC, SSH, logins, registries.

use std::sync::Arc;

use serde_json::json;

use super::staging::Serves::{Asked, AtAccept, Http2, Talks};
use super::staging::{Made, Room, Row, Serves, made, row};
use crate::starttls::{CAPA, CAPABILITY, FEATURES, OFFER, PROCEED, imap, pop3, smtp, xmpp};
use crate::support::servers::dialogue::Turn::{Hang, Hear, Tls};
use crate::support::servers::dialogue::{Dialogue, Turn, say};
use crate::support::servers::http::{Act, Request, Server, answer, text};
use crate::support::servers::http2::{END_STREAM, STATUS_200, data, field, goaway, head, reset_stream, status};
use crate::support::servers::tls::{TlsServer, config, leaf_params, self_signed};
use crate::ws::switching;

const ALL: &str = "connect send wait receive";
const ALL_TLS: &str = "connect tls send wait receive";
/// Heard, and never answered.
const HEARD: &str = "connect wait receive";
const MISMATCH: &str = "down exchange_mismatch";
const CLOSED: &str = "down connection_closed";
const REFUSED: &str = "down query_failed";

fn with(mut turns: Vec<Turn>, more: &[Turn]) -> Vec<Turn> {
    turns.extend_from_slice(more);
    turns
}

pub(super) fn starttls() -> Vec<Row> {
    let mail = |turns| Talks("starttls+smtp", turns);
    let go = |more: &[Turn]| with(with(smtp(OFFER), &[Hear("STARTTLS\r\n"), say("220 go\r\n")]), more);
    vec![
        row("smtp: goes over to TLS", mail(go(&[Tls, Hang])), "up", ALL_TLS),
        row("smtp: refuses", mail(vec![say("554 no\r\n")]), MISMATCH, HEARD),
        row("smtp: silent", mail(vec![Hang]), "down response_timeout", "connect wait"),
        row("smtp: closes", mail(vec![]), CLOSED, "connect wait"),
        row("smtp: does not offer it", mail(smtp("250-mail.test\r\n250 SIZE\r\n")), MISMATCH, ALL),
        row("smtp: not now", mail(with(smtp(OFFER), &[Hear("STARTTLS\r\n"), say("454 no\r\n")])), MISMATCH, ALL),
        row(
            "smtp: bytes behind the go-ahead",
            mail(with(smtp(OFFER), &[Hear("STARTTLS\r\n"), say("220 go\r\n250 x\r\n"), Hang])),
            MISMATCH,
            ALL,
        ),
        row("smtp: no TLS after all", mail(go(&[Hear("\u{1}"), say("500 what?\r\n")])), "down tls_handshake", ALL_TLS),
        row("smtp: closes after the go-ahead", mail(go(&[])), "down tls_handshake", ALL_TLS),
        row("smtp: silent after the go-ahead", mail(go(&[Hang])), "down tls_timeout", ALL_TLS),
        row("smtp: speaks ssh", mail(vec![say("SSH-2.0-x\r\n"), Hang]), MISMATCH, HEARD),
        row(
            "imap: goes over to TLS",
            Talks(
                "starttls+imap",
                with(imap(CAPABILITY), &[Hear("a2 STARTTLS\r\n"), say("a2 OK begin\r\n"), Tls, Hang]),
            ),
            "up",
            ALL_TLS,
        ),
        row(
            "imap: refuses",
            Talks("starttls+imap", with(imap(CAPABILITY), &[Hear("a2 STARTTLS\r\n"), say("a2 NO not now\r\n")])),
            MISMATCH,
            ALL,
        ),
        row(
            "pop3: goes over to TLS",
            Talks("starttls+pop3", with(pop3(CAPA), &[Hear("STLS\r\n"), say("+OK begin\r\n"), Tls, Hang])),
            "up",
            ALL_TLS,
        ),
        row("pop3: locked", Talks("starttls+pop3", vec![say("-ERR locked\r\n")]), MISMATCH, HEARD),
        row(
            "ftp: goes over to TLS",
            Talks("starttls+ftp", vec![say("220 ready\r\n"), Hear("AUTH TLS\r\n"), say("234 go\r\n"), Tls, Hang]),
            "up",
            ALL_TLS,
        ),
        row(
            "ftp: does not offer it",
            Talks("starttls+ftp", vec![say("220 ready\r\n"), Hear("AUTH TLS\r\n"), say("530 no\r\n")]),
            MISMATCH,
            ALL,
        ),
        row(
            "xmpp: goes over to TLS",
            Talks("starttls+xmpp", with(xmpp(FEATURES), &[Hear("xmpp-tls'/>"), say(PROCEED), Tls, Hang])),
            "up",
            ALL_TLS,
        ),
        row("xmpp: does not offer it", Talks("starttls+xmpp", xmpp("<stream:features/>")), MISMATCH, ALL),
        row("smtp: a certificate of nobody", made(distrusted), "down cert_untrusted", ALL_TLS),
    ]
}

async fn distrusted(_: Arc<Room>) -> Made {
    let turns = with(smtp(OFFER), &[Hear("STARTTLS\r\n"), say("220 go\r\n"), Tls, Hang]);
    let nobody = self_signed(&leaf_params(&["127.0.0.1"]));
    let server = Dialogue::start(turns, config(&nobody, rustls::ALL_VERSIONS, None)).await;
    Made::at(format!("starttls+smtp://{}", server.address), server)
}

pub(super) fn websocket() -> Vec<Row> {
    let at = |script: fn(&Request) -> Vec<Act>| Asked("ws", "/socket", script);
    let hello = || json!({ "exchange": [{ "expect": "^hello$" }] });
    let status = "down status_unexpected";
    let protocol = "down http_protocol";
    vec![
        row(
            "ws: says what is expected",
            at(|r| vec![switching(r, ""), Act::Send(b"\x81\x05hello".to_vec()), Act::Hang]),
            "up",
            ALL,
        )
        .keys(hello()),
        row(
            "ws: says something else",
            at(|r| vec![switching(r, ""), Act::Send(b"\x81\x02no".to_vec()), Act::Hang]),
            MISMATCH,
            ALL,
        )
        .keys(hello())
        .slow(),
        row("ws: a page", at(|_| answer("200 OK", "", b"hi")), status, ALL),
        row("ws: moved", at(|_| answer("302 Found", "Location: ws://elsewhere/\r\n", b"")), status, ALL),
        row("ws: forbidden", at(|_| answer("403 Forbidden", "", b"")), status, ALL),
        row("ws: no upgrade", at(|_| vec![text("HTTP/1.1 101 Switching Protocols\r\n\r\n"), Act::Hang]), protocol, ALL),
        row(
            "ws: a subprotocol that nobody offered",
            at(|r| vec![switching(r, "Sec-WebSocket-Protocol: x\r\n"), Act::Hang]),
            protocol,
            ALL,
        ),
        row("ws: not the subprotocol", at(|r| vec![switching(r, ""), Act::Hang]), "down header_mismatch", ALL)
            .keys(json!({ "subprotocol": "chat" })),
        row("ws: silent", at(|_| vec![Act::Hang]), "down response_timeout", "connect send wait"),
        row("ws: closed", at(|_| vec![]), CLOSED, "connect send wait"),
        row("ws: reset", at(|_| vec![Act::Reset]), "down connection_reset", "connect send wait"),
        row("ws: no pong", at(|r| vec![switching(r, ""), Act::Hang]), "down response_timeout", ALL),
        row("ws: closed after the handshake", at(|r| vec![switching(r, "")]), CLOSED, ALL),
        row(
            "ws: a close frame in place of a pong",
            at(|r| vec![switching(r, ""), Act::Send(b"\x88\x05\x03\xe9bye".to_vec()), Act::Hang]),
            CLOSED,
            ALL,
        ),
        row(
            "ws: a masked frame",
            at(|r| vec![switching(r, ""), Act::Send(b"\x81\x81abcdx".to_vec()), Act::Hang]),
            MISMATCH,
            ALL,
        ),
        row(
            "ws: endless frames",
            at(|r| vec![switching(r, ""), Act::Endless(b"\x81\x02hi".repeat(1000))]),
            MISMATCH,
            ALL,
        ),
        row("ws: endless pings", at(|r| vec![switching(r, ""), Act::Endless(b"\x89\x00".repeat(2000))]), MISMATCH, ALL),
    ]
}

/// A message that says SERVING, one that says NOT_SERVING, one that says SERVICE_UNKNOWN.
const SERVING: &[u8] = b"\0\0\0\0\x02\x08\x01";
const NOT_SERVING: &[u8] = b"\0\0\0\0\x02\x08\x02";
const SERVICE_UNKNOWN: &[u8] = b"\0\0\0\0\x02\x08\x03";

pub(super) fn grpc() -> Vec<Row> {
    let begun = || head(0, &[STATUS_200.to_vec(), field("content-type", "application/grpc")].concat());
    let ends = |code: &str| head(END_STREAM, &field("grpc-status", code));
    let frames = |frames: &[Vec<u8>]| Http2("grpcs", vec![Act::Send(frames.concat()), Act::Hang]);
    let only = |code: &str| {
        let block = [STATUS_200.to_vec(), field("content-type", "application/grpc"), field("grpc-status", code)];
        frames(&[head(END_STREAM, &block.concat())])
    };
    let not_serving = "down grpc_not_serving";
    let waited = "connect tls send wait";
    vec![
        row("grpc: serving", frames(&[begun(), data(0, SERVING), ends("0")]), "up", ALL_TLS),
        row("grpc: not serving", frames(&[begun(), data(0, NOT_SERVING), ends("0")]), not_serving, ALL_TLS),
        row("grpc: service unknown", frames(&[begun(), data(0, SERVICE_UNKNOWN), ends("0")]), not_serving, ALL_TLS),
        row("grpc: not found", only("5"), not_serving, ALL_TLS),
        row("grpc: unimplemented", only("12"), not_serving, ALL_TLS),
        row("grpc: unavailable", only("14"), not_serving, ALL_TLS),
        row("grpc: permission denied", only("7"), REFUSED, ALL_TLS),
        row("grpc: unauthenticated", only("16"), REFUSED, ALL_TLS),
        row("grpc: no status", frames(&[begun(), data(END_STREAM, SERVING)]), "down http_protocol", ALL_TLS),
        row("grpc: half a message", frames(&[begun(), data(0, &SERVING[..4]), ends("0")]), MISMATCH, ALL_TLS),
        row("grpc: a gateway's error", frames(&[head(END_STREAM, &status(502))]), "down status_unexpected", ALL_TLS),
        row(
            "grpc: a web page",
            frames(&[
                head(0, &[STATUS_200.to_vec(), field("content-type", "text/html")].concat()),
                data(END_STREAM, b"<p>"),
            ]),
            "down http_protocol",
            ALL_TLS,
        ),
        row("grpc: gives the call up", frames(&[reset_stream(7)]), CLOSED, waited),
        row(
            "grpc: gives the answer up",
            frames(&[begun(), data(0, &SERVING[..4]), reset_stream(2)]),
            "down body_truncated",
            ALL_TLS,
        ),
        row("grpc: goes away", frames(&[goaway(0, 0)]), CLOSED, waited),
        row("grpc: complains", frames(&[goaway(0, 1)]), "down http_protocol", waited),
        row("grpc: silent", frames(&[]), "down response_timeout", waited),
        row("grpc: stalls in the answer", frames(&[begun()]), "down body_timeout", ALL_TLS),
    ]
}

pub(super) fn ssh() -> Vec<Row> {
    let at = |acts| AtAccept("ssh", acts);
    let ident = || text("SSH-2.0-x\r\n");
    vec![
        row("ssh: silent", at(vec![Act::Hang]), "down response_timeout", "connect send wait"),
        row("ssh: closes", at(vec![]), CLOSED, "connect send wait"),
        row("ssh: resets", at(vec![Act::Reset]), "down connection_reset", "connect send wait"),
        row("ssh: a mail server", at(vec![text("220 mail ESMTP\r\n"), Act::Hang]), MISMATCH, ALL).slow(),
        row("ssh: version 1", at(vec![text("SSH-1.5-old\r\n"), Act::Hang]), MISMATCH, ALL),
        row("ssh: refuses in words", at(vec![text("Exceeded MaxStartups\r\n")]), MISMATCH, ALL),
        row("ssh: another banner than expected", at(vec![ident(), Act::Hang]), MISMATCH, ALL)
            .keys(json!({ "banner_matches": "OpenSSH" })),
        row("ssh: silent after its banner", at(vec![ident(), Act::Hang]), "down response_timeout", ALL),
        row("ssh: garbage after its banner", at(vec![ident(), Act::Send(vec![0xff; 5000]), Act::Hang]), MISMATCH, ALL),
        row("ssh: endless lines", at(vec![Act::Endless(b"hello\r\n".repeat(100))]), MISMATCH, ALL),
    ]
}

/// With a user and a password, which every kind of these takes.
fn login(scheme: &'static str, acts: Vec<Act>) -> Serves {
    made(move |_| async move {
        let server = Server::at_accept(acts).await;
        let (user, place) = if matches!(scheme, "mqtt" | "amqp") { ("", "lamp") } else { ("lamp@", "") };
        let mut basic = json!({ "password": "pass-word" });
        if !place.is_empty() {
            basic["username"] = json!(place);
        }
        Made::at(format!("{scheme}://{user}{}", server.address), server).with("auth", json!({ "basic": basic }))
    })
}

/// A server that speaks TLS only.
fn behind_tls(scheme: &'static str) -> Serves {
    made(move |room| async move {
        let server = TlsServer::start_silent(config(&room.own(), rustls::ALL_VERSIONS, None)).await;
        let user = if scheme == "ssh" { "" } else { "lamp@" };
        let made = Made::at(format!("{scheme}://{user}{}", server.address), server);
        if user.is_empty() { made } else { made.with("auth", json!({ "basic": { "password": "pass-word" } })) }
    })
}

pub(super) fn logins() -> Vec<Row> {
    let mut rows = Vec::new();
    // Who speaks first is the server for MySQL, the client for the others.
    for (scheme, waits) in [
        ("redis", "connect send wait"),
        ("postgres", "connect send wait"),
        ("mysql", "connect wait"),
        ("mongodb", "connect send wait"),
        ("mqtt", "connect send wait"),
        ("amqp", "connect send wait"),
    ] {
        let heard = if scheme == "mysql" { HEARD } else { ALL };
        rows.extend([
            row(format!("{scheme}: silent"), login(scheme, vec![Act::Hang]), "down response_timeout", waits),
            row(format!("{scheme}: closes"), login(scheme, vec![]), CLOSED, waits),
            row(format!("{scheme}: resets"), login(scheme, vec![Act::Reset]), "down connection_reset", waits),
            row(
                format!("{scheme}: a web server"),
                login(scheme, vec![text("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")]),
                MISMATCH,
                heard,
            ),
            row(
                format!("{scheme}: zeros without end"),
                login(scheme, vec![Act::Endless(vec![0; 4096])]),
                MISMATCH,
                heard,
            ),
        ]);
    }
    let send = |bytes: &[u8]| Act::Send(bytes.to_vec());
    let error = |fields: &[u8]| {
        let length = u32::try_from(fields.len() + 5).unwrap().to_be_bytes();
        Act::Send([&b"E"[..], &length, fields, b"\0"].concat())
    };
    let too_many = b"\x17\0\0\0\xff\x10\x04Too many connections";
    rows.extend([
        row("redis: well", login("redis", vec![text("+OK\r\n+PONG\r\n"), Act::Hang]), "up", ALL),
        row(
            "redis: wrong password",
            login("redis", vec![text("-WRONGPASS invalid username-password pair\r\n"), Act::Hang]),
            REFUSED,
            ALL,
        ),
        row(
            "redis: too many clients",
            login("redis", vec![text("-ERR max number of clients reached\r\n")]),
            REFUSED,
            ALL,
        ),
        row(
            "redis: loading",
            login("redis", vec![text("+OK\r\n-LOADING Redis is loading the dataset in memory\r\n"), Act::Hang]),
            REFUSED,
            ALL,
        ),
        row("redis: no pong", login("redis", vec![text("+OK\r\n+OK\r\n"), Act::Hang]), MISMATCH, ALL),
        row("redis: half a reply", login("redis", vec![text("+PO")]), CLOSED, ALL),
        row(
            "postgres: wrong password",
            login("postgres", vec![error(b"SFATAL\0VFATAL\0C28P01\0Mno\0"), Act::Hang]),
            REFUSED,
            ALL,
        ),
        row(
            "postgres: too many clients",
            login("postgres", vec![error(b"SFATAL\0VFATAL\0C53300\0Mno\0"), Act::Hang]),
            REFUSED,
            ALL,
        ),
        row(
            "postgres: starting up",
            login("postgres", vec![error(b"SFATAL\0VFATAL\0C57P03\0Mno\0"), Act::Hang]),
            REFUSED,
            ALL,
        ),
        row(
            "postgres: a login that is not spoken here",
            login("postgres", vec![send(b"R\0\0\0\x08\0\0\0\x07"), Act::Hang]),
            REFUSED,
            ALL,
        ),
        row("postgres: half a message", login("postgres", vec![send(b"R\0\0\0")]), CLOSED, ALL),
        row("postgres: no TLS", login("postgres", vec![send(b"N"), Act::Hang]), "down tls_handshake", ALL)
            .keys(json!({ "tls": {} })),
        row("mysql: too many connections", login("mysql", vec![send(too_many), Act::Hang]), REFUSED, HEARD),
        row("mqtt: wrong password", login("mqtt", vec![send(&[0x20, 2, 0, 4])]), REFUSED, ALL),
        row("mqtt: another version", login("mqtt", vec![send(&[0x20, 2, 0, 1]), Act::Hang]), REFUSED, ALL),
        row("mqtt: no pong", login("mqtt", vec![send(&[0x20, 2, 0, 0]), Act::Hang]), "down response_timeout", ALL),
        row("mqtt: well", login("mqtt", vec![send(&[0x20, 2, 0, 0, 0xd0, 0]), Act::Hang]), "up", ALL),
        row("amqp: another version", login("amqp", vec![text("AMQP\0\u{1}\0\0")]), MISMATCH, ALL),
    ]);
    for (scheme, wanted, phases) in [
        // Both wait for the other to begin.
        ("mysql", "down response_timeout", "connect wait"),
        ("postgres", MISMATCH, ALL),
        ("mongodb", MISMATCH, ALL),
        ("ssh", MISMATCH, ALL),
    ] {
        rows.push(row(format!("{scheme}: a port of TLS"), behind_tls(scheme), wanted, phases));
    }
    rows
}

/// A registry that answers like this.
fn registry(acts: impl FnOnce() -> Vec<Act> + Send + 'static) -> Serves {
    made(move |_| async move {
        let acts = acts();
        let server = Server::start(move |_| acts.clone()).await;
        let rdap = server.url("/");
        Made::at("domain:example.test", server).with("rdap", rdap)
    })
}

pub(super) fn domains() -> Vec<Row> {
    let ends_in = |days: i64| {
        registry(move || {
            let expires = chrono::Utc::now() + chrono::TimeDelta::days(days);
            let body = json!({ "objectClassName": "domain", "ldhName": "example.test",
                "events": [{ "eventAction": "expiration", "eventDate": expires.to_rfc3339() }] });
            answer("200 OK", "Content-Type: application/rdap+json\r\n", body.to_string().as_bytes())
        })
    };
    let says = |status: &'static str| registry(move || answer(status, "", b"{}"));
    vec![
        row("domain: lasts", ends_in(400), "up", ALL),
        row("domain: ends soon", ends_in(10), "degraded domain_expiring", ALL),
        row("domain: has ended", ends_in(-3), "down domain_expired", ALL),
        row("domain: is not registered", says("404 Not Found"), REFUSED, ALL),
        row("domain: asked too often", says("429 Too Many Requests"), "unknown query_failed", ALL),
        row("domain: registry is broken", says("500 Oops"), "unknown query_failed", ALL),
        row("domain: registry is silent", registry(|| vec![Act::Hang]), "unknown query_failed", "connect send wait")
            .slow(),
    ]
}
