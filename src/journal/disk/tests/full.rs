//! A disk that is full, and a journal that is.

use std::sync::atomic::AtomicI64;

use super::*;
use crate::model::GapReason;

/// A disk that fails after so many bytes, with a part of what was to be written; negative: never.
struct Small(AtomicI64);

impl Disk for Small {
    fn append(&self, file: &File, bytes: &[u8]) -> io::Result<()> {
        let left = self.0.load(Ordering::SeqCst);
        let part = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
        segment::RealDisk.append(file, &bytes[..part])?;
        if left >= 0 {
            self.0.fetch_sub(part as i64, Ordering::SeqCst);
        }
        if part < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

/// Waits until the disk is told to be full, or to be well.
async fn wait_told(journal: &DiskJournal, full: bool) {
    let told = async {
        while journal.unwritable().is_some() != full {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), told).await.unwrap();
}

/// What a kill leaves while the disk is full; then it is well again.
async fn killed_while_full(journal: &DiskJournal, disk: &Small, folder: &TempDir) -> TempDir {
    wait_told(journal, true).await;
    let copy = copy_of(folder.path());
    disk.0.store(-1, Ordering::SeqCst);
    copy
}

#[tokio::test]
async fn a_full_disk_is_told_and_loses_no_order() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(Small(AtomicI64::new(-1)));
    let journal = DiskJournal::open_on(disk.clone(), folder.path(), 1 << 30, at(0)).unwrap();
    journal.write(vec![vec![check(1, 0)]]);
    // A part of the next frame still fits.
    disk.0.store(20, Ordering::SeqCst);
    for second in 1..100 {
        journal.write(vec![vec![check(1, second)]]);
    }
    assert!(journal.unwritable().is_some());
    let restart = journal.restart().await;
    let taken = journal.take().await.unwrap();
    assert_eq!(taken.records, [check(1, 0)], "the disk comes first");
    journal.settled(&taken, None, restart.delayed).await;
    disk.0.store(-1, Ordering::SeqCst);
    wait_told(&journal, false).await;
    journal.write(vec![vec![check(1, 100)]]);
    drop(journal);
    assert_eq!(rest(&open(&folder)).await, (1..=100).map(|second| check(1, second)).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_batch_is_not_done_before_what_it_delayed_is_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(Small(AtomicI64::new(-1)));
    let journal = DiskJournal::open_on(disk.clone(), folder.path(), 1 << 30, at(0)).unwrap();
    journal.write(vec![vec![check(1, 0), check(2, 0)]]);
    let run = journal.restart().await.run;
    let taken = journal.take().await.unwrap();
    disk.0.store(0, Ordering::SeqCst);
    let ((), copy) =
        tokio::join!(journal.settled(&taken, None, vec![check(2, 0)]), killed_while_full(&journal, &disk, &folder));
    assert_eq!(journal.unwritable(), None);
    let again = open(&copy);
    assert_eq!(again.restart().await.delayed, []);
    let repeated = again.take().await.unwrap();
    assert_eq!((repeated.id, &repeated.records), (taken.id, &taken.records));

    // The same at the end of a pass that has brought one of the two that wait.
    journal.write(vec![vec![check(3, 1)]]);
    let taken = journal.take().await.unwrap();
    journal.settled(&taken, None, vec![check(3, 1)]).await;
    let (pass, _) = journal.begin_pass(run).await;
    disk.0.store(0, Ordering::SeqCst);
    let ((), copy) =
        tokio::join!(journal.end_pass(run, vec![check(3, 1)]), killed_while_full(&journal, &disk, &folder));
    let again = open(&copy);
    let restart = again.restart().await;
    assert_eq!((restart.in_pass, restart.delayed), (true, vec![check(2, 0), check(3, 1)]));
    assert_eq!(again.begin_pass(restart.run).await.0, pass, "repeated under the same id");
    drop(journal);
    let after = open(&folder).restart().await;
    assert_eq!((after.in_pass, after.delayed), (false, vec![check(3, 1)]));
}

#[tokio::test]
async fn a_full_disk_can_be_read_past() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(Small(AtomicI64::new(0)));
    let journal = DiskJournal::open_on(disk, folder.path(), 1 << 30, at(0)).unwrap();
    journal.write(vec![vec![check(1, 0)]]);
    journal.write(vec![vec![check(1, 1)]]);
    assert_eq!(rest(&journal).await, [check(1, 0), check(1, 1)]);
}

#[tokio::test]
async fn a_full_journal_keeps_transitions_latest_states_and_a_gap_a_monitor() {
    let folder = tempfile::tempdir().unwrap();
    let limit = 400 << 10;
    let journal = open_sized(&folder, limit);
    let seconds = 8_000;
    for second in 0..seconds {
        let mut group = vec![check(1, second)];
        if second % 1000 == 0 {
            group.push(resolve(1, second));
        }
        group.push(state(1, second));
        journal.write(vec![group]);
    }
    // The thread thins within a second of the last write.
    let thinned = async {
        while journal.depth().bytes as u64 > limit {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), thinned).await.unwrap();
    let depth = journal.depth();
    assert!(depth.thinned > 0);
    drop(journal);
    let records = rest(&open_sized(&folder, limit)).await;
    let checks: Vec<i64> = records
        .iter()
        .filter_map(|record| match record {
            Record::Check(check) => Some(check.checked_at.timestamp() - at(0).timestamp()),
            _ => None,
        })
        .collect();
    assert_eq!(checks.len() as u64 + depth.thinned, seconds as u64);
    let oldest_go = checks.iter().copied().eq(seconds - checks.len() as i64..seconds);
    assert!(oldest_go, "{} checks from {}", checks.len(), checks[0]);
    let turns = records.iter().filter(|record| matches!(record, Record::Resolve(_))).count();
    assert_eq!(turns, 8, "no transition is lost");
    let gap = records.iter().rev().find_map(|record| match record {
        Record::Gap(gap) => Some(*gap),
        _ => None,
    });
    let gap = gap.unwrap();
    assert_eq!((gap.from_at, gap.to_at, gap.reason), (at(0), at(checks[0]), GapReason::StoreFull));
    assert!(records.iter().filter(|record| matches!(record, Record::Gap(gap) if gap.from_at != at(0))).count() == 0);
}

#[test]
fn what_is_being_brought_is_never_thinned() {
    let folder = tempfile::tempdir().unwrap();
    let limit = 300 << 10;
    let journal = open_sized(&folder, limit);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    journal.write(vec![vec![check(7, 0)]]);
    let taken = runtime.block_on(async {
        journal.restart().await;
        journal.take().await.unwrap()
    });
    for second in 0..8_000 {
        journal.write(vec![vec![check(1, second)]]);
    }
    let id = taken.id;
    drop(journal);
    let journal = open_sized(&folder, limit);
    let again = runtime.block_on(async {
        journal.restart().await;
        journal.take().await.unwrap()
    });
    assert_eq!((again.id, again.records), (id, vec![check(7, 0)]), "the same under the same id");
}
