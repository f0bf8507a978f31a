//! What the dispatcher tells others about itself. Readers never wait for it.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::catalog::Entry;

/// Upper bounds of the lateness buckets, milliseconds; one more bucket holds the rest.
pub const LATENESS_BOUNDS_MS: [u64; 10] = [2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500];

/// Monitors that are due and neither started nor running by 3 intervals.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overdue {
    /// How many.
    pub count: usize,
    /// The label of one of them.
    pub example: Option<Box<str>>,
    /// Time since the dispatcher last looked at its wheel; above 2 s it is stuck, and `count` is as old.
    pub silent: Duration,
}

/// Counters of the dispatcher. Each is exact; together they are no snapshot.
pub struct DispatchStats {
    fired: AtomicU64,
    skipped_running: AtomicU64,
    lost_overloaded: AtomicU64,
    missed_suspended: AtomicU64,
    in_flight: AtomicUsize,
    waiting: AtomicUsize,
    limit: AtomicUsize,
    overdue: AtomicUsize,
    overdue_entries: Mutex<Arc<[Arc<Entry>]>>,
    lateness: [AtomicU64; LATENESS_BOUNDS_MS.len() + 1],
    lateness_us: AtomicU64,
    start: Instant,
    /// Milliseconds since `start`.
    progress_ms: AtomicU64,
}

impl DispatchStats {
    pub(super) fn new(start: Instant) -> Self {
        Self {
            fired: AtomicU64::new(0),
            skipped_running: AtomicU64::new(0),
            lost_overloaded: AtomicU64::new(0),
            missed_suspended: AtomicU64::new(0),
            in_flight: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            limit: AtomicUsize::new(0),
            overdue: AtomicUsize::new(0),
            overdue_entries: Mutex::default(),
            lateness: [const { AtomicU64::new(0) }; LATENESS_BOUNDS_MS.len() + 1],
            lateness_us: AtomicU64::new(0),
            start,
            progress_ms: AtomicU64::new(0),
        }
    }

    /// Checks handed to the pool.
    #[must_use]
    pub fn fired(&self) -> u64 {
        self.fired.load(Relaxed)
    }

    /// Slots that fell into a running check of their monitor.
    #[must_use]
    pub fn skipped_running(&self) -> u64 {
        self.skipped_running.load(Relaxed)
    }

    /// Slots lost because the monitor still waited for a place when the next one came; each lies in a gap `overloaded`.
    #[must_use]
    pub fn lost_overloaded(&self) -> u64 {
        self.lost_overloaded.load(Relaxed)
    }

    /// Checks not made because the process stood still; they lie in a gap `suspended`.
    #[must_use]
    pub fn missed_suspended(&self) -> u64 {
        self.missed_suspended.load(Relaxed)
    }

    /// Checks handed to the pool and not done yet.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Relaxed)
    }

    /// Monitors that are due and wait for a place.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.load(Relaxed)
    }

    /// How many checks may be in flight.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit.load(Relaxed)
    }

    /// How late all checks together were handed over.
    #[must_use]
    pub fn lateness_sum(&self) -> Duration {
        Duration::from_micros(self.lateness_us.load(Relaxed))
    }

    /// How many checks were handed over so late: a count for each of [`LATENESS_BOUNDS_MS`] and one for the rest.
    #[must_use]
    pub fn lateness(&self) -> [u64; LATENESS_BOUNDS_MS.len() + 1] {
        std::array::from_fn(|bucket| self.lateness.get(bucket).map_or(0, |count| count.load(Relaxed)))
    }

    /// When the dispatcher last looked at its wheel, to the millisecond. It does so at least once a second.
    #[must_use]
    pub fn last_progress(&self) -> Instant {
        let since = Duration::from_millis(self.progress_ms.load(Relaxed));
        self.start.checked_add(since).unwrap_or(self.start)
    }

    /// What is overdue by 3 intervals, and how fresh that answer is.
    #[must_use]
    pub fn overdue(&self, now: Instant) -> Overdue {
        let count = self.overdue.load(Relaxed);
        let entries = self.overdue_entries();
        let example = entries.first().filter(|_| count > 0);
        Overdue {
            count,
            example: example.map(|entry| entry.monitor.label().into()),
            silent: now.saturating_duration_since(self.last_progress()),
        }
    }

    /// The monitors that are overdue by 3 intervals, longest waiting first; at most a second old while the dispatcher runs.
    #[must_use]
    pub fn overdue_entries(&self) -> Arc<[Arc<Entry>]> {
        Arc::clone(&self.overdue_entries.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn count_fired(&self, late: Duration) {
        let late_ms = late.as_millis();
        let bucket = LATENESS_BOUNDS_MS.iter().take_while(|bound| u128::from(**bound) < late_ms).count();
        if let Some(count) = self.lateness.get(bucket) {
            count.fetch_add(1, Relaxed);
        }
        self.lateness_us.fetch_add(u64::try_from(late.as_micros()).unwrap_or(u64::MAX), Relaxed);
        self.fired.fetch_add(1, Relaxed);
    }

    pub(super) fn count_skipped(&self, slots: u64) {
        self.skipped_running.fetch_add(slots, Relaxed);
    }

    pub(super) fn count_lost(&self) {
        self.lost_overloaded.fetch_add(1, Relaxed);
    }

    pub(super) fn count_missed(&self) {
        self.missed_suspended.fetch_add(1, Relaxed);
    }

    pub(super) fn show(&self, in_flight: usize, waiting: usize, overdue: usize, now: Instant) {
        self.in_flight.store(in_flight, Relaxed);
        self.waiting.store(waiting, Relaxed);
        self.overdue.store(overdue, Relaxed);
        let since = now.saturating_duration_since(self.start).as_millis();
        self.progress_ms.store(u64::try_from(since).unwrap_or(u64::MAX), Relaxed);
    }

    pub(super) fn show_limit(&self, limit: usize) {
        self.limit.store(limit, Relaxed);
    }

    pub(super) fn show_overdue(&self, entries: impl FnOnce() -> Arc<[Arc<Entry>]>) {
        let were = !self.overdue_entries().is_empty();
        if were || self.overdue.load(Relaxed) > 0 {
            let entries = entries();
            *self.overdue_entries.lock().unwrap_or_else(PoisonError::into_inner) = entries;
        }
    }
}
