//! `[[maintenance]]`: planned work, once or by a rule.

use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, NaiveDateTime, TimeZone as _, Utc};
use chrono_tz::Tz;

use super::common;
use super::reader::TableReader;
use super::tree::Value;
use crate::maintenance::definition::{FileMaintenance, MOST_DESCRIPTION, MOST_NAMED};
use crate::maintenance::rule::{self, Recurrence};
use crate::model::MonitorKey;

/// Maintenances of one configuration.
const MOST: usize = 1_000;
const DURATION: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(366 * 86_400);
const STARTS_AT: &str =
    "a local time in timezone, such as 2026-11-29T02:00:00, or one with its offset, such as 2026-11-29T02:00:00+01:00";

/// Reads the list. Whether the monitors that it names are there is for [`super::graph`] to say.
pub(super) fn read(reader: &mut TableReader<'_>) -> Vec<FileMaintenance> {
    if reader.node("maintenance").is_none() {
        return Vec::new();
    }
    let Some(tables) = reader.tables("maintenance") else { return Vec::new() };
    if tables.len() > MOST {
        reader.error("maintenance", format!("{} are too many", tables.len()), format!("at most {MOST}"));
        return Vec::new();
    }
    let mut ids = HashSet::new();
    let read = tables.into_iter().filter_map(|mut table| {
        let id = common::key(&mut table, "id");
        if let Some(id) = &id
            && !ids.insert(id.clone())
        {
            table.error("id", format!("{:?} stands twice", id.as_str()), None);
        }
        let read = one(&mut table, id);
        table.finish(&|_| None);
        read
    });
    read.collect()
}

fn one(table: &mut TableReader<'_>, id: Option<MonitorKey>) -> Option<FileMaintenance> {
    if !table.has_own("id") {
        table.error("id", "is missing", "history hangs on it".to_owned());
    }
    let before = table.findings().count();
    let name = table.string("name").and_then(|name| common::checked_name(table, name));
    let description = table.string("description").filter(|text| {
        let fits = text.chars().count() <= MOST_DESCRIPTION;
        if !fits {
            table.error("description", "is too long", format!("at most {MOST_DESCRIPTION} characters"));
        }
        fits
    });
    let monitors = monitors(table);
    let tags = table.strings("tags").and_then(|tags| common::checked_tags(table, tags));
    if tags.as_ref().is_some_and(|tags| tags.is_empty()) {
        empty(table, "tags");
    }
    let zone = common::time_zone(table);
    let starts_at = starts_at(table, zone);
    if !table.has_own("duration") {
        table.error("duration", "is missing", "how long it lasts, such as \"2h\"".to_owned());
    }
    let duration = table.whole_seconds("duration", DURATION);
    let rrule = table.string("rrule");
    let excluded = table.boolean("exclude_from_uptime").unwrap_or(true);
    let recurrence = recurrence(table, starts_at.zip(zone), duration, rrule.as_deref());
    let (key, zone, starts_at, duration, recurrence) = (id?, zone?, starts_at?, duration?, recurrence?);
    if table.findings().count() > before {
        return None;
    }
    Some(FileMaintenance {
        name: name.unwrap_or_else(|| key.as_str().into()),
        key,
        description: description.map(Arc::from),
        monitors,
        tags: tags.unwrap_or_default(),
        starts_at,
        duration_seconds: i32::try_from(duration.as_secs()).ok()?,
        rrule: rrule.map(Arc::from),
        zone,
        excluded,
        recurrence: Arc::new(recurrence),
    })
}

/// When it is. A rule is looked at whatever else is missing, as far as that goes, so that all its faults are told at once.
fn recurrence(
    table: &TableReader<'_>,
    start: Option<(DateTime<Utc>, Tz)>,
    duration: Option<Duration>,
    rrule: Option<&str>,
) -> Option<Recurrence> {
    let seconds = i64::try_from(duration.unwrap_or(*DURATION.start()).as_secs()).ok()?;
    let fault = match start.map(|(at, zone)| Recurrence::new(at, seconds, zone, rrule)) {
        Some(Ok(recurrence)) => return duration.map(|_| recurrence),
        Some(Err((part, what))) => {
            table.error(part, what, None);
            Some(part)
        }
        None => None,
    };
    if fault != Some("rrule")
        && let Some(Err(what)) = rrule.map(rule::readable)
    {
        table.error("rrule", what, None);
    }
    None
}

/// An empty list would mean everything.
fn empty(table: &TableReader<'_>, key: &str) {
    table.error(key, "is empty", "leave it out to mean all monitors".to_owned());
}

fn monitors(table: &mut TableReader<'_>) -> Arc<[MonitorKey]> {
    let Some(items) = table.list("monitors") else { return Arc::from([]) };
    if items.is_empty() {
        empty(table, "monitors");
    }
    if items.len() > MOST_NAMED {
        table.error("monitors", "is too long", format!("at most {MOST_NAMED} ids"));
        return Arc::from([]);
    }
    let keys = items.iter().enumerate().filter_map(|(index, item)| {
        let key = format!("monitors[{index}]");
        let text = table.string_of(&key, item)?;
        let complain = |allowed: &str| {
            table.error_at(item.span, &key, format!("{text:?} is no id"), format!("must be {allowed}"));
        };
        text.parse::<MonitorKey>().map_err(complain).ok()
    });
    keys.collect()
}

fn starts_at(table: &mut TableReader<'_>, zone: Option<Tz>) -> Option<DateTime<Utc>> {
    let Some(node) = table.node("starts_at") else {
        table.error("starts_at", "is missing", STARTS_AT.to_owned());
        return None;
    };
    let (Value::String(text) | Value::Datetime(text)) = &node.value else {
        table.error("starts_at", format!("found {}", node.value.type_name()), format!("must be {STARTS_AT}"));
        return None;
    };
    let text = text.trim().replacen(' ', "T", 1);
    if let Ok(at) = DateTime::parse_from_rfc3339(&text) {
        return Some(at.to_utc());
    }
    let forms = ["%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M"];
    let Some(local) = forms.iter().find_map(|form| NaiveDateTime::parse_from_str(&text, form).ok()) else {
        table.error("starts_at", "is no time", format!("must be {STARTS_AT}"));
        return None;
    };
    let zone = zone?;
    if zone.from_local_datetime(&local).earliest().is_none() {
        let later = rule::instant(zone, local).with_timezone(&zone).format("%FT%T");
        let what = format!("{} is not there in {zone}: the clock skips it", local.format("%FT%T"));
        table.error("starts_at", what, format!("{later} is the same moment"));
        return None;
    }
    Some(rule::instant(zone, local))
}

#[cfg(test)]
mod tests;
