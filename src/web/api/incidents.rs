//! `/incidents`, of one monitor and of all.

use super::{monitor, named, part, viewer};
use crate::access::read::IncidentFilter;
use crate::model::MonitorId;
use crate::web::query::{cursor_of_place, place_of_cursor};
use crate::web::reply::{Problem, tagged};
use crate::web::routes::{Answer, Call};

fn filter(call: &Call, monitor: Option<MonitorId>) -> Result<IncidentFilter, Problem> {
    let statuses = ["open", "acknowledged", "resolved"];
    let status = |text: &str| statuses.contains(&text).then(|| text.to_owned());
    Ok(IncidentFilter {
        status: call.query.value("status", "open, acknowledged or resolved", status)?,
        monitor,
        from: call.query.time("from")?,
        to: call.query.time("to")?,
        before: call.query.cursor(place_of_cursor)?,
        limit: call.query.limit()?,
    })
}

pub(in crate::web) async fn list(mut call: Call) -> Answer {
    let monitor = match call.query.text("monitor") {
        None => None,
        Some(name) => match named(&call, &name).await? {
            Some(monitor) => Some(monitor.id),
            None => return Err(Problem::parameter("monitor", "bad_parameter", "there is no such monitor")),
        },
    };
    answer(&call, monitor).await
}

pub(in crate::web) async fn of_one(call: Call) -> Answer {
    let monitor = monitor(&call).await?;
    answer(&call, Some(monitor.id)).await
}

async fn answer(call: &Call, monitor: Option<MonitorId>) -> Answer {
    let page = call.site.reads.incidents(viewer(call), filter(call, monitor)?).await?;
    part(call, &page.rows, page.next.map(cursor_of_place))
}

pub(in crate::web) async fn one(call: Call) -> Answer {
    let missing = || Problem::not_found("there is no such incident");
    let id = call.captures.first().and_then(|text| text.parse().ok()).ok_or_else(missing)?;
    let incident = call.site.reads.incident(viewer(&call), id).await?.ok_or_else(missing)?;
    tagged(&incident, &call.parts.headers)
}
