//! A database of the daemon's own making, and what it costs its server.

use std::fs;
use std::path::{Path, PathBuf};

use lamplighter::journal::Unrecorded;
use lamplighter::store::cluster::{Cluster, ClusterOptions, StateLock};
use lamplighter::store::{Store, StoreSettings};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tokio::runtime::Runtime;

use super::Result;

/// As the daemon's default.
const CONNECTIONS: u32 = 8;
pub(crate) const REGION: &str = "us-east-1";

/// A migrated database in a private cluster, of which we hold the lease.
pub(crate) struct House {
    // Dropped in this order.
    pub(crate) pool: PgPool,
    pub(crate) store: Store,
    cluster: Cluster,
    pub(crate) lock: StateLock,
    _folder: Option<tempfile::TempDir>,
}

impl House {
    pub(crate) fn open(runtime: &Runtime, keep: Option<&Path>) -> Result<Self> {
        let (path, folder) = place(keep)?;
        let lock = StateLock::acquire(&path)?;
        let launcher = PathBuf::from(env!("CARGO_BIN_EXE_lamplighter"));
        let cluster = Cluster::start(&lock, &ClusterOptions { launcher, ..ClusterOptions::default() })?;
        let (store, pool) = runtime.block_on(async {
            let store = Store::new(&StoreSettings {
                url: cluster.url().clone(),
                max_connections: CONNECTIONS,
                schema: "public".to_owned(),
                region: REGION.to_owned(),
            })?;
            store.prepare(true).await?;
            store.acquire("storage-bench", &Unrecorded::default()).await?;
            let setup = PgPoolOptions::new().max_connections(2).after_connect(|conn, _| {
                Box::pin(async move { sqlx::query("SET timezone = 'UTC'").execute(conn).await.map(drop) })
            });
            let pool = setup.connect(cluster.url().expose()).await?;
            Ok::<_, Box<dyn std::error::Error>>((store, pool))
        })?;
        Ok(Self { pool, store, cluster, lock, _folder: folder })
    }

    /// User and system time of the server and all its processes so far, in milliseconds.
    pub(crate) fn server_ms(&self) -> f64 {
        let server = self.cluster.pid();
        let ticks: u64 = processes().filter_map(|pid| ticks_of(pid, server)).sum();
        ticks as f64 * 1000.0 / rustix::param::clock_ticks_per_second() as f64
    }

    /// Bytes of write-ahead log so far, and those of them that are images of whole pages, at about 8 KiB each.
    pub(crate) async fn wal(&self) -> Result<(f64, i64)> {
        let row: (f64, i64) =
            sqlx::query_as("SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::float8, wal_fpi FROM pg_stat_wal")
                .fetch_one(&self.pool)
                .await?;
        Ok(row)
    }

    /// Bytes on disk of a table, its partitions and their indexes.
    pub(crate) async fn bytes(&self, table: &str) -> Result<f64> {
        let sql = "SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::float8 FROM pg_class c \
            WHERE c.oid = $1::regclass OR c.oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = $1::regclass)";
        Ok(sqlx::query_scalar(sql).bind(table).fetch_one(&self.pool).await?)
    }
}

/// A folder that Postgres's user can reach, and what removes it at the end.
fn place(keep: Option<&Path>) -> Result<(PathBuf, Option<tempfile::TempDir>)> {
    use std::os::unix::fs::PermissionsExt as _;
    if let Some(path) = keep {
        return Ok((path.to_owned(), None));
    }
    let folder = tempfile::Builder::new().prefix("storage-").tempdir_in("/var/tmp")?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711))?;
    Ok((folder.path().join("state"), Some(folder)))
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Clock ticks of a process that is the server or its child: of the server with those of children that ended.
fn ticks_of(pid: u32, server: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // proc(5): behind the name in parentheses the third field, the state, comes first.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let own = field(14)? + field(15)?;
    match pid == server {
        true => Some(own + field(16)? + field(17)?),
        false if field(4)? == u64::from(server) => Some(own),
        false => None,
    }
}
