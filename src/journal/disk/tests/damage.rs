//! What a kill, a bad sector or a lost file costs: no more than it must.

use super::*;
use crate::model::{Gap, GapReason};

#[tokio::test]
async fn a_torn_end_costs_what_was_torn_and_nothing_before() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(&folder);
    for second in 0..5 {
        journal.write(vec![vec![check(1, second), state(1, second)]]);
    }
    drop(journal);
    let path = segments(&folder).pop().unwrap();
    let whole = bytes_of(&path);
    let frame = (whole.len() - 24) / 5;
    // Every byte of the header, of a frame and of the next one's head; of the others some.
    for cut in (0..whole.len()).filter(|cut| *cut <= 24 + frame + 8 || cut % 17 == 0) {
        let copy = copy_of(folder.path());
        std::fs::write(segments(&copy).pop().unwrap(), &whole[..cut]).unwrap();
        let records = rest(&open(&copy)).await;
        let expected = cut.saturating_sub(24) / frame;
        assert_eq!(records.len(), 2 * expected, "cut at {cut}");
        assert!(!records.iter().any(|record| matches!(record, Record::Gap(_))), "cut at {cut}");
        // What comes next is whole.
        let journal = open(&copy);
        journal.write(vec![vec![check(2, 9)]]);
        drop(journal);
        assert_eq!(rest(&open(&copy)).await, [check(2, 9)], "cut at {cut}");
    }
    // A file that grew without its data having reached the disk.
    let copy = copy_of(folder.path());
    std::fs::write(segments(&copy).pop().unwrap(), [&whole[..], &[0; 300_000]].concat()).unwrap();
    assert_eq!(rest(&open(&copy)).await.len(), 10);
}

#[tokio::test]
async fn damage_costs_the_rest_of_a_segment_and_is_a_gap() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(&folder);
    journal.write(vec![vec![check(1, 0)]]);
    journal.write(vec![vec![check(1, 1)]]);
    journal.write(vec![vec![check(1, 2)]]);
    drop(journal);
    let path = segments(&folder).pop().unwrap();
    let mut bytes = bytes_of(&path);
    let frame = (bytes.len() - 24) / 3;
    bytes[24 + frame + frame / 2] ^= 0x40;
    std::fs::write(&path, &bytes).unwrap();
    let journal = open(&folder);
    journal.write(vec![vec![check(1, 9)]]);
    let records = rest(&journal).await;
    let gap = Gap { monitor: None, from_at: at(0), to_at: at(0), reason: GapReason::RecordingLost };
    assert_eq!(records, [check(1, 0), Record::Gap(gap), check(1, 9)]);
    drop(journal);
    assert_eq!(rest(&open(&folder)).await, [], "told once");
}

#[tokio::test]
async fn a_lost_cursor_doubles_nothing_and_is_a_gap() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(&folder);
    journal.write(vec![vec![check(1, 3), check(1, 5)]]);
    drop(journal);
    std::fs::remove_file(folder.path().join("journal/cursor")).unwrap();
    let gap = Gap { monitor: None, from_at: at(3), to_at: at(5), reason: GapReason::RecordingLost };
    let journal = open(&folder);
    assert_eq!(rest(&journal).await, [Record::Gap(gap)]);
    drop(journal);
    assert_eq!(rest(&open(&folder)).await, []);
}
