//! What the running daemon tells about itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::database::{Role, SharedRole};
use crate::catalog::Reloaded;
use crate::catalog::sync::{ReloadRequest, SharedReport};
use crate::clock::Wall;
use crate::journal::disk::DiskJournal;
use crate::journal::recorder::RecorderStats;
use crate::schedule::dispatch::DispatchStats;
use crate::verdict::board::{Board, Row};
use crate::web::{Admin, Readiness, Reason};

/// The dispatcher looks at its wheel at least once a second; silent for longer, nothing is fired.
const SILENT_SECONDS: u64 = 5;

/// Everything that is shown comes from here.
pub(super) struct View {
    pub(super) started_at: DateTime<Utc>,
    pub(super) config: String,
    pub(super) database: &'static str,
    pub(super) wall: Arc<dyn Wall>,
    pub(super) board: Arc<Board>,
    pub(super) dispatch: Arc<DispatchStats>,
    pub(super) journal: Arc<DiskJournal>,
    pub(super) recorder: Arc<RecorderStats>,
    pub(super) catalog: Arc<SharedReport>,
    pub(super) role: Arc<SharedRole>,
    pub(super) reload: mpsc::Sender<ReloadRequest>,
    /// Whether the loops run: those of a standby wait.
    pub(super) running: Arc<AtomicBool>,
}

fn reason(code: &str, detail: impl Into<String>) -> Reason {
    Reason { code: code.to_owned(), detail: Some(detail.into()) }
}

impl View {
    fn row(&self, row: &Row) -> serde_json::Value {
        let monitor = &row.entry.monitor;
        let last = row.latest.as_ref().map(|latest| {
            json!({
                "checked_at": latest.checked_at,
                "verdict": latest.verdict,
                "failure": latest.failure,
                "message": latest.message.as_deref(),
                "status_code": latest.status_code,
                "response_time_ms": latest.response_time_ms,
            })
        });
        json!({
            "monitor": monitor.label(),
            "monitor_id": monitor.id,
            "name": &*monitor.name,
            "kind": monitor.kind,
            "url": &*monitor.url,
            "source": monitor.source,
            "status": row.shown,
            "since": row.since,
            "incident": row.incident,
            "last": last,
        })
    }
}

impl Admin for View {
    fn readiness(&self) -> Readiness {
        let mut reasons = Vec::new();
        let mut notes = Vec::new();
        let role = match self.role.get() {
            Role::Active => "active",
            Role::Standby(who) => {
                reasons.push(reason("standby", who));
                "standby"
            }
            Role::Starting(why) => {
                reasons.push(reason("store_away", why));
                "starting"
            }
        };
        let report = self.catalog.get();
        if role == "active" {
            let fault = self.recorder.fault().or(report.store_fault).or_else(|| self.role.fault());
            reasons.extend(fault.map(|fault| reason("store_away", fault)));
        }
        let overdue = self.dispatch.overdue(Instant::now());
        let running = self.running.load(Ordering::Relaxed);
        if !running {
            // Nothing is due yet.
        } else if overdue.silent.as_secs() >= SILENT_SECONDS {
            reasons.push(reason("scheduler_stuck", format!("nothing was fired for {} s", overdue.silent.as_secs())));
        } else if overdue.count > 0 {
            let example = overdue.example.as_deref().unwrap_or_default();
            reasons
                .push(reason("overdue", format!("{} monitors by three intervals, such as {example}", overdue.count)));
        }
        notes.extend(report.file_error.map(|findings| reason("config_refused", findings)));
        if !report.needs_restart.is_empty() {
            notes.push(reason("restart_needed", format!("for changes of {}", report.needs_restart.join(", "))));
        }
        if report.invalid > 0 {
            notes.push(reason("invalid_monitors", format!("{} rows, see monitors.invalid_reason", report.invalid)));
        }
        let refused = self.recorder.refused.load(Ordering::Relaxed);
        if refused > 0 {
            notes.push(reason(
                "results_refused",
                format!("{refused} results were refused by the database, see the log"),
            ));
        }
        if let Some(why) = self.journal.unwritable() {
            notes.push(reason("journal_unwritable", format!("results wait in memory: {why}")));
        }
        let thinned = self.journal.depth().thinned;
        if thinned > 0 {
            notes.push(reason("results_thinned", format!("{thinned} checks became gaps while the store was away")));
        }
        Readiness { ready: reasons.is_empty(), role: role.to_owned(), reasons, notes }
    }

    fn overview(&self) -> serde_json::Value {
        let mut rows = self.board.rows();
        rows.sort_by(|a, b| a.entry.monitor.label().cmp(b.entry.monitor.label()));
        let depth = self.journal.depth();
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "started_at": self.started_at,
            "now": self.wall.now(),
            "config": self.config,
            "database": self.database,
            "readiness": self.readiness(),
            "dispatch": {
                "fired": self.dispatch.fired(),
                "in_flight": self.dispatch.in_flight(),
                "waiting": self.dispatch.waiting(),
                "skipped_running": self.dispatch.skipped_running(),
                "lost_overloaded": self.dispatch.lost_overloaded(),
                "missed_suspended": self.dispatch.missed_suspended(),
            },
            "recorder": {
                "checks": load(&self.recorder.checks),
                "batches": load(&self.recorder.batches),
                "dropped": load(&self.recorder.dropped),
                "refused": load(&self.recorder.refused),
                "delayed": load(&self.recorder.delayed),
                "waiting_records": depth.records as u64 + self.recorder.in_hand(),
                "waiting_bytes": depth.bytes,
                "thinned": depth.thinned,
            },
            "monitors": rows.iter().map(|row| self.row(row)).collect::<Vec<_>>(),
        })
    }

    fn reload(&self) -> BoxFuture<'_, Reloaded> {
        Box::pin(async move {
            let failed = |text: &str| Reloaded { error: Some(text.to_owned()), ..Reloaded::default() };
            if !self.running.load(Ordering::Relaxed) {
                return failed("this daemon is not active yet; it reads the configuration when it is");
            }
            let (ask, answer) = oneshot::channel();
            if self.reload.send(ask).await.is_err() {
                return failed("the daemon is ending");
            }
            answer.await.unwrap_or_else(|_| failed("the daemon is ending"))
        })
    }
}
