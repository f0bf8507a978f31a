//! The point of no loss: what the stages append here, the recorder brings to Postgres exactly once.
//!
//! ```text
//!  stage ──write──> log (segments) ──take──> recorder ──batch under its id──> store
//!  dispatcher ─append─^                        │  ^
//!                                     delayed file (rows that are locked or not made yet)
//! ```
//!
//! # On disk
//!
//! `STATE/journal` (mode 0700, files 0600) holds
//! - `NNNN.log`: segments of up to 8 MiB (an eighth of the journal's size when that is less), numbered upwards; each a
//!   header with a version and frames of length, CRC32C and a MessagePack group of records with named fields;
//! - `delayed-NNNN`: a file of the same kind with the records that wait for rows of `monitors`;
//! - `cursor`: two slots, written in turn, with the readers' places by name, the batch in hand, the epoch of the lease,
//!   and the times in which nothing ran.
//!
//! A group (a check, its transition, the state after it) is one frame, and everything that was appended together is one
//! `write`: a killed process loses nothing that was shown, since the page cache survives it. `fdatasync` follows once a
//! second and after a transition, on a thread of its own: a power failure may cost the last second.
//!
//! # Exactly once
//!
//! Before a batch is brought, its id and its end in the log are on disk (`Intent`). After a kill at any instruction the
//! same records are brought under the same id, and `recorded_batches` recognises it. Everything that is derived is derived
//! alike: halves of refused batches and batches of delayed records have ids of version 5 of their parent's, which parts
//! were refused is remembered, and which monitors were held back stands in `recorded_batches.delayed`. Rows there outlive
//! the batch in hand: they are pruned an hour before the newest, and no later batch is recorded before this one is done.
//!
//! # Damage
//!
//! A torn end (the write under way when the process or machine died) is cut off. A damaged frame costs the rest of its
//! segment, which becomes a gap `recording_lost` of all monitors. A format of a later version is refused, not overwritten.
//! An opening begins another segment and never writes to an old one, so a place in the log means the same for ever.
//!
//! # Full
//!
//! Over its size the oldest segments that nobody reads are replaced by what stays without raw checks: transitions, latest
//! states, one gap a monitor (`store_full`). When the disk cannot be written to, records wait in memory, bounded alike.
//!
//! # Another daemon
//!
//! What is not recorded belongs to one epoch of the lease. When another holder has been active since, all of it is
//! dropped, states and transitions as well as checks and gaps, with a log line: the other's history counts, and the time
//! is the gap that the lease's row tells.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;

use crate::model::{Batch, MonitorId, MonitorState, Record, Status, StoreFault};

pub mod backlog;
mod delayed;
pub mod disk;
mod kept;
mod log;
mod marks;
pub mod recorder;
mod segment;
mod status;
mod thin;
mod wire;

/// Where the stages put what must be recorded. Bounded: when full, the oldest raw checks become gaps (`store_full`),
/// transitions and states never do. Nothing fails: what the disk does not take waits in memory.
pub trait Journal: Send + Sync + 'static {
    /// Appends records that belong together (a check, the state after it, its transition); they stay in one batch. Never
    /// waits; they are on their way to the disk.
    fn append(&self, records: Vec<Record>);

    /// Appends groups of records; they survive the process when this returns. Blocks on the disk.
    fn write(&self, groups: Vec<Vec<Record>>) {
        groups.into_iter().for_each(|group| self.append(group));
    }

    /// As [`Self::write`]; false when they do not survive the process: the disk did not take them, so that they wait in
    /// memory, or they were dropped because another daemon is active. Whoever was promised a record must not be told that
    /// it is there.
    fn keep(&self, groups: Vec<Vec<Record>>) -> bool {
        self.write(groups);
        true
    }
}

/// Why a journal cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The folder or a file of it cannot be used: an operator has to look.
    #[error("{}: the journal cannot be used", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A later version of the program wrote it.
    #[error(
        "{}: the journal is of format {version}, which this version does not know; start the version that wrote it until \
         it has recorded everything, or remove the folder, and with it what was not recorded",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
}

impl JournalError {
    fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }
}

/// States that were in the journal and not recorded when it was opened: newer than the store's and `catalog.json`'s.
#[derive(Debug, Default)]
pub struct Recovered(Mutex<HashMap<MonitorId, MonitorState>>);

impl Recovered {
    /// Of these states.
    #[must_use]
    pub fn new(states: HashMap<MonitorId, MonitorState>) -> Self {
        Self(Mutex::new(states))
    }

    /// The newer of the state that is known elsewhere and the recovered one, which is given once. What is not recorded yet
    /// wins when both are of the same check.
    #[must_use]
    pub fn newest(&self, monitor: MonitorId, known: MonitorState) -> MonitorState {
        let found = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&monitor);
        found.filter(|found| found.last_checked >= known.last_checked).unwrap_or(known)
    }

    /// Forgets all.
    pub fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// What a daemon has seen and not recorded: from when on nobody would know of it, if another daemon took over now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unrecorded {
    /// How long ago the oldest came of what waits for its turn; none when nothing does.
    pub age: Option<Duration>,
    /// Monitors whose records wait for rows that somebody holds, and how long ago the first of each began; at most
    /// [`WAITING_MOST`]: beyond it `age` covers them all.
    pub waiting: Vec<(MonitorId, Duration)>,
}

/// Bound of [`Unrecorded::waiting`].
pub const WAITING_MOST: usize = 1_000;

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
