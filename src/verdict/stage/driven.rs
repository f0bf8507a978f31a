//! Checks that no schedule calls for. A heartbeat is asked when a ping comes in and at its next deadline, to the moment:
//! the stage sleeps until the earliest of all, and does not wake for them when there are none. A group is looked at in its
//! turn, and soon after the status of a member has changed.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;

use super::*;
use crate::model::{Cadence, MonitorKey, Source};
use crate::probe::driven::{Driven, Heartbeat, Member};
use crate::schedule::plan::Timing;
use crate::verdict::gathering::{self, Gathering, Members, Turn};
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
    /// The statuses of others.
    Gathering(Box<Gathering>),
}

/// The groups, and whose members they wait for.
#[derive(Default)]
pub(super) struct Groups {
    all: BTreeSet<MonitorId>,
    of_member: HashMap<MonitorId, Vec<MonitorId>>,
}

impl Groups {
    pub(super) fn forget(&mut self, id: MonitorId) {
        self.all.remove(&id);
    }
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
        self.groups.forget(monitor.id);
        let rules = match entry.prepared.probe.driven() {
            Driven::Pings(rules) => rules,
            driven => {
                self.pings.close(monitor.id);
                return match driven {
                    Driven::Members(_) if monitor.active => self.gathering(monitor, old),
                    _ => Driver::Elsewhere,
                };
            }
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

    /// A group goes on as it is when its turns did not change; who is in it is found out for all groups together.
    fn gathering(&mut self, monitor: &Monitor, old: Option<(Arc<Entry>, Driver)>) -> Driver {
        self.groups.all.insert(monitor.id);
        if let Some((before, driver @ Driver::Gathering(_))) = old
            && before.monitor.cadence == monitor.cadence
        {
            return driver;
        }
        let turn = match (Timing::of(monitor), &monitor.cadence) {
            (Ok(Timing::Cron(cron)), _) => Turn::Cron(cron),
            (_, Cadence::Every(interval)) => Turn::Every(*interval),
            (_, Cadence::Cron { .. }) => return Driver::Elsewhere,
        };
        let now = self.now();
        Driver::Gathering(Box::new(Gathering::new(turn, monitor.id, now.at, now.instant)))
    }

    /// After the catalogue changed: finds the members of all groups, and looks at them soon.
    pub(super) fn gather(&mut self) {
        if self.groups.all.is_empty() {
            self.groups.of_member.clear();
            return;
        }
        let mut of_member: HashMap<MonitorId, Vec<MonitorId>> = HashMap::new();
        let (found, now) = (self.members(), Instant::now());
        for (id, members) in found {
            for other in members.iter().filter_map(|(_, other)| *other) {
                of_member.entry(other).or_default().push(id);
            }
            if let Some(Driver::Gathering(group)) = self.monitors.get_mut(&id).map(|watched| &mut watched.driver) {
                group.members = members;
                group.stir(now);
            }
            self.arm(id);
        }
        self.groups.of_member = of_member;
    }

    /// Every group with its members: what they are called, and who they are if there is such a monitor.
    fn members(&self) -> Vec<(MonitorId, Members)> {
        let mut by_key: HashMap<(Source, &MonitorKey), MonitorId> = HashMap::with_capacity(self.monitors.len());
        for (id, watched) in &self.monitors {
            // Keys are unique within a source, so that nothing is hidden here.
            let monitor = &watched.entry.monitor;
            by_key.extend(monitor.key.as_ref().map(|key| ((monitor.source, key), *id)));
        }
        let of_group = |id: &MonitorId| {
            let watched = self.monitors.get(id)?;
            let Driven::Members(group) = watched.entry.prepared.probe.driven() else { return None };
            let own = &watched.entry.monitor;
            let known = |other: MonitorId| {
                let monitor = &self.monitors.get(&other)?.entry.monitor;
                let may_name = own.source == Source::File || (monitor.owner == own.owner && other != own.id);
                may_name.then_some((monitor.label(), other))
            };
            let members = group.members.iter().map(|member| match member {
                Member::Key(key) => {
                    let other = by_key.get(&(own.source, key)).and_then(|other| known(*other));
                    (key.to_string(), other.map(|(_, other)| other))
                }
                Member::Id(other) => match known(*other) {
                    Some((label, other)) => (label.to_owned(), Some(other)),
                    None => (other.to_string(), None),
                },
            });
            Some((*id, members.collect()))
        };
        self.groups.all.iter().filter_map(of_group).collect()
    }

    /// The status of a monitor changed: the groups that it is in are looked at soon.
    pub(super) fn stir_groups(&mut self, member: MonitorId) {
        let Some(groups) = self.groups.of_member.get(&member).cloned() else { return };
        let now = Instant::now();
        for id in groups {
            if let Some(Driver::Gathering(group)) = self.monitors.get_mut(&id).map(|watched| &mut watched.driver) {
                group.stir(now);
            }
            self.arm(id);
        }
    }

    /// Looks at a group if that is due.
    fn look(&mut self, id: MonitorId, now: Now, groups: &mut Vec<Group>, shown: &mut Vec<Shown>) {
        let Some(watched) = self.monitors.get_mut(&id) else { return };
        let Driver::Gathering(group) = &mut watched.driver else { return };
        let Some(look) = group.due(now.at, now.instant) else { return };
        let (entry, members) = (Arc::clone(&watched.entry), group.members.clone());
        let status = |id: &Option<MonitorId>| Some(self.monitors.get(&(*id)?)?.state.shown());
        let standing: Vec<_> = members.iter().map(|(name, id)| (name.as_str(), status(id))).collect();
        let Driven::Members(rules) = entry.prepared.probe.driven() else { return };
        let Some(seen) = gathering::observe(rules, &standing, now.at) else { return };
        let attempt = if let gathering::Look::Check(attempt) = look { attempt } else { 1 };
        let finished = Finished::of(Arc::clone(&entry), attempt, &seen);
        let verdict = finished.check.verdict;
        let Some(Driver::Gathering(group)) = self.monitors.get_mut(&id).map(|watched| &mut watched.driver) else {
            return;
        };
        if !group.counts(look, verdict) {
            return;
        }
        let done = self.step(finished, groups, shown, false);
        if let Some(Driver::Gathering(group)) = self.monitors.get_mut(&id).map(|watched| &mut watched.driver) {
            match done.next {
                Next::Retry(after) => group.again(after, done.attempt, now.instant),
                Next::Phase => group.settled(),
            }
        }
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
            Driver::Gathering(group) => Some(group.wake()),
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
            self.look(id, now, &mut groups, &mut shown);
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
