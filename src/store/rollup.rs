//! Hourly roll-ups, computed from closed hours, and daily ones, the sums of hours: idempotent, in bounded slices, and right
//! while anybody writes.
//!
//! Closing an hour only marks it dirty; the marks are then worked off. A dirty hour is answered from raw rows, so the
//! figures are exact at any moment, however far behind this is. A day that is over is summed again in the transaction that
//! recomputes one of its hours; the last of them closes after the day is over, so every day gets its row.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use sqlx::{Connection as _, PgConnection};
use tokio::time::Instant;
use uuid::Uuid;

use super::backfill::{Backfill, Filled};
use super::fault::sqlstate;
use super::record::{DIRTY, FREE, PRESENT};
use super::{Problem, Store, finish, within};
use crate::model::StoreFault;

pub(super) const STATEMENTS: &[&str] = &[
    TURN,
    CLOSABLE,
    CLOSE,
    WHOLE,
    SLICE,
    PROGRESS,
    FINISHED,
    MARKED,
    LEFT,
    FORGET,
    ROLL,
    FORGET_DAYS,
    SUM_DAYS,
    PRUNE,
];

/// Monitors a transaction, for one hour of all: with a check a second, 1.8 million rows, some 5 s.
const SLICE_SIZE: i64 = 500;
/// Marks a transaction. Bounds how long they, and with them a writer of late rows, are held: some 100 ms.
const MARKS: i64 = 500;
/// One call works about so long, then leaves the rest to the next.
const BUDGET: Duration = Duration::from_secs(20);
/// One slice, when the server hangs.
const DEADLINE: Duration = Duration::from_secs(20);

/// One at a time in a database; two would overwrite each other with older counts. The number is arbitrary and fixed. Less
/// patience than a batch has, because batches queue behind our wait for the table.
pub(super) const TURN: &str =
    "SELECT pg_try_advisory_xact_lock(7238153290764150118), set_config('lock_timeout', '250ms', true)";
/// Two minutes of grace for applications that take the time first and insert a little later.
const CLOSABLE: &str = "SELECT closed_to FROM rollup_progress \
    WHERE closed_to + interval '1 hour' <= now() - interval '2 minutes'";
/// Waits for every writer who may have taken the hour for an open one.
const LOCK: &str = "LOCK TABLE ONLY monitor_checks IN SHARE MODE";
/// Marks what closes, at most a week at once; after a long time away the hours are empty and quickly done.
const CLOSE: &str = "WITH closing AS ( \
        UPDATE rollup_progress p SET closed_to = least(p.closed_to + interval '7 days', \
            date_trunc('hour', now() - interval '2 minutes', 'UTC')) \
        FROM (SELECT closed_to FROM rollup_progress) old WHERE p.closed_to = old.closed_to \
        RETURNING old.closed_to AS from_at, p.closed_to AS to_at) \
    INSERT INTO rollup_dirty (hour) \
    SELECT generate_series(from_at, to_at - interval '1 hour', interval '1 hour') FROM closing \
    ON CONFLICT (hour) WHERE monitor_id IS NULL DO UPDATE SET done_to = NULL, marked_at = now()";
/// The latest hour first: it is the one that people look at.
const WHOLE: &str = "SELECT hour, done_to FROM rollup_dirty WHERE monitor_id IS NULL \
    ORDER BY hour DESC LIMIT 1 FOR UPDATE SKIP LOCKED";
pub(super) const SLICE: &str = "SELECT id FROM monitors WHERE $1::uuid IS NULL OR id > $1 ORDER BY id LIMIT $2";
const PROGRESS: &str = "UPDATE rollup_dirty SET done_to = $2 WHERE hour = $1 AND monitor_id IS NULL";
const FINISHED: &str = "DELETE FROM rollup_dirty WHERE hour = $1 AND monitor_id IS NULL";
/// A statement of its own before [`ROLL`], whose snapshot then sees the rows that came with the marks.
const MARKED: &str = "DELETE FROM rollup_dirty WHERE ctid = ANY(ARRAY( \
        SELECT ctid FROM rollup_dirty WHERE monitor_id IS NOT NULL ORDER BY hour DESC LIMIT $1 FOR UPDATE SKIP LOCKED)) \
    RETURNING monitor_id, hour";
const LEFT: &str = "SELECT EXISTS (SELECT FROM rollup_dirty WHERE monitor_id IS NOT NULL)";
/// Hours whose raw rows are gone keep their roll-up, also when a late row has brought their partition back.
const FORGET: &str = "DELETE FROM monitor_rollups r USING unnest($1::uuid[], $2::timestamptz[]) AS n (id, hour) \
    WHERE r.monitor_id = n.id AND r.hour = n.hour \
        AND n.hour >= coalesce((SELECT raw_from FROM rollup_progress), '-infinity') \
        AND to_regclass('monitor_checks_' || to_char(n.hour AT TIME ZONE 'UTC', 'YYYYMMDD')) IS NOT NULL";
const ROLL: &str = "INSERT INTO monitor_rollups \
        (monitor_id, hour, region, checks, good, timed, sum_ms, min_ms, max_ms, latency) \
    SELECT monitor_id, at, region, checks, good, timed, sum_ms, min_ms, max_ms, latency \
    FROM lamplighter_roll($1::uuid[], $2::timestamptz[], $3::timestamptz[], $4, $5) ON CONFLICT DO NOTHING";
/// Days that lost hours to retention stay as they are.
const FORGET_DAYS: &str = "DELETE FROM monitor_rollups_daily d \
    USING unnest($1::uuid[], $2::date[]) AS n (id, day), rollup_progress p \
    WHERE d.monitor_id = n.id AND d.day = n.day \
        AND n.day::timestamp AT TIME ZONE 'UTC' >= coalesce(p.hourly_from, '-infinity')";
/// Only days that are over.
const SUM_DAYS: &str = "WITH hours AS MATERIALIZED ( \
        SELECT n.id, n.day, r.* FROM unnest($1::uuid[], $2::date[]) AS n (id, day) \
        CROSS JOIN rollup_progress p \
        CROSS JOIN LATERAL (SELECT region, checks, good, timed, sum_ms, min_ms, max_ms, latency FROM monitor_rollups \
            WHERE monitor_id = n.id AND hour >= n.day::timestamp AT TIME ZONE 'UTC' \
                AND hour < (n.day + 1)::timestamp AT TIME ZONE 'UTC' OFFSET 0) r \
        WHERE (n.day + 1)::timestamp AT TIME ZONE 'UTC' <= p.closed_to \
            AND n.day::timestamp AT TIME ZONE 'UTC' >= coalesce(p.hourly_from, '-infinity')), \
    histogram AS ( \
        SELECT id, day, region, array_agg(ARRAY[bucket, checks] ORDER BY bucket) AS latency FROM ( \
            SELECT h.id, h.day, h.region, b.bucket, sum(b.checks)::integer AS checks \
            FROM hours h CROSS JOIN LATERAL lamplighter_buckets(h.latency) b GROUP BY 1, 2, 3, 4) s \
        GROUP BY 1, 2, 3) \
    INSERT INTO monitor_rollups_daily (monitor_id, day, region, checks, good, timed, sum_ms, min_ms, max_ms, latency) \
    SELECT s.*, h.latency FROM ( \
        SELECT id, day, region, sum(checks), sum(good), coalesce(sum(timed), 0), coalesce(sum(sum_ms), 0), \
            min(min_ms), max(max_ms) FROM hours GROUP BY 1, 2, 3) s \
    LEFT JOIN histogram h USING (id, day, region)";
/// A repeat can only be of a batch that was in flight when the answer was lost: an hour before the newest is long enough,
/// however long the database was away since.
const PRUNE: &str = "DELETE FROM recorded_batches b \
    USING (SELECT scope, max(recorded_at) AS latest FROM recorded_batches GROUP BY scope) l \
    WHERE b.scope = l.scope AND b.recorded_at < l.latest - interval '1 hour'";

/// What one call did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RolledUp {
    /// Pairs of monitor and hour that were recomputed.
    pub recomputed: usize,
    /// Whether marks are left for the next call, or another daemon of this database is at it.
    pub more: bool,
    /// How far the hours of before there was latency are, while some are left.
    pub backfill: Option<Backfill>,
}

/// What a slice left.
enum Slice {
    Done,
    Worked(usize),
    /// Only monitors are left whose rows somebody holds.
    Held,
    /// Another daemon of this database is at it.
    Busy,
}

impl Store {
    /// Closes hours that are over and recomputes the roll-ups of dirty ones, then those of before there was latency, for
    /// about 20 seconds at the most, a slice a transaction. Idempotent; call it every minute. Also forgets batches that
    /// nobody can repeat.
    ///
    /// # Errors
    /// [`StoreFault`] as every call; what was done stays done.
    pub async fn roll_up(&self) -> Result<RolledUp, StoreFault> {
        let began = Instant::now();
        within(DEADLINE, self.close_hours()).await?;
        let mut done = RolledUp::default();
        loop {
            match within(DEADLINE, self.roll_slice()).await? {
                Slice::Done => break,
                Slice::Busy | Slice::Held => {
                    done.more = true;
                    break;
                }
                Slice::Worked(pairs) => done.recomputed += pairs,
            }
            if began.elapsed() > BUDGET {
                done.more = true;
                break;
            }
        }
        while !done.more {
            done.backfill = match within(DEADLINE, self.backfill_slice()).await? {
                Filled::Part(backfill) => Some(backfill),
                Filled::Done => {
                    done.backfill = None;
                    break;
                }
                Filled::Busy => {
                    done.more = true;
                    break;
                }
            };
            if began.elapsed() > BUDGET {
                break;
            }
        }
        within(DEADLINE, async {
            sqlx::query(PRUNE).execute(&self.pool).await?;
            Ok::<_, Problem>(())
        })
        .await?;
        Ok(done)
    }

    async fn close_hours(&self) -> Result<(), Problem> {
        loop {
            let mut conn = self.pool.acquire().await?;
            let mut tx = conn.begin().await?;
            let result = close_some(&mut tx).await;
            match finish(tx, result).await {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                // Somebody's long transaction: the hour stays open, and is answered from raw rows.
                Err(Problem::Sql(error)) if sqlstate(&error).as_deref() == Some("55P03") => return Ok(()),
                Err(problem) => return Err(problem),
            }
        }
    }

    async fn roll_slice(&self) -> Result<Slice, Problem> {
        let mut conn = self.pool.acquire().await?;
        let mut tx = conn.begin().await?;
        let result = roll_some(&mut tx).await;
        finish(tx, result).await
    }
}

/// Says whether there may be more to close.
async fn close_some(conn: &mut PgConnection) -> Result<bool, Problem> {
    let (turn, _): (bool, String) = sqlx::query_as(TURN).fetch_one(&mut *conn).await?;
    let closable: Option<DateTime<Utc>> = sqlx::query_scalar(CLOSABLE).fetch_optional(&mut *conn).await?;
    if !turn || closable.is_none() {
        return Ok(false);
    }
    sqlx::query(LOCK).execute(&mut *conn).await?;
    sqlx::query(CLOSE).execute(conn).await?;
    Ok(true)
}

async fn roll_some(conn: &mut PgConnection) -> Result<Slice, Problem> {
    let (turn, _): (bool, String) = sqlx::query_as(TURN).fetch_one(&mut *conn).await?;
    if !turn {
        return Ok(Slice::Busy);
    }
    let whole: Option<(DateTime<Utc>, Option<Uuid>)> = sqlx::query_as(WHOLE).fetch_optional(&mut *conn).await?;
    if let Some((hour, done_to)) = whole {
        return roll_whole(conn, hour, done_to).await.map(Slice::Worked);
    }
    let marks: Vec<(Uuid, DateTime<Utc>)> = sqlx::query_as(MARKED).bind(MARKS).fetch_all(&mut *conn).await?;
    if marks.is_empty() {
        return Ok(Slice::Done);
    }
    let pairs = recompute(conn, marks).await?;
    // Marks of monitors that are gone are progress too; those of held ones stand there again.
    let left: bool = sqlx::query_scalar(LEFT).fetch_one(conn).await?;
    Ok(if pairs == 0 && left { Slice::Held } else { Slice::Worked(pairs) })
}

async fn roll_whole(conn: &mut PgConnection, hour: DateTime<Utc>, done_to: Option<Uuid>) -> Result<usize, Problem> {
    let ids: Vec<Uuid> = sqlx::query_scalar(SLICE).bind(done_to).bind(SLICE_SIZE).fetch_all(&mut *conn).await?;
    let last = ids.last().copied();
    let full = i64::try_from(ids.len()).is_ok_and(|n| n == SLICE_SIZE);
    let pairs = recompute(conn, ids.into_iter().map(|id| (id, hour)).collect()).await?;
    match last {
        Some(last) if full => sqlx::query(PROGRESS).bind(hour).bind(last).execute(conn).await?,
        _ => sqlx::query(FINISHED).bind(hour).execute(conn).await?,
    };
    Ok(pairs)
}

/// Recomputes pairs of monitor and hour, and their days. A monitor whose row somebody holds is marked again, one that is gone forgotten.
pub(super) async fn recompute(conn: &mut PgConnection, pairs: Vec<(Uuid, DateTime<Utc>)>) -> Result<usize, Problem> {
    let ids: HashSet<Uuid> = pairs.iter().map(|(id, _)| *id).collect();
    let ids: Vec<Uuid> = ids.into_iter().collect();
    let free: HashSet<Uuid> = sqlx::query_scalar(FREE).bind(&ids).fetch_all(&mut *conn).await?.into_iter().collect();
    let (mine, held): (Vec<_>, Vec<_>) = pairs.into_iter().partition(|(id, _)| free.contains(id));
    if !held.is_empty() {
        let ids: Vec<Uuid> = held.iter().map(|(id, _)| *id).collect();
        let there: HashSet<Uuid> =
            sqlx::query_scalar(PRESENT).bind(&ids).fetch_all(&mut *conn).await?.into_iter().collect();
        let (ids, hours): (Vec<_>, Vec<_>) = held.into_iter().filter(|(id, _)| there.contains(id)).unzip();
        sqlx::query(DIRTY).bind(ids).bind(hours).execute(&mut *conn).await?;
    }
    let count = mine.len();
    let days: BTreeSet<(Uuid, NaiveDate)> = mine.iter().map(|(id, hour)| (*id, hour.date_naive())).collect();
    let (ids, hours): (Vec<_>, Vec<_>) = mine.into_iter().unzip();
    let ends: Vec<DateTime<Utc>> = hours.iter().map(|hour: &DateTime<Utc>| *hour + TimeDelta::hours(1)).collect();
    sqlx::query(FORGET).bind(&ids).bind(&hours).execute(&mut *conn).await?;
    sqlx::query(ROLL)
        .bind(&ids)
        .bind(&hours)
        .bind(&ends)
        .bind(hours.iter().min())
        .bind(ends.iter().max())
        .execute(&mut *conn)
        .await?;
    let (ids, days): (Vec<_>, Vec<_>) = days.into_iter().unzip();
    sqlx::query(FORGET_DAYS).bind(&ids).bind(&days).execute(&mut *conn).await?;
    sqlx::query(SUM_DAYS).bind(&ids).bind(&days).execute(conn).await?;
    Ok(count)
}
