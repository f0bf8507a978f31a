//! `/uptime`, of one monitor and of all: the share of good checks, as the database's own function counts it, and the share of
//! time, as docs/uptime.md defines it.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use serde::Serialize;
use uuid::Uuid;

use super::{monitor, part, viewer};
use crate::access::Viewer;
use crate::access::read::{Histories, IncidentNote, UptimeView};
use crate::model::{MaintenanceId, MonitorId};
use crate::uptime::{Figures, History, Month, Timeline, What, Window, percent_text};
use crate::web::query::{cursor_of_monitor, monitor_of_cursor};
use crate::web::reply::{Problem, tagged};
use crate::web::routes::{Answer, Call};

/// Spans of one explanation; of more the newest are told.
const SPANS_MOST: usize = 5000;
/// Digits behind the point of what people read; `monitors.uptime` has as many.
const DIGITS: u32 = 2;

/// Which time is asked for.
#[derive(Clone, Copy)]
enum Asked {
    Days(i32),
    Month(Month, Tz),
}

impl Asked {
    fn of(call: &Call) -> Result<Self, Problem> {
        let zone = call
            .query
            .value("timezone", "a name of the IANA database, such as Europe/Berlin", |text| text.parse::<Tz>().ok())?;
        let month =
            call.query.value("month", "a month such as 2026-11, 1970-01 to 9998-12", |text| text.parse().ok())?;
        let Some(month) = month else {
            if zone.is_some() {
                let text = "goes with month: days are 24 hours each, and end now";
                return Err(Problem::parameter("timezone", "bad_parameter", text));
            }
            return Ok(Self::Days(call.query.days()?));
        };
        if call.query.value("days", "", |_| Some(()))?.is_some() {
            return Err(Problem::parameter("days", "bad_parameter", "give days or month"));
        }
        Ok(Self::Month(month, zone.unwrap_or(Tz::UTC)))
    }

    /// Up to now.
    fn window(self, now: DateTime<Utc>) -> Result<Window, Problem> {
        match self {
            // Within the bounds of the parameter.
            Self::Days(days) => Ok(Window::last_days(now, days.unsigned_abs())),
            Self::Month(month, zone) => {
                let window = month.window(zone);
                if window.from >= now {
                    return Err(Problem::parameter("month", "bad_parameter", "this month has not begun"));
                }
                Ok(Window::new(window.from, window.to.min(now)))
            }
        }
    }
}

#[derive(Serialize)]
struct Uptime {
    monitor: String,
    monitor_id: MonitorId,
    #[serde(flatten)]
    by_checks: Option<ByChecks>,
    #[serde(flatten)]
    of_month: Option<OfMonth>,
    time_weighted: TimeWeighted,
}

/// With `days`: the rows say it.
#[derive(Serialize)]
struct ByChecks {
    /// The window: so many days before now.
    days: i32,
    /// By which definition.
    method: &'static str,
    /// Per cent; null without checks. Not rounded: 100 only if every check was good.
    uptime: Option<f64>,
    checks: i64,
    good: i64,
}

#[derive(Serialize)]
struct OfMonth {
    month: String,
    timezone: &'static str,
}

#[derive(Serialize)]
struct TimeWeighted {
    from: DateTime<Utc>,
    to: DateTime<Utc>,
    /// Per cent, not rounded; null when nothing was observed.
    uptime: Option<f64>,
    uptime_text: String,
    coverage: Option<f64>,
    up_seconds: f64,
    down_seconds: f64,
    maintenance_seconds: f64,
    unobserved_seconds: f64,
    /// By reason.
    unobserved: BTreeMap<&'static str, f64>,
    incidents: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    spans: Option<Vec<SpanView>>,
    /// How many older ones are not told.
    #[serde(skip_serializing_if = "Option::is_none")]
    spans_omitted: Option<usize>,
}

#[derive(Serialize)]
struct SpanView {
    from: DateTime<Utc>,
    to: DateTime<Utc>,
    seconds: f64,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    incidents: Vec<IncidentOf>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    maintenances: Vec<MaintenanceOf>,
}

#[derive(Serialize)]
struct IncidentOf {
    id: i64,
    source: Option<String>,
    cause: Option<String>,
}

#[derive(Serialize)]
struct MaintenanceOf {
    /// Key or name; null when the definition is gone, or not the caller's to see.
    maintenance: Option<String>,
    maintenance_id: Uuid,
}

fn seconds(micros: i64) -> f64 {
    micros as f64 / 1e6
}

impl TimeWeighted {
    fn of(window: Window, timeline: &Timeline) -> Self {
        let figures: Figures = timeline.figures();
        Self {
            from: window.from,
            to: window.to,
            uptime: figures.percent(),
            uptime_text: percent_text(&figures, DIGITS),
            coverage: figures.coverage(),
            up_seconds: seconds(figures.up),
            down_seconds: seconds(figures.down),
            maintenance_seconds: seconds(figures.maintenance),
            unobserved_seconds: seconds(figures.unobserved()),
            unobserved: figures.reasons().map(|(blind, micros)| (blind.name(), seconds(micros))).collect(),
            incidents: figures.incidents,
            spans: None,
            spans_omitted: None,
        }
    }

    fn explained(mut self, timeline: &Timeline, histories: &Histories, viewer: Viewer) -> Self {
        let spans = timeline.spans();
        let omitted = spans.len().saturating_sub(SPANS_MOST);
        let note = |id: &i64| {
            let note: Option<&IncidentNote> = histories.notes.get(id);
            let cause = note.and_then(|note| note.cause.clone());
            IncidentOf { id: *id, source: note.map(|note| note.source.clone()), cause }
        };
        let planned = |id: &Uuid| {
            let note = histories.maintenances.get(&MaintenanceId(*id)).filter(|note| viewer.sees(note.owner));
            MaintenanceOf { maintenance: note.map(|note| note.label.clone()), maintenance_id: *id }
        };
        let view = |span: &crate::uptime::Span| {
            let (state, reason) = match &span.what {
                What::Up => ("up", None),
                What::Down(_) => ("down", None),
                What::Maintenance(_) => ("maintenance", None),
                What::Unobserved(blind) => ("unobserved", Some(blind.name())),
            };
            SpanView {
                from: span.from,
                to: span.to,
                seconds: seconds(Window::new(span.from, span.to).micros()),
                state,
                reason,
                incidents: if let What::Down(ids) = &span.what { ids.iter().map(note).collect() } else { Vec::new() },
                maintenances: match &span.what {
                    What::Maintenance(ids) => ids.iter().map(planned).collect(),
                    _ => Vec::new(),
                },
            }
        };
        self.spans = Some(spans.iter().skip(omitted).map(view).collect());
        self.spans_omitted = Some(omitted);
        self
    }
}

impl Uptime {
    fn new(view: UptimeView, asked: Asked, time_weighted: TimeWeighted) -> Self {
        let UptimeView { monitor, monitor_id, counts } = view;
        let (by_checks, of_month) = match asked {
            Asked::Days(days) => (counts.map(|counts| ByChecks::of(days, counts)), None),
            Asked::Month(month, zone) => (None, Some(OfMonth { month: month.to_string(), timezone: zone.name() })),
        };
        Self { monitor, monitor_id, by_checks, of_month, time_weighted }
    }
}

impl ByChecks {
    fn of(days: i32, (checks, good): (i64, i64)) -> Self {
        // Counts of checks are far below 2^53, where doubles are exact.
        let uptime = (checks > 0).then(|| 100.0 * good as f64 / checks as f64);
        Self { days, method: "checks", uptime, checks, good }
    }
}

async fn histories(call: &Call, monitors: &[MonitorId], window: Window) -> Result<Histories, Problem> {
    call.site.reads.histories(monitors, window).await?.ok_or_else(|| {
        let text = "the window has more than 200,000 incidents and gaps: ask for a shorter one, or for fewer monitors";
        Problem::new(hyper::StatusCode::UNPROCESSABLE_ENTITY, "too_much", "too much at once", text)
    })
}

pub(in crate::web) async fn of_one(call: Call) -> Answer {
    let asked = Asked::of(&call)?;
    let explain = call.query.value("explain", "true or false", |text| text.parse().ok())?.unwrap_or(false);
    let window = asked.window(call.site.admin.now())?;
    let monitor = monitor(&call).await?;
    let view = match asked {
        Asked::Days(days) => call.site.reads.uptime_of(&monitor, days).await?,
        Asked::Month(..) => UptimeView { monitor: monitor.label().to_owned(), monitor_id: monitor.id, counts: None },
    };
    let histories = histories(&call, &[monitor.id], window).await?;
    let timeline = timeline(&histories, monitor.id, window);
    let mut time_weighted = TimeWeighted::of(window, &timeline);
    if explain {
        time_weighted = time_weighted.explained(&timeline, &histories, viewer(&call));
    }
    tagged(&Uptime::new(view, asked, time_weighted), &call.parts.headers)
}

fn timeline(histories: &Histories, monitor: MonitorId, window: Window) -> Timeline {
    histories
        .of
        .get(&monitor)
        .map_or_else(|| Timeline::of(window, &History::default()), |history| Timeline::of(window, history))
}

pub(in crate::web) async fn list(call: Call) -> Answer {
    let (asked, limit) = (Asked::of(&call)?, call.query.limit()?);
    let window = asked.window(call.site.admin.now())?;
    let after = call.query.cursor(monitor_of_cursor)?;
    let page = match asked {
        Asked::Days(days) => call.site.reads.uptime(viewer(&call), days, after, limit).await?,
        Asked::Month(..) => call.site.reads.labels(viewer(&call), after, limit).await?,
    };
    let monitors: Vec<MonitorId> = page.rows.iter().map(|view| view.monitor_id).collect();
    let histories = histories(&call, &monitors, window).await?;
    let rows = page.rows;
    // A thousand years of monitors, at the most: some hundred milliseconds.
    let computing = tokio::task::spawn_blocking(move || -> Vec<Uptime> {
        let item = |view: UptimeView| {
            let time_weighted = TimeWeighted::of(window, &timeline(&histories, view.monitor_id, window));
            Uptime::new(view, asked, time_weighted)
        };
        rows.into_iter().map(item).collect()
    });
    let items = computing.await.map_err(|error| {
        log::error!("uptime could not be computed: {error}");
        Problem::unavailable("too_busy", "it could not be computed, and may be tried again")
    })?;
    part(&call, &items, page.next.map(cursor_of_monitor))
}
