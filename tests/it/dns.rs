//! The dns kind against a liar of ours, and against knot with a signed zone.

use std::time::Duration;

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::{NS, SOA};
use hickory_proto::rr::{RData, Record};
use lamplighter::model::Failure;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};

use crate::support::probing::{check, phases};
use crate::support::servers::dns::{Ask, DnsServer, fqdn};

mod authority;

const LONG: Duration = Duration::from_secs(5);
const SHORT: Duration = Duration::from_millis(400);

/// What a server sends, and what the check of `shop.test` A is called then.
type Row = (&'static str, fn(&Ask) -> Vec<Message>, Value, Duration, Option<Failure>);

fn truncated(ask: &Ask) -> Message {
    let mut message = ask.code(ResponseCode::NoError);
    message.metadata.truncation = true;
    message
}

fn good(ask: &Ask) -> Vec<Message> {
    vec![ask.answer(60, &["192.0.2.1", "192.0.2.2"])]
}

fn rows() -> Vec<Row> {
    use Failure::*;
    vec![
        ("any answer will do", good, json!({}), LONG, None),
        ("one of several", good, json!({ "answers": ["192.0.2.2"] }), LONG, None),
        ("all of them", good, json!({ "answers": ["192.0.2.2", "192.0.2.1"], "answers_exact": true }), LONG, None),
        ("one that is missing", good, json!({ "answers": ["192.0.2.3"] }), LONG, Some(DnsAnswerMismatch)),
        (
            "one too many",
            good,
            json!({ "answers": ["192.0.2.1"], "answers_exact": true }),
            LONG,
            Some(DnsAnswerMismatch),
        ),
        (
            "a pattern",
            good,
            json!({ "answers": [{ "matches": "^192[.]0[.]2[.]" }], "answers_exact": true }),
            LONG,
            None,
        ),
        ("none expected, some there", good, json!({ "answers": [] }), LONG, Some(DnsAnswerMismatch)),
        (
            "none expected, none there",
            |ask| vec![ask.negative(ResponseCode::NoError, 9)],
            json!({ "answers": [] }),
            LONG,
            None,
        ),
        ("no records", |ask| vec![ask.negative(ResponseCode::NoError, 9)], json!({}), LONG, Some(DnsNoRecords)),
        ("nxdomain", |ask| vec![ask.negative(ResponseCode::NXDomain, 9)], json!({}), LONG, Some(DnsNxdomain)),
        (
            "nxdomain as expected",
            |ask| vec![ask.negative(ResponseCode::NXDomain, 9)],
            json!({ "rcode": "NXDOMAIN" }),
            LONG,
            None,
        ),
        ("an answer where nxdomain was expected", good, json!({ "rcode": "NXDOMAIN" }), LONG, Some(DnsAnswerMismatch)),
        (
            "servfail where nxdomain was expected",
            |ask| vec![ask.code(ResponseCode::ServFail)],
            json!({ "rcode": "NXDOMAIN" }),
            LONG,
            Some(DnsServfail),
        ),
        ("refused", |ask| vec![ask.code(ResponseCode::Refused)], json!({}), LONG, Some(DnsRefused)),
        (
            "refused as expected",
            |ask| vec![ask.code(ResponseCode::Refused)],
            json!({ "rcode": ["REFUSED"] }),
            LONG,
            None,
        ),
        ("not implemented", |ask| vec![ask.code(ResponseCode::NotImp)], json!({}), LONG, Some(DnsError)),
        ("silence", |_| vec![], json!({}), SHORT, Some(DnsTimeout)),
        ("not validated", good, json!({ "authenticated": true }), LONG, Some(DnsAnswerMismatch)),
        (
            "validated",
            |ask| {
                assert!(ask.message.metadata.authentic_data, "asked for");
                let mut message = ask.answer(60, &["192.0.2.1"]);
                message.metadata.authentic_data = true;
                vec![message]
            },
            json!({ "authenticated": true }),
            LONG,
            None,
        ),
        ("a chain", |ask| vec![ask.answer(60, &["shop.test -> a.test", "192.0.2.9"])], json!({}), LONG, None),
        (
            "an alias to nowhere",
            |ask| vec![ask.answer(60, &["shop.test -> gone.test"])],
            json!({}),
            LONG,
            Some(DnsNoRecords),
        ),
        (
            "an alias to what does not exist",
            |ask| {
                let mut message = ask.answer(60, &["shop.test -> gone.test"]);
                message.metadata.response_code = ResponseCode::NXDomain;
                vec![message]
            },
            json!({}),
            LONG,
            Some(DnsNxdomain),
        ),
        (
            "a loop of aliases",
            |ask| vec![ask.answer(60, &["shop.test -> a.test", "a.test -> shop.test"])],
            json!({}),
            LONG,
            Some(DnsError),
        ),
        (
            "a delegation only",
            |ask| {
                let mut message = ask.code(ResponseCode::NoError);
                message.add_authority(Record::from_rdata(fqdn("test"), 9, RData::NS(NS(fqdn("ns.test")))));
                vec![message]
            },
            json!({}),
            LONG,
            Some(DnsNoRecords),
        ),
        (
            "lies only",
            |ask| {
                let mut wrong_id = ask.answer(60, &["192.0.2.1"]);
                wrong_id.metadata.id ^= 1;
                let mut a_query = ask.answer(60, &["192.0.2.1"]);
                a_query.metadata.message_type = MessageType::Query;
                vec![wrong_id, a_query, ask.about(ask.answer(60, &["192.0.2.1"]), "other.test")]
            },
            json!({}),
            SHORT,
            Some(DnsError),
        ),
        (
            "lies, and then the truth",
            |ask| {
                let mut wrong_id = ask.answer(60, &["203.0.113.1"]);
                wrong_id.metadata.id ^= 1;
                vec![
                    wrong_id,
                    ask.about(ask.answer(60, &["203.0.113.1"]), "other.test"),
                    ask.answer(60, &["192.0.2.1"]),
                ]
            },
            json!({ "answers": ["192.0.2.1"], "answers_exact": true }),
            LONG,
            None,
        ),
        ("the second packet comes", |ask| if ask.nth == 0 { vec![] } else { good(ask) }, json!({}), LONG, None),
        (
            "truncated, whole by TCP",
            |ask| if ask.tcp { good(ask) } else { vec![truncated(ask)] },
            json!({ "answers": ["192.0.2.1"] }),
            LONG,
            None,
        ),
        (
            "truncated, another id by TCP",
            |ask| {
                let mut message = truncated(ask);
                message.metadata.id ^= u16::from(ask.tcp);
                vec![message]
            },
            json!({}),
            LONG,
            Some(DnsError),
        ),
        (
            "truncated, closed by TCP",
            |ask| if ask.tcp { vec![] } else { vec![truncated(ask)] },
            json!({}),
            LONG,
            Some(DnsError),
        ),
    ]
}

#[tokio::test]
async fn every_answer_of_a_server_has_its_name() {
    let runs = rows().into_iter().map(|(name, acts, expect, timeout, fault)| async move {
        let server = DnsServer::start(acts).await;
        let monitor = json!({ "url": "dns:shop.test", "resolver": server.address.to_string(), "expect": expect });
        let seen = check(&monitor, timeout).await;
        assert_eq!(seen.fault.as_ref().map(|fault| fault.failure), fault, "{name}: {:?}", seen.fault);
        assert_eq!(seen.address, Some(server.address), "{name}");
        let reached = phases(&seen);
        assert!(
            reached.starts_with(&["send", "wait"]) || reached.starts_with(&["connect", "send", "wait"]),
            "{name}: {reached:?}"
        );
    });
    futures_util::future::join_all(runs).await;
}

#[tokio::test]
async fn a_server_that_is_not_there_refuses() {
    let gone = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    for (resolver, reached) in [(gone.to_string(), &["send", "wait"][..]), (format!("tcp://{gone}"), &["connect"])] {
        let seen = check(&json!({ "url": "dns:shop.test", "resolver": resolver }), LONG).await;
        assert_eq!(seen.fault.as_ref().map(|fault| fault.failure), Some(Failure::ConnectRefused), "{:?}", seen.fault);
        assert_eq!(phases(&seen), reached);
    }
    // Truncated, and nobody at the TCP port.
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = udp.local_addr().unwrap();
    let answering = tokio::spawn(async move {
        let mut buffer = [0; 4096];
        let (length, from) = udp.recv_from(&mut buffer).await.unwrap();
        let asked = Message::from_vec(&buffer[..length]).unwrap();
        let mut message = Message::response(asked.metadata.id, asked.metadata.op_code);
        message.metadata.truncation = true;
        message.add_queries(asked.queries);
        udp.send_to(&message.to_vec().unwrap(), from).await.unwrap();
    });
    let seen = check(&json!({ "url": "dns:shop.test", "resolver": address.to_string() }), LONG).await;
    answering.await.unwrap();
    let fault = seen.fault.as_ref().unwrap();
    assert_eq!(fault.failure, Failure::ConnectRefused);
    assert!(fault.message.contains("truncated"), "{}", fault.message);
    assert_eq!(phases(&seen), ["connect", "send", "wait", "receive"]);
}

/// A stream server that takes a question and says these bytes; with a length of its own.
async fn says(bytes: Vec<u8>, stays: bool) -> (String, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let resolver = format!("tcp://{}", listener.local_addr().unwrap());
    let task = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut question = vec![0; usize::from(stream.read_u16().await.unwrap())];
            stream.read_exact(&mut question).await.unwrap();
            let _ = stream.write_all(&bytes).await;
            if stays {
                tokio::time::sleep(LONG).await;
            }
        }
    });
    (resolver, task)
}

#[tokio::test]
async fn lengths_and_garbage_by_tcp_end() {
    let mut full = vec![0xff, 0xff];
    full.extend(std::iter::repeat_n(0xc0, 65_535));
    // A header with one answer whose name points to itself.
    let mut pointer =
        vec![0, 0, 0x81, 0x80, 0, 0, 0, 1, 0, 0, 0, 0, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 1, 2, 3, 4];
    pointer.splice(0..0, [0, 28]);
    for (name, bytes, stays, timeout, wanted) in [
        ("no length", vec![], false, LONG, Failure::DnsError),
        ("half a length", vec![0], true, SHORT, Failure::DnsTimeout),
        ("nothing", vec![0, 0], true, LONG, Failure::DnsError),
        ("a length that lies", vec![0, 200, 1, 2, 3], false, LONG, Failure::DnsError),
        ("a length that stalls", vec![0, 200, 1, 2, 3], true, SHORT, Failure::DnsTimeout),
        ("65,535 octets of pointers", full, true, LONG, Failure::DnsError),
        ("a name that is its own end", pointer, true, LONG, Failure::DnsError),
    ] {
        let (resolver, task) = says(bytes, stays).await;
        let seen = check(&json!({ "url": "dns:shop.test", "resolver": resolver }), timeout).await;
        assert_eq!(seen.fault.as_ref().map(|fault| fault.failure), Some(wanted), "{name}: {:?}", seen.fault);
        task.abort();
    }
}

#[tokio::test]
async fn serials_are_compared_as_serials() {
    let server = DnsServer::start(|ask| {
        let soa = SOA::new(fqdn("ns.test"), fqdn("root.test"), 5, 1, 1, 1, 1);
        let mut message = ask.code(ResponseCode::NoError);
        message.add_answer(ask.own(60, RData::SOA(soa)));
        vec![message]
    })
    .await;
    for (least, fault) in [(5u32, None), (6, Some(Failure::DnsAnswerMismatch)), (4_294_967_290, None)] {
        let monitor = json!({ "url": "dns:test", "record": "SOA", "resolver": server.address.to_string(),
            "expect": { "serial_at_least": least } });
        let seen = check(&monitor, LONG).await;
        assert_eq!(seen.fault.as_ref().map(|fault| fault.failure), fault, "{least}: {:?}", seen.fault);
        let details = serde_json::to_value(seen.details.unwrap()).unwrap();
        assert_eq!((&details["serial"], &details["rcode"]), (&5.into(), &"NOERROR".into()));
        assert_eq!(details["answers"], json!(["ns.test root.test 5 1 1 1 1"]));
    }
}
