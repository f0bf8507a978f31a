//! A table being planned: its columns are taken one by one, and what has no place becomes `legacy`.

use std::collections::BTreeSet;

use super::super::convert::{self, Read, kept};
use super::super::shape::{Column, Family, OldTable, Part, Shape};
use super::{TablePlan, Ways};
use crate::store::quoted;

/// Which names the columns of an old table may have, plain: lower case without underscores. The first that is there counts.
const NAMES: &[(Part, &str, &[&str])] = &[
    (Part::Users, "clerk_id", &["clerkid", "clerkuserid"]),
    (Part::Users, "email", &["email", "emailaddress"]),
    (Part::Users, "name", &["name", "fullname", "displayname"]),
    (Part::Users, "avatar", &["avatar", "avatarurl", "imageurl"]),
    (Part::Users, "plan", &["plan"]),
    (Part::Users, "created_at", &["createdat", "created"]),
    (Part::Users, "updated_at", &["updatedat", "updated"]),
    (Part::Monitors, "user_id", &["userid", "ownerid"]),
    (Part::Monitors, "name", &["name"]),
    (Part::Monitors, "url", &["url"]),
    (Part::Monitors, "status", &["status"]),
    (Part::Monitors, "uptime", &["uptime"]),
    (Part::Monitors, "uptime_percentage", &["uptimepercentage"]),
    (Part::Monitors, "interval_seconds", &["intervalseconds"]),
    (Part::Monitors, "timeout_seconds", &["timeoutseconds"]),
    (Part::Monitors, "is_active", &["isactive", "active", "enabled"]),
    (Part::Monitors, "response_time", &["responsetime", "responsetimems"]),
    (Part::Monitors, "last_checked", &["lastchecked", "lastcheckedat"]),
    (Part::Monitors, "ssl_expiry", &["sslexpiry", "sslexpiresat"]),
    (Part::Monitors, "created_at", &["createdat", "created"]),
    (Part::Monitors, "updated_at", &["updatedat", "updated"]),
    (Part::Incidents, "user_id", &["userid"]),
    (Part::Incidents, "monitor_id", &["monitorid"]),
    (Part::Incidents, "title", &["title"]),
    (Part::Incidents, "description", &["description"]),
    (Part::Incidents, "status", &["status"]),
    (Part::Incidents, "severity", &["severity"]),
    (Part::Incidents, "started_at", &["startedat"]),
    (Part::Incidents, "resolved_at", &["resolvedat"]),
    (Part::Incidents, "duration_seconds", &["durationseconds"]),
    (Part::Incidents, "created_at", &["createdat", "created"]),
    (Part::Incidents, "updated_at", &["updatedat", "updated"]),
    (Part::Reports, "monitor_id", &["monitorid"]),
    (Part::Reports, "status", &["status"]),
    (Part::Reports, "status_code", &["statuscode"]),
    (Part::Reports, "response_time", &["responsetime", "responsetimems"]),
    (Part::Reports, "error_message", &["errormessage", "error"]),
    (Part::Reports, "checked_at", &["checkedat", "createdat", "timestamp"]),
];

/// A table being planned.
pub(super) struct Draft<'a> {
    pub(super) shape: &'a Shape,
    pub(super) ways: &'a Ways,
    pub(super) table: &'a OldTable,
    pub(super) used: BTreeSet<&'a str>,
    pub(super) columns: Vec<(String, Option<&'static str>)>,
    /// Objects that together are `legacy`.
    pub(super) kept: Vec<String>,
    pub(super) values: Vec<(&'static str, String)>,
}

impl<'a> Draft<'a> {
    /// The old column for a new one. What `usable` refuses is no such column, and stays among the others.
    pub(super) fn take_if(&mut self, new: &'static str, usable: impl Fn(Family) -> bool) -> Option<&'a Column> {
        let (_, _, names) = NAMES.iter().find(|(part, name, _)| *part == self.table.part && *name == new)?;
        let column = names.iter().find_map(|name| {
            let fits = |column: &&Column| column.plain_name() == *name && usable(column.family);
            self.table.columns.iter().find(fits)
        })?;
        if !self.used.insert(&column.name) {
            return None;
        }
        self.columns.push((column.name.clone(), Some(new)));
        Some(column)
    }

    pub(super) fn take(&mut self, new: &'static str) -> Option<&'a Column> {
        self.take_if(new, |_| true)
    }

    /// The value of a column that is read; what it loses is kept.
    pub(super) fn read(&mut self, column: &Column, read: Read) -> String {
        if let Some(condition) = &read.keep_if {
            self.kept.push(kept(column, Some(condition)));
        }
        read.value
    }

    pub(super) fn text(&mut self, new: &'static str) -> Option<String> {
        let column = self.take(new)?;
        Some(self.read(column, convert::text(column)))
    }

    pub(super) fn time(&mut self, new: &'static str) -> Option<String> {
        let times = |family| !matches!(family, Family::Bool | Family::Json | Family::Other);
        let column = self.take_if(new, times)?;
        Some(self.read(column, convert::time(column, &self.ways.zone)))
    }

    pub(super) fn whole(&mut self, new: &'static str) -> Option<String> {
        let numbers = |family| matches!(family, Family::Whole | Family::Big | Family::Number | Family::Text);
        let column = self.take_if(new, numbers)?;
        Some(self.read(column, convert::whole(column)))
    }

    pub(super) fn set(&mut self, new: &'static str, value: impl Into<String>) {
        self.values.push((new, value.into()));
    }

    /// The last step: what has no place becomes `legacy`.
    pub(super) fn finish(mut self, from: String, movable: String, parents: Vec<(Part, String)>) -> TablePlan {
        let extras: Vec<&Column> = self.table.columns.iter().filter(|c| !self.used.contains(c.name.as_str())).collect();
        for column in extras {
            self.columns.push((column.name.clone(), None));
            self.kept.push(kept(column, None));
        }
        let legacy = match self.kept.as_slice() {
            [] => "NULL::jsonb".to_owned(),
            objects => format!("nullif({}, '{{}}'::jsonb)", objects.join(" || ")),
        };
        self.set("legacy", legacy);
        let order = |name: &str| self.table.columns.iter().position(|column| column.name == *name);
        self.columns.sort_by_key(|(name, _)| order(name));
        TablePlan {
            part: self.table.part,
            old: old_name(self.shape, self.table),
            values: self.values,
            from,
            movable,
            has_parent: has_parent(self.shape, self.table.part),
            has_time: "true".to_owned(),
            unique_id: self.table.id().is_some_and(|id| id.unique),
            parents,
            shared: Vec::new(),
            columns: self.columns,
        }
    }
}

pub(super) fn old_name(shape: &Shape, table: &OldTable) -> String {
    format!("{}.{}", quoted(&shape.schema), quoted(&table.name))
}

/// The column of an old table that refers to a parent.
fn reference<'a>(table: &'a OldTable, new: &str) -> Option<&'a Column> {
    let (_, _, names) = NAMES.iter().find(|(part, name, _)| *part == table.part && *name == new)?;
    names.iter().find_map(|name| table.columns.iter().find(|column| column.plain_name() == *name))
}

/// Whether the row `t` of an old table has the parents that it needs, told from the old tables alone.
fn has_parent(shape: &Shape, part: Part) -> String {
    let Some(table) = shape.table(part) else { return "false".to_owned() };
    match part {
        Part::Users => "true".to_owned(),
        Part::Monitors => match (reference(table, "user_id"), shape.table(Part::Users)) {
            (Some(column), Some(users)) => format!(
                "({} IS NULL OR coalesce({} IN (SELECT p.id FROM {} p WHERE p.id IS NOT NULL), false))",
                convert::of(column),
                convert::key(column),
                old_name(shape, users)
            ),
            _ => "true".to_owned(),
        },
        Part::Incidents | Part::Reports => match (reference(table, "monitor_id"), shape.table(Part::Monitors)) {
            (Some(column), Some(monitors)) => format!(
                "coalesce({} IN (SELECT t.id FROM {} t WHERE t.id IS NOT NULL AND {}), false)",
                convert::key(column),
                old_name(shape, monitors),
                has_parent(shape, Part::Monitors)
            ),
            _ => "false".to_owned(),
        },
    }
}

/// `created_at` and `updated_at`, which are never null.
pub(super) fn stamps(draft: &mut Draft<'_>) -> (String, String) {
    let (created, updated) = (draft.time("created_at"), draft.time("updated_at"));
    let (c, u) = (created.as_deref().unwrap_or("NULL"), updated.as_deref().unwrap_or("NULL"));
    let began = &draft.ways.began_at;
    let stamps = (format!("coalesce({c}, {u}, {began})"), format!("coalesce({u}, {c}, {began})"));
    draft.set("created_at", stamps.0.clone());
    draft.set("updated_at", stamps.1.clone());
    stamps
}
