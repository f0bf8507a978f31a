//! An evaluated objective as it is shown and stored.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{Measure, Now, Objective, Period, SloStatus, Standing};
use crate::model::MonitorId;
use crate::uptime::{Figures, percent_text};

/// Monitors that a report shows, the worst.
pub const MONITORS_SHOWN: usize = 100;

/// What `/api/v1/slos` answers, and `slo_state.report` holds. Seconds are summed over the monitors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// `id` of the configuration.
    pub id: String,
    /// Its name.
    pub name: String,
    /// How it stands.
    pub status: SloStatus,
    /// Since when.
    pub since: DateTime<Utc>,
    /// When this was found.
    pub evaluated_at: DateTime<Utc>,
    /// Per cent that is wanted.
    pub objective: f64,
    /// `30d` or `calendar_month`.
    pub window: String,
    /// Of the calendar month.
    pub timezone: Option<String>,
    /// Whether maintenance is left out.
    pub exclude_maintenance: bool,
    /// Start of the window.
    pub from: DateTime<Utc>,
    /// Its end: now, or the end of the month.
    pub to: DateTime<Utc>,
    /// Per cent that was reached; null when nothing was observed.
    pub uptime: Option<f64>,
    /// The same for people, rounded down.
    pub uptime_text: String,
    /// Share of the window that was observed, maintenance taken out.
    pub coverage: Option<f64>,
    /// Seconds up.
    pub up_seconds: f64,
    /// Seconds down.
    pub down_seconds: f64,
    /// Seconds of maintenance that is left out.
    pub maintenance_seconds: f64,
    /// Seconds not observed.
    pub unobserved_seconds: f64,
    /// The error budget.
    pub budget: BudgetReport,
    /// How fast it burns, fastest windows first.
    pub burn: Vec<BurnReport>,
    /// How many monitors it is about.
    pub monitors_total: usize,
    /// The worst of them.
    #[serde(default)]
    pub monitors: Vec<MonitorReport>,
}

/// The error budget.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BudgetReport {
    /// Seconds that may be bad.
    pub allowed_seconds: f64,
    /// Seconds that were.
    pub used_seconds: f64,
    /// What is left; negative when it is overdrawn.
    pub left_seconds: f64,
    /// As a share of what is allowed; null when nothing is.
    pub left_share: Option<f64>,
}

/// How fast the budget burns over a pair of windows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BurnReport {
    /// The long window.
    pub window: String,
    /// Over it; 1 uses the budget up by the end of the window.
    pub rate: Option<f64>,
    /// The short window, which confirms.
    pub confirmed_by: String,
    /// Over that.
    pub confirmed_rate: Option<f64>,
    /// From which both mean burning.
    pub threshold: f64,
    /// Whether they do.
    pub burning: bool,
}

/// A monitor of an objective.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MonitorReport {
    /// Key or name.
    pub monitor: String,
    /// Which.
    pub monitor_id: MonitorId,
    /// Its own figure over the window.
    pub uptime: Option<f64>,
    /// Its own coverage.
    pub coverage: Option<f64>,
    /// Its own downtime.
    pub down_seconds: f64,
}

impl MonitorReport {
    /// Of a monitor's own figures.
    #[must_use]
    pub fn new(monitor: String, monitor_id: MonitorId, figures: &Figures) -> Self {
        let (uptime, coverage) = (figures.percent(), figures.coverage());
        Self { monitor, monitor_id, uptime, coverage, down_seconds: seconds(figures.down) }
    }
}

impl Report {
    /// Puts one together; of `monitors` the worst are kept.
    #[must_use]
    pub fn new(
        objective: &Objective,
        now: &Now,
        measure: &Measure,
        standing: &Standing,
        mut monitors: Vec<MonitorReport>,
    ) -> Self {
        let figures = &measure.figures;
        let monitors_total = monitors.len();
        monitors.sort_by(|a, b| b.down_seconds.total_cmp(&a.down_seconds).then(a.monitor_id.cmp(&b.monitor_id)));
        monitors.truncate(MONITORS_SHOWN);
        let burn = measure.burns.iter().map(|burn| BurnReport {
            window: burn.pair.names.0.to_owned(),
            rate: burn.long,
            confirmed_by: burn.pair.names.1.to_owned(),
            confirmed_rate: burn.short,
            threshold: burn.threshold,
            burning: burn.burns(),
        });
        Self {
            id: objective.id.to_string(),
            name: objective.name.to_string(),
            status: standing.status,
            since: standing.since,
            evaluated_at: now.past.to,
            objective: objective.target.percent(),
            window: objective.period.to_string(),
            timezone: match objective.period {
                Period::Days(_) => None,
                Period::CalendarMonth(zone) => Some(zone.name().to_owned()),
            },
            exclude_maintenance: objective.exclude_maintenance,
            from: now.past.from,
            to: now.ends,
            uptime: figures.percent(),
            // A digit more than the objective has, so that one can see what is missing.
            uptime_text: percent_text(figures, (objective.target.digits() + 1).max(2)),
            coverage: figures.coverage(),
            up_seconds: seconds(figures.up),
            down_seconds: seconds(figures.down),
            maintenance_seconds: seconds(figures.maintenance),
            unobserved_seconds: seconds(figures.unobserved()),
            budget: BudgetReport {
                allowed_seconds: seconds(measure.allowed),
                used_seconds: seconds(measure.used),
                left_seconds: seconds(measure.left),
                left_share: measure.left_share(),
            },
            burn: burn.collect(),
            monitors_total,
            monitors,
        }
    }
}

fn seconds(micros: i64) -> f64 {
    micros as f64 / 1e6
}
