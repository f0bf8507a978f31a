//! Where every row of every old table went.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sqlx::AssertSqlSafe;

use super::UpgradeError;
use super::dropping::Dropped;
use super::plan::TablePlan;
use super::session::{LEGACY, Planned, Session, State};
use super::switch::Follower;

pub(in crate::store) const BEGUN_STATEMENTS: &[&str] = &[FINISH, THERE];

pub(super) const THERE: &str = "SELECT to_regclass($1) IS NOT NULL";
const FINISH: &str = "UPDATE lamplighter_upgrade.state SET finished_at = coalesce(finished_at, now()), report = $1";

/// What an upgrade does, or did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpgradeReport {
    /// A dry run: nothing was changed.
    pub dry_run: bool,
    /// Where the new tables are.
    pub schema: String,
    /// Where the old ones are, or will be.
    pub legacy_schema: String,
    /// The zone of times without one.
    pub timezone: String,
    /// The four tables that are upgraded, as far as they are there.
    pub tables: Vec<TableReport>,
    /// The others.
    pub others: Vec<OtherTable>,
    /// With `--copy-reports`: what became of the reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copied: Option<Copied>,
    /// With `--drop-legacy`: what went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped: Option<Dropped>,
}

/// One old table. `rows` is the sum of `moved`, `kept` and `missing`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableReport {
    /// Its name.
    pub table: String,
    /// The new table.
    pub to: String,
    /// Rows of the old table.
    pub rows: i64,
    /// Rows that have a row in the new table; in a dry run, that will have.
    pub moved: i64,
    /// Rows that stay in the schema `legacy` alone, by reason: `orphan`, `duplicate_id`, `no_id`, `no_time`.
    pub kept: BTreeMap<String, i64>,
    /// Rows that should be there and are not. Somebody has deleted them since the switch, or it is an error of ours.
    pub missing: i64,
    /// New rows whose column `legacy` has an old value of this name: without a place of its own, or changed on the way.
    pub legacy_values: BTreeMap<String, i64>,
    /// Where each column goes.
    pub columns: Vec<ColumnReport>,
}

/// One old column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnReport {
    /// Its name.
    pub column: String,
    /// The new column; `legacy` when there is none of its own.
    pub to: String,
}

/// A table that is not upgraded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtherTable {
    /// Its name.
    pub table: String,
    /// Its rows, all of which stay.
    pub rows: i64,
    /// Whether it goes to the schema `legacy`, because a new table has its name.
    pub to_legacy: bool,
    /// Its foreign keys to upgraded tables, and what becomes of them.
    pub references: BTreeMap<String, String>,
}

/// What became of reports that were copied into `monitor_checks`. `rows` is the sum of the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copied {
    /// Reports looked at.
    pub rows: i64,
    /// Reports that are checks now.
    pub copied: i64,
    /// Reports that say neither up nor down, such as `pending`: no check.
    pub undecided: i64,
    /// Reports before 2000 or in the future.
    pub out_of_range: i64,
}

impl Session<'_> {
    /// Counts; before the switch what will move, after it what has moved.
    pub(super) async fn report(&mut self, planned: &Planned, state: &State) -> Result<UpgradeReport, UpgradeError> {
        let mut report = UpgradeReport {
            dry_run: !state.switched,
            schema: self.house.clone(),
            legacy_schema: LEGACY.to_owned(),
            timezone: state.zone.clone(),
            ..UpgradeReport::default()
        };
        for table in &planned.tables {
            let counted = self.count(planned, table, state.switched).await?;
            report.tables.push(counted);
        }
        report.others = self.others(state).await?;
        Ok(report)
    }

    async fn count(&mut self, planned: &Planned, table: &TablePlan, moved: bool) -> Result<TableReport, UpgradeError> {
        let name = planned.shape.table(table.part).map_or_else(String::new, |old| old.name.clone());
        let counts: (i64, i64, i64, i64, i64, i64) =
            sqlx::query_as(AssertSqlSafe(table.count())).fetch_one(&mut *self.conn).await?;
        let (rows, no_id, orphan, no_time, movable, ids) = counts;
        let reasons = [("orphan", orphan), ("duplicate_id", movable - ids), ("no_id", no_id), ("no_time", no_time)];
        let kept =
            reasons.into_iter().filter(|(_, rows)| *rows > 0).map(|(why, rows)| (why.to_owned(), rows)).collect();
        let mut values = BTreeMap::new();
        let mut moved_rows = ids;
        if moved {
            moved_rows =
                sqlx::query_scalar(AssertSqlSafe(table.moved(&planned.ways))).fetch_one(&mut *self.conn).await?;
            let found: Vec<(String, i64)> =
                sqlx::query_as(AssertSqlSafe(table.kept_values(&planned.ways))).fetch_all(&mut *self.conn).await?;
            values = found.into_iter().collect();
        }
        let column = |(column, to): &(String, Option<&'static str>)| ColumnReport {
            column: column.clone(),
            to: to.unwrap_or("legacy").to_owned(),
        };
        Ok(TableReport {
            table: name,
            to: table.part.name().to_owned(),
            rows,
            moved: moved_rows,
            kept,
            missing: ids - moved_rows,
            legacy_values: values,
            columns: table.columns.iter().map(column).collect(),
        })
    }

    /// The tables that are not upgraded, with their foreign keys to those that are.
    async fn others(&mut self, state: &State) -> Result<Vec<OtherTable>, UpgradeError> {
        let mut others = Vec::new();
        for name in &state.others {
            let to_legacy = state.in_the_way.contains(name);
            let schema = if to_legacy && state.switched { LEGACY } else { self.house.as_str() };
            let place = Self::name(schema, name);
            others.extend(self.other(name, &place, to_legacy).await?);
        }
        let keys = if state.switched {
            self.followed().await?
        } else {
            let will = |key: Follower| (key.child, key.shown, key.name, "will point at the new table".to_owned());
            self.followers().await?.into_iter().map(will).collect()
        };
        for (child, shown, name, outcome) in keys {
            // One of another schema is not among them yet.
            let at = match others.iter().position(|other| other.table == shown) {
                Some(at) => at,
                None => {
                    others.extend(self.other(&shown, &child, false).await?);
                    others.len().saturating_sub(1)
                }
            };
            if let Some(other) = others.get_mut(at) {
                other.references.insert(name, outcome);
            }
        }
        Ok(others)
    }

    /// None when somebody has dropped it.
    async fn other(&mut self, name: &str, place: &str, to_legacy: bool) -> Result<Option<OtherTable>, UpgradeError> {
        let there: bool = sqlx::query_scalar(THERE).bind(place).fetch_one(&mut *self.conn).await?;
        if !there {
            return Ok(None);
        }
        let sql = format!("SELECT count(*) FROM {place}");
        let rows = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut *self.conn).await?;
        Ok(Some(OtherTable { table: name.to_owned(), rows, to_legacy, references: BTreeMap::new() }))
    }

    /// From here on the daemon takes the database.
    pub(super) async fn finish(&mut self, report: &UpgradeReport) -> Result<(), UpgradeError> {
        let mut tx = sqlx::Connection::begin(&mut *self.conn).await?;
        sqlx::query(FINISH).bind(sqlx::types::Json(report)).execute(&mut *tx).await?;
        sqlx::query("DROP TABLE IF EXISTS lamplighter_upgrade.unfinished").execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(())
    }
}
