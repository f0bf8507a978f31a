//! The upgrade from the integer-keyed schema, against a real Postgres and with the real program.

mod command;
mod kills;
mod live;
mod shapes;

use lamplighter::store::legacy::{UpgradeError, UpgradeOptions, UpgradeReport};

use crate::support::postgres::{TestDb, store_at};

const LEGACY: &str = include_str!("data/legacy.sql");
const CAMEL: &str = include_str!("data/legacy/camel.sql");
const LOOSE: &str = include_str!("data/legacy/loose.sql");
const ZONES: &str = include_str!("data/legacy/zones.sql");
const NUMBERS: &str = include_str!("data/legacy/numbers.sql");
const NEIGHBOURS: &str = include_str!("data/legacy/neighbours.sql");
const BARE: &str = include_str!("data/legacy/bare.sql");

/// Every shape, by name.
const SHAPES: [(&str, &str); 7] = [
    ("legacy", LEGACY),
    ("camel", CAMEL),
    ("loose", LOOSE),
    ("zones", ZONES),
    ("numbers", NUMBERS),
    ("neighbours", NEIGHBOURS),
    ("bare", BARE),
];

/// An old database.
async fn old(sql: &str) -> TestDb {
    let db = TestDb::empty().await;
    db.sql(sql).await;
    db
}

async fn upgrade(db: &TestDb, options: &UpgradeOptions) -> Result<UpgradeReport, UpgradeError> {
    let store = store_at(&db.url, "us-east-1", "public");
    let report = store.upgrade(options, &mut |_| {}).await;
    store.close().await;
    report
}

async fn upgraded(db: &TestDb) -> UpgradeReport {
    upgrade(db, &UpgradeOptions::default()).await.unwrap()
}

fn in_zone(zone: &str) -> UpgradeOptions {
    UpgradeOptions { timezone: Some(zone.to_owned()), ..UpgradeOptions::default() }
}

/// Every row of every old table is somewhere: the sums are equal, and the old tables still have all of them.
async fn is_whole(db: &TestDb, report: &UpgradeReport) {
    for table in &report.tables {
        let sum = table.moved + table.kept.values().sum::<i64>() + table.missing;
        assert_eq!((table.rows, table.missing), (sum, 0), "{table:?}");
        let there: i64 = db.get(&format!("SELECT count(*) FROM legacy.\"{}\"", table.table)).await;
        assert_eq!(there, table.rows, "{}", table.table);
        let key = if matches!(table.to.as_str(), "users" | "monitors") { "legacy_id" } else { "id" };
        let new: i64 = db.get(&format!("SELECT count({key}) FROM public.{}", table.to)).await;
        assert_eq!(new, table.moved, "{}", table.to);
    }
}

/// Everything in the new tables, whatever their uuids are.
async fn content(db: &TestDb) -> String {
    let mut all = String::new();
    for sql in [
        "SELECT string_agg((to_jsonb(u) - 'id')::text, E'\\n' ORDER BY legacy_id) FROM public.users u",
        "SELECT string_agg((to_jsonb(m) - '{id,user_id,revision}'::text[] || jsonb_build_object('owner', u.legacy_id))::text, \
            E'\\n' ORDER BY m.legacy_id) FROM public.monitors m JOIN public.users u ON u.id = m.user_id",
        "SELECT string_agg((to_jsonb(i) - '{user_id,monitor_id}'::text[] || jsonb_build_object('owner', u.legacy_id, \
            'monitor', m.legacy_id))::text, E'\\n' ORDER BY i.id) FROM public.incidents i \
            JOIN public.users u ON u.id = i.user_id JOIN public.monitors m ON m.id = i.monitor_id",
        "SELECT md5(string_agg((to_jsonb(r) - 'monitor_id' || jsonb_build_object('monitor', m.legacy_id))::text, \
            E'\\n' ORDER BY r.id)) FROM public.status_reports r JOIN public.monitors m ON m.id = r.monitor_id",
        "SELECT md5(string_agg((to_jsonb(c) - '{id,monitor_id}'::text[] || jsonb_build_object('monitor', m.legacy_id))::text, \
            E'\\n' ORDER BY m.legacy_id, c.checked_at, c.response_time_ms)) \
            FROM public.monitor_checks c JOIN public.monitors m ON m.id = c.monitor_id",
    ] {
        let part: Option<String> = db.get(sql).await;
        all += &part.unwrap_or_default();
        all.push('\n');
    }
    // The system user is of its own time.
    let began = all.lines().filter(|line| !line.contains("\"plan\": \"system\""));
    began.collect::<Vec<_>>().join("\n")
}
