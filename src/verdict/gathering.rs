//! What the statuses of its members make of a group. Pure.
//!
//! Members that are pending, paused or under maintenance are left out. Of those that count, `require` must work: all of
//! them, one, or a number (all of them, when fewer count). A group that works only with members that are degraded is
//! degraded; one that depends on members of whom nothing is known is unknown; without any that counts there is no check.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use super::text;
use crate::model::{Failure, Fault, MonitorId, Observation, Status, Verdict};
use crate::probe::driven::{Group, Require};
use crate::schedule::plan::CronTiming;

/// Members that are named in a message.
const NAMED: usize = 8;
/// Characters of a member's name.
const NAME_MAX: usize = 64;
/// A change of a member is looked at at once, but not more often than this.
const APART: Duration = Duration::from_secs(1);
/// How often the wall clock is looked at for a schedule.
const LOOK: Duration = Duration::from_secs(1);

/// A member as it stands: its name, and its status or none when there is no such monitor.
pub type Standing<'a> = (&'a str, Option<Status>);

/// What members are called, and who they are; none for one that is not there.
pub type Members = Vec<(String, Option<MonitorId>)>;

/// What is seen of a group; none when no member counts.
#[must_use]
pub fn observe(group: &Group, members: &[Standing<'_>], now: DateTime<Utc>) -> Option<Observation> {
    let mut of: [Vec<&str>; 4] = Default::default();
    let [up, degraded, down, unknown] = &mut of;
    for (name, status) in members {
        match status {
            Some(Status::Up) => up.push(name),
            Some(Status::Degraded) => degraded.push(name),
            Some(Status::Down) => down.push(name),
            Some(Status::Unknown) | None => unknown.push(name),
            Some(Status::Pending | Status::Paused | Status::Maintenance) => {}
        }
    }
    let counted = up.len() + degraded.len() + down.len() + unknown.len();
    if counted == 0 {
        return None;
    }
    let needed = match group.require {
        Require::All => counted,
        Require::Any => 1,
        Require::AtLeast(number) => usize::from(number).min(counted),
    };
    let needs = match needed {
        1 if counted == 1 => "it must work".to_owned(),
        _ => format!("{needed} of {counted} must work"),
    };
    let mut seen = Observation::new(now);
    let graded = if up.len() >= needed {
        None
    } else if up.len() + degraded.len() >= needed {
        let message = format!("degraded: {} ({needs})", listed(degraded));
        Some((Verdict::Degraded, Fault::new(Failure::MemberDown, message)))
    } else if up.len() + degraded.len() + unknown.len() >= needed {
        let message = format!("nothing is known of {}, and they decide ({needs})", listed(unknown));
        Some((Verdict::Unknown, Fault::new(Failure::Internal, message)))
    } else {
        let message = format!("down: {} ({needs})", listed(down));
        Some((Verdict::Down, Fault::new(Failure::MemberDown, message)))
    };
    if let Some((verdict, fault)) = graded {
        (seen.graded, seen.fault) = (Some(verdict), Some(fault));
    }
    let names = ["up", "degraded", "down", "unknown"];
    for (name, members) in names.into_iter().zip(&of).filter(|(_, members)| !members.is_empty()) {
        seen.note(name, members.iter().map(|member| text::clean(member, NAME_MAX, false)).collect::<Vec<_>>());
    }
    Some(seen)
}

fn listed(names: &[&str]) -> String {
    let shown: Vec<String> = names.iter().take(NAMED).map(|name| text::clean(name, NAME_MAX, false)).collect();
    let more = match names.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{}{more}", shown.join(", "))
}

/// When a group is looked at without a change of its members.
pub enum Turn {
    /// Every so often.
    Every(Duration),
    /// By a schedule.
    Cron(Box<CronTiming>),
}

/// A group and when it is to be looked at.
pub struct Gathering {
    turn: Turn,
    /// Its members, as they are known now.
    pub members: Members,
    next: Instant,
    next_at: Option<DateTime<Utc>>,
    /// A member has changed.
    soon: Option<Instant>,
    /// Another look for the state machine, and which attempt it is.
    again: Option<(Instant, u16)>,
    looked: Option<Instant>,
    latest: Option<Verdict>,
}

/// Why a group is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// It is its turn, or the state machine wants it: that is a check in any case. With its attempt.
    Check(u16),
    /// A member changed: that is a check when the group's verdict is another one now.
    Change,
}

impl Gathering {
    /// One that has not been looked at yet. Its turns have a phase that its id gives.
    #[must_use]
    pub fn new(turn: Turn, id: MonitorId, at: DateTime<Utc>, now: Instant) -> Self {
        let (members, soon, again) = (Vec::new(), None, None);
        let mut new = Self { turn, members, next: now, next_at: None, soon, again, looked: None, latest: None };
        new.plan(at, now);
        if let Turn::Every(interval) = new.turn {
            let most = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX).max(1);
            new.next = now + Duration::from_millis(id.phase_hash() % most);
        }
        new
    }

    fn plan(&mut self, at: DateTime<Utc>, now: Instant) {
        match &self.turn {
            Turn::Every(interval) => self.next = now + *interval,
            Turn::Cron(cron) => {
                self.next_at = cron.next_after(at);
                self.next = now + LOOK;
            }
        }
    }

    /// A member has changed.
    pub fn stir(&mut self, now: Instant) {
        let earliest = self.looked.map_or(now, |looked| now.max(looked + APART));
        self.soon.get_or_insert(earliest);
    }

    /// When [`Self::due`] is to be asked.
    #[must_use]
    pub fn wake(&self) -> Instant {
        let others = self.soon.into_iter().chain(self.again.map(|(at, _)| at));
        others.fold(self.next, Instant::min)
    }

    /// Whether it is to be looked at now, which is taken for done.
    pub fn due(&mut self, at: DateTime<Utc>, now: Instant) -> Option<Look> {
        let again = self.again.take_if(|(when, _)| *when <= now).map(|(_, attempt)| Look::Check(attempt));
        let look = again.or_else(|| self.its_turn(at, now).then_some(Look::Check(1)));
        let look = look.or_else(|| self.soon.filter(|when| *when <= now).map(|_| Look::Change));
        if look.is_some() {
            (self.soon, self.looked) = (None, Some(now));
        }
        look
    }

    fn its_turn(&mut self, at: DateTime<Utc>, now: Instant) -> bool {
        if self.next > now {
            return false;
        }
        let due = match &self.turn {
            Turn::Every(_) => true,
            Turn::Cron(cron) => {
                self.next = now + LOOK;
                // Sooner than it was planned when the clock has stepped back.
                let sooner = cron.next_after(at).filter(|next| self.next_at.is_none_or(|planned| *next < planned));
                let due = self.next_at.is_some_and(|planned| planned <= at);
                self.next_at = if due { self.next_at } else { sooner.or(self.next_at) };
                due
            }
        };
        if due {
            self.plan(at, now);
        }
        due
    }

    /// Whether what was seen is a check, by why it was looked at.
    pub fn counts(&mut self, look: Look, verdict: Verdict) -> bool {
        let before = self.latest.replace(verdict);
        look != Look::Change || before != Some(verdict)
    }

    /// The state machine wants another look so long from now.
    pub fn again(&mut self, after: Duration, attempt: u16, now: Instant) {
        self.again = Some((now + after, attempt));
    }

    /// It does not any more.
    pub fn settled(&mut self) {
        self.again = None;
    }
}

#[cfg(test)]
mod tests;
