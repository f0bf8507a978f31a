//! What the API shows: monitors, incidents and uptime. Checks are next door.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::BoxFuture;
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use url::Url;
use uuid::Uuid;

use super::{Problem, Store, within};
use crate::access::Viewer;
use crate::access::read::{
    Before, CheckFilter, CheckView, Histories, IncidentFilter, IncidentView, LatencyFilter, LatencyView,
    MaintenanceName, MaintenanceView, MonitorFilter, MonitorName, MonitorView, Page, ReadStore, UptimeView,
};
use crate::model::{MaintenanceId, MonitorId, Source, Status, StoreFault, UserId};
use crate::uptime::Window;

pub(super) const STATEMENTS: &[&str] = &[MONITORS, BY_ID, BY_KEY, INCIDENTS, INCIDENT, UPTIME_OF, UPTIME, LABELS];

/// Beyond the usual. Plans are made anew for each call, because parameters that are null or a user's make all the
/// difference; and the server itself keeps this connection from writing.
pub(super) const SETUP: &str =
    "; SET statement_timeout = '5s'; SET plan_cache_mode = force_custom_plan; SET default_transaction_read_only = on";

/// Waiting for a connection and the statement's own time-out fit into it.
pub(super) const DEADLINE: Duration = Duration::from_secs(9);

/// Others may write any time, and decoding one beyond chrono's range (or 'infinity') panics: such a time is not shown.
macro_rules! sane {
    ($column:literal, $name:literal) => {
        concat!(
            "CASE WHEN ",
            $column,
            " BETWEEN '1970-01-01 00:00+00' AND '9999-12-31 00:00+00' THEN ",
            $column,
            " END AS ",
            $name
        )
    };
}

/// Texts of others may be of any length; a page of them must not. What is cut ends with an ellipsis.
macro_rules! cut {
    ($text:literal, $most:literal, $name:literal) => {
        concat!(
            "CASE WHEN length(",
            $text,
            ") > ",
            $most,
            " THEN left(",
            $text,
            ", ",
            $most,
            " - 1) || '…' ELSE ",
            $text,
            " END AS ",
            $name
        )
    };
}

macro_rules! monitors {
    ($rest:literal) => {
        concat!(
            "SELECT m.id, m.source, m.user_id, coalesce(m.is_active, true) AS is_active, \
             coalesce(m.interval_seconds, 300) AS interval_seconds, coalesce(m.timeout_seconds, 10) AS timeout_seconds, \
             ARRAY(SELECT CASE WHEN length(t) > 100 THEN left(t, 99) || '…' ELSE t END \
                FROM unnest(m.tags) t WHERE t IS NOT NULL LIMIT 100) AS tags, \
             coalesce(m.uptime_percentage, 100) AS uptime_percentage, m.response_time, m.revision, now() AS read_at, \
             (SELECT u.plan FROM users u WHERE u.id = m.user_id) AS plan, ",
            cut!("m.key", "500", "key"), ", ",
            cut!("m.name", "500", "name"), ", ",
            cut!("m.url", "4096", "url"), ", ",
            cut!("m.kind", "500", "kind"), ", ",
            cut!("coalesce(m.status, 'pending')", "500", "status"), ", ",
            "CASE WHEN m.status = 'maintenance' THEN (SELECT s.status FROM monitor_state s WHERE s.monitor_id = m.id \
                ORDER BY s.last_checked DESC NULLS LAST, s.region LIMIT 1) END AS status_beneath, ",
            cut!("m.uptime", "500", "uptime"), ", ",
            cut!("m.invalid_reason", "4096", "invalid_reason"), ", ",
            sane!("m.last_checked", "last_checked"), ", ",
            sane!("m.ssl_expiry", "ssl_expiry"), ", ",
            sane!("m.archived_at", "archived_at"), ", ",
            sane!("m.created_at", "created_at"), ", ",
            sane!("m.updated_at", "updated_at"),
            " FROM monitors m WHERE ($1::uuid IS NULL OR m.user_id = $1) AND ",
            $rest
        )
    };
}

const MONITORS: &str = monitors!(
    "m.archived_at IS NULL AND ($2::text IS NULL OR m.status = $2) AND ($3::text IS NULL OR $3 = ANY(m.tags)) \
     AND ($4::text IS NULL OR m.source = $4) AND ($5::text IS NULL OR strpos(lower(m.name), lower($5)) > 0 \
        OR strpos(lower(m.key), lower($5)) > 0 OR strpos(lower(m.url), lower($5)) > 0) \
     AND ($6::uuid IS NULL OR m.id > $6) ORDER BY m.id LIMIT $7::bigint"
);
const BY_ID: &str = monitors!("m.id = $2");
/// The sources are named because the index begins with them.
const BY_KEY: &str = monitors!(
    "m.source = ANY(ARRAY['file', 'api', 'database']) AND m.key = $2 \
     ORDER BY array_position(ARRAY['file', 'api', 'database'], m.source::text) LIMIT 1"
);

macro_rules! incidents {
    ($long:literal, $more:literal, $rest:literal) => {
        concat!(
            "SELECT i.id, i.monitor_id, i.duration_seconds, i.caused_by, i.maintenance_id, \
             i.resolved_at IS NULL AND EXISTS (SELECT FROM maintenance_spans s WHERE s.monitor_id = i.monitor_id \
                AND s.from_at <= now() AND s.to_at > now()) AS under_maintenance, ",
            cut!("coalesce(m.key, m.name)", "500", "monitor"),
            ", ",
            cut!("i.title", "500", "title"),
            ", ",
            cut!("i.description", $long, "description"),
            ", ",
            cut!("coalesce(i.status, 'open')", "500", "status"),
            ", ",
            cut!("i.severity", "500", "severity"),
            ", ",
            cut!("coalesce(i.source, 'manual')", "500", "source"),
            ", ",
            cut!("i.cause", "500", "cause"),
            ", ",
            cut!("i.resolve_reason", "500", "resolve_reason"),
            ", ",
            cut!("i.acknowledged_by", "500", "acknowledged_by"),
            ", ",
            cut!("i.acknowledge_note", $long, "acknowledge_note"),
            ", ",
            "greatest('1970-01-01 00:00+00', least(i.started_at, '9999-12-31 00:00+00')) AS started_at, ",
            sane!("i.resolved_at", "resolved_at"),
            ", ",
            sane!("i.acknowledged_at", "acknowledged_at"),
            $more,
            " FROM incidents i JOIN monitors m ON m.id = i.monitor_id \
             WHERE ($1::uuid IS NULL OR (i.user_id = $1 AND m.user_id = $1)) AND ",
            $rest
        )
    };
}

const INCIDENTS: &str = incidents!(
    "4000",
    "",
    "($2::text IS NULL OR i.status = $2) AND ($3::uuid IS NULL OR i.monitor_id = $3) \
     AND ($4::timestamptz IS NULL OR i.started_at >= $4) AND ($5::timestamptz IS NULL OR i.started_at < $5) \
     AND ($6::timestamptz IS NULL OR (i.started_at, i.id) < ($6, $7::bigint)) \
     ORDER BY i.started_at DESC, i.id DESC LIMIT $8::bigint"
);
const INCIDENT: &str = incidents!("64000", ", i.evidence", "i.id = $2");

const UPTIME_OF: &str = "SELECT checks, good FROM lamplighter_counts(ARRAY[$1::uuid], \
    greatest(now() - make_interval(hours => 24 * $2), $3::timestamptz), 'infinity')";
/// All whose window begins at the same time, for the plans of their owners, are counted at once.
const UPTIME: &str = concat!(
    "WITH page AS MATERIALIZED (SELECT m.id, ",
    cut!("coalesce(m.key, m.name)", "500", "monitor"),
    ", greatest(now() - make_interval(hours => 24 * $4), now() - make_interval(secs => p.seconds)) AS from_at \
    FROM (SELECT id, user_id, key, name FROM monitors WHERE ($1::uuid IS NULL OR user_id = $1) AND archived_at IS NULL \
        AND ($2::uuid IS NULL OR id > $2) ORDER BY id LIMIT $3::bigint) m \
    LEFT JOIN users o ON o.id = m.user_id \
    LEFT JOIN unnest($5::text[], $6::float8[]) AS p (plan, seconds) ON p.plan = o.plan) \
    SELECT page.id, u.checks, u.good, page.monitor \
    FROM (SELECT array_agg(id) AS ids, from_at FROM page GROUP BY from_at) g \
    CROSS JOIN LATERAL lamplighter_counts(g.ids, g.from_at, 'infinity') u \
    JOIN page ON page.id = u.monitor_id ORDER BY page.id"
);
const LABELS: &str = concat!(
    "SELECT m.id, NULL::bigint AS checks, NULL::bigint AS good, ",
    cut!("coalesce(m.key, m.name)", "500", "monitor"),
    " FROM monitors m WHERE ($1::uuid IS NULL OR m.user_id = $1) AND m.archived_at IS NULL \
        AND ($2::uuid IS NULL OR m.id > $2) ORDER BY m.id LIMIT $3::bigint"
);

type Answer<'a, T> = BoxFuture<'a, Result<T, StoreFault>>;

impl ReadStore for Store {
    fn monitors(&self, viewer: Viewer, filter: MonitorFilter) -> Answer<'_, Page<MonitorView, MonitorId>> {
        Box::pin(within(DEADLINE, async move {
            let rows = sqlx::query(MONITORS)
                .bind(user(viewer))
                .bind(filter.status.map(Status::name))
                .bind(filter.tag)
                .bind(filter.source.map(Source::name))
                .bind(filter.text)
                .bind(filter.after.map(|id| id.0))
                .bind(one_more(filter.limit))
                .fetch_all(&self.reading)
                .await?;
            page(&rows, filter.limit, monitor, |row: &MonitorView| row.id)
        }))
    }

    fn monitor(&self, viewer: Viewer, name: MonitorName) -> Answer<'_, Option<MonitorView>> {
        Box::pin(within(DEADLINE, async move {
            let row = match name {
                MonitorName::Id(id) => sqlx::query(BY_ID).bind(user(viewer)).bind(id.0),
                MonitorName::Key(key) => sqlx::query(BY_KEY).bind(user(viewer)).bind(key),
            };
            let Some(row) = row.fetch_optional(&self.reading).await? else { return Ok::<_, Problem>(None) };
            // An adopted row may have an owner who is long gone.
            let (plan, now): (Option<String>, DateTime<Utc>) = (row.try_get("plan")?, row.try_get("read_at")?);
            let shown = plan.and_then(|plan| self.keeping.load().shown(&plan));
            let history_from = shown.and_then(|shown| now.checked_sub_signed(TimeDelta::from_std(shown).ok()?));
            Ok(Some(MonitorView { history_from, ..monitor(&row)? }))
        }))
    }

    fn checks_of<'a>(&'a self, monitor: &'a MonitorView, filter: CheckFilter) -> Answer<'a, Page<CheckView, Before>> {
        Box::pin(within(DEADLINE, self.read_checks_of(monitor, filter)))
    }

    fn checks(&self, viewer: Viewer, filter: CheckFilter) -> Answer<'_, Page<CheckView, Before>> {
        Box::pin(within(DEADLINE, self.read_checks(viewer, filter)))
    }

    fn incidents(&self, viewer: Viewer, filter: IncidentFilter) -> Answer<'_, Page<IncidentView, Before>> {
        Box::pin(within(DEADLINE, async move {
            let rows = sqlx::query(INCIDENTS)
                .bind(user(viewer))
                .bind(filter.status)
                .bind(filter.monitor.map(|id| id.0))
                .bind(filter.from)
                .bind(filter.to)
                .bind(filter.before.map(|before| before.at))
                .bind(filter.before.map(|before| before.id))
                .bind(one_more(filter.limit))
                .fetch_all(&self.reading)
                .await?;
            let place = |row: &IncidentView| Before { at: row.started_at, id: row.id };
            page(&rows, filter.limit, incident, place)
        }))
    }

    fn incident(&self, viewer: Viewer, id: i64) -> Answer<'_, Option<IncidentView>> {
        Box::pin(within(DEADLINE, async move {
            let row = sqlx::query(INCIDENT).bind(user(viewer)).bind(id).fetch_optional(&self.reading).await?;
            let Some(row) = row else { return Ok::<_, Problem>(None) };
            Ok(Some(IncidentView { evidence: row.try_get("evidence")?, ..incident(&row)? }))
        }))
    }

    fn maintenances(
        &self,
        viewer: Viewer,
        after: Option<MaintenanceId>,
        limit: u16,
    ) -> Answer<'_, Page<MaintenanceView, MaintenanceId>> {
        Box::pin(within(DEADLINE, self.read_maintenances(viewer, after, limit)))
    }

    fn maintenance(&self, viewer: Viewer, name: MaintenanceName) -> Answer<'_, Option<MaintenanceView>> {
        Box::pin(within(DEADLINE, self.read_maintenance(viewer, name)))
    }

    fn uptime_of<'a>(&'a self, monitor: &'a MonitorView, days: i32) -> Answer<'a, UptimeView> {
        Box::pin(within(DEADLINE, async move {
            let counts: (i64, i64) = sqlx::query_as(UPTIME_OF)
                .bind(monitor.id.0)
                .bind(days)
                .bind(monitor.history_from)
                .fetch_one(&self.reading)
                .await?;
            let (monitor, monitor_id) = (monitor.label().to_owned(), monitor.id);
            Ok::<_, Problem>(UptimeView { monitor, monitor_id, counts: Some(counts) })
        }))
    }

    fn latency_of<'a>(&'a self, monitor: &'a MonitorView, filter: LatencyFilter) -> Answer<'a, LatencyView> {
        Box::pin(within(DEADLINE, self.read_latency(monitor, filter)))
    }

    fn uptime(
        &self,
        viewer: Viewer,
        days: i32,
        after: Option<MonitorId>,
        limit: u16,
    ) -> Answer<'_, Page<UptimeView, MonitorId>> {
        Box::pin(within(DEADLINE, async move {
            let (plans, seconds) = self.shown_by_plan();
            let rows = sqlx::query(UPTIME)
                .bind(user(viewer))
                .bind(after.map(|id| id.0))
                .bind(one_more(limit))
                .bind(days)
                .bind(plans)
                .bind(seconds)
                .fetch_all(&self.reading)
                .await?;
            page(&rows, limit, uptime, |row: &UptimeView| row.monitor_id)
        }))
    }

    fn histories<'a>(&'a self, monitors: &'a [MonitorId], window: Window) -> Answer<'a, Option<Histories>> {
        Box::pin(within(DEADLINE, self.read_histories(monitors, window, self.shown_by_plan())))
    }

    fn labels(&self, viewer: Viewer, after: Option<MonitorId>, limit: u16) -> Answer<'_, Page<UptimeView, MonitorId>> {
        Box::pin(within(DEADLINE, async move {
            let rows = sqlx::query(LABELS)
                .bind(user(viewer))
                .bind(after.map(|id| id.0))
                .bind(one_more(limit))
                .fetch_all(&self.reading)
                .await?;
            page(&rows, limit, uptime, |row: &UptimeView| row.monitor_id)
        }))
    }

    fn slos(&self, viewer: Viewer) -> Answer<'_, Vec<serde_json::Value>> {
        Box::pin(within(DEADLINE, self.read_slos(viewer)))
    }

    fn slo<'a>(&'a self, viewer: Viewer, id: &'a str) -> Answer<'a, Option<serde_json::Value>> {
        Box::pin(within(DEADLINE, self.read_slo(viewer, id)))
    }
}

impl Store {
    /// For statements over monitors of many: how many seconds back history is shown, by plan.
    pub(super) fn shown_by_plan(&self) -> (Vec<String>, Vec<f64>) {
        let keeping = self.keeping.load();
        let shown =
            keeping.plans.iter().filter_map(|(name, plan)| Some((name.to_string(), plan.retention?.as_secs_f64())));
        shown.unzip()
    }
}

pub(super) fn user(viewer: Viewer) -> Option<Uuid> {
    viewer.user().map(|user| user.0)
}

/// Whether there is a next page shows in one row more.
pub(super) fn one_more(limit: u16) -> i64 {
    i64::from(limit) + 1
}

pub(super) fn page<T, P>(
    rows: &[PgRow],
    limit: u16,
    read: impl Fn(&PgRow) -> Result<T, sqlx::Error>,
    place: impl Fn(&T) -> P,
) -> Result<Page<T, P>, Problem> {
    let more = rows.len() > usize::from(limit);
    let rows = rows.iter().take(usize::from(limit)).map(read).collect::<Result<Vec<T>, _>>()?;
    let next = if more { rows.last().map(place) } else { None };
    Ok(Page { rows, next })
}

fn monitor(row: &PgRow) -> Result<MonitorView, sqlx::Error> {
    let url: String = row.try_get("url")?;
    Ok(MonitorView {
        id: MonitorId(row.try_get("id")?),
        key: row.try_get("key")?,
        name: row.try_get("name")?,
        url: without_password(url),
        kind: row.try_get("kind")?,
        source: row.try_get("source")?,
        user_id: UserId(row.try_get("user_id")?),
        status: row.try_get("status")?,
        status_beneath: row.try_get("status_beneath")?,
        active: row.try_get("is_active")?,
        interval_seconds: row.try_get("interval_seconds")?,
        timeout_seconds: row.try_get("timeout_seconds")?,
        tags: row.try_get("tags")?,
        uptime_percentage: row.try_get("uptime_percentage")?,
        uptime: row.try_get("uptime")?,
        last_checked: time(row, "last_checked")?,
        response_time_ms: row.try_get("response_time")?,
        ssl_expiry: time(row, "ssl_expiry")?,
        invalid_reason: row.try_get("invalid_reason")?,
        archived_at: time(row, "archived_at")?,
        revision: row.try_get("revision")?,
        created_at: time(row, "created_at")?,
        updated_at: time(row, "updated_at")?,
        history_from: None,
    })
}

fn time(row: &PgRow, column: &str) -> Result<Option<DateTime<Utc>>, sqlx::Error> {
    row.try_get(column)
}

/// Rows of others may have one in their url.
fn without_password(url: String) -> String {
    match Url::parse(&url) {
        Ok(mut parsed) if parsed.password().is_some() => match parsed.set_password(Some("***")) {
            Ok(()) => parsed.into(),
            Err(()) => "(not shown: it has a password)".to_owned(),
        },
        // What was cut off may be all that tells a password from a host.
        Err(_) if url.ends_with('…') && !url.split_once("://").is_some_and(|(_, rest)| rest.contains('/')) => {
            "(not shown: it is too long)".to_owned()
        }
        _ => url,
    }
}

fn incident(row: &PgRow) -> Result<IncidentView, sqlx::Error> {
    Ok(IncidentView {
        id: row.try_get("id")?,
        monitor: row.try_get("monitor")?,
        monitor_id: MonitorId(row.try_get("monitor_id")?),
        title: row.try_get("title")?,
        description: row.try_get("description")?,
        status: row.try_get("status")?,
        severity: row.try_get("severity")?,
        started_at: row.try_get("started_at")?,
        resolved_at: time(row, "resolved_at")?,
        duration_seconds: row.try_get("duration_seconds")?,
        source: row.try_get("source")?,
        cause: row.try_get("cause")?,
        caused_by: row.try_get::<Option<Uuid>, _>("caused_by")?.map(MonitorId),
        maintenance_id: row.try_get::<Option<Uuid>, _>("maintenance_id")?.map(MaintenanceId),
        under_maintenance: row.try_get("under_maintenance")?,
        resolve_reason: row.try_get("resolve_reason")?,
        acknowledged_at: time(row, "acknowledged_at")?,
        acknowledged_by: row.try_get("acknowledged_by")?,
        acknowledge_note: row.try_get("acknowledge_note")?,
        evidence: None,
    })
}

fn uptime(row: &PgRow) -> Result<UptimeView, sqlx::Error> {
    Ok(UptimeView {
        monitor: row.try_get("monitor")?,
        monitor_id: MonitorId(row.try_get("id")?),
        counts: row.try_get::<Option<i64>, _>("checks")?.zip(row.try_get("good")?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_in_a_url_is_not_shown() {
        let shown = |url: &str| without_password(url.to_owned());
        assert_eq!(shown("postgres://u:hunter2@h/d"), "postgres://u:***@h/d");
        assert_eq!(shown("https://:hunter2@h/"), "https://:***@h/");
        assert_eq!(shown(&format!("postgres://u:{}…", "hunter2".repeat(500))), "(not shown: it is too long)");
        for url in ["https://h/p?x=1", "tcp://h:1", "not a url", "postgres://u@h/d", "dns:name"] {
            assert_eq!(shown(url), url);
        }
    }
}
