//! `/monitors`.

use super::{monitor, part, viewer};
use crate::access::read::MonitorFilter;
use crate::model::{Source, Status};
use crate::web::query::{cursor_of_monitor, monitor_of_cursor};
use crate::web::reply::tagged;
use crate::web::routes::{Answer, Call};

const STATUSES: &str = "pending, up, degraded, down, unknown, paused or maintenance";

pub(in crate::web) async fn list(mut call: Call) -> Answer {
    let source = |text: &str| [Source::File, Source::Database, Source::Api].into_iter().find(|s| s.name() == text);
    let filter = MonitorFilter {
        status: call.query.value("status", STATUSES, Status::from_name)?,
        source: call.query.value("source", "file, database or api", source)?,
        limit: call.query.limit()?,
        after: call.query.cursor(monitor_of_cursor)?,
        tag: call.query.text("tag"),
        text: call.query.text("q"),
    };
    let page = call.site.reads.monitors(viewer(&call), filter).await?;
    part(&call, &page.rows, page.next.map(cursor_of_monitor))
}

pub(in crate::web) async fn one(call: Call) -> Answer {
    tagged(&monitor(&call).await?, &call.parts.headers)
}
