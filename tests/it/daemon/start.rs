//! How it begins: without a file, with an empty one, on an adopted database, twice at once.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use super::{MOST, incidents, monitor, on, wait_sql};
use crate::support::daemon::{Home, PROGRAM};
use crate::support::postgres::TestDb;
use crate::support::target::{Target, until};

const UUID: &str = include_str!("../data/uuid.sql");

#[tokio::test]
async fn an_empty_file_on_an_empty_database_runs_and_says_so() {
    let db = TestDb::empty().await;
    let home = Home::new("");
    std::fs::write(home.config(), format!("# nothing yet\ndatabase.url = {:?}\n", db.url)).unwrap();
    let started = || {
        let mut command = Command::new(PROGRAM);
        command.arg("--config").arg(home.config()).env("STATE_DIRECTORY", home.state());
        command
    };
    // The one thing that the file must say here is the port: the default one may be taken.
    std::fs::write(home.config(), format!("server.listen = \"127.0.0.1:0\"\ndatabase.url = {:?}\n", db.url)).unwrap();
    let mut run = started();
    run.arg("run");
    let mut daemon = home.start_as(run);
    let address = daemon.address().await;
    assert!(daemon.log().contains("is running on the database of database.url"), "{}", daemon.log());
    assert!(daemon.log().contains(&format!("{address}/readyz")));
    let status = started().arg("status").output().unwrap();
    let text = String::from_utf8(status.stdout).unwrap();
    assert!(status.status.success() && text.contains("No monitors yet"), "{text}");
    // `wait_ready`: the table of partitions and the first merge may still be on their way.
    daemon.wait_ready("it is ready", |status, body| status == 200 && body["role"] == "active").await;
    assert_eq!(db.get::<i64>("SELECT count(*) FROM users WHERE plan = 'system'").await, 1);
    assert_eq!(daemon.stop().await.code(), Some(0));
}

#[tokio::test]
async fn the_uuid_database_of_another_tool_is_adopted_and_watched() {
    let db = TestDb::empty().await;
    let target = Target::start().await;
    db.sql(UUID).await;
    let rows = db.get::<i64>("SELECT count(*) FROM monitor_checks").await;
    assert!(rows > 0);
    // The sites of that file are not to be asked; one of them is ours.
    db.sql("UPDATE monitors SET is_active = false").await;
    let url = target.url("/adopted");
    db.sql(&format!("UPDATE monitors SET is_active = true, interval_seconds = 1, url = '{url}' WHERE name = 'Site 7'"))
        .await;
    let home = Home::new(&on(&db.url, ""));
    let mut daemon = home.start();
    daemon.wait_status("Site 7", "up").await;
    until("three checks", MOST, async || (target.answers("/adopted") >= 3).then_some(())).await;
    assert_eq!(daemon.stop().await.code(), Some(0));
    assert_eq!(db.get::<i64>("SELECT count(*) FROM monitors").await, 100);
    let now = db.get::<i64>("SELECT count(*) FROM monitor_checks").await;
    assert_eq!(now, rows + i64::try_from(target.all_answers()).unwrap(), "every row of before and every one of ours");
    assert_eq!(db.get::<i64>("SELECT count(*) FROM incidents WHERE status = 'active'").await, 0);
    assert_eq!(db.get::<i64>("SELECT count(*) FROM incidents WHERE status = 'open'").await, 3);
    assert!(incidents(&db).await.is_empty(), "the incidents of before are nobody's but their owner's");
}

#[tokio::test]
async fn a_second_daemon_on_the_state_directory_names_the_first() {
    let db = TestDb::new().await;
    let target = Target::start().await;
    let home = Home::new(&on(&db.url, &monitor("a", &target.url("/a"))));
    let mut daemon = home.start();
    daemon.wait_status("a", "up").await;
    let mut second = home.start();
    assert_eq!(second.ended().await.code(), Some(69));
    assert!(second.log().contains(&format!("(pid {})", daemon.pid())), "{}", second.log());
    // The first one's socket was not touched.
    daemon.wait_status("a", "up").await;
    assert_eq!(daemon.stop().await.code(), Some(0));
    assert!(!home.socket().exists());
}

#[tokio::test]
async fn a_daemon_with_a_state_directory_of_its_own_stands_by_and_takes_over() {
    let db = TestDb::new().await;
    let target = Target::start().await;
    let config = on(&db.url, &monitor("a", &target.url("/a")));
    let (first_home, second_home) = (Home::new(&config), Home::new(&config));
    let mut first = first_home.start();
    first.wait_status("a", "up").await;
    let mut second = second_home.start();
    second.wait_ready("the second stands by", |status, body| status == 503 && body["role"] == "standby").await;
    let mut reload = second_home.command(&["reload"]);
    let answer = tokio::task::spawn_blocking(move || reload.output().unwrap()).await.unwrap();
    assert_eq!(answer.status.code(), Some(1), "a standby answers at once that it is none");
    assert_eq!(first.stop().await.code(), Some(0));
    let asked = target.hits("/a");
    second.wait_ready("the second is active", |status, body| status == 200 && body["role"] == "active").await;
    until("the second checks", MOST, async || (target.hits("/a") > asked + 1).then_some(())).await;
    assert_eq!(second.stop().await.code(), Some(0));
    let rows = db.get::<i64>("SELECT count(*) FROM monitor_checks").await;
    assert_eq!(rows, i64::try_from(target.all_answers()).unwrap());
}

#[tokio::test]
async fn the_admin_socket_is_private_and_ends_with_the_daemon() {
    let db = TestDb::new().await;
    let home = Home::new(&on(&db.url, ""));
    // What a daemon that was killed leaves behind.
    std::fs::create_dir_all(home.state()).unwrap();
    drop(std::os::unix::net::UnixListener::bind(home.socket()).unwrap());
    let mut daemon = home.start();
    daemon.overview().await;
    let mode = std::fs::metadata(home.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    wait_sql(&db, "the lease is taken", "SELECT count(*) = 1 FROM daemon_lease").await;
    assert_eq!(daemon.stop().await.code(), Some(0));
    assert!(!home.socket().exists());
}

/// An adoption may take many minutes: the log and `/readyz` say how far it is.
#[tokio::test]
async fn an_adoption_that_takes_long_is_told() {
    let db = TestDb::empty().await;
    let held = crate::store::adoption::held_after_moving(&db).await;
    let home = Home::new(&on(&db.url, ""));
    let daemon = home.start();
    let told = "adopting the database: all 200000 checks are moved into partitions, and rolled up now";
    daemon
        .wait_ready("it says how far it is", |status, body| {
            let reasons = body["reasons"].as_array().unwrap();
            status == 503 && reasons.iter().any(|reason| reason["detail"] == told)
        })
        .await;
    assert!(daemon.log().contains(told), "{}", daemon.log());
    drop(held);
    daemon.wait_ready("it is ready", |status, _| status == 200).await;
    assert_eq!(db.get::<i64>("SELECT count(*) FROM monitor_checks").await, 200_000);
}
