//! The thread that looks after the disk: it writes what came without waiting, thins, syncs, and tries a disk again.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Shared, lock};

/// What the machine may lose at a power failure.
const SYNC_EVERY: Duration = Duration::from_secs(1);

impl Shared {
    pub(super) fn keep_up(&self) {
        loop {
            let work = lock(&self.work);
            let idle = |work: &mut super::Work| !(work.pending || work.urgent || work.end);
            let waited = self.worked.wait_timeout_while(work, SYNC_EVERY, idle);
            let (mut work, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            let (urgent, end) = (work.urgent, work.end);
            (work.pending, work.urgent) = (false, false);
            drop(work);
            let due = timeout.timed_out() || urgent || end;
            self.put_on_disk(due);
            self.thin();
            if due {
                self.sync();
            }
            if end {
                return;
            }
        }
    }

    /// Writes what waits in memory; a disk that failed is tried again when `again`.
    fn put_on_disk(&self, again: bool) {
        let mut files = lock(&self.files);
        if files.broken && !again {
            return;
        }
        if self.flush(&mut files) && std::mem::replace(&mut files.broken, false) {
            log::info!("{}: can be written again", self.folder.display());
            lock(&self.fault).log = None;
        }
        drop(files);
        if !self.memory.is_empty() {
            // They can be read from there while the disk fails.
            self.arrived(0);
        }
    }

    /// Thins segments until the log is within its limit, as far as that goes. The log is not locked while files are read.
    fn thin(&self) {
        loop {
            let victims = {
                let files = lock(&self.files);
                if files.log.bytes() <= self.limit {
                    return;
                }
                files.log.victims(files.pinned)
            };
            let Some(victims) = victims else { return };
            let thinned = victims.thin();
            let mut files = lock(&self.files);
            if files.pinned >= victims.first() {
                // The reader has come so far meanwhile: what was about to go is being recorded.
                victims.forget();
                continue;
            }
            match thinned.and_then(|thinned| files.log.replace(&victims, &thinned).map(|()| thinned)) {
                Ok(thinned) => {
                    self.thinned.fetch_add(thinned.checks, Ordering::Relaxed);
                    let fewer = |unread: usize| Some(unread.saturating_sub(thinned.fewer));
                    let _ = self.unread.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer);
                    self.bytes.store(files.log.bytes(), Ordering::Relaxed);
                    log::debug!(checks = thinned.checks; "the journal is full: its oldest checks became gaps");
                }
                Err(error) => {
                    log::warn!("{}: cannot be thinned: {error}", self.folder.display());
                    files.log.leave(&victims);
                    return;
                }
            }
        }
    }

    fn sync(&self) {
        let to_sync = lock(&self.files).log.take_unsynced();
        for file in to_sync {
            if let Err(error) = file.sync_data() {
                log::warn!("{}: cannot be synced: {error}", self.folder.display());
            }
        }
    }
}
