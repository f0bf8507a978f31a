//! Guards against archiving most monitors by mistake: at a reload, and at a start that compares with the database.

use super::{MOST, on, wait_sql};
use crate::support::daemon::{Daemon, Home, has_code};
use crate::support::postgres::TestDb;
use crate::support::target::{Target, until};

/// Monitors that are checked every second, in names that sort.
fn many(target: &Target, range: std::ops::Range<usize>) -> String {
    range.map(|number| super::monitor(&format!("m{number:02}"), &target.url(&format!("/m{number:02}")))).collect()
}

fn note(body: &serde_json::Value, code: &str) -> Option<String> {
    let notes = body["notes"].as_array()?;
    Some(notes.iter().find(|note| note["code"] == code)?["detail"].as_str()?.to_owned())
}

async fn living(db: &TestDb) -> i64 {
    db.get("SELECT count(*) FROM monitors WHERE source = 'file' AND archived_at IS NULL").await
}

async fn watched(daemon: &Daemon, count: usize) {
    until(&format!("{count} monitors are watched"), MOST, async || {
        (daemon.try_overview()?["monitors"].as_array()?.len() == count).then_some(())
    })
    .await;
}

async fn asked_on(target: &Target, path: &str) {
    let before = target.hits(path);
    until(&format!("{path} is asked on"), MOST, async || (target.hits(path) > before + 1).then_some(())).await;
}

#[tokio::test]
async fn a_reload_that_would_archive_most_is_refused_until_it_is_forced() {
    let db = TestDb::new().await;
    let target = Target::start().await;
    let home = Home::new(&on(&db.url, &many(&target, 0..24)));
    let mut daemon = home.start();
    daemon.wait_status("m23", "up").await;

    home.write(&on(&db.url, &many(&target, 0..3)));
    daemon.wait_ready("it is told", |status, body| status == 200 && has_code(body, "archive_held")).await;
    let (_, body) = daemon.readiness().await.unwrap();
    let told = note(&body, "archive_held").unwrap();
    assert!(told.contains("21 of 24 monitors (m03, m04, m05, m06, m07 and 16 more)"), "{told}");
    assert!(told.contains("lamplighter reload --force"), "{told}");
    assert!(has_code(&body, "config_refused"), "{body}");
    let reload = home.output(&["reload"]);
    let text = String::from_utf8(reload.stderr).unwrap();
    assert_eq!(reload.status.code(), Some(1), "{text}");
    assert!(text.contains("21 of 24") && text.contains("reload --force"), "{text}");
    assert!(daemon.log().contains("21 of 24"), "{}", daemon.log());
    let status = home.output(&["status"]);
    assert!(String::from_utf8_lossy(&status.stdout).contains("archive_held"));
    asked_on(&target, "/m23").await;
    assert_eq!(living(&db).await, 24);

    let forced = home.output(&["reload", "--force"]);
    let text = String::from_utf8_lossy(&forced.stdout).into_owned();
    assert_eq!((forced.status.code(), text.as_str()), (Some(0), "applied: 0 added, 0 changed, 21 removed\n"));
    assert_eq!(living(&db).await, 3);
    watched(&daemon, 3).await;
    assert!(daemon.log().contains("(forced)"), "{}", daemon.log());
    let (_, body) = daemon.readiness().await.unwrap();
    assert!(!has_code(&body, "archive_held") && !has_code(&body, "config_refused"), "{body}");

    // It was for once.
    home.write(&on(&db.url, &many(&target, 0..24)));
    watched(&daemon, 24).await;
    home.write(&on(&db.url, &many(&target, 0..3)));
    daemon.wait_ready("it is refused again", |_, body| has_code(body, "archive_held")).await;
    assert_eq!(living(&db).await, 24);
    assert_eq!(daemon.stop().await.code(), Some(0));
}

#[tokio::test]
async fn a_start_that_would_archive_most_runs_them_from_their_rows() {
    let db = TestDb::new().await;
    let target = Target::start().await;
    let fragment = |home: &Home| home.path().join("config.d/monitors.toml");
    let home = Home::new(&on(&db.url, ""));
    std::fs::create_dir(home.path().join("config.d")).unwrap();
    // One needs a secret that lies beside the file.
    std::fs::write(home.path().join("token"), "sesame-opens-the-cave\n").unwrap();
    let secret = "headers = { x-more = \"1\" }\nauth = { bearer = { file = \"token\" } }\n";
    let text = many(&target, 0..22) + &super::monitor("secret", &target.url("/secret")) + secret;
    std::fs::write(fragment(&home), &text).unwrap();
    let mut daemon = home.start();
    daemon.wait_status("secret", "up").await;
    daemon.wait_status("m21", "up").await;
    assert_eq!(daemon.stop().await.code(), Some(0));

    // Not mounted this time.
    std::fs::rename(home.path().join("config.d"), home.path().join("gone")).unwrap();
    let mut daemon = home.start();
    daemon.wait_ready("it is told", |status, body| status == 200 && has_code(body, "archive_held")).await;
    let (_, body) = daemon.readiness().await.unwrap();
    assert!(note(&body, "archive_held").unwrap().contains("23 of 23"), "{body}");
    watched(&daemon, 23).await;
    asked_on(&target, "/m21").await;
    asked_on(&target, "/secret").await;
    let secret = daemon.wait_status("secret", "up").await;
    assert_eq!(secret["source"], "file");
    assert_eq!(living(&db).await, 23);
    assert!(db.get::<bool>("SELECT bool_and(invalid_reason IS NULL) FROM monitors").await);
    assert!(!daemon.log().contains("sesame"), "{}", daemon.log());

    // It is mounted again: all is as it was, and no history was cut.
    std::fs::rename(home.path().join("gone"), home.path().join("config.d")).unwrap();
    daemon.wait_ready("nothing is held", |status, body| status == 200 && !has_code(body, "archive_held")).await;
    asked_on(&target, "/m00").await;
    assert_eq!(living(&db).await, 23);
    assert_eq!(daemon.stop().await.code(), Some(0));
    assert!(db.get::<bool>("SELECT bool_and(archived_at IS NULL) FROM monitors").await);
}

#[tokio::test]
async fn a_start_without_any_monitor_archives_none_and_a_wrong_file_neither() {
    let db = TestDb::new().await;
    let target = Target::start().await;
    let home = Home::new(&on(&db.url, &many(&target, 0..3)));
    let mut daemon = home.start();
    daemon.wait_status("m02", "up").await;
    assert_eq!(daemon.stop().await.code(), Some(0));

    home.write(&on(&db.url, ""));
    let mut daemon = home.start();
    daemon.wait_ready("it is told", |status, body| status == 200 && has_code(body, "archive_held")).await;
    asked_on(&target, "/m02").await;
    // What SQL writes into a held row is not the file's word: it may not use the file's secrets.
    db.sql("UPDATE monitors SET spec = '{\"auth\": {\"bearer\": \"${HOME}\"}}' WHERE key = 'm01'").await;
    wait_sql(
        &db,
        "it is invalid",
        "SELECT coalesce(invalid_reason, '') LIKE '%not allowed%' FROM monitors WHERE key = 'm01'",
    )
    .await;
    let answer = crate::support::daemon::ask(
        tokio::net::UnixStream::connect(home.socket()).await.unwrap(),
        "POST",
        "/api/v1/reload?force=true",
    )
    .await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(living(&db).await, 0);
    watched(&daemon, 0).await;
    assert_eq!(daemon.stop().await.code(), Some(0));
    // They are archived, so this is no guarded start any more.
    let mut daemon = home.start();
    daemon.wait_ready("it is ready", |status, body| status == 200 && !has_code(body, "archive_held")).await;
    assert_eq!(daemon.stop().await.code(), Some(0));
}
