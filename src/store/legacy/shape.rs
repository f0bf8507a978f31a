//! What the old tables look like, from the catalogue.

use std::collections::BTreeMap;

use sqlx::PgConnection;

pub(in crate::store) const STATEMENTS: &[&str] = &[COLUMNS, UNIQUE, TABLES, NOT_OURS];

/// A domain is what it is made of.
const COLUMNS: &str = "SELECT c.relname::text, a.attname::text, \
        CASE WHEN b.typtype = 'e' THEN 'enum' ELSE format_type(b.oid, NULL) END \
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid \
    JOIN pg_type t ON t.oid = a.atttypid JOIN pg_type b ON b.oid = CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.oid END \
    WHERE n.nspname = $1 AND c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped \
    ORDER BY c.relname, a.attnum";
/// Columns that alone are unique.
const UNIQUE: &str = "SELECT c.relname::text, a.attname::text \
    FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[0] \
    WHERE n.nspname = $1 AND i.indisunique AND i.indisvalid AND i.indnkeyatts = 1 AND i.indpred IS NULL AND a.attnum > 0";
const TABLES: &str = "SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
    WHERE n.nspname = $1 AND c.relkind IN ('r', 'p') AND NOT c.relispartition ORDER BY c.relname";
/// Tables whose owner we are not, and cannot act as.
const NOT_OURS: &str = "SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
    WHERE n.nspname = $1 AND c.relname = ANY($2) AND NOT pg_has_role(c.relowner, 'USAGE')";

/// The four tables that are upgraded; in the order in which they are filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Users,
    Monitors,
    Incidents,
    Reports,
}

impl Part {
    pub(super) const ALL: [Self; 4] = [Self::Users, Self::Monitors, Self::Incidents, Self::Reports];

    /// The name of the new table.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Users => "users",
            Self::Monitors => "monitors",
            Self::Incidents => "incidents",
            Self::Reports => "status_reports",
        }
    }

    /// The column of the new table that has the old key.
    pub(super) const fn key(self) -> &'static str {
        match self {
            Self::Users | Self::Monitors => "legacy_id",
            Self::Incidents | Self::Reports => "id",
        }
    }
}

/// How values of a column are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// `smallint`, `integer`.
    Whole,
    /// `bigint`.
    Big,
    /// `numeric`, `real`, `double precision`.
    Number,
    Text,
    Bool,
    /// `timestamptz`.
    Zoned,
    /// `timestamp`.
    Naive,
    Date,
    /// `json`, which may hold what `jsonb` cannot.
    Json,
    Other,
}

impl Family {
    fn of(kind: &str) -> Self {
        match kind {
            "smallint" | "integer" => Self::Whole,
            "bigint" => Self::Big,
            "numeric" | "real" | "double precision" => Self::Number,
            "text" | "character varying" | "character" | "\"char\"" | "citext" | "enum" | "name" | "uuid" => Self::Text,
            "boolean" => Self::Bool,
            "timestamp with time zone" => Self::Zoned,
            "timestamp without time zone" => Self::Naive,
            "date" => Self::Date,
            "json" => Self::Json,
            // An extension's type is shown with its schema when that is not in the path.
            other if other.ends_with(".citext") => Self::Text,
            _ => Self::Other,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) family: Family,
    /// No value twice.
    pub(super) unique: bool,
}

impl Column {
    /// `clerkId`, `clerk_id` and `ClerkID` are one name.
    pub(super) fn plain_name(&self) -> String {
        plain(&self.name)
    }
}

fn plain(name: &str) -> String {
    name.chars().filter(|c| *c != '_').flat_map(char::to_lowercase).collect()
}

/// One of the old tables.
#[derive(Clone, Debug)]
pub(super) struct OldTable {
    pub(super) part: Part,
    pub(super) name: String,
    pub(super) columns: Vec<Column>,
}

impl OldTable {
    /// The key, if it is an integer.
    pub(super) fn id(&self) -> Option<&Column> {
        let integer = |column: &&Column| matches!(column.family, Family::Whole | Family::Big);
        self.columns.iter().find(|column| column.name == "id").filter(integer)
    }
}

/// A schema with old tables.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) schema: String,
    /// In the order of [`Part::ALL`].
    pub(super) tables: Vec<OldTable>,
    /// The other tables.
    pub(super) others: Vec<String>,
}

impl Shape {
    pub(super) fn table(&self, part: Part) -> Option<&OldTable> {
        self.tables.iter().find(|table| table.part == part)
    }
}

/// `users` and `monitors` by their exact names, as [`super::super::classify`] knows them; the others also in other
/// spellings, the exact one first.
fn find(part: Part, tables: &[String]) -> Option<String> {
    let exact = tables.iter().find(|name| *name == part.name());
    let spelled = match part {
        Part::Users | Part::Monitors => None,
        Part::Incidents | Part::Reports => tables.iter().find(|name| plain(name) == plain(part.name())),
    };
    exact.or(spelled).cloned()
}

pub(super) async fn read(conn: &mut PgConnection, schema: &str) -> Result<Shape, sqlx::Error> {
    let mut others: Vec<String> = sqlx::query_scalar(TABLES).bind(schema).fetch_all(&mut *conn).await?;
    let columns: Vec<(String, String, String)> = sqlx::query_as(COLUMNS).bind(schema).fetch_all(&mut *conn).await?;
    let unique: Vec<(String, String)> = sqlx::query_as(UNIQUE).bind(schema).fetch_all(&mut *conn).await?;
    let mut by_table: BTreeMap<String, Vec<Column>> = BTreeMap::new();
    for (table, name, kind) in columns {
        let unique = unique.iter().any(|(of, column)| *of == table && *column == name);
        by_table.entry(table).or_default().push(Column { family: Family::of(&kind), name, unique });
    }
    let mut tables = Vec::new();
    for part in Part::ALL {
        if let Some(name) = find(part, &others) {
            others.retain(|other| *other != name);
            let columns = by_table.remove(&name).unwrap_or_default();
            tables.push(OldTable { part, name, columns });
        }
    }
    Ok(Shape { schema: schema.to_owned(), tables, others })
}

/// What stands in the way before anything is begun; a line each, with the way out.
pub(super) async fn problems(conn: &mut PgConnection, shape: &Shape) -> Result<Vec<String>, sqlx::Error> {
    let mut found = Vec::new();
    for table in shape.tables.iter().filter(|table| table.id().is_none()) {
        let name = super::super::quoted(&table.name);
        found.push(format!(
            "table {name} has no integer column \"id\", by which its rows are known; \
             ALTER TABLE {name} ADD COLUMN id bigserial (a column of that name must be renamed first)"
        ));
    }
    let names: Vec<&str> = shape.tables.iter().map(|table| table.name.as_str()).collect();
    let foreign: Vec<String> =
        sqlx::query_scalar(NOT_OURS).bind(&shape.schema).bind(&names).fetch_all(&mut *conn).await?;
    if !foreign.is_empty() {
        found.push(format!(
            "the role of database.url does not own {} and cannot move it; connect as the owner, or as a superuser",
            foreign.join(", ")
        ));
    }
    Ok(found)
}
