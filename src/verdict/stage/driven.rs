//! Checks that no schedule calls for. A heartbeat is asked when a ping comes in and at its next deadline, to the moment:
//! the stage sleeps until the earliest of all, and does not wake for them when there are none.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;

use super::*;
use crate::probe::driven::{Driven, Heartbeat};
use crate::schedule::plan::Timing;
use crate::verdict::pulse::{Beat, Now, Pulse, Rhythm, Signal};

/// Called so late, we stood still, and so did the pings that wait in the sockets.
const STALL: Duration = Duration::from_secs(2);
/// Steps of the wall clock are looked for so often while a schedule is waited for.
const LOOK: Duration = Duration::from_secs(1);
/// Checks of one monitor that are due at the same time: it has run out of several things at once, and never of more.
const DUE_MOST: usize = 64;

/// What makes the checks of a monitor.
#[derive(Default)]
pub(super) enum Driver {
    /// The dispatcher, or nobody while it is paused.
    #[default]
    Elsewhere,
    /// Pings and their absence.
    Pulse(Box<Pulse>),
}

/// The wall clock as it was last seen, and when.
pub(super) struct Clock {
    wall: DateTime<Utc>,
    instant: Instant,
}

impl Clock {
    pub(super) fn new(wall: &dyn Wall) -> Self {
        Self { wall: wall.now(), instant: Instant::now() }
    }

    /// What the wall clock would show had it not stepped.
    fn expected(&self, now: Instant) -> DateTime<Utc> {
        let passed = TimeDelta::from_std(now.saturating_duration_since(self.instant)).unwrap_or_default();
        self.wall.checked_add_signed(passed).unwrap_or(self.wall)
    }
}

fn rhythm(rules: &Heartbeat, monitor: &Monitor) -> Option<Rhythm> {
    if let Some(period) = rules.period {
        return Some(Rhythm::Period(period));
    }
    match Timing::of(monitor) {
        Ok(Timing::Cron(cron)) => Some(Rhythm::Cron(cron)),
        // Settings let none of these through.
        Ok(Timing::Every { .. }) | Err(_) => {
            log::error!(monitor = monitor.label(); "this heartbeat has neither a period nor a schedule: not watched");
            None
        }
    }
}

/// Whether two definitions expect a heartbeat alike.
fn same_pulse(a: &Entry, b: &Entry) -> bool {
    match (a.prepared.probe.driven(), b.prepared.probe.driven()) {
        (Driven::Pings(one), Driven::Pings(other)) => one == other && a.monitor.cadence == b.monitor.cadence,
        _ => false,
    }
}

impl Watch {
    fn now(&self) -> Now {
        Now { at: self.wall.now(), instant: Instant::now() }
    }

    /// The driver of a monitor under this definition; it goes on as it is when nothing of it changed.
    pub(super) fn drive(
        &mut self,
        entry: &Arc<Entry>,
        state: &MonitorState,
        old: Option<(Arc<Entry>, Driver)>,
    ) -> Driver {
        let monitor = &entry.monitor;
        let Driven::Pings(rules) = entry.prepared.probe.driven() else {
            self.pings.close(monitor.id);
            return Driver::Elsewhere;
        };
        self.pings.open(monitor.id, rules.token, monitor.active);
        if !monitor.active {
            return Driver::Elsewhere;
        }
        if let Some((before, driver @ Driver::Pulse(_))) = old
            && same_pulse(&before, entry)
        {
            return driver;
        }
        let pulse = rhythm(rules, monitor).map(|rhythm| Pulse::new(rules, rhythm, state.heard.as_deref(), self.now()));
        pulse.map_or(Driver::Elsewhere, |pulse| Driver::Pulse(Box::new(pulse)))
    }

    /// When to look at those that no schedule drives.
    pub(super) fn next_alarm(&self) -> Option<Instant> {
        self.alarms.first().map(|(at, _)| *at)
    }

    /// Notes when a monitor is to be asked next.
    pub(super) fn arm(&mut self, id: MonitorId) {
        let Some(watched) = self.monitors.get_mut(&id) else { return };
        let due = match &watched.driver {
            Driver::Elsewhere => None,
            Driver::Pulse(pulse) if pulse.follows_the_wall() => pulse.due().map(|due| due.min(Instant::now() + LOOK)),
            Driver::Pulse(pulse) => pulse.due(),
        };
        if watched.alarm == due {
            return;
        }
        let before = std::mem::replace(&mut watched.alarm, due);
        self.disarm(id, before);
        self.alarms.extend(due.map(|at| (at, id)));
    }

    pub(super) fn disarm(&mut self, id: MonitorId, alarm: Option<Instant>) {
        if let Some(at) = alarm {
            self.alarms.remove(&(at, id));
        }
    }

    /// Pings came in. Each is answered when what it led to is in the journal.
    pub(super) fn pinged(&mut self, deliveries: impl Iterator<Item = Delivery>) {
        let (mut groups, mut shown, mut answers) = (Vec::new(), Vec::new(), Vec::new());
        let now = self.now();
        for Delivery { monitor: id, ping, answer } in deliveries {
            let Some(watched) = self.monitors.get_mut(&id) else {
                answers.push((answer, Some(Pinged::Unknown)));
                continue;
            };
            let Driver::Pulse(pulse) = &mut watched.driver else {
                answers.push((answer, Some(Pinged::Paused)));
                continue;
            };
            match pulse.ping(&mut watched.state.heard, &ping, now) {
                Some(beat) => self.beat(id, beat, now, &mut groups, &mut shown),
                None if ping.signal == Signal::Log => {}
                None => {
                    let state = Record::State(id, Box::new(watched.state.clone()));
                    groups.push((Arc::clone(&watched.entry), vec![state]));
                }
            }
            self.arm(id);
            answers.push((answer, None));
        }
        let kept = self.commit(groups, shown);
        for (answer, told) in answers {
            let told = told.unwrap_or(if kept { Pinged::Recorded } else { Pinged::Away });
            // Who asked may have gone away.
            let _ = answer.send(told);
        }
    }

    /// Asks every monitor whose time has come.
    pub(super) fn ring(&mut self) {
        let now = self.now();
        let expected = self.clock.expected(now.instant);
        self.clock = Clock { wall: now.at, instant: now.instant };
        let stalled = self.next_alarm().is_some_and(|at| now.instant.saturating_duration_since(at) > STALL);
        if stalled {
            self.each_pulse(|pulse, state| pulse.listen(state.heard.as_deref(), now));
        }
        if (now.at - expected).abs() > TimeDelta::milliseconds(1) {
            self.each_pulse(|pulse, state| pulse.realign(state.heard.as_deref(), expected, now));
        }
        let (mut groups, mut shown) = (Vec::new(), Vec::new());
        let due: Vec<MonitorId> =
            self.alarms.iter().take_while(|(at, _)| *at <= now.instant).map(|(_, id)| *id).collect();
        for id in due {
            for _ in 0..DUE_MOST {
                let Some(watched) = self.monitors.get_mut(&id) else { break };
                let Driver::Pulse(pulse) = &mut watched.driver else { break };
                let Some(beat) = pulse.expire(&mut watched.state.heard, now) else { break };
                self.beat(id, beat, now, &mut groups, &mut shown);
            }
            self.arm(id);
        }
        self.commit(groups, shown);
    }

    fn each_pulse(&mut self, change: impl Fn(&mut Pulse, &MonitorState)) {
        let mut changed = Vec::new();
        for (id, watched) in &mut self.monitors {
            if let Driver::Pulse(pulse) = &mut watched.driver {
                change(pulse, &watched.state);
                changed.push(*id);
            }
        }
        changed.into_iter().for_each(|id| self.arm(id));
    }

    /// A check of a heartbeat, with the state after it.
    fn beat(&mut self, id: MonitorId, beat: Beat, now: Now, groups: &mut Vec<Group>, shown: &mut Vec<Shown>) {
        let Some(entry) = self.monitors.get(&id).map(|watched| Arc::clone(&watched.entry)) else { return };
        let finished = Finished::of(entry, beat.attempt, &beat.observation);
        let done = self.step(finished, groups, shown, true);
        if let (Next::Retry(after), Some(watched)) = (done.next, self.monitors.get_mut(&id))
            && let Driver::Pulse(pulse) = &mut watched.driver
        {
            pulse.again(after, done.attempt, now);
        }
    }
}
