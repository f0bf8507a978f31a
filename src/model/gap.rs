//! Time that was not observed.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{Failure, MonitorId};

/// Why something was not observed (`monitor_gaps.reason`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GapReason {
    /// The daemon did not run.
    NotRunning,
    /// More checks were due than `probe.max_in_flight` allows.
    Overloaded,
    /// Results were lost before they were recorded.
    RecordingLost,
    /// The backlog of results was full while the store was away.
    StoreFull,
    /// The process or the machine stood still.
    Suspended,
    /// The wall clock jumped forward.
    ClockStepped,
    /// No route of our own.
    ObserverOffline,
    /// No descriptors, ports or memory.
    ResourceExhausted,
    /// Our resolver answered nobody.
    ResolverUnavailable,
    /// A permission of ours is missing.
    PermissionDenied,
    /// A bug of ours.
    Internal,
    /// The monitor's definition is invalid.
    Invalid,
    /// The monitor was paused.
    Paused,
}

impl GapReason {
    /// The stored name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotRunning => "not_running",
            Self::Overloaded => "overloaded",
            Self::RecordingLost => "recording_lost",
            Self::StoreFull => "store_full",
            Self::Suspended => "suspended",
            Self::ClockStepped => "clock_stepped",
            Self::ObserverOffline => "observer_offline",
            Self::ResourceExhausted => "resource_exhausted",
            Self::ResolverUnavailable => "resolver_unavailable",
            Self::PermissionDenied => "permission_denied",
            Self::Internal => "internal",
            Self::Invalid => "invalid",
            Self::Paused => "paused",
        }
    }

    /// Every reason.
    pub const ALL: &'static [Self] = &[
        Self::NotRunning,
        Self::Overloaded,
        Self::RecordingLost,
        Self::StoreFull,
        Self::Suspended,
        Self::ClockStepped,
        Self::ObserverOffline,
        Self::ResourceExhausted,
        Self::ResolverUnavailable,
        Self::PermissionDenied,
        Self::Internal,
        Self::Invalid,
        Self::Paused,
    ];

    /// The reason of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.name() == name)
    }

    /// The reason that an unknown check gives; `Internal` for anything that the observer does not own.
    #[must_use]
    pub const fn of_unknown(failure: Failure) -> Self {
        match failure {
            Failure::PermissionDenied => Self::PermissionDenied,
            Failure::ResourceExhausted => Self::ResourceExhausted,
            Failure::ResolverUnavailable => Self::ResolverUnavailable,
            Failure::ObserverOffline => Self::ObserverOffline,
            _ => Self::Internal,
        }
    }
}

impl fmt::Display for GapReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A span that was not observed. Two gaps of one monitor, reason and `from_at` are one: the later end wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// None: every monitor of the region.
    pub monitor: Option<MonitorId>,
    /// Start, inclusive.
    pub from_at: DateTime<Utc>,
    /// End, exclusive.
    pub to_at: DateTime<Utc>,
    /// Why.
    pub reason: GapReason,
}
