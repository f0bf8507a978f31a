//! The switch: one short transaction after which the new tables stand where the old ones stood. Writers wait while the last
//! changes are applied; readers wait only for the last step, well under a second, or it is undone and tried again.

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use tokio::time::sleep;

use super::catch_up::{Round, round};
use super::session::{Planned, Session};
use super::shape::Part;
use super::{LOCK_MS, PAUSE, Step, TRIES, UpgradeError, Watch, is_busy};

pub(in crate::store) const BEGUN_STATEMENTS: &[&str] =
    &[SWITCH, BLOCKERS, FOLLOWERS, FOLLOW, CHANGED, FORGET, TELL, UNSEEN, SEEN, FOLLOWED];

/// What readers may have to wait for altogether: waiting for the locks included.
const SWITCH_MS: u32 = 900;
/// Rounds of changes while writers wait.
const LAST_ROUNDS: usize = 20;

const SWITCH: &str = "SELECT lamplighter_upgrade.switch_over()";
const CHANGED: &str = "SELECT EXISTS (SELECT FROM lamplighter_upgrade.changes)";
/// Who holds one of the old tables, the oldest transaction first.
const BLOCKERS: &str = "SELECT DISTINCT format('pid %s (%s, %s, since %s)', a.pid, coalesce(a.usename, '?'), \
        coalesce(nullif(a.application_name, ''), 'no name'), date_trunc('second', now() - a.xact_start)) \
    FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid JOIN lamplighter_upgrade.tables t ON true \
    JOIN lamplighter_upgrade.state s ON true \
    WHERE l.relation = to_regclass(format('%I.%I', CASE WHEN s.switched_at IS NULL THEN s.schema_name ELSE 'legacy' END, t.name)) AND l.granted AND a.pid <> pg_backend_pid() LIMIT 10";
const FOLLOWERS: &str = "SELECT id, name, child, shown FROM lamplighter_upgrade.followers ORDER BY child, name";
const FOLLOW: &str = "SELECT lamplighter_upgrade.follow($1)";

const FORGET: &str = "DELETE FROM lamplighter_upgrade.followed WHERE child = $1 AND name = $2";
const TELL: &str = "INSERT INTO lamplighter_upgrade.followed (child, name, outcome, shown) VALUES ($1, $2, $3, $4)";
const UNSEEN: &str = "SELECT child, name FROM lamplighter_upgrade.followed WHERE outcome IS NULL ORDER BY child, name";
const SEEN: &str = "UPDATE lamplighter_upgrade.followed SET outcome = $3 WHERE child = $1 AND name = $2";
const FOLLOWED: &str =
    "SELECT child, shown, name, coalesce(outcome, '') FROM lamplighter_upgrade.followed ORDER BY child, name";

/// How an attempt ended.
enum Attempt {
    Done,
    /// Somebody holds a table.
    Busy,
    /// A table was emptied.
    Reset,
}

/// A foreign key of somebody else's table to an old one.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(super) struct Follower {
    id: sqlx::postgres::types::Oid,
    pub(super) name: String,
    /// The table as SQL, and as it is shown.
    pub(super) child: String,
    pub(super) shown: String,
}

impl Session<'_> {
    /// Puts the new tables in place; false when a load has to begin anew.
    pub(super) async fn switch(&mut self, planned: &Planned, watch: &mut Watch<'_>) -> Result<bool, UpgradeError> {
        for attempt in 0..TRIES {
            let mut tx = self.conn.begin().await?;
            let tried = attempt_in(&mut tx, planned).await;
            match tried {
                Ok(Attempt::Done) => {
                    tx.commit().await?;
                    return Ok(true);
                }
                Ok(Attempt::Reset) => {
                    tx.commit().await?;
                    return Ok(false);
                }
                Ok(Attempt::Busy) => tx.rollback().await?,
                Err(error) => {
                    tx.rollback().await?;
                    return Err(error);
                }
            }
            if attempt % 20 == 1 {
                let who = self.blockers().await;
                watch(Step::Note(&format!("the old tables are in use ({who}): waiting for a free moment")));
            }
            sleep(PAUSE).await;
            if !self.catch_up(planned, watch).await? {
                return Ok(false);
            }
        }
        Err(UpgradeError::Busy(self.blockers().await))
    }

    /// Who is in the way, for a message.
    pub(super) async fn blockers(&mut self) -> String {
        let who: Vec<String> = sqlx::query_scalar(BLOCKERS).fetch_all(&mut *self.conn).await.unwrap_or_default();
        if who.is_empty() { "by nobody just now".to_owned() } else { format!("by {}", who.join(", ")) }
    }

    /// Foreign keys that still point at the old tables.
    pub(super) async fn followers(&mut self) -> Result<Vec<Follower>, UpgradeError> {
        Ok(sqlx::query_as(FOLLOWERS).fetch_all(&mut *self.conn).await?)
    }

    /// Points the foreign keys of other tables at the new ones, and looks at the rows that were there.
    pub(super) async fn follow(&mut self) -> Result<(), UpgradeError> {
        for follower in self.followers().await? {
            match self.follow_one(&follower).await {
                // What the server refuses stays as it is, and is told.
                Err(UpgradeError::Sql(error)) if error.as_database_error().is_some() => {
                    let why = format!("stays at the old table: {}", crate::store::fault::describe(&error));
                    let mut tx = self.conn.begin().await?;
                    let told = sqlx::query(FORGET).bind(&follower.child).bind(&follower.name);
                    told.execute(&mut *tx).await?;
                    let told =
                        sqlx::query(TELL).bind(&follower.child).bind(&follower.name).bind(why).bind(&follower.shown);
                    told.execute(&mut *tx).await?;
                    tx.commit().await?;
                }
                other => other?,
            }
        }
        let unseen: Vec<(String, String)> = sqlx::query_as(UNSEEN).fetch_all(&mut *self.conn).await?;
        for (child, name) in unseen {
            let outcome = self.validate(&child, &name).await?;
            sqlx::query(SEEN).bind(&child).bind(&name).bind(outcome).execute(&mut *self.conn).await?;
        }
        Ok(())
    }

    /// What became of foreign keys of other tables: table (as SQL, as shown), name, outcome.
    pub(super) async fn followed(&mut self) -> Result<Vec<(String, String, String, String)>, UpgradeError> {
        Ok(sqlx::query_as(FOLLOWED).fetch_all(&mut *self.conn).await?)
    }

    async fn follow_one(&mut self, follower: &Follower) -> Result<(), UpgradeError> {
        self.run(format!("SET lock_timeout = '{LOCK_MS}ms'; SET statement_timeout = '{SWITCH_MS}ms'")).await?;
        let mut result = Err(UpgradeError::Busy(String::new()));
        for _ in 0..TRIES {
            match sqlx::query(FOLLOW).bind(follower.id).execute(&mut *self.conn).await {
                Err(error) if is_busy(&error) => sleep(PAUSE).await,
                other => {
                    result = other.map(drop).map_err(UpgradeError::Sql);
                    break;
                }
            }
        }
        self.run("SET statement_timeout = 0").await?;
        result
    }

    /// Looks at the rows that were there; those without a parent stay, and bind new ones only.
    async fn validate(&mut self, child: &str, name: &str) -> Result<&'static str, UpgradeError> {
        let name = crate::store::quoted(name);
        match self.run(format!("ALTER TABLE {child} VALIDATE CONSTRAINT {name}")).await {
            Ok(_) => Ok("points at the new table"),
            Err(error) if error.as_database_error().is_some_and(|e| e.code().as_deref() == Some("23503")) => {
                Ok("points at the new table; NOT VALID, because some of its rows have nothing there")
            }
            // Dropped by somebody meanwhile.
            Err(error) if error.as_database_error().is_some_and(|e| e.code().is_some_and(|c| c.starts_with("42"))) => {
                Ok("is gone")
            }
            Err(error) => Err(error.into()),
        }
    }
}

async fn attempt_in(conn: &mut PgConnection, planned: &Planned) -> Result<Attempt, UpgradeError> {
    let tables: Vec<&str> = planned.tables.iter().map(|table| table.old.as_str()).collect();
    let lock =
        format!("SET LOCAL lock_timeout = '{LOCK_MS}ms'; LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE", tables.join(", "));
    if let Err(error) = conn.execute(AssertSqlSafe(lock)).await {
        return if is_busy(&error) { Ok(Attempt::Busy) } else { Err(error.into()) };
    }
    // No writer is left, so nothing new is noted.
    for _ in 0..LAST_ROUNDS {
        if round(conn, planned).await? == Round::Reset {
            return Ok(Attempt::Reset);
        }
        if !sqlx::query_scalar::<_, bool>(CHANGED).fetch_one(&mut *conn).await? {
            break;
        }
    }
    if sqlx::query_scalar::<_, bool>(CHANGED).fetch_one(&mut *conn).await? {
        return Ok(Attempt::Busy);
    }
    for part in [Part::Incidents, Part::Reports] {
        let Some(table) = planned.table(part) else { continue };
        // Behind the old keys, also behind those that stay.
        let sql = format!(
            "SELECT setval(pg_get_serial_sequence('{}.{}', 'id'), greatest(max(t.id), 1)) FROM {} t HAVING max(t.id) IS NOT NULL",
            planned.ways.new,
            part.name(),
            table.old
        );
        conn.execute(AssertSqlSafe(sql)).await?;
    }
    let bound = format!("SET LOCAL statement_timeout = '{SWITCH_MS}ms'");
    conn.execute(AssertSqlSafe(bound)).await?;
    match sqlx::query(SWITCH).execute(&mut *conn).await {
        Ok(_) => Ok(Attempt::Done),
        Err(error) if is_busy(&error) => Ok(Attempt::Busy),
        Err(error) => Err(error.into()),
    }
}
