//! What goes down opens one incident, what comes back ends it.

use chrono::{DateTime, Utc};

use super::{MOST, incidents, insert, monitor, on, wait_incident, wait_sql};
use crate::support::daemon::Home;
use crate::support::postgres::TestDb;
use crate::support::target::{Target, until};

#[tokio::test]
async fn a_stopped_server_opens_one_incident_and_its_return_ends_it() {
    let db = TestDb::new().await;
    let mut target = Target::start().await;
    let other = Target::start().await;
    let config = monitor("shop", &target.url("/shop")) + &monitor("other", &other.url("/other"));
    let home = Home::new(&on(&db.url, &config));
    let mut daemon = home.start();
    daemon.wait_status("shop", "up").await;
    daemon.wait_status("other", "up").await;

    target.stop().await;
    let open = wait_incident(&db, 1, false).await;
    let first_bad: DateTime<Utc> = db.get("SELECT min(checked_at) FROM monitor_checks WHERE NOT status").await;
    assert_eq!(open.started_at, first_bad);
    assert_eq!((open.status.as_str(), open.cause.as_deref()), ("open", Some("connect_refused")));
    let (bad, good) = (&open.evidence["first_bad"], &open.evidence["last_good"]);
    assert_eq!((&bad["verdict"], &bad["failure"]), (&"down".into(), &"connect_refused".into()));
    assert_eq!((&good["verdict"], &good["status_code"]), (&"up".into(), &200.into()));
    assert_eq!(good["excerpt"], "all is well\n");
    let last_good: DateTime<Utc> = db
        .get("SELECT max(c.checked_at) FROM monitor_checks c JOIN monitors m ON m.id = monitor_id WHERE c.status AND key = 'shop'")
        .await;
    let shown: DateTime<Utc> = good["checked_at"].as_str().unwrap().parse().unwrap();
    assert!((shown - last_good).num_milliseconds().abs() < 1, "{shown} is not {last_good}");
    wait_sql(&db, "down is shown", "SELECT status = 'down' FROM monitors WHERE key = 'shop'").await;
    daemon.wait_status("shop", "down").await;
    assert_eq!(home.output(&["status"]).status.code(), Some(1));

    // It stays one, however long it takes.
    let bad = "SELECT count(*) > 5 FROM monitor_checks WHERE NOT status";
    wait_sql(&db, "more failures", bad).await;
    assert_eq!(incidents(&db).await.len(), 1);

    target.resume().await;
    let ended = wait_incident(&db, 1, true).await;
    assert_eq!((ended.uid, ended.started_at), (open.uid, open.started_at));
    let first_good: DateTime<Utc> = db
        .get(
            "SELECT min(checked_at) FROM monitor_checks c JOIN monitors m ON m.id = monitor_id WHERE c.status \
             AND key = 'shop' AND checked_at > (SELECT max(checked_at) FROM monitor_checks WHERE NOT status)",
        )
        .await;
    let resolved_at = ended.resolved_at.unwrap();
    assert_eq!(resolved_at, first_good);
    assert_eq!(i64::from(ended.duration_seconds.unwrap()), (resolved_at - ended.started_at).num_seconds());
    assert_eq!((ended.status.as_str(), ended.resolve_reason.as_deref()), ("resolved", Some("recovered")));
    daemon.wait_status("shop", "up").await;
    assert_eq!(home.output(&["status"]).status.code(), Some(0));
    // The columns are the function's figures, rounded down, at least every ten checks.
    wait_sql(
        &db,
        "the figures are shown",
        "SELECT status = 'up' AND uptime_percentage < 100 AND uptime_percentage > 0 \
         AND uptime ~ '^[0-9]{1,2}\\.[0-9]{2}%$' AND last_checked IS NOT NULL AND response_time IS NOT NULL \
         FROM monitors WHERE key = 'shop'",
    )
    .await;
    assert_eq!(daemon.stop().await.code(), Some(0));
    // At the end they are exact.
    let exact = "SELECT bool_and(uptime_percentage = floor(calculate_uptime_percentage(m.id, 30)) \
        AND uptime = to_char(trunc(calculate_uptime_percentage(m.id, 30), 2), 'FM990.00') || '%' \
        AND last_checked = (SELECT max(checked_at) FROM monitor_checks c WHERE c.monitor_id = m.id)) FROM monitors m";
    assert!(db.get::<bool>(exact).await);
    assert_eq!(db.get::<String>("SELECT uptime FROM monitors WHERE key = 'other'").await, "100.00%");
}

#[tokio::test]
async fn a_hiccup_shorter_than_the_confirmations_is_no_incident() {
    let db = TestDb::new().await;
    let target = Target::start().await;
    let home = Home::new(&on(&db.url, &(monitor("a", &target.url("/a")) + "confirmations = 3\n")));
    let mut daemon = home.start();
    daemon.wait_status("a", "up").await;
    target.answer(500);
    wait_sql(&db, "a failure is recorded", "SELECT count(*) >= 1 FROM monitor_checks WHERE NOT status").await;
    target.answer(200);
    let good = "SELECT count(*) > 1 FROM monitor_checks WHERE status AND checked_at > \
        (SELECT max(checked_at) FROM monitor_checks WHERE NOT status)";
    wait_sql(&db, "it works again", good).await;
    let kinds =
        "SELECT string_agg(DISTINCT error_type || ' ' || status_code, ',') FROM monitor_checks WHERE NOT status";
    assert_eq!(db.get::<String>(kinds).await, "status_unexpected 500");
    // Re-checks are told apart by their attempt.
    assert!(db.get::<i16>("SELECT min(attempt) FROM monitor_checks WHERE NOT status").await == 1);
    assert_eq!(daemon.stop().await.code(), Some(0));
    assert!(incidents(&db).await.is_empty());
}

#[tokio::test]
async fn an_incident_resolved_by_a_person_stays_resolved_until_a_good_check() {
    let db = TestDb::new().await;
    let target = Target::start().await;
    let home = Home::new(&on(&db.url, ""));
    let mut daemon = home.start();
    daemon.wait_ready("it is ready", |status, _| status == 200).await;
    let id = insert(&db, "shop", &target.url("/shop")).await;
    daemon.wait_status("shop", "up").await;
    target.answer(503);
    let open = wait_incident(&db, 1, false).await;
    db.sql("UPDATE incidents SET status = 'resolved'").await;
    let resolved = wait_incident(&db, 1, true).await;
    assert_eq!((resolved.uid, resolved.resolve_reason), (open.uid, None));
    assert_eq!(
        i64::from(resolved.duration_seconds.unwrap()),
        (resolved.resolved_at.unwrap() - open.started_at).num_seconds()
    );
    until("the daemon lets go", MOST, async || {
        daemon.log().contains("the incident was closed in the database").then_some(())
    })
    .await;
    let bad = target.hits("/shop");
    until("it fails on", MOST, async || (target.hits("/shop") > bad + 4).then_some(())).await;
    // Also across a restart.
    assert_eq!(daemon.stop().await.code(), Some(0));
    assert_eq!(incidents(&db).await.len(), 1);
    let mut daemon = home.start();
    let bad = target.hits("/shop");
    until("it fails on, after the restart", MOST, async || (target.hits("/shop") > bad + 3).then_some(())).await;
    wait_sql(&db, "it is down all the same", "SELECT status = 'down' FROM monitors").await;
    assert_eq!(incidents(&db).await.len(), 1);

    target.answer(200);
    daemon.wait_status("shop", "up").await;
    target.answer(503);
    let second = wait_incident(&db, 2, false).await;
    assert_ne!(second.uid, open.uid);

    // Pausing ends it, and says so.
    db.sql(&format!("UPDATE monitors SET is_active = false WHERE id = '{id}'")).await;
    let paused = wait_incident(&db, 2, true).await;
    assert_eq!((paused.uid, paused.resolve_reason.as_deref()), (second.uid, Some("paused")));
    assert_eq!(daemon.stop().await.code(), Some(0));
}

#[tokio::test]
async fn a_monitor_that_is_down_says_why_before_its_first_check_after_a_restart() {
    let db = TestDb::new().await;
    let target = Target::start().await;
    let fast = monitor("shop", &target.url("/"));
    let home = Home::new(&on(&db.url, &fast));
    let mut daemon = home.start();
    daemon.wait_status("shop", "up").await;
    target.answer(500);
    wait_incident(&db, 1, false).await;
    assert_eq!(daemon.stop().await.code(), Some(0));
    // The next check is hours away.
    home.write(&on(&db.url, &fast.replace("\"1s\"", "\"1d\"")));
    let daemon = home.start();
    let row = daemon.wait_status("shop", "down").await;
    assert!(row["last"].is_null(), "{row}");
    assert_eq!(row["first_bad"]["failure"], "status_unexpected", "{row}");
    let text = String::from_utf8(home.output(&["status"]).stdout).unwrap();
    assert!(text.contains("status_unexpected: "), "{text}");
}
