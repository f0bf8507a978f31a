use std::sync::Mutex;

use tokio::sync::Notify;
use tokio::time::advance;
use uuid::Uuid;

use super::questions::{REST_OF_SPAN, rest};
use super::*;
use crate::catalog::Entry;
use crate::maintenance::definition::MaintenanceRow;
use crate::maintenance::plan::Changes;
use crate::maintenance::rule::Recurrence;
use crate::maintenance::{FileRow, Progress};
use crate::model::{Cadence, Flap, Monitor, SYSTEM_USER, Source, Span, StoreFault, UserId};
use crate::probe::{Prepared, Probe, ProbeContext};
use crate::shutdown;
use crate::verdict::expectation::Expectations;

struct NoProbe;

impl Probe for NoProbe {
    fn probe<'a>(&'a self, _: &'a ProbeContext<'a>) -> BoxFuture<'a, crate::model::Observation> {
        Box::pin(std::future::pending())
    }
}

/// A clock that goes with the paused one, and can be set.
struct Clock(Instant, Mutex<DateTime<Utc>>);

impl Wall for Clock {
    fn now(&self) -> DateTime<Utc> {
        *self.1.lock().unwrap() + TimeDelta::from_std(self.0.elapsed()).unwrap()
    }
}

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
}

const ALICE: UserId = UserId(Uuid::from_u128(77));

fn entry(number: u128, owner: UserId, tags: &[&str]) -> Arc<Entry> {
    let monitor = Monitor {
        id: MonitorId(Uuid::from_u128(number)),
        owner,
        key: format!("m{number}").parse().ok(),
        name: "m".into(),
        url: "http://m/".into(),
        kind: "http",
        source: if owner == SYSTEM_USER { Source::File } else { Source::Database },
        cadence: Cadence::Every(Duration::from_secs(30)),
        timeout: Duration::from_secs(10),
        confirmations: 1,
        recoveries: 1,
        retry_interval: Duration::from_secs(10),
        flap: Flap::default(),
        active: true,
        tags: tags.iter().map(|tag| (*tag).into()).collect(),
        depends_on: [].into(),
    };
    let prepared = Prepared { probe: Arc::new(NoProbe), expect: Expectations::default().shared() };
    Arc::new(Entry { monitor, prepared, fingerprint: 0, secrets: Arc::default() })
}

fn row(number: u128, from: i64, seconds: i32) -> MaintenanceRow {
    MaintenanceRow {
        id: MaintenanceId(Uuid::from_u128(number)),
        user_id: ALICE,
        source: Source::Database,
        key: None,
        name: format!("row {number}"),
        description: None,
        monitors: Vec::new(),
        tags: Vec::new(),
        starts_at: Some(at(from)),
        duration_seconds: seconds,
        rrule: None,
        timezone: "UTC".to_owned(),
        exclude_from_uptime: true,
        invalid_reason: None,
        revision: 1,
        created_at: None,
        updated_at: None,
        archived_at: None,
    }
}

fn of_file(key: &str, from: i64, seconds: i32, monitors: &[&str]) -> FileMaintenance {
    FileMaintenance {
        key: key.parse().unwrap(),
        name: key.into(),
        description: None,
        monitors: monitors.iter().map(|key| key.parse().unwrap()).collect(),
        tags: Arc::from([]),
        starts_at: at(from),
        duration_seconds: seconds,
        rrule: None,
        zone: chrono_tz::UTC,
        excluded: true,
        recurrence: Arc::new(Recurrence::new(at(from), seconds.into(), chrono_tz::UTC, None).unwrap()),
    }
}

/// A store in memory.
#[derive(Default)]
struct Store {
    inner: Mutex<Inner>,
    told: Notify,
}

#[derive(Default)]
struct Inner {
    away: bool,
    rows: Vec<MaintenanceRow>,
    merged: Vec<FileRow>,
    spans: Vec<Span>,
    done_to: Option<DateTime<Utc>>,
    /// How long it takes to say how far spans are.
    slow: Duration,
    /// It does not say how far spans are.
    silent: bool,
}

impl Store {
    fn with<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> BoxFuture<'static, Result<T, StoreFault>>
    where
        T: Send + 'static,
    {
        let mut inner = self.inner.lock().unwrap();
        let answer = if inner.away { Err(StoreFault::Away("test".to_owned())) } else { Ok(act(&mut inner)) };
        Box::pin(std::future::ready(answer))
    }

    fn set(&self, rows: Vec<MaintenanceRow>) {
        self.inner.lock().unwrap().rows = rows;
        self.told.notify_one();
    }
}

impl MaintenanceStore for Store {
    fn merge_maintenances(&self, rows: Arc<[FileRow]>) -> BoxFuture<'_, Result<(), StoreFault>> {
        self.with(|inner| inner.merged = rows.to_vec())
    }

    fn load_maintenances(&self) -> BoxFuture<'_, Result<Vec<MaintenanceRow>, StoreFault>> {
        self.with(|inner| inner.rows.clone())
    }

    fn mark_maintenances(
        &self,
        reasons: Vec<(MaintenanceId, Option<String>)>,
    ) -> BoxFuture<'_, Result<(), StoreFault>> {
        self.with(|inner| {
            for (id, reason) in reasons {
                inner.rows.iter_mut().filter(|row| row.id == id).for_each(|row| row.invalid_reason = reason.clone());
            }
        })
    }

    fn span_progress(&self, now: DateTime<Utc>) -> BoxFuture<'_, Result<Progress, StoreFault>> {
        let slow = self.inner.lock().unwrap().slow;
        if self.inner.lock().unwrap().silent {
            return Box::pin(std::future::ready(Err(StoreFault::Away("test".to_owned()))));
        }
        let progress = self.with(|inner| {
            let since = inner.done_to.unwrap_or(now).min(now);
            let running = inner.spans.iter().filter(|span| span.to_at >= since).copied().collect();
            Progress { done_to: inner.done_to, running }
        });
        if slow.is_zero() {
            return progress;
        }
        Box::pin(async move {
            sleep(slow).await;
            progress.await
        })
    }

    fn write_spans(&self, changes: Changes, done_to: DateTime<Utc>) -> BoxFuture<'_, Result<(), StoreFault>> {
        self.with(|inner| {
            let key = |span: &Span| (span.monitor, span.from_at, span.maintenance);
            let gone: Vec<_> = changes.write.iter().chain(&changes.delete).map(key).collect();
            inner.spans.retain(|span| !gone.contains(&key(span)));
            inner.spans.extend(changes.write);
            inner.done_to = Some(done_to);
        })
    }

    fn maintenances_changed(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.told.notified())
    }
}

struct Bench {
    store: Arc<Store>,
    clock: Arc<Clock>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    covers: watch::Receiver<Arc<Covers>>,
    file: watch::Sender<Arc<[FileMaintenance]>>,
    report: Arc<SharedReport>,
    links: Links,
    running: Option<(shutdown::Trigger, tokio::task::JoinHandle<()>)>,
}

impl Bench {
    fn new() -> Self {
        let (covers_end, covers) = watch::channel(Arc::default());
        let (file, file_end) = watch::channel(Arc::from([]));
        let snapshot = Arc::new(ArcSwap::from_pointee(Snapshot::default()));
        let clock = Arc::new(Clock(Instant::now(), Mutex::new(at(0))));
        let report = Arc::new(SharedReport::default());
        let links = Links {
            covers: covers_end,
            snapshot: Arc::clone(&snapshot),
            file: file_end,
            settled: Arc::new(|| true),
            report: Arc::clone(&report),
            wall: Arc::clone(&clock) as Arc<dyn Wall>,
        };
        let mut bench = Self { store: Arc::default(), clock, snapshot, covers, file, report, links, running: None };
        bench.watch(&[entry(1, SYSTEM_USER, &["prod"]), entry(2, SYSTEM_USER, &[]), entry(3, ALICE, &["prod"])]);
        bench.start();
        bench
    }

    fn start(&mut self) {
        let (trigger, stop) = shutdown::channel();
        let keeper = Keeper::new(Arc::clone(&self.store), self.links.clone());
        self.running = Some((trigger, tokio::spawn(keeper.run(stop))));
    }

    async fn stop(&mut self) {
        let (trigger, task) = self.running.take().unwrap();
        trigger.fire();
        task.await.unwrap();
    }

    fn watch(&self, entries: &[Arc<Entry>]) {
        let monitors = entries.iter().map(|entry| (entry.monitor.id, Arc::clone(entry))).collect();
        self.snapshot.store(Arc::new(Snapshot { generation: self.snapshot.load().generation + 1, monitors }));
    }

    async fn pass(&self, seconds: u64) {
        for _ in 0..seconds * 4 {
            advance(Duration::from_millis(250)).await;
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
        }
    }

    fn covered(&self) -> Vec<u128> {
        let mut covered: Vec<u128> = self.covers.borrow().monitors.keys().map(|id| id.0.as_u128()).collect();
        covered.sort_unstable();
        covered
    }

    /// As `monitor: from to`, in whole seconds.
    fn spans(&self) -> Vec<String> {
        let mut spans = self.store.inner.lock().unwrap().spans.clone();
        spans.sort_by_key(|span| (span.monitor, span.from_at));
        let seconds = |time: DateTime<Utc>| (time - at(0)).num_seconds();
        let shown = |s: &Span| format!("{}: {} {}", s.monitor.0.as_u128(), seconds(s.from_at), seconds(s.to_at));
        spans.iter().map(shown).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn a_window_of_the_file_begins_and_ends_and_covers_whom_it_names() {
    let mut bench = Bench::new();
    bench.file.send_replace(Arc::from([of_file("night", 10, 20, &["m1"])]));
    bench.pass(9).await;
    assert_eq!(bench.covered(), [0_u128; 0]);
    assert_eq!(bench.store.inner.lock().unwrap().merged[0].monitors, [MonitorId(Uuid::from_u128(1))]);
    bench.pass(2).await;
    assert_eq!((bench.covered(), bench.spans()), (vec![1], vec!["1: 10 30".to_owned()]));
    let standing = &bench.report.get().standing[0];
    assert_eq!((&*standing.label, standing.monitors, standing.window.from), ("night", 1, at(10)));
    // All monitors: those that join in the middle do so now.
    bench.file.send_replace(Arc::from([of_file("night", 10, 20, &[])]));
    bench.pass(2).await;
    assert_eq!(bench.covered(), [1, 2, 3]);
    let spans = bench.spans();
    assert!(spans[0] == "1: 10 30" && ["2: 10 30", "2: 11 30"].contains(&&*spans[1]), "{spans:?}");
    bench.pass(18).await;
    assert_eq!(bench.covered(), [0_u128; 0]);
    assert_eq!(bench.spans(), spans);
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_row_covers_the_monitors_of_its_user_only_and_ends_with_its_row() {
    let mut bench = Bench::new();
    bench.pass(1).await;
    let bad = MaintenanceRow { rrule: Some("FREQ=SECONDLY".to_owned()), ..row(8, 0, 100) };
    let prod = MaintenanceRow { tags: vec!["prod".to_owned()], ..row(9, 0, 100) };
    bench.store.set(vec![bad, prod]);
    bench.pass(2).await;
    assert_eq!(bench.covered(), [3], "not the file's monitor with the same tag");
    let reason = bench.store.inner.lock().unwrap().rows[0].invalid_reason.clone().unwrap();
    assert!(reason.starts_with("rrule: FREQ=SECONDLY is too fine"), "{reason}");
    assert_eq!(bench.report.get().invalid, 1);
    let begun = bench.spans();
    assert!(["3: 0 100", "3: 1 100"].contains(&&*begun[0]), "from when it was known: {begun:?}");
    bench.pass(10).await;
    bench.store.set(Vec::new());
    bench.pass(2).await;
    assert_eq!(bench.covered(), [0_u128; 0]);
    let ended = bench.spans();
    assert!(["3: 1 13", "3: 0 13", "3: 1 14", "3: 0 14"].contains(&&*ended[0]), "{ended:?}");
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn windows_go_on_without_the_store_and_are_caught_up() {
    let mut bench = Bench::new();
    bench.file.send_replace(Arc::from([of_file("night", 10, 20, &["m1"]), of_file("later", 100, 20, &["m2"])]));
    bench.pass(5).await;
    bench.store.inner.lock().unwrap().away = true;
    bench.pass(10).await;
    assert_eq!((bench.covered(), bench.spans().len()), (vec![1], 0));
    bench.pass(20).await;
    assert_eq!(bench.covered(), [0_u128; 0]);
    bench.store.inner.lock().unwrap().away = false;
    bench.pass(31).await;
    assert_eq!(bench.spans(), ["1: 10 30"]);
    // Away itself while one passes.
    bench.stop().await;
    bench.pass(100).await;
    bench.start();
    bench.pass(2).await;
    assert_eq!(bench.spans(), ["1: 10 30", "2: 100 120"]);
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn windows_that_are_known_before_anything_was_ever_written_are_caught_up() {
    let mut bench = Bench::new();
    bench.store.inner.lock().unwrap().silent = true;
    bench.file.send_replace(Arc::from([of_file("night", 10, 20, &["m1"]), of_file("before", -20, 10, &["m2"])]));
    bench.store.set(vec![row(9, 10, 20)]);
    bench.pass(5).await;
    assert_eq!(bench.report.get().standing.len(), 2, "both are known");
    bench.store.inner.lock().unwrap().away = true;
    bench.pass(10).await;
    assert_eq!(bench.covered(), [1, 3]);
    bench.pass(20).await;
    assert_eq!(bench.covered(), [0_u128; 0]);
    let nothing = (bench.spans(), bench.store.inner.lock().unwrap().done_to);
    assert_eq!(nothing, (Vec::new(), None));
    bench.store.inner.lock().unwrap().away = false;
    bench.store.inner.lock().unwrap().silent = false;
    bench.pass(31).await;
    assert_eq!(bench.spans(), ["1: 10 30", "3: 10 30"], "as planned, and nothing of before the start");
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_was_slow_once_makes_no_later_span_late() {
    let mut bench = Bench::new();
    bench.file.send_replace(Arc::from([of_file("night", 20, 8, &["m1"])]));
    bench.store.inner.lock().unwrap().slow = Duration::from_secs(15);
    bench.pass(1).await;
    bench.store.inner.lock().unwrap().slow = Duration::ZERO;
    bench.pass(18).await;
    let done_to = bench.store.inner.lock().unwrap().done_to.unwrap();
    assert!(done_to < at(2), "it has answered, and was let be since: {done_to}");
    bench.pass(3).await;
    assert_eq!(bench.spans(), ["1: 20 28"]);
    bench.stop().await;
}

#[test]
fn many_spans_rest_and_few_do_not() {
    let (second, day) = (Duration::from_secs(1), Duration::from_secs(86_400));
    assert_eq!(rest(second / 100, 1), second / 10);
    assert_eq!(rest(second * 3, 1_000_000), second * 30);
    assert_eq!(rest(second * 40, 1), second + REST_OF_SPAN);
    assert_eq!(rest(day, 1_000_000), second * 101);
}

#[tokio::test(start_paused = true)]
async fn a_restart_inside_a_window_goes_on_with_its_span() {
    let mut bench = Bench::new();
    bench.file.send_replace(Arc::from([of_file("night", 10, 60, &["m1"])]));
    bench.pass(12).await;
    bench.stop().await;
    bench.pass(20).await;
    bench.start();
    bench.pass(2).await;
    assert_eq!((bench.covered(), bench.spans()), (vec![1], vec!["1: 10 70".to_owned()]));
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_is_followed() {
    let mut bench = Bench::new();
    bench.file.send_replace(Arc::from([of_file("night", 1000, 60, &["m1"])]));
    bench.pass(3).await;
    *bench.clock.1.lock().unwrap() = at(1010);
    bench.pass(2).await;
    assert_eq!(bench.covered(), [1]);
    *bench.clock.1.lock().unwrap() = at(0);
    bench.pass(2).await;
    assert_eq!(bench.covered(), [0_u128; 0]);
    assert_eq!(bench.spans(), [""; 0], "it has not begun");
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_before_anything_was_ever_written_brings_back_no_old_windows() {
    let mut bench = Bench::new();
    bench.store.inner.lock().unwrap().silent = true;
    bench.file.send_replace(Arc::from([of_file("old", 500, 60, &["m1"]), of_file("night", 1007, 5, &["m2"])]));
    bench.pass(3).await;
    *bench.clock.1.lock().unwrap() = at(1000);
    bench.pass(20).await;
    bench.store.inner.lock().unwrap().silent = false;
    bench.pass(31).await;
    assert_eq!(bench.spans(), ["2: 1007 1012"], "what it lived through, by the clock as it is now");
    bench.stop().await;
}
