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

use tokio::sync::{mpsc, oneshot};

use super::{MonitorRow, Reloaded, Snapshot, StatesRequest, Update};
use crate::journal::Recovered;
use crate::model::MonitorId;
use crate::settings::definition::Definition;

mod follower;
mod memory;
mod publish;
mod rows;
mod talk;

pub use follower::Follower;

/// The file's part of the catalogue, read and valid.
pub trait FileSource: Send + Sync + 'static {
    /// Reads the sources anew; blocks on the disk. With `force` also when they hold what they held before, since files
    /// that they refer to may differ.
    fn read(&self, force: bool) -> FileReading;
    /// Reads a row with the file's `[defaults]` of the last content.
    fn read_row(&self, row: &MonitorRow) -> Result<Definition, String>;
    /// Applies what is not monitors of the last content; returns the parts that differ from what the daemon was started
    /// with and need a restart.
    fn apply(&self) -> Vec<String>;
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
    /// Something new and valid: the monitors.
    Content(Arc<[Definition]>),
    /// Something new and bad; the findings, one a line.
    Refused(String),
}

/// What the sources say when the daemon starts.
pub struct FileContent {
    /// The monitors.
    pub definitions: Arc<[Definition]>,
    /// Folders to watch.
    pub folders: Vec<PathBuf>,
}

/// Somebody asks for a reload and waits.
pub type ReloadRequest = oneshot::Sender<Reloaded>;

/// What the catalogue tells about itself.
#[derive(Clone, Debug, Default)]
pub struct CatalogReport {
    /// Findings of the last reading of the file; none when it was fine.
    pub file_error: Option<String>,
    /// Parts of the configuration that take effect at the next start.
    pub needs_restart: Vec<String>,
    /// Why the store could not be asked; none when it answered.
    pub store_fault: Option<String>,
    /// Whether the file's monitors and the store's rows have been brought together since the start.
    pub merged: bool,
    /// Rows that are no valid monitors.
    pub invalid: usize,
    /// Whether the file's monitors have been brought to the store once, or cannot be. Before that nobody knows which
    /// monitors have rows, and no result may be recorded.
    pub rows_known: bool,
    /// Monitors of the file that may have no row yet: their results must wait for it, or they would be taken for those of
    /// a deleted monitor.
    pub unmerged: Arc<HashSet<MonitorId>>,
}

/// Shared with those who show it.
#[derive(Debug, Default)]
pub struct SharedReport(Mutex<CatalogReport>);

impl SharedReport {
    /// The report now.
    #[must_use]
    pub fn get(&self) -> CatalogReport {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn edit(&self, change: impl FnOnce(&mut CatalogReport)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
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
