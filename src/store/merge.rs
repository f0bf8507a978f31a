//! Bringing the file's rows to what the file says: plan over all of them, read and write what may differ.
//!
//! What this process has merged before and nobody has touched since (its revision is the same) is not read again: of
//! 100,000 rows a reload of one line reads keys and revisions, and one row whole.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::TryStreamExt as _;
use sqlx::postgres::PgRow;
use sqlx::{Connection as _, PgConnection, Row as _};
use uuid::Uuid;

use super::catalog::PATIENCE;
use super::{Problem, Store, clean, clean_json, finish};
use crate::catalog::merge::Ids;
use crate::catalog::plan::{Assignment, Content, Guard, Place, Plan, StoredRow, assign, differences};
use crate::catalog::{FileRow, MergeAnswer, Merged};
use crate::model::{MonitorId, MonitorKey, SYSTEM_USER, StoreFault, UserId};

pub(super) const STATEMENTS: &[&str] =
    &[ALONE, ROWS, CONTENTS, USERS, NEW_USERS, TAKEN, INSERT, UPDATE, ARCHIVE, REVISIONS_OF];

/// Of merges of other regions' daemons one goes at a time: the guard counts what no other is about to archive.
const ALONE: &str = "SELECT pg_advisory_xact_lock(hashtext('lamplighter merge'), hashtext(current_schema()))";
/// Not among the statements: only queries can be prepared.
const READ_ONLY: &str = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY";
const ROWS: &str = "SELECT id, user_id, key, archived_at IS NOT NULL AS archived, revision FROM monitors \
    WHERE source = 'file' AND key IS NOT NULL";
/// Never newer than its revision above is old: what changes in between has another revision, and is read the next time.
const CONTENTS: &str = "SELECT id, user_id, name, url, interval_seconds, timeout_seconds, is_active, kind, spec, tags \
    FROM monitors WHERE id = ANY($1)";
const REVISIONS_OF: &str = "SELECT id, revision FROM monitors WHERE id = ANY($1)";
/// Of several that differ in case only, the oldest.
const USERS: &str = "SELECT DISTINCT ON (w.email) w.email, u.id FROM unnest($1::text[]) AS w (email) \
    JOIN users u ON lower(u.email) = lower(w.email) ORDER BY w.email, u.created_at, u.id";
const NEW_USERS: &str = "INSERT INTO users (email) SELECT DISTINCT ON (lower(email)) email FROM unnest($1::text[]) AS w (email) \
    ORDER BY lower(email), email ON CONFLICT DO NOTHING";
const TAKEN: &str = "SELECT id FROM monitors WHERE id = ANY($1)";
const INSERT: &str = "INSERT INTO monitors (id, user_id, name, url, interval_seconds, timeout_seconds, is_active, kind, spec, \
        tags, key, source) \
    SELECT id, user_id, name, url, interval_seconds, timeout_seconds, is_active, kind, spec, tags::text[], key, 'file' \
    FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::integer[], $6::integer[], $7::boolean[], $8::text[], \
        $9::jsonb[], $10::text[], $11::text[]) \
        AS n (id, user_id, name, url, interval_seconds, timeout_seconds, is_active, kind, spec, tags, key)";
const UPDATE: &str = "UPDATE monitors m SET user_id = n.user_id, name = n.name, url = n.url, \
        interval_seconds = n.interval_seconds, timeout_seconds = n.timeout_seconds, is_active = n.is_active, kind = n.kind, \
        spec = n.spec, tags = n.tags::text[], key = n.key, archived_at = NULL, updated_at = now() \
    FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::integer[], $6::integer[], $7::boolean[], $8::text[], \
        $9::jsonb[], $10::text[], $11::text[]) \
        AS n (id, user_id, name, url, interval_seconds, timeout_seconds, is_active, kind, spec, tags, key) \
    WHERE m.id = n.id AND m.source = 'file'";
/// What somebody has taken over since it was read is not the file's to archive.
const ARCHIVE: &str = "UPDATE monitors SET archived_at = now(), updated_at = now() \
    WHERE id = ANY($1) AND source = 'file' AND archived_at IS NULL RETURNING id";

/// A row as it is to be.
struct Wanted {
    id: Uuid,
    user_id: Uuid,
    name: String,
    url: String,
    interval_seconds: i32,
    timeout_seconds: i32,
    is_active: bool,
    kind: String,
    spec: serde_json::Value,
    tags: Vec<String>,
    key: String,
}

impl Wanted {
    fn of(row: &FileRow, id: Uuid, user_id: Uuid) -> Self {
        let mut spec = row.spec();
        clean_json(&mut spec);
        Self {
            id,
            user_id,
            name: clean(&row.name),
            url: clean(&row.url),
            interval_seconds: row.interval_seconds,
            timeout_seconds: row.timeout_seconds,
            is_active: row.is_active,
            kind: clean(row.kind),
            spec,
            tags: row.tags.iter().map(|tag| clean(tag)).collect(),
            key: row.key.to_string(),
        }
    }
}

/// What the last merges of this process left in the database: the revision of a row, and the hash of what the file said.
#[derive(Default)]
pub(super) struct Baseline(Mutex<Known>);

#[derive(Default)]
struct Known {
    rows: HashMap<Uuid, (i64, u64)>,
    ids: Arc<Ids>,
}

impl Baseline {
    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The rows of the file as they stand, without content.
#[derive(Default)]
struct Existing {
    stored: Vec<StoredRow>,
    /// In the same order.
    owners: Vec<Option<Uuid>>,
    revisions: Vec<i64>,
}

/// What is to be done, and with which ids.
struct Work {
    rows: Arc<[FileRow]>,
    existing: Existing,
    assignment: Assignment,
    /// The owner of each row of the file; none: the e-mail has no user yet.
    owners: Vec<Option<Uuid>>,
    /// Hashes of the rows of the file.
    hashes: Vec<u64>,
    /// Which of them may differ from their stored rows.
    unsure: Vec<usize>,
    contents: HashMap<Uuid, Content>,
}

fn hash_of(row: &FileRow) -> u64 {
    let mut hasher = DefaultHasher::new();
    (row.key.as_str(), &row.name, &row.url, row.interval_seconds, row.timeout_seconds).hash(&mut hasher);
    (row.is_active, row.kind, &row.tags, &row.spec).hash(&mut hasher);
    hasher.finish()
}

impl Work {
    /// The pure part, on a thread where nothing waits for it.
    async fn plan(
        rows: Arc<[FileRow]>,
        existing: Existing,
        users: HashMap<String, Uuid>,
        baseline: Arc<Baseline>,
    ) -> Result<Self, Problem> {
        let work = move || {
            let keys = rows.iter().map(|row| (row.key.as_str(), row.renamed_from.as_ref().map(MonitorKey::as_str)));
            let assignment = assign(&existing.stored, keys);
            let owners: Vec<Option<Uuid>> = rows.iter().map(|row| owner_of(row, &users)).collect();
            let hashes: Vec<u64> = rows.iter().map(hash_of).collect();
            let known = baseline.lock();
            let is_known = |index: usize, at: usize| -> Option<bool> {
                let before = existing.stored.get(at)?;
                let (revision, hash) = known.rows.get(&before.id.0)?;
                let same = existing.revisions.get(at)? == revision && hashes.get(index)? == hash;
                Some(same && !before.archived && existing.owners.get(at) == owners.get(index))
            };
            let places = assignment.places.iter().enumerate();
            let unsure = places.filter_map(|(index, place)| match place {
                Place::Own(at) => (is_known(index, *at) != Some(true)).then_some(index),
                Place::Renamed(_) => Some(index),
                Place::New => None,
            });
            let unsure = unsure.collect();
            drop(known);
            Self { rows, existing, assignment, owners, hashes, unsure, contents: HashMap::new() }
        };
        off_thread(work).await
    }

    /// The stored row that a monitor of the file gets.
    fn before(&self, index: usize) -> Option<&StoredRow> {
        match self.assignment.places.get(index)? {
            Place::Own(at) | Place::Renamed(at) => self.existing.stored.get(*at),
            Place::New => None,
        }
    }

    async fn read_contents(&mut self, conn: &mut PgConnection) -> Result<(), sqlx::Error> {
        let ids: Vec<Uuid> = self.unsure.iter().filter_map(|index| Some(self.before(*index)?.id.0)).collect();
        if ids.is_empty() {
            return Ok(());
        }
        let mut stream = sqlx::query(CONTENTS).bind(ids).fetch(conn);
        while let Some(row) = stream.try_next().await? {
            self.contents.insert(row.try_get(0)?, content(&row)?);
        }
        Ok(())
    }

    /// In what a monitor of the file differs from the row that it gets.
    fn differing(&self, index: usize) -> Vec<String> {
        let (Some(row), Some(before)) = (self.rows.get(index), self.before(index)) else { return Vec::new() };
        // What was not read is known to be the same.
        let Some(content) = self.contents.get(&before.id.0) else { return Vec::new() };
        differences(content, row, self.owners.get(index).copied().flatten().map(UserId))
    }

    /// Rows to update and to insert.
    fn writes(&self, taken: &HashSet<Uuid>) -> (Vec<Wanted>, Vec<Wanted>) {
        let (mut changed, mut fresh) = (Vec::new(), Vec::new());
        let owner = |index: usize| self.owners.get(index).copied().flatten().unwrap_or(SYSTEM_USER.0);
        for index in &self.unsure {
            let (Some(row), Some(before)) = (self.rows.get(*index), self.before(*index)) else { continue };
            let renamed = before.key != row.key.as_str();
            if renamed || before.archived || !self.differing(*index).is_empty() {
                changed.push(Wanted::of(row, before.id.0, owner(*index)));
            }
        }
        for (index, (row, place)) in self.rows.iter().zip(&self.assignment.places).enumerate() {
            if *place == Place::New {
                fresh.push(Wanted::of(row, fresh_id(&row.key, taken), owner(index)));
            }
        }
        // One order for every writer of many rows.
        changed.sort_unstable_by_key(|row| row.id);
        (changed, fresh)
    }
}

/// Runs what may take long for many rows where no check waits for it.
async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Problem::Fault(StoreFault::Refused(format!("planning the merge failed: {error}"))))
}

impl Store {
    pub(super) async fn merge_rows(&self, rows: Arc<[FileRow]>, guard: Guard) -> Result<MergeAnswer, Problem> {
        let mut conn = self.pool.acquire().await?;
        let mut tx = conn.begin().await?;
        let result = self.merge_in(&mut tx, rows, guard).await;
        let (answer, baseline) = finish(tx, result).await?;
        if let Some(baseline) = baseline {
            // Only what has been committed is known.
            let before = std::mem::replace(&mut *self.baseline.lock(), baseline);
            drop(tokio::task::spawn_blocking(move || drop(before)));
        }
        Ok(answer)
    }

    async fn merge_in(
        &self,
        tx: &mut PgConnection,
        rows: Arc<[FileRow]>,
        guard: Guard,
    ) -> Result<(MergeAnswer, Option<Known>), Problem> {
        sqlx::query(PATIENCE).execute(&mut *tx).await?;
        self.fence(tx).await?;
        sqlx::query(ALONE).execute(&mut *tx).await?;
        let existing = existing(tx).await?;
        let found = users(tx, &rows).await?;
        let mut work = Work::plan(rows, existing, found, Arc::clone(&self.baseline)).await?;
        let guarded = work.assignment.guarded(&work.existing.stored, guard);
        if let (Some(archiving), Guard::Reload { .. }) = (&guarded, guard) {
            return Ok((MergeAnswer::Refused(archiving.clone()), None));
        }
        if work.owners.contains(&None) {
            let without = work.rows.iter().zip(&work.owners).filter(|(_, owner)| owner.is_none());
            let missing: Vec<String> = without.filter_map(|(row, _)| Some(clean(row.owner.as_deref()?))).collect();
            sqlx::query(NEW_USERS).bind(missing).execute(&mut *tx).await?;
            // Read again: somebody else may have made one of them at the same time.
            let found = users(tx, &work.rows).await?;
            work.owners = work.rows.iter().map(|row| owner_of(row, &found).or(Some(SYSTEM_USER.0))).collect();
        }
        work.read_contents(tx).await?;
        let taken = taken(tx, &work).await?;
        let (work, changed, fresh) = off_thread(move || {
            let (changed, fresh) = work.writes(&taken);
            (work, changed, fresh)
        })
        .await?;
        write(tx, UPDATE, &changed).await?;
        write(tx, INSERT, &fresh).await?;
        let left = work.assignment.gone.iter().filter_map(|at| work.existing.stored.get(*at));
        let left: Vec<Uuid> = left.map(|row| row.id.0).collect();
        let mut merged = Merged { guarded, ..Merged::default() };
        let left: Vec<MonitorId> = left.into_iter().map(MonitorId).collect();
        if merged.guarded.is_some() {
            merged.held = left;
        } else if !left.is_empty() {
            let ids: Vec<Uuid> = left.iter().map(|id| id.0).collect();
            let archived: Vec<Uuid> = sqlx::query_scalar(ARCHIVE).bind(ids).fetch_all(&mut *tx).await?;
            merged.archived = archived.into_iter().map(MonitorId).collect();
        }
        let written: Vec<Uuid> = changed.iter().chain(&fresh).map(|row| row.id).collect();
        let revisions: Vec<(Uuid, i64)> = match written.is_empty() {
            true => Vec::new(),
            false => sqlx::query_as(REVISIONS_OF).bind(&written).fetch_all(tx).await?,
        };
        merged.written = written.into_iter().map(MonitorId).collect();
        let before = Arc::clone(&self.baseline.lock().ids);
        let (merged, baseline) = off_thread(move || conclude(&work, merged, (&fresh, &revisions), before)).await?;
        Ok((MergeAnswer::Done(merged), Some(baseline)))
    }

    /// What [`CatalogStore::merge`](crate::catalog::CatalogStore::merge) would do; changes nothing, and needs no lease.
    ///
    /// # Errors
    /// [`StoreFault`] as every call.
    pub async fn plan(&self, rows: Arc<[FileRow]>) -> Result<Plan, StoreFault> {
        super::within(super::catalog::DEADLINE, async {
            let mut conn = self.pool.acquire().await?;
            let mut tx = conn.begin().await?;
            let planned = async {
                sqlx::query(READ_ONLY).execute(&mut *tx).await?;
                sqlx::query(PATIENCE).execute(&mut *tx).await?;
                let existing = existing(&mut tx).await?;
                let found = users(&mut tx, &rows).await?;
                let mut work = Work::plan(rows, existing, found, Arc::default()).await?;
                work.read_contents(&mut tx).await?;
                off_thread(move || {
                    Plan::describe(&work.rows, &work.existing.stored, &work.assignment, |index| work.differing(index))
                })
                .await
            };
            let planned = planned.await;
            finish(tx, planned).await
        })
        .await
    }
}

/// The ids of all keys, and what is known of their rows from now on.
fn conclude(
    work: &Work,
    mut merged: Merged,
    (fresh, written): (&[Wanted], &[(Uuid, i64)]),
    before: Arc<Ids>,
) -> (Merged, Known) {
    let written: HashMap<Uuid, i64> = written.iter().copied().collect();
    let mut rows = HashMap::with_capacity(work.rows.len());
    let mut ids = Ids::with_capacity(work.rows.len());
    let mut fresh = fresh.iter();
    for (index, (row, place)) in work.rows.iter().zip(&work.assignment.places).enumerate() {
        let (id, revision) = match place {
            Place::Own(at) | Place::Renamed(at) => {
                let Some(before) = work.existing.stored.get(*at) else { continue };
                (before.id.0, work.existing.revisions.get(*at).copied())
            }
            Place::New => match fresh.next() {
                Some(new) => (new.id, None),
                None => continue,
            },
        };
        let revision = written.get(&id).copied().or(revision);
        if let (Some(revision), Some(hash)) = (revision, work.hashes.get(index)) {
            rows.insert(id, (revision, *hash));
        }
        let owner = work.owners.get(index).copied().flatten().unwrap_or(SYSTEM_USER.0);
        ids.insert(row.key.clone(), (MonitorId(id), UserId(owner)));
    }
    for at in work.assignment.gone.iter().filter(|_| merged.guarded.is_some()) {
        let (Some(row), Some(owner)) = (work.existing.stored.get(*at), work.existing.owners.get(*at)) else { continue };
        // Nobody but a file's merge writes a key that is none.
        if let Ok(key) = row.key.parse() {
            ids.insert(key, (row.id, UserId(owner.unwrap_or(SYSTEM_USER.0))));
        }
    }
    merged.ids = if ids == *before { before } else { Arc::new(ids) };
    let ids = Arc::clone(&merged.ids);
    (merged, Known { rows, ids })
}

async fn existing(conn: &mut PgConnection) -> Result<Existing, sqlx::Error> {
    let mut existing = Existing::default();
    let mut stream = sqlx::query(ROWS).fetch(conn);
    while let Some(row) = stream.try_next().await? {
        existing.owners.push(row.try_get(1)?);
        existing.revisions.push(row.try_get(4)?);
        let (id, key, archived) = (MonitorId(row.try_get(0)?), row.try_get(2)?, row.try_get(3)?);
        existing.stored.push(StoredRow { id, key, archived });
    }
    Ok(existing)
}

fn content(row: &PgRow) -> Result<Content, sqlx::Error> {
    Ok(Content {
        user_id: row.try_get::<Option<Uuid>, _>(1)?.map(UserId),
        name: row.try_get(2)?,
        url: row.try_get(3)?,
        interval_seconds: row.try_get(4)?,
        timeout_seconds: row.try_get(5)?,
        is_active: row.try_get(6)?,
        kind: row.try_get(7)?,
        spec: row.try_get(8)?,
        tags: row.try_get(9)?,
    })
}

fn emails(rows: &[FileRow]) -> Vec<String> {
    let emails: HashSet<String> = rows.iter().filter_map(|row| row.owner.as_deref()).map(clean).collect();
    emails.into_iter().collect()
}

/// The users of the file's e-mails, by the e-mail as the file writes it. What is the same but for its case is Postgres' to
/// say.
async fn users(conn: &mut PgConnection, rows: &[FileRow]) -> Result<HashMap<String, Uuid>, sqlx::Error> {
    let emails = emails(rows);
    if emails.is_empty() {
        return Ok(HashMap::new());
    }
    let found: Vec<(String, Uuid)> = sqlx::query_as(USERS).bind(&emails).fetch_all(conn).await?;
    Ok(found.into_iter().collect())
}

/// None: the e-mail has no user yet.
fn owner_of(row: &FileRow, users: &HashMap<String, Uuid>) -> Option<Uuid> {
    match row.owner.as_deref() {
        Some(email) => users.get(&clean(email)).copied(),
        None => Some(SYSTEM_USER.0),
    }
}

/// Which version-5 ids of new keys belong to another row already (a renamed one keeps its id).
async fn taken(conn: &mut PgConnection, work: &Work) -> Result<HashSet<Uuid>, sqlx::Error> {
    let new = work.rows.iter().zip(&work.assignment.places).filter(|(_, place)| **place == Place::New);
    let ids: Vec<Uuid> = new.map(|(row, _)| MonitorId::of_key(&row.key).0).collect();
    if ids.is_empty() {
        return Ok(HashSet::new());
    }
    Ok(sqlx::query_scalar(TAKEN).bind(ids).fetch_all(conn).await?.into_iter().collect())
}

fn fresh_id(key: &MonitorKey, taken: &HashSet<Uuid>) -> Uuid {
    let id = MonitorId::of_key(key).0;
    if taken.contains(&id) { Uuid::new_v4() } else { id }
}

async fn write(conn: &mut PgConnection, statement: &'static str, rows: &[Wanted]) -> Result<(), sqlx::Error> {
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(statement)
        .bind(rows.iter().map(|row| row.id).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.user_id).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.name.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.url.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.interval_seconds).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.timeout_seconds).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.is_active).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.kind.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| &row.spec).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| array_literal(&row.tags)).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.key.as_str()).collect::<Vec<_>>())
        .execute(conn)
        .await?;
    Ok(())
}

/// A Postgres array literal: `unnest` flattens arrays of arrays, so each row's tags travel as text.
fn array_literal(items: &[String]) -> String {
    let mut out = String::from("{");
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        out.push('"');
        for c in item.chars() {
            if matches!(c, '"' | '\\') {
                out.push('\\');
            }
            out.push(c);
        }
        out.push('"');
    }
    out.push('}');
    out
}

#[cfg(test)]
mod tests {
    use super::array_literal;

    #[test]
    fn literals_are_escaped() {
        assert_eq!(array_literal(&[]), "{}");
        let tags = ["a".to_owned(), "b,c".to_owned(), "q\"\\".to_owned(), String::new(), "NULL".to_owned()];
        assert_eq!(array_literal(&tags), r#"{"a","b,c","q\"\\","","NULL"}"#);
    }
}
