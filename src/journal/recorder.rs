//! Brings the journal to the store: batch by batch, each exactly once, never stopped by a row.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::backlog::BATCH_RECORDS;
use super::delayed::Delayed;
use super::disk::DiskJournal;
use super::status::{StatusColumns, WRITE_ROWS};
use super::thin::gap_of;
use super::{RecordStore, Recorded};
use crate::metrics::work::Moment;
use crate::model::{Batch, BatchId, GapReason, MonitorId, Record, StoreFault};

/// First wait after the store was away; doubles up to [`RETRY_MOST`].
const RETRY_LEAST: Duration = Duration::from_millis(100);
/// Longest wait between attempts: results are at most so late after the store is back.
const RETRY_MOST: Duration = Duration::from_secs(5);
/// How often records of locked rows are tried again; while none moves the wait doubles up to [`DELAYED_LATEST`].
const DELAYED_EVERY: Duration = Duration::from_secs(1);
/// Results are at most so late after their row is free.
const DELAYED_LATEST: Duration = Duration::from_secs(30);

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

    /// Records that were taken from the journal and are not written yet.
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
    journal: Arc<DiskJournal>,
    store: Arc<S>,
    stats: Arc<RecorderStats>,
    columns: StatusColumns,
    delayed: Delayed,
    delayed_at: Instant,
    delayed_wait: Duration,
    /// Delayed by the batch in hand: to be on disk before the batch counts as done.
    fresh: Vec<Record>,
    /// Parts of the batch in hand that the store refused, also before a restart.
    refused: HashSet<Uuid>,
    run: u64,
}

/// The journal has dropped what was in hand: another daemon was active.
struct Dropped;

impl<S: RecordStore> Recorder<S> {
    /// A recorder from a journal to a store.
    #[must_use]
    pub fn new(journal: Arc<DiskJournal>, store: Arc<S>, stats: Arc<RecorderStats>) -> Self {
        Self {
            journal,
            store,
            stats,
            columns: StatusColumns::default(),
            delayed: Delayed::default(),
            delayed_at: Instant::now(),
            delayed_wait: DELAYED_EVERY,
            fresh: Vec::new(),
            refused: HashSet::new(),
            run: 0,
        }
    }

    /// Runs until the journal is closed and everything is recorded. While the store is away it waits and the journal fills;
    /// the caller gives up by dropping the future, and what was not recorded then is brought after the next start.
    pub async fn run(mut self) {
        while self.follow().await.is_err() {
            log::warn!("the journal was dropped while the recorder had some of it in its hands");
        }
    }

    async fn follow(&mut self) -> Result<(), Dropped> {
        let restart = self.journal.restart().await;
        self.run = restart.run;
        self.delayed = Delayed::default();
        self.delayed.extend(restart.delayed);
        self.fresh.clear();
        self.count_delayed();
        if restart.in_pass {
            self.write_delayed().await?;
        }
        loop {
            let pause = if self.columns.more() { Duration::ZERO } else { DELAYED_EVERY };
            tokio::select! {
                biased;
                () = self.journal.ready() => {}
                () = tokio::time::sleep(pause) => {}
            }
            let closed = self.journal.is_closed();
            let taken = self.journal.take().await;
            let last = closed && taken.is_none();
            if let Some(mut taken) = taken {
                let records = std::mem::take(&mut taken.records);
                let alive = records.iter().filter_map(Record::time).max();
                self.refused = std::mem::take(&mut taken.refused);
                self.write(taken.id, records).await?;
                let fresh = std::mem::take(&mut self.fresh);
                self.journal.settled(&taken, alive, fresh).await;
            }
            if !self.delayed.is_empty() && (last || self.delayed_at.elapsed() >= self.delayed_wait) {
                self.write_delayed().await?;
            }
            self.write_columns(last).await;
            if last {
                break;
            }
        }
        if !self.delayed.is_empty() {
            log::warn!(records = self.delayed.len(); "results of monitors whose rows stayed locked wait in the journal");
        }
        Ok(())
    }

    fn count_delayed(&self) {
        self.stats.delayed.store(self.delayed.len() as u64, Ordering::Relaxed);
    }

    /// Records of monitors that have delayed ones wait behind them, so that their order holds.
    fn hold_back(&mut self, records: Vec<Record>) -> Vec<Record> {
        if self.delayed.is_empty() {
            return records;
        }
        let mut free = Vec::with_capacity(records.len());
        for record in records {
            match record.monitor() {
                Some(monitor) if self.delayed.contains(monitor) => self.delay(record),
                _ => free.push(record),
            }
        }
        free
    }

    fn delay(&mut self, record: Record) {
        if self.delayed.is_empty() {
            (self.delayed_at, self.delayed_wait) = (Instant::now(), DELAYED_EVERY);
        }
        self.fresh.push(record.clone());
        self.delayed.push(record);
        self.count_delayed();
    }

    /// Brings all that waits, in batches of whole monitors; one with more than a batch is divided between groups. The
    /// batches and their ids follow from what waits and from the store's answers, so a restart repeats them.
    async fn write_delayed(&mut self) -> Result<(), Dropped> {
        let (before, wait) = (self.delayed.len(), self.delayed_wait);
        let held = self.stats.held.get();
        let (pass, refused) = self.journal.begin_pass(self.run).await;
        self.refused = refused;
        let mut batches: Vec<Vec<Record>> = Vec::new();
        let mut records: Vec<Record> = Vec::new();
        for mut of_one in self.delayed.take() {
            if !records.is_empty() && records.len() + of_one.len() > BATCH_RECORDS {
                batches.push(std::mem::take(&mut records));
            }
            records.append(&mut of_one);
            while records.len() > BATCH_RECORDS {
                let cut = (1..=BATCH_RECORDS).rev().find(|at| starts_group(&records, *at)).unwrap_or(BATCH_RECORDS);
                let rest = records.split_off(cut);
                batches.push(std::mem::replace(&mut records, rest));
            }
        }
        batches.push(records);
        for (number, records) in batches.into_iter().enumerate() {
            self.write(part_of(pass, &number.to_string()), records).await?;
        }
        self.fresh.clear();
        let rest = self.delayed.take_for_file();
        // As a restart would read it.
        self.delayed.extend(rest.iter().cloned());
        self.journal.end_pass(self.run, rest).await;
        if !self.delayed.is_empty() {
            self.stats.held.set(held);
        }
        let moved = self.delayed.len() < before;
        self.delayed_wait = if moved { DELAYED_EVERY } else { (wait * 2).min(DELAYED_LATEST) };
        self.delayed_at = Instant::now();
        self.count_delayed();
        Ok(())
    }

    /// Writes records as one batch. A batch that the store refuses is halved until the culprit is alone.
    async fn write(&mut self, id: Uuid, records: Vec<Record>) -> Result<(), Dropped> {
        if !records.is_empty() && self.stats.held.get().is_none() {
            self.stats.held.set(Some(Instant::now()));
        }
        let mut parts = vec![(id, records)];
        while let Some((id, records)) = parts.pop() {
            // A part before this one may have delayed a monitor of this one.
            let records = self.hold_back(records);
            if records.is_empty() {
                continue;
            }
            let batch = Batch { id: BatchId(id), records, held: HashSet::new() };
            let writing = batch.records.len() + parts.iter().map(|(_, records)| records.len()).sum::<usize>();
            self.stats.writing.store(writing as u64, Ordering::Relaxed);
            let answer = if self.refused.contains(&id) {
                Err(StoreFault::Refused("as before the restart".to_owned()))
            } else {
                self.bring(&batch).await?
            };
            match answer {
                Ok(recorded) => self.settle(batch.records, &recorded),
                Err(fault) => {
                    if self.refused.insert(id) {
                        self.journal.refused(self.run, id).await;
                    }
                    match halves(batch.records) {
                        Ok((first, second)) => {
                            let (cut, end) = (first.len(), first.len() + second.len());
                            parts.push((part_of(id, &format!("{cut}..{end}")), second));
                            parts.push((part_of(id, &format!("0..{cut}")), first));
                        }
                        Err(alone) => {
                            let gaps = alone.iter().filter_map(|record| self.refuse(record, &fault)).collect();
                            parts.push((part_of(id, "gap"), gaps));
                        }
                    }
                }
            }
        }
        self.stats.writing.store(0, Ordering::Relaxed);
        if self.delayed.is_empty() {
            self.stats.held.set(None);
        }
        Ok(())
    }

    /// Repeats the same batch while the store is away or leased to another. The id makes a repeat harmless when only
    /// the answer was lost. An error of the store is final.
    async fn bring(&self, batch: &Batch) -> Result<Result<Recorded, StoreFault>, Dropped> {
        let mut wait = RETRY_LEAST;
        loop {
            if !self.journal.is_current(self.run) {
                return Err(Dropped);
            }
            match self.store.record(batch).await {
                Ok(recorded) => {
                    if self.stats.succeeded() {
                        log::info!("the database is back: results are recorded again");
                    }
                    return Ok(Ok(recorded));
                }
                Err(fault @ StoreFault::Refused(_)) => return Ok(Err(fault)),
                Err(fault) => {
                    let was_fenced = self.stats.fenced();
                    // Being fenced is another matter than what may have been told before.
                    if self.stats.failed(&fault) || self.stats.fenced() && !was_fenced {
                        log::warn!("{fault}; {}", consequence(&fault));
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
        late.into_iter().for_each(|record| self.delay(record));
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

/// What a fault means for what was seen.
const fn consequence(fault: &StoreFault) -> &'static str {
    match fault {
        StoreFault::Fenced(_) => {
            "nothing of this daemon is recorded now; it asks for its lease, and when another one has that, it steps down: \
             what waits in its journal is dropped then, and a gap"
        }
        StoreFault::Away(_) | StoreFault::Refused(_) => "results wait in the journal, checks go on",
    }
}

/// The id of a part of a batch: the same whenever the batch is divided again.
fn part_of(batch: Uuid, part: &str) -> Uuid {
    Uuid::new_v5(&batch, part.as_bytes())
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
