//! The beginning of an SSH conversation: identification (RFC 4253, 4.2), and a key exchange (RFC 5656, RFC 8731) up to the
//! server's proof that it holds its host key. Nothing is ever encrypted: with the proof we say goodbye.

use ring::agreement::{Algorithm, ECDH_P256, EphemeralPrivateKey, UnparsedPublicKey, X25519, agree_ephemeral};
use ring::rand::SystemRandom;
use sha2::{Digest as _, Sha256};

use super::host_key::{self, Family, Fingerprint};
use super::wire::{self, Fields, NotRead, Payload};
use crate::model::{Failure, Fault};
use crate::probe::authority::Authority;
use crate::probe::talk::{End, Talk};
use crate::verdict::text;

/// Bytes of one conversation: two packets of the largest size, and a long greeting.
pub(super) const MAX_RECEIVED: usize = 128 * 1024;
/// An identification is at most 255 bytes with its CR LF.
const MAX_IDENTIFICATION: usize = 253;
/// Lines that a server may send before, and how long each may be.
const MAX_LINES: usize = 64;
const MAX_LINE: usize = 1024;
const QUOTE_CHARS: usize = 80;

const OURS: &str = concat!("SSH-2.0-Lamplighter_", env!("CARGO_PKG_VERSION"));
const EXCHANGES: [&str; 3] = ["curve25519-sha256", "curve25519-sha256@libssh.org", "ecdh-sha2-nistp256"];
/// Never used, but a server ends the conversation when it has none of them.
const CIPHERS: &[u8] = b"aes128-ctr,aes192-ctr,aes256-ctr,chacha20-poly1305@openssh.com,aes128-gcm@openssh.com,aes256-gcm@openssh.com,aes128-cbc,3des-cbc";
const MACS: &[u8] = b"hmac-sha2-256,hmac-sha2-512,hmac-sha2-256-etm@openssh.com,hmac-sha2-512-etm@openssh.com,umac-128-etm@openssh.com,umac-128@openssh.com,hmac-sha1";

/// A key that the server has proved to hold.
#[derive(Clone, Debug)]
pub(super) struct Proven {
    pub(super) fingerprint: Fingerprint,
    pub(super) algorithm: &'static str,
    pub(super) exchange: &'static str,
    /// What it says to have.
    pub(super) offered: Vec<Family>,
}

/// The server speaks SSH, but none of the methods that we know.
pub(super) enum Outcome {
    Proven(Proven),
    NothingInCommon(String),
}

/// The server's identification, without its line end. Ours has been sent.
pub(super) async fn identify(talk: &mut Talk<'_>, place: &Authority) -> Result<String, Fault> {
    let sent = talk.send(format!("{OURS}\r\n").as_bytes()).await;
    let mut said: Option<Vec<u8>> = None;
    for _ in 0..MAX_LINES {
        let line = match talk.line(MAX_LINE).await {
            Ok(line) => line,
            // It had something to say, but nothing that SSH knows: too many connections, or another protocol.
            Err(End::Closed | End::Deadline | End::Broken(_)) if said.is_some() || !talk.unread().is_empty() => {
                let said = said.unwrap_or_else(|| talk.unread().to_vec());
                return Err(not_ssh(&said, place));
            }
            // A server that refuses at once may have explained itself before our words met a closed connection.
            Err(end) => return Err(sent.err().unwrap_or(end).fault(place, "its identification")),
        };
        if line.starts_with(b"SSH-") {
            let line = String::from_utf8_lossy(&line).into_owned();
            // 1.99: it speaks both, RFC 4253, 5.1.
            let speaks_two = line.starts_with("SSH-2.0-") || line.starts_with("SSH-1.99-");
            if speaks_two && line.len() <= MAX_IDENTIFICATION {
                return Ok(line);
            }
            let quoted = text::quote(&line, QUOTE_CHARS);
            return Err(mismatch(format!("{place} does not speak SSH 2: its identification is {quoted}")));
        }
        said.get_or_insert(line);
    }
    Err(not_ssh(&said.unwrap_or_default(), place))
}

fn not_ssh(said: &[u8], place: &Authority) -> Fault {
    let quoted = text::quote(&String::from_utf8_lossy(said), QUOTE_CHARS);
    mismatch(format!("{place} sent no SSH identification, but {quoted}"))
}

fn mismatch(message: String) -> Fault {
    Fault::new(Failure::ExchangeMismatch, message)
}

fn not_read(not: NotRead, place: &Authority, awaited: &str) -> Fault {
    match not {
        NotRead::Ended(end) => end.fault(place, awaited),
        NotRead::Malformed => mismatch(format!("{place} sent something else than {awaited}")),
        NotRead::Goodbye(reason) => {
            let reason = text::quote(&reason, QUOTE_CHARS);
            Fault::new(Failure::ConnectionClosed, format!("{place} ended the conversation before {awaited}: {reason}"))
        }
    }
}

/// Exchanges keys, asking for a host key of one of these families.
pub(super) async fn prove(
    talk: &mut Talk<'_>,
    place: &Authority,
    theirs: &str,
    families: &[Family],
) -> Result<Outcome, Fault> {
    let ours = our_proposal(families).ok_or_else(no_random)?;
    talk.send(&wire::packet(&ours)).await.map_err(|end| end.fault(place, "its key exchange methods"))?;
    let proposal = wire::receive(talk, wire::KEXINIT).await;
    let proposal = proposal.map_err(|not| not_read(not, place, "its key exchange methods"))?;
    let agreed =
        agree(&proposal, families).ok_or_else(|| mismatch(format!("{place} sent broken key exchange methods")))?;
    let (exchange, algorithm, offered) = match agreed {
        Ok(agreed) => agreed,
        Err(what) => {
            goodbye(talk).await;
            return Ok(Outcome::NothingInCommon(what));
        }
    };
    let curve: &'static Algorithm = if exchange.starts_with("curve25519") { &X25519 } else { &ECDH_P256 };
    let private = EphemeralPrivateKey::generate(curve, &SystemRandom::new()).map_err(|_| no_random())?;
    let public = private.compute_public_key().map_err(|_| no_random())?;
    let init = Payload::of(wire::ECDH_INIT).string(public.as_ref());
    talk.send(&wire::packet(&init.0)).await.map_err(|end| end.fault(place, "its host key"))?;
    let reply = wire::receive(talk, wire::ECDH_REPLY).await.map_err(|not| not_read(not, place, "its host key"))?;
    let mut fields = Fields(reply.get(1..).unwrap_or_default());
    let parts = (fields.string(), fields.string(), fields.string());
    let (Some(blob), Some(point), Some(signature)) = parts else {
        return Err(mismatch(format!("{place} sent a broken host key")));
    };
    let agreed = agree_ephemeral(private, &UnparsedPublicKey::new(curve, point), |secret| {
        let transcript = Payload::default().string(OURS.as_bytes()).string(theirs.as_bytes()).string(&ours);
        let transcript = transcript.string(&proposal).string(blob).string(public.as_ref()).string(point).mpint(secret);
        Sha256::digest(&transcript.0)
    });
    let proven = agreed.ok().and_then(|hash| host_key::verify(algorithm, blob, &hash, signature));
    goodbye(talk).await;
    let fingerprint = Fingerprint::of(blob);
    match proven {
        Some(true) => Ok(Outcome::Proven(Proven { fingerprint, algorithm, exchange, offered })),
        Some(false) => {
            let text = format!("{place} does not prove to hold its host key {fingerprint}: its signature is wrong");
            Err(Fault::new(Failure::CertInvalid, text))
        }
        None => Err(Fault::new(Failure::CertInvalid, format!("{place} sent a host key or signature of no known form"))),
    }
}

fn no_random() -> Fault {
    Fault::new(Failure::Internal, "this host gives no random numbers")
}

/// So that the server's log has a reason in it. Whether it arrives changes nothing.
async fn goodbye(talk: &mut Talk<'_>) {
    const BY_APPLICATION: u32 = 11;
    let payload = Payload::of(wire::DISCONNECT).uint32(BY_APPLICATION).string(b"checked").string(b"");
    let _ = talk.send(&wire::packet(&payload.0)).await;
}

fn our_proposal(families: &[Family]) -> Option<Vec<u8>> {
    let mut cookie = [0; 16];
    getrandom::fill(&mut cookie).ok()?;
    let algorithms: Vec<&str> = families.iter().flat_map(|family| family.algorithms()).copied().collect();
    let mut payload = Payload::of(wire::KEXINIT);
    payload.0.extend(cookie);
    for list in [EXCHANGES.join(",").as_bytes(), algorithms.join(",").as_bytes()] {
        payload = payload.string(list);
    }
    for list in [CIPHERS, CIPHERS, MACS, MACS, b"none,zlib@openssh.com", b"none,zlib@openssh.com", b"", b""] {
        payload = payload.string(list);
    }
    payload.0.push(0);
    Some(payload.uint32(0).0)
}

type Agreed = (&'static str, &'static str, Vec<Family>);

/// The methods that both have: the first of ours that the server has as well (RFC 4253, 7.1). None: no proposal.
fn agree(theirs: &[u8], families: &[Family]) -> Option<Result<Agreed, String>> {
    const COOKIE: usize = 16;
    let mut fields = Fields(theirs.get(1 + COOKIE..)?);
    let (exchanges, keys) = (fields.names()?, fields.names()?);
    let exchange = EXCHANGES.into_iter().find(|ours| exchanges.contains(ours));
    let mut ours = families.iter().flat_map(|family| family.algorithms()).copied();
    let key = ours.find(|ours| keys.contains(ours));
    let offered = Family::ALL.into_iter().filter(|family| family.algorithms().iter().any(|name| keys.contains(name)));
    Some(match (exchange, key) {
        (Some(exchange), Some(key)) => Ok((exchange, key, offered.collect())),
        (None, _) => Err(format!("key exchanges {}", exchanges.join(", "))),
        (_, None) => Err(format!("host keys {}", keys.join(", "))),
    })
}
