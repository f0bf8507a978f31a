//! Filling the new tables, in batches by id, beside an application that goes on.

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::time::sleep;

use super::plan::{TablePlan, Ways};
use super::session::{Planned, Session};
use super::{LOCK_MS, PAUSE, Step, TRIES, UpgradeError, Watch, is_busy};

pub(in crate::store) const BEGUN_STATEMENTS: &[&str] =
    &[PLACE, BEGUN, DONE_TO, LOADED, DEFERRED, MADE, CAPTURED, TOTAL];

const PLACE: &str = "SELECT seen, done_to, up_to, loaded FROM lamplighter_upgrade.tables WHERE part = $1 FOR UPDATE";
const BEGUN: &str =
    "UPDATE lamplighter_upgrade.tables SET begun = true, up_to = $2, total = $3 WHERE part = $1 AND NOT begun";
const TOTAL: &str = "SELECT total FROM lamplighter_upgrade.tables WHERE part = $1";
const DONE_TO: &str = "UPDATE lamplighter_upgrade.tables SET done_to = $2, seen = seen + $3 WHERE part = $1";
const LOADED: &str = "UPDATE lamplighter_upgrade.tables SET loaded = true WHERE part = $1";
const DEFERRED: &str = "SELECT n, sql FROM lamplighter_upgrade.deferred ORDER BY n LIMIT 1";
const MADE: &str = "DELETE FROM lamplighter_upgrade.deferred WHERE n = $1";
const CAPTURED: &str = "SELECT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = $1::text::regclass AND tgname = $2)";

/// Old rows a transaction: a second or so of work at the most, lost when it is killed.
const BATCH: i64 = 10_000;

/// Name, events, and for what each, of the triggers of an old table.
const TRIGGERS: [(&str, &str, &str); 2] = [
    ("lamplighter_capture", "INSERT OR UPDATE OR DELETE", "ROW"),
    ("lamplighter_capture_truncate", "TRUNCATE", "STATEMENT"),
];

/// Where a table's load stands.
#[derive(sqlx::FromRow)]
struct Place {
    seen: i64,
    done_to: Option<i64>,
    up_to: Option<i64>,
    loaded: bool,
}

impl Session<'_> {
    /// From here on what others write to the old tables is noted. Readers do not notice; writers wait for each other a moment.
    pub(super) async fn capture(&mut self, planned: &Planned) -> Result<(), UpgradeError> {
        for table in &planned.tables {
            for (name, events, each) in TRIGGERS {
                let there: bool =
                    sqlx::query_scalar(CAPTURED).bind(&table.old).bind(name).fetch_one(&mut *self.conn).await?;
                if there {
                    continue;
                }
                let sql = format!(
                    "CREATE TRIGGER {name} AFTER {events} ON {} FOR EACH {each} \
                     EXECUTE FUNCTION lamplighter_upgrade.capture('{}')",
                    table.old,
                    table.part.name()
                );
                self.insist(&sql).await?;
            }
        }
        Ok(())
    }

    /// Runs what needs a lock that readers or writers notice: with little patience, again and again.
    pub(super) async fn insist(&mut self, sql: &str) -> Result<(), UpgradeError> {
        self.run(format!("SET lock_timeout = '{LOCK_MS}ms'")).await?;
        for _ in 0..TRIES {
            match self.run(sql).await {
                Ok(_) => return Ok(()),
                Err(error) if is_busy(&error) => sleep(PAUSE).await,
                Err(error) => return Err(error.into()),
            }
        }
        Err(UpgradeError::Busy(self.blockers().await))
    }

    /// Moves what is in the old tables; goes on where the last run ended.
    pub(super) async fn load(&mut self, planned: &Planned, watch: &mut Watch<'_>) -> Result<(), UpgradeError> {
        for table in &planned.tables {
            self.begin_table(table).await?;
            let total: i64 = sqlx::query_scalar(TOTAL).bind(table.part.name()).fetch_one(&mut *self.conn).await?;
            watch(Step::Begin { what: table.part.name(), total: u64::try_from(total).unwrap_or(0), unit: "rows" });
            while let Some(seen) = self.batch(table, &planned.ways).await? {
                watch(Step::At(u64::try_from(seen).unwrap_or(0)));
            }
        }
        self.make_deferred(watch).await
    }

    async fn begin_table(&mut self, table: &TablePlan) -> Result<(), UpgradeError> {
        // What comes later is noted by the triggers.
        let sql = format!("SELECT max(t.id)::bigint, count(*) FROM {} t", table.old);
        let (up_to, total): (Option<i64>, i64) = sqlx::query_as(AssertSqlSafe(sql)).fetch_one(&mut *self.conn).await?;
        sqlx::query(BEGUN).bind(table.part.name()).bind(up_to).bind(total).execute(&mut *self.conn).await?;
        Ok(())
    }

    async fn batch(&mut self, table: &TablePlan, ways: &Ways) -> Result<Option<i64>, UpgradeError> {
        let mut tx = self.conn.begin().await?;
        let done = batch_in(&mut tx, table, ways).await?;
        tx.commit().await?;
        Ok(done)
    }

    /// Index and foreign key that waited for the rows.
    async fn make_deferred(&mut self, watch: &mut Watch<'_>) -> Result<(), UpgradeError> {
        loop {
            let mut tx = self.conn.begin().await?;
            let next: Option<(i64, String)> = sqlx::query_as(DEFERRED).fetch_optional(&mut *tx).await?;
            let Some((n, sql)) = next else { return Ok(()) };
            watch(Step::Begin { what: "indexes of status_reports", total: 0, unit: "steps" });
            sqlx::query(AssertSqlSafe(sql)).execute(&mut *tx).await?;
            sqlx::query(MADE).bind(n).execute(&mut *tx).await?;
            tx.commit().await?;
        }
    }
}

/// The rows seen so far; none when the table is through.
async fn batch_in(conn: &mut PgConnection, table: &TablePlan, ways: &Ways) -> Result<Option<i64>, UpgradeError> {
    let part = table.part.name();
    let place: Place = sqlx::query_as(PLACE).bind(part).fetch_one(&mut *conn).await?;
    if place.loaded {
        return Ok(None);
    }
    let next: (Option<i64>, i64) = match place.up_to {
        None => (None, 0),
        Some(up_to) => {
            let after = place.done_to.map(|id| format!(" AND id > ({id})")).unwrap_or_default();
            let range = format!(
                "SELECT max(id)::bigint, count(*) FROM (SELECT id FROM {} WHERE id <= ({up_to}){after} \
                 ORDER BY id LIMIT {BATCH}) s",
                table.old
            );
            sqlx::query_as(AssertSqlSafe(range)).fetch_one(&mut *conn).await?
        }
    };
    let (Some(to), rows) = next else {
        sqlx::query(LOADED).bind(part).execute(conn).await?;
        return Ok(None);
    };
    sqlx::query(AssertSqlSafe(table.load(ways, place.done_to, to))).persistent(false).execute(&mut *conn).await?;
    sqlx::query(DONE_TO).bind(part).bind(to).bind(rows).execute(conn).await?;
    Ok(Some(place.seen + rows))
}
