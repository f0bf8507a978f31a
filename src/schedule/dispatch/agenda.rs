//! What the dispatcher knows and decides. It never waits: time comes in as a value, checks and gaps go out by calls that
//! return at once.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::Instant;

use super::stats::DispatchStats;
use super::waiting::{Queue, Waiting};
use crate::catalog::Entry;
use crate::journal::Journal;
use crate::model::{Gap, GapReason, MonitorId, Record};
use crate::schedule::plan::{SLOT_MS, SLOTS_PER_SECOND, Timeline, Timing};
use crate::schedule::wheel::{Released, Wheel};
use crate::schedule::{Done, Due, Next};

mod clocks;
mod membership;

/// How far ahead a tick releases the wheel.
const HORIZON: u64 = 2 * SLOTS_PER_SECOND;

/// Why the dispatcher cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PoolGone;

/// What the wheel holds for a monitor.
#[derive(Clone, Copy)]
struct Plan {
    slot: u64,
    attempt: u16,
    /// False for re-checks and first checks.
    in_phase: bool,
}

enum Stage {
    /// Nothing to do before its planned slot.
    Idle,
    /// Due; no place yet. Its next slot is planned, to notice what is lost.
    Waiting(Waiting),
    /// Handed to the pool. Nothing is planned: what falls into the check is counted when it is done.
    Running {
        slot: u64,
        /// Left or came back meanwhile, so what its check wants next no longer counts.
        stale: bool,
    },
}

struct Scheduled {
    entry: Arc<Entry>,
    /// None: not to be scheduled (paused, or gone while its check runs).
    timing: Option<Timing>,
    stage: Stage,
    plan: Option<Plan>,
    /// Whether it was ever checked.
    checked: bool,
    /// Gone from the catalogue; kept until its check is done, so that it never has two.
    gone: bool,
}

/// Every monitor with what is planned for it.
pub(super) struct Agenda {
    timeline: Timeline,
    wheel: Wheel,
    /// Places are the wheel's keys, used again after a monitor has gone.
    monitors: Vec<Option<Scheduled>>,
    free: Vec<u32>,
    keys: HashMap<MonitorId, u32>,
    queue: Queue,
    in_flight: usize,
    max_in_flight: usize,
    /// The pool's queue was full though a place was free: try again in the next slot.
    refused: bool,
    /// Slots up to here may fire.
    horizon: u64,
    due: mpsc::Sender<Due>,
    journal: Arc<dyn Journal>,
    stats: Arc<DispatchStats>,
    released: Vec<Released>,
}

impl Agenda {
    pub(super) fn new(
        timeline: Timeline,
        now: Instant,
        max_in_flight: usize,
        due: mpsc::Sender<Due>,
        journal: Arc<dyn Journal>,
        stats: Arc<DispatchStats>,
    ) -> Self {
        let slot = timeline.slot(now);
        stats.show_limit(max_in_flight);
        Self {
            timeline,
            wheel: Wheel::new(slot),
            monitors: Vec::new(),
            free: Vec::new(),
            keys: HashMap::new(),
            queue: Queue::default(),
            in_flight: 0,
            max_in_flight,
            refused: false,
            horizon: slot + HORIZON,
            due,
            journal,
            stats,
            released: Vec::new(),
        }
    }

    /// A tick: lets the next two seconds fire, and looks at the wall clock.
    pub(super) fn release(&mut self, wall: DateTime<Utc>, now: Instant) {
        self.horizon = self.timeline.slot(now) + HORIZON;
        self.compare_clocks(wall, now);
        self.stats.show_overdue(|| self.overdue_entries());
    }

    /// When there is next something to do, within the horizon.
    pub(super) fn next_wake(&self, now: Instant) -> Option<Instant> {
        if self.refused {
            return Some(self.timeline.instant(self.timeline.slot(now) + 1));
        }
        self.wheel.next_due(self.horizon).map(|slot| self.timeline.instant(slot))
    }

    /// Fires what is due by now.
    pub(super) fn advance(&mut self, now: Instant) -> Result<(), PoolGone> {
        let mut released = std::mem::take(&mut self.released);
        self.wheel.release(self.timeline.slot(now).min(self.horizon), &mut released);
        // Those that wait already go first, in their order.
        self.refused = false;
        let mut outcome = self.start_waiting(now);
        for due in released.drain(..) {
            outcome = outcome.and(self.fall_due(due.key, now));
        }
        self.released = released;
        self.stats.show(self.in_flight, self.queue.len(), self.queue.overdue, now);
        outcome
    }

    /// Takes over how many checks may be in flight. Fewer than there are: none start until enough are done.
    pub(super) fn limit(&mut self, max_in_flight: usize) {
        self.max_in_flight = max_in_flight;
        self.stats.show_limit(max_in_flight);
    }

    /// A check is done: frees its place and plans what comes next.
    pub(super) fn finish(&mut self, done: &Done, now: Instant) {
        let Some(key) = self.keys.get(&done.monitor).copied() else { return };
        let slot_now = self.timeline.slot(now);
        let Some(Some(monitor)) = self.monitors.get_mut(key as usize) else { return };
        let Stage::Running { slot, stale } = monitor.stage else { return };
        self.in_flight = self.in_flight.saturating_sub(1);
        if monitor.gone {
            self.forget(key, done.monitor);
            return;
        }
        monitor.stage = Stage::Idle;
        if let Some(timing) = &monitor.timing {
            self.stats.count_skipped(timing.passed(slot, slot_now, &self.timeline));
        }
        let extra = match done.next {
            Next::Retry(after) if !stale => {
                // Rounded up: not sooner than asked for.
                let slots = u64::try_from(after.as_millis()).unwrap_or(u64::MAX).div_ceil(SLOT_MS).max(1);
                Some((slot_now.saturating_add(slots), done.attempt.max(2)))
            }
            _ => None,
        };
        self.plan_next(key, slot_now, extra);
    }

    /// Records what was lost by those that still wait.
    pub(super) fn close(&mut self) {
        for (key, _) in std::mem::take(&mut self.queue.line) {
            self.leave_queue(key);
        }
    }

    fn get(&self, key: u32) -> Option<&Scheduled> {
        self.monitors.get(key as usize)?.as_ref()
    }

    fn get_mut(&mut self, key: u32) -> Option<&mut Scheduled> {
        self.monitors.get_mut(key as usize)?.as_mut()
    }

    fn gap(&self, monitor: Option<MonitorId>, from_at: DateTime<Utc>, to_at: DateTime<Utc>, reason: GapReason) {
        self.journal.append(vec![Record::Gap(Gap { monitor, from_at, to_at, reason })]);
    }

    fn plan(&mut self, key: u32, plan: Plan) {
        let slot = self.wheel.schedule(key, plan.slot);
        if let Some(monitor) = self.get_mut(key) {
            monitor.plan = Some(Plan { slot, ..plan });
        }
    }

    fn unplan(&mut self, key: u32) {
        self.wheel.cancel(key);
        if let Some(monitor) = self.get_mut(key) {
            monitor.plan = None;
        }
    }

    /// Plans the first slot of the phase after `after`, or the `extra` check if that comes before it.
    fn plan_next(&mut self, key: u32, after: u64, extra: Option<(u64, u16)>) {
        let Some(monitor) = self.get(key) else { return };
        let Some(timing) = &monitor.timing else { return self.unplan(key) };
        let phase = timing.next_after(after, &self.timeline);
        match (phase, extra) {
            (phase, Some((slot, attempt))) if phase.is_none_or(|phase| slot < phase) => {
                self.plan(key, Plan { slot, attempt, in_phase: false });
            }
            (Some(slot), _) => self.plan(key, Plan { slot, attempt: 1, in_phase: true }),
            (None, _) => {
                let label = monitor.entry.monitor.label();
                log::error!(monitor = label; "{label}: its schedule never comes round again, so it is not checked");
                self.unplan(key);
            }
        }
    }

    /// The planned slot of a monitor has come.
    fn fall_due(&mut self, key: u32, now: Instant) -> Result<(), PoolGone> {
        let Some(monitor) = self.get_mut(key) else { return Ok(()) };
        // None: it started from the queue a moment ago; the slot fell into a running check.
        let Some(plan) = monitor.plan.take() else { return Ok(()) };
        match monitor.stage {
            Stage::Running { .. } => return Ok(()),
            Stage::Waiting(_) => self.lose(key, plan.slot, plan.attempt),
            Stage::Idle => {
                if self.queue.is_empty() && self.start(key, plan.slot, plan.attempt, now)? {
                    return Ok(());
                }
                let waiting = self.queue.push(key, plan.slot, plan.attempt);
                if let Some(monitor) = self.get_mut(key) {
                    monitor.stage = Stage::Waiting(waiting);
                }
            }
        }
        // Two at the most: whoever is later than that has stood still.
        let (mut last, slot_now) = (plan.slot, self.timeline.slot(now));
        while let Some(next) = self.next_in_phase(key, last).filter(|next| *next <= slot_now) {
            self.lose(key, next, 1);
            last = next;
        }
        self.plan_next(key, last, None);
        Ok(())
    }

    fn next_in_phase(&self, key: u32, after: u64) -> Option<u64> {
        self.get(key)?.timing.as_ref()?.next_after(after, &self.timeline)
    }

    /// The next slot of a waiting monitor came before its check could start.
    fn lose(&mut self, key: u32, slot: u64, attempt: u16) {
        let Some(monitor) = self.get_mut(key) else { return };
        let Stage::Waiting(waiting) = &mut monitor.stage else { return };
        waiting.lose_to(slot, attempt);
        let (id, lost, overdue) = (monitor.entry.monitor.id, waiting.report(false), waiting.just_overdue());
        self.queue.overdue += usize::from(overdue);
        self.stats.count_lost();
        self.report_lost(id, lost);
    }

    fn start_waiting(&mut self, now: Instant) -> Result<(), PoolGone> {
        while let Some((key, ticket)) = self.queue.line.front().copied() {
            match self.get(key).map(|monitor| &monitor.stage) {
                Some(Stage::Waiting(waiting)) if waiting.ticket == ticket => {
                    let (slot, attempt) = (waiting.slot, waiting.attempt);
                    if !self.start(key, slot, attempt, now)? {
                        break;
                    }
                }
                // It left before its turn.
                _ => {}
            }
            self.queue.line.pop_front();
        }
        Ok(())
    }

    /// Hands a check to the pool, if there is a place.
    fn start(&mut self, key: u32, slot: u64, attempt: u16, now: Instant) -> Result<bool, PoolGone> {
        if self.in_flight >= self.max_in_flight || self.refused {
            return Ok(false);
        }
        let due_at = self.timeline.instant(slot);
        let Some(entry) = self.get(key).map(|monitor| Arc::clone(&monitor.entry)) else { return Ok(true) };
        match self.due.try_send(Due { entry, attempt, due_at }) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                self.refused = true;
                return Ok(false);
            }
            Err(TrySendError::Closed(_)) => return Err(PoolGone),
        }
        self.leave_queue(key);
        self.unplan(key);
        self.in_flight += 1;
        self.stats.count_fired(now.saturating_duration_since(due_at));
        if let Some(monitor) = self.get_mut(key) {
            monitor.stage = Stage::Running { slot, stale: false };
            monitor.checked = true;
        }
        Ok(true)
    }

    /// Lets a monitor wait no longer, and records what it lost.
    fn leave_queue(&mut self, key: u32) {
        let Some(monitor) = self.get_mut(key) else { return };
        let id = monitor.entry.monitor.id;
        let Stage::Waiting(waiting) = &mut monitor.stage else { return };
        let (lost, overdue) = (waiting.report(true), waiting.is_overdue());
        monitor.stage = Stage::Idle;
        self.queue.leave(overdue);
        self.report_lost(id, lost);
    }

    fn report_lost(&self, monitor: MonitorId, slots: Option<(u64, u64)>) {
        if let Some((from, to)) = slots {
            let (from, to) = (self.timeline.wall_of(from), self.timeline.wall_of(to));
            self.gap(Some(monitor), from, to, GapReason::Overloaded);
        }
    }

    /// The monitors that are overdue by 3 intervals.
    fn overdue_entries(&self) -> Arc<[Arc<Entry>]> {
        if self.queue.overdue == 0 {
            return Arc::default();
        }
        let overdue = self.queue.line.iter().filter_map(|(key, ticket)| {
            let monitor = self.get(*key)?;
            let Stage::Waiting(waiting) = &monitor.stage else { return None };
            (waiting.ticket == *ticket && waiting.is_overdue()).then(|| Arc::clone(&monitor.entry))
        });
        overdue.collect()
    }

    fn forget(&mut self, key: u32, id: MonitorId) {
        self.wheel.cancel(key);
        if let Some(place) = self.monitors.get_mut(key as usize) {
            *place = None;
        }
        self.keys.remove(&id);
        self.free.push(key);
    }
}
