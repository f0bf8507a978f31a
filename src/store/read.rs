//! What the API shows: monitors, incidents and uptime. Checks are next door.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::BoxFuture;
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use self::rows::{incident, monitor, uptime};
use self::statements::{BY_ID, BY_KEY, INCIDENT, INCIDENTS, LABELS, MONITORS, UPTIME, UPTIME_OF};
use super::{Problem, Store, within};
use crate::access::Viewer;
use crate::access::read::{
    Before, CheckFilter, CheckView, Histories, IncidentFilter, IncidentView, LatencyFilter, LatencyView,
    MaintenanceName, MaintenanceView, MonitorFilter, MonitorName, MonitorView, Page, ReadStore, UptimeView,
};
use crate::model::{MaintenanceId, MonitorId, Source, Status, StoreFault};
use crate::uptime::Window;

mod rows;
mod statements;

pub(super) use statements::STATEMENTS;

/// Beyond the usual. Plans are made anew for each call, because parameters that are null or a user's make all the
/// difference; and the server itself keeps this connection from writing.
pub(super) const SETUP: &str =
    "; SET statement_timeout = '5s'; SET plan_cache_mode = force_custom_plan; SET default_transaction_read_only = on";

/// Waiting for a connection and the statement's own time-out fit into it.
pub(super) const DEADLINE: Duration = Duration::from_secs(9);

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
