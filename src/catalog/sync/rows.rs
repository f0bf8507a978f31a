//! The rows of `monitors` as they were last read, and what they mean together with the file.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::{FileSource, Limited};
use crate::catalog::limits::{self, Owners, Plans};
use crate::catalog::merge::{self, Ids, RowOutcome, Seals};
use crate::catalog::{Entry, Mark, MonitorRow};
use crate::model::{MonitorId, MonitorState, Source};
use crate::settings::definition::Located;

/// A row that says it is the file's, and is not.
const FOREIGN: &str = "source is 'file', but no [[monitor]] of the configuration has this row; \
    write source = 'database' for monitors that are not the file's";

/// Which rows an answer of the store is about.
pub(super) enum Asked {
    All,
    These(HashSet<MonitorId>),
}

/// What a comparison of revisions found.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Difference {
    /// New, changed or gone.
    pub(super) ids: HashSet<MonitorId>,
    /// The file's monitors whose rows are gone, read before or not.
    pub(super) file_gone: HashSet<MonitorId>,
}

/// A row that says it is the file's.
struct OfFile {
    revision: i64,
    stored_reason: Option<String>,
}

/// A row that is not the file's, with what it means.
pub(super) type Read = (Arc<MonitorRow>, RowOutcome);

/// All rows that are not archived.
#[derive(Default)]
pub(super) struct Rows {
    others: HashMap<MonitorId, Read>,
    of_file: HashMap<MonitorId, OfFile>,
    /// Ids of the file's monitors.
    owned: HashSet<MonitorId>,
    /// States that came with rows, until the next publication: later they are old.
    pub(super) states: HashMap<MonitorId, MonitorState>,
    /// Plans of users, as far as they limit monitors.
    owners: Arc<Owners>,
    /// Whether rows or plans have changed since [`Self::restrict`].
    unweighed: bool,
}

/// Reads rows; may take long for many. One that says it is the file's is held, and read as the file's owner would read it
/// if it is what a file has written; else as the row of anybody, which may refer to nothing.
pub(super) fn read(file: &dyn FileSource, rows: Vec<Arc<MonitorRow>>, ids: &Ids, seals: &Seals) -> Vec<Read> {
    let dependency = |key: &_| ids.get(key).map(|(id, _)| *id);
    let outcome = |row: &MonitorRow| {
        if row.source != Source::File {
            return merge::row_outcome(row, row.source, |row| file.read_row(row), dependency);
        }
        let trusted = merge::is_sealed(row, seals);
        let source = if trusted { Source::File } else { Source::Database };
        merge::row_outcome(row, source, |row| file.read_held(row, trusted), dependency)
    };
    rows.into_iter().map(|row| (Arc::clone(&row), outcome(&row))).collect()
}

/// Whether every row of a file monitor is as the file says.
pub(super) fn undisturbed(rows: &[MonitorRow], definitions: &[Located], ids: &Ids) -> bool {
    if rows.is_empty() {
        return true;
    }
    // Of few rows among many definitions.
    let asked: HashSet<&str> = rows.iter().filter_map(|row| row.key.as_deref()).collect();
    let keyed = definitions.iter().filter_map(|definition| Some((definition.key.as_ref()?.as_str(), definition)));
    let keyed = keyed.filter(|(key, _)| asked.contains(key));
    let by_key: HashMap<&str, &Located> = keyed.collect();
    rows.iter().all(|row| {
        let definition = row.key.as_deref().and_then(|key| by_key.get(key));
        let known = definition.and_then(|definition| ids.get(definition.key.as_ref()?));
        match (definition, known) {
            (Some(definition), Some((id, owner))) => *id == row.id && merge::is_as_written(row, definition, *owner),
            // Without a key the merge does not know it either.
            _ => row.key.is_none() && !ids.values().any(|(id, _)| *id == row.id),
        }
    })
}

impl Rows {
    /// Knows what `catalog.json` remembers, to be read by [`Self::put`].
    pub(super) fn remembered(states: HashMap<MonitorId, MonitorState>, owners: Owners) -> Self {
        Self { states, owners: Arc::new(owners), ..Self::default() }
    }

    /// Plans of users, as far as they limit monitors.
    pub(super) fn owners(&self) -> Arc<Owners> {
        Arc::clone(&self.owners)
    }

    /// Takes in plans of users as they are now.
    pub(super) fn owned_by(&mut self, owners: Owners) {
        if *self.owners != owners {
            (self.owners, self.unweighed) = (Arc::new(owners), true);
        }
    }

    /// The plans may allow something else now.
    pub(super) fn weigh_again(&mut self) {
        self.unweighed = true;
    }

    /// Applies the limits of plans. Returns what runs otherwise than before.
    pub(super) fn restrict(&mut self, plans: &Plans) -> HashSet<MonitorId> {
        if !std::mem::take(&mut self.unweighed) {
            return HashSet::new();
        }
        let valid = self.others.values().filter_map(|(row, outcome)| Some((&**row, &**outcome.result.as_ref().ok()?)));
        let mut now = limits::restrictions(valid, plans, &self.owners);
        let before = self
            .others
            .iter()
            .map(|(id, (_, outcome))| (*id, outcome.restricted.as_ref().map(|(restriction, _)| restriction)));
        let differing = limits::differing(before, &now);
        let mut newly_paused = 0;
        for id in &differing {
            let Some((_, outcome)) = self.others.get_mut(id) else { continue };
            let Ok(entry) = &outcome.result else { continue };
            outcome.restricted = now.remove(id).map(|restriction| {
                newly_paused +=
                    usize::from(restriction.paused.is_some() && outcome.stored_reason != restriction.paused);
                let entry = limits::restricted(entry, &restriction);
                (restriction, Arc::new(entry))
            });
        }
        if newly_paused > 0 {
            log::info!(monitors = newly_paused; "monitors beyond max_monitors of their users' plans are paused");
        }
        differing
    }

    /// Tells which ids are the file's.
    pub(super) fn own(&mut self, ids: &Ids) {
        self.owned = ids.values().map(|(id, _)| *id).collect();
    }

    /// The monitor of a row; the outer none: there is no row that is not the file's.
    pub(super) fn entry(&self, id: MonitorId) -> Option<Option<&Arc<Entry>>> {
        self.others.get(&id).map(|(_, outcome)| outcome.in_force())
    }

    /// Whether there is such a row, valid or not.
    pub(super) fn has(&self, id: MonitorId) -> bool {
        self.others.contains_key(&id)
    }

    /// Ids of rows that are not the file's.
    pub(super) fn ids(&self) -> impl Iterator<Item = MonitorId> {
        self.others.keys().copied()
    }

    /// Rows that are not the file's.
    pub(super) fn all(&self) -> Vec<Arc<MonitorRow>> {
        self.others.values().map(|(row, _)| Arc::clone(row)).collect()
    }

    /// Rows whose meaning hangs on the ids of keys.
    pub(super) fn dependent(&self) -> Vec<Arc<MonitorRow>> {
        self.others.values().filter(|(_, outcome)| outcome.depends).map(|(row, _)| Arc::clone(row)).collect()
    }

    /// How many are no valid monitors.
    pub(super) fn invalid(&self) -> usize {
        let foreign = self.of_file.keys().filter(|id| !self.owned.contains(id)).count();
        self.others.values().filter(|(_, outcome)| outcome.result.is_err()).count() + foreign
    }

    /// How many run less than their rows say.
    pub(super) fn limited(&self) -> Limited {
        let mut limited = Limited::default();
        for (restriction, _) in self.others.values().filter_map(|(_, outcome)| outcome.restricted.as_ref()) {
            let count = if restriction.paused.is_some() { &mut limited.paused } else { &mut limited.held };
            *count += 1;
        }
        limited
    }

    /// Compares with the revisions as they are now. `stored` are the file's monitors that have rows by the last merge: one
    /// may have gone before it was ever read.
    pub(super) fn differing(&self, now: &[(MonitorId, i64)], stored: &HashSet<MonitorId>) -> Difference {
        let mut difference = Difference::default();
        let (mut seen, mut seen_stored) = (0, 0);
        for (id, revision) in now {
            let of_file = self.of_file.get(id).map(|row| Some(row.revision));
            let known = of_file.or_else(|| self.others.get(id).map(|(_, outcome)| outcome.revision));
            seen += usize::from(known.is_some());
            seen_stored += usize::from(stored.contains(id));
            if known.flatten() != Some(*revision) {
                difference.ids.insert(*id);
            }
        }
        if seen < self.others.len() + self.of_file.len() || seen_stored < stored.len() {
            let now: HashSet<MonitorId> = now.iter().map(|(id, _)| *id).collect();
            let gone = self.others.keys().chain(self.of_file.keys()).filter(|id| !now.contains(id));
            difference.ids.extend(gone.copied());
            difference.file_gone = stored.difference(&now).copied().collect();
        }
        difference
    }

    /// Forgets what the store was asked about, and takes in its answer.
    pub(super) fn take(&mut self, asked: &Asked, others: Vec<Read>, of_file: &[MonitorRow]) {
        self.unweighed = true;
        match asked {
            Asked::All => {
                self.others.clear();
                self.of_file.clear();
            }
            Asked::These(ids) => {
                for id in ids {
                    self.others.remove(id);
                    self.of_file.remove(id);
                }
            }
        }
        for row in of_file {
            let stored_reason = row.invalid_reason.clone();
            self.of_file.insert(row.id, OfFile { revision: row.revision, stored_reason });
        }
        self.put(others);
    }

    /// Takes in rows as they were read anew.
    pub(super) fn put(&mut self, rows: Vec<Read>) {
        self.unweighed |= !rows.is_empty();
        for (row, outcome) in rows {
            if let Err(reason) = &outcome.result
                && outcome.stored_reason.as_ref() != Some(reason)
            {
                log::warn!(monitor = row.name.as_str(), monitor_id:% = row.id;
                    "a monitor of the database is invalid and not checked: {reason}");
            }
            self.others.insert(row.id, (row, outcome));
        }
    }

    /// Takes in rows that were read with other defaults or keys, unless newer ones have come. One that was invalid and is
    /// no longer must come with its state: it is read from the store first. Its id is among those returned.
    pub(super) fn reread(&mut self, rows: Vec<Read>) -> HashSet<MonitorId> {
        let mut wanted = HashSet::new();
        let mut current = Vec::with_capacity(rows.len());
        for (row, outcome) in rows {
            let Some((there, before)) = self.others.get_mut(&row.id) else { continue };
            if !Arc::ptr_eq(there, &row) {
                continue;
            }
            if before.result.is_err() && outcome.result.is_ok() {
                before.revision = None;
                wanted.insert(row.id);
            } else {
                let stored_reason = before.stored_reason.clone();
                current.push((row, RowOutcome { stored_reason, revision: before.revision, ..outcome }));
            }
        }
        self.put(current);
        wanted
    }

    /// What rows shall say about why they are not checked, where they do not.
    pub(super) fn marks(&self) -> Vec<Mark> {
        let others = self.others.iter().filter(|(_, (_, outcome))| outcome.revision.is_some());
        let others = others.map(|(id, (_, outcome))| (outcome.mark(*id), &outcome.stored_reason));
        let of_file = self.of_file.iter().map(|(id, row)| {
            let foreign = !self.owned.contains(id);
            let mark = if foreign { Mark::invalid(*id, FOREIGN.to_owned()) } else { Mark::none(*id) };
            (mark, &row.stored_reason)
        });
        let wrong = others.chain(of_file).filter(|(mark, stored)| mark.reason != **stored);
        wrong.map(|(mark, _)| mark).collect()
    }

    /// The store has these reasons now.
    pub(super) fn marked(&mut self, marks: Vec<Mark>) {
        for Mark { id, reason, .. } in marks {
            if let Some((_, outcome)) = self.others.get_mut(&id) {
                outcome.stored_reason = reason;
            } else if let Some(row) = self.of_file.get_mut(&id) {
                row.stored_reason = reason;
            }
        }
    }
}

/// Splits the store's answer: states, rows that are not the file's or that are held, rows that say they are the file's.
pub(super) fn split(
    rows: Vec<MonitorRow>,
    states: &mut HashMap<MonitorId, MonitorState>,
    held: &HashSet<MonitorId>,
) -> (Vec<Arc<MonitorRow>>, Vec<MonitorRow>) {
    let (mut others, mut of_file) = (Vec::new(), Vec::new());
    for mut row in rows {
        if let Some(state) = row.state.take().or_else(|| checked_before(&row)) {
            states.insert(row.id, state);
        }
        let of_the_file = row.source == Source::File && !held.contains(&row.id);
        if of_the_file { of_file.push(row) } else { others.push(Arc::new(row)) }
    }
    (others, of_file)
}

/// A database from before has no state, and yet was checked.
pub(super) fn checked_before(row: &MonitorRow) -> Option<MonitorState> {
    let last_checked = Some(row.last_checked?);
    Some(MonitorState { last_checked, ..MonitorState::default() })
}
