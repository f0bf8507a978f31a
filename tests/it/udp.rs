//! The UDP probe: answers, silence, closed ports, floods.

use std::time::Duration;

use lamplighter::model::Failure::{self, *};
use serde_json::json;
use tokio::net::UdpSocket;

use crate::support::probing::{check, phases};
use crate::support::servers::dialogue::Datagrams;

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(500);

#[tokio::test]
async fn questions_in_datagrams() {
    let echo = |asked: &[u8]| vec![asked.to_vec()];
    type Answer = Box<dyn Fn(&[u8]) -> Vec<Vec<u8>> + Send>;
    type Row = (&'static str, Answer, &'static str, Duration, Option<Failure>, &'static [&'static str]);
    let all: &[&str] = &["send", "wait", "receive"];
    let rows: Vec<Row> = vec![
        ("echo", Box::new(echo), "^ping$", LONG, None, all),
        ("silence", Box::new(|_| vec![]), "^ping$", SHORT, Some(ResponseTimeout), &["send", "wait"]),
        ("another answer", Box::new(|_| vec![b"no".to_vec()]), "^ping$", SHORT, Some(ExchangeMismatch), all),
        ("an empty answer", Box::new(|_| vec![vec![]]), "ping", SHORT, Some(ExchangeMismatch), all),
        ("the second of two", Box::new(|_| vec![b"no".to_vec(), b"ping".to_vec()]), "^ping$", LONG, None, all),
        ("cut in two", Box::new(|_| vec![b"pi".to_vec(), b"ng".to_vec()]), "ping", SHORT, Some(ExchangeMismatch), all),
        ("the largest", Box::new(|_| vec![[&[b'x'; 65_503][..], b"ping"].concat()]), "^x+ping$", LONG, None, all),
        ("a flood", Box::new(|_| vec![vec![b'x'; 8_000]; 200]), "ping", SHORT, Some(ExchangeMismatch), all),
    ];
    let runs = rows.into_iter().map(|(name, answer, pattern, timeout, fault, reached)| async move {
        let server = Datagrams::start("127.0.0.1:0", answer).await;
        let exchange = json!([{ "send": "ping" }, { "expect": pattern }]);
        let monitor = json!({ "url": format!("udp://{}", server.address), "exchange": exchange });
        let seen = check(&monitor, timeout).await;
        assert_eq!(seen.fault.as_ref().map(|fault| fault.failure), fault, "{name}: {:?}", seen.fault);
        assert_eq!(phases(&seen), reached, "{name}");
        assert_eq!(seen.address, Some(server.address), "{name}");
    });
    futures_util::future::join_all(runs).await;
}

#[tokio::test]
async fn nobody_and_nowhere() {
    let ask = json!([{ "send": "ping" }, { "expect": "^ping$" }]);
    for (host, version) in [("127.0.0.1", "4"), ("[::1]", "6")] {
        // Bound and given back: the kernel does not hand it out again soon.
        let closed = UdpSocket::bind(format!("{host}:0")).await.unwrap().local_addr().unwrap();
        let monitor = json!({ "url": format!("udp://{closed}"), "exchange": ask, "ip_version": version });
        let seen = check(&monitor, LONG).await;
        assert_eq!(seen.fault.clone().unwrap().failure, ConnectRefused, "{:?}", seen.fault);
        assert_eq!(phases(&seen), ["send", "wait"]);
    }
    // Two questions: the first one's ICMP answer is met by the second.
    let closed = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let twice = json!([{ "send": "a" }, { "send": "b" }, { "expect": "c" }]);
    let seen = check(&json!({ "url": format!("udp://{closed}"), "exchange": twice }), LONG).await;
    assert_eq!(seen.fault.unwrap().failure, ConnectRefused);
    for (url, failure) in [
        ("udp://169.254.169.254:80", EgressBlocked),
        ("udp://[::ffff:169.254.169.254]:80", EgressBlocked),
        ("udp://no.such.name.invalid:80", ResolverUnavailable),
    ] {
        let seen = check(&json!({ "url": url, "exchange": ask }), LONG).await;
        assert_eq!(seen.fault.clone().unwrap().failure, failure, "{url}: {:?}", seen.fault);
    }
    let seen = check(&json!({ "url": "udp://127.0.0.1:9", "exchange": ask, "ip_version": 6 }), LONG).await;
    assert_eq!((seen.fault.clone().unwrap().failure, phases(&seen).len()), (DnsNoRecords, 0));
}

/// Only the address that was asked may answer.
#[tokio::test]
async fn a_strangers_answer_is_not_heard() {
    let stranger = std::sync::Arc::new(std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let mut buffer = [0; 16];
        let (_, from) = socket.recv_from(&mut buffer).await.unwrap();
        stranger.send_to(b"ping", from).unwrap();
        // Kept open, or ICMP would answer.
        std::future::pending::<()>().await;
    });
    let exchange = json!([{ "send": "ping" }, { "expect": "^ping$" }]);
    let seen = check(&json!({ "url": format!("udp://{address}"), "exchange": exchange }), SHORT).await;
    assert_eq!(seen.fault.unwrap().failure, ResponseTimeout);
    task.abort();
}
