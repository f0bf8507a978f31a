//! The families of the daemon as a whole.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::runtime::Handle;
use tokio::time::Instant;

use super::{each, seconds, seconds_of};
use crate::daemon::role::Role;
use crate::daemon::view::{Live, View};
use crate::metrics::process as own_process;
use crate::metrics::task::TaskReading;
use crate::metrics::text::{Exposition, Kind, Labels};
use crate::metrics::work::{DURATION_BOUNDS, WorkStats};
use crate::model::{Source, Status, Verdict};
use crate::schedule::dispatch::LATENESS_BOUNDS_MS;
use crate::telemetry;
use crate::web::Admin as _;

use Kind::{Counter, Gauge};

pub(super) const VERDICTS: [Verdict; 4] = [Verdict::Up, Verdict::Degraded, Verdict::Down, Verdict::Unknown];

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

pub(super) fn daemon(out: &mut Exposition, view: &View) {
    let version = Labels::one("version", env!("CARGO_PKG_VERSION"));
    out.family("lamplighter_build", Kind::Info, "The running program.").sample(&version, 1_u64);
    let started = seconds_of(view.started_at);
    out.single("lamplighter_start_timestamp_seconds", Gauge, "When the daemon started.", started);
    let readiness = view.readiness();
    let roles = ["starting", "standby", "active"].map(|role| (role, f64::from(u8::from(readiness.role == role))));
    each(out, ("lamplighter_role", Gauge, "1 for the role that the daemon has."), "role", roles);
    out.single("lamplighter_ready", Gauge, "Whether /readyz answers 200.", readiness.ready);
    let mut reasons = out.family(
        "lamplighter_readiness_reason",
        Gauge,
        "1 for every code that /readyz gives; a note does not make unready.",
    );
    for (list, kind) in [(&readiness.reasons, "reason"), (&readiness.notes, "note")] {
        let mut codes: Vec<&str> = list.iter().map(|reason| reason.code.as_str()).collect();
        codes.sort_unstable();
        codes.dedup();
        for code in codes {
            reasons.sample(&Labels::one("code", code).and("kind", kind), 1_u64);
        }
    }
}

pub(super) fn scheduler(out: &mut Exposition, live: &Live) {
    let stats = &live.dispatch;
    let totals = live.board.totals();
    let mut checks = out.family("lamplighter_checks", Counter, "Judged checks by kind of monitor and verdict.");
    for (kind, counts) in &totals.kinds {
        for verdict in VERDICTS {
            checks.sample(&Labels::one("kind", kind).and("verdict", verdict.name()), counts.get(verdict));
        }
    }
    out.single(
        "lamplighter_checks_discarded",
        Counter,
        "Results that counted for nothing: their monitor was gone, paused or had another target when they came.",
        totals.discarded,
    );
    out.single("lamplighter_checks_started", Counter, "Checks handed to the probes.", stats.fired());
    let bounds = LATENESS_BOUNDS_MS.map(|bound| std::time::Duration::from_millis(bound).as_secs_f64());
    let mut late = out.family(
        "lamplighter_check_lateness_seconds",
        Kind::Histogram,
        "How long after they were due checks were handed to the probes.",
    );
    late.histogram(&Labels::none(), &bounds, &stats.lateness(), seconds(stats.lateness_sum()));
    let overdue = stats.overdue(Instant::now());
    for (name, help, value) in [
        ("lamplighter_checks_in_flight", "Checks that run.", stats.in_flight()),
        ("lamplighter_checks_waiting", "Checks that are due and find no place to run.", stats.waiting()),
        ("lamplighter_checks_limit", "Checks that may run at once (probe.max_in_flight).", stats.limit()),
        (
            "lamplighter_monitors_overdue",
            "Monitors that are due and neither started nor running by three intervals.",
            overdue.count,
        ),
    ] {
        out.single(name, Gauge, help, value);
    }
    each(
        out,
        ("lamplighter_checks_missed", Counter, "Due checks that were not made, by reason."),
        "reason",
        [
            ("running", stats.skipped_running() as f64),
            ("overloaded", stats.lost_overloaded() as f64),
            ("suspended", stats.missed_suspended() as f64),
        ],
    );
    out.single(
        "lamplighter_scheduler_silent_seconds",
        Gauge,
        "Time since the scheduler last looked for due checks; it does so at least once a second.",
        seconds(overdue.silent),
    );
    let incidents = "Incidents since the start of the daemon, by what happened to them.";
    let moved = [("opened", totals.opened as f64), ("resolved", totals.resolved as f64)];
    each(out, ("lamplighter_incidents", Counter, incidents), "event", moved);
    let tally = live.board.tally();
    out.single("lamplighter_incidents_open", Gauge, "Monitors with an open incident.", tally.incidents);
    let mut monitors = out.family("lamplighter_monitors", Gauge, "Monitors by status and by where they are defined.");
    for source in [Source::File, Source::Database, Source::Api] {
        for status in Status::ALL {
            let count = tally.monitors.get(&(*status, source)).copied().unwrap_or(0);
            monitors.sample(&Labels::one("source", source.name()).and("status", status.name()), count);
        }
    }
}

pub(super) fn backlog(out: &mut Exposition, view: &View, live: Option<&Live>) {
    let depth = view.journal.depth();
    for (name, help, value) in [
        ("lamplighter_backlog_records", "Results that wait for the recorder.", depth.records as u64),
        (
            "lamplighter_backlog_bytes",
            "Size of the journal that they wait in, on disk and in memory.",
            depth.bytes as u64,
        ),
        ("lamplighter_backlog_limit_bytes", "Size that it may have (database.backlog).", depth.limit_bytes as u64),
    ] {
        out.single(name, Gauge, help, value);
    }
    let held = live.and_then(|live| live.recorder.held_since());
    let oldest = depth.oldest.into_iter().chain(held).min();
    out.single(
        "lamplighter_unrecorded_age_seconds",
        Gauge,
        "How long there has been a result that is not in the database; 0 when there is none.",
        oldest.map_or(0.0, |at| seconds(at.elapsed())),
    );
    let writable = view.journal.unwritable().is_none();
    let help = "Whether the journal can be written to disk; while it cannot, results wait in memory.";
    out.single("lamplighter_journal_writable", Gauge, help, writable);
    let help = "Checks that became gaps because the backlog was full.";
    out.single("lamplighter_backlog_thinned_checks", Counter, help, depth.thinned);
}

pub(super) fn recorder(out: &mut Exposition, view: &View, live: &Live) {
    let (recorder, writes) = (&live.recorder, &live.metrics.writes);
    let in_hand = recorder.in_hand();
    let help = "Results that the recorder has taken and not written yet.";
    out.single("lamplighter_recorder_in_hand_records", Gauge, help, in_hand);
    let help = "Those of them whose monitor's row is locked by somebody, or not made yet.";
    out.single("lamplighter_recorder_delayed_records", Gauge, help, load(&recorder.delayed));
    for (name, help, value) in [
        ("lamplighter_recorder_checks", "Rows of monitor_checks written.", &recorder.checks),
        ("lamplighter_recorder_batches", "Batches written.", &recorder.batches),
        ("lamplighter_recorder_dropped_records", "Results dropped because their monitor is gone.", &recorder.dropped),
        ("lamplighter_recorder_refused_records", "Results that the database refused for good.", &recorder.refused),
    ] {
        out.single(name, Counter, help, load(value));
    }
    let (counts, sum) = writes.durations();
    let help = "How long it took to write a batch, or to fail to.";
    let mut durations = out.family("lamplighter_store_write_duration_seconds", Kind::Histogram, help);
    durations.histogram(&Labels::none(), &DURATION_BOUNDS, &counts, sum);
    let help = "Batches that could not be written and were tried again.";
    out.single("lamplighter_store_write_failures", Counter, help, writes.failed());
    let mut last =
        out.family("lamplighter_store_last_write_timestamp_seconds", Gauge, "When a batch was last written.");
    if let Some(at) = writes.last_success() {
        last.sample(&Labels::none(), view.metrics.stamps.seconds(&*view.wall, at));
    }
}

pub(super) fn tasks(out: &mut Exposition, view: &View) {
    let readings: Vec<_> = view.restarts.figures().iter().map(|task| (task.name, task.read())).collect();
    let mut family = |name, kind, help, value: fn(&TaskReading) -> f64| {
        let samples = readings.iter().map(|(task, reading)| (*task, value(reading)));
        each(out, (name, kind, help), "task", samples);
    };
    family("lamplighter_task_turns", Counter, "How often a loop ran.", |task| task.turns as f64);
    let help = "Time that a loop waited for a thread after it was woken.";
    family("lamplighter_task_lag_seconds", Counter, help, |task| seconds(task.lag));
    let help = "Time that a loop kept a thread.";
    family("lamplighter_task_busy_seconds", Counter, help, |task| seconds(task.busy));
    let help = "How long a loop has been woken and has not run yet, or has run without a pause; 0 while it sleeps.";
    family("lamplighter_task_stalled_seconds", Gauge, help, |task| seconds(task.waiting.max(task.running)));
    let help = "Loops that ended or panicked and were run again.";
    out.single("lamplighter_task_restarts", Counter, help, view.restarts.count());
    let Ok(runtime) = Handle::try_current() else { return };
    let metrics = runtime.metrics();
    let workers = metrics.num_workers();
    let busy = (0..workers).map(|worker| seconds(metrics.worker_total_busy_duration(worker))).sum::<f64>();
    out.single("lamplighter_runtime_workers", Gauge, "Threads that run tasks.", workers);
    out.single("lamplighter_runtime_tasks", Gauge, "Tasks that are alive.", metrics.num_alive_tasks());
    let waiting = metrics.global_queue_depth();
    out.single("lamplighter_runtime_queue_depth", Gauge, "Tasks in the runtime's global queue.", waiting);
    out.single("lamplighter_runtime_busy_seconds", Counter, "Time that all these threads were busy.", busy);
}

pub(super) fn queues(out: &mut Exposition, live: &Live) {
    let queues: Vec<_> = live.metrics.queues.iter().filter_map(|queue| Some((queue.name, (queue.read)()?))).collect();
    let depths = queues.iter().map(|(name, (depth, _))| (*name, *depth as f64));
    each(out, ("lamplighter_queue_depth", Gauge, "Messages in a channel between loops."), "queue", depths);
    let room = queues.iter().map(|(name, (_, capacity))| (*name, *capacity as f64));
    let help = "Messages that a channel takes; then its sender waits, so that none is lost.";
    each(out, ("lamplighter_queue_capacity", Gauge, help), "queue", room);
}

pub(super) fn jobs(out: &mut Exposition, view: &View, live: &Live) {
    let jobs = &live.metrics.jobs;
    let mut runs = out.family("lamplighter_job_runs", Counter, "Runs of a job by result.");
    for (job, stats) in jobs {
        runs.sample(&Labels::one("task", job).and("result", "success"), stats.succeeded());
        runs.sample(&Labels::one("task", job).and("result", "failure"), stats.failed());
    }
    let took = jobs.iter().map(|(job, stats)| (*job, stats.durations().1));
    each(out, ("lamplighter_job_duration_seconds", Counter, "Time that a job ran, summed."), "task", took);
    let at = |stats: &WorkStats| Some(view.metrics.stamps.seconds(&*view.wall, stats.last_success()?));
    let last = jobs.iter().filter_map(|(job, stats)| Some((*job, at(stats)?)));
    let help = "When a job last succeeded.";
    each(out, ("lamplighter_job_last_success_timestamp_seconds", Gauge, help), "task", last);
}

pub(super) fn store(out: &mut Exposition, view: &View, live: Option<&Live>) {
    let role = view.role.get();
    let faults = [
        ("recorder", live.is_some_and(|live| live.recorder.fault().is_some())),
        ("catalogue", live.is_some_and(|live| live.catalog.get().store_fault.is_some())),
        ("lease", view.role.fault().is_some()),
    ];
    let up = !matches!(role, Role::Starting(_)) && faults.iter().all(|(_, fault)| !fault);
    out.single(
        "lamplighter_store_up",
        Gauge,
        "Whether the last call to the database succeeded for everybody who calls it.",
        up,
    );
    let faults = faults.map(|(who, fault)| (who, f64::from(u8::from(fault))));
    each(out, ("lamplighter_store_fault", Gauge, "1 for every part whose last call failed."), "part", faults);
    out.single("lamplighter_lease_held", Gauge, "Whether this daemon holds the region's lease.", role == Role::Active);
    let mut renewed =
        out.family("lamplighter_lease_renewed_timestamp_seconds", Gauge, "When the lease was taken or last renewed.");
    if let Some(at) = view.role.renewed_at() {
        renewed.sample(&Labels::none(), view.metrics.stamps.seconds(&*view.wall, at));
    }
    let (open, idle) = view.metrics.store.connections();
    let help = "Connections to the database by state.";
    let busy = u64::from(open).saturating_sub(idle as u64);
    each(out, ("lamplighter_store_connections", Gauge, help), "state", [("idle", idle as f64), ("busy", busy as f64)]);
}

pub(super) fn configuration(out: &mut Exposition, view: &View, live: Option<&Live>) {
    // Who has no loops has read it once, at the start, and it was good.
    let report = live.map(|live| live.catalog.get()).unwrap_or_default();
    let good = report.last_reload_ok != Some(false);
    let name = "lamplighter_config_last_reload_successful";
    out.single(name, Gauge, "Whether the last reload was applied; the start counts.", good);
    out.single(
        "lamplighter_config_last_reload_success_timestamp_seconds",
        Gauge,
        "When the configuration was last applied; the start counts.",
        seconds_of(report.last_applied_at.unwrap_or(view.started_at)),
    );
    let results = [("applied", report.reloads_applied as f64), ("refused", report.reloads_refused as f64)];
    let help = "Reloads since the start, by result.";
    each(out, ("lamplighter_config_reloads", Counter, help), "result", results);
    let help = "Parts of the configuration that differ and take effect at the next start.";
    out.single("lamplighter_config_restart_needed", Gauge, help, report.needs_restart.len());
    let help = "Rows of monitors that are no valid monitors (invalid_reason says why).";
    out.single("lamplighter_monitors_invalid", Gauge, help, report.invalid);
    let limits = [("max_monitors", report.limited.paused as f64), ("min_interval", report.limited.held as f64)];
    let help = "Rows of monitors that plans of their users limit, by the limit.";
    each(out, ("lamplighter_monitors_limited", Gauge, help), "limit", limits);
}

/// Under the names that every client library gives them.
pub(super) fn process(out: &mut Exposition, view: &View) {
    let started = seconds_of(view.started_at);
    let help = "Start time of the process since the epoch in seconds.";
    out.single("process_start_time_seconds", Gauge, help, started);
    let Some(figures) = own_process::read() else { return };
    let help = "User and system CPU time of the process in seconds.";
    out.single("process_cpu_seconds", Counter, help, seconds(figures.cpu));
    for (name, help, value) in [
        ("process_resident_memory_bytes", "Resident memory of the process in bytes.", figures.resident_bytes),
        ("process_virtual_memory_bytes", "Virtual memory of the process in bytes.", figures.virtual_bytes),
        ("process_threads", "Threads of the process.", figures.threads),
        ("process_open_fds", "Open file descriptors of the process.", figures.open_fds),
    ] {
        out.single(name, Gauge, help, value);
    }
    let most = figures.max_fds.map_or(f64::INFINITY, |most| most as f64);
    out.single("process_max_fds", Gauge, "Most file descriptors that the process may open.", most);
}

pub(super) fn log(out: &mut Exposition) {
    let stats = telemetry::stats();
    let levels = telemetry::LEVELS.map(|level| level.as_str().to_ascii_lowercase());
    let lines = levels.iter().zip(stats.lines).map(|(level, count)| (level.as_str(), count as f64));
    each(out, ("lamplighter_log_lines", Counter, "Log lines that were to be written, by level."), "level", lines);
    let help = "Lines left out because too many of their kind came; a summary line gives their number.";
    out.single("lamplighter_log_lines_suppressed", Counter, help, stats.suppressed);
    let help = "Lines lost because nobody read the log fast enough.";
    out.single("lamplighter_log_lines_dropped", Counter, help, stats.dropped);
    let help = "Memory of the lines that wait to be written.";
    out.single("lamplighter_log_queue_bytes", Gauge, help, stats.queued_bytes);
}
