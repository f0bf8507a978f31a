//! The command as its user sees it, and the daemon after it.

use lamplighter::store::legacy::{BEGUN_STATEMENTS, COPY_STATEMENTS, UpgradeOptions};
use sqlx::{AssertSqlSafe, Executor as _};

use super::{BARE, LEGACY, LOOSE, NEIGHBOURS, old, upgrade, upgraded};
use crate::daemon::on;
use crate::support::daemon::Home;
use crate::support::postgres::{TestDb, store_at};
use crate::support::target::Target;

const UUID: &str = include_str!("../data/uuid.sql");

fn copying() -> UpgradeOptions {
    UpgradeOptions { copy_reports: true, ..UpgradeOptions::default() }
}

#[tokio::test]
async fn every_statement_prepares() {
    let db = old(BARE).await;
    upgrade(&db, &copying()).await.unwrap();
    let mut conn = db.pool.acquire().await.unwrap();
    let all = BEGUN_STATEMENTS.iter().copied().flatten().chain(COPY_STATEMENTS);
    let mut count = 0;
    for statement in all {
        if let Err(error) = conn.execute(AssertSqlSafe(format!("PREPARE statement_{count} AS {statement}"))).await {
            // What only works while the new tables have a schema of their own.
            assert!(error.to_string().contains("lamplighter_new"), "{error}\n{statement}");
        }
        count += 1;
    }
    assert!(count > 25, "{count}");
}

#[tokio::test]
async fn the_daemon_watches_what_was_upgraded() {
    let db = old(LEGACY).await;
    let target = Target::start().await;
    // One monitor works, the others are paused: nobody asks real hosts here. What was never checked is checked at once.
    db.sql(&format!("DELETE FROM monitors WHERE id > 50; UPDATE monitors SET status = 'paused'; UPDATE monitors SET status = 'up', url = '{}', last_checked = NULL WHERE id = 7", target.url("/x"))).await;
    let home = Home::new(&on(&db.url, ""));
    let refused = home.start().ended().await;
    assert_eq!(refused.code(), Some(78));

    let plan = home.output(&["migrate", "legacy", "--dry-run"]);
    let text = String::from_utf8(plan.stdout).unwrap();
    assert_eq!(plan.status.code(), Some(0), "{}", String::from_utf8_lossy(&plan.stderr));
    for words in [
        "nothing was changed",
        "monitors: 50 rows = 50 to move to public.monitors",
        "last_checked -> last_checked",
        "status_reports: 25000 rows",
    ] {
        assert!(text.contains(words), "{words:?} is not in {text}");
    }
    let run = home.output(&["migrate", "legacy", "--json"]);
    assert_eq!(run.status.code(), Some(0), "{}", String::from_utf8_lossy(&run.stderr));
    let report: serde_json::Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(report["tables"][3]["rows"], 25_000);
    let mut daemon = home.start();
    daemon.wait_status("127.0.0.1", "up").await;
    let status = home.output(&["status"]);
    assert!(String::from_utf8_lossy(&status.stdout).contains("127.0.0.1"));
    assert_eq!(daemon.stop().await.code(), Some(0));
    assert!(target.hits("/x") > 0);

    // A dry run of the drop says what would go, and all of it is still there.
    let told = |arguments: &[&str]| {
        let output = home.output(&[&["migrate", "legacy", "--drop-legacy"], arguments].concat());
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let would = told(&["--dry-run"]);
    for words in ["nothing was dropped", "  legacy.status_reports: 25000 rows, all", "the schema legacy would go"] {
        assert!(would.contains(words), "{words:?} is not in {would}");
    }
    let json: serde_json::Value = serde_json::from_str(&told(&["--dry-run", "--json"])).unwrap();
    assert!(json["dropped"]["dry_run"] == true && json["dropped"]["tables"][1]["rows"] == 50, "{json}");
    assert_eq!(db.get::<i64>("SELECT count(*) FROM legacy.status_reports").await, 25_000);
    assert!(db.get::<bool>("SELECT to_regclass('lamplighter_upgrade.state') IS NOT NULL").await);
    let went = told(&[]);
    assert!(went.contains("Dropped\n  legacy.") && went.contains("the schema legacy went as well"), "{went}");
    assert!(db.get::<bool>("SELECT to_regnamespace('legacy') IS NULL").await);
    let again = home.output(&["migrate", "legacy"]);
    assert_eq!(again.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&again.stderr).contains("has been upgraded"));
}

#[tokio::test]
async fn bad_arguments_and_other_databases() {
    let db = old(BARE).await;
    let home = Home::new(&on(&db.url, ""));
    let zone = home.output(&["migrate", "legacy", "--timezone", "Atlantis"]);
    assert_eq!(zone.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&zone.stderr).contains("Europe/Berlin"));
    let early = home.output(&["migrate", "legacy", "--drop-legacy"]);
    assert_eq!(early.status.code(), Some(78));
    let early = home.output(&["migrate", "legacy", "--drop-legacy", "--dry-run"]);
    assert_eq!(early.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&early.stderr).contains("no upgrade was finished here"));
    // The flag of `migrate` is the same one.
    let dry = home.output(&["migrate", "--dry-run", "legacy"]);
    assert_eq!(dry.status.code(), Some(0), "{}", String::from_utf8_lossy(&dry.stderr));
    assert_eq!(db.get::<i64>("SELECT count(*) FROM users").await, 2);
    let adopted = old(UUID).await;
    let output = Home::new(&on(&adopted.url, "")).output(&["migrate", "legacy"]);
    assert_eq!(output.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&output.stderr).contains("uuid keys already"));
    let away = Home::new(&on("postgres://u@127.0.0.1:1/x", "")).output(&["migrate", "legacy"]);
    assert_eq!(away.status.code(), Some(69));
}

/// The user's formula on raw rows.
const WRONG: &str = "SELECT count(*) FROM public.monitors m WHERE calculate_uptime_percentage(m.id, 30) IS DISTINCT FROM \
    (SELECT 100.0 * SUM(CASE WHEN status = true THEN 1 ELSE 0 END) / COUNT(*) FROM public.monitor_checks c \
     WHERE c.monitor_id = m.id AND c.checked_at >= now() - interval '30 days')";

#[tokio::test]
async fn copied_reports_count() {
    let db = old(LEGACY).await;
    db.sql("DELETE FROM status_reports WHERE id > 20000").await;
    let report = upgrade(&db, &copying()).await.unwrap();
    let copied = report.copied.unwrap();
    assert_eq!((copied.rows, copied.copied, copied.undecided, copied.out_of_range), (20_000, 20_000, 0, 0));
    assert_eq!(db.get::<i64>("SELECT count(*) FROM public.status_reports").await, 20_000, "they stay readable");
    let pairs = "SELECT count(*) FROM public.status_reports r JOIN public.monitor_checks c ON c.monitor_id = r.monitor_id AND c.checked_at = r.checked_at \
        AND c.status = (r.status = 'up') AND c.status_code = r.status_code AND c.response_time_ms = r.response_time \
        AND c.error_type IS NOT DISTINCT FROM CASE r.status WHEN 'down' THEN 'status_unexpected' END";
    assert_eq!(db.get::<i64>(pairs).await, 20_000);
    assert_eq!(db.get::<i64>(WRONG).await, 0);
    // Rolled up they count the same, and no second run doubles them.
    let store = db.store().await;
    for _ in 0..1000 {
        if !store.roll_up().await.unwrap().more {
            break;
        }
    }
    assert_eq!(db.get::<i64>("SELECT count(*) FROM public.rollup_dirty").await, 0);
    assert_eq!(db.get::<i64>(WRONG).await, 0);
    assert!(db.get::<i64>("SELECT sum(checks)::bigint FROM public.monitor_rollups").await > 19_000);
    assert_eq!(upgrade(&db, &copying()).await.unwrap().copied, Some(copied));
    assert_eq!(db.get::<i64>("SELECT count(*) FROM public.monitor_checks").await, 20_000);
}

#[tokio::test]
async fn reports_that_are_no_checks_are_counted() {
    let db = old(LOOSE).await;
    upgraded(&db).await;
    let copied = upgrade(&db, &copying()).await.unwrap().copied.unwrap();
    let reports: i64 = db.get("SELECT count(*) FROM public.status_reports").await;
    assert_eq!(copied.rows, reports);
    assert_eq!(copied.rows, copied.copied + copied.undecided + copied.out_of_range);
    // 1971 and the end of time.
    assert_eq!(copied.out_of_range, 2);
    assert_eq!(
        db.get::<i64>("SELECT count(*) FROM public.status_reports WHERE status IN ('pending', '???', 'unknown')").await,
        copied.undecided
    );
    assert_eq!(
        db.get::<i64>("SELECT count(*) FROM public.monitor_checks WHERE status AND error_type = 'degraded'").await,
        db.get::<i64>("SELECT count(*) FROM public.status_reports WHERE status = 'Degraded'").await
    );
}

#[tokio::test]
async fn reports_of_an_adopted_database_can_be_copied() {
    let db = old(UUID).await;
    db.sql("INSERT INTO status_reports (monitor_id, status) SELECT id, 'up' FROM monitors").await;
    let store = store_at(&db.url, "us-east-1", "public");
    store.prepare(true).await.unwrap();
    let before: i64 = db.get("SELECT count(*) FROM monitor_checks").await;
    for _ in 0..2 {
        let copied = upgrade(&db, &copying()).await.unwrap().copied.unwrap();
        assert_eq!(copied.copied, 100);
    }
    assert_eq!(db.get::<i64>("SELECT count(*) FROM monitor_checks").await, before + 100);
    assert_eq!(db.get::<i64>(&WRONG.replace("public.", "")).await, 0);
}

/// A reader with a role of its own, whose rights are the old tables'.
#[tokio::test]
async fn rights_go_with_the_tables() {
    let db = old(NEIGHBOURS).await;
    let role = format!("reader_{}", db.get::<String>("SELECT current_database()::text").await);
    db.sql(&format!(
        "CREATE ROLE {role}; GRANT SELECT ON users, monitors TO {role}; GRANT SELECT, INSERT ON incidents TO {role}"
    ))
    .await;
    upgraded(&db).await;
    for (table, right, expected) in [
        ("legacy.users", "SELECT", true),
        ("public.users", "SELECT", true),
        ("public.monitors", "SELECT", true),
        ("public.monitors", "INSERT", false),
        ("public.incidents", "INSERT", true),
        ("public.status_reports", "SELECT", false),
    ] {
        assert_eq!(
            db.get::<bool>(&format!("SELECT has_table_privilege('{role}', '{table}', '{right}')")).await,
            expected,
            "{table} {right}"
        );
    }
    assert!(db.get::<bool>(&format!("SELECT has_schema_privilege('{role}', 'legacy', 'USAGE') AND has_sequence_privilege('{role}', 'public.incidents_id_seq', 'USAGE')")).await);
    db.sql(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
    let _: TestDb = db;
}

#[tokio::test]
async fn a_backup_has_the_old_tables_and_what_is_known_of_them() {
    let db = old(LOOSE).await;
    let report = upgraded(&db).await;
    let home = Home::new(&on(&db.url, ""));
    let file = home.path().join("x.backup");
    let dumped = home.output(&["db", "dump", file.to_str().unwrap()]);
    assert!(dumped.status.success(), "{}", String::from_utf8_lossy(&dumped.stderr));
    let other = TestDb::empty().await;
    let place = Home::new(&on(&other.url, ""));
    let restored = place.output(&["db", "restore", file.to_str().unwrap()]);
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    assert_eq!(upgraded(&other).await, report);
    assert!(other.pool.execute("DELETE FROM legacy.users").await.is_err(), "they are for reading there as well");
    let drop_legacy = UpgradeOptions { drop_legacy: true, ..UpgradeOptions::default() };
    upgrade(&other, &drop_legacy).await.unwrap();
    assert!(other.get::<bool>("SELECT to_regnamespace('legacy') IS NULL").await);
}
