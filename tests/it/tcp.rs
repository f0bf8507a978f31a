//! The TCP probe: connections, and exchanges that go wrong in every way.

use std::time::Duration;

use lamplighter::model::Failure::{self, *};
use serde_json::{Value, json};

use crate::support::probing::{check, phases};
use crate::support::servers::http::{Act, Server, closed_port, text};

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_connection_is_enough() {
    let server = Server::at_accept(vec![Act::Hang]).await;
    let seen = check(&json!({ "url": format!("tcp://{}", server.address) }), LONG).await;
    assert_eq!((seen.fault.clone(), phases(&seen)), (None, vec!["connect"]));
    assert_eq!(seen.address, Some(server.address));
    let seen = check(&json!({ "url": format!("tcp://{}", closed_port().await) }), LONG).await;
    assert_eq!((seen.fault.clone().unwrap().failure, phases(&seen)), (ConnectRefused, vec!["connect"]));
    let seen = check(&json!({ "url": "tcp://169.254.169.254:80" }), LONG).await;
    assert_eq!(seen.fault.unwrap().failure, EgressBlocked);
}

#[tokio::test]
async fn exchanges() {
    let greet = || text("220-first\r\n220 mail ESMTP\r\n");
    let expect = |pattern: &str| json!({ "expect": pattern });
    let quit = || json!({ "send": "QUIT\r\n" });
    let hang = || Act::Hang;
    let drip = |said: &str| Act::Drip(said.as_bytes().to_vec(), Duration::from_millis(2));
    type Row = (&'static str, Vec<Act>, Vec<Value>, Duration, Option<Failure>, &'static [&'static str]);
    let all: &[&str] = &["connect", "send", "wait", "receive"];
    let silence: &[&str] = &["connect", "wait"];
    let heard: &[&str] = &["connect", "wait", "receive"];
    let rows: Vec<Row> = vec![
        ("greeting", vec![greet(), hang()], vec![expect("^220 "), quit()], LONG, None, all),
        (
            "whole lines",
            vec![greet(), text("221 bye\r\n")],
            vec![expect("^220 .*ESMTP$"), quit(), expect("^221")],
            LONG,
            None,
            all,
        ),
        ("in pieces", vec![drip("220 mail\r\n"), hang()], vec![expect("^220 mail$")], LONG, None, heard),
        ("mismatch, closed", vec![text("554 no\r\n")], vec![expect("^220")], LONG, Some(ExchangeMismatch), heard),
        (
            "mismatch, open",
            vec![text("554 no\r\n"), hang()],
            vec![expect("^220")],
            SHORT,
            Some(ExchangeMismatch),
            heard,
        ),
        ("silent", vec![hang()], vec![expect("^220")], SHORT, Some(ResponseTimeout), silence),
        ("closed at once", vec![], vec![expect("^220")], LONG, Some(ConnectionClosed), silence),
        ("reset", vec![Act::Reset], vec![expect("^220")], LONG, Some(ConnectionReset), silence),
        ("flood", vec![Act::Endless(vec![b'x'; 4096])], vec![expect("^220")], LONG, Some(ExchangeMismatch), heard),
        (
            "no answer to ours",
            vec![greet(), hang()],
            vec![expect("^220 "), quit(), expect("^221")],
            SHORT,
            Some(ResponseTimeout),
            all,
        ),
        (
            "no second greeting",
            vec![greet(), hang()],
            vec![expect("^220-"), expect("^250")],
            SHORT,
            Some(ExchangeMismatch),
            heard,
        ),
        (
            "bytes that are no text",
            vec![Act::Send(vec![0xff, 0xfe, 0]), hang()],
            vec![expect("(?-u)\\xff\\xfe")],
            LONG,
            None,
            heard,
        ),
    ];
    let runs = rows.into_iter().map(|(name, acts, steps, timeout, fault, reached)| async move {
        let server = Server::at_accept(acts).await;
        let monitor = json!({ "url": format!("tcp://{}", server.address), "exchange": steps });
        let seen = check(&monitor, timeout).await;
        assert_eq!(seen.fault.as_ref().map(|fault| fault.failure), fault, "{name}: {:?}", seen.fault);
        assert_eq!(phases(&seen), reached, "{name}");
    });
    futures_util::future::join_all(runs).await;
}
