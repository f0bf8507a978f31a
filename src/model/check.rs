//! One judged check.

use std::net::SocketAddr;
use std::sync::Arc;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serializer;

use super::{CertificateFacts, Failure, MonitorId, Phase, Timings, Verdict};

/// The time of a check as every JSON of one shows it: UTC, milliseconds (contract, section 2).
#[must_use]
pub fn check_time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// The same for fields that are serialized.
pub(crate) fn serialize_check_time<S: Serializer>(at: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&check_time(*at))
}

/// The same for those that may be missing.
pub(crate) fn serialize_some_check_time<S: Serializer>(
    at: &Option<DateTime<Utc>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => serialize_check_time(at, serializer),
        None => serializer.serialize_none(),
    }
}

/// A judged attempt: one row of `monitor_checks`, or (when unknown) part of a row of `monitor_gaps`.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// Of which monitor.
    pub monitor: MonitorId,
    /// The judgement.
    pub verdict: Verdict,
    /// Why not up; with `Degraded` the warning.
    pub failure: Option<Failure>,
    /// One sentence for an operator; none when up.
    pub message: Option<Box<str>>,
    /// HTTP status, where there is one.
    pub status_code: Option<u16>,
    /// Phases and total.
    pub timings: Timings,
    /// The last address dialled.
    pub address: Option<SocketAddr>,
    /// HTTP version of the response.
    pub http_version: Option<&'static str>,
    /// Certificate facts.
    pub certificate: Option<Arc<CertificateFacts>>,
    /// What else the probe found out, made safe to show; for who asked for this one check: not kept in the history.
    pub details: Option<Box<serde_json::Map<String, serde_json::Value>>>,
    /// 1 for a check in its phase, 2 and up for re-checks while confirming or recovering, saturating.
    pub attempt: u16,
    /// Wall-clock start.
    pub checked_at: DateTime<Utc>,
}

impl Check {
    /// When the daemon was last at work on it, as far as the phases tell. A heartbeat's run, which is all that its total
    /// is, lies before `checked_at` and not after it.
    #[must_use]
    pub fn ended_at(&self) -> DateTime<Utc> {
        let phases: std::time::Duration = Phase::ALL.iter().filter_map(|phase| self.timings.get(*phase)).sum();
        self.checked_at + phases
    }
}
