//! `[[slo]]`: objectives.

use std::collections::HashSet;
use std::time::Duration;

use uuid::Uuid;

use super::common;
use super::diagnostic::{Diagnostic, Findings, Quote, nearest};
use super::duration;
use super::reader::TableReader;
use super::tree::{Node, Table, Value};
use crate::model::{MonitorId, MonitorKey};
use crate::slo::{Named, Objective, Period, Target};

/// Objectives of a configuration at most, and monitors that one may name.
const MAX_OBJECTIVES: usize = 1000;
const MAX_MONITORS: usize = 1000;
const DAY: u64 = 86_400;
/// Days of a window.
const DAYS: std::ops::RangeInclusive<u64> = 7..=365;
const DAYS_DEFAULT: u32 = 30;

/// Reads all objectives. Unless the sources are `whole`, what is missing may be in the part that was lost.
pub(super) fn read(reader: &mut TableReader<'_>, whole: bool) -> Vec<Objective> {
    let Some(tables) = reader.tables("slo") else { return Vec::new() };
    if tables.len() > MAX_OBJECTIVES {
        reader.error("slo", format!("{} objectives are too many", tables.len()), format!("at most {MAX_OBJECTIVES}"));
        return Vec::new();
    }
    let mut ids = HashSet::new();
    let mut objectives = Vec::with_capacity(tables.len());
    for mut table in tables {
        let objective = read_one(&mut table, whole);
        if let Some(objective) = &objective
            && !ids.insert(objective.id.clone())
        {
            table.error("id", format!("{:?} stands twice", objective.id.as_str()), "give each its own".to_owned());
        }
        table.finish(&|_| None);
        objectives.extend(objective);
    }
    objectives
}

fn read_one(table: &mut TableReader<'_>, whole: bool) -> Option<Objective> {
    let before = table.findings().count();
    let id = common::key(table, "id");
    let name = table.string("name").and_then(|name| common::checked_name(table, name));
    let monitors = monitors(table);
    let tags = table.strings("tags").and_then(|tags| common::checked_tags(table, tags)).unwrap_or_default();
    let target = target(table);
    let period = period(table);
    let exclude_maintenance = table.boolean("exclude_maintenance").unwrap_or(true);
    let missing = |key: &'static str, table: &mut TableReader<'_>| whole && !table.has_own(key);
    for key in ["id", "objective"] {
        if missing(key, table) {
            table.error(key, "is missing", "every [[slo]] has an id and an objective".to_owned());
        }
    }
    if missing("monitor", table) && missing("tags", table) {
        table.error("monitor", "is missing", "name monitors by monitor, by tags or by both".to_owned());
    }
    let id = id?;
    let name = name.map_or_else(|| id.as_str().into(), |name| (*name).into());
    let objective = Objective {
        name,
        id,
        monitors: monitors.into(),
        tags: tags.to_vec().into(),
        target: target?,
        period: period?,
        exclude_maintenance,
    };
    (table.findings().count() == before).then_some(objective)
}

/// One name or a list of them.
fn monitors(table: &mut TableReader<'_>) -> Vec<Named> {
    const KEY: &str = "monitor";
    let Some(node) = table.node(KEY) else { return Vec::new() };
    let nodes = names(node);
    if nodes.is_empty() || nodes.len() > MAX_MONITORS {
        let allowed = format!("must be the id of a monitor, or a list of 1 to {MAX_MONITORS}");
        table.error(KEY, format!("found {}", node.value.type_name()), allowed);
        return Vec::new();
    }
    let mut named = Vec::with_capacity(nodes.len());
    for node in nodes {
        let Value::String(text) = &node.value else {
            table.error_at(node.span, KEY, format!("found {}", node.value.type_name()), "must be an id".to_owned());
            continue;
        };
        let name = match uuid(text) {
            Some(id) => Ok(Named::Id(MonitorId(id))),
            None => text.parse().map(Named::Key),
        };
        match name {
            Ok(name) if named.contains(&name) => {
                table.error_at(node.span, KEY, format!("{text} stands here twice"), None);
            }
            Ok(name) => named.push(name),
            Err(allowed) => table.error_at(node.span, KEY, "is not an id", format!("must be {allowed}")),
        }
    }
    named
}

fn names(node: &Node) -> Vec<&Node> {
    match &node.value {
        Value::String(_) => vec![node],
        Value::Array(items) => items.iter().collect(),
        _ => Vec::new(),
    }
}

/// Of a row, which has no key in the file.
fn uuid(text: &str) -> Option<Uuid> {
    Uuid::try_parse(text).ok().filter(|_| text.len() == 36)
}

fn target(table: &mut TableReader<'_>) -> Option<Target> {
    const KEY: &str = "objective";
    let node = table.node(KEY)?;
    let percent = match node.value {
        // Whoever writes more than 2^53 is out of range anyway.
        Value::Integer(whole) => Some(whole as f64),
        Value::Float(percent) => Some(percent),
        _ => None,
    };
    let target = percent.and_then(Target::from_percent);
    if target.is_none() {
        let allowed = "must be a number of per cent above 0 and below 100 with at most five digits behind the point, \
                       such as 99.9: 100 would leave no budget";
        let found = if percent.is_some() { node.value.to_string() } else { node.value.type_name().to_owned() };
        table.error(KEY, format!("found {found}"), allowed.to_owned());
    }
    target
}

fn period(table: &mut TableReader<'_>) -> Option<Period> {
    const KEY: &str = "window";
    let zone = common::time_zone(table);
    let text = table.string(KEY);
    if text.as_deref() == Some("calendar_month") {
        return zone.map(Period::CalendarMonth);
    }
    if table.has_own("timezone") {
        let allowed = "remove it, or write window = \"calendar_month\"".to_owned();
        table.error("timezone", "goes with a calendar month only", allowed);
    }
    if table.node(KEY).is_none() {
        return Some(Period::Days(DAYS_DEFAULT));
    }
    let text = text?;
    let days = duration::parse(&text).filter(|time| time.subsec_nanos() == 0 && time.as_secs() % DAY == 0);
    let days = days.map(|time: Duration| time.as_secs() / DAY).filter(|days| DAYS.contains(days));
    if days.is_none() {
        let allowed = "must be \"calendar_month\", or whole days, \"7d\" to \"365d\"";
        table.error(KEY, "is not a window", allowed.to_owned());
    }
    days.and_then(|days| u32::try_from(days).ok()).map(Period::Days)
}

/// Complains about monitors that no `[[monitor]]` is. `tree` is what the objectives were read from.
pub(super) fn check<'a>(tree: &Table, keys: impl Iterator<Item = &'a MonitorKey>, findings: &Findings) {
    let Some(Value::Array(objectives)) = tree.get("slo").map(|entry| &entry.node.value) else { return };
    let keys: HashSet<&str> = keys.map(MonitorKey::as_str).collect();
    for (index, objective) in objectives.iter().enumerate() {
        let Value::Table(table) = &objective.value else { continue };
        let named = table.get("monitor").map_or_else(Vec::new, |entry| names(&entry.node));
        for node in named {
            let Value::String(text) = &node.value else { continue };
            // Ids of rows are the database's; what is no key was told.
            if keys.contains(&**text) || uuid(text).is_some() || text.parse::<MonitorKey>().is_err() {
                continue;
            }
            findings.push(Diagnostic {
                span: node.span,
                key: format!("slo[{index}].monitor"),
                what: format!("no monitor has the id {text:?}"),
                allowed: nearest(text, keys.iter().copied()).map(|near| format!("did you mean {near:?}?")),
                quote: Quote::Value,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::diagnostic::SourceText;
    use super::super::model::{Environment, read};
    use super::*;

    fn settings(text: &str) -> Result<Vec<Objective>, Vec<String>> {
        let text = format!("[[monitor]]\nid = \"shop\"\nurl = \"tcp://h:1\"\n[[slo]]\n{text}");
        let environment = Environment { variable: &|_| None, credentials: None };
        let sources = [SourceText::new("c.toml", text)];
        let read = read(&sources, std::path::Path::new("."), environment, &[]);
        read.map(|settings| settings.slos.to_vec()).map_err(|refusal| refusal.messages)
    }

    #[test]
    fn an_objective_is_read() {
        let text = "id = \"a\"\nmonitor = \"shop\"\nobjective = 99.95\nwindow = \"calendar_month\"\n\
                    timezone = \"Europe/Berlin\"\nexclude_maintenance = false\ntags = [\"x\", \"x\"]\nname = \"A\"\n";
        let objectives = settings(text).unwrap();
        let objective = &objectives[0];
        assert_eq!((&*objective.name, objective.target.to_string().as_str()), ("A", "99.95%"));
        assert_eq!(objective.period, Period::CalendarMonth(chrono_tz::Tz::Europe__Berlin));
        assert_eq!((objective.tags.len(), objective.exclude_maintenance), (1, false));
        assert_eq!(*objective.monitors, [Named::Key("shop".parse().unwrap())]);
        let id = "0f6e6a3e-0000-4000-8000-000000000001";
        let text = format!("id = \"a\"\nmonitor = [\"shop\", {id:?}]\nobjective = 99\n");
        let objective = settings(&text).unwrap().remove(0);
        assert_eq!((objective.period, objective.exclude_maintenance, &*objective.name), (Period::Days(30), true, "a"));
        assert_eq!(objective.monitors[1], Named::Id(MonitorId(id.parse().unwrap())));
        let second = "id = \"a\"\nmonitor = \"shop\"\nobjective = 99\nwindow = \"1w\"\n";
        assert_eq!(settings(second).unwrap()[0].period, Period::Days(7));
    }

    #[test]
    fn whatever_is_wrong_is_told_with_its_place() {
        let rest = "id = \"a\"\nmonitor = \"shop\"\nobjective = 99.9\n";
        for (text, told) in [
            ("id = \"a\"\nmonitor = \"shop\"\n", "slo[0].objective: is missing"),
            ("id = \"a\"\nobjective = 99.9\n", "slo[0].monitor: is missing"),
            ("monitor = \"shop\"\nobjective = 99.9\n", "slo[0].id: is missing"),
            (
                "id = \"a\"\nmonitor = \"shp\"\nobjective = 99\n",
                "c.toml:6:11: slo[0].monitor: no monitor has the id \"shp\", did you mean \"shop\"?",
            ),
            ("id = \"a\"\nmonitor = []\nobjective = 99\n", "slo[0].monitor: found a list"),
            ("id = \"a\"\nmonitor = 5\nobjective = 99\n", "slo[0].monitor: found an integer"),
            ("id = \"a\"\nmonitor = [\"shop\", \"shop\"]\nobjective = 99\n", "shop stands here twice"),
            ("id = \"a\"\nmonitor = \"shop\"\nobjective = 100\n", "c.toml:7:13: slo[0].objective: found 100, must be"),
            ("id = \"a\"\nmonitor = \"shop\"\nobjective = 99.9999999\n", "slo[0].objective: found 99.9999999"),
            ("id = \"a\"\nmonitor = \"shop\"\nobjective = \"99\"\n", "slo[0].objective: found a string"),
            (&format!("{rest}window = \"6d\"\n"), "slo[0].window: is not a window"),
            (&format!("{rest}window = \"36h\"\n"), "slo[0].window: is not a window"),
            (&format!("{rest}window = \"month\"\n"), "slo[0].window: is not a window"),
            (&format!("{rest}timezone = \"Europe/Berlin\"\n"), "goes with a calendar month only"),
            (
                &format!("{rest}window = \"calendar_month\"\ntimezone = \"Europe/Berln\"\n"),
                "did you mean \"Europe/Berlin\"?",
            ),
            (&format!("{rest}objectiv = 1\n"), "slo[0].objectiv: unknown key, did you mean \"objective\"?"),
            (&format!("{rest}[[slo]]\n{rest}"), "slo[1].id: \"a\" stands twice"),
        ] {
            let messages = settings(text).unwrap_err();
            assert!(messages.len() == 1 && messages[0].contains(told), "{told}: {messages:#?}");
        }
        assert!(settings("slo = 1").is_err());
    }
}
