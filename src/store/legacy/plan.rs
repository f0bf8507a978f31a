//! Where every old column goes. Pure: from a shape to SQL.

use std::collections::BTreeSet;

use self::draft::Draft;
use super::convert::literal;
use super::shape::{OldTable, Part, Shape};

mod draft;
mod tables;

/// What is asked of an upgrade, or was when it began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ways {
    /// The zone of times without one.
    pub(super) zone: String,
    /// Numeric uptimes are shares of one.
    pub(super) uptime_is_share: bool,
    /// The schema of the new tables.
    pub(super) new: String,
    /// When the upgrade began, as SQL: for rows without any time.
    pub(super) began_at: String,
}

/// How one old table becomes a new one.
#[derive(Clone, Debug)]
pub(super) struct TablePlan {
    pub(super) part: Part,
    /// The old table, quoted and with its schema.
    pub(super) old: String,
    /// Column of the new table, and the expression for it.
    pub(super) values: Vec<(&'static str, String)>,
    /// What follows FROM; the old row is `t`.
    pub(super) from: String,
    /// Which old rows can be moved.
    pub(super) movable: String,
    /// The same over the old tables alone, in two steps: whether the row's parent moves, and whether it has a time.
    pub(super) has_parent: String,
    pub(super) has_time: String,
    /// No id twice.
    pub(super) unique_id: bool,
    /// Old columns that refer to a parent: of users, of monitors.
    pub(super) parents: Vec<(Part, String)>,
    /// Expressions of old columns that need not be unique, and the new columns that are.
    pub(super) shared: Vec<(String, &'static str)>,
    /// Old column, new column (none: kept in `legacy`).
    pub(super) columns: Vec<(String, Option<&'static str>)>,
}

/// How each old table becomes a new one.
pub(super) fn plan(shape: &Shape, ways: &Ways) -> Vec<TablePlan> {
    shape.tables.iter().map(|table| plan_table(shape, table, ways)).collect()
}

fn plan_table(shape: &Shape, table: &OldTable, ways: &Ways) -> TablePlan {
    let mut draft = Draft {
        shape,
        ways,
        table,
        used: BTreeSet::from(["id"]),
        columns: vec![("id".to_owned(), Some(table.part.key()))],
        kept: Vec::new(),
        values: vec![(table.part.key(), "t.id::bigint".to_owned())],
    };
    // What the other tables call `legacy_id` is the key of incidents itself.
    if table.part == Part::Incidents {
        draft.set("legacy_id", "t.id::bigint");
    }
    match table.part {
        Part::Users => tables::users(draft),
        Part::Monitors => tables::monitors(draft),
        Part::Incidents => tables::incidents(draft),
        Part::Reports => tables::reports(draft),
    }
}

/// SQL for [`Ways::began_at`].
pub(super) fn moment(text: &str) -> String {
    format!("{}::timestamptz", literal(text))
}
