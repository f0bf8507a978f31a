//! The families of the history in the database.

use super::{each, seconds_of};
use crate::daemon::view::Live;
use crate::metrics::text::{Exposition, Kind, Labels};

use Kind::{Counter, Gauge};

pub(super) fn all(out: &mut Exposition, live: &Live) {
    let view = live.metrics.history.view();
    let kept = view.kept.unwrap_or_default();
    let parts = [("raw", kept.raw_bytes), ("hourly", kept.hourly_bytes), ("daily", kept.daily_bytes)];
    let help = "Size of checks and their roll-ups in the database, indexes included, as of the last minute.";
    each(out, ("lamplighter_history_bytes", Gauge, help), "part", parts.map(|(part, bytes)| (part, bytes as f64)));
    let help = "Size that they may have together (retention.disk_budget), if there is a limit.";
    let mut budget = out.family("lamplighter_history_budget_bytes", Gauge, help);
    if let Some(bytes) = kept.budget {
        budget.sample(&Labels::none(), bytes);
    }
    let help = "Whether they have more, and nothing is left to drop.";
    out.single("lamplighter_history_over_budget", Gauge, help, kept.over_budget);
    let help = "Where raw checks begin: the first day that has a partition.";
    let mut begin = out.family("lamplighter_history_raw_begin_timestamp_seconds", Gauge, help);
    if let Some(day) = kept.raw_begin {
        begin.sample(&Labels::none(), seconds_of(day.and_time(chrono::NaiveTime::MIN).and_utc()));
    }
    let help = "Partitions of raw checks, each a day, that were dropped, by reason.";
    let reasons = [("age", view.aged as f64), ("disk_budget", view.thinned as f64)];
    each(out, ("lamplighter_history_dropped_partitions", Counter, help), "reason", reasons);
    let help = "Roll-ups, incidents and gaps that were deleted by their age.";
    out.single("lamplighter_history_pruned_rows", Counter, help, view.pruned);
    let share = view.backfill.map_or(1.0, |(backfill, _)| f64::from(backfill.permille) / 1000.0);
    let help = "How much of the hours that were rolled up without latency is recomputed; 1 when all is.";
    out.single("lamplighter_rollup_backfill_ratio", Gauge, help, share);
}
