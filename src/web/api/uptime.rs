//! `/uptime`, of one monitor and of all: the share of good checks, as the database's own function counts it.

use serde::Serialize;

use super::{monitor, part, viewer};
use crate::access::read::UptimeView;
use crate::model::MonitorId;
use crate::web::query::{cursor_of_monitor, monitor_of_cursor};
use crate::web::reply::tagged;
use crate::web::routes::{Answer, Call};

#[derive(Serialize)]
struct Uptime {
    monitor: String,
    monitor_id: MonitorId,
    /// The window: so many days before now.
    days: i32,
    /// By which definition.
    method: &'static str,
    /// Per cent; null without checks. Not rounded: 100 only if every check was good.
    uptime: Option<f64>,
    checks: i64,
    good: i64,
}

impl Uptime {
    fn of(view: UptimeView, days: i32) -> Self {
        let UptimeView { monitor, monitor_id, checks, good } = view;
        // Counts of checks are far below 2^53, where doubles are exact.
        let uptime = (checks > 0).then(|| 100.0 * good as f64 / checks as f64);
        Self { monitor, monitor_id, days, method: "checks", uptime, checks, good }
    }
}

pub(in crate::web) async fn of_one(call: Call) -> Answer {
    let days = call.query.days()?;
    let monitor = monitor(&call).await?;
    let view = call.site.reads.uptime_of(&monitor, days).await?;
    tagged(&Uptime::of(view, days), &call.parts.headers)
}

pub(in crate::web) async fn list(call: Call) -> Answer {
    let (days, limit) = (call.query.days()?, call.query.limit()?);
    let after = call.query.cursor(monitor_of_cursor)?;
    let page = call.site.reads.uptime(viewer(&call), days, after, limit).await?;
    let items: Vec<Uptime> = page.rows.into_iter().map(|view| Uptime::of(view, days)).collect();
    part(&call, &items, page.next.map(cursor_of_monitor))
}
