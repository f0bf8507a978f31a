//! The journal in memory: a bounded queue between the verdict stage and the recorder.
//!
//! Order: what was thinned is older than all that is queued, so a batch takes from `kept` first, a monitor's transitions
//! and then its latest state, and from `queue` when that is empty.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Journal;
use super::kept::Kept;
use crate::model::{Gap, GapReason, MonitorId, Record};

/// Rows of one batch: enough for COPY to pay off, few enough to repeat (architecture: "several thousand").
pub const BATCH_RECORDS: usize = 5_000;
/// Checks that were lost are shown as a gap at most so long after the last one, though the monitor has no more records.
const LOST_LATEST: Duration = Duration::from_secs(300);
/// A record waits at most so long for company.
pub const BATCH_WAIT: Duration = Duration::from_millis(250);

/// The queue. Appending never waits; over the limit the oldest raw checks become gaps of reason `store_full`.
#[derive(Debug)]
pub struct Backlog {
    inner: Mutex<Inner>,
    appended: Notify,
}

#[derive(Debug)]
struct Inner {
    limit_bytes: usize,
    bytes: usize,
    queue: VecDeque<Vec<Record>>,
    queued_records: usize,
    oldest: Option<Instant>,
    /// What stays of groups that were thinned, by monitor.
    kept: HashMap<Option<MonitorId>, Kept>,
    /// The keys of `kept`, each once, longest thinned first.
    kept_order: VecDeque<Option<MonitorId>>,
    kept_records: usize,
    /// Monitors whose checks were thinned: start of the first and end of the last lost check. Their next record ends the
    /// gap, or [`LOST_LATEST`].
    lost: HashMap<MonitorId, (DateTime<Utc>, DateTime<Utc>)>,
    thinned: u64,
    thinned_at: Option<Instant>,
    closed: bool,
}

/// How full the backlog is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    /// Records that wait.
    pub records: usize,
    /// Their bytes: on disk, or estimated in memory.
    pub bytes: usize,
    /// Checks that became gaps since the start.
    pub thinned: u64,
    /// Bytes that may be used.
    pub limit_bytes: usize,
    /// Since when there has always been a record that waits; none: it is empty.
    pub oldest: Option<Instant>,
}

impl Backlog {
    /// A queue of at most about `limit_bytes` of memory, estimated by [`Record::cost`].
    #[must_use]
    pub fn new(limit_bytes: usize) -> Self {
        Self { inner: Mutex::new(Inner::new(limit_bytes)), appended: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every critical section leaves the queue whole, so a poisoned lock is still good.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How full it is.
    #[must_use]
    pub fn depth(&self) -> Depth {
        let inner = self.lock();
        let records = inner.queued_records + inner.kept_records;
        Depth {
            records,
            bytes: inner.bytes,
            thinned: inner.thinned,
            limit_bytes: inner.limit_bytes,
            oldest: inner.oldest,
        }
    }

    /// Nothing will be appended any more: [`Self::next`] gives what is left at once, then none.
    pub fn close(&self) {
        self.lock().closed = true;
        self.appended.notify_one();
    }

    /// What [`Self::next`] would give, if not ripe yet.
    pub(super) fn take_batch(&self) -> Vec<Record> {
        self.lock().take()
    }

    /// The gaps of lost checks that no later record has ended yet.
    pub(super) fn take_lost(&self) -> Vec<Record> {
        let lost = std::mem::take(&mut self.lock().lost);
        lost.into_iter().map(|(monitor, (from_at, to_at))| store_full(monitor, from_at, to_at)).collect()
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        let inner = self.lock();
        inner.queued_records + inner.kept_records == 0
    }

    /// Waits for the next records: a full batch, or what has waited for [`BATCH_WAIT`]. None when closed and empty.
    /// One caller.
    pub async fn next(&self) -> Option<Vec<Record>> {
        loop {
            let wake_at = {
                let mut inner = self.lock();
                let full = inner.queued_records >= BATCH_RECORDS;
                let ripe = inner.oldest.map(|at| at + BATCH_WAIT).or(inner.lost_end());
                if full || inner.closed || ripe.is_some_and(|at| at <= Instant::now()) {
                    let records = inner.take();
                    if !records.is_empty() {
                        return Some(records);
                    }
                    if inner.closed {
                        return None;
                    }
                }
                ripe
            };
            match wake_at {
                Some(at) => {
                    tokio::select! {
                        () = self.appended.notified() => {}
                        () = tokio::time::sleep_until(at) => {}
                    }
                }
                None => self.appended.notified().await,
            }
        }
    }
}

impl Journal for Backlog {
    fn append(&self, records: Vec<Record>) {
        if records.is_empty() {
            return;
        }
        let mut inner = self.lock();
        let was_idle = inner.oldest.is_none();
        inner.oldest.get_or_insert_with(Instant::now);
        inner.bytes += records.iter().map(Record::cost).sum::<usize>();
        inner.queued_records += records.len();
        inner.queue.push_back(records);
        while inner.bytes > inner.limit_bytes && inner.thin_oldest() {}
        let full = inner.queued_records >= BATCH_RECORDS;
        drop(inner);
        // The recorder sleeps until the first record is ripe; only the first and a full batch need to wake it.
        if was_idle || full {
            self.appended.notify_one();
        }
    }
}

impl Inner {
    fn new(limit_bytes: usize) -> Self {
        Self {
            limit_bytes,
            bytes: 0,
            queue: VecDeque::new(),
            queued_records: 0,
            oldest: None,
            kept: HashMap::new(),
            kept_order: VecDeque::new(),
            kept_records: 0,
            lost: HashMap::new(),
            thinned: 0,
            thinned_at: None,
            closed: false,
        }
    }

    /// Moves the oldest group out of the queue, keeping all but its check. False when there is nothing to thin.
    fn thin_oldest(&mut self) -> bool {
        let Some(group) = self.queue.pop_front() else { return false };
        self.queued_records -= group.len();
        for record in group {
            let Record::Check(check) = &record else {
                self.keep(record);
                continue;
            };
            self.bytes = self.bytes.saturating_sub(record.cost());
            self.thinned += 1;
            self.thinned_at = Some(Instant::now());
            let end = check.ended_at();
            let span = self.lost.entry(check.monitor).or_insert((check.checked_at, end));
            span.1 = span.1.max(end);
        }
        true
    }

    fn keep(&mut self, record: Record) {
        let key = record.monitor();
        let kept = self.kept.entry(key).or_insert_with(|| {
            self.kept_order.push_back(key);
            Kept::default()
        });
        let before = kept.len();
        let freed = kept.merge(record);
        self.kept_records += kept.len() - before;
        self.bytes = self.bytes.saturating_sub(freed);
    }

    /// When gaps that nothing has ended yet are to be written.
    fn lost_end(&self) -> Option<Instant> {
        if self.lost.is_empty() { None } else { self.thinned_at.map(|at| at + LOST_LATEST) }
    }

    /// At most a batch, but for the last group; the rest waits for the next call.
    fn take(&mut self) -> Vec<Record> {
        let mut records: Vec<Record> = Vec::new();
        self.take_kept(&mut records);
        if self.kept.is_empty() {
            while records.len() < BATCH_RECORDS
                && let Some(group) = self.queue.pop_front()
            {
                self.queued_records -= group.len();
                self.take_group(group, &mut records);
            }
        }
        self.bytes = self.bytes.saturating_sub(records.iter().map(Record::cost).sum());
        if self.queue.is_empty() && self.kept.is_empty() {
            self.bytes = 0;
            self.oldest = None;
            if self.closed || self.lost_end().is_some_and(|at| at <= Instant::now()) {
                let ended: Vec<MonitorId> =
                    self.lost.keys().copied().take(BATCH_RECORDS.saturating_sub(records.len())).collect();
                for monitor in ended {
                    let span = self.lost.remove(&monitor);
                    records.extend(span.map(|(from_at, to_at)| store_full(monitor, from_at, to_at)));
                }
            }
        }
        records
    }

    /// A monitor's remains are not divided among batches unless they are more than one batch.
    fn take_kept(&mut self, records: &mut Vec<Record>) {
        while let Some(key) = self.kept_order.front().copied() {
            let room = BATCH_RECORDS.saturating_sub(records.len());
            let Some(kept) = self.kept.get_mut(&key) else {
                self.kept_order.pop_front();
                continue;
            };
            if room == 0 || (kept.len() > room && !records.is_empty()) {
                break;
            }
            let taken = kept.take(room);
            self.kept_records = self.kept_records.saturating_sub(taken.len());
            records.extend(taken);
            if !kept.is_empty() {
                break;
            }
            self.kept.remove(&key);
            self.kept_order.pop_front();
        }
    }

    /// The first record of a monitor after lost checks ends their gap.
    fn take_group(&mut self, group: Vec<Record>, records: &mut Vec<Record>) {
        if !self.lost.is_empty() {
            for record in &group {
                let Some(monitor) = record.monitor() else { continue };
                let Some((from_at, to_at)) = self.lost.remove(&monitor) else { continue };
                let end = match record {
                    Record::Check(check) => check.checked_at,
                    Record::Gap(gap) => gap.from_at,
                    Record::Resolve(resolution) => resolution.resolved_at,
                    Record::State(..) | Record::Open(_) => to_at,
                };
                records.push(store_full(monitor, from_at, end.max(to_at)));
            }
        }
        records.extend(group);
    }
}

fn store_full(monitor: MonitorId, from_at: DateTime<Utc>, to_at: DateTime<Utc>) -> Record {
    Record::Gap(Gap { monitor: Some(monitor), from_at, to_at: to_at.max(from_at), reason: GapReason::StoreFull })
}

#[cfg(test)]
mod tests;
