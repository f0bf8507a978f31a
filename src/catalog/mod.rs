//! The catalogue: monitors of file and database in one immutable snapshot with a generation number.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::model::{
    IncidentUid, Monitor, MonitorId, MonitorKey, MonitorState, Secret, Source, Status, StoreFault, UserId,
};
use crate::probe::Prepared;

use limits::Owners;
use plan::{Archiving, Guard};

pub mod diff;
pub mod limits;
pub mod merge;
pub mod plan;
pub mod remember;
pub mod sync;
pub mod watch;

/// A monitor, ready to be scheduled and probed.
pub struct Entry {
    /// What is the same for every kind.
    pub monitor: Monitor,
    /// What its kind does.
    pub prepared: Prepared,
    /// Equal when nothing that matters differs, expanded secrets included.
    pub fingerprint: u64,
    /// Texts to remove from evidence.
    pub secrets: Arc<[Secret]>,
}

/// Everything that is to be watched, at one moment.
#[derive(Default)]
pub struct Snapshot {
    /// Counts published snapshots; the first is 1.
    pub generation: u64,
    /// By id; paused ones are in it, archived, deleted and invalid ones are not.
    pub monitors: HashMap<MonitorId, Arc<Entry>>,
}

/// Why a monitor left the snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// It left its file.
    Archived,
    /// Its row is gone.
    Deleted,
    /// Its definition became invalid.
    Invalid,
}

/// The differences between two snapshots.
#[derive(Default)]
pub struct Changes {
    /// New in the snapshot, with the state that the store (or `catalog.json`) remembers.
    pub added: Vec<(Arc<Entry>, MonitorState)>,
    /// Already there, and different.
    pub changed: Vec<Arc<Entry>>,
    /// No longer there.
    pub removed: Vec<(MonitorId, Removal)>,
    /// Open incidents that were closed in the database, by a person or for another region: the state machine lets go of them, if it still has them.
    pub dismissed: Vec<(MonitorId, IncidentUid)>,
    /// Somebody deleted their rows, and they have new ones: what the rows of the others hang on went with them.
    pub remade: Vec<MonitorId>,
}

/// What a loop is told: apply the changes and you are at this snapshot.
#[derive(Clone)]
pub struct Update {
    /// The snapshot after the changes.
    pub snapshot: Arc<Snapshot>,
    /// The changes.
    pub changes: Arc<Changes>,
}

/// Somebody wants the states of monitors, as they are now: part by part, since all at once would stand in memory twice and
/// hold up who copies them.
pub enum StatesRequest {
    /// Of which monitors there are states.
    Ids(oneshot::Sender<Vec<MonitorId>>),
    /// Those of these; one that has none any more is left out.
    Of(Vec<MonitorId>, oneshot::Sender<Vec<(MonitorId, MonitorState)>>),
}

/// A row of `monitors`, as it is read.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MonitorRow {
    /// `id`.
    pub id: MonitorId,
    /// `user_id`.
    pub user_id: UserId,
    /// `name`.
    pub name: String,
    /// `url`.
    pub url: String,
    /// `interval_seconds`, unchecked.
    pub interval_seconds: i32,
    /// `timeout_seconds`, unchecked.
    pub timeout_seconds: i32,
    /// `is_active`.
    pub is_active: bool,
    /// `kind`; none: by scheme.
    pub kind: Option<String>,
    /// `spec`; any JSON, unchecked.
    pub spec: serde_json::Value,
    /// `tags`.
    pub tags: Vec<String>,
    /// `source`.
    pub source: Source,
    /// `key`.
    pub key: Option<String>,
    /// `revision`.
    pub revision: i64,
    /// `invalid_reason`, as the daemon last wrote it.
    pub invalid_reason: Option<String>,
    /// `monitor_state`, if there is a row of this region.
    pub state: Option<MonitorState>,
    /// `last_checked`.
    pub last_checked: Option<DateTime<Utc>>,
    /// `created_at`; none where it is no time of ours.
    #[serde(default)]
    pub created_at: Option<DateTime<Utc>>,
}

/// What a row shall say about why it is not checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Whose.
    pub id: MonitorId,
    /// `invalid_reason`; none: it is checked, or paused by who wrote it.
    pub reason: Option<String>,
    /// `status` with a reason: unknown when the row is invalid, paused when its user's plan does not let it run.
    pub status: Status,
}

impl Mark {
    /// Nothing keeps it from being checked.
    #[must_use]
    pub const fn none(id: MonitorId) -> Self {
        Self { id, reason: None, status: Status::Unknown }
    }

    /// It is no valid monitor.
    #[must_use]
    pub const fn invalid(id: MonitorId, reason: String) -> Self {
        Self { id, reason: Some(reason), status: Status::Unknown }
    }

    /// Its user's plan does not let it run.
    #[must_use]
    pub const fn paused(id: MonitorId, reason: String) -> Self {
        Self { id, reason: Some(reason), status: Status::Paused }
    }
}

/// What the file says of one monitor's row. Shares its texts with the definition: of 100,000 nearly all are only looked at.
#[derive(Clone, Debug, PartialEq)]
pub struct FileRow {
    /// `key`.
    pub key: MonitorKey,
    /// Former key, whose row this one takes over if it has none of its own.
    pub renamed_from: Option<MonitorKey>,
    /// `name`.
    pub name: Arc<str>,
    /// `url`, unexpanded.
    pub url: Arc<str>,
    /// E-mail of the owner; none: the system user. A user that is not there is made.
    pub owner: Option<Arc<str>>,
    /// `interval_seconds`; 300 (unused) with a cron schedule.
    pub interval_seconds: i32,
    /// `timeout_seconds`.
    pub timeout_seconds: i32,
    /// `is_active`.
    pub is_active: bool,
    /// `kind`.
    pub kind: &'static str,
    /// `spec`, unexpanded: JSON as text, see [`Self::spec`].
    pub spec: Arc<str>,
    /// `tags`.
    pub tags: Arc<[Box<str>]>,
}

impl FileRow {
    /// The spec as it is stored and compared.
    #[must_use]
    pub fn spec(&self) -> serde_json::Value {
        // It was written by the same library.
        serde_json::from_str(&self.spec).unwrap_or_default()
    }
}

/// What merging a file did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Merged {
    /// The id and owner of every key of the file, and of those that the guard holds. The same allocation as that of the
    /// merge before when nothing of it has changed.
    pub ids: Arc<HashMap<MonitorKey, (MonitorId, UserId)>>,
    /// Rows that were written: new, changed, renamed or come back.
    pub written: Vec<MonitorId>,
    /// Rows that left the file, archived now.
    pub archived: Vec<MonitorId>,
    /// Rows that left the file and that the guard did not let be archived: they are watched on.
    pub held: Vec<MonitorId>,
    /// What is held, for people.
    pub guarded: Option<Archiving>,
}

/// How a merge ended.
#[derive(Clone, Debug, PartialEq)]
pub enum MergeAnswer {
    /// The rows are as the file says, but for what is held.
    Done(Merged),
    /// The guard of [`Guard::Reload`] refused, and nothing was written.
    Refused(Archiving),
}

/// What the catalogue needs of the store.
pub trait CatalogStore: Send + Sync + 'static {
    /// Brings the file's rows to what the file says, in one transaction, touching only what differs. The guard counts in
    /// that transaction, so that nothing comes between what it saw and what is archived.
    fn merge(&self, rows: Arc<[FileRow]>, guard: Guard) -> BoxFuture<'_, Result<MergeAnswer, StoreFault>>;

    /// Rows that are not archived, of any source, with their states: all of them, or those of these ids.
    fn load<'a>(&'a self, only: Option<&'a [MonitorId]>) -> BoxFuture<'a, Result<Vec<MonitorRow>, StoreFault>>;

    /// Incidents that `monitor_state` holds for open and that somebody else has resolved.
    fn dismissed(&self) -> BoxFuture<'_, Result<Vec<(MonitorId, IncidentUid)>, StoreFault>>;

    /// Those of these ids whose rows are there, and archived.
    fn archived<'a>(&'a self, ids: &'a [MonitorId]) -> BoxFuture<'a, Result<Vec<MonitorId>, StoreFault>>;

    /// `(id, revision)` of every row that is not archived: the minute's comparison.
    fn revisions(&self) -> BoxFuture<'_, Result<Vec<(MonitorId, i64)>, StoreFault>>;

    /// Users with one of these plans that have monitors which are not the file's.
    fn owners<'a>(&'a self, plans: &'a [Arc<str>]) -> BoxFuture<'a, Result<Owners, StoreFault>>;

    /// Sets or clears `invalid_reason`; with a reason also `status`. Does not bump revisions.
    fn mark_invalid<'a>(&'a self, marks: &'a [Mark]) -> BoxFuture<'a, Result<(), StoreFault>>;

    /// Resolves when rows of `monitors` or plans of users may have changed, or an incident was resolved by a person. Spurious wake-ups
    /// are fine; an error means that the connection is lost and the caller should compare.
    fn changed(&self) -> BoxFuture<'_, Result<(), StoreFault>>;
}

/// What a reload did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// False: nothing was changed, see `error`.
    pub applied: bool,
    /// Monitors that are new.
    pub added: usize,
    /// Monitors that differ.
    pub changed: usize,
    /// Monitors that left.
    pub removed: usize,
    /// Parts of the configuration that take effect at the next start.
    pub needs_restart: Vec<String>,
    /// Why nothing was changed; one finding a line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What would have been archived: with `force` the same reload is applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archiving: Option<Archiving>,
    /// Applied, but the database did not answer: why. Its rows follow when it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows_later: Option<String>,
}
