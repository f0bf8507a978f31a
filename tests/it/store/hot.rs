//! No statement of the store reads a large table from end to end: each is planned and run against a database with rows
//! enough, and both the plan and the server's own counters (which see into functions as well) are looked at.

use lamplighter::store::STATEMENTS;
use sqlx::{AssertSqlSafe, Executor as _, PgConnection};

use super::monitors;
use crate::support::postgres::TestDb;

/// What grows with time.
const LARGE: &str = "'^(monitor_checks_[0-9]{8}|monitor_rollups|monitor_rollups_daily|incidents|monitor_gaps)$'";
/// Not today's partition soon after midnight: the few rows of it are rightly read at once.
const FILLED: &str = "c.reltuples > (CASE WHEN c.relname LIKE 'monitor_checks%' THEN 5000 ELSE 0 END)";
/// Words by which a statement reads or writes one of them.
const WORDS: [&str; 10] = [
    "monitor_checks",
    "monitor_rollups",
    "incidents",
    "monitor_gaps",
    "lamplighter_counts",
    "lamplighter_uptime_counts",
    "lamplighter_roll",
    "calculate_latency",
    "lamplighter_latency",
    "calculate_uptime_percentage",
];

/// A statement, by a text that only it has, with parameters: M is a monitor, MS all of them, U an incident's uid, T a time
/// some hours ago, D its day. Statements of the API's connections are planned anew for each call.
struct Hot {
    text: &'static str,
    read: bool,
    parameters: &'static [&'static str],
}

const fn read(text: &'static str, parameters: &'static [&'static str]) -> Hot {
    Hot { text, read: true, parameters }
}

const fn write(text: &'static str, parameters: &'static [&'static str]) -> Hot {
    Hot { text, read: false, parameters }
}

const OF_ONE: &str = "AND c.monitor_id = $9 ORDER BY c.checked_at DESC, c.id DESC";
const OF_EACH: &str = "AND c.monitor_id = m.id AND c.checked_at >= coalesce";
const OF_ALL: &str = "LIMIT $8::bigint) c JOIN monitors m";
const INCIDENTS: &str = "ORDER BY i.started_at DESC, i.id DESC";

const HOT: &[Hot] = &[
    // Pages of the API, with the filters that change a plan.
    read(OF_ONE, &["'1970-01-01'", "'2999-01-01'", "'2999-01-01'", "1", "NULL", "NULL", "NULL", "101", "M"]),
    read(OF_ONE, &["T", "now()", "now()", "1", "false", "NULL", "NULL", "101", "M"]),
    read(OF_ONE, &["T", "now()", "T", "77", "NULL", "NULL", "'connect_refused'", "101", "M"]),
    read(OF_EACH, &["T", "now()", "now()", "1", "NULL", "NULL", "NULL", "101", "NULL", "'{}'", "'{}'"]),
    read(OF_EACH, &["T", "now()", "now()", "1", "false", "NULL", "NULL", "101", "SYSTEM", "'{free}'", "'{86400}'"]),
    read(OF_ALL, &["T", "T::timestamptz + interval '1 second'", "now()", "1", "NULL", "NULL", "NULL", "101", "NULL"]),
    read(
        OF_ALL,
        &[
            "T",
            "T::timestamptz + interval '8 minutes'",
            "now()",
            "1",
            "false",
            "NULL",
            "'connect_refused'",
            "101",
            "SYSTEM",
        ],
    ),
    read(INCIDENTS, &["NULL", "NULL", "NULL", "NULL", "NULL", "NULL", "NULL", "101"]),
    read(INCIDENTS, &["SYSTEM", "NULL", "NULL", "NULL", "NULL", "T", "1", "101"]),
    read(INCIDENTS, &["NULL", "NULL", "M", "T", "now()", "NULL", "NULL", "101"]),
    read("AND i.id = $2", &["NULL", "17"]),
    read("FROM lamplighter_counts(ARRAY[$1::uuid],", &["M", "30", "NULL"]),
    read("FROM lamplighter_counts(ARRAY[$1::uuid],", &["M", "365", "T"]),
    read("CROSS JOIN LATERAL lamplighter_counts", &["NULL", "NULL", "101", "30", "'{}'", "'{}'"]),
    read("LATERAL lamplighter_latency(", &["M", "NULL", "30", "NULL", "NULL", "NULL", "NULL"]),
    read(
        "LATERAL lamplighter_latency(",
        &["M", "now() - interval '30 days'", "0", "NULL", "now()", "'hour'", "'us-east-1'"],
    ),
    read("LATERAL lamplighter_latency(", &["M", "now() - interval '3650 days'", "0", "T", "now()", "'day'", "NULL"]),
    // Pages of an export.
    read(
        "ORDER BY c.checked_at, c.id, m.id LIMIT",
        &["NULL", "NULL", "T", "now()", "0", "SYSTEM", "1001", "'{free}'", "'{86400}'"],
    ),
    read("AND (i.started_at, i.id) > ($5::text", &["NULL", "NULL", "NULL", "NULL", "'-infinity'", "0", "1001"]),
    // The spans of uptime by time.
    read("SELECT part.* FROM", &["MS", "now() - interval '20 hours'", "now()", "1000", "'{free}'", "'{86400}'"]),
    // Recording.
    write("INSERT INTO monitor_gaps AS g (monitor_id", &["MS", "TS", "TS", "'{paused}'", "'r'"]),
    write("SELECT $4, from_at, max(to_at), reason", &["TS", "TS", "'{paused}'", "'r'"]),
    write("VALUES ($1, $2, $3, $4) ON CONFLICT (region, reason, from_at)", &["'r'", "T", "T", "'paused'"]),
    write(
        "INSERT INTO incidents",
        &["ARRAY[gen_random_uuid()]", "MS", "'{t}'", "TS", "'{c}'", "'{NULL}'", "'{NULL}'", "'{NULL}'"],
    ),
    write("UPDATE incidents i SET resolved_at", &["US", "TS", "'{recovered}'"]),
    write("ORDER BY id FOR NO KEY UPDATE SKIP LOCKED", &["US"]),
    write("SELECT uid FROM incidents WHERE uid = ANY($1) AND resolved_at IS NULL", &["US"]),
    write("UPDATE monitors m SET status = coalesce", &["MS", "'{up}'", "TS", "'{1}'", "'{NULL}'"]),
    // Roll-ups and retention.
    write("DELETE FROM monitor_rollups r USING unnest", &["MS", "TS"]),
    write(
        "FROM lamplighter_roll($1::uuid[]",
        &["MS", "TS", "ARRAY[T::timestamptz + interval '1 hour']", "T", "T::timestamptz + interval '1 hour'"],
    ),
    write("DELETE FROM monitor_rollups_daily d USING unnest", &["MS", "DS"]),
    write("INSERT INTO monitor_rollups_daily", &["MS", "DS"]),
    write("SELECT min((first.hour", &[]),
    write("SELECT monitor_id, hour, region FROM monitor_rollups", &["NULL", "now() - interval '20 days'"]),
    write("SELECT monitor_id, day, region FROM monitor_rollups_daily", &["NULL", "now() - interval '20 days'"]),
    write("DELETE FROM incidents WHERE id = ANY", &["now() - interval '29 days'"]),
    write("DELETE FROM monitor_gaps WHERE id = ANY", &["now() - interval '29 days'"]),
    // The catalogue: once at the start, then for single monitors, and once a minute.
    write("LEFT JOIN incidents i ON i.monitor_id = m.id", &["'us-east-1'", "MS"]),
    write("SELECT s.monitor_id, s.incident FROM monitor_state s", &["'us-east-1'"]),
];

/// Statements that name a large table and read none of it.
const HARMLESS: &[(&str, &str)] = &[
    ("SELECT c.relname || '.' || a.attname", "reads the system's catalogues"),
    ("to_date(right(c.relname, 8)", "reads the system's catalogues"),
    ("regexp_match(pg_get_expr(c.relpartbound", "reads the system's catalogues"),
    ("SELECT count(*) FROM incidents i JOIN", "counts once an export, for its progress"),
    ("pg_total_relation_size('monitor_rollups')", "asks for sizes"),
    ("UPDATE rollup_progress SET incidents_from", "writes the one row of its table"),
    ("SELECT pg_database_size(current_database())", "asks for sizes"),
    ("AS day FROM generate_series(0, 3) d) days", "reads the system's catalogues"),
];

async fn fill(db: &TestDb) {
    monitors(db, 100).await;
    db.sql(
        "SELECT ensure_check_partitions(now() - interval '3 days', now());
         INSERT INTO monitor_checks (monitor_id, status, response_time_ms, checked_at)
            SELECT m.id, g % 50 <> 0, g % 400, now() - g * interval '5 minutes'
            FROM monitors m, generate_series(0, 3 * 288 - 1) g ORDER BY 4;
         INSERT INTO monitor_rollups SELECT m.id, h, 'us-east-1', 12, 12, 12, 480, 30, 50, '{{52,6},{57,6}}'
            FROM monitors m, generate_series(date_trunc('hour', now() - interval '30 days', 'UTC'),
                date_trunc('hour', now() - interval '1 hour', 'UTC'), interval '1 hour') h;
         INSERT INTO monitor_rollups_daily SELECT m.id, d, 'us-east-1', 288, 288, 288, 9999, 30, 50, '{{52,144},{57,144}}'
            FROM monitors m, generate_series((now() AT TIME ZONE 'UTC')::date - 30, (now() AT TIME ZONE 'UTC')::date - 1, interval '1 day') d;
         DELETE FROM monitor_rollups_daily WHERE day = current_date - 2;
         DELETE FROM rollup_dirty;
         INSERT INTO rollup_dirty (monitor_id, hour) SELECT id, date_trunc('hour', now() - interval '2 days', 'UTC') FROM monitors;
         INSERT INTO incidents (uid, user_id, monitor_id, title, status, started_at, resolved_at, source)
            SELECT gen_random_uuid(), m.user_id, m.id, 't', 'resolved', now() - g * interval '1 hour', now() - g * interval '59 minutes', 'daemon'
            FROM monitors m, generate_series(1, 700) g;
         INSERT INTO monitor_state (monitor_id, region, state, status, incident)
            SELECT m.id, 'us-east-1', '{}', 'up', CASE WHEN random() < 0.1 THEN gen_random_uuid() END FROM monitors m;
         INSERT INTO monitor_gaps (monitor_id, region, from_at, to_at, reason)
            SELECT m.id, 'us-east-1', now() - g * interval '1 hour', now() - g * interval '59 minutes', 'overloaded'
            FROM monitors m, generate_series(1, 700) g",
    )
    .await;
    db.sql("VACUUM ANALYZE").await;
}

fn mentions(statement: &str) -> bool {
    WORDS.iter().any(|word| statement.contains(word))
        && !statement.starts_with("LOCK")
        && !statement.starts_with("COPY")
}

/// Sequential scans of large tables that hold something.
async fn scans(conn: &mut PgConnection) -> Vec<(String, i64)> {
    let sql = format!(
        "SELECT s.relname::text, s.seq_scan FROM pg_stat_xact_user_tables s JOIN pg_class c ON c.oid = s.relid \
         WHERE s.seq_scan > 0 AND {FILLED} AND s.relname ~ {LARGE} ORDER BY 1"
    );
    sqlx::query_as(AssertSqlSafe(sql)).fetch_all(conn).await.unwrap()
}

async fn offences(conn: &mut PgConnection, statement: &str, hot: &Hot, values: &[(&str, String)]) -> Vec<String> {
    let parameters: Vec<String> = hot
        .parameters
        .iter()
        .map(|parameter| {
            values.iter().fold((*parameter).to_owned(), |text, (name, value)| {
                if text == *name { value.clone() } else { text.replace("T::", &format!("{}::", values[3].1)) }
            })
        })
        .collect();
    let execute = match parameters.len() {
        0 => "EXECUTE hot".to_owned(),
        _ => format!("EXECUTE hot ({})", parameters.join(", ")),
    };
    let mode = if hot.read { "force_custom_plan" } else { "auto" };
    for sql in ["BEGIN", &format!("SET LOCAL plan_cache_mode = {mode}"), &format!("PREPARE hot AS {statement}")] {
        conn.execute(AssertSqlSafe(sql.to_owned())).await.unwrap_or_else(|error| panic!("{error}\n{sql}"));
    }
    let plan: Vec<String> = sqlx::query_scalar(AssertSqlSafe(format!("EXPLAIN (COSTS off) {execute}")))
        .fetch_all(&mut *conn)
        .await
        .unwrap_or_else(|error| panic!("{error}\n{execute}\n{statement}"));
    // They are the session's since it last told them to the others.
    let before = scans(conn).await;
    conn.execute(AssertSqlSafe(execute.clone()))
        .await
        .unwrap_or_else(|error| panic!("{error}\n{execute}\n{statement}"));
    let after = scans(conn).await;
    let scanned = after.into_iter().filter(|scan| !before.contains(scan)).map(|scan| scan.0);
    let scanned: Vec<String> = scanned.collect();
    let filled: Vec<String> = sqlx::query_scalar(AssertSqlSafe(format!(
        "SELECT relname::text FROM pg_class c WHERE relkind = 'r' AND {FILLED} AND relname ~ {LARGE}"
    )))
    .fetch_all(&mut *conn)
    .await
    .unwrap();
    conn.execute("ROLLBACK").await.unwrap();
    conn.execute("DEALLOCATE hot").await.unwrap();
    let planned = plan.iter().filter(|line| {
        let table = line.split("Seq Scan on ").nth(1).and_then(|rest| rest.split_whitespace().next());
        table.is_some_and(|table| filled.iter().any(|name| name == table))
    });
    let planned = planned.map(|line| format!("{}: planned: {}", hot.text, line.trim()));
    planned.chain(scanned.iter().map(|table| format!("{}: ran: a sequential scan of {table}", hot.text))).collect()
}

async fn values(db: &TestDb) -> Vec<(&'static str, String)> {
    let monitor: uuid::Uuid = db.get("SELECT id FROM monitors ORDER BY id LIMIT 1").await;
    let uid: uuid::Uuid = db.get("SELECT uid FROM incidents LIMIT 1").await;
    let time = "date_trunc('hour', now() - interval '7 hours')";
    vec![
        ("M", format!("'{monitor}'")),
        ("MS", format!("ARRAY['{monitor}'::uuid]")),
        ("US", format!("ARRAY['{uid}'::uuid]")),
        ("T", time.to_owned()),
        ("TS", format!("ARRAY[{time}]")),
        ("DS", "ARRAY[current_date - 2]".to_owned()),
        ("SYSTEM", "'00000000-0000-4000-8000-000000000001'".to_owned()),
    ]
}

#[tokio::test]
async fn no_large_table_is_read_from_end_to_end() {
    let db = TestDb::new().await;
    fill(&db).await;
    let values = values(&db).await;
    let mut conn = db.pool.acquire().await.unwrap();
    let mut found = Vec::new();
    let mut used = vec![false; HOT.len()];
    for statement in STATEMENTS.iter().copied().flatten().filter(|statement| mentions(statement)) {
        if HARMLESS.iter().any(|(text, _)| statement.contains(text)) {
            continue;
        }
        let cases: Vec<usize> = (0..HOT.len()).filter(|index| statement.contains(HOT[*index].text)).collect();
        if cases.is_empty() {
            found.push(format!(
                "a statement over a large table that this test does not know, add it to HOT:\n{statement}"
            ));
        }
        for case in cases {
            used[case] = true;
            found.extend(offences(&mut conn, statement, &HOT[case], &values).await);
        }
    }
    let unused: Vec<&str> = HOT.iter().zip(used).filter(|(_, used)| !used).map(|(hot, _)| hot.text).collect();
    assert!(unused.is_empty(), "no statement has this text: {unused:?}");
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// The test itself: it must see a scan in a plan, and one inside a function.
#[tokio::test]
async fn a_scan_is_seen_wherever_it_hides() {
    let db = TestDb::new().await;
    fill(&db).await;
    db.sql(
        "CREATE FUNCTION hidden() RETURNS bigint LANGUAGE plpgsql STABLE AS \
         $$ BEGIN RETURN (SELECT count(*) FROM incidents WHERE title = 't'); END $$",
    )
    .await;
    let values = values(&db).await;
    let mut conn = db.pool.acquire().await.unwrap();
    let plain =
        offences(&mut conn, "SELECT count(*) FROM monitor_gaps WHERE reason = 'x'", &read("plain", &[]), &values).await;
    assert_eq!(plain.len(), 2, "{plain:?}");
    let hidden = offences(&mut conn, "SELECT hidden()", &read("hidden", &[]), &values).await;
    assert_eq!(hidden, ["hidden: ran: a sequential scan of incidents"]);
}
