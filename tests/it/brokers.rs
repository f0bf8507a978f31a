//! MQTT and AMQP: real brokers, and peers that are none.

use std::net::SocketAddr;
use std::time::Duration;

use lamplighter::model::Failure::{self, *};
use serde_json::{Value, json};

use crate::support::brokers::{Broker, PASSWORD, USER, VHOST, mosquitto, rabbitmq};
use crate::support::daemon::Home;
use crate::support::probing::{check, phases};
use crate::support::servers::http::{Act, Server, closed_port, text};

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_secs(1);
const ALL: &[&str] = &["connect", "send", "wait", "receive"];

fn account(user: &str, password: &str) -> Value {
    json!({ "auth": { "basic": { "username": user, "password": password } } })
}

fn with(keys: &Value, url: &str) -> Value {
    let mut monitor = keys.clone();
    monitor["url"] = json!(url);
    monitor
}

/// URL, other keys, and what is to come of it: a failure and a part of its sentence.
type Row = (String, Value, Option<(Failure, &'static str)>);

/// Checks each, and holds its failure and a part of its sentence against what is wanted.
async fn all(rows: Vec<Row>) {
    for (url, keys, wanted) in rows {
        let seen = check(&with(&keys, &url), LONG).await;
        let fault = seen.fault.as_ref();
        assert_eq!(fault.map(|fault| fault.failure), wanted.map(|wanted| wanted.0), "{url} {keys}: {fault:?}");
        if let (Some(fault), Some((_, sentence))) = (fault, wanted) {
            assert!(fault.message.contains(sentence), "{url}: {fault:?}");
            assert!(!fault.message.contains(PASSWORD), "{fault:?}");
        }
        let reached = phases(&seen);
        assert!(
            reached.ends_with(&ALL[1..]) || fault.is_some_and(|f| f.failure == CertUntrusted),
            "{url}: {reached:?}"
        );
        assert_eq!(seen.certificate.is_some(), url.contains("s://"), "{url}");
    }
}

/// The same by the program itself: `probe --all` over a file, whose default account is another's.
async fn probed(name: &str, broker: &Broker, path: &str) {
    let (plain, scheme) = (broker.plain, name);
    let config = format!(
        "[defaults]\nauth = {{ basic = {{ username = \"somebody\", password = \"else\" }} }}\n\
         [[monitor]]\nid = \"good\"\nurl = \"{scheme}://{USER}@{plain}{path}\"\n\
         auth = {{ basic = {{ password = {{ file = \"password\" }} }} }}\n\
         [[monitor]]\nid = \"bad\"\nurl = \"{scheme}://{USER}@{plain}{path}\"\n\
         auth = {{ basic = {{ password = \"not {PASSWORD}\" }} }}\n"
    );
    let home = Home::new("");
    std::fs::write(home.path().join("password"), format!("{PASSWORD}\n")).unwrap();
    home.write(&config);
    let mut command = home.command(&["probe", "--all", "--json"]);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((lines.len(), output.status.code()), (2, Some(1)), "{out}");
    assert_eq!((&lines[0]["verdict"], &lines[0]["failure"]), (&json!("up"), &Value::Null), "{out}");
    assert_eq!((&lines[1]["verdict"], &lines[1]["failure"]), (&json!("down"), &json!("query_failed")), "{out}");
    assert!(!out.contains(PASSWORD), "{out}");
}

#[tokio::test]
async fn mosquitto_is_logged_in_to_and_pinged() {
    let broker = mosquitto().await;
    let (plain, tls) = (format!("mqtt://{}", broker.plain), format!("mqtts://{}", broker.tls));
    let good = || account(USER, PASSWORD);
    let mut lax = good();
    lax["tls"] = json!({ "verify": false });
    let mut named = good();
    named["client_id"] = json!("one-that-is-ours");
    all(vec![
        (plain.clone(), good(), None),
        (plain.clone(), named, None),
        (plain.clone(), account(USER, "wrong"), Some((QueryFailed, "auth"))),
        (plain.clone(), account("nobody", PASSWORD), Some((QueryFailed, "auth"))),
        (plain, json!({}), Some((QueryFailed, "wants a user"))),
        (tls.clone(), lax, None),
        (tls, good(), Some((CertUntrusted, ""))),
    ])
    .await;
    probed("mqtt", &broker, "").await;
}

#[tokio::test]
async fn rabbitmq_is_logged_in_to_and_left() {
    let broker = rabbitmq().await;
    let at = |vhost: &str| format!("amqp://{}{vhost}", broker.plain);
    let good = || account(USER, PASSWORD);
    let mut lax = good();
    lax["tls"] = json!({ "verify": false });
    let tls = format!("amqps://{}/{VHOST}", broker.tls);
    // It listens before it lets anybody in.
    crate::support::target::until("RabbitMQ is ready", LONG, async || {
        let seen = check(&with(&good(), &at("/shop")), LONG).await;
        seen.fault.is_none().then_some(())
    })
    .await;
    all(vec![
        (at("/shop"), good(), None),
        (at("/shop"), account(USER, "wrong"), Some((QueryFailed, "403"))),
        (at("/shop"), json!({}), Some((QueryFailed, "refused user \"guest\""))),
        (at("/nothing"), good(), Some((QueryFailed, "530"))),
        (at(""), good(), Some((QueryFailed, "virtual host \"/\""))),
        (tls.clone(), lax, None),
        (tls, good(), Some((CertUntrusted, ""))),
    ])
    .await;
    let seen = check(&with(&good(), &at("/shop")), LONG).await;
    let details = serde_json::to_value(seen.details.unwrap()).unwrap();
    assert_eq!(details["product"], "RabbitMQ");
    assert!(details["version"].is_string() && details["cluster"].is_string(), "{details}");
    probed("amqp", &broker, "/shop").await;
}

async fn none_of(scheme: &str, rows: Vec<(&str, Duration, Vec<Act>, Failure)>) {
    let one = |address: SocketAddr, timeout| async move {
        check(&json!({ "url": format!("{scheme}://{address}") }), timeout).await
    };
    let runs = rows.into_iter().map(|(name, timeout, acts, wanted)| async move {
        // As if it had read the first word.
        let server = Server::at_accept(acts).await;
        let seen = one(server.address, timeout).await;
        let fault = seen.fault.unwrap_or_else(|| panic!("{name}: up"));
        assert_eq!(fault.failure, wanted, "{scheme}, {name}: {fault:?}");
        assert!(fault.message.contains(&server.address.to_string()), "{fault:?}");
    });
    futures_util::future::join_all(runs).await;
    assert_eq!(one(closed_port().await, LONG).await.fault.unwrap().failure, ConnectRefused);
}

#[tokio::test]
async fn peers_that_are_no_mqtt() {
    let connack = |code: u8| Act::Send(vec![0x20, 2, 0, code]);
    let hang = || Act::Hang;
    none_of(
        "mqtt",
        vec![
            ("another version", LONG, vec![connack(1), hang()], QueryFailed),
            ("the client id", LONG, vec![connack(2), hang()], QueryFailed),
            ("unavailable", LONG, vec![connack(3), hang()], QueryFailed),
            ("credentials", LONG, vec![connack(4)], QueryFailed),
            ("not authorised", LONG, vec![connack(5)], QueryFailed),
            ("unheard code", LONG, vec![connack(99)], QueryFailed),
            ("a web server", LONG, vec![text("HTTP/1.1 400 Bad Request\r\n\r\n")], ExchangeMismatch),
            ("one byte of another", SHORT, vec![text("H"), hang()], ExchangeMismatch),
            (
                "a packet of another sort",
                LONG,
                vec![Act::Send(vec![0x30, 4, 0, 1, b'a', b'b']), hang()],
                ExchangeMismatch,
            ),
            ("a long acknowledgement", LONG, vec![Act::Send(vec![0x20, 0xff, 0xff, 0xff]), hang()], ExchangeMismatch),
            ("no pong but another login", LONG, vec![connack(0), connack(0), hang()], ExchangeMismatch),
            ("no pong", SHORT, vec![connack(0), hang()], ResponseTimeout),
            ("no pong, closed", LONG, vec![connack(0)], ConnectionClosed),
            ("half an acknowledgement", SHORT, vec![Act::Send(vec![0x20, 2, 0]), hang()], ResponseTimeout),
            ("silence", SHORT, vec![hang()], ResponseTimeout),
            ("closed", LONG, vec![], ConnectionClosed),
            ("flood", LONG, vec![Act::Endless(vec![0; 4096])], ExchangeMismatch),
        ],
    )
    .await;
}

/// A method frame of class connection.
fn method(method: u8, arguments: &[u8]) -> Vec<u8> {
    let mut frame = vec![1, 0, 0];
    frame.extend(u32::try_from(arguments.len() + 4).unwrap().to_be_bytes());
    frame.extend([0, 10, 0, method]);
    frame.extend(arguments);
    frame.push(0xce);
    frame
}

#[tokio::test]
async fn peers_that_are_no_amqp() {
    let start = |mechanisms: &[u8]| {
        let length = u32::try_from(mechanisms.len()).unwrap().to_be_bytes();
        method(10, &[&[0, 9, 0, 0, 0, 0][..], &length, mechanisms, b"\0\0\0\x05en_US"].concat())
    };
    let tune = || method(30, &[7, 255, 0, 2, 0, 0, 0, 60]);
    let close = |code: u16| method(50, &[&code.to_be_bytes()[..], b"\x02no\0\0\0\0"].concat());
    let heartbeat = || vec![8, 0, 0, 0, 0, 0, 0, 0xce];
    let say = |frames: &[Vec<u8>]| Act::Send(frames.concat());
    let hang = || Act::Hang;
    let login = || [start(b"AMQPLAIN PLAIN"), heartbeat(), tune()];
    let good = || [&login()[..], &[method(41, b"\0"), method(51, b"")]].concat();
    let mut unmarked = start(b"PLAIN");
    *unmarked.last_mut().unwrap() = 0;
    none_of(
        "amqp",
        vec![
            ("another version", LONG, vec![text("AMQP\0\u{1}\0\0")], ExchangeMismatch),
            ("a greeting of 1.0", LONG, vec![Act::Send(method(10, &[1, 0, 0, 0])), hang()], ExchangeMismatch),
            ("no PLAIN", LONG, vec![say(&[start(b"EXTERNAL")]), hang()], QueryFailed),
            ("closing at once", LONG, vec![say(&[close(541)]), hang()], QueryFailed),
            ("refused", LONG, vec![say(&[start(b"PLAIN"), close(403)]), hang()], QueryFailed),
            ("refused without a word", LONG, vec![say(&[start(b"PLAIN")])], ConnectionClosed),
            ("no such host", LONG, vec![say(&[&login()[..], &[close(530)]].concat()), hang()], QueryFailed),
            ("no goodbye", SHORT, vec![say(&good()[..4]), hang()], ResponseTimeout),
            ("out of turn", LONG, vec![say(&[start(b"PLAIN"), method(51, b"")]), hang()], ExchangeMismatch),
            ("no end mark", LONG, vec![say(&[unmarked]), hang()], ExchangeMismatch),
            ("a web server", LONG, vec![text("HTTP/1.1 400 Bad Request\r\n\r\n")], ExchangeMismatch),
            ("a few bytes of another", SHORT, vec![text("220"), hang()], ExchangeMismatch),
            ("a huge frame", LONG, vec![Act::Send(vec![1, 0, 0, 255, 255, 255, 255]), hang()], ExchangeMismatch),
            (
                "endless heartbeats",
                LONG,
                vec![say(&[start(b"PLAIN")]), Act::Endless(heartbeat().repeat(99))],
                ExchangeMismatch,
            ),
            ("silence", SHORT, vec![hang()], ResponseTimeout),
            ("closed", LONG, vec![], ConnectionClosed),
        ],
    )
    .await;
    let server = Server::at_accept(vec![say(&good()), hang()]).await;
    let seen = check(&json!({ "url": format!("amqp://{}", server.address) }), LONG).await;
    assert_eq!(seen.fault, None);
}
