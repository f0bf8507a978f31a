//! Rows as the API shows them.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;

use crate::maintenance::definition::MaintenanceRow;
use crate::model::{MaintenanceId, MonitorId, UserId, serialize_check_time, serialize_some_check_time};
use crate::uptime::History;

/// A row of `monitors`. Its `spec` stays where it is: rows of others may hold secrets in it.
#[derive(Clone, Debug, Serialize)]
pub struct MonitorView {
    /// `monitors.id`.
    pub id: MonitorId,
    /// `id` of the file, or whatever a row has.
    pub key: Option<String>,
    /// Display name.
    pub name: String,
    /// As written; a password in it is not shown.
    pub url: String,
    /// None: by the scheme of the url.
    pub kind: Option<String>,
    /// `file`, `database` or `api`.
    pub source: String,
    /// Whose.
    pub user_id: UserId,
    /// As last recorded.
    pub status: String,
    /// What is known of it otherwise, while the status is `maintenance`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status_beneath: Option<String>,
    /// `is_active`.
    pub active: bool,
    /// Seconds between checks.
    pub interval_seconds: i32,
    /// Seconds a check may take.
    pub timeout_seconds: i32,
    /// Labels.
    pub tags: Vec<String>,
    /// Of 30 days, rounded down.
    pub uptime_percentage: i32,
    /// Of 30 days, as a text.
    pub uptime: Option<String>,
    /// Time of the last recorded check.
    #[serde(serialize_with = "serialize_some_check_time")]
    pub last_checked: Option<DateTime<Utc>>,
    /// Of the last recorded check.
    pub response_time_ms: Option<i32>,
    /// When the certificate expires.
    pub ssl_expiry: Option<DateTime<Utc>>,
    /// Why the row is not a monitor.
    pub invalid_reason: Option<String>,
    /// When it left its file.
    pub archived_at: Option<DateTime<Utc>>,
    /// Moves with every change of configuration.
    pub revision: i64,
    /// When the row was made.
    pub created_at: Option<DateTime<Utc>>,
    /// When the row was changed, if its writer says so.
    pub updated_at: Option<DateTime<Utc>>,
    /// Older history is not shown: the plan of its owner. Only known where one monitor is asked for.
    #[serde(skip)]
    pub history_from: Option<DateTime<Utc>>,
}

impl MonitorView {
    /// What logs and tables call it.
    #[must_use]
    pub fn label(&self) -> &str {
        self.key.as_deref().unwrap_or(&self.name)
    }
}

/// Phases of a check in microseconds; null where one was not reached or not measured.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct PhasesView {
    /// Resolving the name.
    pub dns: Option<i32>,
    /// Connecting.
    pub connect: Option<i32>,
    /// TLS handshake.
    pub tls: Option<i32>,
    /// Sending.
    pub send: Option<i32>,
    /// Waiting for the first byte.
    pub wait: Option<i32>,
    /// Receiving.
    pub receive: Option<i32>,
    /// The sum of the others.
    pub total: Option<i64>,
}

impl PhasesView {
    /// With the total.
    #[must_use]
    pub fn summed(self) -> Self {
        let phases = [self.dns, self.connect, self.tls, self.send, self.wait, self.receive];
        let reached = phases.iter().flatten().map(|time| i64::from(*time));
        let total = reached.clone().next().map(|_| reached.sum());
        Self { total, ..self }
    }
}

/// A row of `monitor_checks`, in the contract's shape of a check as far as the row has it.
#[derive(Clone, Debug, Serialize)]
pub struct CheckView {
    /// `monitor_checks.id`.
    pub id: i64,
    /// Key or name of the monitor.
    pub monitor: String,
    /// Which monitor.
    pub monitor_id: MonitorId,
    /// `up`, `degraded` or `down`.
    pub verdict: &'static str,
    /// `error_type`.
    pub failure: Option<String>,
    /// HTTP status.
    pub status_code: Option<i32>,
    /// Of the whole check.
    pub response_time_ms: Option<i32>,
    /// Phases.
    pub timings_us: PhasesView,
    /// 1 in its phase, more while confirming or recovering.
    pub attempt: i16,
    /// Where it was checked from.
    pub region: String,
    /// Wall-clock start.
    #[serde(serialize_with = "serialize_check_time")]
    pub checked_at: DateTime<Utc>,
}

/// A row of `incidents`.
#[derive(Clone, Debug, Serialize)]
pub struct IncidentView {
    /// `incidents.id`.
    pub id: i64,
    /// Key or name of the monitor.
    pub monitor: String,
    /// Which monitor.
    pub monitor_id: MonitorId,
    /// What happened, in a line.
    pub title: String,
    /// More of it.
    pub description: Option<String>,
    /// `open`, `acknowledged` or `resolved`.
    pub status: String,
    /// As the row says.
    pub severity: Option<String>,
    /// The first failed check.
    pub started_at: DateTime<Utc>,
    /// The first good check.
    pub resolved_at: Option<DateTime<Utc>>,
    /// Whole seconds between them, rounded down.
    pub duration_seconds: Option<i32>,
    /// `daemon` or `manual`.
    pub source: String,
    /// Name of the failure.
    pub cause: Option<String>,
    /// The dependency that explains it.
    pub caused_by: Option<MonitorId>,
    /// The maintenance that it opened in.
    pub maintenance_id: Option<MaintenanceId>,
    /// Whether it is open, and its monitor under maintenance now.
    pub under_maintenance: bool,
    /// Why it ended.
    pub resolve_reason: Option<String>,
    /// When a person took it.
    pub acknowledged_at: Option<DateTime<Utc>>,
    /// Who.
    pub acknowledged_by: Option<String>,
    /// What they wrote.
    pub acknowledge_note: Option<String>,
    /// First bad and last good check; only when one incident is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Value>,
}

/// A row of `maintenances`.
#[derive(Clone, Debug)]
pub struct MaintenanceView {
    /// The row.
    pub row: MaintenanceRow,
    /// When it was read, on the database's clock.
    pub seen_at: DateTime<Utc>,
}

/// How many checks a window had, and how many were good.
#[derive(Clone, Debug)]
pub struct UptimeView {
    /// Key or name of the monitor.
    pub monitor: String,
    /// Which monitor.
    pub monitor_id: MonitorId,
    /// Rows of the window, and those of them that were up or degraded; none when nobody asked for them.
    pub counts: Option<(i64, i64)>,
}

/// What time-weighted uptime of some monitors is made of.
#[derive(Clone, Debug, Default)]
pub struct Histories {
    /// Of each monitor that was asked for, cut to the window.
    pub of: HashMap<MonitorId, History>,
    /// About the incidents, by id.
    pub notes: HashMap<i64, IncidentNote>,
    /// About the maintenances whose definitions are still there, by id.
    pub maintenances: HashMap<MaintenanceId, MaintenanceNote>,
}

/// What an explanation says of an incident.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IncidentNote {
    /// `daemon` or `manual`.
    pub source: String,
    /// Name of the failure.
    pub cause: Option<String>,
}

/// What an explanation says of a maintenance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaintenanceNote {
    /// Key or name.
    pub label: String,
    /// Whose it is; the system user's are the file's.
    pub owner: UserId,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_total_needs_a_phase() {
        assert_eq!(PhasesView::default().summed().total, None);
        let phases = PhasesView { dns: Some(0), wait: Some(5), ..PhasesView::default() };
        assert_eq!(phases.summed().total, Some(5));
        let most = Some(i32::MAX);
        let phases = PhasesView { dns: most, connect: most, tls: most, ..PhasesView::default() };
        assert_eq!(phases.summed().total, Some(3 * i64::from(i32::MAX)));
    }
}
