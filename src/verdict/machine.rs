//! Steps what is known of a monitor from check to check. Pure: `now` is the check's own time.
//!
//! ```text
//!            good                     confirmations bad in a row: OPEN
//! pending ─────────> up ⇄ degraded ─────────────────────────────────────> down
//!                         ^                                                 │
//!                         └──── recoveries good in a row, not held: RESOLVE ┘
//! ```
//!
//! - *Good* is up or degraded, *bad* is down. An unknown check is neither: it leaves every streak as it is, and the
//!   time until the next check becomes a gap.
//! - An incident starts at the first bad check of its streak and ends at the first good check of the recovery.
//! - Flapping: an opening or resolution is a change. When an opening is at least the `flap.changes`-th change within
//!   `flap.within`, its incident is held: it is not resolved before `flap.hold` has passed since the opening and since
//!   every later bad check. Good checks meanwhile count for the recovery, and date it.
//! - A person who resolves an incident dismisses it: none opens before a good check.
//! - The wall clock may step. Times that lie in the future of a check are taken for that check's time, a hold never
//!   lasts longer than `flap.hold` from now, and no incident ends before it started.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::text;
use crate::model::{
    Cadence, Check, Evidence, Failure, Gap, GapReason, IncidentUid, Monitor, MonitorId, MonitorState, Opening,
    Resolution, ResolveReason, Status, Unobserved, Verdict,
};

/// Characters of a monitor's name in an incident's title.
const TITLE_NAME_MAX: usize = 200;

/// A confirmed change.
#[derive(Clone, Debug, PartialEq)]
pub enum Transition {
    /// An incident opens.
    Opened(Box<Opening>),
    /// It ends.
    Resolved(Resolution),
}

/// What a check led to.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The confirmed change, if there was one.
    pub transition: Option<Transition>,
    /// A re-check so long after the end of this one, while confirming or recovering; none: the next slot.
    pub retry: Option<Duration>,
    /// `attempt` of the next check.
    pub next_attempt: u16,
    /// Whether the state must be stored, so that a restart goes on as if there had been none. What changes without
    /// this (evidence of the latest good check, its time) may be stored now and then.
    pub state_changed: bool,
    /// The time that an unknown check leaves unobserved, from the first of its streak.
    pub gap: Option<Gap>,
}

/// What is to be recorded when a monitor is no longer watched.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Left {
    /// The end of its open incident.
    pub resolution: Option<Resolution>,
    /// The end of the time that it was deliberately not checked.
    pub gap: Option<Gap>,
}

/// The part of a state on which the future depends.
#[derive(PartialEq)]
struct Durable {
    status: Status,
    dismissed: bool,
    /// Beyond the confirmations and recoveries that are asked for, more of them change nothing.
    streaks: (u16, u16),
    incident: Option<IncidentUid>,
    times: [Option<DateTime<Utc>>; 6],
}

impl Durable {
    fn of(state: &MonitorState, monitor: &Monitor) -> Self {
        Self {
            status: state.status,
            dismissed: state.dismissed,
            streaks: (state.failures.min(monitor.confirmations), state.successes.min(monitor.recoveries)),
            incident: state.incident,
            times: [
                state.since,
                state.failing_since,
                state.recovering_since,
                state.unknown_since,
                state.held_until,
                state.flaps.back().copied(),
            ],
        }
    }
}

/// Steps the state of a monitor by one check. `cause` is asked when an incident opens: the dependency that explains it.
/// A check of a monitor that is paused or invalid changes nothing.
pub fn step(
    state: &mut MonitorState,
    monitor: &Monitor,
    check: &Check,
    evidence: Box<Evidence>,
    cause: impl FnOnce() -> Option<MonitorId>,
    new_uid: impl FnOnce() -> IncidentUid,
) -> Step {
    let mut outcome = Step { transition: None, retry: None, next_attempt: 1, state_changed: false, gap: None };
    if state.unobserved.is_some() {
        return outcome;
    }
    let before = Durable::of(state, monitor);
    let now = check.checked_at;
    state.last_checked = Some(now);
    not_in_the_future(state, monitor, now);
    match check.verdict {
        Verdict::Unknown => {
            let from_at = *state.unknown_since.get_or_insert(now);
            let reason = GapReason::of_unknown(check.failure.unwrap_or(Failure::Internal));
            let to_at = after(now, until_next(&monitor.cadence));
            outcome.gap = Some(Gap { monitor: Some(monitor.id), from_at, to_at, reason });
        }
        Verdict::Up | Verdict::Degraded => {
            state.unknown_since = None;
            let works = if check.verdict == Verdict::Up { Status::Up } else { Status::Degraded };
            (outcome.transition, outcome.retry) = good(state, monitor, works, now, evidence);
        }
        Verdict::Down => {
            state.unknown_since = None;
            let failed = count_failure(state, monitor, now, evidence);
            if failed == Failed::Confirmed {
                let opening = open(state, monitor, check, new_uid(), cause());
                outcome.transition = Some(Transition::Opened(Box::new(opening)));
            } else if failed == Failed::Confirming {
                outcome.retry = Some(monitor.retry_interval);
            }
        }
    }
    if outcome.retry.is_some() {
        outcome.next_attempt = check.attempt.saturating_add(1);
    }
    outcome.state_changed = Durable::of(state, monitor) != before;
    outcome
}

/// After the clock stepped back, nothing may wait for a time that is long to come. `since` stays: an incident must not
/// end before the start that was recorded.
fn not_in_the_future(state: &mut MonitorState, monitor: &Monitor, now: DateTime<Utc>) {
    for time in [&mut state.failing_since, &mut state.recovering_since, &mut state.unknown_since].into_iter().flatten()
    {
        *time = now.min(*time);
    }
    for time in &mut state.flaps {
        *time = now.min(*time);
    }
    if let Some(until) = &mut state.held_until {
        *until = after(now, monitor.flap.hold).min(*until);
    }
    // A state written by another hand could say otherwise, and would never let go of its incident.
    if state.incident.is_some() {
        state.status = Status::Down;
    }
}

fn good(
    state: &mut MonitorState,
    monitor: &Monitor,
    works: Status,
    now: DateTime<Utc>,
    evidence: Box<Evidence>,
) -> (Option<Transition>, Option<Duration>) {
    state.failures = 0;
    state.failing_since = None;
    state.first_bad = None;
    state.dismissed = false;
    state.last_good = Some(evidence);
    if state.status != Status::Down {
        if state.status != works {
            (state.status, state.since) = (works, Some(now));
        }
        return (None, None);
    }
    state.successes = state.successes.saturating_add(1);
    let first = *state.recovering_since.get_or_insert(now);
    if state.successes < monitor.recoveries {
        return (None, Some(monitor.retry_interval));
    }
    if state.held_until.is_some_and(|until| now < until) {
        return (None, None);
    }
    let resolved_at = state.since.map_or(first, |since| since.max(first));
    count_change(state, monitor, now);
    (state.status, state.since) = (works, Some(resolved_at));
    (state.successes, state.recovering_since, state.held_until) = (0, None, None);
    (resolve(state, monitor.id, resolved_at, ResolveReason::Recovered).map(Transition::Resolved), None)
}

#[derive(PartialEq)]
enum Failed {
    /// Of a target that is known to be down.
    Again,
    Confirming,
    Confirmed,
}

fn count_failure(state: &mut MonitorState, monitor: &Monitor, now: DateTime<Utc>, evidence: Box<Evidence>) -> Failed {
    if state.failures == 0 {
        state.failing_since = Some(now);
        state.first_bad = Some(evidence);
    }
    state.failures = state.failures.saturating_add(1);
    (state.successes, state.recovering_since) = (0, None);
    if state.held_until.is_some() {
        state.held_until = Some(after(now, monitor.flap.hold));
    }
    if state.incident.is_some() || state.dismissed {
        Failed::Again
    } else if state.failures < monitor.confirmations {
        Failed::Confirming
    } else {
        Failed::Confirmed
    }
}

fn open(
    state: &mut MonitorState,
    monitor: &Monitor,
    check: &Check,
    uid: IncidentUid,
    cause: Option<MonitorId>,
) -> Opening {
    let now = check.checked_at;
    let started_at = state.failing_since.unwrap_or(now);
    let changes = count_change(state, monitor, now);
    state.held_until = (changes >= monitor.flap.changes.into()).then(|| after(now, monitor.flap.hold));
    (state.status, state.since, state.incident) = (Status::Down, Some(started_at), Some(uid));
    let first = state.first_bad.as_ref().and_then(|evidence| evidence.failure);
    let failure = first.or(check.failure).unwrap_or(Failure::Internal);
    Opening { failure, caused_by: cause.filter(|id| *id != monitor.id), ..opening(state, monitor, uid, started_at) }
}

fn opening(state: &MonitorState, monitor: &Monitor, uid: IncidentUid, started_at: DateTime<Utc>) -> Opening {
    let first = state.first_bad.as_ref().and_then(|evidence| evidence.failure);
    Opening {
        uid,
        monitor: monitor.id,
        owner: monitor.owner,
        title: format!("{} is down", text::clean(&monitor.name, TITLE_NAME_MAX, false)).into(),
        failure: first.unwrap_or(Failure::Internal),
        started_at,
        caused_by: None,
        maintenance: state.maintenance.map(|under| under.maintenance),
        first_bad: state.first_bad.clone(),
        last_good: state.last_good.clone(),
    }
}

/// The open incident of a state once more, for a store that has lost it; none: there is none.
#[must_use]
pub fn open_again(state: &MonitorState, monitor: &Monitor) -> Option<Opening> {
    let since = state.since.or(state.failing_since).or(state.last_checked)?;
    Some(opening(state, monitor, state.incident?, since))
}

/// Notes a confirmed change; how many there were within `flap.within`, up to `flap.changes`.
fn count_change(state: &mut MonitorState, monitor: &Monitor, now: DateTime<Utc>) -> usize {
    state.flaps.push_back(now);
    let most = usize::from(monitor.flap.changes.max(1));
    while state.flaps.len() > most || state.flaps.front().is_some_and(|at| after(*at, monitor.flap.within) < now) {
        state.flaps.pop_front();
    }
    state.flaps.len()
}

fn resolve(
    state: &mut MonitorState,
    monitor: MonitorId,
    resolved_at: DateTime<Utc>,
    reason: ResolveReason,
) -> Option<Resolution> {
    let uid = state.incident.take()?;
    Some(Resolution { uid, monitor, resolved_at, reason })
}

/// The monitor is paused: its incident ends, and what was known of the target is no longer. Evidence of the latest
/// good check stays, and so does what a heartbeat has heard.
pub fn paused(state: &mut MonitorState, monitor: MonitorId, at: DateTime<Utc>) -> Left {
    let before = state.unobserved.filter(|unobserved| unobserved.reason == GapReason::Paused);
    if before.is_some() && state.incident.is_none() {
        return Left::default();
    }
    if before.is_some() {
        // An incident that was found open later: it ends, and the pause goes on.
        state.unobserved = None;
    }
    let left = leave(state, monitor, at, ResolveReason::Paused);
    state.unobserved = before.or(Some(Unobserved { reason: GapReason::Paused, since: at }));
    left
}

/// The monitor is archived or deleted, as `reason` says.
pub fn removed(state: &mut MonitorState, monitor: MonitorId, at: DateTime<Utc>, reason: ResolveReason) -> Left {
    leave(state, monitor, at, reason)
}

/// The definition became invalid. That says nothing about the target: an open incident stays open and streaks go on
/// when the monitor is checked again. A paused monitor stays paused.
pub fn invalid(state: &mut MonitorState, at: DateTime<Utc>) {
    state.unknown_since = None;
    state.unobserved.get_or_insert(Unobserved { reason: GapReason::Invalid, since: at });
}

/// The monitor is checked again; the time in which it was not is a gap.
pub fn resumed(state: &mut MonitorState, monitor: MonitorId, at: DateTime<Utc>) -> Option<Gap> {
    let Unobserved { reason, since } = state.unobserved.take()?;
    (since < at).then_some(Gap { monitor: Some(monitor), from_at: since, to_at: at, reason })
}

/// A person resolved the open incident in the database: nothing is to be recorded, and while the target fails on, none
/// opens before a good check.
pub fn dismissed(state: &mut MonitorState) {
    if state.incident.take().is_some() {
        state.dismissed = state.failures > 0;
        state.held_until = None;
    }
}

/// The monitor has another target now: what was counted and seen of the old one is no evidence about the new. An open
/// incident goes on, and ends with the new target's recovery.
pub fn retargeted(state: &mut MonitorState) {
    (state.failures, state.failing_since, state.first_bad) = (0, None, None);
    (state.successes, state.recovering_since, state.last_good) = (0, None, None);
}

fn leave(state: &mut MonitorState, monitor: MonitorId, at: DateTime<Utc>, reason: ResolveReason) -> Left {
    let resolved_at = state.since.map_or(at, |since| since.max(at));
    let left = Left { resolution: resolve(state, monitor, resolved_at, reason), gap: resumed(state, monitor, at) };
    let (last_good, last_checked, heard) = (state.last_good.take(), state.last_checked, state.heard.take());
    *state = MonitorState { last_good, last_checked, heard, ..MonitorState::default() };
    left
}

/// How long after a check the next one comes. A cron schedule is not known here: it is fine to the minute, so a minute
/// is never too long, and each later unknown check extends the gap up to itself.
const fn until_next(cadence: &Cadence) -> Duration {
    match cadence {
        Cadence::Every(interval) => *interval,
        Cadence::Cron { .. } => Duration::from_secs(60),
    }
}

/// Saturates at the time itself, which only durations of many thousand years reach.
fn after(time: DateTime<Utc>, duration: Duration) -> DateTime<Utc> {
    TimeDelta::from_std(duration).ok().and_then(|delta| time.checked_add_signed(delta)).unwrap_or(time)
}

#[cfg(test)]
mod tests;
