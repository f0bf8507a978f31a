//! What the plan of a user allows: how many monitors run, and how often. Pure.
//!
//! Counted are the user's rows that would run: valid, active and not archived, whatever their kind. Monitors of the file
//! are the operator's, also with an `owner`: they are neither counted nor limited. Heartbeats count, but have no interval
//! of ours. Re-checks while an incident is confirmed or its end (`retry_interval`) are not slowed down.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{Entry, MonitorRow};
use crate::model::{Cadence, MonitorId, Plan, Source, UserId};
use crate::probe::driven::Driven;

/// Names of plans, by the user that has one.
pub type Owners = HashMap<UserId, String>;

/// The plans of the configuration, by name.
pub type Plans = BTreeMap<Arc<str>, Plan>;

/// What decides whose turn it is among the monitors of one user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contender {
    /// `created_at`; none, which is a time that nobody can mean, counts as the newest.
    pub created_at: Option<DateTime<Utc>>,
    /// Decides between those of one time.
    pub id: MonitorId,
}

/// Those that do not run: all but the `most` oldest, whatever order they come in.
#[must_use]
pub fn beyond(contenders: &mut [Contender], most: usize) -> &[Contender] {
    contenders.sort_unstable_by_key(|one| (one.created_at.is_none(), one.created_at, one.id));
    contenders.get(most..).unwrap_or_default()
}

/// How a plan changes a monitor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restriction {
    /// Why it is paused, for `invalid_reason`; none: it runs.
    pub paused: Option<String>,
    /// It runs so often at the most; none: as often as its row says.
    pub least: Option<Duration>,
}

/// Names of plans that limit monitors.
#[must_use]
pub fn limiting(plans: &Plans) -> Vec<Arc<str>> {
    let limits = |plan: &Plan| plan.max_monitors.is_some() || plan.min_interval.is_some();
    plans.iter().filter(|(_, plan)| limits(plan)).map(|(name, _)| Arc::clone(name)).collect()
}

/// What plans make of the monitors of rows; rows without a restriction are not in it.
#[must_use]
pub fn restrictions<'a>(
    rows: impl Iterator<Item = (&'a MonitorRow, &'a Entry)>,
    plans: &Plans,
    owners: &Owners,
) -> HashMap<MonitorId, Restriction> {
    let mut restrictions = HashMap::new();
    let mut users: HashMap<UserId, Vec<Contender>> = HashMap::new();
    for (row, entry) in rows.filter(|(row, _)| row.source != Source::File) {
        let Some(plan) = owners.get(&row.user_id).and_then(|name| plans.get(name.as_str())) else { continue };
        if plan.max_monitors.is_some() && entry.monitor.active {
            users.entry(row.user_id).or_default().push(Contender { created_at: row.created_at, id: row.id });
        }
        if let Some(least) = plan.min_interval.filter(|least| slowed(entry, *least).is_some()) {
            restrictions.insert(row.id, Restriction { paused: None, least: Some(least) });
        }
    }
    for (user, mut contenders) in users {
        let Some((name, plan)) = owners.get(&user).and_then(|name| plans.get_key_value(name.as_str())) else {
            continue;
        };
        let Some(most) = plan.max_monitors else { continue };
        for one in beyond(&mut contenders, most) {
            let restriction = restrictions.entry(one.id).or_insert(Restriction { paused: None, least: None });
            restriction.paused = Some(reason(name, most));
        }
    }
    restrictions
}

/// The text of `invalid_reason`.
fn reason(plan: &str, most: usize) -> String {
    let runs = match most {
        0 => "none runs".to_owned(),
        1 => "only the oldest runs".to_owned(),
        most => format!("only the oldest {most} run"),
    };
    let way_out = if most == 0 { "" } else { "when an older one is deleted, archived or paused, or " };
    format!(
        "paused: the plan '{plan}' has max_monitors = {most}, so {runs} of the user's monitors; this one does \
         {way_out}when users.plan names a plan that allows more"
    )
}

/// The cadence of a monitor that runs every `least` at the most; none if it is not faster than that.
fn slowed(entry: &Entry, least: Duration) -> Option<Cadence> {
    if matches!(entry.prepared.probe.driven(), Driven::Pings(_)) {
        return None;
    }
    match &entry.monitor.cadence {
        Cadence::Every(interval) => (*interval < least).then_some(Cadence::Every(least)),
        Cadence::Cron { expression, zone, .. } => {
            Some(Cadence::Cron { expression: expression.clone(), zone: *zone, window: Some(least) })
        }
    }
}

/// The monitor as it runs under a restriction.
#[must_use]
pub fn restricted(entry: &Entry, restriction: &Restriction) -> Entry {
    let mut monitor = entry.monitor.clone();
    if let Some(cadence) = restriction.least.and_then(|least| slowed(entry, least)) {
        monitor.cadence = cadence;
    }
    monitor.active &= restriction.paused.is_none();
    let mut hasher = DefaultHasher::new();
    (entry.fingerprint, restriction.paused.is_some(), restriction.least).hash(&mut hasher);
    let (prepared, secrets) = (entry.prepared.clone(), Arc::clone(&entry.secrets));
    Entry { monitor, prepared, fingerprint: hasher.finish(), secrets }
}

/// Ids of which the restriction differs.
#[must_use]
pub fn differing<'a>(
    before: impl Iterator<Item = (MonitorId, Option<&'a Restriction>)>,
    now: &HashMap<MonitorId, Restriction>,
) -> HashSet<MonitorId> {
    before.filter(|(id, before)| now.get(id) != *before).map(|(id, _)| id).collect()
}

#[cfg(test)]
mod tests;
