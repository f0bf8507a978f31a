//! The status columns of `monitors`, in a transaction of their own: a web application's lock on one row must neither stop
//! a batch of checks nor the other rows.

use std::collections::{BTreeMap, HashSet};

use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

use super::{Problem, Store, finish};
use crate::journal::StatusRow;
use crate::model::{MonitorId, Status};

pub(super) const STATEMENTS: &[&str] = &[LOCK, WRITE, super::record::PRESENT];

const LOCK: &str = "SELECT id FROM monitors WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED";

/// What `update_uptime_percentage` does, for many in one statement. The rows are ours by [`LOCK`].
const WRITE: &str = "UPDATE monitors m SET status = coalesce(n.status, m.status), last_checked = coalesce(n.last_checked, m.last_checked), \
    response_time = coalesce(n.response_time, m.response_time), ssl_expiry = coalesce(n.ssl_expiry, m.ssl_expiry), \
    uptime_percentage = coalesce(floor(n.percentage)::integer, m.uptime_percentage), \
    uptime = coalesce(to_char(trunc(n.percentage, 2), 'FM990.00') || '%', m.uptime) \
    FROM (SELECT r.*, 100.0 * c.good / nullif(c.checks, 0) AS percentage \
        FROM unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::integer[], $5::timestamptz[]) \
            AS r (id, status, last_checked, response_time, ssl_expiry) \
        JOIN lamplighter_counts($1, now() - interval '720 hours', 'infinity') c ON c.monitor_id = r.id OFFSET 0) n \
    WHERE m.id = n.id";

impl Store {
    pub(super) async fn write_status_rows(&self, rows: &[StatusRow]) -> Result<Vec<MonitorId>, Problem> {
        // The last word on a monitor counts.
        let rows: BTreeMap<Uuid, &StatusRow> = rows.iter().map(|row| (row.monitor.0, row)).collect();
        let ids: Vec<Uuid> = rows.keys().copied().collect();
        let mut conn = self.pool.acquire().await?;
        let mut tx = conn.begin().await?;
        let result = self.write_free(&mut tx, ids, &rows).await;
        finish(tx, result).await
    }

    async fn write_free(
        &self,
        tx: &mut PgConnection,
        ids: Vec<Uuid>,
        rows: &BTreeMap<Uuid, &StatusRow>,
    ) -> Result<Vec<MonitorId>, Problem> {
        self.fence(tx).await?;
        let free: Vec<Uuid> = sqlx::query_scalar(LOCK).bind(&ids).fetch_all(&mut *tx).await?;
        let mine: Vec<&StatusRow> = free.iter().filter_map(|id| rows.get(id).copied()).collect();
        sqlx::query(WRITE)
            .bind(&free)
            .bind(mine.iter().map(|row| row.status.map(Status::name)).collect::<Vec<_>>())
            .bind(mine.iter().map(|row| row.last_checked).collect::<Vec<_>>())
            .bind(mine.iter().map(|row| row.response_time_ms).collect::<Vec<_>>())
            .bind(mine.iter().map(|row| row.ssl_expiry).collect::<Vec<_>>())
            .execute(&mut *tx)
            .await?;
        let free: HashSet<Uuid> = free.into_iter().collect();
        let missing: Vec<Uuid> = ids.into_iter().filter(|id| !free.contains(id)).collect();
        let mut skipped: Vec<Uuid> = Vec::new();
        if !missing.is_empty() {
            // Those that are gone need no second try.
            skipped = sqlx::query_scalar(super::record::PRESENT).bind(&missing).fetch_all(&mut *tx).await?;
        }
        Ok(skipped.into_iter().map(MonitorId).collect())
    }
}
