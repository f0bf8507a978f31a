//! Name servers.

use hickory_proto::op::{Message, ResponseCode};
use serde_json::json;

use super::{Row, Serves::Dns, row};
use crate::support::servers::dns::Ask;

const ANSWERED: &str = "send wait receive";

fn good(ask: &Ask) -> Vec<Message> {
    vec![ask.answer(60, &["192.0.2.1", "192.0.2.2"])]
}

fn truncated(ask: &Ask) -> Message {
    let mut message = ask.code(ResponseCode::NoError);
    message.metadata.truncation = true;
    message
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
        row("dns: not validated", Dns(good), "down dns_answer_mismatch", ANSWERED)
            .keys(expect(json!({ "authenticated": true }))),
    ]
}
