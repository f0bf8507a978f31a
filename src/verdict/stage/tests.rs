use std::sync::Mutex;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::BoxFuture;

use super::updates::ARCHIVED_MOST;
use super::*;
use crate::catalog::{Changes, Removal, Snapshot};
use crate::model::{Cadence, Failure, Fault, Flap, Gap, GapReason, Observation, ResolveReason, SYSTEM_USER, Source};
use crate::probe::{Prepared, Probe, ProbeContext};
use crate::verdict::expectation::Expectations;

mod board;
mod covering;
mod driven;

struct NoProbe;

impl Probe for NoProbe {
    fn probe<'a>(&'a self, _: &'a ProbeContext<'a>) -> BoxFuture<'a, Observation> {
        Box::pin(std::future::pending())
    }
}

#[derive(Default)]
struct Memory(Mutex<Vec<Vec<Record>>>, std::sync::atomic::AtomicBool);

impl Journal for Memory {
    fn append(&self, records: Vec<Record>) {
        assert!(!records.is_empty());
        self.0.lock().unwrap().push(records);
    }

    fn keep(&self, groups: Vec<Vec<Record>>) -> bool {
        self.write(groups);
        !self.1.load(std::sync::atomic::Ordering::Relaxed)
    }
}

struct Stopped;

impl Wall for Stopped {
    fn now(&self) -> DateTime<Utc> {
        at(1000)
    }
}

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000 + seconds, 0).unwrap()
}

fn id(number: u128) -> MonitorId {
    MonitorId(Uuid::from_u128(number))
}

fn monitor(number: u128) -> Monitor {
    Monitor {
        id: id(number),
        owner: SYSTEM_USER,
        key: None,
        name: format!("m{number}").into(),
        url: format!("http://m{number}/").into(),
        kind: "http",
        source: Source::File,
        cadence: Cadence::Every(Duration::from_secs(30)),
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
    let prepared = Prepared { probe: Arc::new(NoProbe), expect: Expectations::default().shared() };
    Arc::new(Entry { monitor, prepared, fingerprint: 0, secrets: Arc::default() })
}

fn result(entry: &Arc<Entry>, seconds: i64, failure: Option<Failure>) -> Finished {
    let mut observation = Observation::new(at(seconds));
    observation.fault = failure.map(|failure| Fault::new(failure, "it broke"));
    Finished::of(Arc::clone(entry), 1, &observation)
}

const DOWN: Option<Failure> = Some(Failure::ConnectRefused);
const UNKNOWN: Option<Failure> = Some(Failure::ResourceExhausted);

/// A stage that runs, and what is connected to it.
struct Bench {
    finished: mpsc::Sender<Finished>,
    updates: mpsc::Sender<Update>,
    states: mpsc::Sender<StatesRequest>,
    done: mpsc::Receiver<Done>,
    journal: Arc<Memory>,
    board: Arc<Board>,
    pings: Arc<Pings>,
    covers: watch::Sender<Arc<Covers>>,
    running: tokio::task::JoinHandle<()>,
}

impl Bench {
    fn start() -> Self {
        Self::start_by(Arc::new(Stopped))
    }

    fn start_by(wall: Arc<dyn Wall>) -> Self {
        let (finished, finished_end) = mpsc::channel(64);
        let (updates, updates_end) = mpsc::channel(8);
        let (states, states_end) = mpsc::channel(1);
        let (done_end, done) = mpsc::channel(64);
        let (journal, board) = (Arc::new(Memory::default()), Arc::new(Board::default()));
        let (to_pings, pinged) = mpsc::channel(64);
        let pings = Arc::new(Pings::new(to_pings));
        let (covers, covers_end) = watch::channel(Arc::default());
        let stage = Stage {
            finished: finished_end,
            updates: updates_end,
            states: states_end,
            done: done_end,
            journal: journal.clone(),
            wall,
            board: board.clone(),
            pings: pings.clone(),
            pinged,
            covers: covers_end,
        };
        let running = tokio::spawn(stage.run());
        Self { finished, updates, states, done, journal, board, pings, covers, running }
    }

    async fn with(entries: &[&Arc<Entry>]) -> Self {
        let bench = Self::start();
        let added = entries.iter().map(|entry| (Arc::clone(entry), MonitorState::default())).collect();
        bench.update(Changes { added, ..Changes::default() }).await;
        bench
    }

    async fn update(&self, changes: Changes) {
        let update = Update { snapshot: Arc::new(Snapshot::default()), changes: Arc::new(changes) };
        assert!(self.updates.send(update).await.is_ok());
        // The stage takes updates first, so capacity that is back means that it was applied before any later result.
        while self.updates.capacity() < self.updates.max_capacity() {
            tokio::task::yield_now().await;
        }
    }

    async fn check(&mut self, finished: Finished) -> Done {
        let id = finished.check.monitor;
        assert!(self.finished.send(finished).await.is_ok());
        let done = self.done.recv().await.unwrap();
        assert_eq!(done.monitor, id);
        done
    }

    /// What was appended since the last time: one word a record, batches apart.
    fn records(&self) -> Vec<String> {
        let batches = std::mem::take(&mut *self.journal.0.lock().unwrap());
        let word = |record: &Record| match record {
            Record::Check(check) => check.verdict.name().to_owned(),
            Record::State(_, state) => format!("state:{}", state.shown()),
            Record::Open(opening) => format!("open:{}", opening.started_at.timestamp() - at(0).timestamp()),
            Record::Resolve(resolution) => format!("resolve:{}", resolution.reason.name()),
            Record::Gap(gap) => format!("gap:{}:{}", gap.reason, (gap.to_at - gap.from_at).num_seconds()),
        };
        batches.iter().map(|batch| batch.iter().map(word).collect::<Vec<_>>().join(" ")).collect()
    }

    async fn end(self) -> mpsc::Receiver<Done> {
        drop((self.finished, self.updates));
        self.running.await.unwrap();
        self.done
    }
}

#[tokio::test(start_paused = true)]
async fn checks_become_records_in_order() {
    let shop = entry(monitor(1));
    let mut bench = Bench::with(&[&shop]).await;
    assert_eq!(bench.check(result(&shop, 0, None)).await.next, Next::Phase);
    assert_eq!(bench.check(result(&shop, 30, None)).await.next, Next::Phase);
    let done = bench.check(result(&shop, 60, DOWN)).await;
    assert_eq!((done.next, done.attempt), (Next::Retry(Duration::from_secs(10)), 2));
    bench.check(result(&shop, 65, UNKNOWN)).await;
    bench.check(result(&shop, 70, DOWN)).await;
    bench.check(result(&shop, 100, None)).await;
    assert_eq!(
        bench.records(),
        [
            "up state:up",
            "up",
            "down state:up",
            "gap:resource_exhausted:30 state:unknown",
            "down open:60 state:down",
            "up resolve:recovered state:up"
        ]
    );
    let row = bench.board.row(id(1)).unwrap();
    assert_eq!((row.shown, row.counts.get(Verdict::Down), row.counts.total()), (Status::Up, 2, 6));
    assert_eq!(row.latest.unwrap().checked_at, at(100));
    let totals = bench.board.totals();
    assert_eq!((totals.opened, totals.resolved, totals.discarded), (1, 1, 0));
    assert_eq!(totals.kinds[0].1.get(Verdict::Unknown), 1);
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_steady_state_is_stored_now_and_then() {
    let shop = entry(monitor(1));
    let mut bench = Bench::with(&[&shop]).await;
    for second in 0..61 {
        bench.check(result(&shop, second, None)).await;
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    let stored = |records: Vec<String>| records.iter().filter(|batch| batch.contains("state")).count();
    // The first, which changes pending to up; then every 30 s, not every 10 checks.
    assert_eq!(stored(bench.records()), 3);
    tokio::time::advance(Duration::from_secs(3600)).await;
    bench.check(result(&shop, 3700, None)).await;
    assert_eq!(stored(bench.records()), 1);
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_gone_paused_or_aimed_elsewhere_counts_for_nothing() {
    let shop = entry(monitor(1));
    let mut bench = Bench::with(&[&shop]).await;
    bench.check(result(&shop, 0, DOWN)).await;
    bench.records();
    // The same target under other rules: the result counts under those.
    let hasty = entry(Monitor { confirmations: 1, ..monitor(1) });
    bench.update(Changes { changed: vec![hasty.clone()], ..Changes::default() }).await;
    bench.check(result(&shop, 10, DOWN)).await;
    assert_eq!(bench.records(), ["down open:0 state:down"]);
    // Another target: what is in flight says nothing about it, and the old streak neither.
    let moved = entry(Monitor { url: "http://elsewhere/".into(), ..monitor(1) });
    bench.update(Changes { changed: vec![moved.clone()], ..Changes::default() }).await;
    let done = bench.check(result(&shop, 20, None)).await;
    assert_eq!((done.next, done.attempt), (Next::Phase, 1));
    assert_eq!(bench.records(), ["state:down"]);
    bench.check(result(&moved, 30, None)).await;
    assert_eq!(bench.records(), ["up resolve:recovered state:up"]);
    bench.check(result(&moved, 35, DOWN)).await;
    let again = entry(Monitor { url: "http://third/".into(), ..monitor(1) });
    bench.update(Changes { changed: vec![again.clone()], ..Changes::default() }).await;
    bench.check(result(&again, 36, DOWN)).await;
    assert_eq!(bench.records(), ["down state:up", "state:up", "down state:up"]);
    let paused = entry(Monitor { active: false, ..again.monitor.clone() });
    bench.update(Changes { changed: vec![paused], ..Changes::default() }).await;
    bench.check(result(&again, 40, DOWN)).await;
    bench.update(Changes { removed: vec![(id(1), Removal::Deleted)], ..Changes::default() }).await;
    bench.check(result(&moved, 50, DOWN)).await;
    // Ends no gap of length zero: the wall clock of this test stands still.
    assert_eq!(bench.records(), ["state:paused"]);
    assert_eq!(bench.board.totals().discarded, 3);
    assert!(bench.board.row(id(1)).is_none() && bench.board.rows().is_empty());
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn pauses_and_removals_end_incidents() {
    let entries: Vec<Arc<Entry>> = (1..=4).map(|n| entry(Monitor { confirmations: 1, ..monitor(n) })).collect();
    let mut bench = Bench::with(&entries.iter().collect::<Vec<_>>()).await;
    for entry in &entries {
        bench.check(result(entry, 0, DOWN)).await;
    }
    bench.records();
    let paused = entry(Monitor { active: false, ..entries[0].monitor.clone() });
    let removed = vec![(id(2), Removal::Archived), (id(3), Removal::Deleted), (id(4), Removal::Invalid)];
    bench.update(Changes { changed: vec![paused], removed, ..Changes::default() }).await;
    assert_eq!(
        bench.records(),
        ["resolve:archived state:pending", "resolve:deleted", "state:unknown", "resolve:paused state:paused"]
    );
    assert_eq!(bench.board.row(id(4)).unwrap().shown, Status::Unknown);
    assert_eq!(bench.board.tally().monitors.values().sum::<usize>(), 2);
    // They return. What the store remembers is older than what the stage knows: it says that incidents are open.
    let stale = MonitorState { status: Status::Down, incident: Some(IncidentUid(Uuid::nil())), ..Default::default() };
    let added = entries[1..].iter().map(|entry| (Arc::clone(entry), stale.clone())).collect();
    bench.update(Changes { added, ..Changes::default() }).await;
    assert_eq!(bench.records(), ["state:down"]);
    bench.check(result(&entries[1], 1, None)).await;
    bench.check(result(&entries[3], 1, None)).await;
    assert_eq!(bench.records(), ["up state:up", "up resolve:recovered state:up"]);
    bench.end().await;
}

impl Bench {
    async fn states(&self) -> HashMap<MonitorId, MonitorState> {
        let (ask, answer) = tokio::sync::oneshot::channel();
        self.states.send(StatesRequest::Ids(ask)).await.unwrap();
        let mut ids = answer.await.unwrap();
        // Somebody who has no state, such as one that was deleted meanwhile.
        ids.push(MonitorId(Uuid::from_u128(u128::MAX)));
        let (ask, answer) = tokio::sync::oneshot::channel();
        self.states.send(StatesRequest::Of(ids.clone(), ask)).await.unwrap();
        let states = answer.await.unwrap();
        assert_eq!(states.len(), ids.len() - 1);
        states.into_iter().collect()
    }
}

#[tokio::test(start_paused = true)]
async fn an_invalid_monitor_that_is_deleted_is_gone() {
    let shop = entry(Monitor { confirmations: 1, ..monitor(1) });
    let mut bench = Bench::with(&[&shop]).await;
    bench.check(result(&shop, 0, DOWN)).await;
    for removal in [Removal::Invalid, Removal::Deleted] {
        bench.update(Changes { removed: vec![(id(1), removal)], ..Changes::default() }).await;
        assert_eq!(bench.board.rows().len(), usize::from(removal == Removal::Invalid));
    }
    assert_eq!(bench.records(), ["down open:0 state:down", "state:unknown", "resolve:deleted"]);
    assert!(bench.states().await.is_empty());
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_latest_archived_monitors_are_kept_for_their_return() {
    let most = u128::try_from(ARCHIVED_MOST).unwrap();
    let entries: Vec<Arc<Entry>> = (1..=most + 10).map(|n| entry(monitor(n))).collect();
    let bench = Bench::with(&entries.iter().collect::<Vec<_>>()).await;
    let archive = |ids: std::ops::RangeInclusive<u128>| Changes {
        removed: ids.map(|n| (id(n), Removal::Archived)).collect(),
        ..Changes::default()
    };
    // The first returns and becomes invalid: it is none of the archived any more.
    bench.update(archive(1..=1)).await;
    let added = vec![(entries[0].clone(), MonitorState::default())];
    bench.update(Changes { added, ..Changes::default() }).await;
    bench.update(Changes { removed: vec![(id(1), Removal::Invalid)], ..Changes::default() }).await;
    bench.update(archive(2..=most + 10)).await;
    let states = bench.states().await;
    assert_eq!(states.len(), ARCHIVED_MOST + 1);
    assert!(states.contains_key(&id(1)) && !states.contains_key(&id(10)) && states.contains_key(&id(11)));
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_restored_goes_on() {
    let (down, dismissed, back, paused) =
        (entry(monitor(1)), entry(monitor(2)), entry(monitor(3)), entry(Monitor { active: false, ..monitor(4) }));
    let uid = IncidentUid(Uuid::from_u128(99));
    let open = MonitorState {
        status: Status::Down,
        since: Some(at(0)),
        failures: 2,
        incident: Some(uid),
        ..MonitorState::default()
    };
    let mut resting = MonitorState::default();
    machine::paused(&mut resting, id(3), at(900));
    let added = vec![
        (down.clone(), open.clone()),
        (dismissed.clone(), open.clone()),
        (back.clone(), resting),
        (paused.clone(), open.clone()),
    ];
    let mut bench = Bench::start();
    bench.update(Changes { added, dismissed: vec![(id(2), uid)], ..Changes::default() }).await;
    assert_eq!(bench.records(), ["gap:paused:100 state:pending", "resolve:paused state:paused", "state:down"]);
    bench.check(result(&down, 10, DOWN)).await;
    bench.check(result(&dismissed, 10, DOWN)).await;
    bench.check(result(&down, 20, None)).await;
    bench.check(result(&dismissed, 20, None)).await;
    assert_eq!(bench.records(), ["down", "down", "up resolve:recovered state:up", "up state:up"]);
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_went_with_a_deleted_row_is_recorded_again() {
    let (down, fine) = (entry(monitor(1)), entry(monitor(2)));
    let mut bench = Bench::with(&[&down, &fine]).await;
    for second in [0, 10] {
        bench.check(result(&down, second, DOWN)).await;
    }
    bench.check(result(&fine, 10, None)).await;
    let uid = bench.board.row(id(1)).unwrap().incident.unwrap();
    bench.records();
    bench.update(Changes { remade: vec![id(1), id(2), id(9)], ..Changes::default() }).await;
    assert_eq!(bench.records(), ["open:0 state:down", "state:up"]);
    assert_eq!(bench.board.row(id(1)).unwrap().incident, Some(uid), "it is the same incident");
    bench.check(result(&down, 20, DOWN)).await;
    bench.check(result(&down, 30, None)).await;
    assert_eq!(bench.records(), ["down", "up resolve:recovered state:up"]);
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_incident_that_is_found_open_ends_when_its_monitor_is_paused_already() {
    let paused = entry(Monitor { active: false, ..monitor(1) });
    let mut found = MonitorState::default();
    machine::paused(&mut found, id(1), at(900));
    let since = found.unobserved;
    (found.status, found.incident) = (Status::Down, Some(IncidentUid(Uuid::from_u128(99))));
    let bench = Bench::start();
    bench.update(Changes { added: vec![(paused, found)], ..Changes::default() }).await;
    let batches = std::mem::take(&mut *bench.journal.0.lock().unwrap());
    let [Record::Resolve(resolution), Record::State(_, state)] = &batches[0][..] else { panic!("{batches:?}") };
    assert_eq!((resolution.reason, state.incident, state.unobserved), (ResolveReason::Paused, None, since));
    assert_eq!(batches.len(), 1);
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_incident_names_the_dependency_that_is_down() {
    let gateway = entry(Monitor { confirmations: 1, ..monitor(1) });
    let shop = entry(Monitor { confirmations: 1, depends_on: [id(9), id(1)].into(), ..monitor(2) });
    let mut bench = Bench::with(&[&gateway, &shop]).await;
    let mut causes = Vec::new();
    for (of_gateway, second) in [(None, 0), (DOWN, 60)] {
        bench.check(result(&gateway, second, of_gateway)).await;
        bench.check(result(&shop, second + 1, DOWN)).await;
        let batches = std::mem::take(&mut *bench.journal.0.lock().unwrap());
        causes.extend(batches.into_iter().flatten().filter_map(|record| match record {
            Record::Open(opening) if opening.monitor == id(2) => Some(opening.caused_by),
            _ => None,
        }));
        bench.check(result(&shop, second + 2, None)).await;
    }
    assert_eq!(causes, [None, Some(id(1))]);
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn everything_in_flight_is_taken_before_the_end() {
    let shop = entry(monitor(1));
    let bench = Bench::with(&[&shop]).await;
    for second in 0..50 {
        assert!(bench.finished.send(result(&shop, second, None)).await.is_ok());
    }
    let journal = bench.journal.clone();
    let mut done = bench.end().await;
    let mut answers = 0;
    while done.recv().await.is_some() {
        answers += 1;
    }
    let checks = journal.0.lock().unwrap().iter().flatten().filter(|r| matches!(r, Record::Check(_))).count();
    assert_eq!((answers, checks), (50, 50));
}

#[tokio::test(start_paused = true)]
async fn nobody_to_answer_stops_nothing() {
    let shop = entry(monitor(1));
    let Bench { finished, updates, done, journal, running, .. } = Bench::with(&[&shop]).await;
    drop((done, updates));
    for second in 0..200 {
        assert!(finished.send(result(&shop, second, None)).await.is_ok());
    }
    drop(finished);
    running.await.unwrap();
    assert_eq!(journal.0.lock().unwrap().len(), 200);
}

#[test]
fn an_unknown_check_makes_no_row() {
    let check = result(&entry(monitor(1)), 0, UNKNOWN).check;
    let gap = Gap { monitor: None, from_at: at(0), to_at: at(0) + TimeDelta::seconds(1), reason: GapReason::Internal };
    let step = Step { transition: None, retry: None, next_attempt: 1, state_changed: false, gap: Some(gap) };
    assert_eq!(records(check, step, None), [Record::Gap(gap)]);
}
