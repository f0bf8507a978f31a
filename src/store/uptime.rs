//! What time-weighted uptime is made of: first checks, incidents, gaps, maintenance.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::read::DEADLINE;
use super::{Problem, Store, within};
use crate::access::read::{Histories, IncidentNote, MaintenanceNote};
use crate::model::{GapReason, MaintenanceId, MonitorId, StoreFault, Unobserved, UserId};
use crate::uptime::{History, Maintenance, Outage, Unseen, Watch, Window};

pub(super) const STATEMENTS: &[&str] = &[HISTORY];

/// Rows of one question. Whoever has more asks for less at once.
const MOST_ROWS: i64 = 200_000;

/// One statement, so one snapshot. Every time is cut to the window, whatever others wrote. Each arm finds by an index what ends
/// after the window's beginning. A region whose daemon let its lease run out has not watched since: the gap for that is
/// written when it comes back. What a plan does not show counts as not observed, so no incident of then does.
const HISTORY: &str = "SELECT part.* FROM ( \
    SELECT 'watch' AS what, s.monitor_id, greatest(s.observed_from, p.incidents_from, $2) AS from_at, \
        greatest($2, least($3, CASE WHEN l.scope IS NULL THEN s.last_checked \
            WHEN l.expires_at <= clock_timestamp() THEN l.renewed_at ELSE $3 END)) AS to_at, \
        s.region AS label, NULL::bigint AS id, NULL::uuid AS uid, s.state->>'unobserved' AS more, \
        greatest($2, least($3, m.archived_at)) AS archived_at, \
        now() - make_interval(secs => shown.seconds) AS shown_from \
    FROM monitor_state s JOIN monitors m ON m.id = s.monitor_id CROSS JOIN rollup_progress p \
    LEFT JOIN daemon_lease l ON l.scope = s.region \
    LEFT JOIN users o ON o.id = m.user_id \
    LEFT JOIN unnest($5::text[], $6::float8[]) AS shown (plan, seconds) ON shown.plan = o.plan \
    WHERE s.monitor_id = ANY($1) AND s.observed_from IS NOT NULL \
        AND greatest(s.observed_from, p.incidents_from) < $3 \
    UNION ALL \
    SELECT 'incident', i.monitor_id, greatest(i.started_at, $2), least(i.resolved_at, $3), i.source, i.id, NULL, \
        left(i.cause, 100), NULL, NULL \
    FROM incidents i WHERE i.monitor_id = ANY($1) AND i.resolved_at > $2 AND i.started_at < $3 \
        AND coalesce(lower(i.severity), '') NOT IN ('info', 'none') \
    UNION ALL \
    SELECT 'incident', i.monitor_id, greatest(i.started_at, $2), CASE WHEN i.status = 'resolved' \
            THEN least(greatest(i.started_at, i.updated_at, $2), $3) ELSE $3 END, i.source, i.id, NULL, left(i.cause, 100), NULL, NULL \
    FROM incidents i WHERE i.monitor_id = ANY($1) AND i.resolved_at IS NULL AND i.started_at < $3 \
        AND coalesce(lower(i.severity), '') NOT IN ('info', 'none') \
    UNION ALL \
    SELECT 'gap', g.monitor_id, greatest(g.from_at, $2), least(g.to_at, $3), g.region, NULL, NULL, g.reason, NULL, NULL \
    FROM monitor_gaps g WHERE g.monitor_id = ANY($1) AND g.to_at > $2 AND g.from_at < $3 \
    UNION ALL \
    SELECT 'gap', NULL, greatest(g.from_at, $2), least(g.to_at, $3), g.region, NULL, NULL, g.reason, NULL, NULL \
    FROM monitor_gaps g WHERE g.monitor_id IS NULL AND g.to_at > $2 AND g.from_at < $3 \
        AND g.region = ANY(ARRAY(SELECT DISTINCT s.region FROM monitor_state s WHERE s.monitor_id = ANY($1))) \
    UNION ALL \
    SELECT 'maintenance', p.monitor_id, greatest(p.from_at, $2), least(p.to_at, $3), w.user_id::text, NULL, p.maintenance_id, \
        left(coalesce(w.key, w.name), 500), NULL, NULL \
    FROM maintenance_spans p LEFT JOIN maintenances w ON w.id = p.maintenance_id \
    WHERE p.monitor_id = ANY($1) AND p.from_at < $3 AND p.to_at > $2 AND p.excluded \
    ) part LIMIT $4::bigint";

impl Store {
    /// What [`crate::access::read::ReadStore::histories`] gives, whatever the plans of owners show: objectives are the
    /// operator's.
    ///
    /// # Errors
    /// [`StoreFault`] as every call.
    pub async fn whole_histories(
        &self,
        monitors: &[MonitorId],
        window: Window,
    ) -> Result<Option<Histories>, StoreFault> {
        within(DEADLINE, self.read_histories(monitors, window, Default::default())).await
    }

    pub(super) async fn read_histories(
        &self,
        monitors: &[MonitorId],
        window: Window,
        (plans, seconds): (Vec<String>, Vec<f64>),
    ) -> Result<Option<Histories>, Problem> {
        let rows = sqlx::query(HISTORY)
            .bind(monitors.iter().map(|id| id.0).collect::<Vec<_>>())
            .bind(window.from)
            .bind(window.to)
            .bind(MOST_ROWS + 1)
            .bind(plans)
            .bind(seconds)
            .fetch_all(&self.reading)
            .await?;
        if rows.len() as i64 > MOST_ROWS {
            return Ok(None);
        }
        let mut gathered = Gathered::default();
        for row in &rows {
            gathered.add(row, window)?;
        }
        Ok(Some(gathered.histories(monitors)))
    }
}

#[derive(Default)]
struct Gathered {
    of: HashMap<MonitorId, History>,
    /// By region: of single monitors, and of all.
    gaps: HashMap<(MonitorId, String), Vec<Unseen>>,
    of_all: HashMap<String, Vec<Unseen>>,
    notes: HashMap<i64, IncidentNote>,
    maintenances: HashMap<MaintenanceId, MaintenanceNote>,
}

impl Gathered {
    fn add(&mut self, row: &PgRow, window: Window) -> Result<(), sqlx::Error> {
        let what: &str = row.try_get("what")?;
        let monitor = row.try_get::<Option<Uuid>, _>("monitor_id")?.map(MonitorId);
        let (from, to): (DateTime<Utc>, DateTime<Utc>) = (row.try_get("from_at")?, row.try_get("to_at")?);
        let (label, more): (Option<String>, Option<String>) = (row.try_get("label")?, row.try_get("more")?);
        let label = label.unwrap_or_default();
        let Some(monitor) = monitor else {
            self.of_all.entry(label).or_default().push((from, to, reason(more.as_deref())));
            return Ok(());
        };
        match what {
            "watch" => {
                // What goes on has no row of its own yet.
                let paused = more.as_deref().and_then(|text| serde_json::from_str::<Unobserved>(text).ok());
                let archived: Option<DateTime<Utc>> = row.try_get("archived_at")?;
                let mut gaps = vec![(to, window.to, GapReason::NotRunning)];
                gaps.extend(paused.map(|paused| (paused.since, window.to, paused.reason)));
                gaps.extend(archived.map(|at| (at, window.to, GapReason::Paused)));
                let shown_from: Option<DateTime<Utc>> = row.try_get("shown_from")?;
                let watch = Watch { region: label.into(), from, shown_from, gaps, gaps_of_all: Arc::default() };
                self.of.entry(monitor).or_default().watches.push(watch);
            }
            "incident" => {
                let id: i64 = row.try_get("id")?;
                self.of.entry(monitor).or_default().outages.push(Outage { id, from, to });
                self.notes.insert(id, IncidentNote { source: label, cause: more });
            }
            "maintenance" => {
                let id: Uuid = row.try_get("uid")?;
                if let (Ok(owner), Some(label)) = (label.parse().map(UserId), more) {
                    self.maintenances.entry(MaintenanceId(id)).or_insert(MaintenanceNote { label, owner });
                }
                self.of.entry(monitor).or_default().maintenance.push(Maintenance { id, from, to });
            }
            _ => self.gaps.entry((monitor, label)).or_default().push((from, to, reason(more.as_deref()))),
        }
        Ok(())
    }

    /// Gives each region its gaps: those of regions that never checked the monitor say nothing about it.
    fn histories(mut self, monitors: &[MonitorId]) -> Histories {
        let of_all: HashMap<String, Arc<[Unseen]>> =
            self.of_all.into_iter().map(|(region, gaps)| (region, gaps.into())).collect();
        for id in monitors {
            for watch in &mut self.of.entry(*id).or_default().watches {
                let region = watch.region.to_string();
                watch.gaps_of_all = of_all.get(&region).cloned().unwrap_or_default();
                watch.gaps.extend(self.gaps.remove(&(*id, region)).into_iter().flatten());
            }
        }
        Histories { of: self.of, notes: self.notes, maintenances: self.maintenances }
    }
}

/// Whatever others wrote there, nothing was observed.
fn reason(name: Option<&str>) -> GapReason {
    name.and_then(GapReason::from_name).unwrap_or(GapReason::Internal)
}
