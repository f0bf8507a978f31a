//! `/slos`: objectives, as they were last evaluated.

use super::{part, viewer};
use crate::web::reply::{Problem, tagged};
use crate::web::routes::{Answer, Call};

pub(in crate::web) async fn list(call: Call) -> Answer {
    let reports = call.site.reads.slos(viewer(&call)).await?;
    part(&call, &reports, None)
}

pub(in crate::web) async fn one(call: Call) -> Answer {
    let id = call.captures.first().map_or("", String::as_str);
    let report = call.site.reads.slo(viewer(&call), id).await?;
    tagged(&report.ok_or_else(|| Problem::not_found("there is no such objective"))?, &call.parts.headers)
}
