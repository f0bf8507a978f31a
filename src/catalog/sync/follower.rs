//! The loop itself: what wakes it, what it does then, and when it publishes.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until, timeout};

use super::memory::Memory;
use super::questions::{Answer, Due, Question};
use super::reading::Candidate;
use super::rows::Rows;
use super::{FileContent, FileSource, Links, Wakes};
use crate::catalog::merge::{self, Entries, Ids, Seals};
use crate::catalog::plan::{Archiving, Guard};
use crate::catalog::remember::Remembered;
use crate::catalog::{CatalogStore, MonitorRow, Reloaded};
use crate::model::{IncidentUid, MonitorId, StoreFault};
use crate::settings::definition::Located;
use crate::shutdown::Shutdown;

/// After the store failed; doubles up to [`RETRY_MOST`].
const RETRY_LEAST: Duration = Duration::from_millis(250);
/// Longest wait before the store is asked again.
const RETRY_MOST: Duration = Duration::from_secs(5);
/// Rows written one by one are gathered for so long (contract: picked up within two seconds).
const GATHER: Duration = Duration::from_millis(100);
/// The same when comparing is slow: it takes a tenth of the time at most.
const GATHER_MOST: Duration = Duration::from_secs(1);
/// A change of the file waits so long for a store that does not answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// For the last `catalog.json`.
const FINISH: Duration = Duration::from_secs(2);

/// The loop's state.
pub struct Follower<S> {
    pub(super) file: Arc<dyn FileSource>,
    pub(super) store: Arc<S>,
    pub(super) links: Links,
    /// In force.
    pub(super) definitions: Arc<[Located]>,
    /// Which reading they are of.
    pub(super) edition: u64,
    /// Counts readings that brought something new.
    pub(super) editions: u64,
    /// When the reading began that is about to be published.
    pub(super) reload_began: Option<Instant>,
    /// Read, and waiting for the store.
    pub(super) candidate: Option<Candidate>,
    /// For merges of what is in force.
    pub(super) guard: Guard,
    /// Of which reading the rows are.
    pub(super) merged_edition: Option<u64>,
    /// Rows that the guard keeps from being archived, although the file has them no more.
    pub(super) held: HashSet<MonitorId>,
    /// The same for people.
    pub(super) guarded: Option<Archiving>,
    /// What the file said, by which a row that is held is known for the file's own.
    pub(super) seals: Arc<Seals>,
    /// Sources that look cut off, and when they count if they are still the same.
    pub(super) unconfirmed: Option<([u8; 32], Instant)>,
    /// When to read the sources again for that.
    pub(super) reread_at: Option<Instant>,
    pub(super) file_entries: Entries,
    pub(super) keys: Arc<Ids>,
    pub(super) rows: Rows,
    /// Rows of `catalog.json`, until the store or memory is the first to be read.
    pub(super) remembered: Vec<Arc<MonitorRow>>,
    /// Whether the store's rows have been read.
    pub(super) loaded: bool,
    pub(super) due: Due,
    question: Option<Question>,
    /// What may differ from the snapshot; none: everything.
    pub(super) touched: Option<HashSet<MonitorId>>,
    pub(super) dismissed: Vec<(MonitorId, IncidentUid)>,
    /// The file's monitors whose rows were not found: archived or deleted by somebody, which is to be asked.
    pub(super) row_missing: HashSet<MonitorId>,
    /// Those that were deleted, until they have rows again.
    pub(super) row_gone: HashSet<MonitorId>,
    /// Those of them that have rows again, until the next publication.
    pub(super) remade: Vec<MonitorId>,
    /// Rows that were found archived when they were about to be read.
    pub(super) archived: HashSet<MonitorId>,
    /// Dismissed, and the followers know.
    pub(super) told: HashSet<(MonitorId, IncidentUid)>,
    /// Ids that left the snapshot as invalid: the followers still keep them, and are told when their rows go.
    pub(super) invalid: HashSet<MonitorId>,
    /// When to publish what the file says, whether the store has answered or not.
    pub(super) publish_by: Option<Instant>,
    pub(super) asked: Vec<oneshot::Sender<Reloaded>>,
    pub(super) retry_at: Option<Instant>,
    retry_wait: Duration,
    compare_at: Option<Instant>,
    pub(super) compare_cost: Duration,
    listen_at: Option<Instant>,
    listen_wait: Duration,
    pub(super) merged_at: Option<Instant>,
    /// When to merge again, because somebody wrote to rows of the file right after the last time.
    pub(super) merge_at: Option<Instant>,
    /// Ids that the last merge gave rows to.
    pub(super) stored: HashSet<MonitorId>,
    pub(super) merge_fault: Option<String>,
    pub(super) memory: Memory,
}

impl<S: CatalogStore> Follower<S> {
    /// A catalogue that knows what `remembered` tells and nothing else yet.
    #[must_use]
    pub fn new(file: Arc<dyn FileSource>, store: Arc<S>, links: Links, remembered: Option<Remembered>) -> Self {
        let remembered = remembered.unwrap_or_default();
        let memory = Memory::new(links.remember_at.clone(), links.states.clone());
        Self {
            file,
            store,
            links,
            definitions: Arc::from([]),
            edition: 0,
            editions: 0,
            reload_began: None,
            candidate: None,
            guard: Guard::Start { had: None },
            merged_edition: None,
            held: HashSet::new(),
            guarded: None,
            seals: Arc::new(remembered.seals),
            unconfirmed: None,
            reread_at: None,
            file_entries: Entries::new(),
            keys: Arc::new(remembered.keys),
            rows: Rows::remembered(remembered.states, remembered.owners),
            remembered: remembered.rows.into_iter().map(Arc::new).collect(),
            loaded: false,
            due: Due::everything(),
            question: None,
            touched: None,
            dismissed: Vec::new(),
            row_missing: HashSet::new(),
            row_gone: HashSet::new(),
            remade: Vec::new(),
            archived: HashSet::new(),
            told: HashSet::new(),
            invalid: HashSet::new(),
            publish_by: None,
            asked: Vec::new(),
            retry_at: None,
            retry_wait: RETRY_LEAST,
            compare_at: None,
            compare_cost: Duration::ZERO,
            listen_at: None,
            listen_wait: RETRY_LEAST,
            merged_at: None,
            merge_at: None,
            stored: HashSet::new(),
            merge_fault: None,
            memory,
        }
    }

    /// Publishes the first snapshot (from the store, or from memory when it is away), then follows changes until shutdown.
    pub async fn run(mut self, first: FileContent, mut wakes: Wakes, mut shutdown: Shutdown) {
        let began = async {
            self.rows.own(&self.keys);
            self.begin(first).await;
        };
        tokio::select! {
            () = shutdown.wait() => return,
            () = began => {}
        }
        loop {
            tokio::select! {
                biased;
                () = shutdown.wait() => break,
                () = self.turn(&mut wakes) => {}
            }
        }
        let remembered = self.remembering();
        let _ = timeout(FINISH, self.memory.finish(remembered)).await;
    }

    /// Does what is due and waits for one thing to happen.
    async fn turn(&mut self, wakes: &mut Wakes) {
        self.advance().await;
        let store = Arc::clone(&self.store);
        let deaf = self.retry_at.is_some() || self.compare_at.is_some() || self.listen_at.is_some();
        let may_read = self.may_read();
        let decide_at = self.candidate.as_ref().map(|candidate| candidate.by);
        let reread_at = self.reread_at.filter(|_| may_read);
        let timers =
            [self.retry_at, self.compare_at, self.listen_at, self.publish_by, self.merge_at, self.memory.due()];
        let timers = timers.into_iter().chain([decide_at, reread_at]);
        tokio::select! {
            answer = answered(&mut self.question) => {
                self.question = None;
                if let Err(fault) = self.take(answer).await {
                    self.away(&fault).await;
                }
            }
            Some(()) = wakes.file.recv(), if may_read => self.reread(false, false).await,
            Some(request) = wakes.reload.recv(), if may_read => self.reread_for(request, &mut wakes.reload).await,
            Some(()) = wakes.minute.recv() => {
                self.due.merge |= std::mem::take(&mut self.due.merge_later);
                self.due.look();
            }
            heard = store.changed(), if !deaf => self.heard(heard),
            () = self.memory.written() => {}
            () = wait_until(timers.flatten().min()) => {}
        }
    }

    /// Acts on timers that have passed, asks the store the next question, or publishes when there is none.
    async fn advance(&mut self) {
        let now = Instant::now();
        passed(&mut self.listen_at, now);
        self.due.merge |= passed(&mut self.merge_at, now);
        let (again, compare) = (passed(&mut self.retry_at, now), passed(&mut self.compare_at, now));
        if again || compare {
            // Nothing was heard while the store was away.
            self.due.look();
        }
        if self.may_read() && passed(&mut self.reread_at, now) {
            self.reread(false, false).await;
        }
        if self.candidate.as_ref().is_some_and(|candidate| candidate.by <= now) {
            self.decide_without_store().await;
        }
        if self.question.is_none() && self.retry_at.is_none() {
            self.question = self.next_question();
            if self.question.is_none() {
                self.publish().await;
                self.question = self.last_question();
            }
            if self.question.is_none() {
                self.at_rest();
            }
        }
        if self.publish_by.is_some_and(|by| by <= now) {
            self.publish_anyway().await;
        }
        if self.memory.due().is_some_and(|due| due <= now) {
            let remembered = self.remembering();
            self.memory.write(remembered);
        }
    }

    /// Everything that was due is done.
    fn at_rest(&mut self) {
        if self.retry_wait > RETRY_LEAST {
            log::info!("the catalogue reaches the store again");
        }
        self.retry_wait = RETRY_LEAST;
        let (fault, merged) = (self.merge_fault.clone(), self.merged_at.is_some());
        self.links.report.edit(|report| (report.store_fault, report.merged) = (fault, merged));
    }

    /// A notification, or the end of hearing any.
    fn heard(&mut self, heard: Result<(), StoreFault>) {
        let now = Instant::now();
        match heard {
            Ok(()) => self.listen_wait = RETRY_LEAST,
            Err(fault) => {
                log::debug!("changes of rows are not told for {:?}: {fault}", self.listen_wait);
                self.listen_at = Some(now + self.listen_wait);
                self.listen_wait = (self.listen_wait * 2).min(RETRY_MOST);
            }
        }
        self.compare_at = Some(now + (self.compare_cost * 9).clamp(GATHER, GATHER_MOST));
    }

    async fn away(&mut self, fault: &StoreFault) {
        if self.retry_wait == RETRY_LEAST {
            log::warn!("the catalogue cannot reach the store: {fault}");
        }
        self.links.report.edit(|report| report.store_fault = Some(fault.to_string()));
        self.retry_at = Some(Instant::now() + self.retry_wait);
        self.retry_wait = (self.retry_wait * 2).min(RETRY_MOST);
        self.decide_without_store().await;
        if self.publish_by.is_some() {
            self.publish_anyway().await;
        } else if self.loaded {
            // What was learned before the fault counts.
            self.publish().await;
        }
    }

    /// Takes in what the daemon starts with.
    async fn begin(&mut self, first: FileContent) {
        // The watcher ends only at shutdown.
        let _ = self.links.folders.send(first.folders).await;
        self.definitions = first.definitions;
        let now = self.links.wall.now();
        self.links.report.edit(|report| {
            (report.last_reload_ok, report.last_reload_at) = (Some(true), Some(now));
            report.last_applied_at = Some(now);
        });
        self.due.merge = true;
        self.make_file_entries(None).await;
        self.publish_by = Some(Instant::now() + PATIENCE);
    }

    /// Makes the file's monitors of the definitions in force. `edited` are those that the present ones were made of, if no
    /// key has another id since: then only what differs is made.
    pub(super) async fn make_file_entries(&mut self, edited: Option<Arc<[Located]>>) {
        let (definitions, keys) = (Arc::clone(&self.definitions), Arc::clone(&self.keys));
        let (mut before, known) = (std::mem::take(&mut self.file_entries), Arc::clone(&self.seals));
        let (entries, seals, touched) = off_loop(move || {
            if let Some(edited) = edited {
                let (mut seals, lists) = (merge::Seals::clone(&known), (&*edited, &*definitions));
                if let Some(touched) = merge::edit_entries(&mut before, &mut seals, lists, &keys) {
                    return (before, seals, Some(touched));
                }
            }
            let entries = merge::file_entries(&definitions, &keys, &before);
            let seals = merge::seals(&definitions, &keys, &entries, &before, &known);
            (entries, seals, None)
        })
        .await;
        (self.file_entries, self.seals) = (entries, Arc::new(seals));
        match (touched, &mut self.touched) {
            (Some(ids), Some(touched)) => touched.extend(ids),
            _ => self.touched = None,
        }
        self.tell_unmerged();
    }

    /// Results of monitors that have no row yet wait for it.
    pub(super) fn tell_unmerged(&self) {
        let unmerged = self.file_entries.keys().filter(|id| !self.stored.contains(id)).copied().collect();
        let merged = self.merged_at.is_some();
        self.links.report.edit(|report| {
            report.unmerged = Arc::new(unmerged);
            report.rows_known |= merged;
        });
    }
}

/// Runs what may take long on a thread where nothing waits for it.
pub(super) async fn off_loop<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match spawn_blocking(work).await {
        Ok(done) => done,
        // Only a bug's panic; cancelled work belongs to a runtime that ends.
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => std::future::pending().await,
    }
}

fn passed(timer: &mut Option<Instant>, now: Instant) -> bool {
    timer.take_if(|at| *at <= now).is_some()
}

async fn answered(question: &mut Option<Question>) -> Answer {
    match question {
        Some(question) => question.await,
        None => std::future::pending().await,
    }
}

async fn wait_until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
