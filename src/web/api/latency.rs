//! `/monitors/{id}/latency`: response times of good checks, over a window and by hour or day.

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

use super::monitor;
use crate::access::read::{LatencyFigures, LatencyFilter, LatencyPoint, LatencyWindow, Step};
use crate::model::MonitorId;
use crate::web::reply::{Problem, tagged};
use crate::web::routes::{Answer, Call};

/// A series by hour has at most some 750 points.
const MOST_HOURLY: TimeDelta = TimeDelta::days(31);
/// As `days`.
const MOST: TimeDelta = TimeDelta::days(3650);

#[derive(Serialize)]
struct Latency {
    monitor: String,
    monitor_id: MonitorId,
    /// What it is about; later than asked for when the owner's plan shows less.
    from: DateTime<Utc>,
    to: DateTime<Utc>,
    #[serde(flatten)]
    figures: LatencyFigures,
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    series: Option<Vec<LatencyPoint>>,
}

fn window(call: &Call) -> Result<LatencyWindow, Problem> {
    let (from, to) = (call.query.time("from")?, call.query.time("to")?);
    let given = call.query.value("days", "a whole number, 1 to 3650", |_| Some(()))?.is_some();
    match (from, to, given) {
        (None, None, _) => Ok(LatencyWindow::Days(call.query.days()?)),
        (Some(_), Some(_), true) => Err(Problem::parameter("days", "bad_parameter", "stands beside from and to")),
        (Some(from), Some(to), false) if from > to => {
            Err(Problem::parameter("from", "bad_parameter", "must not be after `to`"))
        }
        (Some(from), Some(to), false) if to - from > MOST => {
            Err(Problem::parameter("from", "window_too_long", "at most 3650 days before `to`"))
        }
        (Some(from), Some(to), false) => Ok(LatencyWindow::Span { from, to }),
        _ => Err(Problem::parameter("from", "window_needed", "from and to go together")),
    }
}

pub(in crate::web) async fn of_one(mut call: Call) -> Answer {
    let window = window(&call)?;
    let step = |text: &str| [Step::Hour, Step::Day].into_iter().find(|step| step.name() == text);
    let step = call.query.value("step", "hour or day", step)?;
    let length = match window {
        LatencyWindow::Days(days) => TimeDelta::days(i64::from(days)),
        LatencyWindow::Span { from, to } => to - from,
    };
    if step == Some(Step::Hour) && length > MOST_HOURLY {
        return Err(Problem::parameter("step", "window_too_long", "by hour, the window may have 31 days"));
    }
    let region = call.query.text("region");
    let monitor = monitor(&call).await?;
    let view = call.site.reads.latency_of(&monitor, LatencyFilter { window, step, region }).await?;
    let answer = Latency {
        monitor: monitor.label().to_owned(),
        monitor_id: monitor.id,
        from: view.from,
        to: view.to,
        figures: view.figures,
        step: step.map(Step::name),
        series: view.series,
    };
    tagged(&answer, &call.parts.headers)
}
