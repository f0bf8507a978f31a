//! The journal on disk: what its tests share, and what it costs.

mod damage;
mod formats;
mod full;
mod model;
mod restart;
mod unrecorded;

use std::fs::File;
use std::io;

use tempfile::TempDir;
use uuid::Uuid;

use super::*;
use crate::model::{Check, MonitorState, Resolution, ResolveReason, Timings, Verdict};

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

/// Figures: `cargo test --release --lib journal::disk::tests::figures -- --ignored --nocapture`.
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
