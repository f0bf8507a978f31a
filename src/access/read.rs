//! What the API shows of the store: rows that are committed, and nothing else.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::Viewer;
use crate::maintenance::definition::MaintenanceRow;
use crate::model::{
    MaintenanceId, MonitorId, Source, Status, StoreFault, UserId, Verdict, serialize_check_time,
    serialize_some_check_time,
};
use crate::uptime::{History, Window};

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

/// Response times of good checks, in milliseconds; null without such checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct LatencyFigures {
    /// Rows of the window.
    pub checks: i64,
    /// Those that were up or degraded.
    pub good: i64,
    /// Those of them that have a response time: what the figures below rest on.
    pub timed: i64,
    /// The mean, exact.
    pub avg_ms: Option<f64>,
    /// The least, exact.
    pub min_ms: Option<i32>,
    /// The greatest, exact.
    pub max_ms: Option<i32>,
    /// Half of the checks took at most so long. This and the next two are less than 7 % off.
    pub p50_ms: Option<f64>,
    /// 95 of 100.
    pub p95_ms: Option<f64>,
    /// 99 of 100.
    pub p99_ms: Option<f64>,
}

/// The same of an hour or a day.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LatencyPoint {
    /// Its begin, UTC.
    pub at: DateTime<Utc>,
    /// Its figures.
    #[serde(flatten)]
    pub figures: LatencyFigures,
}

/// Latency of a window.
#[derive(Clone, Debug, PartialEq)]
pub struct LatencyView {
    /// Its begin; later than asked for when the owner's plan shows less.
    pub from: DateTime<Utc>,
    /// Its end.
    pub to: DateTime<Utc>,
    /// Of the whole.
    pub figures: LatencyFigures,
    /// By hour or day, those that had checks, if asked for.
    pub series: Option<Vec<LatencyPoint>>,
}

/// A span of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LatencyWindow {
    /// So many days of 24 hours before now.
    Days(i32),
    /// From a time to before another.
    Span {
        /// Not before.
        from: DateTime<Utc>,
        /// Before.
        to: DateTime<Utc>,
    },
}

/// What a series goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Hours of UTC.
    Hour,
    /// Days of UTC.
    Day,
}

impl Step {
    /// As the parameter and the function of the database name it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
        }
    }
}

/// Which latency.
#[derive(Clone, Debug)]
pub struct LatencyFilter {
    /// Of which time.
    pub window: LatencyWindow,
    /// With a series.
    pub step: Option<Step>,
    /// From this region only.
    pub region: Option<String>,
}

/// How something with a uuid is named in a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named<Id> {
    /// By id.
    Id(Id),
    /// By key: the file's, else the API's, else a row's.
    Key(String),
}

/// How a monitor is named in a path.
pub type MonitorName = Named<MonitorId>;
/// How a maintenance is.
pub type MaintenanceName = Named<MaintenanceId>;

/// Which monitors; they come by id.
#[derive(Clone, Debug, Default)]
pub struct MonitorFilter {
    /// With this status.
    pub status: Option<Status>,
    /// With this label.
    pub tag: Option<String>,
    /// Of this source.
    pub source: Option<Source>,
    /// With this text in name, key or url, whatever the case.
    pub text: Option<String>,
    /// Behind this one.
    pub after: Option<MonitorId>,
    /// At most so many.
    pub limit: u16,
}

/// A place in a list that goes from new to old: what comes behind it is older, or has a smaller number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Before {
    /// The time.
    pub at: DateTime<Utc>,
    /// The number.
    pub id: i64,
}

/// Which checks; newest first.
#[derive(Clone, Debug, Default)]
pub struct CheckFilter {
    /// Not older.
    pub from: Option<DateTime<Utc>>,
    /// Older.
    pub to: Option<DateTime<Utc>>,
    /// Of this verdict; there are no rows of unknown ones.
    pub verdict: Option<Verdict>,
    /// With this failure.
    pub failure: Option<String>,
    /// Behind this place.
    pub before: Option<Before>,
    /// At most so many.
    pub limit: u16,
}

/// Which incidents; newest first.
#[derive(Clone, Debug, Default)]
pub struct IncidentFilter {
    /// With this status.
    pub status: Option<String>,
    /// Of this monitor.
    pub monitor: Option<MonitorId>,
    /// Not begun before.
    pub from: Option<DateTime<Utc>>,
    /// Begun before.
    pub to: Option<DateTime<Utc>>,
    /// Behind this place.
    pub before: Option<Before>,
    /// At most so many.
    pub limit: u16,
}

/// A part of a list.
#[derive(Clone, Debug)]
pub struct Page<T, P> {
    /// In order.
    pub rows: Vec<T>,
    /// Where the next part begins; none at the end. A part may be short, even empty, and have a next one.
    pub next: Option<P>,
}

type Answer<'a, T> = BoxFuture<'a, Result<T, StoreFault>>;

/// Reads for the API. Every call is bounded in time, and uses connections that nothing else needs.
pub trait ReadStore: Send + Sync + 'static {
    /// Monitors that are not archived.
    fn monitors(&self, viewer: Viewer, filter: MonitorFilter) -> Answer<'_, Page<MonitorView, MonitorId>>;
    /// One monitor, also an archived one.
    fn monitor(&self, viewer: Viewer, name: MonitorName) -> Answer<'_, Option<MonitorView>>;
    /// Checks of a monitor that the caller has found visible.
    fn checks_of<'a>(&'a self, monitor: &'a MonitorView, filter: CheckFilter) -> Answer<'a, Page<CheckView, Before>>;
    /// Checks of all monitors that are visible; `from` and `to` are needed, and bound the work.
    fn checks(&self, viewer: Viewer, filter: CheckFilter) -> Answer<'_, Page<CheckView, Before>>;
    /// Incidents.
    fn incidents(&self, viewer: Viewer, filter: IncidentFilter) -> Answer<'_, Page<IncidentView, Before>>;
    /// One incident, with its evidence.
    fn incident(&self, viewer: Viewer, id: i64) -> Answer<'_, Option<IncidentView>>;
    /// Maintenances that are not archived, by id.
    fn maintenances(
        &self,
        viewer: Viewer,
        after: Option<MaintenanceId>,
        limit: u16,
    ) -> Answer<'_, Page<MaintenanceView, MaintenanceId>>;
    /// One maintenance, also an archived one.
    fn maintenance(&self, viewer: Viewer, name: MaintenanceName) -> Answer<'_, Option<MaintenanceView>>;
    /// Counts of one monitor that the caller has found visible.
    fn uptime_of<'a>(&'a self, monitor: &'a MonitorView, days: i32) -> Answer<'a, UptimeView>;
    /// Response times of one monitor that the caller has found visible.
    fn latency_of<'a>(&'a self, monitor: &'a MonitorView, filter: LatencyFilter) -> Answer<'a, LatencyView>;
    /// Counts of monitors that are not archived, by id.
    fn uptime(
        &self,
        viewer: Viewer,
        days: i32,
        after: Option<MonitorId>,
        limit: u16,
    ) -> Answer<'_, Page<UptimeView, MonitorId>>;
    /// What the time-weighted uptime of monitors is made of, as far back as the owners' plans show; none when the
    /// window has too many incidents and gaps.
    fn histories<'a>(&'a self, monitors: &'a [MonitorId], window: Window) -> Answer<'a, Option<Histories>>;
    /// The same monitors as [`Self::uptime`], without counts.
    fn labels(&self, viewer: Viewer, after: Option<MonitorId>, limit: u16) -> Answer<'_, Page<UptimeView, MonitorId>>;
    /// What the last evaluations of objectives found ([`crate::slo::Report`]), without their monitors, by id.
    fn slos(&self, viewer: Viewer) -> Answer<'_, Vec<Value>>;
    /// One of them, with its monitors.
    fn slo<'a>(&'a self, viewer: Viewer, id: &'a str) -> Answer<'a, Option<Value>>;
}

impl<Id: From<Uuid>> Named<Id> {
    /// A hyphenated uuid is an id, anything else a key.
    #[must_use]
    pub fn of(text: &str) -> Self {
        match Uuid::try_parse(text) {
            Ok(id) if text.len() == 36 => Self::Id(id.into()),
            _ => Self::Key(text.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_usual_form_of_a_uuid_is_an_id() {
        let id = "00000000-0000-4000-8000-000000000001";
        assert!(matches!(MonitorName::of(id), MonitorName::Id(_)));
        for key in ["shop", &id.replace('-', ""), &format!("{{{id}}}"), &format!("urn:uuid:{id}"), ""] {
            assert!(matches!(MonitorName::of(key), MonitorName::Key(_)), "{key}");
        }
    }

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
