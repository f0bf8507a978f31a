//! `/checks`, of one monitor and of all.

use chrono::TimeDelta;

use super::{monitor, part, viewer};
use crate::access::read::CheckFilter;
use crate::model::Verdict;
use crate::web::query::{cursor_of_place, place_of_cursor};
use crate::web::reply::Problem;
use crate::web::routes::{Answer, Call};

/// The window over all monitors, at most.
const WINDOW_OF_ALL: TimeDelta = TimeDelta::hours(24);
/// With a filter that may fit hardly any row, the window of one monitor, at most.
const WINDOW_FILTERED: TimeDelta = TimeDelta::days(31);

fn filter(call: &mut Call) -> Result<CheckFilter, Problem> {
    let verdict =
        |text: &str| [Verdict::Up, Verdict::Degraded, Verdict::Down].into_iter().find(|verdict| verdict.name() == text);
    let filter = CheckFilter {
        from: call.query.time("from")?,
        to: call.query.time("to")?,
        // What was not observed is a gap and no check.
        verdict: call.query.value("verdict", "up, degraded or down", verdict)?,
        before: call.query.cursor(place_of_cursor)?,
        limit: call.query.limit()?,
        failure: call.query.text("error_type"),
    };
    if let (Some(from), Some(to)) = (filter.from, filter.to)
        && from > to
    {
        return Err(Problem::parameter("from", "bad_parameter", "must not be after `to`"));
    }
    Ok(filter)
}

pub(in crate::web) async fn of_one(mut call: Call) -> Answer {
    let filter = filter(&mut call)?;
    if filter.verdict.is_some() || filter.failure.is_some() {
        let too_long = filter.from.zip(filter.to).is_none_or(|(from, to)| to - from > WINDOW_FILTERED);
        if too_long {
            let text = "with verdict or error_type, from and to are needed, at most 31 days apart";
            return Err(Problem::parameter("from", "window_needed", text));
        }
    }
    let monitor = monitor(&call).await?;
    let page = call.site.reads.checks_of(&monitor, filter).await?;
    part(&call, &page.rows, page.next.map(cursor_of_place))
}

pub(in crate::web) async fn list(mut call: Call) -> Answer {
    let filter = filter(&mut call)?;
    if filter.from.zip(filter.to).is_none_or(|(from, to)| to - from > WINDOW_OF_ALL) {
        let text = "over all monitors, from and to are needed, at most 24 hours apart";
        return Err(Problem::parameter("from", "window_needed", text));
    }
    let page = call.site.reads.checks(viewer(&call), filter).await?;
    part(&call, &page.rows, page.next.map(cursor_of_place))
}
