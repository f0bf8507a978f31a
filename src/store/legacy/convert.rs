//! From an old value to a new one: SQL expressions over a row `t` of an old table. What loses something says under which
//! condition the old value must be kept beside the new one.

use super::super::quoted;
use super::shape::{Column, Family};

/// An expression, and when the value that it was made of is to be kept in the column `legacy`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Read {
    pub(super) value: String,
    pub(super) keep_if: Option<String>,
}

impl Read {
    fn exact(value: impl Into<String>) -> Self {
        Self { value: value.into(), keep_if: None }
    }

    fn lossy(value: impl Into<String>, keep_if: impl Into<String>) -> Self {
        Self { value: value.into(), keep_if: Some(keep_if.into()) }
    }
}

/// A text as SQL.
pub(super) fn literal(text: &str) -> String {
    // Also right when standard_conforming_strings is off.
    let escaped = text.replace('\'', "''");
    if escaped.contains('\\') { format!(" E'{}'", escaped.replace('\\', "\\\\")) } else { format!("'{escaped}'") }
}

/// The column of the old row.
pub(super) fn of(column: &Column) -> String {
    format!("t.{}", quoted(&column.name))
}

pub(super) fn text(column: &Column) -> Read {
    Read::exact(format!("{}::text", of(column)))
}

/// A key of another table; null for what is none.
pub(super) fn key(column: &Column) -> String {
    match column.family {
        Family::Whole | Family::Big => format!("{}::bigint", of(column)),
        _ => format!("lamplighter_upgrade.big({}::text)", of(column)),
    }
}

/// An integer of 32 bits. Fractions are rounded.
pub(super) fn whole(column: &Column) -> Read {
    let c = of(column);
    match column.family {
        Family::Whole => Read::exact(format!("{c}::integer")),
        Family::Number => {
            let value = format!("lamplighter_upgrade.whole({c}::numeric::text)");
            let keep = format!("{c} IS NOT NULL AND {value}::numeric IS DISTINCT FROM {c}::numeric");
            Read::lossy(value, keep)
        }
        Family::Big | Family::Text => {
            let value = format!("lamplighter_upgrade.whole({c}::text)");
            let keep = format!("{c} IS NOT NULL AND {value}::text IS DISTINCT FROM {c}::text");
            Read::lossy(value, keep)
        }
        _ => Read::lossy("NULL::integer", format!("{c} IS NOT NULL")),
    }
}

/// A time. Naive ones are of the zone; those that its clocks skipped cannot be told back, and are kept.
pub(super) fn time(column: &Column, zone: &str) -> Read {
    let (c, zone) = (of(column), literal(zone));
    match column.family {
        Family::Zoned => Read::exact(c),
        Family::Naive => {
            let value = format!("({c} AT TIME ZONE {zone})");
            let keep = format!("{value} AT TIME ZONE {zone} IS DISTINCT FROM {c}");
            Read::lossy(value, keep)
        }
        Family::Date => Read::exact(format!("({c}::timestamp AT TIME ZONE {zone})")),
        Family::Whole | Family::Big | Family::Number => {
            let value = format!("lamplighter_upgrade.since_1970({c}::numeric)");
            let keep = format!("{value} IS NULL AND {c} IS NOT NULL");
            Read::lossy(value, keep)
        }
        Family::Text => {
            let value = format!("lamplighter_upgrade.moment({c}::text, {zone})");
            let keep = format!("{value} IS NULL AND {c} IS NOT NULL");
            Read::lossy(value, keep)
        }
        _ => Read::lossy("NULL::timestamptz", format!("{c} IS NOT NULL")),
    }
}

/// A truth value; null for what is none.
pub(super) fn flag(column: &Column) -> Read {
    let c = of(column);
    match column.family {
        Family::Bool => Read::exact(c),
        Family::Whole | Family::Big => Read::lossy(format!("({c} <> 0)"), format!("{c} NOT IN (0, 1)")),
        Family::Text => {
            let lower = format!("lower(btrim({c}::text))");
            let value = format!(
                "CASE WHEN {lower} IN ('t', 'true', '1', 'yes', 'y', 'on', 'active', 'enabled') THEN true \
                 WHEN {lower} IN ('f', 'false', '0', 'no', 'n', 'off', 'inactive', 'disabled', 'paused') THEN false END"
            );
            Read::lossy(value, format!("{c} IS NOT NULL"))
        }
        _ => Read::lossy("NULL::boolean", format!("{c} IS NOT NULL")),
    }
}

/// An uptime as shown: texts as they are, numbers as percent.
pub(super) fn uptime(column: &Column, is_share: bool) -> Read {
    let c = of(column);
    match column.family {
        Family::Text => text(column),
        Family::Whole | Family::Big | Family::Number => {
            let factor = if is_share { " * 100" } else { "" };
            // Trailing zeros say nothing; NaN and its like stay what they were.
            let value = format!("trim_scale({c}::numeric{factor})::text || '%'");
            if is_share { Read::lossy(value, format!("{c} IS NOT NULL")) } else { Read::exact(value) }
        }
        _ => Read::lossy("NULL::text", format!("{c} IS NOT NULL")),
    }
}

/// An object with the old value, or an empty one.
pub(super) fn kept(column: &Column, condition: Option<&str>) -> String {
    let c = of(column);
    // `json` may hold escapes that `jsonb` refuses.
    let value = if column.family == Family::Json { format!("{c}::text") } else { c.clone() };
    let condition = match condition {
        Some(condition) => format!("({condition})"),
        // Not `IS NOT NULL`, which asks the fields of a composite.
        None => format!("{c} IS DISTINCT FROM NULL"),
    };
    format!(
        "CASE WHEN {condition} THEN jsonb_build_object({}, to_jsonb({value})) ELSE '{{}}' END",
        literal(&column.name)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, family: Family) -> Column {
        Column { name: name.to_owned(), family, unique: false }
    }

    #[test]
    fn names_and_texts_cannot_break_out() {
        let hostile = column("a\"b'c\\", Family::Text);
        assert_eq!(of(&hostile), "t.\"a\"\"b'c\\\"");
        assert!(kept(&hostile, None).contains(" E'a\"b''c\\\\'"));
        assert_eq!(literal("x'y"), "'x''y'");
    }

    #[test]
    fn only_what_loses_something_is_kept() {
        assert_eq!(whole(&column("n", Family::Whole)).keep_if, None);
        assert!(whole(&column("n", Family::Number)).keep_if.is_some());
        assert_eq!(time(&column("n", Family::Zoned), "UTC").keep_if, None);
        let naive = time(&column("n", Family::Naive), "Europe/Berlin");
        assert_eq!(naive.value, "(t.\"n\" AT TIME ZONE 'Europe/Berlin')");
        assert!(naive.keep_if.is_some());
        assert_eq!(whole(&column("n", Family::Other)).value, "NULL::integer");
    }
}
