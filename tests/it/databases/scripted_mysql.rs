//! What `MySQL` does and `MariaDB` does not, said by a server of ours that computes its side of a login by itself.

use std::sync::Arc;

use lamplighter::model::Failure::{self, *};
use serde_json::json;
use sha1::Sha1;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio_rustls::TlsAcceptor;

use super::{LONG, judged};
use crate::support::probing::net;
use crate::support::servers::tls::{RawServer, config, leaf_params, self_signed};

const NONCE: &[u8; 20] = b"abcdefghijklmnopqrst";
const OTHER_NONCE: &[u8; 20] = b"ABCDEFGHIJKLMNOPQRST";
const PASSWORD: &str = "s3cr3t-pass";
const SSL: u32 = 1 << 11;

/// What follows the client's answer.
#[derive(Clone, Copy)]
enum Way {
    /// `caching_sha2_password`, from the server's cache.
    Fast,
    /// The same, with the password itself.
    Full,
    /// From the greeting's plugin to that of the user.
    Switch(&'static str, &'static str),
    /// `caching_sha2_password` and then another question and another.
    Loop,
    /// A packet out of its turn.
    Jump,
    /// A refusal that quotes the password.
    Telltale,
}

struct Wire<S> {
    stream: S,
    sequence: u8,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    async fn put(&mut self, body: &[u8]) {
        let length = u32::try_from(body.len()).unwrap().to_le_bytes();
        let packet = [&length[..3], &[self.sequence], body].concat();
        self.sequence = self.sequence.wrapping_add(1);
        let _ = self.stream.write_all(&packet).await;
        let _ = self.stream.flush().await;
    }

    async fn get(&mut self) -> Option<Vec<u8>> {
        let head = self.stream.read_u32_le().await.ok()?;
        self.sequence = u8::try_from(head >> 24).unwrap().wrapping_add(1);
        let mut body = vec![0; usize::try_from(head & 0x00ff_ffff).unwrap()];
        self.stream.read_exact(&mut body).await.ok()?;
        Some(body)
    }

    async fn refuse(&mut self, code: u16, text: &str) {
        self.put(&[&[0xff], &code.to_le_bytes()[..], text.as_bytes()].concat()).await;
    }
}

fn greeting(plugin: &str, tls: bool) -> Vec<u8> {
    let capabilities = (0xdfff_ffff_u32 & !SSL) | if tls { SSL } else { 0 };
    let (low, high) = (capabilities.to_le_bytes(), [45, 2, 0]);
    let mut out = b"\x0a8.4.3\0\x07\0\0\0".to_vec();
    out.extend_from_slice(&NONCE[..8]);
    out.push(0);
    out.extend_from_slice(&low[..2]);
    out.extend_from_slice(&high);
    out.extend_from_slice(&low[2..]);
    out.push(21);
    out.extend_from_slice(&[0; 10]);
    out.extend_from_slice(&NONCE[8..]);
    out.push(0);
    out.extend_from_slice(plugin.as_bytes());
    out.push(0);
    out
}

/// The server's side: it knows only the hash of the hash.
fn is_right(plugin: &str, answer: &[u8], nonce: &[u8]) -> bool {
    let xor = |mask: &[u8]| -> Vec<u8> { answer.iter().zip(mask).map(|(a, b)| a ^ b).collect() };
    match plugin {
        "caching_sha2_password" => {
            let stored = Sha256::digest(Sha256::digest(PASSWORD));
            let once = xor(&Sha256::new().chain_update(stored).chain_update(nonce).finalize());
            answer.len() == 32 && Sha256::digest(once) == stored
        }
        _ => {
            let stored = Sha1::digest(Sha1::digest(PASSWORD));
            let once = xor(&Sha1::new().chain_update(nonce).chain_update(stored).finalize());
            answer.len() == 20 && Sha1::digest(once) == stored
        }
    }
}

/// The scramble and the plugin of a `HandshakeResponse41`.
fn parts(response: &[u8]) -> (Vec<u8>, String) {
    let user = response[32..].iter().position(|byte| *byte == 0).unwrap() + 32;
    assert_eq!(&response[32..user], b"user");
    let length = usize::from(response[user + 1]);
    let after = &response[user + 2 + length..];
    assert_eq!(&after[..5], b"shop\0");
    let plugin = after[5..].strip_suffix(&[0]).unwrap();
    (response[user + 2..user + 2 + length].to_vec(), String::from_utf8(plugin.to_vec()).unwrap())
}

async fn log_in<S: AsyncRead + AsyncWrite + Unpin>(wire: &mut Wire<S>, way: Way, response: &[u8]) -> Option<bool> {
    let (answer, plugin) = parts(response);
    match way {
        Way::Fast => {
            let right = is_right(&plugin, &answer, NONCE);
            if right {
                wire.put(&[1, 3]).await;
            }
            Some(right)
        }
        Way::Full => {
            wire.put(&[1, 4]).await;
            Some(wire.get().await? == [PASSWORD.as_bytes(), &[0]].concat())
        }
        Way::Switch(_, to) => {
            // To a plugin that it does not speak, the client answers as to the oldest.
            assert!(matches!(&*plugin, "mysql_native_password" | "caching_sha2_password"), "{plugin}");
            wire.put(&[&[0xfe], to.as_bytes(), &[0], OTHER_NONCE, &[0]].concat()).await;
            let answer = wire.get().await?;
            Some(match to {
                "sha256_password" => answer == [PASSWORD.as_bytes(), &[0]].concat(),
                _ => is_right(to, &answer, OTHER_NONCE),
            })
        }
        Way::Loop => {
            for _ in 0..100 {
                wire.put(&[1, 3]).await;
            }
            Some(true)
        }
        Way::Jump => {
            wire.sequence += 3;
            Some(true)
        }
        Way::Telltale => {
            let text = format!("#28000{} {PASSWORD} {PASSWORD}", "x".repeat(140));
            wire.refuse(1045, &text).await;
            None
        }
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(mut wire: Wire<S>, way: Way, response: Vec<u8>) {
    let Some(right) = log_in(&mut wire, way, &response).await else { return };
    if !right {
        return wire.refuse(1045, "#28000Access denied for user 'user'@'h' (using password: YES)").await;
    }
    wire.put(&[0, 0, 0, 2, 0, 0, 0]).await;
    while let Some(command) = wire.get().await {
        match command.split_first() {
            Some((14, _)) => wire.put(&[0, 0, 0, 2, 0, 0, 0]).await,
            Some((3, b"FILE")) => wire.put(b"\xfb/etc/passwd").await,
            Some((3, b"CUT")) => {
                for packet in [&b"\x01"[..], b"\x03def", b"\xfe\0\0\x02\0", b"\x09ab"] {
                    wire.put(packet).await;
                }
            }
            Some((3, _)) => {
                for packet in [&b"\x01"[..], b"\x03def", b"\xfe\0\0\x02\0", b"\x0242", b"\xfe\0\0\x02\0"] {
                    wire.put(packet).await;
                }
            }
            _ => return,
        }
    }
}

async fn start(way: Way, offers_tls: bool) -> RawServer {
    let tls = config(&self_signed(&leaf_params(&["127.0.0.1"])), rustls::DEFAULT_VERSIONS, None);
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    RawServer::start(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let mut wire = Wire { stream, sequence: 0 };
            let plugin = if let Way::Switch(from, _) = way { from } else { "caching_sha2_password" };
            wire.put(&greeting(plugin, offers_tls)).await;
            let Some(first) = wire.get().await else { return };
            if u32::from_le_bytes(first[..4].try_into().unwrap()) & SSL == 0 {
                return serve(wire, way, first).await;
            }
            let sequence = wire.sequence;
            let mut wire = Wire { stream: acceptor.accept(wire.stream).await.unwrap(), sequence };
            let Some(response) = wire.get().await else { return };
            serve(wire, way, response).await;
        }
    })
    .await
}

#[tokio::test]
async fn logins_of_mysql() {
    const SHA2: &str = "caching_sha2_password";
    const NATIVE: &str = "mysql_native_password";
    const SHA256: &str = "sha256_password";
    let only_tls = "only sent through TLS: set tls";
    type Row = (Way, bool, &'static str, &'static str, Option<Failure>, &'static str);
    let rows: Vec<Row> = vec![
        (Way::Fast, false, PASSWORD, "SELECT 1", None, ""),
        (Way::Fast, true, PASSWORD, "SELECT 1", None, ""),
        (Way::Fast, false, "wrong-word", "SELECT 1", Some(QueryFailed), "(1045): check auth.basic"),
        (Way::Full, true, PASSWORD, "SELECT 1", None, ""),
        (Way::Full, true, "wrong-word", "SELECT 1", Some(QueryFailed), "(1045)"),
        (Way::Full, false, PASSWORD, "SELECT 1", Some(QueryFailed), only_tls),
        (Way::Switch(NATIVE, SHA2), false, PASSWORD, "SELECT 1", None, ""),
        (Way::Switch(SHA2, NATIVE), false, PASSWORD, "SELECT 1", None, ""),
        (Way::Switch("auth_gssapi", SHA2), false, PASSWORD, "SELECT 1", None, ""),
        (Way::Switch(SHA256, SHA256), true, PASSWORD, "SELECT 1", None, ""),
        (Way::Switch(SHA256, SHA256), false, PASSWORD, "SELECT 1", Some(QueryFailed), only_tls),
        (Way::Switch(SHA2, "mysql_clear_password"), false, PASSWORD, "SELECT 1", Some(QueryFailed), only_tls),
        (
            Way::Switch(SHA2, "parsec"),
            false,
            PASSWORD,
            "SELECT 1",
            Some(QueryFailed),
            "log in by \"parsec\", not spoken",
        ),
        (Way::Loop, false, PASSWORD, "SELECT 1", Some(ExchangeMismatch), "protocol of MySQL"),
        (Way::Jump, false, PASSWORD, "SELECT 1", Some(ExchangeMismatch), "protocol of MySQL"),
        (Way::Telltale, false, PASSWORD, "SELECT 1", Some(QueryFailed), "[secret]"),
        (Way::Fast, false, PASSWORD, "FILE", Some(ExchangeMismatch), "asks for a file of this host"),
        (Way::Fast, false, PASSWORD, "CUT", Some(ExchangeMismatch), "protocol of MySQL"),
    ];
    let net = net();
    let runs = rows.into_iter().map(|(way, tls, password, query, failure, part)| {
        let net = &net;
        async move {
            let server = start(way, true).await;
            let mut monitor = json!({
                "url": format!("mysql://user@{}/shop", server.address),
                "auth": { "basic": { "password": password } },
                "query": query,
                "expect": { "value": 42 },
            });
            if tls {
                monitor["tls"] = json!({ "verify": false });
            }
            let (found, message, _) = judged(net, &monitor, LONG).await;
            assert_eq!(found, failure, "{monitor}: {message}");
            assert!(message.contains(part) && !message.contains("s3cr"), "{monitor}: {message}");
        }
    });
    futures_util::future::join_all(runs).await;
}

#[tokio::test]
async fn refusals_before_a_login_to_mysql() {
    let net = net();
    for (code, text, part) in [
        (1129_u16, "Host '192.0.2.1' is blocked because of many connection errors", "(1129): run FLUSH HOSTS there"),
        (1040, "Too many connections", "(1040): raise max_connections there"),
        (1130, "Host '192.0.2.1' is not allowed to connect", "(1130): allow this host for the user there"),
    ] {
        let server = RawServer::start(move |stream| async move {
            let mut wire = Wire { stream, sequence: 0 };
            wire.refuse(code, text).await;
        })
        .await;
        let monitor = json!({ "url": format!("mysql://user@{}/shop", server.address) });
        let (found, message, _) = judged(&net, &monitor, LONG).await;
        assert_eq!(found, Some(QueryFailed), "{message}");
        assert!(message.contains("refused the connection with") && message.contains(part), "{message}");
    }
    let server = start(Way::Fast, false).await;
    let monitor = json!({ "url": format!("mysql://user@{}/shop", server.address), "tls": {} });
    let (found, message, _) = judged(&net, &monitor, LONG).await;
    assert_eq!(found, Some(TlsHandshake), "{message}");
    assert!(message.contains("does not offer TLS: give it a certificate, or remove tls"), "{message}");
}
