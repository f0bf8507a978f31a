//! The only place with SQL: one file per port, migrations, and the private cluster.
//!
//! Everything is UTC whatever the server says, every statement is a constant (a test PREPAREs them all), every call has
//! a deadline on our side as well, because a server that hangs answers no `statement_timeout`.

mod backfill;
pub mod backup;
mod catalog;
mod classify;
pub mod cluster;
pub mod copy;
mod doctor;
mod export;
mod fault;
mod latency;
mod lease;
pub mod legacy;
mod login;
mod maintenance;
mod merge;
mod migrate;
mod read;
mod read_checks;
mod record;
mod retention;
mod rollup;
mod slo;
mod start;
mod status;
mod token;
mod turns;
mod uptime;

use std::future::Future;
use std::str::FromStr as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Executor as _, PgPool};
use tokio::sync::{Mutex, Notify};

pub use backfill::Backfill;
pub use classify::Found;
pub use doctor::{Examined, Ours, Room};
pub use lease::{LEASE_SECONDS, Lease};
pub use migrate::{Adopting, Migrated};
pub use retention::{Dropped, Kept, PruneCursor};
pub use rollup::RolledUp;
pub use slo::{SloMonitor, SloRow};
pub use start::StartError;
pub use token::{NewToken, TokenError, TokenRow};

use crate::model::{Keeping, Secret, StoreFault};
use fault::fault_of;

/// How long getting a connection may take, connecting included.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);

/// One connection in so many is for the API, but at least one, and at most [`READ_MOST`].
const READ_SHARE: u32 = 4;
const READ_MOST: u32 = 8;

/// How long calls that are under way have to end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// What the driver's debug log calls slow.
const SLOW: Duration = Duration::from_secs(1);

/// What the store must know to begin.
#[derive(Clone, Debug)]
pub struct StoreSettings {
    /// `database.url`, or that of the private cluster.
    pub url: Secret,
    /// `database.max_connections`, at least 2; one more listens for notifications.
    pub max_connections: u32,
    /// `database.schema`.
    pub schema: String,
    /// `daemon.region`: the scope of the lease, of states and of gaps.
    pub region: String,
}

/// The database, behind the ports of [`crate::catalog`] and [`crate::journal`]. Cheap to clone; clones share the
/// connections, the lease and the listener.
#[derive(Clone)]
pub struct Store {
    pool: PgPool,
    /// For the API: a crowd of readers must not keep results from being recorded.
    reading: PgPool,
    listening: PgPool,
    listener: Arc<Mutex<Option<PgListener>>>,
    schema: Arc<str>,
    region: Arc<str>,
    /// The epoch of the lease we hold; 0: none.
    epoch: Arc<AtomicI64>,
    /// What the last merges left.
    baseline: Arc<merge::Baseline>,
    /// Woken when rows of `maintenances` may have changed.
    maintenance_told: Arc<Notify>,
    /// How long history is kept, and who sees how much of it.
    keeping: Arc<ArcSwap<Keeping>>,
}

impl Store {
    /// A store that connects at its first call: the daemon starts while the database is away.
    ///
    /// # Errors
    /// [`StartError::BadUrl`], [`StartError::BadSchema`].
    pub fn new(settings: &StoreSettings) -> Result<Self, StartError> {
        let schema = settings.schema.as_str();
        if schema.is_empty() || schema.len() > 63 || schema.contains('\0') || schema.starts_with("pg_") {
            return Err(StartError::BadSchema(schema.to_owned()));
        }
        // The parser's own message may quote the URL, and with it the password.
        let options = match PgConnectOptions::from_str(settings.url.expose()) {
            Ok(options) if is_postgres(settings.url.expose()) => login::by_default(options, settings.url.expose())
                .application_name("lamplighter")
                // The driver would warn of every merge of a large file.
                .log_statements(log::LevelFilter::Trace)
                .log_slow_statements(log::LevelFilter::Debug, SLOW),
            _ => return Err(StartError::BadUrl),
        };
        let share = (settings.max_connections / READ_SHARE).clamp(1, READ_MOST);
        let rest = settings.max_connections.saturating_sub(share).max(1);
        Ok(Self {
            pool: pool(rest, schema, "").connect_lazy_with(options.clone()),
            reading: pool(share, schema, read::SETUP).connect_lazy_with(options.clone()),
            listening: pool(1, schema, "").connect_lazy_with(options),
            listener: Arc::new(Mutex::new(None)),
            schema: schema.into(),
            region: settings.region.as_str().into(),
            epoch: Arc::new(AtomicI64::new(0)),
            baseline: Arc::default(),
            maintenance_told: Arc::default(),
            keeping: Arc::default(),
        })
    }

    /// Host and port, if the store is reached over TCP.
    #[must_use]
    pub fn address(&self) -> Option<(String, u16)> {
        let options = self.pool.connect_options();
        let host = options.get_host();
        (options.get_socket().is_none() && !host.starts_with('/')).then(|| (host.to_owned(), options.get_port()))
    }

    /// Connections of the pool: open ones, and those of them that nobody uses.
    #[must_use]
    pub fn connections(&self) -> (u32, usize) {
        (self.pool.size(), self.pool.num_idle())
    }

    /// Closes every connection, waiting for calls that are under way, 16 seconds at the most.
    pub async fn close(&self) {
        // Closing wakes a waiting `changed`, which then lets go of the slot.
        let closing = self.listening.close();
        if let Ok(mut slot) = tokio::time::timeout(ACQUIRE_TIMEOUT, self.listener.lock()).await {
            slot.take();
        }
        // What still holds a connection by then is cut off by the end of the process.
        let _ = tokio::time::timeout(ACQUIRE_TIMEOUT, async { tokio::join!(closing, self.reading.close()) }).await;
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.pool.close()).await;
    }

    /// One round trip, for readiness.
    ///
    /// # Errors
    /// [`StoreFault`] as every call.
    pub async fn ping(&self) -> Result<(), StoreFault> {
        within(ACQUIRE_TIMEOUT, async {
            sqlx::query(PING).execute(&self.pool).await?;
            Ok::<_, Problem>(())
        })
        .await
    }

    fn epoch(&self) -> i64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Fails unless we still hold the lease, and keeps others from taking it before the transaction ends.
    async fn fence(&self, conn: &mut sqlx::PgConnection) -> Result<(), Problem> {
        let held = sqlx::query(FENCE).bind(&*self.region).bind(self.epoch()).fetch_optional(conn).await?;
        match held {
            Some(_) => Ok(()),
            None => Err(StoreFault::Fenced(format!("the lease of region {:?} is not ours", self.region)).into()),
        }
    }
}

const PING: &str = "SELECT 1";
const FENCE: &str = "SELECT 1 FROM daemon_lease WHERE scope = $1 AND epoch = $2 FOR KEY SHARE";

/// Every statement of this module tree, for the test that PREPAREs them.
#[doc(hidden)]
pub const STATEMENTS: &[&[&str]] = &[
    &[PING, FENCE],
    backfill::STATEMENTS,
    backup::STATEMENTS,
    catalog::STATEMENTS,
    classify::STATEMENTS,
    doctor::STATEMENTS,
    export::STATEMENTS,
    latency::STATEMENTS,
    lease::STATEMENTS,
    legacy::STATEMENTS[0],
    legacy::STATEMENTS[1],
    maintenance::STATEMENTS,
    merge::STATEMENTS,
    migrate::STATEMENTS,
    read::STATEMENTS,
    read_checks::STATEMENTS,
    record::STATEMENTS,
    retention::STATEMENTS,
    rollup::STATEMENTS,
    slo::STATEMENTS,
    start::STATEMENTS,
    status::STATEMENTS,
    token::STATEMENTS,
    uptime::STATEMENTS,
];

fn is_postgres(url: &str) -> bool {
    url.starts_with("postgres://") || url.starts_with("postgresql://")
}

fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

/// What is set on a connection before it is used. By SET and not as start-up options, which connection poolers refuse. What
/// `jit` compiles of ours runs for less time than that takes.
fn setup(schema: &str, more: &str) -> String {
    format!(
        "SET timezone = 'UTC'; SET search_path = {}; SET statement_timeout = '15s'; SET lock_timeout = '2s'; \
         SET idle_in_transaction_session_timeout = '30s'; SET jit = off{more}",
        quoted(schema)
    )
}

fn pool(connections: u32, schema: &str, more: &str) -> PgPoolOptions {
    let setup: Arc<str> = setup(schema, more).into();
    // A slow database is told by whoever asked it, and in words that name it.
    let options = PgPoolOptions::new().max_connections(connections).acquire_slow_level(log::LevelFilter::Debug);
    options.acquire_timeout(ACQUIRE_TIMEOUT).after_connect(move |conn, _| {
        let setup = setup.to_string();
        Box::pin(async move {
            conn.execute(AssertSqlSafe(setup)).await?;
            Ok(())
        })
    })
}

/// What stops a call half-way: the server's error, which may have a remedy, or a verdict.
enum Problem {
    Sql(sqlx::Error),
    Fault(StoreFault),
}

impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<StoreFault> for Problem {
    fn from(fault: StoreFault) -> Self {
        Self::Fault(fault)
    }
}

impl From<Problem> for StoreFault {
    fn from(problem: Problem) -> Self {
        match problem {
            Problem::Sql(error) => fault_of(error),
            Problem::Fault(fault) => fault,
        }
    }
}

/// Ends a transaction. The roll-back is awaited: a dropped transaction is rolled back some time later, and its locks would
/// meet our own next try.
async fn finish<T>(tx: sqlx::Transaction<'_, sqlx::Postgres>, result: Result<T, Problem>) -> Result<T, Problem> {
    match result {
        Ok(value) => {
            tx.commit().await?;
            Ok(value)
        }
        Err(problem) => {
            // When this fails as well the connection is gone, and its locks with it.
            let _ = tx.rollback().await;
            Err(problem)
        }
    }
}

/// Bounds a call on our own clock.
async fn within<T, E: Into<StoreFault>>(
    limit: Duration,
    call: impl Future<Output = Result<T, E>>,
) -> Result<T, StoreFault> {
    match tokio::time::timeout(limit, call).await {
        Ok(result) => result.map_err(Into::into),
        Err(_) => Err(StoreFault::Away(format!("no answer within {} s", limit.as_secs()))),
    }
}

/// Postgres has no NUL in texts; nothing that a target answers may make a batch impossible.
fn clean(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// The same for JSON.
fn clean_json(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::String(text) if text.contains('\0') => *text = clean(text),
        serde_json::Value::Array(items) => items.iter_mut().for_each(clean_json),
        serde_json::Value::Object(map) => {
            if map.keys().any(|key| key.contains('\0')) {
                *map = std::mem::take(map).into_iter().map(|(key, value)| (clean(&key), value)).collect();
            }
            map.values_mut().for_each(clean_json);
        }
        _ => {}
    }
}
