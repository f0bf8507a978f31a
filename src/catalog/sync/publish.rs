//! What is published: the differences from the snapshot, to the followers, and answers to who asked for a reload.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::follower::{Follower, PATIENCE, off_loop};
use super::rows;
use crate::catalog::diff::diff;
use crate::catalog::merge;
use crate::catalog::remember::Known;
use crate::catalog::{CatalogStore, Changes, Entry, MonitorRow, Reloaded, Removal, Snapshot, Update};
use crate::model::{MonitorId, Source};

impl<S: CatalogStore> Follower<S> {
    /// Publishes without what the store would say: at the start with what `catalog.json` remembers.
    pub(super) async fn publish_anyway(&mut self) {
        if !self.loaded && !self.remembered.is_empty() {
            // A row that says it is the file's is one that was held, unless the file has its monitor again.
            let of_file: HashSet<&str> =
                self.definitions.iter().filter_map(|definition| Some(definition.key.as_ref()?.as_str())).collect();
            let remembered = std::mem::take(&mut self.remembered).into_iter();
            let counts = |row: &MonitorRow| {
                let key = row.key.as_deref().filter(|key| !of_file.contains(key)).and_then(|key| key.parse().ok());
                row.source != Source::File
                    || key.is_some_and(|key| self.keys.get(&key).is_some_and(|(id, _)| *id == row.id))
            };
            let rows: Vec<_> = remembered.filter(|row| counts(row)).collect();
            self.held.extend(rows.iter().filter(|row| row.source == Source::File).map(|row| row.id));
            for row in &rows {
                if let Some(state) = rows::checked_before(row) {
                    self.rows.states.entry(row.id).or_insert(state);
                }
            }
            let read = self.read_rows(rows).await;
            self.rows.put(read);
            self.touched = None;
        }
        if !self.loaded {
            log::warn!("the database is away: what is checked comes from the configuration and from catalog.json");
        }
        if self.merged_edition.is_none() && self.guarded.is_none() {
            let (keys, definitions, guard) = (Arc::clone(&self.keys), Arc::clone(&self.definitions), self.guard);
            self.guarded = off_loop(move || merge::guarded_by_keys(&keys, &definitions, guard)).await;
            self.tell_held(None);
        }
        self.publish().await;
    }

    /// Tells the followers what differs from the snapshot, and who asked what a reload did.
    pub(super) async fn publish(&mut self) {
        let old = self.links.snapshot.load_full();
        let mut changes = self.changes(&old);
        let counts = (changes.added.len(), changes.changed.len(), changes.removed.len());
        let fresh: HashSet<MonitorId> = changes.added.iter().map(|(entry, _)| entry.monitor.id).collect();
        let mut dismissed = std::mem::take(&mut self.dismissed);
        changes.remade = std::mem::take(&mut self.remade);
        // Nobody resolved what went with the row.
        dismissed.retain(|(id, _)| !changes.remade.contains(id));
        // Who has just come brings the state of before.
        let news = dismissed.iter().filter(|pair| fresh.contains(&pair.0) || !self.told.contains(pair));
        changes.dismissed = news.copied().collect();
        if !changes.is_empty() || old.generation == 0 {
            self.told.extend(&changes.dismissed);
            self.send(old.after(&changes), changes).await;
            self.memory.changed();
        }
        if self.publish_by.take().is_some() {
            let (added, changed, removed) = counts;
            let took = self.reload_began.take().map_or(Duration::ZERO, |began| began.elapsed());
            let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
            log::info!(added, changed, removed, took_ms; "configuration applied");
            let report = self.links.report.get();
            let rows_later = (self.merged_edition != Some(self.edition)).then(|| {
                let fault = self.merge_fault.clone().or(report.store_fault);
                fault.unwrap_or_else(|| format!("the database has not answered within {} s", PATIENCE.as_secs()))
            });
            let needs_restart = report.needs_restart;
            let counts = Reloaded { added, changed, removed, ..Reloaded::default() };
            self.answer(&Reloaded { applied: true, needs_restart, rows_later, ..counts });
        }
    }

    fn changes(&mut self, old: &Snapshot) -> Changes {
        self.restrict();
        let mut states = std::mem::take(&mut self.rows.states);
        let ids = match self.touched.replace(HashSet::new()) {
            Some(ids) => ids,
            None => old.monitors.keys().chain(self.file_entries.keys()).copied().chain(self.rows.ids()).collect(),
        };
        // A row of others with the id that a file monitor would have is not the file monitor.
        let new = |id: MonitorId| -> Option<&Arc<Entry>> {
            self.rows.entry(id).unwrap_or_else(|| self.file_entries.get(&id))
        };
        let archived = std::mem::take(&mut self.archived);
        let removal = |id: MonitorId| match old.monitors.get(&id) {
            _ if self.rows.has(id) => Removal::Invalid,
            Some(entry) if entry.monitor.source == Source::File => Removal::Archived,
            _ if archived.contains(&id) => Removal::Archived,
            _ => Removal::Deleted,
        };
        let recovered = &self.links.recovered;
        let known = |id| recovered.newest(id, states.remove(&id).unwrap_or_default());
        let mut changes = diff(old, ids, new, known, removal);
        // They are in neither snapshot, and yet somebody shows them.
        let gone = self.invalid.iter().filter(|id| !self.rows.has(**id) && new(**id).is_none());
        changes.removed.extend(gone.map(|id| (*id, removal(*id))));
        changes.removed.sort_unstable_by_key(|(id, _)| *id);
        for (entry, _) in &changes.added {
            self.invalid.remove(&entry.monitor.id);
        }
        for (id, removal) in &changes.removed {
            if *removal == Removal::Invalid {
                self.invalid.insert(*id)
            } else {
                self.invalid.remove(id)
            };
        }
        changes
    }

    /// Applies the limits of plans to what has changed.
    fn restrict(&mut self) {
        let restricted = self.rows.restrict(&self.file.keeping().plans);
        self.due.mark |= !restricted.is_empty();
        if let Some(touched) = &mut self.touched {
            touched.extend(restricted);
        }
    }

    async fn send(&mut self, snapshot: Snapshot, changes: Changes) {
        if snapshot.generation == 1 {
            log::info!("watching {} monitors", snapshot.monitors.len());
        }
        let update = Update { snapshot: Arc::new(snapshot), changes: Arc::new(changes) };
        self.links.snapshot.store(Arc::clone(&update.snapshot));
        for follower in &self.links.updates {
            // A follower that has ended does so at shutdown.
            let _ = follower.send(update.clone()).await;
        }
    }

    /// Answers all who asked for a reload; one that has gone away was served all the same.
    pub(super) fn answer(&mut self, answer: &Reloaded) {
        for asked in self.asked.drain(..) {
            let _ = asked.send(answer.clone());
        }
        self.links.report.reloads().end();
    }

    pub(super) fn remembering(&self) -> Known {
        let mut rows = self.rows.all();
        rows.extend(self.remembered.iter().cloned());
        Known { keys: Arc::clone(&self.keys), seals: Arc::clone(&self.seals), rows, owners: self.rows.owners() }
    }
}
