//! The recorder's side: what is read is fixed on disk under an id before it is brought, and passed over afterwards.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use uuid::Uuid;

use super::gaps::{end_gaps, lost_after};
use super::{DiskJournal, Files, Shared, begun, lock, pinned_by};
use crate::journal::backlog::{BATCH_RECORDS, BATCH_WAIT};
use crate::journal::delayed;
use crate::journal::log::{Step, Walk};
use crate::journal::marks::{Extent, Intent, Position};
use crate::model::Record;

/// Between two attempts to read a disk that fails.
const READ_AGAIN: Duration = Duration::from_secs(1);
/// Between two attempts to write delayed records.
const WRITE_AGAIN: Duration = Duration::from_secs(1);
/// After so long, what cannot be read is given up as a gap: the rest must reach the database.
const GIVE_UP: Duration = Duration::from_secs(60);

/// What the recorder is given to bring.
pub struct Taken {
    /// The id of the batch: the same for the same records, also after a restart.
    pub id: Uuid,
    /// In order of happening.
    pub records: Vec<Record>,
    /// Parts of it that the store has refused before.
    pub refused: HashSet<Uuid>,
    /// Where it ends; none: it came from memory.
    to: Option<Position>,
    run: u64,
}

/// Where the recorder goes on.
pub struct Restart {
    /// Records that wait for their monitors' rows.
    pub delayed: Vec<Record>,
    /// Whether bringing them once more was under way.
    pub in_pass: bool,
    /// Names this reader.
    pub run: u64,
}

impl DiskJournal {
    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&Shared) -> T + Send + 'static) -> T {
        let shared = Arc::clone(&self.shared);
        match spawn_blocking(move || work(&shared)).await {
            Ok(done) => done,
            // Only a bug's panic; cancelled work belongs to a runtime that ends.
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => std::future::pending().await,
        }
    }

    /// Begins to read where what is recorded ends. An earlier reader's answers count no more.
    pub async fn restart(&self) -> Restart {
        self.blocking(Shared::restart).await
    }

    /// Whether a reader is still the one that counts; not after [`Self::discard`].
    #[must_use]
    pub fn is_current(&self, run: u64) -> bool {
        self.shared.run.load(Ordering::Acquire) == run
    }

    /// Waits until there is a full batch, or something has waited for a quarter second, or the journal is closed. May be
    /// dropped.
    pub async fn ready(&self) {
        loop {
            let wake_at = {
                let signal = lock(&self.shared.signal);
                let ripe = signal.oldest.map(|at| at + BATCH_WAIT);
                let full = self.shared.unread.load(Ordering::Relaxed) >= BATCH_RECORDS;
                if full || signal.closed || ripe.is_some_and(|at| at <= Instant::now()) {
                    return;
                }
                ripe
            };
            match wake_at {
                Some(at) => {
                    tokio::select! {
                        () = self.shared.readable.notified() => {}
                        () = tokio::time::sleep_until(at) => {}
                    }
                }
                None => self.shared.readable.notified().await,
            }
        }
    }

    /// Whether nothing will come any more once all is taken.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        lock(&self.shared.signal).closed
    }

    /// The next batch, fixed on disk; none when there is nothing.
    pub async fn take(&self) -> Option<Taken> {
        self.blocking(Shared::take).await
    }

    /// A part of the batch in hand was refused: its id is remembered as long as the batch is.
    pub async fn refused(&self, run: u64, id: Uuid) {
        self.blocking(move |shared| {
            let mut files = lock(&shared.files);
            if shared.run.load(Ordering::Acquire) == run
                && let Some(intent) = &mut shared.cursor(&mut files).intent
            {
                intent.refused.push(id);
                shared.commit(&mut files, true);
            }
        })
        .await;
    }

    /// The batch is done: recorded, but for these records, which wait for their rows. While the disk does not take those,
    /// it is not done: this waits, and a restart meanwhile brings the batch once more.
    pub async fn settled(&self, taken: &Taken, alive: Option<DateTime<Utc>>, delayed: Vec<Record>) {
        let (to, run) = (taken.to, taken.run);
        self.until_written(delayed, move |shared, delayed| shared.settled(to, run, alive, delayed)).await;
    }

    async fn until_written(
        &self,
        records: Vec<Record>,
        write: impl Fn(&Shared, &[Record]) -> std::io::Result<()> + Clone + Send + 'static,
    ) {
        let records: Arc<[Record]> = records.into();
        loop {
            let (records, write) = (Arc::clone(&records), write.clone());
            let written = self.blocking(move |shared| shared.note_delayed(write(shared, &records))).await;
            if written {
                return;
            }
            tokio::time::sleep(WRITE_AGAIN).await;
        }
    }

    /// Fixes that all delayed records are brought now; the id names the attempt, the same one after a restart.
    pub async fn begin_pass(&self, run: u64) -> (Uuid, HashSet<Uuid>) {
        self.blocking(move |shared| shared.begin_pass(run)).await
    }

    /// All delayed records were brought; these wait on. While the disk does not take them, the attempt stays under way and
    /// this waits: a restart repeats it, and what was recorded is recognised.
    pub async fn end_pass(&self, run: u64, delayed: Vec<Record>) {
        self.until_written(delayed, move |shared, delayed| shared.end_pass(run, delayed)).await;
    }
}

impl Shared {
    fn restart(&self) -> Restart {
        let mut files = lock(&self.files);
        let run = self.run.fetch_add(1, Ordering::AcqRel) + 1;
        let cursor = self.cursor(&mut files).clone();
        files.read_at = cursor.at;
        files.pinned = pinned_by(&cursor);
        files.lost.clear();
        let mut delayed = Vec::new();
        if let Err(error) = delayed::read(&self.folder, cursor.delayed, &mut delayed) {
            // The opening has told it as a gap.
            log::error!("{}: delayed results cannot be read: {error}", self.folder.display());
        }
        let in_pass = cursor.intent.is_some_and(|intent| intent.to.is_none());
        self.wait_for(&delayed, true);
        drop(files);
        // What an earlier reader had in its hands is to be read again.
        self.arrived(0);
        Restart { delayed, in_pass, run }
    }

    fn take(&self) -> Option<Taken> {
        let mut files = lock(&self.files);
        let run = self.run.load(Ordering::Acquire);
        let intent = self.cursor(&mut files).intent.clone().filter(|intent| intent.to.is_some());
        if intent.is_none() && !files.broken {
            self.flush(&mut files);
        }
        let until = intent.as_ref().and_then(|intent| intent.to).unwrap_or_else(|| files.log.end());
        let from = files.read_at;
        let mut walk = files.log.walk(from, until);
        files.pinned = files.pinned.max(until.segment);
        drop(files);

        // The disk may be slow, and who writes must not wait for it.
        let most = if intent.is_some() { usize::MAX } else { BATCH_RECORDS };
        let give_up = lock(&self.files).unreadable_since.is_some_and(|since| since.elapsed() >= GIVE_UP);
        let (records, at, failed) = self.read(&mut walk, from, until, most, give_up);
        let mut files = lock(&self.files);
        if self.run.load(Ordering::Acquire) != run {
            return None;
        }
        match failed {
            None => files.unreadable_since = None,
            Some(error) if records.is_empty() => {
                if files.unreadable_since.is_none() {
                    log::error!("{}: cannot be read and is tried again: {error}", self.folder.display());
                    files.unreadable_since = Some(Instant::now());
                }
                // Not sooner than this; what waits in memory is later, and waits too.
                lock(&self.signal).oldest = Some(Instant::now() + READ_AGAIN);
                return None;
            }
            Some(_) => {}
        }
        self.fix(&mut files, records, at, intent, run)
    }

    /// Reads whole groups until there are `most` records; says where it came to, and what stopped it there. With `give_up`
    /// it goes on behind what cannot be read.
    fn read(
        &self,
        walk: &mut Walk,
        from: Position,
        until: Position,
        most: usize,
        give_up: bool,
    ) -> (Vec<Record>, Position, Option<std::io::Error>) {
        let mut records: Vec<Record> = Vec::new();
        let mut at = from;
        // Where a gap stands whose end the next records tell.
        let mut open: Option<usize> = None;
        while records.len() < most {
            let lost = match walk.next() {
                Ok(Some(Step::Group(group, after))) => {
                    if let Some(Record::Gap(gap)) = open.take().and_then(|at| records.get_mut(at)) {
                        gap.to_at = group.iter().filter_map(Record::time).min().unwrap_or(gap.to_at).max(gap.to_at);
                    }
                    records.extend(group);
                    at = after;
                    continue;
                }
                Ok(Some(Step::Lost { torn: true, .. })) => continue,
                Ok(Some(Step::Lost { at, why, .. })) => (at, why),
                Ok(None) => {
                    at = at.max(until);
                    break;
                }
                Err(error) if !give_up => return (records, at, Some(error)),
                Err(error) => (walk.skip().unwrap_or(until), error.to_string()),
            };
            log::error!(
                "{}: segment {:x} cannot be read from byte {} on ({}): what follows in it is lost, and a gap",
                self.folder.display(),
                lost.0.segment,
                lost.0.offset,
                lost.1
            );
            if let Some(gap) = lost_after(&records) {
                open = Some(records.len());
                records.push(gap);
            }
        }
        (records, at, None)
    }

    /// Fixes a batch on disk, or takes one from memory when the log has no more.
    fn fix(
        &self,
        files: &mut Files,
        records: Vec<Record>,
        at: Position,
        intent: Option<Intent>,
        run: u64,
    ) -> Option<Taken> {
        if records.is_empty() && intent.is_none() {
            files.read_at = files.read_at.max(at);
            files.pinned = begun(files.read_at);
            let records = files.held.take().unwrap_or_else(|| self.memory.take_batch());
            if records.is_empty() {
                if files.log.end() <= files.read_at {
                    self.unread.store(0, Ordering::Relaxed);
                    lock(&self.signal).oldest = None;
                }
                self.all_taken(files);
                self.is_recorded();
                return None;
            }
            self.all_taken(files);
            return Some(Taken { id: Uuid::new_v4(), records, refused: HashSet::new(), to: None, run });
        }
        let count = records.len();
        let intent = intent.unwrap_or_else(|| Intent { id: Uuid::new_v4(), to: Some(at), refused: Vec::new() });
        let (id, to, refused) = (intent.id, intent.to, intent.refused.iter().copied().collect());
        files.read_at = to.unwrap_or(at);
        let cursor = self.cursor(files);
        if cursor.intent.is_none() {
            cursor.intent = Some(intent);
            self.commit(files, true);
        }
        files.pinned = pinned_by(self.cursor(files));
        let fewer = |unread: usize| Some(unread.saturating_sub(count));
        let _ = self.unread.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer);
        let is_end = files.log.end() <= files.read_at && self.memory.is_empty();
        if is_end {
            lock(&self.signal).oldest = None;
        }
        self.all_taken(files);
        let records = end_gaps(&mut files.lost, records);
        Some(Taken { id, records, refused, to, run })
    }

    /// Tells once that delayed records cannot be written; false then.
    fn note_delayed(&self, written: std::io::Result<()>) -> bool {
        let fault = written.err().map(|error| error.to_string());
        let before = std::mem::replace(&mut lock(&self.fault).delayed, fault.clone());
        if let Some(fault) = &fault
            && before.is_none()
        {
            log::error!(
                "{}: results that wait for their monitors' rows cannot be written: {fault}; nothing is recorded until they \
                 can",
                self.folder.display()
            );
        }
        fault.is_none()
    }

    fn settled(
        &self,
        to: Option<Position>,
        run: u64,
        alive: Option<DateTime<Utc>>,
        delayed: &[Record],
    ) -> std::io::Result<()> {
        let mut files = lock(&self.files);
        if self.run.load(Ordering::Acquire) != run {
            return Ok(());
        }
        let cursor = self.cursor(&mut files);
        cursor.delayed = delayed::append(&self.folder, &*self.disk, cursor.delayed, delayed)?;
        if let Some(to) = to {
            (cursor.at, cursor.intent) = (to, None);
        }
        self.wait_for(delayed, false);
        self.is_recorded();
        files.marks.alive = files.marks.alive.max(alive);
        if self.commit(&mut files, false) {
            let lowest = files.marks.lowest();
            files.log.delete_below(lowest);
        }
        self.bytes.store(files.log.bytes(), Ordering::Relaxed);
        Ok(())
    }

    fn begin_pass(&self, run: u64) -> (Uuid, HashSet<Uuid>) {
        let mut files = lock(&self.files);
        let cursor = self.cursor(&mut files);
        if let Some(intent) = cursor.intent.as_ref().filter(|intent| intent.to.is_none()) {
            return (intent.id, intent.refused.iter().copied().collect());
        }
        let id = Uuid::new_v4();
        if self.run.load(Ordering::Acquire) == run {
            self.cursor(&mut files).intent = Some(Intent { id, to: None, refused: Vec::new() });
            self.commit(&mut files, true);
        }
        (id, HashSet::new())
    }

    fn end_pass(&self, run: u64, delayed: &[Record]) -> std::io::Result<()> {
        let mut files = lock(&self.files);
        if self.run.load(Ordering::Acquire) != run {
            return Ok(());
        }
        let cursor = self.cursor(&mut files);
        let next = Extent { file: cursor.delayed.file + 1, bytes: 0 };
        let extent = delayed::append(&self.folder, &*self.disk, next, delayed)?;
        (cursor.delayed, cursor.intent) = (extent, None);
        self.wait_for(delayed, true);
        if self.commit(&mut files, false) {
            delayed::delete_others(&self.folder, extent);
        }
        Ok(())
    }
}
