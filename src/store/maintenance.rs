//! [`MaintenanceStore`]: definitions of maintenance in, spans out.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;
use sqlx::postgres::PgRow;
use sqlx::{Connection as _, PgConnection, Row as _};
use uuid::Uuid;

use super::read::{one_more, page, user};
use super::{Problem, Store, clean, finish, within};
use crate::access::Viewer;
use crate::access::read::{MaintenanceName, MaintenanceView, Named, Page};
use crate::maintenance::definition::{MOST_OF_USER, MaintenanceRow};
use crate::maintenance::plan::Changes;
use crate::maintenance::{FileRow, MaintenanceStore, Progress};
use crate::model::{MaintenanceId, MonitorId, SYSTEM_USER, Source, Span, StoreFault, UserId};

pub(super) const STATEMENTS: &[&str] =
    &[IMPOSTORS, MERGE, ARCHIVE, LOAD, ALL, MARK, DONE_TO, RUNNING, WRITE, DELETE, PROGRESS, PAGE, ONE, BY_KEY];

/// Some thousand rows take a part of a second; the rest is for a busy server.
const DEADLINE: Duration = Duration::from_secs(20);
/// Rows of `maintenances` that are read at all.
const MOST_ROWS: i64 = 20_000;

/// Others may write any time, name, list; what of it could not be held is cut off here.
macro_rules! columns {
    ($named:literal) => {
        concat!(
        "w.id, w.user_id, w.source, left(w.key, 500) AS key, left(w.name, 500) AS name, \
         left(w.description, 4000) AS description, \
         ARRAY(SELECT m FROM unnest(w.monitors) m WHERE m IS NOT NULL LIMIT ", $named, ") AS monitors, \
         ARRAY(SELECT left(t, 500) FROM unnest(w.tags) t WHERE t IS NOT NULL LIMIT ", $named, ") AS tags, \
         CASE WHEN w.starts_at BETWEEN '1970-01-01 00:00+00' AND '9999-12-31 00:00+00' THEN w.starts_at END AS starts_at, \
         w.duration_seconds, left(w.rrule, 501) AS rrule, left(w.timezone, 100) AS timezone, w.exclude_from_uptime, \
         left(w.invalid_reason, 4000) AS invalid_reason, w.revision, \
         CASE WHEN w.created_at BETWEEN '1970-01-01 00:00+00' AND '9999-12-31 00:00+00' THEN w.created_at END AS created_at, \
         CASE WHEN w.updated_at BETWEEN '1970-01-01 00:00+00' AND '9999-12-31 00:00+00' THEN w.updated_at END AS updated_at, \
         CASE WHEN w.archived_at BETWEEN '1970-01-01 00:00+00' AND '9999-12-31 00:00+00' THEN w.archived_at END AS archived_at"
        )
    };
}

/// Rows that call themselves the file's.
const IMPOSTORS: &str = "DELETE FROM maintenances w USING unnest($1::uuid[], $2::text[]) AS f (id, key) \
    WHERE w.source = 'file' AND w.key = f.key AND w.id <> f.id";
/// Lists travel as texts: `unnest` flattens arrays of arrays.
const MERGE: &str = "INSERT INTO maintenances AS w (id, user_id, source, key, name, description, monitors, tags, starts_at, \
        duration_seconds, rrule, timezone, exclude_from_uptime) \
    SELECT id, $12, 'file', key, name, description, monitors::uuid[], \
        ARRAY(SELECT jsonb_array_elements_text(tags)), starts_at, duration_seconds, rrule, timezone, exclude_from_uptime \
    FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::jsonb[], $7::timestamptz[], $8::integer[], \
        $9::text[], $10::text[], $11::boolean[]) \
        AS f (id, key, name, description, monitors, tags, starts_at, duration_seconds, rrule, timezone, exclude_from_uptime) \
    ORDER BY id \
    ON CONFLICT (id) DO UPDATE SET user_id = excluded.user_id, source = 'file', key = excluded.key, name = excluded.name, \
        description = excluded.description, monitors = excluded.monitors, tags = excluded.tags, \
        starts_at = excluded.starts_at, duration_seconds = excluded.duration_seconds, rrule = excluded.rrule, \
        timezone = excluded.timezone, exclude_from_uptime = excluded.exclude_from_uptime, archived_at = NULL, \
        invalid_reason = NULL, updated_at = now() \
    WHERE (w.user_id, w.source, w.key, w.name, w.description, w.monitors, w.tags, w.starts_at, w.duration_seconds, w.rrule, \
            w.timezone, w.exclude_from_uptime, w.archived_at, w.invalid_reason) \
        IS DISTINCT FROM (excluded.user_id, 'file', excluded.key, excluded.name, excluded.description, excluded.monitors, \
            excluded.tags, excluded.starts_at, excluded.duration_seconds, excluded.rrule, excluded.timezone, \
            excluded.exclude_from_uptime, NULL, NULL)";
const ARCHIVE: &str = "UPDATE maintenances SET archived_at = now(), updated_at = now() \
    WHERE source = 'file' AND archived_at IS NULL AND id <> ALL($1)";
/// One user's many do not keep others' from being read.
const LOAD: &str = concat!(
    "SELECT ",
    columns!("10001"),
    " FROM (SELECT *, row_number() OVER (PARTITION BY user_id ORDER BY created_at, id) AS number FROM maintenances \
        WHERE archived_at IS NULL AND source <> 'file') w \
    WHERE w.number <= $1 ORDER BY w.number, w.id LIMIT $2"
);
/// The file's as well, as the file's daemon last merged them.
const ALL: &str = concat!(
    "SELECT ",
    columns!("10001"),
    " FROM maintenances w WHERE archived_at IS NULL ORDER BY w.created_at, w.id LIMIT $1"
);
const MARK: &str = "UPDATE maintenances w SET invalid_reason = n.reason FROM unnest($1::uuid[], $2::text[]) AS n (id, reason) \
    WHERE w.id = n.id AND w.invalid_reason IS DISTINCT FROM n.reason";
const DONE_TO: &str = "SELECT CASE WHEN done_to BETWEEN '1970-01-01 00:00+00' AND '9999-12-31 00:00+00' THEN done_to END \
    FROM maintenance_progress WHERE scope = $1";
/// Those that end as they begin to be looked at are among them: what follows them at once continues them.
const RUNNING: &str = "SELECT maintenance_id, monitor_id, from_at, to_at, excluded FROM maintenance_spans \
    WHERE to_at >= $1 AND from_at > '1970-01-01 00:00+00' AND to_at < '9999-12-31 00:00+00'";
const WRITE: &str = "INSERT INTO maintenance_spans (maintenance_id, monitor_id, from_at, to_at, excluded) \
    SELECT n.maintenance_id, m.id, n.from_at, n.to_at, n.excluded \
    FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[], $4::timestamptz[], $5::boolean[]) \
        AS n (maintenance_id, monitor_id, from_at, to_at, excluded) JOIN monitors m ON m.id = n.monitor_id \
    ORDER BY m.id, n.from_at \
    ON CONFLICT (monitor_id, from_at, maintenance_id) DO UPDATE SET to_at = excluded.to_at, excluded = excluded.excluded";
const DELETE: &str = "DELETE FROM maintenance_spans s USING unnest($1::uuid[], $2::uuid[], $3::timestamptz[]) \
        AS n (maintenance_id, monitor_id, from_at) \
    WHERE s.monitor_id = n.monitor_id AND s.from_at = n.from_at AND s.maintenance_id = n.maintenance_id";
const PROGRESS: &str = "INSERT INTO maintenance_progress (scope, done_to) VALUES ($1, $2) \
    ON CONFLICT (scope) DO UPDATE SET done_to = excluded.done_to";

const PAGE: &str = concat!(
    "SELECT now() AS seen_at, ",
    columns!("1000"),
    " FROM maintenances w WHERE ($1::uuid IS NULL OR w.user_id = $1) AND w.archived_at IS NULL \
        AND ($2::uuid IS NULL OR w.id > $2) ORDER BY w.id LIMIT $3::bigint"
);
const ONE: &str = concat!(
    "SELECT now() AS seen_at, ",
    columns!("1000"),
    " FROM maintenances w WHERE ($1::uuid IS NULL OR w.user_id = $1) AND w.id = $2"
);
/// The sources are named because the index begins with them.
const BY_KEY: &str = concat!(
    "SELECT now() AS seen_at, ",
    columns!("1000"),
    " FROM maintenances w WHERE ($1::uuid IS NULL OR w.user_id = $1) \
        AND w.source = ANY(ARRAY['file', 'api', 'database']) AND w.key = $2 \
     ORDER BY array_position(ARRAY['file', 'api', 'database'], w.source::text) LIMIT 1"
);

type Answer<'a, T> = BoxFuture<'a, Result<T, StoreFault>>;

impl MaintenanceStore for Store {
    fn merge_maintenances(&self, rows: Arc<[FileRow]>) -> Answer<'_, ()> {
        Box::pin(within(DEADLINE, async move {
            let mut conn = self.pool.acquire().await?;
            let mut tx = conn.begin().await?;
            let result = self.merge_file(&mut tx, &rows).await;
            finish(tx, result).await
        }))
    }

    fn load_maintenances(&self) -> Answer<'_, Vec<MaintenanceRow>> {
        Box::pin(within(DEADLINE, async move {
            let each = i64::try_from(MOST_OF_USER * 2).unwrap_or(i64::MAX);
            let rows = sqlx::query(LOAD).bind(each).bind(MOST_ROWS).fetch_all(&self.pool).await?;
            let rows = rows.iter().map(maintenance_row).collect::<Result<Vec<_>, _>>()?;
            Ok::<_, Problem>(rows)
        }))
    }

    fn mark_maintenances(&self, reasons: Vec<(MaintenanceId, Option<String>)>) -> Answer<'_, ()> {
        Box::pin(within(DEADLINE, async move {
            let mut conn = self.pool.acquire().await?;
            let mut tx = conn.begin().await?;
            let result = async {
                self.fence(&mut tx).await?;
                sqlx::query(MARK)
                    .bind(reasons.iter().map(|(id, _)| id.0).collect::<Vec<_>>())
                    .bind(reasons.iter().map(|(_, why)| why.as_deref().map(clean)).collect::<Vec<_>>())
                    .execute(&mut *tx)
                    .await?;
                Ok::<_, Problem>(())
            };
            let result = result.await;
            finish(tx, result).await
        }))
    }

    fn span_progress(&self, now: DateTime<Utc>) -> Answer<'_, Progress> {
        Box::pin(within(DEADLINE, async move {
            let done_to: Option<Option<DateTime<Utc>>> =
                sqlx::query_scalar(DONE_TO).bind(&*self.region).fetch_optional(&self.pool).await?;
            let done_to = done_to.flatten();
            let since = done_to.unwrap_or(now).min(now);
            let rows = sqlx::query(RUNNING).bind(since).fetch_all(&self.pool).await?;
            let running = rows.iter().map(span).collect::<Result<Vec<_>, _>>()?;
            Ok::<_, Problem>(Progress { done_to, running })
        }))
    }

    fn write_spans(&self, changes: Changes, done_to: DateTime<Utc>) -> Answer<'_, ()> {
        Box::pin(within(DEADLINE, async move {
            let mut conn = self.pool.acquire().await?;
            let mut tx = conn.begin().await?;
            let result = self.write_changes(&mut tx, &changes, done_to).await;
            finish(tx, result).await
        }))
    }

    fn maintenances_changed(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.maintenance_told.notified())
    }
}

impl Store {
    /// Every maintenance that is not archived, whoever wrote it, oldest first; the count is bounded.
    ///
    /// # Errors
    /// [`StoreFault`] as every call.
    pub async fn all_maintenances(&self) -> Result<Vec<MaintenanceRow>, StoreFault> {
        within(DEADLINE, async {
            let rows = sqlx::query(ALL).bind(MOST_ROWS).fetch_all(&self.pool).await?;
            let rows = rows.iter().map(maintenance_row).collect::<Result<Vec<_>, _>>()?;
            Ok::<_, Problem>(rows)
        })
        .await
    }

    pub(super) async fn read_maintenances(
        &self,
        viewer: Viewer,
        after: Option<MaintenanceId>,
        limit: u16,
    ) -> Result<Page<MaintenanceView, MaintenanceId>, Problem> {
        let rows = sqlx::query(PAGE).bind(user(viewer)).bind(after.map(|id| id.0)).bind(one_more(limit));
        page(&rows.fetch_all(&self.reading).await?, limit, view, |view: &MaintenanceView| view.row.id)
    }

    pub(super) async fn read_maintenance(
        &self,
        viewer: Viewer,
        name: MaintenanceName,
    ) -> Result<Option<MaintenanceView>, Problem> {
        let row = match name {
            Named::Id(id) => sqlx::query(ONE).bind(user(viewer)).bind(id.0),
            Named::Key(key) => sqlx::query(BY_KEY).bind(user(viewer)).bind(key),
        };
        let row = row.fetch_optional(&self.reading).await?;
        Ok(row.as_ref().map(view).transpose()?)
    }

    async fn merge_file(&self, tx: &mut PgConnection, rows: &[FileRow]) -> Result<(), Problem> {
        self.fence(tx).await?;
        let ids: Vec<Uuid> = rows.iter().map(|row| row.id.0).collect();
        let keys: Vec<&str> = rows.iter().map(|row| row.key.as_str()).collect();
        if !rows.is_empty() {
            sqlx::query(IMPOSTORS).bind(&ids).bind(&keys).execute(&mut *tx).await?;
            let tags = |row: &FileRow| row.tags.iter().map(|tag| clean(tag)).collect::<serde_json::Value>();
            sqlx::query(MERGE)
                .bind(&ids)
                .bind(&keys)
                .bind(rows.iter().map(|row| clean(&row.name)).collect::<Vec<_>>())
                .bind(rows.iter().map(|row| row.description.as_deref().map(clean)).collect::<Vec<_>>())
                .bind(rows.iter().map(|row| uuid_list(&row.monitors)).collect::<Vec<_>>())
                .bind(rows.iter().map(tags).collect::<Vec<_>>())
                .bind(rows.iter().map(|row| row.starts_at).collect::<Vec<_>>())
                .bind(rows.iter().map(|row| row.duration_seconds).collect::<Vec<_>>())
                .bind(rows.iter().map(|row| row.rrule.as_deref().map(clean)).collect::<Vec<_>>())
                .bind(rows.iter().map(|row| row.timezone).collect::<Vec<_>>())
                .bind(rows.iter().map(|row| row.excluded).collect::<Vec<_>>())
                .bind(SYSTEM_USER.0)
                .execute(&mut *tx)
                .await?;
        }
        sqlx::query(ARCHIVE).bind(&ids).execute(tx).await?;
        Ok(())
    }

    async fn write_changes(
        &self,
        tx: &mut PgConnection,
        changes: &Changes,
        done_to: DateTime<Utc>,
    ) -> Result<(), Problem> {
        self.fence(tx).await?;
        let Changes { write, delete } = changes;
        if !delete.is_empty() {
            sqlx::query(DELETE)
                .bind(delete.iter().map(|span| span.maintenance.0).collect::<Vec<_>>())
                .bind(delete.iter().map(|span| span.monitor.0).collect::<Vec<_>>())
                .bind(delete.iter().map(|span| span.from_at).collect::<Vec<_>>())
                .execute(&mut *tx)
                .await?;
        }
        if !write.is_empty() {
            sqlx::query(WRITE)
                .bind(write.iter().map(|span| span.maintenance.0).collect::<Vec<_>>())
                .bind(write.iter().map(|span| span.monitor.0).collect::<Vec<_>>())
                .bind(write.iter().map(|span| span.from_at).collect::<Vec<_>>())
                .bind(write.iter().map(|span| span.to_at).collect::<Vec<_>>())
                .bind(write.iter().map(|span| span.excluded).collect::<Vec<_>>())
                .execute(&mut *tx)
                .await?;
        }
        sqlx::query(PROGRESS).bind(&*self.region).bind(done_to).execute(tx).await?;
        Ok(())
    }
}

/// A Postgres array literal.
fn uuid_list(ids: &[MonitorId]) -> String {
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    format!("{{{}}}", ids.join(","))
}

fn view(row: &PgRow) -> Result<MaintenanceView, sqlx::Error> {
    Ok(MaintenanceView { row: maintenance_row(row)?, seen_at: row.try_get("seen_at")? })
}

fn maintenance_row(row: &PgRow) -> Result<MaintenanceRow, sqlx::Error> {
    let source: String = row.try_get("source")?;
    let monitors: Vec<Uuid> = row.try_get("monitors")?;
    Ok(MaintenanceRow {
        id: MaintenanceId(row.try_get("id")?),
        user_id: UserId(row.try_get("user_id")?),
        source: match source.as_str() {
            "file" => Source::File,
            "api" => Source::Api,
            _ => Source::Database,
        },
        key: row.try_get("key")?,
        name: row.try_get("name")?,
        description: row.try_get("description")?,
        monitors: monitors.into_iter().map(MonitorId).collect(),
        tags: row.try_get("tags")?,
        starts_at: row.try_get("starts_at")?,
        duration_seconds: row.try_get("duration_seconds")?,
        rrule: row.try_get("rrule")?,
        timezone: row.try_get("timezone")?,
        exclude_from_uptime: row.try_get("exclude_from_uptime")?,
        invalid_reason: row.try_get("invalid_reason")?,
        revision: row.try_get("revision")?,
        created_at: row.try_get("created_at")?,
        updated_at: row.try_get("updated_at")?,
        archived_at: row.try_get("archived_at")?,
    })
}

fn span(row: &PgRow) -> Result<Span, sqlx::Error> {
    Ok(Span {
        maintenance: MaintenanceId(row.try_get("maintenance_id")?),
        monitor: MonitorId(row.try_get("monitor_id")?),
        from_at: row.try_get("from_at")?,
        to_at: row.try_get("to_at")?,
        excluded: row.try_get("excluded")?,
    })
}
