//! Which status columns are due: after 10 checks, after 30 s, or on a change (architecture, "recorder").

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::StatusRow;
use crate::model::{MonitorId, Record, Status};

/// Checks between two writes of a monitor's status columns (contract: "at least every 10").
const EVERY_CHECKS: u16 = 10;
/// Longest time that a check's time waits for its column.
const EVERY: Duration = Duration::from_secs(30);
/// Twice the longest interval (contract: 1 d).
const FORGET_AFTER: Duration = Duration::from_secs(2 * 86_400);

/// What was recorded and not yet shown in `monitors`.
#[derive(Debug, Default)]
pub(super) struct StatusColumns {
    rows: HashMap<MonitorId, Tracked>,
    swept_at: Option<Instant>,
}

#[derive(Debug)]
struct Tracked {
    row: StatusRow,
    written: Option<Status>,
    checks: u16,
    /// When the oldest unwritten change came; none when all is written.
    dirty_since: Option<Instant>,
    touched_at: Instant,
}

impl Tracked {
    fn is_due(&self, now: Instant) -> bool {
        self.dirty_since.is_some_and(|since| {
            self.row.status.is_some() && self.written != self.row.status
                || self.checks >= EVERY_CHECKS
                || now - since >= EVERY
        })
    }
}

impl StatusColumns {
    /// Takes in records that were written.
    pub(super) fn note(&mut self, records: &[Record], now: Instant) {
        for record in records {
            let (Record::Check(_) | Record::State(..)) = record else { continue };
            let Some(monitor) = record.monitor() else { continue };
            let tracked = self.rows.entry(monitor).or_insert_with(|| Tracked {
                row: StatusRow { monitor, status: None, last_checked: None, response_time_ms: None, ssl_expiry: None },
                written: None,
                checks: 0,
                dirty_since: None,
                touched_at: now,
            });
            tracked.dirty_since.get_or_insert(now);
            tracked.touched_at = now;
            match record {
                Record::Check(check) => {
                    tracked.checks = tracked.checks.saturating_add(1);
                    tracked.row.last_checked = Some(check.checked_at);
                    tracked.row.response_time_ms = Some(check.timings.total_ms());
                    if let Some(certificate) = &check.certificate {
                        tracked.row.ssl_expiry = Some(certificate.not_after);
                    }
                }
                Record::State(_, state) => {
                    tracked.row.status = Some(state.shown());
                    tracked.row.last_checked = state.last_checked.max(tracked.row.last_checked);
                }
                _ => {}
            }
        }
    }

    /// The rows that are due; looks through all of them at most once a second unless `all`.
    pub(super) fn due(&mut self, now: Instant, all: bool) -> Vec<StatusRow> {
        if !all && self.swept_at.is_some_and(|at| now - at < Duration::from_secs(1)) {
            return Vec::new();
        }
        self.swept_at = Some(now);
        // A monitor that wrote nothing for longer than the longest interval is gone.
        self.rows.retain(|_, tracked| now - tracked.touched_at < FORGET_AFTER);
        let due = self.rows.values().filter(|tracked| tracked.is_due(now) || all && tracked.dirty_since.is_some());
        let mut rows: Vec<StatusRow> = due.map(|tracked| tracked.row.clone()).collect();
        rows.sort_unstable_by_key(|row| row.monitor);
        rows
    }

    /// Takes in that rows were written, but for those skipped.
    pub(super) fn written(&mut self, rows: &[StatusRow], skipped: &[MonitorId]) {
        for row in rows {
            if skipped.contains(&row.monitor) {
                continue;
            }
            if let Some(tracked) = self.rows.get_mut(&row.monitor) {
                tracked.written = row.status.or(tracked.written);
                tracked.checks = 0;
                tracked.dirty_since = None;
            }
        }
    }
}
