//! What becomes of each shape.

use lamplighter::store::legacy::{UpgradeError, UpgradeOptions};
use lamplighter::store::{Found, StartError};
use sqlx::Executor as _;

use super::{
    BARE, CAMEL, LEGACY, LOOSE, NEIGHBOURS, NUMBERS, SHAPES, ZONES, in_zone, is_whole, old, upgrade, upgraded,
};
use crate::support::postgres::{TestDb, store_at};

type UserRow = (i64, Option<String>, Option<String>, String, Option<serde_json::Value>);
type MonitorRow = (i64, String, String, String, bool, Option<serde_json::Value>, Option<i64>);
type IncidentRow = (i64, String, String, Option<i32>, Option<serde_json::Value>);
type NumbersRow = (Option<String>, i32, Option<i32>, bool, i32, Option<serde_json::Value>);
type ReportRow = (i64, Option<i32>, Option<i32>, Option<serde_json::Value>);

/// Tables, columns, indexes, keys, triggers and functions of the house, as text.
const SCHEMA: &str = "SELECT string_agg(line, E'\\n' ORDER BY line) FROM ( \
    SELECT format('%s.%s %s %s %s', c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, \
        pg_get_expr(d.adbin, d.adrelid)) AS line \
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum \
    WHERE c.relnamespace = 'public'::regnamespace AND a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'S') \
        AND NOT c.relispartition \
    UNION ALL SELECT pg_get_indexdef(i.indexrelid) FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid \
    WHERE c.relnamespace = 'public'::regnamespace AND NOT c.relispartition \
    UNION ALL SELECT format('%s: %s', c.relname, pg_get_constraintdef(k.oid)) FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid \
    WHERE c.relnamespace = 'public'::regnamespace AND NOT c.relispartition \
    UNION ALL SELECT pg_get_triggerdef(t.oid) FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid \
    WHERE c.relnamespace = 'public'::regnamespace AND NOT c.relispartition AND NOT t.tgisinternal \
    UNION ALL SELECT pg_get_functiondef(p.oid) FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace) s";

#[tokio::test]
async fn an_upgraded_schema_is_a_fresh_one() {
    let fresh = TestDb::new().await;
    fresh.sql("CREATE UNIQUE INDEX users_legacy_id ON users (legacy_id); CREATE UNIQUE INDEX monitors_legacy_id ON monitors (legacy_id)").await;
    let db = old(LEGACY).await;
    upgraded(&db).await;
    assert_eq!(db.get::<String>(SCHEMA).await, fresh.get::<String>(SCHEMA).await);
    assert_eq!(store_at(&db.url, "us-east-1", "public").classify().await.unwrap(), Found::Ours { pending: 0 });
    assert!(db.get::<bool>("SELECT to_regnamespace('lamplighter_new') IS NULL").await);
}

#[tokio::test]
async fn a_dry_run_says_what_the_run_then_does_and_changes_nothing() {
    for (name, sql) in SHAPES {
        let db = old(sql).await;
        let relations = "SELECT string_agg(n.nspname || '.' || c.relname, ',' ORDER BY 1) FROM pg_class c \
            JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'";
        let before: String = db.get(relations).await;
        let store = store_at(&db.url, "us-east-1", "public");
        let plan = store.upgrade_dry_run(&UpgradeOptions::default(), &mut |_| {}).await.unwrap();
        assert!(plan.dry_run);
        assert_eq!(db.get::<String>(relations).await, before, "{name}");
        assert_eq!(db.get::<i64>("SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal").await, 0, "{name}");

        let report = upgraded(&db).await;
        is_whole(&db, &report).await;
        assert_eq!(plan.tables.len(), report.tables.len(), "{name}");
        for (planned, done) in plan.tables.iter().zip(&report.tables) {
            assert_eq!(
                (planned.rows, planned.moved, &planned.kept, &planned.columns),
                (done.rows, done.moved, &done.kept, &done.columns),
                "{name}"
            );
        }
        // A second run has nothing to do, and says the same.
        assert_eq!(upgraded(&db).await, report, "{name}");
        // Of every column somebody says where it goes.
        for table in &report.tables {
            let columns: i64 = db.get(&format!("SELECT count(*) FROM information_schema.columns WHERE table_schema = 'legacy' AND table_name = '{}'", table.table)).await;
            assert_eq!(i64::try_from(table.columns.len()).unwrap(), columns, "{name} {}", table.table);
        }
    }
}

#[tokio::test]
async fn the_example_is_upgraded() {
    let db = old(LEGACY).await;
    let report = upgraded(&db).await;
    is_whole(&db, &report).await;
    let rows: Vec<i64> = report.tables.iter().map(|table| table.moved).collect();
    assert_eq!(rows, [25, 200, 120, 100_000]);
    assert!(report.tables.iter().all(|table| table.kept.is_empty() && table.legacy_values.is_empty()), "{report:?}");
    for (what, sql) in [
        (
            "owners",
            "SELECT count(*) FROM public.monitors m JOIN public.users u ON u.id = m.user_id JOIN legacy.monitors l ON l.id = m.legacy_id WHERE l.user_id <> u.legacy_id OR l.url <> m.url OR l.uptime <> m.uptime OR l.status <> m.status OR l.created_at <> m.created_at AT TIME ZONE 'UTC' OR l.last_checked IS DISTINCT FROM m.last_checked AT TIME ZONE 'UTC'",
        ),
        ("names", "SELECT count(*) FROM public.monitors WHERE name <> 'site' || legacy_id || '.example.com'"),
        ("percentages", "SELECT count(*) FROM public.monitors WHERE uptime_percentage <> 95 + legacy_id % 5"),
        (
            "reports",
            "SELECT count(*) FROM public.status_reports r JOIN public.monitors m ON m.id = r.monitor_id JOIN legacy.status_reports l ON l.id = r.id WHERE (l.monitor_id, l.status, l.checked_at) IS DISTINCT FROM (m.legacy_id, r.status, r.checked_at AT TIME ZONE 'UTC') OR (l.status_code, l.response_time, l.error_message) IS DISTINCT FROM (r.status_code, r.response_time, r.error_message)",
        ),
        (
            "incidents",
            "SELECT count(*) FROM public.incidents i JOIN legacy.incidents l ON l.id = i.legacy_id WHERE (l.status = 'active') <> (i.status = 'open') OR (i.status = 'open') <> (i.resolved_at IS NULL) OR i.resolved_at <> l.updated_at AT TIME ZONE 'UTC' OR i.started_at <> l.created_at AT TIME ZONE 'UTC' OR i.duration_seconds <> 420 OR i.id <> i.legacy_id",
        ),
    ] {
        assert_eq!(db.get::<i64>(sql).await, 0, "{what}");
    }
    // New rows go on behind the old ones.
    let next: i64 = db.get("INSERT INTO public.incidents (user_id, monitor_id, title) SELECT user_id, id, 't' FROM public.monitors LIMIT 1 RETURNING id").await;
    assert_eq!(next, 121);
}

#[tokio::test]
async fn names_of_an_orm() {
    let db = old(CAMEL).await;
    let report = upgraded(&db).await;
    is_whole(&db, &report).await;
    assert_eq!(report.tables.iter().map(|table| table.moved).collect::<Vec<_>>(), [10, 30, 10, 3000]);
    assert_eq!(report.tables[3].table, "statusReports");
    let user: (String, String, Option<serde_json::Value>) =
        sqlx::query_as("SELECT clerk_id, name, legacy FROM public.users WHERE legacy_id = 2000000014")
            .fetch_one(&db.pool)
            .await
            .unwrap();
    assert_eq!(
        user,
        (
            "user_2".into(),
            "Person 2".into(),
            Some(serde_json::json!({"stripeCustomer": "cus_2", "preferences": {"theme": "dark"}}))
        )
    );
    let monitor: (String, String, i32, i32, bool, serde_json::Value) =
        sqlx::query_as("SELECT name, status, interval_seconds, timeout_seconds, is_active, legacy FROM public.monitors WHERE legacy_id = 3").fetch_one(&db.pool).await.unwrap();
    let kept = serde_json::json!({"alert\"Emails": ["a@example.com"], "rawConfig": "{\"x\": \"\\u0000\"}", "status": "DOWN", "timeoutSeconds": 100_000});
    assert_eq!(monitor, ("Monitor 1".into(), "down".into(), 60, 10, true, kept));
    assert_eq!(
        db.get::<i64>("SELECT count(*) FROM public.monitors WHERE name = 'c' || legacy_id / 3 || '.example.com'").await,
        10
    );
    assert_eq!(
        db.get::<i64>("SELECT count(*) FROM public.status_reports WHERE legacy = '{\"region\": \"fra\"}'").await,
        3000
    );
    // A time of its own, a duration instead of a time, a duration that is not the difference.
    let course = "SELECT extract(epoch FROM resolved_at - started_at)::bigint FROM public.incidents WHERE id = ";
    assert_eq!(db.get::<i64>(&format!("{course} 1")).await, 630);
    assert_eq!(db.get::<i64>(&format!("{course} 5")).await, 90);
    assert_eq!(
        db.get::<serde_json::Value>("SELECT legacy FROM public.incidents WHERE id = 7").await,
        serde_json::json!({"durationSeconds": 1})
    );
}

#[tokio::test]
async fn what_no_key_promised() {
    let db = old(LOOSE).await;
    let report = upgraded(&db).await;
    is_whole(&db, &report).await;
    let kept = |at: usize| report.tables[at].kept.iter().map(|(why, rows)| (why.as_str(), *rows)).collect::<Vec<_>>();
    assert_eq!(kept(0), [("duplicate_id", 1), ("no_id", 1)]);
    assert_eq!(kept(1), [("duplicate_id", 1), ("no_id", 1), ("orphan", 1)]);
    assert_eq!(kept(2), [("duplicate_id", 1), ("orphan", 2)]);
    // 100 of monitor 3, 100 of 7, 100 of 8, and the one without a monitor.
    assert_eq!(kept(3), [("duplicate_id", 1), ("no_id", 1), ("no_time", 1), ("orphan", 301)]);
    let users: Vec<UserRow> = sqlx::query_as(
        "SELECT legacy_id, clerk_id, email, plan, legacy FROM public.users WHERE legacy_id IS NOT NULL ORDER BY 1",
    )
    .fetch_all(&db.pool)
    .await
    .unwrap();
    let text = |text: &str| Some(text.to_owned());
    // E-mails that differ by case are different texts; the same text twice stays with the first.
    assert_eq!(users[0], (-7, None, None, "free".into(), None));
    assert_eq!(users[1], (1, text("c1"), text("Ann@example.com"), "pro".into(), None));
    assert_eq!(users[2], (2, text("c2"), text("ann@example.com"), "free".into(), None));
    assert_eq!(
        users[3],
        (
            3,
            None,
            text("ANN@example.com"),
            "free".into(),
            Some(serde_json::json!({"clerk_id": "c1", "plan": "system"}))
        )
    );
    assert_eq!(users[4], (4, None, None, "free".into(), Some(serde_json::json!({"email": "ann@example.com"}))));
    let monitors: Vec<MonitorRow> =
        sqlx::query_as("SELECT m.legacy_id, m.name, m.url, m.status, m.is_active, m.legacy, u.legacy_id FROM public.monitors m JOIN public.users u ON u.id = m.user_id ORDER BY 1")
            .fetch_all(&db.pool).await.unwrap();
    let find = |id: i64| monitors.iter().find(|monitor| monitor.0 == id).unwrap();
    assert_eq!(
        (find(1).1.as_str(), find(1).3.as_str(), &find(1).5),
        ("one.example.com", "up", &Some(serde_json::json!({"status": "Up"})))
    );
    assert_eq!((find(2).1.as_str(), find(2).3.as_str()), ("two.example.com", "up"));
    // Without an owner it is the system user's.
    assert_eq!((find(4).3.as_str(), find(4).6), ("unknown", None));
    assert_eq!((find(5).2.as_str(), find(5).6), ("", Some(-7)));
    assert_eq!((find(6).1.as_str(), find(6).3.as_str(), find(6).4), ("Six", "paused", false));
    let incidents: Vec<IncidentRow> =
        sqlx::query_as("SELECT id, title, status, duration_seconds, legacy FROM public.incidents ORDER BY id")
            .fetch_all(&db.pool)
            .await
            .unwrap();
    assert_eq!(incidents[0], (1, "One".into(), "open".into(), None, Some(serde_json::json!({"status": "ACTIVE"}))));
    assert_eq!(
        incidents[1],
        (2, "Incident 2".into(), "resolved".into(), Some(1830), Some(serde_json::json!({"status": "Resolved"})))
    );
    assert_eq!(
        incidents[2],
        (
            3,
            "no such user".into(),
            "resolved".into(),
            Some(0),
            Some(serde_json::json!({"user_id": 77, "status": "closed"}))
        )
    );
    assert_eq!(incidents[3].2, "open");
    assert_eq!(db.get::<String>("SELECT status FROM public.status_reports WHERE id = 803").await, "unknown");
}

#[tokio::test]
async fn times_of_a_zone() {
    let db = old(ZONES).await;
    let report = upgrade(&db, &in_zone("Europe/Berlin")).await.unwrap();
    is_whole(&db, &report).await;
    let times: Vec<String> = sqlx::query_scalar("SELECT to_char(checked_at AT TIME ZONE 'UTC', 'MM-DD HH24:MI') || coalesce(legacy::text, '') FROM public.status_reports ORDER BY id")
        .fetch_all(&db.pool).await.unwrap();
    assert_eq!(
        times,
        [
            "01-15 11:00",
            "07-15 10:00",
            // The hour that there was not is told as if the clocks had not been changed, and what stood there is kept.
            "03-29 01:30{\"checked_at\": \"2026-03-29T02:30:00\"}",
            // Of the hour that there was twice it is the second one.
            "10-25 01:30",
            "10-25 02:00",
        ]
    );
    let users: Vec<String> = sqlx::query_scalar("SELECT to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI') || to_char(updated_at AT TIME ZONE 'UTC', ' HH24:MI:SS.MS') FROM public.users WHERE legacy_id IS NOT NULL ORDER BY legacy_id")
        .fetch_all(&db.pool).await.unwrap();
    assert_eq!(users, ["2026-06-30 22:00 22:00:00.123", "2025-12-31 23:00 22:00:00.000"]);
    let monitors: Vec<Option<String>> = sqlx::query_scalar(
        "SELECT to_char(last_checked AT TIME ZONE 'UTC', 'HH24:MI:SS.MS') FROM public.monitors ORDER BY legacy_id",
    )
    .fetch_all(&db.pool)
    .await
    .unwrap();
    assert_eq!(monitors, [Some("10:00:00.000".to_owned()), Some("12:00:00.250".to_owned()), None]);
    assert_eq!(
        db.get::<serde_json::Value>("SELECT legacy FROM public.monitors WHERE legacy_id = 3").await,
        serde_json::json!({"last_checked": "yesterday"})
    );

    // The zone cannot change in the middle, nor be one that there is not.
    let error = upgrade(&db, &in_zone("Europe/Paris")).await.unwrap_err();
    assert!(matches!(&error, UpgradeError::OtherZone(zone) if zone == "Europe/Berlin"), "{error}");
    let other = old(ZONES).await;
    assert!(matches!(upgrade(&other, &in_zone("Berlin")).await.unwrap_err(), UpgradeError::Zone(_)));
}

#[tokio::test]
async fn numbers_of_every_kind() {
    let db = old(NUMBERS).await;
    let report = upgraded(&db).await;
    is_whole(&db, &report).await;
    assert_eq!(report.tables[2].kept.get("orphan"), Some(&2));
    let monitors: Vec<NumbersRow> =
        sqlx::query_as("SELECT uptime, uptime_percentage, response_time, is_active, interval_seconds, legacy FROM public.monitors ORDER BY legacy_id").fetch_all(&db.pool).await.unwrap();
    // No value is above one: shares.
    assert_eq!(
        monitors[0],
        (
            Some("99.95%".into()),
            99,
            Some(12),
            true,
            60,
            Some(serde_json::json!({"uptime": 0.9995, "response_time": 12.4}))
        )
    );
    assert_eq!(monitors[1].0.as_deref(), Some("100%"));
    assert_eq!((monitors[1].2, monitors[1].3, monitors[1].4), (None, false, 1));
    assert_eq!((monitors[2].0.as_deref(), monitors[2].1, monitors[2].2), (None, 100, None));
    let reports: Vec<ReportRow> =
        sqlx::query_as("SELECT id, response_time, status_code, legacy FROM public.status_reports ORDER BY id")
            .fetch_all(&db.pool)
            .await
            .unwrap();
    assert_eq!(reports[0], (1, Some(12), Some(200), None));
    assert_eq!(
        reports[1],
        (2, Some(13), None, Some(serde_json::json!({"response_time": 12.75, "status_code": "ECONNRESET"})))
    );
    assert_eq!((reports[2].1, reports[2].2), (Some(10_000_000), Some(204)));
}

#[tokio::test]
async fn tables_of_others_stay_and_their_keys_follow() {
    let db = old(NEIGHBOURS).await;
    let owners = "SELECT string_agg(k.secret || ' ' || u.email, ',' ORDER BY k.id) FROM api_keys k JOIN users u ON u.id = k.user_id";
    let before: String = db.get(owners).await;
    let report = upgraded(&db).await;
    is_whole(&db, &report).await;
    let other = |name: &str| {
        report.others.iter().find(|other| other.table == name).unwrap_or_else(|| panic!("{name}: {report:?}"))
    };
    assert_eq!(other("api_keys").rows, 6);
    assert_eq!(other("notes").rows, 2);
    assert_eq!((other("tokens").rows, other("tokens").to_legacy), (2, true));
    assert_eq!(other("tokens").references.len(), 1);
    assert_eq!(other("billing.invoices").references.values().collect::<Vec<_>>(), ["points at the new table"]);
    assert!(other("Alert Rules").references.values().all(|outcome| outcome == "points at the new table"), "{report:?}");
    assert_eq!(other("Alert Rules").references.len(), 3);

    // An old reader, by its path; a new one, by legacy_id; a view, by itself.
    let mut reader = db.pool.acquire().await.unwrap();
    reader.execute("SET search_path = legacy, public").await.unwrap();
    let read: String = sqlx::query_scalar(owners).fetch_one(&mut *reader).await.unwrap();
    assert_eq!(read, before);
    let new = owners
        .replace("u.id = k.user_id", "u.legacy_id = k.user_id")
        .replace("JOIN users", "JOIN public.users")
        .replace("FROM api_keys", "FROM public.api_keys");
    assert_eq!(db.get::<String>(&new).await, before);
    assert_eq!(db.get::<i64>("SELECT count(*) FROM public.overview").await, 4);
    assert_eq!(db.get::<i64>("SELECT count(*) FROM legacy.tokens").await, 2);

    // Deletes reach them as before.
    assert!(
        db.pool.execute("DELETE FROM public.users WHERE legacy_id = 2").await.is_err(),
        "a rule still names the user"
    );
    db.sql("DELETE FROM public.\"Alert Rules\"; DELETE FROM legacy.tokens WHERE user_id = 2; DELETE FROM public.users WHERE legacy_id = 2").await;
    assert_eq!(db.get::<i64>("SELECT count(*) FROM public.api_keys WHERE user_id = 2").await, 0);
    assert_eq!(db.get::<i64>("SELECT count(*) FROM public.api_keys").await, 4);
    // The old tables take nothing any more.
    let error = reader.execute("INSERT INTO users (clerk_id, email) VALUES ('x', 'x')").await.unwrap_err();
    assert!(error.to_string().contains("kept for reading"), "{error}");
    drop(reader);

    // A view still shows the old tables: they do not go before it does.
    let drop_legacy = UpgradeOptions { drop_legacy: true, ..UpgradeOptions::default() };
    let error = upgrade(&db, &drop_legacy).await.unwrap_err();
    assert!(error.to_string().contains("overview depends on table"), "{error}");
    // A dry run finds that as well.
    let dry_run = async || store_at(&db.url, "us-east-1", "public").upgrade_dry_run(&drop_legacy, &mut |_| ()).await;
    let error = dry_run().await.unwrap_err();
    assert!(error.to_string().contains("overview depends on table"), "{error}");
    db.sql("DROP VIEW public.overview").await;
    let would = dry_run().await.unwrap().dropped.unwrap();
    let went = upgrade(&db, &drop_legacy).await.unwrap().dropped.unwrap();
    assert_eq!((would.dry_run, went.dry_run, went.schema), (true, false, false), "what was in the way stays there");
    assert_eq!(would, lamplighter::store::legacy::Dropped { dry_run: true, ..went.clone() });
    let rows = went.tables.iter().map(|table| (table.rows, table.only_there));
    let told = report.tables.iter().map(|table| (table.rows, table.kept.values().sum()));
    assert_eq!(rows.collect::<Vec<_>>(), told.collect::<Vec<(i64, i64)>>());
    assert_eq!(
        db.get::<i64>("SELECT count(*) FROM pg_class WHERE relnamespace = to_regnamespace('legacy') AND relkind = 'r'")
            .await,
        1
    );
    assert!(db.get::<bool>("SELECT to_regnamespace('lamplighter_upgrade') IS NULL").await);
    assert_eq!(
        db.get::<i64>("SELECT count(*) FROM billing.invoices i JOIN public.users u ON u.legacy_id = i.user_id").await,
        2
    );
    assert_eq!(store_at(&db.url, "us-east-1", "public").prepare(true).await.unwrap(), Found::Ours { pending: 0 });
}

#[tokio::test]
async fn what_stands_in_the_way_is_told_before_anything_is_done() {
    for (sql, words) in [
        ("CREATE SCHEMA legacy; CREATE TABLE legacy.monitors (id integer)", "schema legacy already has monitors"),
        ("CREATE TABLE status_reports (n integer)", "no integer column \"id\""),
        ("CREATE TABLE theirs (n integer); CREATE INDEX incidents_user ON theirs (n)", "ALTER INDEX"),
        ("CREATE TYPE tokens AS ENUM ('a')", "type tokens"),
    ] {
        let db = old(BARE).await;
        db.sql(sql).await;
        let before: i64 = db.get("SELECT count(*) FROM pg_class").await;
        let error = upgrade(&db, &UpgradeOptions::default()).await.unwrap_err();
        assert!(error.to_string().contains(words) && error.exit_code() == 78, "{error}");
        assert_eq!(db.get::<i64>("SELECT count(*) FROM pg_class").await, before);
        assert!(matches!(store_at(&db.url, "r", "public").prepare(true).await, Err(StartError::Legacy)));
    }
    let empty = TestDb::empty().await;
    assert!(matches!(upgrade(&empty, &UpgradeOptions::default()).await, Err(UpgradeError::Nothing(_))));
}
