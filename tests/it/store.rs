//! The store against a real Postgres.

pub mod adoption;
mod catalog;
mod checks;
mod cluster;
mod history;
mod hot;
mod lease;
mod maintenance;
mod plan;
mod record;
mod schema;
mod slo;
mod spans;
mod uptime;

use chrono::{DateTime, DurationRound as _, TimeDelta, Utc};
use lamplighter::model::{Batch, BatchId, Check, Failure, MonitorId, Phase, Record, Timings, Verdict};
use std::time::Duration;
use uuid::Uuid;

use crate::support::postgres::TestDb;

/// Monitors as a web application would insert them.
async fn monitors(db: &TestDb, count: i32) -> Vec<MonitorId> {
    let ids: Vec<Uuid> = sqlx::query_scalar(
        "INSERT INTO monitors (user_id, name, url) SELECT '00000000-0000-4000-8000-000000000001', 'Site ' || g, \
         'https://site' || g || '.example.com/' FROM generate_series(1, $1) g RETURNING id",
    )
    .bind(count)
    .fetch_all(&db.pool)
    .await
    .unwrap();
    ids.into_iter().map(MonitorId).collect()
}

/// Now, in the resolution of the database.
fn now() -> DateTime<Utc> {
    Utc::now().duration_trunc(TimeDelta::microseconds(1)).unwrap()
}

fn check(monitor: MonitorId, up: bool, checked_at: DateTime<Utc>) -> Check {
    let mut timings = Timings::default();
    timings.total = Duration::from_micros(41_900);
    timings.add(Phase::Dns, Duration::from_micros(812));
    timings.add(Phase::Connect, Duration::from_micros(95));
    Check {
        monitor,
        verdict: if up { Verdict::Up } else { Verdict::Down },
        failure: (!up).then_some(Failure::ConnectRefused),
        message: None,
        status_code: up.then_some(200),
        timings,
        address: None,
        http_version: None,
        certificate: None,
        details: None,
        attempt: 1,
        checked_at,
    }
}

fn batch(records: Vec<Record>) -> Batch {
    Batch { id: BatchId(Uuid::new_v4()), records, held: std::collections::HashSet::new() }
}
