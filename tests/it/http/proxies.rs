//! Checks through proxies: Debian's, and ours that lie, hang and refuse.

use std::time::Duration;

use lamplighter::model::Failure::{self, *};
use lamplighter::model::{Observation, Owner};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{LONG, SHORT};
use crate::support::nginx::Nginx;
use crate::support::probing::{check, check_row, phases};
use crate::support::servers::http::{Act, Server, answer, closed_port, text};
use crate::support::servers::proxy::{Proxy, processes_of};
use crate::support::servers::tls::RawServer;
use crate::support::target::until;

async fn through(proxy: &str, url: &str) -> Observation {
    let monitor = json!({ "url": url, "proxy": proxy, "tls": { "verify": false }, "expect": { "body_contains": "x" } });
    check(&monitor, LONG).await
}

fn failure(seen: &Observation) -> Option<Failure> {
    seen.fault.as_ref().map(|fault| fault.failure)
}

/// What every proxy must be able to do.
async fn works(proxy: &str, nginx: &Nginx) {
    for url in [nginx.url("/page"), nginx.tls_url("/page")] {
        let seen = through(proxy, &url).await;
        assert_eq!(seen.fault, None, "{proxy} {url}");
        let http = seen.http.as_ref().unwrap();
        assert_eq!((http.status, http.body.len()), (200, 20_000), "{proxy} {url}");
        assert!(seen.certificate.is_some() == url.starts_with("https"));
        let details = serde_json::to_value(seen.details.as_ref().unwrap()).unwrap();
        assert_eq!(details["proxy"], seen.address.unwrap().to_string(), "what is dialled is the proxy");
    }
    assert_eq!(through(proxy, &nginx.tls_url("/page")).await.http.unwrap().version, "HTTP/2");
    // Redirects go the same way.
    let seen = check(&json!({ "url": nginx.url("/folder"), "proxy": proxy }), LONG).await;
    assert_eq!(seen.http.map(|http| (http.status, http.redirects)), Some((403, 1)), "{proxy}: {:?}", seen.fault);
}

#[tokio::test]
async fn proxies_of_the_distribution() {
    let nginx = Nginx::start().await;
    let (tiny, squid, micro) = tokio::join!(Proxy::tinyproxy(None), Proxy::squid(), Proxy::microsocks(None));
    let (http_tiny, http_squid) = (tiny.url("http"), squid.url("http"));
    let socks = [micro.url("socks5"), micro.url("socks5h")];
    for proxy in [&http_tiny, &socks[0], &socks[1]] {
        works(proxy, &nginx).await;
    }
    let dead = closed_port().await;
    // Squid tunnels to port 443 only, unless told otherwise; nothing of ours listens there.
    let plain = through(&http_squid, &nginx.url("/page")).await;
    assert_eq!(plain.http.as_ref().map(|http| http.status), Some(200), "{:?}", plain.fault);
    for (proxy, url, wanted) in [
        (&http_tiny, format!("https://{dead}/"), HostUnreachable),
        (&http_squid, format!("https://{dead}/"), PermissionDenied),
        (&http_squid, format!("http://{dead}/"), ConnectRefused),
        (&http_squid, "https://127.0.0.77/".to_owned(), ConnectRefused),
        (&socks[0], format!("https://{dead}/"), ConnectRefused),
        (&socks[1], format!("http://{dead}/"), ConnectRefused),
    ] {
        let seen = through(proxy, &url).await;
        assert_eq!(failure(&seen), Some(wanted), "{proxy} {url}: {:?}", seen.fault);
        assert!(seen.fault.unwrap().message.contains("the proxy 127.0.0.1:"));
    }
}

#[tokio::test]
async fn no_proxy_outlives_its_test() {
    let (tiny, squid, micro) = tokio::join!(Proxy::tinyproxy(None), Proxy::squid(), Proxy::microsocks(None));
    for proxy in [tiny, squid, micro] {
        let leader = proxy.leader();
        assert!(processes_of(leader).contains(&leader));
        drop(proxy);
        // What others of the group were is the kernel's to end: SIGKILL was sent to all.
        until("all are gone", LONG, async || processes_of(leader).is_empty().then_some(())).await;
    }
}

#[tokio::test]
async fn proxies_that_want_a_password() {
    let nginx = Nginx::start().await;
    let login = Some(("lamp", "hunter2_"));
    let (tiny, micro) = tokio::join!(Proxy::tinyproxy(login), Proxy::microsocks(login));
    for (proxy, scheme) in [(&tiny, "http"), (&micro, "socks5"), (&micro, "socks5h")] {
        works(&proxy.url_with(scheme, "lamp:hunter2%5F"), &nginx).await;
        for wrong in [proxy.url(scheme), proxy.url_with(scheme, "lamp:hunter3")] {
            for url in [nginx.url("/page"), nginx.tls_url("/page")] {
                let seen = through(&wrong, &url).await;
                let Some(fault) = seen.fault else {
                    // Tinyproxy answers a wrong password with 401, which a target may give as well.
                    assert_eq!((scheme, seen.http.unwrap().status), ("http", 401), "{wrong} {url}");
                    continue;
                };
                assert_eq!(fault.failure, PermissionDenied, "{wrong} {url}: {}", fault.message);
                assert!(!fault.message.contains("hunter"), "{}", fault.message);
            }
        }
    }
}

#[tokio::test]
async fn a_proxy_that_is_away_says_nothing_about_the_target() {
    let closed = closed_port().await;
    for (proxy, url) in [
        (format!("http://{closed}"), "http://192.0.2.1/"),
        (format!("http://{closed}"), "https://192.0.2.1/"),
        (format!("socks5://{closed}"), "https://192.0.2.1/"),
        (format!("socks5h://{closed}"), "https://shop.example/"),
    ] {
        let seen = through(&proxy, url).await;
        assert_eq!(
            (failure(&seen), phases(&seen)),
            (Some(ObserverOffline), vec!["connect"]),
            "{proxy}: {:?}",
            seen.fault
        );
    }
}

/// A proxy of HTTP that reads a request and then acts.
async fn connecting(acts: Vec<Act>, timeout: Duration) -> Observation {
    let server = Server::start(move |_| acts.clone()).await;
    let monitor = json!({ "url": "https://192.0.2.1/?token=hunter2", "proxy": format!("http://{}", server.address) });
    let seen = check(&monitor, timeout).await;
    let asked = server.requests();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].line, "CONNECT 192.0.2.1:443 HTTP/1.1");
    assert_eq!(asked[0].header("host"), Some("192.0.2.1:443"));
    seen
}

#[tokio::test]
async fn answers_to_connect() {
    let with = |status: &str, header: &str| answer(status, header, b"sorry");
    for (name, acts, wanted) in [
        ("407", with("407 Proxy Authentication Required", ""), PermissionDenied),
        ("403", with("403 Forbidden", ""), PermissionDenied),
        ("502", with("502 Bad Gateway", ""), HostUnreachable),
        ("504", with("504 Gateway Timeout", ""), ConnectTimeout),
        ("503", with("503 Service Unavailable", ""), ObserverOffline),
        ("500", with("500 Oops", ""), ObserverOffline),
        ("a redirect", with("302 Found", "Location: http://192.0.2.2/\r\n"), ObserverOffline),
        ("refused", with("502 Bad Gateway", "Proxy-Status: p; error=connection_refused\r\n"), ConnectRefused),
        ("no name", with("502 B", "Proxy-Status: p; error=dns_error; rcode=\"NXDOMAIN\"\r\n"), DnsNxdomain),
        ("garbage", vec![text("SSH-2.0-OpenSSH\r\n\r\n")], ObserverOffline),
        ("closed", vec![], ObserverOffline),
        ("reset", vec![Act::Reset], ObserverOffline),
        ("endless head", vec![text("HTTP/1.1 200 OK\r\n"), Act::Endless(b"X: y\r\n".repeat(50))], ObserverOffline),
        // A tunnel, and then what a target does.
        ("a tunnel to nothing", vec![text("HTTP/1.1 200 OK\r\n\r\n")], TlsHandshake),
        ("a tunnel to no TLS", vec![text("HTTP/1.0 200 OK\r\nA: b\r\n\r\n220 mail\r\n"), Act::Hang], TlsHandshake),
    ] {
        let seen = connecting(acts, LONG).await;
        assert_eq!(failure(&seen), Some(wanted), "{name}: {:?}", seen.fault);
        let reached = if wanted == TlsHandshake { vec!["connect", "tls"] } else { vec!["connect"] };
        assert_eq!(phases(&seen), reached, "{name}");
    }
    for (name, acts, wanted) in [
        ("silent", vec![Act::Hang], ConnectTimeout),
        ("dripping", vec![Act::Drip(vec![b'H'; 500], Duration::from_millis(20))], ConnectTimeout),
        ("a silent tunnel", vec![text("HTTP/1.1 200 OK\r\n\r\n"), Act::Hang], TlsTimeout),
    ] {
        let seen = connecting(acts, SHORT).await;
        assert_eq!(failure(&seen), Some(wanted), "{name}: {:?}", seen.fault);
    }
}

/// A proxy of SOCKS that takes the greeting and the request, and answers each with bytes.
async fn socks(greeting: &'static [u8], reply: &'static [u8], timeout: Duration) -> Observation {
    let server = RawServer::start(move |mut stream| async move {
        let mut buffer = [0; 512];
        for bytes in [greeting, reply] {
            if stream.read(&mut buffer).await.is_ok_and(|length| length > 0) {
                let _ = stream.write_all(bytes).await;
            }
        }
        while stream.read(&mut buffer).await.is_ok_and(|length| length > 0) {}
    })
    .await;
    let monitor = json!({ "url": "https://192.0.2.1/", "proxy": format!("socks5://u:hunter2@{}", server.address) });
    check(&monitor, timeout).await
}

#[tokio::test]
async fn answers_of_socks() {
    const OPEN: &[u8] = &[5, 0];
    let replies: [(&'static [u8], Failure); 11] = [
        (&[5, 1, 0, 1], ObserverOffline),
        (&[5, 2, 0, 1], PermissionDenied),
        (&[5, 3, 0, 1], NetworkUnreachable),
        (&[5, 4, 0, 1], HostUnreachable),
        (&[5, 5, 0, 1], ConnectRefused),
        (&[5, 6, 0, 1], ConnectTimeout),
        (&[5, 7, 0, 1], PermissionDenied),
        (&[5, 8, 0, 1], ObserverOffline),
        (&[5, 99, 0, 1], ObserverOffline),
        (&[4, 0, 0, 1], ObserverOffline),
        (&[5, 0, 0, 7], ObserverOffline),
    ];
    for (reply, wanted) in replies {
        let seen = socks(OPEN, reply, LONG).await;
        assert_eq!((failure(&seen), phases(&seen)), (Some(wanted), vec!["connect"]), "{reply:?}: {:?}", seen.fault);
    }
    let greetings: [(&'static [u8], Failure); 4] = [
        (&[5, 0xff], PermissionDenied),
        (&[4, 0], ObserverOffline),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", ObserverOffline),
        // The password is refused.
        (&[5, 2, 1, 1], PermissionDenied),
    ];
    for (greeting, wanted) in greetings {
        assert_eq!(failure(&socks(greeting, &[], LONG).await), Some(wanted), "{greeting:?}");
    }
    // Before it knows of a target, silence is the proxy's own; after, most likely the target's.
    assert_eq!(failure(&socks(&[], &[], SHORT).await), Some(ObserverOffline));
    assert_eq!(failure(&socks(OPEN, &[], SHORT).await), Some(ConnectTimeout));
}

#[tokio::test]
async fn forwarded_requests() {
    let proxy = Server::start(|request| match request.path() {
        "http://shop.example:81/a?b=c" => answer("200 OK", "", b"x"),
        "http://shop.example/squid" => answer("503 S", "X-Squid-Error: ERR_CONNECT_FAIL 111\r\n", b""),
        "http://shop.example/nameless" => answer("503 S", "X-Squid-Error: ERR_DNS_FAIL 0\r\n", b""),
        "http://shop.example/status" => answer("504 G", "Proxy-Status: p; error=connection_timeout\r\n", b""),
        "http://shop.example/noted" => answer("200 OK", "Proxy-Status: p; error=connection_timeout\r\n", b"x"),
        "http://shop.example/locked" => answer("407 P", "", b""),
        _ => answer("502 B", "", b""),
    })
    .await;
    let at = format!("http://lamp:hunter2@{}", proxy.address);
    for (url, status, wanted) in [
        ("http://shop.example:81/a?b=c", 200, None),
        ("http://shop.example/squid", 503, Some(ConnectRefused)),
        ("http://shop.example/nameless", 503, Some(DnsError)),
        ("http://shop.example/status", 504, Some(ConnectTimeout)),
        ("http://shop.example/noted", 200, None),
        ("http://shop.example/locked", 407, Some(PermissionDenied)),
        // Whose this is cannot be told: it is a status as any other.
        ("http://shop.example/else", 502, None),
    ] {
        let seen = through(&at, url).await;
        assert_eq!(failure(&seen), wanted, "{url}: {:?}", seen.fault);
        assert_eq!(seen.http.unwrap().status, status, "{url}");
        assert_eq!(seen.timings.get(lamplighter::model::Phase::Dns), None, "the proxy resolves");
    }
    let asked = &proxy.requests()[0];
    assert_eq!(asked.header("proxy-authorization"), Some("Basic bGFtcDpodW50ZXIy"));
    assert_eq!(asked.header("host"), Some("shop.example:81"));
}

#[tokio::test]
async fn the_guard_decides_about_the_target() {
    let canary = Server::start(|_| answer("200 OK", "", b"x")).await;
    for scheme in ["http", "socks5", "socks5h"] {
        for url in ["http://169.254.169.254/", "https://169.254.169.254/", "http://[::ffff:169.254.169.254]/"] {
            let proxy = format!("{scheme}://{}", canary.address);
            let seen = through(&proxy, url).await;
            assert_eq!(failure(&seen), Some(EgressBlocked), "{proxy} {url}: {:?}", seen.fault);
        }
    }
    assert!(canary.requests().is_empty(), "the proxy was asked");
}

#[tokio::test]
async fn rows_get_addresses_that_passed_and_no_choice() {
    let proxy = Server::start(|request| match request.line.starts_with("CONNECT") {
        true => vec![text("HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"), Act::Hang],
        false => answer("200 OK", "", b"x"),
    })
    .await;
    let operators = format!("http://{}", proxy.address);
    let seen = check_row(&json!({ "url": "http://localhost:8081/" }), Some(&operators), false, SHORT).await;
    assert_eq!(proxy.requests().first().map(|request| request.line.clone()).unwrap(), "CONNECT [::1]:8081 HTTP/1.1");
    assert_eq!(seen.fault, None);
    let before = proxy.requests().len();
    let seen = check_row(&json!({ "url": "http://localhost:8081/" }), Some(&operators), true, SHORT).await;
    assert_eq!(failure(&seen), Some(EgressBlocked), "{:?}", seen.fault);
    assert_eq!(seen.fault.unwrap().failure.owner(), Owner::Policy);
    assert_eq!(proxy.requests().len(), before, "the proxy was asked");
}

#[tokio::test]
async fn a_monitor_may_go_straight() {
    let target = Server::start(|_| answer("200 OK", "", b"x")).await;
    let dead = format!("http://{}", closed_port().await);
    let ask = async |keys: Value| {
        let mut monitor = keys;
        monitor["url"] = json!(target.url("/"));
        crate::support::probing::check_with(&monitor, Some(&dead), LONG).await
    };
    assert_eq!(failure(&ask(json!({})).await), Some(ObserverOffline));
    assert_eq!(failure(&ask(json!({ "proxy": "none" })).await), None);
}
