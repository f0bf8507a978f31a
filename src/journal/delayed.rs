//! Records that wait for rows of `monitors` that somebody holds, or that are yet to be made.
//!
//! They live in memory, bounded, and in a file of frames of which the cursor says how much counts. What is in memory
//! follows from the file alone, so a restart waits for the same.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::kept::Kept;
use super::marks::Extent;
use super::segment::{self, Disk, HEADER, Header, Reader};
use super::thin::gap_of;
use crate::model::{GapReason, MonitorId, Record};

/// Records that wait for locked rows; beyond it their checks become gaps.
pub(super) const DELAYED_MOST: usize = 100_000;
/// Records of one frame.
const TOGETHER: usize = 1_000;

/// What waits for one monitor's row.
#[derive(Default)]
struct OfOne {
    records: Vec<Record>,
    /// What came when there were too many already; later than all of `records`.
    kept: Kept,
}

/// What waits, in memory.
#[derive(Default)]
pub(super) struct Delayed {
    /// By monitor, in an order that a restart repeats.
    monitors: BTreeMap<MonitorId, OfOne>,
    records: usize,
}

impl Delayed {
    /// Takes in a record that is later than all of its monitor. Gaps of all monitors wait for nobody.
    pub(super) fn push(&mut self, record: Record) {
        let Some(monitor) = record.monitor() else { return };
        let of_one = self.monitors.entry(monitor).or_default();
        let before = of_one.kept.len();
        if self.records < DELAYED_MOST && of_one.kept.is_empty() {
            of_one.records.push(record);
            self.records += 1;
            return;
        }
        of_one.kept.merge(match record {
            Record::Check(check) => gap_of(&check, GapReason::StoreFull),
            record => record,
        });
        self.records += of_one.kept.len() - before;
    }

    pub(super) fn contains(&self, monitor: MonitorId) -> bool {
        self.monitors.contains_key(&monitor)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.monitors.is_empty()
    }

    pub(super) const fn len(&self) -> usize {
        self.records
    }

    /// Everything, each monitor's in order.
    pub(super) fn take(&mut self) -> Vec<Vec<Record>> {
        let monitors = std::mem::take(self).monitors.into_values();
        monitors
            .map(|mut of_one| {
                of_one.records.extend(of_one.kept.take(usize::MAX));
                of_one.records
            })
            .collect()
    }

    /// Everything in an order in which [`Self::push`] keeps what is whole now.
    pub(super) fn take_for_file(&mut self) -> Vec<Record> {
        let mut monitors = std::mem::take(self).monitors;
        let mut records: Vec<Record> =
            monitors.values_mut().flat_map(|of_one| std::mem::take(&mut of_one.records)).collect();
        records.extend(monitors.values_mut().flat_map(|of_one| of_one.kept.take(usize::MAX)));
        records
    }
}

impl Extend<Record> for Delayed {
    fn extend<T: IntoIterator<Item = Record>>(&mut self, records: T) {
        records.into_iter().for_each(|record| self.push(record));
    }
}

fn path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("delayed-{number:016x}"))
}

/// Appends records to what counts of a file, and says how much counts with them.
pub(super) fn append(folder: &Path, disk: &dyn Disk, extent: Extent, records: &[Record]) -> io::Result<Extent> {
    if records.is_empty() {
        return Ok(extent);
    }
    let path = path(folder, extent.file);
    let mut bytes = Vec::new();
    let file = if extent.bytes == 0 {
        bytes = segment::header(extent.file);
        segment::create(&path)?
    } else {
        let file = File::options().write(true).open(&path)?;
        // What an interrupted batch left.
        file.set_len(extent.bytes)?;
        file
    };
    for part in records.chunks(TOGETHER) {
        segment::frame(part, &mut bytes)?;
    }
    io::Seek::seek(&mut &file, io::SeekFrom::Start(extent.bytes))?;
    disk.append(&file, &bytes)?;
    (&file).flush()?;
    file.sync_data()?;
    Ok(Extent { file: extent.file, bytes: extent.bytes + bytes.len() as u64 })
}

/// Reads what counts of a file; the error says that not all of it could be.
pub(super) fn read(folder: &Path, extent: Extent, records: &mut Vec<Record>) -> io::Result<()> {
    if extent.bytes <= HEADER {
        return Ok(());
    }
    let (header, mut reader) = Reader::open(&path(folder, extent.file), HEADER, Some(extent.bytes))?;
    if !matches!(header, Header::Good { .. }) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "its header cannot be read"));
    }
    loop {
        match reader.next()? {
            Ok(group) => records.extend(group),
            Err(segment::End::Whole) => return Ok(()),
            Err(_) => return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame is damaged")),
        }
    }
}

/// Deletes every such file but the one that counts.
pub(super) fn delete_others(folder: &Path, extent: Extent) {
    let counts = (extent.bytes > 0).then(|| path(folder, extent.file));
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let is_ours = entry.file_name().to_str().is_some_and(|name| name.starts_with("delayed-"));
        if is_ours && counts.as_ref() != Some(&entry.path()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}
