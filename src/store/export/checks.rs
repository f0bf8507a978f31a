//! Checks, by when they were made.
//!
//! They have one index, (monitor_id, checked_at, id). As in `read_checks`, time is cut into slices, each read by one
//! range of that index a monitor, and a slice grows or shrinks until it fills about a page.

use std::collections::VecDeque;

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::super::Problem;
use super::super::read::one_more;
use super::{Scope, share};
use crate::access::export::{CheckRow, Page, Rows, Wanted};
use crate::model::{MonitorId, Verdict};

/// The days that there are partitions of. Bounds are printed in the session's zone, which is UTC.
pub(super) const SPANS: &str = "SELECT s.bound[1]::timestamptz, s.bound[2]::timestamptz, now() FROM ( \
        SELECT regexp_match(pg_get_expr(c.relpartbound, c.oid), 'FROM \\(''([^'']+)''\\) TO \\(''([^'']+)''\\)') AS bound \
        FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'monitor_checks'::regclass) s \
    WHERE s.bound IS NOT NULL ORDER BY 1";

/// Texts of others are cut as the API cuts those of one incident.
pub(super) const CHECKS: &str = "SELECT c.*, m.id AS monitor_id, m.monitor \
    FROM (SELECT m.id, left(coalesce(m.key, m.name), 500) AS monitor, \
            greatest($3, now() - make_interval(secs => shown.seconds)) AS shown_from FROM monitors m \
        LEFT JOIN users o ON o.id = m.user_id \
        LEFT JOIN unnest($8::text[], $9::float8[]) AS shown (plan, seconds) ON shown.plan = o.plan \
        WHERE ($1::uuid IS NULL OR m.user_id = $1) AND ($2::uuid[] IS NULL OR m.id = ANY($2))) m \
    CROSS JOIN LATERAL ( \
        SELECT c.id, c.checked_at, c.status, left(c.error_type, 500) AS error_type, c.status_code, c.response_time_ms, \
            coalesce(c.attempt, 1::smallint) AS attempt, left(coalesce(c.region, ''), 500) AS region, \
            c.dns_us, c.connect_us, c.tls_us, c.send_us, c.wait_us, c.receive_us FROM monitor_checks c \
        WHERE c.monitor_id = m.id AND c.checked_at >= $3 AND c.checked_at >= m.shown_from AND c.checked_at < $4 \
            AND (c.checked_at, c.id, c.monitor_id) > ($3, $5::bigint, $6::uuid) \
        ORDER BY c.checked_at, c.id LIMIT $7::bigint) c \
    ORDER BY c.checked_at, c.id, m.id LIMIT $7::bigint";

/// Rows of a page: about a megabyte.
const CHECKS_A_PAGE: u16 = 5000;
/// The first slice of time, and its bounds.
const SLICE: TimeDelta = TimeDelta::hours(1);
const SLICE_LEAST: TimeDelta = TimeDelta::seconds(1);
const SLICE_MOST: TimeDelta = TimeDelta::days(32);
/// A slice that fills less than this part of a page grows.
const SPARSE: usize = CHECKS_A_PAGE as usize / 3;

/// Where reading checks is.
pub(super) struct Checks {
    scope: Scope,
    /// What is still to be read: days that lie together are one span.
    spans: VecDeque<(DateTime<Utc>, DateTime<Utc>)>,
    /// Of rows at the beginning of the first span, those behind this one are to be read.
    after: (i64, Uuid),
    slice: TimeDelta,
    /// Of all spans up to `now`: the days ahead are empty, and tell nothing of how far it is.
    whole: TimeDelta,
    now: DateTime<Utc>,
}

const BEFORE_ALL: (i64, Uuid) = (i64::MIN, Uuid::nil());

impl Checks {
    pub(super) async fn begin(conn: &mut PgConnection, scope: Scope, wanted: &Wanted) -> Result<Self, Problem> {
        let days: Vec<(DateTime<Utc>, DateTime<Utc>, DateTime<Utc>)> = sqlx::query_as(SPANS).fetch_all(conn).await?;
        let now = days.first().map_or(DateTime::UNIX_EPOCH, |day| day.2);
        let days: Vec<_> = days.into_iter().map(|(from, to, _)| (from, to)).collect();
        let spans = spans(&days, wanted.from, wanted.to);
        let whole = length(&spans, now);
        Ok(Self { scope, spans, after: BEFORE_ALL, slice: SLICE, whole, now })
    }

    pub(super) async fn page(&mut self, conn: &mut PgConnection) -> Result<Option<Page>, Problem> {
        let Some((from, until)) = self.spans.front().copied() else { return Ok(None) };
        let to = until.min(from + self.slice);
        let rows = sqlx::query(CHECKS)
            .bind(self.scope.user)
            .bind(self.scope.monitors.as_deref())
            .bind(from)
            .bind(to)
            .bind(self.after.0)
            .bind(self.after.1)
            .bind(one_more(CHECKS_A_PAGE))
            .bind(&self.scope.plans.0)
            .bind(&self.scope.plans.1)
            .fetch_all(conn)
            .await?;
        let page = rows.iter().take(usize::from(CHECKS_A_PAGE)).map(check).collect::<Result<Vec<_>, _>>()?;
        let full = rows.len() > page.len();
        self.advance(
            page.last().filter(|_| full).map(|row| (row.checked_at, row.id, row.monitor_id.0)),
            to,
            page.len(),
        );
        let left = length(&self.spans, self.now);
        let done = share((self.whole - left).num_seconds(), self.whole.num_seconds());
        Ok(Some(Page { rows: Rows::Checks(page), done }))
    }

    /// Goes on behind the last row of a page that was full, else at the end of the slice.
    fn advance(&mut self, last: Option<(DateTime<Utc>, i64, Uuid)>, to: DateTime<Utc>, rows: usize) {
        let Some(span) = self.spans.front_mut() else { return };
        if let Some((at, id, monitor)) = last {
            (span.0, self.after) = (at, (id, monitor));
            self.slice = (self.slice / 2).max(SLICE_LEAST);
            return;
        }
        (span.0, self.after) = (to, BEFORE_ALL);
        if span.0 >= span.1 {
            self.spans.pop_front();
        }
        if rows < SPARSE {
            self.slice = (self.slice * 2).min(SLICE_MOST);
        }
    }
}

/// What of these days lies in the wanted span, joined where one ends as the next begins.
fn spans(
    days: &[(DateTime<Utc>, DateTime<Utc>)],
    from: Option<DateTime<Utc>>,
    to: Option<DateTime<Utc>>,
) -> VecDeque<(DateTime<Utc>, DateTime<Utc>)> {
    let mut joined: VecDeque<(DateTime<Utc>, DateTime<Utc>)> = VecDeque::new();
    for (begin, end) in days {
        let (begin, end) = (from.map_or(*begin, |from| from.max(*begin)), to.map_or(*end, |to| to.min(*end)));
        match joined.back_mut() {
            _ if begin >= end => {}
            Some(last) if last.1 == begin => last.1 = end,
            _ => joined.push_back((begin, end)),
        }
    }
    joined
}

fn length(spans: &VecDeque<(DateTime<Utc>, DateTime<Utc>)>, now: DateTime<Utc>) -> TimeDelta {
    let past = |(from, to): &(DateTime<Utc>, DateTime<Utc>)| (*to.min(&now) - *from).max(TimeDelta::zero());
    spans.iter().map(past).fold(TimeDelta::zero(), |sum, length| sum + length)
}

fn check(row: &PgRow) -> Result<CheckRow, sqlx::Error> {
    let (status, error_type): (bool, Option<String>) = (row.try_get("status")?, row.try_get("error_type")?);
    Ok(CheckRow {
        id: row.try_get("id")?,
        monitor_id: MonitorId(row.try_get("monitor_id")?),
        monitor: row.try_get("monitor")?,
        checked_at: row.try_get("checked_at")?,
        verdict: match (status, &error_type) {
            (false, _) => Verdict::Down,
            (true, Some(_)) => Verdict::Degraded,
            (true, None) => Verdict::Up,
        },
        status,
        error_type,
        status_code: row.try_get("status_code")?,
        response_time_ms: row.try_get("response_time_ms")?,
        attempt: row.try_get("attempt")?,
        region: row.try_get("region")?,
        dns_us: row.try_get("dns_us")?,
        connect_us: row.try_get("connect_us")?,
        tls_us: row.try_get("tls_us")?,
        send_us: row.try_get("send_us")?,
        wait_us: row.try_get("wait_us")?,
        receive_us: row.try_get("receive_us")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_cut_and_joined() {
        let day = |n: i64| DateTime::UNIX_EPOCH + TimeDelta::days(n);
        let days = [(day(0), day(1)), (day(1), day(2)), (day(5), day(6))];
        assert_eq!(spans(&days, None, None), [(day(0), day(2)), (day(5), day(6))]);
        let noon = |n| day(n) + TimeDelta::hours(12);
        assert_eq!(spans(&days, Some(noon(1)), Some(noon(5))), [(noon(1), day(2)), (day(5), noon(5))]);
        assert_eq!(spans(&days, Some(day(2)), Some(day(5))), []);
        assert_eq!(spans(&days, Some(day(9)), None), []);
        let all = spans(&days, None, None);
        for (now, hours) in [(day(9), 72), (noon(1), 36), (noon(5), 60), (day(0), 0)] {
            assert_eq!(length(&all, now), TimeDelta::hours(hours));
        }
    }
}
