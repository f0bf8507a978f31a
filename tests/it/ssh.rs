//! The SSH probe against OpenSSH, and against servers that are none or cheat.

use std::net::SocketAddr;
use std::time::Duration;

use lamplighter::model::Failure::{self, *};
use lamplighter::model::Observation;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy};
use tokio::net::{TcpListener, TcpStream};

use crate::support::probing::{check, phases};
use crate::support::servers::http::{Act, Server, text};
use crate::support::sshd::Sshd;
use crate::support::target::until;

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_secs(1);
const OTHER: &str = "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU";

async fn ssh(address: SocketAddr, keys: Value, timeout: Duration) -> Observation {
    let mut monitor = json!({ "url": format!("ssh://{address}") });
    monitor.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    check(&monitor, timeout).await
}

fn failure(seen: &Observation) -> Option<Failure> {
    seen.fault.as_ref().map(|fault| fault.failure)
}

fn detail(seen: &Observation, name: &str) -> String {
    let details = serde_json::to_value(seen.details.as_deref()).unwrap();
    details[name].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn every_key_is_proved_and_can_be_pinned() {
    let all = Sshd::start(&["rsa", "ecdsa", "ed25519"], "").await;
    let seen = ssh(all.address, json!({}), LONG).await;
    assert_eq!((failure(&seen), phases(&seen)), (None, vec!["connect", "send", "wait", "receive"]), "{:?}", seen.fault);
    assert!(detail(&seen, "banner").starts_with("SSH-2.0-OpenSSH_"));
    assert_eq!(detail(&seen, "host_key"), all.fingerprint("ed25519"));
    assert_eq!(detail(&seen, "host_key_algorithm"), "ssh-ed25519");
    assert_eq!(detail(&seen, "key_exchange"), "curve25519-sha256");
    for sort in ["ed25519", "ecdsa", "rsa"] {
        let seen = ssh(all.address, json!({ "host_key": [OTHER, all.fingerprint(sort)] }), LONG).await;
        assert_eq!((failure(&seen), detail(&seen, "host_key")), (None, all.fingerprint(sort)), "{:?}", seen.fault);
    }
    let seen = ssh(all.address, json!({ "host_key": OTHER }), LONG).await;
    assert_eq!(failure(&seen), Some(CertUntrusted));
    let message = seen.fault.unwrap().message;
    for sort in ["ed25519", "ecdsa", "rsa"] {
        assert!(message.contains(&all.fingerprint(sort)), "{message}");
    }
    // What the server's administrator reads: a goodbye with a reason, and no error.
    until("the goodbye is logged", LONG, async || all.log().contains(":11: checked [preauth]").then_some(())).await;
    assert!(!all.log().contains("error"), "{}", all.log());

    let banner = ssh(all.address, json!({ "banner_matches": "^SSH-2\\.0-OpenSSH_[0-9]" }), LONG).await;
    assert_eq!(failure(&banner), None);
    let banner = ssh(all.address, json!({ "banner_matches": "dropbear" }), LONG).await;
    assert_eq!(failure(&banner), Some(ExchangeMismatch));
    assert!(detail(&banner, "banner").starts_with("SSH-2.0-OpenSSH_"));
}

#[tokio::test]
async fn methods_of_all_sorts() {
    for (types, lines, algorithm, exchange) in [
        (&["rsa"][..], "HostKeyAlgorithms rsa-sha2-256", "rsa-sha2-256", "curve25519-sha256"),
        (&["rsa"], "HostKeyAlgorithms rsa-sha2-512", "rsa-sha2-512", "curve25519-sha256"),
        (&["ecdsa"], "KexAlgorithms ecdh-sha2-nistp256", "ecdsa-sha2-nistp256", "ecdh-sha2-nistp256"),
        (&["ed25519"], "KexAlgorithms curve25519-sha256@libssh.org", "ssh-ed25519", "curve25519-sha256@libssh.org"),
        (&["ed25519"], "Ciphers aes256-gcm@openssh.com", "ssh-ed25519", "curve25519-sha256"),
    ] {
        let server = Sshd::start(types, lines).await;
        let seen = ssh(server.address, json!({ "host_key": server.fingerprint(types[0]) }), LONG).await;
        assert_eq!(failure(&seen), None, "{lines}: {:?}", seen.fault);
        let said = (detail(&seen, "host_key_algorithm"), detail(&seen, "key_exchange"));
        assert_eq!(said, (algorithm.to_owned(), exchange.to_owned()), "{lines}");
    }
    // It works, but cannot prove anything to us: that matters to who pinned a key only.
    let old = Sshd::start(&["ed25519"], "KexAlgorithms diffie-hellman-group14-sha256").await;
    let seen = ssh(old.address, json!({}), LONG).await;
    assert_eq!(failure(&seen), None, "{:?}", seen.fault);
    assert!(detail(&seen, "host_key").contains("diffie-hellman-group14-sha256"));
    let seen = ssh(old.address, json!({ "host_key": OTHER }), LONG).await;
    assert_eq!(failure(&seen), Some(ExchangeMismatch));
}

#[tokio::test]
async fn servers_that_are_none() {
    let ident = || text("SSH-2.0-x\r\n");
    let packet = |length: u32, rest: &[u8]| Act::Send([&length.to_be_bytes()[..], rest].concat());
    let drip = |said: &str| Act::Drip(said.as_bytes().to_vec(), Duration::from_millis(5));
    let goodbye = b"\x06\x01\0\0\0\x02\0\0\0\x04busy\0\0\0\0\0\0\0\0\0\0";
    type Row = (&'static str, Vec<Act>, Failure);
    let rows: Vec<Row> = vec![
        ("silent", vec![Act::Hang], ResponseTimeout),
        ("closed at once", vec![Act::Reset], ConnectionReset),
        ("another protocol", vec![text("220 mail ESMTP\r\n"), Act::Hang], ExchangeMismatch),
        ("a line without end", vec![text("220 mail"), Act::Hang], ExchangeMismatch),
        ("refused in words", vec![text("Exceeded MaxStartups\r\n")], ExchangeMismatch),
        ("too old", vec![text("SSH-1.5-old\r\n"), Act::Hang], ExchangeMismatch),
        ("too long", vec![text(&format!("SSH-2.0-{}\r\n", "x".repeat(300))), Act::Hang], ExchangeMismatch),
        ("endless lines", vec![Act::Endless(b"hello\r\n".repeat(100))], ExchangeMismatch),
        ("one endless line", vec![Act::Endless(vec![b'x'; 4096])], ExchangeMismatch),
        ("dripping", vec![drip(&"x".repeat(1000)), Act::Hang], ExchangeMismatch),
        ("silent afterwards", vec![ident(), Act::Hang], ResponseTimeout),
        ("garbage afterwards", vec![ident(), Act::Send(vec![0xff; 5000]), Act::Hang], ExchangeMismatch),
        ("a huge packet", vec![ident(), packet(u32::MAX, &[0; 100]), Act::Hang], ExchangeMismatch),
        ("an empty packet", vec![ident(), packet(0, &[0; 100]), Act::Hang], ExchangeMismatch),
        ("all padding", vec![ident(), packet(12, &[0xff; 12]), Act::Hang], ExchangeMismatch),
        (
            "endless asides",
            vec![ident(), Act::Endless(b"\0\0\0\x0c\x06\x02\0\0\0\0\0\0\0\0\0\0".to_vec())],
            ExchangeMismatch,
        ),
        ("no methods", vec![ident(), packet(12, b"\x06\x14\0\0\0\0\0\0\0\0\0\0"), Act::Hang], ExchangeMismatch),
        ("goodbye", vec![ident(), packet(24, &goodbye[..24.min(goodbye.len())]), Act::Hang], ConnectionClosed),
    ];
    let runs = rows.into_iter().map(|(name, acts, wanted)| async move {
        let server = Server::at_accept(acts).await;
        let seen = ssh(server.address, json!({}), SHORT).await;
        assert_eq!(failure(&seen), Some(wanted), "{name}: {:?}", seen.fault);
        assert!(server.sent() < 20 << 20, "{name}");
    });
    futures_util::future::join_all(runs).await;
    let greeting = Sshd::start(&["ed25519"], "").await;
    let relay = relay(greeting.address, |said| [b"Welcome\r\nto the relay\r\n", said].concat(), |_| {}).await;
    let seen = ssh(relay, json!({ "host_key": greeting.fingerprint("ed25519") }), LONG).await;
    assert_eq!(failure(&seen), None, "lines before the identification are allowed: {:?}", seen.fault);
}

/// Changes the server's identification, and the packet with its host key.
async fn relay(to: SocketAddr, greet: fn(&[u8]) -> Vec<u8>, change: fn(&mut [u8])) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from_client, mut client) = near.into_split();
                let (mut server, mut to_server) = TcpStream::connect(to).await.unwrap().into_split();
                tokio::spawn(async move { copy(&mut from_client, &mut to_server).await });
                let mut line = Vec::new();
                while !line.ends_with(b"\n") {
                    line.push(server.read_u8().await?);
                }
                client.write_all(&greet(&line)).await?;
                for number in 0..2 {
                    let length = server.read_u32().await?;
                    let mut body = vec![0; length as usize];
                    server.read_exact(&mut body).await?;
                    if number == 1 {
                        change(&mut body);
                    }
                    client.write_all(&[&length.to_be_bytes()[..], &body].concat()).await?;
                }
                copy(&mut server, &mut client).await
            });
        }
    });
    address
}

#[tokio::test]
async fn who_shows_a_key_without_holding_it_is_found_out() {
    let server = Sshd::start(&["ed25519"], "").await;
    let pin = json!({ "host_key": server.fingerprint("ed25519") });
    let same = |line: &[u8]| line.to_vec();
    // padding length, message, key (4 + 51), point (4 + 32), signature (4 + 4 + 11 + 4 + 64)
    const POINT: usize = 1 + 1 + 55 + 4;
    const SIGNATURE: usize = POINT + 32 + 4 + 4 + 11 + 4;
    let truth = relay(server.address, same, |_| {}).await;
    assert_eq!(failure(&ssh(truth, pin.clone(), LONG).await), None);
    let forged = relay(server.address, same, |body| body[SIGNATURE + 7] ^= 1).await;
    // A stranger who repeats the key, but agrees on a secret of its own.
    let middle = relay(server.address, same, |body| body[POINT + 7] ^= 1).await;
    let renamed = relay(server.address, |_| b"SSH-2.0-Other\r\n".to_vec(), |_| {}).await;
    let zero = relay(server.address, same, |body| body[POINT..POINT + 32].fill(0)).await;
    let untyped = relay(server.address, same, |body| body[SIGNATURE - 6] ^= 1).await;
    for (name, address) in
        [("forged", forged), ("middle", middle), ("renamed", renamed), ("zero", zero), ("untyped", untyped)]
    {
        let seen = ssh(address, pin.clone(), LONG).await;
        assert_eq!(failure(&seen), Some(CertInvalid), "{name}: {:?}", seen.fault);
    }
}
