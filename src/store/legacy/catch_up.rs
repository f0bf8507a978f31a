//! What others wrote to the old tables during the run. A change is only an id: the row is read anew, so that the order in
//! which changes are seen does not matter.

use std::collections::BTreeSet;

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::session::{Planned, Session};
use super::shape::Part;
use super::{Step, UpgradeError, Watch};

pub(in crate::store) const BEGUN_STATEMENTS: &[&str] = &[TAKE, RESET];

const TAKE: &str = "DELETE FROM lamplighter_upgrade.changes WHERE n IN ( \
    SELECT n FROM lamplighter_upgrade.changes ORDER BY n LIMIT 20000) RETURNING part, id";
const RESET: &str =
    "UPDATE lamplighter_upgrade.tables SET begun = false, done_to = NULL, up_to = NULL, seen = 0, loaded = false";

/// So few are left that the switch can take them with it.
const FEW: usize = 200;
/// An application that writes faster than we follow.
const ROUNDS: usize = 10_000;

/// What a round of changes was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Round {
    Applied(usize),
    /// A table was emptied: its load begins anew.
    Reset,
}

impl Session<'_> {
    /// Applies changes until few come; false when a load has to begin anew.
    pub(super) async fn catch_up(&mut self, planned: &Planned, watch: &mut Watch<'_>) -> Result<bool, UpgradeError> {
        let mut done = 0;
        watch(Step::Begin { what: "changes made meanwhile", total: 0, unit: "rows" });
        for _ in 0..ROUNDS {
            let mut tx = self.conn.begin().await?;
            let round = round(&mut tx, planned).await?;
            tx.commit().await?;
            match round {
                Round::Reset => return Ok(false),
                Round::Applied(count) => {
                    done += count;
                    watch(Step::At(u64::try_from(done).unwrap_or(0)));
                    if count < FEW {
                        return Ok(true);
                    }
                }
            }
        }
        Err(UpgradeError::Failed(
            "the old application writes faster than its rows can be moved; stop it and run this again".to_owned(),
        ))
    }
}

/// Applies what is noted now, in a transaction of the caller's.
pub(super) async fn round(conn: &mut PgConnection, planned: &Planned) -> Result<Round, UpgradeError> {
    let changes: Vec<(String, Option<i64>)> = sqlx::query_as(TAKE).fetch_all(&mut *conn).await?;
    if changes.iter().any(|(_, id)| id.is_none()) {
        reset(conn, planned).await?;
        return Ok(Round::Reset);
    }
    let of = |part: Part| {
        let mine = changes.iter().filter(move |(name, _)| name == part.name());
        mine.filter_map(|(_, id)| *id).collect::<BTreeSet<i64>>()
    };
    let mut users = of(Part::Users);
    if let Some(table) = planned.table(Part::Users).filter(|_| !users.is_empty()) {
        let ids: Vec<i64> = users.iter().copied().collect();
        for sql in table.siblings(&planned.ways) {
            users.extend(ids_of(conn, sql, &ids).await?);
        }
        let ids: Vec<i64> = users.iter().copied().collect();
        // Unique texts may change hands among these.
        let free =
            format!("UPDATE {}.users SET email = NULL, clerk_id = NULL WHERE legacy_id = ANY($1)", planned.ways.new);
        sqlx::query(AssertSqlSafe(free)).bind(&ids).execute(&mut *conn).await?;
    }
    let new_users = apply(conn, planned, Part::Users, &users).await?;
    let mut monitors = of(Part::Monitors);
    monitors.extend(children(conn, planned, Part::Monitors, Part::Users, &new_users).await?);
    let new_monitors = apply(conn, planned, Part::Monitors, &monitors).await?;
    for part in [Part::Incidents, Part::Reports] {
        let mut ids = of(part);
        ids.extend(children(conn, planned, part, Part::Monitors, &new_monitors).await?);
        ids.extend(children(conn, planned, part, Part::Users, &new_users).await?);
        apply(conn, planned, part, &ids).await?;
    }
    Ok(Round::Applied(changes.len()))
}

/// Writes rows anew; says which of them had no new row before.
async fn apply(
    conn: &mut PgConnection,
    planned: &Planned,
    part: Part,
    ids: &BTreeSet<i64>,
) -> Result<Vec<i64>, UpgradeError> {
    let Some(table) = planned.table(part).filter(|_| !ids.is_empty()) else { return Ok(Vec::new()) };
    let ids: Vec<i64> = ids.iter().copied().collect();
    let ways = &planned.ways;
    let before: BTreeSet<i64> = ids_of(conn, table.present(ways), &ids).await?.into_iter().collect();
    sqlx::query(AssertSqlSafe(table.prune(ways))).bind(&ids).execute(&mut *conn).await?;
    sqlx::query(AssertSqlSafe(table.refresh(ways))).bind(&ids).execute(&mut *conn).await?;
    let after = ids_of(conn, table.present(ways), &ids).await?;
    Ok(after.into_iter().filter(|id| !before.contains(id)).collect())
}

/// Old rows that could not be moved before because a parent had no new row.
async fn children(
    conn: &mut PgConnection,
    planned: &Planned,
    part: Part,
    parent: Part,
    parents: &[i64],
) -> Result<Vec<i64>, UpgradeError> {
    let sql = planned.table(part).and_then(|table| table.of_parent(parent));
    match sql {
        Some(sql) if !parents.is_empty() => Ok(ids_of(conn, sql, parents).await?),
        _ => Ok(Vec::new()),
    }
}

async fn ids_of(conn: &mut PgConnection, sql: String, ids: &[i64]) -> Result<Vec<i64>, sqlx::Error> {
    sqlx::query_scalar(AssertSqlSafe(sql)).bind(ids).fetch_all(conn).await
}

/// Begins anew, with everything: it is rare that a table is emptied, and the others may hang on it.
async fn reset(conn: &mut PgConnection, planned: &Planned) -> Result<(), UpgradeError> {
    for table in planned.tables.iter().rev() {
        let sql =
            format!("DELETE FROM {}.{} WHERE {} IS NOT NULL", planned.ways.new, table.part.name(), table.part.key());
        sqlx::query(AssertSqlSafe(sql)).execute(&mut *conn).await?;
    }
    sqlx::query(RESET).execute(conn).await?;
    Ok(())
}
