//! What another daemon would not find, if it took over.

use std::time::Duration;

use tokio::time::advance;

use super::*;
use crate::journal::{Unrecorded, WAITING_MOST};

fn seconds(journal: &DiskJournal, now: i64) -> (Option<u64>, Vec<(MonitorId, u64)>) {
    let Unrecorded { age, waiting } = journal.unrecorded(at(now));
    (age.map(|age| age.as_secs()), waiting.into_iter().map(|(id, age)| (id, age.as_secs())).collect())
}

// The clock is paused by hand: the journal works on threads, during which paused time would run on.
async fn pass(seconds: u64) {
    tokio::time::pause();
    advance(Duration::from_secs(seconds)).await;
    tokio::time::resume();
}

#[tokio::test]
async fn it_counts_from_the_oldest_that_is_not_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(&folder);
    assert_eq!(seconds(&journal, 0), (None, vec![]));
    journal.write(vec![vec![check(1, 0)]]);
    pass(10).await;
    assert_eq!(seconds(&journal, 10).0, Some(10));
    let first = journal.take().await.unwrap();
    pass(10).await;
    assert_eq!(seconds(&journal, 20).0, Some(20), "in hand is not recorded");
    // What came while the batch was written counts from when that was taken.
    journal.write(vec![vec![check(1, 20)]]);
    journal.settled(&first, Some(at(0)), Vec::new()).await;
    assert_eq!(seconds(&journal, 20).0, Some(10));
    assert_eq!(rest(&journal).await.len(), 1);
    assert_eq!(seconds(&journal, 20), (None, vec![]));
    // Also what is not on the disk yet.
    journal.append(vec![check(1, 21)]);
    assert!(seconds(&journal, 21).0.is_some());
    assert_eq!(rest(&journal).await.len(), 1);
    assert_eq!(seconds(&journal, 21).0, None);
}

#[tokio::test]
async fn what_waits_for_rows_is_named_by_monitor_also_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(&folder);
    journal.write(vec![vec![check(1, 0), check(2, 5), state(2, 5)], vec![check(2, 8)]]);
    let taken = journal.take().await.unwrap();
    journal.settled(&taken, Some(at(8)), vec![check(2, 5), state(2, 5), check(2, 8)]).await;
    assert_eq!(seconds(&journal, 100), (None, vec![(id(2), 95)]));
    drop(journal);
    let journal = open(&folder);
    let run = journal.restart().await.run;
    assert_eq!(seconds(&journal, 100).1, [(id(2), 95)]);
    journal.begin_pass(run).await;
    journal.end_pass(run, vec![check(2, 8)]).await;
    assert_eq!(seconds(&journal, 100).1, [(id(2), 92)]);
    journal.begin_pass(run).await;
    journal.end_pass(run, Vec::new()).await;
    assert_eq!(seconds(&journal, 100).1, []);

    // Too many to name: then it is all.
    let most = u128::try_from(WAITING_MOST).unwrap();
    let many: Vec<Record> = (0..=most).map(|number| check(number, 40)).collect();
    journal.write(vec![many.clone()]);
    let taken = journal.take().await.unwrap();
    journal.settled(&taken, Some(at(40)), many).await;
    assert_eq!(seconds(&journal, 100), (Some(60), vec![]));
    journal.discard();
    assert_eq!(seconds(&journal, 100), (None, vec![]));
}

#[tokio::test]
async fn what_a_kill_left_is_as_old_as_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(&folder);
    journal.write(vec![vec![check(1, 30)], vec![check(1, 40)]]);
    drop(journal);
    pass(100_000).await;
    let journal = DiskJournal::open(folder.path(), 1 << 30, at(100)).unwrap();
    assert_eq!(seconds(&journal, 100).0, Some(70));
}
