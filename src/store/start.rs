//! What can be wrong with a database at the start, and getting it ready.

use std::time::Duration;

use sqlx::{Connection as _, Error, PgConnection};

use super::Store;
use super::classify::{Found, classify};
use super::fault::{Meaning, describe, meaning, sqlstate};
use crate::model::StoreFault;

/// Oldest server: `server_version_num` of PostgreSQL 14.
const OLDEST: i32 = 140_000;

/// For looking, when the server hangs; migrating has no limit.
const DEADLINE: Duration = Duration::from_secs(10);

pub(super) const STATEMENTS: &[&str] = &[VERSION, PARTITIONS];

const VERSION: &str = "SELECT current_setting('server_version_num')::integer, current_setting('server_version')";

/// Yesterday, because a batch may be late; three days ahead, because we may be away.
const PARTITIONS: &str = "SELECT count(*) FILTER (WHERE lamplighter_make_partition(day)) FROM ( \
    SELECT (now() AT TIME ZONE 'UTC')::date + d AS day FROM generate_series(-1, 3) d) days";

/// Why the store cannot be used as it is. One line each, without secrets; [`Self::exit_code`] is for the command line.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Not reachable, too slow, starting, out of connections, read-only: wait for it.
    #[error("the database cannot be used now: {0}")]
    Unreachable(String),
    /// Wrong user or password.
    #[error("the database refuses the login: {0}; check user and password in database.url")]
    LoginRefused(String),
    /// The server has no database of this name.
    #[error("{0}; create it (createdb), or correct database.url")]
    NoSuchDatabase(String),
    /// `database.url` is not a Postgres URL.
    #[error("database.url cannot be read: it must look like postgres://user:password@host:5432/database")]
    BadUrl,
    /// `database.schema` is not a usable name.
    #[error("database.schema {0:?}: 1 to 63 bytes, not beginning with pg_")]
    BadSchema(String),
    /// Below PostgreSQL 14.
    #[error("the server is PostgreSQL {0}; Lamplighter needs 14 or newer")]
    ServerTooOld(String),
    /// A newer Lamplighter was here.
    #[error(
        "the schema is of a newer Lamplighter (migration {found}, this one knows {known}); run that version or newer"
    )]
    SchemaNewer {
        /// The newest migration applied.
        found: i64,
        /// The newest that this binary has.
        known: i64,
    },
    /// The integer-keyed database of before.
    #[error(
        "this is the database of before the upgrade (integer keys); `lamplighter migrate legacy --dry-run` shows what becomes of it, `lamplighter migrate legacy` upgrades it"
    )]
    Legacy,
    /// The upgrade of the integer-keyed database was begun, and is not finished.
    #[error("the upgrade of this database is not finished; `lamplighter migrate legacy` goes on with it")]
    HalfUpgraded,
    /// Something else; nothing was touched.
    #[error("this database is not Lamplighter's: {0}; nothing was touched. Use another database or database.schema")]
    Foreign(String),
    /// `database.auto_migrate = false` and the schema is not up to date.
    #[error("the schema is not up to date ({0}) and database.auto_migrate is false; run `lamplighter migrate`")]
    NotMigrated(String),
    /// A migration failed; it was rolled back.
    #[error("the schema could not be brought up to date, nothing was changed: {0}")]
    Migration(String),
}

impl StartError {
    /// Exit code of a command that needs the store: 69 when it is merely away, else 78.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Unreachable(_) => 69,
            _ => 78,
        }
    }

    /// Whether waiting can help: `run` starts degraded and tries again; otherwise it exits.
    #[must_use]
    pub const fn is_away(&self) -> bool {
        matches!(self, Self::Unreachable(_))
    }

    pub(super) fn of(error: &Error) -> Self {
        let text = describe(error);
        match sqlstate(error).as_deref() {
            Some("28P01" | "28000") => Self::LoginRefused(text),
            Some("3D000") => Self::NoSuchDatabase(text),
            Some(code) if meaning(code) == Meaning::Refused => Self::Migration(text),
            None if matches!(error, Error::Configuration(_)) => Self::BadUrl,
            _ => Self::Unreachable(text),
        }
    }
}

impl From<Error> for StartError {
    fn from(error: Error) -> Self {
        Self::of(&error)
    }
}

impl Store {
    /// Connects, looks whose database it is, migrates it if allowed, and makes the partitions of yesterday, today and
    /// three days ahead. Says what was found. Repeat it until it does not fail with [`StartError::is_away`].
    ///
    /// # Errors
    /// Every [`StartError`].
    pub async fn prepare(&self, auto_migrate: bool) -> Result<Found, StartError> {
        let found = self.classify().await?;
        match &found {
            Found::Ours { pending: 0 } => {}
            Found::Empty | Found::Ours { .. } | Found::Adoptable if auto_migrate => {
                self.migrate().await?;
            }
            other => return Err(other.as_error().unwrap_or_else(|| StartError::NotMigrated(other.to_string()))),
        }
        self.make_partitions_ahead().await.map_err(|fault| match fault {
            StoreFault::Refused(text) => StartError::Migration(text),
            other => StartError::Unreachable(other.to_string()),
        })?;
        Ok(found)
    }

    /// Whose database it is; changes nothing.
    ///
    /// # Errors
    /// Those of connecting, and [`StartError::ServerTooOld`].
    pub async fn classify(&self) -> Result<Found, StartError> {
        let look = async {
            let mut conn = self.connect().await?;
            classify(&mut conn, &self.schema).await
        };
        match tokio::time::timeout(DEADLINE, look).await {
            Ok(found) => found,
            Err(_) => Err(StartError::Unreachable(format!("no answer within {} s", DEADLINE.as_secs()))),
        }
    }

    /// A connection to a server that is new enough. First one beside the pool, which would try again until its time-out
    /// and then not know why.
    pub(super) async fn connect(&self) -> Result<sqlx::pool::PoolConnection<sqlx::Postgres>, StartError> {
        let options = self.pool.connect_options();
        let place = match options.get_socket() {
            Some(socket) => socket.display().to_string(),
            None => format!("{}:{}", options.get_host(), options.get_port()),
        };
        let first = async {
            let mut conn = PgConnection::connect_with(&options).await?;
            check_version(&mut conn).await?;
            // A courtesy; the server notices either way.
            let _ = conn.close().await;
            Ok::<_, StartError>(())
        };
        let answer = tokio::time::timeout(super::ACQUIRE_TIMEOUT, first).await;
        match answer.unwrap_or_else(|_| Err(StartError::Unreachable("no answer within 3 s".to_owned()))) {
            Err(StartError::Unreachable(why)) => Err(StartError::Unreachable(format!("{place}: {why}"))),
            Err(other) => Err(other),
            Ok(()) => Ok(self.pool.acquire().await?),
        }
    }

    /// Makes the partitions of yesterday, today and three days ahead; says how many were missing.
    ///
    /// # Errors
    /// [`StoreFault`] as every call; the caller tries again later.
    pub async fn make_partitions_ahead(&self) -> Result<i64, StoreFault> {
        super::within(DEADLINE, async {
            sqlx::query_scalar(PARTITIONS).fetch_one(&self.pool).await.map_err(super::fault_of)
        })
        .await
    }
}

async fn check_version(conn: &mut PgConnection) -> Result<(), StartError> {
    let (number, name): (i32, String) = sqlx::query_as(VERSION).fetch_one(conn).await?;
    if number < OLDEST { Err(StartError::ServerTooOld(name)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_away_is_69() {
        assert_eq!(StartError::Unreachable(String::new()).exit_code(), 69);
        for error in
            [StartError::BadUrl, StartError::Legacy, StartError::HalfUpgraded, StartError::ServerTooOld(String::new())]
        {
            assert_eq!(error.exit_code(), 78);
            assert!(!error.is_away());
        }
        assert!(StartError::of(&Error::PoolTimedOut).is_away());
        assert!(StartError::of(&Error::Io(std::io::ErrorKind::NotFound.into())).is_away());
    }
}
