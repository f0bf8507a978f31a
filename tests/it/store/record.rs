//! Batches: exactly once, and never stopped by one row.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use lamplighter::catalog::CatalogStore as _;
use lamplighter::journal::{RecordStore as _, StatusRow, Unrecorded};
use lamplighter::model::{
    Evidence, Failure, Gap, GapReason, IncidentUid, MonitorId, MonitorState, Opening, Record, Resolution,
    ResolveReason, SYSTEM_USER, Status, StoreFault, Verdict,
};
use uuid::Uuid;

use super::{batch, check, monitors, now};
use crate::support::postgres::{TestDb, store_at};

fn opening(monitor: MonitorId, started_at: DateTime<Utc>) -> Opening {
    let evidence = Evidence {
        checked_at: started_at,
        verdict: Verdict::Down,
        failure: Some(Failure::ConnectRefused),
        message: Some("refused\0".into()),
        address: None,
        status_code: None,
        timings_us: Vec::new(),
        headers: vec![("x\0y".into(), "\0".into())],
        excerpt: Some("a\0b".into()),
        certificate: None,
        details: None,
    };
    Opening {
        uid: IncidentUid(Uuid::new_v4()),
        monitor,
        owner: SYSTEM_USER,
        title: "down\0".into(),
        failure: Failure::ConnectRefused,
        started_at,
        caused_by: None,
        maintenance: None,
        first_bad: Some(Box::new(evidence)),
        last_good: None,
    }
}

fn resolution(opening: &Opening, resolved_at: DateTime<Utc>) -> Record {
    let (uid, monitor) = (opening.uid, opening.monitor);
    Record::Resolve(Resolution { uid, monitor, resolved_at, reason: ResolveReason::Recovered })
}

#[tokio::test]
async fn a_check_is_a_row() {
    let db = TestDb::new().await;
    let id = monitors(&db, 1).await[0];
    let store = db.store().await;
    let at = now();
    let mut down = check(id, false, at + TimeDelta::seconds(1));
    down.attempt = u16::MAX;
    let recorded = store.record(&batch(vec![Record::Check(down), Record::Check(check(id, true, at))])).await.unwrap();
    assert_eq!((recorded.checks, recorded.dropped, recorded.delayed.len()), (2, 0, 0));
    type Row =
        (bool, Option<i32>, i32, Option<String>, String, DateTime<Utc>, i16, Option<i32>, Option<i32>, Option<i32>);
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT status, status_code, response_time_ms, error_type, region, checked_at, attempt, dns_us, connect_us, tls_us \
         FROM monitor_checks ORDER BY checked_at",
    )
    .fetch_all(&db.pool)
    .await
    .unwrap();
    let region = "us-east-1".to_owned();
    assert_eq!(rows[0], (true, Some(200), 41, None, region.clone(), at, 1, Some(812), Some(95), None));
    let later = at + TimeDelta::seconds(1);
    let refused = Some("connect_refused".to_owned());
    assert_eq!(rows[1], (false, None, 41, refused, region, later, i16::MAX, Some(812), Some(95), None));
}

#[tokio::test]
async fn a_repeat_is_harmless_and_answers_the_same() {
    let db = TestDb::new().await;
    let ids = monitors(&db, 3).await;
    let store = db.store().await;
    let mut holder = db.pool.begin().await.unwrap();
    sqlx::query("SELECT 1 FROM monitors WHERE id = $1 FOR UPDATE").bind(ids[1].0).execute(&mut *holder).await.unwrap();
    let gone = MonitorId(Uuid::new_v4());
    let mut records: Vec<_> = ids.iter().map(|id| Record::Check(check(*id, true, now()))).collect();
    records.push(Record::Check(check(gone, true, now())));
    records.push(Record::State(gone, Box::default()));
    let batch = batch(records);

    let first = store.record(&batch).await.unwrap();
    assert_eq!((first.checks, first.dropped), (2, 2));
    assert_eq!(first.delayed, [ids[1]].into());
    holder.rollback().await.unwrap();
    // The COMMIT's answer was lost: the same batch again, although the row is free by now.
    let second = store.record(&batch).await.unwrap();
    assert_eq!((second.checks, second.dropped, second.delayed), (0, 2, first.delayed));
    assert_eq!(db.get::<i64>("SELECT count(*) FROM monitor_checks").await, 2);
}

/// Whatever an earlier try still does, the batch is neither refused (it would be split under new ids) nor doubled.
#[tokio::test]
async fn a_commit_that_outlives_its_caller_doubles_nothing() {
    let db = TestDb::new().await;
    let id = monitors(&db, 1).await[0];
    let store = db.store().await;
    db.sql("CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(2.2); RETURN NULL; END $$")
        .await;
    db.sql(
        "CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON recorded_batches DEFERRABLE INITIALLY DEFERRED \
            FOR EACH ROW EXECUTE FUNCTION slow()",
    )
    .await;
    let open = Record::Open(Box::new(opening(id, now())));
    let batch = batch(vec![Record::Check(check(id, false, now())), open, Record::State(id, Box::default())]);
    // As the deadline of the call does.
    assert!(tokio::time::timeout(Duration::from_millis(700), store.record(&batch)).await.is_err());
    let deadline = tokio::time::Instant::now() + Duration::from_secs(15);
    let recorded = loop {
        match store.record(&batch).await {
            Ok(recorded) => break recorded,
            Err(StoreFault::Away(_)) if tokio::time::Instant::now() < deadline => {}
            Err(fault) => panic!("{fault}"),
        }
    };
    assert_eq!((recorded.checks, recorded.delayed.len()), (0, 0), "a repeat");
    assert_eq!(db.get::<i64>("SELECT count(*) FROM monitor_checks").await, 1);
    assert_eq!(db.get::<i64>("SELECT count(*) FROM incidents").await, 1);
}

#[tokio::test]
async fn a_batch_that_wrote_nothing_is_not_remembered() {
    let db = TestDb::new().await;
    let id = monitors(&db, 1).await[0];
    let store = db.store().await;
    let mut holder = db.pool.begin().await.unwrap();
    sqlx::query("SELECT 1 FROM monitors WHERE id = $1 FOR UPDATE").bind(id.0).execute(&mut *holder).await.unwrap();
    let batch = batch(vec![Record::Check(check(id, true, now()))]);
    assert_eq!(store.record(&batch).await.unwrap().delayed, [id].into());
    assert_eq!(db.get::<i64>("SELECT count(*) FROM recorded_batches").await, 0);
    holder.rollback().await.unwrap();
    assert_eq!(store.record(&batch).await.unwrap().checks, 1);
    assert_eq!(db.get::<i64>("SELECT count(*) FROM recorded_batches").await, 1);
}

#[tokio::test]
async fn a_missing_partition_is_made() {
    let db = TestDb::new().await;
    let id = monitors(&db, 1).await[0];
    let store = db.store().await;
    let old = now() - TimeDelta::days(40);
    let recorded =
        store.record(&batch(vec![Record::Check(check(id, true, old)), Record::Check(check(id, true, now()))])).await;
    assert_eq!(recorded.unwrap().checks, 2);
    assert_eq!(db.get::<i64>("SELECT count(*) FROM rollup_dirty WHERE monitor_id IS NOT NULL").await, 1);
}

#[tokio::test]
async fn an_incident_opens_once_and_ends_once() {
    let db = TestDb::new().await;
    let id = monitors(&db, 1).await[0];
    let store = db.store().await;
    let start = now() - TimeDelta::seconds(100);
    let (one, two) = (opening(id, start), opening(id, start + TimeDelta::seconds(50)));
    let open = batch(vec![Record::Open(Box::new(one.clone()))]);
    store.record(&open).await.unwrap();
    // Brought again under another batch, as after a crash between two writes.
    store.record(&batch(vec![Record::Open(Box::new(one.clone()))])).await.unwrap();
    assert_eq!(db.get::<i64>("SELECT count(*) FROM incidents").await, 1);
    // The end of the one and the start of the next in one batch, in this order.
    let end = start + TimeDelta::milliseconds(40_900);
    store.record(&batch(vec![resolution(&one, end), Record::Open(Box::new(two.clone()))])).await.unwrap();
    store.record(&batch(vec![resolution(&one, now()), Record::Open(Box::new(one.clone()))])).await.unwrap();
    type Row = (Uuid, String, Option<DateTime<Utc>>, Option<i32>, String, Option<String>, String);
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT uid, status, resolved_at, duration_seconds, cause, resolve_reason, evidence #>> '{first_bad,excerpt}' \
         FROM incidents ORDER BY started_at",
    )
    .fetch_all(&db.pool)
    .await
    .unwrap();
    let (cause, excerpt) = ("connect_refused".to_owned(), "a\u{fffd}b".to_owned());
    let reason = Some("recovered".to_owned());
    assert_eq!(rows[0], (one.uid.0, "resolved".into(), Some(end), Some(40), cause.clone(), reason, excerpt.clone()));
    assert_eq!(rows[1], (two.uid.0, "open".into(), None, None, cause, None, excerpt));
    assert_eq!(rows.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn racing_opens_give_one_incident() {
    let db = TestDb::new().await;
    let ids = monitors(&db, 20).await;
    let store = db.store().await;
    let batches: Vec<_> =
        (0..8).map(|_| batch(ids.iter().map(|id| Record::Open(Box::new(opening(*id, now())))).collect())).collect();
    for result in futures_util::future::join_all(batches.iter().map(|batch| store.record(batch))).await {
        result.unwrap();
    }
    assert_eq!(db.get::<i64>("SELECT count(*) FROM incidents WHERE resolved_at IS NULL").await, 20);
    assert_eq!(db.get::<i64>("SELECT count(DISTINCT monitor_id) FROM incidents").await, 20);
}

#[tokio::test]
async fn an_incident_that_a_person_holds_delays_its_monitor_only() {
    let db = TestDb::new().await;
    let ids = monitors(&db, 2).await;
    let store = db.store().await;
    let (one, two) = (opening(ids[0], now()), opening(ids[1], now()));
    store.record(&batch(vec![Record::Open(Box::new(one.clone())), Record::Open(Box::new(two.clone()))])).await.unwrap();
    let mut holder = db.pool.begin().await.unwrap();
    sqlx::query("UPDATE incidents SET description = 'looking' WHERE uid = $1")
        .bind(one.uid.0)
        .execute(&mut *holder)
        .await
        .unwrap();
    let recorded = store.record(&batch(vec![resolution(&one, now()), resolution(&two, now())])).await.unwrap();
    assert_eq!(recorded.delayed, [ids[0]].into());
    holder.commit().await.unwrap();
    assert_eq!(db.get::<i64>("SELECT count(*) FROM incidents WHERE resolved_at IS NULL").await, 1);
    store.record(&batch(vec![resolution(&one, now())])).await.unwrap();
    assert_eq!(db.get::<i64>("SELECT count(*) FROM incidents WHERE resolved_at IS NULL").await, 0);
}

#[tokio::test]
async fn gaps_are_extended() {
    let db = TestDb::new().await;
    let id = monitors(&db, 1).await[0];
    let store = db.store().await;
    let from_at = now();
    let gap = |monitor, seconds| {
        Record::Gap(Gap {
            monitor,
            from_at,
            to_at: from_at + TimeDelta::seconds(seconds),
            reason: GapReason::Overloaded,
        })
    };
    let all = vec![gap(Some(id), 5), gap(None, 5), gap(Some(id), 9), gap(None, 3), gap(None, -5)];
    store.record(&batch(all)).await.unwrap();
    store.record(&batch(vec![gap(Some(id), 7), gap(None, 20)])).await.unwrap();
    let rows: Vec<(Option<Uuid>, i32)> = sqlx::query_as(
        "SELECT monitor_id, extract(epoch FROM to_at - from_at)::integer FROM monitor_gaps ORDER BY monitor_id NULLS LAST",
    )
    .fetch_all(&db.pool)
    .await
    .unwrap();
    assert_eq!(rows, [(Some(id.0), 9), (None, 20)]);
}

#[tokio::test]
async fn a_state_comes_back_as_it_was() {
    let db = TestDb::new().await;
    let id = monitors(&db, 1).await[0];
    let store = db.store().await;
    let one = opening(id, now());
    let state = |failures| MonitorState {
        status: Status::Down,
        since: Some(one.started_at),
        failures,
        incident: Some(one.uid),
        last_checked: Some(now()),
        ..MonitorState::default()
    };
    let last = state(3);
    let records = vec![
        Record::Open(Box::new(one.clone())),
        Record::State(id, Box::new(state(2))),
        Record::State(id, Box::new(last.clone())),
    ];
    store.record(&batch(records)).await.unwrap();
    let row = store.load(None).await.unwrap().remove(0);
    assert_eq!(row.state, Some(last));
    assert!(store.dismissed().await.unwrap().is_empty());
    db.sql("UPDATE incidents SET status = 'resolved'").await;
    assert_eq!(store.dismissed().await.unwrap().len(), 1);
    assert!(db.get::<Option<i32>>("SELECT duration_seconds FROM incidents").await.is_some());
    // Another region has its own states.
    assert_eq!(store_at(&db.url, "eu", "public").load(None).await.unwrap()[0].state, None);
}

#[tokio::test]
async fn status_rows_skip_what_is_held() {
    let db = TestDb::new().await;
    let ids = monitors(&db, 3).await;
    let store = db.store().await;
    let records = (0..1000).map(|n| Record::Check(check(ids[0], n != 0, now()))).collect();
    store.record(&batch(records)).await.unwrap();
    let revisions: HashMap<_, _> = store.revisions().await.unwrap().into_iter().collect();
    let row = |monitor| StatusRow {
        monitor,
        status: Some(Status::Up),
        last_checked: Some(now()),
        response_time_ms: Some(41),
        ssl_expiry: None,
    };
    let mut holder = db.pool.begin().await.unwrap();
    sqlx::query("SELECT 1 FROM monitors WHERE id = $1 FOR UPDATE").bind(ids[1].0).execute(&mut *holder).await.unwrap();
    let gone = MonitorId(Uuid::new_v4());
    let skipped = store.write_status(&[row(ids[1]), row(gone), row(ids[0])]).await.unwrap();
    assert_eq!(skipped, [ids[1]]);
    holder.rollback().await.unwrap();
    let shown: (String, String, i32, i32) =
        sqlx::query_as("SELECT status, uptime, uptime_percentage, response_time FROM monitors WHERE id = $1")
            .bind(ids[0].0)
            .fetch_one(&db.pool)
            .await
            .unwrap();
    assert_eq!(shown, ("up".into(), "99.90%".into(), 99, 41));
    assert_eq!(store.revisions().await.unwrap().into_iter().collect::<HashMap<_, _>>(), revisions);
}

#[tokio::test]
async fn a_server_that_only_reads_is_away() {
    let db = TestDb::new().await;
    let id = monitors(&db, 1).await[0];
    let name: String = db.get("SELECT current_database()::text").await;
    db.sql(&format!("ALTER DATABASE {name} SET default_transaction_read_only = on")).await;
    let store = store_at(&db.url, "us-east-1", "public");
    assert!(matches!(store.acquire("x", &Unrecorded::default()).await, Err(StoreFault::Away(_))));
    db.sql(&format!("ALTER DATABASE {name} RESET default_transaction_read_only")).await;
    let store = db.store().await;
    store.record(&batch(vec![Record::Check(check(id, true, now()))])).await.unwrap();
}

/// What an operator can put right costs no record.
#[tokio::test]
async fn a_missing_table_or_permission_is_away() {
    let db = TestDb::new().await;
    let id = monitors(&db, 1).await[0];
    let store = db.store().await;
    let batch = batch(vec![Record::Check(check(id, true, now())), Record::State(id, Box::default())]);
    for (broken, mended) in [
        ("ALTER TABLE monitor_state RENAME TO elsewhere", "ALTER TABLE elsewhere RENAME TO monitor_state"),
        ("ALTER TABLE monitor_checks RENAME tls_us TO other", "ALTER TABLE monitor_checks RENAME other TO tls_us"),
        (
            "DELETE FROM rollup_progress",
            "INSERT INTO rollup_progress (closed_to) VALUES (date_trunc('hour', now(), 'UTC'))",
        ),
    ] {
        db.sql(broken).await;
        let fault = store.record(&batch).await.unwrap_err();
        assert!(matches!(fault, StoreFault::Away(_)), "{broken}: {fault:?}");
        db.sql(mended).await;
    }
    assert_eq!(store.record(&batch).await.unwrap().checks, 1);
}

#[tokio::test]
async fn killed_connections_are_made_anew() {
    let db = TestDb::new().await;
    let id = monitors(&db, 1).await[0];
    let store = db.store().await;
    db.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'lamplighter' \
            AND datname = current_database()",
    )
    .await;
    let made = batch(vec![Record::Check(check(id, true, now()))]);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    while let Err(fault) = store.record(&made).await {
        assert!(matches!(fault, StoreFault::Away(_)) && tokio::time::Instant::now() < deadline, "{fault}");
    }
    assert_eq!(db.get::<i64>("SELECT count(*) FROM monitor_checks").await, 1);
}

#[tokio::test]
async fn a_large_batch_is_fast() {
    let db = TestDb::new().await;
    let ids = monitors(&db, 1000).await;
    let store = db.store().await;
    let records = (0..10_000).map(|n| Record::Check(check(ids[n % 1000], true, now()))).collect();
    let began = tokio::time::Instant::now();
    assert_eq!(store.record(&batch(records)).await.unwrap().checks, 10_000);
    println!("10,000 checks in {:?}", began.elapsed());
    let rows: Vec<_> = ids
        .iter()
        .map(|id| StatusRow {
            monitor: *id,
            status: Some(Status::Up),
            last_checked: None,
            response_time_ms: None,
            ssl_expiry: None,
        })
        .collect();
    let began = tokio::time::Instant::now();
    assert!(store.write_status(&rows).await.unwrap().is_empty());
    println!("1,000 status rows with their uptime in {:?}", began.elapsed());
}
