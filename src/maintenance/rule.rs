//! When a maintenance is: a start, a duration, and a recurrence rule of RFC 5545 in a time zone. Pure.
//!
//! # The clock
//!
//! A rule repeats a time of the wall clock; a duration is real time. Occurrences are made without a zone, and each is then
//! looked up in it:
//!
//! | the clock | the window begins |
//! |---|---|
//! | skips the time (spring) | by the offset of before: 02:30 becomes 03:30, the same instant as the day before |
//! | repeats the time (autumn) | the first time round |
//!
//! So a window is never lost with the hour: RFC 5545, 3.3.10 would leave out the first, and the work that goes on all the
//! same would be alarmed. A date that does not exist (day 31, 29 February) is left out, as the RFC has it.
//!
//! # Bounds
//!
//! Rules come from rows of other people. What is refused: rules finer than a day, more than [`MOST_TIMES_A_DAY`] times a
//! day, more than [`MOST_A_YEAR`] windows within a year of the first, starts outside of [`YEARS`].

use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind};

use chrono::{
    DateTime, Datelike as _, MappedLocalTime, NaiveDate, NaiveDateTime, TimeDelta, TimeZone as _, Timelike as _, Utc,
};
use chrono_tz::Tz;
use rrule::{Frequency, RRule, RRuleSet, Unvalidated};

/// Windows of one maintenance within a year of its first, at most: each becomes a row for every monitor that it covers.
pub const MOST_A_YEAR: usize = 2_000;
/// BYHOUR, BYMINUTE and BYSECOND multiplied: what a year has of them is in memory at once.
pub const MOST_TIMES_A_DAY: usize = 24;
/// Characters of a rule.
pub const MOST_TEXT: usize = 500;
/// Local years in which a maintenance may start.
pub const YEARS: RangeInclusive<i32> = 2000..=2199;
/// Occurrences that are passed over on the way to a window, at most: every year of [`YEARS`] full of them.
const MOST_STEPS: usize = MOST_A_YEAR * 200;
const PARTS: &[&str] = &[
    "FREQ",
    "INTERVAL",
    "COUNT",
    "UNTIL",
    "WKST",
    "BYDAY",
    "BYMONTHDAY",
    "BYMONTH",
    "BYYEARDAY",
    "BYWEEKNO",
    "BYHOUR",
    "BYMINUTE",
    "BYSECOND",
    "BYSETPOS",
];

/// From `from`, to just before `to`; never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// When it begins.
    pub from: DateTime<Utc>,
    /// When it ends.
    pub to: DateTime<Utc>,
}

/// When a maintenance is.
#[derive(Clone, Debug)]
pub struct Recurrence {
    /// Local.
    start: NaiveDateTime,
    zone: Tz,
    duration: TimeDelta,
    rule: Option<Rule>,
}

#[derive(Clone, Debug)]
struct Rule {
    rule: RRule<Unvalidated>,
    until: Option<Until>,
}

/// The last moment at which an occurrence may begin.
#[derive(Clone, Copy, Debug)]
enum Until {
    Instant(DateTime<Utc>),
    Local(NaiveDateTime),
}

/// Whether a rule can be read at all; what else is wrong with it only a start can tell.
///
/// # Errors
/// What is wrong with it.
pub fn readable(rrule: &str) -> Result<(), String> {
    Rule::parse(rrule).map(drop)
}

/// The instant of a local time; the module's documentation says what becomes of those that there are none or two of.
#[must_use]
pub fn instant(zone: Tz, local: NaiveDateTime) -> DateTime<Utc> {
    match zone.from_local_datetime(&local) {
        MappedLocalTime::Single(at) | MappedLocalTime::Ambiguous(at, _) => at.to_utc(),
        MappedLocalTime::None => {
            // A gap is a day at the most (islands that changed the side of the date line), and no other is near it.
            let before = local.checked_sub_signed(TimeDelta::hours(26)).unwrap_or(local);
            let offset = zone.offset_from_utc_datetime(&before);
            let seconds = i64::from(chrono::Offset::fix(&offset).local_minus_utc());
            local.checked_sub_signed(TimeDelta::seconds(seconds)).unwrap_or(local).and_utc()
        }
    }
}

impl Recurrence {
    /// A maintenance that starts at an instant, and lasts `seconds` each time.
    ///
    /// # Errors
    /// What is wrong with which part, for the person who wrote it: `starts_at`, `duration` or `rrule`.
    pub fn new(
        starts_at: DateTime<Utc>,
        seconds: i64,
        zone: Tz,
        rrule: Option<&str>,
    ) -> Result<Self, (&'static str, String)> {
        let start = starts_at.with_timezone(&zone).naive_local();
        if !YEARS.contains(&start.year()) {
            return Err(("starts_at", format!("must be in the years {} to {}", YEARS.start(), YEARS.end())));
        }
        let start = start.with_nanosecond(0).unwrap_or(start);
        let duration = TimeDelta::try_seconds(seconds).filter(|duration| *duration > TimeDelta::zero());
        let Some(duration) = duration.filter(|duration| *duration <= TimeDelta::days(366)) else {
            return Err(("duration", "must be 1 second to 366 days".to_owned()));
        };
        let rule = rrule.map(Rule::parse).transpose().map_err(|error| ("rrule", error))?;
        let recurrence = Self { start, zone, duration, rule };
        recurrence.check().map_err(|error| ("rrule", error))?;
        Ok(recurrence)
    }

    /// Refuses a rule that the library refuses, that never happens, or happens too often.
    fn check(&self) -> Result<(), String> {
        let Some(rule) = &self.rule else { return Ok(()) };
        rule.set(self.start)?;
        let mut starts = self.starts(self.start);
        let Some(first) = starts.next() else {
            return Err("never happens: no day fits all of its parts".to_owned());
        };
        let year = first.checked_add_signed(TimeDelta::days(366)).unwrap_or(first);
        let within = starts.take_while(|start| *start < year).take(MOST_A_YEAR).count();
        if within >= MOST_A_YEAR {
            return Err(format!("happens more than {MOST_A_YEAR} times a year"));
        }
        Ok(())
    }

    /// Windows that reach into `[from, to)`, in order, at most so many. Those that touch are one, so that a window that is
    /// repeated before it has ended has no end.
    #[must_use]
    pub fn windows(&self, from: DateTime<Utc>, to: DateTime<Utc>, most: usize) -> Vec<Window> {
        let mut windows: Vec<Window> = Vec::new();
        // One that is merged of many may begin long before; the first that counts ends after `from`.
        let near = from.checked_sub_signed(self.duration).unwrap_or(from).with_timezone(&self.zone).naive_local();
        for start in self.starts(near) {
            let Some(end) = start.checked_add_signed(self.duration) else { break };
            if end <= from {
                continue;
            }
            let full = start >= to || windows.len() == most;
            match windows.last_mut() {
                Some(last) if start <= last.to => last.to = last.to.max(end),
                _ if full => break,
                _ => windows.push(Window { from: start, to: end }),
            }
            if windows.last().is_some_and(|last| last.to >= to) {
                break;
            }
        }
        windows
    }

    /// The starts, in order; those long before `near` may be missing.
    fn starts(&self, near: NaiveDateTime) -> Box<dyn Iterator<Item = DateTime<Utc>> + '_> {
        let Some(rule) = &self.rule else { return Box::new(std::iter::once(instant(self.zone, self.start))) };
        let start = rule.forward(self.start, near);
        // It was accepted, with another start.
        let Ok(set) = rule.set(start) else { return Box::new(std::iter::empty()) };
        let (zone, until) = (self.zone, rule.until);
        let mut before: Option<DateTime<Utc>> = None;
        let starts = locals(&set).map(move |local| (local, instant(zone, local)));
        let starts = starts.take_while(move |(local, at)| match until {
            None => true,
            Some(Until::Instant(until)) => *at <= until,
            Some(Until::Local(until)) => *local <= until,
        });
        // Two local times may be one instant when the clock skips, and then the order may change.
        Box::new(starts.map(|(_, at)| at).filter(move |at| {
            let later = before.is_none_or(|before| *at > before);
            if later {
                before = Some(*at);
            }
            later
        }))
    }
}

/// The local times of a rule. The library is held to its own bounds and to ours; should it panic on a rule that nobody
/// thought of, the rule ends there, and stops nothing else.
fn locals(set: &RRuleSet) -> impl Iterator<Item = NaiveDateTime> + use<> {
    let mut dates = catch_unwind(AssertUnwindSafe(|| set.into_iter())).ok();
    let next = move || {
        let next = catch_unwind(AssertUnwindSafe(|| dates.as_mut()?.next()));
        next.unwrap_or_else(|_| {
            dates = None;
            None
        })
    };
    std::iter::from_fn(next).take(MOST_STEPS).map(|date| date.naive_utc())
}

impl Rule {
    /// Reads a rule, with or without `RRULE:` before it.
    fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MOST_TEXT || !text.is_ascii() {
            return Err(format!("must be at most {MOST_TEXT} plain characters"));
        }
        let upper = text.trim().to_ascii_uppercase();
        let text = upper.strip_prefix("RRULE:").unwrap_or(&upper);
        let mut parts: Vec<(&str, &str)> = Vec::new();
        for part in text.split(';').filter(|part| !part.is_empty()) {
            let Some((name, value)) = part.split_once('=') else {
                return Err(format!("{part:?} is no part of a rule, which is NAME=value, such as FREQ=WEEKLY"));
            };
            if !PARTS.contains(&name) {
                return Err(format!("unknown part {name:?}; known are {}", PARTS.join(", ")));
            }
            if parts.iter().any(|(known, _)| *known == name) {
                return Err(format!("{name} stands twice"));
            }
            parts.push((name, value));
        }
        let value = |wanted: &str| parts.iter().find(|(name, _)| *name == wanted).map(|(_, value)| *value);
        match value("FREQ") {
            Some("DAILY" | "WEEKLY" | "MONTHLY" | "YEARLY") => {}
            Some(finer @ ("HOURLY" | "MINUTELY" | "SECONDLY")) => {
                return Err(format!("FREQ={finer} is too fine; times of the day are FREQ=DAILY;BYHOUR=0,6,12,18"));
            }
            Some(_) | None => return Err("needs FREQ=DAILY, WEEKLY, MONTHLY or YEARLY".to_owned()),
        }
        if value("COUNT").is_some() && value("UNTIL").is_some() {
            return Err("has both COUNT and UNTIL".to_owned());
        }
        for name in ["INTERVAL", "COUNT"] {
            if value(name).is_some_and(|value| !value.parse().is_ok_and(|number: u16| number > 0)) {
                return Err(format!("{name} must be 1 to {}", u16::MAX));
            }
        }
        let times = ["BYHOUR", "BYMINUTE", "BYSECOND"].into_iter().filter_map(value);
        if times.map(|list| list.split(',').count()).product::<usize>() > MOST_TIMES_A_DAY {
            return Err(format!("happens more than {MOST_TIMES_A_DAY} times a day"));
        }
        let until = value("UNTIL").map(Until::parse).transpose()?;
        // The library would compare it with times that have no zone.
        let rest: Vec<String> =
            parts.iter().filter(|(name, _)| *name != "UNTIL").map(|(name, value)| format!("{name}={value}")).collect();
        let rest = rest.join(";");
        let read = catch_unwind(AssertUnwindSafe(|| rest.parse::<RRule<Unvalidated>>()));
        let rule = read.map_err(|_| "cannot be read".to_owned())?.map_err(|error| error.to_string())?;
        Ok(Self { rule, until })
    }

    /// The occurrences from a local start, as if there were no zones.
    fn set(&self, start: NaiveDateTime) -> Result<RRuleSet, String> {
        let rule = self.rule.clone();
        let built = catch_unwind(AssertUnwindSafe(|| rule.build(rrule::Tz::UTC.from_utc_datetime(&start))));
        let set = built.map_err(|_| "cannot be read".to_owned())?.map_err(|error| error.to_string())?;
        Ok(set.limit())
    }

    /// A later start with the same occurrences from shortly before `near` on, where that is easily told.
    fn forward(&self, start: NaiveDateTime, near: NaiveDateTime) -> NaiveDateTime {
        let days = match self.rule.get_freq() {
            Frequency::Daily => 1,
            Frequency::Weekly => 7,
            _ => return start,
        };
        if self.rule.get_count().is_some() {
            return start;
        }
        let period = days * i64::from(self.rule.get_interval());
        // Two periods early: one for the days of the week before its own, one for a clock that skips.
        let periods = (near - start).num_days() / period - 2;
        let ahead = TimeDelta::try_days(periods.max(0) * period).unwrap_or_default();
        start.checked_add_signed(ahead).unwrap_or(start)
    }
}

impl Until {
    /// A date (all of it), a local time, or with a Z an instant.
    fn parse(text: &str) -> Result<Self, String> {
        const FORM: &str = "%Y%m%dT%H%M%S";
        let wrong = || format!("UNTIL={text} is no date; it is such as 20261231, 20261231T020000 or 20261231T010000Z");
        if let Some(text) = text.strip_suffix('Z') {
            return NaiveDateTime::parse_from_str(text, FORM)
                .map(|at| Self::Instant(at.and_utc()))
                .map_err(|_| wrong());
        }
        if let Ok(local) = NaiveDateTime::parse_from_str(text, FORM) {
            return Ok(Self::Local(local));
        }
        let date = NaiveDate::parse_from_str(text, "%Y%m%d").map_err(|_| wrong())?;
        date.and_hms_opt(23, 59, 59).map(Self::Local).ok_or_else(wrong)
    }
}

#[cfg(test)]
mod tests;
