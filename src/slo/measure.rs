//! What an objective comes to at a moment: the budget and how fast it burns.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::{Now, Objective};
use crate::model::GapReason;
use crate::uptime::{Blind, Figures, History, Span, Timeline, What, Window};

/// A pair of windows, and the share of the whole budget that burns in the long one at the threshold. The short one, a
/// twelfth of it, confirms that it still burns. As in "The Site Reliability Workbook", chapter 5: 2 % in an hour (14.4 times
/// the even rate when the window has 30 days), 5 % in six hours (6 times).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pair {
    /// The long window.
    pub long: Duration,
    /// The short one.
    pub short: Duration,
    /// The share of the budget.
    pub share: f64,
    /// Names of both, for people and labels.
    pub names: (&'static str, &'static str),
}

/// The pairs of windows, fastest first.
pub const BURNS: [Pair; 2] = [
    Pair { long: Duration::from_secs(3600), short: Duration::from_secs(300), share: 0.02, names: ("1h", "5m") },
    Pair { long: Duration::from_secs(6 * 3600), short: Duration::from_secs(1800), share: 0.05, names: ("6h", "30m") },
];

/// How fast the budget burns: 1 uses it up exactly by the end of a whole window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Burn {
    /// Which windows.
    pub pair: Pair,
    /// Over the long window; none when nothing was observed in it.
    pub long: Option<f64>,
    /// Over the short one.
    pub short: Option<f64>,
    /// From which rate on, in both windows, it burns.
    pub threshold: f64,
}

impl Burn {
    /// Whether it burns.
    #[must_use]
    pub fn burns(&self) -> bool {
        let over = |rate: Option<f64>| rate.is_some_and(|rate| rate >= self.threshold);
        over(self.long) && over(self.short)
    }
}

/// Sums over the monitors of an objective.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Of the period.
    pub whole: Figures,
    /// Of the windows of [`BURNS`]: long, short.
    burns: [(Figures, Figures); BURNS.len()],
    /// How many monitors are meant to be watched now.
    watched: i64,
}

impl Sums {
    /// Since when histories are needed: a month that has just begun is shorter than the windows of burning.
    #[must_use]
    pub fn needs(now: &Now) -> Window {
        let longest = BURNS.iter().map(|pair| before(now.past.to, pair.long)).min();
        Window::new(longest.map_or(now.past.from, |longest| longest.min(now.past.from)), now.past.to)
    }

    /// Adds a monitor; its own figures over the period are the answer.
    pub fn add(&mut self, objective: &Objective, now: &Now, history: &History) -> Figures {
        let timeline = if objective.exclude_maintenance || history.maintenance.is_empty() {
            Timeline::of(Self::needs(now), history)
        } else {
            Timeline::of(Self::needs(now), &History { maintenance: Vec::new(), ..history.clone() })
        };
        let own = timeline.figures_since(now.past.from);
        self.whole.add(&own);
        for (pair, (long, short)) in BURNS.iter().zip(&mut self.burns) {
            long.add(&timeline.figures_since(before(now.past.to, pair.long)));
            short.add(&timeline.figures_since(before(now.past.to, pair.short)));
        }
        let meant = |span: &Span| !matches!(span.what, What::Unobserved(Blind::NotYet | Blind::Gap(GapReason::Paused)));
        self.watched += i64::from(timeline.spans().last().is_some_and(meant));
        own
    }
}

fn before(now: DateTime<Utc>, duration: Duration) -> DateTime<Utc> {
    now - TimeDelta::from_std(duration).unwrap_or_default()
}

/// An objective at a moment. Times are microseconds, summed over its monitors.
#[derive(Clone, Debug, PartialEq)]
pub struct Measure {
    /// What was.
    pub figures: Figures,
    /// How much may be bad: of what was observed, and of the rest of the month, should it be observed.
    pub allowed: i64,
    /// How much was bad.
    pub used: i64,
    /// What is left; less than nothing when it is overdrawn.
    pub left: i64,
    /// How fast it burns.
    pub burns: [Burn; BURNS.len()],
}

impl Measure {
    /// Of the sums over all monitors.
    #[must_use]
    pub fn of(objective: &Objective, now: &Now, sums: &Sums) -> Self {
        let figures = sums.whole.clone();
        let basis = figures.counted().saturating_add(now.rest().saturating_mul(sums.watched));
        let (allowed, used) = (objective.target.allowed(basis), figures.down);
        let bad_share = objective.target.bad_share();
        let rate = |figures: &Figures| {
            let counted = figures.counted();
            (counted > 0).then(|| figures.down as f64 / counted as f64 / bad_share)
        };
        let hours = now.length().as_seconds_f64() / 3600.0;
        let burn = |(pair, (long, short)): (&Pair, &(Figures, Figures))| Burn {
            pair: *pair,
            long: rate(long),
            short: rate(short),
            threshold: pair.share * hours / (pair.long.as_secs_f64() / 3600.0),
        };
        let [fast, slow] = [(&BURNS[0], &sums.burns[0]), (&BURNS[1], &sums.burns[1])].map(burn);
        Self { figures, allowed, used, left: allowed.saturating_sub(used), burns: [fast, slow] }
    }

    /// What is left as a share of what is allowed: 1 when nothing is used, negative when it is overdrawn; none when nothing
    /// is allowed.
    #[must_use]
    pub fn left_share(&self) -> Option<f64> {
        (self.allowed > 0).then(|| self.left as f64 / self.allowed as f64)
    }
}
