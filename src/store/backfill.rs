//! Recomputes hours that were rolled up before roll-ups had latency, and sums their days: once, day by day, newest first,
//! a few monitors a transaction. Counts are right all the while; latency of what is left comes from raw rows.

use chrono::{DateTime, NaiveDate, NaiveTime, TimeDelta, Utc};
use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

use super::rollup::{SLICE, TURN, recompute};
use super::{Problem, Store, finish};

pub(super) const STATEMENTS: &[&str] = &[STATE, LAST_DAY, FOUND, PROGRESS, NEXT, FINISHED, CLOSED_TO];

/// Monitors a transaction, each with a whole day: with a check a second, 1.4 million rows, some 4 s.
const MONITORS: i64 = 16;

const STATE: &str =
    "SELECT first_day, next_day, last_day, done_to FROM rollup_backfill WHERE finished_at IS NULL FOR UPDATE";
/// By the index of each monitor: the table may have many millions of rows.
const LAST_DAY: &str = "SELECT min((first.hour AT TIME ZONE 'UTC')::date) FROM monitors m CROSS JOIN LATERAL ( \
    SELECT r.hour FROM monitor_rollups r WHERE r.monitor_id = m.id ORDER BY r.hour LIMIT 1) first";
const FOUND: &str =
    "UPDATE rollup_backfill SET last_day = $1, finished_at = CASE WHEN $1 <= next_day THEN NULL ELSE now() END";
const PROGRESS: &str = "UPDATE rollup_backfill SET done_to = $1";
const NEXT: &str = "UPDATE rollup_backfill SET next_day = next_day - 1, done_to = NULL, \
    finished_at = CASE WHEN next_day <= last_day THEN now() END";
/// From now on a day without a row has nothing to sum.
const FINISHED: &str = "UPDATE rollup_progress SET backfilled = true";
const CLOSED_TO: &str = "SELECT closed_to FROM rollup_progress";

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backfill {
    /// The day that is recomputed.
    pub day: NaiveDate,
    /// The last one: the first with roll-ups.
    pub last_day: NaiveDate,
    /// How much is done, in thousandths.
    pub permille: u16,
}

/// What a slice left.
pub(super) enum Filled {
    /// Nothing.
    Done,
    /// So much is done.
    Part(Backfill),
    /// Another daemon of this database is at it.
    Busy,
}

/// A row of `rollup_backfill`.
type State = (NaiveDate, NaiveDate, Option<NaiveDate>, Option<Uuid>);

impl Store {
    /// One slice.
    pub(super) async fn backfill_slice(&self) -> Result<Filled, Problem> {
        let mut conn = self.pool.acquire().await?;
        let mut tx = conn.begin().await?;
        let result = some(&mut tx).await;
        finish(tx, result).await
    }
}

async fn some(conn: &mut PgConnection) -> Result<Filled, Problem> {
    let (turn, _): (bool, String) = sqlx::query_as(TURN).fetch_one(&mut *conn).await?;
    if !turn {
        return Ok(Filled::Busy);
    }
    let state: Option<State> = sqlx::query_as(STATE).fetch_optional(&mut *conn).await?;
    let Some((first_day, day, last_day, done_to)) = state else { return Ok(Filled::Done) };
    let last_day = match last_day {
        Some(last_day) => last_day,
        None => {
            let found: Option<NaiveDate> = sqlx::query_scalar(LAST_DAY).fetch_one(&mut *conn).await?;
            sqlx::query(FOUND).bind(found).execute(&mut *conn).await?;
            match found {
                Some(last_day) if last_day <= day => last_day,
                _ => {
                    sqlx::query(FINISHED).execute(conn).await?;
                    return Ok(Filled::Done);
                }
            }
        }
    };
    let ids: Vec<Uuid> = sqlx::query_scalar(SLICE).bind(done_to).bind(MONITORS).fetch_all(&mut *conn).await?;
    let closed_to: DateTime<Utc> = sqlx::query_scalar(CLOSED_TO).fetch_one(&mut *conn).await?;
    let begin = day.and_time(NaiveTime::MIN).and_utc();
    let hours = (0..24).map(|hour| begin + TimeDelta::hours(hour)).filter(|hour| *hour < closed_to);
    let hours: Vec<DateTime<Utc>> = hours.collect();
    let last = ids.last().copied().filter(|_| i64::try_from(ids.len()).is_ok_and(|n| n == MONITORS));
    let pairs = ids.into_iter().flat_map(|id| hours.iter().map(move |hour| (id, *hour)));
    recompute(conn, pairs.collect()).await?;
    match last {
        Some(last) => sqlx::query(PROGRESS).bind(last).execute(&mut *conn).await?,
        None => sqlx::query(NEXT).execute(&mut *conn).await?,
    };
    if last.is_none() && day <= last_day {
        sqlx::query(FINISHED).execute(conn).await?;
        return Ok(Filled::Done);
    }
    Ok(Filled::Part(Backfill { day, last_day, permille: permille(first_day, day, last_day, last) }))
}

/// Ids are spread evenly: the first bits say how far a day is.
fn permille(first_day: NaiveDate, day: NaiveDate, last_day: NaiveDate, done_to: Option<Uuid>) -> u16 {
    let all = (first_day - last_day).num_days() + 1;
    let whole = (first_day - day).num_days() * 1000;
    let within =
        done_to.map_or(1000, |id| i64::from(u16::from_be_bytes([id.as_bytes()[0], id.as_bytes()[1]])) * 1000 / 65_536);
    u16::try_from((whole + within) / all.max(1)).unwrap_or(1000).min(1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_grows_to_the_end() {
        let day = |number| NaiveDate::from_ymd_opt(2026, 11, number).unwrap();
        let half = Some(Uuid::from_u128(0x8000 << 112));
        assert_eq!(permille(day(10), day(10), day(1), Some(Uuid::nil())), 0);
        assert_eq!(permille(day(10), day(10), day(1), half), 50);
        assert_eq!(permille(day(10), day(6), day(1), None), 500);
        assert_eq!(permille(day(10), day(1), day(1), None), 1000);
        assert_eq!(permille(day(1), day(1), day(1), half), 500);
    }
}
