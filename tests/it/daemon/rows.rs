//! Rows that others write: picked up, followed, undone where they are the file's, skipped where they are invalid.

use std::time::{Duration, Instant};

use super::{MOST, insert, monitor, on, wait_incident, wait_sql};
use crate::support::daemon::{Home, has_code};
use crate::support::postgres::TestDb;
use crate::support::target::{Target, until};

/// "Within two seconds" (contract, section 4), and what a machine that runs other tests beside this one may add.
const SOON: Duration = Duration::from_millis(3500);

#[tokio::test]
async fn rows_are_followed_within_two_seconds() {
    let db = TestDb::new().await;
    let target = Target::start().await;
    let home = Home::new(&on(&db.url, ""));
    let mut daemon = home.start();
    daemon.wait_ready("it is ready", |status, _| status == 200).await;

    // As a web application writes it: three columns. The first check does not wait for the interval of 300 s.
    let began = Instant::now();
    db.sql(&format!(
        "INSERT INTO monitors (user_id, name, url) VALUES ('{}', 'Shop', '{}')",
        lamplighter::model::SYSTEM_USER,
        target.url("/one")
    ))
    .await;
    until("the new row is checked", SOON, async || (target.hits("/one") > 0).then_some(())).await;
    println!("insert to first check: {:?}", began.elapsed());
    daemon.wait_status("Shop", "up").await;
    wait_sql(&db, "its status is shown", "SELECT status = 'up' AND uptime = '100.00%' FROM monitors").await;

    db.sql("UPDATE monitors SET interval_seconds = 1").await;
    until("it is checked each second", MOST, async || (target.hits("/one") >= 3).then_some(())).await;

    let began = Instant::now();
    db.sql(&format!("UPDATE monitors SET url = '{}'", target.url("/two"))).await;
    until("the new address is checked", SOON, async || (target.hits("/two") > 0).then_some(())).await;
    println!("update to first check: {:?}", began.elapsed());
    let old = target.hits("/one");
    until("it goes on there", MOST, async || (target.hits("/two") >= 3).then_some(())).await;
    assert_eq!(target.hits("/one"), old, "the old address is no longer asked");

    db.sql("UPDATE monitors SET is_active = false").await;
    daemon.wait_status("Shop", "paused").await;
    wait_sql(&db, "paused is shown", "SELECT status = 'paused' FROM monitors").await;
    let paused_at = target.hits("/two");
    db.sql("UPDATE monitors SET is_active = true").await;
    until("it is checked again", MOST, async || (target.hits("/two") > paused_at + 1).then_some(())).await;
    wait_sql(&db, "the pause is a gap", "SELECT count(*) = 1 FROM monitor_gaps WHERE reason = 'paused'").await;
    wait_sql(&db, "up is shown again", "SELECT status = 'up' FROM monitors").await;

    db.sql("DELETE FROM monitors").await;
    until("it is no longer shown", MOST, async || {
        daemon.try_overview()?["monitors"].as_array()?.is_empty().then_some(())
    })
    .await;
    let gone = target.hits("/two");
    insert(&db, "Other", &target.url("/three")).await;
    until("the next row is checked", MOST, async || (target.hits("/three") >= 3).then_some(())).await;
    assert_eq!(target.hits("/two"), gone, "a deleted monitor is not asked");
    assert_eq!(daemon.stop().await.code(), Some(0));
}

#[tokio::test]
async fn a_row_of_the_file_is_the_files() {
    let db = TestDb::new().await;
    let target = Target::start().await;
    let home = Home::new(&on(&db.url, &monitor("shop", &target.url("/shop"))));
    let daemon = home.start();
    daemon.wait_status("shop", "up").await;
    let id: uuid::Uuid = db.get("SELECT id FROM monitors WHERE key = 'shop'").await;
    let as_it_was = format!(
        "SELECT count(*) = 1 FROM monitors WHERE id = '{id}' AND url = '{}' AND is_active AND interval_seconds = 1 \
         AND archived_at IS NULL",
        target.url("/shop")
    );
    db.sql(&format!(
        "UPDATE monitors SET url = '{}', is_active = false, interval_seconds = 600, archived_at = now()",
        target.url("/elsewhere")
    ))
    .await;
    wait_sql(&db, "the change is undone", &as_it_was).await;
    db.sql("DELETE FROM monitors").await;
    wait_sql(&db, "the row is back, under its id", &as_it_was).await;
    let asked = target.hits("/shop");
    until("it is checked on", MOST, async || (target.hits("/shop") > asked + 1).then_some(())).await;
    assert_eq!(target.hits("/elsewhere"), 0);
    wait_sql(&db, "and recorded", "SELECT count(*) > 1 FROM monitor_checks").await;
}

#[tokio::test]
async fn a_deleted_row_of_a_monitor_that_is_down_comes_back_with_its_incident() {
    let db = TestDb::new().await;
    let target = Target::start().await;
    let home = Home::new(&on(&db.url, &monitor("shop", &target.url("/shop"))));
    let daemon = home.start();
    daemon.wait_status("shop", "up").await;
    target.answer(500);
    let open = wait_incident(&db, 1, false).await;
    let id: uuid::Uuid = db.get("SELECT id FROM monitors WHERE key = 'shop'").await;
    db.sql("DELETE FROM monitors").await;
    let again = wait_incident(&db, 1, false).await;
    assert_eq!((again.uid, again.started_at), (open.uid, open.started_at));
    assert_eq!(again.evidence, open.evidence);
    wait_sql(&db, "the row is as it was", &format!("SELECT status = 'down' FROM monitors WHERE id = '{id}'")).await;
    wait_sql(&db, "it is recorded", "SELECT count(*) > 2 FROM monitor_checks WHERE NOT status").await;
    target.answer(200);
    let ended = wait_incident(&db, 1, true).await;
    assert_eq!((ended.uid, ended.resolve_reason.as_deref()), (open.uid, Some("recovered")));
    let log = daemon.log();
    assert!(log.contains("somebody deleted rows of monitors of the configuration"), "{log}");
    assert!(log.contains("the incident goes on") && !log.contains("closed in the database"), "{log}");
}

#[tokio::test]
async fn a_row_that_somebody_archives_ends_its_incident_as_archived() {
    let db = TestDb::new().await;
    let target = Target::start().await;
    let home = Home::new(&on(&db.url, ""));
    let mut daemon = home.start();
    daemon.wait_ready("it is ready", |status, _| status == 200).await;
    target.answer(500);
    let id = insert(&db, "Shop", &target.url("/shop")).await;
    db.sql("UPDATE monitors SET interval_seconds = 1").await;
    let open = wait_incident(&db, 1, false).await;
    db.sql("UPDATE monitors SET archived_at = now()").await;
    let ended = wait_incident(&db, 1, true).await;
    assert_eq!((ended.uid, ended.resolve_reason.as_deref()), (open.uid, Some("archived")));
    until("it is no longer shown", MOST, async || {
        daemon.try_overview()?["monitors"].as_array()?.is_empty().then_some(())
    })
    .await;
    // It returns with its history, and nobody has resolved anything by hand.
    let rows: i64 = db.get("SELECT count(*) FROM monitor_checks").await;
    db.sql("UPDATE monitors SET archived_at = NULL").await;
    let second = wait_incident(&db, 2, false).await;
    assert!(second.uid != open.uid);
    wait_sql(&db, "it is recorded", &format!("SELECT count(*) > {rows} FROM monitor_checks WHERE monitor_id = '{id}'"))
        .await;
    assert!(!daemon.log().contains("closed in the database"), "{}", daemon.log());
    assert_eq!(daemon.stop().await.code(), Some(0));
}

#[tokio::test]
async fn a_row_that_is_taken_from_the_file_runs_on_and_the_file_gets_another() {
    let db = TestDb::new().await;
    let target = Target::start().await;
    let home = Home::new(&on(&db.url, &monitor("shop", &target.url("/shop"))));
    let daemon = home.start();
    daemon.wait_status("shop", "up").await;
    db.sql("UPDATE monitors SET source = 'database', key = 'theirs'").await;
    wait_sql(
        &db,
        "both are checked",
        "SELECT count(*) = 2 FROM monitors m WHERE status = 'up' AND (source, key) IN (('file', 'shop'), ('database', 'theirs')) \
         AND (SELECT count(*) FROM monitor_checks c WHERE c.monitor_id = m.id) > 1",
    )
    .await;
}

#[tokio::test]
async fn an_invalid_row_says_why_stops_nothing_and_heals() {
    let db = TestDb::new().await;
    let target = Target::start().await;
    let home = Home::new(&on(&db.url, ""));
    let daemon = home.start();
    daemon.wait_ready("it is ready", |status, _| status == 200).await;
    let good = target.url("/good");
    insert(&db, "good", &good).await;
    insert(&db, "no url", "not a url").await;
    insert(&db, "a file", "file:///etc/passwd").await;
    insert(&db, "a reference", "http://${HOME}/").await;
    insert(&db, "a program", "exec:/bin/true").await;
    let column = insert(&db, "a column", &good).await;
    db.sql(&format!("UPDATE monitors SET spec = '{{\"interval\": \"5s\"}}' WHERE id = '{column}'")).await;
    let unknown = insert(&db, "unknown key", &good).await;
    db.sql(&format!("UPDATE monitors SET spec = '{{\"colour\": \"red\"}}' WHERE id = '{unknown}'")).await;
    let shape = insert(&db, "no object", &good).await;
    db.sql(&format!("UPDATE monitors SET spec = '[1]' WHERE id = '{shape}'")).await;
    let interval = insert(&db, "no interval", &good).await;
    db.sql(&format!("UPDATE monitors SET interval_seconds = 0 WHERE id = '{interval}'")).await;

    wait_sql(
        &db,
        "all eight are marked",
        "SELECT count(*) = 8 FROM monitors WHERE status = 'unknown' AND invalid_reason IS NOT NULL",
    )
    .await;
    for (name, word) in [
        ("no url", "url"),
        ("a file", "file"),
        ("a reference", "url"),
        ("a program", "command"),
        ("a column", "interval"),
        ("unknown key", "colour"),
        ("no object", "spec"),
        ("no interval", "interval"),
    ] {
        let reason: String = db.get(&format!("SELECT invalid_reason FROM monitors WHERE name = '{name}'")).await;
        println!("{name}: {reason}");
        assert!(reason.contains(word) && !reason.contains('\n'), "{name}: {reason}");
    }
    let home_directory = std::env::var("HOME").unwrap_or_default();
    let leaks = format!("SELECT count(*) FROM monitors WHERE invalid_reason LIKE '%{home_directory}/%'");
    assert!(home_directory.len() < 2 || db.get::<i64>(&leaks).await == 0, "no variable of ours is shown to a row");
    daemon.wait_status("good", "up").await;
    daemon.wait_ready("it says so", |status, body| status == 200 && has_code(body, "invalid_monitors")).await;
    assert_eq!(db.get::<Option<String>>("SELECT invalid_reason FROM monitors WHERE name = 'good'").await, None);

    db.sql(&format!(
        "UPDATE monitors SET interval_seconds = 1, url = '{}' WHERE id = '{interval}'",
        target.url("/healed")
    ))
    .await;
    until("the healed row is checked", MOST, async || (target.hits("/healed") > 0).then_some(())).await;
    wait_sql(
        &db,
        "its reason is gone",
        "SELECT status = 'up' AND invalid_reason IS NULL FROM monitors WHERE name = 'no interval'",
    )
    .await;

    // A good row that becomes bad is no longer asked, and its incident-free history stays.
    db.sql("UPDATE monitors SET url = 'gopher://x' WHERE name = 'good'").await;
    wait_sql(
        &db,
        "it is unknown now",
        "SELECT status = 'unknown' AND invalid_reason LIKE '%gopher%' FROM monitors WHERE name = 'good'",
    )
    .await;
}
