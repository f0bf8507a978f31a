//! A clean end: nothing lost, nothing doubled, nobody blamed.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{MOST, monitor, on};
use crate::support::daemon::Home;
use crate::support::postgres::TestDb;
use crate::support::target::{Target, until};

async fn ends_cleanly(signal: Signal) {
    let db = TestDb::new().await;
    let target = Target::start().await;
    let monitors: String = (0..20).map(|n| monitor(&format!("m{n}"), &target.url(&format!("/{n}")))).collect();
    let home = Home::new(&on(&db.url, &monitors));
    let mut daemon = home.start();
    until("all are under load", MOST, async || (0..20).all(|n| target.answers(&format!("/{n}")) >= 2).then_some(()))
        .await;
    daemon.signal(signal);
    assert_eq!(daemon.ended().await.code(), Some(0));
    assert!(!daemon.log().contains("lost"), "{}", daemon.log());
    for n in 0..20 {
        let rows = format!(
            "SELECT count(*) FROM monitor_checks c JOIN monitors m ON m.id = monitor_id WHERE key = 'm{n}' AND c.status"
        );
        let answers = i64::try_from(target.answers(&format!("/{n}"))).unwrap();
        assert_eq!(db.get::<i64>(&rows).await, answers, "m{n}");
    }
    let all = i64::try_from(target.all_answers()).unwrap();
    assert_eq!(db.get::<i64>("SELECT count(*) FROM monitor_checks").await, all);
    assert!(db.get::<bool>("SELECT expires_at <= now() FROM daemon_lease").await, "the lease is given up");
    let asked = target.all_answers();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(target.all_answers(), asked);
}

#[tokio::test]
async fn sigterm_under_load_loses_no_result() {
    ends_cleanly(Signal::TERM).await;
}

#[tokio::test]
async fn sigint_under_load_loses_no_result() {
    ends_cleanly(Signal::INT).await;
}

#[tokio::test]
async fn a_check_cut_off_by_the_end_is_no_failure() {
    let db = TestDb::new().await;
    let target = Target::start().await;
    // Longer than the daemon waits for checks at its end.
    let patient = monitor("a", &target.url("/a")).replace("\"2s\"", "\"30s\"");
    let home = Home::new(&on(&db.url, &patient));
    let mut daemon = home.start();
    daemon.wait_status("a", "up").await;
    target.hold();
    let answered = target.answers("/a");
    until("a request is held", MOST, async || (target.hits("/a") > answered).then_some(())).await;
    let began = Instant::now();
    assert_eq!(daemon.stop().await.code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    assert_eq!(db.get::<i64>("SELECT count(*) FROM monitor_checks WHERE NOT status").await, 0);
    let answers = i64::try_from(answered).unwrap();
    assert_eq!(db.get::<i64>("SELECT count(*) FROM monitor_checks").await, answers);
    // It is not silence either: a gap of this monitor from the start of the check, which was half a second or more ago.
    let gap = "SELECT count(*) FROM monitor_gaps g JOIN monitors m ON m.id = g.monitor_id WHERE key = 'a' \
        AND reason = 'not_running' AND from_at > (SELECT max(checked_at) FROM monitor_checks) \
        AND to_at - from_at > interval '500 ms'";
    assert_eq!(db.get::<i64>(gap).await, 1);
}

#[tokio::test]
async fn a_check_that_ends_during_the_end_is_recorded() {
    let db = TestDb::new().await;
    let target = Target::start().await;
    let home = Home::new(&on(&db.url, &monitor("a", &target.url("/a")).replace("\"2s\"", "\"30s\"")));
    let mut daemon = home.start();
    daemon.wait_status("a", "up").await;
    target.hold();
    let answered = target.answers("/a");
    until("a request is held", MOST, async || (target.hits("/a") > answered).then_some(())).await;
    daemon.signal(Signal::TERM);
    until("it is ending", MOST, async || daemon.log().contains("shutting down").then_some(())).await;
    target.release();
    assert_eq!(daemon.ended().await.code(), Some(0));
    let answers = i64::try_from(target.all_answers()).unwrap();
    assert_eq!(db.get::<i64>("SELECT count(*) FROM monitor_checks WHERE status").await, answers);
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    let db = TestDb::new().await;
    let target = Target::start().await;
    let folder = tempfile::tempdir().unwrap();
    let pid = folder.path().join("pid");
    let plugin = format!("exec:/bin/sh -c 'echo $$ >{}; exec sleep 100'", pid.display());
    let monitors = monitor("a", &target.url("/a")) + &monitor("plugin", &plugin);
    let home = Home::new(&on(&db.url, &monitors.replace("\"2s\"", "\"30s\"")));
    let mut daemon = home.start();
    daemon.wait_status("a", "up").await;
    let written = async || std::fs::read_to_string(&pid).ok().filter(|id| id.ends_with('\n'));
    let plugin = until("the plugin runs", MOST, written).await;
    let stat = format!("/proc/{}/stat", plugin.trim());
    target.hold();
    let answered = target.answers("/a");
    until("a request is held", MOST, async || (target.hits("/a") > answered).then_some(())).await;
    daemon.signal(Signal::TERM);
    until("it is ending", MOST, async || daemon.log().contains("shutting down").then_some(())).await;
    let began = Instant::now();
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.ended().await.code(), Some(1));
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    assert!(daemon.log().contains("a second signal"));
    // Killed, and perhaps not yet reaped by who adopted it.
    let gone = async || std::fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z ")).then_some(());
    until("the plugin is gone", MOST, gone).await;
}
