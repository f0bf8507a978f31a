//! What is asked and written of one table, as SQL. Names come from the catalogue, so none of this can be a constant.

use super::super::quoted;
use super::plan::{TablePlan, Ways};
use super::shape::Part;

impl TablePlan {
    fn target(&self, ways: &Ways) -> String {
        format!("{}.{}", quoted(&ways.new), self.part.name())
    }

    fn select(&self, which: &str) -> String {
        let values: Vec<&str> = self.values.iter().map(|(_, value)| value.as_str()).collect();
        // Of several rows with one id the first moves.
        let (distinct, order) =
            if self.unique_id { ("", "") } else { ("DISTINCT ON (t.id) ", " ORDER BY t.id, t.tableoid, t.ctid") };
        let (from, movable) = (&self.from, &self.movable);
        format!("SELECT {distinct}{} FROM {from} WHERE {which} AND {movable}{order}", values.join(", "))
    }

    fn insert(&self, ways: &Ways, which: &str) -> String {
        let columns: Vec<&str> = self.values.iter().map(|(column, _)| *column).collect();
        format!(
            "INSERT INTO {} ({}) {} ON CONFLICT ({})",
            self.target(ways),
            columns.join(", "),
            self.select(which),
            self.part.key()
        )
    }

    /// Moves the rows with ids of a range: after `after`, up to `to`.
    pub(super) fn load(&self, ways: &Ways, after: Option<i64>, to: i64) -> String {
        let after = after.map(|id| format!(" AND t.id > ({id})")).unwrap_or_default();
        self.insert(ways, &format!("t.id <= ({to}){after}")) + " DO NOTHING"
    }

    /// Writes rows of these ids anew: `$1`.
    pub(super) fn refresh(&self, ways: &Ways) -> String {
        let key = self.part.key();
        let changed = self.values.iter().filter(|(column, _)| *column != key);
        let changed: Vec<String> = changed.map(|(column, _)| format!("{column} = excluded.{column}")).collect();
        self.insert(ways, "t.id = ANY($1)") + " DO UPDATE SET " + &changed.join(", ")
    }

    /// Takes away what is no old row any more, of these ids: `$1`.
    pub(super) fn prune(&self, ways: &Ways) -> String {
        format!(
            "DELETE FROM {} n WHERE n.{} = ANY($1) AND n.{1} NOT IN (SELECT t.id FROM {} WHERE t.id = ANY($1) AND {})",
            self.target(ways),
            self.part.key(),
            self.from,
            self.movable
        )
    }

    /// Which of these ids have a new row: `$1`.
    pub(super) fn present(&self, ways: &Ways) -> String {
        let key = self.part.key();
        format!("SELECT n.{key} FROM {} n WHERE n.{key} = ANY($1)", self.target(ways))
    }

    /// Counts of old rows: all, without an id, orphans, without a time, movable, and of these the different ids.
    pub(super) fn count(&self) -> String {
        let ids = if self.unique_id { "count(*)" } else { "count(DISTINCT c.id)" };
        format!(
            "SELECT count(*), count(*) FILTER (WHERE c.id IS NULL), \
                count(*) FILTER (WHERE c.id IS NOT NULL AND NOT c.has_parent), \
                count(*) FILTER (WHERE c.id IS NOT NULL AND c.has_parent AND NOT c.has_time), \
                count(*) FILTER (WHERE c.id IS NOT NULL AND c.has_parent AND c.has_time), \
                {ids} FILTER (WHERE c.id IS NOT NULL AND c.has_parent AND c.has_time) \
             FROM (SELECT t.id, {} AS has_parent, {} AS has_time FROM {} t) c",
            self.has_parent, self.has_time, self.old
        )
    }

    /// How many old ids have a new row.
    pub(super) fn moved(&self, ways: &Ways) -> String {
        let (old, target, key) = (&self.old, self.target(ways), self.part.key());
        format!("SELECT count(DISTINCT t.id) FROM {old} t WHERE t.id IN (SELECT n.{key} FROM {target} n)")
    }

    /// Old values beside new ones, by name.
    pub(super) fn kept_values(&self, ways: &Ways) -> String {
        format!(
            "SELECT k.name, count(*) FROM {} n CROSS JOIN LATERAL jsonb_object_keys(n.legacy) k (name) \
             WHERE n.legacy IS NOT NULL AND n.{} IN (SELECT t.id FROM {} t) GROUP BY 1 ORDER BY 1",
            self.target(ways),
            self.part.key(),
            self.old
        )
    }

    /// Ids of rows that have a text in common with rows of these ids (`$1`), as they are or as they were when they were moved,
    /// where the new table allows it once.
    pub(super) fn siblings(&self, ways: &Ways) -> Vec<String> {
        let (old, target, key) = (&self.old, self.target(ways), self.part.key());
        let one = |(text, new): &(String, &str)| {
            format!(
                "SELECT t.id::bigint FROM {old} t WHERE t.id IS NOT NULL AND {text} IN \
                    (SELECT {text} FROM {old} t WHERE t.id = ANY($1) \
                     UNION ALL SELECT n.{new} FROM {target} n WHERE n.{key} = ANY($1))"
            )
        };
        self.shared.iter().map(one).collect()
    }

    /// Ids of rows that refer to one of these keys (`$1`) of a parent.
    pub(super) fn of_parent(&self, parent: Part) -> Option<String> {
        let (_, key) = self.parents.iter().find(|(part, _)| *part == parent)?;
        Some(format!("SELECT t.id::bigint FROM {} t WHERE {key} = ANY($1) AND t.id IS NOT NULL", self.old))
    }
}
