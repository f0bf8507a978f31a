use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::cli::export::toml;
use crate::maintenance::definition::FileMaintenance;
use crate::model::{Cadence, Flap, MaintenanceId, Monitor, MonitorId, MonitorKey, SYSTEM_USER};
use crate::settings::diagnostic::SourceText;
use crate::settings::model::{self, Settings};
use crate::slo::Target;

const fn user(n: u128) -> UserId {
    if n == 0 { SYSTEM_USER } else { UserId(Uuid::from_u128(n)) }
}

fn row(n: u128, source: Source, owner: u128, tags: &[&str]) -> MonitorRow {
    MonitorRow {
        id: MonitorId(Uuid::from_u128((n << 120) + n)),
        user_id: user(owner),
        name: format!("Monitor {n}"),
        url: "tcp://h:1".to_owned(),
        interval_seconds: 60,
        timeout_seconds: 5,
        is_active: true,
        kind: None,
        spec: Value::Object(Map::new()),
        tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
        source,
        key: (source == Source::File).then(|| format!("m{n}")),
        revision: 1,
        invalid_reason: None,
        state: None,
        last_checked: None,
        created_at: None,
    }
}

fn planned(n: u128, source: Source, owner: u128, monitors: &[&MonitorRow], tags: &[&str]) -> MaintenanceRow {
    MaintenanceRow {
        id: MaintenanceId(Uuid::from_u128((n << 120) + n)),
        user_id: user(owner),
        source,
        key: (source == Source::File).then(|| format!("w{n}")),
        name: format!("Window {n}"),
        description: None,
        monitors: monitors.iter().map(|row| row.id).collect(),
        tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
        starts_at: DateTime::from_timestamp(1_790_000_000, 0),
        duration_seconds: 3600,
        rrule: None,
        timezone: "UTC".to_owned(),
        exclude_from_uptime: true,
        invalid_reason: None,
        revision: 1,
        created_at: None,
        updated_at: None,
        archived_at: None,
    }
}

fn ids(rows: &[MonitorRow]) -> Ids {
    Ids::of(rows.iter().map(|row| Wanting { row: row.id.0, key: row.key.as_deref(), name: &row.name }), "monitor")
}

/// Reads tables as `check-config` does, beside the monitors that they name.
fn read_back(monitors: &Monitors<'_>, list: &str, tables: &[Beside]) -> Settings {
    let mut text = String::new();
    for row in monitors.rows {
        let mut keys = Map::new();
        keys.insert("id".to_owned(), monitors.id(row).unwrap().clone().into());
        keys.insert("url".to_owned(), row.url.clone().into());
        keys.insert("tags".to_owned(), row.tags.clone().into());
        toml::table("monitor", &keys, &mut text);
    }
    for one in tables {
        toml::table(list, &one.keys, &mut text);
    }
    let environment = model::Environment { variable: &|_| None, credentials: None };
    let sources = [SourceText::new("exported.toml", text.clone())];
    model::read(&sources, Path::new("/"), environment, &[]).unwrap_or_else(|refusal| panic!("{refusal}\n{text}"))
}

/// A monitor as rules of maintenance see it: the row, or what the file that it was exported to makes of it.
fn monitor(row: &MonitorRow, file_id: Option<&str>) -> Monitor {
    let key: Option<MonitorKey> = file_id.or(row.key.as_deref()).map(|key| key.parse().unwrap());
    let source = if file_id.is_some() { Source::File } else { row.source };
    Monitor {
        id: if file_id.is_some() { MonitorId::of_key(key.as_ref().unwrap()) } else { row.id },
        owner: row.user_id,
        key,
        name: row.name.as_str().into(),
        url: row.url.as_str().into(),
        kind: "tcp",
        source,
        cadence: Cadence::Every(Duration::from_secs(60)),
        timeout: Duration::from_secs(5),
        confirmations: 1,
        recoveries: 1,
        retry_interval: Duration::from_secs(5),
        flap: Flap::default(),
        active: true,
        tags: row.tags.iter().map(|tag| tag.as_str().into()).collect(),
        depends_on: Box::default(),
    }
}

/// Those that a row covers as the daemon sees it: a row of the file stands for what the file says, which covers everybody's.
fn covered(row: &MaintenanceRow, rows: &[MonitorRow]) -> Vec<MonitorId> {
    let of = |owner| Definition::of_row(&MaintenanceRow { user_id: owner, ..row.clone() }).unwrap();
    let covers = |monitor_row: &&MonitorRow| {
        let owner = if row.source == Source::File { monitor_row.user_id } else { row.user_id };
        of(owner).covers(&monitor(monitor_row, None))
    };
    rows.iter().filter(covers).map(|row| row.id).collect()
}

fn covered_by_file(file: &FileMaintenance, monitors: &Monitors<'_>) -> Vec<MonitorId> {
    let definition = Definition::of_file(file);
    let covers = |row: &&MonitorRow| definition.covers(&monitor(row, monitors.id(row).map(String::as_str)));
    monitors.rows.iter().filter(covers).map(|row| row.id).collect()
}

fn assert_same(row: &MaintenanceRow, file: &FileMaintenance, monitors: &Monitors<'_>) {
    let recurrence = Definition::of_row(row).unwrap().recurrence;
    let from = row.starts_at.unwrap() - TimeDelta::days(400);
    for (from, days) in [(from, 1200), (from + TimeDelta::days(2000), 400)] {
        let windows = |recurrence: &crate::maintenance::rule::Recurrence| {
            recurrence.windows(from, from + TimeDelta::days(days), 50)
        };
        assert_eq!(windows(&recurrence), windows(&file.recurrence));
    }
    assert_eq!((file.duration_seconds, file.zone.name()), (row.duration_seconds, &*row.timezone));
    assert_eq!((file.description.as_deref(), file.excluded), (row.description.as_deref(), row.exclude_from_uptime));
    if common::is_name(&row.name) {
        assert_eq!(*file.name, *row.name);
    }
    assert_eq!(covered(row, monitors.rows), covered_by_file(file, monitors));
}

fn source(file: bool) -> Source {
    if file { Source::File } else { Source::Database }
}

fn monitor_rows() -> impl Strategy<Value = Vec<MonitorRow>> {
    let tags = prop::sample::subsequence(vec!["prod", "db", "a b"], 0..3);
    let one = (any::<bool>(), 0..3_u128, tags);
    let sole = any::<bool>();
    (prop::collection::vec(one, 1..6), sole).prop_map(|(all, sole)| {
        let row = |((file, owner, tags), n): ((bool, u128, Vec<&str>), u128)| {
            row(n, source(file), if sole { 1 } else { owner }, &tags)
        };
        all.into_iter().zip(1..).map(row).collect()
    })
}

fn windows() -> impl Strategy<Value = MaintenanceRow> {
    let rules = prop::option::of(prop::sample::select(vec![
        "FREQ=WEEKLY;BYDAY=SU",
        "RRULE:FREQ=MONTHLY;BYDAY=2TU;COUNT=5",
        "freq=daily;until=20300101T000000Z",
        "FREQ=YEARLY;BYMONTH=3;BYMONTHDAY=29,30",
    ]));
    let zones = prop::sample::select(vec!["UTC", "Etc/UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu"]);
    let texts = ("[ -~é\u{7f}$]{0,20}|\\$\\{[A-Z]{1,3}\\}", prop::option::of("[ -~\n\t${}é]{0,30}"));
    let who = (any::<bool>(), 0..3_u128, prop::collection::vec(0..7_u128, 0..4));
    let tags = prop::sample::subsequence(vec!["prod", "db", "a b", " no tag ", "${X}"], 0..3);
    let when = (946_800_000..7_000_000_000_i64, 0..1_000_000_u32, 1..=366 * 86_400, zones, rules);
    (texts, who, tags, when, any::<bool>()).prop_map(
        |((name, description), (file, owner, named), tags, when, excluded)| {
            let (seconds, micros, duration_seconds, zone, rrule) = when;
            MaintenanceRow {
                name: if file && !common::is_name(&name) { "a name".to_owned() } else { name },
                description,
                monitors: named.into_iter().map(|n| MonitorId(Uuid::from_u128((n << 120) + n))).collect(),
                starts_at: DateTime::<Utc>::from_timestamp(seconds, micros * 1000),
                duration_seconds,
                timezone: zone.to_owned(),
                rrule: rrule.map(str::to_owned),
                exclude_from_uptime: excluded,
                ..planned(1, source(file), owner, &[], &tags)
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn what_is_exported_is_the_same_maintenance(
        rows in monitor_rows(),
        all in prop::collection::vec(windows(), 1..5),
    ) {
        let all: Vec<MaintenanceRow> = all
            .into_iter()
            .zip(1_u128..)
            .map(|(row, n)| MaintenanceRow {
                id: MaintenanceId(Uuid::from_u128((n << 120) + n)),
                key: (row.source == Source::File).then(|| format!("w{n}")),
                ..row
            })
            .filter(|row| Definition::of_row(row).is_ok())
            .collect();
        let ids = ids(&rows);
        let monitors = Monitors { rows: &rows, ids: &ids };
        let (written, left_out) = maintenances(all.clone(), &monitors);
        prop_assert_eq!(written.len() + left_out.len(), all.len());
        let read = read_back(&monitors, "maintenance", &written);
        for (one, file) in written.iter().zip(&read.maintenances) {
            let row = all.iter().find(|row| one.origin.ends_with(&row.id.to_string())).unwrap();
            assert_same(row, file, &monitors);
        }
        for row in all.iter().filter(|row| !written.iter().any(|one| one.origin.ends_with(&row.id.to_string()))) {
            prop_assert_eq!(covered(row, &rows), [], "{:?}", left_out);
        }
    }
}

#[test]
fn what_a_file_cannot_say_is_told() {
    let rows = [
        row(1, Source::File, 0, &["prod"]),
        row(2, Source::Database, 1, &["prod"]),
        row(3, Source::Database, 2, &["prod"]),
    ];
    let gone = row(9, Source::Database, 1, &[]);
    let ids = ids(&rows);
    let monitors = Monitors { rows: &rows, ids: &ids };
    let bad = MaintenanceRow { duration_seconds: 0, ..planned(5, Source::Database, 1, &[], &[]) };
    let refused = MaintenanceRow {
        invalid_reason: Some("only the oldest 500 count".to_owned()),
        ..planned(6, Source::Database, 1, &[], &[])
    };
    let nameless =
        MaintenanceRow { name: "\u{1b}".to_owned(), ..planned(7, Source::Database, 1, &[&rows[1], &gone], &[]) };
    let all = vec![
        planned(1, Source::File, 0, &[&rows[0], &gone], &[]),
        planned(2, Source::Database, 1, &[], &["prod"]),
        planned(3, Source::Database, 1, &[&gone], &[]),
        planned(4, Source::File, 0, &[], &[]),
        bad,
        refused,
        nameless,
    ];
    let (written, left_out) = maintenances(all, &monitors);
    let told: Vec<&str> = left_out.iter().map(|line| line.rsplit(": ").next().unwrap()).collect();
    assert_eq!(told, ["none of its monitors is exported", "must be 1 second to 366 days", "only the oldest 500 count"]);
    let by = |id: &str| written.iter().find(|one| one.keys["id"] == id).unwrap_or_else(|| panic!("{id}"));
    assert!(
        by("w1").notes[0].contains("which is not exported") && by("w1").keys["monitors"] == serde_json::json!(["m1"])
    );
    assert!(!by("w4").keys.contains_key("monitors"), "all of them");
    let listed = by("window-2");
    assert!(listed.notes[0].contains("of its owner only"), "{:?}", listed.notes);
    assert_eq!((&listed.keys["monitors"], listed.keys.get("tags")), (&serde_json::json!(["monitor-2"]), None));
    let nameless = by("maintenance");
    assert_eq!(nameless.keys["monitors"], serde_json::json!(["monitor-2"]));
    assert!(nameless.notes[0].contains("not exported") && nameless.notes[1].contains("cannot have its name"));
    assert_eq!(nameless.notes.len(), 2, "a list of monitors is said as it is");
}

#[test]
fn objectives_are_the_same_and_name_what_is_in_the_file() {
    let rows = [row(1, Source::File, 0, &["prod"]), row(2, Source::Database, 1, &[])];
    let ids = ids(&rows);
    let monitors = Monitors { rows: &rows, ids: &ids };
    let key = |key: &str| Named::Key(key.parse().unwrap());
    let objective = |id: &str, named: &[Named], tags: &[&str], percent: f64, period: Period| Objective {
        id: id.parse().unwrap(),
        name: format!("The ${{{id}}}").into(),
        monitors: named.into(),
        tags: tags.iter().map(|tag| (*tag).into()).collect(),
        target: Target::from_percent(percent).unwrap(),
        period,
        exclude_maintenance: percent > 50.0,
    };
    let gone = Named::Id(MonitorId(Uuid::from_u128(77)));
    let all = [
        objective("a", &[key("m1"), Named::Id(rows[1].id), Named::Id(rows[0].id)], &[], 99.9, Period::Days(30)),
        objective("b", &[gone.clone(), key("m2")], &["prod", "x"], 0.00001, Period::CalendarMonth(Tz::Europe__Berlin)),
        objective("c", &[gone], &[], 99.0, Period::Days(7)),
        Objective { name: "d".into(), ..objective("d", &[], &["prod"], 99.99999, Period::CalendarMonth(Tz::UTC)) },
    ];
    let (written, left_out) = objectives(&all, &monitors);
    assert_eq!(left_out, ["objective c: none of its monitors is exported"]);
    let read = read_back(&monitors, "slo", &written);
    let second: MonitorKey = "monitor-2".parse().unwrap();
    let wanted = [
        Objective { monitors: [key("m1"), Named::Key(second)].into(), ..all[0].clone() },
        Objective { monitors: [].into(), ..all[1].clone() },
        all[3].clone(),
    ];
    assert_eq!(*read.slos, wanted);
    assert_eq!(written[1].notes.len(), 2, "{:?}", written[1].notes);
}

proptest! {
    #[test]
    fn every_target_survives(parts in 1..10_000_000_u32) {
        let target = Target::from_percent(f64::from(parts) / 100_000.0).unwrap();
        let text = Value::from(target.percent()).to_string();
        prop_assert_eq!(Target::from_percent(text.parse().unwrap()), Some(target));
    }
}
