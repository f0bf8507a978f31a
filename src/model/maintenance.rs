//! Maintenance: planned work on what is watched. Checks go on in it; what they find is marked.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{MaintenanceId, MonitorId};

/// A time of maintenance of one monitor (`maintenance_spans`): from `from_at`, to just before `to_at`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Span {
    /// Which maintenance.
    pub maintenance: MaintenanceId,
    /// Of which monitor.
    pub monitor: MonitorId,
    /// When it began.
    pub from_at: DateTime<Utc>,
    /// The planned end while it runs, the true end afterwards; after `from_at`.
    pub to_at: DateTime<Utc>,
    /// Whether uptime leaves it out.
    pub excluded: bool,
}

/// The maintenance that a monitor is under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Under {
    /// Which; of several the one that ends last.
    pub maintenance: MaintenanceId,
    /// When it is planned to end.
    pub until: DateTime<Utc>,
}
