//! The real daemon: the main job end to end, and how it begins, is told, fails and ends.

mod activation;
mod away;
mod commands;
mod databases;
mod embedded;
mod ends;
mod faults;
mod files;
mod guards;
mod heartbeat;
mod history;
mod incidents;
mod journal;
mod kills;
mod logging;
mod maintenance;
mod metrics;
mod overdue;
mod plan;
mod plans;
mod punctual;
mod refusals;
mod registries;
mod reload;
mod rows;
mod server;
mod standby;
mod start;
mod systemd;
mod uptime;

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::support::postgres::TestDb;
use crate::support::target::until;

/// For tests that fail; what is promised sooner is measured.
const MOST: Duration = Duration::from_secs(30);

/// A configuration on a database of the test cluster. `rest` begins with keys or with a table.
pub fn on(url: &str, rest: &str) -> String {
    format!("database.url = {url:?}\n{rest}")
}

/// A file monitor that is checked every second.
pub fn monitor(id: &str, url: &str) -> String {
    format!("[[monitor]]\nid = {id:?}\nurl = {url:?}\ninterval = \"1s\"\ntimeout = \"2s\"\n")
}

/// Inserts a row as a web application does, but for the interval; its id.
async fn insert(db: &TestDb, name: &str, url: &str) -> uuid::Uuid {
    sqlx::query_scalar(
        "INSERT INTO monitors (user_id, name, url, interval_seconds) VALUES ($1, $2, $3, 1) RETURNING id",
    )
    .bind(lamplighter::model::SYSTEM_USER.0)
    .bind(name)
    .bind(url)
    .fetch_one(&db.pool)
    .await
    .unwrap()
}

/// A row of `incidents`.
#[derive(Debug, sqlx::FromRow)]
struct Incident {
    uid: uuid::Uuid,
    started_at: DateTime<Utc>,
    resolved_at: Option<DateTime<Utc>>,
    duration_seconds: Option<i32>,
    status: String,
    cause: Option<String>,
    resolve_reason: Option<String>,
    evidence: serde_json::Value,
}

/// The daemon's incidents, oldest first.
async fn incidents(db: &TestDb) -> Vec<Incident> {
    sqlx::query_as(
        "SELECT uid, started_at, resolved_at, duration_seconds, status, cause, resolve_reason, evidence \
         FROM incidents WHERE source = 'daemon' ORDER BY started_at, id",
    )
    .fetch_all(&db.pool)
    .await
    .unwrap()
}

/// Waits until there is exactly this many, the last of them resolved or not.
async fn wait_incident(db: &TestDb, count: usize, resolved: bool) -> Incident {
    until(&format!("incident {count} is there, resolved: {resolved}"), MOST, async || {
        let mut all = incidents(db).await;
        assert!(all.len() <= count, "more than {count}: {all:?}");
        (all.len() == count).then(|| all.pop().unwrap()).filter(|last| last.resolved_at.is_some() == resolved)
    })
    .await
}

/// Waits until a query gives true.
pub async fn wait_sql(db: &TestDb, what: &str, sql: &str) {
    until(what, MOST, async || db.get::<bool>(sql).await.then_some(())).await;
}
