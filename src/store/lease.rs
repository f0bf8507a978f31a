//! Who is the active daemon of a region: a row on the database's clock, with an epoch that fences every write.

use std::sync::atomic::Ordering;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{Connection as _, PgConnection};
use tokio::time::sleep;
use uuid::Uuid;

use super::{Problem, Store, finish, within};
use crate::journal::Unrecorded;
use crate::model::{Gap, GapReason, MonitorId, StoreFault};

pub(super) const STATEMENTS: &[&str] =
    &[ACQUIRE, HOLDER, EPOCH, LOOK, BACKEND, EVICT, RENEW, LOST, DOWN_SINCE, GAP, FORGET_DOWN];

/// A lease that is not renewed for so long, in seconds, may be taken by another holder. Renew it every 2 s.
pub const LEASE_SECONDS: u32 = 10;

const DEADLINE: Duration = Duration::from_secs(5);
/// For what is repeated soon.
const SHORT_DEADLINE: Duration = Duration::from_secs(3);
/// Whoever holds the row of a lease that may be taken is ended after so long, and again until nobody does.
const EVICT_EVERY: Duration = Duration::from_millis(300);

/// The same holder takes it back at once; `down_since` stays until its gap is written, and so does what was lost for
/// single monitors. What the holder of before had waiting is lost when it is another; its own is in its journal.
const ACQUIRE: &str = "INSERT INTO daemon_lease AS l (scope, holder, epoch, expires_at) \
    VALUES ($1, $2, 1, clock_timestamp() + make_interval(secs => $3)) \
    ON CONFLICT (scope) DO UPDATE SET holder = excluded.holder, epoch = l.epoch + 1, \
        down_since = coalesce(l.down_since, \
            CASE WHEN l.holder = excluded.holder THEN l.renewed_at ELSE least(l.renewed_at, l.recorded_to) END), \
        acquired_at = clock_timestamp(), renewed_at = clock_timestamp(), expires_at = excluded.expires_at, \
        recorded_to = clock_timestamp() - make_interval(secs => $4), \
        lost = CASE WHEN l.holder = excluded.holder THEN l.lost ELSE l.lost || l.waiting END, \
        lost_since = CASE WHEN l.holder = excluded.holder THEN l.lost_since ELSE l.lost_since || l.waiting_since END, \
        waiting = $5, waiting_since = ARRAY(SELECT clock_timestamp() - make_interval(secs => age) \
            FROM unnest($6::float8[]) WITH ORDINALITY AS w (age, n) ORDER BY n) \
    WHERE l.holder = excluded.holder OR l.expires_at <= clock_timestamp() RETURNING epoch";
const HOLDER: &str = "SELECT holder, expires_at FROM daemon_lease WHERE scope = $1";
const EPOCH: &str = "SELECT holder, epoch FROM daemon_lease WHERE scope = $1";
const LOOK: &str = "SELECT holder, expires_at, expires_at <= clock_timestamp() FROM daemon_lease WHERE scope = $1";
const BACKEND: &str = "SELECT pg_backend_pid()";
/// Only daemons: a person who holds the row is a person's business.
const EVICT: &str = "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity \
    WHERE pid = ANY (pg_blocking_pids($1)) AND application_name = current_setting('application_name')";
/// With it, up to when everything seen is recorded: another one that takes over begins its gap there.
const RENEW: &str = "UPDATE daemon_lease SET renewed_at = clock_timestamp(), \
    recorded_to = clock_timestamp() - make_interval(secs => $4), \
    expires_at = clock_timestamp() + make_interval(secs => $3), waiting = $5, \
    waiting_since = ARRAY(SELECT clock_timestamp() - make_interval(secs => age) \
        FROM unnest($6::float8[]) WITH ORDINALITY AS w (age, n) ORDER BY n) WHERE scope = $1 AND epoch = $2";
/// What the holder of before had waiting for rows of single monitors, until we began to check ($3 ago).
const LOST: &str = "SELECT w.id, w.since, greatest(w.since, clock_timestamp() - make_interval(secs => $3)) \
    FROM daemon_lease l, unnest(l.lost, l.lost_since) AS w (id, since) WHERE l.scope = $1 AND l.epoch = $2";
/// The latest time before we came of which everything is recorded: a renewal, a check, or a batch, which after an outage
/// tells of times long before it was written (states are stored less often than checks). On a database that has none, the
/// caller may know of one ($4).
const DOWN_SINCE: &str = "SELECT greatest(l.down_since, \
        (SELECT max(s.last_checked) FROM monitor_state s WHERE s.region = $1 AND s.last_checked <= now()), \
        (SELECT max(least(b.seen_to, b.recorded_at)) FROM recorded_batches b WHERE b.scope = $1)), \
        now() - make_interval(secs => $3) \
    FROM daemon_lease l WHERE l.scope = $1 AND l.epoch = $2 AND (l.down_since IS NOT NULL OR $4) FOR UPDATE";
const GAP: &str = "INSERT INTO monitor_gaps AS g (region, from_at, to_at, reason) VALUES ($1, $2, $3, $4) \
    ON CONFLICT (region, reason, from_at) WHERE monitor_id IS NULL \
    DO UPDATE SET to_at = greatest(g.to_at, excluded.to_at)";
/// It is a sign of life as well: the next gap begins after this one.
const FORGET_DOWN: &str = "UPDATE daemon_lease SET down_since = NULL, lost = '{}', lost_since = '{}', \
    renewed_at = clock_timestamp(), recorded_to = clock_timestamp() - make_interval(secs => $3) \
    WHERE scope = $1 AND epoch = $2";

/// What asking for the lease gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lease {
    /// It is ours, under this epoch; writes of earlier epochs are refused from now on.
    Held {
        /// Grows by one with every taking.
        epoch: i64,
    },
    /// Another daemon is active.
    Taken {
        /// Its id.
        holder: String,
        /// When its lease ends unless it renews it.
        until: DateTime<Utc>,
    },
}

impl Store {
    /// Who holds the lease; none when it may be taken. Locks nothing.
    ///
    /// # Errors
    /// [`StoreFault`] as every call.
    pub async fn lease(&self) -> Result<Option<Lease>, StoreFault> {
        within(SHORT_DEADLINE, async {
            let found: Option<(String, DateTime<Utc>, bool)> =
                sqlx::query_as(LOOK).bind(&*self.region).fetch_optional(&self.pool).await?;
            let held = found.filter(|(.., expired)| !expired);
            Ok::<_, Problem>(held.map(|(holder, until, _)| Lease::Taken { holder, until }))
        })
        .await
    }

    /// Takes the region's lease: when there is none, when it has expired, or when `holder` is the same (who holds a state
    /// directory's lock may take its own lease back at once). Every write of this store uses the epoch from then on.
    ///
    /// A transaction of the one before holds it up: its writes are in or out before the epoch changes. That of a daemon
    /// which was frozen in the middle would last until a time-out of the server, so its connection is ended.
    ///
    /// # Errors
    /// [`StoreFault`]; that another daemon holds it is no error but [`Lease::Taken`].
    pub async fn acquire(&self, holder: &str, unrecorded: &Unrecorded) -> Result<Lease, StoreFault> {
        within(DEADLINE, async {
            let mut conn = self.pool.acquire().await?;
            let backend: i32 = sqlx::query_scalar(BACKEND).fetch_one(&mut *conn).await?;
            let epoch: Option<i64> = {
                let taking = sqlx::query_scalar(ACQUIRE)
                    .bind(&*self.region)
                    .bind(holder)
                    .bind(f64::from(LEASE_SECONDS))
                    .bind(age(unrecorded))
                    .bind(ids(unrecorded))
                    .bind(ages(unrecorded))
                    .fetch_optional(&mut *conn);
                tokio::pin!(taking);
                loop {
                    tokio::select! {
                        epoch = &mut taking => break epoch?,
                        // Not cut off by its own success, which is to be told.
                        () = sleep(EVICT_EVERY) => self.evict(backend).await,
                    }
                }
            };
            if let Some(epoch) = epoch {
                self.epoch.store(epoch, Ordering::Release);
                return Ok(Lease::Held { epoch });
            }
            let (holder, until) = sqlx::query_as(HOLDER).bind(&*self.region).fetch_one(&mut *conn).await?;
            Ok::<_, Problem>(Lease::Taken { holder, until })
        })
        .await
    }

    /// Who held the lease last, and its epoch; none when nobody ever did. To be asked before [`Self::acquire`] by who must
    /// know whether another was active in between.
    ///
    /// # Errors
    /// [`StoreFault`].
    pub async fn lease_row(&self) -> Result<Option<(String, i64)>, StoreFault> {
        within(DEADLINE, async {
            let row = sqlx::query_as(EPOCH).bind(&*self.region).fetch_optional(&self.pool).await?;
            Ok::<_, Problem>(row)
        })
        .await
    }

    /// Ends daemons that hold up this backend.
    async fn evict(&self, backend: i32) {
        match sqlx::query_scalar::<_, i64>(EVICT).bind(backend).fetch_one(&self.pool).await {
            Ok(0) => {}
            Ok(_) => log::warn!("a daemon that stands still held up the lease: its connection was ended"),
            Err(error) => log::debug!("who holds up the lease cannot be asked: {error}"),
        }
    }

    /// Extends the lease, and says what is not recorded: should another daemon take over, that is lost, and a gap.
    ///
    /// # Errors
    /// [`StoreFault::Fenced`] when another has taken it: the daemon becomes a standby. `Away`: try again before it expires.
    pub async fn renew(&self, unrecorded: &Unrecorded) -> Result<(), StoreFault> {
        within(SHORT_DEADLINE, async {
            let done = self.extend(unrecorded, f64::from(LEASE_SECONDS)).await?;
            if done == 0 {
                return Err(Problem::Fault(StoreFault::Fenced("it has taken the lease".to_owned())));
            }
            Ok(())
        })
        .await
    }

    async fn extend(&self, unrecorded: &Unrecorded, seconds: f64) -> Result<u64, sqlx::Error> {
        let done = sqlx::query(RENEW)
            .bind(&*self.region)
            .bind(self.epoch())
            .bind(seconds)
            .bind(age(unrecorded))
            .bind(ids(unrecorded))
            .bind(ages(unrecorded))
            .execute(&self.pool)
            .await?;
        Ok(done.rows_affected())
    }

    /// After another daemon has taken the lease: no write of ours is even tried under the epoch of before.
    pub fn forget_lease(&self) {
        self.epoch.store(0, Ordering::Release);
    }

    /// Gives the lease up at a clean end, so that a standby need not wait, and says what is not recorded, as
    /// [`Self::renew`]. Harmless when it is not ours.
    ///
    /// # Errors
    /// [`StoreFault::Away`]: it will expire by itself.
    pub async fn release(&self, unrecorded: &Unrecorded) -> Result<(), StoreFault> {
        within(DEADLINE, async {
            self.extend(unrecorded, 0.0).await?;
            self.epoch.store(0, Ordering::Release);
            Ok::<_, Problem>(())
        })
        .await
    }

    /// After [`Self::acquire`]: gaps of single monitors, whose results the daemon of before could not record, as far as no
    /// gap tells of that yet. The caller keeps them, and then [`Self::record_downtime`] forgets them.
    ///
    /// # Errors
    /// [`StoreFault`] as every call.
    pub async fn lost(&self, checking: Duration) -> Result<Vec<Gap>, StoreFault> {
        within(DEADLINE, async {
            let rows: Vec<(Uuid, DateTime<Utc>, DateTime<Utc>)> = sqlx::query_as(LOST)
                .bind(&*self.region)
                .bind(self.epoch())
                .bind(checking.as_secs_f64())
                .fetch_all(&self.pool)
                .await?;
            let gap = |(id, from_at, to_at)| Gap {
                monitor: Some(MonitorId(id)),
                from_at,
                to_at,
                reason: GapReason::NotRunning,
            };
            Ok::<_, Problem>(rows.into_iter().map(gap).collect())
        })
        .await
    }

    /// After [`Self::acquire`]: writes one gap of all monitors, `not_running`, from the last sign of life until this daemon
    /// began to check, which it has done for `checking` already if the database was away until now. None
    /// on the very first start, or when it was written already. Killed in between, the next start writes the whole of it.
    ///
    /// `known` are times in which this daemon did not run, oldest first, and the last of them ended with this start: several
    /// when the database was away at the starts before. Each is a gap; the end of the last one is `checking` ago.
    ///
    /// # Errors
    /// [`StoreFault`] as every call.
    pub async fn record_downtime(
        &self,
        checking: Duration,
        known: &[(DateTime<Utc>, DateTime<Utc>)],
        unrecorded: &Unrecorded,
    ) -> Result<Option<Gap>, StoreFault> {
        within(DEADLINE, async {
            let mut conn = self.pool.acquire().await?;
            let mut tx = conn.begin().await?;
            let result = self.write_downtime(&mut tx, checking, known, age(unrecorded)).await;
            finish(tx, result).await
        })
        .await
    }

    async fn write_downtime(
        &self,
        tx: &mut PgConnection,
        checking: Duration,
        known: &[(DateTime<Utc>, DateTime<Utc>)],
        behind: f64,
    ) -> Result<Option<Gap>, Problem> {
        self.fence(tx).await?;
        let span: Option<(Option<DateTime<Utc>>, DateTime<Utc>)> = sqlx::query_as(DOWN_SINCE)
            .bind(&*self.region)
            .bind(self.epoch())
            .bind(checking.as_secs_f64())
            .bind(!known.is_empty())
            .fetch_optional(&mut *tx)
            .await?;
        let Some((alive, to_at)) = span else { return Ok(None) };
        let mut gap = None;
        for (from_at, to_at) in downtimes(alive, to_at, known) {
            let one = Gap { monitor: None, from_at, to_at, reason: GapReason::NotRunning };
            sqlx::query(GAP)
                .bind(&*self.region)
                .bind(one.from_at)
                .bind(one.to_at)
                .bind(one.reason.name())
                .execute(&mut *tx)
                .await?;
            gap = Some(one);
        }
        sqlx::query(FORGET_DOWN).bind(&*self.region).bind(self.epoch()).bind(behind).execute(&mut *tx).await?;
        Ok(gap)
    }
}

/// Seconds, as they are bound.
fn age(unrecorded: &Unrecorded) -> f64 {
    unrecorded.age.unwrap_or_default().as_secs_f64()
}

fn ids(unrecorded: &Unrecorded) -> Vec<Uuid> {
    unrecorded.waiting.iter().map(|(id, _)| id.0).collect()
}

fn ages(unrecorded: &Unrecorded) -> Vec<f64> {
    unrecorded.waiting.iter().map(|(_, age)| age.as_secs_f64()).collect()
}

/// When nothing ran, from what the database saw of the time before and what the daemon knows by itself. The last span ends
/// at `to_at`; one before which the database saw a sign of life begins there.
fn downtimes(
    alive: Option<DateTime<Utc>>,
    to_at: DateTime<Utc>,
    known: &[(DateTime<Utc>, DateTime<Utc>)],
) -> Vec<(DateTime<Utc>, DateTime<Utc>)> {
    let mut spans: Vec<(DateTime<Utc>, DateTime<Utc>)> = known.to_vec();
    match (spans.last_mut(), alive) {
        (Some(last), _) => last.1 = to_at,
        (None, Some(alive)) => spans.push((alive, to_at)),
        (None, None) => {}
    }
    for (from, to) in &mut spans {
        *from = alive.filter(|alive| *alive < *to).map_or(*from, |alive| alive.max(*from)).min(*to);
    }
    spans
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_700_000_000 + second, 0).unwrap()
    }

    #[test]
    fn every_time_without_a_daemon_is_a_gap_from_its_last_sign_of_life() {
        let span = |from, to| (at(from), at(to));
        type Spans = &'static [(i64, i64)];
        let cases: &[(Option<i64>, Spans, Spans)] = &[
            (Some(10), &[], &[(10, 100)]),
            (Some(200), &[], &[(100, 100)]),
            (None, &[], &[]),
            // The database saw it later than the journal, and the other way round.
            (Some(10), &[(5, 90)], &[(10, 100)]),
            (Some(5), &[(10, 90)], &[(10, 100)]),
            (None, &[(10, 90)], &[(10, 100)]),
            // Killed twice while the database was away.
            (Some(10), &[(12, 20), (30, 90)], &[(12, 20), (30, 100)]),
            (Some(15), &[(12, 20), (30, 90)], &[(15, 20), (30, 100)]),
        ];
        for (alive, known, wanted) in cases {
            let known: Vec<_> = known.iter().map(|(from, to)| span(*from, *to)).collect();
            let wanted: Vec<_> = wanted.iter().map(|(from, to)| span(*from, *to)).collect();
            assert_eq!(downtimes(alive.map(at), at(100), &known), wanted, "{alive:?} {known:?}");
        }
    }
}
