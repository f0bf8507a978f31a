//! What it cannot run with: one clear line each, the exit code of the contract, no panic, nothing touched.

use super::{monitor, on};
use crate::support::daemon::{Daemon, Home};
use crate::support::postgres::TestDb;

const LEGACY: &str = include_str!("../data/legacy.sql");

/// The daemon ends with this code and one line that says all of this.
async fn refused(mut daemon: Daemon, code: i32, words: &[&str]) {
    let ended = daemon.ended().await;
    // The pipes are read to their end a moment after the process is gone.
    let line = crate::support::target::until("the reason is printed", super::MOST, async || {
        daemon.log().lines().find(|line| line.starts_with("lamplighter: ")).map(str::to_owned)
    })
    .await;
    let log = daemon.log();
    assert_eq!(ended.code(), Some(code), "{log}");
    assert_eq!(log.lines().filter(|line| line.starts_with("lamplighter: ")).count(), 1, "{log}");
    for word in words {
        assert!(line.contains(word), "{word:?} is not said: {log}");
    }
    assert!(!log.contains("panicked") && !log.contains("is running"), "{log}");
    println!("{code}: {line}");
}

async fn tables(db: &TestDb) -> i64 {
    db.get("SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace").await
}

#[tokio::test]
async fn a_taken_port() {
    let db = TestDb::new().await;
    let home = Home::new("");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let text = std::fs::read_to_string(home.config()).unwrap().replace("127.0.0.1:0", &address);
    std::fs::write(home.config(), text + &on(&db.url, "")).unwrap();
    refused(home.start(), 69, &[&address, "server.listen"]).await;
}

#[tokio::test]
async fn a_state_directory_that_cannot_be() {
    let db = TestDb::new().await;
    // A file in the way.
    let home = Home::new(&on(&db.url, ""));
    std::fs::write(home.state(), "not a folder").unwrap();
    let state = home.state().display().to_string();
    refused(home.start(), 73, &[&state, "daemon.state_directory"]).await;
    // A folder that not even root can write to.
    let home = Home::new("");
    let text =
        format!("daemon.state_directory = \"/proc/lamplighter\"\nserver.listen = \"127.0.0.1:0\"\n{}", on(&db.url, ""));
    std::fs::write(home.config(), text).unwrap();
    refused(home.start(), 73, &["/proc/lamplighter"]).await;
    // One whose socket would have too long a name.
    let long = home.path().join("x".repeat(120)).display().to_string();
    let text = format!("daemon.state_directory = {long:?}\nserver.listen = \"127.0.0.1:0\"\n{}", on(&db.url, ""));
    std::fs::write(home.config(), text).unwrap();
    refused(home.start(), 73, &["daemon.state_directory"]).await;
}

#[tokio::test]
async fn no_postgres_binaries() {
    let home = Home::new("");
    let empty = home.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let mut command = home.command(&["run"]);
    command.env("PG_BINDIR", &empty);
    refused(home.start_as(command), 69, &["apt-get install", "dnf install", "apk add", "PG_BINDIR", "database.url"])
        .await;
}

#[tokio::test]
async fn a_database_url_that_cannot_be_used() {
    let db = TestDb::new().await;
    for (url, words) in [
        ("mysql://root:geheim@localhost/x", ["database.url", "postgres://"]),
        ("postgres://user:geheim@host:port/x", ["database.url", "postgres://"]),
    ] {
        let home = Home::new(&on(url, ""));
        let mut daemon = home.start();
        assert_eq!(daemon.ended().await.code(), Some(78));
        let log = daemon.log();
        assert!(words.iter().all(|word| log.contains(word)) && !log.contains("geheim"), "{log}");
        assert!(!log.contains("panicked"));
    }
    let stranger = db.url.replace("user=lamplighter", "user=nobody_there&password=geheim");
    refused(Home::new(&on(&stranger, "")).start(), 78, &["refuses the login", "database.url"]).await;
    let (server, parameters) = db.url.split_once('?').unwrap();
    let missing = format!("{}_missing?{parameters}", server);
    refused(Home::new(&on(&missing, "")).start(), 78, &["_missing", "createdb"]).await;
}

#[tokio::test]
async fn a_database_that_is_not_ours_is_left_alone() {
    let db = TestDb::empty().await;
    db.sql("CREATE TABLE orders (id uuid); INSERT INTO orders VALUES (gen_random_uuid())").await;
    let before = tables(&db).await;
    refused(
        Home::new(&on(&db.url, &monitor("a", "http://127.0.0.1:1/"))).start(),
        78,
        &["orders", "not Lamplighter's"],
    )
    .await;
    assert_eq!((tables(&db).await, db.get::<i64>("SELECT count(*) FROM orders").await), (before, 1));
}

#[tokio::test]
async fn a_legacy_database_names_the_upgrade() {
    let db = TestDb::empty().await;
    db.sql(LEGACY).await;
    let before = tables(&db).await;
    refused(Home::new(&on(&db.url, "")).start(), 78, &["lamplighter migrate legacy"]).await;
    assert_eq!(tables(&db).await, before);
}

#[tokio::test]
async fn a_newer_schema() {
    let db = TestDb::new().await;
    db.sql("INSERT INTO lamplighter_migrations VALUES (9999, 'later', now(), true, '', 0)").await;
    refused(Home::new(&on(&db.url, "")).start(), 78, &["newer Lamplighter", "9999"]).await;
}

#[tokio::test]
async fn a_schema_that_may_not_be_migrated() {
    let db = TestDb::empty().await;
    let home = Home::new(&on(&db.url, "database.auto_migrate = false\n"));
    refused(home.start(), 78, &["lamplighter migrate", "auto_migrate"]).await;
    assert_eq!(tables(&db).await, 0);
    // What the line says helps.
    let migrate = home.output(&["migrate"]);
    assert_eq!(migrate.status.code(), Some(0), "{}", String::from_utf8_lossy(&migrate.stderr));
    let mut daemon = home.start();
    daemon.wait_ready("it runs", |status, _| status == 200).await;
    assert_eq!(daemon.stop().await.code(), Some(0));
}

#[tokio::test]
async fn a_bad_configuration_names_every_error() {
    let home = Home::new("colour = 1\n[[monitor]]\nid = \"A\"\n[[monitor]]\nid = \"b\"\nurl = \"gopher://x\"\n");
    let mut daemon = home.start();
    assert_eq!(daemon.ended().await.code(), Some(78));
    let log = daemon.log();
    for place in [":3:1:", ":4:1:", ":5:6:", ":8:7:"] {
        assert!(log.contains(&format!("{}{place}", home.config().display())), "{place}\n{log}");
    }
    assert!(!log.contains("panicked"));
    assert!(!home.state().exists(), "nothing was made");
    std::fs::remove_file(home.config()).unwrap();
    let mut daemon = home.start();
    assert_eq!(daemon.ended().await.code(), Some(78));
    assert!(daemon.log().contains("config.toml"), "{}", daemon.log());
}
