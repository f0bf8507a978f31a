//! Windows of time: so many days before now, or a calendar month in a zone.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Days, DurationRound as _, NaiveDate, NaiveDateTime, TimeDelta, TimeZone as _, Utc};
use chrono_tz::Tz;

/// From a moment to another, in whole microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Start, inclusive.
    pub from: DateTime<Utc>,
    /// End, exclusive; not before the start.
    pub to: DateTime<Utc>,
}

impl Window {
    /// A window; an end before the start makes it empty.
    #[must_use]
    pub fn new(from: DateTime<Utc>, to: DateTime<Utc>) -> Self {
        let (from, to) = (whole_micros(from), whole_micros(to));
        Self { from, to: to.max(from) }
    }

    /// So many times 24 hours before now.
    #[must_use]
    pub fn last_days(now: DateTime<Utc>, days: u32) -> Self {
        Self::new(now - TimeDelta::days(days.into()), now)
    }

    /// Its length in microseconds.
    #[must_use]
    pub fn micros(&self) -> i64 {
        (self.to - self.from).num_microseconds().unwrap_or(i64::MAX)
    }
}

/// What the database keeps.
fn whole_micros(time: DateTime<Utc>) -> DateTime<Utc> {
    time.duration_trunc(TimeDelta::microseconds(1)).unwrap_or(time)
}

/// A calendar month, 1970-01 to 9998-12.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Month {
    first: NaiveDate,
}

impl Month {
    /// The month of a moment in a zone.
    #[must_use]
    pub fn of(time: DateTime<Utc>, zone: Tz) -> Self {
        let day = time.with_timezone(&zone).date_naive();
        Self { first: first_day(day) }
    }

    /// The month after.
    #[must_use]
    pub fn next(self) -> Self {
        Self { first: first_day(self.first.checked_add_days(Days::new(31)).unwrap_or(self.first)) }
    }

    /// The month before.
    #[must_use]
    pub fn previous(self) -> Self {
        Self { first: first_day(self.first.checked_sub_days(Days::new(1)).unwrap_or(self.first)) }
    }

    /// When it begins in a zone: the first moment that the zone's clocks show this month. Where they skip midnight, that is
    /// after midnight; where they show it twice, the first.
    #[must_use]
    pub fn begins(self, zone: Tz) -> DateTime<Utc> {
        /// Clocks were never set forward by more than a day, and since 1970 by whole minutes.
        const MINUTES: i64 = 25 * 60;
        let midnight = self.first.and_time(chrono::NaiveTime::MIN);
        let at = |time: NaiveDateTime| zone.from_local_datetime(&time).earliest();
        let found = (0..=MINUTES).find_map(|minutes| at(midnight + TimeDelta::minutes(minutes)));
        found.map_or_else(|| midnight.and_utc(), |time| time.to_utc())
    }

    /// All of it.
    #[must_use]
    pub fn window(self, zone: Tz) -> Window {
        Window::new(self.begins(zone), self.next().begins(zone))
    }
}

fn first_day(day: NaiveDate) -> NaiveDate {
    use chrono::Datelike as _;
    day.with_day(1).unwrap_or(day)
}

impl FromStr for Month {
    type Err = ();

    /// `2026-11`.
    fn from_str(text: &str) -> Result<Self, ()> {
        let (year, month) = text.split_once('-').ok_or(())?;
        let digits = |part: &str, length| part.len() == length && part.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(year, 4) || !digits(month, 2) {
            return Err(());
        }
        let (year, month) = (year.parse::<i32>().map_err(drop)?, month.parse().map_err(drop)?);
        let first = NaiveDate::from_ymd_opt(year, month, 1).filter(|_| (1970..=9998).contains(&year));
        first.map(|first| Self { first }).ok_or(())
    }
}

impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.first.format("%Y-%m").fmt(f)
    }
}
