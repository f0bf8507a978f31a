//! The catalogue's loop: reads sources and rows when woken, and publishes differences. Idempotent: a wake-up carries
//! no data, so one too many costs a comparison and one lost is made good within a minute.
//!
//! ```text
//!  file watch ──┐                    ┌─> stage, dispatcher (Update, in order)
//!  SIGHUP, ask ─┤                    │
//!  NOTIFY ──────┼─> file? rows? ─> merge ─> diff ─┼─> snapshot (ArcSwap, for readers)
//!  every minute ┘                    └─> catalog.json
//! ```

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until};

use super::diff::diff;
use super::merge::{self, RowOutcome};
use super::remember::{self, Remembered};
use super::{CatalogStore, Changes, Entry, MonitorRow, Reloaded, Removal, Snapshot, StatesRequest, Update};
use crate::model::{MonitorId, MonitorKey, MonitorState, Source, StoreFault, UserId};
use crate::settings::definition::Definition;
use crate::shutdown::Shutdown;

/// After the store failed; doubles up to [`RETRY_MOST`].
const RETRY_LEAST: Duration = Duration::from_millis(250);
/// Longest wait before the store is asked again.
const RETRY_MOST: Duration = Duration::from_secs(5);
/// Rows written one by one are gathered for so long (contract: picked up within two seconds).
const GATHER: Duration = Duration::from_millis(100);
/// `catalog.json` is written at most so often; also how old its states may be.
const REMEMBER_EVERY: Duration = Duration::from_secs(60);

/// The file's part of the catalogue, read and valid.
pub trait FileSource: Send + Sync + 'static {
    /// Reads the sources anew; blocks on the disk. With `force` also when they hold what they held before, since files
    /// that they refer to may differ.
    fn read(&self, force: bool) -> FileReading;
    /// Reads a row with the file's `[defaults]` of the last content.
    fn read_row(&self, row: &MonitorRow) -> Result<Definition, String>;
    /// Applies what is not monitors of the last content; returns the parts that need a restart.
    fn apply(&self) -> Vec<String>;
}

/// What reading the sources gave.
pub enum FileReading {
    /// What is in force.
    Unchanged,
    /// What was refused before, and has not changed.
    StillRefused,
    /// Something new and valid.
    Content(FileContent),
    /// Something new and bad; the findings, one a line.
    Refused(String),
}

/// What the sources say.
pub struct FileContent {
    /// The monitors.
    pub definitions: Vec<Definition>,
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
    /// Why the store could not be asked; none when it answered.
    pub store_fault: Option<String>,
    /// Whether the file's monitors and the store's rows have been brought together since the start.
    pub merged: bool,
    /// Rows that are no valid monitors.
    pub invalid: usize,
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

/// The loop's state.
pub struct Follower<S> {
    file: Arc<dyn FileSource>,
    store: Arc<S>,
    links: Links,
    definitions: Vec<Definition>,
    /// Made anew when definitions or keys change: a row's change must not cost 100,000 file monitors.
    file_entries: HashMap<MonitorId, Arc<Entry>>,
    keys: HashMap<MonitorKey, (MonitorId, UserId)>,
    rows: HashMap<MonitorId, RowOutcome>,
    /// Rows as they were read, without states: for `catalog.json`.
    raw_rows: HashMap<MonitorId, MonitorRow>,
    file_revisions: HashMap<MonitorId, i64>,
    states: HashMap<MonitorId, MonitorState>,
    merge_due: bool,
    load_due: bool,
    retry_at: Option<Instant>,
    retry_wait: Duration,
    remembered_at: Option<Instant>,
}

impl<S: CatalogStore> Follower<S> {
    /// A catalogue that knows what `remembered` tells and nothing else yet.
    #[must_use]
    pub fn new(file: Arc<dyn FileSource>, store: Arc<S>, links: Links, remembered: Option<Remembered>) -> Self {
        let remembered = remembered.unwrap_or_default();
        let raw_rows = remembered.rows.into_iter().map(|row| (row.id, row)).collect();
        Self {
            file,
            store,
            links,
            definitions: Vec::new(),
            file_entries: HashMap::new(),
            keys: remembered.keys,
            rows: HashMap::new(),
            raw_rows,
            file_revisions: HashMap::new(),
            states: remembered.states,
            merge_due: true,
            load_due: true,
            retry_at: None,
            retry_wait: RETRY_LEAST,
            remembered_at: None,
        }
    }

    /// Publishes the first snapshot (from the store, or from memory when it is away), then follows changes until shutdown.
    pub async fn run(mut self, first: FileContent, mut wakes: Wakes, mut shutdown: Shutdown) {
        self.take_content(first).await;
        let with_store = tokio::select! {
            () = shutdown.wait() => return,
            done = self.refresh() => done.is_ok(),
        };
        if !with_store {
            self.rows_from_memory();
            self.publish(Vec::new()).await;
        }
        loop {
            let store = Arc::clone(&self.store);
            let retry_at = self.retry_at;
            let mut answer = None;
            tokio::select! {
                () = shutdown.wait() => break,
                Some(()) = wakes.file.recv() => { self.reread(false).await; }
                Some(request) = wakes.reload.recv() => answer = Some(request),
                Some(()) = wakes.minute.recv() => self.compare().await,
                changed = store.changed(), if retry_at.is_none() => {
                    if changed.is_ok() { sleep(GATHER).await }
                    self.compare().await;
                }
                () = wait_until(retry_at) => self.compare().await,
            }
            if let Some(request) = answer {
                let answer = self.reread(true).await;
                // The asker may have gone away; the reload happened all the same.
                let _ = request.send(answer);
            }
            if self.remembered_at.is_none_or(|at| at.elapsed() >= REMEMBER_EVERY) {
                self.remember().await;
            }
        }
        self.remember().await;
    }

    /// Reads the sources again and applies what differs.
    async fn reread(&mut self, force: bool) -> Reloaded {
        let file = Arc::clone(&self.file);
        let reading = tokio::task::spawn_blocking(move || file.read(force)).await;
        let reading =
            reading.unwrap_or_else(|error| FileReading::Refused(format!("reading the sources failed: {error}")));
        let content = match reading {
            FileReading::Content(content) => content,
            FileReading::Unchanged => {
                self.links.report.edit(|report| report.file_error = None);
                return Reloaded { applied: true, ..Reloaded::default() };
            }
            FileReading::StillRefused => {
                return Reloaded { error: self.links.report.get().file_error, ..Reloaded::default() };
            }
            FileReading::Refused(findings) => {
                log::error!("the configuration is not applied, the one before stays:\n{findings}");
                self.links.report.edit(|report| report.file_error = Some(findings.clone()));
                return Reloaded { error: Some(findings), ..Reloaded::default() };
            }
        };
        let needs_restart = self.file.apply();
        for part in &needs_restart {
            log::warn!("{part} has changed: it takes effect at the next start");
        }
        self.take_content(content).await;
        // The defaults may be others.
        for row in std::mem::take(&mut self.raw_rows).into_values() {
            self.read_row(row);
        }
        self.load_due = true;
        let counts = match self.refresh().await {
            Ok(counts) => counts,
            Err(_) => self.publish(Vec::new()).await,
        };
        log::info!(added = counts.0, changed = counts.1, removed = counts.2; "configuration applied");
        Reloaded { applied: true, added: counts.0, changed: counts.1, removed: counts.2, needs_restart, error: None }
    }

    async fn take_content(&mut self, content: FileContent) {
        self.definitions = content.definitions;
        self.file_entries = merge::file_entries(&self.definitions, &self.keys);
        self.merge_due = true;
        let is_new = |id: &&MonitorId| !self.file_revisions.contains_key(*id);
        let unmerged = Arc::new(self.file_entries.keys().filter(is_new).copied().collect());
        self.links.report.edit(|report| {
            report.file_error = None;
            report.unmerged = unmerged;
        });
        // The watcher ends only at shutdown.
        let _ = self.links.folders.send(content.folders).await;
    }

    /// Compares revisions and refreshes if anything differs or was left undone.
    async fn compare(&mut self) {
        if !self.merge_due && !self.load_due {
            match self.differing().await {
                Ok(ids) if ids.is_empty() => {}
                Ok(_) => self.load_due = true,
                Err(fault) => return self.away(&fault),
            }
        }
        // An error is noted inside, and the retry timer brings us back.
        let _ = self.refresh().await;
    }

    /// Ids whose revision is not the one that was read; a file monitor among them makes a merge due.
    async fn differing(&mut self) -> Result<HashSet<MonitorId>, StoreFault> {
        let now: HashMap<MonitorId, i64> = self.store.revisions().await?.into_iter().collect();
        let mut ids = HashSet::new();
        for (id, revision) in &now {
            let of_file = self.file_revisions.get(id);
            let known = of_file.or_else(|| self.rows.get(id).map(|row| &row.revision));
            if known != Some(revision) {
                ids.insert(*id);
                self.merge_due |= of_file.is_some();
            }
        }
        let gone = self.rows.keys().chain(self.file_revisions.keys()).filter(|id| !now.contains_key(id));
        ids.extend(gone.copied());
        self.merge_due |= self.file_revisions.keys().any(|id| !now.contains_key(id));
        Ok(ids)
    }

    /// Brings file and store together as far as something is due, and publishes. Counts of added, changed, removed.
    async fn refresh(&mut self) -> Result<(usize, usize, usize), StoreFault> {
        let result = self.refresh_inner().await;
        match &result {
            Ok(_) => {
                self.retry_at = None;
                self.retry_wait = RETRY_LEAST;
                self.links.report.edit(|report| {
                    report.store_fault = None;
                    report.merged = true;
                });
            }
            Err(fault) => self.away(fault),
        }
        result
    }

    async fn refresh_inner(&mut self) -> Result<(usize, usize, usize), StoreFault> {
        if self.merge_due {
            let rows = merge::file_rows(&self.definitions);
            let merged = self.store.merge(&rows).await;
            if !matches!(merged, Err(StoreFault::Away(_))) {
                // Merged, or never to be: nothing may wait for it any longer.
                self.links.report.edit(|report| report.unmerged = Arc::default());
            }
            let merged = merged?;
            if !merged.archived.is_empty() {
                log::info!(monitors = merged.archived.len(); "monitors left the configuration and are archived");
            }
            self.keys = merged.ids;
            self.file_entries = merge::file_entries(&self.definitions, &self.keys);
            self.merge_due = false;
            self.load_due = true;
        }
        if self.load_due {
            let differing = if self.rows.is_empty() { None } else { Some(self.differing().await?) };
            let only: Option<Vec<MonitorId>> = differing.as_ref().map(|ids| ids.iter().copied().collect());
            if only.as_ref().is_none_or(|ids| !ids.is_empty()) {
                let rows = self.store.load(only.as_deref()).await?;
                self.take_rows(rows, differing);
            }
            self.mark_invalid().await?;
            self.load_due = false;
        }
        let dismissed = self.store.dismissed().await?;
        Ok(self.publish(dismissed).await)
    }

    /// Takes in rows: of the ids in `differing`, or all when none is given.
    fn take_rows(&mut self, rows: Vec<MonitorRow>, differing: Option<HashSet<MonitorId>>) {
        match differing {
            Some(ids) => {
                self.rows.retain(|id, _| !ids.contains(id));
                self.raw_rows.retain(|id, _| !ids.contains(id));
                self.file_revisions.retain(|id, _| !ids.contains(id));
            }
            None => {
                self.rows.clear();
                self.raw_rows.clear();
                self.file_revisions.clear();
                // What catalog.json remembered may be of another database.
                self.states.clear();
            }
        }
        for mut row in rows {
            if let Some(state) = row.state.take() {
                self.states.insert(row.id, state);
            } else if row.last_checked.is_some() {
                // A database from before has no state, and yet was checked.
                let state = MonitorState { last_checked: row.last_checked, ..MonitorState::default() };
                self.states.entry(row.id).or_insert(state);
            }
            if row.source == Source::File {
                self.file_revisions.insert(row.id, row.revision);
            } else {
                self.read_row(row);
            }
        }
    }

    fn read_row(&mut self, row: MonitorRow) {
        let outcome = merge::row_outcome(&row, |row| self.file.read_row(row), |key| self.keys.get(key).map(|k| k.0));
        if let Err(reason) = &outcome.result
            && outcome.stored_reason.as_ref() != Some(reason)
        {
            log::warn!(monitor = row.name.as_str(), monitor_id = row.id.to_string().as_str();
                "a monitor of the database is invalid and not checked: {reason}");
        }
        self.rows.insert(row.id, outcome);
        self.raw_rows.insert(row.id, row);
    }

    fn rows_from_memory(&mut self) {
        for row in std::mem::take(&mut self.raw_rows).into_values() {
            self.read_row(row);
        }
        log::warn!(
            monitors = self.definitions.len() + self.rows.len();
            "the database is away: checks start from the configuration and from what catalog.json remembers"
        );
    }

    async fn mark_invalid(&mut self) -> Result<(), StoreFault> {
        let reasons: Vec<(MonitorId, Option<String>)> = self
            .rows
            .iter()
            .filter(|(_, row)| row.stored_reason.as_ref() != row.result.as_ref().err())
            .map(|(id, row)| (*id, row.result.as_ref().err().cloned()))
            .collect();
        let invalid = self.rows.values().filter(|row| row.result.is_err()).count();
        self.links.report.edit(|report| report.invalid = invalid);
        if reasons.is_empty() {
            return Ok(());
        }
        self.store.mark_invalid(&reasons).await?;
        for (id, reason) in reasons {
            if let Some(row) = self.rows.get_mut(&id) {
                row.stored_reason = reason;
            }
        }
        Ok(())
    }

    async fn publish(&mut self, dismissed: Vec<(MonitorId, crate::model::IncidentUid)>) -> (usize, usize, usize) {
        let mut monitors = self.file_entries.clone();
        let valid = self.rows.iter().filter_map(|(id, row)| Some((*id, Arc::clone(row.result.as_ref().ok()?))));
        monitors.extend(valid);
        let old = self.links.snapshot.load_full();
        let of_file = |id: &MonitorId| old.monitors.get(id).is_some_and(|e| e.monitor.source == Source::File);
        let removal = |id: MonitorId| match self.rows.get(&id) {
            Some(_) => Removal::Invalid,
            None if of_file(&id) => Removal::Archived,
            None => Removal::Deleted,
        };
        let states = &mut self.states;
        let mut changes = diff(&old, &monitors, |id| states.remove(&id).unwrap_or_default(), removal);
        changes.dismissed = dismissed;
        // States of monitors that are already followed live in the stage; these are old.
        self.states.clear();
        let counts = (changes.added.len(), changes.changed.len(), changes.removed.len());
        // Entries that did not change stay the same allocation, so that nobody holds two.
        for (id, entry) in &mut monitors {
            if let Some(before) = old.monitors.get(id).filter(|before| before.fingerprint == entry.fingerprint) {
                *entry = Arc::clone(before);
            }
        }
        if changes.is_empty() && old.generation > 0 {
            return counts;
        }
        self.send(Snapshot { generation: old.generation + 1, monitors }, changes).await;
        self.remembered_at = None;
        counts
    }

    async fn send(&self, snapshot: Snapshot, changes: Changes) {
        let update = Update { snapshot: Arc::new(snapshot), changes: Arc::new(changes) };
        self.links.snapshot.store(Arc::clone(&update.snapshot));
        for follower in &self.links.updates {
            // A follower that has ended does so at shutdown.
            let _ = follower.send(update.clone()).await;
        }
    }

    fn away(&mut self, fault: &StoreFault) {
        if self.retry_at.is_none() {
            log::warn!("the catalogue cannot reach the store: {fault}");
        }
        self.links.report.edit(|report| report.store_fault = Some(fault.to_string()));
        self.retry_at = Some(Instant::now() + self.retry_wait);
        self.retry_wait = (self.retry_wait * 2).min(RETRY_MOST);
    }

    async fn remember(&mut self) {
        self.remembered_at = Some(Instant::now());
        let (ask, answer) = oneshot::channel();
        if self.links.states.send(ask).await.is_err() {
            return;
        }
        // The stage ends after us; without its answer the file of before is better than one without states.
        let Ok(states) = answer.await else { return };
        let remembered = Remembered {
            version: remember::VERSION,
            keys: self.keys.clone(),
            rows: self.raw_rows.values().cloned().collect(),
            states,
        };
        let path = self.links.remember_at.clone();
        let written = tokio::task::spawn_blocking(move || remember::write(&path, &remembered)).await;
        if let Ok(Err(error)) = written {
            log::warn!("{}: cannot be written: {error}", self.links.remember_at.display());
        }
    }
}

async fn wait_until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
