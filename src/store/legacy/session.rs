//! The connection of an upgrade, and what is known of it in the database.

use serde_json::Value;
use sqlx::{AssertSqlSafe, Executor as _, PgConnection};

use super::plan::{self, TablePlan, Ways};
use super::shape::{self, Part, Shape};
use super::{Step, UpgradeError, Watch};
use crate::store::{Store, quoted};

pub(in crate::store) const STATEMENTS: &[&str] = &[BEGUN, TURN, WAIT, STATE, TABLES];

pub(super) const BEGUN: &str = "SELECT to_regclass('lamplighter_upgrade.state') IS NOT NULL";
/// One upgrade at a time in a database. The number is arbitrary and fixed; the session holds it, so a killed one lets go.
const TURN: &str = "SELECT pg_try_advisory_lock(7238153290764150140)";
const WAIT: &str = "SELECT pg_advisory_lock(7238153290764150140)";
const STATE: &str = "SELECT schema_name, zone, copy_reports, uptime_is_share, began_at::text AS began_at, \
    switched_at IS NOT NULL AS switched, finished_at IS NOT NULL AS finished, legacy_made, in_the_way, others, report FROM lamplighter_upgrade.state";
const TABLES: &str = "SELECT part, name FROM lamplighter_upgrade.tables";

/// Batches have their own measure; a row-level policy must fail, not hide rows.
const SETUP: &str = "SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0; SET row_security = off; \
    SET client_min_messages = warning; SET synchronous_commit = on";

/// Where the old tables go.
pub(super) const LEGACY: &str = "legacy";
/// Where the new ones grow.
pub(super) const NEW: &str = "lamplighter_new";

/// What stands in `lamplighter_upgrade.state`.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(super) struct State {
    pub(super) schema_name: String,
    pub(super) zone: String,
    pub(super) copy_reports: bool,
    pub(super) uptime_is_share: bool,
    began_at: String,
    pub(super) switched: bool,
    pub(super) finished: bool,
    pub(super) legacy_made: bool,
    pub(super) in_the_way: Vec<String>,
    pub(super) others: Vec<String>,
    pub(super) report: Option<Value>,
}

/// The connection that does it all, or a transaction of it.
pub(super) struct Session<'c> {
    pub(super) conn: &'c mut PgConnection,
    /// `database.schema`.
    pub(super) house: String,
}

/// The old tables and what becomes of them.
pub(super) struct Planned {
    pub(super) shape: Shape,
    pub(super) ways: Ways,
    pub(super) tables: Vec<TablePlan>,
}

impl Planned {
    pub(super) fn table(&self, part: Part) -> Option<&TablePlan> {
        self.tables.iter().find(|table| table.part == part)
    }
}

/// A connection of its own, not one of the pool's: its settings are not theirs. Waits for another upgrade of this database.
pub(super) async fn connect(store: &Store, watch: &mut Watch<'_>) -> Result<PgConnection, UpgradeError> {
    let mut conn = store.connect().await.map_err(UpgradeError::Start)?.detach();
    conn.execute(SETUP).await?;
    let turn: bool = sqlx::query_scalar(TURN).fetch_one(&mut conn).await?;
    if !turn {
        watch(Step::Note("another `lamplighter migrate legacy` works on this database: waiting for it"));
        conn.execute("SET lock_timeout = 0").await?;
        sqlx::query(WAIT).execute(&mut conn).await?;
        conn.execute("SET lock_timeout = '2s'").await?;
    }
    Ok(conn)
}

impl Session<'_> {
    pub(super) async fn state(&mut self) -> Result<Option<State>, UpgradeError> {
        let begun: bool = sqlx::query_scalar(BEGUN).fetch_one(&mut *self.conn).await?;
        if !begun {
            return Ok(None);
        }
        let state: Option<State> = sqlx::query_as(STATE).fetch_optional(&mut *self.conn).await?;
        match state {
            Some(state) if state.schema_name != self.house => Err(UpgradeError::OtherSchema(state.schema_name)),
            state => Ok(state),
        }
    }

    /// What is planned for the old tables, wherever they are by now.
    pub(super) async fn planned(&mut self, state: &State) -> Result<Planned, UpgradeError> {
        let (old, new) = if state.switched { (LEGACY, self.house.as_str()) } else { (self.house.as_str(), NEW) };
        let mut shape = shape::read(&mut *self.conn, old).await?;
        if state.switched {
            // The schema may hold more than what was moved there.
            let ours: Vec<(String, String)> = sqlx::query_as(TABLES).fetch_all(&mut *self.conn).await?;
            shape
                .tables
                .retain(|table| ours.iter().any(|(part, name)| part == table.part.name() && *name == table.name));
        }
        let ways = Ways {
            zone: state.zone.clone(),
            uptime_is_share: state.uptime_is_share,
            new: new.to_owned(),
            began_at: plan::moment(&state.began_at),
        };
        Ok(Planned { tables: plan::plan(&shape, &ways), shape, ways })
    }

    /// Runs SQL that is made of names from the catalogue.
    pub(super) async fn run(&mut self, sql: impl Into<String>) -> Result<u64, sqlx::Error> {
        Ok(self.conn.execute(AssertSqlSafe(sql.into())).await?.rows_affected())
    }

    /// `"schema"."name"` of an old or new table.
    pub(super) fn name(schema: &str, table: &str) -> String {
        format!("{}.{}", quoted(schema), quoted(table))
    }
}
