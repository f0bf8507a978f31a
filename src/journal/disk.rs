//! The journal on disk: what the stages append is in the log before anybody sees it, and the recorder reads it there.
//!
//! While the disk cannot be written to, records wait in memory, bounded and thinned, as they would in a journal without a
//! disk: checks go on, the log says so once, and [`DiskJournal::unwritable`] until it can be written again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::backlog::{BATCH_RECORDS, Backlog, Depth};
use super::log::Log;
use super::marks::{Cursor, Intent, Marks, MarksFile, Position};
use super::segment::{self, Disk};
use super::{Journal, JournalError, Recovered};
use crate::model::{MonitorId, Record};

mod gaps;
mod lease;
mod opening;
mod reading;
mod unrecorded;
mod upkeep;

pub use reading::{Restart, Taken};

/// The recorder's cursor.
const RECORDER: &str = "recorder";
/// Segments are this large, less when the journal is small.
const SEGMENT_MOST: u64 = 8 << 20;
const SEGMENT_LEAST: u64 = 32 << 10;
/// Memory for what cannot be written to the disk.
const MEMORY_MOST: usize = 64 << 20;
/// The end waits 2 s for the last sync, in looks of this length: a disk that hangs must not hold up the process.
const END_LOOK: Duration = Duration::from_millis(5);
const END_LOOKS: u32 = 400;

/// The journal in a folder of the state directory. Cheap to share; the thread that looks after the disk ends with it, unless the disk hangs.
pub struct DiskJournal {
    shared: Arc<Shared>,
    upkeep: Option<thread::JoinHandle<()>>,
}

struct Shared {
    folder: PathBuf,
    disk: Arc<dyn Disk>,
    limit: u64,
    files: Mutex<Files>,
    /// What is not in the log yet: gaps of the dispatcher for a moment, everything while the disk fails.
    memory: Backlog,
    recovered: Arc<Recovered>,
    signal: Mutex<Signal>,
    /// Wakes the recorder.
    readable: Notify,
    work: Mutex<Work>,
    /// Wakes the thread.
    worked: Condvar,
    bytes: AtomicU64,
    unread: AtomicUsize,
    thinned: AtomicU64,
    fault: Mutex<Faults>,
    /// Counts the readers: an answer to an earlier one moves no cursor.
    run: AtomicU64,
    /// Counts what was discarded: who wrote before writes no more. Changed under the lock of `files`.
    term: AtomicU64,
}

/// See [`DiskJournal::writer`].
struct Writer {
    shared: Arc<Shared>,
    term: u64,
}

/// Everything that one writer at a time may touch.
struct Files {
    log: Log,
    marks: Marks,
    marks_file: MarksFile,
    /// Whether writing failed the last time.
    broken: bool,
    /// What was taken from `memory` and could not be written; before all that is still there.
    held: Option<Vec<Record>>,
    /// Segments up to this one are being read.
    pinned: u64,
    /// Where the recorder reads on; what is before it is recorded or in its hands.
    read_at: Position,
    /// Since when reading has failed.
    unreadable_since: Option<Instant>,
    /// Gaps of thinned checks whose end the monitor's next record will tell.
    lost: std::collections::HashMap<MonitorId, (DateTime<Utc>, DateTime<Utc>)>,
    buffer: Vec<u8>,
}

/// What the disk does not take, by what was to be written. Each is told once, until it can be written again.
#[derive(Default)]
struct Faults {
    log: Option<String>,
    cursor: Option<String>,
    delayed: Option<String>,
}

#[derive(Default)]
struct Signal {
    /// When the oldest unread record came.
    oldest: Option<Instant>,
    /// When the oldest came that is not recorded, in hand or unread. Those that wait for rows do not count here.
    unrecorded: Option<Instant>,
    /// What came after this is not in hand; none: nor is some of what came before.
    hand: Option<Instant>,
    /// Monitors whose records wait for rows, with the beginning of the first.
    waiting: BTreeMap<MonitorId, DateTime<Utc>>,
    closed: bool,
}

#[derive(Default)]
struct Work {
    pending: bool,
    urgent: bool,
    end: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a panic leaves is whole: every change is made at once or checked when it is read.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl DiskJournal {
    /// Opens the journal of a state directory and reads what was not recorded. At most about `limit_bytes` of disk.
    /// `now` ends the time in which nothing ran. Blocks on the disk.
    ///
    /// # Errors
    /// [`JournalError`]: the folder cannot be used, or a later version has written it. Nothing is changed then.
    pub fn open(state: &Path, limit_bytes: u64, now: DateTime<Utc>) -> Result<Self, JournalError> {
        Self::open_on(Arc::new(segment::RealDisk), state, limit_bytes, now)
    }

    pub(super) fn open_on(
        disk: Arc<dyn Disk>,
        state: &Path,
        limit: u64,
        now: DateTime<Utc>,
    ) -> Result<Self, JournalError> {
        let folder = state.join("journal");
        let opened = opening::open(&folder, &disk, (limit / 8).clamp(SEGMENT_LEAST, SEGMENT_MOST), now)?;
        let memory = Backlog::new(usize::try_from(limit).unwrap_or(usize::MAX).min(MEMORY_MOST));
        let cursor = opened.marks.cursors.get(RECORDER).cloned().unwrap_or_default();
        let oldest = (opened.records > 0).then(Instant::now);
        let age = opened.oldest.and_then(|at| (now - at).to_std().ok()).unwrap_or_default();
        let unrecorded = oldest.map(|now| now.checked_sub(age).unwrap_or(now));
        let signal = Signal { oldest, unrecorded, ..Signal::default() };
        let shared = Arc::new(Shared {
            bytes: AtomicU64::new(opened.log.bytes()),
            unread: AtomicUsize::new(opened.records),
            folder,
            disk,
            limit,
            files: Mutex::new(Files {
                log: opened.log,
                marks: opened.marks,
                marks_file: opened.marks_file,
                broken: false,
                held: None,
                pinned: pinned_by(&cursor),
                read_at: cursor.at,
                unreadable_since: None,
                lost: std::collections::HashMap::new(),
                buffer: Vec::new(),
            }),
            memory,
            recovered: Arc::new(Recovered::new(opened.states)),
            signal: Mutex::new(signal),
            readable: Notify::new(),
            work: Mutex::default(),
            worked: Condvar::new(),
            thinned: AtomicU64::new(0),
            fault: Mutex::default(),
            run: AtomicU64::new(0),
            term: AtomicU64::new(0),
        });
        let of_thread = Arc::clone(&shared);
        let upkeep = thread::Builder::new().name("journal".to_owned()).spawn(move || of_thread.keep_up());
        let upkeep = upkeep.map_err(|source| JournalError::io(state, source))?;
        Ok(Self { shared, upkeep: Some(upkeep) })
    }

    /// How full it is.
    #[must_use]
    pub fn depth(&self) -> Depth {
        let memory = self.shared.memory.depth();
        Depth {
            records: self.shared.unread.load(Ordering::Relaxed) + memory.records,
            bytes: usize::try_from(self.shared.bytes.load(Ordering::Relaxed)).unwrap_or(usize::MAX) + memory.bytes,
            thinned: self.shared.thinned.load(Ordering::Relaxed) + memory.thinned,
            limit_bytes: usize::try_from(self.shared.limit).unwrap_or(usize::MAX),
            oldest: memory.oldest.into_iter().chain(lock(&self.shared.signal).oldest).min(),
        }
    }

    /// Why the disk cannot be written to; none while all is well.
    #[must_use]
    pub fn unwritable(&self) -> Option<String> {
        let faults = lock(&self.shared.fault);
        faults.log.iter().chain(&faults.cursor).chain(&faults.delayed).next().cloned()
    }

    /// The latest states of what was not recorded when it was opened.
    #[must_use]
    pub fn recovered(&self) -> Arc<Recovered> {
        Arc::clone(&self.shared.recovered)
    }

    /// What the stages of one term write to: what they still have after [`Self::discard`] is dropped as well.
    #[must_use]
    pub fn writer(&self) -> Arc<dyn Journal> {
        Arc::new(Writer { shared: Arc::clone(&self.shared), term: self.shared.term.load(Ordering::Acquire) })
    }

    /// Nothing will be appended any more: the recorder gets what is left at once, then none.
    pub fn close(&self) {
        lock(&self.shared.signal).closed = true;
        self.shared.readable.notify_one();
    }

    /// Takes back [`Self::close`], for another round of the loops in the same process.
    pub fn reopen(&self) {
        lock(&self.shared.signal).closed = false;
    }
}

impl Drop for DiskJournal {
    fn drop(&mut self) {
        lock(&self.shared.work).end = true;
        self.shared.worked.notify_one();
        let Some(upkeep) = self.upkeep.take() else { return };
        for _ in 0..END_LOOKS {
            if upkeep.is_finished() {
                // A panic there was told by its hook.
                let _ = upkeep.join();
                return;
            }
            thread::sleep(END_LOOK);
        }
        log::warn!("{}: the disk does not answer: the last records may not be on it", self.shared.folder.display());
    }
}

impl Journal for DiskJournal {
    fn append(&self, records: Vec<Record>) {
        self.writer().append(records);
    }

    fn write(&self, groups: Vec<Vec<Record>>) {
        self.writer().write(groups);
    }

    fn keep(&self, groups: Vec<Vec<Record>>) -> bool {
        self.writer().keep(groups)
    }
}

impl Journal for Writer {
    fn append(&self, records: Vec<Record>) {
        if records.is_empty() || self.shared.term.load(Ordering::Acquire) != self.term {
            return;
        }
        self.shared.memory.append(records);
        lock(&self.shared.signal).unrecorded.get_or_insert_with(Instant::now);
        lock(&self.shared.work).pending = true;
        self.shared.worked.notify_one();
    }

    fn write(&self, groups: Vec<Vec<Record>>) {
        self.keep(groups);
    }

    fn keep(&self, groups: Vec<Vec<Record>>) -> bool {
        let records: usize = groups.iter().map(Vec::len).sum();
        if records == 0 {
            return true;
        }
        let urgent = groups.iter().flatten().any(|record| matches!(record, Record::Open(_) | Record::Resolve(_)));
        let mut files = lock(&self.shared.files);
        if self.shared.term.load(Ordering::Acquire) != self.term {
            return false;
        }
        let written = !files.broken && self.shared.flush(&mut files) && self.shared.write(&mut files, &groups);
        if !written {
            groups.into_iter().for_each(|group| self.shared.memory.append(group));
        }
        drop(files);
        self.shared.arrived(if written { records } else { 0 });
        if urgent {
            lock(&self.shared.work).urgent = true;
            self.shared.worked.notify_one();
        }
        written
    }
}

impl Shared {
    /// Writes groups by one write; false when that fails.
    fn write(&self, files: &mut Files, groups: &[Vec<Record>]) -> bool {
        let mut buffer = std::mem::take(&mut files.buffer);
        buffer.clear();
        let framed =
            groups.iter().filter(|group| !group.is_empty()).try_for_each(|group| segment::frame(group, &mut buffer));
        let written = framed.and_then(|()| files.log.append(&buffer));
        files.buffer = buffer;
        self.bytes.store(files.log.bytes(), Ordering::Relaxed);
        match written {
            Ok(()) => true,
            Err(error) => {
                if !std::mem::replace(&mut files.broken, true) {
                    log::error!(
                        "{}: cannot be written: {error}; results wait in memory until it can",
                        self.folder.display()
                    );
                }
                lock(&self.fault).log = Some(error.to_string());
                false
            }
        }
    }

    /// Writes what waits in memory; false when that fails.
    fn flush(&self, files: &mut Files) -> bool {
        loop {
            let held = files.held.take();
            let records = held.unwrap_or_else(|| self.memory.take_batch());
            let records = if records.is_empty() { self.memory.take_lost() } else { records };
            if records.is_empty() {
                return true;
            }
            let count = records.len();
            let group = [records];
            if !self.write(files, &group) {
                let [records] = group;
                files.held = Some(records);
                return false;
            }
            self.arrived(count);
        }
    }

    /// More can be read.
    fn arrived(&self, records: usize) {
        let unread = self.unread.fetch_add(records, Ordering::Relaxed) + records;
        let mut signal = lock(&self.signal);
        let was_idle = signal.oldest.is_none();
        let at = *signal.oldest.get_or_insert_with(Instant::now);
        signal.unrecorded.get_or_insert(at);
        drop(signal);
        // The recorder sleeps until the first record is ripe; only the first and a full batch need to wake it.
        if was_idle || unread >= BATCH_RECORDS {
            self.readable.notify_one();
        }
    }

    /// Writes the marks; false, told once, when that fails.
    fn commit(&self, files: &mut Files, sync: bool) -> bool {
        match files.marks_file.write(&files.marks, sync) {
            Ok(()) => {
                lock(&self.fault).cursor = None;
                true
            }
            Err(error) => {
                if lock(&self.fault).cursor.replace(error.to_string()).is_none() {
                    log::error!(
                        "{}: the cursor cannot be written: {error}; what is recorded meanwhile may be recorded twice if \
                         the daemon is killed",
                        self.folder.display()
                    );
                }
                false
            }
        }
    }

    fn cursor<'a>(&self, files: &'a mut Files) -> &'a mut Cursor {
        files.marks.cursors.entry(RECORDER.to_owned()).or_default()
    }
}

/// The last segment that must stay as it is.
fn pinned_by(cursor: &Cursor) -> u64 {
    let to = cursor.intent.as_ref().and_then(|intent: &Intent| intent.to);
    begun(to.map_or(cursor.at, |to| to.max(cursor.at)))
}

/// The last segment of which something lies before a place.
fn begun(at: Position) -> u64 {
    if at.offset > segment::HEADER { at.segment } else { at.segment.saturating_sub(1) }
}

#[cfg(test)]
mod tests;
