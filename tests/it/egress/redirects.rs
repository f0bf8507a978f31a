//! What others lead to: redirects, registries, proxies.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::support::probing::prepare;
use crate::support::servers::http::{Server, answer};

/// 127.0.0.72, as a server may write it.
fn locations(port: u16) -> Vec<String> {
    [
        "http://127.0.0.72:@/",
        "//127.0.0.72:@/x",
        "http://127.72:@/",
        "http://2130706504:@/",
        "http://0x7f.0.0.0x48:@/",
        "http://[::ffff:127.0.0.72]:@/",
        "https://127.0.0.72:@/",
        "http:\\\\127.0.0.72:@\\",
        // The digits in circles, as a URL has them in ASCII.
        "HTTP://%E2%91%A0%E2%91%A1%E2%91%A6.0.0.72:@/",
        "http://there.test:@/",
    ]
    .iter()
    .map(|text| text.replace('@', &port.to_string()))
    .chain([format!("http://127.0.0.1:80@127.0.0.72:{port}/")])
    .collect()
}

#[tokio::test]
async fn redirects_do_not_lead_into_forbidden_space() {
    let canary = Canary::at([127, 0, 0, 72].into()).await;
    let port = canary.address.port();
    let places = Arc::new(locations(port));
    let turn = Arc::new(AtomicUsize::new(0));
    let (own, at) = (Arc::clone(&places), Arc::clone(&turn));
    let server =
        Server::start(move |_| answer("302 Found", &format!("Location: {}\r\n", own[at.load(Ordering::SeqCst)]), b""))
            .await;
    let names = DnsServer::start(|ask| vec![ask.answer(0, &["127.0.0.72"])]).await;
    let net = net_of(names.address, Vec::new(), denying(&["127.0.0.72/32"]));
    for (index, place) in places.iter().enumerate() {
        turn.store(index, Ordering::SeqCst);
        for trusted in [true, false] {
            for monitor in
                [json!({ "url": server.url("/") }), json!({ "url": "domain:shop.example", "rdap": server.url("/") })]
            {
                let seen = check(&net, trusted, &monitor, LONG).await;
                // Credentials that a server thinks of are refused before anything else.
                let named = monitor.get("rdap").is_none() && place.contains('@');
                let wanted = if named { Failure::RedirectBlocked } else { Failure::EgressBlocked };
                assert_eq!(failure(&seen), Some(wanted), "{monitor} to {place}: {:?}", seen.fault);
            }
        }
    }
    assert_eq!(server.requests().len(), places.len() * 4);
    assert_eq!(canary.heard(), 0, "the canary was dialled");
}

#[tokio::test]
async fn a_redirect_to_the_same_name_is_looked_up_and_looked_at_anew() {
    let canary = Canary::at([127, 0, 0, 73].into()).await;
    let server = Server::start(|_| answer("302 Found", "Location: /next\r\n", b"")).await;
    let names = DnsServer::start(|ask| match ask.nth {
        0 => vec![ask.answer(0, &["127.0.0.1"])],
        _ => vec![ask.answer(0, &["127.0.0.73"])],
    })
    .await;
    let net = net_of(names.address, Vec::new(), denying(&["127.0.0.73/32"]));
    let port = server.address.port();
    for monitor in [
        json!({ "url": format!("http://here.test:{port}/") }),
        json!({ "url": "domain:shop.example", "rdap": format!("http://registry.test:{port}/") }),
    ] {
        let seen = check(&net, false, &monitor, LONG).await;
        assert_eq!(failure(&seen), Some(Failure::EgressBlocked), "{monitor}: {:?}", seen.fault);
    }
    assert_eq!((server.requests().len(), canary.heard()), (2, 0));
}

#[tokio::test]
async fn a_list_of_registries_does_not_lead_there_either() {
    let canary = Canary::at([127, 0, 0, 74].into()).await;
    let list = json!({ "services": [[["example"], [format!("http://{}/", canary.address)]]] }).to_string();
    let server = Server::start(move |_| answer("200 OK", "", list.as_bytes())).await;
    let net = net_of("127.0.0.1:9".parse().unwrap(), Vec::new(), denying(&["127.0.0.74/32"]));
    let net = net.with_rdap_bootstrap(server.url("/"));
    let monitor = json!({ "url": "domain:shop.example" });
    let prepared = prepare(&monitor);
    for _ in 0..2 {
        let seen = attempt(&net, &prepared, &monitor, LONG).await;
        assert_eq!(failure(&seen), Some(Failure::EgressBlocked), "{:?}", seen.fault);
        assert_eq!((server.requests().len(), canary.heard()), (1, 0), "who led us there is not asked at every check");
    }
    // Where nobody was asked nobody is waited for: the rules may change.
    let monitor = json!({ "url": "domain:shop.example", "rdap": format!("http://{}/", canary.address) });
    let prepared = prepare(&monitor);
    for _ in 0..2 {
        let seen = attempt(&net, &prepared, &monitor, LONG).await;
        assert_eq!((failure(&seen), canary.heard()), (Some(Failure::EgressBlocked), 0), "{:?}", seen.fault);
    }
    let free = net_of("127.0.0.1:9".parse().unwrap(), Vec::new(), EgressOptions::default());
    attempt(&free, &prepared, &monitor, LONG).await;
    until("it is asked at once", LONG, async || (canary.heard() > 0).then_some(())).await;
}

#[tokio::test]
async fn a_proxy_is_not_asked_for_what_is_forbidden_nor_dialled_where_it_is() {
    let canary = Canary::at([127, 0, 0, 75].into()).await;
    let names = DnsServer::start(|ask| vec![ask.answer(0, &["127.0.0.75"])]).await;
    let net = net_of(names.address, Vec::new(), denying(&["127.0.0.75/32"]));
    let proxy = Canary::at([127, 0, 0, 76].into()).await;
    for scheme in ["http", "socks5", "socks5h"] {
        for target in ["http", "https"] {
            // A proxy that resolves names does so for the operator; see docs/checks.md.
            let hosts: &[&str] = if scheme == "socks5" { &["127.0.0.75", "there.test"] } else { &["127.0.0.75"] };
            for host in hosts {
                let url = format!("{target}://{host}:{}/", canary.address.port());
                let monitor = json!({ "url": url, "proxy": format!("{scheme}://{}", proxy.address) });
                let seen = check(&net, true, &monitor, LONG).await;
                assert_eq!(failure(&seen), Some(Failure::EgressBlocked), "{monitor}: {:?}", seen.fault);
            }
            let monitor = json!({
                "url": format!("{target}://127.0.0.1:1/"),
                "proxy": format!("{scheme}://{}", canary.address),
            });
            let seen = check(&net, true, &monitor, LONG).await;
            // Not the target's: the operator names a proxy that the operator forbids.
            assert_eq!(failure(&seen), Some(Failure::ObserverOffline), "{monitor}: {:?}", seen.fault);
            assert!(seen.fault.unwrap().message.contains("egress.deny has 127.0.0.75/32"));
        }
    }
    assert_eq!((proxy.heard(), canary.heard()), (0, 0));
}
