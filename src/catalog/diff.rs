//! What is different between a snapshot and the monitors that shall follow it. Pure.

use std::sync::Arc;

use super::{Changes, Entry, Removal, Snapshot};
use crate::model::{MonitorId, MonitorState};

/// The changes that lead from `old` to a set of monitors that differs from it in `ids` at most, each of which comes
/// once; `new` finds its monitors. `state` gives what is remembered of a monitor that is new; `removal` why one left. The
/// order is that of the ids, so that equal inputs give equal changes.
pub fn diff<'a>(
    old: &Snapshot,
    ids: impl IntoIterator<Item = MonitorId>,
    new: impl Fn(MonitorId) -> Option<&'a Arc<Entry>>,
    mut state: impl FnMut(MonitorId) -> MonitorState,
    removal: impl Fn(MonitorId) -> Removal,
) -> Changes {
    let mut changes = Changes::default();
    for id in ids {
        match (old.monitors.get(&id), new(id)) {
            (None, None) => {}
            (None, Some(entry)) => changes.added.push((Arc::clone(entry), state(id))),
            (Some(_), None) => changes.removed.push((id, removal(id))),
            (Some(before), Some(entry)) => {
                if !Arc::ptr_eq(before, entry) && before.fingerprint != entry.fingerprint {
                    changes.changed.push(Arc::clone(entry));
                }
            }
        }
    }
    changes.added.sort_unstable_by_key(|(entry, _)| entry.monitor.id);
    changes.changed.sort_unstable_by_key(|entry| entry.monitor.id);
    changes.removed.sort_unstable_by_key(|(id, _)| *id);
    changes
}

impl Snapshot {
    /// The snapshot after changes. Entries that did not change stay the same allocation.
    #[must_use]
    pub fn after(&self, changes: &Changes) -> Self {
        let mut monitors = self.monitors.clone();
        for (id, _) in &changes.removed {
            monitors.remove(id);
        }
        let added = changes.added.iter().map(|(entry, _)| entry);
        monitors.extend(added.chain(&changes.changed).map(|entry| (entry.monitor.id, Arc::clone(entry))));
        Self { generation: self.generation + 1, monitors }
    }
}

impl Changes {
    /// Nothing to apply.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.added.is_empty()
            && self.changed.is_empty()
            && self.removed.is_empty()
            && self.dismissed.is_empty()
            && self.remade.is_empty()
    }
}
