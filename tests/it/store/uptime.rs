//! The served uptime equals the user's formula at any moment, over random histories.

use std::sync::Arc;

use chrono::{DateTime, DurationRound as _, TimeDelta, Utc};
use lamplighter::journal::RecordStore as _;
use lamplighter::model::{Keeping, MonitorId, Record, Retention};

use super::{batch, check, monitors, now};
use crate::support::postgres::TestDb;

/// Small and repeatable (xorshift64*); the seed is printed when an assertion fails.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % sides
    }
}

/// The same of spans that begin and end anywhere, also at the edges of hours and days.
const WRONG_SPANS: &str = "SELECT count(*) FROM monitors m, unnest(ARRAY[0, 13, 60, 1440, 3000]) b, unnest(ARRAY[0, 1, 61, 2880]) l, \
        unnest(ARRAY['minute', 'hour', 'day']) edge \
    CROSS JOIN LATERAL (SELECT date_trunc(edge, now() - l * interval '1 minute', 'UTC') AS to_at) e \
    CROSS JOIN LATERAL (SELECT e.to_at - b * interval '1 minute' AS from_at) s \
    CROSS JOIN LATERAL lamplighter_counts(ARRAY[m.id], s.from_at, e.to_at) w \
    CROSS JOIN LATERAL (SELECT count(*) AS checks, count(*) FILTER (WHERE status) AS good FROM monitor_checks c \
        WHERE c.monitor_id = m.id AND c.checked_at >= s.from_at AND c.checked_at < e.to_at) x \
    WHERE (w.checks, w.good) <> (x.checks, x.good)";

/// The formula over rows of which some are dropped since; where it would begin in an hour of those, it begins at the next one.
const WRONG_BEYOND: &str = "SELECT count(*) FROM rollup_progress p, monitors m, unnest(ARRAY[0, 1, 2, 7, 30]) d \
    CROSS JOIN LATERAL (SELECT now() - d * interval '24 hours' AS at) w \
    WHERE calculate_uptime_percentage(m.id, d) IS DISTINCT FROM ( \
        SELECT 100.0 * SUM(CASE WHEN status = true THEN 1 ELSE 0 END) / COUNT(*) FROM shadow c \
        WHERE c.monitor_id = m.id AND c.checked_at >= CASE WHEN w.at >= p.raw_from THEN w.at \
            ELSE date_trunc('hour', w.at + interval '1 hour' - interval '1 microsecond', 'UTC') END)";

/// How many monitors the function and the formula disagree about, over several windows.
const WRONG: &str = "SELECT count(*) FROM monitors m, unnest(ARRAY[0, 1, 2, 7, 30]) d \
    WHERE calculate_uptime_percentage(m.id, d) IS DISTINCT FROM ( \
        SELECT 100.0 * SUM(CASE WHEN status = true THEN 1 ELSE 0 END) / COUNT(*) FROM monitor_checks c \
        WHERE c.monitor_id = m.id AND c.checked_at >= now() - d * interval '24 hours')";

/// Asked from sessions of two zones.
async fn wrong(db: &TestDb) -> i64 {
    let mut session = db.pool.acquire().await.unwrap();
    let mut wrong = 0;
    for zone in ["UTC", "Australia/Lord_Howe"] {
        sqlx::query("SELECT set_config('timezone', $1, false)").bind(zone).execute(&mut *session).await.unwrap();
        for sql in [WRONG, WRONG_SPANS] {
            wrong += sqlx::query_scalar::<_, i64>(sql).fetch_one(&mut *session).await.unwrap();
        }
    }
    wrong
}

fn history(dice: &mut Dice, ids: &[MonitorId], from: DateTime<Utc>, hours: u64) -> Vec<Record> {
    (0..200 + dice.roll(800))
        .map(|_| {
            let id = ids[usize::try_from(dice.roll(ids.len() as u64)).unwrap()];
            let at = from + TimeDelta::milliseconds(i64::try_from(dice.roll(hours * 3_600_000)).unwrap());
            let at = match dice.roll(20) {
                0 => at.duration_trunc(TimeDelta::hours(1)).unwrap(),
                1 => at.duration_trunc(TimeDelta::days(1)).unwrap() - TimeDelta::microseconds(1),
                2 => at.duration_trunc(TimeDelta::days(1)).unwrap(),
                _ => at,
            };
            Record::Check(check(id, dice.roll(10) > 0, at))
        })
        .collect()
}

#[tokio::test]
async fn it_equals_the_formula_at_any_moment() {
    for seed in [1, 7, 42] {
        let mut dice = Dice(seed);
        let db = TestDb::new().await;
        let ids = monitors(&db, 4).await;
        let store = db.store().await;
        let begin = now() - TimeDelta::days(3);
        // Time began three days ago: the hours since are open until they are rolled up.
        db.sql("UPDATE rollup_progress SET closed_to = date_trunc('hour', now() - interval '3 days', 'UTC')").await;
        for step in 0..12 {
            match dice.roll(4) {
                0 | 1 => {
                    store.record(&batch(history(&mut dice, &ids, begin, 72))).await.unwrap();
                }
                2 => {
                    let done = store.roll_up().await.unwrap();
                    assert!(!done.more, "seed {seed} step {step}");
                }
                // Somebody restores or corrects history by hand, as the contract tells them to.
                _ => {
                    let hour = dice.roll(70);
                    db.sql(&format!(
                        "SELECT ensure_check_partitions(now() - interval '{hour} hours', now());
                         DELETE FROM monitor_checks WHERE checked_at >= now() - interval '{hour} hours' AND id % 3 = 0;
                         INSERT INTO monitor_checks (monitor_id, status, region, checked_at)
                            SELECT id, g % 2 = 0, 'other', now() - interval '{hour} hours' + g * interval '1 s'
                            FROM monitors, generate_series(1, 20) g WHERE now() - interval '{hour} hours' + g * interval '1 s' <= now();
                         SELECT ensure_check_partitions(now() - interval '{hour} hours', now())"
                    ))
                    .await;
                }
            }
            assert_eq!(wrong(&db).await, 0, "seed {seed} step {step}");
        }
        store.roll_up().await.unwrap();
        assert_eq!(wrong(&db).await, 0, "seed {seed}");
        // And not by reading raw rows: closed hours come from roll-ups now.
        assert_eq!(db.get::<i64>("SELECT count(*) FROM rollup_dirty").await, 0);
        assert!(db.get::<i64>("SELECT count(*) FROM monitor_rollups").await > 100);
        assert!(db.get::<i64>("SELECT count(*) FROM monitor_rollups_daily").await >= 8, "whole days come from days");

        // Raw days go by their age; more late rows come in those that stay.
        db.sql("CREATE TABLE shadow AS SELECT * FROM monitor_checks").await;
        let day = std::time::Duration::from_secs(86_400);
        let retention = Retention { checks: day, ..Retention::default() };
        store.keeping().store(Arc::new(Keeping { retention, ..Keeping::default() }));
        assert!(store.retain().await.unwrap().dropped.len() >= 2, "seed {seed}");
        assert_eq!(db.get::<i64>(WRONG_BEYOND).await, 0, "seed {seed}");
        let begin: DateTime<Utc> = db.get("SELECT raw_from FROM rollup_progress").await;
        let hours = u64::try_from((now() - begin).num_hours()).unwrap();
        let known: i64 = db.get("SELECT max(id) FROM monitor_checks").await;
        let stays = |record: &Record| matches!(record, Record::Check(check) if check.checked_at >= begin);
        let late = history(&mut dice, &ids, begin, hours).into_iter().filter(stays).collect();
        store.record(&batch(late)).await.unwrap();
        db.sql(&format!("INSERT INTO shadow SELECT * FROM monitor_checks WHERE id > {known}")).await;
        assert_eq!(db.get::<i64>(WRONG_BEYOND).await, 0, "seed {seed}, late rows");
        store.roll_up().await.unwrap();
        assert_eq!(db.get::<i64>(WRONG_BEYOND).await, 0, "seed {seed}, recomputed");
    }
}

/// Raw rows are gone (retention), roll-ups stay: the figure goes on from them.
#[tokio::test]
async fn roll_ups_outlive_raw_rows() {
    let db = TestDb::new().await;
    let id = monitors(&db, 1).await[0];
    let store = db.store().await;
    let old = now() - TimeDelta::days(5);
    store
        .record(&batch(vec![Record::Check(check(id, true, old)), Record::Check(check(id, false, old))]))
        .await
        .unwrap();
    store.roll_up().await.unwrap();
    db.sql(&format!("DROP TABLE monitor_checks_{}", old.format("%Y%m%d"))).await;
    db.sql(&format!(
        "INSERT INTO rollup_dirty (monitor_id, hour) VALUES ('{id}', date_trunc('hour', '{old}'::timestamptz)) ON CONFLICT DO NOTHING"
    ))
    .await;
    store.roll_up().await.unwrap();
    let uptime: Option<f64> = db.get(&format!("SELECT calculate_uptime_percentage('{id}', 30)::float8")).await;
    assert_eq!(uptime, Some(50.0));
    db.sql(&format!("SELECT update_uptime_percentage('{id}')")).await;
    assert_eq!(db.get::<String>("SELECT uptime FROM monitors").await, "50.00%");
}

/// A writer who began in the open hour commits after the roll-up looked: the hour must not close over its rows.
#[tokio::test]
async fn no_hour_closes_over_a_writer() {
    let db = TestDb::new().await;
    let id = monitors(&db, 1).await[0];
    let store = db.store().await;
    db.sql("UPDATE rollup_progress SET closed_to = date_trunc('hour', now() - interval '2 hours', 'UTC')").await;
    let before: DateTime<Utc> = db.get("SELECT closed_to FROM rollup_progress").await;
    let mut writer = db.pool.begin().await.unwrap();
    sqlx::query("INSERT INTO monitor_checks (monitor_id, status, checked_at) VALUES ($1, false, $2)")
        .bind(id.0)
        .bind(before + TimeDelta::minutes(30))
        .execute(&mut *writer)
        .await
        .unwrap();
    store.roll_up().await.unwrap();
    assert_eq!(db.get::<DateTime<Utc>>("SELECT closed_to FROM rollup_progress").await, before);
    writer.commit().await.unwrap();
    store.roll_up().await.unwrap();
    assert!(db.get::<DateTime<Utc>>("SELECT closed_to FROM rollup_progress").await > before);
    assert_eq!(wrong(&db).await, 0);
}
