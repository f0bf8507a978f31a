//! Checks for the API. `monitor_checks` has two indexes: the key (monitor_id, checked_at, id), and times by ranges of pages. So
//! there are three ways through it.
//!
//! Of one monitor: the key backwards, first over the last days that it was checked in, then, if the page has room, over all
//! others. A statement that may read every day gets ready for every day's partition, which takes longer than the reading.
//!
//! Of all monitors, newest first: the window is read in slices of time from its end, and slices grow until the page is full.
//! Who sees everything or many monitors has each slice read by pages. For whom there are few, or where a plan hides rows,
//! each monitor is asked by the key. A page that takes too long ends with what was found so far, and says from where to go
//! on.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{Postgres, Row as _};
use tokio::time::Instant;

use super::read::{one_more, page, user};
use super::{Problem, Store};
use crate::access::Viewer;
use crate::access::read::{Before, CheckFilter, CheckView, MonitorView, Page, PhasesView};
use crate::model::{MonitorId, Verdict};

pub(super) const STATEMENTS: &[&str] = &[OF_ONE, OF_EACH, OF_ALL, BEGIN];

macro_rules! checks {
    ($before:literal, $after:literal) => {
        concat!(
            $before,
            "SELECT c.id, c.monitor_id, c.status, left(c.error_type, 500) AS error_type, c.status_code, c.response_time_ms, \
             coalesce(c.attempt, 1::smallint) AS attempt, left(coalesce(c.region, ''), 500) AS region, \
             c.checked_at, c.dns_us, c.connect_us, c.tls_us, c.send_us, c.wait_us, c.receive_us FROM monitor_checks c \
             WHERE c.checked_at >= $1 AND c.checked_at < $2 AND (c.checked_at, c.id) < ($3, $4::bigint) \
             AND ($5::boolean IS NULL OR c.status = $5) \
             AND ($6::boolean IS NULL OR (c.error_type IS NOT NULL) = $6) \
             AND ($7::text IS NULL OR c.error_type = $7)",
            $after
        )
    };
}

const OF_ONE: &str = checks!("", " AND c.monitor_id = $9 ORDER BY c.checked_at DESC, c.id DESC LIMIT $8::bigint");
/// The limit inside keeps the planner from anything but a range of the index for each monitor.
const OF_EACH: &str = checks!(
    "SELECT c.*, left(coalesce(m.key, m.name), 500) AS monitor FROM monitors m \
        LEFT JOIN users u ON u.id = m.user_id \
        LEFT JOIN unnest($10::text[], $11::float8[]) AS p (plan, seconds) ON p.plan = u.plan CROSS JOIN LATERAL (",
    " AND c.monitor_id = m.id AND c.checked_at >= coalesce(now() - make_interval(secs => p.seconds), '-infinity') \
     ORDER BY c.checked_at DESC, c.id DESC LIMIT $8::bigint) c \
     WHERE ($9::uuid IS NULL OR m.user_id = $9) ORDER BY c.checked_at DESC, c.id DESC LIMIT $8::bigint"
);
/// Names are looked up for the rows of the page only.
const OF_ALL: &str = checks!(
    "SELECT c.*, left(coalesce(m.key, m.name), 500) AS monitor FROM (",
    " AND ($9::uuid IS NULL OR EXISTS (SELECT FROM monitors o WHERE o.id = c.monitor_id AND o.user_id = $9)) \
     ORDER BY c.checked_at DESC, c.id DESC LIMIT $8::bigint) c JOIN monitors m ON m.id = c.monitor_id \
     ORDER BY c.checked_at DESC, c.id DESC LIMIT $8::bigint"
);

/// The clock that plans are applied by, and whether this user has so many monitors that pages are read.
const BEGIN: &str =
    "SELECT now(), (SELECT count(*) > 200 FROM (SELECT FROM monitors WHERE user_id = $1 LIMIT 201) own)";

/// Where most pages of one monitor end: a check a minute makes 2,880 in it.
const RECENT: TimeDelta = TimeDelta::days(2);

/// How a window is cut: the length of its last slice, and how much longer each is than the one after it.
struct Pace {
    first: TimeDelta,
    growth: i32,
}

/// Each monitor costs the same whatever it finds: about one round of checks.
const BY_MONITOR: Pace = Pace { first: TimeDelta::seconds(15), growth: 4 };
/// What is found is what it costs: at 15,000 checks a second, the first has so many.
const BY_PAGES: Pace = Pace { first: TimeDelta::seconds(1), growth: 8 };
/// No slice is begun after it.
const BUDGET: Duration = Duration::from_secs(2);

/// Parameters that all statements share.
struct Range {
    from: DateTime<Utc>,
    to: DateTime<Utc>,
    before: Before,
    status: Option<bool>,
    with_failure: Option<bool>,
    failure: Option<String>,
    limit: u16,
}

impl Range {
    fn of(filter: CheckFilter) -> Self {
        let end = Before { at: DateTime::<Utc>::MAX_UTC, id: i64::MAX };
        let before = filter.before.unwrap_or(end);
        // The database knows no year 262142. A row comparison prunes no partitions, hence the plain bound as well.
        let most = DateTime::UNIX_EPOCH + TimeDelta::days(365 * 1000);
        let at = before.at.min(most);
        let to = filter.to.unwrap_or(most).min(at + TimeDelta::microseconds(1));
        let (status, with_failure) = match filter.verdict {
            None => (None, None),
            Some(Verdict::Up) => (Some(true), Some(false)),
            Some(Verdict::Degraded) => (Some(true), Some(true)),
            Some(Verdict::Down) => (Some(false), None),
            // No row says so, and no row fits this.
            Some(Verdict::Unknown) => (Some(false), Some(false)),
        };
        Self {
            from: filter.from.unwrap_or(DateTime::UNIX_EPOCH),
            to,
            before: Before { at, id: before.id },
            status,
            with_failure,
            failure: filter.failure,
            limit: filter.limit,
        }
    }

    /// What the page can still take.
    fn room(&self, found: &[CheckView]) -> u16 {
        self.limit.saturating_sub(u16::try_from(found.len()).unwrap_or(u16::MAX))
    }

    /// The parameters of `checks!`, for a part of the window and one row more than there is room for.
    fn bind<'q>(
        &self,
        statement: &'static str,
        (from, to): (DateTime<Utc>, DateTime<Utc>),
        room: u16,
    ) -> Query<'q, Postgres, PgArguments> {
        sqlx::query(statement)
            .bind(from)
            .bind(to)
            .bind(self.before.at)
            .bind(self.before.id)
            .bind(self.status)
            .bind(self.with_failure)
            .bind(self.failure.clone())
            .bind(one_more(room))
    }
}

impl Store {
    pub(super) async fn read_checks_of(
        &self,
        monitor: &MonitorView,
        filter: CheckFilter,
    ) -> Result<Page<CheckView, Before>, Problem> {
        let mut range = Range::of(filter);
        range.from = range.from.max(monitor.history_from.unwrap_or(range.from));
        let newest = monitor.last_checked.map(|at| range.to.min(at));
        let recent = newest.and_then(|at| at.checked_sub_signed(RECENT)).map_or(range.from, |at| range.from.max(at));
        let (mut end, mut found) = (range.to, Vec::new());
        for start in [recent, range.from] {
            if start >= end {
                continue;
            }
            let room = range.room(&found);
            let query = range.bind(OF_ONE, (start, end), room).bind(monitor.id.0);
            let rows = query.fetch_all(&self.reading).await?;
            let mut part = part(&rows, room, end, |row| check(row, monitor.label().to_owned()))?;
            found.append(&mut part.rows);
            if part.next.is_some() {
                return Ok(Page { rows: found, next: part.next });
            }
            end = start;
        }
        Ok(Page { rows: found, next: None })
    }

    pub(super) async fn read_checks(
        &self,
        viewer: Viewer,
        filter: CheckFilter,
    ) -> Result<Page<CheckView, Before>, Problem> {
        let range = Range::of(filter);
        let began = Instant::now();
        let (now, many): (DateTime<Utc>, bool) =
            sqlx::query_as(BEGIN).bind(user(viewer)).fetch_one(&self.reading).await?;
        let shown_from = self.shown_to_all_from(now);
        let by_pages = many || viewer == Viewer::Everything;
        let pace = if by_pages { BY_PAGES } else { BY_MONITOR };
        let (mut end, mut length) = (range.to, pace.first);
        let mut found: Vec<CheckView> = Vec::new();
        while end > range.from {
            if began.elapsed() > BUDGET {
                // Everything from `end` on was looked at, and numbers begin at 1.
                return Ok(Page { rows: found, next: Some(Before { at: end, id: 0 }) });
            }
            // What should not be there yet, if anything, is a slice of its own.
            let start = if end > now { now } else { end - length };
            let start = start.max(range.from);
            let room = range.room(&found);
            let by_pages = by_pages && start >= shown_from;
            let mut part = self.slice(viewer, by_pages, &range, (start, end), room).await?;
            found.append(&mut part.rows);
            if part.next.is_some() {
                return Ok(Page { rows: found, next: part.next });
            }
            if end <= now {
                length = length * pace.growth;
            }
            end = start;
        }
        Ok(Page { rows: found, next: None })
    }

    /// From then on no plan hides anything, for the next minute.
    fn shown_to_all_from(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        let (_, seconds) = self.shown_by_plan();
        let least =
            seconds.into_iter().min_by(f64::total_cmp).and_then(|least| Duration::try_from_secs_f64(least).ok());
        let least = least.and_then(|least| TimeDelta::from_std(least).ok());
        let from = least.and_then(|least| now.checked_sub_signed(least)?.checked_add_signed(TimeDelta::minutes(1)));
        from.unwrap_or(DateTime::<Utc>::MIN_UTC)
    }

    async fn slice(
        &self,
        viewer: Viewer,
        by_pages: bool,
        range: &Range,
        (start, end): (DateTime<Utc>, DateTime<Utc>),
        room: u16,
    ) -> Result<Page<CheckView, Before>, Problem> {
        let statement = if by_pages { OF_ALL } else { OF_EACH };
        let mut rows = range.bind(statement, (start, end), room).bind(user(viewer));
        if !by_pages {
            let (plans, seconds) = self.shown_by_plan();
            rows = rows.bind(plans).bind(seconds);
        }
        let rows = rows.fetch_all(&self.reading).await?;
        part(&rows, room, end, |row| check(row, row.try_get("monitor")?))
    }
}

/// What a part of the window, which ends at `end`, adds to the page. Without room it still tells whether there is more.
fn part(
    rows: &[PgRow],
    room: u16,
    end: DateTime<Utc>,
    view: impl Fn(&PgRow) -> Result<CheckView, sqlx::Error>,
) -> Result<Page<CheckView, Before>, Problem> {
    let mut page = page(rows, room, view, place)?;
    if room == 0 && !rows.is_empty() {
        page.next = Some(Before { at: end, id: 0 });
    }
    Ok(page)
}

fn place(row: &CheckView) -> Before {
    Before { at: row.checked_at, id: row.id }
}

fn check(row: &PgRow, monitor: String) -> Result<CheckView, sqlx::Error> {
    let failure: Option<String> = row.try_get("error_type")?;
    let verdict = match (row.try_get("status")?, &failure) {
        (false, _) => Verdict::Down,
        (true, Some(_)) => Verdict::Degraded,
        (true, None) => Verdict::Up,
    };
    let phases = PhasesView {
        dns: row.try_get("dns_us")?,
        connect: row.try_get("connect_us")?,
        tls: row.try_get("tls_us")?,
        send: row.try_get("send_us")?,
        wait: row.try_get("wait_us")?,
        receive: row.try_get("receive_us")?,
        total: None,
    };
    Ok(CheckView {
        id: row.try_get("id")?,
        monitor,
        monitor_id: MonitorId(row.try_get("monitor_id")?),
        verdict: verdict.name(),
        failure,
        status_code: row.try_get("status_code")?,
        response_time_ms: row.try_get("response_time_ms")?,
        timings_us: phases.summed(),
        attempt: row.try_get("attempt")?,
        region: row.try_get("region")?,
        checked_at: row.try_get("checked_at")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_narrows_the_window() {
        let at = DateTime::UNIX_EPOCH + TimeDelta::days(1);
        let filter = CheckFilter { before: Some(Before { at, id: 5 }), ..CheckFilter::default() };
        let range = Range::of(filter.clone());
        assert_eq!((range.to, range.before), (at + TimeDelta::microseconds(1), Before { at, id: 5 }));
        let to = at - TimeDelta::hours(1);
        assert_eq!(Range::of(CheckFilter { to: Some(to), ..filter }).to, to);
        let far = Some(Before { at: DateTime::<Utc>::MAX_UTC, id: 0 });
        assert!(Range::of(CheckFilter { before: far, ..CheckFilter::default() }).to < DateTime::<Utc>::MAX_UTC);
    }
}
