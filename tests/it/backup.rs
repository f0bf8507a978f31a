//! `db dump`, `db restore` and `db verify` of the real program.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use crate::daemon::{monitor, on};
use crate::support::daemon::{Home, PROGRAM};
use crate::support::postgres::{TestDb, url_text};
use crate::support::target::{Target, until};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

const MOST: Duration = Duration::from_secs(60);

async fn run(home: &Home, arguments: &[&str]) -> Output {
    let mut command = home.command(arguments);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A backup of a database, in the folder of a home that is on it.
async fn dump(home: &Home) -> PathBuf {
    let file = home.path().join("x.backup");
    let output = run(home, &["db", "dump", file.to_str().unwrap()]).await;
    assert!(output.status.success(), "{}", said(&output));
    file
}

async fn restore(home: &Home, file: &Path, more: &[&str]) -> Output {
    run(home, &[&["db", "restore", file.to_str().unwrap()], more].concat()).await
}

/// A store with a history, also what is in it by other hands.
async fn filled() -> TestDb {
    let db = TestDb::new().await;
    db.sql(
        "INSERT INTO users (email) VALUES ('a@example.com'); \
         INSERT INTO monitors (user_id, name, url, is_active) SELECT u.id, 'm' || n, 'tcp://127.0.0.1:1', false \
            FROM users u, generate_series(1, 5) n WHERE u.email IS NOT NULL; \
         SELECT ensure_check_partitions(now() - interval '2 days', now()); \
         INSERT INTO monitor_checks (monitor_id, status, checked_at) SELECT id, n % 10 <> 0, now() - n * interval '1 minute' \
            FROM monitors, generate_series(1, 2000) n; \
         INSERT INTO incidents (user_id, monitor_id, title, evidence) SELECT user_id, id, E'tab\\t\"x\"', '{\"b\": [1.50, null]}' FROM monitors; \
         CREATE TABLE orders (the_user uuid REFERENCES users (id) ON DELETE CASCADE, t text, total numeric, at timestamptz[]); \
         INSERT INTO orders SELECT id, E'é\\n', 1.10, ARRAY[now(), 'infinity'] FROM users; \
         CREATE TABLE \"Odd \"\"name\" (x float8); INSERT INTO \"Odd \"\"name\" VALUES (0.1), ('NaN'), (NULL)",
    )
    .await;
    db
}

const UPTIMES: &str = "SELECT string_agg(lamplighter_uptime_counts(id, 30)::text, ' ' ORDER BY name) FROM monitors";

#[tokio::test]
async fn a_backup_is_restored_whole() {
    let db = filled().await;
    let home = Home::new(&on(&db.url, ""));
    let file = dump(&home).await;
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let verified = run(&home, &["db", "verify", file.to_str().unwrap()]).await;
    assert!(verified.status.success() && said(&verified).contains("whole and unchanged"), "{}", said(&verified));

    let other = TestDb::empty().await;
    let place = Home::new(&on(&other.url, ""));
    let output = restore(&place, &file, &[]).await;
    assert!(output.status.success() && said(&output).contains("equal to the backup"), "{}", said(&output));
    assert_eq!(other.get::<String>(UPTIMES).await, db.get::<String>(UPTIMES).await);
    for sql in [
        "SELECT string_agg(o::text, ' ' ORDER BY the_user) FROM orders o",
        "SELECT string_agg(i::text, ' ' ORDER BY id) FROM incidents i",
        "SELECT string_agg(tgname, ' ' ORDER BY tgname) FROM pg_trigger WHERE NOT tgisinternal",
        "SELECT string_agg(indexdef, ' ' ORDER BY indexdef) FROM pg_indexes WHERE schemaname = 'public'",
    ] {
        assert_eq!(other.get::<String>(sql).await, db.get::<String>(sql).await, "{sql}");
    }
    // It lives: ids go on, rows have their defaults, a daemon takes it.
    other.sql("INSERT INTO incidents (user_id, monitor_id, title) SELECT user_id, id, 'new' FROM monitors").await;
    let daemon = place.start();
    daemon.wait_ready("it runs on what was restored", |status, _| status == 200).await;

    // PostgreSQL's own tool reads it as well.
    let list = Command::new("pg_restore").arg("--list").arg(&file).output().unwrap();
    assert!(String::from_utf8_lossy(&list.stdout).contains("TABLE DATA public orders"), "{}", said(&list));
}

#[tokio::test]
async fn a_damaged_backup_is_refused_before_anything_is_touched() {
    let db = filled().await;
    let home = Home::new(&on(&db.url, ""));
    let file = dump(&home).await;
    let whole = std::fs::read(&file).unwrap();
    let empty = TestDb::empty().await;
    let place = Home::new(&on(&empty.url, ""));
    let bad = home.path().join("bad");
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        bytes
    };
    for bytes in [
        flipped(whole.len() / 2),
        flipped(whole.len() - 300),
        flipped(whole.len() - 10),
        whole[..whole.len() / 2].to_vec(),
        whole[..whole.len() - 1].to_vec(),
        b"PGDMP".to_vec(),
        b"something else".to_vec(),
    ] {
        std::fs::write(&bad, &bytes).unwrap();
        let output = restore(&place, &bad, &["--force"]).await;
        assert!(output.status.code() == Some(1) && said(&output).contains("nothing was done"), "{}", said(&output));
        let output = run(&home, &["db", "verify", bad.to_str().unwrap()]).await;
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    }
    let tables = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace";
    assert_eq!(empty.get::<i64>(tables).await, 0);
}

#[tokio::test]
async fn what_is_there_is_not_overwritten() {
    let db = filled().await;
    let home = Home::new(&on(&db.url, ""));
    let file = dump(&home).await;
    db.sql("DELETE FROM monitors WHERE name = 'm1'").await;
    let refused = restore(&home, &file, &[]).await;
    assert!(refused.status.code() == Some(1) && said(&refused).contains("--force"), "{}", said(&refused));
    assert_eq!(db.get::<i64>("SELECT count(*) FROM monitors").await, 4);

    // Beside an active daemon never.
    let mut daemon = home.start();
    daemon.wait_ready("it is active", |status, _| status == 200).await;
    let refused = restore(&home, &file, &["--force"]).await;
    assert!(refused.status.code() == Some(1) && said(&refused).contains("stop it first"), "{}", said(&refused));
    daemon.stop().await;

    let forced = restore(&home, &file, &["--force"]).await;
    assert!(forced.status.success() && said(&forced).contains("public_before_"), "{}", said(&forced));
    assert_eq!(db.get::<i64>("SELECT count(*) FROM public.monitors").await, 5);
    let aside: String = db.get("SELECT nspname::text FROM pg_namespace WHERE nspname LIKE 'public_before_%'").await;
    assert_eq!(db.get::<i64>(&format!("SELECT count(*) FROM {aside}.monitors")).await, 4);

    let foreign = TestDb::empty().await;
    foreign.sql("CREATE TABLE orders (id uuid)").await;
    let refused = restore(&Home::new(&on(&foreign.url, "")), &file, &["--force"]).await;
    assert!(refused.status.code() == Some(78) && said(&refused).contains("not Lamplighter's"), "{}", said(&refused));
    let other_schema = Home::new(&on(&foreign.url, "database.schema = \"lamp\"\n"));
    let refused = restore(&other_schema, &file, &[]).await;
    assert!(refused.status.code() == Some(78) && said(&refused).contains("database.schema"), "{}", said(&refused));
}

#[tokio::test]
async fn an_older_backup_is_brought_up_to_date_and_a_newer_one_refused() {
    let old = TestDb::empty().await;
    let all = sqlx::migrate!("./migrations");
    let mut first = sqlx::migrate::Migrator::with_migrations(all.iter().take(5).cloned().collect());
    first.dangerous_set_table_name("lamplighter_migrations");
    first.run(&old.pool).await.unwrap();
    old.sql("INSERT INTO users (email) VALUES ('old@example.com')").await;
    let home = Home::new(&on(&old.url, ""));
    let file = dump(&home).await;
    let empty = TestDb::empty().await;
    let place = Home::new(&on(&empty.url, ""));
    let output = restore(&place, &file, &[]).await;
    assert!(output.status.success() && said(&output).contains("applied"), "{}", said(&output));
    assert_eq!(empty.get::<i64>("SELECT count(*) FROM users WHERE email = 'old@example.com'").await, 1);
    let newest = all.iter().map(|migration| migration.version).max().unwrap();
    assert_eq!(empty.get::<i64>("SELECT max(version) FROM lamplighter_migrations").await, newest);

    // A newer one: the file's own words are changed, and its sum with them.
    use sha2::Digest as _;
    let whole = std::fs::read(&file).unwrap();
    let body = &whole[..whole.len() - 103];
    let at = body.windows(18).position(|part| part == b"\"migrations\":[1,2,").unwrap();
    let mut newer = body.to_vec();
    newer[at + 14] = b'9';
    let last = String::from_utf8(whole[whole.len() - 103..].to_vec()).unwrap();
    let sum: String = sha2::Sha256::digest(&newer).iter().map(|byte| format!("{byte:02x}")).collect();
    newer.extend_from_slice(format!("{}{sum}\n", &last[..38]).as_bytes());
    let path = home.path().join("newer");
    std::fs::write(&path, newer).unwrap();
    let refused = restore(&Home::new(&on(&TestDb::empty().await.url, "")), &path, &[]).await;
    // 9 is known when there are as many: then the file is fine.
    if newest < 9 {
        assert!(
            refused.status.code() == Some(78) && said(&refused).contains("newer Lamplighter"),
            "{}",
            said(&refused)
        );
    }
}

async fn count(home: &Home, sql: &str) -> i64 {
    let mut conn = PgConnection::connect(&url_text(&home.state())).await.unwrap();
    let value = sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&mut conn).await.unwrap();
    conn.close().await.unwrap();
    value
}

#[tokio::test]
async fn the_embedded_database_is_moved_with_its_history() {
    let target = Target::start().await;
    let config = monitor("a", &target.url("/a"));
    let home = Home::new(&config);
    let mut daemon = home.start();
    daemon.wait_status("a", "up").await;
    let checks = "SELECT count(*) FROM monitor_checks";
    until("there is a history", MOST, async || (count(&home, checks).await >= 3).then_some(())).await;
    let file = dump(&home).await;
    let before = count(&home, checks).await;
    until("the daemon goes on", MOST, async || (count(&home, checks).await > before).then_some(())).await;
    // Beside its daemon nothing is restored.
    let refused = restore(&home, &file, &["--force"]).await;
    assert!(refused.status.code() == Some(69) && said(&refused).contains("another lamplighter"), "{}", said(&refused));
    assert_eq!(daemon.stop().await.code(), Some(0));
    // A stopped one is backed up as well.
    let stopped = dump(&home).await;

    let place = Home::new(&config);
    let output = restore(&place, &stopped, &[]).await;
    assert!(output.status.success(), "{}", said(&output));
    let mut daemon = place.start();
    daemon.wait_status("a", "up").await;
    until("its history goes on", MOST, async || (count(&place, checks).await > before + 1).then_some(())).await;
    assert_eq!(count(&place, "SELECT count(*) FROM monitors").await, 1);
    assert_eq!(count(&place, "SELECT count(*) FROM monitor_gaps WHERE reason = 'not_running'").await, 1);
    assert_eq!(daemon.stop().await.code(), Some(0));
}

#[tokio::test]
async fn a_full_disk_leaves_nothing_behind() {
    let db = filled().await;
    let home = Home::new(&on(&db.url, ""));
    let folder = home.path().join("small");
    std::fs::create_dir(&folder).unwrap();
    let script = "mount -t tmpfs -o size=32k tmpfs \"$1\" && \"$2\" --config \"$3\" db dump \"$1/x\"; echo \"code $?\"; ls -A \"$1\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh"]).arg(&folder).arg(PROGRAM).arg(home.config());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "code 1\n", "{}", said(&output));
    assert!(said(&output).contains("No space left"), "{}", said(&output));
}

/// A folder with programs that do as these scripts say.
fn programs(home: &Home, dump: &str, restore: &str) -> PathBuf {
    let folder = home.path().join("bin");
    std::fs::create_dir(&folder).unwrap();
    for (name, script) in [("pg_dump", dump), ("pg_restore", restore)] {
        let path = folder.join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    folder
}

#[tokio::test]
async fn no_password_stands_on_a_command_line_and_a_failed_restore_gives_everything_back() {
    let db = filled().await;
    // Nobody asks for it here; it must not be seen all the same.
    let home = Home::new(&on(&format!("{}&password=geheim-1", db.url), ""));
    let seen = home.path().join("seen");
    let script = format!("echo \"$@\" >>{0}; echo \"env $PGPASSWORD\" >>{0}; exec pg_dump \"$@\"", seen.display());
    let bin = programs(&home, &script, "echo 'pg_restore: error: it does not want to' >&2; exit 1");
    let file = home.path().join("x.backup");
    let with = async |arguments: &[&str]| {
        let mut command = home.command(arguments);
        command.env("PG_BINDIR", &bin);
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    };
    let output = with(&["db", "dump", file.to_str().unwrap()]).await;
    assert!(output.status.success(), "{}", said(&output));
    let lines = std::fs::read_to_string(&seen).unwrap();
    let (arguments, environment): (Vec<&str>, Vec<&str>) = lines.lines().partition(|line| !line.starts_with("env "));
    assert!(arguments.iter().any(|line| line.contains("--snapshot=")), "{lines}");
    assert!(arguments.iter().all(|line| !line.contains("geheim")) && environment.contains(&"env geheim-1"), "{lines}");
    assert!(!said(&output).contains("geheim"));

    let output = with(&["db", "restore", file.to_str().unwrap(), "--force"]).await;
    let text = said(&output);
    assert!(
        output.status.code() == Some(1)
            && text.contains("nothing was restored: pg_restore: error: it does not want to"),
        "{text}"
    );
    assert_eq!(db.get::<i64>("SELECT count(*) FROM public.monitors").await, 5, "it has its name back");
    assert_eq!(db.get::<i64>("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'public_before%'").await, 0);
}
