//! What `lamplighter doctor` and `lamplighter support-bundle` ask a database. All of it only reads, and each question has a
//! deadline.

use std::time::Duration;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use sqlx::PgConnection;

use super::classify::{Found, classify};
use super::{StartError, Store};
use crate::clock::Wall;

/// For all questions together, when the server hangs.
const DEADLINE: Duration = Duration::from_secs(10);

pub(super) const STATEMENTS: &[&str] = &[VERSION, CLOCK, ROOM, SETTINGS, DAYS, LEASE, MONITORS, TABLES];

const VERSION: &str = "SELECT current_setting('server_version')";
const CLOCK: &str = "SELECT clock_timestamp()";
/// What every role may see: `pg_stat_activity` hides others' rows, `numbackends` does not.
const ROOM: &str = "SELECT current_setting('max_connections')::integer, \
    current_setting('superuser_reserved_connections')::integer, \
    (SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user), \
    (SELECT datconnlimit FROM pg_database WHERE datname = current_database()), \
    (SELECT coalesce(sum(numbackends), 0)::bigint FROM pg_stat_database), \
    pg_is_in_recovery(), current_setting('default_transaction_read_only')::boolean";
/// As they are before this session changes any.
const SETTINGS: &str = "SELECT name, reset_val || coalesce(' x ' || unit, '') FROM pg_settings \
    WHERE name = ANY ($1) AND reset_val IS NOT NULL ORDER BY name";
/// The days from today on that have no partition.
const DAYS: &str = "SELECT day FROM (SELECT (now() AT TIME ZONE 'UTC')::date + d AS day FROM generate_series(0, 3) d) days \
    WHERE NOT EXISTS (SELECT FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid \
        WHERE i.inhparent = 'monitor_checks'::regclass AND c.relname = 'monitor_checks_' || to_char(day, 'YYYYMMDD')) \
    ORDER BY day";
const LEASE: &str = "SELECT holder, expires_at, expires_at <= clock_timestamp() FROM daemon_lease WHERE scope = $1";
const MONITORS: &str = "SELECT count(*) FILTER (WHERE source <> 'file'), \
    count(*) FILTER (WHERE kind = 'icmp' OR (kind IS NULL AND url LIKE 'icmp:%')) \
    FROM monitors WHERE is_active AND archived_at IS NULL";
/// With what is no table of rows left out. Partitions stand for themselves.
const TABLES: &str = "SELECT c.relname::text, pg_total_relation_size(c.oid), c.reltuples::bigint \
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
    WHERE n.nspname = $1 AND c.relkind IN ('r', 'p', 'm') ORDER BY c.relname LIMIT 20000";

/// Settings that tell how a server works. By name: others, such as `primary_conninfo`, may hold a password.
const TELLING: &[&str] = &[
    "autovacuum",
    "checkpoint_timeout",
    "default_transaction_isolation",
    "default_transaction_read_only",
    "effective_cache_size",
    "fsync",
    "full_page_writes",
    "hot_standby",
    "huge_pages",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "jit",
    "lc_collate",
    "lock_timeout",
    "maintenance_work_mem",
    "max_connections",
    "max_locks_per_transaction",
    "max_wal_size",
    "max_worker_processes",
    "server_encoding",
    "server_version",
    "shared_buffers",
    "ssl",
    "statement_timeout",
    "superuser_reserved_connections",
    "synchronous_commit",
    "synchronous_standby_names",
    "temp_buffers",
    "wal_level",
    "work_mem",
];

/// What a database says of itself.
#[derive(Clone, Debug)]
pub struct Examined {
    /// Of the server, such as `15.18 (Debian 15.18-0+deb12u1)`.
    pub version: String,
    /// Whose database it is.
    pub found: Found,
    /// By how much its clock is before ours; the way there and back may account for `clock_slack` of it.
    pub clock_ahead: TimeDelta,
    /// Half the time that asking took.
    pub clock_slack: TimeDelta,
    /// Connections.
    pub room: Room,
    /// Settings, by name, with their units.
    pub settings: Vec<(String, String)>,
    /// What only a schema of ours has; none when it is another's or not up to date.
    pub ours: Option<Ours>,
}

/// Who may connect, and whether anything can be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    /// `max_connections` of the server.
    pub most: i32,
    /// Of them, for superusers.
    pub reserved: i32,
    /// Of this role; -1: none.
    pub role_limit: i32,
    /// Of this database; -1: none.
    pub database_limit: i32,
    /// In use now, by everybody, this one included.
    pub used: i64,
    /// It is a standby.
    pub in_recovery: bool,
    /// Sessions begin read-only.
    pub read_only: bool,
}

/// What is in a schema of ours.
#[derive(Clone, Debug)]
pub struct Ours {
    /// Of today and the three days to come, those without a partition.
    pub missing_days: Vec<NaiveDate>,
    /// Who holds the lease of this region, until when, and whether that is over.
    pub lease: Option<(String, DateTime<Utc>, bool)>,
    /// Active monitors that no file defines.
    pub rows: i64,
    /// Active monitors that ping.
    pub icmp: i64,
    /// Tables with their bytes on disk, and the server's guess of their rows.
    pub tables: Vec<(String, i64, i64)>,
}

impl Store {
    /// Looks at everything that is worth telling a person whose database is in trouble. Changes nothing.
    ///
    /// # Errors
    /// Those of connecting, and [`StartError::ServerTooOld`].
    pub async fn examine(&self, wall: &dyn Wall) -> Result<Examined, StartError> {
        match tokio::time::timeout(DEADLINE, self.examine_all(wall)).await {
            Ok(examined) => examined,
            Err(_) => Err(StartError::Unreachable(format!("no answer within {} s", DEADLINE.as_secs()))),
        }
    }

    async fn examine_all(&self, wall: &dyn Wall) -> Result<Examined, StartError> {
        let mut conn = self.connect().await?;
        let version = sqlx::query_scalar(VERSION).fetch_one(&mut *conn).await?;
        let (clock_ahead, clock_slack) = clock(&mut conn, wall).await?;
        let room = room(&mut conn).await?;
        let settings = sqlx::query_as(SETTINGS).bind(TELLING).fetch_all(&mut *conn).await?;
        let found = classify(&mut conn, &self.schema).await?;
        let ours = if found == (Found::Ours { pending: 0 }) { Some(self.ours(&mut conn).await?) } else { None };
        Ok(Examined { version, found, clock_ahead, clock_slack, room, settings, ours })
    }

    async fn ours(&self, conn: &mut PgConnection) -> Result<Ours, StartError> {
        let missing_days = sqlx::query_scalar(DAYS).fetch_all(&mut *conn).await?;
        let lease = sqlx::query_as(LEASE).bind(&*self.region).fetch_optional(&mut *conn).await?;
        let (rows, icmp) = sqlx::query_as(MONITORS).fetch_one(&mut *conn).await?;
        let tables = sqlx::query_as(TABLES).bind(&*self.schema).fetch_all(conn).await?;
        Ok(Ours { missing_days, lease, rows, icmp, tables })
    }
}

/// The difference is taken to the middle of the question, as NTP does.
async fn clock(conn: &mut PgConnection, wall: &dyn Wall) -> Result<(TimeDelta, TimeDelta), StartError> {
    let before = wall.now();
    let there: DateTime<Utc> = sqlx::query_scalar(CLOCK).fetch_one(conn).await?;
    let slack = (wall.now() - before) / 2;
    Ok((there - (before + slack), slack))
}

async fn room(conn: &mut PgConnection) -> Result<Room, StartError> {
    let row: (i32, i32, Option<i32>, Option<i32>, i64, bool, bool) = sqlx::query_as(ROOM).fetch_one(conn).await?;
    let (most, reserved, role, database, used, in_recovery, read_only) = row;
    let (role_limit, database_limit) = (role.unwrap_or(-1), database.unwrap_or(-1));
    Ok(Room { most, reserved, role_limit, database_limit, used, in_recovery, read_only })
}
