//! What the API shows of the store: rows that are committed, and nothing else.

use futures_util::future::BoxFuture;
use serde_json::Value;

use super::Viewer;
use crate::model::{MaintenanceId, MonitorId, StoreFault};
use crate::uptime::Window;

mod filters;
mod latency;
mod views;

pub use filters::{Before, CheckFilter, IncidentFilter, MaintenanceName, MonitorFilter, MonitorName, Named};
pub use latency::{LatencyFigures, LatencyFilter, LatencyPoint, LatencyView, LatencyWindow, Step};
pub use views::{
    CheckView, Histories, IncidentNote, IncidentView, MaintenanceNote, MaintenanceView, MonitorView, PhasesView,
    UptimeView,
};

/// A part of a list.
#[derive(Clone, Debug)]
pub struct Page<T, P> {
    /// In order.
    pub rows: Vec<T>,
    /// Where the next part begins; none at the end. A part may be short, even empty, and have a next one.
    pub next: Option<P>,
}

type Answer<'a, T> = BoxFuture<'a, Result<T, StoreFault>>;

/// Reads for the API. Every call is bounded in time, and uses connections that nothing else needs.
pub trait ReadStore: Send + Sync + 'static {
    /// Monitors that are not archived.
    fn monitors(&self, viewer: Viewer, filter: MonitorFilter) -> Answer<'_, Page<MonitorView, MonitorId>>;
    /// One monitor, also an archived one.
    fn monitor(&self, viewer: Viewer, name: MonitorName) -> Answer<'_, Option<MonitorView>>;
    /// Checks of a monitor that the caller has found visible.
    fn checks_of<'a>(&'a self, monitor: &'a MonitorView, filter: CheckFilter) -> Answer<'a, Page<CheckView, Before>>;
    /// Checks of all monitors that are visible; `from` and `to` are needed, and bound the work.
    fn checks(&self, viewer: Viewer, filter: CheckFilter) -> Answer<'_, Page<CheckView, Before>>;
    /// Incidents.
    fn incidents(&self, viewer: Viewer, filter: IncidentFilter) -> Answer<'_, Page<IncidentView, Before>>;
    /// One incident, with its evidence.
    fn incident(&self, viewer: Viewer, id: i64) -> Answer<'_, Option<IncidentView>>;
    /// Maintenances that are not archived, by id.
    fn maintenances(
        &self,
        viewer: Viewer,
        after: Option<MaintenanceId>,
        limit: u16,
    ) -> Answer<'_, Page<MaintenanceView, MaintenanceId>>;
    /// One maintenance, also an archived one.
    fn maintenance(&self, viewer: Viewer, name: MaintenanceName) -> Answer<'_, Option<MaintenanceView>>;
    /// Counts of one monitor that the caller has found visible.
    fn uptime_of<'a>(&'a self, monitor: &'a MonitorView, days: i32) -> Answer<'a, UptimeView>;
    /// Response times of one monitor that the caller has found visible.
    fn latency_of<'a>(&'a self, monitor: &'a MonitorView, filter: LatencyFilter) -> Answer<'a, LatencyView>;
    /// Counts of monitors that are not archived, by id.
    fn uptime(
        &self,
        viewer: Viewer,
        days: i32,
        after: Option<MonitorId>,
        limit: u16,
    ) -> Answer<'_, Page<UptimeView, MonitorId>>;
    /// What the time-weighted uptime of monitors is made of, as far back as the owners' plans show; none when the
    /// window has too many incidents and gaps.
    fn histories<'a>(&'a self, monitors: &'a [MonitorId], window: Window) -> Answer<'a, Option<Histories>>;
    /// The same monitors as [`Self::uptime`], without counts.
    fn labels(&self, viewer: Viewer, after: Option<MonitorId>, limit: u16) -> Answer<'_, Page<UptimeView, MonitorId>>;
    /// What the last evaluations of objectives found ([`crate::slo::Report`]), without their monitors, by id.
    fn slos(&self, viewer: Viewer) -> Answer<'_, Vec<Value>>;
    /// One of them, with its monitors.
    fn slo<'a>(&'a self, viewer: Viewer, id: &'a str) -> Answer<'a, Option<Value>>;
}
