//! Whose database is it, and taking over one that another tool made.

use lamplighter::store::{Adopting, Found, StartError};

use crate::support::postgres::{TestDb, store_at};
use crate::support::target::until;

const LEGACY: &str = include_str!("../data/legacy.sql");
const UUID: &str = include_str!("../data/uuid.sql");

#[tokio::test]
async fn each_kind_of_database_is_told() {
    let db = TestDb::empty().await;
    let store = store_at(&db.url, "us-east-1", "public");
    assert_eq!(store.classify().await.unwrap(), Found::Empty);

    db.sql("CREATE TABLE orders (id uuid)").await;
    let error = store.prepare(true).await.unwrap_err();
    assert!(matches!(&error, StartError::Foreign(why) if why.contains("orders")), "{error}");
    assert_eq!(error.exit_code(), 78);
    db.sql("DROP TABLE orders").await;
    assert_eq!(db.get::<i64>("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").await, 0);

    store.prepare(true).await.unwrap();
    assert_eq!(store.classify().await.unwrap(), Found::Ours { pending: 0 });
    assert!(store.migrate_dry_run().await.unwrap().starts_with("-- the schema is up to date"));

    db.sql("INSERT INTO lamplighter_migrations VALUES (9999, 'later', now(), true, '', 0)").await;
    let error = store.prepare(true).await.unwrap_err();
    assert!(matches!(error, StartError::SchemaNewer { found: 9999, .. }), "{error}");
    assert_eq!(error.exit_code(), 78);
}

#[tokio::test]
async fn the_integer_keyed_database_is_refused_untouched() {
    let db = TestDb::empty().await;
    db.sql(LEGACY).await;
    let store = store_at(&db.url, "us-east-1", "public");
    let error = store.prepare(true).await.unwrap_err();
    assert!(matches!(error, StartError::Legacy), "{error}");
    assert!(error.to_string().contains("lamplighter migrate legacy"));
    assert_eq!(db.get::<i64>("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").await, 4);
}

#[tokio::test]
async fn the_uuid_schema_is_adopted_with_every_row() {
    let db = TestDb::empty().await;
    db.sql(UUID).await;
    // What real ones have besides: columns of their own, rows that cannot be keyed, other people's failures.
    db.sql(
        "ALTER TABLE monitor_checks ADD COLUMN note text NOT NULL DEFAULT 'x';
         ALTER TABLE monitor_checks ALTER COLUMN monitor_id DROP NOT NULL;
         INSERT INTO monitor_checks (monitor_id, status) VALUES (NULL, true);
         ALTER TABLE incidents DROP CONSTRAINT incidents_monitor_id_fkey;
         ALTER TABLE incidents ADD FOREIGN KEY (monitor_id) REFERENCES monitors (id);
         CREATE TABLE sessions (id uuid)",
    )
    .await;
    let sums = "SELECT md5(string_agg(concat_ws(',', id, monitor_id, status, status_code, response_time_ms, error_type, \
        region, extract(epoch FROM checked_at), note), ';' ORDER BY id)) FROM monitor_checks WHERE monitor_id IS NOT NULL";
    let before: String = db.get(sums).await;

    let store = store_at(&db.url, "us-east-1", "public");
    assert_eq!(store.classify().await.unwrap(), Found::Adoptable);
    let plan = store.migrate_dry_run().await.unwrap();
    assert_eq!(store.classify().await.unwrap(), Found::Adoptable);
    assert_eq!(store.prepare(true).await.unwrap(), Found::Adoptable);

    assert_eq!(db.get::<String>(sums).await, before);
    assert_eq!(db.get::<i64>("SELECT count(*) FROM monitor_checks").await, 200_000);
    assert_eq!(db.get::<i64>("SELECT count(*) FROM monitor_checks_adopted").await, 1);
    assert_eq!(db.get::<i64>("SELECT count(*) FROM incidents WHERE status = 'open'").await, 3);
    assert_eq!(db.get::<i64>("SELECT count(*) FROM monitor_checks WHERE error_type = 'HTTP_ERROR'").await, 3200);
    let wrong = "SELECT count(*) FROM monitors m WHERE calculate_uptime_percentage(m.id, 30) IS DISTINCT FROM \
        (SELECT 100.0 * SUM(CASE WHEN status = true THEN 1 ELSE 0 END) / COUNT(*) FROM monitor_checks c \
         WHERE c.monitor_id = m.id AND c.checked_at >= now() - interval '30 days')";
    assert_eq!(db.get::<i64>(wrong).await, 0);
    // New rows go on behind the old ones, nulls are welcome, deletes cascade.
    db.sql(
        "INSERT INTO monitor_checks (monitor_id, status) SELECT id, true FROM monitors;
         INSERT INTO users (name) VALUES ('nobody'); DELETE FROM users WHERE clerk_id IS NOT NULL",
    )
    .await;
    assert_eq!(db.get::<i64>("SELECT count(*) FROM incidents").await, 0);
    assert_eq!(store.classify().await.unwrap(), Found::Ours { pending: 0 });

    // The dry run is the real thing: the same SQL gives the same schema.
    let twin = TestDb::empty().await;
    twin.sql(UUID).await;
    twin.sql(&plan).await;
    let twin_count: i64 = twin.get("SELECT count(*) FROM monitor_checks").await;
    assert_eq!(twin_count, 200_000);
}

/// Holds an adoption of [`UUID`] when all of its checks are moved, until the connection that is returned is dropped.
pub async fn held_after_moving(db: &TestDb) -> sqlx::pool::PoolConnection<sqlx::Postgres> {
    db.sql(UUID).await;
    db.sql(
        "UPDATE monitors SET is_active = false;
         CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN PERFORM pg_advisory_xact_lock(42); RETURN NULL; END $$;
         CREATE TRIGGER hold BEFORE DELETE ON monitor_checks FOR EACH STATEMENT EXECUTE FUNCTION hold()",
    )
    .await;
    let mut conn = db.pool.acquire().await.unwrap();
    sqlx::query("SELECT pg_advisory_lock(42)").execute(&mut *conn).await.unwrap();
    conn.close_on_drop();
    conn
}

#[tokio::test]
async fn others_see_how_far_an_adoption_is() {
    let db = TestDb::empty().await;
    let held = held_after_moving(&db).await;
    let store = store_at(&db.url, "us-east-1", "public");
    assert_eq!(store.adopting().await.unwrap(), None);
    // A reader keeps it from changing the first table.
    let mut reader = db.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE users IN ACCESS SHARE MODE").execute(&mut *reader).await.unwrap();
    let adopting = tokio::spawn({
        let store = store.clone();
        async move { store.prepare(true).await }
    });
    let told =
        until("it has begun", std::time::Duration::from_secs(60), async || store.adopting().await.unwrap()).await;
    assert_eq!(told, Adopting { moved: 0, about: 0 });
    reader.commit().await.unwrap();
    let told = until("all are moved", std::time::Duration::from_secs(60), async || {
        store.adopting().await.unwrap().filter(|told| told.moved > 0 && told.moved == told.about)
    })
    .await;
    assert_eq!(told, Adopting { moved: 200_000, about: 200_000 });
    let pieces = "SELECT substring(application_name FROM '/(.*)')::integer FROM pg_stat_activity \
        WHERE datname = current_database() AND application_name LIKE 'lamplighter adopts %'";
    assert!(db.get::<i32>(pieces).await > 1, "it is moved in more than one piece");
    drop(held);
    assert_eq!(adopting.await.unwrap().unwrap(), Found::Adoptable);
    assert_eq!(store.adopting().await.unwrap(), None);
    assert_eq!(db.get::<i64>("SELECT count(*) FROM monitor_checks").await, 200_000);
}

/// The lists of columns in `adoption/before.sql` and in the migrations must not drift apart.
#[tokio::test]
async fn an_adopted_schema_has_the_columns_of_a_fresh_one() {
    let columns = "SELECT string_agg(table_name || '.' || column_name || ' ' || data_type || ' ' || \
            coalesce(column_default, '-'), E'\\n' ORDER BY table_name, column_name) \
        FROM information_schema.columns WHERE table_schema = 'public' \
        AND table_name IN ('users', 'monitors', 'monitor_checks', 'incidents', 'status_reports')";
    let fresh = TestDb::new().await;
    let adopted = TestDb::empty().await;
    // As little as can be adopted.
    adopted
        .sql(
            "CREATE TABLE users (id uuid PRIMARY KEY, clerk_id text NOT NULL, email text NOT NULL);
             CREATE TABLE monitors (id uuid PRIMARY KEY, user_id uuid NOT NULL, url text NOT NULL, created_at timestamp);
             INSERT INTO users VALUES ('00000000-0000-4000-8000-00000000000a', 'c', 'e');
             INSERT INTO monitors VALUES (gen_random_uuid(), '00000000-0000-4000-8000-00000000000a',
                'https://shop.example/x', '2026-01-01 12:00')",
        )
        .await;
    store_at(&adopted.url, "us-east-1", "public").prepare(true).await.unwrap();
    let text = |s: String| {
        s.replace("clerk_id text", "clerk_id character varying")
            .replace("email text", "email character varying")
            .replace("url text", "url character varying")
    };
    assert_eq!(fresh.get::<String>(columns).await, text(adopted.get::<String>(columns).await));
    assert_eq!(adopted.get::<String>("SELECT name FROM monitors").await, "shop.example");
    let created: chrono::DateTime<chrono::Utc> = adopted.get("SELECT created_at FROM monitors").await;
    assert_eq!(created.to_rfc3339(), "2026-01-01T12:00:00+00:00");
}

#[tokio::test]
async fn connection_errors_are_told_apart_and_without_the_password() {
    let db = TestDb::new().await;
    let missing = store_at(&db.url.replace("/test_", "/no_such_"), "r", "public");
    let error = missing.prepare(true).await.unwrap_err();
    assert!(matches!(error, StartError::NoSuchDatabase(_)), "{error}");
    let role = store_at(&db.url.replace("user=lamplighter", "user=stranger"), "r", "public");
    let error = role.prepare(true).await.unwrap_err();
    assert!(matches!(error, StartError::LoginRefused(_)), "{error}");
    let nobody = store_at("postgres://u:hunter2@127.0.0.1:1/x", "r", "public");
    let error = nobody.prepare(true).await.unwrap_err();
    assert!(error.is_away() && error.exit_code() == 69, "{error}");
    assert!(error.to_string().contains("127.0.0.1:1") && error.to_string().contains("refused"), "{error}");
    assert!(!format!("{error} {error:?}").contains("hunter2"));
}
