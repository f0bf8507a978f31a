//! What a probe saw. Never a judgement.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize, Serializer};

use super::{Failure, Verdict};

/// A phase of a check, in the order they happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Phase {
    Dns,
    Connect,
    Tls,
    Send,
    Wait,
    Receive,
}

impl Phase {
    /// In order.
    pub const ALL: [Self; 6] = [Self::Dns, Self::Connect, Self::Tls, Self::Send, Self::Wait, Self::Receive];

    /// The public name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Send => "send",
            Self::Wait => "wait",
            Self::Receive => "receive",
        }
    }
}

/// Monotonic durations of the phases. One that was not reached is none; one that failed keeps the time it took to
/// fail. Over redirects each phase is the sum over the hops. The phases add up to the total.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    phases: [Option<Duration>; 6],
    /// From the start of the attempt to its end.
    pub total: Duration,
}

impl Timings {
    /// The time of a phase.
    #[must_use]
    pub const fn get(&self, phase: Phase) -> Option<Duration> {
        self.phases[phase as usize]
    }

    /// Adds to a phase, which from now on counts as reached.
    pub fn add(&mut self, phase: Phase, time: Duration) {
        let slot = &mut self.phases[phase as usize];
        *slot = Some(slot.unwrap_or_default() + time);
    }

    /// A phase in whole microseconds, saturating at `i32::MAX` (35 minutes; a timeout is shorter).
    #[must_use]
    pub fn micros(&self, phase: Phase) -> Option<i32> {
        self.get(phase).map(|time| i32::try_from(time.as_micros()).unwrap_or(i32::MAX))
    }

    /// The phases in microseconds, in the order of [`Phase::ALL`].
    #[must_use]
    pub fn all_micros(&self) -> [Option<i32>; 6] {
        Phase::ALL.map(|phase| self.micros(phase))
    }

    /// What [`Self::all_micros`] and the total gave, negative times as none.
    #[must_use]
    pub fn of_micros(phases: [Option<i32>; 6], total_us: u64) -> Self {
        let time = |us: i32| u64::try_from(us).ok().map(Duration::from_micros);
        Self { phases: phases.map(|us| us.and_then(time)), total: Duration::from_micros(total_us) }
    }

    /// The total in whole milliseconds, rounded down: `response_time_ms`.
    #[must_use]
    pub fn total_ms(&self) -> i32 {
        i32::try_from(self.total.as_millis()).unwrap_or(i32::MAX)
    }
}

impl Serialize for Timings {
    /// As the contract's `timings_us`.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let mut map = serializer.serialize_map(Some(7))?;
        for phase in Phase::ALL {
            map.serialize_entry(phase.name(), &self.micros(phase))?;
        }
        map.serialize_entry("total", &u64::try_from(self.total.as_micros()).unwrap_or(u64::MAX))?;
        map.end()
    }
}

/// A failure with the sentence that explains it to an operator. Data, not an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Which.
    pub failure: Failure,
    /// One sentence without secrets: what happened and, where it helps, what to do next.
    pub message: String,
}

impl Fault {
    /// A fault with its sentence.
    pub fn new(failure: Failure, message: impl Into<String>) -> Self {
        Self { failure, message: message.into() }
    }
}

/// Facts of the certificate chain that a server presented, also when verification failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateFacts {
    /// Distinguished name of the leaf, in RFC 4514 style.
    pub subject: String,
    /// Distinguished name of its issuer.
    pub issuer: String,
    /// Start of validity of the leaf.
    pub not_before: DateTime<Utc>,
    /// End of validity of the leaf.
    pub not_after: DateTime<Utc>,
    /// Whole days until the first certificate of the presented chain expires; when one has expired, the whole days since
    /// then, at least 1, as a negative number.
    pub days_left: i64,
    /// SHA-256 of the leaf's DER, lower-case hex.
    pub fingerprint_sha256: String,
    /// How many certificates the server sent.
    pub chain_length: usize,
    /// What goes beyond the leaf; none in the history and in what is kept of a good check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub more: Option<Box<ChainFacts>>,
}

/// Facts of a whole chain, and of the TLS session that it was presented in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainFacts {
    /// The first eight, as they came, leaf first; those that are no X.509 are left out.
    pub certificates: Vec<ChainCertificate>,
    /// Which certificate [`CertificateFacts::days_left`] is about: 0 is the leaf.
    pub days_left_of: usize,
    /// What should be replaced, though it may still be accepted.
    pub weaknesses: Vec<Weakness>,
    /// Hosts that the leaf is valid for, the first sixteen.
    pub names: Vec<String>,
    /// How many hosts there are.
    pub names_total: usize,
    /// `1.2` or `1.3`; none when the handshake ended before it was proven.
    pub tls_version: Option<Box<str>>,
    /// IANA's name of the cipher suite; none when the handshake failed.
    pub cipher: Option<Box<str>>,
}

/// One certificate of a chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainCertificate {
    /// Distinguished name, in RFC 4514 style.
    pub subject: String,
    /// Distinguished name of its issuer.
    pub issuer: String,
    /// Start of validity.
    pub not_before: DateTime<Utc>,
    /// End of validity.
    pub not_after: DateTime<Utc>,
    /// `RSA`, `EC P-256`, `Ed25519`, or a dotted OID.
    pub key_algorithm: Box<str>,
    /// Bits of the key, 0 when they are not known.
    pub key_bits: u32,
    /// Such as `sha256WithRSAEncryption`, or a dotted OID.
    pub signature_algorithm: Box<str>,
    /// SHA-256 of the DER, lower-case hex.
    pub fingerprint_sha256: String,
}

/// A weakness of one certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Weakness {
    /// Its place in the chain: 0 is the leaf.
    pub certificate: usize,
    /// Such as `an RSA key of 1024 bits`.
    pub what: Box<str>,
}

/// What an HTTP exchange returned at its last hop.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpFacts {
    /// Status code.
    pub status: u16,
    /// `HTTP/1.0`, `HTTP/1.1` or `HTTP/2`.
    pub version: &'static str,
    /// Response headers in order, names lower-case, values lossily decoded as UTF-8.
    pub headers: Vec<(Box<str>, Box<str>)>,
    /// The decoded body as far as it was kept: whole when an expectation reads it, else its first 4 KiB.
    pub body: Bytes,
    /// How many bytes of the encoded body arrived.
    pub body_bytes: u64,
    /// How many redirects were followed.
    pub redirects: u16,
}

/// What a kind of probe found out besides: round-trip times, answers, a banner. For people and programs to read, in this
/// order; nothing is judged by it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Details(Vec<(&'static str, serde_json::Value)>);

impl Details {
    /// Adds a fact, or replaces the one of this name (lower case, words joined by `_`, the unit last).
    pub fn put(&mut self, name: &'static str, value: impl Into<serde_json::Value>) {
        let value = value.into();
        match self.0.iter_mut().find(|(there, _)| *there == name) {
            Some(slot) => slot.1 = value,
            None => self.0.push((name, value)),
        }
    }

    /// Every fact.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &serde_json::Value)> {
        self.0.iter().map(|(name, value)| (*name, value))
    }
}

impl Serialize for Details {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

/// Everything that one attempt saw.
#[derive(Clone, Debug)]
pub struct Observation {
    /// Wall-clock start of the attempt.
    pub started_at: DateTime<Utc>,
    /// Phases and total, on the monotonic clock.
    pub timings: Timings,
    /// What went wrong below the expectations.
    pub fault: Option<Fault>,
    /// The verdict that goes with the fault, where the far side grades itself (a plugin's exit code, the members of a
    /// group); none: the failure's own.
    pub graded: Option<Verdict>,
    /// The last address dialled.
    pub address: Option<SocketAddr>,
    /// HTTP, when a response head arrived.
    pub http: Option<HttpFacts>,
    /// TLS, when a chain was presented (that of the last hop, or of the hop that failed).
    pub certificate: Option<Arc<CertificateFacts>>,
    /// What else the kind found out; boxed, because most checks have none.
    pub details: Option<Box<Details>>,
}

impl Observation {
    /// Nothing seen yet.
    #[must_use]
    pub fn new(started_at: DateTime<Utc>) -> Self {
        Self {
            started_at,
            timings: Timings::default(),
            fault: None,
            graded: None,
            address: None,
            http: None,
            certificate: None,
            details: None,
        }
    }

    /// Adds a fact to the details; see [`Details::put`].
    pub fn note(&mut self, name: &'static str, value: impl Into<serde_json::Value>) {
        self.details.get_or_insert_default().put(name, value);
    }
}
