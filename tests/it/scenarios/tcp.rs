//! Connections, exchanges, datagrams, and what is not allowed to be reached.

use serde_json::json;

use super::staging::Serves::{At, AtAccept, Nobody, Udp};
use super::staging::{Made, Row, made, row};
use crate::net::Blackhole;
use crate::support::servers::http::closed_port;
use crate::support::servers::http::{Act, text};

pub(super) fn rows() -> Vec<Row> {
    let tcp = |acts| AtAccept("tcp", acts);
    let greeting = || json!({ "exchange": [{ "expect": "^220" }] });
    let ping = || json!({ "exchange": [{ "send": "ping" }, { "expect": "^ping$" }] });
    let heard = "connect wait receive";
    vec![
        row("tcp: open", tcp(vec![Act::Hang]), "up", "connect"),
        row("tcp: refused", Nobody("tcp"), "down connect_refused", "connect"),
        row("tcp: forbidden", At("tcp://169.254.169.254:80"), "down egress_blocked", ""),
        row("tcp: no resolver", At("tcp://shop.test:80"), "unknown resolver_unavailable", "dns"),
        row("tcp: greets", tcp(vec![text("220 mail\r\n"), Act::Hang]), "up", heard).keys(greeting()),
        row("tcp: greets otherwise", tcp(vec![text("554 no\r\n")]), "down exchange_mismatch", heard).keys(greeting()),
        row("tcp: says nothing", tcp(vec![Act::Hang]), "down response_timeout", "connect wait").keys(greeting()),
        row("tcp: closes", tcp(vec![]), "down connection_closed", "connect wait").keys(greeting()),
        row("tcp: resets", tcp(vec![Act::Reset]), "down connection_reset", "connect wait").keys(greeting()),
        row("tcp: floods", tcp(vec![Act::Endless(vec![b'x'; 4096])]), "down exchange_mismatch", heard).keys(greeting()),
        row("udp: echo", Udp(|asked| vec![asked.to_vec()]), "up", "send wait receive").keys(ping()),
        row("udp: silence", Udp(|_| vec![]), "down response_timeout", "send wait").keys(ping()),
        row("udp: another answer", Udp(|_| vec![b"no".to_vec()]), "down exchange_mismatch", "send wait receive")
            .keys(ping())
            .slow(),
        row("udp: forbidden", At("udp://169.254.169.254:80"), "down egress_blocked", "").keys(ping()),
        row("exec: no such program", At("exec:/no/such/plugin"), "unknown internal", "wait"),
        row("exec: not allowed", At("exec:/"), "unknown permission_denied", "wait"),
        row("exec: well", At("exec:/bin/true"), "up", "wait"),
        row("exec: warns", At("exec:/bin/false"), "degraded command_failed", "wait"),
        row("exec: critical", At("exec:/bin/sh -c 'exit 2'"), "down command_failed", "wait"),
        row("exec: does not know", At("exec:/bin/sh -c 'exit 3'"), "unknown command_failed", "wait"),
        row(
            "tcp: drops every packet",
            made(|_| async {
                let hole = Blackhole::at("127.0.0.1:0".parse().unwrap()).await;
                Made::at(format!("tcp://{}", hole.address), hole)
            }),
            "down connect_timeout",
            "connect",
        ),
        row(
            "tcp: refused by IPv6",
            made(|_| async { Made::at(format!("tcp://[::1]:{}", closed_port().await.port()), ()) }),
            "down connect_refused",
            "connect",
        ),
        row("tcp: an address of the other version", Nobody("tcp"), "down dns_no_records", "")
            .keys(json!({ "ip_version": 6 })),
        row("tcp: half a greeting", tcp(vec![text("22"), Act::Hang]), "down exchange_mismatch", heard)
            .keys(greeting())
            .slow(),
        row(
            "tcp: greets, then closes",
            tcp(vec![text("220 mail\r\n")]),
            "down connection_closed",
            "connect send wait receive",
        )
        .keys(json!({ "exchange": [{ "expect": "^220" }, { "send": "EHLO a\r\n" }, { "expect": "^250" }] })),
        row(
            "udp: nobody there",
            made(|_| async {
                let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
                Made::at(format!("udp://{}", socket.local_addr().unwrap()), ())
            }),
            "down connect_refused",
            "send wait",
        )
        .keys(ping()),
    ]
}
