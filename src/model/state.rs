//! Verdicts, and what a monitor is known to be.

use std::collections::VecDeque;
use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use uuid::Uuid;

use super::{Evidence, GapReason, IncidentUid, Under};

/// What one check says about its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Works.
    Up,
    /// Works, but a warning threshold is crossed.
    Degraded,
    /// Does not work.
    Down,
    /// The check says nothing about the target: the observer is at fault.
    Unknown,
}

impl Verdict {
    /// The public name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Degraded => "degraded",
            Self::Down => "down",
            Self::Unknown => "unknown",
        }
    }

    /// `monitor_checks.status`: true for up and degraded, false for down, none (no row) for unknown.
    #[must_use]
    pub const fn row_status(self) -> Option<bool> {
        match self {
            Self::Up | Self::Degraded => Some(true),
            Self::Down => Some(false),
            Self::Unknown => None,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// `monitors.status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Never observed.
    #[default]
    Pending,
    /// Confirmed up.
    Up,
    /// Works, with a warning.
    Degraded,
    /// Confirmed down: an incident is open, or was closed by a person.
    Down,
    /// The last checks say nothing about the target.
    Unknown,
    /// `active = false`.
    Paused,
    /// Inside a maintenance window.
    Maintenance,
}

impl Status {
    /// Every status.
    pub const ALL: &'static [Self] =
        &[Self::Pending, Self::Up, Self::Degraded, Self::Down, Self::Unknown, Self::Paused, Self::Maintenance];

    /// The stored name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Up => "up",
            Self::Degraded => "degraded",
            Self::Down => "down",
            Self::Unknown => "unknown",
            Self::Paused => "paused",
            Self::Maintenance => "maintenance",
        }
    }

    /// The status of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|s| s.name() == name)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What survives a restart for one monitor (`monitor_state`). Stepped only by `verdict::machine`; written with the
/// checks that led to it, so that the state after a restart is the state of the last recorded check.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MonitorState {
    /// The confirmed status: `Pending`, `Up`, `Degraded` or `Down`. `Unknown` is shown while `unknown_since` is set
    /// and never confirmed; `Paused` and `Maintenance` are laid over it by who displays it.
    pub status: Status,
    /// When the confirmed status began (first check of the streak that led to it).
    pub since: Option<DateTime<Utc>>,
    /// Failed checks in a row, saturating; 0 after a good check. Unknown checks leave it alone.
    pub failures: u16,
    /// Good checks in a row while an incident is open or closed by a person, saturating; 0 after a failed check.
    pub successes: u16,
    /// First failed check of the running streak.
    pub failing_since: Option<DateTime<Utc>>,
    /// First good check of the running recovery.
    pub recovering_since: Option<DateTime<Utc>>,
    /// First of the running streak of unknown checks.
    pub unknown_since: Option<DateTime<Utc>>,
    /// Times of the latest confirmed changes between working and down, oldest first; bounded by `Flap::changes`.
    pub flaps: VecDeque<DateTime<Utc>>,
    /// While flapping: an open incident is not resolved before this time.
    pub held_until: Option<DateTime<Utc>>,
    /// The open incident.
    pub incident: Option<IncidentUid>,
    /// An incident was resolved by a person while the target was down: none opens before a good check.
    pub dismissed: bool,
    /// Evidence of the latest good check, refreshed in memory each time, stored when the state is.
    pub last_good: Option<Box<Evidence>>,
    /// Evidence of the first failed check of the streak.
    pub first_bad: Option<Box<Evidence>>,
    /// Wall-clock start of the latest check of any verdict.
    pub last_checked: Option<DateTime<Utc>>,
    /// Set while the monitor is paused or its definition invalid; its end becomes a gap.
    pub unobserved: Option<Unobserved>,
    /// The maintenance that covers the monitor now; streaks and incidents go on beneath it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<Under>,
    /// What a heartbeat has heard; none before its first ping, and for every other kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heard: Option<Box<Heard>>,
}

/// What a heartbeat has heard from its sender. Survives restarts and pauses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// The latest sign of life that silence is counted from: the end of a run, or the very first ping.
    pub last: DateTime<Utc>,
    /// Runs that have started and not ended, oldest first; bounded by `verdict::pulse`.
    #[serde(default)]
    pub runs: Vec<Run>,
}

/// A run that goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// What the sender calls it, if it does.
    pub rid: Option<Uuid>,
    /// When its start came in.
    pub started_at: DateTime<Utc>,
}

/// Why and since when a monitor is deliberately not checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unobserved {
    /// `Paused` or `Invalid`.
    pub reason: GapReason,
    /// Since when.
    pub since: DateTime<Utc>,
}

impl MonitorState {
    /// The status to show (`monitors.status`): maintenance where what is beneath is neither paused nor invalid.
    #[must_use]
    pub fn shown(&self) -> Status {
        match self.maintenance {
            Some(_) if self.unobserved.is_none() => Status::Maintenance,
            _ => self.beneath(),
        }
    }

    /// What is known whatever maintenance there is: paused, or unknown while the latest checks say nothing.
    #[must_use]
    pub fn beneath(&self) -> Status {
        match self.unobserved {
            Some(Unobserved { reason: GapReason::Paused, .. }) => Status::Paused,
            Some(_) => Status::Unknown,
            None if self.unknown_since.is_some() => Status::Unknown,
            None => self.status,
        }
    }
}
