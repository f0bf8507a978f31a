//! Connections, exchanges, datagrams, and what is not allowed to be reached.

use serde_json::json;

use super::Serves::{At, AtAccept, Nobody, Udp};
use super::{Row, row};
use crate::support::servers::http::{Act, text};

pub(super) fn rows() -> Vec<Row> {
    let tcp = |acts| AtAccept("tcp", acts);
    let tls = |acts| AtAccept("tls", acts);
    let greeting = || json!({ "exchange": [{ "expect": "^220" }] });
    let ping = || json!({ "exchange": [{ "send": "ping" }, { "expect": "^ping$" }] });
    let heard = "connect wait receive";
    let shaken = "connect tls";
    let mut rows = vec![
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
        row("tls: refused", Nobody("tls"), "down connect_refused", "connect"),
        row("tls: stalls", tls(vec![Act::Hang]), "down tls_timeout", shaken),
        row("tls: a mail server", tls(vec![text("220 mail\r\n"), Act::Hang]), "down tls_handshake", shaken),
        row("tls: closes", tls(vec![]), "down tls_handshake", shaken),
        row("udp: echo", Udp(|asked| vec![asked.to_vec()]), "up", "send wait receive").keys(ping()),
        row("udp: silence", Udp(|_| vec![]), "down response_timeout", "send wait").keys(ping()),
        row("udp: another answer", Udp(|_| vec![b"no".to_vec()]), "down exchange_mismatch", "send wait receive")
            .keys(ping())
            .slow(),
        row("udp: forbidden", At("udp://169.254.169.254:80"), "down egress_blocked", "").keys(ping()),
        row("exec: no such program", At("exec:/no/such/plugin"), "unknown internal", ""),
        row("exec: not allowed", At("exec:/"), "unknown permission_denied", ""),
        row("exec: well", At("exec:/bin/true"), "up", "wait"),
        row("exec: warns", At("exec:/bin/false"), "degraded command_failed", "wait"),
        row("exec: critical", At("exec:/bin/sh -c 'exit 2'"), "down command_failed", "wait"),
        row("exec: does not know", At("exec:/bin/sh -c 'exit 3'"), "unknown command_failed", "wait"),
    ];
    let alerts: [(&str, u8, &str); 5] = [
        ("tls: alert, no cipher", 40, "down tls_handshake"),
        ("tls: alert, certificate", 42, "down tls_handshake"),
        ("tls: alert, version", 70, "down tls_version"),
        ("tls: alert, internal", 80, "down tls_handshake"),
        ("tls: alert, name", 112, "down tls_handshake"),
    ];
    for (name, code, wanted) in alerts {
        rows.push(row(name, tls(vec![Act::Send(vec![0x15, 3, 3, 0, 2, 2, code]), Act::Hang]), wanted, shaken));
    }
    rows
}
