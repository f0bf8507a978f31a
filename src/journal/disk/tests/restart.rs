//! What the journal tells whoever opens it: states, downtimes, and under which lease it was written.

use super::*;

#[tokio::test]
async fn states_of_the_unread_part_are_recovered_and_downtimes_are_known() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(&folder);
    assert_eq!(journal.downtimes(), []);
    journal.write(vec![vec![check(1, 5), state(1, 5)], vec![check(1, 6), state(1, 6)]]);
    drop(journal);
    let journal = DiskJournal::open(folder.path(), 1 << 20, at(50)).unwrap();
    assert_eq!(journal.downtimes(), [(at(6), at(50))]);
    let known = |second| MonitorState { last_checked: Some(at(second)), ..MonitorState::default() };
    let recovered = journal.recovered();
    assert_eq!(recovered.newest(id(1), known(6)).failures, 3, "what is not recorded wins");
    assert_eq!(recovered.newest(id(1), known(6)).failures, 0, "once");
    assert_eq!(journal.recovered().newest(id(2), known(1)), known(1));
    // It never checked anything before it was killed again.
    drop(journal);
    let journal = DiskJournal::open(folder.path(), 1 << 20, at(60)).unwrap();
    assert_eq!(journal.downtimes(), [(at(6), at(60))]);
    assert_eq!(journal.recovered().newest(id(1), known(7)), known(7), "what is newer elsewhere wins");
    journal.write(vec![vec![check(1, 70)]]);
    drop(journal);
    let journal = DiskJournal::open(folder.path(), 1 << 20, at(80)).unwrap();
    assert_eq!(journal.downtimes(), [(at(6), at(60)), (at(70), at(80))]);
    journal.downtimes_recorded();
    assert_eq!(rest(&journal).await.len(), 5);
    drop(journal);
    let journal = DiskJournal::open(folder.path(), 1 << 20, at(90)).unwrap();
    assert_eq!(journal.downtimes(), [(at(70), at(90))], "the last sign of life outlives the records");
}

#[tokio::test]
async fn only_what_was_seen_under_the_last_lease_is_kept() {
    // (the lease's row before, the epoch that we get, whether what was there is kept)
    let cases = [
        (Some((true, 4)), 5, true),
        // Killed after the lease was taken and before that was noted.
        (Some((true, 5)), 6, true),
        (Some((true, 6)), 7, false),
        (Some((false, 5)), 6, false),
        // Another had it between our look and our taking.
        (Some((true, 4)), 7, false),
        // Another database.
        (None, 1, true),
    ];
    for (row, epoch, kept) in cases {
        let folder = tempfile::tempdir().unwrap();
        let journal = open(&folder);
        assert_eq!(journal.before_lease(Some((true, 3))), None);
        assert_eq!(journal.leased(4), None);
        journal.before_lease(Some((true, 4)));
        journal.write(vec![vec![check(1, 1), state(1, 1)]]);
        drop(journal);
        let journal = open(&folder);
        let first = journal.before_lease(row);
        let second = journal.leased(epoch);
        assert_eq!(first.or(second), (!kept).then_some(2), "{row:?} {epoch}");
        let count = journal.recovered().newest(id(1), MonitorState::default()).failures;
        assert_eq!(count, if kept { 3 } else { 0 }, "{row:?} {epoch}");
        drop(journal);
        let journal = open(&folder);
        assert_eq!(journal.before_lease(Some((true, epoch))), None, "{row:?} {epoch}");
        assert_eq!(rest(&journal).await.len(), if kept { 2 } else { 0 }, "{row:?} {epoch}");
    }
}

#[tokio::test]
async fn what_was_discarded_is_gone_for_good_and_its_writers_write_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(&folder);
    let before = journal.writer();
    before.write(vec![vec![check(1, 0), state(1, 0)], vec![check(2, 0)]]);
    assert_eq!(journal.discard(), 3);
    before.write(vec![vec![check(1, 1)]]);
    before.append(vec![check(1, 2)]);
    assert_eq!(journal.depth().records, 0);
    journal.writer().write(vec![vec![check(1, 3)]]);
    drop(journal);
    assert_eq!(rest(&open(&folder)).await, [check(1, 3)]);
}
