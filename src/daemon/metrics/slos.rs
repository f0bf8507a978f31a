//! The families of objectives.

use super::seconds_of;
use crate::access::Viewer;
use crate::metrics::text::{Exposition, Kind, Labels};
use crate::slo::{Report, SloStatus};
use crate::store::SloRow;

use Kind::Gauge;

pub(super) fn all(out: &mut Exposition, rows: &[SloRow], viewer: Viewer) {
    let seen: Vec<(Labels, &Report)> = rows
        .iter()
        .filter(|row| row.is_seen(viewer))
        .map(|row| (Labels::one("slo", &row.report.id), &row.report))
        .collect();
    let help = "1 for the status that an objective has, 0 for the others.";
    let mut status = out.family("lamplighter_slo_status", Gauge, help);
    for (labels, report) in &seen {
        for one in SloStatus::ALL {
            status.sample(&labels.clone().and("status", one.name()), report.status == *one);
        }
    }
    let mut each = |name, help, value: &dyn Fn(&Report) -> Option<f64>| {
        let mut family = out.family(name, Gauge, help);
        for (labels, report) in &seen {
            if let Some(value) = value(report) {
                family.sample(labels, value);
            }
        }
    };
    let share = |percent: Option<f64>| percent.map(|percent| percent / 100.0);
    each("lamplighter_slo_objective_ratio", "Share of the time that monitors must be up.", &|report| {
        // As it is written: 0.999 and not its nearest neighbour.
        Some((report.objective * 1e5).round() / 1e7)
    });
    each("lamplighter_slo_uptime_ratio", "Share of the observed time that monitors were up.", &|report| {
        share(report.uptime)
    });
    each("lamplighter_slo_coverage_ratio", "Share of the window that was observed.", &|report| report.coverage);
    each("lamplighter_slo_budget_allowed_seconds", "Time that may be bad, summed over the monitors.", &|report| {
        Some(report.budget.allowed_seconds)
    });
    each("lamplighter_slo_budget_used_seconds", "Time that was bad, summed over the monitors.", &|report| {
        Some(report.budget.used_seconds)
    });
    each("lamplighter_slo_budget_left_seconds", "What is left of the budget; negative when overdrawn.", &|report| {
        Some(report.budget.left_seconds)
    });
    each("lamplighter_slo_evaluated_timestamp_seconds", "When an objective was last evaluated.", &|report| {
        Some(seconds_of(report.evaluated_at))
    });
    let help = "How fast the budget burns over a time; 1 uses it up by the end of the window.";
    let mut rates = out.family("lamplighter_slo_burn_rate", Gauge, help);
    for (labels, report) in &seen {
        for burn in &report.burn {
            for (window, rate) in [(&burn.window, burn.rate), (&burn.confirmed_by, burn.confirmed_rate)] {
                if let Some(rate) = rate {
                    rates.sample(&labels.clone().and("window", window), rate);
                }
            }
        }
    }
}
