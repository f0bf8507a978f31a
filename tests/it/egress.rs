//! Forbidden addresses: a canary there hears nothing, whatever the kind of the monitor and however the address came.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use lamplighter::model::{Failure, Observation};
use lamplighter::probe::net::{EgressOptions, Net};
use serde_json::{Value, json};

use crate::support::canary::Canary;
use crate::support::every::{Way, table, ways};
use crate::support::probing::{attempt, net_of, prepare_as};
use crate::support::servers::dns::{Ask, DnsServer};
use crate::support::target::until;

mod program;
mod redirects;

const LONG: Duration = Duration::from_secs(20);
/// For those that wait in vain.
const SHORT: Duration = Duration::from_millis(300);

fn denying(nets: &[&str]) -> EgressOptions {
    EgressOptions { deny: nets.iter().map(|net| net.parse().unwrap()).collect(), ..EgressOptions::default() }
}

fn failure(seen: &Observation) -> Option<Failure> {
    seen.fault.as_ref().map(|fault| fault.failure)
}

async fn check(net: &Net, trusted: bool, monitor: &Value, timeout: Duration) -> Observation {
    attempt(net, &prepare_as(trusted, monitor), monitor, timeout).await
}

/// 127.0.0.66, as an operator or an attacker may write it.
const NOTATIONS: [&str; 12] = [
    "127.0.0.66",
    "127.66",
    "0x7f.66",
    "2130706498",
    "0x7f000042",
    "0177.0.0.0102",
    "127.0.0.66.",
    "①②⑦.0.0.６６",
    "[::ffff:127.0.0.66]",
    "[::ffff:7f00:42]",
    "[64:ff9b::7f00:42]",
    "[2002:7f00:42::]",
];

/// Names that lead there and nowhere else.
fn lie(ask: &Ask) -> Vec<Message> {
    let addresses: &[&str] = match ask.name.as_str() {
        "plain.test" => &["127.0.0.66"],
        "mapped.test" => &["::ffff:127.0.0.66"],
        "both.test" => &["127.0.0.66", "::ffff:127.0.0.66", "64:ff9b::7f00:42"],
        "alias.test" => &["alias.test -> plain.test"],
        _ => &[],
    };
    let mut answer = ask.answer(0, addresses);
    if ask.name == "alias.test" && ask.record == RecordType::A {
        let ip = hickory_proto::rr::RData::A("127.0.0.66".parse().unwrap());
        let owner = crate::support::servers::dns::fqdn("plain.test");
        answer.add_answer(hickory_proto::rr::Record::from_rdata(owner, 0, ip));
    }
    vec![answer]
}

#[tokio::test]
async fn a_forbidden_address_is_not_dialled_in_any_notation_nor_by_any_name() {
    let canary = Canary::at([127, 0, 0, 66].into()).await;
    let server = DnsServer::start(lie).await;
    let denied = net_of(server.address, Vec::new(), denying(&["127.0.0.66/32"]));
    let public = EgressOptions { rows_public_only: true, ..EgressOptions::default() };
    let public = net_of(server.address, Vec::new(), public);
    let hosts = [&NOTATIONS[..], &["plain.test", "mapped.test", "both.test", "alias.test"]].concat();
    for way in ways() {
        for host in &hosts {
            let monitor = way.to(host, canary.address.port());
            for (net, trusted) in [(&denied, true), (&denied, false), (&public, false)] {
                let seen = check(net, trusted, &monitor, LONG).await;
                assert_eq!(failure(&seen), Some(Failure::EgressBlocked), "{monitor}: {:?}", seen.fault);
                assert_eq!(seen.timings.get(lamplighter::model::Phase::Connect), None, "{monitor}");
            }
        }
    }
    assert_eq!(canary.heard(), 0, "the canary was dialled");
    // It does hear who may come.
    let free = net_of(server.address, Vec::new(), EgressOptions::default());
    for way in ways() {
        let before = canary.heard();
        check(&free, true, &way.to("127.0.0.66", canary.address.port()), SHORT).await;
        if way.kind != "icmp" || canary.hears_pings {
            until(&way.id(), LONG, async || (canary.heard() > before).then_some(())).await;
        }
    }
}

/// Of some addresses one may be dialled, or of two answers the first.
fn turn(ask: &Ask) -> Vec<Message> {
    let addresses: &[&str] = match (ask.name.split('.').next(), ask.record, ask.nth) {
        (Some("mixed"), ..) => &["127.0.0.68", "127.0.0.69", "::ffff:127.0.0.68", "64:ff9b::7f00:44"],
        // Lost; it is asked again a second later, when the other family has failed.
        (Some("late"), RecordType::AAAA, 0) => return Vec::new(),
        (Some("late"), RecordType::AAAA, _) => &["::ffff:127.0.0.68"],
        (Some("late"), ..) => &["127.0.0.69"],
        (_, RecordType::A, 0) => &["127.0.0.69"],
        (_, _, 0) => return vec![ask.code(ResponseCode::NoError)],
        _ => &["127.0.0.68", "::ffff:127.0.0.68"],
    };
    vec![ask.answer(0, addresses)]
}

#[tokio::test]
async fn of_mixed_and_changing_answers_only_what_is_allowed_is_dialled() {
    let canary = Canary::at([127, 0, 0, 68].into()).await;
    let port = canary.address.port();
    let server = DnsServer::start(turn).await;
    let net = net_of(server.address, Vec::new(), denying(&["127.0.0.68/32"]));
    let allowed = |seen: &Observation| seen.address.map(|address: SocketAddr| address.ip().to_string());
    let one = async |way: Way| {
        let seen = check(&net, false, &way.to("mixed.test", port), SHORT).await;
        assert_ne!(failure(&seen), Some(Failure::EgressBlocked), "{}", way.id());
        assert_eq!(allowed(&seen).as_deref(), Some("127.0.0.69"), "{}", way.id());
        // A name of its own, so that each sees the first answer.
        let monitor = way.to(&format!("rebound.{}.test", way.id()), port);
        let first = check(&net, false, &monitor, SHORT).await;
        assert_eq!(allowed(&first).as_deref(), Some("127.0.0.69"), "{}: {:?}", way.id(), first.fault);
        let second = check(&net, false, &monitor, LONG).await;
        assert_eq!(failure(&second), Some(Failure::EgressBlocked), "{}: {:?}", way.id(), second.fault);
    };
    join_all(ways().into_iter().map(one)).await;
    let seen = check(&net, false, &json!({ "url": format!("tcp://late.test:{port}") }), LONG).await;
    assert_eq!(failure(&seen), Some(Failure::ConnectRefused), "{:?}", seen.fault);
    assert_eq!(server.asked("late.test", RecordType::AAAA), 2, "the late answer was not waited for");
    assert_eq!(canary.heard(), 0, "the canary was dialled");
}
