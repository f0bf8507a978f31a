//! Bringing the schema up to date: all of it in one transaction, or nothing.

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

use super::classify::{Found, classify};
use super::fault::{Meaning, describe, meaning, sqlstate};
use super::{ACQUIRE_TIMEOUT, StartError, Store, quoted, within};
use crate::model::StoreFault;

pub(super) const STATEMENTS: &[&str] = &[WAIT, LOCK, PATIENCE, SCHEMA_EXISTS, ADOPTING];

/// The table that says which migrations were applied; its own name, because other programs use the usual one.
pub(super) const TABLE: &str = "lamplighter_migrations";

static MIGRATIONS: Migrator = sqlx::migrate!();
const BEFORE_ADOPTION: &str = include_str!("../../migrations/adoption/before.sql");
const AFTER_ADOPTION: &str = include_str!("../../migrations/adoption/after.sql");

/// Two programs that start together migrate one after the other. The number is arbitrary and fixed.
const LOCK: &str = "SELECT pg_advisory_xact_lock(7238153290764150117)";
/// Waiting for the other's migration has no limit; it may be an adoption.
const WAIT: &str = "SELECT set_config('lock_timeout', '0', true), set_config('statement_timeout', '0', true)";
/// An adoption may copy millions of rows, and its tables may be in use.
const PATIENCE: &str = "SELECT set_config('statement_timeout', '0', true), set_config('lock_timeout', '30s', true), \
    set_config('idle_in_transaction_session_timeout', '0', true)";
pub(super) const SCHEMA_EXISTS: &str = "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)";

/// What an adoption calls its session, as `adoption/after.sql` sets it. Takes no lock, so it answers in the middle of one.
const ADOPTING: &str = "SELECT application_name FROM pg_stat_activity \
    WHERE datname = current_database() AND application_name LIKE 'lamplighter adopts %' LIMIT 1";

/// What migrating did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migrated {
    /// What the database was before.
    pub found: Found,
    /// How many migrations were applied.
    pub applied: usize,
}

/// How far an adoption is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adopting {
    /// Checks that are in their partitions.
    pub moved: u64,
    /// About so many there are, as far as those tell. None yet: its tables get what they lack; equal: all are moved, and
    /// rolled up now.
    pub about: u64,
}

impl Adopting {
    /// `lamplighter adopts 120000 3/70`: rows moved, pieces of the old table done and in all.
    fn of_name(name: &str) -> Option<Self> {
        let (moved, pieces) = name.strip_prefix("lamplighter adopts ")?.split_once(' ')?;
        let (done, all) = pieces.split_once('/')?;
        let (moved, done, all): (u64, u64, u64) = (moved.parse().ok()?, done.parse().ok()?, all.parse().ok()?);
        let about = u128::from(moved) * u128::from(all) / u128::from(done.max(1));
        Some(Self { moved, about: u64::try_from(about).unwrap_or(u64::MAX) })
    }
}

pub(super) fn known_versions() -> Vec<i64> {
    MIGRATIONS.iter().map(|migration| migration.version).collect()
}

impl Store {
    /// Brings the schema up to date, adopting one that another tool made. One transaction under an advisory lock: two
    /// may start together, and one that is killed leaves nothing behind. Makes no partitions ahead ([`Self::prepare`] does).
    ///
    /// # Errors
    /// Every [`StartError`] but `NotMigrated`.
    pub async fn migrate(&self) -> Result<Migrated, StartError> {
        let mut conn = self.connect().await?;
        let mut tx = conn.begin().await?;
        sqlx::query(WAIT).execute(&mut *tx).await?;
        sqlx::query(LOCK).execute(&mut *tx).await?;
        sqlx::query(PATIENCE).execute(&mut *tx).await?;
        // What was found before the lock may have changed while we waited for it.
        let found = classify(&mut tx, &self.schema).await?;
        if let Some(error) = found.as_error() {
            return Err(error);
        }
        let pending = match &found {
            Found::Ours { pending } => *pending,
            _ => MIGRATIONS.iter().count(),
        };
        if pending > 0 {
            self.apply(&mut tx, &found).await?;
            tx.commit().await?;
        }
        Ok(Migrated { found, applied: pending })
    }

    /// How far the adoption that goes on in another transaction is; none: none copies checks now.
    ///
    /// # Errors
    /// [`StoreFault`] as every call.
    pub async fn adopting(&self) -> Result<Option<Adopting>, StoreFault> {
        let name: Option<String> = within(ACQUIRE_TIMEOUT, async {
            sqlx::query_scalar(ADOPTING).fetch_optional(&self.reading).await.map_err(super::fault_of)
        })
        .await?;
        Ok(name.as_deref().and_then(Adopting::of_name))
    }

    async fn apply(&self, conn: &mut PgConnection, found: &Found) -> Result<(), StartError> {
        let there: bool = sqlx::query_scalar(SCHEMA_EXISTS).bind(&*self.schema).fetch_one(&mut *conn).await?;
        if !there {
            let sql = format!("CREATE SCHEMA {}", quoted(&self.schema));
            conn.execute(AssertSqlSafe(sql)).await.map_err(refused)?;
        }
        if *found == Found::Adoptable {
            conn.execute(BEFORE_ADOPTION).await.map_err(refused)?;
        }
        make_tables(conn).await?;
        if *found == Found::Adoptable {
            conn.execute(AFTER_ADOPTION).await.map_err(refused)?;
        }
        Ok(())
    }

    /// The SQL that [`Self::migrate`] would run now; a comment when there is nothing to do.
    ///
    /// # Errors
    /// As [`Self::migrate`].
    pub async fn migrate_dry_run(&self) -> Result<String, StartError> {
        let mut conn = self.connect().await?;
        let found = classify(&mut conn, &self.schema).await?;
        if let Some(error) = found.as_error() {
            return Err(error);
        }
        let skip = match found {
            Found::Ours { pending } => MIGRATIONS.iter().count() - pending,
            _ => 0,
        };
        if skip == MIGRATIONS.iter().count() {
            return Ok("-- the schema is up to date\n".to_owned());
        }
        let there: bool = sqlx::query_scalar(SCHEMA_EXISTS).bind(&*self.schema).fetch_one(&mut *conn).await?;
        let schema = quoted(&self.schema);
        let mut sql = format!("-- {found}\nBEGIN;\n");
        if !there {
            sql += &format!("CREATE SCHEMA {schema};\n");
        }
        sql += &format!("SET LOCAL search_path = {schema};\n\n");
        let adoption = found == Found::Adoptable;
        if adoption {
            sql += BEFORE_ADOPTION;
        }
        for migration in MIGRATIONS.iter().skip(skip) {
            sql += &format!(
                "\n-- migration {:04}: {}\n{}",
                migration.version,
                migration.description,
                migration.sql.as_str()
            );
        }
        if adoption {
            sql += AFTER_ADOPTION;
        }
        Ok(sql + "\nCOMMIT;\n")
    }
}

/// Applies what is missing to the first schema of the path, in a transaction of the caller's.
pub(super) async fn make_tables(conn: &mut PgConnection) -> Result<(), StartError> {
    let mut migrator = Migrator::with_migrations(MIGRATIONS.iter().cloned().collect());
    migrator.dangerous_set_table_name(TABLE);
    // Its lock is the session's and would outlive a failed transaction; ours is the transaction's.
    migrator.set_locking(false);
    migrator.run_direct(None, conn, false).await.map_err(|error| match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => refused(error),
        other => StartError::Migration(other.to_string()),
    })
}

/// An error of the SQL itself; connection errors stay what they are.
fn refused(error: sqlx::Error) -> StartError {
    match sqlstate(&error).as_deref() {
        Some(code) if meaning(code) == Meaning::Refused => StartError::Migration(describe(&error)),
        _ => StartError::of(&error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_session_says_how_far_an_adoption_is() {
        let of = |name: &str| Adopting::of_name(name).map(|told| (told.moved, told.about));
        assert_eq!(of("lamplighter adopts 120000 3/70"), Some((120_000, 2_800_000)));
        assert_eq!(of("lamplighter adopts 9 1/1"), Some((9, 9)));
        assert_eq!(of("lamplighter adopts 0 0/1"), Some((0, 0)));
        assert_eq!(of("lamplighter adopts 5 0/0"), Some((5, 0)));
        for other in ["lamplighter", "lamplighter adopts ", "lamplighter adopts 5", "lamplighter adopts x 1/2"] {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
