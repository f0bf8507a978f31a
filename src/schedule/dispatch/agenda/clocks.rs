//! Clocks that step and processes that stand still.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;

use super::{Agenda, Plan};
use crate::model::GapReason;
use crate::schedule::plan::{SLOTS_PER_SECOND, Timing, carry_over};
use crate::schedule::wheel::Released;

/// Checks off their phase that a stall swallowed come again within so many slots (10 s).
const RESUME_SPREAD: u64 = 10 * SLOTS_PER_SECOND;

/// A difference of the wall clock that is a step, reported and, forward, a gap.
const STEP: TimeDelta = TimeDelta::seconds(2);

/// A difference that is worth moving cron slots for; below it they may be so much off.
const CORRECTION: TimeDelta = TimeDelta::milliseconds(250);

impl Agenda {
    /// The process stood still from `from` until `now`: one gap for all. What was missed is not made up for.
    pub(in crate::schedule::dispatch) fn resume(&mut self, from: Instant, now: Instant) {
        let gap = (self.timeline.wall(from), self.timeline.wall(now));
        let stood_ms = millis(now.saturating_duration_since(from));
        log::warn!(stood_ms; "the process stood still for {stood_ms} ms; the checks of that time are skipped");
        self.gap(None, gap.0, gap.1, GapReason::Suspended);
        let slot_now = self.timeline.slot(now);
        let mut missed = Vec::new();
        self.wheel.release(slot_now, &mut missed);
        for Released { key, .. } in missed {
            let Some(monitor) = self.get_mut(key) else { continue };
            let Some(plan) = monitor.plan.take() else { continue };
            let spread = monitor.entry.monitor.id.phase_hash() % RESUME_SPREAD;
            // A monitor that is just being confirmed must not wait for its next day.
            let extra = (!plan.in_phase).then_some((slot_now + 1 + spread, plan.attempt));
            self.stats.count_missed();
            self.plan_next(key, slot_now, extra);
        }
    }

    /// Takes over a wall clock that is not where the timeline has it. Only cron slots move.
    pub(super) fn compare_clocks(&mut self, wall: DateTime<Utc>, now: Instant) {
        let drift = self.timeline.drift(wall, now);
        if drift.abs() <= CORRECTION {
            return;
        }
        let before = self.timeline.clone();
        self.timeline.shift(drift);
        let step = drift.abs() > STEP;
        if step {
            let step_ms = drift.num_milliseconds();
            log::warn!(step_ms; "the wall clock stepped by {step_ms} ms; intervals go on as they were");
        }
        if drift > STEP {
            self.gap(None, before.wall(now), wall, GapReason::ClockStepped);
        }
        let slot_now = self.timeline.slot(now);
        for key in 0..u32::try_from(self.monitors.len()).unwrap_or(u32::MAX) {
            let Some(monitor) = self.get(key) else { continue };
            let (Some(Timing::Cron(_)), Some(plan)) = (&monitor.timing, monitor.plan) else { continue };
            match (step, plan.in_phase) {
                (true, true) => self.plan_next(key, slot_now, None),
                (true, false) => self.plan_next(key, slot_now, Some((plan.slot, plan.attempt))),
                // The occurrence stays the same one: searching again could find it twice, or not at all.
                (false, true) => {
                    let slot = carry_over(plan.slot, &before, &self.timeline);
                    self.plan(key, Plan { slot, ..plan });
                }
                (false, false) => {}
            }
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
