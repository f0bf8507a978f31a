//! Incidents, and the evidence they carry.

use std::net::SocketAddr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{CertificateFacts, Failure, IncidentUid, MaintenanceId, MonitorId, UserId, Verdict};

/// What a check saw, kept for a person who asks why. Secrets are removed before it is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// Start of the check.
    #[serde(serialize_with = "super::serialize_check_time")]
    pub checked_at: DateTime<Utc>,
    /// Its verdict.
    pub verdict: Verdict,
    /// Its failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// Its sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<Box<str>>,
    /// The last address dialled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<SocketAddr>,
    /// HTTP status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_code: Option<u16>,
    /// Phases in microseconds, by name, those that were reached, then `total`. In JSON an object with every phase, null
    /// where it was not reached (contract, section 2).
    #[serde(with = "timings")]
    pub timings_us: Vec<(Box<str>, u64)>,
    /// Response headers, at most 32, values cut at 256 characters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(Box<str>, Box<str>)>,
    /// The beginning of the body, at most 1024 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub excerpt: Option<Box<str>>,
    /// Certificate facts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<CertificateFacts>,
    /// What else the kind of probe found out: at most 32 facts, texts cut at 256 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Box<serde_json::Map<String, serde_json::Value>>>,
}

mod timings {
    use serde::de::{Deserialize, Deserializer};
    use serde::ser::{SerializeMap as _, Serializer};

    use crate::model::Phase;

    type Timings = Vec<(Box<str>, u64)>;

    fn names() -> impl Iterator<Item = &'static str> {
        Phase::ALL.iter().map(|phase| phase.name()).chain(["total"])
    }

    pub(super) fn serialize<S: Serializer>(timings: &Timings, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for name in names() {
            let time = timings.iter().find(|(known, _)| **known == *name).map(|(_, time)| *time);
            map.serialize_entry(name, &time)?;
        }
        map.end()
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timings, D::Error> {
        let map = std::collections::HashMap::<String, Option<u64>>::deserialize(deserializer)?;
        Ok(names().filter_map(|name| Some((name.into(), (*map.get(name)?)?))).collect())
    }
}

/// An incident opens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opening {
    /// Its name until the database numbers it.
    pub uid: IncidentUid,
    /// Of which monitor.
    pub monitor: MonitorId,
    /// Whose.
    pub owner: UserId,
    /// `incidents.title`.
    pub title: Box<str>,
    /// `incidents.cause`: the failure of the first bad check.
    pub failure: Failure,
    /// Start of the first failed check of the streak.
    pub started_at: DateTime<Utc>,
    /// The dependency that explains it, when one is down.
    pub caused_by: Option<MonitorId>,
    /// The maintenance that the monitor is under when it opens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<MaintenanceId>,
    /// The check that began it.
    pub first_bad: Option<Box<Evidence>>,
    /// The latest good check before it.
    pub last_good: Option<Box<Evidence>>,
}

/// Why an incident ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ResolveReason {
    /// The target answered well again.
    Recovered,
    /// The monitor was paused.
    Paused,
    /// The monitor left its file.
    Archived,
    /// The monitor was deleted.
    Deleted,
}

impl ResolveReason {
    /// The stored name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Recovered => "recovered",
            Self::Paused => "paused",
            Self::Archived => "archived",
            Self::Deleted => "deleted",
        }
    }
}

/// An incident ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolution {
    /// Which.
    pub uid: IncidentUid,
    /// Of which monitor.
    pub monitor: MonitorId,
    /// Start of the first good check of the recovery, or the time of the pause.
    pub resolved_at: DateTime<Utc>,
    /// Why.
    pub reason: ResolveReason,
}
