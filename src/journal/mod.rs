//! The point of no loss: what the stages append here, the recorder brings to Postgres exactly once.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;

use crate::model::{Batch, MonitorId, Record, Status, StoreFault};

pub mod backlog;
mod kept;
pub mod recorder;
mod status;

/// Where the verdict stage puts what must be recorded. Bounded: when full, the oldest raw checks become gaps
/// (`store_full`), transitions and states never do. Appending never waits and never fails.
pub trait Journal: Send + Sync + 'static {
    /// Appends records that belong together (a check, the state after it, its transition); they stay in one batch.
    fn append(&self, records: Vec<Record>);
}

/// What became of a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// Rows of `monitor_checks` written (0 when the batch had been recorded before).
    pub checks: usize,
    /// Records dropped because their monitor is gone.
    pub dropped: usize,
    /// Monitors whose rows somebody holds locked, or that are yet to be made: none of their records of this batch were
    /// written, and the caller brings them again, in order, in a later batch.
    pub delayed: HashSet<MonitorId>,
}

/// The status columns of one monitor (`monitors`).
#[derive(Clone, Debug, PartialEq)]
pub struct StatusRow {
    /// Which.
    pub monitor: MonitorId,
    /// `status`; none leaves it.
    pub status: Option<Status>,
    /// `last_checked`.
    pub last_checked: Option<DateTime<Utc>>,
    /// `response_time`, milliseconds.
    pub response_time_ms: Option<i32>,
    /// `ssl_expiry`; none leaves it.
    pub ssl_expiry: Option<DateTime<Utc>>,
}

/// What the recorder needs of the store.
pub trait RecordStore: Send + Sync + 'static {
    /// Writes a batch in one transaction, exactly once by its id: checks by COPY, states, incidents, gaps, dirty hours.
    fn record<'a>(&'a self, batch: &'a Batch) -> BoxFuture<'a, Result<Recorded, StoreFault>>;

    /// Writes status columns and brings `uptime_percentage` and `uptime` up to date, in id order, skipping rows that
    /// somebody holds locked; returns those skipped.
    fn write_status<'a>(&'a self, rows: &'a [StatusRow]) -> BoxFuture<'a, Result<Vec<MonitorId>, StoreFault>>;
}
