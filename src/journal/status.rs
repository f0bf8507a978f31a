//! Which status columns are due: after 10 checks, after 30 s, or on a change (architecture, "recorder").

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use super::StatusRow;
use crate::model::{MonitorId, Record, Status};

/// Checks between two writes of a monitor's status columns (contract: "at least every 10").
const EVERY_CHECKS: u16 = 10;
/// Longest time that a check's time waits for its column.
const EVERY: Duration = Duration::from_secs(30);
/// Rows of one write: well within the store's deadline, and few enough that batches need not wait.
pub(super) const WRITE_ROWS: usize = 2_000;
/// How often the rows are looked through, and a row that somebody holds is tried.
const SWEEP: Duration = Duration::from_secs(1);
/// Twice the longest interval (contract: 1 d).
const FORGET_AFTER: Duration = Duration::from_secs(2 * 86_400);

/// What was recorded and not yet shown in `monitors`.
#[derive(Debug, Default)]
pub(super) struct StatusColumns {
    rows: HashMap<MonitorId, Tracked>,
    swept_at: Option<Instant>,
    /// The last write was not all that is due.
    more: bool,
}

#[derive(Debug)]
struct Tracked {
    row: StatusRow,
    written: Option<Status>,
    checks: u16,
    /// When the oldest unwritten change came; none when all is written.
    dirty_since: Option<Instant>,
    /// When somebody held the row; those that were not tried yet go first.
    skipped_at: Option<Instant>,
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
            if let Record::Open(opening) = record
                && let Some(tracked) = self.rows.get_mut(&opening.monitor)
            {
                // Also of a row that was made anew, which does not have what was written to the old one.
                tracked.written = None;
            }
            let (Record::Check(_) | Record::State(..)) = record else { continue };
            let Some(monitor) = record.monitor() else { continue };
            let tracked = self.rows.entry(monitor).or_insert_with(|| Tracked {
                row: StatusRow { monitor, status: None, last_checked: None, response_time_ms: None, ssl_expiry: None },
                written: None,
                checks: 0,
                dirty_since: None,
                skipped_at: None,
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

    /// Rows that are due, longest waiting first, at most [`WRITE_ROWS`] unless `all`. Looks through them once a second, or
    /// at once while there are more.
    pub(super) fn due(&mut self, now: Instant, all: bool) -> Vec<StatusRow> {
        if !all && !self.more && self.swept_at.is_some_and(|at| now - at < SWEEP) {
            return Vec::new();
        }
        self.swept_at = Some(now);
        // A monitor that wrote nothing for longer than the longest interval is gone.
        self.rows.retain(|_, tracked| now - tracked.touched_at < FORGET_AFTER);
        let is_due = |tracked: &&Tracked| {
            let held = tracked.skipped_at.is_some_and(|at| now - at < SWEEP);
            if all { tracked.dirty_since.is_some() } else { tracked.is_due(now) && !held }
        };
        let mut due: Vec<&Tracked> = self.rows.values().filter(is_due).collect();
        self.more = !all && due.len() > WRITE_ROWS;
        if self.more {
            due.select_nth_unstable_by_key(WRITE_ROWS, |tracked| tracked.skipped_at.or(tracked.dirty_since));
            due.truncate(WRITE_ROWS);
        }
        let mut rows: Vec<StatusRow> = due.into_iter().map(|tracked| tracked.row.clone()).collect();
        rows.sort_unstable_by_key(|row| row.monitor);
        rows
    }

    /// Whether the next call of [`Self::due`] need not wait.
    pub(super) const fn more(&self) -> bool {
        self.more
    }

    /// Takes in that a write failed: the next is not before a second has passed.
    pub(super) const fn failed(&mut self) {
        self.more = false;
    }

    /// Takes in that rows were written, but for those skipped.
    pub(super) fn written(&mut self, rows: &[StatusRow], skipped: &[MonitorId], now: Instant) {
        let skipped: HashSet<&MonitorId> = skipped.iter().collect();
        for row in rows {
            let Some(tracked) = self.rows.get_mut(&row.monitor) else { continue };
            if skipped.contains(&row.monitor) {
                tracked.skipped_at = Some(now);
                continue;
            }
            tracked.written = row.status.or(tracked.written);
            tracked.checks = 0;
            tracked.dirty_since = None;
            tracked.skipped_at = None;
        }
    }
}
