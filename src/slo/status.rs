//! The status of an objective. It rises at once, and falls when it was lower for a while, so that it does not flap.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::Measure;

/// A lower status must have been the right one for so long without a break.
const HOLD: TimeDelta = TimeDelta::minutes(10);
/// With less than this share of the budget it is at risk, and until there is [`RISK_OVER`] again.
const RISK: f64 = 0.25;
const RISK_OVER: f64 = 0.30;
/// An exhausted budget is so until this share is there again.
const EXHAUSTED_OVER: f64 = 0.01;

/// How an objective stands, least urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SloStatus {
    /// Nothing was observed.
    NoData,
    /// Enough budget, and it burns slowly.
    Ok,
    /// Less than a quarter of the budget is left.
    AtRisk,
    /// The budget burns so fast that it will be gone long before the window is over.
    Burning,
    /// No budget is left: the objective is missed, unless the window moves on.
    Exhausted,
}

impl SloStatus {
    /// Every status, least urgent first.
    pub const ALL: &'static [Self] = &[Self::NoData, Self::Ok, Self::AtRisk, Self::Burning, Self::Exhausted];

    /// The public name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoData => "no_data",
            Self::Ok => "ok",
            Self::AtRisk => "at_risk",
            Self::Burning => "burning",
            Self::Exhausted => "exhausted",
        }
    }

    /// The status of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|status| status.name() == name)
    }

    /// What a measure says by itself, for an objective that has this status now.
    fn of(measure: &Measure, now: Self) -> Self {
        let share = measure.left_share();
        let less_than = |least: f64| share.is_some_and(|share| share < least);
        if measure.figures.counted() == 0 {
            return Self::NoData;
        }
        let gone = measure.used > 0 && measure.left <= 0;
        if gone || (now == Self::Exhausted && less_than(EXHAUSTED_OVER)) {
            return Self::Exhausted;
        }
        if measure.burns.iter().any(super::Burn::burns) {
            return Self::Burning;
        }
        let least = if now >= Self::AtRisk { RISK_OVER } else { RISK };
        if less_than(least) { Self::AtRisk } else { Self::Ok }
    }
}

/// What is remembered of an objective from one evaluation to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The status.
    pub status: SloStatus,
    /// Since when.
    pub since: DateTime<Utc>,
    /// Since when a lower status would be the right one.
    pub calmer_since: Option<DateTime<Utc>>,
}

impl Standing {
    /// Of an objective that was never evaluated.
    #[must_use]
    pub const fn new(now: DateTime<Utc>) -> Self {
        Self { status: SloStatus::NoData, since: now, calmer_since: None }
    }

    /// The standing after an evaluation.
    #[must_use]
    pub fn after(self, measure: &Measure, now: DateTime<Utc>) -> Self {
        let right = SloStatus::of(measure, self.status);
        if right == self.status {
            return Self { calmer_since: None, ..self };
        }
        // A clock that stepped back must not hold it for longer.
        let calmer_since = self.calmer_since.map_or(now, |since| since.min(now));
        if right < self.status && right != SloStatus::NoData && now - calmer_since < HOLD {
            return Self { calmer_since: Some(calmer_since), ..self };
        }
        Self { status: right, since: now, calmer_since: None }
    }
}
