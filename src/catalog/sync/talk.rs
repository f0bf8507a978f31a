//! The other half of the conversation with the store: what its answers change, and what they make due. See `questions`.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::follower::{Follower, off_loop};
use super::questions::Answer;
use super::rows::{self, Asked, Read};
use crate::catalog::plan::Guard;
use crate::catalog::{CatalogStore, MergeAnswer, Merged, MonitorRow};
use crate::model::{MonitorId, StoreFault};
use crate::settings::definition::Located;

/// Rows of the file that others wrote to are set right at most so often, the minute's comparison apart: two daemons
/// whose files differ must not keep undoing each other.
const MERGE_AGAIN: Duration = Duration::from_secs(10);

impl<S: CatalogStore> Follower<S> {
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
