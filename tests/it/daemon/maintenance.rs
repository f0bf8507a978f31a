//! Maintenance windows of file and rows: they begin, mark, end, and survive what happens to the daemon.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use lamplighter::model::SYSTEM_USER;

use super::{MOST, insert, monitor, on, wait_incident, wait_sql};
use crate::support::daemon::{Daemon, Home, has_code};
use crate::support::postgres::{OwnPostgres, TestDb};
use crate::support::target::{Target, until};

/// A window of the file.
fn window(id: &str, starts_at: DateTime<Utc>, duration: &str, rest: &str) -> String {
    let at = starts_at.format("%FT%TZ");
    format!("[[maintenance]]\nid = {id:?}\nstarts_at = \"{at}\"\nduration = {duration:?}\n{rest}\n")
}

#[derive(Debug, PartialEq, sqlx::FromRow)]
struct Span {
    maintenance_id: uuid::Uuid,
    from_at: DateTime<Utc>,
    to_at: DateTime<Utc>,
    excluded: bool,
}

async fn spans(db: &TestDb) -> Vec<Span> {
    let sql = "SELECT maintenance_id, from_at, to_at, excluded FROM maintenance_spans ORDER BY from_at";
    sqlx::query_as(sql).fetch_all(&db.pool).await.unwrap()
}

async fn wait_spans(db: &TestDb, count: usize) -> Vec<Span> {
    until(&format!("there are {count} spans"), MOST, async || {
        Some(spans(db).await).filter(|spans| spans.len() == count)
    })
    .await
}

fn whole(time: DateTime<Utc>) -> DateTime<Utc> {
    DateTime::from_timestamp(time.timestamp(), 0).unwrap()
}

#[tokio::test]
async fn a_window_of_the_file_begins_marks_and_ends() {
    let db = TestDb::new().await;
    let target = Target::start().await;
    let starts_at = whole(Utc::now() + TimeDelta::seconds(5));
    let shop = monitor("shop", &target.url("/shop")) + "confirmations = 1\n";
    let night = window("night", starts_at, "20s", "monitors = [\"shop\"]");
    let home = Home::new(&on(&db.url, &(shop + &monitor("other", &target.url("/other")) + &night)));
    let mut daemon = home.start();
    daemon.wait_status("shop", "up").await;
    let row = daemon.wait_status("shop", "maintenance").await;
    assert_eq!((&row["beneath"], row["maintenance"].is_object()), (&"up".into(), true), "{row}");
    wait_sql(&db, "its status says so", "SELECT status = 'maintenance' FROM monitors WHERE key = 'shop'").await;
    let planned = starts_at + TimeDelta::seconds(20);
    let span = wait_spans(&db, 1).await.pop().unwrap();
    assert_eq!((span.from_at, span.to_at, span.excluded), (starts_at, planned, true));
    let of_row = "SELECT monitors = ARRAY(SELECT id FROM monitors WHERE key = 'shop') AND source = 'file' \
        AND user_id = '00000000-0000-4000-8000-000000000001' FROM maintenances WHERE key = 'night'";
    assert!(db.get::<bool>(of_row).await);

    let status = String::from_utf8(home.output(&["status"]).stdout).unwrap();
    assert!(
        status.contains("maintenance (up)") && status.contains("maintenance: night, 1 monitor, until "),
        "{status}"
    );

    target.answer(500);
    let open = wait_incident(&db, 2, false).await;
    let marked = "SELECT count(*) = 1 FROM incidents i JOIN monitors m ON m.id = i.monitor_id \
        WHERE m.key = 'shop' AND i.maintenance_id = (SELECT id FROM maintenances)";
    wait_sql(&db, "the incident in the window is marked", marked).await;
    let unmarked = "SELECT count(*) = 1 FROM incidents WHERE maintenance_id IS NULL";
    assert!(db.get::<bool>(unmarked).await, "that of the monitor beside it is not");
    assert!(open.resolved_at.is_none());
    assert!(daemon.log().contains("under maintenance: "), "{}", daemon.log());
    daemon.wait_status("other", "down").await;

    let row = daemon.wait_status("shop", "down").await;
    assert!(Utc::now() >= planned && row["maintenance"].is_null(), "{row}");
    wait_sql(&db, "its status follows", "SELECT status = 'down' FROM monitors WHERE key = 'shop'").await;
    assert!(db.get::<bool>(marked).await, "the mark stays");
    let during = format!(
        "SELECT count(*) >= 3 FROM monitor_checks c JOIN monitors m ON m.id = c.monitor_id WHERE m.key = 'shop' \
         AND c.checked_at >= '{starts_at}' AND c.checked_at < '{planned}'"
    );
    assert!(db.get::<bool>(&during).await, "checks went on");
    target.answer(200);
    wait_sql(&db, "both end", "SELECT count(*) = 2 FROM incidents WHERE resolve_reason = 'recovered'").await;
    target.answer(500);
    wait_sql(
        &db,
        "the next is like any other",
        "SELECT count(*) = 2 FROM incidents WHERE resolved_at IS NULL \
        AND maintenance_id IS NULL",
    )
    .await;
    assert_eq!(spans(&db).await, [span]);
    assert_eq!(daemon.stop().await.code(), Some(0));
}

#[tokio::test]
async fn rows_of_a_user_cover_that_users_monitors_and_bad_ones_say_why() {
    let db = TestDb::new().await;
    let target = Target::start().await;
    let home = Home::new(&on(&db.url, ""));
    let mut daemon = home.start();
    daemon.wait_ready("it is ready", |status, _| status == 200).await;
    let mine = insert(&db, "mine", &target.url("/mine")).await;
    let alice: uuid::Uuid = db.get("INSERT INTO users (email) VALUES ('alice@example.com') RETURNING id").await;
    db.sql(&format!(
        "INSERT INTO monitors (user_id, name, url, interval_seconds) VALUES ('{alice}', 'hers', '{}', 1)",
        target.url("/hers")
    ))
    .await;
    daemon.wait_status("mine", "up").await;
    daemon.wait_status("hers", "up").await;

    // She names a monitor that is not hers: it stays as it is.
    let before = Utc::now();
    db.sql(&format!(
        "INSERT INTO maintenances (user_id, name, starts_at, duration_seconds, exclude_from_uptime) \
         VALUES ('{alice}', 'all of hers', now() - interval '1 hour', 7200, false);
         INSERT INTO maintenances (user_id, name, monitors, starts_at, duration_seconds) \
         VALUES ('{alice}', 'not hers', ARRAY['{mine}'::uuid], now() - interval '1 hour', 7200);
         INSERT INTO maintenances (user_id, name, starts_at, duration_seconds, rrule) \
         VALUES ('{alice}', 'hostile', now(), 60, 'FREQ=SECONDLY'), ('{alice}', 'never', 'infinity', 60, NULL);
         INSERT INTO maintenances (user_id, name, starts_at, duration_seconds, timezone) \
         VALUES ('{alice}', 'nowhere', now(), 60, 'Europe/Nowhere'), ('{alice}', 'nothing', now(), 0, 'UTC')"
    ))
    .await;
    daemon.wait_status("hers", "maintenance").await;
    let took = Utc::now() - before;
    println!("insert to maintenance: {took}");
    assert!(took < TimeDelta::milliseconds(3500), "{took}");
    for (name, reason) in [
        ("hostile", "rrule: FREQ=SECONDLY is too fine%"),
        ("never", "starts_at: is out of range"),
        ("nowhere", "timezone: unknown time zone \"Europe/Nowhere\"%"),
        ("nothing", "duration_seconds: must be 1 second to 366 days"),
    ] {
        let told = format!("SELECT invalid_reason LIKE '{reason}' IS TRUE FROM maintenances WHERE name = '{name}'");
        wait_sql(&db, name, &told).await;
    }
    daemon.wait_ready("it is noted", |status, body| status == 200 && has_code(body, "invalid_maintenances")).await;
    let span = wait_spans(&db, 1).await.pop().unwrap();
    assert!(!span.excluded && span.from_at > before - TimeDelta::seconds(3), "time that has passed stays: {span:?}");
    daemon.wait_status("mine", "up").await;

    // Mended, it counts; archived, it ends.
    db.sql("UPDATE maintenances SET rrule = 'FREQ=DAILY', duration_seconds = 3600 WHERE name = 'hostile'").await;
    wait_sql(&db, "its reason is gone", "SELECT invalid_reason IS NULL FROM maintenances WHERE name = 'hostile'").await;
    wait_spans(&db, 2).await;
    db.sql("UPDATE maintenances SET archived_at = now()").await;
    daemon.wait_status("hers", "up").await;
    let ended = "SELECT count(*) = 2 FROM maintenance_spans WHERE to_at <= now() + interval '1 second'";
    wait_sql(&db, "its spans have their true ends", ended).await;
    db.sql(&format!("DELETE FROM maintenances WHERE user_id = '{alice}'")).await;
    assert_eq!(spans(&db).await.len(), 2, "history stays");
    assert_eq!(daemon.stop().await.code(), Some(0));
}

#[tokio::test]
async fn a_reload_adds_changes_and_removes_a_window() {
    let db = TestDb::new().await;
    let target = Target::start().await;
    let shop = monitor("shop", &target.url("/shop")) + "tags = [\"prod\"]\n";
    let home = Home::new(&on(&db.url, &shop));
    let mut daemon = home.start();
    daemon.wait_status("shop", "up").await;
    let began = whole(Utc::now()) - TimeDelta::seconds(60);
    home.write(&on(&db.url, &(shop.clone() + &window("night", began, "1h", "tags = [\"prod\"]"))));
    daemon.wait_status("shop", "maintenance").await;
    let first = wait_spans(&db, 1).await.pop().unwrap();
    assert_eq!(first.to_at, began + TimeDelta::hours(1));
    assert!(first.from_at > began + TimeDelta::seconds(30), "from when it was known: {first:?}");

    // A bad file changes nothing.
    home.write(&on(&db.url, &(shop.clone() + &window("night", began, "1h", "monitors = [\"shopp\"]"))));
    let refused = home.output(&["reload"]);
    let text = String::from_utf8(refused.stderr).unwrap() + &String::from_utf8(refused.stdout).unwrap();
    assert!(text.contains("no monitor has the id \"shopp\", did you mean \"shop\"?"), "{text}");
    daemon.wait_status("shop", "maintenance").await;

    home.write(&on(
        &db.url,
        &(shop.clone() + &window("night", began, "2h", "tags = [\"prod\"]\nexclude_from_uptime = false")),
    ));
    until("it is longer, and counted", MOST, async || {
        let span = spans(&db).await.pop()?;
        let longer = Span { to_at: began + TimeDelta::hours(2), excluded: false, ..span };
        (longer.from_at == first.from_at && spans(&db).await == [longer]).then_some(())
    })
    .await;
    // The file's row is the file's.
    db.sql("UPDATE maintenances SET archived_at = now(), duration_seconds = 1").await;

    home.write(&on(&db.url, &shop));
    daemon.wait_status("shop", "up").await;
    wait_sql(&db, "it is archived", "SELECT archived_at IS NOT NULL FROM maintenances WHERE key = 'night'").await;
    wait_sql(&db, "and ended", "SELECT to_at <= now() FROM maintenance_spans").await;
    assert_eq!(wait_spans(&db, 1).await[0].from_at, first.from_at);
    assert_eq!(daemon.stop().await.code(), Some(0));
}

#[tokio::test]
async fn it_survives_kills_and_what_passed_meanwhile_is_caught_up() {
    let db = TestDb::new().await;
    let target = Target::start().await;
    let began = whole(Utc::now()) - TimeDelta::seconds(60);
    let shop = monitor("shop", &target.url("/shop")) + "confirmations = 1\n";
    let home = Home::new(&on(&db.url, &(shop + &window("night", began, "1h", ""))));
    let mut daemon = home.start();
    daemon.wait_status("shop", "maintenance").await;
    target.answer(500);
    let open = wait_incident(&db, 1, false).await;
    let span = wait_spans(&db, 1).await.pop().unwrap();
    daemon.kill().await;
    // A window that passes while nobody is there, by the database's clock.
    db.sql(&format!(
        "INSERT INTO maintenances (user_id, name, starts_at, duration_seconds) \
         VALUES ('{}', 'missed', date_trunc('second', now()) + interval '1 second', 1)",
        SYSTEM_USER
    ))
    .await;
    wait_sql(
        &db,
        "it is over",
        "SELECT starts_at + interval '1.2 seconds' < now() FROM maintenances WHERE name = 'missed'",
    )
    .await;

    let mut daemon = home.start();
    let row = daemon.wait_status("shop", "maintenance").await;
    assert_eq!(row["beneath"], "down", "{row}");
    let all = wait_spans(&db, 2).await;
    assert_eq!(all[0], span, "the same span goes on");
    let missed = "SELECT s.from_at = w.starts_at AND s.to_at = w.starts_at + interval '1 second' \
        FROM maintenance_spans s JOIN maintenances w ON w.id = s.maintenance_id WHERE w.name = 'missed'";
    assert!(db.get::<bool>(missed).await, "{all:?}");
    assert_eq!(wait_incident(&db, 1, false).await.uid, open.uid);
    assert_eq!(daemon.stop().await.code(), Some(0));
}

#[tokio::test]
async fn a_standby_takes_over_inside_a_window() {
    let db = TestDb::new().await;
    let target = Target::start().await;
    let began = whole(Utc::now()) - TimeDelta::seconds(60);
    let file = on(&db.url, &(monitor("shop", &target.url("/shop")) + &window("night", began, "1h", "")));
    let homes = [Home::new(&file), Home::new(&file)];
    let mut first: Daemon = homes[0].start();
    first.wait_status("shop", "maintenance").await;
    let span = wait_spans(&db, 1).await;
    let mut second = homes[1].start();
    second.wait_ready("it waits", |status, body| status == 503 && body["role"] == "standby").await;
    first.kill().await;
    second.wait_ready("it is active", |status, body| status == 200 && body["role"] == "active").await;
    second.wait_status("shop", "maintenance").await;
    // Nothing may have been recorded yet.
    let checked = "SELECT coalesce(max(checked_at) > now() - interval '2 seconds', false) FROM monitor_checks";
    wait_sql(&db, "it checks", checked).await;
    assert_eq!(spans(&db).await, span);
    homes[1].write(&on(&db.url, &monitor("shop", &target.url("/shop"))));
    second.wait_status("shop", "up").await;
    until("the span is ended by the second", Duration::from_secs(20), async || {
        let ended = spans(&db).await;
        (ended.len() == 1 && ended[0].to_at <= Utc::now() && ended[0].from_at == span[0].from_at).then_some(())
    })
    .await;
    assert_eq!(second.stop().await.code(), Some(0));
}

/// Stops Postgres after the daemon has learned of a window of 8 s that is a row, and before it begins; gives its
/// beginning. How long that takes is the machine's affair: if it begins too early it is taken back, and the next is given
/// twice the time.
async fn away_before_a_window(server: &OwnPostgres, daemon: &Daemon) -> DateTime<Utc> {
    let wait_known = async |count: usize| {
        until(&format!("the daemon knows of {count} windows"), MOST, async || {
            (daemon.try_overview()?["maintenances"].as_array()?.len() == count).then_some(())
        })
        .await;
    };
    for ahead in [8, 16, 32, 64] {
        let insert = format!(
            "INSERT INTO maintenances (user_id, name, starts_at, duration_seconds) VALUES \
             ('{SYSTEM_USER}', 'away', date_trunc('second', now()) + interval '{ahead} seconds', 8) RETURNING starts_at"
        );
        let starts_at: DateTime<Utc> = server.get(&insert).await;
        wait_known(1).await;
        server.stop();
        if Utc::now() < starts_at {
            return starts_at;
        }
        server.resume();
        server.sql("DELETE FROM maintenances").await;
        wait_known(0).await;
        daemon.wait_status("shop", "up").await;
    }
    panic!("this machine is too slow for a window that begins in 64 s");
}

#[tokio::test]
async fn a_window_of_a_row_begins_and_ends_while_postgres_is_away() {
    let server = OwnPostgres::start();
    let target = Target::start().await;
    let home = Home::new(&on(&server.url, &monitor("shop", &target.url("/shop"))));
    let mut daemon = home.start();
    daemon.wait_status("shop", "up").await;
    let starts_at = away_before_a_window(&server, &daemon).await;
    tokio::time::sleep((starts_at - Utc::now()).to_std().unwrap_or_default()).await;
    daemon.wait_status("shop", "maintenance").await;
    daemon.wait_status("shop", "up").await;
    assert!(Utc::now() >= starts_at + TimeDelta::seconds(8));
    server.resume();
    daemon.wait_ready("it is ready again", |status, _| status == 200).await;
    // It asks again 30 s after it last failed, at the most.
    until("it became a span", Duration::from_secs(60), async || {
        let as_planned = format!(
            "SELECT count(*) = 1 FROM maintenance_spans WHERE from_at = '{starts_at}' \
             AND to_at = from_at + interval '8 seconds'"
        );
        server.get::<bool>(&as_planned).await.then_some(())
    })
    .await;
    assert_eq!(daemon.stop().await.code(), Some(0));
}
