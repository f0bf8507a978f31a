//! Counts of work that succeeds or fails: writes to the store, jobs, reloads.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

/// Upper bounds of the buckets of a work's duration, seconds; one more bucket holds the rest.
pub const DURATION_BOUNDS: [f64; 10] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// A moment that may not have come, to the millisecond; set and read by anybody.
#[derive(Debug)]
pub struct Moment {
    start: Instant,
    /// Milliseconds after `start`, and one; 0: none.
    since: AtomicU64,
}

impl Default for Moment {
    fn default() -> Self {
        Self { start: Instant::now(), since: AtomicU64::new(0) }
    }
}

impl Moment {
    /// Sets it; what lies before the making of this value counts as then.
    pub fn set(&self, at: Option<Instant>) {
        let since = at.map(|at| at.saturating_duration_since(self.start).as_millis());
        let since = since.map_or(0, |since| u64::try_from(since).unwrap_or(u64::MAX).saturating_add(1));
        self.since.store(since, Relaxed);
    }

    /// The moment.
    #[must_use]
    pub fn get(&self) -> Option<Instant> {
        let since = self.since.load(Relaxed).checked_sub(1)?;
        self.start.checked_add(Duration::from_millis(since))
    }
}

/// Runs of one kind of work.
#[derive(Debug, Default)]
pub struct WorkStats {
    succeeded: AtomicU64,
    failed: AtomicU64,
    last_success: Moment,
    micros: AtomicU64,
    buckets: [AtomicU64; DURATION_BOUNDS.len() + 1],
}

impl WorkStats {
    /// A run that took so long.
    pub fn ran(&self, took: Duration, good: bool) {
        let bucket = DURATION_BOUNDS.iter().take_while(|bound| **bound < took.as_secs_f64()).count();
        if let Some(count) = self.buckets.get(bucket) {
            count.fetch_add(1, Relaxed);
        }
        self.micros.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Relaxed);
        if good {
            self.succeeded.fetch_add(1, Relaxed);
            self.last_success.set(Some(Instant::now()));
        } else {
            self.failed.fetch_add(1, Relaxed);
        }
    }

    /// Runs that succeeded.
    #[must_use]
    pub fn succeeded(&self) -> u64 {
        self.succeeded.load(Relaxed)
    }

    /// Runs that failed.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failed.load(Relaxed)
    }

    /// When the last successful run ended, to the millisecond.
    #[must_use]
    pub fn last_success(&self) -> Option<Instant> {
        self.last_success.get()
    }

    /// How many runs took so long, a count for each of [`DURATION_BOUNDS`] and one for the rest, and the sum in seconds.
    #[must_use]
    pub fn durations(&self) -> ([u64; DURATION_BOUNDS.len() + 1], f64) {
        let counts = std::array::from_fn(|at| self.buckets.get(at).map_or(0, |count| count.load(Relaxed)));
        (counts, Duration::from_micros(self.micros.load(Relaxed)).as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn runs_are_counted_by_their_end_and_their_duration() {
        let stats = WorkStats::default();
        assert_eq!((stats.last_success(), stats.durations()), (None, ([0; 11], 0.0)));
        stats.ran(Duration::from_millis(5), true);
        let first = stats.last_success().unwrap();
        tokio::time::advance(Duration::from_secs(3)).await;
        stats.ran(Duration::from_millis(6), false);
        assert_eq!(stats.last_success(), Some(first));
        stats.ran(Duration::from_secs(60), true);
        assert_eq!(stats.last_success(), Some(first + Duration::from_secs(3)));
        assert_eq!((stats.succeeded(), stats.failed()), (2, 1));
        let (counts, sum) = stats.durations();
        assert_eq!((counts[0], counts[1], counts[10]), (1, 1, 1));
        assert!((sum - 60.011).abs() < 1e-9, "{sum}");
    }
}
