//! Where every old column goes. Pure: from a shape to SQL.

use std::collections::BTreeSet;

use super::super::quoted;
use super::convert::{self, Read, kept, literal};
use super::shape::{Column, Family, OldTable, Part, Shape};
use crate::model::SYSTEM_USER;

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
struct Draft<'a> {
    shape: &'a Shape,
    ways: &'a Ways,
    table: &'a OldTable,
    used: BTreeSet<&'a str>,
    columns: Vec<(String, Option<&'static str>)>,
    /// Objects that together are `legacy`.
    kept: Vec<String>,
    values: Vec<(&'static str, String)>,
}

impl<'a> Draft<'a> {
    /// The old column for a new one. What `usable` refuses is no such column, and stays among the others.
    fn take_if(&mut self, new: &'static str, usable: impl Fn(Family) -> bool) -> Option<&'a Column> {
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

    fn take(&mut self, new: &'static str) -> Option<&'a Column> {
        self.take_if(new, |_| true)
    }

    /// The value of a column that is read; what it loses is kept.
    fn read(&mut self, column: &Column, read: Read) -> String {
        if let Some(condition) = &read.keep_if {
            self.kept.push(kept(column, Some(condition)));
        }
        read.value
    }

    fn text(&mut self, new: &'static str) -> Option<String> {
        let column = self.take(new)?;
        Some(self.read(column, convert::text(column)))
    }

    fn time(&mut self, new: &'static str) -> Option<String> {
        let times = |family| !matches!(family, Family::Bool | Family::Json | Family::Other);
        let column = self.take_if(new, times)?;
        Some(self.read(column, convert::time(column, &self.ways.zone)))
    }

    fn whole(&mut self, new: &'static str) -> Option<String> {
        let numbers = |family| matches!(family, Family::Whole | Family::Big | Family::Number | Family::Text);
        let column = self.take_if(new, numbers)?;
        Some(self.read(column, convert::whole(column)))
    }

    fn set(&mut self, new: &'static str, value: impl Into<String>) {
        self.values.push((new, value.into()));
    }

    /// The last step: what has no place becomes `legacy`.
    fn finish(mut self, from: String, movable: String, parents: Vec<(Part, String)>) -> TablePlan {
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

fn old_name(shape: &Shape, table: &OldTable) -> String {
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
        Part::Users => users(draft),
        Part::Monitors => monitors(draft),
        Part::Incidents => incidents(draft),
        Part::Reports => reports(draft),
    }
}

/// `created_at` and `updated_at`, which are never null.
fn stamps(draft: &mut Draft<'_>) -> (String, String) {
    let (created, updated) = (draft.time("created_at"), draft.time("updated_at"));
    let (c, u) = (created.as_deref().unwrap_or("NULL"), updated.as_deref().unwrap_or("NULL"));
    let began = &draft.ways.began_at;
    let stamps = (format!("coalesce({c}, {u}, {began})"), format!("coalesce({u}, {c}, {began})"));
    draft.set("created_at", stamps.0.clone());
    draft.set("updated_at", stamps.1.clone());
    stamps
}

fn users(mut draft: Draft<'_>) -> TablePlan {
    let mut from = format!("{} t", old_name(draft.shape, draft.table));
    let mut shared = Vec::new();
    // The new columns are unique: of several rows the first keeps the text, the others have it in `legacy`.
    for (new, alias) in [("clerk_id", "first_clerk"), ("email", "first_email")] {
        let Some(column) = draft.take(new) else { continue };
        let text = format!("nullif({}::text, '')", convert::of(column));
        if column.unique {
            draft.set(new, text);
            continue;
        }
        from += &format!(
            " LEFT JOIN (SELECT t.{0}::text AS value, min(t.id) AS id FROM {1} t WHERE t.id IS NOT NULL GROUP BY 1) {alias} \
             ON {alias}.value = {2}::text",
            quoted(&column.name),
            old_name(draft.shape, draft.table),
            convert::of(column)
        );
        draft.set(new, format!("CASE WHEN {alias}.id = t.id THEN {text} END"));
        draft.kept.push(kept(column, Some(&format!("{alias}.id <> t.id AND {text} IS NOT NULL"))));
        shared.push((format!("{}::text", convert::of(column)), new));
    }
    for new in ["name", "avatar"] {
        if let Some(value) = draft.text(new) {
            draft.set(new, value);
        }
    }
    if let Some(column) = draft.take("plan") {
        // The plan of the system user is nobody else's.
        let c = format!("{}::text", convert::of(column));
        draft.set("plan", format!("CASE WHEN {c} <> 'system' AND {c} <> '' THEN {c} ELSE 'free' END"));
        draft.kept.push(kept(column, Some(&format!("{c} = 'system'"))));
    }
    stamps(&mut draft);
    let mut plan = draft.finish(from, "true".to_owned(), Vec::new());
    plan.shared = shared;
    plan
}

fn monitors(mut draft: Draft<'_>) -> TablePlan {
    let new = quoted(&draft.ways.new);
    let system = format!("'{}'::uuid", SYSTEM_USER.0);
    let mut from = format!("{} t", old_name(draft.shape, draft.table));
    let mut movable = "true".to_owned();
    let mut parents = Vec::new();
    if let Some(column) = draft.take("user_id") {
        from += &format!(" LEFT JOIN {new}.users u ON u.legacy_id = {}", convert::key(column));
        movable = format!("({} IS NULL OR u.id IS NOT NULL)", convert::of(column));
        draft.set("user_id", format!("coalesce(u.id, {system})"));
        parents.push((Part::Users, convert::key(column)));
    } else {
        draft.set("user_id", system);
    }
    let url = draft.text("url").map_or_else(|| "''".to_owned(), |url| format!("coalesce({url}, '')"));
    let host = format!("coalesce(nullif(lamplighter_upgrade.host({url}), ''), 'monitor ' || t.id)");
    let name = match draft.text("name") {
        Some(name) => format!("coalesce(nullif(btrim({name}), ''), {host})"),
        None => host,
    };
    draft.set("url", url);
    draft.set("name", name);
    let paused = status(&mut draft);
    uptime(&mut draft);
    for (new, most, default) in [("interval_seconds", 86_400, 300), ("timeout_seconds", 86_400, 10)] {
        let Some(column) = draft.take_if(new, |f| matches!(f, Family::Whole | Family::Big | Family::Number)) else {
            continue;
        };
        let value = convert::whole(column).value;
        draft.set(new, format!("CASE WHEN {value} BETWEEN 1 AND {most} THEN {value} ELSE {default} END"));
        let c = convert::of(column);
        let differs = format!("{c} IS NOT NULL AND ({c} NOT BETWEEN 1 AND {most} OR {value} <> {c})");
        draft.kept.push(kept(column, Some(&differs)));
    }
    let active = draft.take_if("is_active", |f| matches!(f, Family::Bool | Family::Whole | Family::Text));
    let active = match active {
        Some(column) => draft.read(column, convert::flag(column)),
        None => "NULL::boolean".to_owned(),
    };
    draft.set("is_active", format!("coalesce({active}, NOT {paused})"));
    if let Some(value) = draft.whole("response_time") {
        draft.set("response_time", value);
    }
    for new in ["last_checked", "ssl_expiry"] {
        if let Some(value) = draft.time(new) {
            draft.set(new, value);
        }
    }
    stamps(&mut draft);
    draft.finish(from, movable, parents)
}

/// Sets the status; the answer says in SQL whether it is that of a paused monitor.
fn status(draft: &mut Draft<'_>) -> String {
    let Some(column) = draft.take("status") else { return "false".to_owned() };
    let old = format!("{}::text", convert::of(column));
    let new = format!("lamplighter_upgrade.monitor_status({old})");
    draft.kept.push(kept(column, Some(&format!("{old} <> {new}"))));
    draft.set("status", new.clone());
    format!("({new} = 'paused')")
}

fn uptime(draft: &mut Draft<'_>) {
    let mut shown = None;
    if let Some(column) = draft.take("uptime") {
        let value = draft.read(column, convert::uptime(column, draft.ways.uptime_is_share));
        draft.set("uptime", value.clone());
        shown = Some(value);
    }
    let of_uptime = shown.map_or_else(|| "NULL".to_owned(), |shown| format!("lamplighter_upgrade.percentage({shown})"));
    let percentage = match draft.take("uptime_percentage") {
        Some(column) => {
            let own = format!("lamplighter_upgrade.percentage({}::text)", convert::of(column));
            let keep =
                format!("{0} IS NOT NULL AND floor({own})::text IS DISTINCT FROM {0}::text", convert::of(column));
            draft.kept.push(kept(column, Some(&keep)));
            format!("coalesce({own}, {of_uptime}, 100)")
        }
        None => format!("coalesce({of_uptime}, 100)"),
    };
    draft.set("uptime_percentage", format!("floor({percentage})::integer"));
}

fn incidents(mut draft: Draft<'_>) -> TablePlan {
    let new = quoted(&draft.ways.new);
    let mut from = format!("{} t", old_name(draft.shape, draft.table));
    let mut parents = Vec::new();
    let mut movable = "false".to_owned();
    let monitor = draft.take("monitor_id");
    let key = monitor.map_or_else(|| "NULL::bigint".to_owned(), convert::key);
    from += &format!(" LEFT JOIN {new}.monitors m ON m.legacy_id = {key}");
    if monitor.is_some() {
        "m.id IS NOT NULL".clone_into(&mut movable);
        parents.push((Part::Monitors, key));
    }
    draft.set("monitor_id", "m.id");
    // Without a user of its own it is the monitor's owner's.
    if let Some(column) = draft.take("user_id") {
        from += &format!(" LEFT JOIN {new}.users u ON u.legacy_id = {}", convert::key(column));
        draft.set("user_id", "coalesce(u.id, m.user_id)");
        draft.kept.push(kept(column, Some(&format!("u.id IS NULL AND {} IS NOT NULL", convert::of(column)))));
        parents.push((Part::Users, convert::key(column)));
    } else {
        draft.set("user_id", "m.user_id");
    }
    let title = draft.text("title").unwrap_or_else(|| "NULL".to_owned());
    draft.set("title", format!("coalesce(nullif({title}, ''), 'Incident ' || t.id)"));
    for new in ["description", "severity"] {
        if let Some(value) = draft.text(new) {
            draft.set(new, value);
        }
    }
    course(&mut draft);
    draft.finish(from, movable, parents)
}

/// Status, beginning, end and duration of an incident.
fn course(draft: &mut Draft<'_>) {
    let (created, updated) = stamps(draft);
    let started = match draft.time("started_at") {
        Some(started) => format!("coalesce({started}, {created})"),
        None => created,
    };
    let resolved_column = draft.table.columns.iter().find(|column| column.plain_name() == "resolvedat");
    let resolved = draft.time("resolved_at").unwrap_or_else(|| "NULL::timestamptz".to_owned());
    let status = match draft.take("status") {
        Some(column) => {
            let old = format!("{}::text", convert::of(column));
            let new = format!("lamplighter_upgrade.incident_status({old}, {resolved} IS NOT NULL)");
            // `active` is what `open` was called.
            draft.kept.push(kept(column, Some(&format!("{old} <> {new} AND {old} <> 'active'"))));
            new
        }
        None => format!("CASE WHEN {resolved} IS NULL THEN 'open' ELSE 'resolved' END"),
    };
    let lasted =
        draft.take_if("duration_seconds", |family| matches!(family, Family::Whole | Family::Big | Family::Number));
    let after =
        lasted.map(|column| format!("{started} + {}::double precision * interval '1 second'", convert::of(column)));
    let ended = match &after {
        Some(after) => format!("coalesce({resolved}, {after}, {updated})"),
        None => format!("coalesce({resolved}, {updated})"),
    };
    let ended = format!("CASE WHEN {status} = 'resolved' THEN greatest({ended}, {started}) END");
    let seconds = format!(
        "CASE WHEN {status} = 'resolved' \
         THEN least(floor(extract(epoch FROM {ended} - {started})), 2147483647)::integer END"
    );
    if let Some(column) = lasted {
        draft.kept.push(kept(column, Some(&format!("{}::numeric IS DISTINCT FROM {seconds}", convert::of(column)))));
    }
    if let Some(column) = resolved_column {
        draft.kept.push(kept(column, Some(&format!("{resolved} IS DISTINCT FROM {ended} AND {resolved} IS NOT NULL"))));
    }
    draft.set("status", status);
    draft.set("started_at", started);
    draft.set("resolved_at", ended);
    draft.set("duration_seconds", seconds);
}

fn reports(mut draft: Draft<'_>) -> TablePlan {
    let new = quoted(&draft.ways.new);
    let mut from = format!("{} t", old_name(draft.shape, draft.table));
    let mut parents = Vec::new();
    let mut movable = "false".to_owned();
    if let Some(column) = draft.take("monitor_id") {
        from += &format!(" JOIN {new}.monitors m ON m.legacy_id = {}", convert::key(column));
        "true".clone_into(&mut movable);
        parents.push((Part::Monitors, convert::key(column)));
        draft.set("monitor_id", "m.id");
    } else {
        draft.set("monitor_id", "NULL::uuid");
    }
    let status = draft.text("status").unwrap_or_else(|| "NULL".to_owned());
    draft.set("status", format!("coalesce({status}, 'unknown')"));
    for new in ["status_code", "response_time"] {
        if let Some(value) = draft.whole(new) {
            draft.set(new, value);
        }
    }
    if let Some(value) = draft.text("error_message") {
        draft.set("error_message", value);
    }
    // A report without a time has no place in a history.
    let time = draft.time("checked_at");
    let has_time = time.as_ref().map_or_else(|| "false".to_owned(), |time| format!("{time} IS NOT NULL"));
    draft.set("checked_at", time.unwrap_or_else(|| "NULL::timestamptz".to_owned()));
    let mut plan = draft.finish(from, format!("{movable} AND {has_time}"), parents);
    plan.has_time = has_time;
    plan
}

/// SQL for [`Ways::began_at`].
pub(super) fn moment(text: &str) -> String {
    format!("{}::timestamptz", literal(text))
}
