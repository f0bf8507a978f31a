//! API tokens: 256 random bits behind a prefix that scanners of leaked secrets can know, with a checksum that tells a typo
//! or a random text from a token without asking anybody. Only their SHA-256 is kept: so much randomness needs no slow hash.

use std::fmt;
use std::fmt::Write as _;
use std::hash::{Hash, Hasher};

use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use uuid::Uuid;

use super::{Caller, Scope, Viewer};
use crate::model::{Secret, StoreFault, UserId};

/// How every token begins.
pub const PREFIX: &str = "lamp_";
/// Random bytes.
const SECRET_BYTES: usize = 32;
/// Bytes of the checksum: the first of the SHA-256 of what stands before it.
const CHECKSUM_BYTES: usize = 4;
/// Characters of a token: both parts are written in hex.
const LENGTH: usize = PREFIX.len() + 2 * (SECRET_BYTES + CHECKSUM_BYTES);

/// The SHA-256 of a token. Compared in constant time.
#[derive(Clone, Copy)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// The hash of a text that has the form of a token; none for any other text.
    #[must_use]
    pub fn of(text: &str) -> Option<Self> {
        let digits = text.strip_prefix(PREFIX)?;
        let is_hex = digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if text.len() != LENGTH || !is_hex {
            return None;
        }
        let (body, checksum) = text.split_at_checked(LENGTH - 2 * CHECKSUM_BYTES)?;
        (checksum_of(body) == checksum).then(|| Self(Sha256::digest(text).into()))
    }

    /// A stored hash; none when it has another length.
    #[must_use]
    pub fn stored(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// For the store.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl PartialEq for TokenHash {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for TokenHash {}

impl Hash for TokenHash {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[hash of a token]")
    }
}

/// The system has no randomness to give.
#[derive(Debug, thiserror::Error)]
#[error("the system's random numbers cannot be read: {0}")]
pub struct NoRandomness(#[from] getrandom::Error);

/// A new token.
///
/// # Errors
/// [`NoRandomness`]; nothing secret can be made then.
pub fn generate() -> Result<Secret, NoRandomness> {
    let mut bytes = [0; SECRET_BYTES];
    getrandom::fill(&mut bytes)?;
    let body = format!("{PREFIX}{}", hex(&bytes));
    let checksum = checksum_of(&body);
    Ok(Secret::new(body + &checksum))
}

fn checksum_of(body: &str) -> String {
    hex(Sha256::digest(body).get(..CHECKSUM_BYTES).unwrap_or_default())
}

/// Bytes as lower-case hex.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// What a token that was found, and is not revoked, allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// `tokens.id`.
    pub id: Uuid,
    /// Whose it is.
    pub user: UserId,
    /// What it may do.
    pub scope: Scope,
    /// From then on it allows nothing.
    pub expires_at: Option<DateTime<Utc>>,
}

impl Grant {
    /// The caller, unless it has expired.
    #[must_use]
    pub fn caller(&self, now: DateTime<Utc>) -> Option<Caller> {
        if self.expires_at.is_some_and(|end| end <= now) {
            return None;
        }
        let viewer = if self.scope == Scope::Admin { Viewer::Everything } else { Viewer::User(self.user) };
        Some(Caller { scope: self.scope, viewer })
    }
}

/// Where tokens are kept.
pub trait TokenStore: Send + Sync + 'static {
    /// The token of this hash, unless there is none or it is revoked. Also notes that it was used, to about five minutes.
    fn find<'a>(&'a self, hash: &'a TokenHash) -> BoxFuture<'a, Result<Option<Grant>, StoreFault>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_known_by_its_form() {
        let token = generate().unwrap();
        let text = token.expose();
        assert_eq!((text.len(), &text[..5]), (77, "lamp_"));
        assert!(TokenHash::of(text).is_some());
        assert_ne!(TokenHash::of(text), TokenHash::of(generate().unwrap().expose()));
        let swapped = format!("lamp_{}{}", &text[6..], &text[5..6]);
        for bad in ["", "lamp_", &text[1..], &text[..76], &format!("{text}0"), &text.to_uppercase(), &swapped, "lamp_é"]
        {
            assert!(TokenHash::of(bad).is_none() || bad == text, "{bad}");
        }
    }

    #[test]
    fn any_single_typo_is_found() {
        let token = generate().unwrap();
        for at in 0..token.expose().len() {
            let mut bytes = token.expose().as_bytes().to_vec();
            bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
            assert!(TokenHash::of(std::str::from_utf8(&bytes).unwrap()).is_none(), "{at}");
        }
    }

    #[test]
    fn a_grant_ends_when_it_expires() {
        let end = DateTime::UNIX_EPOCH + chrono::TimeDelta::seconds(100);
        let grant = |scope| Grant { id: Uuid::nil(), user: UserId(Uuid::nil()), scope, expires_at: Some(end) };
        let before = end - chrono::TimeDelta::microseconds(1);
        assert_eq!(grant(Scope::Admin).caller(before), Some(Caller::ADMIN));
        assert_eq!(grant(Scope::Read).caller(before).unwrap().viewer, Viewer::User(UserId(Uuid::nil())));
        assert_eq!(grant(Scope::Admin).caller(end), None);
    }

    #[test]
    fn a_hash_is_not_shown() {
        let hash = TokenHash::of(generate().unwrap().expose()).unwrap();
        assert_eq!(format!("{hash:?}"), "[hash of a token]");
    }
}
