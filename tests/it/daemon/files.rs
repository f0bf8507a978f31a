//! The file: edited, broken, emptied, deleted, and what its monitors' histories hang on.

use std::time::{Duration, Instant};

use super::{MOST, monitor, on, wait_sql};
use crate::support::daemon::{Home, has_code};
use crate::support::postgres::TestDb;
use crate::support::target::{Target, until};

/// "Within two seconds" (contract, section 3), and what a machine that runs other tests beside this one may add.
const SOON: Duration = Duration::from_millis(3500);

#[tokio::test]
async fn an_edited_file_changes_what_is_checked_within_two_seconds() {
    let db = TestDb::new().await;
    let target = Target::start().await;
    let a = monitor("a", &target.url("/a"));
    let home = Home::new(&on(&db.url, &a));
    let mut daemon = home.start();
    daemon.wait_status("a", "up").await;

    let began = Instant::now();
    home.write(&on(&db.url, &(a.clone() + &monitor("b", &target.url("/b")))));
    until("the new monitor is checked", SOON, async || (target.hits("/b") > 0).then_some(())).await;
    println!("save to first check: {:?}", began.elapsed());

    // An editor that writes in place, not by rename.
    let text = std::fs::read_to_string(home.config()).unwrap().replace("/b\"", "/c\"");
    std::fs::write(home.config(), text).unwrap();
    until("the other address is checked", SOON, async || (target.hits("/c") > 0).then_some(())).await;
    let asked = target.hits("/b");

    // A fragment of config.d that appears and goes.
    let folder = home.path().join("config.d");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("10-more.toml"), monitor("d", &target.url("/d"))).unwrap();
    until("the fragment counts", SOON, async || (target.hits("/d") > 0).then_some(())).await;
    std::fs::remove_file(folder.join("10-more.toml")).unwrap();
    wait_sql(&db, "d is archived", "SELECT archived_at IS NOT NULL FROM monitors WHERE key = 'd'").await;
    until("d is no longer watched", MOST, async || {
        (daemon.try_overview()?["monitors"].as_array()?.len() == 2).then_some(())
    })
    .await;
    let d = target.hits("/d");
    let c = target.hits("/c");
    until("c goes on", MOST, async || (target.hits("/c") > c + 2).then_some(())).await;
    assert_eq!((target.hits("/b"), target.hits("/d")), (asked, d));

    // An unchanged monitor keeps its phase through all of this: it was asked every second, and never twice. (The first
    // check comes at once, not in the phase.)
    let times = target.times();
    for pair in times["/a"][1..].windows(2) {
        let gap = (pair[1] - pair[0]).num_milliseconds();
        assert!((500..1800).contains(&gap), "a was asked after {gap} ms: {:?}", times["/a"]);
    }
    assert_eq!(daemon.stop().await.code(), Some(0));
}

#[tokio::test]
async fn a_monitor_that_leaves_the_file_is_archived_and_returns_with_its_history() {
    let db = TestDb::new().await;
    let target = Target::start().await;
    let (a, b) = (monitor("a", &target.url("/a")), monitor("b", &target.url("/b")));
    let home = Home::new(&on(&db.url, &(a.clone() + &b)));
    let mut daemon = home.start();
    daemon.wait_status("a", "up").await;
    daemon.wait_status("b", "up").await;
    wait_sql(
        &db,
        "b has rows",
        "SELECT count(*) > 1 FROM monitor_checks c JOIN monitors m ON m.id = monitor_id WHERE key = 'b'",
    )
    .await;
    let id: uuid::Uuid = db.get("SELECT id FROM monitors WHERE key = 'b'").await;

    home.write(&on(&db.url, &a));
    wait_sql(&db, "b is archived", "SELECT archived_at IS NOT NULL FROM monitors WHERE key = 'b'").await;
    until("b is not watched", MOST, async || (daemon.try_overview()?["monitors"].as_array()?.len() == 1).then_some(()))
        .await;
    let before = db.get::<i64>(&format!("SELECT count(*) FROM monitor_checks WHERE monitor_id = '{id}'")).await;

    home.write(&on(&db.url, &(a.clone() + &b)));
    wait_sql(
        &db,
        "b goes on where it was",
        &format!("SELECT count(*) > {before} + 1 FROM monitor_checks WHERE monitor_id = '{id}'"),
    )
    .await;
    assert!(db.get::<bool>("SELECT archived_at IS NULL FROM monitors WHERE key = 'b'").await);

    // Another id, the same history.
    let renamed = b.replace("id = \"b\"", "id = \"c\"\nrenamed_from = \"b\"");
    home.write(&on(&db.url, &(a + &renamed)));
    daemon.wait_status("c", "up").await;
    wait_sql(
        &db,
        "c has b's row",
        &format!("SELECT key = 'c' AND archived_at IS NULL FROM monitors WHERE id = '{id}'"),
    )
    .await;
    assert_eq!(db.get::<i64>("SELECT count(*) FROM monitors").await, 2);
    assert_eq!(daemon.stop().await.code(), Some(0));
    let answers = i64::try_from(target.all_answers()).unwrap();
    assert_eq!(db.get::<i64>("SELECT count(*) FROM monitor_checks").await, answers);
}

#[tokio::test]
async fn a_bad_file_changes_nothing_and_the_fixed_one_is_applied() {
    let db = TestDb::new().await;
    let target = Target::start().await;
    let a = monitor("a", &target.url("/a"));
    let home = Home::new(&on(&db.url, &a));
    let mut daemon = home.start();
    daemon.wait_status("a", "up").await;

    // A valid new monitor, and a typo behind it.
    home.write(&on(&db.url, &format!("{a}{}colour = \"red\"\n", monitor("b", &target.url("/b")))));
    daemon.wait_ready("it is refused", |status, body| status == 200 && has_code(body, "config_refused")).await;
    let reload = home.output(&["reload"]);
    let text = String::from_utf8(reload.stderr).unwrap();
    assert_eq!(reload.status.code(), Some(1), "{text}");
    let place = format!("{}:14:1:", home.config().display());
    assert!(text.contains(&place) && text.contains("colour"), "{place}\n{text}");
    assert!(daemon.log().contains(&place), "{}", daemon.log());
    let status = home.output(&["status"]);
    assert!(String::from_utf8_lossy(&status.stdout).contains("config_refused"));
    goes_on(&target, "/a").await;
    assert_eq!(target.hits("/b"), 0);

    // No TOML at all.
    std::fs::write(home.config(), "<<<<<<< ours\n").unwrap();
    daemon.wait_ready("that is refused, too", |_, body| body["notes"].to_string().contains(":1:")).await;
    goes_on(&target, "/a").await;

    home.write(&on(&db.url, &(a.clone() + &monitor("b", &target.url("/b")))));
    daemon.wait_status("b", "up").await;
    daemon.wait_ready("nothing is refused", |status, body| status == 200 && !has_code(body, "config_refused")).await;
    let reload = home.output(&["reload"]);
    assert_eq!(reload.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&reload.stdout), "applied: 0 added, 0 changed, 0 removed\n");

    // What needs a restart is told, the rest is applied.
    let text = std::fs::read_to_string(home.config()).unwrap().replace("127.0.0.1:0", "127.0.0.1:1");
    std::fs::write(home.config(), text.replace("/b\"", "/c\"")).unwrap();
    until("the rest is applied", MOST, async || (target.hits("/c") > 0).then_some(())).await;
    until("it is told", MOST, async || daemon.log().contains("[server] has changed").then_some(())).await;
    assert_eq!(daemon.stop().await.code(), Some(0));
}

#[tokio::test]
async fn a_deleted_and_an_emptied_file_change_nothing() {
    let db = TestDb::new().await;
    let target = Target::start().await;
    let config = on(&db.url, &monitor("a", &target.url("/a")));
    let home = Home::new(&config);
    let mut daemon = home.start();
    daemon.wait_status("a", "up").await;
    let refused = |status: u16, body: &serde_json::Value| status == 200 && has_code(body, "config_refused");
    let fine = |status: u16, body: &serde_json::Value| status == 200 && !has_code(body, "config_refused");

    std::fs::remove_file(home.config()).unwrap();
    daemon.wait_ready("the loss is told", refused).await;
    goes_on(&target, "/a").await;
    home.write(&config);
    daemon.wait_ready("it is back", fine).await;

    for nothing in ["", " \n\n", "# all gone\n"] {
        std::fs::write(home.config(), nothing).unwrap();
        daemon.wait_ready(&format!("{nothing:?} is told"), refused).await;
        goes_on(&target, "/a").await;
        home.write(&config);
        daemon.wait_ready("it is back again", fine).await;
    }
    assert!(db.get::<bool>("SELECT bool_and(archived_at IS NULL) FROM monitors").await);
    assert_eq!(daemon.stop().await.code(), Some(0));
}

#[tokio::test]
async fn sighup_reads_the_file_again() {
    let db = TestDb::new().await;
    let target = Target::start().await;
    let home = Home::new(&on(&db.url, &monitor("a", &target.url("/a"))));
    let daemon = home.start();
    daemon.wait_status("a", "up").await;
    let applied = || daemon.log().matches("configuration applied").count();
    let before = applied();
    daemon.signal(rustix::process::Signal::HUP);
    until("it is read", MOST, async || (applied() > before).then_some(())).await;
    goes_on(&target, "/a").await;
}

async fn goes_on(target: &Target, path: &str) {
    let asked = target.hits(path);
    until(&format!("{path} is asked on"), MOST, async || (target.hits(path) > asked + 1).then_some(())).await;
}
