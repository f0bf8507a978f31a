//! The conversation with the store: one question at a time, in the background of the loop, which therefore answers,
//! reads the file and ends while the store is silent. What is due is kept as flags that are taken when a question is
//! asked and set again when it fails, so that a change which comes meanwhile is not forgotten. What the answers change is
//! in `talk`.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::follower::{Follower, off_loop};
use super::rows::Asked;
use crate::catalog::limits::{self, Owners};
use crate::catalog::{CatalogStore, Mark, MergeAnswer, MonitorRow, merge};
use crate::model::{IncidentUid, MonitorId, StoreFault};

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
        if let Some(question) = self.merge_question() {
            return Some(question);
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

    /// To merge what waits to come into force, or what is in force.
    fn merge_question(&mut self) -> Option<Question> {
        let store = Arc::clone(&self.store);
        let in_force = self.guard;
        let candidate = self.candidate.as_mut().filter(|candidate| !candidate.asked);
        let (edition, definitions, guard) = if let Some(candidate) = candidate {
            candidate.asked = true;
            (candidate.edition, Arc::clone(&candidate.definitions), candidate.guard(in_force))
        } else if self.candidate.is_none() && std::mem::take(&mut self.due.merge) {
            (self.edition, Arc::clone(&self.definitions), self.guard)
        } else {
            return None;
        };
        Some(Box::pin(async move {
            let rows = off_loop(move || merge::file_rows(&definitions)).await;
            Answer::Merged(edition, store.merge(rows.into(), guard).await)
        }))
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
}
