//! Answers over a long history: 30 days of raw rows, rolled up by the daemon's own job.

use std::time::Duration;

use lamplighter::model::{Keeping, Retention};
use tokio::time::Instant;
use uuid::Uuid;

use super::house::House;
use super::recording::make_monitors;
use super::{Options, Result};

const DAYS: i64 = 30;
/// The day that retention drops: before all others, with as many rows as a thousand monitors make at one a minute.
const OLD_DAY: i32 = 40;
const OLD_ROWS: i64 = 1_400_000;
/// Monitors that are asked, evenly chosen.
const ASKED: usize = 500;

pub(crate) async fn measure(house: &House, options: &Options) -> Result<()> {
    make_monitors(house, usize::try_from(options.monitors)?).await?;
    fill(house, options).await?;
    roll_up(house).await?;
    for table in ["monitor_checks", "monitor_rollups", "monitor_rollups_daily", "monitors"] {
        sqlx::query(sqlx::AssertSqlSafe(format!("VACUUM ANALYZE {table}"))).execute(&house.pool).await?;
    }
    let ids: Vec<Uuid> = sqlx::query_scalar("SELECT id FROM monitors ORDER BY id").fetch_all(&house.pool).await?;
    let step = (ids.len() / ASKED).max(1);
    let asked: Vec<Uuid> = ids.into_iter().step_by(step).collect();
    println!("| answer, over {ASKED} monitors | median ms | p99 ms | most ms |\n|---|---|---|---|");
    for (what, sql) in [
        ("one row by its key, to compare", "SELECT name::text FROM monitors WHERE id = $1"),
        ("`calculate_uptime_percentage(id, 30)`", "SELECT calculate_uptime_percentage($1, 30)::text"),
        ("`calculate_uptime_percentage(id, 1)`", "SELECT calculate_uptime_percentage($1, 1)::text"),
        (
            "`calculate_latency` of 30 days",
            "SELECT p95_ms::text FROM calculate_latency($1, now() - interval '30 days', now())",
        ),
        (
            "uptime of 30 days from raw rows",
            "SELECT (100.0 * SUM(CASE WHEN status = true THEN 1 ELSE 0 END) / COUNT(*))::text FROM monitor_checks \
             WHERE monitor_id = $1 AND checked_at >= now() - interval '30 days'",
        ),
    ] {
        let mut times = Vec::with_capacity(asked.len());
        let mut conn = house.pool.acquire().await?;
        // Once for all to prepare it and to warm the cache alike for every line.
        for round in 0..2 {
            for id in &asked {
                let began = Instant::now();
                let _: Option<String> = sqlx::query_scalar(sql).bind(id).fetch_one(&mut *conn).await?;
                if round == 1 {
                    times.push(began.elapsed());
                }
            }
        }
        print(what, &mut times);
    }
    retention(house).await
}

/// Drops a day of the past as the daemon does each minute.
async fn retention(house: &House) -> Result<()> {
    let sql = "SELECT ensure_check_partitions(now() - make_interval(days => $1), now() - make_interval(days => $1))";
    sqlx::query(sql).bind(OLD_DAY).execute(&house.pool).await?;
    let mut conn = house.pool.acquire().await?;
    sqlx::query("SET session_replication_role = replica").execute(&mut *conn).await?;
    let sql = "INSERT INTO monitor_checks (monitor_id, status, response_time_ms, checked_at) \
        SELECT m.id, true, 20, date_trunc('day', now(), 'UTC') - make_interval(days => $1) + n * interval '50 ms' \
        FROM (SELECT id FROM monitors ORDER BY id LIMIT 1) m, generate_series(1, $2) n";
    sqlx::query(sql).bind(OLD_DAY).bind(OLD_ROWS).execute(&mut *conn).await?;
    sqlx::query("SET session_replication_role = origin").execute(&mut *conn).await?;
    drop(conn);
    // The one hour that was marked.
    while house.store.roll_up().await?.more {}
    sqlx::query("CHECKPOINT").execute(&house.pool).await?;
    let retention = Retention { checks: Duration::from_secs(86_400 * 35), ..Retention::default() };
    house.store.keeping().store(std::sync::Arc::new(Keeping { retention, ..Keeping::default() }));
    let began = Instant::now();
    let kept = house.store.retain().await?;
    let took = began.elapsed();
    let bytes: u64 = kept.dropped.iter().map(|day| day.bytes).sum();
    if bytes < 100 << 20 {
        return Err(format!("no large day was dropped: {kept:?}").into());
    }
    let mib = bytes >> 20;
    println!(
        "\nretention: a day of {OLD_ROWS} rows ({mib} MiB) and the empty ones after it dropped in {:.0} ms",
        took.as_secs_f64() * 1e3
    );
    Ok(())
}

fn print(what: &str, times: &mut [Duration]) {
    times.sort_unstable();
    let ms = |share: usize| times.get((times.len() - 1) * share / 100).map_or(0.0, |time| time.as_secs_f64() * 1e3);
    println!("| {what} | {:.2} | {:.2} | {:.2} |", ms(50), ms(99), ms(100));
}

/// Evenly over 30 days, one check in 61 a failure. Foreign keys are not checked: what is measured comes afterwards.
async fn fill(house: &House, options: &Options) -> Result<()> {
    let each = options.rows / i64::from(options.monitors);
    let seconds = DAYS * 86_400 / each.max(1);
    let began = Instant::now();
    sqlx::query("SELECT ensure_check_partitions(now() - make_interval(days => 31), now())")
        .execute(&house.pool)
        .await?;
    let mut conn = house.pool.acquire().await?;
    sqlx::query("SET session_replication_role = replica").execute(&mut *conn).await?;
    let mut rows = 0;
    for day in (0..DAYS).rev() {
        let sql = "INSERT INTO monitor_checks (monitor_id, status, status_code, response_time_ms, error_type, checked_at, \
                dns_us, connect_us, tls_us, send_us, wait_us, receive_us) \
            SELECT m.id, n % 61 <> 0, CASE WHEN n % 61 = 0 THEN 503 ELSE 200 END, 20 + (n * 7919) % 700, \
                CASE WHEN n % 61 = 0 THEN 'status_unexpected' END, at, 300, 4000, 9000, 40, 11000, 60 \
            FROM monitors m, LATERAL (SELECT n, now() - make_interval(days => $1::int + 1) + n * make_interval(secs => $2) AS at \
                FROM generate_series(0, (86400 / $2)::int) n) t \
            WHERE at < now() - make_interval(days => $1::int) ORDER BY at, m.id";
        let done = sqlx::query(sql).bind(day).bind(seconds as f64).execute(&mut *conn).await?;
        rows += done.rows_affected();
    }
    // This connection goes back to a pool of ours.
    sqlx::query("SET session_replication_role = origin").execute(&mut *conn).await?;
    // As the recorder does; a page of checks begins there.
    sqlx::query("UPDATE monitors SET last_checked = now()").execute(&house.pool).await?;
    let bytes = house.bytes("monitor_checks").await?;
    let took = began.elapsed().as_secs_f64();
    println!(
        "{rows} raw rows of {} monitors written in {took:.0} s, {:.0} bytes each",
        options.monitors,
        bytes / rows as f64
    );
    Ok(())
}

/// All hours of the history, as after an upgrade.
async fn roll_up(house: &House) -> Result<()> {
    let sql = "SELECT ensure_check_partitions(now() - make_interval(days => 31), now())";
    sqlx::query(sql).execute(&house.pool).await?;
    let began = Instant::now();
    let mut pairs = 0;
    loop {
        let done = house.store.roll_up().await?;
        pairs += done.recomputed;
        if !done.more && done.backfill.is_none() {
            break;
        }
    }
    let took = began.elapsed().as_secs_f64();
    println!("{pairs} pairs of monitor and hour rolled up in {took:.0} s, {:.0} a second\n", pairs as f64 / took);
    Ok(())
}
