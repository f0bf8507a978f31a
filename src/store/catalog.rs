//! [`CatalogStore`]: rows of `monitors` in, what they mean out.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::TryStreamExt as _;
use futures_util::future::BoxFuture;
use sqlx::postgres::{PgListener, PgRow};
use sqlx::{Connection as _, Row as _};
use uuid::Uuid;

use super::{Problem, Store, fault_of, finish, within};
use crate::catalog::limits::Owners;
use crate::catalog::plan::Guard;
use crate::catalog::{CatalogStore, FileRow, Mark, MergeAnswer, MonitorRow};
use crate::model::{IncidentUid, MonitorId, MonitorState, Source, Status, StoreFault, UserId};

pub(super) const STATEMENTS: &[&str] = &[LOAD, DISMISSED, ARCHIVED, REVISIONS, OWNERS, INVALID_LOCK, INVALID, PATIENCE];

/// The channel of `migrations/0004_triggers.sql`.
const CHANNEL: &str = "lamplighter_monitors";
/// That of `migrations/0008_maintenance.sql`, on the same connection.
const MAINTENANCE: &str = "lamplighter_maintenances";

/// 100,000 rows take about a second; the rest is for a busy server.
pub(super) const DEADLINE: Duration = Duration::from_secs(60);
const LISTEN_DEADLINE: Duration = Duration::from_secs(5);
pub(super) const PATIENCE: &str = "SELECT set_config('statement_timeout', '60s', true)";

/// Others may write any time, and decoding one beyond chrono's range (or 'infinity') panics.
/// A monitor has one open incident of a daemon at the most; one that the living daemon of another region has is not ours.
const LOAD: &str = "SELECT m.id, m.user_id, m.name, m.url, coalesce(m.interval_seconds, 300) AS interval_seconds, \
        coalesce(m.timeout_seconds, 10) AS timeout_seconds, coalesce(m.is_active, true) AS is_active, m.kind, \
        coalesce(m.spec, '{}') AS spec, array_remove(coalesce(m.tags, '{}'), NULL) AS tags, m.source, m.key, m.revision, \
        m.invalid_reason, s.state, \
        CASE WHEN m.last_checked BETWEEN '1970-01-01 00:00+00' AND '9999-12-31 00:00+00' THEN m.last_checked END \
            AS last_checked, \
        CASE WHEN m.created_at BETWEEN '1970-01-01 00:00+00' AND '9999-12-31 00:00+00' THEN m.created_at END AS created_at, \
        i.uid AS open_incident, CASE WHEN i.started_at BETWEEN '1970-01-01 00:00+00' AND '9999-12-31 00:00+00' \
            THEN i.started_at END AS open_since \
    FROM monitors m \
    LEFT JOIN monitor_state s ON s.monitor_id = m.id AND s.region = $1 \
    LEFT JOIN incidents i ON i.monitor_id = m.id AND i.source = 'daemon' AND i.resolved_at IS NULL \
        AND NOT EXISTS (SELECT FROM monitor_state o JOIN daemon_lease l ON l.scope = o.region \
            WHERE o.monitor_id = m.id AND o.region <> $1 AND o.incident = i.uid AND l.expires_at > clock_timestamp() \
                AND l.holder IS DISTINCT FROM (SELECT holder FROM daemon_lease WHERE scope = $1)) \
    WHERE m.archived_at IS NULL AND ($2::uuid[] IS NULL OR m.id = ANY($2))";
/// The state and its incident are written in one transaction, so an incident that is no longer open was ended by others.
const DISMISSED: &str = "SELECT s.monitor_id, s.incident FROM monitor_state s WHERE s.region = $1 AND s.incident IS NOT NULL \
    AND NOT EXISTS (SELECT FROM incidents i WHERE i.uid = s.incident AND i.resolved_at IS NULL)";
const ARCHIVED: &str = "SELECT id FROM monitors WHERE id = ANY($1) AND archived_at IS NOT NULL";
const REVISIONS: &str = "SELECT id, revision FROM monitors WHERE archived_at IS NULL";
const OWNERS: &str = "SELECT u.id, u.plan FROM users u WHERE u.plan = ANY($1::text[]) AND EXISTS (SELECT FROM monitors m \
    WHERE m.user_id = u.id AND m.archived_at IS NULL AND m.source <> 'file')";
const INVALID_LOCK: &str = "SELECT m.id FROM monitors m \
    JOIN unnest($1::uuid[], $2::text[]) AS n (id, reason) ON n.id = m.id AND n.reason IS DISTINCT FROM m.invalid_reason \
    ORDER BY m.id FOR NO KEY UPDATE OF m";
const INVALID: &str = "UPDATE monitors m SET invalid_reason = n.reason, \
        status = CASE WHEN n.reason IS NULL THEN m.status ELSE n.status END \
    FROM unnest($1::uuid[], $2::text[], $3::text[]) AS n (id, reason, status) \
    WHERE m.id = n.id AND n.reason IS DISTINCT FROM m.invalid_reason";

impl CatalogStore for Store {
    fn merge(&self, rows: Arc<[FileRow]>, guard: Guard) -> BoxFuture<'_, Result<MergeAnswer, StoreFault>> {
        Box::pin(within(DEADLINE, self.merge_rows(rows, guard)))
    }

    fn load<'a>(&'a self, only: Option<&'a [MonitorId]>) -> BoxFuture<'a, Result<Vec<MonitorRow>, StoreFault>> {
        Box::pin(within(DEADLINE, async move {
            let only: Option<Vec<Uuid>> = only.map(|ids| ids.iter().map(|id| id.0).collect());
            let mut conn = self.pool.acquire().await?;
            let mut tx = conn.begin().await?;
            sqlx::query(PATIENCE).execute(&mut *tx).await?;
            let mut rows = Vec::new();
            {
                let mut stream = sqlx::query(LOAD).bind(&*self.region).bind(only).fetch(&mut *tx);
                while let Some(row) = stream.try_next().await? {
                    rows.push(monitor_row(&row)?);
                }
            }
            tx.commit().await?;
            Ok::<_, Problem>(rows)
        }))
    }

    fn dismissed(&self) -> BoxFuture<'_, Result<Vec<(MonitorId, IncidentUid)>, StoreFault>> {
        Box::pin(within(DEADLINE, async {
            let rows: Vec<(Uuid, Uuid)> = sqlx::query_as(DISMISSED).bind(&*self.region).fetch_all(&self.pool).await?;
            Ok::<_, Problem>(rows.into_iter().map(|(id, uid)| (MonitorId(id), IncidentUid(uid))).collect())
        }))
    }

    fn archived<'a>(&'a self, ids: &'a [MonitorId]) -> BoxFuture<'a, Result<Vec<MonitorId>, StoreFault>> {
        Box::pin(within(DEADLINE, async {
            let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
            let rows: Vec<Uuid> = sqlx::query_scalar(ARCHIVED).bind(ids).fetch_all(&self.pool).await?;
            Ok::<_, Problem>(rows.into_iter().map(MonitorId).collect())
        }))
    }

    fn revisions(&self) -> BoxFuture<'_, Result<Vec<(MonitorId, i64)>, StoreFault>> {
        Box::pin(within(DEADLINE, async {
            let rows: Vec<(Uuid, i64)> = sqlx::query_as(REVISIONS).fetch_all(&self.pool).await?;
            Ok::<_, Problem>(rows.into_iter().map(|(id, revision)| (MonitorId(id), revision)).collect())
        }))
    }

    fn owners<'a>(&'a self, plans: &'a [Arc<str>]) -> BoxFuture<'a, Result<Owners, StoreFault>> {
        Box::pin(within(DEADLINE, async {
            let names: Vec<&str> = plans.iter().map(|name| &**name).collect();
            let rows: Vec<(Uuid, String)> = sqlx::query_as(OWNERS).bind(names).fetch_all(&self.pool).await?;
            Ok::<_, Problem>(rows.into_iter().map(|(id, plan)| (UserId(id), plan)).collect())
        }))
    }

    fn mark_invalid<'a>(&'a self, marks: &'a [Mark]) -> BoxFuture<'a, Result<(), StoreFault>> {
        Box::pin(within(DEADLINE, async {
            if marks.is_empty() {
                return Ok(());
            }
            let ids: Vec<Uuid> = marks.iter().map(|mark| mark.id.0).collect();
            let texts: Vec<Option<String>> =
                marks.iter().map(|mark| mark.reason.as_deref().map(super::clean)).collect();
            let statuses: Vec<&str> = marks.iter().map(|mark| mark.status.name()).collect();
            let mut conn = self.pool.acquire().await?;
            let mut tx = conn.begin().await?;
            let result = async {
                self.fence(&mut tx).await?;
                // In id order, as every writer of many rows: no two of them can wait for each other.
                sqlx::query(INVALID_LOCK).bind(&ids).bind(&texts).execute(&mut *tx).await?;
                sqlx::query(INVALID).bind(&ids).bind(&texts).bind(&statuses).execute(&mut *tx).await?;
                Ok::<_, Problem>(())
            };
            let result = result.await;
            finish(tx, result).await
        }))
    }

    fn changed(&self) -> BoxFuture<'_, Result<(), StoreFault>> {
        Box::pin(self.wait_for_change())
    }
}

impl Store {
    /// Without a deadline: nothing may happen for days. Cancel-safe: the connection stays for the next call.
    async fn wait_for_change(&self) -> Result<(), StoreFault> {
        let mut slot = self.listener.lock().await;
        let Some(listener) = slot.as_mut() else {
            *slot = Some(within(LISTEN_DEADLINE, async { Ok::<_, Problem>(self.listen().await?) }).await?);
            // What changed before we listened went unheard.
            self.maintenance_told.notify_one();
            return Ok(());
        };
        match listener.try_recv().await {
            Ok(Some(first)) => {
                // One wake-up for all that has arrived by now.
                let mut told = Some(first);
                while let Some(notification) = told {
                    if notification.channel() == MAINTENANCE {
                        self.maintenance_told.notify_one();
                    }
                    told = listener.next_buffered();
                }
                Ok(())
            }
            Ok(None) => {
                *slot = None;
                Err(StoreFault::Away("the connection that listens for changes was lost".to_owned()))
            }
            Err(error) => {
                *slot = None;
                Err(fault_of(error))
            }
        }
    }

    async fn listen(&self) -> Result<PgListener, sqlx::Error> {
        let mut listener = PgListener::connect_with(&self.listening).await?;
        listener.eager_reconnect(false);
        listener.listen_all([CHANNEL, MAINTENANCE]).await?;
        Ok(listener)
    }
}

fn monitor_row(row: &PgRow) -> Result<MonitorRow, sqlx::Error> {
    let id: Uuid = row.try_get("id")?;
    let state: Option<serde_json::Value> = row.try_get("state")?;
    let state = state.and_then(|state| match serde_json::from_value::<MonitorState>(state) {
        Ok(state) => Some(state),
        Err(error) => {
            log::warn!(monitor_id = id.to_string().as_str(); "its stored state cannot be read, it starts anew: {error}");
            None
        }
    });
    let open: Option<Uuid> = row.try_get("open_incident")?;
    let state = match open {
        Some(uid) => Some(with_open(state.unwrap_or_default(), IncidentUid(uid), row.try_get("open_since")?)),
        None => state,
    };
    let source: String = row.try_get("source")?;
    let last_checked: Option<DateTime<Utc>> = row.try_get("last_checked")?;
    Ok(MonitorRow {
        id: MonitorId(id),
        user_id: UserId(row.try_get("user_id")?),
        name: row.try_get("name")?,
        url: row.try_get("url")?,
        interval_seconds: row.try_get("interval_seconds")?,
        timeout_seconds: row.try_get("timeout_seconds")?,
        is_active: row.try_get("is_active")?,
        kind: row.try_get("kind")?,
        spec: row.try_get("spec")?,
        tags: row.try_get("tags")?,
        // A word that we do not know is not ours: the row gets the fewest rights.
        source: match source.as_str() {
            "file" => Source::File,
            "api" => Source::Api,
            _ => Source::Database,
        },
        key: row.try_get("key")?,
        revision: row.try_get("revision")?,
        invalid_reason: row.try_get("invalid_reason")?,
        state,
        last_checked,
        created_at: row.try_get("created_at")?,
    })
}

/// The state of a monitor with this open incident. A state that does not have it was lost, is another region's or cannot
/// be read; the incident would stay open for ever when the target is up.
fn with_open(mut state: MonitorState, uid: IncidentUid, since: Option<DateTime<Utc>>) -> MonitorState {
    if state.incident == Some(uid) {
        return state;
    }
    let evidence = state.last_good.take();
    MonitorState {
        status: Status::Down,
        since,
        // An incident opens after a failed check.
        failures: state.failures.max(1),
        failing_since: since,
        last_good: evidence,
        flaps: state.flaps,
        last_checked: state.last_checked.or(since),
        unobserved: state.unobserved,
        heard: state.heard,
        incident: Some(uid),
        ..MonitorState::default()
    }
}
