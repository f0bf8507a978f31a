//! What the running daemon tells about itself.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arc_swap::ArcSwapOption;
use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::history::{HistoryView, progress};
use super::metrics::{self, Sources, TermSources};
use super::overview;
use super::role::{Role, SharedRole};
use super::slos::SloBoard;
use super::tasks::Restarts;
use crate::access::Viewer;
use crate::catalog::Reloaded;
use crate::catalog::sync::{Limited, ReloadCount, ReloadRequest, SharedReport};
use crate::cli::counted;
use crate::clock::Wall;
use crate::journal::disk::DiskJournal;
use crate::journal::recorder::RecorderStats;
use crate::maintenance;
use crate::metrics::text::Format;
use crate::model::Status;
use crate::schedule::dispatch::DispatchStats;
use crate::settings::size;
use crate::verdict::board::Board;
use crate::verdict::pings::{Pinged, Pings};
use crate::verdict::pulse::Ping;
use crate::web::{Admin, Readiness, Reason};

/// The dispatcher looks at its wheel at least once a second; silent for longer, nothing is fired.
const SILENT_SECONDS: u64 = 5;

/// Everything that is shown comes from here.
pub(super) struct View {
    pub(super) started_at: DateTime<Utc>,
    pub(super) config: String,
    /// What the daemon was started with, for `check-config --plan`.
    pub(super) started_with: [(&'static str, String); 4],
    pub(super) database: &'static str,
    pub(super) wall: Arc<dyn Wall>,
    pub(super) journal: Arc<DiskJournal>,
    pub(super) role: Arc<SharedRole>,
    /// Tasks that ended or panicked and run again.
    pub(super) restarts: Restarts,
    pub(super) reloads: ReloadCount,
    /// The loops that run; a standby has none.
    pub(super) live: ArcSwapOption<Live>,
    pub(super) metrics: Sources,
}

/// What is shown of a term. Counters begin anew with it.
pub(super) struct Live {
    pub(super) board: Arc<Board>,
    pub(super) dispatch: Arc<DispatchStats>,
    pub(super) recorder: Arc<RecorderStats>,
    pub(super) catalog: Arc<SharedReport>,
    pub(super) reload: mpsc::Sender<ReloadRequest>,
    pub(super) metrics: TermSources,
    pub(super) pings: Arc<Pings>,
    pub(super) maintenance: Arc<maintenance::SharedReport>,
    pub(super) slos: Arc<SloBoard>,
}

fn reason(code: &str, detail: impl Into<String>) -> Reason {
    Reason { code: code.to_owned(), detail: Some(detail.into()) }
}

/// What an operator should know of the history: where raw rows begin, and what is still computed.
fn history_notes(history: &HistoryView, notes: &mut Vec<Reason>) {
    if let Some(kept) = &history.kept {
        let budget = kept.budget.map(size::format).unwrap_or_default();
        if kept.over_budget {
            let text = format!(
                "history takes {} bytes, more than retention.disk_budget = {budget}, and no day can be dropped now",
                kept.bytes()
            );
            notes.push(reason("disk_budget_exceeded", text));
        }
        if let (Some(_), Some(begin)) = (kept.thinned_to, kept.raw_begin) {
            let text = format!(
                "raw checks begin on {begin}: older days went for retention.disk_budget = {budget}, their roll-ups stay"
            );
            notes.push(reason("history_thinned", text));
        }
    }
    if let Some((backfill, left)) = history.backfill {
        notes.push(reason("rollup_backfill", progress(backfill, left)));
    }
}

/// What plans keep from running as its row says.
fn limits_note(Limited { paused, held }: Limited) -> Option<Reason> {
    let paused = (paused > 0).then(|| format!("{} paused beyond max_monitors", counted(paused, "monitor")));
    let held = (held > 0).then(|| format!("{} held to min_interval", counted(held, "monitor")));
    let parts: Vec<String> = paused.into_iter().chain(held).collect();
    (!parts.is_empty()).then(|| reason("limited_by_plans", format!("{} of their users' plans", parts.join(", "))))
}

impl View {
    /// One line for who supervises the process: role, what is not ready, monitors.
    pub(super) fn status_line(&self) -> String {
        let readiness = self.readiness();
        let mut parts = vec![readiness.role.clone()];
        for reason in &readiness.reasons {
            if reason.code == readiness.role {
                parts.extend(reason.detail.clone());
            } else {
                parts.push(format!("{}: {}", reason.code, reason.detail.as_deref().unwrap_or_default()));
            }
        }
        if let Some(live) = self.live.load_full() {
            let tally = live.board.tally();
            let of_down = tally.monitors.iter().filter(|((status, _), _)| *status == Status::Down);
            let down: usize = of_down.map(|(_, count)| count).sum();
            let all: usize = tally.monitors.values().sum();
            parts.insert(1, format!("{}, {down} down", counted(all, "monitor")));
        }
        parts.join("; ")
    }

    /// When whoever carries the daemon now last moved: the dispatcher, or without one the keeper of the lease.
    pub(super) fn last_progress(&self) -> Instant {
        self.live.load().as_ref().map_or_else(|| self.role.pulse(), |live| live.dispatch.last_progress())
    }

    /// What speaks against readiness, and what is to be noted, in the loops.
    fn tell_live(&self, live: &Live, active: bool, reasons: &mut Vec<Reason>, notes: &mut Vec<Reason>) {
        let report = live.catalog.get();
        if active {
            // The lease's first: it says when another daemon may be active.
            let fault = self.role.fault().or_else(|| live.recorder.fault()).or(report.store_fault);
            reasons.extend(fault.map(|fault| reason("store_away", fault)));
        }
        let overdue = live.dispatch.overdue(Instant::now());
        if overdue.silent.as_secs() >= SILENT_SECONDS {
            reasons.push(reason("scheduler_stuck", format!("nothing was fired for {} s", overdue.silent.as_secs())));
        } else if overdue.count > 0 {
            let example = overdue.example.as_deref().unwrap_or_default();
            reasons.push(reason(
                "overdue",
                format!("{} by three intervals, such as {example}", counted(overdue.count, "monitor")),
            ));
        }
        notes.extend(report.file_error.map(|findings| reason("config_refused", findings)));
        notes.extend(report.archive_held.map(|archiving| {
            let way_out = "`lamplighter reload --force` archives them";
            reason("archive_held", format!("the configuration has no more {archiving}: not archived; {way_out}"))
        }));
        if !report.needs_restart.is_empty() {
            notes.push(reason("restart_needed", format!("for changes of {}", report.needs_restart.join(", "))));
        }
        if report.invalid > 0 {
            notes.push(reason("invalid_monitors", format!("{} rows, see monitors.invalid_reason", report.invalid)));
        }
        notes.extend(limits_note(report.limited));
        let invalid = live.maintenance.get().invalid;
        if invalid > 0 {
            notes.push(reason("invalid_maintenances", format!("{invalid} rows, see maintenances.invalid_reason")));
        }
        history_notes(&live.metrics.history.view(), notes);
        let refused = live.recorder.refused.load(Ordering::Relaxed);
        if refused > 0 {
            notes.push(reason(
                "results_refused",
                format!("{refused} results were refused by the database, see the log"),
            ));
        }
    }
}

impl Admin for View {
    fn now(&self) -> DateTime<Utc> {
        self.wall.now()
    }

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
        let live = self.live.load_full();
        if let Some(live) = &live {
            self.tell_live(live, role == "active", &mut reasons, &mut notes);
        } else if role == "active" {
            reasons.push(reason("starting", "the lease is ours, the loops are about to begin"));
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

    fn overview(&self, viewer: Viewer) -> Vec<u8> {
        overview::make(self, viewer)
    }

    fn metrics(&self, format: Format, viewer: Viewer) -> String {
        metrics::render(self, format, viewer)
    }

    fn metrics_public(&self) -> bool {
        self.metrics.public
    }

    fn ping<'a>(&'a self, address: &'a str, ping: Ping) -> BoxFuture<'a, Pinged> {
        Box::pin(async move {
            // Without loops, as on a standby, nothing is recorded.
            let Some(live) = self.live.load_full() else { return Pinged::Away };
            let answer = live.pings.deliver(address, ping).await;
            let knows_all = || self.role.get() == Role::Active && live.catalog.get().store_fault.is_none();
            // The database may have one that we have not read yet.
            if answer == Pinged::Unknown && !knows_all() { Pinged::Away } else { answer }
        })
    }

    fn reload(&self, force: bool) -> BoxFuture<'_, Reloaded> {
        Box::pin(async move {
            let failed = |text: &str| Reloaded { error: Some(text.to_owned()), ..Reloaded::default() };
            let Some(live) = self.live.load_full() else {
                // Who waits for a reload, such as systemd, sees one that did nothing.
                self.reloads.begin();
                self.reloads.end();
                return failed("this daemon is not active; it reads the configuration when it is");
            };
            let (ask, answer) = oneshot::channel();
            if live.reload.send(ReloadRequest { force, answer: ask }).await.is_err() {
                return failed("the daemon is ending");
            }
            answer.await.unwrap_or_else(|_| failed("the daemon is ending"))
        })
    }
}
