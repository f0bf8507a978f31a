//! Killed, again and again: what was recorded goes on.

use chrono::{DateTime, Utc};

use super::{MOST, incidents, monitor, on, wait_incident, wait_sql};
use crate::support::daemon::Home;
use crate::support::postgres::TestDb;
use crate::support::target::{Target, until};

const RESTARTS: i64 = 5;

/// Rows of a file monitor.
async fn rows(db: &TestDb, key: &str) -> i64 {
    db.get(&format!("SELECT count(*) FROM monitor_checks JOIN monitors m ON m.id = monitor_id WHERE key = '{key}'"))
        .await
}

#[tokio::test]
async fn restarts_after_kill_9_double_nothing_and_forget_nothing() {
    let db = TestDb::new().await;
    let (target, broken) = (Target::start().await, Target::start().await);
    // One that is down, one that will be confirming for a long time, one that works.
    let config = monitor("down", &broken.url("/down"))
        + &(monitor("shaky", &broken.url("/shaky")) + "confirmations = 100\n")
        + &monitor("fine", &target.url("/fine"));
    let home = Home::new(&on(&db.url, &config));
    let mut daemon = home.start();
    daemon.wait_status("down", "up").await;
    broken.answer(500);
    let open = wait_incident(&db, 1, false).await;
    let since = "SELECT (state->>'failing_since')::timestamptz FROM monitor_state s JOIN monitors m ON m.id = monitor_id \
        WHERE key = 'shaky'";
    let failures = "SELECT failures FROM monitor_state s JOIN monitors m ON m.id = monitor_id WHERE key = 'shaky'";
    wait_sql(&db, "shaky is confirming", &format!("SELECT ({failures}) > 0")).await;
    let failing_since: DateTime<Utc> = db.get(since).await;
    let mut counted: i32 = db.get(failures).await;

    for restart in 1..=RESTARTS {
        daemon.kill().await;
        let before = rows(&db, "fine").await;
        let bad = rows(&db, "shaky").await;
        daemon = home.start();
        until("all are recorded again", MOST, async || {
            (rows(&db, "fine").await > before + 1 && rows(&db, "shaky").await > bad + 1).then_some(())
        })
        .await;
        let all = incidents(&db).await;
        assert_eq!(all.len(), 1, "{all:?}");
        assert_eq!((all[0].uid, all[0].started_at, all[0].resolved_at), (open.uid, open.started_at, None));
        assert_eq!(db.get::<DateTime<Utc>>(since).await, failing_since, "the streak goes on");
        let now: i32 = db.get(failures).await;
        assert!(now > counted, "{counted} failures became {now}");
        counted = now;
        let gaps = "SELECT count(*) FROM monitor_gaps WHERE reason = 'not_running' AND monitor_id IS NULL";
        assert_eq!(db.get::<i64>(gaps).await, restart, "a gap for every restart");
    }
    let again = "SELECT count(*) - count(DISTINCT (monitor_id, checked_at)) FROM monitor_checks";
    assert_eq!(db.get::<i64>(again).await, 0, "no row twice");
    let asked = i64::try_from(target.hits("/fine")).unwrap();
    let recorded = rows(&db, "fine").await;
    // A kill loses the check in flight.
    assert!(recorded <= asked && asked - recorded <= RESTARTS, "{recorded} of {asked}");
    let within = "SELECT count(*) FROM monitor_checks c JOIN monitor_gaps g ON g.monitor_id IS NULL \
        AND c.checked_at > g.from_at AND c.checked_at < g.to_at WHERE g.reason = 'not_running'";
    assert_eq!(db.get::<i64>(within).await, 0, "what was recorded was observed: no gap says otherwise");
    let overlap = "SELECT count(*) FROM monitor_gaps a JOIN monitor_gaps b ON a.id < b.id AND a.to_at > b.from_at";
    assert_eq!(db.get::<i64>(overlap).await, 0, "gaps do not overlap");

    broken.answer(200);
    let ended = wait_incident(&db, 1, true).await;
    assert_eq!(ended.uid, open.uid);
    assert_eq!(
        i64::from(ended.duration_seconds.unwrap()),
        (ended.resolved_at.unwrap() - open.started_at).num_seconds()
    );
    assert_eq!(daemon.stop().await.code(), Some(0));
}

#[tokio::test]
async fn a_monitor_keeps_its_phase_across_a_restart() {
    let db = TestDb::new().await;
    let target = Target::start().await;
    let config = monitor("a", &target.url("/a")).replace("interval = \"1s\"", "interval = \"2s\"");
    let home = Home::new(&on(&db.url, &config));
    let mut daemon = home.start();
    until("two checks", MOST, async || (target.hits("/a") >= 3).then_some(())).await;
    daemon.kill().await;
    let before = target.hits("/a");
    let mut daemon = home.start();
    until("two more", MOST, async || (target.hits("/a") >= before + 2).then_some(())).await;
    assert_eq!(daemon.stop().await.code(), Some(0));
    let times = &target.times()["/a"];
    // The very first check comes at once, not in the phase.
    let phase = |at: &DateTime<Utc>| at.timestamp_millis().rem_euclid(2000);
    let wanted = phase(&times[1]);
    for at in &times[1..] {
        let off = (phase(at) - wanted + 3000).rem_euclid(2000) - 1000;
        assert!(off.abs() < 500, "{off} ms off its phase: {times:?}");
    }
}

#[tokio::test]
async fn no_gap_covers_what_was_recorded_before_a_kill() {
    let db = TestDb::new().await;
    let target = Target::start().await;
    // A steady monitor: its state is stored seldom, its checks are not.
    let home = Home::new(&on(&db.url, &monitor("a", &target.url("/a"))));
    let mut daemon = home.start();
    until("checks between two renewals of the lease", MOST, async || (rows(&db, "a").await >= 4).then_some(())).await;
    daemon.kill().await;
    let mut daemon = home.start();
    wait_sql(&db, "the gap is there", "SELECT count(*) = 1 FROM monitor_gaps").await;
    assert_eq!(daemon.stop().await.code(), Some(0));
    let within = "SELECT count(*) FROM monitor_checks c, monitor_gaps g WHERE c.checked_at > g.from_at AND c.checked_at < g.to_at";
    assert_eq!(db.get::<i64>(within).await, 0);
}

#[tokio::test]
async fn an_open_incident_whose_state_was_lost_ends_with_the_recovery() {
    let db = TestDb::new().await;
    let (target, quiet) = (Target::start().await, Target::start().await);
    let config = monitor("lost", &target.url("/lost")) + &monitor("rest", &quiet.url("/rest"));
    let home = Home::new(&on(&db.url, &config));
    let mut daemon = home.start();
    daemon.wait_status("lost", "up").await;
    target.answer(500);
    let open = wait_incident(&db, 1, false).await;
    daemon.kill().await;
    db.sql("UPDATE monitor_state SET state = '[]', incident = NULL").await;
    target.answer(200);
    let _daemon = home.start();
    let ended = wait_incident(&db, 1, true).await;
    assert_eq!((ended.uid, ended.started_at), (open.uid, open.started_at));
    assert_eq!(ended.resolve_reason.as_deref(), Some("recovered"));
}
