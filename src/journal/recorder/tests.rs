use std::collections::VecDeque;

use chrono::DateTime;
use futures_util::future::BoxFuture;

use super::*;
use crate::journal::delayed::DELAYED_MOST;
use crate::journal::{Journal, StatusRow};
use crate::model::{Check, MonitorState, Status, Timings, Verdict};

/// A store that follows a script of faults, then records.
#[derive(Default)]
struct Fake {
    faults: Mutex<VecDeque<StoreFault>>,
    locked: Mutex<HashSet<MonitorId>>,
    /// What is refused.
    poison: Option<fn(&Record) -> bool>,
    /// All batches that came, with their records.
    parts: Mutex<Vec<Vec<Record>>>,
    /// Rows come free after so many batches were written; 0: never by themselves.
    unlock_after: usize,
    written: Mutex<usize>,
    batches: Mutex<Vec<BatchId>>,
    records: Mutex<Vec<Record>>,
    columns: Mutex<Vec<StatusRow>>,
    writes: Mutex<Vec<usize>>,
}

impl RecordStore for Fake {
    fn record<'a>(&'a self, batch: &'a Batch) -> BoxFuture<'a, Result<Recorded, StoreFault>> {
        Box::pin(async move {
            self.batches.lock().unwrap().push(batch.id);
            if let Some(fault) = self.faults.lock().unwrap().pop_front() {
                return Err(fault);
            }
            self.parts.lock().unwrap().push(batch.records.clone());
            if self.poison.is_some_and(|is_bad| batch.records.iter().any(is_bad)) {
                return Err(StoreFault::Refused("a bad value".into()));
            }
            let locked = self.locked.lock().unwrap().clone();
            let delayed: HashSet<_> =
                batch.records.iter().filter_map(Record::monitor).filter(|id| locked.contains(id)).collect();
            let written = batch.records.iter().filter(|r| r.monitor().is_none_or(|id| !delayed.contains(&id)));
            let before = self.records.lock().unwrap().len();
            self.records.lock().unwrap().extend(written.cloned());
            let checks = self.records.lock().unwrap().len() - before;
            *self.written.lock().unwrap() += 1;
            if *self.written.lock().unwrap() == self.unlock_after {
                self.locked.lock().unwrap().clear();
            }
            Ok(Recorded { checks, dropped: 0, delayed })
        })
    }

    fn write_status<'a>(&'a self, rows: &'a [StatusRow]) -> BoxFuture<'a, Result<Vec<MonitorId>, StoreFault>> {
        Box::pin(async move {
            self.columns.lock().unwrap().extend_from_slice(rows);
            self.writes.lock().unwrap().push(rows.len());
            Ok(Vec::new())
        })
    }
}

fn id(number: u128) -> MonitorId {
    MonitorId(Uuid::from_u128(number))
}

fn check(monitor: u128, second: i64) -> Record {
    Record::Check(Check {
        monitor: id(monitor),
        verdict: Verdict::Up,
        failure: None,
        message: None,
        status_code: Some(200),
        timings: Timings::default(),
        address: None,
        http_version: None,
        certificate: None,
        details: None,
        attempt: 1,
        checked_at: chrono::DateTime::from_timestamp(second, 0).unwrap(),
    })
}

fn state(monitor: u128) -> Record {
    Record::State(id(monitor), Box::default())
}

/// A journal in a folder of its own.
struct Folder {
    journal: Arc<DiskJournal>,
    _folder: tempfile::TempDir,
}

impl Folder {
    /// In the log at once, so that paused time does not run ahead of the thread that writes.
    fn append(&self, records: Vec<Record>) {
        self.journal.write(vec![records]);
    }

    fn close(&self) {
        self.journal.close();
    }
}

fn start(fake: Fake) -> (Folder, Arc<Fake>, Arc<RecorderStats>, tokio::task::JoinHandle<()>) {
    let folder = tempfile::tempdir().unwrap();
    let journal = Arc::new(DiskJournal::open(folder.path(), 1 << 30, DateTime::UNIX_EPOCH).unwrap());
    let (fake, stats) = (Arc::new(fake), Arc::default());
    let recorder = Recorder::new(Arc::clone(&journal), Arc::clone(&fake), Arc::clone(&stats));
    (Folder { journal, _folder: folder }, fake, stats, tokio::spawn(recorder.run()))
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_repeated_under_its_id_until_the_store_is_back() {
    let faults = (0..5).map(|_| StoreFault::Away("gone".into())).collect();
    let (backlog, fake, stats, task) = start(Fake { faults: Mutex::new(faults), ..Fake::default() });
    backlog.append(vec![check(1, 1), check(2, 1)]);
    backlog.close();
    task.await.unwrap();
    let ids: HashSet<_> = fake.batches.lock().unwrap().iter().copied().collect();
    assert_eq!((ids.len(), fake.batches.lock().unwrap().len()), (1, 6));
    assert_eq!(fake.records.lock().unwrap().len(), 2);
    assert_eq!(stats.fault(), None);
}

#[tokio::test(start_paused = true)]
async fn one_bad_record_does_not_cost_the_others() {
    let poison = |record: &Record| record.monitor() == Some(id(7)) && record.is_thinnable();
    let (backlog, fake, stats, task) = start(Fake { poison: Some(poison), ..Fake::default() });
    backlog.append((1..=20).map(|number| check(number, 1)).collect());
    backlog.close();
    task.await.unwrap();
    let records = fake.records.lock().unwrap();
    assert_eq!(records.iter().filter_map(Record::monitor).collect::<Vec<_>>(), (1..=20).map(id).collect::<Vec<_>>());
    let Record::Gap(gap) = &records[6] else { panic!("{:?}", records[6]) };
    assert_eq!((gap.reason, gap.from_at.timestamp()), (GapReason::RecordingLost, 1));
    assert_eq!(stats.refused.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_gap_that_is_refused_as_well_is_counted_only() {
    let poison = |record: &Record| record.monitor() == Some(id(2));
    let (backlog, fake, stats, task) = start(Fake { poison: Some(poison), ..Fake::default() });
    backlog.append(vec![check(1, 1), check(2, 1), check(3, 1)]);
    backlog.close();
    task.await.unwrap();
    assert_eq!(*fake.records.lock().unwrap(), [check(1, 1), check(3, 1)]);
    assert_eq!(stats.refused.load(Ordering::Relaxed), 2, "the check and its gap");
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_is_cut_between_groups() {
    let poison = |record: &Record| *record == check(9, 9);
    let (backlog, fake, _, task) = start(Fake { poison: Some(poison), ..Fake::default() });
    let group = |monitor, second| vec![check(monitor, second), state(monitor)];
    for (monitor, second) in [(1, 1), (1, 2), (2, 1), (9, 9), (1, 3), (3, 1), (4, 1)] {
        backlog.append(group(monitor, second));
    }
    backlog.close();
    task.await.unwrap();
    for part in fake.parts.lock().unwrap().iter().filter(|part| part.iter().all(|r| r.monitor() != Some(id(9)))) {
        assert!(part.first().unwrap().is_thinnable() && part.len().is_multiple_of(2), "{part:?}");
    }
    let records = fake.records.lock().unwrap();
    assert_eq!(records.len(), 14, "the gap stands for the check");
    assert!(records.contains(&state(9)));
}

#[tokio::test(start_paused = true)]
async fn a_monitor_that_the_first_half_delays_waits_in_the_second() {
    let poison = |record: &Record| *record == check(9, 9);
    let fake =
        Fake { poison: Some(poison), locked: Mutex::new(HashSet::from([id(1)])), unlock_after: 1, ..Fake::default() };
    let (backlog, fake, _, task) = start(fake);
    backlog.append(vec![check(1, 1), check(2, 1), check(1, 2), check(9, 9)]);
    backlog.close();
    task.await.unwrap();
    let of_one: Vec<_> = fake.records.lock().unwrap().iter().filter(|r| r.monitor() == Some(id(1))).cloned().collect();
    assert_eq!(of_one, [check(1, 1), check(1, 2)], "in order");
}

#[tokio::test(start_paused = true)]
async fn records_of_locked_rows_wait_in_order_and_hold_up_nobody() {
    let (backlog, fake, stats, task) = start(Fake { locked: Mutex::new(HashSet::from([id(1)])), ..Fake::default() });
    for second in 1..=3 {
        backlog.append(vec![check(1, second), check(2, second)]);
        tokio::time::sleep(Duration::from_millis(600)).await;
    }
    assert_eq!(fake.records.lock().unwrap().iter().filter(|r| r.monitor() == Some(id(2))).count(), 3);
    assert_eq!(stats.delayed.load(Ordering::Relaxed), 3);
    fake.locked.lock().unwrap().clear();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let of_one: Vec<Record> =
        fake.records.lock().unwrap().iter().filter(|r| r.monitor() == Some(id(1))).cloned().collect();
    assert_eq!(of_one, (1..=3).map(|second| check(1, second)).collect::<Vec<_>>());
    backlog.close();
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn columns_are_written_on_a_change_or_every_ten_checks_or_thirty_seconds() {
    let (backlog, fake, _, task) = start(Fake::default());
    let up = MonitorState { status: Status::Up, ..MonitorState::default() };
    backlog.append(vec![check(1, 0), Record::State(id(1), Box::new(up))]);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(fake.columns.lock().unwrap().len(), 1, "the change");
    for second in 1..=9 {
        backlog.append(vec![check(1, second)]);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(fake.columns.lock().unwrap().len(), 1, "nine checks are not due");
    backlog.append(vec![check(1, 10)]);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(fake.columns.lock().unwrap().len(), 2, "ten are");
    backlog.append(vec![check(1, 11)]);
    tokio::time::sleep(Duration::from_secs(33)).await;
    assert_eq!(fake.columns.lock().unwrap().len(), 3, "one after thirty seconds is");
    let last = fake.columns.lock().unwrap().last().cloned().unwrap();
    assert_eq!((last.status, last.last_checked.unwrap().timestamp()), (Some(Status::Up), 11));
    backlog.close();
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn many_columns_are_written_in_parts() {
    let (backlog, fake, _, task) = start(Fake::default());
    let up = MonitorState { status: Status::Up, ..MonitorState::default() };
    let states = |range: std::ops::RangeInclusive<u128>| {
        range.map(|number| Record::State(id(number), Box::new(up.clone()))).collect::<Vec<_>>()
    };
    backlog.append(states(1..=4_500));
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(*fake.writes.lock().unwrap(), [2_000, 2_000, 500]);
    backlog.append(states(1..=4_500));
    backlog.close();
    task.await.unwrap();
    assert_eq!(fake.writes.lock().unwrap()[3..], [2_000, 2_000, 500], "at the end as well");
}

#[tokio::test(start_paused = true)]
async fn a_row_that_stays_locked_is_tried_less_often_and_its_records_are_bounded() {
    let fake = Fake { locked: Mutex::new(HashSet::from([id(1)])), ..Fake::default() };
    let (backlog, fake, stats, task) = start(fake);
    let most = DELAYED_MOST as i64;
    for second in 0..most {
        backlog.append(vec![check(1, second), state(1)]);
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(stats.delayed.load(Ordering::Relaxed), DELAYED_MOST as u64 + 2, "and a gap and a state");
    let tries = fake.batches.lock().unwrap().len();
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert!(fake.batches.lock().unwrap().len() - tries <= 11, "every half minute");
    fake.locked.lock().unwrap().clear();
    fake.parts.lock().unwrap().clear();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(fake.parts.lock().unwrap().iter().all(|part| part.len() <= BATCH_RECORDS));
    let records = fake.records.lock().unwrap().clone();
    assert_eq!(records.len(), DELAYED_MOST + 2);
    let Record::Gap(gap) = &records[DELAYED_MOST] else { panic!("{:?}", records[DELAYED_MOST]) };
    assert_eq!((gap.from_at.timestamp(), gap.to_at.timestamp()), (most / 2, most - 1));
    backlog.close();
    task.await.unwrap();
}

#[test]
fn a_fenced_daemon_does_not_promise_that_results_wait() {
    let fenced = consequence(&StoreFault::Fenced(String::new()));
    assert!(fenced.contains("dropped") && !fenced.contains("checks go on"), "{fenced}");
    assert!(consequence(&StoreFault::Away(String::new())).contains("results wait in the journal, checks go on"));
}
