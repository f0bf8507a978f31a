//! Latency and days of roll-ups, the backfill of old ones, and what retention removes.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, DurationRound as _, TimeDelta, Utc};
use lamplighter::access::Viewer;
use lamplighter::access::export::{ExportStore as _, Rows, Subject, Wanted};
use lamplighter::access::read::{Histories, LatencyFilter, Step};
use lamplighter::access::read::{LatencyWindow, MonitorName, ReadStore as _};
use lamplighter::journal::RecordStore as _;
use lamplighter::model::{Keeping, MonitorId, Plan, Record, Retention};
use lamplighter::store::{PruneCursor, Store};
use lamplighter::uptime::{Timeline, Window};
use sqlx::{AssertSqlSafe, Executor as _};

use super::{batch, check, monitors, now};
use crate::support::postgres::TestDb;
use crate::support::target::until;

/// A history of so many days up to now, checks every ten minutes from two regions, all hours closed and marked.
async fn history(db: &TestDb, days: i32) {
    db.sql(&format!(
        "SELECT ensure_check_partitions(now() - interval '{days} days', now());
         INSERT INTO monitor_checks (monitor_id, status, response_time_ms, region, checked_at)
            SELECT m.id, g % 23 <> 0, CASE WHEN g % 31 <> 0 THEN (7 * exp(((g * 7919) % 1000) / 160.0))::int END,
                CASE WHEN g % 2 = 0 THEN 'us-east-1' ELSE 'eu' END, now() - g * interval '10 minutes'
            FROM monitors m, generate_series(0, {days} * 144 - 1) g;
         SELECT ensure_check_partitions(now() - interval '{days} days', now())"
    ))
    .await;
}

async fn rolled_up(store: &Store) {
    until("everything is rolled up", Duration::from_secs(120), async || {
        let done = store.roll_up().await.unwrap();
        (!done.more && done.backfill.is_none()).then_some(())
    })
    .await;
}

fn keeping(days: u64) -> Keeping {
    let day = Duration::from_secs(86_400);
    let retention = Retention { checks: day * u32::try_from(days).unwrap(), ..Retention::default() };
    Keeping { retention, ..Keeping::default() }
}

/// Exact figures over the raw rows of every window, beside those of the function. Percentiles are of the nearest rank.
const WRONG: &str = "SELECT count(*) FROM monitors m, unnest(ARRAY[1, 5, 26, 100, 200]) h, unnest(ARRAY[0, 30]) late \
    CROSS JOIN LATERAL (SELECT now() - h * interval '59 minutes' AS a, now() - late * interval '1 minute' AS b) w \
    CROSS JOIN LATERAL calculate_latency(m.id, w.a, w.b) l \
    CROSS JOIN LATERAL ( \
        SELECT count(*) AS checks, count(*) FILTER (WHERE status) AS good, count(t) AS timed, avg(t)::float8 AS avg, \
            min(t) AS low, max(t) AS high, \
            percentile_disc(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY t) AS p \
        FROM (SELECT status, CASE WHEN status THEN response_time_ms END AS t FROM monitor_checks c \
            WHERE c.monitor_id = m.id AND c.checked_at >= w.a AND c.checked_at < w.b) c) x \
    WHERE (l.checks, l.good, l.timed) IS DISTINCT FROM (x.checks, x.good, x.timed) \
        OR (l.min_ms, l.max_ms) IS DISTINCT FROM (x.low, x.high) OR abs(l.avg_ms - x.avg) > 1e-9 * x.avg \
        OR abs(l.p50_ms - x.p[1]) > 0.07 * x.p[1] OR abs(l.p95_ms - x.p[2]) > 0.07 * x.p[2] \
        OR abs(l.p99_ms - x.p[3]) > 0.07 * x.p[3] OR (l.p50_ms IS NULL) <> (x.p IS NULL)";

/// Days that are not the sums of their hours. A day whose checks have no time has no extremes, and nulls equal nothing.
const WRONG_DAYS: &str = "SELECT count(*) FROM ( \
        SELECT monitor_id, (hour AT TIME ZONE 'UTC')::date AS day, region, sum(checks)::bigint, sum(good)::bigint, \
            sum(timed)::bigint, coalesce(sum(sum_ms), 0)::bigint, coalesce(min(min_ms), -1), coalesce(max(max_ms), -1) \
        FROM monitor_rollups WHERE hour < (SELECT date_trunc('day', closed_to, 'UTC') FROM rollup_progress) GROUP BY 1, 2, 3) h \
    FULL JOIN (SELECT monitor_id, day, region, checks, good, timed, coalesce(sum_ms, 0), coalesce(min_ms, -1), \
            coalesce(max_ms, -1) FROM monitor_rollups_daily) d \
        ON ROW(h.*) = ROW(d.*) WHERE h.monitor_id IS NULL OR d.monitor_id IS NULL";

#[tokio::test]
async fn latency_of_any_window_is_that_of_the_raw_rows() {
    let db = TestDb::new().await;
    let ids = monitors(&db, 3).await;
    let store = db.store().await;
    history(&db, 9).await;
    // Marked, and nothing rolled up yet: all of it comes from raw rows.
    assert_eq!(db.get::<i64>(WRONG).await, 0, "raw rows only");
    rolled_up(&store).await;
    assert_eq!(db.get::<i64>("SELECT count(*) FROM rollup_dirty").await, 0);
    assert!(db.get::<i64>("SELECT count(*) FROM monitor_rollups_daily").await >= 3 * 8 * 2);
    assert_eq!(db.get::<i64>(WRONG).await, 0, "roll-ups");
    assert_eq!(db.get::<i64>(WRONG_DAYS).await, 0);
    // A late row makes an hour dirty in the middle of a summed day.
    let late = now() - TimeDelta::days(3);
    store.record(&batch(vec![Record::Check(check(ids[0], true, late))])).await.unwrap();
    assert_eq!(db.get::<i64>(WRONG).await, 0, "with a dirty hour");
    rolled_up(&store).await;
    assert_eq!(db.get::<i64>(WRONG).await, 0, "recomputed");
    assert_eq!(db.get::<i64>(WRONG_DAYS).await, 0);
    let mut session = db.pool.acquire().await.unwrap();
    session.execute("SET timezone = 'Pacific/Chatham'").await.unwrap();
    assert_eq!(sqlx::query_scalar::<_, i64>(WRONG).fetch_one(&mut *session).await.unwrap(), 0, "in another zone");
}

#[tokio::test]
async fn the_histogram_is_less_than_7_percent_off_at_every_value() {
    let db = TestDb::new().await;
    // Every bucket's ends, and each number up to 5,000: its bucket holds it, and is less than 7 % wide.
    let wrong: i64 = db
        .get(
            "WITH v AS (SELECT g AS ms FROM generate_series(0, 5000) g \
                UNION SELECT unnest(ARRAY[least(lamplighter_bucket_least(b), 2147483647), \
                    least(lamplighter_bucket_most(b), 2147483647)])::integer FROM generate_series(0, 318) b) \
             SELECT count(*) FROM v, LATERAL (SELECT lamplighter_latency_bucket(ms) AS b) x \
             WHERE ms NOT BETWEEN lamplighter_bucket_least(b) AND lamplighter_bucket_most(b) \
                OR lamplighter_bucket_most(b) - lamplighter_bucket_least(b) >= 0.07 * greatest(lamplighter_bucket_least(b), 1)",
        )
        .await;
    assert_eq!(wrong, 0);
    assert_eq!(db.get::<i32>("SELECT lamplighter_latency_bucket(-5)").await, 0);
}

#[tokio::test]
async fn a_database_of_before_is_recomputed_day_by_day() {
    let db = TestDb::new().await;
    // More than a transaction takes.
    monitors(&db, 20).await;
    let store = db.store().await;
    history(&db, 4).await;
    rolled_up(&store).await;
    // As the program before left it.
    db.sql(
        "UPDATE monitor_rollups SET timed = NULL, sum_ms = NULL, min_ms = NULL, max_ms = NULL, latency = NULL;
         DELETE FROM monitor_rollups_daily;
         UPDATE rollup_backfill SET first_day = (now() AT TIME ZONE 'UTC')::date, next_day = (now() AT TIME ZONE 'UTC')::date,
            last_day = NULL, done_to = NULL, finished_at = NULL;
         UPDATE rollup_progress SET backfilled = false",
    )
    .await;
    assert_eq!(db.get::<i64>(WRONG).await, 0, "latency comes from raw rows until then");
    // Nothing may go before it is recomputed.
    store.keeping().store(Arc::new(keeping(1)));
    assert_eq!(store.retain().await.unwrap().dropped, []);
    rolled_up(&store).await;
    assert_eq!(db.get::<i64>("SELECT count(*) FROM monitor_rollups WHERE timed IS NULL").await, 0);
    assert_eq!(db.get::<i64>(WRONG).await, 0);
    assert_eq!(db.get::<i64>(WRONG_DAYS).await, 0);
    assert!(store.retain().await.unwrap().dropped.len() >= 2);
}

#[tokio::test]
async fn raw_days_go_when_they_are_rolled_up_and_too_old() {
    let db = TestDb::new().await;
    let id = monitors(&db, 1).await[0];
    let store = db.store().await;
    history(&db, 8).await;
    store.keeping().store(Arc::new(keeping(3)));
    let kept = store.retain().await.unwrap();
    assert_eq!(kept.dropped, [], "not rolled up yet");
    assert!(kept.held.is_some() && kept.raw_bytes > 0);
    rolled_up(&store).await;
    let counted = |days: i32| format!("SELECT checks FROM lamplighter_uptime_counts('{id}', {days})");
    let before: i64 = db.get(&counted(7)).await;
    assert_eq!(before, 7 * 144);

    // Somebody holds rows of monitors: no obstacle. Somebody reads the table: tried again until they are done.
    let mut holder = db.pool.begin().await.unwrap();
    sqlx::query("SELECT 1 FROM monitors FOR UPDATE").execute(&mut *holder).await.unwrap();
    let mut reader = db.pool.begin().await.unwrap();
    sqlx::query("SELECT count(*) FROM monitor_checks").execute(&mut *reader).await.unwrap();
    let (kept, ()) = tokio::join!(store.retain(), async {
        tokio::time::sleep(Duration::from_millis(900)).await;
        reader.commit().await.unwrap();
    });
    let kept = kept.unwrap();
    holder.rollback().await.unwrap();
    let today = now().date_naive();
    assert_eq!(kept.raw_begin, Some(today - TimeDelta::days(3)));
    assert_eq!(
        kept.dropped.last().map(|dropped| (dropped.day, dropped.thinned)),
        Some((today - TimeDelta::days(4), false))
    );
    assert_eq!(kept.thinned_to, None);
    assert_eq!(store.retain().await.unwrap().dropped, []);

    // The window begins at a whole hour now, and no earlier than asked for.
    let from = (now() - TimeDelta::days(7)).duration_trunc(TimeDelta::hours(1)).unwrap() + TimeDelta::hours(1);
    let lost: i64 = db
        .get(&format!("SELECT {before} - checks FROM lamplighter_counts(ARRAY['{id}'::uuid], '{from}', 'infinity')"))
        .await;
    assert_eq!(db.get::<i64>(&counted(7)).await, before - lost);
    assert!((0..7).contains(&lost), "{lost}");
    let latency: i64 =
        db.get(&format!("SELECT checks FROM calculate_latency('{id}', '{from}', now() + interval '1 s')")).await;
    assert_eq!(latency, before - lost);

    // A row that comes years late does not replace what its hour's roll-up says.
    let old = from + TimeDelta::minutes(30);
    store.record(&batch(vec![Record::Check(check(id, true, old))])).await.unwrap();
    rolled_up(&store).await;
    assert_eq!(db.get::<i64>(&counted(7)).await, before - lost);
    assert_eq!(store.retain().await.unwrap().dropped.len(), 1);
}

#[tokio::test]
async fn a_disk_budget_thins_the_oldest_days_first_and_says_so() {
    let db = TestDb::new().await;
    monitors(&db, 20).await;
    let store = db.store().await;
    history(&db, 6).await;
    rolled_up(&store).await;
    let all = store.retain().await.unwrap();
    assert_eq!((all.dropped.len(), all.over_budget, all.thinned_to), (0, false, None));
    let mut keeping = keeping(90);
    keeping.retention.disk_budget = Some(all.bytes() - 1);
    store.keeping().store(Arc::new(keeping.clone()));
    let thinned = store.retain().await.unwrap();
    assert_eq!(thinned.dropped.len(), 1);
    assert!(thinned.dropped[0].thinned && thinned.bytes() < all.bytes());
    assert_eq!((thinned.raw_begin, thinned.thinned_to), (all.raw_begin.unwrap().succ_opt(), thinned.raw_begin));
    // It says so also after a restart, and less than nothing cannot be had: today's stays.
    keeping.retention.disk_budget = Some(1);
    store.keeping().store(Arc::new(keeping));
    let least = store.retain().await.unwrap();
    assert!(least.over_budget && least.dropped.len() > 3);
    assert_eq!((least.raw_begin, least.thinned_to), (Some(now().date_naive()), Some(now().date_naive())));
    assert_eq!(store.retain().await.unwrap().thinned_to, least.thinned_to);
    assert!(db.get::<i64>("SELECT count(*) FROM monitor_rollups").await > 20 * 6 * 23);
}

#[tokio::test]
async fn old_roll_ups_incidents_and_gaps_are_pruned() {
    let db = TestDb::new().await;
    let id = monitors(&db, 1).await[0];
    let store = db.store().await;
    history(&db, 6).await;
    rolled_up(&store).await;
    let counts = db.get::<i64>(&format!("SELECT checks FROM lamplighter_uptime_counts('{id}', 30)")).await;
    db.sql(
        "INSERT INTO incidents (user_id, monitor_id, title, started_at, resolved_at)
            SELECT user_id, id, 'old', now() - interval '9 days', now() - interval '8 days' FROM monitors, generate_series(1, 1500)
            UNION ALL SELECT user_id, id, 'open', now() - interval '900 days', NULL FROM monitors
            UNION ALL SELECT user_id, id, 'recent', now() - interval '9 days', now() FROM monitors;
         INSERT INTO monitor_gaps (monitor_id, region, from_at, to_at, reason)
            SELECT id, 'r', now() - interval '9 days', now() - g * interval '5 days', 'paused' || g FROM monitors, generate_series(0, 1) g;
         INSERT INTO maintenance_spans (maintenance_id, monitor_id, from_at, to_at, excluded)
            SELECT gen_random_uuid(), id, now() - interval '9 days', now() - g * interval '5 days', true FROM monitors, generate_series(0, 1) g;
         INSERT INTO rollup_dirty (hour) VALUES (date_trunc('hour', now() - interval '5 days', 'UTC'))",
    )
    .await;
    let day = Duration::from_secs(86_400);
    let mut keeping = keeping(1);
    (keeping.retention.hourly, keeping.retention.daily, keeping.retention.incidents) = (day * 2, day * 4, day * 3);
    store.keeping().store(Arc::new(keeping));
    let mut cursor = PruneCursor::default();
    let hours = "SELECT count(*) FROM monitor_rollups";
    let before = db.get::<i64>(hours).await;
    // A day of which an hour is dirty cannot be done without its hours.
    let (gone, done) = store.prune(&mut cursor).await.unwrap();
    assert!(done && gone >= 1501, "{gone}");
    assert_eq!(db.get::<i64>(hours).await, before);
    let titles: Vec<String> =
        sqlx::query_scalar("SELECT title FROM incidents ORDER BY 1").fetch_all(&db.pool).await.unwrap();
    assert_eq!(titles, ["open", "recent"]);
    assert_eq!(db.get::<i64>("SELECT count(*) FROM monitor_gaps").await, 1);
    assert_eq!(db.get::<i64>("SELECT count(*) FROM maintenance_spans").await, 1);
    // From there on it is known whether there were incidents.
    let known: DateTime<Utc> = db.get("SELECT incidents_from FROM rollup_progress").await;
    assert_eq!(known.date_naive(), now().date_naive() - TimeDelta::days(3));
    rolled_up(&store).await;
    assert!(store.prune(&mut cursor).await.unwrap().1);
    let left: DateTime<Utc> = db.get("SELECT min(hour) FROM monitor_rollups").await;
    assert_eq!(left.date_naive(), now().date_naive() - TimeDelta::days(2));
    let left: chrono::NaiveDate = db.get("SELECT min(day) FROM monitor_rollups_daily").await;
    assert_eq!(left, now().date_naive() - TimeDelta::days(4));
    // The days tell of the hours that are gone, also of a window whose hours are asked for.
    let view = store.monitor(Viewer::Everything, MonitorName::Id(id)).await.unwrap().unwrap();
    let [whole, by_day, by_hour] = [None, Some(Step::Day), Some(Step::Hour)].map(|step| {
        let (store, view) = (&store, &view);
        async move {
            let latency = LatencyFilter { window: LatencyWindow::Days(30), step, region: None };
            let latency = store.latency_of(view, latency).await.unwrap();
            let series = latency.series.map(|points| points.iter().map(|point| point.figures.checks).sum::<i64>());
            (latency.figures, series)
        }
    });
    let (whole, by_day, by_hour) = (whole.await, by_day.await, by_hour.await);
    assert!(whole.0 == by_day.0 && whole.0 == by_hour.0, "{whole:?} {by_day:?} {by_hour:?}");
    assert_eq!(by_day.1, Some(whole.0.checks));
    assert!(by_hour.1.unwrap() < whole.0.checks - 144, "{by_hour:?} of {whole:?}");
    let now_counts = db.get::<i64>(&format!("SELECT checks FROM lamplighter_uptime_counts('{id}', 30)")).await;
    assert!(now_counts > 3 * 144 && now_counts < counts, "{now_counts} of {counts}");
}

async fn shown(store: &Store, id: MonitorId) -> (usize, i64, i64) {
    let viewer = Viewer::Everything;
    let view = store.monitor(viewer, MonitorName::Id(id)).await.unwrap().unwrap();
    let filter = lamplighter::access::read::CheckFilter { limit: 1000, ..Default::default() };
    let checks = store.checks_of(&view, filter).await.unwrap().rows.len();
    let window = LatencyWindow::Days(30);
    let latency = LatencyFilter { window, step: Some(Step::Day), region: None };
    let latency = store.latency_of(&view, latency).await.unwrap();
    let series: i64 = latency.series.unwrap().iter().map(|point| point.figures.checks).sum();
    assert_eq!(latency.figures.checks, series);
    let uptime = store.uptime_of(&view, 30).await.unwrap();
    let listed = store.uptime(viewer, 30, None, 10).await.unwrap().rows;
    let listed = listed.iter().find(|row| row.monitor_id == id).unwrap().counts;
    assert_eq!(listed, uptime.counts);
    (checks, latency.figures.checks, uptime.counts.unwrap().0)
}

async fn exported(store: &Store, id: MonitorId) -> usize {
    let wanted = Wanted { subject: Subject::Checks, from: None, to: None, monitors: vec![id.to_string()] };
    let mut export = store.export(Viewer::Everything, wanted).await.unwrap();
    let mut count = 0;
    while let Some(page) = export.next().await.unwrap() {
        let Rows::Checks(rows) = page.rows else { panic!("these are no checks") };
        count += rows.len();
    }
    count
}

/// Time from before the plan is not shown, with an incident in it; objectives see it.
async fn time_is_shown_as_checks_are(db: &TestDb, store: &Store, id: MonitorId) {
    db.sql(&format!(
        "INSERT INTO monitor_state (monitor_id, region, status, state, observed_from, last_checked)
            VALUES ('{id}', 'us-east-1', 'up', '{{}}', now() - interval '5 days', now());
         INSERT INTO incidents (user_id, monitor_id, title, status, source, started_at, resolved_at)
            SELECT user_id, id, 't', 'resolved', 'manual', now() - interval '4 days', now() - interval '36 hours'
            FROM monitors WHERE id = '{id}'"
    ))
    .await;
    let window = Window::last_days(now(), 4);
    let figures = |histories: Histories| {
        let figures = Timeline::of(window, &histories.of[&id]).figures();
        let hours = |micros: i64| (micros as f64 / 3.6e9).round() as i64;
        let reasons: Vec<_> = figures.reasons().map(|(blind, micros)| (blind.name(), hours(micros))).collect();
        (hours(figures.down), reasons)
    };
    let shown = store.histories(&[id], window).await.unwrap().unwrap();
    assert_eq!(figures(shown), (12, vec![("not_shown", 48)]));
    assert_eq!(figures(store.whole_histories(&[id], window).await.unwrap().unwrap()), (60, vec![]));
    // A window that the plan hides as a whole, and a monitor that is younger than what is shown.
    let old = Window::new(window.from, window.from + TimeDelta::hours(30));
    let blind = async |window| {
        let histories = store.histories(&[id], window).await.unwrap().unwrap();
        let timeline = Timeline::of(window, &histories.of[&id]);
        timeline.figures().reasons().map(|(blind, _)| blind.name()).collect::<Vec<_>>()
    };
    assert_eq!(blind(old).await, ["not_shown"]);
    db.sql("UPDATE monitor_state SET observed_from = now() - interval '3 days'").await;
    assert_eq!(blind(window).await, ["not_shown", "before_first_check"]);
    db.sql("UPDATE monitor_state SET observed_from = now() - interval '1 day'").await;
    assert_eq!(blind(window).await, ["before_first_check"]);
}

#[tokio::test]
async fn a_shorter_plan_shows_less_and_deletes_nothing() {
    let db = TestDb::new().await;
    let ids = monitors(&db, 2).await;
    let store = db.store().await;
    history(&db, 5).await;
    rolled_up(&store).await;
    db.sql(&format!(
        "INSERT INTO users (id, email) VALUES ('00000000-0000-4000-8000-00000000000a', 'a@example.com');
         UPDATE monitors SET user_id = '00000000-0000-4000-8000-00000000000a' WHERE id = '{}'",
        ids[0]
    ))
    .await;
    let all = 5 * 144;
    assert_eq!(shown(&store, ids[0]).await, (720, all, all));
    let mut keeping = keeping(90);
    let two_days = Duration::from_secs(2 * 86_400);
    keeping.plans.insert("free".into(), Plan { retention: Some(two_days), ..Plan::default() });
    store.keeping().store(Arc::new(keeping));
    assert_eq!(shown(&store, ids[0]).await, (288, 288, 288));
    assert_eq!(exported(&store, ids[0]).await, 288);
    assert_eq!(exported(&db.store().await, ids[0]).await, 720, "the command line knows no plans");
    time_is_shown_as_checks_are(&db, &store, ids[0]).await;
    assert_eq!(shown(&store, ids[1]).await, (720, all, all), "the system's plan has no limit");
    let everything = lamplighter::access::read::CheckFilter {
        from: Some(now() - TimeDelta::days(5)),
        to: Some(now()),
        limit: 10_000,
        ..Default::default()
    };
    let page = store.checks(Viewer::Everything, everything.clone()).await.unwrap();
    let of = |id| page.rows.iter().filter(|row| row.monitor_id == id).count();
    assert!((287..=288).contains(&of(ids[0])) && of(ids[1]) > 700, "{} {}", of(ids[0]), of(ids[1]));
    assert_eq!(store.retain().await.unwrap().dropped, []);
    let sql = format!("SELECT count(*) FROM monitor_checks WHERE monitor_id = '{}'", ids[0]);
    assert_eq!(sqlx::query_scalar::<_, i64>(AssertSqlSafe(sql)).fetch_one(&db.pool).await.unwrap(), all);
    // An adopted row may have an owner who is long gone: no plan, and no error.
    db.sql(
        "ALTER TABLE monitors DROP CONSTRAINT monitors_user_id_fkey; UPDATE monitors SET user_id = gen_random_uuid()",
    )
    .await;
    assert_eq!(shown(&store, ids[0]).await, (720, all, all));
    assert!(store.checks(Viewer::Everything, everything).await.unwrap().rows.len() > 1400);
}

/// What others may call, on a server with settings of its own, or an older daemon beside a newer one.
#[tokio::test]
async fn functions_of_latency_stand_odd_callers() {
    let db = TestDb::new().await;
    let id = monitors(&db, 1).await[0];
    let store = db.store().await;
    history(&db, 2).await;
    rolled_up(&store).await;
    // A server that compiles whatever it is told to: of that the functions know nothing.
    let compiled = "SELECT count(*) FROM pg_proc WHERE pronamespace = current_schema()::regnamespace \
        AND proname IN ('lamplighter_parts', 'lamplighter_latency') AND 'jit=off' = ANY (proconfig)";
    assert_eq!(db.get::<i64>(compiled).await, 2);
    let all: i64 = db.get("SELECT count(*) FROM monitor_checks").await;
    for (from, to, wanted) in [
        ("'-infinity'", "'infinity'", all),
        ("'-infinity'", "now() + interval '1 day'", all),
        ("'infinity'", "'infinity'", 0),
        ("'infinity'", "'-infinity'", 0),
        ("now()", "'-infinity'", 0),
    ] {
        for step in ["NULL", "'day'", "'hour'"] {
            let sql =
                format!("SELECT coalesce(sum(checks), 0)::bigint FROM calculate_latency('{id}', {from}, {to}, {step})");
            assert_eq!(db.get::<i64>(&sql).await, wanted, "{sql}");
        }
    }
    // With and without bounds, in one statement, since now() is of each.
    let pieces = format!("ARRAY['{id}'::uuid], ARRAY[now() - interval '1 day'], ARRAY[now()]");
    let rolled: Vec<i64> = db
        .get(&format!(
            "SELECT ARRAY[(SELECT sum(checks) FROM lamplighter_roll({pieces})), \
                (SELECT sum(checks) FROM lamplighter_roll({pieces}, now() - interval '1 day', now())), \
                (SELECT count(*) FROM monitor_checks WHERE checked_at >= now() - interval '1 day' AND checked_at < now())]"
        ))
        .await;
    assert!(rolled[2] > 0 && rolled.iter().all(|count| *count == rolled[2]), "{rolled:?}");
}
