//! One monitor, as every stage sees it.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{MonitorId, MonitorKey, UserId};

/// Where a monitor is defined (`monitors.source`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// A configuration file.
    File,
    /// A row written by somebody else.
    Database,
    /// Our own HTTP API.
    Api,
}

impl Source {
    /// The stored name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Database => "database",
            Self::Api => "api",
        }
    }
}

/// When a monitor is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cadence {
    /// Every so often, 1 s to 1 d in whole seconds, in a phase given by the monitor's id.
    Every(Duration),
    /// A cron expression (seconds first, 5 or 6 fields) in a time zone; validated by `schedule::plan`.
    Cron {
        /// The expression.
        expression: Box<str>,
        /// IANA zone.
        zone: chrono_tz::Tz,
        /// Of the times that fall into one window of so long, counted from 1970, only the first; none: all of them.
        /// Whole seconds.
        window: Option<Duration>,
    },
}

/// Flap hold-down: `changes` confirmed changes `within` a time keep an incident open until `hold` has passed quietly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flap {
    /// How many changes make a flap, 2 to 100.
    pub changes: u16,
    /// In which time.
    pub within: Duration,
    /// How long the incident is held.
    pub hold: Duration,
}

impl Default for Flap {
    /// The contract's defaults: 4 changes within 10 minutes, held for 10 minutes.
    fn default() -> Self {
        Self { changes: 4, within: Duration::from_secs(600), hold: Duration::from_secs(600) }
    }
}

/// What is the same for every kind of monitor. What a kind adds lives in its probe.
#[derive(Clone, Debug, PartialEq)]
pub struct Monitor {
    /// `monitors.id`.
    pub id: MonitorId,
    /// Who owns it.
    pub owner: UserId,
    /// The file's `id`; none for database monitors without one.
    pub key: Option<MonitorKey>,
    /// Display name; shared with the definition, as the address is.
    pub name: Arc<str>,
    /// The address as written, references unexpanded: safe to show.
    pub url: Arc<str>,
    /// The probe kind's name.
    pub kind: &'static str,
    /// Where it is defined.
    pub source: Source,
    /// When it is due.
    pub cadence: Cadence,
    /// Deadline of one check, whole seconds from 1 s; may exceed the interval.
    pub timeout: Duration,
    /// Failed checks in a row before an incident opens, at least 1.
    pub confirmations: u16,
    /// Good checks in a row before it resolves, at least 1.
    pub recoveries: u16,
    /// Time between checks while confirming or recovering.
    pub retry_interval: Duration,
    /// Flap hold-down.
    pub flap: Flap,
    /// Whether it is checked.
    pub active: bool,
    /// Labels.
    pub tags: Box<[Box<str>]>,
    /// Monitors whose being down explains this one's.
    pub depends_on: Box<[MonitorId]>,
}

impl Monitor {
    /// The key or else the name: what logs and tables call it.
    #[must_use]
    pub fn label(&self) -> &str {
        self.key.as_ref().map_or(&self.name, |key| key.as_str())
    }
}
