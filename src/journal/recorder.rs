//! Brings the backlog to the store: batch by batch, each exactly once, never stopped by a row.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::backlog::{BATCH_RECORDS, Backlog};
use super::kept::Kept;
use super::status::{StatusColumns, WRITE_ROWS};
use super::{RecordStore, Recorded};
use crate::metrics::work::Moment;
use crate::model::{Batch, BatchId, Check, Gap, GapReason, MonitorId, Record, StoreFault};

/// First wait after the store was away; doubles up to [`RETRY_MOST`].
const RETRY_LEAST: Duration = Duration::from_millis(100);
/// Longest wait between attempts: results are at most so late after the store is back.
const RETRY_MOST: Duration = Duration::from_secs(5);
/// How often records of locked rows are tried again; while none moves the wait doubles up to [`DELAYED_LATEST`].
const DELAYED_EVERY: Duration = Duration::from_secs(1);
/// Results are at most so late after their row is free.
const DELAYED_LATEST: Duration = Duration::from_secs(30);
/// Records that wait for locked rows; beyond it their checks become gaps.
const DELAYED_MOST: usize = 100_000;

/// What the recorder tells others. Counters since the start.
#[derive(Debug, Default)]
pub struct RecorderStats {
    /// Rows of `monitor_checks` written.
    pub checks: AtomicU64,
    /// Batches written.
    pub batches: AtomicU64,
    /// Records dropped because their monitor is gone.
    pub dropped: AtomicU64,
    /// Records that the store refused for good.
    pub refused: AtomicU64,
    /// Records that wait for locked rows.
    pub delayed: AtomicU64,
    /// Since when there has always been a record in hand.
    held: Moment,
    /// Records of the batch that is being written.
    writing: AtomicU64,
    away: AtomicBool,
    fenced: AtomicBool,
    fault: Mutex<Option<String>>,
}

impl RecorderStats {
    /// Why the last attempt failed; none when it succeeded.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Records that were taken from the backlog and are not written yet.
    #[must_use]
    pub fn in_hand(&self) -> u64 {
        self.writing.load(Ordering::Relaxed) + self.delayed.load(Ordering::Relaxed)
    }

    /// Since when there have always been records that were taken from the backlog and not written.
    #[must_use]
    pub fn held_since(&self) -> Option<Instant> {
        self.held.get()
    }

    /// Whether another daemon has taken the lease.
    #[must_use]
    pub fn fenced(&self) -> bool {
        self.fenced.load(Ordering::Relaxed)
    }

    /// Notes a failure; true when the store had been fine before.
    fn failed(&self, fault: &StoreFault) -> bool {
        self.fenced.store(matches!(fault, StoreFault::Fenced(_)), Ordering::Relaxed);
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault.to_string());
        !self.away.swap(true, Ordering::Relaxed)
    }

    /// Notes a success; true when the store had been away.
    fn succeeded(&self) -> bool {
        let was_away = self.away.swap(false, Ordering::Relaxed);
        if was_away {
            self.fenced.store(false, Ordering::Relaxed);
            *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        was_away
    }
}

/// The loop's state.
pub struct Recorder<S> {
    backlog: Arc<Backlog>,
    store: Arc<S>,
    stats: Arc<RecorderStats>,
    columns: StatusColumns,
    delayed: HashMap<MonitorId, Delayed>,
    delayed_records: usize,
    delayed_at: Instant,
    delayed_wait: Duration,
}

/// What waits for one monitor's row.
#[derive(Default)]
struct Delayed {
    records: Vec<Record>,
    /// What came when there were too many already; later than all of `records`.
    kept: Kept,
}

impl<S: RecordStore> Recorder<S> {
    /// A recorder from a backlog to a store.
    #[must_use]
    pub fn new(backlog: Arc<Backlog>, store: Arc<S>, stats: Arc<RecorderStats>) -> Self {
        Self {
            backlog,
            store,
            stats,
            columns: StatusColumns::default(),
            delayed: HashMap::new(),
            delayed_records: 0,
            delayed_at: Instant::now(),
            delayed_wait: DELAYED_EVERY,
        }
    }

    /// Runs until the backlog is closed and empty. While the store is away it waits and the backlog fills; the caller
    /// gives up by dropping the future, and what was not written then is lost (and is a gap at the next start).
    pub async fn run(mut self) {
        loop {
            let pause = if self.columns.more() { Duration::ZERO } else { DELAYED_EVERY };
            let more = tokio::select! {
                biased;
                records = self.backlog.next() => records,
                () = tokio::time::sleep(pause) => Some(Vec::new()),
            };
            let last = more.is_none();
            if let Some(records) = more {
                self.write(records).await;
            }
            if !self.delayed.is_empty() && (last || self.delayed_at.elapsed() >= self.delayed_wait) {
                self.write_delayed().await;
            }
            self.write_columns(last).await;
            if last {
                break;
            }
        }
        if self.delayed_records > 0 {
            log::warn!(records = self.delayed_records; "results of monitors whose rows stayed locked are lost");
        }
    }

    /// Records of monitors that have delayed ones wait behind them, so that their order holds.
    fn hold_back(&mut self, records: Vec<Record>) -> Vec<Record> {
        if self.delayed.is_empty() {
            return records;
        }
        let mut free = Vec::with_capacity(records.len());
        for record in records {
            match record.monitor() {
                Some(monitor) if self.delayed.contains_key(&monitor) => self.delay(monitor, record),
                _ => free.push(record),
            }
        }
        free
    }

    fn delay(&mut self, monitor: MonitorId, record: Record) {
        if self.delayed.is_empty() {
            (self.delayed_at, self.delayed_wait) = (Instant::now(), DELAYED_EVERY);
        }
        let delayed = self.delayed.entry(monitor).or_default();
        let before = delayed.kept.len();
        if self.delayed_records < DELAYED_MOST && delayed.kept.is_empty() {
            delayed.records.push(record);
            self.delayed_records += 1;
        } else {
            delayed.kept.merge(match record {
                Record::Check(check) => gap_of(&check, GapReason::StoreFull),
                record => record,
            });
            self.delayed_records += delayed.kept.len() - before;
        }
        self.stats.delayed.store(self.delayed_records as u64, Ordering::Relaxed);
    }

    /// Brings all that waits, in batches of whole monitors; one with more than a batch is divided between groups.
    async fn write_delayed(&mut self) {
        let (before, wait) = (std::mem::take(&mut self.delayed_records), self.delayed_wait);
        let held = self.stats.held.get();
        let mut records: Vec<Record> = Vec::new();
        for (_, mut delayed) in std::mem::take(&mut self.delayed) {
            let mut of_one = delayed.records;
            of_one.extend(delayed.kept.take(usize::MAX));
            if !records.is_empty() && records.len() + of_one.len() > BATCH_RECORDS {
                self.write(std::mem::take(&mut records)).await;
            }
            records.append(&mut of_one);
            while records.len() > BATCH_RECORDS {
                let cut = (1..=BATCH_RECORDS).rev().find(|at| starts_group(&records, *at)).unwrap_or(BATCH_RECORDS);
                let rest = records.split_off(cut);
                self.write(std::mem::replace(&mut records, rest)).await;
            }
        }
        self.write(records).await;
        if !self.delayed.is_empty() {
            self.stats.held.set(held);
        }
        let moved = self.delayed_records < before;
        self.delayed_wait = if moved { DELAYED_EVERY } else { (wait * 2).min(DELAYED_LATEST) };
        self.delayed_at = Instant::now();
        self.stats.delayed.store(self.delayed_records as u64, Ordering::Relaxed);
    }

    /// Writes records as one batch. A batch that the store refuses is halved until the culprit is alone.
    async fn write(&mut self, records: Vec<Record>) {
        if !records.is_empty() && self.stats.held.get().is_none() {
            self.stats.held.set(Some(Instant::now()));
        }
        let mut parts = vec![records];
        while let Some(records) = parts.pop() {
            // A part before this one may have delayed a monitor of this one.
            let records = self.hold_back(records);
            if records.is_empty() {
                continue;
            }
            let batch = Batch { id: BatchId(Uuid::new_v4()), records };
            let writing = batch.records.len() + parts.iter().map(Vec::len).sum::<usize>();
            self.stats.writing.store(writing as u64, Ordering::Relaxed);
            match self.bring(&batch).await {
                Ok(recorded) => self.settle(batch.records, &recorded),
                Err(fault) => match halves(batch.records) {
                    Ok((first, second)) => parts.extend([second, first]),
                    Err(alone) => parts.push(alone.iter().filter_map(|record| self.refuse(record, &fault)).collect()),
                },
            }
        }
        self.stats.writing.store(0, Ordering::Relaxed);
        if self.delayed.is_empty() {
            self.stats.held.set(None);
        }
    }

    /// Repeats the same batch while the store is away or leased to another. The id makes a repeat harmless when only
    /// the answer was lost. An error is final.
    async fn bring(&self, batch: &Batch) -> Result<Recorded, StoreFault> {
        let mut wait = RETRY_LEAST;
        loop {
            match self.store.record(batch).await {
                Ok(recorded) => {
                    if self.stats.succeeded() {
                        log::info!("the database is back: results are recorded again");
                    }
                    return Ok(recorded);
                }
                Err(fault @ StoreFault::Refused(_)) => return Err(fault),
                Err(fault) => {
                    if self.stats.failed(&fault) {
                        log::warn!("{fault}; results wait in memory, checks go on");
                    }
                }
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(RETRY_MOST);
        }
    }

    fn settle(&mut self, records: Vec<Record>, recorded: &Recorded) {
        self.stats.checks.fetch_add(recorded.checks as u64, Ordering::Relaxed);
        self.stats.batches.fetch_add(1, Ordering::Relaxed);
        self.stats.dropped.fetch_add(recorded.dropped as u64, Ordering::Relaxed);
        if recorded.delayed.is_empty() {
            self.columns.note(&records, Instant::now());
            return;
        }
        let is_delayed = |record: &Record| record.monitor().is_some_and(|id| recorded.delayed.contains(&id));
        let (late, written): (Vec<Record>, Vec<Record>) = records.into_iter().partition(is_delayed);
        self.columns.note(&written, Instant::now());
        let monitors: HashSet<MonitorId> = late.iter().filter_map(Record::monitor).collect();
        log::debug!(monitors = monitors.len(); "rows are locked by somebody, or not made yet: their results wait");
        for record in late {
            if let Some(monitor) = record.monitor() {
                self.delay(monitor, record);
            }
        }
    }

    /// Drops a record; the gap that a dropped check leaves is to be written in its place.
    fn refuse(&self, record: &Record, fault: &StoreFault) -> Option<Record> {
        self.stats.refused.fetch_add(1, Ordering::Relaxed);
        let monitor = record.monitor().map(|id| id.to_string()).unwrap_or_default();
        log::error!(monitor_id = monitor; "a result cannot be recorded and is dropped: {fault}");
        match record {
            Record::Check(check) => Some(gap_of(check, GapReason::RecordingLost)),
            _ => None,
        }
    }

    async fn write_columns(&mut self, all: bool) {
        let rows = self.columns.due(Instant::now(), all);
        for rows in rows.chunks(WRITE_ROWS) {
            // No retry: the columns stay due and the next round brings newer values.
            match self.store.write_status(rows).await {
                Ok(skipped) => self.columns.written(rows, &skipped, Instant::now()),
                Err(fault) => {
                    log::debug!("status columns wait: {fault}");
                    self.columns.failed();
                    break;
                }
            }
        }
    }
}

/// What stands for a check that will have no row.
fn gap_of(check: &Check, reason: GapReason) -> Record {
    let (from_at, to_at) = (check.checked_at, check.checked_at + check.timings.total);
    Record::Gap(Gap { monitor: Some(check.monitor), from_at, to_at, reason })
}

/// Whether records that belong together end before this one.
fn starts_group(records: &[Record], at: usize) -> bool {
    match records.get(at.saturating_sub(1)..=at) {
        Some([before, after]) => {
            before.monitor() != after.monitor() || matches!(before, Record::State(..)) || after.is_thinnable()
        }
        _ => false,
    }
}

/// Two halves of what the store refused, cut where a group ends: a check, its transition and the state after it are
/// written together or not at all, also when we are killed between the halves. A group that is refused by itself is
/// taken apart, to drop no more than must be; a single record comes back.
fn halves(mut records: Vec<Record>) -> Result<(Vec<Record>, Vec<Record>), Vec<Record>> {
    let middle = records.len() / 2;
    let at =
        (1..records.len()).filter(|at| starts_group(&records, *at)).min_by_key(|at| at.abs_diff(middle)).unwrap_or(1);
    if records.len() <= 1 {
        return Err(records);
    }
    let second = records.split_off(at.min(records.len()));
    Ok((records, second))
}

#[cfg(test)]
mod tests;
