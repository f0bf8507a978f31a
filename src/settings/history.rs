//! `[retention]` and `[plans.NAME]`.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use super::duration;
use super::reader::TableReader;
use crate::model::{Keeping, Plan, Retention};

const DAY: u64 = 86_400;
/// Of raw rows. Each day is a partition, and thousands of them make planning slow.
const RAW: RangeInclusive<Duration> = Duration::from_secs(DAY)..=Duration::from_secs(5 * 365 * DAY);
/// Of everything else.
const REST: RangeInclusive<Duration> = Duration::from_secs(DAY)..=Duration::from_secs(100 * 365 * DAY);
/// Below it there is no room for a day of anything.
const BUDGET: RangeInclusive<u64> = 64 << 20..=1 << 50;
/// Of one user: as many as the file may have.
const MONITORS: RangeInclusive<i64> = 0..=250_000;
/// As `interval` of a monitor.
const INTERVAL: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(DAY);
/// What `users.plan` may hold is up to others; names beyond this are mistakes.
const LONGEST_NAME: usize = 64;

/// What both tables say.
pub(super) fn read_history(reader: &mut TableReader<'_>) -> Keeping {
    let retention = reader.table("retention").map_or_else(Retention::default, read_retention);
    let mut plans = BTreeMap::new();
    for (name, mut table) in reader.named_tables("plans") {
        table.not_built_yet(&["channels"]);
        if name.is_empty() || name.len() > LONGEST_NAME || name.chars().any(char::is_control) {
            let allowed = format!("must be 1 to {LONGEST_NAME} bytes, none of them a control character");
            table.error("", "is not the name of a plan", allowed);
        }
        let plan = Plan {
            retention: table.duration("retention", RAW),
            max_monitors: table.integer("max_monitors", MONITORS).and_then(|most| usize::try_from(most).ok()),
            min_interval: table.whole_seconds("min_interval", INTERVAL),
        };
        if let Some(shown) = plan.retention
            && shown > retention.hourly
        {
            let allowed = format!("at most retention.hourly, {}", duration::format(retention.hourly));
            table.error("retention", "is longer than there are roll-ups", allowed);
        }
        table.finish(&|_| None);
        plans.insert(Arc::from(name), plan);
    }
    Keeping { retention, plans }
}

fn read_retention(mut table: TableReader<'_>) -> Retention {
    let default = Retention::default();
    let checks = table.duration("checks", RAW);
    let hourly = table.duration("hourly", REST);
    let daily = table.duration("daily", REST);
    let retention = Retention {
        checks: checks.unwrap_or(default.checks),
        hourly: hourly.unwrap_or(default.hourly),
        daily: daily.unwrap_or(default.daily),
        incidents: table.duration("incidents", REST).unwrap_or(default.incidents),
        disk_budget: table.size("disk_budget", BUDGET),
    };
    let least = duration::format;
    // Told at a key that was given: the other one may be a default.
    if retention.hourly < retention.checks {
        let (key, what) = if hourly.is_some() { ("hourly", "is shorter") } else { ("checks", "is longer") };
        let allowed = format!("hourly must be at least checks, {}", least(retention.checks));
        table.error(key, format!("{what} than the other allows"), allowed);
    }
    if retention.daily < retention.hourly {
        let (key, what) = if daily.is_some() { ("daily", "is shorter") } else { ("hourly", "is longer") };
        let allowed = format!("daily must be at least hourly, {}", least(retention.hourly));
        table.error(key, format!("{what} than the other allows"), allowed);
    }
    table.finish(&|_| None);
    retention
}

#[cfg(test)]
mod tests;
