//! The file's rows as they are read, and as they are written.

use std::collections::{HashMap, HashSet};

use futures_util::TryStreamExt as _;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::super::{clean, clean_json};
use super::work::Work;
use crate::catalog::FileRow;
use crate::catalog::plan::{Content, Place, StoredRow};
use crate::model::{MonitorId, UserId};

pub(super) const ROWS: &str = "SELECT id, user_id, key, archived_at IS NOT NULL AS archived, revision FROM monitors \
    WHERE source = 'file' AND key IS NOT NULL";
/// Never newer than its revision above is old: what changes in between has another revision, and is read the next time.
pub(super) const CONTENTS: &str = "SELECT id, user_id, name, url, interval_seconds, timeout_seconds, is_active, kind, spec, tags \
    FROM monitors WHERE id = ANY($1)";
pub(super) const REVISIONS_OF: &str = "SELECT id, revision FROM monitors WHERE id = ANY($1)";
/// Of several that differ in case only, the oldest.
pub(super) const USERS: &str = "SELECT DISTINCT ON (w.email) w.email, u.id FROM unnest($1::text[]) AS w (email) \
    JOIN users u ON lower(u.email) = lower(w.email) ORDER BY w.email, u.created_at, u.id";
pub(super) const NEW_USERS: &str = "INSERT INTO users (email) SELECT DISTINCT ON (lower(email)) email FROM unnest($1::text[]) AS w (email) \
    ORDER BY lower(email), email ON CONFLICT DO NOTHING";
pub(super) const TAKEN: &str = "SELECT id FROM monitors WHERE id = ANY($1)";
pub(super) const INSERT: &str = "INSERT INTO monitors (id, user_id, name, url, interval_seconds, timeout_seconds, is_active, kind, spec, \
        tags, key, source) \
    SELECT id, user_id, name, url, interval_seconds, timeout_seconds, is_active, kind, spec, tags::text[], key, 'file' \
    FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::integer[], $6::integer[], $7::boolean[], $8::text[], \
        $9::jsonb[], $10::text[], $11::text[]) \
        AS n (id, user_id, name, url, interval_seconds, timeout_seconds, is_active, kind, spec, tags, key)";
pub(super) const UPDATE: &str = "UPDATE monitors m SET user_id = n.user_id, name = n.name, url = n.url, \
        interval_seconds = n.interval_seconds, timeout_seconds = n.timeout_seconds, is_active = n.is_active, kind = n.kind, \
        spec = n.spec, tags = n.tags::text[], key = n.key, archived_at = NULL, updated_at = now() \
    FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::integer[], $6::integer[], $7::boolean[], $8::text[], \
        $9::jsonb[], $10::text[], $11::text[]) \
        AS n (id, user_id, name, url, interval_seconds, timeout_seconds, is_active, kind, spec, tags, key) \
    WHERE m.id = n.id AND m.source = 'file'";

/// A row as it is to be.
pub(super) struct Wanted {
    pub(super) id: Uuid,
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
    pub(super) fn of(row: &FileRow, id: Uuid, user_id: Uuid) -> Self {
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

/// The rows of the file as they stand, without content.
#[derive(Default)]
pub(super) struct Existing {
    pub(super) stored: Vec<StoredRow>,
    /// In the same order.
    pub(super) owners: Vec<Option<Uuid>>,
    pub(super) revisions: Vec<i64>,
}

pub(super) async fn existing(conn: &mut PgConnection) -> Result<Existing, sqlx::Error> {
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

impl Work {
    /// Reads the content of what may differ.
    pub(super) async fn read_contents(&mut self, conn: &mut PgConnection) -> Result<(), sqlx::Error> {
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
}

fn emails(rows: &[FileRow]) -> Vec<String> {
    let emails: HashSet<String> = rows.iter().filter_map(|row| row.owner.as_deref()).map(clean).collect();
    emails.into_iter().collect()
}

/// The users of the file's e-mails, by the e-mail as the file writes it. What is the same but for its case is Postgres' to
/// say.
pub(super) async fn users(conn: &mut PgConnection, rows: &[FileRow]) -> Result<HashMap<String, Uuid>, sqlx::Error> {
    let emails = emails(rows);
    if emails.is_empty() {
        return Ok(HashMap::new());
    }
    let found: Vec<(String, Uuid)> = sqlx::query_as(USERS).bind(&emails).fetch_all(conn).await?;
    Ok(found.into_iter().collect())
}

/// Which version-5 ids of new keys belong to another row already (a renamed one keeps its id).
pub(super) async fn taken(conn: &mut PgConnection, work: &Work) -> Result<HashSet<Uuid>, sqlx::Error> {
    let new = work.rows.iter().zip(&work.assignment.places).filter(|(_, place)| **place == Place::New);
    let ids: Vec<Uuid> = new.map(|(row, _)| MonitorId::of_key(&row.key).0).collect();
    if ids.is_empty() {
        return Ok(HashSet::new());
    }
    Ok(sqlx::query_scalar(TAKEN).bind(ids).fetch_all(conn).await?.into_iter().collect())
}

pub(super) async fn write(
    conn: &mut PgConnection,
    statement: &'static str,
    rows: &[Wanted],
) -> Result<(), sqlx::Error> {
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
