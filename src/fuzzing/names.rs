//! Answers of name servers: what they say is bounded, and what is shown of them can be written as an expectation.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use serde_json::{Value, json};

use super::monitor;
use crate::model::Failure;
use crate::probe::kinds::dns::expected::Expected;
use crate::probe::kinds::dns::record;
use crate::probe::net::dns::{Framed, Question, chain};
use crate::probe::net::resolve::answer::{self, Reading};
use crate::settings::tree::Table;

const TYPES: [RecordType; 10] = [
    RecordType::A,
    RecordType::AAAA,
    RecordType::CNAME,
    RecordType::MX,
    RecordType::NS,
    RecordType::TXT,
    RecordType::SOA,
    RecordType::SRV,
    RecordType::CAA,
    RecordType::PTR,
];

/// The first byte says what is asked of `shop.example`; then comes the answer, whose id is set right.
pub fn dns(bytes: &[u8]) {
    let Some((kind, answer)) = bytes.split_first() else { return };
    let record = TYPES[usize::from(*kind) % TYPES.len()];
    let question = Question { name: Name::from_ascii("shop.example.").unwrap(), record, authentic: false };
    let asked = Framed::new(&question, true).unwrap();
    let mut answer = answer.to_vec();
    if let (Some(id), Some(wanted)) = (answer.get_mut(..2), asked.bytes.get(2..4)) {
        id.copy_from_slice(wanted);
    }
    let Some(message) = asked.read(&answer) else { return };
    if let [echoed] = message.queries.as_slice() {
        assert_eq!((echoed.name(), echoed.query_type()), (&question.name, record));
    } else {
        assert!(matches!(message.metadata.response_code, ResponseCode::FormErr | ResponseCode::NotImp));
    }
    addresses(&question, &message);
    expectation(&question, &message);
}

fn addresses(question: &Question, message: &Message) {
    match answer::read(question, message) {
        Reading::Final(Ok(list), ttl) => {
            assert!(matches!(question.record, RecordType::A | RecordType::AAAA), "an address for another question");
            assert!((1..=64).contains(&list.len()) && ttl <= Duration::from_secs(3600));
            for (index, ip) in list.iter().enumerate() {
                assert!(!list[..index].contains(ip), "{ip} twice");
                let given = message.answers.iter().any(|record| match &record.data {
                    RData::A(a) => IpAddr::V4(a.0) == *ip,
                    RData::AAAA(aaaa) => IpAddr::V6(aaaa.0) == *ip,
                    _ => false,
                });
                assert!(given, "{ip} is in no answer");
            }
        }
        Reading::Final(Err(_), ttl) => assert!(ttl <= Duration::from_secs(5)),
        Reading::AskAnother(_) => assert_ne!(message.metadata.response_code, ResponseCode::NoError),
    }
}

/// Who copies what an answer shows into `expect.answers` expects this answer.
fn expectation(question: &Question, message: &Message) {
    let Ok(end) = chain(question, &message.answers) else { return };
    let texts: Vec<String> = end.records.iter().filter_map(|record| record::text(&record.data)).collect();
    for text in &texts {
        match record::canonical(question.record, text) {
            Ok(canonical) => assert_eq!(canonical, *text),
            // An empty TXT record says nothing to compare with.
            Err(why) => assert!(text.is_empty(), "{text:?} of type {} is not {why}", question.record),
        }
    }
    let fits = texts.iter().all(|text| (1..=4096).contains(&text.len()) && !text.contains("${"));
    if message.metadata.response_code != ResponseCode::NoError || !fits || !(1..=64).contains(&texts.len()) {
        return;
    }
    let Value::Object(own) = json!({ "expect": { "answers": texts, "answers_exact": true } }) else { return };
    let read = |reader: &mut crate::settings::reader::TableReader<'_>| {
        let expected = Expected::read(reader, question.record);
        // The other keys, as the kind does.
        let accepts = crate::verdict::expectation::Accepts { dns: true, ..Default::default() };
        crate::verdict::expectation::Expectations::read(reader, accepts);
        expected
    };
    let (expected, complaints) = monitor(&Table::from_json(&own), false, read);
    assert_eq!(complaints, Vec::<String>::new());
    let by = SocketAddr::from(([127, 0, 0, 1], 53));
    assert_eq!(expected.judge(question, message, by).map_err(|fault| fault.message), Ok(()), "{texts:?}");
    // One that nobody gave is missed.
    let Value::Object(own) = json!({ "expect": { "answers": [{ "contains": "no-such-answer" }] } }) else { return };
    let (expected, _) = monitor(&Table::from_json(&own), false, read);
    if !texts.iter().any(|text| text.contains("no-such-answer")) {
        let missed = expected.judge(question, message, by).map_err(|fault| fault.failure);
        assert_eq!(missed, Err(Failure::DnsAnswerMismatch));
    }
}
