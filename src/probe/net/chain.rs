//! What a whole chain says about itself, kept: the same chain is met again and again, and to read it anew costs more than
//! to hash it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};
use rustls::pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};
use x509_parser::certificate::X509Certificate;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::certificate::{self, MOST_PARSED, days_until, hex, name, parse, time};
use crate::model::{CertificateFacts, ChainCertificate, ChainFacts, Weakness};

/// Chains that are kept, about 3 KiB each. Beyond it any other one goes: who presents a new chain each time makes every
/// check read its chain, and nothing worse.
const MOST_KEPT: usize = 4096;
/// Certificates of a chain that are told of.
const MOST_TOLD: usize = 8;
/// Names of the leaf that are told of, and the characters of each.
const MOST_NAMES: usize = 16;
const MOST_NAME_CHARS: usize = 128;
/// RSA keys with fewer bits are weak (NIST SP 800-131A; the CA/Browser Forum since 2014), and no algorithm of ours
/// takes a signature by one.
const LEAST_RSA_BITS: u32 = 2048;

/// What was agreed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Session {
    /// `1.2` or `1.3`.
    pub(super) version: Option<&'static str>,
    /// IANA's name, but for the prefix `TLS13_`.
    pub(super) cipher: Option<&'static str>,
}

struct Kept {
    facts: Arc<CertificateFacts>,
    /// When the first certificate ends.
    ends: DateTime<Utc>,
}

/// The chains that were met.
#[derive(Default)]
pub(super) struct Chains {
    kept: Mutex<HashMap<[u8; 32], Kept>>,
}

impl Chains {
    /// Facts of a chain, leaf first; none when the leaf is no X.509 certificate.
    pub(super) fn facts(
        &self,
        chain: &[CertificateDer<'_>],
        session: Session,
        now: DateTime<Utc>,
    ) -> Option<Arc<CertificateFacts>> {
        let key = digest(chain, session);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = kept.get_mut(&key) {
            let days_left = days_until(known.ends, now);
            if known.facts.days_left != days_left {
                known.facts = Arc::new(CertificateFacts { days_left, ..(*known.facts).clone() });
            }
            return Some(Arc::clone(&known.facts));
        }
        drop(kept);
        let (facts, ends) = read(chain, session, now)?;
        let facts = Arc::new(facts);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MOST_KEPT
            && let Some(other) = kept.keys().next().copied()
        {
            kept.remove(&other);
        }
        kept.insert(key, Kept { facts: Arc::clone(&facts), ends });
        Some(facts)
    }
}

fn digest(chain: &[CertificateDer<'_>], session: Session) -> [u8; 32] {
    let mut digest = Sha256::new();
    for text in [session.version, session.cipher] {
        digest.update(text.unwrap_or_default());
        digest.update([0]);
    }
    for der in chain {
        digest.update(der.len().to_be_bytes());
        digest.update(der);
    }
    digest.finalize().into()
}

fn read(
    chain: &[CertificateDer<'_>],
    session: Session,
    now: DateTime<Utc>,
) -> Option<(CertificateFacts, DateTime<Utc>)> {
    let mut facts = certificate::facts(chain, now)?;
    let parsed: Vec<_> = chain.iter().take(MOST_PARSED).map(|der| (der, parse(der))).collect();
    let ends = parsed
        .iter()
        .enumerate()
        .filter_map(|(index, (_, certificate))| Some((time(certificate.as_ref()?.validity().not_after), index)));
    let (first_end, days_left_of) = ends.min()?;
    let told = parsed.iter().take(MOST_TOLD).filter_map(|(der, parsed)| Some(told(der, parsed.as_ref()?)));
    let weaknesses = parsed.iter().enumerate().filter_map(|(index, (_, parsed))| Some((index, parsed.as_ref()?)));
    let (names, names_total) = certificate::all_names(chain, MOST_NAMES, MOST_NAME_CHARS);
    facts.more = Some(Box::new(ChainFacts {
        certificates: told.collect(),
        days_left_of,
        weaknesses: weaknesses.flat_map(|(index, parsed)| weaknesses_of(index, parsed)).take(MOST_TOLD).collect(),
        names,
        names_total,
        tls_version: session.version.map(Into::into),
        cipher: session.cipher.map(|cipher| cipher.replacen("TLS13_", "TLS_", 1).into()),
    }));
    Some((facts, first_end))
}

fn told(der: &CertificateDer<'_>, parsed: &X509Certificate<'_>) -> ChainCertificate {
    let (key_algorithm, key_bits) = key(parsed.public_key());
    ChainCertificate {
        subject: name(parsed.subject()),
        issuer: name(parsed.issuer()),
        not_before: time(parsed.validity().not_before),
        not_after: time(parsed.validity().not_after),
        key_algorithm: key_algorithm.into(),
        key_bits,
        signature_algorithm: signature(parsed).into(),
        fingerprint_sha256: hex(&Sha256::digest(der)),
    }
}

fn weaknesses_of(index: usize, parsed: &X509Certificate<'_>) -> Vec<Weakness> {
    let mut found = Vec::new();
    let mut add = |what: String| found.push(Weakness { certificate: index, what: what.into() });
    let (algorithm, bits) = key(parsed.public_key());
    if algorithm == "RSA" && bits < LEAST_RSA_BITS {
        add(format!("an RSA key of {bits} bits"));
    } else if algorithm == "DSA" || is_unusual_curve(&algorithm) {
        add(format!("a key of an unusual sort ({algorithm})"));
    }
    let signature = signature(parsed);
    // Nobody looks at the signature by which a root, or a leaf that signs itself, vouches for itself.
    if is_weak_signature(&signature) && parsed.subject().as_raw() != parsed.issuer().as_raw() {
        add(format!("a signature with {signature}"));
    }
    found
}

/// The weaknesses of a chain in words, `certificate 1 has an RSA key of 1024 bits`; none when there are none.
pub(super) fn weakness(chain: &[CertificateDer<'_>]) -> Option<String> {
    let mut all = chain.iter().take(MOST_PARSED).enumerate();
    all.find_map(|(index, der)| {
        let found = weaknesses_of(index, &parse(der)?).into_iter().next()?;
        let whose = if index == 0 { "the certificate".to_owned() } else { format!("certificate {} above it", index) };
        Some(format!("{whose} has {}", found.what))
    })
}

/// The key of a certificate is too weak for any signature by it to be taken.
pub(super) fn has_weak_key(der: &CertificateDer<'_>) -> bool {
    parse(der).is_some_and(|parsed| {
        let (algorithm, bits) = key(parsed.public_key());
        algorithm == "RSA" && bits < LEAST_RSA_BITS
    })
}

/// `RSA`, `EC P-256`, `Ed25519` or a dotted OID, with the bits, 0 when they are not known.
fn key(info: &SubjectPublicKeyInfo<'_>) -> (String, u32) {
    let bits_of = |bytes: &[u8]| {
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        let rest = bytes.get(zeros..).unwrap_or_default();
        let short = rest.first().map_or(0, |first| first.leading_zeros());
        u32::try_from(rest.len()).unwrap_or(u32::MAX).saturating_mul(8).saturating_sub(short)
    };
    let oid = info.algorithm.algorithm.to_id_string();
    match (oid.as_str(), info.parsed()) {
        ("1.3.101.112", _) => ("Ed25519".to_owned(), 256),
        ("1.3.101.113", _) => ("Ed448".to_owned(), 456),
        (_, Ok(PublicKey::RSA(rsa))) => ("RSA".to_owned(), bits_of(rsa.modulus)),
        (_, Ok(PublicKey::EC(point))) => {
            let curve = info.algorithm.parameters.as_ref().and_then(|any| any.as_oid().ok());
            let (name, bits) = match curve.map(|oid| oid.to_id_string()).as_deref() {
                Some("1.2.840.10045.3.1.7") => ("P-256".to_owned(), 256),
                Some("1.3.132.0.34") => ("P-384".to_owned(), 384),
                Some("1.3.132.0.35") => ("P-521".to_owned(), 521),
                Some("1.3.132.0.10") => ("secp256k1".to_owned(), 256),
                Some(other) => (other.to_owned(), u32::try_from(point.key_size()).unwrap_or(0)),
                None => ("of its own".to_owned(), u32::try_from(point.key_size()).unwrap_or(0)),
            };
            (format!("EC {name}"), bits)
        }
        (_, Ok(PublicKey::DSA(y))) => ("DSA".to_owned(), bits_of(y)),
        _ => (oid, 0),
    }
}

fn is_unusual_curve(algorithm: &str) -> bool {
    algorithm.strip_prefix("EC ").is_some_and(|curve| !matches!(curve, "P-256" | "P-384" | "P-521"))
}

/// Names of RFC 3279, 4055, 5758 and 8410; others as their dotted OID.
fn signature(parsed: &X509Certificate<'_>) -> String {
    let oid = parsed.signature_algorithm.algorithm.to_id_string();
    let name = match oid.as_str() {
        "1.2.840.113549.1.1.2" => "md2WithRSAEncryption",
        "1.2.840.113549.1.1.4" => "md5WithRSAEncryption",
        "1.2.840.113549.1.1.5" => "sha1WithRSAEncryption",
        "1.2.840.113549.1.1.10" => "rsassaPss",
        "1.2.840.113549.1.1.11" => "sha256WithRSAEncryption",
        "1.2.840.113549.1.1.12" => "sha384WithRSAEncryption",
        "1.2.840.113549.1.1.13" => "sha512WithRSAEncryption",
        "1.2.840.10045.4.1" => "ecdsa-with-SHA1",
        "1.2.840.10045.4.3.2" => "ecdsa-with-SHA256",
        "1.2.840.10045.4.3.3" => "ecdsa-with-SHA384",
        "1.2.840.10045.4.3.4" => "ecdsa-with-SHA512",
        "1.2.840.10040.4.3" => "dsa-with-SHA1",
        "1.3.101.112" => "Ed25519",
        "1.3.101.113" => "Ed448",
        _ => return oid,
    };
    name.to_owned()
}

fn is_weak_signature(name: &str) -> bool {
    name.starts_with("md2") || name.starts_with("md5") || name.starts_with("sha1") || name.ends_with("SHA1")
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn chain(names: &[String]) -> Vec<CertificateDer<'static>> {
        let mut params = CertificateParams::new(names.to_vec()).unwrap();
        params.not_after = rcgen::date_time_ymd(2026, 12, 1);
        vec![params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()]
    }

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn a_chain_is_read_once_and_its_days_still_pass() {
        let (chains, chain) = (Chains::default(), chain(&["a.test".to_owned()]));
        let session = Session { version: Some("1.3"), cipher: Some("TLS13_AES_128_GCM_SHA256") };
        let first = chains.facts(&chain, session, at("2026-11-22T00:00:00Z")).unwrap();
        let again = chains.facts(&chain, session, at("2026-11-22T23:00:00Z")).unwrap();
        assert!(first.days_left == 9 && again.days_left == 8);
        let same = chains.facts(&chain, session, at("2026-11-22T23:30:00Z")).unwrap();
        assert!(Arc::ptr_eq(&again, &same));
        let more = first.more.as_deref().unwrap();
        assert_eq!(more.cipher.as_deref(), Some("TLS_AES_128_GCM_SHA256"));
        assert_eq!((more.names.len(), more.names_total, more.weaknesses.len()), (1, 1, 0));
        let told = &more.certificates[0];
        assert_eq!((&*told.key_algorithm, told.key_bits), ("EC P-256", 256));
        assert_eq!(&*told.signature_algorithm, "ecdsa-with-SHA256");
        assert_eq!(told.fingerprint_sha256, first.fingerprint_sha256);
        // Another cipher is another session.
        let other = chains.facts(&chain, Session::default(), at("2026-11-22T00:00:00Z")).unwrap();
        assert!(other.more.as_deref().unwrap().cipher.is_none());
        assert_eq!(chains.kept.lock().unwrap().len(), 2);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let names: Vec<String> = (0..5000).map(|n| format!("{}{n}.test", "x".repeat(40))).collect();
        let big = chain(&names);
        let long: Vec<_> = std::iter::repeat_n(big[0].clone(), 200).collect();
        let facts = Chains::default().facts(&long, Session::default(), at("2026-11-22T00:00:00Z")).unwrap();
        let more = facts.more.as_deref().unwrap();
        assert_eq!((more.certificates.len(), more.names.len(), more.names_total), (8, 16, 5000));
        assert_eq!(facts.chain_length, 200);
        let bytes = serde_json::to_string(&*facts).unwrap().len();
        assert!(bytes < 8 * 1024, "{bytes}");
        let chains = Chains::default();
        for n in 0..MOST_KEPT + 10 {
            let cipher: &'static str = Box::leak(n.to_string().into_boxed_str());
            let _ =
                chains.facts(&big[..0], Session { version: None, cipher: Some(cipher) }, at("2026-11-22T00:00:00Z"));
        }
        assert!(chains.kept.lock().unwrap().is_empty(), "no leaf, no facts");
        let small = chain(&["a.test".to_owned()]);
        for n in 0..MOST_KEPT + 10 {
            let cipher: &'static str = Box::leak(n.to_string().into_boxed_str());
            let session = Session { version: None, cipher: Some(cipher) };
            assert!(chains.facts(&small, session, at("2026-11-22T00:00:00Z")).is_some());
        }
        assert_eq!(chains.kept.lock().unwrap().len(), MOST_KEPT);
    }
}
