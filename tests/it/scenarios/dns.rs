//! Name servers as targets.

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::{RData, rdata::SOA};
use serde_json::json;

use super::staging::Serves::{At, Dns};
use super::staging::{Made, Row, made, row};
use crate::support::servers::dns::{Ask, fqdn};

const ANSWERED: &str = "send wait receive";

fn good(ask: &Ask) -> Vec<Message> {
    vec![ask.answer(60, &["192.0.2.1", "192.0.2.2"])]
}

fn truncated(ask: &Ask) -> Message {
    let mut message = ask.code(ResponseCode::NoError);
    message.metadata.truncation = true;
    message
}

fn lies(ask: &Ask) -> Vec<Message> {
    let mut wrong_id = ask.answer(60, &["203.0.113.1"]);
    wrong_id.metadata.id ^= 1;
    let mut a_query = ask.answer(60, &["203.0.113.1"]);
    a_query.metadata.message_type = MessageType::Query;
    vec![wrong_id, a_query, ask.about(ask.answer(60, &["203.0.113.1"]), "other.test")]
}

fn serial(ask: &Ask) -> Vec<Message> {
    let mut message = ask.code(ResponseCode::NoError);
    message.add_answer(ask.own(60, RData::SOA(SOA::new(fqdn("ns.test"), fqdn("root.test"), 5, 1, 1, 1, 1))));
    vec![message]
}

pub(super) fn rows() -> Vec<Row> {
    let expect = |expect| json!({ "expect": expect });
    let nxdomain = |ask: &Ask| vec![ask.negative(ResponseCode::NXDomain, 9)];
    let none = |ask: &Ask| vec![ask.negative(ResponseCode::NoError, 9)];
    let lap = |ask: &Ask| vec![ask.answer(60, &["shop.test -> a.test", "a.test -> shop.test"])];
    let tcp = "connect send wait receive";
    vec![
        row("dns: any answer", Dns(good), "up", ANSWERED),
        row("dns: one of several", Dns(good), "up", ANSWERED).keys(expect(json!({ "answers": ["192.0.2.2"] }))),
        row("dns: one missing", Dns(good), "down dns_answer_mismatch", ANSWERED)
            .keys(expect(json!({ "answers": ["192.0.2.3"] }))),
        row("dns: one too many", Dns(good), "down dns_answer_mismatch", ANSWERED)
            .keys(expect(json!({ "answers": ["192.0.2.1"], "answers_exact": true }))),
        row("dns: none expected", Dns(good), "down dns_answer_mismatch", ANSWERED)
            .keys(expect(json!({ "answers": [] }))),
        row("dns: none expected, none there", Dns(none), "up", ANSWERED).keys(expect(json!({ "answers": [] }))),
        row("dns: no records", Dns(none), "down dns_no_records", ANSWERED),
        row("dns: nxdomain", Dns(nxdomain), "down dns_nxdomain", ANSWERED),
        row("dns: nxdomain as expected", Dns(nxdomain), "up", ANSWERED).keys(expect(json!({ "rcode": "NXDOMAIN" }))),
        row("dns: servfail", Dns(|ask| vec![ask.code(ResponseCode::ServFail)]), "down dns_servfail", ANSWERED),
        row("dns: refused", Dns(|ask| vec![ask.code(ResponseCode::Refused)]), "down dns_refused", ANSWERED),
        row("dns: not implemented", Dns(|ask| vec![ask.code(ResponseCode::NotImp)]), "down dns_error", ANSWERED),
        row("dns: silence", Dns(|_| vec![]), "down dns_timeout", "send wait"),
        row("dns: a loop of aliases", Dns(lap), "down dns_error", ANSWERED),
        row(
            "dns: an alias to nowhere",
            Dns(|ask| vec![ask.answer(60, &["shop.test -> gone.test"])]),
            "down dns_no_records",
            ANSWERED,
        ),
        row(
            "dns: truncated, whole by TCP",
            Dns(|ask| if ask.tcp { good(ask) } else { vec![truncated(ask)] }),
            "up",
            tcp,
        ),
        row(
            "dns: truncated, another id by TCP",
            Dns(|ask| {
                let mut message = truncated(ask);
                message.metadata.id ^= u16::from(ask.tcp);
                vec![message]
            }),
            "down dns_error",
            tcp,
        ),
        row(
            "dns: truncated, closed by TCP",
            Dns(|ask| if ask.tcp { vec![] } else { vec![truncated(ask)] }),
            "down dns_error",
            "connect send wait receive",
        ),
        row(
            "dns: an alias to what does not exist",
            Dns(|ask| {
                let mut message = ask.answer(60, &["shop.test -> gone.test"]);
                message.metadata.response_code = ResponseCode::NXDomain;
                vec![message]
            }),
            "down dns_nxdomain",
            ANSWERED,
        ),
        row("dns: lies only", Dns(lies), "down dns_error", "send wait").slow(),
        row("dns: lies, and then the truth", Dns(|ask| [lies(ask), good(ask)].concat()), "up", ANSWERED),
        row("dns: the first packet is lost", Dns(|ask| if ask.nth == 0 { vec![] } else { good(ask) }), "up", ANSWERED),
        row("dns: another record than expected", Dns(good), "up", ANSWERED)
            .keys(json!({ "record": "A", "expect": { "answers": ["192.0.2.1", "192.0.2.2"], "answers_exact": true } })),
        row("dns: rcode differs", Dns(good), "down dns_answer_mismatch", ANSWERED)
            .keys(expect(json!({ "rcode": "NXDOMAIN" }))),
        row(
            "dns: servfail where another code is expected",
            Dns(|ask| vec![ask.code(ResponseCode::ServFail)]),
            "down dns_servfail",
            ANSWERED,
        )
        .keys(expect(json!({ "rcode": "NXDOMAIN" }))),
        row("dns: a serial that is new enough", Dns(serial), "up", ANSWERED)
            .keys(json!({ "record": "SOA", "expect": { "serial_at_least": 5 } })),
        row("dns: a serial of yesterday", Dns(serial), "down dns_answer_mismatch", ANSWERED)
            .keys(json!({ "record": "SOA", "expect": { "serial_at_least": 6 } })),
        row(
            "dns: nobody there",
            made(|_| async {
                let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
                Made::at("dns:shop.test", ()).with("resolver", socket.local_addr().unwrap().to_string())
            }),
            "down connect_refused",
            "send wait",
        ),
        row(
            "dns: nobody there by TCP",
            made(|_| async {
                let at = crate::support::servers::http::closed_port().await;
                Made::at("dns:shop.test", ()).with("resolver", format!("tcp://{at}"))
            }),
            "down connect_refused",
            "connect",
        ),
        row("dns: our own resolver is not there", At("dns:shop.test"), "unknown resolver_unavailable", "wait"),
        row("dns: not validated", Dns(good), "down dns_answer_mismatch", ANSWERED)
            .keys(expect(json!({ "authenticated": true }))),
    ]
}
