//! Beside an old application that reads and writes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use lamplighter::store::legacy::{Step, UpgradeOptions};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use tokio::time::sleep;

use super::{LEGACY, LOOSE, is_whole, old, upgrade, upgraded};
use crate::support::postgres::{TestDb, store_at};

/// The path that an old application is given before the upgrade.
async fn application(db: &TestDb) -> PgConnection {
    let mut conn = PgConnection::connect(&db.url).await.unwrap();
    conn.execute("SET search_path = legacy, public").await.unwrap();
    conn
}

/// Reads until it is told to stop; the longest that it had to wait.
async fn reader(mut conn: PgConnection, stop: Arc<AtomicBool>) -> Duration {
    let mut longest = Duration::ZERO;
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        let sql = "SELECT count(*) FROM monitors m JOIN users u ON u.id = m.user_id \
            LEFT JOIN incidents i ON i.monitor_id = m.id AND i.status = 'active'";
        let count: i64 = sqlx::query_scalar(sql).fetch_one(&mut conn).await.unwrap();
        assert!(count > 0);
        longest = longest.max(began.elapsed());
        sleep(Duration::from_millis(2)).await;
    }
    longest
}

/// Writes until the old tables take nothing any more; how often it did.
async fn writer(mut conn: PgConnection, written: Arc<AtomicU32>) {
    for turn in 0..1_000_000_u32 {
        let n = turn % 150 + 1;
        let sql = match turn % 8 {
            0 | 4 => format!("INSERT INTO status_reports (monitor_id, status) VALUES ({n}, 'up')"),
            1 => format!(
                "UPDATE monitors SET status = 'down', uptime = '{}.5%', updated_at = now() WHERE id = {n}",
                turn % 100
            ),
            2 => format!(
                "UPDATE status_reports SET error_message = 'turn {turn}' WHERE id = {}",
                turn * 37 % 100_000 + 1
            ),
            3 => format!("INSERT INTO incidents (user_id, monitor_id, title) VALUES (1, {n}, 'turn {turn}')"),
            5 => format!(
                "WITH u AS (INSERT INTO users (clerk_id, email) VALUES ('t{turn}', 't{turn}@example.com') RETURNING id) \
                INSERT INTO monitors (user_id, url) SELECT id, 'https://t{turn}.example.com' FROM u"
            ),
            6 => format!("DELETE FROM monitors WHERE id = {}", 151 + turn % 50),
            _ => format!("DELETE FROM status_reports WHERE id = {}", turn * 53 % 100_000 + 1),
        };
        match conn.execute(AssertSqlSafe(sql)).await {
            Ok(_) => written.fetch_add(1, Ordering::Relaxed),
            Err(error) => {
                assert!(error.to_string().contains("kept for reading"), "{error}");
                return;
            }
        };
        sleep(Duration::from_millis(1)).await;
    }
}

/// Old rows that are not what the new ones say.
const DIFFERENT: [(&str, &str); 4] = [
    (
        "users",
        "SELECT count(*) FROM legacy.users l FULL JOIN (SELECT * FROM public.users WHERE legacy_id IS NOT NULL) n ON n.legacy_id = l.id \
        WHERE (l.email, l.clerk_id, l.name) IS DISTINCT FROM (n.email, n.clerk_id, n.name)",
    ),
    (
        "monitors",
        "SELECT count(*) FROM legacy.monitors l FULL JOIN (SELECT m.*, u.legacy_id AS owner FROM public.monitors m \
        JOIN public.users u ON u.id = m.user_id) n ON n.legacy_id = l.id \
        WHERE (l.url, l.status, l.uptime, l.user_id, l.updated_at) IS DISTINCT FROM (n.url, n.status, n.uptime, n.owner, n.updated_at AT TIME ZONE 'UTC')",
    ),
    (
        "incidents",
        "SELECT count(*) FROM legacy.incidents l FULL JOIN (SELECT i.*, m.legacy_id AS monitor FROM public.incidents i \
        JOIN public.monitors m ON m.id = i.monitor_id) n ON n.id = l.id \
        WHERE (l.title, l.status = 'active', l.monitor_id) IS DISTINCT FROM (n.title, n.status = 'open', n.monitor)",
    ),
    (
        "status_reports",
        "SELECT count(*) FROM legacy.status_reports l FULL JOIN (SELECT r.*, m.legacy_id AS monitor FROM public.status_reports r \
        JOIN public.monitors m ON m.id = r.monitor_id) n ON n.id = l.id \
        WHERE (l.status, l.error_message, l.checked_at, l.monitor_id) IS DISTINCT FROM (n.status, n.error_message, n.checked_at AT TIME ZONE 'UTC', n.monitor)",
    ),
];

#[tokio::test]
async fn what_is_written_meanwhile_is_there_and_nobody_waits_long() {
    let db = old(LEGACY).await;
    let stop = Arc::new(AtomicBool::new(false));
    let written = Arc::new(AtomicU32::new(0));
    let reading = tokio::spawn(reader(application(&db).await, Arc::clone(&stop)));
    let writing: Vec<_> = [application(&db).await, application(&db).await]
        .into_iter()
        .take(1)
        .map(|conn| tokio::spawn(writer(conn, Arc::clone(&written))))
        .collect();
    let report = upgraded(&db).await;
    for writing in writing {
        writing.await.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    let longest = reading.await.unwrap();
    println!("{} writes beside the upgrade, the longest read took {longest:?}", written.load(Ordering::Relaxed));
    is_whole(&db, &report).await;
    assert!(written.load(Ordering::Relaxed) > 50, "the application hardly came to write");
    for (table, sql) in DIFFERENT {
        assert_eq!(db.get::<i64>(sql).await, 0, "{table}");
    }
    assert!(longest < Duration::from_secs(1), "a reader waited {longest:?}");
}

#[tokio::test]
async fn a_long_transaction_delays_the_switch_and_no_reader() {
    let db = old(LEGACY).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut long = application(&db).await;
    long.execute("BEGIN; SELECT count(*) FROM monitors").await.unwrap();
    let reading = tokio::spawn(reader(application(&db).await, Arc::clone(&stop)));
    let notes = Arc::new(AtomicBool::new(false));
    let (told, store) = (Arc::clone(&notes), store_at(&db.url, "us-east-1", "public"));
    let upgrading = tokio::spawn(async move {
        let mut watch = move |step: Step<'_>| {
            if let Step::Note(text) = step
                && text.contains("pid ")
            {
                told.store(true, Ordering::Relaxed);
            }
        };
        store.upgrade(&UpgradeOptions::default(), &mut watch).await
    });
    while !notes.load(Ordering::Relaxed) {
        assert!(!upgrading.is_finished());
        sleep(Duration::from_millis(20)).await;
    }
    long.execute("COMMIT").await.unwrap();
    is_whole(&db, &upgrading.await.unwrap().unwrap()).await;
    stop.store(true, Ordering::Relaxed);
    let longest = reading.await.unwrap();
    assert!(longest < Duration::from_secs(1), "a reader waited {longest:?}");
}

#[tokio::test]
async fn a_table_that_is_emptied_meanwhile_is_empty() {
    let db = old(LEGACY).await;
    let mut app = application(&db).await;
    let mut emptied = false;
    let store = store_at(&db.url, "us-east-1", "public");
    let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
    let emptying = tokio::spawn(async move {
        receiver.recv().await.unwrap();
        app.execute("TRUNCATE incidents; INSERT INTO incidents (user_id, monitor_id, title) VALUES (1, 1, 'after')")
            .await
            .unwrap();
    });
    let mut watch = |step: Step<'_>| {
        if let Step::Begin { what: "status_reports", .. } = step
            && !emptied
        {
            emptied = true;
            sender.try_send(()).unwrap();
        }
    };
    let report = store.upgrade(&UpgradeOptions::default(), &mut watch).await.unwrap();
    emptying.await.unwrap();
    is_whole(&db, &report).await;
    assert_eq!(db.get::<String>("SELECT string_agg(title, ',') FROM public.incidents").await, "after");
}

/// Without keys a child may come before its parent, and texts may change hands.
#[tokio::test]
async fn changes_that_no_key_orders() {
    let db = old(LOOSE).await;
    let mut app = application(&db).await;
    let store = store_at(&db.url, "us-east-1", "public");
    let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
    let changing = tokio::spawn(async move {
        receiver.recv().await.unwrap();
        app.execute(
            "INSERT INTO users VALUES (99, 'c99', 'late@example.com', 'late', 'free', NULL, NULL);
             UPDATE users SET email = 'changed@example.com' WHERE id = 2;
             UPDATE users SET email = 'Ann@example.com' WHERE id = -7;
             DELETE FROM users WHERE id = 1;
             UPDATE monitors SET user_id = 12345 WHERE id = 5",
        )
        .await
        .unwrap();
    });
    let mut begun = false;
    let mut watch = |step: Step<'_>| {
        if let Step::Begin { what: "status_reports", .. } = step
            && !begun
        {
            begun = true;
            sender.try_send(()).unwrap();
        }
    };
    let report = store.upgrade(&UpgradeOptions::default(), &mut watch).await.unwrap();
    changing.await.unwrap();
    is_whole(&db, &report).await;
    // The same tables, upgraded as they are in the end.
    let twin = TestDb::empty().await;
    twin.sql(LOOSE).await;
    twin.sql(
        "INSERT INTO users VALUES (99, 'c99', 'late@example.com', 'late', 'free', NULL, NULL);
         UPDATE users SET email = 'changed@example.com' WHERE id = 2;
         UPDATE users SET email = 'Ann@example.com' WHERE id = -7;
         DELETE FROM users WHERE id = 1;
         UPDATE monitors SET user_id = 12345 WHERE id = 5",
    )
    .await;
    upgraded(&twin).await;
    let of = "SELECT string_agg(concat_ws('|', m.legacy_id, m.name, u.legacy_id, u.email, \
        (SELECT count(*) FROM public.status_reports r WHERE r.monitor_id = m.id), \
        (SELECT count(*) FROM public.incidents r WHERE r.monitor_id = m.id)), E'\\n' ORDER BY m.legacy_id) \
        FROM public.monitors m JOIN public.users u ON u.id = m.user_id";
    assert_eq!(db.get::<String>(of).await, twin.get::<String>(of).await);
    assert!(db.get::<bool>("SELECT count(*) = 100 FROM public.status_reports r JOIN public.monitors m ON m.id = r.monitor_id WHERE m.legacy_id = 3").await);
}

#[tokio::test]
async fn the_second_of_two_waits() {
    let db = old(LEGACY).await;
    let options = UpgradeOptions::default();
    let (first, second) = tokio::join!(upgrade(&db, &options), upgrade(&db, &options));
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_eq!(first, second);
    is_whole(&db, &first).await;
}
