//! The journal on disk: damage, old and later versions, a full disk, a full journal, leases.

mod model;
mod unrecorded;

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicI64, Ordering};

use tempfile::TempDir;
use uuid::Uuid;

use super::*;
use crate::model::{Check, Gap, GapReason, MonitorState, Resolution, ResolveReason, Timings, Verdict};

fn at(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000 + second, 0).unwrap()
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
        http_version: Some("HTTP/1.1"),
        certificate: None,
        details: None,
        attempt: 1,
        checked_at: at(second),
    })
}

fn state(monitor: u128, second: i64) -> Record {
    let state = MonitorState { failures: 3, last_checked: Some(at(second)), ..MonitorState::default() };
    Record::State(id(monitor), Box::new(state))
}

fn resolve(monitor: u128, second: i64) -> Record {
    let uid = Uuid::from_u128(u128::try_from(second).unwrap()).into();
    Record::Resolve(Resolution { uid, monitor: id(monitor), resolved_at: at(second), reason: ResolveReason::Recovered })
}

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

fn open(folder: &TempDir) -> DiskJournal {
    open_sized(folder, 1 << 30)
}

fn open_sized(folder: &TempDir, limit: u64) -> DiskJournal {
    DiskJournal::open(folder.path(), limit, at(1_000_000)).unwrap()
}

/// Everything that is in the journal now, as the recorder would get it.
async fn rest(journal: &DiskJournal) -> Vec<Record> {
    let mut records = journal.restart().await.delayed;
    while let Some(taken) = journal.take().await {
        records.extend(taken.records.iter().cloned());
        journal.settled(&taken, None, Vec::new()).await;
    }
    records
}

fn segments(folder: &TempDir) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder.path().join("journal")).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    paths.sort();
    paths
}

fn bytes_of(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut File::open(path).unwrap(), &mut bytes).unwrap();
    bytes
}

fn copy_of(folder: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    std::fs::create_dir(copy.path().join("journal")).unwrap();
    for entry in std::fs::read_dir(folder.join("journal")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.path().join("journal").join(entry.file_name())).unwrap();
    }
    copy
}

#[tokio::test]
async fn every_kind_of_record_is_read_as_it_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let gap = |monitor| Gap { monitor, from_at: at(1), to_at: at(2), reason: GapReason::Overloaded };
    let evidence: crate::model::Evidence = serde_json::from_value(serde_json::json!({
        "checked_at": "2026-11-22T12:00:00.123Z", "verdict": "down", "failure": "connect_refused",
        "address": "[::1]:443", "timings_us": {"dns": 5, "total": 9}, "headers": [["a", "b"]], "excerpt": "…"
    }))
    .unwrap();
    let opening = crate::model::Opening {
        uid: Uuid::from_u128(9).into(),
        monitor: id(1),
        owner: crate::model::SYSTEM_USER,
        title: "Shop is down".into(),
        failure: crate::model::Failure::ConnectRefused,
        started_at: at(3),
        caused_by: Some(id(2)),
        maintenance: Some(crate::model::MaintenanceId(Uuid::from_u128(5))),
        first_bad: Some(Box::new(evidence.clone())),
        last_good: None,
    };
    let mut rich = MonitorState { first_bad: Some(Box::new(evidence)), ..MonitorState::default() };
    rich.flaps.push_back(at(7));
    let mut timings = Timings::default();
    timings.add(crate::model::Phase::Dns, std::time::Duration::from_micros(17));
    timings.total = std::time::Duration::from_micros(70);
    let Record::Check(plain) = check(1, 4) else { panic!() };
    let full = Check {
        verdict: Verdict::Down,
        failure: Some(crate::model::Failure::StatusUnexpected),
        message: Some("it \u{1F600} broke".into()),
        timings,
        address: Some("127.0.0.1:80".parse().unwrap()),
        certificate: Some(Arc::new(crate::model::CertificateFacts {
            subject: "CN=a".into(),
            issuer: "CN=b".into(),
            not_before: at(0),
            not_after: at(9),
            days_left: -3,
            fingerprint_sha256: "00".into(),
            chain_length: 2,
            more: None,
        })),
        attempt: 7,
        ..plain.clone()
    };
    let records = vec![
        Record::Check(plain),
        Record::Check(full),
        Record::Open(Box::new(opening)),
        resolve(1, 5),
        Record::Gap(gap(Some(id(1)))),
        Record::Gap(gap(None)),
        Record::State(id(1), Box::new(rich)),
        state(1, 6),
    ];
    open(&folder).write(vec![records.clone()]);
    assert_eq!(rest(&open(&folder)).await, records);
}

#[tokio::test]
async fn what_an_older_version_wrote_is_read() {
    // As version 0.2 wrote it; a later field may be missing, an unknown one may be there.
    let folder = tempfile::tempdir().unwrap();
    drop(open(&folder));
    #[derive(serde::Serialize)]
    struct Old {
        monitor: MonitorId,
        at_ns: i64,
        verdict: &'static str,
        us: [Option<i32>; 6],
        total_us: u64,
        attempt: u16,
        from_a_later_version: Vec<u8>,
    }
    #[derive(serde::Serialize)]
    enum Kind {
        #[serde(rename = "check")]
        Check(Old),
    }
    let old = Old {
        monitor: id(1),
        at_ns: at(5).timestamp_nanos_opt().unwrap(),
        verdict: "up",
        us: [None; 6],
        total_us: 3,
        attempt: 1,
        from_a_later_version: vec![1, 2],
    };
    let payload = rmp_serde::to_vec_named(&[Kind::Check(old)]).unwrap();
    let length = u32::try_from(payload.len()).unwrap().to_le_bytes();
    let crc = crc32c::crc32c_append(crc32c::crc32c(&length), &payload).to_le_bytes();
    let bytes = [&segment::header(7)[..], &length, &crc, &payload].concat();
    std::fs::write(crate::journal::log::path(&folder.path().join("journal"), 7), bytes).unwrap();
    let records = rest(&open(&folder)).await;
    let [Record::Check(check)] = &records[..] else { panic!("{records:?}") };
    assert_eq!((check.monitor, check.checked_at, check.timings.total.as_micros()), (id(1), at(5), 3));
}

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

#[test]
fn a_later_version_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    open(&folder).write(vec![vec![check(1, 1)]]);
    let path = segments(&folder).pop().unwrap();
    let mut bytes = bytes_of(&path);
    bytes[8] = 2;
    std::fs::write(&path, &bytes).unwrap();
    let refused = DiskJournal::open(folder.path(), 1 << 20, at(0));
    assert!(matches!(refused, Err(JournalError::Newer { version: 2, .. })));
    assert_eq!(bytes_of(&path), bytes);
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

/// Waits until the disk is told to be full, or to be well.
async fn wait_told(journal: &DiskJournal, full: bool) {
    let told = async {
        while journal.unwritable().is_some() != full {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), told).await.unwrap();
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
    let killed = async {
        wait_told(&journal, true).await;
        let copy = copy_of(folder.path());
        disk.0.store(-1, Ordering::SeqCst);
        copy
    };
    let ((), copy) = tokio::join!(journal.settled(&taken, None, vec![check(2, 0)]), killed);
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
    let killed = async {
        wait_told(&journal, true).await;
        let copy = copy_of(folder.path());
        disk.0.store(-1, Ordering::SeqCst);
        copy
    };
    let ((), copy) = tokio::join!(journal.end_pass(run, vec![check(3, 1)]), killed);
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

/// Figures: `cargo test --release --lib journal::disk::tests::figures -- --ignored --nocapture`.
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

#[test]
#[ignore = "a measurement"]
fn figures() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(&folder);
    let mut count = 0u32;
    let began = Instant::now();
    while journal.depth().bytes < 255 << 20 {
        journal.write(vec![vec![check(1, i64::from(count))]]);
        count += 1;
    }
    let wrote = began.elapsed().as_secs_f64() * 1e6 / f64::from(count);
    let bytes = journal.depth().bytes as f64 / f64::from(count);
    drop(journal);
    let began = Instant::now();
    let journal = open(&folder);
    let opened = began.elapsed();
    println!("{wrote:.2} us and {bytes:.0} bytes a check, {opened:?} to open {} bytes", journal.depth().bytes);
}
