//! The dispatcher on paused time, with a pool, a journal and a wall clock in memory.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, advance, sleep, sleep_until};
use uuid::Uuid;

use super::*;
use crate::catalog::{Changes, Entry, Removal, Snapshot};
use crate::model::{
    Cadence, Flap, Gap, GapReason, Monitor, MonitorId, MonitorState, Observation, Record, SYSTEM_USER, Source,
};
use crate::probe::{Prepared, Probe, ProbeContext};
use crate::schedule::Next;
use crate::shutdown;
use crate::verdict::expectation::Expectations;

mod clocks;
mod load;
mod phases;

const START: &str = "2026-11-22T12:00:00.123Z";

/// Shows the paused clock's time and what a test adds to it.
struct FakeWall {
    start: Instant,
    begin: DateTime<Utc>,
    ahead_ms: AtomicI64,
}

impl Wall for FakeWall {
    fn now(&self) -> DateTime<Utc> {
        let elapsed = TimeDelta::from_std(self.start.elapsed()).unwrap();
        self.begin + elapsed + TimeDelta::milliseconds(self.ahead_ms.load(Relaxed))
    }
}

#[derive(Default)]
struct Book(Mutex<Vec<Gap>>);

impl Journal for Book {
    fn append(&self, records: Vec<Record>) {
        for record in records {
            let Record::Gap(gap) = record else { panic!("the dispatcher records gaps only") };
            self.0.lock().unwrap().push(gap);
        }
    }
}

struct NoProbe;

impl Probe for NoProbe {
    fn probe<'a>(&'a self, _: &'a ProbeContext<'a>) -> BoxFuture<'a, Observation> {
        panic!("never probed here")
    }
}

fn id(number: u128) -> MonitorId {
    // Spread like random uuids are.
    MonitorId(Uuid::new_v5(&Uuid::NAMESPACE_OID, &number.to_be_bytes()))
}

fn every(seconds: u64) -> Cadence {
    Cadence::Every(Duration::from_secs(seconds))
}

fn cron(expression: &str) -> Cadence {
    Cadence::Cron { expression: expression.into(), zone: chrono_tz::UTC, window: None }
}

fn monitor(number: u128, cadence: Cadence) -> Monitor {
    Monitor {
        id: id(number),
        owner: SYSTEM_USER,
        key: None,
        name: format!("monitor {number}").into(),
        url: "tcp://127.0.0.1:9".into(),
        kind: "tcp",
        source: Source::File,
        cadence,
        timeout: Duration::from_secs(10),
        confirmations: 2,
        recoveries: 1,
        retry_interval: Duration::from_secs(10),
        flap: Flap::default(),
        active: true,
        tags: Box::default(),
        depends_on: Box::default(),
    }
}

fn entry(monitor: Monitor) -> Arc<Entry> {
    let prepared = Prepared { probe: Arc::new(NoProbe), expect: Arc::new(Expectations::default()) };
    Arc::new(Entry { monitor, prepared, fingerprint: 0, secrets: Arc::new([]) })
}

#[derive(Default)]
struct Edit(Changes);

impl Edit {
    fn add(mut self, monitor: Monitor) -> Self {
        let state = MonitorState { last_checked: Some(START.parse().unwrap()), ..MonitorState::default() };
        self.0.added.push((entry(monitor), state));
        self
    }

    fn add_new(mut self, monitor: Monitor) -> Self {
        self.0.added.push((entry(monitor), MonitorState::default()));
        self
    }

    fn change(mut self, monitor: Monitor) -> Self {
        self.0.changed.push(entry(monitor));
        self
    }

    fn remove(mut self, number: u128) -> Self {
        self.0.removed.push((id(number), Removal::Archived));
        self
    }
}

/// A check that the fake pool received.
#[derive(Clone, Copy, Debug)]
struct Seen {
    monitor: MonitorId,
    attempt: u16,
    due_at: Instant,
    at: Instant,
}

struct House {
    wall: Arc<FakeWall>,
    book: Arc<Book>,
    stats: Arc<DispatchStats>,
    updates: mpsc::Sender<Update>,
    done: mpsc::Sender<Done>,
    tick: mpsc::Sender<()>,
    limit: watch::Sender<usize>,
    due: mpsc::Receiver<Due>,
    trigger: shutdown::Trigger,
    task: JoinHandle<()>,
}

impl House {
    fn new(limit: usize) -> Self {
        Self::starting(limit, START, limit)
    }

    fn starting(limit: usize, wall: &str, room: usize) -> Self {
        let wall =
            Arc::new(FakeWall { start: Instant::now(), begin: wall.parse().unwrap(), ahead_ms: AtomicI64::new(0) });
        let book = Arc::new(Book::default());
        let (updates, updates_in) = mpsc::channel(4);
        let (done, done_in) = mpsc::channel(1_024);
        let (tick, tick_in) = mpsc::channel(1);
        let (limit, max_in_flight) = watch::channel(limit);
        let (due_out, due) = mpsc::channel(room);
        let inputs = Inputs { updates: updates_in, done: done_in, tick: tick_in, max_in_flight };
        let dispatcher = Dispatcher::new(wall.clone(), book.clone(), due_out, inputs);
        let (trigger, signal) = shutdown::channel();
        let stats = dispatcher.stats();
        let task = tokio::spawn(dispatcher.run(signal));
        Self { wall, book, stats, updates, done, tick, limit, due, trigger, task }
    }

    async fn edit(&self, edit: Edit) {
        let update = Update { snapshot: Arc::new(Snapshot::default()), changes: Arc::new(edit.0) };
        self.updates.send(update).await.unwrap();
        // The paused clock moves only when every task is idle, so the dispatcher has applied it after this.
        sleep(Duration::from_millis(1)).await;
    }

    /// Lets time pass; every check takes and answers what `pool` says.
    async fn pass(&mut self, time: Duration, mut pool: impl FnMut(&Due) -> (Duration, Next, u16)) -> Vec<Seen> {
        let end = Instant::now() + time;
        let mut seen = Vec::new();
        loop {
            let due = tokio::select! {
                biased;
                due = self.due.recv() => due.expect("the dispatcher runs"),
                () = sleep_until(end) => return seen,
            };
            let monitor = due.entry.monitor.id;
            seen.push(Seen { monitor, attempt: due.attempt, due_at: due.due_at, at: Instant::now() });
            let (takes, next, attempt) = pool(&due);
            let done = self.done.clone();
            tokio::spawn(async move {
                sleep(takes).await;
                let _ = done.send(Done { monitor, next, attempt }).await;
            });
        }
    }

    async fn seconds(&mut self, seconds: u64) -> Vec<Seen> {
        self.pass(Duration::from_secs(seconds), |_| quick()).await
    }

    fn gaps(&self) -> Vec<Gap> {
        self.book.0.lock().unwrap().clone()
    }
}

fn quick() -> (Duration, Next, u16) {
    (Duration::from_millis(10), Next::Phase, 1)
}

fn of(seen: &[Seen], number: u128) -> Vec<Seen> {
    seen.iter().copied().filter(|s| s.monitor == id(number)).collect()
}

/// Times between the due times of consecutive checks.
fn intervals(seen: &[Seen]) -> Vec<Duration> {
    seen.windows(2).map(|pair| pair[1].due_at - pair[0].due_at).collect()
}

fn assert_punctual(seen: &[Seen]) {
    for check in seen {
        assert!(check.at - check.due_at <= Duration::from_millis(2), "{check:?}");
    }
}
