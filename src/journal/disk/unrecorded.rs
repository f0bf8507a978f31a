//! What would be unknown to another daemon that took over now: told with every renewal of the lease.

use std::sync::atomic::Ordering;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use super::{DiskJournal, Files, Shared, lock};
use crate::journal::{Unrecorded, WAITING_MOST};
use crate::model::Record;

impl DiskJournal {
    /// What is not in the store. `now` is the wall clock, which the records are of.
    #[must_use]
    pub fn unrecorded(&self, now: DateTime<Utc>) -> Unrecorded {
        let signal = lock(&self.shared.signal);
        let age = signal.unrecorded.map(|at| at.elapsed());
        let since = |at: &DateTime<Utc>| (now - at).to_std().unwrap_or(Duration::ZERO);
        if signal.waiting.len() > WAITING_MOST {
            let oldest = signal.waiting.values().min().map(since);
            return Unrecorded { age: age.max(oldest), waiting: Vec::new() };
        }
        Unrecorded { age, waiting: signal.waiting.iter().map(|(id, at)| (*id, since(at))).collect() }
    }
}

impl Shared {
    /// A batch is in hand. When nothing else is left, what comes from now on is the oldest as soon as it is recorded.
    pub(super) fn all_taken(&self, files: &Files) {
        let mut signal = lock(&self.signal);
        let all = files.log.end() <= files.read_at && files.held.is_none() && self.memory.is_empty();
        signal.hand = all.then(Instant::now);
    }

    /// The batch in hand is recorded, or there was none.
    pub(super) fn is_recorded(&self) {
        let mut signal = lock(&self.signal);
        let Some(taken_at) = signal.hand.take() else { return };
        // A record that came meanwhile was not the first to wait, and so did not note its time.
        let rest = self.unread.load(Ordering::Relaxed) > 0 || !self.memory.is_empty();
        signal.unrecorded = rest.then_some(taken_at);
    }

    /// These wait for rows as well; with `only`, no others do.
    pub(super) fn wait_for(&self, records: &[Record], only: bool) {
        let mut signal = lock(&self.signal);
        if only {
            signal.waiting.clear();
        }
        for record in records {
            if let (Some(monitor), Some(began)) = (record.monitor(), record.began()) {
                signal.waiting.entry(monitor).or_insert(began);
            }
        }
    }
}
