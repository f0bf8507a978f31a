//! The schema itself: statements, promises, triggers, time zones.

use lamplighter::model::SYSTEM_USER;
use lamplighter::store::{Found, STATEMENTS, StartError};
use sqlx::{AssertSqlSafe, Executor as _};

use super::monitors;
use crate::support::postgres::{TestDb, store_at};

#[tokio::test]
async fn every_statement_prepares() {
    let db = TestDb::new().await;
    let mut conn = db.pool.acquire().await.unwrap();
    let mut count = 0;
    for statement in STATEMENTS.iter().copied().flatten() {
        let sql = format!("PREPARE statement_{count} AS {statement}");
        if let Err(error) = conn.execute(AssertSqlSafe(sql)).await {
            panic!("{error}\n{statement}");
        }
        count += 1;
    }
    assert!(count > 40, "{count}");
}

#[tokio::test]
async fn the_shortest_insert_is_a_working_monitor() {
    let db = TestDb::new().await;
    let id = monitors(&db, 1).await[0];
    let row: (String, String, i32, i32, bool, i32, String) = sqlx::query_as(
        "SELECT status, uptime, interval_seconds, timeout_seconds, is_active, uptime_percentage, source FROM monitors \
         WHERE id = $1",
    )
    .bind(id.0)
    .fetch_one(&db.pool)
    .await
    .unwrap();
    assert_eq!(row, ("pending".into(), "100%".into(), 300, 10, true, 100, "database".into()));
}

#[tokio::test]
async fn the_system_user_stays() {
    let db = TestDb::new().await;
    assert_eq!(db.get::<uuid::Uuid>("SELECT id FROM users WHERE plan = 'system'").await, SYSTEM_USER.0);
    assert!(db.pool.execute("DELETE FROM users").await.is_err());
    assert!(db.pool.execute("UPDATE users SET id = gen_random_uuid() WHERE plan = 'system'").await.is_err());
    db.sql("UPDATE users SET name = 'House'").await;
}

#[tokio::test]
async fn revisions_move_with_configuration_only() {
    let db = TestDb::new().await;
    monitors(&db, 1).await;
    let revision = || db.get::<i64>("SELECT revision FROM monitors");
    let first = revision().await;
    db.sql("UPDATE monitors SET status = 'up', last_checked = now(), uptime = '99%', response_time = 3, name = name")
        .await;
    assert_eq!(revision().await, first);
    db.sql("UPDATE monitors SET url = 'https://other.example.com/'").await;
    assert!(revision().await > first);
}

#[tokio::test]
async fn deletes_cascade() {
    let db = TestDb::new().await;
    db.sql(
        "INSERT INTO users (id, email) VALUES ('00000000-0000-4000-8000-00000000000a', 'a@example.com');
         INSERT INTO monitors (user_id, name, url) VALUES ('00000000-0000-4000-8000-00000000000a', 'n', 'tcp://h:1');
         INSERT INTO monitor_checks (monitor_id, status) SELECT id, true FROM monitors;
         INSERT INTO incidents (user_id, monitor_id, title) SELECT user_id, id, 't' FROM monitors;
         INSERT INTO status_reports (monitor_id, status) SELECT id, 'up' FROM monitors;
         INSERT INTO monitor_state (monitor_id, region, state, status) SELECT id, 'r', '{}', 'up' FROM monitors;
         INSERT INTO monitor_gaps (monitor_id, region, from_at, to_at, reason) SELECT id, 'r', now(), now(), 'paused' FROM monitors;
         INSERT INTO monitor_rollups SELECT id, date_trunc('hour', now()), 'r', 1, 1 FROM monitors;
         DELETE FROM users WHERE email = 'a@example.com'",
    )
    .await;
    for table in [
        "monitors",
        "monitor_checks",
        "incidents",
        "status_reports",
        "monitor_state",
        "monitor_gaps",
        "monitor_rollups",
    ] {
        assert_eq!(db.get::<i64>(&format!("SELECT count(*) FROM {table}")).await, 0, "{table}");
    }
}

/// Bounds are UTC, whatever the session's zone: no hole at midnight, and a row lands in the day that its UTC time says.
#[tokio::test]
async fn partitions_are_utc_in_any_session() {
    let db = TestDb::new().await;
    let id = monitors(&db, 1).await[0];
    for (zone, from) in [("Pacific/Auckland", "2031-01-01"), ("America/Los_Angeles", "2031-03-01")] {
        db.sql(&format!(
            "BEGIN; SET LOCAL timezone = '{zone}';
             SELECT ensure_check_partitions('{from} 00:00:00+00', '{from} 23:59:59.999999+00');
             INSERT INTO monitor_checks (monitor_id, status, checked_at) VALUES
                ('{id}', true, '{from} 00:00:00+00'), ('{id}', true, '{from} 23:59:59.999999+00'); COMMIT"
        ))
        .await;
        let table = format!("monitor_checks_{}", from.replace('-', ""));
        assert_eq!(db.get::<i64>(&format!("SELECT count(*) FROM {table}")).await, 2, "{zone}");
    }
    assert!(db.pool.execute("SELECT ensure_check_partitions('-infinity', now())").await.is_err());
}

#[tokio::test]
async fn another_schema_is_another_house() {
    let db = TestDb::empty().await;
    let store = store_at(&db.url, "us-east-1", "Lamp \"light\"");
    assert_eq!(store.classify().await.unwrap(), Found::Empty);
    assert!(matches!(store.prepare(false).await, Err(StartError::NotMigrated(_))));
    store.prepare(true).await.unwrap();
    assert_eq!(store.classify().await.unwrap(), Found::Ours { pending: 0 });
    assert_eq!(db.get::<i64>("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").await, 0);
    // Functions know their own schema: any session may call them.
    let none: Option<f64> =
        db.get("SELECT \"Lamp \"\"light\"\"\".calculate_uptime_percentage(gen_random_uuid(), 30)::float8").await;
    assert_eq!(none, None);
}

#[tokio::test]
async fn racing_migrations_both_succeed() {
    let db = TestDb::empty().await;
    let stores: Vec<_> = (0..4).map(|_| store_at(&db.url, "us-east-1", "public")).collect();
    let results = futures_util::future::join_all(stores.iter().map(|store| store.prepare(true))).await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert_eq!(db.get::<i64>("SELECT count(*) FROM pg_inherits WHERE inhparent = 'monitor_checks'::regclass").await, 5);
}
