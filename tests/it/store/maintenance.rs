//! Definitions and spans of maintenance in a real Postgres.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta};
use lamplighter::catalog::CatalogStore as _;
use lamplighter::journal::Unrecorded;
use lamplighter::maintenance::plan::Changes;
use lamplighter::maintenance::{FileRow, MaintenanceStore as _};
use lamplighter::model::{MaintenanceId, MonitorId, Span, StoreFault};
use uuid::Uuid;

use super::{monitors, now};
use crate::support::postgres::{TestDb, store_at};

async fn active(db: &TestDb) -> lamplighter::store::Store {
    let store = store_at(&db.url, "us-east-1", "public");
    store.acquire("me", &Unrecorded::default()).await.unwrap();
    store
}

fn file_row(key: &str, monitors: &[MonitorId]) -> FileRow {
    FileRow {
        id: MaintenanceId::of_key(&key.parse().unwrap()),
        key: key.to_owned(),
        name: "Night; \"quoted\" {x}".into(),
        description: None,
        monitors: monitors.to_vec(),
        tags: ["a,b".into(), "q\"\\".into()].into(),
        starts_at: DateTime::from_timestamp(1_800_000_000, 0).unwrap(),
        duration_seconds: 3600,
        rrule: Some("FREQ=WEEKLY".into()),
        timezone: "Europe/Berlin",
        excluded: true,
    }
}

#[tokio::test]
async fn a_merge_writes_what_differs_and_wakes_nobody_otherwise() {
    let db = TestDb::new().await;
    let store = active(&db).await;
    let ids = monitors(&db, 2).await;
    let rows: Arc<[FileRow]> = [file_row("night", &ids), file_row("other", &[])].into();
    // Somebody has made a row that calls itself the file's.
    db.sql(
        "INSERT INTO maintenances (user_id, source, key, name, starts_at, duration_seconds) \
         SELECT id, 'file', 'night', 'x', now(), 1 FROM users",
    )
    .await;
    store.merge_maintenances(Arc::clone(&rows)).await.unwrap();
    let told = "SELECT count(*) = 2 FROM maintenances WHERE source = 'file' AND archived_at IS NULL AND name LIKE 'Night%' \
        AND tags = ARRAY['a,b', 'q\"\\']";
    assert!(db.get::<bool>(told).await);
    assert_eq!(
        db.get::<Vec<Uuid>>("SELECT monitors FROM maintenances WHERE key = 'night'").await,
        ids.iter().map(|id| id.0).collect::<Vec<_>>()
    );
    assert!(store.load_maintenances().await.unwrap().is_empty(), "the file's are not read back");

    // The first call begins to listen; the merge that changes nothing tells nothing.
    store.changed().await.unwrap();
    store.maintenances_changed().await;
    let revisions = "SELECT max(revision) FROM maintenances";
    let before: i64 = db.get(revisions).await;
    store.merge_maintenances(Arc::clone(&rows)).await.unwrap();
    let heard = tokio::time::timeout(Duration::from_millis(500), store.changed()).await;
    assert!(heard.is_err() && db.get::<i64>(revisions).await == before);
    db.sql("UPDATE maintenances SET duration_seconds = 5, invalid_reason = 'x' WHERE key = 'night'").await;
    store.changed().await.unwrap();
    store.maintenances_changed().await;
    store.merge_maintenances(rows[..1].into()).await.unwrap();
    let left = "SELECT array_agg(key::text ORDER BY key) = ARRAY['night'] FROM maintenances WHERE archived_at IS NULL \
        AND duration_seconds = 3600 AND invalid_reason IS NULL";
    assert!(db.get::<bool>(left).await);
    store.merge_maintenances([].into()).await.unwrap();
    assert_eq!(db.get::<i64>("SELECT count(*) FROM maintenances WHERE archived_at IS NULL").await, 0);
    store.merge_maintenances(rows).await.unwrap();
    assert_eq!(db.get::<i64>("SELECT count(*) FROM maintenances WHERE archived_at IS NULL").await, 2, "it may return");
    // Who has lost the lease writes nothing.
    store.forget_lease();
    assert!(matches!(store.merge_maintenances([].into()).await, Err(StoreFault::Fenced(_))));
    assert!(matches!(store.write_spans(Changes::default(), now()).await, Err(StoreFault::Fenced(_))));
}

#[tokio::test]
async fn spans_are_written_once_and_those_of_gone_monitors_are_left_out() {
    let db = TestDb::new().await;
    let store = active(&db).await;
    let ids = monitors(&db, 1).await;
    let (begin, gone) = (now(), MonitorId(Uuid::from_u128(5)));
    let maintenance = MaintenanceId(Uuid::from_u128(9));
    let span = |monitor, to_at| Span { maintenance, monitor, from_at: begin, to_at, excluded: true };
    assert!(store.span_progress(begin).await.unwrap().done_to.is_none());
    let end = begin + TimeDelta::hours(1);
    let changes = Changes { write: vec![span(ids[0], end), span(gone, end)], delete: Vec::new() };
    store.write_spans(changes.clone(), begin).await.unwrap();
    // A commit whose answer was lost is repeated.
    store.write_spans(changes, begin).await.unwrap();
    let progress = store.span_progress(begin + TimeDelta::seconds(1)).await.unwrap();
    assert_eq!((progress.done_to, progress.running.as_slice()), (Some(begin), [span(ids[0], end)].as_slice()));
    let sooner = begin + TimeDelta::minutes(1);
    store.write_spans(Changes { write: vec![span(ids[0], sooner)], delete: Vec::new() }, sooner).await.unwrap();
    let progress = store.span_progress(end).await.unwrap();
    assert_eq!(progress.running, [span(ids[0], sooner)], "what ended as we looked is among them");
    store.write_spans(Changes { write: Vec::new(), delete: vec![span(ids[0], sooner)] }, end).await.unwrap();
    assert_eq!(db.get::<i64>("SELECT count(*) FROM maintenance_spans").await, 0);
    // Progress is a region's own, and infinity that somebody wrote is none.
    assert!(store_at(&db.url, "elsewhere", "public").span_progress(end).await.unwrap().done_to.is_none());
    db.sql("UPDATE maintenance_progress SET done_to = 'infinity'").await;
    assert!(store.span_progress(end).await.unwrap().done_to.is_none());
}

#[tokio::test]
async fn rows_of_others_are_read_whatever_they_hold() {
    let db = TestDb::new().await;
    let store = active(&db).await;
    db.sql(
        "INSERT INTO users (email) SELECT 'u' || g FROM generate_series(1, 3) g;
         INSERT INTO maintenances (user_id, name, starts_at, duration_seconds, rrule, timezone, monitors, tags, created_at) \
            SELECT id, repeat('n', 100000), 'infinity', -1, repeat('r', 100000), repeat('z', 100000), \
            ARRAY(SELECT gen_random_uuid() FROM generate_series(1, 20000)), ARRAY[NULL, repeat('t', 100000)], '-infinity' \
            FROM users WHERE email = 'u1';
         INSERT INTO maintenances (user_id, name, starts_at, duration_seconds) \
            SELECT id, 'n', now(), 60 FROM users, generate_series(1, 1500) WHERE email = 'u2';
         INSERT INTO maintenances (user_id, name, starts_at, duration_seconds, archived_at) \
            SELECT id, 'n', now(), 60, now() FROM users WHERE email = 'u3'",
    )
    .await;
    let rows = store.load_maintenances().await.unwrap();
    assert_eq!(rows.len(), 1 + 1000, "no user's many keep others' from being read");
    let hostile = rows.iter().find(|row| row.starts_at.is_none()).unwrap();
    assert_eq!((hostile.name.len(), hostile.monitors.len(), hostile.tags.len()), (500, 10_001, 1));
    assert!(hostile.rrule.as_ref().unwrap().len() == 501 && hostile.timezone.len() == 100);
    let reason = (hostile.id, Some("bad\0".to_owned()));
    store.mark_maintenances(vec![reason]).await.unwrap();
    assert_eq!(db.get::<i64>("SELECT count(*) FROM maintenances WHERE invalid_reason = 'bad\u{fffd}'").await, 1);
}
