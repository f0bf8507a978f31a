//! `/api/v1/overview`: everything on one page. Its rows are written from borrowed parts: ten thousand of them are megabytes, and
//! as JSON values in memory they took three times as long.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};

use chrono::{DateTime, Utc};
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::view::{Live, View};
use crate::access::Viewer;
use crate::journal::disk::DiskJournal;
use crate::maintenance::Standing;
use crate::model::{Failure, IncidentUid, MonitorId, Source, Status, Under, Verdict, serialize_check_time};
use crate::verdict::board::{Before, Latest, Row};
use crate::web::{Admin as _, Readiness};

#[derive(Serialize)]
struct Overview<'a> {
    version: &'static str,
    started_at: DateTime<Utc>,
    now: DateTime<Utc>,
    #[serde(flatten)]
    house: Option<House<'a>>,
    readiness: Readiness,
    slos: Vec<Value>,
    monitors: Rows<'a>,
    maintenances: Option<Value>,
}

/// Paths, hosts and figures of everybody's monitors are for those who run this.
#[derive(Serialize)]
struct House<'a> {
    config: &'a str,
    restart_parts: BTreeMap<&'static str, &'a str>,
    database: &'static str,
    restarted_tasks: u64,
    dispatch: Option<Value>,
    recorder: Option<Value>,
}

/// Rows of monitors, and which of them are overdue.
struct Rows<'a>(&'a [Row], &'a HashSet<MonitorId>);

impl Serialize for Rows<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|row| RowView::of(row, self.1)))
    }
}

#[derive(Serialize)]
struct RowView<'a> {
    monitor: &'a str,
    monitor_id: MonitorId,
    name: &'a str,
    kind: &'static str,
    url: &'a str,
    source: Source,
    status: Status,
    beneath: Status,
    maintenance: Option<Under>,
    since: Option<DateTime<Utc>>,
    incident: Option<IncidentUid>,
    overdue: bool,
    last: Option<LastView<'a>>,
    first_bad: Option<BadView<'a>>,
}

#[derive(Serialize)]
struct LastView<'a> {
    #[serde(serialize_with = "serialize_check_time")]
    checked_at: DateTime<Utc>,
    verdict: Verdict,
    failure: Option<Failure>,
    message: Option<&'a str>,
    status_code: Option<u16>,
    response_time_ms: i32,
}

#[derive(Serialize)]
struct BadView<'a> {
    #[serde(serialize_with = "serialize_check_time")]
    checked_at: DateTime<Utc>,
    failure: Option<Failure>,
    message: Option<&'a str>,
    status_code: Option<u16>,
}

impl<'a> RowView<'a> {
    fn of(row: &'a Row, overdue: &HashSet<MonitorId>) -> Self {
        let monitor = &row.entry.monitor;
        Self {
            monitor: monitor.label(),
            monitor_id: monitor.id,
            name: &monitor.name,
            kind: monitor.kind,
            url: &monitor.url,
            source: monitor.source,
            status: row.shown,
            beneath: row.beneath,
            maintenance: row.maintenance,
            since: row.since,
            incident: row.incident,
            overdue: overdue.contains(&monitor.id),
            last: row.latest.as_ref().map(LastView::of),
            first_bad: row.before.as_deref().map(BadView::of),
        }
    }
}

impl<'a> LastView<'a> {
    fn of(latest: &'a Latest) -> Self {
        Self {
            checked_at: latest.checked_at,
            verdict: latest.verdict,
            failure: latest.failure,
            message: latest.message.as_deref(),
            status_code: latest.status_code,
            response_time_ms: latest.response_time_ms,
        }
    }
}

impl<'a> BadView<'a> {
    fn of(before: &'a Before) -> Self {
        Self {
            checked_at: before.checked_at,
            failure: before.failure,
            message: before.message.as_deref(),
            status_code: before.status_code,
        }
    }
}

/// The page as JSON text, for this viewer.
pub(super) fn make(view: &View, viewer: Viewer) -> Vec<u8> {
    let live = view.live.load_full();
    let live = live.as_deref();
    let mut rows = live.map_or_else(Vec::new, |live| live.board.rows());
    let overdue = live.map(|live| live.dispatch.overdue_entries()).unwrap_or_default();
    let overdue: HashSet<MonitorId> = overdue.iter().map(|entry| entry.monitor.id).collect();
    rows.retain(|row| viewer.sees(row.entry.monitor.owner));
    rows.sort_by(|a, b| a.entry.monitor.label().cmp(b.entry.monitor.label()));
    let everything = viewer == Viewer::Everything;
    let now = view.wall.now();
    let readiness = view.readiness();
    let overview = Overview {
        version: env!("CARGO_PKG_VERSION"),
        started_at: view.started_at,
        now,
        house: everything.then(|| House::of(view, live)),
        readiness: if everything { readiness } else { readiness.without_details() },
        slos: live.map_or_else(Vec::new, |live| live.slos_json(viewer)),
        monitors: Rows(&rows, &overdue),
        maintenances: live.map(|live| live.maintenances_json(viewer, now)),
    };
    let mut text = Vec::with_capacity(1024 + rows.len() * ROW);
    // Nothing in it can fail: names are text, and memory takes what it is given.
    if let Err(error) = serde_json::to_writer(&mut text, &overview) {
        log::error!("the overview could not be written: {error}");
    }
    text.push(b'\n');
    text
}

/// Bytes of a row, about.
const ROW: usize = 400;

impl<'a> House<'a> {
    fn of(view: &'a View, live: Option<&Live>) -> Self {
        Self {
            config: &view.config,
            restart_parts: view.started_with.iter().map(|(name, text)| (*name, text.as_str())).collect(),
            database: view.database,
            restarted_tasks: view.restarts.count(),
            dispatch: live.map(Live::dispatch_json),
            recorder: live.map(|live| live.recorder_json(&view.journal)),
        }
    }
}

/// Maintenances in the overview; those that run first, then by their time.
const MAINTENANCES: usize = 20;

impl Live {
    fn maintenances_json(&self, viewer: Viewer, now: DateTime<Utc>) -> Value {
        let report = self.maintenance.get();
        let sees =
            |standing: &&Standing| standing.owner.map_or(viewer == Viewer::Everything, |owner| viewer.sees(owner));
        let mut standing: Vec<&Standing> = report.standing.iter().filter(sees).collect();
        standing.sort_by_key(|standing| (standing.window.from > now, standing.window.from));
        let each = standing.into_iter().take(MAINTENANCES).map(|standing| {
            json!({
                "maintenance": &*standing.label,
                "maintenance_id": standing.id,
                "active": standing.window.from <= now,
                "from": standing.window.from,
                "to": standing.window.to,
                "monitors": standing.monitors,
            })
        });
        each.collect()
    }

    fn dispatch_json(&self) -> Value {
        json!({
            "fired": self.dispatch.fired(),
            "in_flight": self.dispatch.in_flight(),
            "waiting": self.dispatch.waiting(),
            "skipped_running": self.dispatch.skipped_running(),
            "lost_overloaded": self.dispatch.lost_overloaded(),
            "missed_suspended": self.dispatch.missed_suspended(),
        })
    }

    /// In short; `/api/v1/slos` has all of it.
    fn slos_json(&self, viewer: Viewer) -> Vec<Value> {
        let rows = self.slos.rows();
        let seen = rows.iter().filter(|row| row.is_seen(viewer)).map(|row| {
            let report = &row.report;
            json!({
                "id": report.id,
                "name": report.name,
                "status": report.status,
                "since": report.since,
                "objective": report.objective,
                "window": report.window,
                "uptime_text": report.uptime_text,
                "budget": report.budget,
            })
        });
        seen.collect()
    }

    fn recorder_json(&self, journal: &DiskJournal) -> Value {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let depth = journal.depth();
        json!({
            "checks": load(&self.recorder.checks),
            "batches": load(&self.recorder.batches),
            "dropped": load(&self.recorder.dropped),
            "refused": load(&self.recorder.refused),
            "delayed": load(&self.recorder.delayed),
            "waiting_records": depth.records as u64 + self.recorder.in_hand(),
            "waiting_bytes": depth.bytes,
            "thinned": depth.thinned,
        })
    }
}
