//! What a maintenance is: defined by the configuration file or by a row, checked by the same rules. Pure.

use std::collections::HashSet;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use serde::Serialize;

use super::rule::Recurrence;
use crate::model::{MaintenanceId, Monitor, MonitorId, MonitorKey, Source, UserId};

/// Characters of a name.
pub const MOST_NAME: usize = 255;
/// Characters of a description.
pub const MOST_DESCRIPTION: usize = 4_000;
/// Monitors, and tags, that a maintenance may name.
pub const MOST_NAMED: usize = 10_000;
/// Maintenances of one user that count, the oldest first; as many again are told why they do not.
pub const MOST_OF_USER: usize = 500;

/// One `[[maintenance]]` of the configuration file.
#[derive(Clone, Debug)]
pub struct FileMaintenance {
    /// `id`.
    pub key: MonitorKey,
    /// `name`.
    pub name: Arc<str>,
    /// `description`.
    pub description: Option<Arc<str>>,
    /// `monitors`: ids of monitors of the file.
    pub monitors: Arc<[MonitorKey]>,
    /// `tags`.
    pub tags: Arc<[Box<str>]>,
    /// `starts_at` as an instant, whole seconds.
    pub starts_at: DateTime<Utc>,
    /// `duration` in seconds.
    pub duration_seconds: i32,
    /// `rrule` as it is written.
    pub rrule: Option<Arc<str>>,
    /// `timezone`.
    pub zone: Tz,
    /// `exclude_from_uptime`.
    pub excluded: bool,
    /// The three together.
    pub recurrence: Arc<Recurrence>,
}

/// A row of `maintenances`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MaintenanceRow {
    /// `id`.
    pub id: MaintenanceId,
    /// `user_id`.
    pub user_id: UserId,
    /// `source`.
    pub source: Source,
    /// `key`.
    pub key: Option<String>,
    /// `name`.
    pub name: String,
    /// `description`.
    pub description: Option<String>,
    /// `monitors`, one more than [`MOST_NAMED`] at the most.
    pub monitors: Vec<MonitorId>,
    /// `tags`, as many.
    pub tags: Vec<String>,
    /// `starts_at`; none: infinite, or beyond what a time of ours may be.
    pub starts_at: Option<DateTime<Utc>>,
    /// `duration_seconds`, unchecked.
    pub duration_seconds: i32,
    /// `rrule`, unchecked.
    pub rrule: Option<String>,
    /// `timezone`, unchecked.
    pub timezone: String,
    /// `exclude_from_uptime`.
    pub exclude_from_uptime: bool,
    /// `invalid_reason`, as the daemon last wrote it.
    pub invalid_reason: Option<String>,
    /// `revision`.
    pub revision: i64,
    /// `created_at`.
    pub created_at: Option<DateTime<Utc>>,
    /// `updated_at`.
    pub updated_at: Option<DateTime<Utc>>,
    /// `archived_at`.
    pub archived_at: Option<DateTime<Utc>>,
}

/// A valid maintenance.
#[derive(Clone, Debug)]
pub struct Definition {
    /// `maintenances.id`.
    pub id: MaintenanceId,
    /// Whose monitors it covers at most; none: everybody's, which only the file may say.
    pub owner: Option<UserId>,
    /// Key or name, for people.
    pub label: Arc<str>,
    /// Whether uptime leaves it out.
    pub excluded: bool,
    /// When it is.
    pub recurrence: Arc<Recurrence>,
    ids: HashSet<MonitorId>,
    keys: Arc<[MonitorKey]>,
    tags: Arc<[Box<str>]>,
}

impl Definition {
    /// What the file says.
    #[must_use]
    pub fn of_file(file: &FileMaintenance) -> Self {
        Self {
            id: MaintenanceId::of_key(&file.key),
            owner: None,
            label: file.key.as_str().into(),
            excluded: file.excluded,
            recurrence: Arc::clone(&file.recurrence),
            ids: HashSet::new(),
            keys: Arc::clone(&file.monitors),
            tags: Arc::clone(&file.tags),
        }
    }

    /// What a row says.
    ///
    /// # Errors
    /// `invalid_reason`: the column, and what is wrong with it.
    pub fn of_row(row: &MaintenanceRow) -> Result<Self, String> {
        let recurrence = recurrence(row)?;
        if row.monitors.len() > MOST_NAMED || row.tags.len() > MOST_NAMED {
            return Err(format!("monitors, tags: at most {MOST_NAMED} each"));
        }
        let label = row.key.as_deref().unwrap_or(&row.name);
        Ok(Self {
            id: row.id,
            owner: Some(row.user_id),
            label: label.into(),
            excluded: row.exclude_from_uptime,
            recurrence: Arc::new(recurrence),
            ids: row.monitors.iter().copied().collect(),
            keys: Arc::from([]),
            tags: row.tags.iter().map(|tag| tag.as_str().into()).collect(),
        })
    }

    /// Whether a monitor is among those that it is about. One that names neither monitors nor tags is about all.
    #[must_use]
    pub fn covers(&self, monitor: &Monitor) -> bool {
        if self.owner.is_some_and(|owner| owner != monitor.owner) {
            return false;
        }
        let named = || {
            let key = monitor.key.as_ref().filter(|_| monitor.source == Source::File);
            self.ids.contains(&monitor.id)
                || key.is_some_and(|key| self.keys.contains(key))
                || monitor.tags.iter().any(|tag| self.tags.contains(tag))
        };
        (self.ids.is_empty() && self.keys.is_empty() && self.tags.is_empty()) || named()
    }
}

/// When the maintenance of a row is.
///
/// # Errors
/// `invalid_reason`: the column, and what is wrong with it.
pub fn recurrence(row: &MaintenanceRow) -> Result<Recurrence, String> {
    let zone: Tz = row.timezone.parse().map_err(|_| {
        let shown: String = row.timezone.chars().take(60).collect();
        format!("timezone: unknown time zone {shown:?}; a name of the IANA database, such as \"Europe/Berlin\"")
    })?;
    let Some(starts_at) = row.starts_at else { return Err("starts_at: is out of range".to_owned()) };
    let rule = row.rrule.as_deref().filter(|rule| !rule.trim().is_empty());
    Recurrence::new(starts_at, row.duration_seconds.into(), zone, rule).map_err(|(column, what)| {
        let column = if column == "duration" { "duration_seconds" } else { column };
        format!("{column}: {what}")
    })
}
