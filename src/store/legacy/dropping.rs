//! The end of an upgrade: the old tables go, or it is told which would.

use serde::{Deserialize, Serialize};
use sqlx::postgres::PgDatabaseError;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use tokio::time::sleep;

use super::report::{THERE, UpgradeReport};
use super::session::{LEGACY, Session};
use super::{LOCK_MS, PAUSE, TRIES, UpgradeError, is_busy};

pub(in crate::store) const BEGUN_STATEMENTS: &[&str] = &[SCHEMA_STAYS];

const SCHEMA_STAYS: &str = "SELECT to_regnamespace('legacy') IS NOT NULL";

/// What `--drop-legacy` dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// A dry run: all of it is still there.
    pub dry_run: bool,
    /// The old tables that were still there.
    pub tables: Vec<DroppedTable>,
    /// Whether the schema `legacy` went as well. It stays when it is older than the upgrade, and when anything else is in it.
    pub schema: bool,
}

/// One old table that went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DroppedTable {
    /// Its name.
    pub table: String,
    /// Its rows.
    pub rows: i64,
    /// Those of them that the report counts as kept there alone: no new table has them.
    pub only_there: i64,
}

/// An old table, and its rows that have no new one.
struct Old<'a> {
    name: &'a str,
    only_there: i64,
}

impl Session<'_> {
    /// Removes the old tables; what others hang on them is told instead. A dry run does the same, and undoes it.
    pub(super) async fn drop_legacy(
        &mut self,
        report: &UpgradeReport,
        made: bool,
        dry_run: bool,
    ) -> Result<Dropped, UpgradeError> {
        let followers = self.followers().await?;
        if !followers.is_empty() {
            let names: Vec<String> = followers.iter().map(|f| format!("{} of {}", f.name, f.child)).collect();
            return Err(UpgradeError::Problems(vec![format!(
                "foreign keys still point at the old tables: {}; drop them first",
                names.join(", ")
            )]));
        }
        let old: Vec<Old<'_>> = report
            .tables
            .iter()
            .map(|table| Old { name: &table.table, only_there: table.kept.values().sum() })
            .collect();
        for _ in 0..TRIES {
            let mut tx = self.conn.begin().await?;
            let error = match drop_in(&mut tx, &old, made).await {
                Ok(dropped) if dry_run => {
                    tx.rollback().await?;
                    return Ok(Dropped { dry_run, ..dropped });
                }
                Ok(dropped) => {
                    tx.commit().await?;
                    return Ok(dropped);
                }
                Err(error) => error,
            };
            // When this fails the connection is gone, and all of it with it.
            let _ = tx.rollback().await;
            if !is_busy(&error) {
                return Err(dependents(&error).unwrap_or(UpgradeError::Sql(error)));
            }
            sleep(PAUSE).await;
        }
        Err(UpgradeError::Busy(self.blockers().await))
    }
}

/// With little patience: readers of the old tables queue behind it.
async fn drop_in(conn: &mut PgConnection, old: &[Old<'_>], made: bool) -> Result<Dropped, sqlx::Error> {
    // First of all: counting waits for locks as well.
    conn.execute(AssertSqlSafe(format!("SET LOCAL lock_timeout = '{LOCK_MS}ms'"))).await?;
    let mut dropped = Dropped::default();
    let mut names = Vec::new();
    for table in old {
        let name = Session::name(LEGACY, table.name);
        let there: bool = sqlx::query_scalar(THERE).bind(&name).fetch_one(&mut *conn).await?;
        if !there {
            continue;
        }
        let count = format!("SELECT count(*) FROM {name}");
        let rows = sqlx::query_scalar(AssertSqlSafe(count)).fetch_one(&mut *conn).await?;
        dropped.tables.push(DroppedTable { table: table.name.to_owned(), rows, only_there: table.only_there });
        names.push(name);
    }
    let mut sql = String::new();
    if !names.is_empty() {
        sql += &format!("DROP TABLE {}; ", names.join(", "));
    }
    if made {
        // What went there because its name was in the way is not ours to drop.
        sql += "DO $$ BEGIN DROP SCHEMA legacy; EXCEPTION WHEN dependent_objects_still_exist THEN NULL; END $$; ";
    }
    sql += "DROP SCHEMA lamplighter_upgrade CASCADE";
    conn.execute(AssertSqlSafe(sql)).await?;
    dropped.schema = !sqlx::query_scalar::<_, bool>(SCHEMA_STAYS).fetch_one(conn).await?;
    Ok(dropped)
}

/// What others hang on the old tables, as the server tells it.
fn dependents(error: &sqlx::Error) -> Option<UpgradeError> {
    let error = error.as_database_error()?.try_downcast_ref::<PgDatabaseError>()?;
    let detail = error.detail().filter(|_| error.code() == "2BP01")?;
    Some(UpgradeError::Problems(vec![format!(
        "the old tables cannot go, nothing was dropped: {}",
        detail.replace('\n', "; ")
    )]))
}
