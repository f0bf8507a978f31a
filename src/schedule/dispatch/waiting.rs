//! Monitors that are due and wait for a place, first come first served.

use std::collections::VecDeque;

use crate::schedule::plan::SLOTS_PER_SECOND;

/// A wait that goes on is recorded again so often (a minute), so that a crash loses no more of it.
const REPORT_EVERY: u64 = 60 * SLOTS_PER_SECOND;

/// Slots lost in a row that make a monitor overdue: it is then 3 intervals behind (contract, `/readyz`).
const OVERDUE_AFTER: u32 = 3;

/// One monitor's wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    /// Its place in the line, so that one who left and came back is not taken for the first.
    pub(super) ticket: u64,
    /// The slot that the check to come belongs to.
    pub(super) slot: u64,
    /// Its attempt.
    pub(super) attempt: u16,
    /// The first slot of the wait. All before `slot` are lost.
    since: u64,
    /// How many are.
    lost: u32,
    /// Lost slots before this one are recorded.
    reported: u64,
}

impl Waiting {
    /// The next slot came before there was a place: it takes over.
    pub(super) fn lose_to(&mut self, slot: u64, attempt: u16) {
        self.slot = slot;
        self.attempt = attempt;
        self.lost = self.lost.saturating_add(1);
    }

    /// The span of the lost slots, when it is time to record it: at the first loss, every minute, and when the wait is
    /// `over`. The spans of one wait begin alike and grow, so the store keeps one gap.
    pub(super) fn report(&mut self, over: bool) -> Option<(u64, u64)> {
        let unreported = self.slot.saturating_sub(self.reported);
        let first = self.reported == self.since;
        if unreported == 0 || !(first || over || unreported >= REPORT_EVERY) {
            return None;
        }
        self.reported = self.slot;
        Some((self.since, self.slot))
    }

    pub(super) const fn is_overdue(&self) -> bool {
        self.lost >= OVERDUE_AFTER
    }

    pub(super) const fn just_overdue(&self) -> bool {
        self.lost == OVERDUE_AFTER
    }
}

/// The line. One who leaves early leaves its place behind, which is passed over when its turn comes; so the line is
/// longer than the wait by no more than those who left.
#[derive(Default)]
pub(super) struct Queue {
    /// Key and ticket.
    pub(super) line: VecDeque<(u32, u64)>,
    /// How many of those who wait are overdue.
    pub(super) overdue: usize,
    tickets: u64,
    len: usize,
}

impl Queue {
    pub(super) fn push(&mut self, key: u32, slot: u64, attempt: u16) -> Waiting {
        self.tickets += 1;
        self.len += 1;
        self.line.push_back((key, self.tickets));
        Waiting { ticket: self.tickets, slot, attempt, since: slot, lost: 0, reported: slot }
    }

    pub(super) fn leave(&mut self, overdue: bool) {
        self.len = self.len.saturating_sub(1);
        self.overdue = self.overdue.saturating_sub(usize::from(overdue));
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.len == 0
    }
}
