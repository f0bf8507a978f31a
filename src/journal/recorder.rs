//! Brings the backlog to the store: batch by batch, each exactly once, never stopped by a row.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::backlog::Backlog;
use super::status::{StatusColumns, WRITE_ROWS};
use super::{RecordStore, Recorded};
use crate::model::{Batch, BatchId, Check, Gap, GapReason, MonitorId, Record, StoreFault};

/// First wait after the store was away; doubles up to [`RETRY_MOST`].
const RETRY_LEAST: Duration = Duration::from_millis(100);
/// Longest wait between attempts: results are at most so late after the store is back.
const RETRY_MOST: Duration = Duration::from_secs(5);
/// How often records of locked rows are tried again.
const DELAYED_EVERY: Duration = Duration::from_secs(1);
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
    delayed: HashMap<MonitorId, VecDeque<Record>>,
    delayed_records: usize,
    delayed_at: Instant,
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
            if !self.delayed.is_empty() && (last || self.delayed_at.elapsed() >= DELAYED_EVERY) {
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
        let record = match record {
            Record::Check(check) if self.delayed_records >= DELAYED_MOST => gap_of(&check, GapReason::StoreFull),
            record => record,
        };
        let records = self.delayed.entry(monitor).or_default();
        if let (Record::Gap(new), Some(Record::Gap(last))) = (&record, records.back_mut())
            && (new.reason, last.reason) == (GapReason::StoreFull, GapReason::StoreFull)
        {
            last.to_at = last.to_at.max(new.to_at);
            return;
        }
        records.push_back(record);
        self.delayed_records += 1;
        self.stats.delayed.store(self.delayed_records as u64, Ordering::Relaxed);
    }

    async fn write_delayed(&mut self) {
        self.delayed_at = Instant::now();
        self.delayed_records = 0;
        let records = std::mem::take(&mut self.delayed).into_values().flatten().collect();
        self.write(records).await;
        self.stats.delayed.store(self.delayed_records as u64, Ordering::Relaxed);
    }

    /// Writes records as one batch. A batch that the store refuses is halved until the culprit is alone.
    async fn write(&mut self, records: Vec<Record>) {
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
                    Err(record) => parts.extend(self.refuse(&record, &fault).map(|gap| vec![gap])),
                },
            }
        }
        self.stats.writing.store(0, Ordering::Relaxed);
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

/// Two halves of what the store refused, cut where a group ends: a check, its transition and the state after it are
/// written together or not at all, also when we are killed between the halves. A group that is refused by itself is
/// taken apart, to drop no more than must be; a single record comes back.
fn halves(mut records: Vec<Record>) -> Result<(Vec<Record>, Vec<Record>), Record> {
    let middle = records.len() / 2;
    let starts_group = |at: &usize| match records.get(at - 1..=*at) {
        Some([before, after]) => {
            before.monitor() != after.monitor() || matches!(before, Record::State(..)) || after.is_thinnable()
        }
        _ => false,
    };
    let at = (1..records.len()).filter(starts_group).min_by_key(|at| at.abs_diff(middle)).unwrap_or(1);
    if records.len() == 1
        && let Some(record) = records.pop()
    {
        return Err(record);
    }
    let second = records.split_off(at.min(records.len()));
    Ok((records, second))
}

#[cfg(test)]
mod tests;
