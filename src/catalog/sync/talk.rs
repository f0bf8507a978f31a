//! The conversation with the store: one question at a time, in the background of the loop, which therefore answers,
//! reads the file and ends while the store is silent. What is due is kept as flags that are taken when a question is
//! asked and set again when it fails, so that a change which comes meanwhile is not forgotten.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::follower::{Follower, off_loop};
use super::rows::{self, Asked, Read};
use crate::catalog::limits::{self, Owners};
use crate::catalog::plan::Guard;
use crate::catalog::{CatalogStore, Mark, MergeAnswer, Merged, MonitorRow, merge};
use crate::model::{IncidentUid, MonitorId, StoreFault};
use crate::settings::definition::Located;

/// Rows of the file that others wrote to are set right at most so often, the minute's comparison apart: two daemons
/// whose files differ must not keep undoing each other.
const MERGE_AGAIN: Duration = Duration::from_secs(10);

/// What is to be asked.
pub(super) struct Due {
    /// To bring the file's rows to what the file says.
    pub(super) merge: bool,
    /// The same at the next minute.
    pub(super) merge_later: bool,
    /// To compare revisions.
    pub(super) compare: bool,
    /// To load every row.
    pub(super) load_all: bool,
    /// To load these.
    pub(super) load: HashSet<MonitorId>,
    /// To ask for plans of users, as far as they limit monitors.
    pub(super) owners: bool,
    /// To ask for incidents that people resolved.
    pub(super) dismissed: bool,
    /// To write reasons of invalid rows.
    pub(super) mark: bool,
}

impl Due {
    /// All of it, as at the start.
    pub(super) fn everything() -> Self {
        let load = HashSet::new();
        let (merge_later, compare) = (false, false);
        Self { merge: true, merge_later, compare, load_all: true, load, owners: true, dismissed: true, mark: true }
    }

    /// To look for what others did.
    pub(super) fn look(&mut self) {
        (self.compare, self.owners, self.dismissed, self.mark) = (true, true, true, true);
    }
}

/// A question under way.
pub(super) type Question = BoxFuture<'static, Answer>;

/// What the store said.
pub(super) enum Answer {
    /// Of which reading.
    Merged(u64, Result<MergeAnswer, StoreFault>),
    /// Which of these are archived.
    Missing(HashSet<MonitorId>, Result<Vec<MonitorId>, StoreFault>),
    Revisions(Duration, Result<Vec<(MonitorId, i64)>, StoreFault>),
    /// And which of those that were asked for and not found are archived.
    Loaded(Asked, Result<Vec<MonitorRow>, StoreFault>, Vec<MonitorId>),
    Owners(Result<Owners, StoreFault>),
    Dismissed(Result<Vec<(MonitorId, IncidentUid)>, StoreFault>),
    Marked(Vec<Mark>, Result<(), StoreFault>),
}

/// Rows, and which of those that are not there were archived.
async fn with_archived<S: CatalogStore>(
    store: &S,
    ids: &[MonitorId],
) -> Result<(Vec<MonitorRow>, Vec<MonitorId>), StoreFault> {
    let rows = store.load(Some(ids)).await?;
    let found: HashSet<MonitorId> = rows.iter().map(|row| row.id).collect();
    let missing: Vec<MonitorId> = ids.iter().copied().filter(|id| !found.contains(id)).collect();
    let archived = if missing.is_empty() { Vec::new() } else { store.archived(&missing).await? };
    Ok((rows, archived))
}

impl<S: CatalogStore> Follower<S> {
    /// The next question of what must be known before the next publication.
    pub(super) fn next_question(&mut self) -> Option<Question> {
        let store = Arc::clone(&self.store);
        if !self.row_missing.is_empty() {
            let ids = std::mem::take(&mut self.row_missing);
            return Some(Box::pin(async move {
                let list: Vec<MonitorId> = ids.iter().copied().collect();
                let archived = store.archived(&list).await;
                Answer::Missing(ids, archived)
            }));
        }
        let in_force = self.guard;
        let candidate = self.candidate.as_mut().filter(|candidate| !candidate.asked);
        let merge = if let Some(candidate) = candidate {
            candidate.asked = true;
            Some((candidate.edition, Arc::clone(&candidate.definitions), candidate.guard(in_force)))
        } else if self.candidate.is_none() && std::mem::take(&mut self.due.merge) {
            Some((self.edition, Arc::clone(&self.definitions), self.guard))
        } else {
            None
        };
        if let Some((edition, definitions, guard)) = merge {
            return Some(Box::pin(async move {
                let rows = off_loop(move || merge::file_rows(&definitions)).await;
                Answer::Merged(edition, store.merge(rows.into(), guard).await)
            }));
        }
        if !self.due.load_all && std::mem::take(&mut self.due.compare) {
            return Some(Box::pin(async move {
                let asked_at = Instant::now();
                let revisions = store.revisions().await;
                Answer::Revisions(asked_at.elapsed(), revisions)
            }));
        }
        if std::mem::take(&mut self.due.load_all) {
            (self.due.compare, self.due.load) = (false, HashSet::new());
            return Some(Box::pin(async move { Answer::Loaded(Asked::All, store.load(None).await, Vec::new()) }));
        }
        if !self.due.load.is_empty() {
            let ids = std::mem::take(&mut self.due.load);
            return Some(Box::pin(async move {
                let list: Vec<MonitorId> = ids.iter().copied().collect();
                match with_archived(&*store, &list).await {
                    Ok((rows, archived)) => Answer::Loaded(Asked::These(ids), Ok(rows), archived),
                    Err(fault) => Answer::Loaded(Asked::These(ids), Err(fault), Vec::new()),
                }
            }));
        }
        // After the rows, so that the plan of a new row's user is known before it is published.
        if std::mem::take(&mut self.due.owners) {
            let plans = limits::limiting(&self.file.keeping().plans);
            if plans.is_empty() {
                self.rows.owned_by(Owners::new());
            } else {
                return Some(Box::pin(async move { Answer::Owners(store.owners(&plans).await) }));
            }
        }
        if std::mem::take(&mut self.due.dismissed) {
            return Some(Box::pin(async move { Answer::Dismissed(store.dismissed().await) }));
        }
        None
    }

    /// What the store is told after the publication, which does not wait for it.
    pub(super) fn last_question(&mut self) -> Option<Question> {
        if !std::mem::take(&mut self.due.mark) {
            return None;
        }
        let (invalid, limited) = (self.rows.invalid(), self.rows.limited());
        self.links.report.edit(|report| (report.invalid, report.limited) = (invalid, limited));
        let marks = self.rows.marks();
        if marks.is_empty() {
            return None;
        }
        let store = Arc::clone(&self.store);
        Some(Box::pin(async move {
            let result = store.mark_invalid(&marks).await;
            Answer::Marked(marks, result)
        }))
    }

    /// Takes an answer in. An error is the store's, and whatever was asked is due again.
    pub(super) async fn take(&mut self, answer: Answer) -> Result<(), StoreFault> {
        match answer {
            Answer::Merged(edition, answer) => return self.merge_answered(edition, answer).await,
            Answer::Missing(mut ids, Ok(archived)) => {
                ids.retain(|id| !archived.contains(id));
                self.row_gone.extend(ids);
            }
            Answer::Missing(ids, Err(fault)) => {
                self.row_missing.extend(ids);
                return Err(fault);
            }
            Answer::Revisions(took, Ok(now)) => {
                self.compare_cost = took;
                let difference = self.rows.differing(&now, &self.stored);
                self.due.load.extend(difference.ids);
                self.file_gone(difference.file_gone);
            }
            Answer::Revisions(_, Err(fault)) => {
                self.due.compare = true;
                return Err(fault);
            }
            Answer::Loaded(asked, Ok(rows), archived) => {
                self.archived.extend(archived);
                self.loaded(asked, rows).await;
            }
            Answer::Loaded(asked, Err(fault), _) => {
                match asked {
                    Asked::All => self.due.load_all = true,
                    Asked::These(ids) => self.due.load.extend(ids),
                }
                return Err(fault);
            }
            Answer::Dismissed(Ok(dismissed)) => {
                self.told.retain(|pair| dismissed.contains(pair));
                self.dismissed = dismissed;
            }
            Answer::Owners(Ok(owners)) => self.rows.owned_by(owners),
            Answer::Marked(marks, Ok(())) => self.rows.marked(marks),
            // What cannot work must not keep the rest from working; it is tried again when something is due.
            Answer::Owners(Err(StoreFault::Refused(why))) => log::error!("plans of users cannot be read: {why}"),
            Answer::Owners(Err(fault)) => {
                self.due.owners = true;
                return Err(fault);
            }
            Answer::Dismissed(Err(StoreFault::Refused(why))) => {
                log::error!("incidents that people resolved cannot be read: {why}");
            }
            Answer::Marked(_, Err(StoreFault::Refused(why))) => {
                log::error!("monitors.invalid_reason cannot be written: {why}");
            }
            Answer::Dismissed(Err(fault)) => {
                self.due.dismissed = true;
                return Err(fault);
            }
            Answer::Marked(_, Err(fault)) => {
                self.due.mark = true;
                return Err(fault);
            }
        }
        Ok(())
    }

    /// The store has merged what is in force, what waits to be, or what nobody waits for any more.
    async fn merge_answered(
        &mut self,
        edition: u64,
        answer: Result<MergeAnswer, StoreFault>,
    ) -> Result<(), StoreFault> {
        let waited = self.candidate.take_if(|candidate| candidate.edition == edition);
        match (waited, answer) {
            (Some(candidate), Ok(MergeAnswer::Done(merged))) => self.accept(candidate, Some(merged)).await,
            (Some(_), Ok(MergeAnswer::Refused(archiving))) => {
                self.refuse(&archiving);
                // Somebody may have written to the rows since the last merge.
                self.due.look();
            }
            (Some(candidate), Err(fault)) => {
                self.candidate = Some(candidate);
                match fault {
                    StoreFault::Refused(why) => {
                        self.decide_without_store().await;
                        self.merge_refused(why);
                    }
                    // Who is told decides without the store.
                    fault => return Err(fault),
                }
            }
            (None, Ok(MergeAnswer::Done(merged))) if edition == self.edition => self.merged(merged, None).await,
            // It was applied before the store refused it, or was never applied: what is in force is merged.
            (None, Ok(_)) => self.due.merge = true,
            (None, Err(StoreFault::Refused(why))) => self.merge_refused(why),
            (None, Err(fault)) => {
                self.due.merge = true;
                return Err(fault);
            }
        }
        Ok(())
    }

    /// The rows of others do not suffer from what is wrong with the file's.
    fn merge_refused(&mut self, why: String) {
        log::error!("the database refuses the monitors of the configuration, tried again in a minute: {why}");
        self.merge_fault = Some(StoreFault::Refused(why).to_string());
        (self.due.merge, self.due.merge_later) = (false, true);
        // They may never have rows; nothing waits for that.
        self.links.report.edit(|report| (report.unmerged, report.rows_known) = (Arc::default(), true));
    }

    /// The rows of what is in force have been brought to what it says. When it has just come into force, `before` is what
    /// was there before.
    pub(super) async fn merged(&mut self, merged: Merged, before: Option<Arc<[Located]>>) {
        if !merged.archived.is_empty() {
            let forced = if self.guard == Guard::Force { " (forced)" } else { "" };
            log::info!(monitors = merged.archived.len(); "monitors left the configuration and are archived{forced}");
        }
        let had = merged.guarded.as_ref().map(|archiving| archiving.of);
        self.guard = match self.guard {
            Guard::Start { .. } => Guard::Start { had },
            _ => Guard::Again { had },
        };
        self.hold(&merged);
        let is_first = self.merged_at.is_none();
        (self.merged_at, self.merged_edition) = (Some(Instant::now()), Some(self.edition));
        self.stored = merged.ids.values().map(|(id, _)| *id).collect();
        let again: Vec<MonitorId> = self.row_gone.drain().filter(|id| self.stored.contains(id)).collect();
        if !again.is_empty() {
            log::warn!(
                monitors = again.len();
                "somebody deleted rows of monitors of the configuration, and with them their history: they have new rows"
            );
            self.remade.extend(again);
            self.tell_unmerged();
        }
        self.merge_fault = None;
        self.due.merge_later = false;
        // What was written has other revisions now, and what returned has a state. What others wrote is heard of.
        self.due.load.extend(merged.written);
        if !self.loaded || before.is_none() {
            self.due.look();
        }
        // The store gives the same allocation as long as nothing of it changes.
        let same_keys = Arc::ptr_eq(&merged.ids, &self.keys) || merged.ids == self.keys;
        if !same_keys || is_first {
            self.stored = merged.ids.values().map(|(id, _)| *id).collect();
        }
        if same_keys && before.is_none() {
            return self.tell_unmerged();
        }
        let former = std::mem::replace(&mut self.keys, merged.ids);
        if same_keys && !is_first {
            return self.make_file_entries(before).await;
        }
        self.rows.own(&self.keys);
        self.make_file_entries(None).await;
        // As with definitions: not where checks wait.
        drop(tokio::task::spawn_blocking(move || drop((former, before))));
        if !same_keys {
            let dependent = self.rows.dependent();
            self.reread_rows(dependent).await;
        }
    }

    /// Monitors that the file has no more and that may not be archived run on from their rows.
    fn hold(&mut self, merged: &Merged) {
        let held: HashSet<MonitorId> = merged.held.iter().copied().collect();
        if let Some(archiving) = merged.guarded.as_ref().filter(|archiving| Some(*archiving) != self.guarded.as_ref()) {
            log::error!(
                "the configuration has no more {archiving}: they are not archived and run on from their rows in the \
                 database; `lamplighter reload --force` archives them"
            );
        }
        // Those that come to be held, or no longer are, mean something else now.
        self.due.load.extend(held.symmetric_difference(&self.held));
        (self.held, self.guarded) = (held, merged.guarded.clone());
        self.tell_held(None);
    }

    async fn loaded(&mut self, asked: Asked, rows: Vec<MonitorRow>) {
        if matches!(asked, Asked::All) {
            // What catalog.json remembered may be of another database.
            self.rows.states.clear();
            (self.loaded, self.remembered) = (true, Vec::new());
        }
        let (others, of_file) = rows::split(rows, &mut self.rows.states, &self.held);
        // A row of the file that says it is somebody else's now: it runs on as theirs, and the file's monitor needs another.
        let taken = others.iter().any(|row| self.stored.contains(&row.id));
        let found: HashSet<MonitorId> =
            others.iter().map(|row| row.id).chain(of_file.iter().map(|row| row.id)).collect();
        let asked_for = |id: &MonitorId| match &asked {
            Asked::All => true,
            Asked::These(ids) => ids.contains(id),
        };
        let gone = self.stored.difference(&found).filter(|id| asked_for(id)).copied().collect();
        let read = self.read_rows(others).await;
        let (definitions, keys) = (Arc::clone(&self.definitions), Arc::clone(&self.keys));
        let (undisturbed, of_file) =
            off_loop(move || (rows::undisturbed(&of_file, &definitions, &keys), of_file)).await;
        match (&asked, &mut self.touched) {
            (Asked::These(ids), Some(touched)) => touched.extend(ids),
            _ => self.touched = None,
        }
        self.rows.take(&asked, read, &of_file);
        // Between the merge that wrote them and this reading: no comparison would miss what was never read.
        self.file_gone(gone);
        if (taken || !undisturbed) && !self.due.merge {
            self.disturbed();
        }
    }

    /// Rows of the file were archived or deleted by somebody.
    fn file_gone(&mut self, gone: HashSet<MonitorId>) {
        if gone.is_empty() {
            return;
        }
        // Their results wait until they have rows again.
        self.stored.retain(|id| !gone.contains(id));
        self.tell_unmerged();
        self.row_missing.extend(gone);
        self.disturbed();
    }

    /// Somebody wrote to rows of the file.
    fn disturbed(&mut self) {
        match self.merged_at {
            // Not at the speed of notifications: two daemons with different files would fight.
            Some(at) if at.elapsed() < MERGE_AGAIN => self.merge_at = Some(at + MERGE_AGAIN),
            _ => self.due.merge = true,
        }
    }

    /// Reads rows with the defaults in force.
    pub(super) async fn read_rows(&mut self, rows: Vec<Arc<MonitorRow>>) -> Vec<Read> {
        if rows.is_empty() {
            return Vec::new();
        }
        let (file, keys, seals) = (Arc::clone(&self.file), Arc::clone(&self.keys), Arc::clone(&self.seals));
        off_loop(move || rows::read(&*file, rows, &keys, &seals)).await
    }

    /// Reads rows again that were read with other defaults or keys.
    pub(super) async fn reread_rows(&mut self, rows: Vec<Arc<MonitorRow>>) {
        let ids: Vec<MonitorId> = rows.iter().map(|row| row.id).collect();
        let read = self.read_rows(rows).await;
        self.due.load.extend(self.rows.reread(read));
        self.due.mark = true;
        if let Some(touched) = &mut self.touched {
            touched.extend(ids);
        }
    }
}
