//! Maintenance as the stage sees it: who is under it is laid over the states, and recorded with them.

use super::*;

/// Monitors that are looked up together, so that a result waits for no more than these.
const AT_ONCE: usize = 256;

impl Watch {
    /// Somebody came under maintenance, or is no longer.
    pub(super) fn covered(&mut self, covers: Arc<Covers>) {
        self.covers = covers;
        self.uncovered = self.monitors.keys().copied().collect();
    }

    /// Whether monitors are yet to be looked up.
    pub(super) fn uncovered(&self) -> bool {
        !self.uncovered.is_empty()
    }

    /// Looks some of them up.
    pub(super) fn cover_some(&mut self) {
        let (now, mut groups, mut changed) = (self.wall.now(), Vec::new(), Vec::new());
        while groups.len() < AT_ONCE
            && let Some(id) = self.uncovered.pop_front()
        {
            let Some(watched) = self.monitors.get_mut(&id) else { continue };
            let under = self.covers.of(id, watched.state.maintenance, now);
            if under != watched.state.maintenance {
                watched.state.maintenance = under;
                groups.push(vec![Record::State(id, Box::new(watched.state.clone()))]);
                changed.push(id);
            }
        }
        if groups.is_empty() {
            return;
        }
        self.journal.write(groups);
        for id in changed {
            if let Some(watched) = self.monitors.get(&id) {
                self.board.show(id, &watched.state);
            }
            self.stir_groups(id);
        }
    }
}
