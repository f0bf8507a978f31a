//! [`ExportStore`]: rows in time order, page by page, all of one moment, in memory for one page.
//!
//! One transaction sees one snapshot from the first page to the last. What it locks it must not hold for as long, or no
//! partition could be dropped meanwhile: a savepoint is rolled back after every page, which lets go of the page's locks
//! and keeps the snapshot. What remains is that vacuum keeps dead rows of the whole database until the export ends.
//! A day that retention drops before the export has come to it is not in it.
//!
//! Checks have one index, (monitor_id, checked_at, id). As in `read_checks`, time is cut into slices, each read by one
//! range of that index a monitor, and a slice grows or shrinks until it fills about a page.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::BoxFuture;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, Row as _};
use uuid::Uuid;

use super::read::{one_more, user};
use super::{Problem, Store, setup, within};
use crate::access::Viewer;
use crate::access::export::{CheckRow, Export, ExportError, ExportStore, IncidentRow, Page, Rows, Subject, Wanted};
use crate::model::{MaintenanceId, MonitorId, StoreFault, UserId, Verdict};

pub(super) const STATEMENTS: &[&str] = &[NAMED, SPANS, CHECKS, COUNT, INCIDENTS, EMAILS];

/// Beyond the usual. Whoever takes the rows may be slow, so the transaction may idle; they bound that themselves.
const SETUP: &str = "; SET statement_timeout = '55s'; SET plan_cache_mode = force_custom_plan; SET jit = off; \
    SET idle_in_transaction_session_timeout = 0; SET default_transaction_read_only = on";
/// Not among the statements: only queries can be prepared.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
const SAVEPOINT: &str = "SAVEPOINT page";
const RELEASE: &str = "ROLLBACK TO SAVEPOINT page";

/// An id, else a key (the file's first), else a name.
const NAMED: &str = "SELECT m.id, CASE WHEN m.id::text = lower($2) THEN 0 WHEN m.key = $2 THEN 1 ELSE 2 END AS how \
    FROM monitors m WHERE ($1::uuid IS NULL OR m.user_id = $1) AND (m.id::text = lower($2) OR m.key = $2 OR m.name = $2) \
    ORDER BY how, array_position(ARRAY['file', 'api', 'database'], m.source::text), m.id LIMIT 1000";

/// The days that there are partitions of. Bounds are printed in the session's zone, which is UTC.
const SPANS: &str = "SELECT s.bound[1]::timestamptz, s.bound[2]::timestamptz, now() FROM ( \
        SELECT regexp_match(pg_get_expr(c.relpartbound, c.oid), 'FROM \\(''([^'']+)''\\) TO \\(''([^'']+)''\\)') AS bound \
        FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'monitor_checks'::regclass) s \
    WHERE s.bound IS NOT NULL ORDER BY 1";

/// Texts of others are cut as the API cuts those of one incident.
const CHECKS: &str = "SELECT c.*, m.id AS monitor_id, m.monitor \
    FROM (SELECT m.id, left(coalesce(m.key, m.name), 500) AS monitor, \
            greatest($3, now() - make_interval(secs => shown.seconds)) AS shown_from FROM monitors m \
        LEFT JOIN users o ON o.id = m.user_id \
        LEFT JOIN unnest($8::text[], $9::float8[]) AS shown (plan, seconds) ON shown.plan = o.plan \
        WHERE ($1::uuid IS NULL OR m.user_id = $1) AND ($2::uuid[] IS NULL OR m.id = ANY($2))) m \
    CROSS JOIN LATERAL ( \
        SELECT c.id, c.checked_at, c.status, left(c.error_type, 500) AS error_type, c.status_code, c.response_time_ms, \
            coalesce(c.attempt, 1::smallint) AS attempt, left(coalesce(c.region, ''), 500) AS region, \
            c.dns_us, c.connect_us, c.tls_us, c.send_us, c.wait_us, c.receive_us FROM monitor_checks c \
        WHERE c.monitor_id = m.id AND c.checked_at >= $3 AND c.checked_at >= m.shown_from AND c.checked_at < $4 \
            AND (c.checked_at, c.id, c.monitor_id) > ($3, $5::bigint, $6::uuid) \
        ORDER BY c.checked_at, c.id LIMIT $7::bigint) c \
    ORDER BY c.checked_at, c.id, m.id LIMIT $7::bigint";

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

const COUNT: &str = incidents!("count(*)", "");
/// The place is a text because a time of others may be beyond ours.
const INCIDENTS: &str = incidents!(
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

/// Owners by whom a file can name them.
const EMAILS: &str = "SELECT id, email FROM users WHERE id = ANY($1) AND email IS NOT NULL";

/// Rows of a page: about a megabyte.
const CHECKS_A_PAGE: u16 = 5000;
/// Their texts may be long.
const INCIDENTS_A_PAGE: u16 = 200;
/// The first slice of time, and its bounds.
const SLICE: TimeDelta = TimeDelta::hours(1);
const SLICE_LEAST: TimeDelta = TimeDelta::seconds(1);
const SLICE_MOST: TimeDelta = TimeDelta::days(32);
/// A slice that fills less than this part of a page grows.
const SPARSE: usize = CHECKS_A_PAGE as usize / 3;
/// Connecting, and finding out what there is.
const BEGIN_DEADLINE: Duration = Duration::from_secs(15);
/// The statement's own time-out fits into it.
const PAGE_DEADLINE: Duration = Duration::from_secs(60);

impl ExportStore for Store {
    fn export(&self, viewer: Viewer, wanted: Wanted) -> BoxFuture<'_, Result<Box<dyn Export>, ExportError>> {
        Box::pin(async move {
            let mut conn = within(BEGIN_DEADLINE, self.connect_for_export()).await?;
            let monitors = resolve(&mut conn, viewer, &wanted.monitors).await?;
            let scope = Scope { user: user(viewer), monitors, plans: self.shown_by_plan() };
            let reading = match wanted.subject {
                Subject::Checks => {
                    Reading::Checks(within(BEGIN_DEADLINE, Checks::begin(&mut conn, scope, &wanted)).await?)
                }
                Subject::Incidents => {
                    Reading::Incidents(within(BEGIN_DEADLINE, Incidents::begin(&mut conn, scope, &wanted)).await?)
                }
            };
            within(BEGIN_DEADLINE, async { Ok::<_, Problem>(conn.execute(SAVEPOINT).await?) }).await?;
            Ok(Box::new(Underway { conn: Some(conn), reading }) as Box<dyn Export>)
        })
    }
}

impl Store {
    /// E-mail addresses of users that have one.
    ///
    /// # Errors
    /// [`StoreFault`] as every call.
    pub async fn emails(&self, users: &[UserId]) -> Result<HashMap<UserId, String>, StoreFault> {
        let ids: Vec<Uuid> = users.iter().map(|user| user.0).collect();
        within(BEGIN_DEADLINE, async {
            let rows: Vec<(Uuid, String)> = sqlx::query_as(EMAILS).bind(ids).fetch_all(&self.pool).await?;
            Ok::<_, Problem>(rows.into_iter().map(|(id, email)| (UserId(id), email)).collect())
        })
        .await
    }

    async fn connect_for_export(&self) -> Result<PgConnection, Problem> {
        let mut conn = PgConnection::connect_with(&self.reading.connect_options()).await?;
        conn.execute(AssertSqlSafe(setup(&self.schema, SETUP))).await?;
        conn.execute(BEGIN).await?;
        Ok(conn)
    }
}

/// Which rows.
struct Scope {
    user: Option<Uuid>,
    /// None: of all monitors.
    monitors: Option<Vec<Uuid>>,
    /// How many seconds back checks are shown, by the owner's plan. The command line has no plans: it is the operator's.
    plans: (Vec<String>, Vec<f64>),
}

async fn resolve(conn: &mut PgConnection, viewer: Viewer, names: &[String]) -> Result<Option<Vec<Uuid>>, ExportError> {
    let mut ids = Vec::with_capacity(names.len());
    for name in names {
        let find = async {
            let rows = sqlx::query_as(NAMED).bind(user(viewer)).bind(super::clean(name)).fetch_all(&mut *conn).await?;
            Ok::<Vec<(Uuid, i32)>, Problem>(rows)
        };
        let found = within(BEGIN_DEADLINE, find).await?;
        match found.as_slice() {
            [] => return Err(ExportError::NoSuchMonitor(name.clone())),
            [(id, 2), _, ..] => {
                let (name, example) = (name.clone(), MonitorId(*id));
                return Err(ExportError::Ambiguous { name, count: found.len(), example });
            }
            [(id, _), ..] => ids.push(*id),
        }
    }
    Ok((!names.is_empty()).then_some(ids))
}

/// An export, and its connection until it has ended.
struct Underway {
    conn: Option<PgConnection>,
    reading: Reading,
}

enum Reading {
    Checks(Checks),
    Incidents(Incidents),
}

impl Export for Underway {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Page>, StoreFault>> {
        Box::pin(async move {
            // Taken, so that nothing is read after an error.
            let Some(mut conn) = self.conn.take() else { return Ok(None) };
            let page = async {
                let page = match &mut self.reading {
                    Reading::Checks(checks) => checks.page(&mut conn).await?,
                    Reading::Incidents(incidents) => incidents.page(&mut conn).await?,
                };
                conn.execute(RELEASE).await?;
                Ok::<_, Problem>(page)
            };
            let page = within(PAGE_DEADLINE, page).await?;
            match page {
                Some(_) => self.conn = Some(conn),
                // A courtesy; the server notices either way.
                None => drop(within(BEGIN_DEADLINE, async { Ok::<_, Problem>(conn.close().await?) }).await),
            }
            Ok(page)
        })
    }
}

/// Where reading checks is.
struct Checks {
    scope: Scope,
    /// What is still to be read: days that lie together are one span.
    spans: VecDeque<(DateTime<Utc>, DateTime<Utc>)>,
    /// Of rows at the beginning of the first span, those behind this one are to be read.
    after: (i64, Uuid),
    slice: TimeDelta,
    /// Of all spans up to `now`: the days ahead are empty, and tell nothing of how far it is.
    whole: TimeDelta,
    now: DateTime<Utc>,
}

const BEFORE_ALL: (i64, Uuid) = (i64::MIN, Uuid::nil());

impl Checks {
    async fn begin(conn: &mut PgConnection, scope: Scope, wanted: &Wanted) -> Result<Self, Problem> {
        let days: Vec<(DateTime<Utc>, DateTime<Utc>, DateTime<Utc>)> = sqlx::query_as(SPANS).fetch_all(conn).await?;
        let now = days.first().map_or(DateTime::UNIX_EPOCH, |day| day.2);
        let days: Vec<_> = days.into_iter().map(|(from, to, _)| (from, to)).collect();
        let spans = spans(&days, wanted.from, wanted.to);
        let whole = length(&spans, now);
        Ok(Self { scope, spans, after: BEFORE_ALL, slice: SLICE, whole, now })
    }

    async fn page(&mut self, conn: &mut PgConnection) -> Result<Option<Page>, Problem> {
        let Some((from, until)) = self.spans.front().copied() else { return Ok(None) };
        let to = until.min(from + self.slice);
        let rows = sqlx::query(CHECKS)
            .bind(self.scope.user)
            .bind(self.scope.monitors.as_deref())
            .bind(from)
            .bind(to)
            .bind(self.after.0)
            .bind(self.after.1)
            .bind(one_more(CHECKS_A_PAGE))
            .bind(&self.scope.plans.0)
            .bind(&self.scope.plans.1)
            .fetch_all(conn)
            .await?;
        let page = rows.iter().take(usize::from(CHECKS_A_PAGE)).map(check).collect::<Result<Vec<_>, _>>()?;
        let full = rows.len() > page.len();
        self.advance(
            page.last().filter(|_| full).map(|row| (row.checked_at, row.id, row.monitor_id.0)),
            to,
            page.len(),
        );
        let left = length(&self.spans, self.now);
        let done = share((self.whole - left).num_seconds(), self.whole.num_seconds());
        Ok(Some(Page { rows: Rows::Checks(page), done }))
    }

    /// Goes on behind the last row of a page that was full, else at the end of the slice.
    fn advance(&mut self, last: Option<(DateTime<Utc>, i64, Uuid)>, to: DateTime<Utc>, rows: usize) {
        let Some(span) = self.spans.front_mut() else { return };
        if let Some((at, id, monitor)) = last {
            (span.0, self.after) = (at, (id, monitor));
            self.slice = (self.slice / 2).max(SLICE_LEAST);
            return;
        }
        (span.0, self.after) = (to, BEFORE_ALL);
        if span.0 >= span.1 {
            self.spans.pop_front();
        }
        if rows < SPARSE {
            self.slice = (self.slice * 2).min(SLICE_MOST);
        }
    }
}

/// What of these days lies in the wanted span, joined where one ends as the next begins.
fn spans(
    days: &[(DateTime<Utc>, DateTime<Utc>)],
    from: Option<DateTime<Utc>>,
    to: Option<DateTime<Utc>>,
) -> VecDeque<(DateTime<Utc>, DateTime<Utc>)> {
    let mut joined: VecDeque<(DateTime<Utc>, DateTime<Utc>)> = VecDeque::new();
    for (begin, end) in days {
        let (begin, end) = (from.map_or(*begin, |from| from.max(*begin)), to.map_or(*end, |to| to.min(*end)));
        match joined.back_mut() {
            _ if begin >= end => {}
            Some(last) if last.1 == begin => last.1 = end,
            _ => joined.push_back((begin, end)),
        }
    }
    joined
}

fn length(spans: &VecDeque<(DateTime<Utc>, DateTime<Utc>)>, now: DateTime<Utc>) -> TimeDelta {
    let past = |(from, to): &(DateTime<Utc>, DateTime<Utc>)| (*to.min(&now) - *from).max(TimeDelta::zero());
    spans.iter().map(past).fold(TimeDelta::zero(), |sum, length| sum + length)
}

fn share(part: i64, whole: i64) -> f64 {
    // Seconds and counts are far below 2^53, where doubles are exact.
    if whole <= 0 { 1.0 } else { (part as f64 / whole as f64).clamp(0.0, 1.0) }
}

fn check(row: &PgRow) -> Result<CheckRow, sqlx::Error> {
    let (status, error_type): (bool, Option<String>) = (row.try_get("status")?, row.try_get("error_type")?);
    Ok(CheckRow {
        id: row.try_get("id")?,
        monitor_id: MonitorId(row.try_get("monitor_id")?),
        monitor: row.try_get("monitor")?,
        checked_at: row.try_get("checked_at")?,
        verdict: match (status, &error_type) {
            (false, _) => Verdict::Down,
            (true, Some(_)) => Verdict::Degraded,
            (true, None) => Verdict::Up,
        },
        status,
        error_type,
        status_code: row.try_get("status_code")?,
        response_time_ms: row.try_get("response_time_ms")?,
        attempt: row.try_get("attempt")?,
        region: row.try_get("region")?,
        dns_us: row.try_get("dns_us")?,
        connect_us: row.try_get("connect_us")?,
        tls_us: row.try_get("tls_us")?,
        send_us: row.try_get("send_us")?,
        wait_us: row.try_get("wait_us")?,
        receive_us: row.try_get("receive_us")?,
    })
}

/// Where reading incidents is.
struct Incidents {
    scope: Scope,
    from: Option<DateTime<Utc>>,
    to: Option<DateTime<Utc>>,
    /// None: at the end.
    after: Option<(String, i64)>,
    count: i64,
    read: i64,
}

impl Incidents {
    async fn begin(conn: &mut PgConnection, scope: Scope, wanted: &Wanted) -> Result<Self, Problem> {
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

    async fn page(&mut self, conn: &mut PgConnection) -> Result<Option<Page>, Problem> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_cut_and_joined() {
        let day = |n: i64| DateTime::UNIX_EPOCH + TimeDelta::days(n);
        let days = [(day(0), day(1)), (day(1), day(2)), (day(5), day(6))];
        assert_eq!(spans(&days, None, None), [(day(0), day(2)), (day(5), day(6))]);
        let noon = |n| day(n) + TimeDelta::hours(12);
        assert_eq!(spans(&days, Some(noon(1)), Some(noon(5))), [(noon(1), day(2)), (day(5), noon(5))]);
        assert_eq!(spans(&days, Some(day(2)), Some(day(5))), []);
        assert_eq!(spans(&days, Some(day(9)), None), []);
        let all = spans(&days, None, None);
        for (now, hours) in [(day(9), 72), (noon(1), 36), (noon(5), 60), (day(0), 0)] {
            assert_eq!(length(&all, now), TimeDelta::hours(hours));
        }
    }
}
