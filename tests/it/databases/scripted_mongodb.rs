//! `MongoDB`, of which Debian has no server: replies in the shape of a real server's, and the other side of SCRAM.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit as _, Mac as _};
use lamplighter::model::Failure::{self, *};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{LONG, detail, judged};
use crate::support::probing::net;
use crate::support::servers::tls::RawServer;

/// For the password "pencil", the salt below and 15,000 rounds, by Python's hashlib and hmac.
const STORED_KEY: &str = "88dc210ff525a0c8539fa802e2f08c033bc80d698ae1173e752e6c730e341f60";
const SERVER_KEY: &str = "37f74c841c631cd1229d0f24fddb410268051a1c49d441143a93bf447d66d008";
const SALT: &str = "W22ZaJ0SNY7soEsUEjb6gQ==";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Server {
    Fair,
    /// Before 4.4: the proof and the end in two turns.
    Old,
    Impostor,
    Rounds,
    /// Answers as before 3.6.
    OpReply,
    NeverDone,
    NotPrimary,
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap()).collect()
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    Hmac::<Sha256>::new_from_slice(key).unwrap().chain_update(text).finalize().into_bytes().to_vec()
}

fn element(sort: u8, name: &str, value: &[u8]) -> Vec<u8> {
    [&[sort], name.as_bytes(), &[0], value].concat()
}

fn double(name: &str, value: f64) -> Vec<u8> {
    element(1, name, &value.to_le_bytes())
}

fn text(name: &str, value: &str) -> Vec<u8> {
    let length = i32::try_from(value.len() + 1).unwrap().to_le_bytes();
    element(2, name, &[&length, value.as_bytes(), &[0]].concat())
}

fn payload(value: &str) -> Vec<u8> {
    let length = i32::try_from(value.len()).unwrap().to_le_bytes();
    element(5, "payload", &[&length[..], &[0], value.as_bytes()].concat())
}

fn int(name: &str, value: i32) -> Vec<u8> {
    element(16, name, &value.to_le_bytes())
}

fn truth(name: &str, value: bool) -> Vec<u8> {
    element(8, name, &[u8::from(value)])
}

fn document(elements: &[Vec<u8>]) -> Vec<u8> {
    let body = elements.concat();
    [&i32::try_from(body.len() + 5).unwrap().to_le_bytes()[..], &body, &[0]].concat()
}

fn reply(op: i32, elements: &[Vec<u8>]) -> Vec<u8> {
    let head: &[u8] = if op == 1 { &[0; 20] } else { &[0; 5] };
    let body = [head, &document(elements)].concat();
    let length = i32::try_from(16 + body.len()).unwrap();
    let header: Vec<u8> = [length, 77, 1, op].iter().flat_map(|number| number.to_le_bytes()).collect();
    [header, body].concat()
}

/// As a `MongoDB` 7 says hello, nested documents, times and all.
fn hello(server: Server) -> Vec<Vec<u8>> {
    let version = document(&[element(7, "processId", &[9; 12]), element(18, "counter", &6_i64.to_le_bytes())]);
    let hosts = document(&[text("0", "a.example:27017"), text("1", "b.example:27017")]);
    vec![
        element(3, "topologyVersion", &version),
        element(4, "hosts", &hosts),
        text("setName", "rs0"),
        truth("ismaster", server != Server::NotPrimary),
        truth("secondary", server == Server::NotPrimary),
        int("maxBsonObjectSize", 16_777_216),
        element(9, "localTime", &1_795_000_000_000_i64.to_le_bytes()),
        element(17, "operationTime", &[0; 8]),
        int("maxWireVersion", 21),
        truth("readOnly", false),
        double("ok", 1.0),
    ]
}

fn failed(code: i32, name: &str, message: &str) -> Vec<Vec<u8>> {
    vec![double("ok", 0.0), text("errmsg", message), int("code", code), text("codeName", name)]
}

/// The message's document.
async fn read(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let length = stream.read_i32_le().await.ok()?;
    let mut rest = vec![0; usize::try_from(length).ok()? - 4];
    stream.read_exact(&mut rest).await.ok()?;
    assert_eq!(&rest[8..12], 2013_i32.to_le_bytes());
    Some(rest.split_off(17))
}

/// The SCRAM message in a document: it is the only text with this beginning, and ends with the field.
fn scram_in(document: &[u8]) -> String {
    let at = document.windows(8).position(|window| window == b"payload\0").unwrap() + 8;
    let length = usize::try_from(i32::from_le_bytes(document[at..at + 4].try_into().unwrap())).unwrap();
    String::from_utf8(document[at + 5..at + 5 + length].to_vec()).unwrap()
}

async fn serve(mut stream: TcpStream, server: Server) {
    let (mut logged_in, mut messages) = (false, String::new());
    let mut turns = 0;
    while let Some(document) = read(&mut stream).await {
        let end = document[5..].iter().position(|byte| *byte == 0).unwrap() + 5;
        let answer = match &document[5..end] {
            b"isMaster" if server == Server::OpReply => reply(1, &hello(server)),
            b"isMaster" => reply(2013, &hello(server)),
            b"saslStart" => {
                let first = scram_in(&document);
                let bare = first.strip_prefix("n,,").unwrap();
                let rounds = if server == Server::Rounds { 4_000_000_000_u32 } else { 15_000 };
                let nonce = bare.split_once(",r=").unwrap().1;
                let said = format!("r={nonce}SERVER,s={SALT},i={rounds}");
                messages = format!("{bare},{said}");
                reply(2013, &[int("conversationId", 5), truth("done", false), payload(&said), double("ok", 1.0)])
            }
            b"saslContinue" => {
                assert!(
                    document.windows(20).any(|window| window == [&b"\x10conversationId\0"[..], &[5, 0, 0, 0]].concat())
                );
                let last = scram_in(&document);
                turns += 1;
                if logged_in || server == Server::NeverDone && turns > 1 {
                    let done = server != Server::NeverDone;
                    reply(2013, &[int("conversationId", 5), truth("done", done), payload(""), double("ok", 1.0)])
                } else {
                    let (without, proof) = last.split_once(",p=").unwrap();
                    let auth = format!("{messages},{without}");
                    let signature = mac(&bytes(STORED_KEY), &auth);
                    let proof = BASE64.decode(proof).unwrap();
                    let key: Vec<u8> = proof.iter().zip(signature).map(|(a, b)| a ^ b).collect();
                    logged_in = Sha256::digest(key).as_slice() == bytes(STORED_KEY);
                    let mut said = format!("v={}", BASE64.encode(mac(&bytes(SERVER_KEY), &auth)));
                    if server == Server::Impostor {
                        said = format!("v={}", BASE64.encode([7; 32]));
                    }
                    if logged_in {
                        let done = !matches!(server, Server::Old | Server::NeverDone);
                        reply(2013, &[int("conversationId", 5), truth("done", done), payload(&said), double("ok", 1.0)])
                    } else {
                        reply(2013, &failed(18, "AuthenticationFailed", "Authentication failed."))
                    }
                }
            }
            b"ping" if logged_in => reply(2013, &[double("ok", 1.0)]),
            b"ping" => reply(2013, &failed(13, "Unauthorized", "Command ping requires authentication")),
            other => panic!("{}", other.escape_ascii()),
        };
        if stream.write_all(&answer).await.is_err() {
            return;
        }
    }
}

async fn run(server: Server, password: Option<&str>) -> (Option<Failure>, String, lamplighter::model::Observation) {
    let raw = RawServer::start(move |stream| serve(stream, server)).await;
    let monitor: Value = match password {
        Some(password) => json!({
            "url": format!("mongodb://user@{}", raw.address),
            "auth": { "basic": { "password": password } },
        }),
        None => json!({ "url": format!("mongodb://{}", raw.address) }),
    };
    judged(&net(), &monitor, LONG).await
}

#[tokio::test]
async fn logins_of_mongodb() {
    for (server, password, failure, part) in [
        (Server::Fair, Some("pencil"), None, ""),
        (Server::Old, Some("pencil"), None, ""),
        (Server::NotPrimary, Some("pencil"), None, ""),
        (Server::Fair, Some("pen-and-paper"), Some(QueryFailed), "\"Authentication failed.\" (18): check auth.basic"),
        (Server::Fair, None, Some(QueryFailed), "requires authentication\" (13): give auth.basic a user"),
        (Server::Impostor, Some("pencil"), Some(QueryFailed), "did not prove that it knows the password"),
        (Server::Rounds, Some("pencil"), Some(QueryFailed), "asks for 4000000000 rounds"),
        (Server::NeverDone, Some("pencil"), Some(ExchangeMismatch), "does not speak the protocol of MongoDB"),
        (Server::OpReply, Some("pencil"), Some(ExchangeMismatch), "does not speak the protocol of MongoDB"),
    ] {
        let (found, message, seen) = run(server, password).await;
        assert_eq!(found, failure, "{message}");
        assert!(message.contains(part), "{message}");
        if failure.is_none() {
            let role = if server == Server::NotPrimary { "secondary" } else { "primary" };
            assert_eq!((detail(&seen, "role"), detail(&seen, "replica_set")), (role.to_owned(), "rs0".to_owned()));
        }
    }
}
