//! Maintenance windows: planned work, in which checks go on, monitors show `maintenance`, incidents are marked, and which
//! uptime leaves out where their definition says so.
//!
//! ```text
//!  file ──┐             ┌─> covers ─> verdict stage (state, status, marks)
//!         ├─> keeper ───┤
//!  rows ──┘             └─> maintenance_spans (history)
//! ```

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;

use crate::model::{MaintenanceId, MonitorId, Span, StoreFault, Under, UserId};
use definition::MaintenanceRow;
use plan::Changes;

pub mod definition;
pub mod keeper;
pub mod plan;
pub mod rule;

/// Who is under maintenance now.
#[derive(Clone, Debug, Default)]
pub struct Covers {
    /// What each monitor is under.
    pub monitors: HashMap<MonitorId, Under>,
    /// False before the store's rows have been read: then what a monitor was under goes on until its planned end.
    pub complete: bool,
}

impl Covers {
    /// What a monitor is under at `now`, when it was under `before`.
    #[must_use]
    pub fn of(&self, monitor: MonitorId, before: Option<Under>, now: DateTime<Utc>) -> Option<Under> {
        let kept = before.filter(|under| !self.complete && now < under.until);
        self.monitors.get(&monitor).copied().or(kept)
    }
}

/// The row of a `[[maintenance]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileRow {
    /// `id`.
    pub id: MaintenanceId,
    /// `key`.
    pub key: String,
    /// `name`.
    pub name: Arc<str>,
    /// `description`.
    pub description: Option<Arc<str>>,
    /// `monitors`: those of its keys that are there.
    pub monitors: Vec<MonitorId>,
    /// `tags`.
    pub tags: Arc<[Box<str>]>,
    /// `starts_at`.
    pub starts_at: DateTime<Utc>,
    /// `duration_seconds`.
    pub duration_seconds: i32,
    /// `rrule`.
    pub rrule: Option<Arc<str>>,
    /// `timezone`.
    pub timezone: &'static str,
    /// `exclude_from_uptime`.
    pub excluded: bool,
}

/// What the store remembers of spans.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// Up to when they have been written; none: never.
    pub done_to: Option<DateTime<Utc>>,
    /// Those that end after that.
    pub running: Vec<Span>,
}

/// What the keeper needs of the store.
pub trait MaintenanceStore: Send + Sync + 'static {
    /// Brings the file's rows to what the file says, in one transaction, touching only what differs. Those that the file has
    /// no more are archived.
    fn merge_maintenances(&self, rows: Arc<[FileRow]>) -> BoxFuture<'_, Result<(), StoreFault>>;

    /// Rows of others that are not archived, the oldest of a user first; the count is bounded.
    fn load_maintenances(&self) -> BoxFuture<'_, Result<Vec<MaintenanceRow>, StoreFault>>;

    /// Sets or clears `invalid_reason`.
    fn mark_maintenances(&self, reasons: Vec<(MaintenanceId, Option<String>)>)
    -> BoxFuture<'_, Result<(), StoreFault>>;

    /// How far spans have been written; those that end after that, or after `now` if that is earlier.
    fn span_progress(&self, now: DateTime<Utc>) -> BoxFuture<'_, Result<Progress, StoreFault>>;

    /// Writes spans and how far they are written, in one transaction. Those of monitors that have no row are left out.
    fn write_spans(&self, changes: Changes, done_to: DateTime<Utc>) -> BoxFuture<'_, Result<(), StoreFault>>;

    /// Resolves when rows of `maintenances` may have changed.
    fn maintenances_changed(&self) -> BoxFuture<'_, ()>;
}

/// A maintenance as it stands.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Which.
    pub id: MaintenanceId,
    /// Key or name.
    pub label: Arc<str>,
    /// Whose monitors it covers at most; none: everybody's.
    pub owner: Option<UserId>,
    /// The present or next window.
    pub window: rule::Window,
    /// Monitors that it covers now.
    pub monitors: usize,
}

/// What the keeper tells, for those who show it.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Every maintenance with a present or coming window, by its time.
    pub standing: Vec<Standing>,
    /// Rows that are no valid maintenances.
    pub invalid: usize,
}

/// Shared with those who show it.
#[derive(Debug, Default)]
pub struct SharedReport(Mutex<Arc<Report>>);

impl SharedReport {
    /// The report now.
    #[must_use]
    pub fn get(&self) -> Arc<Report> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn set(&self, report: Report) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(report);
    }
}
