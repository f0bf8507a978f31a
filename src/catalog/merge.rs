//! Makes the set of monitors out of the file's definitions and the database's rows. Pure.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use super::{Entry, FileRow, MonitorRow};
use crate::model::{Cadence, Monitor, MonitorId, MonitorKey, Source, UserId};
use crate::settings::definition::Definition;

/// `interval_seconds` of a monitor that runs on a cron schedule: the column's default, unused.
const UNUSED_INTERVAL: i32 = 300;

/// The rows that the file's monitors have in the database.
#[must_use]
pub fn file_rows(definitions: &[Definition]) -> Vec<FileRow> {
    definitions.iter().filter_map(file_row).collect()
}

fn file_row(definition: &Definition) -> Option<FileRow> {
    let seconds = |duration: std::time::Duration| i32::try_from(duration.as_secs()).unwrap_or(i32::MAX);
    Some(FileRow {
        key: definition.key.clone()?,
        renamed_from: definition.renamed_from.clone(),
        name: definition.name.to_string(),
        url: definition.url.to_string(),
        owner: definition.owner.as_deref().map(str::to_owned),
        interval_seconds: match &definition.cadence {
            Cadence::Every(interval) => seconds(*interval),
            Cadence::Cron { .. } => UNUSED_INTERVAL,
        },
        timeout_seconds: seconds(definition.timeout),
        is_active: definition.active,
        kind: definition.kind.to_owned(),
        spec: serde_json::Value::Object(definition.spec.clone()),
        tags: definition.tags.iter().map(ToString::to_string).collect(),
    })
}

/// A monitor ready to be scheduled. `dependency` finds the id of a key; a key that it does not find explains nothing
/// and is left out (the file's own keys are checked when it is read).
pub fn entry(
    definition: &Definition,
    id: MonitorId,
    owner: UserId,
    source: Source,
    dependency: impl Fn(&MonitorKey) -> Option<MonitorId>,
) -> Arc<Entry> {
    let mut entry = build(definition, id, owner, source);
    entry.monitor.depends_on =
        definition.depends_on.iter().filter_map(dependency).filter(|other| *other != id).collect();
    let mut hasher = DefaultHasher::new();
    (entry.fingerprint, &entry.monitor.depends_on).hash(&mut hasher);
    entry.fingerprint = hasher.finish();
    Arc::new(entry)
}

/// The same without dependencies.
#[must_use]
pub fn build(definition: &Definition, id: MonitorId, owner: UserId, source: Source) -> Entry {
    let mut hasher = DefaultHasher::new();
    (definition.fingerprint, owner, source).hash(&mut hasher);
    let monitor = Monitor {
        id,
        owner,
        key: definition.key.clone(),
        name: definition.name.clone(),
        url: definition.url.clone(),
        kind: definition.kind,
        source,
        cadence: definition.cadence.clone(),
        timeout: definition.timeout,
        confirmations: definition.confirmations,
        recoveries: definition.recoveries,
        retry_interval: definition.retry_interval,
        flap: definition.flap,
        active: definition.active,
        tags: definition.tags.clone(),
        depends_on: Box::default(),
    };
    let (prepared, secrets) = (definition.prepared.clone(), Arc::clone(&definition.secrets));
    Entry { monitor, prepared, fingerprint: hasher.finish(), secrets }
}

/// The file's monitors by id. A key without a known id gets the one it would be created with.
#[must_use]
pub fn file_entries(
    definitions: &[Definition],
    ids: &HashMap<MonitorKey, (MonitorId, UserId)>,
) -> HashMap<MonitorId, Arc<Entry>> {
    let known = |key: &MonitorKey| ids.get(key).copied();
    let id_of = |key: &MonitorKey| known(key).map_or_else(|| MonitorId::of_key(key), |(id, _)| id);
    let entries = definitions.iter().filter_map(|definition| {
        let key = definition.key.as_ref()?;
        // Before the first contact with the store a renamed monitor is found under its former key.
        let (id, owner) = known(key)
            .or_else(|| definition.renamed_from.as_ref().and_then(known))
            .unwrap_or_else(|| (MonitorId::of_key(key), crate::model::SYSTEM_USER));
        Some((id, entry(definition, id, owner, Source::File, |key| Some(id_of(key)))))
    });
    entries.collect()
}

/// What became of a row that is not the file's.
#[derive(Clone)]
pub struct RowOutcome {
    /// The revision that was read.
    pub revision: i64,
    /// The monitor, or why it is none.
    pub result: Result<Arc<Entry>, String>,
    /// `invalid_reason` as it stands in the database.
    pub stored_reason: Option<String>,
}

/// Reads a row. `read` is `settings::monitor::read_row` with the file's defaults.
pub fn row_outcome(
    row: &MonitorRow,
    read: impl Fn(&MonitorRow) -> Result<Definition, String>,
    dependency: impl Fn(&MonitorKey) -> Option<MonitorId>,
) -> RowOutcome {
    let result = read(row).map(|definition| entry(&definition, row.id, row.user_id, row.source, dependency));
    RowOutcome { revision: row.revision, result, stored_reason: row.invalid_reason.clone() }
}
