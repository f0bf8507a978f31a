//! Bringing the file's rows to what the file says: read all of them, compare here, write what differs.

use std::collections::{HashMap, HashSet};

use futures_util::TryStreamExt as _;
use sqlx::postgres::PgRow;
use sqlx::{Connection as _, PgConnection, Row as _};
use uuid::Uuid;

use super::catalog::PATIENCE;
use super::{Problem, Store, clean, clean_json, finish};
use crate::catalog::{FileRow, Merged};
use crate::model::{MonitorId, MonitorKey, SYSTEM_USER, UserId};

pub(super) const STATEMENTS: &[&str] = &[ROWS, USERS, NEW_USERS, TAKEN, INSERT, UPDATE, ARCHIVE];

const ROWS: &str = "SELECT id, user_id, name, url, interval_seconds, timeout_seconds, is_active, kind, spec, tags, key, \
    archived_at IS NOT NULL AS archived FROM monitors WHERE source = 'file' AND key IS NOT NULL";
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
    WHERE m.id = n.id";
const ARCHIVE: &str = "UPDATE monitors SET archived_at = now(), updated_at = now() WHERE id = ANY($1)";

/// A row as it stands.
struct Existing {
    id: Uuid,
    user_id: Option<Uuid>,
    name: String,
    url: String,
    interval_seconds: Option<i32>,
    timeout_seconds: Option<i32>,
    is_active: Option<bool>,
    kind: Option<String>,
    spec: Option<serde_json::Value>,
    tags: Option<Vec<Option<String>>>,
    key: String,
    archived: bool,
}

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
        let mut spec = row.spec.clone();
        clean_json(&mut spec);
        Self {
            id,
            user_id,
            name: clean(&row.name),
            url: clean(&row.url),
            interval_seconds: row.interval_seconds,
            timeout_seconds: row.timeout_seconds,
            is_active: row.is_active,
            kind: clean(&row.kind),
            spec,
            tags: row.tags.iter().map(|tag| clean(tag)).collect(),
            key: row.key.to_string(),
        }
    }
}

/// Compared before anything is copied: nearly every row of nearly every merge is as it was.
fn is_as_wanted(old: &Existing, row: &FileRow, user_id: Uuid) -> bool {
    let tags =
        |tags: &Vec<Option<String>>| tags.iter().map(Option::as_deref).eq(row.tags.iter().map(|t| Some(t.as_str())));
    !old.archived
        && old.user_id == Some(user_id)
        && old.key == row.key.as_str()
        && old.name == row.name
        && old.url == row.url
        && old.interval_seconds == Some(row.interval_seconds)
        && old.timeout_seconds == Some(row.timeout_seconds)
        && old.is_active == Some(row.is_active)
        && old.kind.as_ref() == Some(&row.kind)
        && old.tags.as_ref().is_some_and(tags)
        && old.spec.as_ref() == Some(&row.spec)
}

impl Store {
    pub(super) async fn merge_rows(&self, rows: &[FileRow]) -> Result<Merged, Problem> {
        let mut conn = self.pool.acquire().await?;
        let mut tx = conn.begin().await?;
        let result = self.merge_in(&mut tx, rows).await;
        finish(tx, result).await
    }

    async fn merge_in(&self, tx: &mut PgConnection, rows: &[FileRow]) -> Result<Merged, Problem> {
        sqlx::query(PATIENCE).execute(&mut *tx).await?;
        self.fence(tx).await?;
        let existing = existing(tx).await?;
        let owners = owners(tx, rows).await?;
        let by_key: HashMap<&str, &Existing> = existing.iter().map(|row| (row.key.as_str(), row)).collect();
        let taken = taken(tx, rows, &by_key).await?;

        let wanted_keys: HashSet<&str> = rows.iter().map(|row| row.key.as_str()).collect();
        let mut claimed: HashSet<Uuid> = HashSet::with_capacity(rows.len());
        let mut merged = Merged { ids: HashMap::with_capacity(rows.len()), archived: Vec::new() };
        let (mut fresh, mut changed) = (Vec::new(), Vec::new());
        for row in rows {
            let user_id = owner_of(row, &owners);
            let old = by_key.get(row.key.as_str()).copied().or_else(|| former(row, &by_key, &wanted_keys, &claimed));
            let id = match old {
                Some(old) => old.id,
                None => fresh_id(&row.key, &taken),
            };
            claimed.insert(id);
            match old {
                Some(old) if is_as_wanted(old, row, user_id) => {}
                Some(_) => changed.push(Wanted::of(row, id, user_id)),
                None => fresh.push(Wanted::of(row, id, user_id)),
            }
            merged.ids.insert(row.key.clone(), (MonitorId(id), UserId(user_id)));
        }
        let gone = existing.iter().filter(|row| !row.archived && !claimed.contains(&row.id));
        let mut gone: Vec<Uuid> = gone.map(|row| row.id).collect();
        // One order for every writer of many rows.
        gone.sort_unstable();
        changed.sort_unstable_by_key(|row| row.id);
        write(tx, UPDATE, &changed).await?;
        write(tx, INSERT, &fresh).await?;
        if !gone.is_empty() {
            sqlx::query(ARCHIVE).bind(&gone).execute(&mut *tx).await?;
        }
        merged.archived = gone.into_iter().map(MonitorId).collect();
        Ok(merged)
    }
}

async fn existing(conn: &mut PgConnection) -> Result<Vec<Existing>, sqlx::Error> {
    let mut rows = Vec::new();
    let mut stream = sqlx::query(ROWS).fetch(conn);
    while let Some(row) = stream.try_next().await? {
        rows.push(existing_row(&row)?);
    }
    Ok(rows)
}

fn existing_row(row: &PgRow) -> Result<Existing, sqlx::Error> {
    Ok(Existing {
        id: row.try_get(0)?,
        user_id: row.try_get(1)?,
        name: row.try_get(2)?,
        url: row.try_get(3)?,
        interval_seconds: row.try_get(4)?,
        timeout_seconds: row.try_get(5)?,
        is_active: row.try_get(6)?,
        kind: row.try_get(7)?,
        spec: row.try_get(8)?,
        tags: row.try_get(9)?,
        key: row.try_get(10)?,
        archived: row.try_get(11)?,
    })
}

/// The users of the file's e-mails, by the e-mail as the file writes it; those that are missing are made. What is the
/// same but for its case is Postgres' to say.
async fn owners(conn: &mut PgConnection, rows: &[FileRow]) -> Result<HashMap<String, Uuid>, sqlx::Error> {
    let emails: HashSet<String> = rows.iter().filter_map(|row| row.owner.as_deref()).map(clean).collect();
    if emails.is_empty() {
        return Ok(HashMap::new());
    }
    let emails: Vec<String> = emails.into_iter().collect();
    let found: Vec<(String, Uuid)> = sqlx::query_as(USERS).bind(&emails).fetch_all(&mut *conn).await?;
    let found: HashMap<String, Uuid> = found.into_iter().collect();
    let missing: Vec<&String> = emails.iter().filter(|email| !found.contains_key(*email)).collect();
    if missing.is_empty() {
        return Ok(found);
    }
    sqlx::query(NEW_USERS).bind(&missing).execute(&mut *conn).await?;
    // Read again: somebody else may have made one of them at the same time.
    let found: Vec<(String, Uuid)> = sqlx::query_as(USERS).bind(&emails).fetch_all(conn).await?;
    Ok(found.into_iter().collect())
}

fn owner_of(row: &FileRow, owners: &HashMap<String, Uuid>) -> Uuid {
    row.owner.as_deref().and_then(|email| owners.get(&clean(email)).copied()).unwrap_or(SYSTEM_USER.0)
}

/// Which version-5 ids of new keys belong to another row already (a renamed one keeps its id).
async fn taken(
    conn: &mut PgConnection,
    rows: &[FileRow],
    by_key: &HashMap<&str, &Existing>,
) -> Result<HashSet<Uuid>, sqlx::Error> {
    let new = rows.iter().filter(|row| !by_key.contains_key(row.key.as_str()));
    let ids: Vec<Uuid> = new.map(|row| MonitorId::of_key(&row.key).0).collect();
    if ids.is_empty() {
        return Ok(HashSet::new());
    }
    Ok(sqlx::query_scalar(TAKEN).bind(ids).fetch_all(conn).await?.into_iter().collect())
}

fn fresh_id(key: &MonitorKey, taken: &HashSet<Uuid>) -> Uuid {
    let id = MonitorId::of_key(key).0;
    if taken.contains(&id) { Uuid::new_v4() } else { id }
}

/// The row of the former key: unless that key is still in the file, or another monitor has taken it over.
fn former<'a>(
    row: &FileRow,
    by_key: &HashMap<&str, &'a Existing>,
    wanted: &HashSet<&str>,
    claimed: &HashSet<Uuid>,
) -> Option<&'a Existing> {
    let key = row.renamed_from.as_ref()?.as_str();
    if wanted.contains(key) {
        return None;
    }
    by_key.get(key).copied().filter(|old| !claimed.contains(&old.id))
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
