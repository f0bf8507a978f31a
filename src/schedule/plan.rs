//! When a monitor is due. Pure: clocks come in as values.
//!
//! # Daylight saving time
//!
//! Cron expressions are read in their zone by croner 4, after Vixie cron. An expression whose second, minute and hour
//! are single numbers is a fixed time; any other (a list, range, step or star in one of the three) is a repetition.
//!
//! | the clock | fixed time | repetition |
//! |---|---|---|
//! | skips the time (spring) | runs once, at the first second after the gap | nothing in the gap; goes on after it |
//! | repeats the time (autumn) | runs once, the first time round | runs in both hours |

use std::time::Duration;

use chrono::{DateTime, Datelike as _, NaiveDate, SubsecRound as _, TimeDelta, Utc};
use chrono_tz::Tz;
use croner::Cron;
use croner::errors::CronError;
use croner::parser::{CronParser, Seconds, Year};
use croner::time::Weekday;
use tokio::time::Instant;

use crate::model::{Cadence, Monitor, MonitorId};

/// Width of a slot, milliseconds. One wake-up serves all checks of a slot; see "Measured choices" in the design.
pub const SLOT_MS: u64 = 50;

/// Slots of one second.
pub const SLOTS_PER_SECOND: u64 = 1000 / SLOT_MS;

/// Longest cron expression, bytes: expressions come from rows of other people.
const MAX_EXPRESSION: usize = 256;

/// Cron occurrences counted as passed over at the most; a check that lasts longer than so many is long since overdue.
const MAX_COUNTED: usize = 10_000;

/// Time as the scheduler counts it: the wall clock at the start of the process plus monotonic time since. Slots are
/// numbered from 1970 on it, so phases are the same after a restart, and a step of the wall clock does not move them.
/// What the wall clock shows differs by an offset that only cron schedules and recorded times use.
#[derive(Clone, Debug)]
pub struct Timeline {
    start: Instant,
    origin_ms: u64,
    offset: TimeDelta,
}

impl Timeline {
    /// A timeline on which `start` is `wall`.
    #[must_use]
    pub fn new(wall: DateTime<Utc>, start: Instant) -> Self {
        // A clock before 1970 counts as 1970; the offset keeps what it showed.
        let origin_ms = u64::try_from(wall.timestamp_millis()).unwrap_or(0);
        Self { start, origin_ms, offset: wall - at_ms(origin_ms) }
    }

    /// The latest slot that is not after `now`.
    #[must_use]
    pub fn slot(&self, now: Instant) -> u64 {
        (self.origin_ms + millis(now.saturating_duration_since(self.start))) / SLOT_MS
    }

    /// When a slot begins; the start of the timeline for slots before it.
    #[must_use]
    pub fn instant(&self, slot: u64) -> Instant {
        let since = Duration::from_millis(slot.saturating_mul(SLOT_MS).saturating_sub(self.origin_ms));
        self.start.checked_add(since).unwrap_or(self.start)
    }

    /// What the wall clock shows at `now`, as far as it has not stepped unseen.
    #[must_use]
    pub fn wall(&self, now: Instant) -> DateTime<Utc> {
        let ms = self.origin_ms + millis(now.saturating_duration_since(self.start));
        at_ms(ms).checked_add_signed(self.offset).unwrap_or(DateTime::<Utc>::MAX_UTC)
    }

    /// What the wall clock shows when a slot begins.
    #[must_use]
    pub fn wall_of(&self, slot: u64) -> DateTime<Utc> {
        at_ms(slot.saturating_mul(SLOT_MS)).checked_add_signed(self.offset).unwrap_or(DateTime::<Utc>::MAX_UTC)
    }

    /// The first slot that begins when the wall clock shows `wall` or more.
    #[must_use]
    pub fn slot_at(&self, wall: DateTime<Utc>) -> u64 {
        let ms = wall.checked_sub_signed(self.offset).map_or(0, |logical| logical.timestamp_millis());
        u64::try_from(ms).unwrap_or(0).div_ceil(SLOT_MS)
    }

    /// How far the wall clock is ahead of where the timeline has it.
    #[must_use]
    pub fn drift(&self, wall: DateTime<Utc>, now: Instant) -> TimeDelta {
        wall - self.wall(now)
    }

    /// Takes a step of the wall clock over. Slots stay where they are on the monotonic clock.
    pub fn shift(&mut self, by: TimeDelta) {
        self.offset = self.offset.checked_add(&by).unwrap_or(self.offset);
    }
}

/// When one monitor is due.
#[derive(Clone, Debug)]
pub enum Timing {
    /// Every `period` slots, where the slot number leaves `phase`.
    Every {
        /// Slots, at least one second's.
        period: u64,
        /// Below `period`.
        phase: u64,
    },
    /// At the occurrences of a cron expression.
    Cron(Box<CronTiming>),
}

/// A parsed cron expression in its zone.
#[derive(Clone, Debug)]
pub struct CronTiming {
    cron: Cron,
    zone: Tz,
    /// As in [`Cadence::Cron`].
    window: Option<Duration>,
}

impl Timing {
    /// The timing of a monitor.
    ///
    /// # Errors
    /// Why the cron expression is not one; settings refuse such a monitor before it gets here.
    pub fn of(monitor: &Monitor) -> Result<Self, String> {
        match &monitor.cadence {
            Cadence::Every(interval) => Ok(Self::every(monitor.id, *interval)),
            Cadence::Cron { expression, zone, window } => {
                let timing = CronTiming { cron: parse(expression)?, zone: *zone, window: *window };
                Ok(Self::Cron(Box::new(timing)))
            }
        }
    }

    /// An interval in the phase of its monitor.
    #[must_use]
    pub fn every(monitor: MonitorId, interval: Duration) -> Self {
        let period = (millis(interval) / SLOT_MS).max(SLOTS_PER_SECOND);
        Self::Every { period, phase: monitor.phase_hash() % period }
    }

    /// A cron expression of 5 or 6 fields (seconds first) in a zone.
    ///
    /// # Errors
    /// Why it is not one, for the person who wrote it.
    pub fn cron(expression: &str, zone: Tz) -> Result<Self, String> {
        Ok(Self::Cron(Box::new(CronTiming { cron: parse(expression)?, zone, window: None })))
    }

    /// The first slot after `slot` in which the monitor is due; none if there is never one.
    #[must_use]
    pub fn next_after(&self, slot: u64, timeline: &Timeline) -> Option<u64> {
        match self {
            Self::Every { period, phase } => {
                let passed = slot % period;
                let ahead = if passed < *phase { phase - passed } else { period - passed + phase };
                slot.checked_add(ahead)
            }
            Self::Cron(cron) => {
                let next = timeline.slot_at(cron.next_after(timeline.wall_of(slot))?);
                // An offset that is no multiple of a slot rounds up, never back onto the slot itself.
                Some(next.max(slot.saturating_add(1)))
            }
        }
    }

    /// How many slots the monitor had after `after`, up to and including `until`.
    #[must_use]
    pub fn passed(&self, after: u64, until: u64, timeline: &Timeline) -> u64 {
        match self {
            Self::Every { period, .. } => match self.next_after(after, timeline) {
                Some(first) if first <= until => 1 + (until - first) / period,
                _ => 0,
            },
            Self::Cron(_) => {
                let slots = std::iter::successors(Some(after), |slot| self.next_after(*slot, timeline));
                slots.skip(1).take_while(|slot| *slot <= until).take(MAX_COUNTED).count() as u64
            }
        }
    }
}

impl CronTiming {
    /// The first occurrence after a time that counts.
    #[must_use]
    pub fn next_after(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let Some(window) = self.window.and_then(|window| i64::try_from(window.as_secs()).ok()).filter(|s| *s > 1)
        else {
            return self.next_of_all(after);
        };
        let begins = after.timestamp() - after.timestamp().rem_euclid(window);
        // Just before it, since the occurrence at its beginning is the first one in it.
        let first_from = |second: i64| self.next_of_all(DateTime::from_timestamp(second - 1, 0)?);
        let first = first_from(begins)?;
        if first > after { Some(first) } else { first_from(begins + window) }
    }

    /// The first of all occurrences after a time.
    fn next_of_all(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        // croner gives up on a fixed time in a gap longer than two hours (a zone that skips a day); it is found from
        // behind the gap.
        [0, 25, 49].into_iter().find_map(|hours| {
            let from = after.checked_add_signed(TimeDelta::hours(hours))?.trunc_subsecs(0).with_timezone(&self.zone);
            let next = self.cron.find_next_occurrence(&from, false).ok()?.with_timezone(&Utc);
            (next > after).then_some(next)
        })
    }
}

/// Where a planned cron slot belongs after the wall clock was set right by a little: the occurrence stays the same one.
#[must_use]
pub fn carry_over(slot: u64, before: &Timeline, after: &Timeline) -> u64 {
    after.slot_at(before.wall_of(slot).trunc_subsecs(0))
}

/// Whether a cron expression can be scheduled: 5 or 6 fields (seconds first), and it occurs at all.
///
/// # Errors
/// Why not, for the person who wrote it.
pub fn validate_cron(expression: &str) -> Result<(), String> {
    parse(expression).map(|_| ())
}

fn parse(expression: &str) -> Result<Cron, String> {
    if expression.len() > MAX_EXPRESSION {
        return Err(format!("a cron expression has at most {MAX_EXPRESSION} bytes"));
    }
    let fields = expression.split_whitespace().count();
    if !(5..=6).contains(&fields) {
        return Err(format!(
            "a cron expression has 5 fields (minute hour day month weekday) or 6 (second first), this one has {fields}"
        ));
    }
    let parser = CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build();
    let cron = parser.parse(expression).map_err(|error| explain(&error))?;
    if occurs(&cron) { Ok(cron) } else { Err("this cron expression never occurs".to_owned()) }
}

/// Whether some time of a day fits, and some day. 41 years hold every pair of date and weekday, 29 February around 2100
/// included; croner alone would search to the end of its calendar, and an expression may come from a row of somebody
/// else.
fn occurs(cron: &Cron) -> bool {
    const DAYS: usize = 41 * 366;
    let pattern = &cron.pattern;
    // croner takes an empty list, such as ",", for one without a member.
    let times = [
        (0..24).any(|hour| matches!(pattern.hour_match(hour), Ok(true))),
        (0..60).any(|minute| matches!(pattern.minute_match(minute), Ok(true))),
        (0..60).any(|second| matches!(pattern.second_match(second), Ok(true))),
    ];
    if times.contains(&false) {
        return false;
    }
    let Some(first) = NaiveDate::from_ymd_opt(2070, 1, 1) else { return false };
    first.iter_days().take(DAYS).any(|day| {
        let weekday = Weekday::from_days_from_sunday(day.weekday().num_days_from_sunday());
        let of_day = pattern.day_match(day.year(), day.month(), day.day(), weekday);
        matches!((pattern.month_match(day.month()), of_day), (Ok(true), Ok(true)))
    })
}

fn explain(error: &CronError) -> String {
    match error {
        CronError::IllegalCharacters(text) | CronError::InvalidPattern(text) | CronError::ComponentError(text) => {
            format!("not a cron expression: {}", text.trim_end_matches('.'))
        }
        other => format!("not a cron expression: {other}"),
    }
}

fn at_ms(ms: u64) -> DateTime<Utc> {
    i64::try_from(ms).ok().and_then(DateTime::from_timestamp_millis).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 4)
}

#[cfg(test)]
mod tests;
