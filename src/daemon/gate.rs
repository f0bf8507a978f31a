//! The store's ports, closed until this daemon may write: until the schema is ours and the lease is held.

use futures_util::future::BoxFuture;
use tokio::sync::watch;

use crate::catalog::{CatalogStore, FileRow, Merged, MonitorRow};
use crate::journal::{RecordStore, Recorded, StatusRow};
use crate::model::{Batch, IncidentUid, MonitorId, StoreFault};
use crate::store::Store;

/// A store behind a gate.
#[derive(Clone)]
pub(super) struct Gated {
    store: Store,
    open: watch::Receiver<bool>,
}

impl Gated {
    pub(super) const fn new(store: Store, open: watch::Receiver<bool>) -> Self {
        Self { store, open }
    }

    /// The store, once the gate is open. No write can go wrong for want of a table, and be refused for good.
    pub(super) fn store(&self) -> Result<&Store, StoreFault> {
        if *self.open.borrow() { Ok(&self.store) } else { Err(StoreFault::Away("it is not ready yet".to_owned())) }
    }
}

impl CatalogStore for Gated {
    fn merge<'a>(&'a self, rows: &'a [FileRow]) -> BoxFuture<'a, Result<Merged, StoreFault>> {
        Box::pin(async move { self.store()?.merge(rows).await })
    }

    fn load<'a>(&'a self, only: Option<&'a [MonitorId]>) -> BoxFuture<'a, Result<Vec<MonitorRow>, StoreFault>> {
        Box::pin(async move { self.store()?.load(only).await })
    }

    fn dismissed(&self) -> BoxFuture<'_, Result<Vec<(MonitorId, IncidentUid)>, StoreFault>> {
        Box::pin(async move { self.store()?.dismissed().await })
    }

    fn revisions(&self) -> BoxFuture<'_, Result<Vec<(MonitorId, i64)>, StoreFault>> {
        Box::pin(async move { self.store()?.revisions().await })
    }

    fn mark_invalid<'a>(&'a self, reasons: &'a [(MonitorId, Option<String>)]) -> BoxFuture<'a, Result<(), StoreFault>> {
        Box::pin(async move { self.store()?.mark_invalid(reasons).await })
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

impl RecordStore for Gated {
    fn record<'a>(&'a self, batch: &'a Batch) -> BoxFuture<'a, Result<Recorded, StoreFault>> {
        Box::pin(async move { self.store()?.record(batch).await })
    }

    fn write_status<'a>(&'a self, rows: &'a [StatusRow]) -> BoxFuture<'a, Result<Vec<MonitorId>, StoreFault>> {
        Box::pin(async move { self.store()?.write_status(rows).await })
    }
}
