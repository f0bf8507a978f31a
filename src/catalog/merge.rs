//! Makes the set of monitors out of the file's definitions and the database's rows. Pure.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::limits::Restriction;
use super::plan::{Archiving, Guard, StoredRow, assign};
use super::{Entry, FileRow, Mark, MonitorRow};
use crate::model::{Cadence, Monitor, MonitorId, MonitorKey, SYSTEM_USER, Source, UserId};
use crate::settings::definition::{Definition, Edits, Located};

/// `interval_seconds` of a monitor that runs on a cron schedule: the column's default, unused.
const UNUSED_INTERVAL: i32 = 300;

/// The id and owner of keys, as the store or `catalog.json` gives them.
pub type Ids = HashMap<MonitorKey, (MonitorId, UserId)>;

/// Monitors by id.
pub type Entries = HashMap<MonitorId, Arc<Entry>>;

/// The rows that the file's monitors have in the database.
#[must_use]
pub fn file_rows(definitions: &[Located]) -> Vec<FileRow> {
    definitions.iter().filter_map(|located| file_row(located)).collect()
}

fn file_row(definition: &Definition) -> Option<FileRow> {
    let seconds = |duration: std::time::Duration| i32::try_from(duration.as_secs()).unwrap_or(i32::MAX);
    Some(FileRow {
        key: definition.key.clone()?,
        renamed_from: definition.renamed_from.clone(),
        name: Arc::clone(&definition.name),
        url: Arc::clone(&definition.url),
        owner: definition.owner.clone(),
        interval_seconds: match &definition.cadence {
            Cadence::Every(interval) => seconds(*interval),
            Cadence::Cron { .. } => UNUSED_INTERVAL,
        },
        timeout_seconds: seconds(definition.timeout),
        is_active: definition.active,
        kind: definition.kind,
        spec: Arc::clone(&definition.spec),
        tags: Arc::clone(&definition.tags),
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
    let depends_on = dependencies(definition, id, dependency);
    let mut entry = build(definition, id, owner, source);
    entry.fingerprint = fingerprint(definition, owner, source, &depends_on);
    entry.monitor.depends_on = depends_on;
    Arc::new(entry)
}

fn dependencies(
    definition: &Definition,
    id: MonitorId,
    dependency: impl Fn(&MonitorKey) -> Option<MonitorId>,
) -> Box<[MonitorId]> {
    definition.depends_on.iter().filter_map(dependency).filter(|other| *other != id).collect()
}

fn fingerprint(definition: &Definition, owner: UserId, source: Source, depends_on: &[MonitorId]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (definition.fingerprint, owner, source, depends_on).hash(&mut hasher);
    hasher.finish()
}

/// The same without dependencies.
#[must_use]
pub fn build(definition: &Definition, id: MonitorId, owner: UserId, source: Source) -> Entry {
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
        tags: definition.tags.iter().cloned().collect(),
        depends_on: Box::default(),
    };
    let (prepared, secrets) = (definition.prepared.clone(), Arc::clone(&definition.secrets));
    Entry { monitor, prepared, fingerprint: fingerprint(definition, owner, source, &[]), secrets }
}

/// The file's monitors by id. A key without a known id gets the one it would be created with, unless that is known to
/// be another's: then only the store can say its id, and until then it is left out. What did not change keeps its entry
/// of `before`.
#[must_use]
pub fn file_entries(definitions: &[Located], ids: &Ids, before: &Entries) -> Entries {
    let resolved = resolve(definitions, ids);
    let mut entries = HashMap::with_capacity(definitions.len());
    for definition in definitions {
        let Some((id, owner)) = definition.key.as_ref().and_then(|key| resolved.get(key)).copied() else { continue };
        let dependency = |key: &MonitorKey| resolved.get(key).map(|found| found.0);
        // Of nearly every monitor of nearly every reading nothing has changed: it is not built a second time.
        let print = fingerprint(definition, owner, Source::File, &dependencies(definition, id, dependency));
        let same = before.get(&id).filter(|old| old.fingerprint == print);
        let now = same.map_or_else(|| entry(definition, id, owner, Source::File, dependency), Arc::clone);
        entries.insert(id, now);
    }
    entries
}

/// Brings entries and seals that were made of the definitions of `before` to those of `now`, when every key has the id
/// that it had. Returns the ids of what may differ. None: an id is not known, and nothing was changed.
pub fn edit_entries(
    entries: &mut Entries,
    seals: &mut Seals,
    (before, now): (&[Located], &[Located]),
    ids: &Ids,
) -> Option<Vec<MonitorId>> {
    let edits = Edits::between(before, now);
    // A dependency may be unchanged itself, and yet without an id of the store's.
    if !edits.changed.iter().flat_map(|located| &located.depends_on).all(|key| ids.contains_key(key)) {
        return None;
    }
    let with_ids = edits.changed.iter().map(|located| Some((*located, *ids.get(located.key.as_ref()?)?)));
    let changed: Vec<(&Located, (MonitorId, UserId))> = with_ids.collect::<Option<_>>()?;
    let gone: Vec<MonitorId> = edits.gone.iter().map(|key| Some(ids.get(key)?.0)).collect::<Option<_>>()?;
    for id in &gone {
        entries.remove(id);
    }
    let mut touched = gone;
    let dependency = |key: &MonitorKey| ids.get(key).map(|found| found.0);
    for (located, (id, owner)) in changed {
        touched.push(id);
        let new = entry(located, id, owner, Source::File, dependency);
        // What is equal stays the same allocation, as in a reading of everything.
        if entries.get(&id).is_none_or(|old| old.fingerprint != new.fingerprint) {
            entries.insert(id, new);
            file_row(located).map(|row| seals.insert(id, seal_of_file(&row)));
        }
    }
    Some(touched)
}

/// The id of every key, by the rules of the store's merge as far as they can be applied without it: own row first, then
/// that of the former key unless it is in use, then a new one. No two keys get one id.
fn resolve<'a>(definitions: &'a [Located], ids: &Ids) -> HashMap<&'a MonitorKey, (MonitorId, UserId)> {
    let keys: HashSet<&MonitorKey> = definitions.iter().filter_map(|definition| definition.key.as_ref()).collect();
    let mut resolved = HashMap::with_capacity(definitions.len());
    // A damaged memory may give one id to two keys.
    let mut claimed = HashSet::with_capacity(definitions.len());
    let mut strangers = Vec::new();
    for definition in definitions {
        let Some(key) = &definition.key else { continue };
        match ids.get(key).filter(|(id, _)| claimed.insert(*id)) {
            Some(known) => drop(resolved.insert(key, *known)),
            None => strangers.push((key, definition.renamed_from.as_ref())),
        }
    }
    let taken: HashSet<MonitorId> = ids.values().map(|(id, _)| *id).collect();
    for (key, renamed_from) in strangers {
        let former = renamed_from.filter(|former| !keys.contains(former)).and_then(|former| ids.get(former).copied());
        let former = former.filter(|(id, _)| !claimed.contains(id));
        let fresh = || Some((MonitorId::of_key(key), SYSTEM_USER)).filter(|(id, _)| !taken.contains(id));
        if let Some(found) = former.or_else(fresh).filter(|(id, _)| claimed.insert(*id)) {
            resolved.insert(key, found);
        }
    }
    resolved
}

/// What a merge would archive and may not, by the keys that the file's rows had when somebody looked last.
#[must_use]
pub fn guarded_by_keys(ids: &Ids, definitions: &[Located], guard: Guard) -> Option<Archiving> {
    let stored: Vec<StoredRow> =
        ids.iter().map(|(key, (id, _))| StoredRow { id: *id, key: key.to_string(), archived: false }).collect();
    let name = |key: &'_ Option<MonitorKey>| key.as_ref().map(MonitorKey::as_str).unwrap_or_default().to_owned();
    let names: Vec<(String, Option<String>)> = definitions
        .iter()
        .map(|definition| (name(&definition.key), definition.renamed_from.as_ref().map(ToString::to_string)))
        .collect();
    let wanted = names.iter().map(|(key, former)| (key.as_str(), former.as_deref()));
    assign(&stored, wanted).guarded(&stored, guard)
}

/// Hashes by which a row is known for what the file has written, by monitor.
pub type Seals = HashMap<MonitorId, Uuid>;

/// The seals of the file's monitors, and of those of before whose rows the file may still have. What did not change keeps
/// the seal that it has in `known`.
#[must_use]
pub fn seals(definitions: &[Located], ids: &Ids, now: &Entries, before: &Entries, known: &Seals) -> Seals {
    let mut seals: Seals = ids.values().filter_map(|(id, _)| Some((*id, *known.get(id)?))).collect();
    let by_key: HashMap<&MonitorKey, MonitorId> =
        now.values().filter_map(|entry| Some((entry.monitor.key.as_ref()?, entry.monitor.id))).collect();
    for definition in definitions {
        let Some(id) = definition.key.as_ref().and_then(|key| by_key.get(key)) else { continue };
        let same = match (now.get(id), before.get(id)) {
            (Some(now), Some(before)) => Arc::ptr_eq(now, before),
            _ => false,
        };
        match known.get(id).filter(|_| same) {
            Some(seal) => drop(seals.insert(*id, *seal)),
            None => drop(file_row(definition).map(|row| seals.insert(*id, seal_of_file(&row)))),
        }
    }
    seals
}

/// Whether a row is, to the letter, what the file said.
#[must_use]
pub fn is_sealed(row: &MonitorRow, seals: &Seals) -> bool {
    seals.get(&row.id).is_some_and(|known| *known == seal_of_row(row))
}

/// The seal of a row as it stands.
#[must_use]
pub fn seal_of_row(row: &MonitorRow) -> Uuid {
    let texts = [row.key.as_deref().unwrap_or_default(), &row.name, &row.url, row.kind.as_deref().unwrap_or_default()];
    seal(texts, [row.interval_seconds, row.timeout_seconds, i32::from(row.is_active)], &row.tags, &row.spec)
}

fn seal_of_file(row: &FileRow) -> Uuid {
    let texts = [row.key.as_str(), &row.name, &row.url, row.kind];
    seal(texts, [row.interval_seconds, row.timeout_seconds, i32::from(row.is_active)], &row.tags, &row.spec())
}

/// Half of a SHA-256, which is enough against a second text with the same.
fn seal(texts: [&str; 4], numbers: [i32; 3], tags: &[impl AsRef<str>], spec: &serde_json::Value) -> Uuid {
    let mut hasher = Sha256::new();
    let mut text = |text: &str| {
        // Lengths first, so that no two lists hash alike.
        hasher.update((text.len() as u64).to_le_bytes());
        hasher.update(text);
    };
    texts.into_iter().chain(tags.iter().map(AsRef::as_ref)).for_each(&mut text);
    text(&sorted(spec).to_string());
    numbers.into_iter().for_each(|number| hasher.update(number.to_le_bytes()));
    let digest: [u8; 32] = hasher.finalize().into();
    let mut half = [0; 16];
    half.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
    Uuid::from_bytes(half)
}

/// The database keeps no order of keys.
fn sorted(value: &serde_json::Value) -> serde_json::Value {
    use serde_json::Value as Json;
    match value {
        Json::Object(object) => {
            let mut entries: Vec<_> = object.iter().map(|(key, value)| (key.clone(), sorted(value))).collect();
            entries.sort_unstable_by(|a, b| a.0.cmp(&b.0));
            Json::Object(entries.into_iter().collect())
        }
        Json::Array(items) => Json::Array(items.iter().map(sorted).collect()),
        other => other.clone(),
    }
}

/// Whether a file monitor's row is what the file says. Where it is not, somebody else has written to it.
#[must_use]
pub fn is_as_written(row: &MonitorRow, definition: &Definition, owner: UserId) -> bool {
    file_row(definition).is_some_and(|file| {
        row.user_id == owner
            && row.key.as_deref() == Some(file.key.as_str())
            && row.name == *file.name
            && row.url == *file.url
            && row.interval_seconds == file.interval_seconds
            && row.timeout_seconds == file.timeout_seconds
            && row.is_active == file.is_active
            && row.kind.as_deref() == Some(file.kind)
            && row.tags.iter().map(String::as_str).eq(file.tags.iter().map(|tag| &**tag))
            && row.spec == file.spec()
    })
}

/// What became of a row that is not the file's.
#[derive(Clone)]
pub struct RowOutcome {
    /// The revision that was read; none: it must be read again before it counts.
    pub revision: Option<i64>,
    /// The monitor, or why it is none.
    pub result: Result<Arc<Entry>, String>,
    /// `invalid_reason` as it stands in the database.
    pub stored_reason: Option<String>,
    /// Whether it names keys that it depends on, whose ids may become others.
    pub depends: bool,
    /// What its user's plan makes of it, when that is less than the row says.
    pub restricted: Option<(Restriction, Arc<Entry>)>,
}

impl RowOutcome {
    /// The monitor as it runs.
    #[must_use]
    pub fn in_force(&self) -> Option<&Arc<Entry>> {
        let own = self.result.as_ref().ok()?;
        Some(self.restricted.as_ref().map_or(own, |(_, entry)| entry))
    }

    /// Why it is not checked, when that is for its row to say.
    #[must_use]
    pub fn mark(&self, id: MonitorId) -> Mark {
        match (&self.result, &self.restricted) {
            (Err(reason), _) => Mark::invalid(id, reason.clone()),
            (_, Some((Restriction { paused: Some(reason), .. }, _))) => Mark::paused(id, reason.clone()),
            _ => Mark::none(id),
        }
    }
}

/// Reads a row. `read` is `settings::monitor::read_row` with the file's defaults; `source` is what it may do.
pub fn row_outcome(
    row: &MonitorRow,
    source: Source,
    read: impl Fn(&MonitorRow) -> Result<Definition, String>,
    dependency: impl Fn(&MonitorKey) -> Option<MonitorId>,
) -> RowOutcome {
    let definition = read(row);
    let depends = definition.as_ref().is_ok_and(|definition| !definition.depends_on.is_empty());
    let result = definition.map(|definition| entry(&definition, row.id, row.user_id, source, dependency));
    let stored_reason = row.invalid_reason.clone();
    RowOutcome { revision: Some(row.revision), result, stored_reason, depends, restricted: None }
}
