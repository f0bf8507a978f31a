//! What `db dump` and `db restore` need of SQL: one snapshot for pg_dump and for the sums, whose database it is, a place to
//! restore to.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

use super::classify::{Found, classify};
use super::migrate::SCHEMA_EXISTS;
use super::{Problem, StartError, Store, quoted, setup, within};
use crate::model::StoreFault;

pub(super) const STATEMENTS: &[&str] = &[SNAPSHOT, SERVER, VERSIONS, TABLES, ALIVE, EXTENSION, IS_EMPTY];

/// Sums and restores of large databases have no limit in time; whoever does not want to wait interrupts the command. Texts
/// of values must be the same on any server.
const SETUP: &str = "; SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0; SET lock_timeout = '30s'; \
    SET datestyle = 'ISO, MDY'; SET intervalstyle = 'postgres'; SET extra_float_digits = 1; SET bytea_output = 'hex'; \
    SET jit = off";
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
/// For pg_dump, as long as our transaction is open.
const SNAPSHOT: &str = "SELECT pg_export_snapshot()";
const SERVER: &str =
    "SELECT current_setting('server_version'), current_setting('server_version_num')::integer / 10000, now()";
const VERSIONS: &str = "SELECT version FROM lamplighter_migrations ORDER BY version";
/// Tables with rows of their own, of no extension: partitions, not what they are partitions of.
const TABLES: &str = "SELECT n.nspname::text, c.relname::text, pg_table_size(c.oid) \
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
    WHERE n.nspname = ANY($1) AND c.relkind = 'r' AND NOT EXISTS ( \
        SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e') \
    ORDER BY 1, 2";
const ALIVE: &str =
    "SELECT scope, holder FROM daemon_lease WHERE expires_at > clock_timestamp() ORDER BY scope LIMIT 1";
const EXTENSION: &str = "SELECT e.extname::text FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace \
    WHERE n.nspname = $1 ORDER BY 1 LIMIT 1";
const IS_EMPTY: &str = "SELECT NOT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
    WHERE n.nspname = $1)";

/// Where `migrate legacy` puts the tables of before, and what it knows of them. Part of the store while they are there.
const LEGACY: [&str; 2] = ["legacy", "lamplighter_upgrade"];
/// For what is quick.
const DEADLINE: Duration = Duration::from_secs(35);

/// A table and its size on disk, bytes.
#[derive(Clone, Debug)]
pub struct Table {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Bytes, about; for a display of how far it is.
    pub bytes: u64,
}

/// What a table holds: how many rows, and a sum over them that their order does not change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sum {
    /// Rows.
    pub rows: i64,
    /// The sum of the first eight bytes of each row's SHA-256, in decimal.
    pub sum: String,
}

/// A moment of the database that can be looked at for as long as this lives.
pub struct Snapshot {
    conn: PgConnection,
    /// For `pg_dump --snapshot`.
    pub id: String,
    /// `server_version`.
    pub server: String,
    /// The server's major version.
    pub major: u32,
    /// When it was taken, by the server's clock.
    pub at: DateTime<Utc>,
    /// Migrations that were applied.
    pub migrations: Vec<i64>,
    /// The schemas that are the store: ours, and that of the tables before an upgrade.
    pub schemas: Vec<String>,
    /// What is in them.
    pub tables: Vec<Table>,
}

impl Snapshot {
    /// Counts and sums a table.
    ///
    /// # Errors
    /// [`StoreFault`] as every call.
    pub async fn sum(&mut self, table: &Table) -> Result<Sum, StoreFault> {
        sum(&mut self.conn, &table.schema, &table.name).await.map_err(StoreFault::from)
    }

    /// Lets go of it.
    pub async fn close(self) {
        // A courtesy; the server notices either way.
        let _ = self.conn.close().await;
    }
}

/// A schema that was renamed to make room.
#[derive(Clone, Debug)]
pub struct Moved {
    /// What it was called.
    pub schema: String,
    /// What it is called now.
    pub now: String,
}

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// As of every command.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A daemon works with it.
    #[error(
        "a daemon (region {region:?}, {holder}) is active on this database; stop it first, --force does not change that"
    )]
    Active {
        /// Its scope.
        region: String,
        /// Its id.
        holder: String,
    },
    /// There is something.
    #[error(
        "the database is not empty: schema {0:?} has tables. Restore into an empty database, or move what is there aside \
         with --force"
    )]
    NotEmpty(String),
    /// Renaming the schema would take an extension with it.
    #[error(
        "schema {schema:?} holds the extension {extension:?}, so it cannot be moved aside; restore into an empty database"
    )]
    HasExtension {
        /// The schema.
        schema: String,
        /// One of its extensions.
        extension: String,
    },
    /// As every call.
    #[error(transparent)]
    Store(#[from] StoreFault),
}

impl From<sqlx::Error> for RestoreError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(super::fault_of(error))
    }
}

impl Store {
    async fn connect_for_backup(&self) -> Result<PgConnection, Problem> {
        let mut conn = PgConnection::connect_with(&self.pool.connect_options()).await?;
        conn.execute(AssertSqlSafe(setup(&self.schema, SETUP))).await?;
        Ok(conn)
    }

    /// Takes a snapshot of a database that [`Self::classify`] has found ours.
    ///
    /// # Errors
    /// [`StoreFault`] as every call.
    pub async fn snapshot(&self) -> Result<Snapshot, StoreFault> {
        within(DEADLINE, async {
            let mut conn = self.connect_for_backup().await?;
            conn.execute(BEGIN).await?;
            let id = sqlx::query_scalar(SNAPSHOT).fetch_one(&mut conn).await?;
            let (server, major, at): (String, i32, DateTime<Utc>) = sqlx::query_as(SERVER).fetch_one(&mut conn).await?;
            let migrations = sqlx::query_scalar(VERSIONS).fetch_all(&mut conn).await?;
            let mut schemas = vec![self.schema.to_string()];
            for legacy in LEGACY {
                let there: bool = sqlx::query_scalar(SCHEMA_EXISTS).bind(legacy).fetch_one(&mut conn).await?;
                if there && *self.schema != *legacy {
                    schemas.push(legacy.to_owned());
                }
            }
            let tables = tables(&mut conn, &schemas).await?;
            let major = u32::try_from(major).unwrap_or(0);
            Ok::<_, Problem>(Snapshot { conn, id, server, major, at, migrations, schemas, tables })
        })
        .await
    }

    /// Makes sure that there is nothing where these schemas will be restored, and that the schemas are there. With `force`
    /// what is there is renamed, in one transaction: it is ours and no daemon works with it. Says what it is called now.
    ///
    /// # Errors
    /// Every [`RestoreError`]; then nothing was changed.
    pub async fn make_room(&self, schemas: &[String], force: bool, suffix: &str) -> Result<Vec<Moved>, RestoreError> {
        let mut conn = self.connect().await?;
        let found = classify(&mut conn, &self.schema).await?;
        if let Some(error) = found.as_error().filter(|_| !matches!(found, Found::Newer { .. })) {
            return Err(error.into());
        }
        if matches!(found, Found::Adoptable) {
            return Err(StartError::Foreign(found.to_string()).into());
        }
        drop(conn);
        let mut conn = within(DEADLINE, self.connect_for_backup()).await?;
        let mut tx = conn.begin().await?;
        if found != Found::Empty {
            // Nobody becomes active between the look and the end of this transaction.
            let lock = format!("LOCK TABLE {}.daemon_lease IN ACCESS EXCLUSIVE MODE", quoted(&self.schema));
            tx.execute(AssertSqlSafe(lock)).await?;
            let alive: Option<(String, String)> = sqlx::query_as(ALIVE).fetch_optional(&mut *tx).await?;
            if let Some((region, holder)) = alive {
                return Err(RestoreError::Active { region, holder });
            }
        }
        let mut moved = Vec::new();
        for schema in schemas {
            let there: bool = sqlx::query_scalar(SCHEMA_EXISTS).bind(schema).fetch_one(&mut *tx).await?;
            let empty: bool = sqlx::query_scalar(IS_EMPTY).bind(schema).fetch_one(&mut *tx).await?;
            if there && !empty {
                if !force {
                    return Err(RestoreError::NotEmpty(schema.clone()));
                }
                let extension: Option<String> =
                    sqlx::query_scalar(EXTENSION).bind(schema).fetch_optional(&mut *tx).await?;
                if let Some(extension) = extension {
                    return Err(RestoreError::HasExtension { schema: schema.clone(), extension });
                }
                // A name has 63 bytes at most.
                let name = format!("{}_{suffix}", schema.get(..schema.floor_char_boundary(40)).unwrap_or_default());
                tx.execute(AssertSqlSafe(format!("ALTER SCHEMA {} RENAME TO {}", quoted(schema), quoted(&name))))
                    .await?;
                moved.push(Moved { schema: schema.clone(), now: name });
            }
            if !there || !empty {
                tx.execute(AssertSqlSafe(format!("CREATE SCHEMA {}", quoted(schema)))).await?;
                if schema == "public" {
                    // As a new database has it; what others may do in it is for its owner to say.
                    tx.execute("GRANT USAGE ON SCHEMA public TO PUBLIC").await?;
                }
            }
        }
        tx.commit().await?;
        Ok(moved)
    }

    /// Undoes [`Self::make_room`] when nothing was restored: what was moved aside gets its name back.
    ///
    /// # Errors
    /// [`StoreFault`] as every call; then it has still the other name.
    pub async fn take_back(&self, moved: &[Moved]) -> Result<(), StoreFault> {
        let mut conn = within(DEADLINE, self.connect_for_backup()).await?;
        let undo = async {
            let mut tx = conn.begin().await?;
            for Moved { schema, now } in moved {
                // Without CASCADE: only what is empty goes.
                tx.execute(AssertSqlSafe(format!("DROP SCHEMA {}", quoted(schema)))).await?;
                let rename = format!("ALTER SCHEMA {} RENAME TO {}", quoted(now), quoted(schema));
                tx.execute(AssertSqlSafe(rename)).await?;
            }
            Ok::<_, Problem>(tx.commit().await?)
        };
        within(DEADLINE, undo).await
    }

    /// The tables of these schemas, and what each holds now; `seen` hears of each.
    ///
    /// # Errors
    /// [`StoreFault`] as every call.
    pub async fn sums(
        &self,
        schemas: &[String],
        mut seen: impl FnMut(&Table),
    ) -> Result<Vec<(Table, Sum)>, StoreFault> {
        let mut conn = within(DEADLINE, self.connect_for_backup()).await?;
        let tables = within(DEADLINE, async { Ok::<_, Problem>(tables(&mut conn, schemas).await?) }).await?;
        let mut sums = Vec::with_capacity(tables.len());
        for table in tables {
            let sum = sum(&mut conn, &table.schema, &table.name).await.map_err(StoreFault::from)?;
            seen(&table);
            sums.push((table, sum));
        }
        Ok(sums)
    }

    /// Gathers what the planner knows of restored tables, which nothing has done yet.
    ///
    /// # Errors
    /// [`StoreFault`] as every call.
    pub async fn analyze(&self, tables: &[Table]) -> Result<(), StoreFault> {
        let mut conn = within(DEADLINE, self.connect_for_backup()).await?;
        for Table { schema, name, .. } in tables {
            let sql = format!("ANALYZE {}.{}", quoted(schema), quoted(name));
            conn.execute(AssertSqlSafe(sql)).await.map_err(super::fault_of)?;
        }
        Ok(())
    }
}

/// The newest migration that this program knows.
#[must_use]
pub fn newest_migration() -> i64 {
    super::migrate::known_versions().into_iter().max().unwrap_or(0)
}

async fn tables(conn: &mut PgConnection, schemas: &[String]) -> Result<Vec<Table>, sqlx::Error> {
    let rows: Vec<(String, String, i64)> = sqlx::query_as(TABLES).bind(schemas).fetch_all(conn).await?;
    let table = |(schema, name, bytes)| Table { schema, name, bytes: u64::try_from(bytes).unwrap_or(0) };
    Ok(rows.into_iter().map(table).collect())
}

/// Names are data of others: quoted. The alias is one that no column has, which would win over it.
async fn sum(conn: &mut PgConnection, schema: &str, name: &str) -> Result<Sum, Problem> {
    let sql = format!(
        "SELECT count(*), coalesce(sum(('x' || encode(substr(sha256(convert_to(\"the whole row\"::text, 'UTF8')), 1, 8), \
         'hex'))::bit(64)::bigint::numeric), 0)::text FROM ONLY {}.{} AS \"the whole row\"",
        quoted(schema),
        quoted(name)
    );
    let (rows, sum): (i64, String) = sqlx::query_as(AssertSqlSafe(sql)).fetch_one(conn).await?;
    Ok(Sum { rows, sum })
}
