//! Two daemons on one database: one is active, the other waits, and nothing is written by both.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use sqlx::{Connection as _, Executor as _, PgConnection};

use super::{MOST, incidents, monitor, on, wait_incident, wait_sql};
use crate::support::daemon::{Daemon, Home, has_code};
use crate::support::postgres::TestDb;
use crate::support::target::{Target, until};

/// From a kill or a freeze of the active one until the other checks (issue: within 15 s).
const TAKE_OVER: Duration = Duration::from_secs(15);
/// From the signal until the other is active.
const HAND_OVER: Duration = Duration::from_secs(2);

async fn wait_role(daemon: &Daemon, role: &str) {
    daemon.wait_ready(&format!("it is {role}"), |_, body| body["role"] == role).await;
}

async fn is_active(daemon: &Daemon, most: Duration) {
    let ready = async || daemon.readiness().await.filter(|(status, body)| *status == 200 && body["role"] == "active");
    until("it is active", most, ready).await;
}

/// Starts one that is active and one that waits.
async fn two(homes: &[Home; 2]) -> [Daemon; 2] {
    let first = homes[0].start();
    is_active(&first, MOST).await;
    let second = homes[1].start();
    second.wait_ready("it waits", |status, body| status == 503 && body["role"] == "standby").await;
    [first, second]
}

fn homes(db: &TestDb, targets: [&Target; 2], rest: &str) -> [Home; 2] {
    targets.map(|target| Home::new(&on(&db.url, &(monitor("shop", &target.url("/")) + rest))))
}

async fn rows(db: &TestDb) -> i64 {
    db.get("SELECT count(*) FROM monitor_checks").await
}

async fn is_recorded_once(db: &TestDb) {
    let twice = "SELECT count(*) - count(DISTINCT (monitor_id, checked_at)) FROM monitor_checks";
    assert_eq!(db.get::<i64>(twice).await, 0);
    let within = "SELECT count(*) FROM monitor_checks c JOIN monitor_gaps g ON g.reason = 'not_running' \
        AND (g.monitor_id IS NULL OR g.monitor_id = c.monitor_id) AND c.checked_at > g.from_at AND c.checked_at < g.to_at";
    assert_eq!(db.get::<i64>(within).await, 0, "what was recorded was observed");
}

#[tokio::test]
async fn a_standby_says_so_and_checks_nothing() {
    let db = TestDb::new().await;
    let (one, other) = (Target::start().await, Target::start().await);
    let homes = homes(&db, [&one, &other], "");
    let [mut first, mut second] = two(&homes).await;
    let (_, body) = second.readiness().await.unwrap();
    let holder = std::fs::read_to_string(homes[0].state().join("holder")).unwrap();
    assert!(has_code(&body, "standby") && body.to_string().contains(holder.trim()), "{body}");
    assert!(second.log().contains("as a standby"), "{}", second.log());
    let asked = one.hits("/");
    until("the active one goes on", MOST, async || (one.hits("/") > asked + 2).then_some(())).await;
    assert_eq!(other.hits("/"), 0);
    let status = homes[1].output(&["status"]);
    let text = String::from_utf8(status.stdout).unwrap();
    assert_eq!(status.status.code(), Some(3), "nothing is known of the monitors here: {text}");
    assert!(text.contains("! standby: ") && text.contains("A standby checks nothing"), "{text}");
    let reload = homes[1].output(&["reload"]);
    assert_eq!(reload.status.code(), Some(1), "a standby reads the file when it takes over");
    // SIGTERM, also of a standby, is a clean end; the active one does not notice.
    assert_eq!(second.stop().await.code(), Some(0));
    assert_eq!(first.readiness().await.unwrap().0, 200);
    assert_eq!(first.stop().await.code(), Some(0));
}

#[tokio::test]
async fn it_takes_over_after_kill_9_with_incident_and_streak() {
    let db = TestDb::new().await;
    let (one, other) = (Target::start().await, Target::start().await);
    let shaky = monitor("shaky", &one.url("/shaky")) + "confirmations = 100\n";
    let files = [&one, &one].map(|target| monitor("shop", &target.url("/")) + &shaky);
    let extra = monitor("new", &other.url("/new"));
    // The files differ in what only the second knows.
    let homes = [Home::new(&on(&db.url, &files[0])), Home::new(&on(&db.url, &(files[1].clone() + &extra)))];
    let [mut first, mut second] = two(&homes).await;
    first.wait_status("shop", "up").await;
    one.answer(500);
    let open = wait_incident(&db, 1, false).await;
    let failures = "SELECT failures FROM monitor_state s JOIN monitors m ON m.id = monitor_id WHERE key = 'shaky'";
    wait_sql(&db, "shaky is confirming", &format!("SELECT ({failures}) > 1")).await;
    assert_eq!(other.hits("/new"), 0);

    let killed_at = Instant::now();
    first.kill().await;
    let (before, streak) = (rows(&db).await, db.get::<i32>(failures).await);
    until("the other records", TAKE_OVER, async || (rows(&db).await > before).then_some(())).await;
    let took = killed_at.elapsed();
    println!("taken over, with the first check recorded, {took:?} after kill -9");
    assert!(took < TAKE_OVER, "{took:?}");
    is_active(&second, MOST).await;
    until("its own file counts now", MOST, async || (other.hits("/new") > 0).then_some(())).await;
    wait_sql(&db, "the streak goes on", &format!("SELECT ({failures}) > {streak}")).await;
    let all = incidents(&db).await;
    assert_eq!((all.len(), all[0].uid, all[0].resolved_at), (1, open.uid, None), "{all:?}");
    one.answer(200);
    assert_eq!(wait_incident(&db, 1, true).await.uid, open.uid);
    let gaps = "SELECT count(*) FROM monitor_gaps WHERE reason = 'not_running' AND monitor_id IS NULL";
    assert_eq!(db.get::<i64>(gaps).await, 1, "the time between is one gap");
    is_recorded_once(&db).await;
    assert_eq!(second.stop().await.code(), Some(0));
}

#[tokio::test]
async fn a_frozen_one_is_replaced_and_steps_down_when_it_thaws() {
    let db = TestDb::new().await;
    let (one, other) = (Target::start().await, Target::start().await);
    let homes = homes(&db, [&one, &other], "");
    let [mut first, mut second] = two(&homes).await;
    first.wait_status("shop", "up").await;
    let epoch = "SELECT epoch FROM daemon_lease WHERE scope = 'us-east-1'";
    let before: i64 = db.get(epoch).await;

    // A check is under way, whose answer comes when the other has taken over long since.
    one.hold();
    let asked = one.hits("/");
    until("a request is held", MOST, async || (one.hits("/") > asked).then_some(())).await;
    let frozen_at = Instant::now();
    first.signal(Signal::STOP);
    until("the other checks", TAKE_OVER, async || (other.answers("/") > 0).then_some(())).await;
    println!("taken over, with the first check, {:?} after SIGSTOP", frozen_at.elapsed());
    is_active(&second, TAKE_OVER.saturating_sub(frozen_at.elapsed())).await;
    assert!(frozen_at.elapsed() < TAKE_OVER, "{:?}", frozen_at.elapsed());
    assert!(db.get::<i64>(epoch).await > before);
    let taken_over_at: chrono::DateTime<chrono::Utc> = db.get("SELECT acquired_at FROM daemon_lease").await;
    one.release();

    first.signal(Signal::CONT);
    wait_role(&first, "standby").await;
    assert!(!first.log().contains("panicked"), "{}", first.log());
    let promises = |line: &str| line.contains("another daemon is active") && line.contains("checks go on");
    assert!(!first.log().lines().any(promises), "{}", first.log());
    // It is the same process, and checks no more.
    let asked = one.hits("/");
    let seen = other.answers("/");
    until("the other goes on", MOST, async || (other.answers("/") > seen + 2).then_some(())).await;
    assert_eq!(one.hits("/"), asked);
    assert_eq!(second.stop().await.code(), Some(0));
    // The second was the only one to write: every row since then is an answer that it got.
    let since = format!("SELECT count(*) FROM monitor_checks WHERE checked_at >= '{taken_over_at}'");
    let answers = i64::try_from(other.all_answers()).unwrap();
    // The thawed one takes over again when the second has ended: its rows begin after that.
    let until_end = format!("{since} AND checked_at <= '{}'", other.times()["/"].last().unwrap());
    assert_eq!(db.get::<i64>(&until_end).await, answers);
    is_active(&first, MOST).await;
    is_recorded_once(&db).await;
    assert_eq!(first.stop().await.code(), Some(0));
}

#[tokio::test]
async fn what_a_frozen_one_had_not_recorded_is_dropped_and_it_records_again_when_it_is_active() {
    let db = TestDb::new().await;
    let (one, other) = (Target::start().await, Target::start().await);
    let homes = homes(&db, [&one, &other], "");
    let [mut first, mut second] = two(&homes).await;
    first.wait_status("shop", "up").await;
    // No check can be written: results stay in the journal, while the lease is renewed as ever.
    let mut held = PgConnection::connect(&db.url).await.unwrap();
    held.execute("BEGIN; LOCK TABLE monitor_checks IN EXCLUSIVE MODE").await.unwrap();
    let locked_at = chrono::Utc::now();
    let asked = one.answers("/");
    until("results wait", MOST, async || (one.answers("/") >= asked + 4).then_some(())).await;
    first.signal(Signal::STOP);
    let frozen_at = chrono::Utc::now();
    is_active(&second, TAKE_OVER).await;
    held.execute("ROLLBACK").await.unwrap();
    wait_sql(
        &db,
        "the other records",
        &format!("SELECT count(*) > 1 FROM monitor_checks WHERE checked_at > '{frozen_at}'"),
    )
    .await;

    first.signal(Signal::CONT);
    wait_role(&first, "standby").await;
    until("it tells what it drops", MOST, async || first.log().contains("dropped what was seen").then_some(())).await;
    let folder = homes[0].state().join("journal");
    let segments = || {
        std::fs::read_dir(&folder)
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|extension| extension == "log"))
    };
    assert_eq!(segments().count(), 0, "nothing of it is left on disk");
    assert_eq!(second.stop().await.code(), Some(0));
    is_active(&first, MOST).await;
    let active_at: chrono::DateTime<chrono::Utc> = db.get("SELECT acquired_at FROM daemon_lease").await;
    let since = format!("SELECT count(*) FROM monitor_checks WHERE checked_at >= '{active_at}'");
    wait_sql(&db, "it records again", &format!("SELECT ({since}) > 2")).await;
    assert_eq!(first.stop().await.code(), Some(0));
    let asked = one.times()["/"].iter().filter(|at| **at >= active_at).count();
    assert_eq!(db.get::<i64>(&since).await, i64::try_from(asked).unwrap(), "all that it has seen since");
    let dropped = "SELECT count(*) FROM monitor_checks WHERE checked_at BETWEEN";
    assert_eq!(db.get::<i64>(&format!("{dropped} '{locked_at}' AND '{frozen_at}'")).await, 0, "dropped for good");
    is_recorded_once(&db).await;
    assert!(!first.log().contains("panicked"), "{}", first.log());
}

/// The longest time of which neither a row nor a gap of its monitor or of all tells, in seconds; every row speaks for
/// itself only.
async fn longest_hole(db: &TestDb, key: &str) -> f64 {
    let sql = format!(
        "WITH m AS (SELECT id FROM monitors WHERE key = '{key}'), \
         told AS (SELECT checked_at AS from_at, checked_at AS to_at FROM monitor_checks WHERE monitor_id = (TABLE m) \
            UNION ALL SELECT from_at, to_at FROM monitor_gaps WHERE monitor_id IS NULL OR monitor_id = (TABLE m)), \
         ends AS (SELECT from_at, max(to_at) OVER (ORDER BY from_at ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS told_to \
            FROM told) \
         SELECT max(extract(epoch FROM from_at - told_to))::float8 FROM ends"
    );
    db.get(&sql).await
}

/// How the active one ends while nothing can be recorded.
#[derive(Clone, Copy, PartialEq)]
enum Ends {
    Killed,
    Frozen,
    Stopped,
}

async fn nothing_is_unknown_after(ends: Ends) {
    let db = TestDb::new().await;
    let (one, other) = (Target::start().await, Target::start().await);
    let homes = homes(&db, [&one, &other], "");
    let [mut first, mut second] = two(&homes).await;
    first.wait_status("shop", "up").await;
    wait_sql(&db, "it records", "SELECT count(*) > 2 FROM monitor_checks").await;
    // Nobody can even read the table; the lease is renewed as ever.
    let mut held = PgConnection::connect(&db.url).await.unwrap();
    held.execute("BEGIN; LOCK TABLE monitor_checks IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let asked = one.answers("/");
    until("results wait over some renewals", MOST, async || (one.answers("/") >= asked + 7).then_some(())).await;
    match ends {
        Ends::Killed => first.kill().await,
        Ends::Frozen => first.signal(Signal::STOP),
        Ends::Stopped => assert_eq!(first.stop().await.code(), Some(0)),
    }
    is_active(&second, TAKE_OVER).await;
    held.execute("ROLLBACK").await.unwrap();
    wait_sql(&db, "the other records", "SELECT count(*) > 5 FROM monitor_checks").await;
    if ends == Ends::Frozen {
        first.signal(Signal::CONT);
        wait_role(&first, "standby").await;
        let dropped = async || first.log().contains("dropped what was seen").then_some(());
        until("it tells what it drops", MOST, dropped).await;
    }
    assert_eq!(second.stop().await.code(), Some(0));
    let hole = longest_hole(&db, "shop").await;
    assert!(hole < 2.5, "nothing is known of {hole} s");
    is_recorded_once(&db).await;
}

#[tokio::test]
async fn what_a_killed_one_could_not_record_is_in_the_gap() {
    nothing_is_unknown_after(Ends::Killed).await;
}

#[tokio::test]
async fn what_a_frozen_one_could_not_record_is_in_the_gap() {
    nothing_is_unknown_after(Ends::Frozen).await;
}

#[tokio::test]
async fn what_a_stopped_one_could_not_record_is_in_the_gap() {
    nothing_is_unknown_after(Ends::Stopped).await;
}

#[tokio::test]
async fn results_that_waited_for_a_row_are_a_gap_of_that_monitor_alone() {
    let db = TestDb::new().await;
    let (one, other) = (Target::start().await, Target::start().await);
    let files = [&one, &other].map(|target| monitor("shop", &target.url("/")) + &monitor("held", &target.url("/held")));
    let homes = files.map(|file| Home::new(&on(&db.url, &file)));
    let [mut first, mut second] = two(&homes).await;
    for key in ["shop", "held"] {
        first.wait_status(key, "up").await;
        let rows = "SELECT count(*) > 1 FROM monitor_checks c JOIN monitors m ON m.id = c.monitor_id";
        wait_sql(&db, "it records", &format!("{rows} WHERE key = '{key}'")).await;
    }
    let mut held = PgConnection::connect(&db.url).await.unwrap();
    held.execute("BEGIN; SELECT 1 FROM monitors WHERE key = 'held' FOR UPDATE").await.unwrap();
    let locked_at = chrono::Utc::now();
    let asked = one.answers("/held");
    until("results wait over some renewals", MOST, async || (one.answers("/held") >= asked + 7).then_some(())).await;
    first.kill().await;
    let killed_at = chrono::Utc::now();
    is_active(&second, TAKE_OVER).await;
    held.execute("ROLLBACK").await.unwrap();
    let own = "SELECT count(*) FROM monitor_gaps g JOIN monitors m ON m.id = g.monitor_id WHERE reason = 'not_running'";
    wait_sql(&db, "the gap is recorded", &format!("SELECT ({own} AND key = 'held') = 1")).await;
    let late = format!("SELECT count(*) > 1 FROM monitor_checks WHERE checked_at > '{killed_at}'");
    wait_sql(&db, "the other records", &late).await;
    assert_eq!(second.stop().await.code(), Some(0));
    for key in ["shop", "held"] {
        let hole = longest_hole(&db, key).await;
        assert!(hole < 2.5, "nothing is known of {key} for {hole} s");
    }
    assert_eq!(db.get::<i64>(own).await, 1, "the other monitor was observed");
    let recorded = "SELECT count(*) FROM monitor_checks c JOIN monitors m ON m.id = c.monitor_id WHERE key = 'shop'";
    let recorded = format!("{recorded} AND checked_at BETWEEN '{locked_at}' AND '{killed_at}'");
    assert!(db.get::<i64>(&recorded).await > 3, "and recorded");
    is_recorded_once(&db).await;
}

#[tokio::test]
async fn a_transaction_of_a_frozen_one_holds_up_nobody() {
    let db = TestDb::new().await;
    let (one, other) = (Target::start().await, Target::start().await);
    let homes = homes(&db, [&one, &other], "");
    let [first, second] = two(&homes).await;
    // As a daemon that is frozen in the middle of a batch: its transaction stays open and holds the lease's row.
    let mut held = PgConnection::connect(&db.url).await.unwrap();
    first.signal(Signal::STOP);
    let frozen_at = Instant::now();
    let hold = "SET application_name = 'lamplighter'; BEGIN; SELECT 1 FROM daemon_lease FOR KEY SHARE";
    held.execute(hold).await.unwrap();
    is_active(&second, TAKE_OVER).await;
    assert!(frozen_at.elapsed() < TAKE_OVER, "{:?}", frozen_at.elapsed());
    assert!(second.log().contains("its connection was ended"), "{}", second.log());
    first.signal(Signal::CONT);
    wait_role(&first, "standby").await;
}

#[tokio::test]
async fn an_orderly_end_hands_over_at_once() {
    let db = TestDb::new().await;
    let (one, other) = (Target::start().await, Target::start().await);
    let homes = homes(&db, [&one, &other], "");
    let [mut first, mut second] = two(&homes).await;
    first.wait_status("shop", "up").await;
    // The longest way: a check that does not end must be cut off first.
    one.hold();
    let asked = one.hits("/");
    until("a request is held", MOST, async || (one.hits("/") > asked).then_some(())).await;
    let began = Instant::now();
    first.signal(Signal::TERM);
    until("the other is active", HAND_OVER, async || {
        second.readiness().await.filter(|(_, body)| body["role"] == "active")
    })
    .await;
    let took = began.elapsed();
    println!("handed over {took:?} after SIGTERM, with a check that had to be cut off");
    assert!(took < HAND_OVER, "{took:?}");
    assert_eq!(first.ended().await.code(), Some(0));
    until("the other checks", MOST, async || (other.answers("/") > 1).then_some(())).await;
    assert_eq!(db.get::<i64>("SELECT count(*) FROM monitor_checks WHERE NOT status").await, 0);
    is_recorded_once(&db).await;
    assert_eq!(second.stop().await.code(), Some(0));
}

#[tokio::test]
async fn two_regions_do_not_disturb_each_other() {
    let db = TestDb::new().await;
    let target = Target::start().await;
    // Both share the monitors, so they have the same file (docs/operating.md).
    let [near, far] = ["near", "far"].map(|region| {
        Home::new(&on(&db.url, &format!("daemon.region = {region:?}\n{}", monitor("shop", &target.url("/")))))
    });
    let (mut first, mut second) = (near.start(), far.start());
    is_active(&first, MOST).await;
    is_active(&second, MOST).await;
    let by_region = "SELECT count(DISTINCT region) = 2 FROM monitor_checks";
    wait_sql(&db, "both record", by_region).await;
    assert_eq!(first.stop().await.code(), Some(0));
    assert_eq!(second.readiness().await.unwrap().0, 200);
    assert_eq!(second.stop().await.code(), Some(0));
}
