//! Targets by name: what their name server says, and which of their addresses live.

use std::net::{IpAddr, SocketAddr};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{RData, Record, RecordType};
use serde_json::json;
use tokio::net::TcpListener;

use super::staging::{Made, Row, Serves, made, row};
use crate::net::Blackhole;
use crate::support::probing::net_with;
use crate::support::servers::dns::{Ask, DnsServer, fqdn};
use crate::support::servers::http::{Server, answer};

type Script = fn(&Ask) -> Vec<Message>;

/// Addresses that listen, and addresses that drop every packet, all on one port. On the others of this host nobody
/// listens there: they refuse.
async fn port(listen: &[&str], drop: &[&str]) -> (u16, Vec<TcpListener>, Vec<Blackhole>) {
    let at = |ip: &str, port| SocketAddr::new(ip.parse::<IpAddr>().unwrap(), port);
    'again: loop {
        let first = TcpListener::bind("127.0.0.99:0").await.unwrap();
        let port = first.local_addr().unwrap().port();
        let (mut listeners, mut holes) = (Vec::new(), Vec::new());
        for ip in listen {
            // The port of the same number may be taken.
            let Ok(listener) = TcpListener::bind(at(ip, port)).await else { continue 'again };
            listeners.push(listener);
        }
        for ip in drop {
            holes.push(Blackhole::at(at(ip, port)).await);
        }
        return (port, listeners, holes);
    }
}

/// `tcp://shop.test`, as this name server knows it.
fn named(script: Script, listen: &'static [&str], drop: &'static [&str]) -> Serves {
    made(move |_| async move {
        let names = DnsServer::start(script).await;
        let net = net_with(names.address, Vec::new());
        let (port, listeners, holes) = port(listen, drop).await;
        Made::at(format!("tcp://shop.test:{port}"), (names, listeners, holes)).through(net.into())
    })
}

const HERE: &[&str] = &["127.0.0.1"];
const HERE6: &[&str] = &["::1"];
const NOWHERE: &[&str] = &[];

/// 127.0.0.77 refuses, 127.0.0.78 drops, 127.0.0.1 lives, each where a row says so.
fn two(ask: &Ask) -> Vec<Message> {
    vec![ask.answer(60, &["127.0.0.77", "127.0.0.1"])]
}

fn silent_first(ask: &Ask) -> Vec<Message> {
    vec![ask.answer(60, &["127.0.0.78", "127.0.0.1"])]
}

fn both_versions(ask: &Ask) -> Vec<Message> {
    vec![ask.answer(60, &["::1", "127.0.0.1"])]
}

fn one(ask: &Ask) -> Vec<Message> {
    vec![ask.answer(60, &["127.0.0.1"])]
}

fn one6(ask: &Ask) -> Vec<Message> {
    vec![ask.answer(60, &["::1"])]
}

/// The root is answered for, as by any resolver that lives.
fn only_the_root(ask: &Ask) -> Vec<Message> {
    if ask.name.is_empty() { vec![ask.code(ResponseCode::NoError)] } else { vec![] }
}

pub(super) fn rows() -> Vec<Row> {
    let dialled = "dns connect";
    let mut rows = addresses(dialled);
    rows.extend(answers());
    rows.extend(aliases(dialled));
    rows.extend(forbidden(dialled));
    rows
}

fn addresses(dialled: &'static str) -> Vec<Row> {
    let version = |version: u8| json!({ "ip_version": version });
    vec![
        row("name: one address", named(one, HERE, NOWHERE), "up", dialled),
        row("name: the first of two refuses", named(two, HERE, NOWHERE), "up", dialled),
        row("name: the first of two is silent", named(silent_first, HERE, &["127.0.0.78"]), "up", dialled),
        row("name: both refuse", named(two, NOWHERE, NOWHERE), "down connect_refused", dialled),
        row(
            "name: both are silent",
            named(silent_first, NOWHERE, &["127.0.0.78", "127.0.0.1"]),
            "down connect_timeout",
            dialled,
        ),
        row(
            "name: one is silent, one refuses",
            named(silent_first, NOWHERE, &["127.0.0.78"]),
            "down connect_refused",
            dialled,
        )
        .slow(),
        row("name: IPv6 refuses, IPv4 lives", named(both_versions, HERE, NOWHERE), "up", dialled),
        row("name: IPv6 is silent, IPv4 lives", named(both_versions, HERE, HERE6), "up", dialled),
        row("name: IPv4 refuses, IPv6 lives", named(both_versions, HERE6, NOWHERE), "up", dialled),
        row("name: IPv4 is silent, IPv6 lives", named(both_versions, HERE6, HERE), "up", dialled),
        row("name: neither version lives", named(both_versions, NOWHERE, NOWHERE), "down connect_refused", dialled),
        row("name: only IPv6", named(one6, HERE6, NOWHERE), "up", dialled),
        row("name: IPv6 wanted, IPv4 there", named(one, HERE, NOWHERE), "down dns_no_records", "dns").keys(version(6)),
        row("name: IPv4 wanted, IPv6 there", named(one6, HERE6, NOWHERE), "down dns_no_records", "dns")
            .keys(version(4)),
        row("name: IPv6 wanted, only IPv4 lives", named(both_versions, HERE, NOWHERE), "down connect_refused", dialled)
            .keys(version(6)),
        row(
            "name: IPv4 wanted, only IPv6 lives",
            named(both_versions, HERE6, NOWHERE),
            "down connect_refused",
            dialled,
        )
        .keys(version(4)),
    ]
}

fn answers() -> Vec<Row> {
    let fails = |name: &'static str, script: Script, wanted| row(name, named(script, HERE, NOWHERE), wanted, "dns");
    vec![
        fails("name: nxdomain", |ask| vec![ask.negative(ResponseCode::NXDomain, 9)], "down dns_nxdomain"),
        fails("name: no records", |ask| vec![ask.negative(ResponseCode::NoError, 9)], "down dns_no_records"),
        fails("name: servfail", |ask| vec![ask.code(ResponseCode::ServFail)], "down dns_servfail"),
        fails("name: refused", |ask| vec![ask.code(ResponseCode::Refused)], "down dns_refused"),
        fails("name: not implemented", |ask| vec![ask.code(ResponseCode::NotImp)], "down dns_error"),
        fails("name: silence about it", only_the_root, "down dns_timeout"),
        fails("name: silence about everything", |_| vec![], "unknown resolver_unavailable").slow(),
        row(
            "name: IPv6 is servfail, IPv4 lives",
            named(
                |ask| if ask.record == RecordType::A { one(ask) } else { vec![ask.code(ResponseCode::ServFail)] },
                HERE,
                NOWHERE,
            ),
            "up",
            "dns connect",
        ),
        row(
            "name: silence about IPv6, IPv4 lives",
            named(|ask| if ask.record == RecordType::AAAA { vec![] } else { one(ask) }, HERE, NOWHERE),
            "up",
            "dns connect",
        ),
        row(
            "name: silence about IPv4, IPv6 lives",
            named(|ask| if ask.record == RecordType::A { vec![] } else { one6(ask) }, HERE6, NOWHERE),
            "up",
            "dns connect",
        ),
        row(
            "name: truncated, whole by TCP",
            named(
                |ask| {
                    let mut message = ask.code(ResponseCode::NoError);
                    message.metadata.truncation = true;
                    if ask.tcp { one(ask) } else { vec![message] }
                },
                HERE,
                NOWHERE,
            ),
            "up",
            "dns connect",
        ),
        row(
            "name: a stranger's answer comes first",
            named(
                |ask| {
                    let mut forged = ask.answer(60, &["127.0.0.77"]);
                    forged.metadata.id ^= 1;
                    vec![forged, ask.answer(60, &["127.0.0.1"])]
                },
                HERE,
                NOWHERE,
            ),
            "up",
            "dns connect",
        ),
    ]
}

fn aliases(dialled: &'static str) -> Vec<Row> {
    let alias =
        |name: &'static str, script: Script, wanted, phases| row(name, named(script, HERE, NOWHERE), wanted, phases);
    let gone = |ask: &Ask| {
        let mut message = ask.answer(60, &["shop.test -> gone.test"]);
        message.metadata.response_code = ResponseCode::NXDomain;
        vec![message]
    };
    vec![
        alias("alias: with its address", |ask| vec![addressed(ask, &["shop.test -> a.test"], "a.test")], "up", dialled),
        alias(
            "alias: three in a row",
            |ask| vec![addressed(ask, &["shop.test -> a.test", "a.test -> b.test", "b.test -> c.test"], "c.test")],
            "up",
            dialled,
        ),
        alias("alias: to what does not exist", gone, "down dns_nxdomain", "dns"),
        alias(
            "alias: to nothing",
            |ask| vec![ask.answer(60, &["shop.test -> gone.test"])],
            "down dns_no_records",
            "dns",
        ),
        alias("alias: to itself", |ask| vec![ask.answer(60, &["shop.test -> shop.test"])], "down dns_error", "dns"),
        alias(
            "alias: in circles",
            |ask| vec![ask.answer(60, &["shop.test -> a.test", "a.test -> shop.test"])],
            "down dns_error",
            "dns",
        ),
        alias(
            "alias: without end",
            |ask| {
                let chain: Vec<String> = (0..200)
                    .map(|n| {
                        format!(
                            "{} -> n{n}.test",
                            if n == 0 { "shop.test".to_owned() } else { format!("n{}.test", n - 1) }
                        )
                    })
                    .collect();
                vec![ask.answer(60, &chain.iter().map(String::as_str).collect::<Vec<_>>())]
            },
            "down dns_error",
            "dns",
        ),
    ]
}

/// Aliases, and an address of the last of them.
fn addressed(ask: &Ask, aliases: &[&str], last: &str) -> Message {
    let mut message = ask.answer(60, aliases);
    if ask.record == RecordType::A {
        let here = RData::A(A([127, 0, 0, 1].into()));
        message.add_answer(Record::from_rdata(fqdn(last), 60, here));
    }
    message
}

fn forbidden(dialled: &'static str) -> Vec<Row> {
    vec![
        row(
            "name: of the metadata service",
            named(|ask| vec![ask.answer(60, &["169.254.169.254"])], HERE, NOWHERE),
            "down egress_blocked",
            "dns",
        ),
        row(
            "name: of the metadata service and a host that lives",
            named(|ask| vec![ask.answer(60, &["169.254.169.254", "127.0.0.1"])], HERE, NOWHERE),
            "up",
            dialled,
        ),
        row(
            "name: of the metadata service and a host that refuses",
            named(|ask| vec![ask.answer(60, &["169.254.169.254", "127.0.0.77"])], HERE, NOWHERE),
            "down connect_refused",
            dialled,
        ),
        row(
            "name: another address after a redirect",
            made(|_| async {
                let names = DnsServer::start(|ask| {
                    let address = if ask.nth == 0 { "127.0.0.1" } else { "169.254.169.254" };
                    vec![ask.answer(0, &[address])]
                });
                let names = names.await;
                let server = Server::start(|_| answer("302 Found", "Location: /inside\r\n", b"")).await;
                let url = format!("http://shop.test:{}/", server.address.port());
                let net = net_with(names.address, Vec::new());
                Made::at(url, (server, names)).through(net.into())
            }),
            "down egress_blocked",
            "dns connect send wait receive",
        ),
    ]
}
