//! Whose database is it? Decided from the catalogue alone; nothing is touched.

use std::collections::HashMap;
use std::fmt;

use sqlx::PgConnection;

use super::StartError;
use super::migrate::known_versions;

pub(super) const STATEMENTS: &[&str] = &[RELATIONS, COLUMNS, APPLIED, UNFINISHED];

/// Relations that no extension made.
const RELATIONS: &str = "SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
    WHERE n.nspname = $1 AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND NOT EXISTS ( \
        SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e') \
    ORDER BY c.relkind NOT IN ('r', 'p'), c.relname";

const COLUMNS: &str = "SELECT c.relname || '.' || a.attname, format_type(a.atttypid, NULL) \
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid \
    WHERE n.nspname = $1 AND c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped \
        AND c.relname IN ('users', 'monitors', 'monitor_checks', 'incidents', 'status_reports')";

const APPLIED: &str = "SELECT version FROM lamplighter_migrations ORDER BY version";

/// An upgrade from the integer-keyed schema that was begun; the comment is the schema that is upgraded.
const UNFINISHED: &str = "SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
    WHERE n.nspname = 'lamplighter_upgrade' AND c.relname = 'unfinished' AND obj_description(c.oid, 'pg_class') = $1)";

/// What a database was found to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing in the schema.
    Empty,
    /// Ours, with so many migrations to go.
    Ours {
        /// How many.
        pending: usize,
    },
    /// Ours, of a newer version.
    Newer {
        /// The newest migration applied.
        found: i64,
        /// The newest we know.
        known: i64,
    },
    /// The uuid schema, made by another tool.
    Adoptable,
    /// The integer-keyed schema.
    Legacy,
    /// The same on its way to ours, or ours whose upgrade is not finished.
    HalfUpgraded,
    /// Something else, and why it is thought so.
    Foreign(String),
}

impl Found {
    /// The error that it is, if it is none that migrating can help.
    #[must_use]
    pub fn as_error(&self) -> Option<StartError> {
        match self {
            Self::Newer { found, known } => Some(StartError::SchemaNewer { found: *found, known: *known }),
            Self::Legacy => Some(StartError::Legacy),
            Self::HalfUpgraded => Some(StartError::HalfUpgraded),
            Self::Foreign(why) => Some(StartError::Foreign(why.clone())),
            Self::Empty | Self::Ours { .. } | Self::Adoptable => None,
        }
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the database is empty"),
            Self::Ours { pending: 0 } => f.write_str("up to date"),
            Self::Ours { pending } => write!(f, "{pending} migrations to go"),
            Self::Newer { found, known } => write!(f, "migration {found} of a newer version, {known} known"),
            Self::Adoptable => f.write_str("the uuid schema of another tool, to be adopted"),
            Self::Legacy => f.write_str("the integer-keyed schema of before"),
            Self::HalfUpgraded => f.write_str("an upgrade from the integer-keyed schema that is not finished"),
            Self::Foreign(why) => f.write_str(why),
        }
    }
}

/// What the catalogue says.
struct Facts {
    relations: Vec<String>,
    columns: HashMap<String, String>,
    /// None: there is no table of migrations of ours.
    applied: Option<Vec<i64>>,
}

pub(super) async fn classify(conn: &mut PgConnection, schema: &str) -> Result<Found, StartError> {
    let unfinished: bool = sqlx::query_scalar(UNFINISHED).bind(schema).fetch_one(&mut *conn).await?;
    if unfinished {
        return Ok(Found::HalfUpgraded);
    }
    let relations: Vec<String> = sqlx::query_scalar(RELATIONS).bind(schema).fetch_all(&mut *conn).await?;
    let columns: Vec<(String, String)> = sqlx::query_as(COLUMNS).bind(schema).fetch_all(&mut *conn).await?;
    let applied = if relations.iter().any(|name| name == super::migrate::TABLE) {
        Some(sqlx::query_scalar(APPLIED).fetch_all(conn).await?)
    } else {
        None
    };
    Ok(judge(&Facts { relations, columns: columns.into_iter().collect(), applied }, &known_versions()))
}

fn judge(facts: &Facts, known: &[i64]) -> Found {
    if let Some(applied) = &facts.applied {
        let newest = known.iter().copied().max().unwrap_or(0);
        return match applied.iter().copied().find(|version| !known.contains(version)) {
            Some(_) => Found::Newer { found: applied.iter().copied().max().unwrap_or(0), known: newest },
            None => Found::Ours { pending: known.iter().filter(|version| !applied.contains(version)).count() },
        };
    }
    let Some(first) = facts.relations.first() else { return Found::Empty };
    let kind = |column: &str| facts.columns.get(column).map(String::as_str);
    let Some((user, monitor)) = kind("users.id").zip(kind("monitors.id")) else {
        let more = match facts.relations.len() - 1 {
            0 => String::new(),
            more => format!(" and {more} more relations"),
        };
        return Found::Foreign(format!(
            "it holds {first:?}{more}, but not both a users and a monitors table with an id"
        ));
    };
    let integer = |kind: &str| matches!(kind, "integer" | "bigint" | "smallint");
    if integer(user) && integer(monitor) {
        return Found::Legacy;
    }
    // Tables that are missing altogether will be made.
    let keys = ["users.id", "monitors.id", "monitors.user_id", "monitor_checks.monitor_id"];
    let more = ["incidents.monitor_id", "incidents.user_id", "status_reports.monitor_id"];
    for column in keys.iter().chain(&more) {
        let table = column.split('.').next().unwrap_or(column);
        let there = facts.columns.keys().any(|name| name.split('.').next() == Some(table));
        match kind(column) {
            Some("uuid") => {}
            Some(other) => return Found::Foreign(format!("{column} is {other}, not uuid")),
            None if there => return Found::Foreign(format!("{column} is missing")),
            None => {}
        }
    }
    let needed = ["monitors.url", "monitor_checks.status", "monitor_checks.checked_at", "incidents.title"];
    for column in needed {
        let table = column.split('.').next().unwrap_or(column);
        if kind(column).is_none() && facts.relations.iter().any(|name| name == table) {
            return Found::Foreign(format!("{column} is missing"));
        }
    }
    if let Some(other) = kind("monitor_checks.status").filter(|kind| *kind != "boolean") {
        return Found::Foreign(format!("monitor_checks.status is {other}, not boolean"));
    }
    Found::Adoptable
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(columns: &[(&str, &str)], applied: Option<&[i64]>) -> Facts {
        let mut relations: Vec<String> =
            columns.iter().filter_map(|(name, _)| name.split('.').next()).map(str::to_owned).collect();
        relations.dedup();
        let columns = columns.iter().map(|(name, kind)| ((*name).to_owned(), (*kind).to_owned())).collect();
        Facts { relations, columns, applied: applied.map(<[i64]>::to_vec) }
    }

    #[test]
    fn every_outcome() {
        let known = [1, 2];
        let uuid =
            [("users.id", "uuid"), ("monitors.id", "uuid"), ("monitors.user_id", "uuid"), ("monitors.url", "text")];
        assert_eq!(judge(&facts(&[], None), &known), Found::Empty);
        assert_eq!(judge(&facts(&uuid, Some(&[1])), &known), Found::Ours { pending: 1 });
        assert_eq!(judge(&facts(&uuid, Some(&[1, 2])), &known), Found::Ours { pending: 0 });
        assert_eq!(judge(&facts(&uuid, Some(&[1, 2, 3])), &known), Found::Newer { found: 3, known: 2 });
        assert_eq!(judge(&facts(&uuid, None), &known), Found::Adoptable);
        let integers = [("users.id", "integer"), ("monitors.id", "bigint")];
        assert_eq!(judge(&facts(&integers, None), &known), Found::Legacy);
        for foreign in [
            &[("orders.id", "uuid")][..],
            &[("users.id", "uuid")],
            &[("users.id", "uuid"), ("monitors.id", "integer")],
            &[("users.id", "uuid"), ("monitors.id", "uuid"), ("monitors.url", "text")],
            &[("users.id", "uuid"), ("monitors.id", "uuid"), ("monitors.user_id", "uuid")],
        ] {
            assert!(matches!(judge(&facts(foreign, None), &known), Found::Foreign(_)), "{foreign:?}");
        }
    }
}
