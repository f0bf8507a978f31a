//! Time-weighted uptime from rows: what is read, what is remembered, and that no big table is scanned for it.

use chrono::{DateTime, TimeDelta, Utc};
use lamplighter::access::read::ReadStore as _;
use lamplighter::journal::RecordStore as _;
use lamplighter::model::{MonitorId, MonitorState, Record, Status};
use lamplighter::store::{STATEMENTS, Store};
use lamplighter::uptime::{Timeline, What, Window};
use sqlx::{AssertSqlSafe, Executor as _};

use super::{batch, check, monitors, now};
use crate::support::postgres::{TestDb, store_at};

/// The spans of a window as `2-5 down`, in minutes from its beginning.
async fn spans(store: &Store, id: MonitorId, window: Window) -> Vec<String> {
    let histories = store.histories(&[id], window).await.unwrap().unwrap();
    let minutes = |time: DateTime<Utc>| (time - window.from).num_minutes();
    let timeline = Timeline::of(window, &histories.of[&id]);
    let what = |what: &What| match what {
        What::Up => "up",
        What::Down(_) => "down",
        What::Maintenance(_) => "maintenance",
        What::Unobserved(blind) => blind.name(),
    };
    timeline.spans().iter().map(|s| format!("{}-{} {}", minutes(s.from), minutes(s.to), what(&s.what))).collect()
}

fn state(at: DateTime<Utc>) -> MonitorState {
    MonitorState { status: Status::Up, since: Some(at), last_checked: Some(at), ..MonitorState::default() }
}

#[tokio::test]
async fn rows_of_everybody_become_spans() {
    let db = TestDb::new().await;
    let ids = monitors(&db, 2).await;
    let store = db.store().await;
    let from = now() - TimeDelta::days(2);
    let window = Window::new(from, from + TimeDelta::minutes(100));
    let [id, other] = [ids[0], ids[1]];
    assert_eq!(spans(&store, id, window).await, ["0-100 before_first_check"]);
    store.record(&batch(vec![Record::State(id, Box::new(state(from + TimeDelta::minutes(10))))])).await.unwrap();
    let minute = |minutes: i32| format!("('{from}'::timestamptz + {minutes} * interval '1 minute')");
    let at = |from: i32, to: i32| format!("{}, {}", minute(from), minute(to));
    db.sql(&format!(
        "INSERT INTO monitor_gaps (monitor_id, region, from_at, to_at, reason) VALUES
            ('{id}', 'us-east-1', {}, 'overloaded'), (NULL, 'us-east-1', {}, 'not_running'), (NULL, 'us-east-1', {}, 'something new'),
            (NULL, 'elsewhere', {}, 'not_running'), ('{other}', 'us-east-1', {}, 'not_running');
         INSERT INTO incidents (user_id, monitor_id, title, severity, status, source, started_at, resolved_at, updated_at)
         SELECT m.user_id, m.id, 't', i.severity, i.status, i.source, i.started_at, i.resolved_at, i.updated_at
         FROM monitors m, (VALUES
            ('medium', 'resolved', 'daemon', '-infinity'::timestamptz, {}, now()),
            (NULL, 'resolved', 'manual', {}, now()),
            ('high', 'resolved', 'manual', {}, NULL, {}),
            ('Info', 'resolved', 'manual', {}, now()),
            ('high', 'open', 'manual', {}, NULL, now()))
            AS i (severity, status, source, started_at, resolved_at, updated_at) WHERE m.id = '{id}';
         INSERT INTO maintenance_spans (maintenance_id, monitor_id, from_at, to_at, excluded) VALUES
            (gen_random_uuid(), '{id}', {}, true), (gen_random_uuid(), '{id}', {}, false)",
        at(12, 20), at(18, 25), at(30, 31), at(0, 100), at(0, 100),
        minute(15), at(40, 45), minute(50), minute(55), at(60, 90), minute(95),
        at(43, 48), at(70, 80)
    ))
    .await;
    let wanted = [
        "0-10 before_first_check",
        "10-12 down",
        "12-18 overloaded",
        "18-25 not_running",
        "25-30 up",
        "30-31 internal",
        "31-40 up",
        "40-43 down",
        "43-48 maintenance",
        "48-50 up",
        "50-55 down",
        "55-95 up",
        "95-100 down",
    ];
    assert_eq!(spans(&store, id, window).await, wanted);
    // A window after all of it has the open one only.
    let later = Window::new(window.to, window.to + TimeDelta::minutes(5));
    assert_eq!(spans(&store, id, later).await, ["0-5 down"]);
    // Of what was removed for its age nothing is known.
    db.sql(&format!("UPDATE rollup_progress SET incidents_from = {}", minute(31))).await;
    assert_eq!(spans(&store, id, window).await[..2], ["0-31 before_first_check", "31-40 up"]);
    let before = Window::new(from, from + TimeDelta::minutes(20));
    assert_eq!(spans(&store, id, before).await, ["0-20 before_first_check"]);
    db.sql("UPDATE rollup_progress SET incidents_from = NULL").await;
    // Those of another monitor are its own, also when both are asked for.
    let both = store.histories(&ids, window).await.unwrap().unwrap();
    assert_eq!((both.of[&id].outages.len(), both.of[&other].outages.len()), (4, 0));
    assert_eq!(both.notes.values().filter(|note| note.source == "manual").count(), 3);
}

#[tokio::test]
async fn what_goes_on_is_a_gap_already() {
    let db = TestDb::new().await;
    let ids = monitors(&db, 1).await;
    let store = db.store().await;
    let id = ids[0];
    let from = now() - TimeDelta::minutes(100);
    store.record(&batch(vec![Record::State(id, Box::new(state(from)))])).await.unwrap();
    let window = Window::new(from, from + TimeDelta::minutes(100));
    db.sql("UPDATE daemon_lease SET expires_at = 'infinity'").await;
    assert_eq!(spans(&store, id, window).await, ["0-100 up"]);
    let ago = |minutes: i64| format!("'{}'::timestamptz", window.to - TimeDelta::minutes(minutes));
    db.sql(&format!("UPDATE daemon_lease SET renewed_at = {}, expires_at = now() - interval '1 second'", ago(30)))
        .await;
    assert_eq!(spans(&store, id, window).await, ["0-70 up", "70-100 not_running"]);
    let unobserved = (window.to - TimeDelta::minutes(40)).to_rfc3339();
    db.sql(&format!(
        "UPDATE monitor_state SET state = state || '{{\"unobserved\": {{\"reason\": \"invalid\", \"since\": \"{unobserved}\"}}}}'"
    ))
    .await;
    assert_eq!(spans(&store, id, window).await, ["0-60 up", "60-100 invalid"]);
    db.sql(&format!("UPDATE monitors SET archived_at = {}", ago(50))).await;
    assert_eq!(spans(&store, id, window).await, ["0-50 up", "50-100 paused"]);
    // Whoever brings it back: the time of it stays a gap.
    db.sql("UPDATE monitor_state SET state = '[]'; UPDATE daemon_lease SET expires_at = 'infinity'").await;
    db.sql("UPDATE monitors SET archived_at = NULL").await;
    assert_eq!(spans(&store, id, window).await, ["0-50 up", "50-100 paused"]);
    assert_eq!(
        db.get::<i64>(
            "SELECT count(*) FROM monitor_gaps WHERE reason = 'paused' AND to_at > now() - interval '1 minute'"
        )
        .await,
        1
    );
    db.sql("UPDATE monitors SET archived_at = 'infinity'; UPDATE monitors SET archived_at = NULL").await;
    // Another region watches as well from minute 60 on.
    let second = store_at(&db.url, "second", "public");
    second.acquire("other", &lamplighter::journal::Unrecorded::default()).await.unwrap();
    let begun = window.to - TimeDelta::minutes(40);
    second.record(&batch(vec![Record::State(id, Box::new(state(begun)))])).await.unwrap();
    db.sql("UPDATE daemon_lease SET expires_at = 'infinity'").await;
    assert_eq!(spans(&store, id, window).await, ["0-50 up", "50-60 paused", "60-100 up"]);
}

#[tokio::test]
async fn the_first_check_is_remembered() {
    let db = TestDb::new().await;
    let id = monitors(&db, 1).await[0];
    let store = db.store().await;
    let first = now() - TimeDelta::hours(5);
    let observed = || db.get::<Option<DateTime<Utc>>>("SELECT observed_from FROM monitor_state");
    store.record(&batch(vec![Record::State(id, Box::default())])).await.unwrap();
    assert_eq!(observed().await, None, "it was paused, and never checked");
    store
        .record(&batch(vec![Record::Check(check(id, true, first)), Record::State(id, Box::new(state(first)))]))
        .await
        .unwrap();
    assert_eq!(observed().await, Some(first));
    let later = first + TimeDelta::hours(1);
    store.record(&batch(vec![Record::State(id, Box::new(state(later)))])).await.unwrap();
    db.sql("DELETE FROM monitor_checks; DELETE FROM monitor_rollups").await;
    assert_eq!(observed().await, Some(first));
}

/// 2,000 monitors, 200,000 gaps and as many incidents, 50,000 gaps of all monitors, over three years.
#[tokio::test]
async fn a_year_of_one_monitor_scans_no_big_table() {
    let db = TestDb::new().await;
    let ids = monitors(&db, 2000).await;
    let id = ids[7];
    db.sql(
        "INSERT INTO monitor_state (monitor_id, region, state, status, last_checked, observed_from)
            SELECT id, 'us-east-1', '{}', 'up', now(), now() - interval '3 years' FROM monitors;
         INSERT INTO monitor_gaps (monitor_id, region, from_at, to_at, reason)
            SELECT id, 'us-east-1', now() - n * interval '10 days', now() - n * interval '10 days' + interval '1 minute', 'overloaded'
            FROM monitors, generate_series(1, 100) n;
         INSERT INTO monitor_gaps (region, from_at, to_at, reason)
            SELECT CASE WHEN n % 10 = 0 THEN 'us-east-1' ELSE 'r' || n % 10 END, now() - n * interval '30 minutes',
                now() - n * interval '30 minutes' + interval '9 s', 'not_running' FROM generate_series(1, 50000) n;
         INSERT INTO incidents (user_id, monitor_id, title, status, source, started_at, resolved_at)
            SELECT user_id, id, 't', 'resolved', 'daemon', now() - n * interval '10 days 1 hour',
                now() - n * interval '10 days 1 hour' + interval '5 minutes' FROM monitors, generate_series(1, 100) n;
         INSERT INTO maintenance_spans SELECT gen_random_uuid(), id, now() - n * interval '7 days',
            now() - n * interval '7 days' + interval '1 hour', true FROM monitors, generate_series(1, 100) n;
         ANALYZE",
    )
    .await;
    let statement = STATEMENTS.iter().copied().flatten().find(|sql| sql.contains("'watch' AS what")).unwrap();
    let mut conn = db.pool.acquire().await.unwrap();
    conn.execute("SET plan_cache_mode = force_custom_plan").await.unwrap();
    conn.execute(AssertSqlSafe(format!("PREPARE histories AS {statement}"))).await.unwrap();
    for (days, most) in [(1, 20.0), (365, 50.0)] {
        let execute = format!(
            "EXECUTE histories (ARRAY['{id}'::uuid], now() - interval '{days} days', now(), 200001, ARRAY['system'], ARRAY[31536000])"
        );
        let (mut best, mut plan) = (f64::INFINITY, Vec::new());
        // Others use the machine as well: the best of some.
        for _ in 0..5 {
            plan = sqlx::query_scalar::<_, String>(AssertSqlSafe(format!("EXPLAIN (ANALYZE, BUFFERS) {execute}")))
                .fetch_all(&mut *conn)
                .await
                .unwrap();
            let time = |name: &str| -> f64 {
                let line = plan.iter().find(|line| line.starts_with(name)).unwrap();
                line.split(' ').nth(2).unwrap().parse().unwrap()
            };
            best = best.min(time("Planning Time:") + time("Execution Time:"));
        }
        println!("{days} days of a monitor, read in {best} ms");
        let big = ["incidents", "monitor_gaps", "maintenance_spans", "monitor_state", "monitors"];
        let scan = plan.iter().find(|line| big.iter().any(|table| line.contains(&format!("Seq Scan on {table}"))));
        assert!(scan.is_none(), "{days}: {}", plan.join("\n"));
        assert!(best < most, "{days}: {best} ms\n{}", plan.join("\n"));
    }
    let store = db.store().await;
    let window = Window::last_days(now(), 30);
    let begun = std::time::Instant::now();
    let histories = store.histories(&ids[..500], window).await.unwrap().unwrap();
    let read = begun.elapsed();
    let spans: usize = histories.of.values().map(|history| Timeline::of(window, history).spans().len()).sum();
    println!("30 days of 500 monitors: read in {read:?}, {spans} spans after {:?}", begun.elapsed());
    // Three incidents, three gaps and four maintenances a monitor at the least, up in between.
    assert!(spans > 500 * 15, "{spans}");
}
