//! Retention: raw rows go by dropping their partitions, everything else in small batches, beside the hot path.
//!
//! A partition stays until everything in it is rolled up. They go oldest first, so what is left of the raw rows is always
//! one span up to now.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use sqlx::{Connection as _, PgConnection};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::fault::sqlstate;
use super::rollup::TURN;
use super::{Problem, Store, finish, within};
use crate::model::{Keeping, StoreFault};

pub(super) const STATEMENTS: &[&str] = &[
    PARTITIONS,
    SIZES,
    DROP,
    PRUNABLE,
    HOURLY_FROM,
    PRUNE_HOURLY,
    PRUNE_DAILY,
    INCIDENTS_FROM,
    PRUNE_INCIDENTS,
    PRUNE_GAPS,
    PRUNE_SPANS,
    NOW,
];

/// Partitions of ours, by day.
const PARTITIONS: &str = "SELECT to_date(right(c.relname, 8), 'YYYYMMDD'), pg_total_relation_size(c.oid) \
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid \
    WHERE i.inhparent = 'monitor_checks'::regclass AND c.relname ~ '^monitor_checks_[0-9]{8}$' ORDER BY c.relname";
const SIZES: &str = "SELECT pg_total_relation_size('monitor_rollups'), pg_total_relation_size('monitor_rollups_daily'), \
    now(), thinned_to FROM rollup_progress";
const DROP: &str = "SELECT lamplighter_drop_partition($1, $2)";
/// Hours may go when their days are summed.
const PRUNABLE: &str = "SELECT closed_to >= $1 AND NOT EXISTS (SELECT FROM rollup_backfill WHERE finished_at IS NULL) \
    AND NOT EXISTS (SELECT FROM rollup_dirty WHERE hour < $1) FROM rollup_progress";
const HOURLY_FROM: &str = "UPDATE rollup_progress SET hourly_from = $1 WHERE hourly_from IS NULL OR hourly_from < $1";
/// Of some monitors, each by its own range of the index.
const PRUNE_HOURLY: &str = "WITH slice AS (SELECT id FROM monitors WHERE $1::uuid IS NULL OR id > $1 ORDER BY id LIMIT 200), \
    old AS (SELECT r.* FROM slice CROSS JOIN LATERAL ( \
        SELECT monitor_id, hour, region FROM monitor_rollups WHERE monitor_id = slice.id AND hour < $2 \
        ORDER BY hour LIMIT 50) r), \
    gone AS (DELETE FROM monitor_rollups r USING old \
        WHERE r.monitor_id = old.monitor_id AND r.hour = old.hour AND r.region = old.region RETURNING 1) \
    SELECT (SELECT count(*) FROM gone), (SELECT id FROM slice ORDER BY id DESC LIMIT 1)";
const PRUNE_DAILY: &str = "WITH slice AS (SELECT id FROM monitors WHERE $1::uuid IS NULL OR id > $1 ORDER BY id LIMIT 200), \
    old AS (SELECT r.* FROM slice CROSS JOIN LATERAL ( \
        SELECT monitor_id, day, region FROM monitor_rollups_daily \
        WHERE monitor_id = slice.id AND day < ($2::timestamptz AT TIME ZONE 'UTC')::date ORDER BY day LIMIT 50) r), \
    gone AS (DELETE FROM monitor_rollups_daily r USING old \
        WHERE r.monitor_id = old.monitor_id AND r.day = old.day AND r.region = old.region RETURNING 1) \
    SELECT (SELECT count(*) FROM gone), (SELECT id FROM slice ORDER BY id DESC LIMIT 1)";
/// Before the first of them goes: what nobody remembers must not read as time without incidents.
const INCIDENTS_FROM: &str =
    "UPDATE rollup_progress SET incidents_from = $1 WHERE incidents_from IS NULL OR incidents_from < $1";
/// Open ones stay, however old.
const PRUNE_INCIDENTS: &str = "DELETE FROM incidents WHERE id = ANY(ARRAY( \
    SELECT id FROM incidents WHERE started_at < $1 AND resolved_at < $1 ORDER BY started_at, id LIMIT 1000))";
const PRUNE_GAPS: &str = "DELETE FROM monitor_gaps WHERE id = ANY(ARRAY( \
    SELECT id FROM monitor_gaps WHERE to_at < $1 ORDER BY to_at LIMIT 1000))";
const PRUNE_SPANS: &str = "DELETE FROM maintenance_spans WHERE ctid = ANY(ARRAY( \
    SELECT ctid FROM maintenance_spans WHERE to_at < $1 ORDER BY to_at LIMIT 1000))";

const NOW: &str = "SELECT now()";

/// One statement, when the server hangs.
const DEADLINE: Duration = Duration::from_secs(20);
/// How often a partition that somebody uses is tried, and the pause before the next try.
const TRIES: u32 = 8;
const PAUSE: Duration = Duration::from_millis(700);
/// A run of pruning works about so long, then leaves the rest to the next.
const BUDGET: Duration = Duration::from_secs(10);

/// A partition that was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// Its day, UTC.
    pub day: NaiveDate,
    /// Bytes that it took.
    pub bytes: u64,
    /// For want of room, and not by its age.
    pub thinned: bool,
}

/// What raw rows and roll-ups take, and where they begin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Dropped by this run, oldest first.
    pub dropped: Vec<Dropped>,
    /// A day that should go and stays for now: not rolled up yet, or somebody uses the table.
    pub held: Option<NaiveDate>,
    /// `retention.disk_budget`.
    pub budget: Option<u64>,
    /// Bytes of raw rows.
    pub raw_bytes: u64,
    /// Bytes of hourly roll-ups.
    pub hourly_bytes: u64,
    /// Bytes of daily roll-ups.
    pub daily_bytes: u64,
    /// The first day that has a partition.
    pub raw_begin: Option<NaiveDate>,
    /// Raw rows before this day went for want of room, and would still be there by their age.
    pub thinned_to: Option<NaiveDate>,
    /// It is still too much: nothing is left to drop.
    pub over_budget: bool,
}

impl Kept {
    /// All of it.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.raw_bytes.saturating_add(self.hourly_bytes).saturating_add(self.daily_bytes)
    }
}

/// How far pruning is; it goes on there.
#[derive(Clone, Copy, Debug, Default)]
pub struct PruneCursor {
    stage: u8,
    after: Option<Uuid>,
}

impl Store {
    /// How long history is kept; whoever changes it changes it for every clone.
    #[must_use]
    pub fn keeping(&self) -> Arc<ArcSwap<Keeping>> {
        Arc::clone(&self.keeping)
    }

    /// Drops partitions that are older than anybody may see, and, over `disk_budget`, the oldest of the rest. Repeat it every
    /// few minutes.
    ///
    /// # Errors
    /// [`StoreFault`] as every call; what was done stays done.
    pub async fn retain(&self) -> Result<Kept, StoreFault> {
        let keeping = self.keeping.load_full();
        let mut partitions: Vec<(NaiveDate, i64)> =
            within(DEADLINE, async { Ok::<_, Problem>(sqlx::query_as(PARTITIONS).fetch_all(&self.pool).await?) })
                .await?;
        let (hourly, daily, now, thinned_to): (i64, i64, DateTime<Utc>, Option<DateTime<Utc>>) =
            within(DEADLINE, async { Ok::<_, Problem>(sqlx::query_as(SIZES).fetch_one(&self.pool).await?) }).await?;
        let bytes = |size: i64| u64::try_from(size).unwrap_or(0);
        let mut kept = Kept {
            budget: keeping.retention.disk_budget,
            hourly_bytes: bytes(hourly),
            daily_bytes: bytes(daily),
            raw_bytes: partitions.iter().map(|(_, size)| bytes(*size)).sum(),
            ..Kept::default()
        };
        let oldest = day_before(now, keeping.longest_checks());
        let mut thinned = thinned_to.map(|time| time.date_naive());
        partitions.reverse();
        while let Some((day, size)) = partitions.last().copied() {
            let over = keeping.retention.disk_budget.is_some_and(|budget| kept.bytes() > budget);
            let thin = day >= oldest;
            // Today's is being written.
            if thin && (!over || day >= now.date_naive()) {
                break;
            }
            if !self.drop_partition(day, thin).await? {
                kept.held = Some(day);
                break;
            }
            partitions.pop();
            kept.raw_bytes = kept.raw_bytes.saturating_sub(bytes(size));
            kept.dropped.push(Dropped { day, bytes: bytes(size), thinned: thin });
            if thin {
                thinned = day.succ_opt();
            }
        }
        kept.raw_begin = partitions.last().map(|(day, _)| *day);
        kept.thinned_to = thinned.filter(|day| *day > oldest);
        kept.over_budget = keeping.retention.disk_budget.is_some_and(|budget| kept.bytes() > budget);
        Ok(kept)
    }

    /// False: it stays for now.
    async fn drop_partition(&self, day: NaiveDate, thin: bool) -> Result<bool, StoreFault> {
        for attempt in 1..=TRIES {
            let dropped = within(DEADLINE, async {
                match sqlx::query_scalar(DROP).bind(day).bind(thin).fetch_one(&self.pool).await {
                    Ok(dropped) => Ok(Some(dropped)),
                    Err(error) if sqlstate(&error).as_deref() == Some("55P03") => Ok(None),
                    Err(error) => Err(Problem::Sql(error)),
                }
            });
            match dropped.await? {
                Some(dropped) => return Ok(dropped),
                None if attempt == TRIES => {}
                None => sleep(PAUSE).await,
            }
        }
        Ok(false)
    }

    /// Deletes roll-ups, incidents, gaps and spans of maintenance that are too old, in small batches, for about 10 seconds; says how many rows went
    /// and whether that was all.
    ///
    /// # Errors
    /// [`StoreFault`] as every call; what was done stays done.
    pub async fn prune(&self, cursor: &mut PruneCursor) -> Result<(u64, bool), StoreFault> {
        let retention = self.keeping.load().retention;
        let began = Instant::now();
        let mut total = 0;
        let now: DateTime<Utc> =
            within(DEADLINE, async { Ok::<_, Problem>(sqlx::query_scalar(NOW).fetch_one(&self.pool).await?) }).await?;
        let before = |kept: Duration| day_before(now, kept).and_time(chrono::NaiveTime::MIN).and_utc();
        while began.elapsed() < BUDGET {
            let (statement, limit) = match cursor.stage {
                0 => (PRUNE_HOURLY, before(retention.hourly)),
                1 => (PRUNE_DAILY, before(retention.daily)),
                2 => (PRUNE_INCIDENTS, before(retention.incidents)),
                3 => (PRUNE_GAPS, before(retention.incidents)),
                4 => (PRUNE_SPANS, before(retention.incidents)),
                _ => {
                    *cursor = PruneCursor::default();
                    return Ok((total, true));
                }
            };
            let (gone, more) = within(DEADLINE, self.prune_some(statement, limit, cursor)).await?;
            total += gone;
            if !more {
                *cursor = PruneCursor { stage: cursor.stage + 1, after: None };
            }
        }
        Ok((total, false))
    }

    /// One batch; says how many rows went and whether there may be more of this kind.
    async fn prune_some(
        &self,
        statement: &'static str,
        limit: DateTime<Utc>,
        cursor: &mut PruneCursor,
    ) -> Result<(u64, bool), Problem> {
        if cursor.stage >= 2 {
            if statement == PRUNE_INCIDENTS {
                sqlx::query(INCIDENTS_FROM).bind(limit).execute(&self.pool).await?;
            }
            let gone = sqlx::query(statement).bind(limit).execute(&self.pool).await?.rows_affected();
            return Ok((gone, gone > 0));
        }
        let mut conn = self.pool.acquire().await?;
        let mut tx = conn.begin().await?;
        let result = prune_slice(&mut tx, statement, limit, cursor).await;
        finish(tx, result).await
    }
}

/// The roll-ups must not be recomputed meanwhile, or a day would be summed from some of its hours.
async fn prune_slice(
    conn: &mut PgConnection,
    statement: &'static str,
    limit: DateTime<Utc>,
    cursor: &mut PruneCursor,
) -> Result<(u64, bool), Problem> {
    let (turn, _): (bool, String) = sqlx::query_as(TURN).fetch_one(&mut *conn).await?;
    if !turn {
        return Ok((0, false));
    }
    if cursor.stage == 0 {
        let prunable: bool = sqlx::query_scalar(PRUNABLE).bind(limit).fetch_one(&mut *conn).await?;
        if !prunable {
            return Ok((0, false));
        }
        sqlx::query(HOURLY_FROM).bind(limit).execute(&mut *conn).await?;
    }
    let (gone, last): (i64, Option<Uuid>) =
        sqlx::query_as(statement).bind(cursor.after).bind(limit).fetch_one(conn).await?;
    if gone == 0 {
        cursor.after = last;
    }
    Ok((u64::try_from(gone).unwrap_or(0), last.is_some()))
}

/// The first day that is kept, when so much before now is.
fn day_before(now: DateTime<Utc>, kept: Duration) -> NaiveDate {
    let kept = TimeDelta::from_std(kept).unwrap_or(TimeDelta::MAX);
    now.checked_sub_signed(kept).map_or(NaiveDate::MIN, |time| time.date_naive())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_kept_until_its_last_moment_is_too_old() {
        let now: DateTime<Utc> = "2026-11-28T00:00:00Z".parse().unwrap();
        let days = |days: u64| Duration::from_secs(days * 86_400);
        assert_eq!(day_before(now, days(1)).to_string(), "2026-11-27");
        assert_eq!(day_before(now - TimeDelta::seconds(1), days(1)).to_string(), "2026-11-26");
        assert_eq!(day_before(now, days(90)).to_string(), "2026-08-30");
    }
}
