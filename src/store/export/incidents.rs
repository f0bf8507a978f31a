//! Incidents, by when they began.

use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::super::Problem;
use super::super::read::one_more;
use super::{Scope, share};
use crate::access::export::{IncidentRow, Page, Rows, Wanted};
use crate::model::{MaintenanceId, MonitorId, UserId};

/// Others may write any time, and decoding one beyond chrono's range (or 'infinity') panics.
macro_rules! sane {
    ($column:literal) => {
        concat!(
            "CASE WHEN i.",
            $column,
            " BETWEEN '1970-01-01 00:00+00' AND '9999-12-31 00:00+00' THEN i.",
            $column,
            " END AS ",
            $column
        )
    };
}

macro_rules! incidents {
    ($what:expr, $rest:expr) => {
        concat!(
            "SELECT ",
            $what,
            " FROM incidents i JOIN monitors m ON m.id = i.monitor_id \
              WHERE ($1::uuid IS NULL OR (i.user_id = $1 AND m.user_id = $1)) \
              AND ($2::uuid[] IS NULL OR i.monitor_id = ANY($2)) \
              AND ($3::timestamptz IS NULL OR i.started_at >= $3) AND ($4::timestamptz IS NULL OR i.started_at < $4)",
            $rest
        )
    };
}

pub(super) const COUNT: &str = incidents!("count(*)", "");
/// The place is a text because a time of others may be beyond ours.
pub(super) const INCIDENTS: &str = incidents!(
    concat!(
        "i.id, i.user_id, i.monitor_id, left(coalesce(m.key, m.name), 500) AS monitor, i.duration_seconds, i.caused_by, i.maintenance_id, \
         left(i.title, 500) AS title, left(i.description, 64000) AS description, \
         left(coalesce(i.status, 'open'), 500) AS status, left(i.severity, 500) AS severity, \
         left(coalesce(i.source, 'manual'), 500) AS source, left(i.cause, 500) AS cause, \
         left(i.resolve_reason, 500) AS resolve_reason, left(i.acknowledged_by, 500) AS acknowledged_by, \
         left(i.acknowledge_note, 64000) AS acknowledge_note, \
         CASE WHEN pg_column_size(i.evidence) <= 262144 THEN i.evidence END AS evidence, \
         greatest('1970-01-01 00:00+00', least(i.started_at, '9999-12-31 00:00+00')) AS started_at, \
         i.started_at::text AS place, ",
        sane!("resolved_at"),
        ", ",
        sane!("acknowledged_at")
    ),
    " AND (i.started_at, i.id) > ($5::text::timestamptz, $6::bigint) ORDER BY i.started_at, i.id LIMIT $7::bigint"
);

/// Their texts may be long.
const INCIDENTS_A_PAGE: u16 = 200;

/// Where reading incidents is.
pub(super) struct Incidents {
    scope: Scope,
    from: Option<DateTime<Utc>>,
    to: Option<DateTime<Utc>>,
    /// None: at the end.
    after: Option<(String, i64)>,
    count: i64,
    read: i64,
}

impl Incidents {
    pub(super) async fn begin(conn: &mut PgConnection, scope: Scope, wanted: &Wanted) -> Result<Self, Problem> {
        let count = sqlx::query_scalar(COUNT)
            .bind(scope.user)
            .bind(scope.monitors.as_deref())
            .bind(wanted.from)
            .bind(wanted.to)
            .fetch_one(conn)
            .await?;
        let after = Some(("-infinity".to_owned(), i64::MIN));
        Ok(Self { scope, from: wanted.from, to: wanted.to, after, count, read: 0 })
    }

    pub(super) async fn page(&mut self, conn: &mut PgConnection) -> Result<Option<Page>, Problem> {
        let Some((place, id)) = &self.after else { return Ok(None) };
        let rows = sqlx::query(INCIDENTS)
            .bind(self.scope.user)
            .bind(self.scope.monitors.as_deref())
            .bind(self.from)
            .bind(self.to)
            .bind(place)
            .bind(id)
            .bind(one_more(INCIDENTS_A_PAGE))
            .fetch_all(conn)
            .await?;
        let taken = rows.get(..rows.len().min(usize::from(INCIDENTS_A_PAGE))).unwrap_or_default();
        self.after = match taken.last() {
            Some(last) if rows.len() > taken.len() => Some((last.try_get("place")?, last.try_get("id")?)),
            _ => None,
        };
        let page = taken.iter().map(incident).collect::<Result<Vec<_>, _>>()?;
        self.read += i64::try_from(page.len()).unwrap_or(0);
        Ok(Some(Page { rows: Rows::Incidents(page), done: share(self.read, self.count) }))
    }
}

fn incident(row: &PgRow) -> Result<IncidentRow, sqlx::Error> {
    Ok(IncidentRow {
        id: row.try_get("id")?,
        user_id: UserId(row.try_get("user_id")?),
        monitor_id: MonitorId(row.try_get("monitor_id")?),
        monitor: row.try_get("monitor")?,
        title: row.try_get("title")?,
        description: row.try_get("description")?,
        status: row.try_get("status")?,
        severity: row.try_get("severity")?,
        started_at: row.try_get("started_at")?,
        resolved_at: row.try_get("resolved_at")?,
        duration_seconds: row.try_get("duration_seconds")?,
        source: row.try_get("source")?,
        cause: row.try_get("cause")?,
        caused_by: row.try_get::<Option<Uuid>, _>("caused_by")?.map(MonitorId),
        maintenance_id: row.try_get::<Option<Uuid>, _>("maintenance_id")?.map(MaintenanceId),
        resolve_reason: row.try_get("resolve_reason")?,
        acknowledged_at: row.try_get("acknowledged_at")?,
        acknowledged_by: row.try_get("acknowledged_by")?,
        acknowledge_note: row.try_get("acknowledge_note")?,
        evidence: row.try_get("evidence")?,
    })
}
