//! What the journal carries to the store.

use std::collections::HashSet;

use chrono::{DateTime, Utc};

use super::{BatchId, Check, Gap, MonitorId, MonitorState, Opening, Resolution};

/// One thing to be recorded. Order matters within a monitor, not between monitors.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// A row of `monitor_checks`. Never an unknown one.
    Check(Check),
    /// The monitor's state after the records before it.
    State(MonitorId, Box<MonitorState>),
    /// An incident opens.
    Open(Box<Opening>),
    /// An incident ends.
    Resolve(Resolution),
    /// Something was not observed.
    Gap(Gap),
}

impl Record {
    /// Whose it is; none for a gap of all monitors.
    #[must_use]
    pub fn monitor(&self) -> Option<MonitorId> {
        match self {
            Self::Check(check) => Some(check.monitor),
            Self::State(id, _) => Some(*id),
            Self::Open(opening) => Some(opening.monitor),
            Self::Resolve(resolution) => Some(resolution.monitor),
            Self::Gap(gap) => gap.monitor,
        }
    }

    /// When the daemon was at work on it, at the latest.
    #[must_use]
    pub fn time(&self) -> Option<DateTime<Utc>> {
        match self {
            Self::Check(check) => Some(check.ended_at()),
            Self::State(_, state) => state.last_checked,
            Self::Open(opening) => Some(opening.started_at),
            Self::Resolve(resolution) => Some(resolution.resolved_at),
            Self::Gap(gap) => Some(gap.to_at),
        }
    }

    /// From when on nothing is known without it; none for a state, which tells nothing by itself.
    #[must_use]
    pub fn began(&self) -> Option<DateTime<Utc>> {
        match self {
            Self::Check(check) => Some(check.checked_at),
            Self::Gap(gap) => Some(gap.from_at),
            Self::Open(opening) => Some(opening.started_at),
            Self::Resolve(resolution) => Some(resolution.resolved_at),
            Self::State(..) => None,
        }
    }

    /// Whether it may be thinned to a gap when the backlog is full.
    #[must_use]
    pub const fn is_thinnable(&self) -> bool {
        matches!(self, Self::Check(_))
    }

    /// Memory it holds, in bytes, estimated for the bound of the backlog.
    #[must_use]
    pub fn cost(&self) -> usize {
        let boxed = match self {
            Self::Check(check) => check.message.as_ref().map_or(0, |m| m.len()),
            // Two pieces of evidence of about 3 KiB at the most, rarely both.
            Self::State(_, state) => {
                size_of_val(&**state)
                    + 1024 * usize::from(state.first_bad.is_some())
                    + 1024 * usize::from(state.last_good.is_some())
            }
            Self::Open(opening) => size_of_val(&**opening) + 4096,
            Self::Resolve(_) | Self::Gap(_) => 0,
        };
        size_of::<Self>() + boxed
    }
}

/// Records that reach the store together or not at all.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Makes a repeat harmless.
    pub id: BatchId,
    /// In order of happening.
    pub records: Vec<Record>,
    /// Monitors whose records belong to the batch and are kept back from it. Stored with it, so that a repeat after a
    /// restart is told the same as the first time.
    pub held: HashSet<MonitorId>,
}
