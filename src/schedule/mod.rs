//! Decides what is due, and when.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::catalog::Entry;
use crate::model::MonitorId;

pub mod dispatch;
pub mod jobs;
pub mod plan;
pub mod wheel;

/// A check that is due: dispatcher to pool.
pub struct Due {
    /// What to check.
    pub entry: Arc<Entry>,
    /// 1 in its phase, 2 and up for re-checks.
    pub attempt: u16,
    /// When it was due; the start minus this is its lateness.
    pub due_at: Instant,
}

/// What comes after a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The next slot of the monitor's phase or schedule.
    Phase,
    /// A re-check so long after the end of this one, unless the phase comes first.
    Retry(Duration),
}

/// A check has ended: verdict stage to dispatcher. Exactly one for every [`Due`].
#[derive(Clone, Copy, Debug)]
pub struct Done {
    /// Which monitor.
    pub monitor: MonitorId,
    /// What comes next.
    pub next: Next,
    /// `attempt` of the next check when it is a re-check.
    pub attempt: u16,
}
