//! The families with a series for each monitor, up to the configured number.

use super::parts::VERDICTS;
use super::seconds_of;
use crate::access::Viewer;
use crate::metrics::text::{Exposition, Kind, Labels};
use crate::model::Status;
use crate::verdict::board::{Board, Row};
use crate::verdict::text;

use Kind::{Counter, Gauge};

/// Characters of a monitor's name in a label; names are other people's text.
const NAME_MAX: usize = 100;

pub(super) fn all(out: &mut Exposition, board: &Board, most: usize, viewer: Viewer) {
    let (rows, total) = if viewer == Viewer::Everything {
        board.first(most)
    } else {
        let mut rows = board.rows();
        rows.retain(|row| viewer.sees(row.entry.monitor.owner));
        rows.sort_unstable_by_key(|row| row.entry.monitor.id);
        let total = rows.len();
        rows.truncate(most);
        (rows, total)
    };
    let omitted = total.saturating_sub(rows.len());
    let help = "Monitors without series of their own, because there are more than server.metrics_monitors.";
    out.single("lamplighter_metrics_monitors_omitted", Gauge, help, omitted);
    let labelled: Vec<(Labels, Row)> = rows.into_iter().map(|row| (labels(&row), row)).collect();
    states(out, &labelled);
    latest(out, &labelled);
}

/// The id makes them unique, whatever the name is.
fn labels(row: &Row) -> Labels {
    let monitor = &row.entry.monitor;
    let name = text::clean(monitor.label(), NAME_MAX, false);
    Labels::one("monitor", &name).and("monitor_id", &monitor.id.to_string())
}

fn states(out: &mut Exposition, rows: &[(Labels, Row)]) {
    let mut info = out.family("lamplighter_monitor", Kind::Info, "What a monitor is.");
    for (labels, row) in rows {
        let monitor = &row.entry.monitor;
        info.sample(&labels.clone().and("kind", monitor.kind).and("source", monitor.source.name()), 1_u64);
    }
    let help = "1 when a monitor is up or degraded, 0 when it is down; no sample in any other status.";
    let mut up = out.family("lamplighter_monitor_up", Gauge, help);
    for (labels, row) in rows {
        match row.shown {
            Status::Up | Status::Degraded => up.sample(labels, true),
            Status::Down => up.sample(labels, false),
            Status::Pending | Status::Unknown | Status::Paused | Status::Maintenance => {}
        }
    }
    let mut status = out.family("lamplighter_monitor_status", Gauge, "1 for the status that a monitor has.");
    for (labels, row) in rows {
        status.sample(&labels.clone().and("status", row.shown.name()), 1_u64);
    }
    let help = "Checks of a monitor by verdict, since the start of the daemon.";
    let mut checks = out.family("lamplighter_monitor_checks", Counter, help);
    for (labels, row) in rows {
        for verdict in VERDICTS {
            checks.sample(&labels.clone().and("verdict", verdict.name()), row.counts.get(verdict));
        }
    }
    let help = "When the certificate that was last presented ends.";
    let mut ends = out.family("lamplighter_monitor_certificate_expiry_timestamp_seconds", Gauge, help);
    for (labels, row) in rows {
        if let Some(at) = row.certificate_ends {
            ends.sample(labels, seconds_of(at));
        }
    }
}

fn latest(out: &mut Exposition, rows: &[(Labels, Row)]) {
    let help = "When the last check of a monitor began.";
    let mut checked = out.family("lamplighter_monitor_last_check_timestamp_seconds", Gauge, help);
    for (labels, row) in rows {
        if let Some(at) = row.last_checked {
            checked.sample(labels, seconds_of(at));
        }
    }
    let help = "How long the last check of a monitor took, also when it failed.";
    let mut took = out.family("lamplighter_monitor_response_time_seconds", Gauge, help);
    for (labels, row) in rows {
        if let Some(latest) = &row.latest {
            took.sample(labels, f64::from(latest.phases.total_us) / 1e6);
        }
    }
    let help = "How long each phase of the last check took; a phase that was not reached has no sample.";
    let mut phases = out.family("lamplighter_monitor_phase_duration_seconds", Gauge, help);
    for (labels, row) in rows {
        for (phase, micros) in row.latest.iter().flat_map(|latest| latest.phases.reached()) {
            phases.sample(&labels.clone().and("phase", phase.name()), f64::from(micros) / 1e6);
        }
    }
}
