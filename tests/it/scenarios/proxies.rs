//! Through a proxy: what is its own trouble, and what is the target's.

use super::staging::{Made, Row, Serves, made, row};
use crate::support::servers::http::{Act, Server, answer, closed_port, text};
use crate::support::servers::tls::RawServer;

/// Never dialled by us: TEST-NET-1.
const TARGET: &str = "https://192.0.2.1/";

/// Follows the acts after CONNECT.
fn connecting(acts: Vec<Act>) -> Serves {
    made(|_| async {
        let server = Server::start(move |_| acts.clone()).await;
        let proxy = format!("http://{}", server.address);
        let asked =
            |line: &str| (line != "CONNECT 192.0.2.1:443 HTTP/1.1").then(|| format!("the proxy was asked: {line}"));
        let log = server.log();
        let made = Made::at(TARGET, server).with("proxy", proxy);
        made.afterwards(move |_| log.lock().unwrap().iter().find_map(|request| asked(&request.line)))
    })
}

/// An http target, which is asked of the proxy and not tunnelled to.
fn forwarding(acts: Vec<Act>) -> Serves {
    made(|_| async {
        let server = Server::start(move |_| acts.clone()).await;
        let proxy = format!("http://{}", server.address);
        Made::at("http://shop.example/", server).with("proxy", proxy)
    })
}

/// Answers greeting and request with these bytes.
fn socks(greeting: &'static [u8], reply: &'static [u8]) -> Serves {
    made(move |_| async move {
        let server = RawServer::start(move |mut stream| async move {
            use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
            let mut buffer = [0; 512];
            for bytes in [greeting, reply] {
                if stream.read(&mut buffer).await.is_ok_and(|length| length > 0) {
                    let _ = stream.write_all(bytes).await;
                }
            }
            while stream.read(&mut buffer).await.is_ok_and(|length| length > 0) {}
        })
        .await;
        let proxy = format!("socks5://{}", server.address);
        Made::at(TARGET, server).with("proxy", proxy)
    })
}

fn gone(scheme: &'static str) -> Serves {
    made(move |_| async move {
        let proxy = format!("{scheme}://{}", closed_port().await);
        Made::at(TARGET, ()).with("proxy", proxy)
    })
}

const OFFLINE: &str = "unknown observer_offline";
const DENIED: &str = "unknown permission_denied";
const TUNNEL: &str = "HTTP/1.1 200 OK\r\n\r\n";

pub(super) fn rows() -> Vec<Row> {
    let mut rows = connect();
    rows.extend(forwarded());
    rows.extend(replies_of_socks());
    rows
}

fn connect() -> Vec<Row> {
    let with = |status: &str, header: &str| connecting(answer(status, header, b"sorry"));
    let at = |name: &'static str, serves, wanted| row(name, serves, wanted, "connect");
    vec![
        at("proxy: not there", gone("http"), OFFLINE),
        at(
            "proxy: wants a password",
            with("407 Proxy Authentication Required", "Proxy-Authenticate: Basic\r\n"),
            DENIED,
        ),
        at("proxy: forbids the target", with("403 Forbidden", ""), DENIED),
        at("proxy: 502", with("502 Bad Gateway", ""), "down host_unreachable"),
        at("proxy: 503", with("503 Service Unavailable", ""), OFFLINE),
        at("proxy: 504", with("504 Gateway Timeout", ""), "down connect_timeout"),
        at("proxy: 500", with("500 Oops", ""), OFFLINE),
        at("proxy: redirects", with("302 Found", "Location: http://192.0.2.2/\r\n"), OFFLINE),
        at(
            "proxy: the target refuses",
            with("502 B", "Proxy-Status: p; error=connection_refused\r\n"),
            "down connect_refused",
        ),
        at(
            "proxy: the target does not exist",
            with("502 B", "Proxy-Status: p; error=dns_error; rcode=\"NXDOMAIN\"\r\n"),
            "down dns_nxdomain",
        ),
        at(
            "proxy: the target is silent",
            with("502 B", "Proxy-Status: p; error=connection_timeout\r\n"),
            "down connect_timeout",
        ),
        at("proxy: speaks ssh", connecting(vec![text("SSH-2.0-OpenSSH\r\n\r\n")]), OFFLINE),
        at("proxy: closes", connecting(vec![]), OFFLINE),
        at("proxy: resets", connecting(vec![Act::Reset]), OFFLINE),
        at("proxy: silent", connecting(vec![Act::Hang]), "down connect_timeout"),
        at(
            "proxy: an endless head",
            connecting(vec![text("HTTP/1.1 200 OK\r\n"), Act::Endless(b"X: y\r\n".repeat(50))]),
            OFFLINE,
        ),
        row("proxy: a tunnel that is closed", connecting(vec![text(TUNNEL)]), "down tls_handshake", "connect tls"),
        row(
            "proxy: a tunnel that is reset",
            connecting(vec![text(TUNNEL), Act::Reset]),
            "down connection_reset",
            "connect tls",
        ),
        row(
            "proxy: a tunnel that is silent",
            connecting(vec![text(TUNNEL), Act::Hang]),
            "down tls_timeout",
            "connect tls",
        ),
        row(
            "proxy: a tunnel to a plain port",
            connecting(vec![text(&format!("{TUNNEL}220 mail\r\n")), Act::Hang]),
            "down tls_handshake",
            "connect tls",
        ),
        row(
            "proxy: a target that is forbidden",
            made(|_| async {
                let server = Server::start(|_| answer("200 OK", "", b"")).await;
                let (proxy, log) = (format!("http://{}", server.address), server.log());
                let made = Made::at("https://169.254.169.254/", server).with("proxy", proxy);
                made.afterwards(move |_| (!log.lock().unwrap().is_empty()).then(|| "the proxy was asked".to_owned()))
            }),
            "down egress_blocked",
            "",
        ),
    ]
}

fn forwarded() -> Vec<Row> {
    let all = "connect send wait receive";
    let with = |status: &str, header: &str| forwarding(answer(status, header, b""));
    vec![
        row("forwarding proxy: 200", with("200 OK", ""), "up", all),
        row("forwarding proxy: wants a password", with("407 P", ""), DENIED, all),
        // Whose it is cannot be told.
        row("forwarding proxy: 502", with("502 B", ""), "down status_unexpected", all),
        row(
            "forwarding proxy: the target refuses",
            with("503 S", "X-Squid-Error: ERR_CONNECT_FAIL 111\r\n"),
            "down connect_refused",
            all,
        ),
        row("forwarding proxy: silent", forwarding(vec![Act::Hang]), "down response_timeout", "connect send wait"),
    ]
}

fn replies_of_socks() -> Vec<Row> {
    const OPEN: &[u8] = &[5, 0];
    let at = |name: &'static str, serves, wanted| row(name, serves, wanted, "connect");
    vec![
        at("socks: not there", gone("socks5"), OFFLINE),
        at("socks: general failure", socks(OPEN, &[5, 1, 0, 1]), OFFLINE),
        at("socks: not allowed", socks(OPEN, &[5, 2, 0, 1]), DENIED),
        at("socks: network unreachable", socks(OPEN, &[5, 3, 0, 1]), "down network_unreachable"),
        at("socks: host unreachable", socks(OPEN, &[5, 4, 0, 1]), "down host_unreachable"),
        at("socks: refused", socks(OPEN, &[5, 5, 0, 1]), "down connect_refused"),
        at("socks: expired", socks(OPEN, &[5, 6, 0, 1]), "down connect_timeout"),
        at("socks: no such command", socks(OPEN, &[5, 7, 0, 1]), DENIED),
        at("socks: no such address type", socks(OPEN, &[5, 8, 0, 1]), OFFLINE),
        at("socks: unheard of", socks(OPEN, &[5, 99, 0, 1]), OFFLINE),
        at("socks: of version 4", socks(&[4, 0], &[]), OFFLINE),
        at("socks: no method in common", socks(&[5, 0xff], &[]), DENIED),
        at("socks: a web server", socks(b"HTTP/1.1 400 Bad Request\r\n\r\n", &[]), OFFLINE),
        at("socks: silent", socks(&[], &[]), OFFLINE).slow(),
        at("socks: silent once it knows the target", socks(OPEN, &[]), "down connect_timeout"),
    ]
}
