//! Objectives: their monitors, and the memory of their status.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{Connection as _, PgConnection, Row as _};
use uuid::Uuid;

use super::{Problem, Store, finish, within};
use crate::access::Viewer;
use crate::model::{MonitorId, StoreFault, UserId};
use crate::slo::{Report, SloStatus, Standing};

pub(super) const STATEMENTS: &[&str] = &[MONITORS, STANDINGS, SAVE, FORGET, LIST, ONE];

/// Monitors that an objective may be about. Cut: other people's texts may be of any length.
const MONITORS: &str = "SELECT m.id, m.user_id, CASE WHEN m.source = 'file' THEN m.key END AS key, \
        left(coalesce(m.key, m.name), 500) AS label, ARRAY(SELECT t FROM unnest(m.tags) t WHERE t = ANY($3)) AS tags \
    FROM monitors m WHERE m.archived_at IS NULL \
        AND (m.id = ANY($2) OR (m.source = 'file' AND m.key = ANY($1)) OR m.tags && $3::text[]) ORDER BY m.id";
const STANDINGS: &str = "SELECT id, status, since, calmer_since FROM slo_state WHERE region = $1";
const SAVE: &str = "INSERT INTO slo_state AS s (region, id, user_id, status, since, calmer_since, evaluated_at, report) \
    SELECT $8, id, user_id, status, since, calmer_since, evaluated_at, report \
    FROM unnest($1::text[], $2::uuid[], $3::text[], $4::timestamptz[], $5::timestamptz[], $6::timestamptz[], $7::jsonb[]) \
        AS n (id, user_id, status, since, calmer_since, evaluated_at, report) \
    ON CONFLICT (region, id) DO UPDATE SET user_id = excluded.user_id, status = excluded.status, since = excluded.since, \
        calmer_since = excluded.calmer_since, evaluated_at = excluded.evaluated_at, report = excluded.report";
const FORGET: &str = "DELETE FROM slo_state WHERE region = $1 AND id <> ALL($2)";
/// Without the monitors of each, which are many.
const LIST: &str = "SELECT report - 'monitors' FROM slo_state WHERE region = $1 AND ($2::uuid IS NULL OR user_id = $2) \
    ORDER BY id LIMIT 1000";
const ONE: &str = "SELECT report FROM slo_state WHERE region = $1 AND ($2::uuid IS NULL OR user_id = $2) AND id = $3";

const DEADLINE: Duration = Duration::from_secs(10);

/// A monitor of objectives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SloMonitor {
    /// Which.
    pub id: MonitorId,
    /// Whose.
    pub owner: UserId,
    /// `id` of the file.
    pub key: Option<String>,
    /// Key or name.
    pub label: String,
    /// Those of its labels that were asked for.
    pub tags: Vec<String>,
}

/// An evaluated objective, to be remembered.
#[derive(Clone, Debug)]
pub struct SloRow {
    /// Whose all its monitors are.
    pub owner: Option<UserId>,
    /// How it stands.
    pub standing: Standing,
    /// What was found.
    pub report: Report,
}

impl SloRow {
    /// Whether somebody sees it: all its monitors must be theirs.
    #[must_use]
    pub fn is_seen(&self, viewer: Viewer) -> bool {
        viewer == Viewer::Everything || self.owner.is_some_and(|owner| viewer.sees(owner))
    }
}

impl Store {
    /// Monitors by keys of the file, by ids, and by labels, that are not archived.
    ///
    /// # Errors
    /// [`StoreFault`] as every call.
    pub async fn slo_monitors(
        &self,
        keys: &[String],
        ids: &[Uuid],
        tags: &[String],
    ) -> Result<Vec<SloMonitor>, StoreFault> {
        within(DEADLINE, async {
            let rows = sqlx::query(MONITORS).bind(keys).bind(ids).bind(tags).fetch_all(&self.reading).await?;
            let monitor = |row: &sqlx::postgres::PgRow| {
                Ok(SloMonitor {
                    id: MonitorId(row.try_get("id")?),
                    owner: UserId(row.try_get("user_id")?),
                    key: row.try_get("key")?,
                    label: row.try_get("label")?,
                    tags: row.try_get("tags")?,
                })
            };
            Ok::<_, Problem>(rows.iter().map(monitor).collect::<Result<Vec<_>, sqlx::Error>>()?)
        })
        .await
    }

    /// What is remembered of objectives of this region, by id.
    ///
    /// # Errors
    /// [`StoreFault`] as every call.
    pub async fn slo_standings(&self) -> Result<Vec<(String, Standing)>, StoreFault> {
        type Remembered = (String, String, DateTime<Utc>, Option<DateTime<Utc>>);
        within(DEADLINE, async {
            let rows: Vec<Remembered> = sqlx::query_as(STANDINGS).bind(&*self.region).fetch_all(&self.pool).await?;
            let standing = |(id, status, since, calmer_since): Remembered| {
                Some((id, Standing { status: SloStatus::from_name(&status)?, since, calmer_since }))
            };
            Ok::<_, Problem>(rows.into_iter().filter_map(standing).collect())
        })
        .await
    }

    /// Remembers evaluated objectives, and forgets all others of this region.
    ///
    /// # Errors
    /// [`StoreFault`] as every call; `Fenced` when the lease is another's.
    pub async fn save_slos(&self, rows: &[SloRow]) -> Result<(), StoreFault> {
        within(DEADLINE, async {
            let mut conn = self.pool.acquire().await?;
            let mut tx = conn.begin().await?;
            let result = self.write_slos(&mut tx, rows).await;
            finish(tx, result).await
        })
        .await
    }

    async fn write_slos(&self, tx: &mut PgConnection, rows: &[SloRow]) -> Result<(), Problem> {
        self.fence(tx).await?;
        let ids: Vec<&str> = rows.iter().map(|row| row.report.id.as_str()).collect();
        sqlx::query(FORGET).bind(&*self.region).bind(&ids).execute(&mut *tx).await?;
        if rows.is_empty() {
            return Ok(());
        }
        sqlx::query(SAVE)
            .bind(&ids)
            .bind(rows.iter().map(|row| row.owner.map(|owner| owner.0)).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.standing.status.name()).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.standing.since).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.standing.calmer_since).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.report.evaluated_at).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| super::record::json(&row.report)).collect::<Result<Vec<_>, _>>()?)
            .bind(&*self.region)
            .execute(tx)
            .await?;
        Ok(())
    }

    pub(super) async fn read_slos(&self, viewer: Viewer) -> Result<Vec<serde_json::Value>, Problem> {
        let user = super::read::user(viewer);
        Ok(sqlx::query_scalar(LIST).bind(&*self.region).bind(user).fetch_all(&self.reading).await?)
    }

    pub(super) async fn read_slo(&self, viewer: Viewer, id: &str) -> Result<Option<serde_json::Value>, Problem> {
        let user = super::read::user(viewer);
        Ok(sqlx::query_scalar(ONE).bind(&*self.region).bind(user).bind(id).fetch_optional(&self.reading).await?)
    }
}
