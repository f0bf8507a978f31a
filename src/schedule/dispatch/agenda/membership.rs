//! Which monitors there are: the catalogue's changes.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Agenda, HORIZON, Scheduled, Stage};
use crate::catalog::{Entry, Update};
use crate::model::MonitorId;
use crate::schedule::plan::Timing;

/// Monitors never checked before that appear at once are checked at once, up to so many (contract, "Hot reload").
const MOST_FRESH: usize = 100;

/// First checks are spread over so many slots: 1.9 s, so that the last one starts within two seconds.
const FRESH_SPREAD: u64 = HORIZON - 2;

impl Agenda {
    /// Brings the agenda to a new snapshot. What did not change keeps its plan.
    pub(in crate::schedule::dispatch) fn apply(&mut self, update: &Update, now: Instant) {
        for (id, _) in &update.changes.removed {
            self.remove(*id);
        }
        let mut fresh = Vec::new();
        for (entry, state) in &update.changes.added {
            self.upsert(entry, Some(state.last_checked.is_some()), now, &mut fresh);
        }
        for entry in &update.changes.changed {
            self.upsert(entry, None, now, &mut fresh);
        }
        if fresh.len() <= MOST_FRESH {
            self.hasten(&fresh, now);
        }
    }

    /// Takes an entry in or over. `checked`: whether it was ever checked; none if that is not known to have changed.
    fn upsert(&mut self, entry: &Arc<Entry>, checked: Option<bool>, now: Instant, fresh: &mut Vec<u32>) {
        let id = entry.monitor.id;
        let known = self.keys.get(&id).copied();
        let key = known.unwrap_or_else(|| self.admit(entry));
        let Some(Some(monitor)) = self.monitors.get_mut(key as usize) else { return };
        let old = std::mem::replace(&mut monitor.entry, Arc::clone(entry));
        let returned = std::mem::replace(&mut monitor.gone, false);
        monitor.checked |= checked.unwrap_or(known.is_none());
        if returned && let Stage::Running { stale, .. } = &mut monitor.stage {
            *stale = true;
        }
        let same_cadence = old.monitor.cadence == entry.monitor.cadence;
        // The verdict stage makes the checks of the others.
        let scheduled = entry.monitor.active && entry.prepared.probe.driven().is_scheduled();
        if same_cadence && scheduled == monitor.timing.is_some() {
            return;
        }
        monitor.timing = None;
        if scheduled {
            monitor.timing = Timing::of(&entry.monitor)
                .inspect_err(|why| {
                    let label = entry.monitor.label();
                    log::error!(monitor = label; "{label} cannot be scheduled: {why}");
                })
                .ok();
        }
        let extra = monitor.plan.filter(|plan| !plan.in_phase).map(|plan| (plan.slot, plan.attempt));
        let (idle, off, checked) = (matches!(monitor.stage, Stage::Idle), monitor.timing.is_none(), monitor.checked);
        if off {
            self.switch_off(key);
        } else if !matches!(self.get(key).map(|monitor| &monitor.stage), Some(Stage::Running { .. })) {
            self.plan_next(key, self.timeline.slot(now), extra);
        }
        if idle && !off && !checked {
            fresh.push(key);
        }
    }

    fn admit(&mut self, entry: &Arc<Entry>) -> u32 {
        let key = self.free.pop().unwrap_or_else(|| {
            self.monitors.push(None);
            // The configuration is bounded far below (250,000 of a file).
            u32::try_from(self.monitors.len() - 1).unwrap_or(u32::MAX)
        });
        let new = Scheduled {
            entry: Arc::clone(entry),
            timing: None,
            stage: Stage::Idle,
            plan: None,
            checked: false,
            gone: false,
        };
        if let Some(place) = self.monitors.get_mut(key as usize) {
            *place = Some(new);
        }
        self.keys.insert(entry.monitor.id, key);
        key
    }

    /// Spreads the first checks of few new monitors over the next two seconds, unless their phase comes sooner.
    fn hasten(&mut self, fresh: &[u32], now: Instant) {
        let slot_now = self.timeline.slot(now);
        for (place, key) in (0u64..).zip(fresh) {
            let slot = slot_now + 1 + place * FRESH_SPREAD / fresh.len() as u64;
            self.plan_next(*key, slot_now, Some((slot, 1)));
        }
    }

    /// Plans nothing more for a monitor; a check that runs goes on.
    fn switch_off(&mut self, key: u32) {
        self.leave_queue(key);
        self.unplan(key);
    }

    fn remove(&mut self, id: MonitorId) {
        let Some(key) = self.keys.get(&id).copied() else { return };
        self.switch_off(key);
        let Some(monitor) = self.get_mut(key) else { return };
        monitor.timing = None;
        if matches!(monitor.stage, Stage::Running { .. }) {
            monitor.gone = true;
        } else {
            self.forget(key, id);
        }
    }
}
