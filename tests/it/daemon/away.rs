//! Postgres goes away, hangs, is not there: checks go on, results wait, nothing is lost in silence.

use std::time::Duration;

use chrono::{DateTime, Utc};
use rustix::process::Signal;

use super::{MOST, monitor, on};
use crate::support::daemon::{Home, has_code};
use crate::support::postgres::OwnPostgres;
use crate::support::target::{Target, until};

const IN_ORDER: &str = "SELECT count(*) FROM (SELECT checked_at < lag(checked_at) OVER (PARTITION BY monitor_id ORDER BY id) \
    AS late FROM monitor_checks) c WHERE late";

async fn goes_on(target: &Target, path: &str, times: usize) {
    let asked = target.hits(path);
    until(&format!("{path} is asked on"), MOST, async || (target.hits(path) >= asked + times).then_some(())).await;
}

#[tokio::test]
async fn checks_go_on_while_postgres_is_away_and_results_catch_up() {
    let server = OwnPostgres::start();
    let target = Target::start().await;
    let monitors: String = (0..5).map(|n| monitor(&format!("m{n}"), &target.url(&format!("/{n}")))).collect();
    let home = Home::new(&on(&server.url, &monitors));
    let mut daemon = home.start();
    daemon.wait_ready("it is ready", |status, _| status == 200).await;
    goes_on(&target, "/0", 2).await;

    server.stop();
    daemon.wait_ready("the loss is told", |status, body| status == 503 && has_code(body, "store_away")).await;
    let begun = Utc::now();
    goes_on(&target, "/0", 4).await;
    // What happens meanwhile is not forgotten: an outage with its end.
    target.answer(500);
    goes_on(&target, "/0", 3).await;
    daemon.wait_status("m0", "down").await;
    target.answer(200);
    daemon.wait_status("m0", "up").await;
    let ended = Utc::now();

    server.resume();
    daemon.wait_ready("it is ready again", |status, _| status == 200).await;
    goes_on(&target, "/0", 2).await;
    assert_eq!(daemon.stop().await.code(), Some(0));
    let answers = i64::try_from(target.all_answers()).unwrap();
    assert_eq!(server.get::<i64>("SELECT count(*) FROM monitor_checks").await, answers, "every result is there");
    assert_eq!(server.get::<i64>(IN_ORDER).await, 0, "in the order of happening");
    assert_eq!(server.get::<i64>("SELECT count(*) FROM monitor_gaps").await, 0);
    let of_m0 = "FROM incidents i JOIN monitors m ON m.id = i.monitor_id WHERE key = 'm0'";
    assert_eq!(server.get::<i64>(&format!("SELECT count(*) {of_m0} AND i.status = 'resolved'")).await, 1);
    let started: DateTime<Utc> = server.get(&format!("SELECT started_at {of_m0}")).await;
    let resolved: DateTime<Utc> = server.get(&format!("SELECT resolved_at {of_m0}")).await;
    assert!(begun < started && started < resolved && resolved < ended, "{begun} {started} {resolved} {ended}");
}

#[tokio::test]
async fn a_frozen_postgres_holds_up_no_check() {
    let server = OwnPostgres::start();
    let target = Target::start().await;
    let home = Home::new(&on(&server.url, &monitor("a", &target.url("/a"))));
    let mut daemon = home.start();
    daemon.wait_ready("it is ready", |status, _| status == 200).await;
    goes_on(&target, "/a", 2).await;
    server.freeze(true);
    let frozen_at = target.hits("/a");
    goes_on(&target, "/a", 8).await;
    let times = target.times();
    for pair in times["/a"][frozen_at..].windows(2) {
        let gap = (pair[1] - pair[0]).num_milliseconds();
        assert!((500..1800).contains(&gap), "asked after {gap} ms: {:?}", times["/a"]);
    }
    server.freeze(false);
    daemon.wait_ready("it is ready again", |status, _| status == 200).await;
    assert_eq!(daemon.stop().await.code(), Some(0));
    let answers = i64::try_from(target.all_answers()).unwrap();
    assert_eq!(server.get::<i64>("SELECT count(*) FROM monitor_checks").await, answers);
    assert_eq!(server.get::<i64>(IN_ORDER).await, 0);
}

#[tokio::test]
async fn an_end_while_postgres_is_frozen_is_bounded() {
    let server = OwnPostgres::start();
    let target = Target::start().await;
    let home = Home::new(&on(&server.url, &monitor("a", &target.url("/a"))));
    let mut daemon = home.start();
    daemon.wait_status("a", "up").await;
    server.freeze(true);
    goes_on(&target, "/a", 1).await;
    let began = std::time::Instant::now();
    let status = daemon.stop().await;
    server.freeze(false);
    assert_eq!(status.code(), Some(0));
    // TimeoutStopSec of the unit is 30 s.
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert!(daemon.log().contains("the next start brings them"), "{}", daemon.log());
    let waiting = i64::try_from(target.all_answers()).unwrap();
    let mut daemon = home.start();
    until("it does", MOST, async || {
        (server.get::<i64>("SELECT count(*) FROM monitor_checks").await >= waiting).then_some(())
    })
    .await;
    assert_eq!(daemon.stop().await.code(), Some(0));
    let answers = i64::try_from(target.all_answers()).unwrap();
    assert_eq!(server.get::<i64>("SELECT count(*) FROM monitor_checks").await, answers);
}

#[tokio::test]
async fn a_second_signal_ends_at_once_though_postgres_and_target_hang() {
    let server = OwnPostgres::start();
    let target = Target::start().await;
    let home = Home::new(&on(&server.url, &monitor("a", &target.url("/a"))));
    let mut daemon = home.start();
    daemon.wait_status("a", "up").await;
    server.freeze(true);
    target.hold();
    goes_on(&target, "/a", 1).await;
    daemon.signal(Signal::TERM);
    // Past the pool's time: it waits for the recorder.
    until("the checks are cut off", MOST, async || daemon.log().contains("were cut off").then_some(())).await;
    let began = std::time::Instant::now();
    daemon.signal(Signal::TERM);
    let status = daemon.ended().await;
    server.freeze(false);
    assert_eq!(status.code(), Some(1));
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test]
async fn sigterm_while_postgres_is_frozen_from_the_start_is_a_clean_end() {
    let server = OwnPostgres::start();
    let home = Home::new(&on(&server.url, ""));
    server.freeze(true);
    let mut daemon = home.start();
    until("it is asked for", MOST, async || daemon.readiness().await).await;
    let began = std::time::Instant::now();
    let status = daemon.stop().await;
    server.freeze(false);
    assert_eq!(status.code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_full_backlog_becomes_gaps_and_keeps_incidents() {
    let server = OwnPostgres::start();
    let target = Target::start().await;
    // The smallest backlog, and states with every check (a streak that grows): it is full within seconds.
    let closed = "tcp://127.0.0.1:1";
    let monitors: String = (0..150).map(|n| monitor(&format!("x{n}"), closed) + "confirmations = 10\n").collect();
    let config = format!("database.backlog = \"1MiB\"\n{}{monitors}", monitor("a", &target.url("/a")));
    let home = Home::new(&on(&server.url, &config));
    let mut daemon = home.start();
    daemon.wait_status("a", "up").await;
    server.stop();
    target.answer(500);
    daemon.wait_status("a", "down").await;
    target.answer(200);
    daemon.wait_status("a", "up").await;
    daemon.wait_ready("checks are thinned", |status, body| status == 503 && has_code(body, "results_thinned")).await;
    goes_on(&target, "/a", 3).await;
    server.resume();
    daemon.wait_ready("it is ready again", |status, _| status == 200).await;
    assert_eq!(daemon.stop().await.code(), Some(0));
    let gaps = server.get::<i64>("SELECT count(*) FROM monitor_gaps WHERE reason = 'store_full'").await;
    assert!(gaps > 0);
    assert_eq!(server.get::<i64>("SELECT count(*) FROM monitor_gaps WHERE reason <> 'store_full'").await, 0);
    let of_a = "SELECT count(*) FROM incidents i JOIN monitors m ON m.id = i.monitor_id WHERE key = 'a' AND i.status = 'resolved'";
    assert_eq!(server.get::<i64>(of_a).await, 1, "its outage was kept");
    // Every answer is a row, or lies in a gap.
    let rows = server
        .get::<i64>("SELECT count(*) FROM monitor_checks JOIN monitors m ON m.id = monitor_id WHERE key = 'a'")
        .await;
    assert!(rows <= i64::try_from(target.all_answers()).unwrap());
    let longest = "SELECT max(late) FROM (SELECT extract(epoch FROM checked_at - lag(checked_at) OVER \
        (PARTITION BY monitor_id ORDER BY checked_at))::float8 AS late, monitor_id, checked_at FROM monitor_checks) c \
        WHERE NOT EXISTS (SELECT FROM monitor_gaps g WHERE g.monitor_id = c.monitor_id AND g.to_at = c.checked_at)";
    let longest: f64 = server.get(longest).await;
    assert!(longest < 2.5, "{longest} s without a row are no gap");
}

#[tokio::test]
async fn a_start_without_postgres_checks_what_was_checked_before() {
    let server = OwnPostgres::start();
    let target = Target::start().await;
    let home = Home::new(&on(&server.url, &monitor("file", &target.url("/file"))));
    let mut daemon = home.start();
    daemon.wait_ready("it is ready", |status, _| status == 200).await;
    server
        .sql(&format!(
            "INSERT INTO monitors (user_id, name, url, interval_seconds) VALUES ('{}', 'row', '{}', 1)",
            lamplighter::model::SYSTEM_USER,
            target.url("/row")
        ))
        .await;
    daemon.wait_status("row", "up").await;
    assert_eq!(daemon.stop().await.code(), Some(0));
    let recorded = i64::try_from(target.all_answers()).unwrap();
    server.stop();

    let mut daemon = home.start();
    goes_on(&target, "/file", 3).await;
    goes_on(&target, "/row", 3).await;
    let (status, body) = daemon.readiness().await.unwrap();
    assert!(status == 503 && body["role"] == "starting" && has_code(&body, "store_away"), "{body}");
    assert!(daemon.log().contains("degraded"), "{}", daemon.log());
    // A failure meanwhile is an incident of the same monitor later on.
    target.answer(500);
    daemon.wait_status("row", "down").await;

    server.resume();
    daemon.wait_ready("it is active", |status, body| status == 200 && body["role"] == "active").await;
    assert_eq!(daemon.stop().await.code(), Some(0));
    let answers = i64::try_from(target.all_answers()).unwrap();
    assert!(answers > recorded + 6);
    assert_eq!(server.get::<i64>("SELECT count(*) FROM monitor_checks").await, answers);
    assert_eq!(server.get::<i64>("SELECT count(*) FROM monitors WHERE archived_at IS NULL").await, 2);
    let open = "SELECT count(*) FROM incidents i JOIN monitors m ON m.id = i.monitor_id WHERE name = 'row' AND resolved_at IS NULL";
    assert_eq!(server.get::<i64>(open).await, 1);
    let gap = "SELECT count(*) FROM monitor_checks c JOIN monitor_gaps g ON g.monitor_id IS NULL \
        AND c.checked_at > g.from_at AND c.checked_at < g.to_at";
    assert_eq!(server.get::<i64>(gap).await, 0, "the time in which it ran without a database is no gap");
}

#[tokio::test]
async fn an_incident_that_memory_forgot_is_not_opened_twice() {
    let server = OwnPostgres::start();
    let target = Target::start().await;
    let home = Home::new(&on(&server.url, &monitor("a", &target.url("/a"))));
    let mut daemon = home.start();
    daemon.wait_status("a", "up").await;
    until("the memory is written", MOST, async || home.state().join("catalog.json").exists().then_some(())).await;
    let remembered = std::fs::read(home.state().join("catalog.json")).unwrap();
    target.answer(500);
    daemon.wait_status("a", "down").await;
    until("it is recorded", MOST, async || {
        (server.get::<i64>("SELECT count(*) FROM incidents").await == 1).then_some(())
    })
    .await;
    daemon.kill().await;
    let started: DateTime<Utc> = server.get("SELECT started_at FROM incidents").await;
    server.stop();
    // As old as it can be after a kill: from before the outage.
    std::fs::write(home.state().join("catalog.json"), remembered).unwrap();
    let mut daemon = home.start();
    daemon.wait_status("a", "down").await;
    server.resume();
    daemon.wait_ready("it is active", |status, _| status == 200).await;
    target.answer(200);
    daemon.wait_status("a", "up").await;
    assert_eq!(daemon.stop().await.code(), Some(0));
    assert_eq!(server.get::<i64>("SELECT count(*) FROM incidents").await, 1);
    assert_eq!(server.get::<DateTime<Utc>>("SELECT started_at FROM incidents").await, started);
    assert_eq!(server.get::<String>("SELECT status FROM incidents").await, "resolved");
}

#[tokio::test]
async fn an_edit_while_postgres_is_away_counts_at_once_and_loses_nothing() {
    let server = OwnPostgres::start();
    let target = Target::start().await;
    let home = Home::new(&on(&server.url, &(monitor("a", &target.url("/a")) + &monitor("b", &target.url("/b")))));
    let mut daemon = home.start();
    daemon.wait_status("a", "up").await;
    daemon.wait_status("b", "up").await;
    daemon.wait_ready("it is ready", |status, _| status == 200).await;
    server.stop();
    daemon.wait_ready("the loss is told", |status, _| status == 503).await;
    // b goes, c comes.
    home.write(&on(&server.url, &(monitor("a", &target.url("/a")) + &monitor("c", &target.url("/c")))));
    goes_on(&target, "/c", 3).await;
    let gone = target.hits("/b");
    goes_on(&target, "/c", 2).await;
    assert_eq!(target.hits("/b"), gone);
    server.resume();
    daemon.wait_ready("it is ready again", |status, _| status == 200).await;
    goes_on(&target, "/c", 2).await;
    assert_eq!(daemon.stop().await.code(), Some(0));
    let answers = i64::try_from(target.all_answers()).unwrap();
    assert_eq!(
        server.get::<i64>("SELECT count(*) FROM monitor_checks").await,
        answers,
        "also those of the new monitor"
    );
    assert!(server.get::<bool>("SELECT bool_and((archived_at IS NULL) = (key <> 'b')) FROM monitors").await);
}

#[tokio::test]
async fn a_first_start_without_postgres_loses_nothing() {
    let server = OwnPostgres::start();
    server.stop();
    let target = Target::start().await;
    let home = Home::new(&on(&server.url, &monitor("a", &target.url("/a"))));
    let mut daemon = home.start();
    goes_on(&target, "/a", 4).await;
    server.resume();
    daemon.wait_ready("it is ready", |status, _| status == 200).await;
    goes_on(&target, "/a", 2).await;
    assert_eq!(daemon.stop().await.code(), Some(0));
    let answers = i64::try_from(target.all_answers()).unwrap();
    assert_eq!(server.get::<i64>("SELECT count(*) FROM monitor_checks").await, answers);
    assert_eq!(server.get::<i64>("SELECT count(*) FROM monitor_gaps").await, 0, "it ran all the time");
}

#[tokio::test]
async fn of_two_that_started_while_it_was_away_only_one_writes() {
    let server = OwnPostgres::start();
    let (one, other) = (Target::start().await, Target::start().await);
    server.stop();
    let homes = [&one, &other].map(|target| Home::new(&on(&server.url, &monitor("shop", &target.url("/")))));
    let mut daemons = homes.each_ref().map(Home::start);
    for target in [&one, &other] {
        goes_on(target, "/", 2).await;
    }
    server.resume();
    let stepped_down = until("one steps down", MOST, async || {
        for (index, daemon) in daemons.iter().enumerate() {
            if daemon.readiness().await.is_some_and(|(_, body)| body["role"] == "standby") {
                return Some(index);
            }
        }
        None
    })
    .await;
    let stays = 1 - stepped_down;
    daemons[stays].wait_ready("the other is active", |status, body| status == 200 && body["role"] == "active").await;
    // It checks no more, and what it saw is not written beside the other's history.
    let asked = [&one, &other][stepped_down].hits("/");
    goes_on([&one, &other][stays], "/", 3).await;
    assert_eq!([&one, &other][stepped_down].hits("/"), asked);
    assert_eq!(daemons[stepped_down].stop().await.code(), Some(0));
    assert_eq!(daemons[stays].stop().await.code(), Some(0));
    let answers = [&one, &other][stays].all_answers();
    assert_eq!(server.get::<i64>("SELECT count(*) FROM monitor_checks").await, i64::try_from(answers).unwrap());
}
