//! What a presented chain says about itself. The texts come from the other side: bounded, and free of control
//! characters.

use std::fmt::Write as _;
use std::net::IpAddr;

use chrono::{DateTime, Utc};
use rustls::pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;
use x509_parser::time::ASN1Time;
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

use crate::model::CertificateFacts;

/// Certificates of a chain that are parsed; the rest is counted only. Real chains have two to four.
pub(super) const MOST_PARSED: usize = 16;

/// A distinguished name is cut after so many characters.
const MOST_NAME_CHARS: usize = 512;

const DAY_SECONDS: i64 = 86_400;

/// Whole days; what has ended has a negative number, also within the first day.
pub(super) fn days_until(end: DateTime<Utc>, now: DateTime<Utc>) -> i64 {
    let seconds = (end - now).num_seconds();
    if seconds < 0 { (seconds / DAY_SECONDS).min(-1) } else { seconds / DAY_SECONDS }
}

/// Facts of a chain, leaf first; none when the leaf is no X.509 certificate.
pub(super) fn facts(chain: &[CertificateDer<'_>], now: DateTime<Utc>) -> Option<CertificateFacts> {
    let leaf = parse(chain.first()?)?;
    let validity = leaf.validity();
    let ends =
        chain.iter().take(MOST_PARSED).filter_map(parse).map(|certificate| time(certificate.validity().not_after));
    let first_end = ends.min().unwrap_or_default();
    Some(CertificateFacts {
        subject: name(leaf.subject()),
        issuer: name(leaf.issuer()),
        not_before: time(validity.not_before),
        not_after: time(validity.not_after),
        days_left: days_until(first_end, now),
        fingerprint_sha256: hex(&Sha256::digest(chain.first()?)),
        chain_length: chain.len(),
        more: None,
    })
}

pub(super) fn parse<'a>(der: &'a CertificateDer<'_>) -> Option<X509Certificate<'a>> {
    X509Certificate::from_der(der).ok().map(|(_, certificate)| certificate)
}

/// Whether a certificate names itself as its issuer.
pub(super) fn is_self_issued(der: &CertificateDer<'_>) -> bool {
    parse(der).is_some_and(|certificate| certificate.subject().as_raw() == certificate.issuer().as_raw())
}

/// Start and end of the validity.
pub(super) fn validity(der: &CertificateDer<'_>) -> Option<(DateTime<Utc>, DateTime<Utc>)> {
    parse(der).map(|certificate| (time(certificate.validity().not_before), time(certificate.validity().not_after)))
}

/// The bits of the public key.
pub(super) fn public_key(der: &CertificateDer<'_>) -> Option<Vec<u8>> {
    parse(der).map(|certificate| certificate.public_key().subject_public_key.data.to_vec())
}

/// The hosts that the leaf is valid for, the first three, as text for a message; empty when it names none.
pub(super) fn names(chain: &[CertificateDer<'_>]) -> String {
    const SHOWN: usize = 3;
    let (mut shown, total) = all_names(chain, SHOWN, 80);
    if total > shown.len() {
        shown.push(format!("{} more", total - shown.len()));
    }
    shown.join(", ")
}

/// The first `most` hosts that the leaf is valid for, each cut after so many characters, and how many there are.
pub(super) fn all_names(chain: &[CertificateDer<'_>], most: usize, most_chars: usize) -> (Vec<String>, usize) {
    let leaf = chain.first().and_then(parse);
    let extension = leaf.as_ref().and_then(|leaf| leaf.subject_alternative_name().ok().flatten());
    let all = extension.map_or(&[][..], |extension| extension.value.general_names.as_slice());
    let mut hosts = all.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.chars().take(most_chars).flat_map(char::escape_debug).collect()),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            let v6 = <[u8; 16]>::try_from(*bytes).map(IpAddr::from);
            v4.or(v6).ok().map(|ip| ip.to_string())
        }
        _ => None,
    });
    let shown: Vec<String> = hosts.by_ref().take(most).collect();
    let total = shown.len() + hosts.count();
    (shown, total)
}

/// Years outside of what chrono knows cannot come from ASN.1, whose years have four digits.
pub(super) fn time(time: ASN1Time) -> DateTime<Utc> {
    DateTime::from_timestamp(time.timestamp(), 0).unwrap_or_default()
}

pub(super) fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(out, "{byte:02x}");
    }
    out
}

/// RFC 4514: the last element first, `+` inside of an element, special characters escaped. The short names are those
/// of its section 3; other attributes are written as their dotted OID.
pub(super) fn name(name: &X509Name<'_>) -> String {
    let mut out = String::new();
    let elements: Vec<_> = name.iter_rdn().collect();
    for (position, element) in elements.iter().rev().enumerate() {
        for (index, attribute) in element.iter().enumerate() {
            match (position, index) {
                (0, 0) => {}
                (_, 0) => out.push(','),
                _ => out.push('+'),
            }
            let _ = write!(out, "{}=", key(attribute));
            escape(&mut out, attribute.as_str().unwrap_or("?"));
            // Cut by characters of the escaped text: an escape cut in two is ugly, not harmful.
            if let Some((at, _)) = out.char_indices().nth(MOST_NAME_CHARS) {
                out.truncate(at);
                out.push('…');
                return out;
            }
        }
    }
    out
}

fn key(attribute: &AttributeTypeAndValue<'_>) -> String {
    let oid = attribute.attr_type().to_id_string();
    let short = match oid.as_str() {
        "2.5.4.3" => "CN",
        "2.5.4.6" => "C",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.9" => "STREET",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "0.9.2342.19200300.100.1.25" => "DC",
        "0.9.2342.19200300.100.1.1" => "UID",
        _ => return oid,
    };
    short.to_owned()
}

fn escape(out: &mut String, value: &str) {
    let last = value.chars().count().saturating_sub(1);
    // Anything beyond the cap would be cut again.
    for (index, character) in value.chars().take(MOST_NAME_CHARS).enumerate() {
        let edge_space = character == ' ' && (index == 0 || index == last);
        if edge_space
            || matches!(character, '"' | '+' | ',' | ';' | '<' | '>' | '\\')
            || (index == 0 && character == '#')
        {
            out.push('\\');
            out.push(character);
        } else if character.is_control() || is_direction_mark(character) {
            let mut buffer = [0; 4];
            for byte in character.encode_utf8(&mut buffer).bytes() {
                let _ = write!(out, "\\{byte:02X}");
            }
        } else {
            out.push(character);
        }
    }
}

/// Characters that turn the direction of the text after them: they would disguise a name in a log.
const fn is_direction_mark(character: char) -> bool {
    matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    use super::*;

    fn certificate(dn: &[(DnType, &str)], not_after: (i32, u8, u8)) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec!["shop.example".to_owned()]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in dn {
            params.distinguished_name.push(kind.clone(), *value);
        }
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(not_after.0, not_after.1, not_after.2);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn names_are_written_as_rfc_4514_has_it() {
        let chain = [certificate(
            &[
                (DnType::CountryName, "DE"),
                (DnType::OrganizationName, "Löwe, Söhne + Co"),
                (DnType::CommonName, "#a\u{1b}[1m\u{202e} "),
            ],
            (2030, 1, 1),
        )];
        let facts = facts(&chain, at("2026-01-01T00:00:00Z")).unwrap();
        assert_eq!(facts.subject, r"CN=\#a\1B[1m\E2\80\AE\ ,O=Löwe\, Söhne \+ Co,C=DE");
        assert_eq!(facts.issuer, facts.subject);
        assert_eq!(facts.chain_length, 1);
        assert_eq!(facts.fingerprint_sha256.len(), 64);
        assert!(is_self_issued(&chain[0]));
    }

    #[test]
    fn a_long_name_is_cut() {
        let chain = [certificate(&[(DnType::CommonName, &"ä,".repeat(5000))], (2030, 1, 1))];
        let facts = facts(&chain, at("2026-01-01T00:00:00Z")).unwrap();
        assert!(facts.subject.chars().count() <= MOST_NAME_CHARS + 1, "{}", facts.subject.len());
    }

    #[test]
    fn days_left_are_those_of_the_weakest() {
        let leaf = certificate(&[(DnType::CommonName, "leaf")], (2027, 1, 1));
        let weaker = certificate(&[(DnType::CommonName, "ca")], (2026, 6, 2));
        let chain = [leaf, weaker];
        for (now, days) in [
            ("2026-06-01T00:00:00Z", 1),
            ("2026-06-01T00:00:01Z", 0),
            ("2026-06-02T00:00:00Z", 0),
            ("2026-06-02T00:00:01Z", -1),
            ("2026-06-03T23:59:59Z", -1),
            ("2026-06-12T00:00:00Z", -10),
            ("2026-06-12T20:00:00Z", -10),
        ] {
            assert_eq!(facts(&chain, at(now)).unwrap().days_left, days, "{now}");
        }
        assert_eq!(facts(&chain[..1], at("2026-12-31T00:00:00Z")).unwrap().days_left, 1);
    }

    #[test]
    fn garbage_has_no_facts() {
        assert_eq!(facts(&[], at("2026-01-01T00:00:00Z")), None);
        assert_eq!(facts(&[CertificateDer::from(vec![0x30, 0x03, 1, 2])], at("2026-01-01T00:00:00Z")), None);
    }
}
