//! Merging the file, loading the rows, hearing of changes.

use std::collections::HashMap;
use std::time::Duration;

use chrono::DateTime;
use lamplighter::catalog::plan::Guard;
use lamplighter::catalog::{CatalogStore as _, FileRow, Mark, MergeAnswer, Merged};
use lamplighter::model::{IncidentUid, MonitorId, MonitorState, SYSTEM_USER, Source, Status, StoreFault};
use lamplighter::store::Store;

use super::monitors;
use crate::support::postgres::TestDb;

/// Whatever it archives.
async fn merge(store: &Store, rows: &[FileRow]) -> Result<Merged, StoreFault> {
    match store.merge(rows.into(), Guard::Force).await? {
        MergeAnswer::Done(merged) => Ok(Merged { written: Vec::new(), ..merged }),
        MergeAnswer::Refused(archiving) => panic!("a forced merge was refused: {archiving}"),
    }
}

fn row(key: &str) -> FileRow {
    FileRow {
        key: key.parse().unwrap(),
        renamed_from: None,
        name: format!("Name of {key}").into(),
        url: format!("https://{key}.example.com/").into(),
        owner: None,
        interval_seconds: 60,
        timeout_seconds: 10,
        is_active: true,
        kind: "http",
        spec: r#"{ "expect": { "status": ["2xx", 404] }, "x": 1.5 }"#.into(),
        tags: ["prod".into(), "a \"b\", {c}\\".into(), "".into()].into(),
    }
}

#[tokio::test]
async fn merging_touches_only_what_differs() {
    let db = TestDb::new().await;
    let store = db.store().await;
    let mut rows = vec![row("a"), row("b"), row("c")];
    let merged = merge(&store, &rows).await.unwrap();
    assert_eq!(merged.ids[&rows[0].key], (MonitorId::of_key(&rows[0].key), SYSTEM_USER));
    assert!(merged.archived.is_empty());
    let revisions: HashMap<_, _> = store.revisions().await.unwrap().into_iter().collect();
    assert_eq!(merge(&store, &rows).await.unwrap(), merged);
    assert_eq!(store.revisions().await.unwrap().into_iter().collect::<HashMap<_, _>>(), revisions);

    // A change by SQL is undone; the others are not touched.
    db.sql("UPDATE monitors SET url = 'https://evil.example/' WHERE key = 'b'").await;
    rows[2].interval_seconds = 30;
    merge(&store, &rows).await.unwrap();
    let again = store.revisions().await.unwrap();
    assert_eq!(again.iter().filter(|(id, revision)| revisions[id] == *revision).count(), 1);
    let loaded = store.load(None).await.unwrap();
    let b = loaded.iter().find(|row| row.key.as_deref() == Some("b")).unwrap();
    assert_eq!((b.url.as_str(), b.source, b.interval_seconds), ("https://b.example.com/", Source::File, 60));
    assert_eq!(b.spec, rows[1].spec());
    assert!(b.tags.iter().map(String::as_str).eq(rows[1].tags.iter().map(|tag| &**tag)));

    // Leaving archives, returning goes on under the same id.
    let left = merge(&store, &rows[..2]).await.unwrap();
    assert_eq!(left.archived, [MonitorId::of_key(&rows[2].key)]);
    assert_eq!(store.load(None).await.unwrap().len(), 2);
    assert!(merge(&store, &rows[..2]).await.unwrap().archived.is_empty());
    merge(&store, &rows).await.unwrap();
    assert_eq!(store.load(None).await.unwrap().len(), 3);
}

#[tokio::test]
async fn renaming_carries_the_row_over() {
    let db = TestDb::new().await;
    let store = db.store().await;
    let first = merge(&store, &[row("old")]).await.unwrap();
    let id = first.ids.values().next().unwrap().0;
    let renamed = FileRow { renamed_from: Some("old".parse().unwrap()), ..row("new") };
    assert_eq!(merge(&store, std::slice::from_ref(&renamed)).await.unwrap().ids[&renamed.key].0, id);
    // It may stay; the former key may be used anew, then under a new id, because its own is taken.
    let both = [row("old"), renamed.clone()];
    let merged = merge(&store, &both).await.unwrap();
    assert_eq!(merged.ids[&renamed.key].0, id);
    let fresh = merged.ids[&both[0].key].0;
    assert!(fresh != id && fresh.0.get_version_num() == 4);
    assert_eq!(merge(&store, &both).await.unwrap(), merged);
    // Two that claim the same former key: the first has it.
    let claims = [
        FileRow { renamed_from: Some("new".parse().unwrap()), ..row("x") },
        FileRow { renamed_from: Some("new".parse().unwrap()), ..row("y") },
    ];
    let merged = merge(&store, &claims).await.unwrap();
    assert_eq!(merged.ids[&claims[0].key].0, id);
    assert_ne!(merged.ids[&claims[1].key].0, id);
}

#[tokio::test]
async fn owners_are_found_by_email_or_made() {
    let db = TestDb::new().await;
    db.sql("INSERT INTO users (id, email) VALUES ('00000000-0000-4000-8000-00000000000a', 'Ann@Example.com')").await;
    let store = db.store().await;
    let owned = |key, email: &str| FileRow { owner: Some(email.into()), ..row(key) };
    let rows = [owned("a", "ann@example.COM"), owned("b", "bob@example.com"), owned("c", "BOB@example.com")];
    let merged = merge(&store, &rows).await.unwrap();
    let owner = |n: usize| merged.ids[&rows[n].key].1;
    assert_eq!(owner(0).0.to_string(), "00000000-0000-4000-8000-00000000000a");
    assert_eq!(owner(1), owner(2));
    assert_ne!(owner(1), SYSTEM_USER);
    assert_eq!(db.get::<i64>("SELECT count(*) FROM users").await, 3);
    assert_eq!(merge(&store, &rows).await.unwrap(), merged);
}

#[tokio::test]
async fn an_invalid_row_says_why_and_keeps_its_revision() {
    let db = TestDb::new().await;
    let ids = monitors(&db, 2).await;
    let store = db.store().await;
    let revisions: HashMap<_, _> = store.revisions().await.unwrap().into_iter().collect();
    store.mark_invalid(&[Mark::invalid(ids[0], "url: no scheme".to_owned()), Mark::none(ids[1])]).await.unwrap();
    let loaded = store.load(None).await.unwrap();
    let reason = |id| loaded.iter().find(|row| row.id == id).unwrap().invalid_reason.clone();
    assert_eq!((reason(ids[0]).as_deref(), reason(ids[1])), (Some("url: no scheme"), None));
    assert_eq!(db.get::<i64>("SELECT count(*) FROM monitors WHERE status = 'unknown'").await, 1);
    store.mark_invalid(&[Mark::none(ids[0])]).await.unwrap();
    assert_eq!(db.get::<i64>("SELECT count(*) FROM monitors WHERE invalid_reason IS NOT NULL").await, 0);
    assert_eq!(store.revisions().await.unwrap().into_iter().collect::<HashMap<_, _>>(), revisions);
}

#[tokio::test]
async fn a_row_that_its_plan_pauses_is_shown_as_paused() {
    let db = TestDb::new().await;
    let ids = monitors(&db, 2).await;
    let store = db.store().await;
    let revisions: HashMap<_, _> = store.revisions().await.unwrap().into_iter().collect();
    store.mark_invalid(&[Mark::paused(ids[0], "too many".to_owned())]).await.unwrap();
    let shown = "SELECT string_agg(concat_ws(': ', status, invalid_reason), ', ' ORDER BY status) FROM monitors";
    assert_eq!(db.get::<String>(shown).await, "paused: too many, pending");
    // The pause of a plan ends; the status is the next check's.
    store.mark_invalid(&[Mark::none(ids[0])]).await.unwrap();
    assert_eq!(db.get::<String>(shown).await, "paused, pending");
    assert_eq!(store.revisions().await.unwrap().into_iter().collect::<HashMap<_, _>>(), revisions);
}

#[tokio::test]
async fn the_plans_of_who_has_monitors_are_known() {
    let db = TestDb::new().await;
    let store = db.store().await;
    db.sql("INSERT INTO users (name, plan) VALUES ('ann', 'free'), ('bob', 'pro'), ('cid', 'free'), ('dan', 'free'), ('eve', 'x')")
        .await;
    db.sql("INSERT INTO monitors (user_id, name, url, source) SELECT id, name, 'tcp://a:1', 'database' FROM users WHERE name <> 'cid'")
        .await;
    db.sql("UPDATE monitors SET archived_at = now() WHERE name = 'dan'").await;
    db.sql("INSERT INTO monitors (user_id, name, url, source, key) SELECT id, name, 'tcp://a:1', 'file', 'k' FROM users WHERE name = 'cid'")
        .await;
    let owners = store.owners(&["free".into(), "pro".into(), "none".into()]).await.unwrap();
    let mut plans: Vec<String> = owners.into_values().collect();
    plans.sort_unstable();
    assert_eq!(plans, ["free", "pro"], "ann and bob: the others have no row that counts");
    let created: Vec<_> = store.load(None).await.unwrap().into_iter().map(|row| row.created_at).collect();
    assert!(created.len() == 5 && created.iter().all(Option::is_some));
    db.sql("UPDATE monitors SET created_at = '-infinity'").await;
    assert!(store.load(None).await.unwrap().iter().all(|row| row.created_at.is_none()));
}

#[tokio::test]
async fn times_that_no_clock_shows_are_read_as_none() {
    let db = TestDb::new().await;
    monitors(&db, 1).await;
    let store = db.store().await;
    for time in ["infinity", "-infinity", "294000-01-01", "4713-01-01 BC"] {
        db.sql(&format!("UPDATE monitors SET last_checked = '{time}'")).await;
        let rows = store.load(None).await.unwrap();
        assert_eq!((rows.len(), rows[0].last_checked), (1, None), "{time}");
    }
    db.sql("UPDATE monitors SET last_checked = '2026-11-22 12:00+00'").await;
    assert!(store.load(None).await.unwrap()[0].last_checked.is_some());
}

#[tokio::test]
async fn an_open_incident_is_found_by_a_state_that_lost_it() {
    let db = TestDb::new().await;
    let id = monitors(&db, 1).await[0];
    let store = db.store().await;
    db.sql(
        "INSERT INTO incidents (user_id, monitor_id, title, source, uid, started_at, resolved_at) \
         SELECT user_id, id, 't', 'daemon', gen_random_uuid(), '2026-11-22 11:00+00', '2026-11-22 11:30+00' FROM monitors",
    )
    .await;
    assert!(store.load(None).await.unwrap()[0].state.is_none(), "what is resolved is over");
    db.sql(
        "INSERT INTO incidents (user_id, monitor_id, title, source, uid, started_at) \
         SELECT user_id, id, 't', 'daemon', gen_random_uuid(), '2026-11-22 12:00+00' FROM monitors",
    )
    .await;
    let uid: uuid::Uuid = db.get("SELECT uid FROM incidents WHERE resolved_at IS NULL").await;
    let began = DateTime::parse_from_rfc3339("2026-11-22T12:00:00Z").unwrap().to_utc();
    let good = |uid: Option<uuid::Uuid>| MonitorState {
        status: Status::Up,
        incident: uid.map(IncidentUid),
        ..MonitorState::default()
    };
    let other = good(Some(uuid::Uuid::from_u128(7)));
    let states = ["3".to_owned(), serde_json::to_string(&good(None)).unwrap(), serde_json::to_string(&other).unwrap()];
    for stored in [None].into_iter().chain(states.into_iter().map(Some)) {
        db.sql("DELETE FROM monitor_state").await;
        if let Some(stored) = &stored {
            let region: String = db.get("SELECT scope FROM daemon_lease").await;
            db.sql(&format!(
                "INSERT INTO monitor_state (monitor_id, region, state, status) VALUES ('{id}', '{region}', '{stored}', 'up')"
            ))
            .await;
        }
        let state = store.load(None).await.unwrap().pop().unwrap().state.unwrap();
        assert_eq!((state.status, state.incident), (Status::Down, Some(IncidentUid(uid))), "{stored:?}");
        assert_eq!((state.since, state.failing_since, state.failures), (Some(began), Some(began), 1));
    }
    // What the daemon of another region has open is its own while that daemon lives.
    db.sql("DELETE FROM monitor_state").await;
    db.sql(
        "INSERT INTO daemon_lease (scope, holder, epoch, expires_at) VALUES ('elsewhere', 'other', 1, now() + interval '1 day')",
    )
    .await;
    db.sql(&format!(
        "INSERT INTO monitor_state (monitor_id, region, state, status, incident) VALUES ('{id}', 'elsewhere', '{{}}', 'down', '{uid}')"
    ))
    .await;
    assert!(store.load(None).await.unwrap()[0].state.is_none());
    db.sql("UPDATE daemon_lease SET expires_at = now() WHERE scope = 'elsewhere'").await;
    assert_eq!(store.load(None).await.unwrap()[0].state.as_ref().unwrap().incident, Some(IncidentUid(uid)));
    // The same daemon, under another region since a moment ago.
    db.sql("UPDATE daemon_lease SET expires_at = now() + interval '1 day', holder = (SELECT holder FROM daemon_lease WHERE scope <> 'elsewhere')").await;
    assert_eq!(store.load(None).await.unwrap()[0].state.as_ref().unwrap().incident, Some(IncidentUid(uid)));
}

#[tokio::test]
async fn changes_are_heard_and_our_own_status_writes_are_not() {
    let db = TestDb::new().await;
    let store = db.store().await;
    let heard = |limit| {
        let store = store.clone();
        async move { tokio::time::timeout(Duration::from_millis(limit), store.changed()).await }
    };
    // The first call listens, and says that something may have changed before.
    heard(5000).await.unwrap().unwrap();
    let ids = monitors(&db, 1).await;
    heard(5000).await.unwrap().unwrap();
    db.sql("UPDATE monitors SET status = 'up', last_checked = now(), response_time = 1, uptime = '1%'").await;
    store.mark_invalid(&[Mark::invalid(ids[0], "why".to_owned())]).await.unwrap();
    assert!(heard(200).await.is_err(), "our own columns were heard");
    // What a user may; a profile that is saved with the same plan is nothing.
    db.sql("UPDATE users SET plan = plan, name = 'another'").await;
    assert!(heard(200).await.is_err(), "a plan that stays was heard");
    db.sql("UPDATE users SET plan = 'pro'").await;
    heard(5000).await.unwrap().unwrap();
    db.sql("UPDATE monitors SET is_active = false").await;
    heard(5000).await.unwrap().unwrap();
    // A person resolves an incident: heard. We do, with a reason: not heard.
    let open =
        "INSERT INTO incidents (user_id, monitor_id, title, source) SELECT user_id, id, 't', 'daemon' FROM monitors";
    db.sql(open).await;
    db.sql("UPDATE incidents SET resolved_at = now(), resolve_reason = 'recovered' WHERE resolved_at IS NULL").await;
    assert!(heard(200).await.is_err(), "our own resolution was heard");
    db.sql(open).await;
    db.sql("UPDATE incidents SET status = 'resolved' WHERE resolved_at IS NULL").await;
    heard(5000).await.unwrap().unwrap();
    // A lost connection is an error once; then it listens again.
    db.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()").await;
    assert!(heard(5000).await.unwrap().is_err());
    heard(5000).await.unwrap().unwrap();
    db.sql("DELETE FROM monitors").await;
    heard(5000).await.unwrap().unwrap();
    // Closing ends one that waits, and the connection of one that does not.
    let (waiting, ()) = tokio::join!(heard(5000), async {
        tokio::task::yield_now().await;
        store.close().await;
    });
    assert!(waiting.unwrap().is_err());
}

#[tokio::test]
async fn a_hundred_thousand_rows_merge_in_seconds() {
    let db = TestDb::new().await;
    let store = db.store().await;
    let mut rows: Vec<_> = (0..100_000).map(|n| row(&format!("m{n}"))).collect();
    let mut timed = Vec::new();
    for step in 0..3 {
        if step == 2 {
            rows.truncate(99_000);
            rows.iter_mut().take(1000).for_each(|row| row.timeout_seconds = 5);
        }
        let began = tokio::time::Instant::now();
        let merged = merge(&store, &rows).await.unwrap();
        timed.push(began.elapsed());
        assert_eq!(merged.ids.len(), rows.len());
        assert_eq!(merged.archived.len(), if step == 2 { 1000 } else { 0 });
    }
    let began = tokio::time::Instant::now();
    assert_eq!(store.load(None).await.unwrap().len(), 99_000);
    println!(
        "merge of 100,000: fresh {:?}, unchanged {:?}, 2,000 changed {:?}; load {:?}",
        timed[0],
        timed[1],
        timed[2],
        began.elapsed()
    );
}
