//! Users, monitors, incidents and reports, column by column.

use super::super::convert::{self, kept};
use super::super::shape::{Family, Part};
use super::TablePlan;
use super::draft::{Draft, old_name, stamps};
use crate::model::SYSTEM_USER;
use crate::store::quoted;

pub(super) fn users(mut draft: Draft<'_>) -> TablePlan {
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

pub(super) fn monitors(mut draft: Draft<'_>) -> TablePlan {
    let (from, movable, parents) = owner(&mut draft);
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
    seconds(&mut draft);
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

/// Sets whose a monitor is; the answer is what follows FROM, which rows can be moved, and what refers to users.
fn owner(draft: &mut Draft<'_>) -> (String, String, Vec<(Part, String)>) {
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
    (from, movable, parents)
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

/// Interval and time-out: what is out of bounds becomes the default.
fn seconds(draft: &mut Draft<'_>) {
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
}

pub(super) fn incidents(mut draft: Draft<'_>) -> TablePlan {
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

pub(super) fn reports(mut draft: Draft<'_>) -> TablePlan {
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
