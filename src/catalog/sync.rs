//! The catalogue's loop: reads sources and rows when woken, and publishes differences. Idempotent: a wake-up carries
//! no data, so one too many costs a comparison and one lost is made good within a minute.
//!
//! ```text
//!  file watch ──┐                    ┌─> stage, dispatcher (Update, in order)
//!  SIGHUP, ask ─┤                    │
//!  NOTIFY ──────┼─> file? rows? ─> diff ┼─> snapshot (ArcSwap, for readers)
//!  every minute ┘        │ ^         └─> catalog.json
//!                        v │
//!                       store (one question at a time)
//! ```

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};
use tokio::sync::{mpsc, oneshot, watch};

use super::plan::Archiving;
use super::{MonitorRow, Reloaded, Snapshot, StatesRequest, Update};
use crate::clock::Wall;
use crate::journal::Recovered;
use crate::model::{Keeping, MonitorId};
use crate::settings::definition::{Definition, Located};

mod follower;
mod memory;
mod publish;
mod questions;
mod reading;
mod rows;
mod talk;

pub use follower::Follower;

/// The file's part of the catalogue, read and valid.
pub trait FileSource: Send + Sync + 'static {
    /// Reads the sources anew; blocks on the disk. When somebody `asked`, also when they hold what they held before, since
    /// files that they refer to may differ. New content is followed by [`Self::apply`] or [`Self::refuse`], or by neither
    /// when the sources are read once more.
    fn read(&self, asked: bool) -> FileReading;
    /// Reads a row with the file's `[defaults]` that are in force.
    fn read_row(&self, row: &MonitorRow) -> Result<Definition, String>;
    /// Reads a row that a file has written and none has any more: with its references when it is `trusted`, which is when
    /// nobody else can have written it.
    fn read_held(&self, row: &MonitorRow, trusted: bool) -> Result<Definition, String>;
    /// What plans allow by the file that is in force.
    fn keeping(&self) -> Arc<Keeping>;
    /// Applies what is not monitors of the last content; returns the parts that differ from what the daemon was started
    /// with and need a restart.
    fn apply(&self) -> Vec<String>;
    /// The last content is not applied; why. The one before stays in force.
    fn refuse(&self, why: &str);
}

/// What reading the sources gave.
pub struct FileReading {
    /// Folders to watch from now on, whatever the sources say: a link may lead elsewhere.
    pub folders: Vec<PathBuf>,
    /// What the sources say.
    pub outcome: FileOutcome,
}

/// What the sources say.
pub enum FileOutcome {
    /// What is in force.
    Unchanged,
    /// What was refused before, for the same reasons.
    StillRefused,
    /// Something new and valid.
    Content(NewContent),
    /// Something new and bad; the findings, one a line.
    Refused(String),
}

/// New and valid sources.
pub struct NewContent {
    /// The monitors.
    pub definitions: Arc<[Located]>,
    /// Equal when the sources are.
    pub digest: [u8; 32],
    /// They are shorter than before, or end in the middle of a line: somebody may be writing them just now.
    pub cut: bool,
}

/// What the sources say when the daemon starts.
pub struct FileContent {
    /// The monitors.
    pub definitions: Arc<[Located]>,
    /// Folders to watch.
    pub folders: Vec<PathBuf>,
}

/// Somebody asks for a reload and waits.
pub struct ReloadRequest {
    /// Whether more than the guard lets through may be archived.
    pub force: bool,
    /// Where the answer goes; nobody there harms nothing.
    pub answer: oneshot::Sender<Reloaded>,
}

/// How many monitors plans limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limited {
    /// Paused, beyond `max_monitors`.
    pub paused: usize,
    /// Running, and held to `min_interval`.
    pub held: usize,
}

/// What the catalogue tells about itself.
#[derive(Clone, Debug, Default)]
pub struct CatalogReport {
    /// Reloads that were applied, after the start.
    pub reloads_applied: u64,
    /// Reloads that were refused.
    pub reloads_refused: u64,
    /// When one was last applied; the start counts.
    pub last_applied_at: Option<DateTime<Utc>>,
    /// Findings of the last reading of the file; none when it was fine.
    pub file_error: Option<String>,
    /// Whether the last reload was applied; the configuration of the start counts as one. None before it.
    pub last_reload_ok: Option<bool>,
    /// When that was.
    pub last_reload_at: Option<DateTime<Utc>>,
    /// What a merge or a reload would have archived, and may not without being told to.
    pub archive_held: Option<Archiving>,
    /// Parts of the configuration that take effect at the next start.
    pub needs_restart: Vec<String>,
    /// Why the store could not be asked; none when it answered.
    pub store_fault: Option<String>,
    /// Whether the file's monitors and the store's rows have been brought together since the start.
    pub merged: bool,
    /// Rows that are no valid monitors.
    pub invalid: usize,
    /// Rows that the plans of their users limit.
    pub limited: Limited,
    /// Whether the file's monitors have been brought to the store once, or cannot be. Before that nobody knows which
    /// monitors have rows, and no result may be recorded.
    pub rows_known: bool,
    /// Monitors of the file that may have no row yet: their results must wait for it, or they would be taken for those of
    /// a deleted monitor.
    pub unmerged: Arc<HashSet<MonitorId>>,
}

impl CatalogReport {
    /// A reload ended.
    fn reloaded(&mut self, ok: bool, now: DateTime<Utc>) {
        (self.last_reload_ok, self.last_reload_at) = (Some(ok), Some(now));
        if ok {
            self.reloads_applied += 1;
            self.last_applied_at = Some(now);
        } else {
            self.reloads_refused += 1;
        }
    }
}

/// Shared with those who show it.
#[derive(Debug, Default)]
pub struct SharedReport(Mutex<CatalogReport>, ReloadCount);

impl SharedReport {
    /// An empty report that counts its reloads there.
    #[must_use]
    pub fn counting(reloads: ReloadCount) -> Self {
        Self(Mutex::default(), reloads)
    }

    /// The report now.
    #[must_use]
    pub fn get(&self) -> CatalogReport {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn edit(&self, change: impl FnOnce(&mut CatalogReport)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Reloads that have begun and ended.
    #[must_use]
    pub const fn reloads(&self) -> &ReloadCount {
        &self.1
    }
}

/// How many reloads there were since the start of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reloads {
    /// Begun.
    pub begun: u64,
    /// Of those, the first so many have ended.
    pub ended: u64,
}

/// Counts reloads, for who tells others about them. Clones share the count.
#[derive(Clone, Debug, Default)]
pub struct ReloadCount(watch::Sender<Reloads>);

impl ReloadCount {
    /// A reload begins: somebody asked for it, or the sources differ.
    pub fn begin(&self) {
        self.0.send_modify(|reloads| reloads.begun += 1);
    }

    /// All that have begun have ended, applied or refused.
    pub fn end(&self) {
        self.0.send_if_modified(|reloads| std::mem::replace(&mut reloads.ended, reloads.begun) != reloads.begun);
    }

    /// To wait for changes.
    #[must_use]
    pub fn follow(&self) -> watch::Receiver<Reloads> {
        self.0.subscribe()
    }
}

/// What the loop is connected to.
pub struct Links {
    /// Every loop that follows the catalogue; each gets every update in order.
    pub updates: Vec<mpsc::Sender<Update>>,
    /// Readers that only want the present.
    pub snapshot: Arc<arc_swap::ArcSwap<Snapshot>>,
    /// For health.
    pub report: Arc<SharedReport>,
    /// Folders for the watcher.
    pub folders: mpsc::Sender<Vec<PathBuf>>,
    /// The states of all monitors now, for `catalog.json`.
    pub states: mpsc::Sender<StatesRequest>,
    /// Where `catalog.json` is.
    pub remember_at: PathBuf,
    /// For when the last reload was.
    pub wall: Arc<dyn Wall>,
    /// States that the journal holds and the store may not know yet.
    pub recovered: Arc<Recovered>,
}

/// What wakes the loop.
pub struct Wakes {
    /// A source may have changed.
    pub file: mpsc::Receiver<()>,
    /// A reload is asked for.
    pub reload: mpsc::Receiver<ReloadRequest>,
    /// The minute's comparison.
    pub minute: mpsc::Receiver<()>,
}

#[cfg(test)]
mod tests;
