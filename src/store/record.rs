//! [`RecordStore`]: a batch in one transaction, exactly once, and never stopped by one row.
//!
//! The fast way assumes that nothing is wrong. When a monitor is gone or somebody holds its row, the transaction is tried
//! again carefully: the monitors are locked first, SKIP LOCKED, so that only the culprits are dropped or delayed.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use chrono::{DateTime, DurationRound as _, TimeDelta, Utc};
use futures_util::future::BoxFuture;
use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

use super::copy::{COPY, encode};
use super::fault::{describe, fault_of_batch, is_claimed, is_culprit, is_missing_partition};
use super::turns::{Turn, write_turns};
use super::{Problem, Store, clean_json, finish, within};
use crate::journal::{RecordStore, Recorded, StatusRow};
use crate::model::{Batch, Check, Gap, IncidentUid, MonitorId, MonitorState, Record, StoreFault};

pub(super) const STATEMENTS: &[&str] = &[
    IMPATIENCE,
    RECORDED,
    CLOSED_TO,
    STATES,
    super::turns::OPEN,
    super::turns::RESOLVE,
    GAPS_ONE,
    GAPS_ALL,
    DIRTY,
    CLAIM,
    FREE,
    PRESENT,
    OWNED,
    INCIDENTS_FREE,
    INCIDENTS,
    PARTITIONS,
];

/// Somebody's lock costs the batch this much, then the careful way is taken.
const IMPATIENCE: &str = "SELECT set_config('lock_timeout', '500ms', true)";
const RECORDED: &str = "SELECT dropped, delayed FROM recorded_batches WHERE id = $1";
/// Taken before `closed_to` is read: hours close under a SHARE lock, so what is open now stays open until we commit.
const LOCK: &str = "LOCK TABLE ONLY monitor_checks IN ROW EXCLUSIVE MODE";
const CLOSED_TO: &str = "SELECT closed_to FROM rollup_progress";
const STATES: &str = "INSERT INTO monitor_state AS s (monitor_id, region, state, status, since, failures, incident, last_checked, observed_from) \
    SELECT id, $8, state, status, since, failures, incident, last_checked, \
        CASE WHEN last_checked IS NOT NULL THEN least(since, last_checked) END \
    FROM unnest($1::uuid[], $2::jsonb[], $3::text[], $4::timestamptz[], $5::integer[], $6::uuid[], $7::timestamptz[]) \
        AS n (id, state, status, since, failures, incident, last_checked) \
    ON CONFLICT (monitor_id, region) DO UPDATE SET state = excluded.state, status = excluded.status, \
        since = excluded.since, failures = excluded.failures, incident = excluded.incident, \
        last_checked = excluded.last_checked, \
        observed_from = coalesce(s.observed_from, excluded.observed_from), updated_at = now()";
const GAPS_ONE: &str = "INSERT INTO monitor_gaps AS g (monitor_id, region, from_at, to_at, reason) \
    SELECT id, $5, from_at, max(to_at), reason \
    FROM unnest($1::uuid[], $2::timestamptz[], $3::timestamptz[], $4::text[]) AS n (id, from_at, to_at, reason) \
    WHERE from_at <= to_at AND id IS NOT NULL GROUP BY id, from_at, reason ORDER BY id \
    ON CONFLICT (monitor_id, region, reason, from_at) WHERE monitor_id IS NOT NULL \
    DO UPDATE SET to_at = greatest(g.to_at, excluded.to_at)";
const GAPS_ALL: &str = "INSERT INTO monitor_gaps AS g (region, from_at, to_at, reason) \
    SELECT $4, from_at, max(to_at), reason \
    FROM unnest($1::timestamptz[], $2::timestamptz[], $3::text[]) AS n (from_at, to_at, reason) \
    WHERE from_at <= to_at GROUP BY from_at, reason ORDER BY from_at \
    ON CONFLICT (region, reason, from_at) WHERE monitor_id IS NULL \
    DO UPDATE SET to_at = greatest(g.to_at, excluded.to_at)";
/// DO UPDATE, because it locks the mark: a roll-up that would take it now waits for our rows.
pub(super) const DIRTY: &str = "INSERT INTO rollup_dirty (monitor_id, hour) \
    SELECT id, hour FROM unnest($1::uuid[], $2::timestamptz[]) AS n (id, hour) ORDER BY hour, id \
    ON CONFLICT (monitor_id, hour) WHERE monitor_id IS NOT NULL DO UPDATE SET marked_at = now()";
const CLAIM: &str = "INSERT INTO recorded_batches (id, scope, checks, dropped, delayed, seen_to) \
    VALUES ($1, $2, $3, $4, $5, $6)";
pub(super) const FREE: &str = "SELECT id FROM monitors WHERE id = ANY($1) ORDER BY id FOR KEY SHARE SKIP LOCKED";
pub(super) const PRESENT: &str = "SELECT id FROM monitors WHERE id = ANY($1)";
/// Monitors whose owner can be referred to now.
const OWNED: &str = "SELECT m.id FROM monitors m JOIN users u ON u.id = m.user_id WHERE m.id = ANY($1) \
    FOR KEY SHARE OF u SKIP LOCKED";
const INCIDENTS_FREE: &str = "SELECT uid FROM incidents WHERE uid = ANY($1) AND resolved_at IS NULL \
    ORDER BY id FOR NO KEY UPDATE SKIP LOCKED";
const INCIDENTS: &str = "SELECT uid FROM incidents WHERE uid = ANY($1) AND resolved_at IS NULL";
const PARTITIONS: &str = "SELECT count(*) FILTER (WHERE lamplighter_make_partition(day)) FROM unnest($1::date[]) day";

/// A batch of several thousand rows takes a quarter of a second; this is for a server that hangs.
const DEADLINE: Duration = Duration::from_secs(20);

impl RecordStore for Store {
    fn record<'a>(&'a self, batch: &'a Batch) -> BoxFuture<'a, Result<Recorded, StoreFault>> {
        Box::pin(within(DEADLINE, self.record_batch(batch)))
    }

    fn write_status<'a>(&'a self, rows: &'a [StatusRow]) -> BoxFuture<'a, Result<Vec<MonitorId>, StoreFault>> {
        Box::pin(within(DEADLINE, self.write_status_rows(rows)))
    }
}

/// The records of a batch, by kind. Order is kept where it matters: the last state wins, transitions stay in sequence.
#[derive(Default)]
struct Work<'a> {
    checks: Vec<&'a Check>,
    states: BTreeMap<MonitorId, &'a MonitorState>,
    turns: BTreeMap<MonitorId, Vec<Turn<'a>>>,
    gaps: Vec<&'a Gap>,
}

impl<'a> Work<'a> {
    fn of(records: impl Iterator<Item = &'a Record>) -> Self {
        let mut work = Self::default();
        for record in records {
            match record {
                Record::Check(check) if check.verdict.row_status().is_some() => work.checks.push(check),
                Record::Check(_) => {}
                Record::State(id, state) => drop(work.states.insert(*id, state)),
                Record::Open(opening) => work.turns.entry(opening.monitor).or_default().push(Turn::Open(opening)),
                Record::Resolve(end) => work.turns.entry(end.monitor).or_default().push(Turn::Resolve(end)),
                Record::Gap(gap) => work.gaps.push(gap),
            }
        }
        // Neighbours in the index, and one order for every writer.
        work.checks.sort_by_key(|check| (check.monitor, check.checked_at));
        work
    }

    fn is_empty(&self) -> bool {
        self.checks.is_empty() && self.states.is_empty() && self.turns.is_empty() && self.gaps.is_empty()
    }
}

impl Store {
    async fn record_batch(&self, batch: &Batch) -> Result<Recorded, StoreFault> {
        let (mut careful, mut made) = (false, false);
        loop {
            match self.try_record(batch, careful).await {
                Err(Problem::Sql(error)) if is_missing_partition(&error) && !made => {
                    log::info!("making partitions of monitor_checks for a batch");
                    self.make_partitions_of(batch).await?;
                    made = true;
                }
                Err(Problem::Sql(error)) if is_culprit(&error) && !careful => careful = true,
                // An earlier try of this batch has committed by now: the next one finds its answer.
                Err(Problem::Sql(error)) if is_claimed(&error) => return Err(StoreFault::Away(describe(&error))),
                Err(Problem::Sql(error)) => return Err(fault_of_batch(&error)),
                Err(Problem::Fault(fault)) => return Err(fault),
                Ok(recorded) => return Ok(recorded),
            }
        }
    }

    async fn try_record(&self, batch: &Batch, careful: bool) -> Result<Recorded, Problem> {
        let mut conn = self.pool.acquire().await?;
        let mut tx = conn.begin().await?;
        let (recorded, wrote) = match self.write_batch(&mut tx, batch, careful).await {
            Ok(written) => written,
            Err(problem) => return finish(tx, Err(problem)).await,
        };
        if wrote {
            return finish(tx, Ok(recorded)).await;
        }
        // Nothing to recognise later: a repeat has nothing to double.
        let _ = tx.rollback().await;
        Ok(recorded)
    }

    async fn write_batch(
        &self,
        tx: &mut PgConnection,
        batch: &Batch,
        careful: bool,
    ) -> Result<(Recorded, bool), Problem> {
        sqlx::query(IMPATIENCE).execute(&mut *tx).await?;
        self.fence(tx).await?;
        if let Some(recorded) = repeated(tx, batch).await? {
            return Ok((recorded, false));
        }
        sqlx::query(LOCK).execute(&mut *tx).await?;
        let closed_to: DateTime<Utc> = sqlx::query_scalar(CLOSED_TO).fetch_one(&mut *tx).await?;
        let away = if careful { culprits(tx, batch).await? } else { Culprits::default() };
        let delayed = away.locked.union(&batch.held).copied().collect();
        let mut recorded = Recorded { delayed, ..Recorded::default() };
        let work = Work::of(batch.records.iter().filter(|record| match record.monitor() {
            Some(id) if away.gone.contains(&id) => {
                recorded.dropped += 1;
                false
            }
            Some(id) => !away.locked.contains(&id),
            None => true,
        }));
        recorded.checks = work.checks.len();
        // Before the rest: while an earlier try of this batch may still commit, its claim stops us here, and nothing of
        // ours is refused for what it wrote.
        sqlx::query(CLAIM)
            .bind(batch.id.0)
            .bind(&*self.region)
            .bind(count(recorded.checks))
            .bind(count(recorded.dropped))
            .bind(recorded.delayed.iter().map(|id| id.0).collect::<Vec<_>>())
            .bind(batch.records.iter().filter_map(Record::time).max())
            .execute(&mut *tx)
            .await?;
        write_checks(tx, &work.checks, &self.region).await?;
        self.write_states(tx, &work.states).await?;
        write_turns(tx, &work.turns).await?;
        self.write_gaps(tx, &work.gaps).await?;
        mark_dirty(tx, &work.checks, closed_to).await?;
        Ok((recorded, !work.is_empty()))
    }

    async fn make_partitions_of(&self, batch: &Batch) -> Result<(), StoreFault> {
        let days: BTreeSet<_> = batch
            .records
            .iter()
            .filter_map(|record| match record {
                Record::Check(check) => Some(check.checked_at.date_naive()),
                _ => None,
            })
            .collect();
        let days: Vec<_> = days.into_iter().collect();
        sqlx::query(PARTITIONS).bind(days).execute(&self.pool).await.map_err(|e| StoreFault::Away(describe(&e)))?;
        Ok(())
    }

    async fn write_states(
        &self,
        conn: &mut PgConnection,
        states: &BTreeMap<MonitorId, &MonitorState>,
    ) -> Result<(), Problem> {
        if states.is_empty() {
            return Ok(());
        }
        let all: Vec<_> = states.values().collect();
        sqlx::query(STATES)
            .bind(states.keys().map(|id| id.0).collect::<Vec<_>>())
            .bind(all.iter().map(json).collect::<Result<Vec<_>, _>>()?)
            .bind(all.iter().map(|state| state.status.name()).collect::<Vec<_>>())
            .bind(all.iter().map(|state| state.since).collect::<Vec<_>>())
            .bind(all.iter().map(|state| i32::from(state.failures)).collect::<Vec<_>>())
            .bind(all.iter().map(|state| state.incident.map(|uid| uid.0)).collect::<Vec<_>>())
            .bind(all.iter().map(|state| state.last_checked).collect::<Vec<_>>())
            .bind(&*self.region)
            .execute(conn)
            .await?;
        Ok(())
    }

    async fn write_gaps(&self, conn: &mut PgConnection, gaps: &[&Gap]) -> Result<(), Problem> {
        let (one, all): (Vec<&Gap>, Vec<&Gap>) = gaps.iter().partition(|gap| gap.monitor.is_some());
        if !one.is_empty() {
            sqlx::query(GAPS_ONE)
                .bind(one.iter().map(|gap| gap.monitor.map(|id| id.0)).collect::<Vec<_>>())
                .bind(one.iter().map(|gap| gap.from_at).collect::<Vec<_>>())
                .bind(one.iter().map(|gap| gap.to_at).collect::<Vec<_>>())
                .bind(one.iter().map(|gap| gap.reason.name()).collect::<Vec<_>>())
                .bind(&*self.region)
                .execute(&mut *conn)
                .await?;
        }
        if !all.is_empty() {
            sqlx::query(GAPS_ALL)
                .bind(all.iter().map(|gap| gap.from_at).collect::<Vec<_>>())
                .bind(all.iter().map(|gap| gap.to_at).collect::<Vec<_>>())
                .bind(all.iter().map(|gap| gap.reason.name()).collect::<Vec<_>>())
                .bind(&*self.region)
                .execute(conn)
                .await?;
        }
        Ok(())
    }
}

fn count(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

pub(super) fn json(value: &impl serde::Serialize) -> Result<serde_json::Value, StoreFault> {
    let mut value = serde_json::to_value(value).map_err(|error| StoreFault::Refused(error.to_string()))?;
    clean_json(&mut value);
    Ok(value)
}

/// The answer of the first time, if there was one. Its checks count once: here they are 0.
async fn repeated(conn: &mut PgConnection, batch: &Batch) -> Result<Option<Recorded>, Problem> {
    let row: Option<(i32, Vec<Uuid>)> = sqlx::query_as(RECORDED).bind(batch.id.0).fetch_optional(conn).await?;
    Ok(row.map(|(dropped, delayed)| Recorded {
        checks: 0,
        dropped: usize::try_from(dropped).unwrap_or(0),
        delayed: delayed.into_iter().map(MonitorId).collect(),
    }))
}

#[derive(Default)]
struct Culprits {
    gone: HashSet<MonitorId>,
    locked: HashSet<MonitorId>,
}

/// Locks what the batch refers to, as far as it is free, and says whose records cannot be written now.
async fn culprits(conn: &mut PgConnection, batch: &Batch) -> Result<Culprits, Problem> {
    let ids: BTreeSet<Uuid> = batch.records.iter().filter_map(Record::monitor).map(|id| id.0).collect();
    let all: Vec<Uuid> = ids.into_iter().collect();
    let free: HashSet<Uuid> = sqlx::query_scalar(FREE).bind(&all).fetch_all(&mut *conn).await?.into_iter().collect();
    let present: HashSet<Uuid> =
        sqlx::query_scalar(PRESENT).bind(&all).fetch_all(&mut *conn).await?.into_iter().collect();
    let mut culprits = Culprits::default();
    for id in &all {
        if !present.contains(id) {
            culprits.gone.insert(MonitorId(*id));
        } else if !free.contains(id) {
            culprits.locked.insert(MonitorId(*id));
        }
    }
    let mut opening = Vec::new();
    let mut ending: Vec<(IncidentUid, MonitorId)> = Vec::new();
    for record in &batch.records {
        match record {
            Record::Open(o) if !culprits.gone.contains(&o.monitor) => opening.push(o.monitor.0),
            Record::Resolve(r) if !culprits.gone.contains(&r.monitor) => ending.push((r.uid, r.monitor)),
            _ => {}
        }
    }
    let owned: HashSet<Uuid> =
        sqlx::query_scalar(OWNED).bind(&opening).fetch_all(&mut *conn).await?.into_iter().collect();
    culprits.locked.extend(opening.into_iter().filter(|id| !owned.contains(id)).map(MonitorId));
    let uids: Vec<Uuid> = ending.iter().map(|(uid, _)| uid.0).collect();
    let free: HashSet<Uuid> =
        sqlx::query_scalar(INCIDENTS_FREE).bind(&uids).fetch_all(&mut *conn).await?.into_iter().collect();
    let open: HashSet<Uuid> = sqlx::query_scalar(INCIDENTS).bind(&uids).fetch_all(conn).await?.into_iter().collect();
    let held = ending.into_iter().filter(|(uid, _)| open.contains(&uid.0) && !free.contains(&uid.0));
    culprits.locked.extend(held.map(|(_, monitor)| monitor));
    Ok(culprits)
}

async fn write_checks(conn: &mut PgConnection, checks: &[&Check], region: &str) -> Result<(), Problem> {
    if checks.is_empty() {
        return Ok(());
    }
    let mut copy = conn.copy_in_raw(COPY).await?;
    if let Err(error) = copy.send(encode(checks, region)).await {
        // The connection is beyond use; what broke it is the error to tell.
        let _ = copy.abort("sending failed").await;
        return Err(error.into());
    }
    copy.finish().await?;
    Ok(())
}

async fn mark_dirty(conn: &mut PgConnection, checks: &[&Check], closed_to: DateTime<Utc>) -> Result<(), Problem> {
    let late: BTreeSet<(Uuid, DateTime<Utc>)> = checks
        .iter()
        .filter(|check| check.checked_at < closed_to)
        .filter_map(|check| Some((check.monitor.0, check.checked_at.duration_trunc(TimeDelta::hours(1)).ok()?)))
        .collect();
    if late.is_empty() {
        return Ok(());
    }
    let (ids, hours): (Vec<_>, Vec<_>) = late.into_iter().unzip();
    sqlx::query(DIRTY).bind(ids).bind(hours).execute(conn).await?;
    Ok(())
}
