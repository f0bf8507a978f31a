//! The memory of objectives.

use chrono::{TimeDelta, TimeZone as _, Utc};
use lamplighter::access::Viewer;
use lamplighter::access::read::ReadStore as _;
use lamplighter::model::{StoreFault, UserId};
use lamplighter::slo::{Measure, Objective, Period, Report, SloStatus, Standing, Sums, Target};
use lamplighter::store::SloRow;
use uuid::Uuid;

use super::monitors;
use crate::support::postgres::{TestDb, store_at};

fn row(id: &str, owner: Option<UserId>, status: SloStatus) -> SloRow {
    let now = Utc.with_ymd_and_hms(2026, 11, 28, 12, 0, 0).unwrap();
    let objective = Objective {
        id: id.parse().unwrap(),
        name: id.into(),
        monitors: Box::default(),
        tags: Box::default(),
        target: Target::from_percent(99.9).unwrap(),
        period: Period::Days(30),
        exclude_maintenance: true,
    };
    let period = objective.period.at(now);
    let measure = Measure::of(&objective, &period, &Sums::default());
    let standing = Standing { status, since: now - TimeDelta::hours(3), calmer_since: Some(now) };
    SloRow { owner, standing, report: Report::new(&objective, &period, &measure, &standing, Vec::new()) }
}

#[tokio::test]
async fn objectives_are_remembered_for_each_region_and_shown_to_their_owner() {
    let db = TestDb::new().await;
    let store = db.store().await;
    let user = UserId(db.get::<Uuid>("INSERT INTO users (email) VALUES ('a@example.com') RETURNING id").await);
    let rows = [row("one", Some(user), SloStatus::Burning), row("two", None, SloStatus::Ok)];
    store.save_slos(&rows).await.unwrap();
    let mut standings = store.slo_standings().await.unwrap();
    standings.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(standings, [("one".to_owned(), rows[0].standing), ("two".to_owned(), rows[1].standing)]);
    let ids = |values: Vec<serde_json::Value>| values.iter().map(|v| v["id"].to_string()).collect::<Vec<_>>().join(" ");
    assert_eq!(ids(store.slos(Viewer::Everything).await.unwrap()), "\"one\" \"two\"");
    assert_eq!(ids(store.slos(Viewer::User(user)).await.unwrap()), "\"one\"");
    assert!(store.slo(Viewer::User(user), "two").await.unwrap().is_none());
    let report = store.slo(Viewer::Everything, "two").await.unwrap().unwrap();
    assert_eq!(serde_json::from_value::<Report>(report).unwrap(), rows[1].report);
    // Another region has its own; who has no lease writes nothing.
    let other = store_at(&db.url, "elsewhere", "public");
    assert!(matches!(other.save_slos(&[]).await, Err(StoreFault::Fenced(_))));
    assert!(other.slos(Viewer::Everything).await.unwrap().is_empty());
    store.save_slos(&rows[1..]).await.unwrap();
    assert_eq!(store.slo_standings().await.unwrap().len(), 1);
    store.save_slos(&[]).await.unwrap();
    assert!(store.slo_standings().await.unwrap().is_empty());
}

#[tokio::test]
async fn monitors_are_found_by_key_id_and_tag() {
    let db = TestDb::new().await;
    let store = db.store().await;
    let ids = monitors(&db, 5).await;
    db.sql(&format!(
        "UPDATE monitors SET source = 'file', key = 'shop' WHERE id = '{}';
         UPDATE monitors SET key = 'shop' WHERE id = '{}';
         UPDATE monitors SET tags = '{{prod,web}}' WHERE id = '{}';
         UPDATE monitors SET tags = '{{prod}}', archived_at = now() WHERE id = '{}'",
        ids[0], ids[1], ids[2], ids[3]
    ))
    .await;
    let tags = ["prod".to_owned()];
    let found = store.slo_monitors(&["shop".to_owned()], &[ids[4].0], &tags).await.unwrap();
    let mut seen: Vec<_> = found.iter().map(|monitor| (monitor.id, monitor.tags.clone())).collect();
    seen.sort_by_key(|(id, _)| ids.iter().position(|known| known == id));
    assert_eq!(seen, [(ids[0], vec![]), (ids[2], vec!["prod".to_owned()]), (ids[4], vec![])]);
    assert!(store.slo_monitors(&[], &[], &[]).await.unwrap().is_empty());
}
