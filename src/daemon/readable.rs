//! The store for the API: open as soon as the schema is ours, on a standby as well, because reading needs no lease.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::role::{Role, SharedRole};
use crate::access::Viewer;
use crate::access::export::{Export, ExportError, ExportStore, Wanted};
use crate::access::read::{
    Before, CheckFilter, CheckView, Histories, IncidentFilter, IncidentView, LatencyFilter, LatencyView,
    MaintenanceName, MaintenanceView, MonitorFilter, MonitorName, MonitorView, Page, ReadStore, UptimeView,
};
use crate::access::token::{Grant, TokenHash, TokenStore};
use crate::model::{MaintenanceId, MonitorId, StoreFault};
use crate::store::Store;
use crate::uptime::Window;

/// A store that answers once it has been prepared. Before, tables may be missing, which would look like a bug.
pub(super) struct Readable {
    store: Store,
    role: Arc<SharedRole>,
}

type Answer<'a, T> = BoxFuture<'a, Result<T, StoreFault>>;

impl Readable {
    pub(super) fn new(store: Store, role: Arc<SharedRole>) -> Self {
        Self { store, role }
    }

    fn store(&self) -> Result<&Store, StoreFault> {
        match self.role.get() {
            Role::Starting(why) => Err(StoreFault::Away(why)),
            Role::Standby(_) | Role::Active => Ok(&self.store),
        }
    }
}

impl TokenStore for Readable {
    fn find<'a>(&'a self, hash: &'a TokenHash) -> Answer<'a, Option<Grant>> {
        Box::pin(async move { self.store()?.find(hash).await })
    }
}

impl ReadStore for Readable {
    fn monitors(&self, viewer: Viewer, filter: MonitorFilter) -> Answer<'_, Page<MonitorView, MonitorId>> {
        Box::pin(async move { self.store()?.monitors(viewer, filter).await })
    }

    fn monitor(&self, viewer: Viewer, name: MonitorName) -> Answer<'_, Option<MonitorView>> {
        Box::pin(async move { self.store()?.monitor(viewer, name).await })
    }

    fn checks_of<'a>(&'a self, monitor: &'a MonitorView, filter: CheckFilter) -> Answer<'a, Page<CheckView, Before>> {
        Box::pin(async move { self.store()?.checks_of(monitor, filter).await })
    }

    fn checks(&self, viewer: Viewer, filter: CheckFilter) -> Answer<'_, Page<CheckView, Before>> {
        Box::pin(async move { self.store()?.checks(viewer, filter).await })
    }

    fn incidents(&self, viewer: Viewer, filter: IncidentFilter) -> Answer<'_, Page<IncidentView, Before>> {
        Box::pin(async move { self.store()?.incidents(viewer, filter).await })
    }

    fn incident(&self, viewer: Viewer, id: i64) -> Answer<'_, Option<IncidentView>> {
        Box::pin(async move { self.store()?.incident(viewer, id).await })
    }

    fn maintenances(
        &self,
        viewer: Viewer,
        after: Option<MaintenanceId>,
        limit: u16,
    ) -> Answer<'_, Page<MaintenanceView, MaintenanceId>> {
        Box::pin(async move { self.store()?.maintenances(viewer, after, limit).await })
    }

    fn maintenance(&self, viewer: Viewer, name: MaintenanceName) -> Answer<'_, Option<MaintenanceView>> {
        Box::pin(async move { self.store()?.maintenance(viewer, name).await })
    }

    fn uptime_of<'a>(&'a self, monitor: &'a MonitorView, days: i32) -> Answer<'a, UptimeView> {
        Box::pin(async move { self.store()?.uptime_of(monitor, days).await })
    }

    fn latency_of<'a>(&'a self, monitor: &'a MonitorView, filter: LatencyFilter) -> Answer<'a, LatencyView> {
        Box::pin(async move { self.store()?.latency_of(monitor, filter).await })
    }

    fn uptime(
        &self,
        viewer: Viewer,
        days: i32,
        after: Option<MonitorId>,
        limit: u16,
    ) -> Answer<'_, Page<UptimeView, MonitorId>> {
        Box::pin(async move { self.store()?.uptime(viewer, days, after, limit).await })
    }

    fn histories<'a>(&'a self, monitors: &'a [MonitorId], window: Window) -> Answer<'a, Option<Histories>> {
        Box::pin(async move { self.store()?.histories(monitors, window).await })
    }

    fn labels(&self, viewer: Viewer, after: Option<MonitorId>, limit: u16) -> Answer<'_, Page<UptimeView, MonitorId>> {
        Box::pin(async move { self.store()?.labels(viewer, after, limit).await })
    }

    fn slos(&self, viewer: Viewer) -> Answer<'_, Vec<serde_json::Value>> {
        Box::pin(async move { self.store()?.slos(viewer).await })
    }

    fn slo<'a>(&'a self, viewer: Viewer, id: &'a str) -> Answer<'a, Option<serde_json::Value>> {
        Box::pin(async move { self.store()?.slo(viewer, id).await })
    }
}

impl ExportStore for Readable {
    fn export(&self, viewer: Viewer, wanted: Wanted) -> BoxFuture<'_, Result<Box<dyn Export>, ExportError>> {
        Box::pin(async move { self.store()?.export(viewer, wanted).await })
    }
}
