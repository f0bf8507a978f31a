//! The store's ports, closed until this daemon may write: until the schema is ours and the lease is held.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::role::{Role, SharedRole};
use crate::catalog::limits::Owners;
use crate::catalog::plan::Guard;
use crate::catalog::sync::SharedReport;
use crate::catalog::{CatalogStore, FileRow, Mark, MergeAnswer, MonitorRow};
use crate::journal::{RecordStore, Recorded, StatusRow};
use crate::maintenance::definition::MaintenanceRow;
use crate::maintenance::plan::Changes;
use crate::maintenance::{self, MaintenanceStore, Progress};
use crate::metrics::work::WorkStats;
use crate::model::{Batch, IncidentUid, MaintenanceId, MonitorId, Record, StoreFault};
use crate::store::Store;

/// Between two looks whether what a write needs is there: the open gate, and rows, which the catalogue makes first of all.
const UNREAD: Duration = Duration::from_millis(20);

/// A store behind a gate.
#[derive(Clone)]
pub(super) struct Gated {
    store: Store,
    open: watch::Receiver<bool>,
    role: Arc<SharedRole>,
    /// Told when the store says that the lease is another's.
    suspect: Arc<Notify>,
    catalog: Arc<SharedReport>,
    writes: Arc<WorkStats>,
}

impl Gated {
    pub(super) fn new(
        store: Store,
        open: watch::Receiver<bool>,
        role: Arc<SharedRole>,
        suspect: Arc<Notify>,
        catalog: Arc<SharedReport>,
    ) -> Self {
        Self { store, open, role, suspect, catalog, writes: Arc::default() }
    }

    /// Batches brought to the store; those that found the gate closed are not counted.
    pub(super) fn writes(&self) -> Arc<WorkStats> {
        Arc::clone(&self.writes)
    }

    /// Passes a result on; a refusal by the epoch has the lease looked at.
    fn note<T>(&self, result: Result<T, StoreFault>) -> Result<T, StoreFault> {
        if let Err(StoreFault::Fenced(_)) = &result {
            self.suspect.notify_one();
        }
        result
    }

    /// Monitors of a batch whose rows the catalogue has yet to make. Waits until it has made rows at all: results of before
    /// may be of monitors that have none yet.
    async fn without_rows(&self, batch: &Batch) -> HashSet<MonitorId> {
        let mut report = self.catalog.get();
        while !report.rows_known {
            tokio::time::sleep(UNREAD).await;
            report = self.catalog.get();
        }
        let unmerged = report.unmerged;
        batch.records.iter().filter_map(Record::monitor).filter(|id| unmerged.contains(id)).collect()
    }

    async fn record_free(&self, batch: &Batch) -> Result<Recorded, StoreFault> {
        // Active, and the term is about to be told: what was left over from before waits a moment, and nobody is warned.
        while self.role.get() == Role::Active && !*self.open.borrow() {
            tokio::time::sleep(UNREAD).await;
        }
        let store = self.store()?;
        let waiting = self.without_rows(batch).await;
        if waiting.is_empty() {
            return self.write(store, batch).await;
        }
        let is_free = |record: &&Record| record.monitor().is_none_or(|id| !waiting.contains(&id));
        let records = batch.records.iter().filter(is_free).cloned().collect();
        // The store remembers who was held back, so that a repeat is told the same although they have rows by then. If it
        // knows the batch from a first try, that one's answer counts.
        self.write(store, &Batch { id: batch.id, records, held: waiting }).await
    }

    async fn write(&self, store: &Store, batch: &Batch) -> Result<Recorded, StoreFault> {
        let began = Instant::now();
        let recorded = store.record(batch).await;
        self.writes.ran(began.elapsed(), recorded.is_ok());
        self.note(recorded)
    }

    /// The store, once the gate is open. No write can go wrong for want of a table, and be refused for good.
    pub(super) fn store(&self) -> Result<&Store, StoreFault> {
        if *self.open.borrow() {
            return Ok(&self.store);
        }
        Err(match self.role.get() {
            Role::Starting(why) => StoreFault::Away(why),
            Role::Standby(who) => StoreFault::Fenced(who),
            Role::Active => StoreFault::Away("this daemon is about to use it".to_owned()),
        })
    }
}

impl CatalogStore for Gated {
    fn merge(&self, rows: Arc<[FileRow]>, guard: Guard) -> BoxFuture<'_, Result<MergeAnswer, StoreFault>> {
        Box::pin(async move { self.note(self.store()?.merge(rows, guard).await) })
    }

    fn load<'a>(&'a self, only: Option<&'a [MonitorId]>) -> BoxFuture<'a, Result<Vec<MonitorRow>, StoreFault>> {
        Box::pin(async move { self.note(self.store()?.load(only).await) })
    }

    fn dismissed(&self) -> BoxFuture<'_, Result<Vec<(MonitorId, IncidentUid)>, StoreFault>> {
        Box::pin(async move { self.note(self.store()?.dismissed().await) })
    }

    fn archived<'a>(&'a self, ids: &'a [MonitorId]) -> BoxFuture<'a, Result<Vec<MonitorId>, StoreFault>> {
        Box::pin(async move { self.note(self.store()?.archived(ids).await) })
    }

    fn revisions(&self) -> BoxFuture<'_, Result<Vec<(MonitorId, i64)>, StoreFault>> {
        Box::pin(async move { self.note(self.store()?.revisions().await) })
    }

    fn owners<'a>(&'a self, plans: &'a [Arc<str>]) -> BoxFuture<'a, Result<Owners, StoreFault>> {
        Box::pin(async move { self.note(self.store()?.owners(plans).await) })
    }

    fn mark_invalid<'a>(&'a self, marks: &'a [Mark]) -> BoxFuture<'a, Result<(), StoreFault>> {
        Box::pin(async move { self.note(self.store()?.mark_invalid(marks).await) })
    }

    fn changed(&self) -> BoxFuture<'_, Result<(), StoreFault>> {
        Box::pin(async move {
            let mut open = self.open.clone();
            // An error means that the daemon is ending.
            let _ = open.wait_for(|open| *open).await;
            self.store()?.changed().await
        })
    }
}

impl MaintenanceStore for Gated {
    fn merge_maintenances(&self, rows: Arc<[maintenance::FileRow]>) -> BoxFuture<'_, Result<(), StoreFault>> {
        Box::pin(async move { self.note(self.store()?.merge_maintenances(rows).await) })
    }

    fn load_maintenances(&self) -> BoxFuture<'_, Result<Vec<MaintenanceRow>, StoreFault>> {
        Box::pin(async move { self.note(self.store()?.load_maintenances().await) })
    }

    fn mark_maintenances(
        &self,
        reasons: Vec<(MaintenanceId, Option<String>)>,
    ) -> BoxFuture<'_, Result<(), StoreFault>> {
        Box::pin(async move { self.note(self.store()?.mark_maintenances(reasons).await) })
    }

    fn span_progress(&self, now: DateTime<Utc>) -> BoxFuture<'_, Result<Progress, StoreFault>> {
        Box::pin(async move { self.note(self.store()?.span_progress(now).await) })
    }

    fn write_spans(&self, changes: Changes, done_to: DateTime<Utc>) -> BoxFuture<'_, Result<(), StoreFault>> {
        Box::pin(async move { self.note(self.store()?.write_spans(changes, done_to).await) })
    }

    fn maintenances_changed(&self) -> BoxFuture<'_, ()> {
        self.store.maintenances_changed()
    }
}

impl RecordStore for Gated {
    fn record<'a>(&'a self, batch: &'a Batch) -> BoxFuture<'a, Result<Recorded, StoreFault>> {
        Box::pin(self.record_free(batch))
    }

    fn write_status<'a>(&'a self, rows: &'a [StatusRow]) -> BoxFuture<'a, Result<Vec<MonitorId>, StoreFault>> {
        Box::pin(async move { self.note(self.store()?.write_status(rows).await) })
    }
}
