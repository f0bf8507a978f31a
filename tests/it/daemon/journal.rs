//! The journal on disk, with the real daemon: killed at any moment, without a database, with a later version's files.

use std::collections::HashSet;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{MOST, incidents, monitor, on, wait_incident, wait_sql};
use crate::support::daemon::{Daemon, Home, ask, has_code};
use crate::support::postgres::{OwnPostgres, TestDb};
use crate::support::target::{Target, until};

/// Kills in the test; LAMPLIGHTER_TEST_KILLS sets another number.
const KILLS: usize = 20;

/// What the daemon has shown of checks: monitor and time.
type Seen = HashSet<(String, DateTime<Utc>)>;

/// Notes the latest check of every monitor as the daemon shows it now.
async fn look(home: &Home, seen: &mut Seen) -> Option<()> {
    let stream = tokio::net::UnixStream::connect(home.socket()).await.ok()?;
    let answer = tokio::time::timeout(Duration::from_secs(5), ask(stream, "GET", "/api/v1/overview")).await.ok()?;
    let overview: serde_json::Value = serde_json::from_str(&answer.body).ok()?;
    for row in overview["monitors"].as_array()? {
        if let (Some(monitor), Some(at)) = (row["monitor_id"].as_str(), row["last"]["checked_at"].as_str()) {
            seen.insert((monitor.to_owned(), at.parse().unwrap()));
        }
    }
    Some(())
}

/// Which of the checks that were shown, in milliseconds, have no row.
async fn missing(db: &TestDb, seen: &Seen) -> Vec<(String, DateTime<Utc>)> {
    let rows: Vec<(uuid::Uuid, DateTime<Utc>)> =
        sqlx::query_as("SELECT monitor_id, checked_at FROM monitor_checks").fetch_all(&db.pool).await.unwrap();
    let rows: HashSet<(String, i64)> =
        rows.into_iter().map(|(id, at)| (id.to_string(), at.timestamp_millis())).collect();
    seen.iter().filter(|(id, at)| !rows.contains(&(id.clone(), at.timestamp_millis()))).cloned().collect()
}

/// Every time in which no process ran lies in one gap, no gap is without such a time, and none overlaps another. A start
/// that was killed before it wrote its gap left that to the next one, and has recorded nothing: there are no fewer gaps than
/// starts that told of one (`told`), and no more than restarts.
async fn gaps_are(db: &TestDb, dead: &[(DateTime<Utc>, DateTime<Utc>)], told: usize) {
    let sql =
        "SELECT from_at, to_at FROM monitor_gaps WHERE reason = 'not_running' AND monitor_id IS NULL ORDER BY from_at";
    let gaps: Vec<(DateTime<Utc>, DateTime<Utc>)> = sqlx::query_as(sql).fetch_all(&db.pool).await.unwrap();
    let mut covering = vec![0; gaps.len()];
    for (from, to) in dead {
        let at = gaps.iter().position(|gap| gap.0 <= *from && gap.1 >= *to);
        covering[at.unwrap_or_else(|| panic!("nothing ran from {from} to {to}: {gaps:#?}"))] += 1;
    }
    assert!(covering.iter().all(|times| *times > 0), "a gap for nothing: {gaps:#?} {dead:#?}");
    assert!(gaps.windows(2).all(|two| two[0].1 <= two[1].0), "gaps overlap: {gaps:#?}");
    println!("{} gaps for {} restarts, {told} told", gaps.len(), dead.len());
    assert!((told..=dead.len()).contains(&gaps.len()), "{} gaps, {told} told, {} restarts", gaps.len(), dead.len());
}

/// A number below `most` that no run repeats.
fn random(most: u64) -> u64 {
    u64::try_from(uuid::Uuid::new_v4().as_u128() % u128::from(most)).unwrap()
}

#[tokio::test]
async fn nothing_that_was_shown_is_lost_by_kill_9_at_any_moment() {
    let kills = std::env::var("LAMPLIGHTER_TEST_KILLS").map_or(KILLS, |text| text.parse().unwrap());
    let db = TestDb::new().await;
    let (target, broken) = (Target::start().await, Target::start().await);
    let fine: String = (0..200).map(|n| monitor(&format!("fine{n}"), &target.url(&format!("/{n}")))).collect();
    let config = monitor("down", &broken.url("/down"))
        + &(monitor("shaky", &broken.url("/shaky")).replace("\"1s\"", "\"10s\"") + "confirmations = 100\n")
        + &fine;
    let home = Home::new(&on(&db.url, &config));
    let mut daemon = home.start();
    daemon.wait_status("down", "up").await;
    broken.answer(500);
    let open = wait_incident(&db, 1, false).await;
    let streak = "(SELECT state->>'failing_since' FROM monitor_state s JOIN monitors m ON m.id = monitor_id WHERE key = 'shaky')";
    wait_sql(&db, "shaky is confirming", &format!("SELECT {streak} IS NOT NULL")).await;
    let failing_since: String = db.get(&format!("SELECT {streak}")).await;

    let mut seen = Seen::new();
    let mut dead: Vec<(DateTime<Utc>, DateTime<Utc>)> = Vec::new();
    let mut told = 0;
    for _ in 0..kills {
        until("it answers", MOST, async || look(&home, &mut seen).await).await;
        let end = std::time::Instant::now() + Duration::from_millis(random(1500));
        while std::time::Instant::now() < end {
            let _ = look(&home, &mut seen).await;
        }
        daemon.kill().await;
        let killed_at = Utc::now();
        told += daemon.log().matches("noted as a gap").count();
        dead.push((killed_at, Utc::now()));
        daemon = home.start();
    }
    until("what was left over is brought", MOST, async || missing(&db, &seen).await.is_empty().then_some(())).await;
    // A start that is stopped before would leave its gap to the next one.
    until("the last start told of its gap", MOST, async || daemon.log().contains("noted as a gap").then_some(())).await;
    assert!(seen.len() > kills * 20, "only {} checks were seen", seen.len());
    assert_eq!(daemon.stop().await.code(), Some(0));

    assert_eq!(missing(&db, &seen).await, [], "of {} that were shown", seen.len());
    let again = "SELECT count(*) - count(DISTINCT (monitor_id, checked_at)) FROM monitor_checks";
    assert_eq!(db.get::<i64>(again).await, 0, "no row twice");
    let order = "SELECT count(*) FROM (SELECT checked_at < lag(checked_at) OVER (PARTITION BY monitor_id ORDER BY id) \
        AS late FROM monitor_checks) c WHERE late";
    assert_eq!(db.get::<i64>(order).await, 0, "in the order of happening");
    told += daemon.log().matches("noted as a gap").count();
    gaps_are(&db, &dead, told).await;
    let other = "SELECT count(*) FROM monitor_gaps WHERE reason = 'recording_lost'";
    assert_eq!(db.get::<i64>(other).await, 0, "nothing was damaged");
    let within = "SELECT count(*) FROM monitor_checks c JOIN monitor_gaps g ON g.monitor_id IS NULL \
        AND c.checked_at > g.from_at AND c.checked_at < g.to_at WHERE g.reason = 'not_running'";
    assert_eq!(db.get::<i64>(within).await, 0, "what was recorded was observed: no gap says otherwise");
    let all = incidents(&db).await;
    assert_eq!(all.len(), 1, "{all:?}");
    assert_eq!((all[0].uid, all[0].started_at, all[0].resolved_at), (open.uid, open.started_at, None));
    assert_eq!(db.get::<String>(&format!("SELECT {streak}")).await, failing_since, "the streak goes on");
    assert!(daemon.log().lines().all(|line| !line.contains("another daemon was active")), "{}", daemon.log());
}

#[tokio::test]
async fn what_was_seen_without_a_database_survives_a_kill() {
    let server = OwnPostgres::start();
    let target = Target::start().await;
    let home = Home::new(&on(&server.url, &monitor("a", &target.url("/a"))));
    let mut daemon = home.start();
    daemon.wait_ready("it is ready", |status, _| status == 200).await;
    until("checks", MOST, async || (target.hits("/a") >= 3).then_some(())).await;
    server.stop();
    daemon.wait_ready("the loss is told", |status, _| status == 503).await;
    target.answer(500);
    let down = daemon.wait_status("a", "down").await;
    let mut seen = Seen::new();
    for restart in 0..2 {
        let asked = target.hits("/a");
        until("checks without a database", MOST, async || (target.hits("/a") >= asked + 2).then_some(())).await;
        until("they are shown", MOST, async || look(&home, &mut seen).await).await;
        daemon.kill().await;
        daemon = home.start();
        let row = daemon.wait_status("a", "down").await;
        assert_eq!(row["incident"], down["incident"], "restart {restart}: the incident is the same");
    }
    server.resume();
    daemon.wait_ready("it is ready again", |status, _| status == 200).await;
    target.answer(200);
    daemon.wait_status("a", "up").await;
    assert_eq!(daemon.stop().await.code(), Some(0));

    let rows = server.get::<i64>("SELECT count(*) FROM monitor_checks").await;
    let answers = i64::try_from(target.all_answers()).unwrap();
    assert!(rows <= answers && answers - rows <= 2, "{rows} rows of {answers}: a kill loses what was in flight");
    for (monitor, at) in &seen {
        let found = format!(
            "SELECT count(*) FROM monitor_checks WHERE monitor_id = '{monitor}' AND date_trunc('milliseconds', checked_at) = '{}'",
            at.format("%F %T%.3f+00")
        );
        assert_eq!(server.get::<i64>(&found).await, 1, "{at}");
    }
    let order = "SELECT count(*) FROM (SELECT checked_at < lag(checked_at) OVER (ORDER BY id) AS late FROM monitor_checks) c \
        WHERE late";
    assert_eq!(server.get::<i64>(order).await, 0, "in the order of happening");
    assert_eq!(server.get::<i64>("SELECT count(*) FROM incidents WHERE status = 'resolved'").await, 1);
    assert_eq!(server.get::<i64>("SELECT count(*) FROM incidents").await, 1);
    let gaps = server.get::<i64>("SELECT count(*) FROM monitor_gaps WHERE reason = 'not_running'").await;
    assert_eq!(gaps, 2, "one for every restart");
    let longest = "SELECT max(extract(epoch FROM to_at - from_at))::float8 FROM monitor_gaps";
    let longest: f64 = server.get(longest).await;
    assert!(longest < 10.0, "{longest} s: the time without a database is no gap");
    let within = "SELECT count(*) FROM monitor_checks c JOIN monitor_gaps g \
        ON c.checked_at > g.from_at AND c.checked_at < g.to_at";
    assert_eq!(server.get::<i64>(within).await, 0);
}

#[tokio::test]
async fn a_first_start_without_a_database_survives_a_kill() {
    let server = OwnPostgres::start();
    server.stop();
    let target = Target::start().await;
    let home = Home::new(&on(&server.url, &monitor("a", &target.url("/a"))));
    let mut daemon = home.start();
    let mut seen = Seen::new();
    until("checks", MOST, async || (target.hits("/a") >= 3).then_some(())).await;
    until("they are shown", MOST, async || look(&home, &mut seen).await).await;
    daemon.kill().await;
    server.resume();
    let mut daemon = home.start();
    daemon.wait_ready("it is ready", |status, _| status == 200).await;
    // Ended before its monitor has a row, it would leave them to the next start.
    until("what was left over is brought", MOST, async || {
        let rows = server.get::<i64>("SELECT count(*) FROM monitor_checks").await;
        (rows >= i64::try_from(seen.len()).unwrap()).then_some(())
    })
    .await;
    assert_eq!(daemon.stop().await.code(), Some(0));
    // Its monitor had no row when they were seen.
    for (_, at) in &seen {
        let found = format!(
            "SELECT count(*) FROM monitor_checks WHERE date_trunc('milliseconds', checked_at) = '{}'",
            at.format("%F %T%.3f+00")
        );
        assert_eq!(server.get::<i64>(&found).await, 1, "{at}");
    }
    assert_eq!(server.get::<i64>("SELECT count(*) FROM monitor_gaps WHERE reason = 'not_running'").await, 1);
}

/// Ends when the other is active, and gives what it has not recorded up.
#[tokio::test]
async fn what_another_daemon_has_seen_since_counts() {
    let server = OwnPostgres::start();
    let (one, other) = (Target::start().await, Target::start().await);
    let home = Home::new(&on(&server.url, &monitor("shop", &one.url("/"))));
    let mut daemon = home.start();
    daemon.wait_ready("it is ready", |status, _| status == 200).await;
    server.stop();
    let asked = one.hits("/");
    until("checks without a database", MOST, async || (one.hits("/") >= asked + 2).then_some(())).await;
    let unrecorded = Utc::now();
    until("one more", MOST, async || (one.hits("/") >= asked + 4).then_some(())).await;
    daemon.kill().await;
    server.resume();
    server.sql("UPDATE daemon_lease SET expires_at = now()").await;
    let second = Home::new(&on(&server.url, &monitor("shop", &other.url("/"))));
    let mut stand_in = second.start();
    stand_in.wait_ready("the other is active", |status, _| status == 200).await;
    until("its checks", MOST, async || (other.hits("/") >= 2).then_some(())).await;
    assert_eq!(stand_in.stop().await.code(), Some(0));
    let recorded = server.get::<i64>("SELECT count(*) FROM monitor_checks").await;
    let mut daemon = home.start();
    daemon.wait_ready("it is active again", |status, _| status == 200).await;
    assert!(daemon.log().contains("another daemon was active since"), "{}", daemon.log());
    assert_eq!(daemon.stop().await.code(), Some(0));
    let late = format!(
        "SELECT count(*) FROM monitor_checks WHERE id > (SELECT id FROM monitor_checks ORDER BY id LIMIT 1 OFFSET {}) \
         AND checked_at < '{unrecorded}'",
        recorded - 1
    );
    assert_eq!(server.get::<i64>(&late).await, 0, "what was dropped is not recorded");
}

#[tokio::test]
async fn a_journal_of_a_later_version_is_left_alone() {
    let db = TestDb::new().await;
    let target = Target::start().await;
    let home = Home::new(&on(&db.url, &monitor("a", &target.url("/a"))));
    let mut daemon = home.start();
    daemon.wait_status("a", "up").await;
    daemon.kill().await;
    let folder = home.state().join("journal");
    let mode = |path: &std::path::Path| {
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(path).unwrap().permissions())
    };
    assert_eq!(mode(&folder) & 0o777, 0o700);
    let segment = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let segment = segment.filter(|path| path.extension().is_some_and(|e| e == "log")).max().unwrap();
    assert_eq!(mode(&segment) & 0o777, 0o600);
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[8] = 9;
    std::fs::write(&segment, &bytes).unwrap();
    let mut daemon = home.start();
    assert_eq!(daemon.ended().await.code(), Some(78));
    assert!(daemon.log().contains("format 9"), "{}", daemon.log());
    assert_eq!(std::fs::read(&segment).unwrap(), bytes);
}

/// The folder goes away under the daemon, and comes back.
#[tokio::test]
async fn without_its_folder_it_goes_on_from_memory_and_says_so() {
    let server = OwnPostgres::start();
    let target = Target::start().await;
    // States with every check (a streak that grows), so that another segment is begun within seconds.
    let closed = "tcp://127.0.0.1:1";
    let busy: String = (0..200).map(|n| monitor(&format!("x{n}"), closed) + "confirmations = 100\n").collect();
    let config = format!("database.backlog = \"1MiB\"\n{}{busy}", monitor("a", &target.url("/a")));
    let home = Home::new(&on(&server.url, &config));
    let mut daemon: Daemon = home.start();
    daemon.wait_status("a", "up").await;
    // Nobody, root neither, makes a file in a folder that is none: no segment can be begun.
    let folder = home.state().join("journal");
    let away = home.path().join("away");
    std::fs::rename(&folder, &away).unwrap();
    std::fs::write(&folder, "").unwrap();
    daemon.wait_ready("it says so", |status, body| status == 200 && has_code(body, "journal_unwritable")).await;
    let asked = target.hits("/a");
    until("checks go on", MOST, async || (target.hits("/a") >= asked + 3).then_some(())).await;
    std::fs::remove_file(&folder).unwrap();
    std::fs::rename(&away, &folder).unwrap();
    daemon.wait_ready("it is well again", |_, body| !has_code(body, "journal_unwritable")).await;
    assert_eq!(daemon.stop().await.code(), Some(0));
    let answers = i64::try_from(target.all_answers()).unwrap();
    let of_a = "SELECT count(*) FROM monitor_checks JOIN monitors m ON m.id = monitor_id WHERE key = 'a'";
    assert_eq!(server.get::<i64>(of_a).await, answers, "none lost, none twice");
}
