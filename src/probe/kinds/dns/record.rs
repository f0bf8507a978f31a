//! Records as people write them, in one canonical form: names in lower case and without a final dot.

use std::net::{Ipv4Addr, Ipv6Addr};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, RData, RecordType};

use crate::settings::reader::TableReader;

const RECORDS: &[(&str, RecordType)] = &[
    ("A", RecordType::A),
    ("AAAA", RecordType::AAAA),
    ("CNAME", RecordType::CNAME),
    ("MX", RecordType::MX),
    ("NS", RecordType::NS),
    ("TXT", RecordType::TXT),
    ("SOA", RecordType::SOA),
    ("SRV", RecordType::SRV),
    ("CAA", RecordType::CAA),
    ("PTR", RecordType::PTR),
];

/// Codes that a name server can answer a query with (RFC 6895, 2.3).
pub(crate) const CODES: &[(&str, ResponseCode)] = &[
    ("NOERROR", ResponseCode::NoError),
    ("FORMERR", ResponseCode::FormErr),
    ("SERVFAIL", ResponseCode::ServFail),
    ("NXDOMAIN", ResponseCode::NXDomain),
    ("NOTIMP", ResponseCode::NotImp),
    ("REFUSED", ResponseCode::Refused),
    ("NOTAUTH", ResponseCode::NotAuth),
];

/// `record`; A when it is absent or wrong.
pub(crate) fn read(reader: &mut TableReader<'_>) -> RecordType {
    reader.choice("record", RECORDS).unwrap_or(RecordType::A)
}

/// As in [`CODES`], else `RCODE9` (RFC 3597 writes unknown types in this way).
pub(crate) fn code_name(code: ResponseCode) -> String {
    let known = CODES.iter().find(|(_, known)| *known == code);
    known.map_or_else(|| format!("RCODE{}", u16::from(code)), |(name, _)| (*name).to_owned())
}

/// A record's data; none for a type that nobody can ask for.
pub(crate) fn text(data: &RData) -> Option<String> {
    Some(match data {
        RData::A(a) => a.0.to_string(),
        RData::AAAA(aaaa) => aaaa.0.to_string(),
        RData::CNAME(name) => bare(&name.0),
        RData::NS(name) => bare(&name.0),
        RData::PTR(name) => bare(&name.0),
        RData::MX(mx) => format!("{} {}", mx.preference, bare(&mx.exchange)),
        RData::SRV(srv) => format!("{} {} {} {}", srv.priority, srv.weight, srv.port, bare(&srv.target)),
        RData::SOA(soa) => format!(
            "{} {} {} {} {} {} {}",
            bare(&soa.mname),
            bare(&soa.rname),
            soa.serial,
            // Signed in the library; RFC 1035 (3.3.13) knows no sign.
            soa.refresh.cast_unsigned(),
            soa.retry.cast_unsigned(),
            soa.expire.cast_unsigned(),
            soa.minimum
        ),
        // One text, however it was cut into strings of 255 octets (RFC 7208, 3.3).
        RData::TXT(txt) => String::from_utf8_lossy(&txt.txt_data.concat()).into_owned(),
        RData::CAA(caa) => {
            let flags = caa.reserved_flags | (u8::from(caa.issuer_critical) << 7);
            format!("{flags} {} \"{}\"", caa.tag.to_ascii_lowercase(), String::from_utf8_lossy(&caa.value))
        }
        _ => return None,
    })
}

/// An expected answer in the form of [`text`]; the error says what it must look like.
pub(crate) fn canonical(record: RecordType, written: &str) -> Result<String, &'static str> {
    let fields: Vec<&str> = written.split_ascii_whitespace().collect();
    match record {
        RecordType::A => written.parse::<Ipv4Addr>().map(|ip| ip.to_string()).map_err(|_| "an IPv4 address"),
        RecordType::AAAA => written.parse::<Ipv6Addr>().map(|ip| ip.to_string()).map_err(|_| "an IPv6 address"),
        RecordType::CNAME | RecordType::NS | RecordType::PTR => {
            name(written).ok_or("a name, such as \"ns.example.com\"")
        }
        RecordType::MX => numbers_and_name(&fields, 1).ok_or("such as \"10 mail.example.com\""),
        RecordType::SRV => numbers_and_name(&fields, 3).ok_or("such as \"10 5 5060 sip.example.com\""),
        RecordType::SOA => soa(&fields).ok_or("such as \"ns.example.com root.example.com 1 7200 3600 1209600 300\""),
        RecordType::CAA => caa(written).ok_or("such as '0 issue \"letsencrypt.org\"'"),
        _ if written.is_empty() => Err("not empty"),
        _ => Ok(written.to_owned()),
    }
}

fn name(written: &str) -> Option<String> {
    if written == "." {
        return Some(written.to_owned());
    }
    Name::from_labels(labels(written)?.iter().map(Vec::as_slice)).ok().map(|name| bare(&name))
}

/// The labels of a name as zone files and `dig` write it (RFC 1035, 5.1): `\X` is X, and `\032` the byte 32.
fn labels(written: &str) -> Option<Vec<Vec<u8>>> {
    let mut found = vec![Vec::new()];
    let mut rest = written.as_bytes();
    while let [byte, after @ ..] = rest {
        rest = after;
        let byte = match (byte, after) {
            (b'.', _) => {
                found.push(Vec::new());
                continue;
            }
            (b'\\', [a @ b'0'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', after @ ..]) => {
                rest = after;
                let number = [a, b, c].iter().fold(0, |number, digit| number * 10 + u16::from(**digit - b'0'));
                u8::try_from(number).ok()?
            }
            (b'\\', [escaped, after @ ..]) if escaped.is_ascii_graphic() && !escaped.is_ascii_digit() => {
                rest = after;
                *escaped
            }
            (b'\\', _) => return None,
            (plain, _) if plain.is_ascii_graphic() => *plain,
            _ => return None,
        };
        found.last_mut()?.push(byte);
    }
    // The final dot.
    found.pop_if(|last| last.is_empty());
    (!found.is_empty() && found.iter().all(|label| !label.is_empty())).then_some(found)
}

/// In lower case, without the final dot; the root is ".".
pub(crate) fn bare(name: &Name) -> String {
    let mut text = String::new();
    for label in name.iter() {
        if !text.is_empty() {
            text.push('.');
        }
        for byte in label {
            match byte.to_ascii_lowercase() {
                special @ (b'"' | b'(' | b')' | b'.' | b';' | b'\\' | b'@' | b'$') => {
                    text.extend(['\\', char::from(special)]);
                }
                plain @ b'!'..=b'~' => text.push(char::from(plain)),
                other => text.push_str(&format!("\\{other:03}")),
            }
        }
    }
    if text.is_empty() { ".".to_owned() } else { text }
}

fn numbers_and_name(fields: &[&str], numbers: usize) -> Option<String> {
    let (target, fields) = fields.split_last()?;
    if fields.len() != numbers {
        return None;
    }
    let mut parts =
        fields.iter().map(|field| field.parse::<u16>().ok().map(|n| n.to_string())).collect::<Option<Vec<_>>>()?;
    parts.push(name(target)?);
    Some(parts.join(" "))
}

fn soa(fields: &[&str]) -> Option<String> {
    let [mname, rname, numbers @ ..] = fields else { return None };
    if numbers.len() != 5 {
        return None;
    }
    let numbers =
        numbers.iter().map(|field| field.parse::<u32>().ok().map(|n| n.to_string())).collect::<Option<Vec<_>>>()?;
    Some(format!("{} {} {}", name(mname)?, name(rname)?, numbers.join(" ")))
}

/// The value with or without its quotes.
fn caa(written: &str) -> Option<String> {
    let mut parts = written.trim().splitn(3, ' ');
    let flags: u8 = parts.next()?.parse().ok()?;
    let tag = parts.next().filter(|tag| !tag.is_empty())?.to_ascii_lowercase();
    let value = parts.next()?.trim();
    let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
    Some(format!("{flags} {tag} \"{value}\""))
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::rdata::{MX, SOA, SRV, TXT};

    use super::*;

    #[test]
    fn answers_and_expectations_meet_in_one_form() {
        let name = |text: &str| Name::from_ascii(text).unwrap();
        for (data, record, written) in [
            (RData::A("192.0.2.1".parse().unwrap()), RecordType::A, "192.0.2.1"),
            (RData::AAAA("2001:db8::1".parse().unwrap()), RecordType::AAAA, "2001:DB8:0:0::1"),
            (RData::MX(MX::new(10, name("Mail.Example.com."))), RecordType::MX, "10  mail.example.COM"),
            (RData::MX(MX::new(0, Name::root())), RecordType::MX, "0 ."),
            (RData::SRV(SRV::new(1, 2, 3, name("a.b."))), RecordType::SRV, "1 2 3 a.b."),
            (
                RData::SOA(SOA::new(name("ns.a."), name("root.a."), 7, 1, 2, 3, 4)),
                RecordType::SOA,
                "ns.a root.a 7 1 2 3 4",
            ),
            (RData::TXT(TXT::new(vec!["v=spf1 ".to_owned(), "-all".to_owned()])), RecordType::TXT, "v=spf1 -all"),
        ] {
            assert_eq!(Some(canonical(record, written).unwrap()), text(&data), "{written}");
        }
        assert_eq!(
            canonical(RecordType::CAA, "0 ISSUE ca.example"),
            canonical(RecordType::CAA, "0 issue \"ca.example\"")
        );
    }

    #[test]
    fn names_of_any_bytes_are_written_as_dig_writes_them() {
        for (labels, written) in [
            (&[&b"Exa mple"[..], b"com"][..], "exa\\032mple.com"),
            (&[b"a.b", b"\0\xff"], "a\\.b.\\000\\255"),
            (&[b"back\\"], "back\\\\"),
            (&[b"*", b"example"], "*.example"),
            (&[b"_sip", b"x"], "_sip.x"),
        ] {
            let name = Name::from_labels(labels.iter().copied()).unwrap();
            assert_eq!(bare(&name), written);
            for again in [written.to_owned(), format!("{written}.")] {
                assert_eq!(canonical(RecordType::NS, &again).as_deref(), Ok(written), "{again}");
            }
        }
        assert_eq!(canonical(RecordType::NS, "a\\046b").as_deref(), Ok("a\\.b"));
        for bad in ["a\\256", "a\\", "a\\12", "a..b", ".a", "a b", "ä.example", "a\\ b"] {
            assert!(canonical(RecordType::NS, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_no_answer_can_be_is_refused() {
        for (record, written) in [
            (RecordType::A, "::1"),
            (RecordType::A, "192.0.2.256"),
            (RecordType::AAAA, "192.0.2.1"),
            (RecordType::NS, "a..b"),
            (RecordType::NS, ""),
            (RecordType::MX, "mail.example.com"),
            (RecordType::MX, "70000 mail.example.com"),
            (RecordType::SRV, "1 2 host"),
            (RecordType::SOA, "ns root 1"),
            (RecordType::CAA, "issue ca"),
            (RecordType::TXT, ""),
        ] {
            assert!(canonical(record, written).is_err(), "{record} {written}");
        }
    }
}
