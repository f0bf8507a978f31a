//! The tables beside the monitors: `[[maintenance]]`, of the file and of rows, and `[[slo]]`, which only the file has.

use std::collections::HashSet;

use chrono_tz::Tz;
use serde_json::{Map, Value};

use super::ids::{Ids, Wanting};
use crate::catalog::MonitorRow;
use crate::maintenance::definition::{Definition, MOST_NAMED, MaintenanceRow};
use crate::model::{Source, UserId};
use crate::settings::{common, duration};
use crate::slo::{Named, Objective, Period};
use crate::telemetry::escape;

/// One table.
pub(super) struct Beside {
    pub(super) keys: Map<String, Value>,
    /// What it was made of, for a comment.
    pub(super) origin: String,
    /// What could not be said in a file.
    pub(super) notes: Vec<String>,
}

/// The monitors that are exported, and what they are called in the file.
pub(super) struct Monitors<'a> {
    pub(super) rows: &'a [MonitorRow],
    pub(super) ids: &'a Ids,
}

impl Monitors<'_> {
    fn id(&self, row: &MonitorRow) -> Option<&String> {
        self.ids.of_row(row.id.0)
    }

    fn are_all_of(&self, owner: UserId) -> bool {
        self.rows.iter().all(|row| row.user_id == owner)
    }
}

/// Which monitors a maintenance is about: by id, by tag; neither: all.
type Scope = (Vec<String>, Vec<String>);

/// As the tables of a file, and those that cannot be, with the reason.
pub(super) fn maintenances(mut rows: Vec<MaintenanceRow>, monitors: &Monitors<'_>) -> (Vec<Beside>, Vec<String>) {
    rows.sort_by_key(|row| (row.source != Source::File, row.key.clone(), row.name.clone(), row.id));
    let wanting = rows.iter().map(|row| Wanting { row: row.id.0, key: row.key.as_deref(), name: &row.name });
    let ids = Ids::of(wanting, "maintenance");
    let (mut written, mut left_out) = (Vec::new(), Vec::new());
    for row in &rows {
        let id = ids.of_row(row.id.0).cloned().unwrap_or_default();
        match maintenance(row, id, monitors) {
            Ok(one) => written.push(one),
            Err(why) => left_out.push(format!("maintenance {} {:?}: {}", row.id, escape(&row.name), escape(&why))),
        }
    }
    (written, left_out)
}

fn maintenance(row: &MaintenanceRow, id: String, monitors: &Monitors<'_>) -> Result<Beside, String> {
    Definition::of_row(row)?;
    if let Some(why) = &row.invalid_reason {
        return Err(why.clone());
    }
    let mut notes = Vec::new();
    let (named, tags) = scope(row, &id, monitors, &mut notes)?;
    let mut keys = Map::new();
    let mut put = |key: &str, value: Value| drop(keys.insert(key.to_owned(), value));
    put("id", id.clone().into());
    if !common::is_name(&row.name) {
        notes.push(format!("{id}: a file cannot have its name, so the id is its name"));
    } else if row.name != id {
        put("name", literal(&row.name).into());
    }
    if let Some(description) = &row.description {
        put("description", literal(description).into());
    }
    if !named.is_empty() {
        put("monitors", named.into());
    }
    if !tags.is_empty() {
        put("tags", tags.iter().map(|tag| literal(tag)).collect());
    }
    let (Some(starts_at), Ok(zone)) = (row.starts_at, row.timezone.parse::<Tz>()) else {
        return Err("starts_at, timezone: out of range".to_owned());
    };
    put("starts_at", starts_at.with_timezone(&zone).to_rfc3339_opts(chrono::SecondsFormat::Secs, true).into());
    let seconds = std::time::Duration::from_secs(row.duration_seconds.unsigned_abs().into());
    put("duration", duration::format(seconds).into());
    if let Some(rule) = row.rrule.as_deref().filter(|rule| !rule.trim().is_empty()) {
        put("rrule", literal(rule).into());
    }
    if zone != Tz::UTC {
        put("timezone", zone.name().into());
    }
    if !row.exclude_from_uptime {
        put("exclude_from_uptime", false.into());
    }
    Ok(Beside { keys, origin: format!("{} {}", row.source.name(), row.id), notes })
}

/// A file's maintenance covers the monitors of everybody, a row's those of its user only.
fn scope(row: &MaintenanceRow, id: &str, monitors: &Monitors<'_>, notes: &mut Vec<String>) -> Result<Scope, String> {
    let all = row.monitors.is_empty() && row.tags.is_empty();
    // No monitor can have one that is no tag.
    let tags: Vec<String> = unique(row.tags.iter().filter(|tag| common::is_tag(tag)).cloned());
    let is_of_all = row.source == Source::File || monitors.are_all_of(row.user_id);
    if is_of_all && tags.len() <= common::MAX_TAGS {
        let found = row.monitors.iter().map(|monitor| (monitor, monitors.ids.of_row(monitor.0)));
        let mut named = Vec::new();
        for (monitor, found) in found {
            match found {
                Some(id) => named.push(id.clone()),
                None => notes.push(not_exported(id, "monitors", &monitor.to_string())),
            }
        }
        let named = unique(named.into_iter());
        // Empty lists would mean all.
        return if all || !(named.is_empty() && tags.is_empty()) {
            Ok((named, tags))
        } else {
            Err("none of its monitors is exported".to_owned())
        };
    }
    let covers = |monitor: &&MonitorRow| {
        let by_tag = || monitor.tags.iter().any(|tag| row.tags.contains(tag));
        (row.source == Source::File || monitor.user_id == row.user_id)
            && (all || row.monitors.contains(&monitor.id) || by_tag())
    };
    let named: Vec<String> = monitors.rows.iter().filter(covers).filter_map(|row| monitors.id(row).cloned()).collect();
    match named.len() {
        0 => Err("none of its monitors is exported".to_owned()),
        count if count > MOST_NAMED => Err(format!("is about {count} monitors, and a file may name {MOST_NAMED}")),
        // Those that it names are said as well as in the row.
        _ if !all && row.tags.is_empty() => {
            let gone = row.monitors.iter().filter(|monitor| monitors.ids.of_row(monitor.0).is_none());
            notes.extend(gone.map(|monitor| not_exported(id, "monitors", &monitor.to_string())));
            Ok((named, Vec::new()))
        }
        _ => {
            let what = if is_of_all { "so many tags" } else { "that it is about monitors of its owner only" };
            notes.push(format!("{id}: a file cannot say {what}: the monitors that it covers now are listed"));
            Ok((named, Vec::new()))
        }
    }
}

fn not_exported(id: &str, key: &str, name: &str) -> String {
    format!("{id}: {key} named {name}, which is not exported; it is left out")
}

fn unique(items: impl Iterator<Item = String>) -> Vec<String> {
    let mut seen = HashSet::new();
    items.filter(|item| seen.insert(item.clone())).collect()
}

/// A text in which `${` begins no reference.
fn literal(text: &str) -> String {
    text.replace("${", "$${")
}

/// As the tables of a file, and those that cannot be, with the reason.
pub(super) fn objectives(objectives: &[Objective], monitors: &Monitors<'_>) -> (Vec<Beside>, Vec<String>) {
    let (mut written, mut left_out) = (Vec::new(), Vec::new());
    for objective in objectives {
        let id = objective.id.as_str();
        let mut notes = Vec::new();
        let named = named(objective, monitors, &mut notes);
        if named.is_empty() && objective.tags.is_empty() {
            left_out.push(format!("objective {id}: none of its monitors is exported"));
            continue;
        }
        written.push(Beside { keys: objective_keys(objective, named), origin: "file".to_owned(), notes });
    }
    (written, left_out)
}

fn named(objective: &Objective, monitors: &Monitors<'_>, notes: &mut Vec<String>) -> Vec<String> {
    let mut names = Vec::new();
    for named in &objective.monitors {
        let (name, found) = match named {
            // Only the file's have their key for a name here.
            Named::Key(key) => {
                let row = monitors
                    .rows
                    .iter()
                    .find(|row| row.source == Source::File && row.key.as_deref() == Some(key.as_str()));
                (key.as_str().to_owned(), row.and_then(|row| monitors.id(row)))
            }
            Named::Id(id) => (id.to_string(), monitors.ids.of_row(id.0)),
        };
        match found {
            Some(id) => names.push(id.clone()),
            None => notes.push(not_exported(objective.id.as_str(), "monitor", &name)),
        }
    }
    unique(names.into_iter())
}

fn objective_keys(objective: &Objective, named: Vec<String>) -> Map<String, Value> {
    let mut keys = Map::new();
    let mut put = |key: &str, value: Value| drop(keys.insert(key.to_owned(), value));
    put("id", objective.id.as_str().into());
    if *objective.name != *objective.id.as_str() {
        put("name", literal(&objective.name).into());
    }
    if !named.is_empty() {
        put("monitor", named.into());
    }
    if !objective.tags.is_empty() {
        put("tags", objective.tags.iter().map(|tag| literal(tag)).collect());
    }
    put("objective", objective.target.percent().into());
    put("window", objective.period.to_string().into());
    if let Period::CalendarMonth(zone) = objective.period
        && zone != Tz::UTC
    {
        put("timezone", zone.name().into());
    }
    if !objective.exclude_maintenance {
        put("exclude_maintenance", false.into());
    }
    keys
}

#[cfg(test)]
mod tests;
