//! Limits of plans on the real daemon: beyond them rows are paused with a reason, faster ones run at the plan's interval.

use std::time::Duration;

use super::{MOST, monitor, on, wait_incident, wait_sql};
use crate::support::daemon::{Home, ask};
use crate::support::postgres::TestDb;
use crate::support::target::{Target, until};

/// "Within two seconds" (contract, section 4), and what a machine that runs other tests beside this one may add.
const SOON: Duration = Duration::from_millis(3500);

/// Two users with the default plan, and rows that are as many days old as the number after their user's name says.
async fn rows(db: &TestDb, target: &Target, names: &[&str]) {
    db.sql("INSERT INTO users (name) VALUES ('ann'), ('bob') ON CONFLICT DO NOTHING").await;
    for name in names {
        let (user, days) = name.split_once('-').unwrap();
        let url = target.url(&format!("/{name}"));
        db.sql(&format!(
            "INSERT INTO monitors (user_id, name, url, interval_seconds, created_at) \
             SELECT id, '{name}', '{url}', 1, now() - interval '{days} days' FROM users WHERE name = '{user}'"
        ))
        .await;
    }
}

/// What `/readyz` notes of limits.
fn note(body: &serde_json::Value) -> Option<&str> {
    let notes = body["notes"].as_array()?;
    notes.iter().find(|note| note["code"] == "limited_by_plans")?["detail"].as_str()
}

/// Waits until exactly these are shown as paused by their plan, oldest first.
async fn wait_paused(db: &TestDb, what: &str, most: Duration, names: &str) {
    let sql = "SELECT coalesce(string_agg(name, ' ' ORDER BY user_id, created_at), '') FROM monitors \
         WHERE status = 'paused' AND invalid_reason LIKE 'paused: the plan ''free'' has max_monitors = %' AND is_active";
    until(what, most, async || {
        let paused: String = db.get(sql).await;
        let mut paused: Vec<&str> = paused.split_whitespace().collect();
        paused.sort_unstable();
        (paused == names.split_whitespace().collect::<Vec<_>>()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_newest_beyond_the_limit_are_paused_until_there_is_room_or_another_plan() {
    let db = TestDb::new().await;
    let target = Target::start().await;
    let free = |most: usize| format!("[plans.free]\nmax_monitors = {most}\n");
    // The file's own does not count, whoever owns it.
    let own = format!("{}owner = \"ann@example.com\"\n", monitor("own", &target.url("/own")));
    let home = Home::new(&on(&db.url, &format!("{}{own}", free(2))));
    let mut daemon = home.start();
    daemon.wait_ready("it is ready", |status, _| status == 200).await;
    rows(&db, &target, &["ann-1", "ann-3", "ann-2", "bob-2", "bob-1"]).await;
    wait_paused(&db, "ann's newest is paused", MOST, "ann-1").await;
    for name in ["ann-3", "ann-2", "bob-2", "bob-1", "own"] {
        daemon.wait_status(name, "up").await;
    }
    daemon.wait_status("ann-1", "paused").await;
    let hits = target.hits("/ann-1");
    assert_eq!(db.get::<i64>("SELECT count(*) FROM monitors WHERE invalid_reason IS NOT NULL").await, 1);
    let noted = "1 monitor paused beyond max_monitors of their users' plans";
    daemon.wait_ready("it is noted", |status, body| status == 200 && note(body) == Some(noted)).await;
    let metrics = ask(tokio::net::UnixStream::connect(home.socket()).await.unwrap(), "GET", "/metrics").await.body;
    for (limit, count) in [("max_monitors", 1), ("min_interval", 0)] {
        let line = format!("lamplighter_monitors_limited{{limit=\"{limit}\"}} {count}\n");
        assert!(metrics.contains(&line), "{line}: {metrics}");
    }

    // An older one that somebody archives makes room at once.
    db.sql("UPDATE monitors SET archived_at = now() WHERE name = 'ann-3'").await;
    until("the newest runs", SOON, async || (target.hits("/ann-1") > hits).then_some(())).await;
    wait_sql(
        &db,
        "the reason is gone",
        "SELECT invalid_reason IS NULL AND status = 'up' FROM monitors WHERE name = 'ann-1'",
    )
    .await;
    wait_sql(
        &db,
        "the pause is a gap",
        "SELECT count(*) = 1 FROM monitor_gaps g JOIN monitors m ON m.id = g.monitor_id \
         WHERE m.name = 'ann-1' AND g.reason = 'paused'",
    )
    .await;

    // A reload changes the limit; bob has another plan soon after.
    home.write(&on(&db.url, &format!("{}{own}", free(1))));
    assert!(home.output(&["reload"]).status.success());
    wait_paused(&db, "the reload counts for both", MOST, "ann-1 bob-1").await;
    db.sql("UPDATE users SET plan = 'pro' WHERE name = 'bob'").await;
    let hits = target.hits("/bob-1");
    until("no limit any more", SOON, async || (target.hits("/bob-1") > hits).then_some(())).await;
    db.sql("UPDATE users SET plan = 'free' WHERE name = 'bob'").await;
    wait_paused(&db, "and a limit again", MOST, "ann-1 bob-1").await;
    daemon.wait_status("bob-1", "paused").await;

    // It holds over a restart.
    let hits = target.hits("/bob-1");
    assert_eq!(daemon.stop().await.code(), Some(0));
    let daemon = home.start();
    let running = target.hits("/bob-2");
    until("it runs again", MOST, async || (target.hits("/bob-2") > running + 1).then_some(())).await;
    daemon.wait_status("bob-1", "paused").await;
    assert_eq!(target.hits("/bob-1"), hits);
}

#[tokio::test]
async fn an_open_incident_ends_with_the_pause_and_what_is_paused_is_not_checked() {
    let db = TestDb::new().await;
    let target = Target::start().await;
    target.answer(500);
    let home = Home::new(&on(&db.url, "[plans.small]\nmax_monitors = 0\n"));
    let daemon = home.start();
    rows(&db, &target, &["ann-1"]).await;
    wait_incident(&db, 1, false).await;
    db.sql("UPDATE users SET plan = 'small' WHERE name = 'ann'").await;
    let ended = wait_incident(&db, 1, true).await;
    assert_eq!((ended.status.as_str(), ended.resolve_reason.as_deref()), ("resolved", Some("paused")));
    daemon.wait_status("ann-1", "paused").await;
    let hits = target.hits("/ann-1");
    // Another row is checked several times meanwhile.
    rows(&db, &target, &["bob-1"]).await;
    until("bob's is checked", MOST, async || (target.hits("/bob-1") >= 3).then_some(())).await;
    assert_eq!(target.hits("/ann-1"), hits);
}

#[tokio::test]
async fn a_faster_row_keeps_its_column_and_runs_at_the_plans_interval() {
    let db = TestDb::new().await;
    let target = Target::start().await;
    let home = Home::new(&on(&db.url, "[plans.free]\nmin_interval = \"1h\"\n"));
    let daemon = home.start();
    rows(&db, &target, &["ann-1", "bob-1"]).await;
    db.sql("UPDATE users SET plan = 'pro' WHERE name = 'bob'").await;
    daemon.wait_status("ann-1", "up").await;
    until("bob's runs each second", MOST, async || (target.hits("/bob-1") >= 5).then_some(())).await;
    // The first check comes at once, and the hour's turn may come meanwhile.
    assert!(target.hits("/ann-1") <= 2, "{}", target.hits("/ann-1"));
    assert!(db.get::<bool>("SELECT bool_and(interval_seconds = 1 AND invalid_reason IS NULL) FROM monitors").await);
    db.sql("UPDATE users SET plan = 'pro' WHERE name = 'ann'").await;
    let hits = target.hits("/ann-1");
    until("ann's too", SOON, async || (target.hits("/ann-1") > hits).then_some(())).await;
}
