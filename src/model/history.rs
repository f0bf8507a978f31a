//! How long history is kept, and what a user's plan allows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const DAY: Duration = Duration::from_secs(86_400);

/// `[retention]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Raw rows of `monitor_checks`, in days of which the last is dropped as a whole.
    pub checks: Duration,
    /// Hourly roll-ups; at least as long as any raw rows.
    pub hourly: Duration,
    /// Daily roll-ups; at least as long as hourly ones.
    pub daily: Duration,
    /// Incidents after their end, and gaps.
    pub incidents: Duration,
    /// Bytes that raw rows and roll-ups may take together.
    pub disk_budget: Option<u64>,
}

impl Default for Retention {
    fn default() -> Self {
        Self { checks: 90 * DAY, hourly: 730 * DAY, daily: 3650 * DAY, incidents: 3650 * DAY, disk_budget: None }
    }
}

/// `[plans.NAME]`; `users.plan` names one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// How far back the API shows history of the user's monitors.
    pub retention: Option<Duration>,
    /// How many of the user's own monitors run; the newest beyond it are paused.
    pub max_monitors: Option<usize>,
    /// How often each of them is checked at the most.
    pub min_interval: Option<Duration>,
}

/// What is kept for how long.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keeping {
    /// Of everybody.
    pub retention: Retention,
    /// By name.
    pub plans: BTreeMap<Arc<str>, Plan>,
}

impl Keeping {
    /// How long raw rows stay: as long as anybody may see them.
    #[must_use]
    pub fn longest_checks(&self) -> Duration {
        let plans = self.plans.values().filter_map(|plan| plan.retention);
        plans.fold(self.retention.checks, Duration::max)
    }

    /// How far back history of a user of this plan is shown; none: as far as there is any.
    #[must_use]
    pub fn shown(&self, plan: &str) -> Option<Duration> {
        self.plans.get(plan)?.retention
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_rows_stay_for_the_plan_that_sees_most() {
        let plan = |days| Plan { retention: Some(days * DAY), ..Plan::default() };
        let mut keeping = Keeping::default();
        keeping.plans.insert("free".into(), plan(7));
        keeping.plans.insert("bare".into(), Plan::default());
        assert_eq!(keeping.longest_checks(), 90 * DAY);
        keeping.plans.insert("pro".into(), plan(365));
        assert_eq!(keeping.longest_checks(), 365 * DAY);
        assert_eq!(keeping.shown("free"), Some(7 * DAY));
        assert_eq!((keeping.shown("bare"), keeping.shown("nobody's")), (None, None));
    }
}
