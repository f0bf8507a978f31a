//! The journal in memory: a bounded queue between the verdict stage and the recorder.
//!
//! Order: what was thinned (transitions, then the latest states) is older than all that is queued, so a batch takes
//! from `kept` first, then `states`, then `queue`.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Journal;
use crate::model::{Gap, GapReason, MonitorId, MonitorState, Record};

/// Rows of one batch: enough for COPY to pay off, few enough to repeat (architecture: "several thousand").
pub const BATCH_RECORDS: usize = 5_000;
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
    /// Transitions of groups that were thinned, oldest first.
    kept: VecDeque<Record>,
    /// The latest state of monitors whose groups were thinned.
    states: HashMap<MonitorId, Box<MonitorState>>,
    /// Monitors whose checks were thinned: first and last lost check. The next check that is recorded ends the gap.
    lost: HashMap<MonitorId, (DateTime<Utc>, DateTime<Utc>)>,
    thinned: u64,
    closed: bool,
}

/// How full the backlog is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    /// Records that wait.
    pub records: usize,
    /// Their estimated memory.
    pub bytes: usize,
    /// Checks that became gaps since the start.
    pub thinned: u64,
}

impl Backlog {
    /// A queue of at most about `limit_bytes` of memory, estimated by [`Record::cost`].
    #[must_use]
    pub fn new(limit_bytes: usize) -> Self {
        let inner = Inner {
            limit_bytes,
            bytes: 0,
            queue: VecDeque::new(),
            queued_records: 0,
            oldest: None,
            kept: VecDeque::new(),
            states: HashMap::new(),
            lost: HashMap::new(),
            thinned: 0,
            closed: false,
        };
        Self { inner: Mutex::new(inner), appended: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every critical section leaves the queue whole, so a poisoned lock is still good.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How full it is.
    #[must_use]
    pub fn depth(&self) -> Depth {
        let inner = self.lock();
        let records = inner.queued_records + inner.kept.len() + inner.states.len();
        Depth { records, bytes: inner.bytes, thinned: inner.thinned }
    }

    /// Nothing will be appended any more: [`Self::next`] gives what is left at once, then none.
    pub fn close(&self) {
        self.lock().closed = true;
        self.appended.notify_one();
    }

    /// Waits for the next records: a full batch, or what has waited for [`BATCH_WAIT`]. None when closed and empty.
    /// One caller.
    pub async fn next(&self) -> Option<Vec<Record>> {
        loop {
            let wake_at = {
                let mut inner = self.lock();
                let full = inner.queued_records >= BATCH_RECORDS;
                let ripe = inner.oldest.map(|at| at + BATCH_WAIT);
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
    /// Moves the oldest group out of the queue, keeping all but its check. False when there is nothing to thin.
    fn thin_oldest(&mut self) -> bool {
        let Some(group) = self.queue.pop_front() else { return false };
        self.queued_records -= group.len();
        for record in group {
            let cost = record.cost();
            match record {
                Record::Check(check) => {
                    self.bytes = self.bytes.saturating_sub(cost);
                    self.thinned += 1;
                    let span = self.lost.entry(check.monitor).or_insert((check.checked_at, check.checked_at));
                    span.1 = check.checked_at;
                }
                Record::State(monitor, state) => {
                    if self.states.insert(monitor, state).is_some() {
                        self.bytes = self.bytes.saturating_sub(cost);
                    }
                }
                transition => self.kept.push_back(transition),
            }
        }
        true
    }

    fn take(&mut self) -> Vec<Record> {
        let mut records: Vec<Record> = Vec::new();
        let from_kept = self.kept.len().min(BATCH_RECORDS);
        records.extend(self.kept.drain(..from_kept));
        if self.kept.is_empty() {
            records.extend(self.states.drain().map(|(monitor, state)| Record::State(monitor, state)));
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
            if self.closed {
                let lost = self.lost.drain();
                records.extend(lost.map(|(monitor, (from_at, to_at))| store_full(monitor, from_at, to_at)));
            }
        }
        records
    }

    /// The first check of a monitor that is recorded after lost ones ends their gap.
    fn take_group(&mut self, group: Vec<Record>, records: &mut Vec<Record>) {
        if !self.lost.is_empty()
            && let Some(Record::Check(check)) = group.iter().find(|record| record.is_thinnable())
            && let Some((from_at, _)) = self.lost.remove(&check.monitor)
        {
            records.push(store_full(check.monitor, from_at, check.checked_at));
        }
        records.extend(group);
    }
}

fn store_full(monitor: MonitorId, from_at: DateTime<Utc>, to_at: DateTime<Utc>) -> Record {
    Record::Gap(Gap { monitor: Some(monitor), from_at, to_at: to_at.max(from_at), reason: GapReason::StoreFull })
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use uuid::Uuid;

    use super::*;
    use crate::model::{Check, Resolution, ResolveReason, Timings, Verdict};

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::<Utc>::UNIX_EPOCH + TimeDelta::seconds(second)
    }

    fn check(monitor: u128, second: i64) -> Record {
        Record::Check(Check {
            monitor: MonitorId(Uuid::from_u128(monitor)),
            verdict: Verdict::Up,
            failure: None,
            message: None,
            status_code: None,
            timings: Timings::default(),
            address: None,
            http_version: None,
            certificate: None,
            attempt: 1,
            checked_at: at(second),
        })
    }

    fn resolve(monitor: u128) -> Record {
        Record::Resolve(Resolution {
            uid: Uuid::from_u128(monitor).into(),
            monitor: MonitorId(Uuid::from_u128(monitor)),
            resolved_at: at(0),
            reason: ResolveReason::Recovered,
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_waits_a_quarter_second_for_company() {
        let backlog = Backlog::new(1 << 20);
        let start = Instant::now();
        backlog.append(vec![check(1, 1)]);
        assert_eq!(backlog.next().await.map(|records| records.len()), Some(1));
        assert_eq!(start.elapsed(), BATCH_WAIT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_batch_does_not_wait() {
        let backlog = Backlog::new(usize::MAX);
        for second in 0..BATCH_RECORDS as i64 {
            backlog.append(vec![check(1, second)]);
        }
        let start = Instant::now();
        assert_eq!(backlog.next().await.map(|records| records.len()), Some(BATCH_RECORDS));
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_backlog_thins_checks_to_gaps_and_keeps_transitions() {
        let cost = check(1, 0).cost();
        let backlog = Backlog::new(cost * 10);
        backlog.append(vec![check(1, 0), resolve(1), Record::State(MonitorId(Uuid::from_u128(1)), Box::default())]);
        for second in 1..100 {
            backlog.append(vec![check(1, second)]);
        }
        let depth = backlog.depth();
        assert!(depth.bytes <= cost * 10, "{depth:?}");
        backlog.close();
        let records = backlog.next().await.unwrap();
        assert_eq!(backlog.next().await, None);
        assert!(matches!(records[0], Record::Resolve(_)), "transitions come first");
        assert!(matches!(records[1], Record::State(..)));
        let Record::Gap(gap) = &records[2] else { panic!("{records:?}") };
        let Record::Check(first) = &records[3] else { panic!("{records:?}") };
        assert_eq!((gap.from_at, gap.to_at, gap.reason), (at(0), first.checked_at, GapReason::StoreFull));
        let kept = records.iter().filter(|record| record.is_thinnable()).count();
        assert_eq!(kept as u64 + depth.thinned, 100);
    }

    #[tokio::test(start_paused = true)]
    async fn closed_and_empty_ends() {
        let backlog = Backlog::new(1 << 20);
        backlog.close();
        assert_eq!(backlog.next().await, None);
    }
}
