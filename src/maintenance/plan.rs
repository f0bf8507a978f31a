//! What windows come to: who is covered now, and which spans are to be written. Pure.

use std::collections::HashMap;

use chrono::{DateTime, Utc};

use super::rule::Window;
use crate::model::{MaintenanceId, MonitorId, Span, Under};

/// A window that has begun, and one of the monitors that it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Of which maintenance.
    pub maintenance: MaintenanceId,
    /// Which monitor.
    pub monitor: MonitorId,
    /// When it is.
    pub window: Window,
    /// Whether uptime leaves it out.
    pub excluded: bool,
}

/// What is to be written of spans.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// To be inserted; one with the same monitor, maintenance and beginning is changed instead.
    pub write: Vec<Span>,
    /// To be deleted: they have not begun.
    pub delete: Vec<Span>,
}

impl Changes {
    /// Nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.write.is_empty() && self.delete.is_empty()
    }
}

/// What each monitor is under at `now`: of several windows the one that ends last.
#[must_use]
pub fn covers(wanted: &[Wanted], now: DateTime<Utc>) -> HashMap<MonitorId, Under> {
    let mut covers: HashMap<MonitorId, Under> = HashMap::new();
    for wanted in wanted.iter().filter(|wanted| wanted.window.from <= now && now < wanted.window.to) {
        let under = Under { maintenance: wanted.maintenance, until: wanted.window.to };
        let present = covers.entry(wanted.monitor).or_insert(under);
        // One order whatever that of the definitions is.
        if (under.until, under.maintenance) > (present.until, present.maintenance) {
            *present = under;
        }
    }
    covers
}

/// The changes that lead from the spans that end after `mark` to what windows are wanted that have begun by `now` and end
/// after `mark`, the time up to which spans have been written: before it nothing begins any more, so that who joins later,
/// or defines later, covers no time that has passed. What runs and is no longer wanted ends now.
#[must_use]
pub fn reconcile(running: &[Span], wanted: &[Wanted], mark: DateTime<Utc>, now: DateTime<Utc>) -> Changes {
    // After the clock stepped back nothing waits for the time that it showed.
    let mark = mark.min(now);
    let mut by_pair: HashMap<(MonitorId, MaintenanceId), Vec<(Span, bool)>> = HashMap::new();
    for span in running {
        by_pair.entry((span.monitor, span.maintenance)).or_default().push((*span, false));
    }
    let mut changes = Changes::default();
    for Wanted { maintenance, monitor, window, excluded } in wanted {
        let (from_at, to_at) = (window.from.max(mark), window.to);
        if window.from > now || to_at <= mark {
            continue;
        }
        let spans = by_pair.get_mut(&(*monitor, *maintenance));
        let present = spans.and_then(|spans| {
            spans.iter_mut().find(|(span, used)| !used && span.from_at <= from_at && from_at <= span.to_at)
        });
        let Some((span, used)) = present else {
            let (maintenance, monitor, excluded) = (*maintenance, *monitor, *excluded);
            changes.write.push(Span { maintenance, monitor, from_at, to_at, excluded });
            continue;
        };
        *used = true;
        // It went on until now, whatever its definition says since then.
        let to_at = if to_at <= now && now < span.to_at { now } else { to_at };
        if (span.to_at, span.excluded) != (to_at, *excluded) && span.from_at < to_at {
            changes.write.push(Span { to_at, excluded: *excluded, ..*span });
        }
    }
    for (span, used) in by_pair.into_values().flatten() {
        if used || span.to_at <= now {
            continue;
        }
        if span.from_at < now {
            changes.write.push(Span { to_at: now, ..span });
        } else {
            changes.delete.push(span);
        }
    }
    // One order for every writer of many rows.
    changes.write.sort_unstable_by_key(|span| (span.monitor, span.from_at, span.maintenance));
    changes.delete.sort_unstable_by_key(|span| (span.monitor, span.from_at, span.maintenance));
    changes
}

#[cfg(test)]
mod tests;
