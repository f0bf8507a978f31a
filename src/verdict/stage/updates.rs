//! Updates of the catalogue: monitors that come, change, pause and go.

use chrono::{DateTime, Utc};

use super::*;
use crate::catalog::{Changes, Removal};
use crate::model::ResolveReason;

/// Archived monitors whose state is kept for their return. Older ones return as the store knows them.
pub(super) const ARCHIVED_MOST: usize = 1000;

impl Watch {
    /// Applies the changes of an update.
    pub(super) fn update(&mut self, changes: &Changes) {
        let now = self.wall.now();
        for (id, uid) in &changes.dismissed {
            self.dismissed(*id, *uid);
        }
        for (id, removal) in &changes.removed {
            self.removed(*id, *removal, now);
        }
        for (entry, state) in &changes.added {
            self.added(entry, state, now);
        }
        for entry in &changes.changed {
            self.changed(entry, now);
        }
        for id in &changes.remade {
            self.remade(*id);
        }
        // Those that were added just now; for the others this is the second time, which does nothing.
        for (id, uid) in &changes.dismissed {
            self.dismissed(*id, *uid);
        }
        self.gather();
        self.pings.filled();
    }

    fn added(&mut self, entry: &Arc<Entry>, stored: &MonitorState, now: DateTime<Utc>) {
        let id = entry.monitor.id;
        if self.monitors.contains_key(&id) {
            return self.changed(entry, now);
        }
        let (mut state, other_target) = match self.unpark(id) {
            Some((then, state)) => (state, !same_target(&then, entry)),
            None => (stored.clone(), false),
        };
        if other_target {
            machine::retargeted(&mut state);
        }
        self.settle(entry, state, now, other_target, None);
    }

    fn changed(&mut self, entry: &Arc<Entry>, now: DateTime<Utc>) {
        let Some(watched) = self.monitors.remove(&entry.monitor.id) else {
            return self.added(entry, &MonitorState::default(), now);
        };
        let mut state = watched.state;
        let other_target = !same_target(&watched.entry, entry);
        if other_target {
            machine::retargeted(&mut state);
        }
        self.disarm(entry.monitor.id, watched.alarm);
        let before = (watched.entry, watched.driver);
        self.settle(entry, state, now, other_target, Some(before));
    }

    /// Watches a monitor under this definition: ends or begins its pause, and stores what that changed.
    fn settle(
        &mut self,
        entry: &Arc<Entry>,
        mut state: MonitorState,
        now: DateTime<Utc>,
        changed: bool,
        old: Option<(Arc<Entry>, Driver)>,
    ) {
        let monitor = &entry.monitor;
        let before = (state.unobserved, state.incident, state.maintenance);
        let left = if monitor.active {
            Left { resolution: None, gap: machine::resumed(&mut state, monitor.id, now) }
        } else {
            machine::paused(&mut state, monitor.id, now)
        };
        state.maintenance = self.covers.of(monitor.id, state.maintenance, now);
        if changed || (state.unobserved, state.incident, state.maintenance) != before {
            self.record(&entry.monitor, left, Some(&state));
        }
        self.board.put(entry, &state);
        let driver = self.drive(entry, &state, old);
        let (unstored, stored_at) = (0, Instant::now());
        let watched = Watched { entry: Arc::clone(entry), state, unstored, stored_at, driver, alarm: None };
        self.monitors.insert(monitor.id, watched);
        self.arm(monitor.id);
    }

    fn removed(&mut self, id: MonitorId, removal: Removal, now: DateTime<Utc>) {
        let watched = self.monitors.remove(&id);
        self.disarm(id, watched.as_ref().and_then(|watched| watched.alarm));
        self.pings.close(id);
        self.groups.forget(id);
        let watched = watched.map(|watched| (watched.entry, watched.state));
        let Some((entry, mut state)) = watched.or_else(|| self.unpark(id)) else { return };
        let reason = match removal {
            Removal::Invalid => {
                machine::invalid(&mut state, now);
                self.record(&entry.monitor, Left::default(), Some(&state));
                self.board.show(id, &state);
                self.parked.insert(id, (entry, state));
                return;
            }
            Removal::Archived => ResolveReason::Archived,
            Removal::Deleted => ResolveReason::Deleted,
        };
        let left = machine::removed(&mut state, id, now, reason);
        let archived = removal == Removal::Archived;
        // A deleted monitor has no row to hang a state on, and its id never returns.
        self.record(&entry.monitor, left, archived.then_some(&state));
        self.board.remove(id);
        if archived {
            self.parked.insert(id, (entry, state));
            self.archived.push_back(id);
            while self.archived.len() > ARCHIVED_MOST {
                let oldest = self.archived.pop_front();
                oldest.and_then(|id| self.parked.remove(&id));
            }
        }
    }

    fn unpark(&mut self, id: MonitorId) -> Option<(Arc<Entry>, MonitorState)> {
        let parked = self.parked.remove(&id)?;
        self.archived.retain(|archived| *archived != id);
        Some(parked)
    }
}

/// Whether a result of one definition says something about the other.
pub(super) fn same_target(a: &Arc<Entry>, b: &Arc<Entry>) -> bool {
    Arc::ptr_eq(a, b) || (a.monitor.kind == b.monitor.kind && a.monitor.url == b.monitor.url)
}
