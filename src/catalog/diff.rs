//! What is different between a snapshot and the monitors that shall follow it. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Changes, Entry, Removal, Snapshot};
use crate::model::{MonitorId, MonitorState};

/// The changes that lead from `old` to `new`. `state` gives what is remembered of a monitor that is new; `removal`
/// why one left. The order is that of the ids, so that equal inputs give equal changes.
pub fn diff(
    old: &Snapshot,
    new: &HashMap<MonitorId, Arc<Entry>>,
    mut state: impl FnMut(MonitorId) -> MonitorState,
    removal: impl Fn(MonitorId) -> Removal,
) -> Changes {
    let mut changes = Changes::default();
    for (id, entry) in new {
        match old.monitors.get(id) {
            None => changes.added.push((Arc::clone(entry), state(*id))),
            Some(before) if Arc::ptr_eq(before, entry) || before.fingerprint == entry.fingerprint => {}
            Some(_) => changes.changed.push(Arc::clone(entry)),
        }
    }
    let gone = old.monitors.keys().filter(|id| !new.contains_key(id));
    changes.removed.extend(gone.map(|id| (*id, removal(*id))));
    changes.added.sort_unstable_by_key(|(entry, _)| entry.monitor.id);
    changes.changed.sort_unstable_by_key(|entry| entry.monitor.id);
    changes.removed.sort_unstable_by_key(|(id, _)| *id);
    changes
}

impl Changes {
    /// Nothing to apply.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.changed.is_empty() && self.removed.is_empty() && self.dismissed.is_empty()
    }
}
