//! Objectives (SLOs): how much of a window monitors must be up, what is left of the error budget, how fast it burns. Pure
//! rules; docs/uptime.md is their definition.

mod measure;
mod report;
mod status;

use std::fmt;

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;

use crate::model::{MonitorId, MonitorKey};
use crate::uptime::{Month, Window};

pub use measure::{BURNS, Burn, Measure, Pair, Sums};
pub use report::{BudgetReport, BurnReport, MONITORS_SHOWN, MonitorReport, Report};
pub use status::{SloStatus, Standing};

/// Of which monitors.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Named {
    /// By `id` of the file.
    Key(MonitorKey),
    /// By `monitors.id`.
    Id(MonitorId),
}

/// How much of the time must be good, in hundred-thousandths of a per cent: more than none and less than all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Target(u32);

impl Target {
    /// All of it, in the unit of a target.
    const WHOLE: u32 = 10_000_000;

    /// From per cent with up to five digits behind the point; none when it is out of range or finer.
    #[must_use]
    pub fn from_percent(percent: f64) -> Option<Self> {
        let parts = percent * 100_000.0;
        let whole = parts.round();
        let fits = (1.0..f64::from(Self::WHOLE)).contains(&whole) && (parts - whole).abs() < 1e-4;
        // In range, and without a fraction.
        fits.then_some(Self(whole as u32))
    }

    /// In per cent.
    #[must_use]
    pub fn percent(self) -> f64 {
        f64::from(self.0) / 100_000.0
    }

    /// Digits behind the point that it takes to write it.
    #[must_use]
    pub fn digits(self) -> u32 {
        (0..5).find(|digits| self.0.is_multiple_of(10_u32.pow(5 - digits))).unwrap_or(5)
    }

    /// How much of a time may be bad, rounded down to the microsecond.
    #[must_use]
    pub fn allowed(self, micros: i64) -> i64 {
        let allowed = i128::from(micros) * i128::from(Self::WHOLE - self.0) / i128::from(Self::WHOLE);
        // A part of what came in.
        i64::try_from(allowed).unwrap_or(i64::MAX)
    }

    /// The share that may be bad.
    #[must_use]
    pub fn bad_share(self) -> f64 {
        f64::from(Self::WHOLE - self.0) / f64::from(Self::WHOLE)
    }
}

impl fmt::Display for Target {
    /// `99.9%`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.percent())
    }
}

/// Over which time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Period {
    /// So many times 24 hours before now, 7 to 365.
    Days(u32),
    /// The calendar month in a zone.
    CalendarMonth(Tz),
}

/// A period as it is at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// From its beginning to now.
    pub past: Window,
    /// When it ends: now, or the end of the month.
    pub ends: DateTime<Utc>,
}

impl Period {
    /// The period that a moment is in, or ends.
    #[must_use]
    pub fn at(self, now: DateTime<Utc>) -> Now {
        match self {
            Self::Days(days) => {
                let past = Window::last_days(now, days);
                Now { past, ends: past.to }
            }
            Self::CalendarMonth(zone) => {
                let month = Month::of(now, zone).window(zone);
                Now { past: Window::new(month.from, now), ends: month.to }
            }
        }
    }
}

impl Now {
    /// Its whole length.
    #[must_use]
    pub fn length(&self) -> TimeDelta {
        self.ends - self.past.from
    }

    /// The time to come, in microseconds.
    #[must_use]
    pub fn rest(&self) -> i64 {
        (self.ends - self.past.to).num_microseconds().unwrap_or(0).max(0)
    }
}

impl fmt::Display for Period {
    /// As the configuration says it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Days(days) => write!(f, "{days}d"),
            Self::CalendarMonth(_) => f.write_str("calendar_month"),
        }
    }
}

/// `[[slo]]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Objective {
    /// What it is called in addresses and metrics; unique.
    pub id: MonitorKey,
    /// For people.
    pub name: Box<str>,
    /// Monitors by name.
    pub monitors: Box<[Named]>,
    /// And those with any of these labels.
    pub tags: Box<[Box<str>]>,
    /// How good they must be together.
    pub target: Target,
    /// Over which time.
    pub period: Period,
    /// Whether maintenance that uptime leaves out is left out here too.
    pub exclude_maintenance: bool,
}

#[cfg(test)]
mod tests;
