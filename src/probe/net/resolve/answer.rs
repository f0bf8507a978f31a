//! What a name server's answer says about one name and type. Pure.

use std::net::IpAddr;
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{RData, Record};

use crate::model::{Failure, Fault};
use crate::probe::net::dns::{Question, chain, seconds};

/// Addresses kept of one answer.
const MOST_ADDRESSES: usize = 64;

/// Longest time an address is kept, whatever its TTL: who moves a service with a TTL of a day and forgets to lower it
/// should see the monitor follow within the hour.
const MOST_POSITIVE: Duration = Duration::from_secs(3600);

/// Longest time "there is none" is kept: an operator who has mended the zone should see it at the next check, not
/// when the zone's negative TTL (often an hour) has passed.
const MOST_NEGATIVE: Duration = Duration::from_secs(5);

/// Addresses, not empty, or why there are none.
pub(crate) type Outcome = Result<Vec<IpAddr>, Fault>;

/// How an answer is used.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// It is the answer, for so long.
    Final(Outcome, Duration),
    /// This server cannot tell; another may.
    AskAnother(Fault),
}

/// Reads an answer whose id and question were checked.
pub(crate) fn read(question: &Question, message: &Message) -> Reading {
    let name = question.name.to_ascii();
    let name = name.strip_suffix('.').unwrap_or(&name);
    match message.metadata.response_code {
        ResponseCode::NoError => match follow(question, &message.answers) {
            Ok((addresses, ttl)) if !addresses.is_empty() => Reading::Final(Ok(addresses), ttl.min(MOST_POSITIVE)),
            Ok(_) => {
                let what = format!("{name} has no {} records", question.record);
                Reading::Final(Err(Fault::new(Failure::DnsNoRecords, what)), negative_ttl(message))
            }
            Err(what) => Reading::Final(Err(Fault::new(Failure::DnsError, format!("{name}: {what}"))), Duration::ZERO),
        },
        ResponseCode::NXDomain => {
            let what = format!("the name {name} does not exist (NXDOMAIN)");
            Reading::Final(Err(Fault::new(Failure::DnsNxdomain, what)), negative_ttl(message))
        }
        ResponseCode::ServFail => {
            let what =
                format!("{name}: the name server could not find out (SERVFAIL): its zone or DNSSEC may be broken");
            Reading::AskAnother(Fault::new(Failure::DnsServfail, what))
        }
        ResponseCode::Refused => {
            let what = format!("{name}: the name server refuses to answer (REFUSED)");
            Reading::AskAnother(Fault::new(Failure::DnsRefused, what))
        }
        other => {
            let what = format!("{name}: the name server answered with code {} ({other})", u16::from(other));
            Reading::AskAnother(Fault::new(Failure::DnsError, what))
        }
    }
}

/// The addresses at the end of the CNAME chain, and the smallest TTL on the way.
fn follow(question: &Question, answers: &[Record]) -> Result<(Vec<IpAddr>, Duration), String> {
    let end = chain(question, answers)?;
    let mut addresses = Vec::new();
    for record in &end.records {
        let ip = match &record.data {
            RData::A(a) => IpAddr::V4(a.0),
            RData::AAAA(aaaa) => IpAddr::V6(aaaa.0),
            _ => continue,
        };
        if addresses.len() < MOST_ADDRESSES && !addresses.contains(&ip) {
            addresses.push(ip);
        }
    }
    Ok((addresses, end.ttl))
}

/// The smaller of the SOA's own TTL and its minimum (RFC 2308, section 5); without an SOA nothing is kept.
fn negative_ttl(message: &Message) -> Duration {
    let soa = message.authorities.iter().find_map(|record| match &record.data {
        RData::SOA(soa) => Some(seconds(record.ttl).min(seconds(soa.minimum))),
        _ => None,
    });
    Duration::from_secs(u64::from(soa.unwrap_or(0))).min(MOST_NEGATIVE)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use hickory_proto::rr::rdata::{A, CNAME, SOA};
    use hickory_proto::rr::{Name, RecordType};
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn question() -> Question {
        Question { name: name("shop.example."), record: RecordType::A, authentic: false }
    }

    fn a(of: &str, ttl: u32, last: u8) -> Record {
        Record::from_rdata(name(of), ttl, RData::A(A(Ipv4Addr::new(192, 0, 2, last))))
    }

    fn cname(of: &str, ttl: u32, to: &str) -> Record {
        Record::from_rdata(name(of), ttl, RData::CNAME(CNAME(name(to))))
    }

    fn message(code: ResponseCode, answers: Vec<Record>) -> Message {
        let mut message = Message::query();
        message.metadata.response_code = code;
        message.add_answers(answers);
        message
    }

    fn reading(answers: Vec<Record>) -> (Result<usize, Failure>, u64) {
        match read(&question(), &message(ResponseCode::NoError, answers)) {
            Reading::Final(outcome, ttl) => {
                (outcome.map(|list| list.len()).map_err(|fault| fault.failure), ttl.as_secs())
            }
            Reading::AskAnother(fault) => panic!("{fault:?}"),
        }
    }

    #[test]
    fn chains_and_their_ttl() {
        assert_eq!(reading(vec![a("shop.example.", 60, 1), a("SHOP.example.", 30, 2)]), (Ok(2), 30));
        assert_eq!(reading(vec![cname("shop.example.", 10, "cdn.example."), a("cdn.example.", 60, 1)]), (Ok(1), 10));
        assert_eq!(reading(vec![a("cdn.example.", 60, 1), cname("shop.example.", 100, "cdn.example.")]), (Ok(1), 60));
        assert_eq!(reading(vec![a("shop.example.", 86_400, 1)]), (Ok(1), 3600));
        assert_eq!(reading(vec![a("shop.example.", 0x8000_0001, 1)]), (Ok(1), 0));
        // Somebody else's records are none of ours.
        assert_eq!(reading(vec![a("evil.example.", 60, 1)]), (Err(Failure::DnsNoRecords), 0));
        assert_eq!(reading(vec![cname("shop.example.", 10, "gone.example.")]), (Err(Failure::DnsNoRecords), 0));
        assert_eq!(reading(vec![]), (Err(Failure::DnsNoRecords), 0));
    }

    #[test]
    fn loops_end() {
        let lap = vec![cname("shop.example.", 1, "b.example."), cname("b.example.", 1, "shop.example.")];
        assert_eq!(reading(lap).0, Err(Failure::DnsError));
        let chain = |links: u32| {
            let mut records = vec![cname("shop.example.", 1, "n0.example.")];
            records
                .extend((0..links - 1).map(|n| cname(&format!("n{n}.example."), 1, &format!("n{}.example.", n + 1))));
            records.push(a(&format!("n{}.example.", links - 1), 1, 1));
            records
        };
        assert_eq!(reading(chain(16)).0, Ok(1));
        assert_eq!(reading(chain(17)).0, Err(Failure::DnsError));
    }

    #[test]
    fn codes_have_names() {
        let soa = |ttl, minimum| {
            let soa = SOA::new(name("ns.example."), name("root.example."), 1, 1, 1, 1, minimum);
            Record::from_rdata(name("example."), ttl, RData::SOA(soa))
        };
        for (ttl, minimum, kept) in [(900, 900, 5), (3, 900, 3), (900, 2, 2), (0, 900, 0)] {
            let mut message = message(ResponseCode::NXDomain, vec![]);
            message.add_authority(soa(ttl, minimum));
            let Reading::Final(Err(fault), ttl) = read(&question(), &message) else { panic!("final") };
            assert_eq!((fault.failure, ttl.as_secs()), (Failure::DnsNxdomain, kept));
        }
        for (code, failure) in [
            (ResponseCode::ServFail, Failure::DnsServfail),
            (ResponseCode::Refused, Failure::DnsRefused),
            (ResponseCode::NotImp, Failure::DnsError),
            (ResponseCode::FormErr, Failure::DnsError),
            (ResponseCode::YXDomain, Failure::DnsError),
        ] {
            let Reading::AskAnother(fault) = read(&question(), &message(code, vec![])) else { panic!("{code}") };
            assert_eq!(fault.failure, failure);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            if let Ok(message) = Message::from_vec(&bytes)
                && let Reading::Final(Ok(list), ttl) = read(&question(), &message)
            {
                prop_assert!(!list.is_empty() && list.len() <= MOST_ADDRESSES && ttl <= MOST_POSITIVE);
            }
        }

        #[test]
        fn any_graph_of_names_ends(links in proptest::collection::vec((0u8..8, 0u8..8), 0..40), end in 0u8..8) {
            let of = |n: u8| if n == 0 { "shop.example.".to_owned() } else { format!("n{n}.example.") };
            let mut records: Vec<Record> = links.iter().map(|(from, to)| cname(&of(*from), 1, &of(*to))).collect();
            records.push(a(&of(end), 1, 1));
            let _ = reading(records);
        }
    }
}
