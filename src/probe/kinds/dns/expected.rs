//! What is expected of an answer, and what one that differs is called.

use std::net::SocketAddr;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::{RData, RecordType};
use regex::Regex;

use super::record;
use crate::model::{Failure, Fault};
use crate::probe::net::dns::{ChainEnd, Question, chain};
use crate::settings::reader::TableReader;
use crate::settings::tree::{Node, Value};
use crate::verdict::expectation::pattern;

/// Expected answers of one monitor.
const MOST_WANTED: usize = 64;
/// One expected answer, bytes; a TXT record's text may be longer than this, and is then for `contains`.
const MOST_TEXT: usize = 4096;
/// Answers that are quoted in a sentence.
const QUOTED: usize = 5;
/// Code of an extended error (RFC 8914).
const EXTENDED_ERROR: u16 = 15;

/// One entry of `answers`.
enum Wanted {
    Equals(String),
    Contains(String),
    Matches(Regex),
}

impl Wanted {
    fn holds(&self, answer: &str) -> bool {
        match self {
            Self::Equals(wanted) => wanted == answer,
            Self::Contains(wanted) => answer.contains(&**wanted),
            Self::Matches(regex) => regex.is_match(answer),
        }
    }
}

impl std::fmt::Display for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Equals(wanted) => write!(f, "{wanted:?}"),
            Self::Contains(wanted) => write!(f, "one that contains {wanted:?}"),
            Self::Matches(regex) => write!(f, "one that matches {:?}", regex.as_str()),
        }
    }
}

/// `expect.rcode`, `answers`, `answers_exact`, `authenticated` and `serial_at_least`.
pub(crate) struct Expected {
    /// Not empty.
    codes: Box<[ResponseCode]>,
    /// None: at least one answer, whatever it is; empty: no answer at all.
    answers: Option<Box<[Wanted]>>,
    exact: bool,
    authenticated: bool,
    serial_at_least: Option<u32>,
}

impl Expected {
    /// Reads its keys of `expect`; the others are read, and the table is closed, by
    /// [`crate::verdict::expectation::Expectations::read`].
    pub(crate) fn read(reader: &mut TableReader<'_>, record: RecordType) -> Self {
        let mut expected = Self {
            codes: Box::new([ResponseCode::NoError]),
            answers: None,
            exact: false,
            authenticated: false,
            serial_at_least: None,
        };
        // One that is no table is complained about there as well.
        if !reader.node("expect").is_some_and(|node| matches!(node.value, Value::Table(_))) {
            return expected;
        }
        let Some(mut table) = reader.table("expect") else { return expected };
        expected.codes = read_codes(&mut table).unwrap_or(expected.codes);
        expected.answers = read_answers(&mut table, record);
        expected.exact = table.boolean("answers_exact").unwrap_or(false);
        expected.authenticated = table.boolean("authenticated").unwrap_or(false);
        expected.serial_at_least =
            table.integer("serial_at_least", 0..=i64::from(u32::MAX)).and_then(|serial| u32::try_from(serial).ok());
        if expected.serial_at_least.is_some() && record != RecordType::SOA {
            table.error("serial_at_least", "only SOA records have a serial", "add record = \"SOA\"".to_owned());
        }
        if expected.exact && expected.answers.as_ref().is_none_or(|answers| answers.is_empty()) {
            table.error("answers_exact", "has no answers beside it", "list all of them in answers".to_owned());
        }
        let wants_records = expected.answers.is_some() || expected.serial_at_least.is_some();
        if wants_records && !expected.codes.contains(&ResponseCode::NoError) {
            table.error("rcode", "answers come with NOERROR only", "remove the expected answers, or this".to_owned());
        }
        expected
    }

    /// Holds an answer against it.
    pub(crate) fn judge(&self, question: &Question, message: &Message, by: SocketAddr) -> Result<(), Fault> {
        let name = record::bare(&question.name);
        let code = message.metadata.response_code;
        if !self.codes.contains(&code) {
            return Err(self.wrong_code(&name, message, by));
        }
        if code == ResponseCode::NoError {
            let end = chain(question, &message.answers)
                .map_err(|why| Fault::new(Failure::DnsError, format!("{name}: {why}")))?;
            self.judge_records(question, message, &end)?;
        }
        if self.authenticated && !message.metadata.authentic_data {
            let why = if message.metadata.authoritative {
                "an authority never says so: ask a resolver that validates"
            } else {
                "the zone is not signed, or the resolver does not validate"
            };
            let what = format!("{by} does not say that DNSSEC validated the answer for {name}: {why}");
            return Err(Fault::new(Failure::DnsAnswerMismatch, what));
        }
        Ok(())
    }

    fn wrong_code(&self, name: &str, message: &Message, by: SocketAddr) -> Fault {
        let code = message.metadata.response_code;
        let told = extended_error(message).map(|told| format!(" ({told})")).unwrap_or_default();
        let (failure, what) = match code {
            ResponseCode::NXDomain => (Failure::DnsNxdomain, format!("the name {name} does not exist")),
            ResponseCode::ServFail => (
                Failure::DnsServfail,
                format!("{by} could not find out about {name}: its zone or DNSSEC may be broken"),
            ),
            ResponseCode::Refused => (Failure::DnsRefused, format!("{by} refuses to answer for {name}")),
            ResponseCode::NoError => (Failure::DnsAnswerMismatch, format!("{by} has an answer for {name}")),
            _ => (Failure::DnsError, format!("{by} cannot answer for {name}")),
        };
        let codes: Vec<String> = self.codes.iter().map(|code| record::code_name(*code)).collect();
        let found = record::code_name(code);
        Fault::new(failure, format!("{what}: {found}{told}, expected {}", codes.join(" or ")))
    }

    fn judge_records(&self, question: &Question, message: &Message, end: &ChainEnd<'_>) -> Result<(), Fault> {
        let mismatch = |what: String| Err(Fault::new(Failure::DnsAnswerMismatch, what));
        let (name, kind) = (record::bare(&question.name), question.record);
        let answers: Vec<String> = end.records.iter().filter_map(|record| record::text(&record.data)).collect();
        let no_answer_wanted = self.answers.as_ref().is_some_and(|answers| answers.is_empty());
        match (answers.is_empty(), no_answer_wanted) {
            (true, true) => return Ok(()),
            (true, false) => return Err(Fault::new(Failure::DnsNoRecords, nothing(question, message, end))),
            (false, true) => return mismatch(format!("{name} has {kind} records: {}; expected none", list(&answers))),
            (false, false) => {}
        }
        let wanted = self.answers.as_deref().unwrap_or_default();
        if let Some(missing) = wanted.iter().find(|wanted| !answers.iter().any(|answer| wanted.holds(answer))) {
            return mismatch(format!("{name} {kind} is {}, expected {missing}", list(&answers)));
        }
        let other = answers.iter().find(|answer| !wanted.iter().any(|wanted| wanted.holds(answer)));
        if let Some(other) = other.filter(|_| self.exact) {
            return mismatch(format!("{name} {kind} has {other:?}, which is not expected (answers_exact)"));
        }
        if let (Some(least), Some(RData::SOA(soa))) =
            (self.serial_at_least, end.records.first().map(|record| &record.data))
            && is_before(soa.serial, least)
        {
            return mismatch(format!("the serial of {name} is {}, expected at least {least}", soa.serial));
        }
        Ok(())
    }
}

/// Serials count round and round (RFC 1982, 3.2).
const fn is_before(serial: u32, least: u32) -> bool {
    serial != least && least.wrapping_sub(serial) < 1 << 31
}

/// Why an answer without an error has no records.
fn nothing(question: &Question, message: &Message, end: &ChainEnd<'_>) -> String {
    let (name, kind) = (record::bare(&question.name), question.record);
    if *end.name != question.name {
        return format!("{name} is an alias of {}, which has no {kind} records here", record::bare(end.name));
    }
    let refers = message.authorities.iter().any(|record| matches!(record.data, RData::NS(_)));
    if refers && !message.metadata.authoritative {
        return format!(
            "{name} {kind}: the name server only refers to others: it is neither an authority for it nor a resolver"
        );
    }
    format!("{name} has no {kind} records")
}

fn list(answers: &[String]) -> String {
    let mut quoted: Vec<String> = answers.iter().take(QUOTED).map(|answer| format!("{answer:?}")).collect();
    if answers.len() > QUOTED {
        quoted.push(format!("and {} more", answers.len() - QUOTED));
    }
    quoted.join(", ")
}

/// What the server says besides the code: the number of RFC 8914's registry, and its text.
fn extended_error(message: &Message) -> Option<String> {
    let options = message.edns.as_ref()?.options();
    let EdnsOption::Unknown(_, data) = options.get(EdnsCode::Unknown(EXTENDED_ERROR))? else { return None };
    let (code, text) = data.split_first_chunk()?;
    let text = String::from_utf8_lossy(text);
    let what = format!("extended error {}", u16::from_be_bytes(*code));
    Some(if text.is_empty() { what } else { format!("{what}: {text}") })
}

fn read_codes(table: &mut TableReader<'_>) -> Option<Box<[ResponseCode]>> {
    let node = table.node("rcode")?;
    let one = std::slice::from_ref(node);
    let nodes = if let Value::Array(nodes) = &node.value { &**nodes } else { one };
    let mut codes = Vec::new();
    for node in nodes {
        let written = table.string_of("rcode", node)?.to_ascii_uppercase();
        match record::CODES.iter().find(|(name, _)| *name == written) {
            Some((_, code)) => codes.push(*code),
            None => {
                let names: Vec<&str> = record::CODES.iter().map(|(name, _)| *name).collect();
                table.error_at(node.span, "rcode", "not a response code", format!("one of {}", names.join(", ")));
                return None;
            }
        }
    }
    if codes.is_empty() {
        table.error("rcode", "empty", "such as \"NXDOMAIN\"".to_owned());
        return None;
    }
    Some(codes.into())
}

fn read_answers(table: &mut TableReader<'_>, record: RecordType) -> Option<Box<[Wanted]>> {
    let nodes = table.list("answers")?;
    if nodes.len() > MOST_WANTED {
        table.error("answers", format!("{} answers", nodes.len()), format!("at most {MOST_WANTED}"));
        return None;
    }
    let wanted: Option<Vec<Wanted>> =
        nodes.iter().enumerate().map(|(index, node)| read_wanted(table, index, node, record)).collect();
    wanted.map(Into::into)
}

fn read_wanted<'a>(table: &TableReader<'a>, index: usize, node: &'a Node, record: RecordType) -> Option<Wanted> {
    let complain = |what: String, allowed: &str| table.error_at(node.span, "answers", what, allowed.to_owned());
    let bounded = |text: String| {
        let fits = (1..=MOST_TEXT).contains(&text.len());
        if !fits {
            complain(format!("{} bytes", text.len()), &format!("must be 1 to {MOST_TEXT} bytes"));
        }
        fits.then_some(text)
    };
    let Some(mut entry) = table.table_of("answers", index, node) else {
        let written = bounded(table.string_of("answers", node)?)?;
        return match record::canonical(record, &written) {
            Ok(text) => Some(Wanted::Equals(text)),
            Err(allowed) => {
                complain(format!("not what a record of type {record} says"), &format!("must be {allowed}"));
                None
            }
        };
    };
    let (contains, matches) = (entry.string("contains"), entry.string("matches"));
    if entry.has_own("contains") == entry.has_own("matches") {
        complain("not one test".to_owned(), "either { contains = \"…\" } or { matches = \"…\" }");
    }
    entry.finish(&|_| None);
    match (contains, matches) {
        (Some(text), None) => bounded(text).map(Wanted::Contains),
        (None, Some(text)) => {
            let built = pattern::compile(&bounded(text)?);
            if built.is_err() {
                complain("not a regular expression, or too large a one".to_owned(), "syntax of the regex crate");
            }
            built.ok().map(Wanted::Matches)
        }
        _ => None,
    }
}
