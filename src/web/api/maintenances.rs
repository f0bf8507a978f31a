//! `/maintenances`: definitions, and when their windows are.

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

use super::{part, viewer};
use crate::access::read::{MaintenanceName, MaintenanceView};
use crate::maintenance::definition::{self, MaintenanceRow};
use crate::model::MaintenanceId;
use crate::web::query::{cursor_of_monitor, monitor_of_cursor};
use crate::web::reply::{Problem, tagged};
use crate::web::routes::{Answer, Call};

/// Items of a part: each may have a thousand monitors and as many tags.
const PART: u16 = 100;
/// Windows that are shown: the present one, and those that come.
const SHOWN: usize = 5;
/// How far ahead they are looked for.
const AHEAD: TimeDelta = TimeDelta::days(3660);

#[derive(Serialize)]
struct Window {
    from: DateTime<Utc>,
    to: DateTime<Utc>,
}

#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    row: MaintenanceRow,
    /// Whether a window is open now.
    active: bool,
    windows: Vec<Window>,
}

impl Shown {
    fn of(MaintenanceView { row, seen_at }: MaintenanceView) -> Self {
        let counts = row.invalid_reason.is_none() && row.archived_at.is_none();
        let recurrence = if counts { definition::recurrence(&row).ok() } else { None };
        let until = seen_at.checked_add_signed(AHEAD).unwrap_or(seen_at);
        let windows = recurrence.map(|recurrence| recurrence.windows(seen_at, until, SHOWN)).unwrap_or_default();
        let active = windows.first().is_some_and(|first| first.from <= seen_at);
        let windows = windows.into_iter().map(|window| Window { from: window.from, to: window.to }).collect();
        Self { row, active, windows }
    }
}

/// Works windows out where nothing waits for it: rules are other people's.
async fn shown(views: Vec<MaintenanceView>) -> Result<Vec<Shown>, Problem> {
    let work = tokio::task::spawn_blocking(move || views.into_iter().map(Shown::of).collect());
    work.await.map_err(|_| Problem::unavailable("unavailable", "the windows could not be worked out"))
}

pub(in crate::web) async fn list(call: Call) -> Answer {
    let after = call.query.cursor(monitor_of_cursor)?.map(|id| MaintenanceId(id.0));
    let limit = call.query.limit()?.min(PART);
    let page = call.site.reads.maintenances(viewer(&call), after, limit).await?;
    let next = page.next.map(|id| cursor_of_monitor(id.0.into()));
    part(&call, &shown(page.rows).await?, next)
}

pub(in crate::web) async fn one(call: Call) -> Answer {
    let missing = || Problem::not_found("there is no such maintenance");
    let name = MaintenanceName::of(call.captures.first().map_or("", String::as_str));
    let view = call.site.reads.maintenance(viewer(&call), name).await?.ok_or_else(missing)?;
    let shown = shown(vec![view]).await?;
    tagged(shown.first().ok_or_else(missing)?, &call.parts.headers)
}
