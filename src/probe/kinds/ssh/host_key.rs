//! Host keys: which there are, their fingerprints, and whether a server proves to hold one.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY,
    RSA_PKCS1_1024_8192_SHA512_FOR_LEGACY_USE_ONLY, RsaPublicKeyComponents, UnparsedPublicKey,
};
use sha2::{Digest as _, Sha256};

use super::wire::{Fields, stripped};

/// A sort of key; a server has at most one of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Ed25519,
    Ecdsa,
    Rsa,
}

impl Family {
    /// In the order in which they are asked for.
    pub(crate) const ALL: [Self; 3] = [Self::Ed25519, Self::Ecdsa, Self::Rsa];

    /// Signature algorithms (RFC 8709, 5656, 8332). SHA-1 and DSA prove nothing any more.
    pub(crate) const fn algorithms(self) -> &'static [&'static str] {
        match self {
            Self::Ed25519 => &["ssh-ed25519"],
            Self::Ecdsa => &["ecdsa-sha2-nistp256"],
            Self::Rsa => &["rsa-sha2-512", "rsa-sha2-256"],
        }
    }

    pub(crate) fn of(algorithm: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|family| family.algorithms().contains(&algorithm))
    }
}

/// SHA-256 of a key's blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint([u8; 32]);

impl Fingerprint {
    pub(crate) fn of(blob: &[u8]) -> Self {
        Self(Sha256::digest(blob).into())
    }

    /// As `ssh-keygen -l` prints it; padding may stand behind.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text = text.strip_prefix("SHA256:")?.trim_end_matches('=');
        Some(Self(STANDARD_NO_PAD.decode(text).ok()?.try_into().ok()?))
    }
}

impl std::fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SHA256:{}", STANDARD_NO_PAD.encode(self.0))
    }
}

/// Whether the signature over the exchange hash is the key's, made by the algorithm that was agreed on. None: key or
/// signature are not of their form.
pub(crate) fn verify(algorithm: &str, blob: &[u8], hash: &[u8], signature: &[u8]) -> Option<bool> {
    let (mut key, mut signed) = (Fields(blob), Fields(signature));
    let (key_type, signed_by) = (key.string()?, signed.string()?);
    let signature = signed.string()?;
    if signed_by != algorithm.as_bytes() {
        return None;
    }
    let checked = match Family::of(algorithm)? {
        Family::Ed25519 => {
            let public = key.string().filter(|_| key_type == b"ssh-ed25519")?;
            UnparsedPublicKey::new(&ED25519, public).verify(hash, signature)
        }
        Family::Ecdsa => {
            key.string().filter(|curve| key_type == b"ecdsa-sha2-nistp256" && *curve == b"nistp256")?;
            let mut pair = Fields(signature);
            let mut fixed = Vec::with_capacity(64);
            for number in [pair.string()?, pair.string()?].map(stripped) {
                fixed.resize(fixed.len() + 32_usize.checked_sub(number.len())?, 0);
                fixed.extend_from_slice(number);
            }
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.string()?).verify(hash, &fixed)
        }
        Family::Rsa => {
            let e = key.string().filter(|_| key_type == b"ssh-rsa").map(stripped)?;
            let public = RsaPublicKeyComponents { n: stripped(key.string()?), e };
            // Old keys of 1024 bits are weak, but still the server's.
            let parameters = if algorithm == "rsa-sha2-512" {
                &RSA_PKCS1_1024_8192_SHA512_FOR_LEGACY_USE_ONLY
            } else {
                &RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY
            };
            public.verify(parameters, hash, signature)
        }
    };
    Some(checked.is_ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fingerprints_are_as_ssh_keygen_prints_them() {
        let text = "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU";
        assert_eq!(Fingerprint::of(b"").to_string(), text);
        assert_eq!(Fingerprint::parse(text), Some(Fingerprint::of(b"")));
        assert_eq!(Fingerprint::parse(&format!("{text}=")), Some(Fingerprint::of(b"")));
        for bad in ["", "SHA256:", "SHA256:abc", "MD5:0f:aa", &text[7..], &format!("{text}A")] {
            assert_eq!(Fingerprint::parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn garbage_is_no_proof(
            blob in proptest::collection::vec(any::<u8>(), 0..80), signature in proptest::collection::vec(any::<u8>(), 0..80)
        ) {
            for algorithm in Family::ALL.iter().flat_map(|family| family.algorithms()) {
                prop_assert_ne!(verify(algorithm, &blob, b"hash", &signature), Some(true));
                let text = |text: &str| super::super::wire::Payload::default().string(text.as_bytes()).0;
                let key_type = if algorithm.starts_with("rsa") { "ssh-rsa" } else { algorithm };
                let blob = [text(key_type), text("nistp256"), blob.clone()].concat();
                let signature = [text(algorithm), signature.clone()].concat();
                prop_assert_ne!(verify(algorithm, &blob, b"hash", &signature), Some(true));
            }
        }
    }
}
