//! SCRAM for clients (RFC 5802, RFC 7677), without channel binding: what PostgreSQL and MongoDB log in with.

use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::model::Secret;

/// Rounds that a server may ask for: servers' defaults are 4,096 and 15,000, and each costs both sides a microsecond.
const MAX_ROUNDS: u32 = 600_000;
/// A salt; servers use 16 to 28 bytes.
const MAX_SALT_BYTES: usize = 1024;

type Key = [u8; 32];

/// Why an exchange cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// The server's message is not one of SCRAM.
    #[error("sent a SCRAM message that is none")]
    Malformed,
    /// More rounds than we take.
    #[error("asks for {0} rounds of hashing, more than {MAX_ROUNDS}")]
    Rounds(u32),
    /// The server does not know the password either: an impostor.
    #[error("did not prove that it knows the password")]
    Impostor,
    /// What the server calls an error (`e=`).
    #[error("refused the password")]
    Refused,
}

/// The salted password of one account, so that the same salt costs nothing again. Holds what is as good as a password:
/// no `Debug`.
#[derive(Default)]
pub struct Salted(Mutex<Option<(Vec<u8>, u32, Key)>>);

impl Salted {
    /// The key for a salt; computed off the async workers when it is new, since it takes milliseconds.
    async fn key(&self, password: &Secret, salt: Vec<u8>, rounds: u32) -> Option<Key> {
        let known = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .and_then(|(of, count, key)| (*of == salt && *count == rounds).then_some(*key));
        if known.is_some() {
            return known;
        }
        let (password, own_salt) = (password.clone(), salt.clone());
        let salting = tokio::task::spawn_blocking(move || salted(&password, &own_salt, rounds));
        // None: the runtime ends.
        let key = salting.await.ok()?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((salt, rounds, key));
        Some(key)
    }
}

/// RFC 5802, section 2.2: `Hi`.
fn salted(password: &Secret, salt: &[u8], rounds: u32) -> Key {
    // A password that SASLprep refuses is taken as it is (RFC 5802 leaves it to servers, which do the same).
    let prepared = stringprep::saslprep(password.expose());
    let text = prepared.as_deref().unwrap_or(password.expose());
    let keyed = keyed(text.as_bytes());
    let mut block = keyed.clone().chain_update(salt).chain_update(1_u32.to_be_bytes()).finalize().into_bytes();
    let mut sum: Key = block.into();
    for _ in 1..rounds {
        block = keyed.clone().chain_update(block).finalize().into_bytes();
        sum.iter_mut().zip(block).for_each(|(sum, byte)| *sum ^= byte);
    }
    sum
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    // HMAC takes keys of any length (RFC 2104): the error does not occur.
    Hmac::new_from_slice(key).unwrap_or_else(|_| Hmac::new(&Default::default()))
}

fn mac(key: &[u8], text: &[u8]) -> Key {
    keyed(key).chain_update(text).finalize().into_bytes().into()
}

/// One login by SCRAM-SHA-256.
pub struct Scram {
    first_bare: String,
    nonce: String,
    proof_of_server: Option<Key>,
}

impl Scram {
    /// Begins, with 18 random bytes as nonce. `username` may be empty where the protocol has told it before.
    pub fn new(username: &str) -> Result<Self, getrandom::Error> {
        let mut random = [0; 18];
        getrandom::fill(&mut random)?;
        Ok(Self::with_nonce(username, BASE64.encode(random)))
    }

    fn with_nonce(username: &str, nonce: String) -> Self {
        let name = username.replace('=', "=3D").replace(',', "=2C");
        Self { first_bare: format!("n={name},r={nonce}"), nonce, proof_of_server: None }
    }

    /// The client's first message.
    #[must_use]
    pub fn first(&self) -> String {
        format!("n,,{}", self.first_bare)
    }

    /// The client's final message, to the server's first one.
    pub async fn answer(&mut self, server_first: &[u8], password: &Secret, salted: &Salted) -> Result<String, Wrong> {
        let text = std::str::from_utf8(server_first).map_err(|_| Wrong::Malformed)?;
        // RFC 5802, section 5.1: an extension that must be understood, and is not.
        if attribute(text, "m").is_some() {
            return Err(Wrong::Malformed);
        }
        let nonce = attribute(text, "r").filter(|nonce| nonce.len() > self.nonce.len());
        let nonce = nonce.filter(|nonce| nonce.starts_with(&self.nonce)).ok_or(Wrong::Malformed)?;
        let salt = attribute(text, "s").and_then(|salt| BASE64.decode(salt).ok()).ok_or(Wrong::Malformed)?;
        let rounds: u32 = attribute(text, "i").and_then(|rounds| rounds.parse().ok()).ok_or(Wrong::Malformed)?;
        if rounds == 0 || salt.is_empty() || salt.len() > MAX_SALT_BYTES {
            return Err(Wrong::Malformed);
        }
        if rounds > MAX_ROUNDS {
            return Err(Wrong::Rounds(rounds));
        }
        let key = salted.key(password, salt, rounds).await.ok_or(Wrong::Malformed)?;
        // "biws" is "n,," in base64: no channel binding.
        let without_proof = format!("c=biws,r={nonce}");
        let auth = format!("{},{text},{without_proof}", self.first_bare);
        let client_key = mac(&key, b"Client Key");
        let stored: Key = Sha256::digest(client_key).into();
        let signature = mac(&stored, auth.as_bytes());
        let proof: Vec<u8> = client_key.iter().zip(signature).map(|(key, sign)| key ^ sign).collect();
        self.proof_of_server = Some(mac(&mac(&key, b"Server Key"), auth.as_bytes()));
        Ok(format!("{without_proof},p={}", BASE64.encode(proof)))
    }

    /// Checks the server's final message.
    pub fn check(&self, server_final: &[u8]) -> Result<(), Wrong> {
        let text = std::str::from_utf8(server_final).map_err(|_| Wrong::Malformed)?;
        if attribute(text, "e").is_some() {
            return Err(Wrong::Refused);
        }
        let given = attribute(text, "v").and_then(|proof| BASE64.decode(proof).ok()).ok_or(Wrong::Malformed)?;
        let wanted = self.proof_of_server.ok_or(Wrong::Malformed)?;
        if bool::from(wanted.as_slice().ct_eq(&given)) { Ok(()) } else { Err(Wrong::Impostor) }
    }
}

fn attribute<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    text.split(',').find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_example_of_rfc_7677() {
        let mut scram = Scram::with_nonce("user", "rOprNGfwEbeRWgbNEkqO".to_owned());
        assert_eq!(scram.first(), "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let server_first = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let (password, salted) = (Secret::new("pencil".to_owned()), Salted::default());
        for _ in 0..2 {
            let last = scram.answer(server_first, &password, &salted).await.unwrap();
            assert_eq!(
                last,
                "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                 p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
            );
        }
        assert_eq!(scram.check(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="), Ok(()));
        assert_eq!(scram.check(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G5="), Err(Wrong::Malformed));
        assert_eq!(scram.check(b"v=AAAA"), Err(Wrong::Impostor));
        assert_eq!(scram.check(b"e=other-error"), Err(Wrong::Refused));
    }

    #[tokio::test]
    async fn lies_of_a_server_are_told() {
        let (password, salted) = (Secret::new("p".to_owned()), Salted::default());
        for (first, wrong) in [
            ("r=other,s=AAAA,i=1", Wrong::Malformed),
            ("r=abc,s=AAAA,i=1", Wrong::Malformed),
            ("r=abcd,s=,i=1", Wrong::Malformed),
            ("r=abcd,s=AAAA,i=0", Wrong::Malformed),
            ("r=abcd,s=AAAA", Wrong::Malformed),
            ("m=new,r=abcd,s=AAAA,i=1", Wrong::Malformed),
            ("r=abcd,s=AAAA,i=4000000000", Wrong::Rounds(4_000_000_000)),
            ("\u{fffd}", Wrong::Malformed),
        ] {
            let mut scram = Scram::with_nonce("u", "abc".to_owned());
            assert_eq!(scram.answer(first.as_bytes(), &password, &salted).await, Err(wrong), "{first}");
        }
        assert_eq!(Scram::with_nonce("a=b,c", "r".to_owned()).first(), "n,,n=a=3Db=2Cc,r=r");
    }
}
