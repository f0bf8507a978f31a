//! What a group of records looks like in the journal: a MessagePack array of maps with named fields, so that a newer
//! version reads what an older one wrote. Fields that are absent have their defaults; unknown ones are skipped.

use std::net::SocketAddr;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize, Serializer};

use crate::model::{
    CertificateFacts, Check, Failure, Gap, MonitorId, MonitorState, Opening, Record, Resolution, Timings, Verdict,
};

/// Versions that a probe may report; a check holds them as constants.
const HTTP_VERSIONS: &[&str] = &["HTTP/1.0", "HTTP/1.1", "HTTP/2", "HTTP/3"];

/// A record as it is written.
#[derive(Serialize)]
enum Written<'a> {
    #[serde(rename = "check")]
    Check(WrittenCheck<'a>),
    #[serde(rename = "state")]
    State { monitor: MonitorId, state: &'a MonitorState },
    #[serde(rename = "open")]
    Open(&'a Opening),
    #[serde(rename = "resolve")]
    Resolve(&'a Resolution),
    #[serde(rename = "gap")]
    Gap(&'a Gap),
}

/// A record as it is read.
#[derive(Deserialize)]
enum Read {
    #[serde(rename = "check")]
    Check(Box<ReadCheck>),
    #[serde(rename = "state")]
    State { monitor: MonitorId, state: Box<MonitorState> },
    #[serde(rename = "open")]
    Open(Box<Opening>),
    #[serde(rename = "resolve")]
    Resolve(Resolution),
    #[serde(rename = "gap")]
    Gap(Gap),
}

#[derive(Serialize)]
struct WrittenCheck<'a> {
    monitor: MonitorId,
    /// Nanoseconds since 1970; the field of RFC 3339 text takes four times the bytes.
    at_ns: i64,
    verdict: Verdict,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<Failure>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    us: [Option<i32>; 6],
    total_us: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    http: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "leaf_only")]
    certificate: Option<&'a CertificateFacts>,
    attempt: u16,
}

/// The leaf's facts: the chain is the same with every check, and would be most of the journal.
#[derive(Serialize)]
struct WrittenCertificate<'a> {
    subject: &'a str,
    issuer: &'a str,
    not_before: DateTime<Utc>,
    not_after: DateTime<Utc>,
    days_left: i64,
    fingerprint_sha256: &'a str,
    chain_length: usize,
}

fn leaf_only<S: Serializer>(facts: &Option<&CertificateFacts>, serializer: S) -> Result<S::Ok, S::Error> {
    let written = facts.map(|facts| WrittenCertificate {
        subject: &facts.subject,
        issuer: &facts.issuer,
        not_before: facts.not_before,
        not_after: facts.not_after,
        days_left: facts.days_left,
        fingerprint_sha256: &facts.fingerprint_sha256,
        chain_length: facts.chain_length,
    });
    written.serialize(serializer)
}

#[derive(Deserialize)]
struct ReadCheck {
    monitor: MonitorId,
    at_ns: i64,
    verdict: Verdict,
    #[serde(default)]
    failure: Option<Failure>,
    #[serde(default)]
    message: Option<Box<str>>,
    #[serde(default)]
    status: Option<u16>,
    us: [Option<i32>; 6],
    total_us: u64,
    #[serde(default)]
    address: Option<SocketAddr>,
    #[serde(default)]
    http: Option<Box<str>>,
    #[serde(default)]
    certificate: Option<CertificateFacts>,
    attempt: u16,
}

impl<'a> From<&'a Record> for Written<'a> {
    fn from(record: &'a Record) -> Self {
        match record {
            Record::Check(check) => Self::Check(WrittenCheck {
                monitor: check.monitor,
                // None beyond the year 2262, which no clock of ours shows.
                at_ns: check.checked_at.timestamp_nanos_opt().unwrap_or(i64::MAX),
                verdict: check.verdict,
                failure: check.failure,
                message: check.message.as_deref(),
                status: check.status_code,
                us: check.timings.all_micros(),
                total_us: u64::try_from(check.timings.total.as_micros()).unwrap_or(u64::MAX),
                address: check.address,
                http: check.http_version,
                certificate: check.certificate.as_deref(),
                attempt: check.attempt,
            }),
            Record::State(monitor, state) => Self::State { monitor: *monitor, state },
            Record::Open(opening) => Self::Open(opening),
            Record::Resolve(resolution) => Self::Resolve(resolution),
            Record::Gap(gap) => Self::Gap(gap),
        }
    }
}

impl From<Read> for Record {
    fn from(read: Read) -> Self {
        match read {
            Read::Check(check) => Self::Check(Check {
                monitor: check.monitor,
                verdict: check.verdict,
                failure: check.failure,
                message: check.message,
                status_code: check.status,
                timings: Timings::of_micros(check.us, check.total_us),
                address: check.address,
                http_version: check.http.and_then(|name| HTTP_VERSIONS.iter().copied().find(|known| **known == *name)),
                certificate: check.certificate.map(Arc::new),
                details: None,
                attempt: check.attempt,
                checked_at: DateTime::<Utc>::from_timestamp_nanos(check.at_ns),
            }),
            Read::State { monitor, state } => Self::State(monitor, state),
            Read::Open(opening) => Self::Open(opening),
            Read::Resolve(resolution) => Self::Resolve(resolution),
            Read::Gap(gap) => Self::Gap(gap),
        }
    }
}

/// Appends a group to a buffer.
pub(super) fn encode(records: &[Record], buffer: &mut Vec<u8>) -> Result<(), rmp_serde::encode::Error> {
    let written: Vec<Written<'_>> = records.iter().map(Written::from).collect();
    rmp_serde::encode::write_named(buffer, &written)
}

/// Reads a group.
pub(super) fn decode(bytes: &[u8]) -> Result<Vec<Record>, rmp_serde::decode::Error> {
    let read: Vec<Read> = rmp_serde::from_slice(bytes)?;
    Ok(read.into_iter().map(Record::from).collect())
}
