//! Whose history the journal continues. It holds what was seen under one lease; when another daemon has been active since,
//! that one's history counts, and all that was not recorded here is dropped.

use std::sync::atomic::Ordering;

use chrono::{DateTime, Utc};

use super::{DiskJournal, Files, RECORDER, Shared, Signal, lock};
use crate::journal::delayed;
use crate::journal::marks::{Cursor, Extent};

impl DiskJournal {
    /// To be called with the lease's row before it is asked for: whether its holder is this daemon, and its epoch. Returns
    /// how many records were dropped, if another daemon was active since they were written. Blocks on the disk.
    pub fn before_lease(&self, row: Option<(bool, i64)>) -> Option<usize> {
        let mut files = lock(&self.shared.files);
        let marks = &files.marks;
        let ours = |epoch: i64| marks.epoch == Some(epoch) || marks.expected == Some(epoch);
        let foreign = marks.epoch.is_some() && row.is_some_and(|(is_ours, epoch)| !is_ours || !ours(epoch));
        let dropped = foreign.then(|| self.shared.discard(&mut files));
        let expected = row.map_or(1, |(_, epoch)| epoch + 1);
        // A standby asks once a second.
        if files.marks.expected != Some(expected) {
            files.marks.expected = Some(expected);
            self.shared.commit(&mut files, true);
        }
        dropped
    }

    /// The lease is held under this epoch. Returns how many records were dropped, if another daemon had it in between.
    /// Blocks on the disk.
    pub fn leased(&self, epoch: i64) -> Option<usize> {
        let mut files = lock(&self.shared.files);
        let foreign = files.marks.epoch.is_some() && files.marks.expected != Some(epoch);
        let dropped = foreign.then(|| self.shared.discard(&mut files));
        (files.marks.epoch, files.marks.expected) = (Some(epoch), None);
        self.shared.commit(&mut files, true);
        dropped
    }

    /// When nothing ran, oldest first, as far as no database knows yet. The last one ended with this start.
    #[must_use]
    pub fn downtimes(&self) -> Vec<(DateTime<Utc>, DateTime<Utc>)> {
        lock(&self.shared.files).marks.downtimes.clone()
    }

    /// The database knows all of [`Self::downtimes`]. Blocks on the disk.
    pub fn downtimes_recorded(&self) {
        let mut files = lock(&self.shared.files);
        if !files.marks.downtimes.is_empty() {
            files.marks.downtimes.clear();
            self.shared.commit(&mut files, false);
        }
    }

    /// Drops everything that is not recorded, and with it what the recorder and the stages of this term have in their hands:
    /// another daemon is active. Returns the number of records in the journal. Blocks on the disk.
    pub fn discard(&self) -> usize {
        let mut files = lock(&self.shared.files);
        self.shared.term.fetch_add(1, Ordering::AcqRel);
        self.shared.discard(&mut files)
    }
}

impl Shared {
    fn discard(&self, files: &mut Files) -> usize {
        let mut dropped = self.unread.swap(0, Ordering::Relaxed);
        loop {
            let records = files.held.take().unwrap_or_else(|| self.memory.take_batch());
            if records.is_empty() {
                break;
            }
            dropped += records.len();
        }
        self.memory.take_lost();
        self.run.fetch_add(1, Ordering::AcqRel);
        files.log.rotate();
        let at = files.log.end();
        let delayed = self.cursor(files).delayed;
        let cursor = Cursor { at, delayed: Extent { file: delayed.file + 1, bytes: 0 }, intent: None };
        files.marks.cursors.insert(RECORDER.to_owned(), cursor.clone());
        files.marks.downtimes.clear();
        (files.marks.epoch, files.marks.expected, files.marks.alive) = (None, None, None);
        (files.read_at, files.pinned) = (at, super::begun(at));
        files.lost.clear();
        // On the disk before the segments go: whoever finds them again must not record them.
        self.commit(files, true);
        files.log.delete_below(at);
        delayed::delete_others(&self.folder, cursor.delayed);
        self.recovered.clear();
        self.bytes.store(files.log.bytes(), Ordering::Relaxed);
        let mut signal = lock(&self.signal);
        *signal = Signal { closed: signal.closed, ..Signal::default() };
        dropped
    }
}
