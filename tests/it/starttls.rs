//! STARTTLS: each protocol's opening, what spoils it, and TLS after it.

use std::time::Duration;

use lamplighter::model::Failure::{self, *};
use serde_json::{Value, json};

use crate::support::probing::{check_by, net_with, phases};
use crate::support::servers::dialogue::Turn::{Hang, Hear, Tls};
use crate::support::servers::dialogue::{Dialogue, Turn, say};
use crate::support::servers::tls::{Authority, config, leaf_params};

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(600);

pub(crate) fn smtp(offer: &str) -> Vec<Turn> {
    vec![say("220-mail.test ESMTP\r\n220 welcome\r\n"), Hear("EHLO [127.0.0.1]\r\n"), say(offer)]
}

pub(crate) fn imap(capabilities: &str) -> Vec<Turn> {
    vec![say("* OK [CAPABILITY IMAP4rev1] ready\r\n"), Hear("a1 CAPABILITY\r\n"), say(capabilities)]
}

pub(crate) fn pop3(capabilities: &str) -> Vec<Turn> {
    vec![say("+OK ready <1@mail.test>\r\n"), Hear("CAPA\r\n"), say(capabilities)]
}

pub(crate) const STREAM: &str = "<?xml version='1.0'?>\n<stream:stream from='h' id=\"a>b\" version='1.0' xmlns='jabber:client' \
                      xmlns:stream='http://etherx.jabber.org/streams'>";

pub(crate) fn xmpp(features: &str) -> Vec<Turn> {
    vec![Hear("etherx.jabber.org/streams'>"), say(STREAM), say(features)]
}

pub(crate) const OFFER: &str = "250-mail.test greets you\r\n250-SIZE 1000\r\n250-starttls\r\n250 8BITMIME\r\n";
pub(crate) const CAPABILITY: &str = "* CAPABILITY IMAP4rev1 STARTTLS LOGINDISABLED\r\n* 1 EXISTS\r\na1 OK done\r\n";
pub(crate) const CAPA: &str = "+OK\r\nTOP\r\nSTLS\r\nUIDL\r\n.\r\n";
pub(crate) const FEATURES: &str = "<stream:features><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/></starttls>\
                        <mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>PLAIN</mechanism></mechanisms>\
                        </stream:features>";
pub(crate) const PROCEED: &str = "<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>";

struct Row {
    name: &'static str,
    protocol: &'static str,
    turns: Vec<Turn>,
    exchange: Option<Value>,
    timeout: Duration,
    /// With a part of its sentence.
    fault: Option<(Failure, &'static str)>,
}

fn good(name: &'static str, protocol: &'static str, opening: Vec<Turn>, go: &[Turn]) -> Row {
    let turns = [opening, go.to_vec(), vec![Tls, Hang]].concat();
    Row { name, protocol, turns, exchange: None, timeout: LONG, fault: None }
}

fn bad(name: &'static str, protocol: &'static str, turns: Vec<Turn>, failure: Failure, sentence: &'static str) -> Row {
    let open = matches!(turns.last(), Some(Hang));
    let timeout = if open { SHORT } else { LONG };
    Row { name, protocol, turns, exchange: None, timeout, fault: Some((failure, sentence)) }
}

fn with(mut turns: Vec<Turn>, more: &[Turn]) -> Vec<Turn> {
    turns.extend_from_slice(more);
    turns
}

fn rows() -> Vec<Row> {
    let exchange = Row {
        exchange: Some(json!([{ "send": "EHLO again\r\n" }, { "expect": "^250 secret$" }, { "send": "QUIT\r\n" }])),
        turns: with(
            smtp(OFFER),
            &[Hear("STARTTLS\r\n"), say("220 go\r\n"), Tls, Hear("EHLO again"), say("250 secret\r\n"), Hear("QUIT")],
        ),
        ..good("smtp, and an exchange under TLS", "smtp", vec![], &[])
    };
    let wrong = Row {
        exchange: Some(json!([{ "send": "EHLO again\r\n" }, { "expect": "^250" }])),
        turns: with(smtp(OFFER), &[Hear("STARTTLS\r\n"), say("220 go\r\n"), Tls, Hear("again"), say("421 busy\r\n")]),
        ..bad("smtp, another answer under TLS", "smtp", vec![], ExchangeMismatch, "exchange step 2")
    };
    vec![
        good("smtp", "smtp", smtp(OFFER), &[Hear("STARTTLS\r\n"), say("220 go\r\n")]),
        good("smtp, LF only", "smtp", smtp("250-x\n250 STARTTLS\n"), &[Hear("STARTTLS\r\n"), say("220\n")]),
        exchange,
        wrong,
        bad("smtp, refuses", "smtp", vec![say("554 no\r\n")], ExchangeMismatch, "greets with \"554 no\""),
        bad("smtp, speaks ssh", "smtp", vec![say("SSH-2.0-x\r\n"), Hang], ExchangeMismatch, "SSH-2.0-x"),
        bad("smtp, half a greeting", "smtp", vec![say("220 ma"), Hang], ExchangeMismatch, "not a greeting"),
        bad("smtp, half a reply", "smtp", vec![say("220-a\r\n"), Hang], ExchangeMismatch, "did not end it"),
        bad("smtp, codes differ", "smtp", vec![say("220-a\r\n250 b\r\n")], ExchangeMismatch, "250 b"),
        bad("smtp, silent", "smtp", vec![Hang], ResponseTimeout, "use a tls URL"),
        bad("smtp, closes", "smtp", vec![], ConnectionClosed, "before a greeting"),
        bad("smtp, no EHLO", "smtp", smtp("502 what?\r\n"), ExchangeMismatch, "answers EHLO with \"502 what?\""),
        bad(
            "smtp, not offered",
            "smtp",
            smtp("250-STARTTLS\r\n250 SIZE\r\n"),
            ExchangeMismatch,
            "does not offer STARTTLS",
        ),
        bad("smtp, like it", "smtp", smtp("250-a\r\n250 XSTARTTLS STARTTLS\r\n"), ExchangeMismatch, "does not offer"),
        bad(
            "smtp, not now",
            "smtp",
            with(smtp(OFFER), &[Hear("STARTTLS\r\n"), say("454 no certificate\r\n")]),
            ExchangeMismatch,
            "454 no certificate",
        ),
        bad(
            "smtp, bytes behind the go-ahead",
            "smtp",
            with(smtp(OFFER), &[Hear("STARTTLS\r\n"), say("220 go\r\n250 injected\r\n"), Tls, Hang]),
            ExchangeMismatch,
            "CVE-2011-0411",
        ),
        bad(
            "smtp, no TLS after all",
            "smtp",
            with(smtp(OFFER), &[Hear("STARTTLS\r\n"), say("220 go\r\n"), Hear("\u{1}"), say("500 what?\r\n")]),
            TlsHandshake,
            "not TLS",
        ),
        bad(
            "smtp, closes after the go-ahead",
            "smtp",
            with(smtp(OFFER), &[Hear("STARTTLS\r\n"), say("220 go\r\n")]),
            TlsHandshake,
            "closed the connection",
        ),
        bad("smtp, endless lines", "smtp", vec![say("220-a\r\n".repeat(300)), Hang], ExchangeMismatch, "far more"),
        bad("smtp, endless line", "smtp", vec![say("2".repeat(60_000)), Hang], ExchangeMismatch, "far more"),
        good("imap", "imap", imap(CAPABILITY), &[Hear("a2 STARTTLS\r\n"), say("* OK still\r\na2 OK begin\r\n")]),
        bad("imap, logged in", "imap", vec![say("* PREAUTH hi\r\n")], ExchangeMismatch, "PREAUTH"),
        bad("imap, bye", "imap", vec![say("* BYE overloaded\r\n")], ExchangeMismatch, "* BYE overloaded"),
        bad(
            "imap, not offered",
            "imap",
            imap("* CAPABILITY IMAP4rev1 AUTH=STARTTLS\r\na1 OK done\r\n"),
            ExchangeMismatch,
            "does not offer STARTTLS",
        ),
        bad("imap, bad", "imap", imap("a1 BAD what\r\n"), ExchangeMismatch, "a1 BAD what"),
        bad(
            "imap, no",
            "imap",
            with(imap(CAPABILITY), &[Hear("a2 STARTTLS\r\n"), say("a2 NO not now\r\n")]),
            ExchangeMismatch,
            "a2 NO not now",
        ),
        bad(
            "imap, bytes behind the go-ahead",
            "imap",
            with(imap(CAPABILITY), &[Hear("a2 STARTTLS\r\n"), say("a2 OK go\r\n* BYE\r\n"), Tls, Hang]),
            ExchangeMismatch,
            "CVE-2011-0411",
        ),
        good("pop3", "pop3", pop3(CAPA), &[Hear("STLS\r\n"), say("+OK begin\r\n")]),
        good("pop3, of old", "pop3", pop3("-ERR what\r\n"), &[Hear("STLS\r\n"), say("+OK\r\n")]),
        bad("pop3, not offered", "pop3", pop3("+OK\r\nUIDL\r\n.\r\n"), ExchangeMismatch, "does not offer STLS"),
        bad("pop3, locked", "pop3", vec![say("-ERR locked\r\n")], ExchangeMismatch, "-ERR locked"),
        bad(
            "pop3, no",
            "pop3",
            with(pop3(CAPA), &[Hear("STLS\r\n"), say("-ERR no\r\n")]),
            ExchangeMismatch,
            "answers STLS with \"-ERR no\"",
        ),
        good(
            "ftp",
            "ftp",
            vec![say("120 soon\r\n220-Welcome\r\n 230 is not the end\r\n220 ready\r\n"), Hear("AUTH TLS\r\n")],
            &[say("234 go\r\n")],
        ),
        bad(
            "ftp, not offered",
            "ftp",
            vec![say("220 ready\r\n"), Hear("AUTH TLS\r\n"), say("530 Please login\r\n")],
            ExchangeMismatch,
            "does not offer AUTH TLS and answers \"530 Please login\"",
        ),
        bad(
            "ftp, wants more",
            "ftp",
            vec![say("220 ready\r\n"), Hear("AUTH TLS\r\n"), say("334 data\r\n")],
            ExchangeMismatch,
            "334 data",
        ),
        bad("ftp, full", "ftp", vec![say("421 too many\r\n")], ExchangeMismatch, "421 too many"),
        good("xmpp", "xmpp", xmpp(FEATURES), &[Hear("xmpp-tls'/>"), say(PROCEED)]),
        good(
            "xmpp, in two tags",
            "xmpp",
            xmpp(FEATURES),
            &[Hear("xmpp-tls'/>"), say("<proceed xmlns=\"urn:ietf:params:xml:ns:xmpp-tls\">"), say("</proceed>")],
        ),
        bad("xmpp, not offered", "xmpp", xmpp("<stream:features/>"), ExchangeMismatch, "does not offer STARTTLS"),
        bad(
            "xmpp, offered by somebody else",
            "xmpp",
            xmpp("<stream:features><x><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/></x></stream:features>"),
            ExchangeMismatch,
            "does not offer STARTTLS",
        ),
        bad(
            "xmpp, another host",
            "xmpp",
            xmpp("<stream:error><host-unknown xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>"),
            ExchangeMismatch,
            "host-unknown",
        ),
        bad(
            "xmpp, failure",
            "xmpp",
            with(xmpp(FEATURES), &[Hear("xmpp-tls'/>"), say("<failure xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")]),
            ExchangeMismatch,
            "failure",
        ),
        bad(
            "xmpp, bytes behind the go-ahead",
            "xmpp",
            with(xmpp(FEATURES), &[Hear("xmpp-tls'/>"), say(format!("{PROCEED}<iq/>")), Tls, Hang]),
            ExchangeMismatch,
            "CVE-2011-0411",
        ),
        bad(
            "xmpp, a web server",
            "xmpp",
            vec![Hear(">"), say("HTTP/1.1 400 Bad Request\r\n\r\n<html>")],
            ExchangeMismatch,
            "html",
        ),
        bad("xmpp, a mail server", "xmpp", vec![say("220 mail ESMTP\r\n"), Hang], ExchangeMismatch, "220 mail"),
        bad("xmpp, silent", "xmpp", vec![Hang], ResponseTimeout, "a stream"),
    ]
}

#[tokio::test]
async fn every_opening_and_every_way_to_spoil_it() {
    let folder = tempfile::tempdir().unwrap();
    let root = Authority::root("Test Root");
    let net = net_with("127.0.0.1:9".parse().unwrap(), vec![root.write(&folder)]);
    let (net, root) = (&net, &root);
    let runs = rows().into_iter().map(|row| async move {
        let Row { name, protocol, turns, exchange, timeout, fault } = row;
        let identity = root.issue(&leaf_params(&["127.0.0.1"]));
        let server = Dialogue::start(turns, config(&identity, rustls::ALL_VERSIONS, None)).await;
        let mut monitor = json!({ "url": format!("starttls+{protocol}://{}", server.address) });
        if let Some(steps) = exchange {
            monitor["exchange"] = steps;
        }
        let seen = check_by(net, &monitor, timeout).await;
        let got = seen.fault.as_ref().map(|fault| fault.failure);
        assert_eq!(got, fault.map(|(failure, _)| failure), "{name}: {:?}", seen.fault);
        let reached = phases(&seen);
        assert_eq!(reached[0], "connect", "{name}");
        if let (Some((_, part)), Some(fault)) = (fault, &seen.fault) {
            assert!(fault.message.contains(part), "{name}: {}", fault.message);
        } else {
            assert_eq!(reached, ["connect", "tls", "send", "wait", "receive"], "{name}");
            assert_eq!(seen.certificate.as_ref().unwrap().subject, "CN=127.0.0.1", "{name}");
        }
        let shaken = reached.contains(&"tls");
        assert_eq!(shaken, got.is_none() || got == Some(TlsHandshake) || name.ends_with("under TLS"), "{name}");
        // What follows a refused go-ahead must not be said.
        assert!(fault.is_none() || !server.heard().contains("again") || shaken, "{name}");
    });
    futures_util::future::join_all(runs).await;
}
