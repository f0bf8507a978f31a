//! Addresses: refused, silent, blocked, raced.

use super::*;

async fn literal(net: &Net, address: SocketAddr, profile: Profile, ms: u64) -> (Result<Dialled, NotDialled>, Timings) {
    let host = match address {
        SocketAddr::V4(v4) => url::Host::Ipv4(*v4.ip()),
        SocketAddr::V6(v6) => url::Host::Ipv6(*v6.ip()),
    };
    dial(net, host, address.port(), IpVersion::Any, profile, ms).await
}

#[tokio::test]
async fn a_closed_port_refuses() {
    let net = net(&[], &[], EgressOptions::default());
    for ip in ["127.0.0.1", "::1"] {
        let address = closed_port(ip).await;
        let (result, timings) = literal(&net, address, Profile::File, 5000).await;
        let not = result.err().unwrap();
        assert_eq!((not.fault.failure, not.address), (Failure::ConnectRefused, Some(address)), "{}", not.fault.message);
        assert_eq!(phases(&timings), (false, true, false));
    }
}

#[tokio::test]
async fn a_port_that_drops_everything_takes_until_the_deadline() {
    let net = net(&[], &[], EgressOptions::default());
    let hole = Blackhole::at("127.0.0.1:0".parse().unwrap()).await;
    let (result, timings) = literal(&net, hole.address, Profile::File, 300).await;
    assert_eq!(failure(&result), Some(Failure::ConnectTimeout));
    let took = timings.get(Phase::Connect).unwrap();
    assert!((Duration::from_millis(295)..Duration::from_millis(900)).contains(&took), "{took:?}");
}

#[tokio::test]
async fn a_connection_has_its_address_and_no_delay() {
    let net = net(&[], &[], EgressOptions::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mapped = url::Host::Ipv6("::ffff:127.0.0.1".parse().unwrap());
    for host in [url::Host::Ipv4("127.0.0.1".parse().unwrap()), url::Host::Domain("127.0.0.1"), mapped] {
        let (result, timings) = dial(&net, host.clone(), address.port(), IpVersion::Any, Profile::File, 5000).await;
        let dialled = result.map_err(|not| not.fault).unwrap();
        assert_eq!(dialled.address.ip().to_canonical(), address.ip());
        assert!(dialled.stream.nodelay().unwrap());
        assert_eq!(phases(&timings), (false, true, false), "{host}");
    }
}

#[tokio::test]
async fn a_literal_of_the_wrong_version_is_not_dialled() {
    let net = net(&[], &[], EgressOptions::default());
    let host = url::Host::Ipv4("127.0.0.1".parse().unwrap());
    let (result, timings) = dial(&net, host, 1, IpVersion::V6, Profile::File, 5000).await;
    assert_eq!(failure(&result), Some(Failure::DnsNoRecords));
    assert_eq!(phases(&timings), (false, false, false));
}

#[tokio::test]
async fn rows_do_not_reach_our_own_listener_in_any_notation() {
    let canary = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let own = canary.local_addr().unwrap();
    let net = net(&[], &[], EgressOptions { own: vec![own], ..EgressOptions::default() });
    for host in
        ["127.0.0.1", "127.1", "0x7f.1", "2130706433", "0", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:0:0]"]
    {
        let url = url::Url::parse(&format!("http://{host}:{}/", own.port())).unwrap();
        let (result, timings) = dial(&net, url.host().unwrap(), own.port(), IpVersion::Any, Profile::Rows, 2000).await;
        let not = result.err().unwrap();
        assert_eq!(not.fault.failure, Failure::EgressBlocked, "{host}: {}", not.fault.message);
        assert_eq!(phases(&timings), (false, false, false), "{host}");
    }
    let url = url::Url::parse(&format!("tcp://127.0.0.1:{}", own.port())).unwrap();
    let (result, _) = dial(&net, url.host().unwrap(), own.port(), IpVersion::Any, Profile::Rows, 2000).await;
    assert_eq!(failure(&result), Some(Failure::EgressBlocked));
    let (result, _) = dial(&net, url::Host::Domain("localhost"), own.port(), IpVersion::V4, Profile::Rows, 2000).await;
    assert_eq!(failure(&result), Some(Failure::EgressBlocked));
    // The canary heard nothing so far; it does hear the monitor of the file.
    let (result, _) = literal(&net, SocketAddr::from(([127, 0, 0, 1], own.port())), Profile::File, 5000).await;
    let ours = result.map_err(|not| not.fault).unwrap().stream.local_addr().unwrap();
    assert_eq!(canary.accept().await.unwrap().1, ours, "somebody came before");
}
