//! Checks at a steady rate through the journal on disk and the recorder into Postgres, then the roll-up of their hour.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use chrono::{DateTime, DurationRound as _, TimeDelta, Utc};
use lamplighter::journal::Journal as _;
use lamplighter::journal::disk::DiskJournal;
use lamplighter::journal::recorder::{Recorder, RecorderStats};
use lamplighter::model::{Check, MonitorId, MonitorState, Record, Status, Timings, Verdict};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use uuid::Uuid;

use super::house::House;
use super::{Options, Result, yardstick};

/// Never full: thinning is not what recording costs.
const JOURNAL_BYTES: u64 = 4 << 30;
/// As often as the daemon's dispatcher starts checks.
const TURN: Duration = Duration::from_millis(50);
/// The state of a steady monitor is stored with every tenth check.
const STATE_EVERY: u32 = 10;

/// What the server has cost until now.
#[derive(Default)]
pub(crate) struct Spent {
    server_ms: f64,
    wal: f64,
    pages: i64,
}

impl Spent {
    pub(crate) async fn so_far(house: &House) -> Result<Self> {
        let (wal, pages) = house.wal().await?;
        Ok(Self { server_ms: house.server_ms(), wal, pages })
    }

    /// Takes in what was spent between two moments.
    pub(crate) fn add(&mut self, after: &Self, before: &Self) {
        self.server_ms += after.server_ms - before.server_ms;
        self.wal += after.wal - before.wal;
        self.pages += after.pages - before.pages;
    }

    fn print(&self, before: &Self, what: &str, checks: u64, bytes: f64) {
        let per = |amount: f64| amount / checks as f64;
        let pages = (self.pages - before.pages) as f64 * 8192.0;
        println!(
            "| {what} | {:.4} | {:.0} (page images at most {:.0}) | {:.0} |",
            per(self.server_ms - before.server_ms),
            per(self.wal - before.wal),
            per(pages),
            per(bytes)
        );
    }
}

pub(crate) async fn measure(house: &House, options: &Options) -> Result<()> {
    let monitors = make_monitors(house, options.rate).await?;
    let hour = an_hour(house).await?;
    let journal = Arc::new(DiskJournal::open(house.lock.dir(), JOURNAL_BYTES, Utc::now())?);
    let stats = Arc::new(RecorderStats::default());
    let recorder = Recorder::new(Arc::clone(&journal), Arc::new(house.store.clone()), Arc::clone(&stats));
    // What was made before is not ours to write to the disk later.
    sqlx::query("CHECKPOINT").execute(&house.pool).await?;
    let before = Spent::so_far(house).await?;
    let recording = tokio::spawn(recorder.run());

    let began = Instant::now();
    let (most, late) = feed(&journal, &stats, &monitors, hour, options.seconds).await?;
    let fed = began.elapsed();
    let left = journal.depth().records as u64 + stats.in_hand();
    journal.close();
    recording.await?;
    let drained = began.elapsed() - fed;
    let checks = stats.checks.load(Relaxed);
    if checks != monitors.len() as u64 * u64::from(options.seconds) {
        return Err(format!("{checks} checks were recorded, not all").into());
    }
    // Dirty pages and hints are part of the price.
    sqlx::query("CHECKPOINT").execute(&house.pool).await?;
    let recorded = Spent::so_far(house).await?;

    let rate = checks as f64 / fed.as_secs_f64();
    println!("recorded {checks} checks at {rate:.0} a second for {:.1} s", fed.as_secs_f64());
    println!("waiting: at most {most} records, {left} at the end, which took {:.2} s", drained.as_secs_f64());
    println!("longest lateness of the feeding itself: {} ms\n", late.as_millis());
    println!("| a check | server CPU ms | WAL bytes | bytes on disk |\n|---|---|---|---|");
    let raw = house.bytes("monitor_checks").await?;
    recorded.print(&before, "recorded", checks, raw);

    let rolled_before = rollup_bytes(house).await?;
    sqlx::query("UPDATE rollup_progress SET closed_to = $1").bind(hour).execute(&house.pool).await?;
    let mut recomputed = 0;
    loop {
        let done = house.store.roll_up().await?;
        recomputed += done.recomputed;
        if !done.more && done.backfill.is_none() {
            break;
        }
    }
    let hours: i64 = sqlx::query_scalar("SELECT count(*) FROM monitor_rollups").fetch_one(&house.pool).await?;
    if hours < i64::try_from(monitors.len())? {
        return Err(format!("{hours} hours were rolled up for {} monitors", monitors.len()).into());
    }
    sqlx::query("CHECKPOINT").execute(&house.pool).await?;
    let rolled = Spent::so_far(house).await?;
    let roll_bytes = rollup_bytes(house).await? - rolled_before;
    rolled.print(&recorded, "its roll-up, at a check a minute", checks, roll_bytes);
    rolled.print(&before, "both", checks, raw + roll_bytes);
    let (bare, bytes) = yardstick::measure(house).await?;
    bare.print(&Spent::default(), "the same rows by a bare `COPY`, with key and foreign key", checks, bytes);
    let times = (recorded.server_ms - before.server_ms) / bare.server_ms;
    println!("\nrecorded for {times:.2} times the server CPU of a bare COPY");
    println!("{recomputed} pairs of monitor and hour were computed\n");
    Ok(())
}

/// Bytes of every roll-up table, hours and days.
async fn rollup_bytes(house: &House) -> Result<f64> {
    let sql = "SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::float8 FROM pg_class \
        WHERE relkind = 'r' AND relname LIKE 'monitor_rollups%'";
    Ok(sqlx::query_scalar(sql).fetch_one(&house.pool).await?)
}

pub(crate) async fn make_monitors(house: &House, number: usize) -> Result<Vec<MonitorId>> {
    let sql = "INSERT INTO monitors (user_id, name, url, interval_seconds, is_active) \
        SELECT u.id, 'Monitor ' || n, 'http://127.0.0.1:9/' || n, 86400, true \
        FROM users u, generate_series(1, $1) n WHERE u.plan = 'system' RETURNING id";
    let ids: Vec<Uuid> = sqlx::query_scalar(sql).bind(i32::try_from(number)?).fetch_all(&house.pool).await?;
    sqlx::query("ANALYZE monitors").execute(&house.pool).await?;
    Ok(ids.into_iter().map(MonitorId).collect())
}

/// A whole hour that is over and still open: nothing of it is late, and it can be rolled up at the end.
async fn an_hour(house: &House) -> Result<DateTime<Utc>> {
    let hour = (Utc::now() - TimeDelta::hours(2)).duration_trunc(TimeDelta::hours(1))?;
    sqlx::query("SELECT ensure_check_partitions($1, $1)").bind(hour).execute(&house.pool).await?;
    sqlx::query("DELETE FROM rollup_dirty").execute(&house.pool).await?;
    sqlx::query("UPDATE rollup_progress SET closed_to = $1").bind(hour).execute(&house.pool).await?;
    Ok(hour)
}

/// Gives the journal its checks in time, each monitor one a second of ours that stands for a minute. Says how many records
/// waited at most, and by how much a turn was late at most.
async fn feed(
    journal: &Arc<DiskJournal>,
    stats: &RecorderStats,
    monitors: &[MonitorId],
    hour: DateTime<Utc>,
    seconds: u32,
) -> Result<(u64, Duration)> {
    let turns = u32::try_from(1000 / TURN.as_millis())?;
    let share = monitors.len().div_ceil(turns as usize);
    let mut tick = interval(TURN);
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (mut most, mut late) = (0, Duration::ZERO);
    for second in 0..seconds {
        for (turn, part) in (0..turns).zip(monitors.chunks(share)) {
            let due = tick.tick().await;
            late = late.max(due.elapsed());
            let at = hour + TimeDelta::minutes(second.into()) + TimeDelta::seconds((turn * 60 / turns).into());
            let groups = part.iter().enumerate().map(|(n, id)| group(*id, at, n, second)).collect();
            let writer = Arc::clone(journal);
            // It waits for the disk, as the stage does on its own thread.
            tokio::task::spawn_blocking(move || writer.write(groups)).await?;
            most = most.max(journal.depth().records as u64 + stats.in_hand());
        }
    }
    // The last second is as long as the others.
    sleep(TURN).await;
    Ok((most, late))
}

/// A good check, and with every tenth the state after it.
fn group(monitor: MonitorId, at: DateTime<Utc>, number: usize, round: u32) -> Vec<Record> {
    let us = i32::try_from(number % 400).unwrap_or(0) * 97 + 5_000;
    let phases = [Some(300), Some(us / 10), Some(us / 3), Some(40), Some(us / 2), Some(60)];
    let total = phases.iter().flatten().map(|us| u64::from(us.unsigned_abs())).sum();
    let check = Check {
        monitor,
        verdict: Verdict::Up,
        failure: None,
        message: None,
        status_code: Some(200),
        timings: Timings::of_micros(phases, total),
        address: None,
        http_version: None,
        certificate: None,
        details: None,
        attempt: 1,
        checked_at: at + TimeDelta::microseconds(i64::from(us)),
    };
    let last_checked = Some(check.checked_at);
    let mut records = vec![Record::Check(check)];
    if (round + u32::try_from(number).unwrap_or(0)).is_multiple_of(STATE_EVERY) {
        let state = MonitorState { status: Status::Up, last_checked, ..MonitorState::default() };
        records.push(Record::State(monitor, Box::new(state)));
    }
    records
}
