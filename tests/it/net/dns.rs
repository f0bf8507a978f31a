//! Names: every lie that a name server can tell.

use std::sync::Arc;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use super::*;
use crate::support::servers::dns::{Ask, DnsServer};

const HOST: &str = "shop.test";

async fn by_name(net: &Net, port: u16, version: IpVersion, ms: u64) -> (Result<Dialled, NotDialled>, Timings) {
    dial(net, url::Host::Domain(HOST), port, version, Profile::Rows, ms).await
}

fn plain(server: &DnsServer) -> Net {
    net(&[server.address], &[], EgressOptions::default())
}

#[tokio::test]
async fn response_codes_have_failures_and_a_time() {
    for (code, wanted) in [
        (ResponseCode::NXDomain, Failure::DnsNxdomain),
        (ResponseCode::NoError, Failure::DnsNoRecords),
        (ResponseCode::ServFail, Failure::DnsServfail),
        (ResponseCode::Refused, Failure::DnsRefused),
        (ResponseCode::NotImp, Failure::DnsError),
    ] {
        let server = DnsServer::start(move |ask| vec![ask.negative(code, 60)]).await;
        for version in [IpVersion::Any, IpVersion::V4, IpVersion::V6] {
            let (result, timings) = by_name(&plain(&server), 80, version, 5000).await;
            let not = result.err().unwrap();
            assert_eq!(not.fault.failure, wanted, "{code} {version:?}: {}", not.fault.message);
            assert_eq!(phases(&timings), (true, false, false));
            assert_eq!(not.address, None);
            assert!(not.fault.message.contains(HOST), "{}", not.fault.message);
        }
    }
}

#[tokio::test]
async fn silence_about_one_name_is_its_own_fault() {
    // The root is answered for, as by any resolver that lives.
    let server =
        DnsServer::start(|ask| if ask.name.is_empty() { vec![ask.code(ResponseCode::NoError)] } else { vec![] });
    let server = server.await;
    let (result, timings) = by_name(&plain(&server), 80, IpVersion::Any, 1300).await;
    let not = result.err().unwrap();
    assert_eq!(not.fault.failure, Failure::DnsTimeout, "{}", not.fault.message);
    let took = timings.get(Phase::Dns).unwrap();
    assert!((Duration::from_millis(1290)..Duration::from_millis(2000)).contains(&took), "{took:?}");
}

#[tokio::test]
async fn silence_about_everything_is_our_resolvers_fault() {
    let server = DnsServer::start(|_| vec![]).await;
    let (result, _) = by_name(&plain(&server), 80, IpVersion::Any, 1300).await;
    let not = result.err().unwrap();
    assert_eq!(not.fault.failure, Failure::ResolverUnavailable, "{}", not.fault.message);
}

#[tokio::test]
async fn a_resolver_that_is_not_there_is_our_fault_at_once() {
    let gone = closed_port("127.0.0.1").await;
    let (result, timings) = by_name(&net(&[gone], &[], EgressOptions::default()), 80, IpVersion::Any, 5000).await;
    let not = result.err().unwrap();
    assert_eq!(not.fault.failure, Failure::ResolverUnavailable, "{}", not.fault.message);
    assert!(timings.get(Phase::Dns).unwrap() < Duration::from_secs(1));
}

#[tokio::test]
async fn another_server_helps_where_the_first_cannot() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let good = DnsServer::start(|ask| vec![ask.answer(60, &["127.0.0.1"])]).await;
    let servfail = DnsServer::start(|ask| vec![ask.code(ResponseCode::ServFail)]).await;
    let gone = closed_port("127.0.0.1").await;
    for first in [servfail.address, gone] {
        let net = net(&[first, good.address], &[], EgressOptions::default());
        let (result, timings) = by_name(&net, port, IpVersion::Any, 5000).await;
        assert_eq!(failure(&result), None);
        assert_eq!(phases(&timings), (true, true, false));
    }
}

#[tokio::test]
async fn truncated_and_oversized_answers_come_by_tcp() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let truncated = |ask: &Ask| {
        let mut message = ask.code(ResponseCode::NoError);
        message.metadata.truncation = true;
        vec![message]
    };
    // 500 addresses do not fit into our buffer; all but the first sixteen are left out.
    let many: Vec<String> = (0..500).map(|n| format!("127.0.{}.{}", 1 + n / 250, 1 + n % 250)).collect();
    let huge = move |ask: &Ask| vec![ask.answer(60, &many.iter().map(String::as_str).collect::<Vec<_>>())];
    let server = DnsServer::start(move |ask| match ask.tcp {
        true => vec![ask.answer(60, &["127.0.0.1"])],
        false => truncated(ask),
    });
    assert_eq!(failure(&by_name(&plain(&server.await), port, IpVersion::V4, 5000).await.0), None);
    let server = DnsServer::start(huge).await;
    let (result, _) = by_name(&plain(&server), closed_port("127.0.0.1").await.port(), IpVersion::V4, 5000).await;
    assert_eq!(failure(&result), Some(Failure::ConnectRefused));
    assert_eq!(server.asked(HOST, RecordType::A), 2, "once by UDP, once by TCP");
}

#[tokio::test]
async fn nonsense_by_tcp_is_an_error_of_that_server() {
    let server = DnsServer::start(|ask| {
        let mut message = ask.code(ResponseCode::NoError);
        message.metadata.truncation = true;
        message.metadata.id ^= u16::from(ask.tcp);
        vec![message]
    })
    .await;
    let (result, _) = by_name(&plain(&server), 80, IpVersion::Any, 5000).await;
    assert_eq!(failure(&result), Some(Failure::DnsError));
}

#[tokio::test]
async fn forged_answers_are_not_believed() {
    let (good, canary) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), "127.0.0.66");
    let port = good.local_addr().unwrap().port();
    let canary_listener = TcpListener::bind((canary, port)).await.unwrap();
    let server = DnsServer::start(move |ask| {
        let mut wrong_id = ask.answer(60, &[canary]);
        wrong_id.metadata.id ^= 1;
        let wrong_question = ask.about(ask.answer(60, &[canary]), "other.test");
        let mut a_query = ask.answer(60, &[canary]);
        a_query.metadata.message_type = hickory_proto::op::MessageType::Query;
        vec![wrong_id, wrong_question, a_query, ask.answer(60, &["127.0.0.1"])]
    })
    .await;
    let (result, _) = by_name(&plain(&server), port, IpVersion::V4, 5000).await;
    assert_eq!(result.map(|dialled| dialled.address.to_string()).ok(), Some(format!("127.0.0.1:{port}")));
    let seen = tokio::time::timeout(Duration::from_millis(100), canary_listener.accept()).await;
    assert!(seen.is_err(), "the forged address was dialled");
}

#[tokio::test]
async fn cname_chains_are_followed_and_loops_end() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = DnsServer::start(|ask| {
        let mut message = ask.answer(60, &["shop.test -> a.test", "a.test -> b.test"]);
        if ask.record == RecordType::A {
            let ip = hickory_proto::rr::RData::A("127.0.0.1".parse().unwrap());
            message.add_answer(hickory_proto::rr::Record::from_rdata(
                crate::support::servers::dns::fqdn("b.test"),
                60,
                ip,
            ));
        }
        vec![message]
    })
    .await;
    assert_eq!(failure(&by_name(&plain(&server), port, IpVersion::Any, 5000).await.0), None);
    let lap = DnsServer::start(|ask| vec![ask.answer(60, &["shop.test -> a.test", "a.test -> shop.test"])]).await;
    let (result, timings) = by_name(&plain(&lap), port, IpVersion::Any, 5000).await;
    assert_eq!(failure(&result), Some(Failure::DnsError));
    assert_eq!(phases(&timings), (true, false, false));
}

#[tokio::test]
async fn a_server_that_chokes_on_edns_is_asked_without() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = DnsServer::start(|ask| match ask.message.edns {
        Some(_) => {
            let mut message = ask.code(ResponseCode::FormErr);
            message.queries.clear();
            vec![message]
        }
        None => vec![ask.answer(60, &["127.0.0.1"])],
    })
    .await;
    assert_eq!(failure(&by_name(&plain(&server), port, IpVersion::V4, 5000).await.0), None);
}

#[tokio::test]
async fn answers_are_kept_for_their_ttl_and_asked_once_for_all() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = DnsServer::start(|ask| {
        let ttl = if ask.name == "kept.test" { 60 } else { 0 };
        vec![ask.answer(ttl, &["127.0.0.1", "::1"])]
    })
    .await;
    let net = Arc::new(plain(&server));
    for name in ["kept.test", "fresh.test"] {
        for _ in 0..3 {
            let host = url::Host::Domain(name);
            assert_eq!(failure(&dial(&net, host, port, IpVersion::Any, Profile::File, 5000).await.0), None);
        }
    }
    for (name, times) in [("kept.test", 1), ("fresh.test", 3)] {
        assert_eq!(server.asked(name, RecordType::A), times, "{name}");
        assert_eq!(server.asked(name, RecordType::AAAA), times, "{name}");
    }
    // The queue of a listener that does not accept may be shorter than that.
    let mut all = tokio::task::JoinSet::new();
    let accepting = tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    for _ in 0..200 {
        let net = Arc::clone(&net);
        all.spawn(async move {
            let host = url::Host::Domain("many.kept.test");
            dial(&net, host, port, IpVersion::V4, Profile::File, 5000).await.0.map_err(|not| not.fault.message).err()
        });
    }
    let failed: Vec<String> = all.join_all().await.into_iter().flatten().collect();
    accepting.abort();
    assert_eq!(failed, Vec::<String>::new());
    // TTL 0: whoever came before the answer shared it.
    assert!(server.asked("many.kept.test", RecordType::A) < 200);
}

#[tokio::test]
async fn a_failure_is_not_asked_again_within_the_second_but_soon_after() {
    let server = DnsServer::start(|ask| vec![ask.code(ResponseCode::ServFail)]).await;
    let net = plain(&server);
    for _ in 0..5 {
        assert_eq!(failure(&by_name(&net, 80, IpVersion::V4, 5000).await.0), Some(Failure::DnsServfail));
    }
    assert_eq!(server.asked(HOST, RecordType::A), 1);
    let end = in_ms(5000);
    while server.asked(HOST, RecordType::A) == 1 {
        assert!(Instant::now() < end, "kept for more than a second");
        tokio::time::sleep(Duration::from_millis(50)).await;
        let _ = by_name(&net, 80, IpVersion::V4, 5000).await;
    }
}

#[tokio::test]
async fn rebinding_reaches_nothing_private() {
    let public = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = public.local_addr().unwrap().port();
    let canary = TcpListener::bind(("127.0.0.2", port)).await.unwrap();
    // 127.0.0.1 plays the public address.
    let egress = EgressOptions {
        rows_public_only: true,
        allow: vec!["127.0.0.1/32".parse().unwrap()],
        ..EgressOptions::default()
    };
    let server = DnsServer::start(|ask| match (ask.name.as_str(), ask.nth) {
        ("mixed.test", _) => vec![ask.answer(0, &["127.0.0.2", "127.0.0.1", "::ffff:127.0.0.2", "::1"])],
        (_, 0) => vec![ask.answer(0, &["127.0.0.1"])],
        _ => vec![ask.answer(0, &["127.0.0.2", "::ffff:127.0.0.2"])],
    })
    .await;
    let net = net(&[server.address], &[], egress);
    let (first, _) = by_name(&net, port, IpVersion::Any, 5000).await;
    assert_eq!(first.map(|dialled| dialled.address.to_string()).ok(), Some(format!("127.0.0.1:{port}")));
    let (second, timings) = by_name(&net, port, IpVersion::Any, 5000).await;
    assert_eq!(failure(&second), Some(Failure::EgressBlocked));
    assert_eq!(phases(&timings), (true, false, false));
    let host = url::Host::Domain("mixed.test");
    let (mixed, _) = dial(&net, host, port, IpVersion::Any, Profile::Rows, 5000).await;
    assert_eq!(mixed.map(|dialled| dialled.address.to_string()).ok(), Some(format!("127.0.0.1:{port}")));
    let seen = tokio::time::timeout(Duration::from_millis(100), canary.accept()).await;
    assert!(seen.is_err(), "the canary was dialled");
}

#[tokio::test]
async fn dead_ipv6_with_live_ipv4_passes() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = DnsServer::start(|ask| vec![ask.answer(60, &["::1", "127.0.0.1"])]).await;
    let net = plain(&server);
    // Refused: at once.
    let (result, timings) = by_name(&net, port, IpVersion::Any, 5000).await;
    assert_eq!(result.map(|dialled| dialled.address.to_string()).ok(), Some(format!("127.0.0.1:{port}")));
    assert!(timings.get(Phase::Connect).unwrap() < Duration::from_millis(200));
    // Dropped: after the stagger.
    let _hole = Blackhole::at(format!("[::1]:{port}").parse().unwrap()).await;
    let (result, timings) = by_name(&net, port, IpVersion::Any, 5000).await;
    assert_eq!(result.map(|dialled| dialled.address.to_string()).ok(), Some(format!("127.0.0.1:{port}")));
    let took = timings.get(Phase::Connect).unwrap();
    assert!((Duration::from_millis(249)..Duration::from_millis(1500)).contains(&took), "{took:?}");
    // Wanted as IPv6 only, it is down.
    assert_eq!(failure(&by_name(&net, port, IpVersion::V6, 400).await.0), Some(Failure::ConnectTimeout));
}

#[tokio::test]
async fn a_late_ipv6_answer_is_waited_for_only_when_ipv4_fails() {
    let listener = TcpListener::bind("[::1]:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    // The first AAAA query is lost; the second comes a second later.
    let server = DnsServer::start(|ask| match (ask.record, ask.nth) {
        (RecordType::AAAA, 0) => vec![],
        _ => vec![ask.answer(60, &["::1", "127.0.0.1"])],
    })
    .await;
    let (result, timings) = by_name(&plain(&server), port, IpVersion::Any, 5000).await;
    assert_eq!(result.map(|dialled| dialled.address.to_string()).ok(), Some(format!("[::1]:{port}")));
    assert!(timings.get(Phase::Dns).unwrap() > Duration::from_millis(900));
    let v4 = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = v4.local_addr().unwrap().port();
    let server = DnsServer::start(|ask| match ask.record {
        RecordType::A => vec![ask.answer(60, &["127.0.0.1"])],
        _ => vec![],
    })
    .await;
    let (result, timings) = by_name(&plain(&server), port, IpVersion::Any, 5000).await;
    assert_eq!(failure(&result), None);
    assert!(timings.get(Phase::Dns).unwrap() < Duration::from_millis(600));
}
