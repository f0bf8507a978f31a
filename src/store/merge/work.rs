//! What a merge is to do: pure, from the file's rows and those that are stored.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use uuid::Uuid;

use super::super::{Problem, clean};
use super::rows::{Existing, Wanted};
use super::{Baseline, Known, off_thread};
use crate::catalog::merge::Ids;
use crate::catalog::plan::{Assignment, Content, Place, StoredRow, assign, differences};
use crate::catalog::{FileRow, Merged};
use crate::model::{MonitorId, MonitorKey, SYSTEM_USER, UserId};

/// What is to be done, and with which ids.
pub(super) struct Work {
    pub(super) rows: Arc<[FileRow]>,
    pub(super) existing: Existing,
    pub(super) assignment: Assignment,
    /// The owner of each row of the file; none: the e-mail has no user yet.
    pub(super) owners: Vec<Option<Uuid>>,
    /// Hashes of the rows of the file.
    hashes: Vec<u64>,
    /// Which of them may differ from their stored rows.
    pub(super) unsure: Vec<usize>,
    pub(super) contents: HashMap<Uuid, Content>,
}

fn hash_of(row: &FileRow) -> u64 {
    let mut hasher = DefaultHasher::new();
    (row.key.as_str(), &row.name, &row.url, row.interval_seconds, row.timeout_seconds).hash(&mut hasher);
    (row.is_active, row.kind, &row.tags, &row.spec).hash(&mut hasher);
    hasher.finish()
}

impl Work {
    /// The pure part, on a thread where nothing waits for it.
    pub(super) async fn plan(
        rows: Arc<[FileRow]>,
        existing: Existing,
        users: HashMap<String, Uuid>,
        baseline: Arc<Baseline>,
    ) -> Result<Self, Problem> {
        let work = move || {
            let keys = rows.iter().map(|row| (row.key.as_str(), row.renamed_from.as_ref().map(MonitorKey::as_str)));
            let assignment = assign(&existing.stored, keys);
            let owners: Vec<Option<Uuid>> = rows.iter().map(|row| owner_of(row, &users)).collect();
            let hashes: Vec<u64> = rows.iter().map(hash_of).collect();
            let known = baseline.lock();
            let is_known = |index: usize, at: usize| -> Option<bool> {
                let before = existing.stored.get(at)?;
                let (revision, hash) = known.rows.get(&before.id.0)?;
                let same = existing.revisions.get(at)? == revision && hashes.get(index)? == hash;
                Some(same && !before.archived && existing.owners.get(at) == owners.get(index))
            };
            let places = assignment.places.iter().enumerate();
            let unsure = places.filter_map(|(index, place)| match place {
                Place::Own(at) => (is_known(index, *at) != Some(true)).then_some(index),
                Place::Renamed(_) => Some(index),
                Place::New => None,
            });
            let unsure = unsure.collect();
            drop(known);
            Self { rows, existing, assignment, owners, hashes, unsure, contents: HashMap::new() }
        };
        off_thread(work).await
    }

    /// The stored row that a monitor of the file gets.
    pub(super) fn before(&self, index: usize) -> Option<&StoredRow> {
        match self.assignment.places.get(index)? {
            Place::Own(at) | Place::Renamed(at) => self.existing.stored.get(*at),
            Place::New => None,
        }
    }

    /// In what a monitor of the file differs from the row that it gets.
    pub(super) fn differing(&self, index: usize) -> Vec<String> {
        let (Some(row), Some(before)) = (self.rows.get(index), self.before(index)) else { return Vec::new() };
        // What was not read is known to be the same.
        let Some(content) = self.contents.get(&before.id.0) else { return Vec::new() };
        differences(content, row, self.owners.get(index).copied().flatten().map(UserId))
    }

    /// Rows to update and to insert.
    pub(super) fn writes(&self, taken: &HashSet<Uuid>) -> (Vec<Wanted>, Vec<Wanted>) {
        let (mut changed, mut fresh) = (Vec::new(), Vec::new());
        let owner = |index: usize| self.owners.get(index).copied().flatten().unwrap_or(SYSTEM_USER.0);
        for index in &self.unsure {
            let (Some(row), Some(before)) = (self.rows.get(*index), self.before(*index)) else { continue };
            let renamed = before.key != row.key.as_str();
            if renamed || before.archived || !self.differing(*index).is_empty() {
                changed.push(Wanted::of(row, before.id.0, owner(*index)));
            }
        }
        for (index, (row, place)) in self.rows.iter().zip(&self.assignment.places).enumerate() {
            if *place == Place::New {
                fresh.push(Wanted::of(row, fresh_id(&row.key, taken), owner(index)));
            }
        }
        // One order for every writer of many rows.
        changed.sort_unstable_by_key(|row| row.id);
        (changed, fresh)
    }
}

/// The ids of all keys, and what is known of their rows from now on.
pub(super) fn conclude(
    work: &Work,
    mut merged: Merged,
    (fresh, written): (&[Wanted], &[(Uuid, i64)]),
    before: Arc<Ids>,
) -> (Merged, Known) {
    let written: HashMap<Uuid, i64> = written.iter().copied().collect();
    let mut rows = HashMap::with_capacity(work.rows.len());
    let mut ids = Ids::with_capacity(work.rows.len());
    let mut fresh = fresh.iter();
    for (index, (row, place)) in work.rows.iter().zip(&work.assignment.places).enumerate() {
        let (id, revision) = match place {
            Place::Own(at) | Place::Renamed(at) => {
                let Some(before) = work.existing.stored.get(*at) else { continue };
                (before.id.0, work.existing.revisions.get(*at).copied())
            }
            Place::New => match fresh.next() {
                Some(new) => (new.id, None),
                None => continue,
            },
        };
        let revision = written.get(&id).copied().or(revision);
        if let (Some(revision), Some(hash)) = (revision, work.hashes.get(index)) {
            rows.insert(id, (revision, *hash));
        }
        let owner = work.owners.get(index).copied().flatten().unwrap_or(SYSTEM_USER.0);
        ids.insert(row.key.clone(), (MonitorId(id), UserId(owner)));
    }
    for at in work.assignment.gone.iter().filter(|_| merged.guarded.is_some()) {
        let (Some(row), Some(owner)) = (work.existing.stored.get(*at), work.existing.owners.get(*at)) else { continue };
        // Nobody but a file's merge writes a key that is none.
        if let Ok(key) = row.key.parse() {
            ids.insert(key, (row.id, UserId(owner.unwrap_or(SYSTEM_USER.0))));
        }
    }
    merged.ids = if ids == *before { before } else { Arc::new(ids) };
    let ids = Arc::clone(&merged.ids);
    (merged, Known { rows, ids })
}

/// None: the e-mail has no user yet.
pub(super) fn owner_of(row: &FileRow, users: &HashMap<String, Uuid>) -> Option<Uuid> {
    match row.owner.as_deref() {
        Some(email) => users.get(&clean(email)).copied(),
        None => Some(SYSTEM_USER.0),
    }
}

fn fresh_id(key: &MonitorKey, taken: &HashSet<Uuid>) -> Uuid {
    let id = MonitorId::of_key(key).0;
    if taken.contains(&id) { Uuid::new_v4() } else { id }
}
