//! `/metrics`: what the parts count, under the names of docs/metrics.md.
//!
//! Every value is read or copied first and written afterwards: no lock that a loop needs is held while text is made.

mod history;
mod monitors;
mod parts;
mod slos;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::history::History;
use super::view::View;
use crate::access::Viewer;
use crate::clock::Wall;
use crate::metrics::text::{Exposition, Format, Kind, Labels};
use crate::metrics::work::WorkStats;
use crate::store::Store;

/// The clocks may drift apart so far before moments are told by the wall clock's new reading.
const DRIFT: TimeDelta = TimeDelta::milliseconds(500);

/// What `/metrics` shows of a term besides what its loops tell anyway.
pub(super) struct TermSources {
    pub(super) queues: Vec<Queue>,
    /// Batches brought to the store.
    pub(super) writes: Arc<WorkStats>,
    pub(super) jobs: Vec<(&'static str, Arc<WorkStats>)>,
    pub(super) history: Arc<History>,
}

/// What outlives a term.
pub(super) struct Sources {
    pub(super) store: Store,
    pub(super) stamps: Stamps,
    /// `server.metrics_public`.
    pub(super) public: bool,
    /// `server.metrics_monitors`.
    pub(super) monitors: usize,
}

/// A channel that is looked at from outside.
pub(super) struct Queue {
    name: &'static str,
    /// How many wait, and how many can; none when the channel is closed.
    read: Box<dyn Fn() -> Option<(usize, usize)> + Send + Sync>,
}

impl Queue {
    /// Watches a channel without keeping it open.
    pub(super) fn of<T: Send + 'static>(name: &'static str, sender: &mpsc::Sender<T>) -> Self {
        let weak = sender.downgrade();
        let read = move || {
            let sender = weak.upgrade()?;
            Some((sender.max_capacity() - sender.capacity(), sender.max_capacity()))
        };
        Self { name, read: Box::new(read) }
    }
}

/// Tells moments of the monotonic clock by the wall clock, always the same for the same moment unless a clock stepped.
pub(super) struct Stamps(Mutex<(DateTime<Utc>, Instant)>);

impl Stamps {
    pub(super) fn new(wall: &dyn Wall) -> Self {
        Self(Mutex::new((wall.now(), Instant::now())))
    }

    /// Seconds since 1970 at a moment.
    fn seconds(&self, wall: &dyn Wall, at: Instant) -> f64 {
        let (wall_now, now) = (wall.now(), Instant::now());
        let mut base = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let expected = base.0 + now.saturating_duration_since(base.1);
        if (wall_now - expected).abs() > DRIFT {
            *base = (wall_now, now);
        }
        let (base_wall, base_at) = *base;
        drop(base);
        let after = at.saturating_duration_since(base_at).as_secs_f64();
        let before = base_at.saturating_duration_since(at).as_secs_f64();
        seconds_of(base_wall) + after - before
    }
}

fn seconds_of(time: DateTime<Utc>) -> f64 {
    let micros = time.timestamp_subsec_micros();
    // Whole seconds of any date that a clock shows are exact in a double.
    time.timestamp() as f64 + f64::from(micros) / 1e6
}

fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}

/// The whole text.
pub(super) fn render(view: &View, format: Format, viewer: Viewer) -> String {
    let mut out = Exposition::new(format);
    let live = view.live.load_full();
    let live = live.as_deref();
    parts::daemon(&mut out, view);
    parts::backlog(&mut out, view, live);
    parts::tasks(&mut out, view);
    parts::store(&mut out, view, live);
    parts::configuration(&mut out, view, live);
    parts::log(&mut out);
    parts::process(&mut out, view);
    // A standby checks nothing and has none of these.
    if let Some(live) = live {
        parts::scheduler(&mut out, live);
        parts::recorder(&mut out, view, live);
        parts::queues(&mut out, live);
        parts::jobs(&mut out, view, live);
        slos::all(&mut out, &live.slos.rows(), viewer);
        history::all(&mut out, live);
        monitors::all(&mut out, &live.board, view.metrics.monitors, viewer);
    }
    out.finish()
}

/// A family with one sample for each of a few labels.
fn each<'a>(
    out: &mut Exposition,
    (name, kind, help): (&'static str, Kind, &str),
    label: &'static str,
    samples: impl IntoIterator<Item = (&'a str, f64)>,
) {
    let mut family = out.family(name, kind, help);
    for (value, number) in samples {
        family.sample(&Labels::one(label, value), number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

    struct Steps(AtomicI64, Instant);

    impl Wall for Steps {
        fn now(&self) -> DateTime<Utc> {
            let base = DateTime::from_timestamp(1_000_000 + self.0.load(Relaxed), 0).unwrap();
            base + self.1.elapsed()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_moment_has_one_time_until_the_clock_steps() {
        let start = Instant::now();
        let wall = Steps(AtomicI64::new(0), start);
        let stamps = Stamps::new(&wall);
        let at = start + Duration::from_millis(1_500);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert!((stamps.seconds(&wall, at) - 1_000_001.5).abs() < 1e-6);
        wall.0.store(-3_600, Relaxed);
        assert!((stamps.seconds(&wall, at) - 996_401.5).abs() < 1e-6);
    }

    #[tokio::test]
    async fn a_queue_is_watched_without_keeping_it_open() {
        let (sender, mut receiver) = mpsc::channel::<u8>(4);
        let queue = Queue::of("test", &sender);
        sender.send(1).await.unwrap();
        assert_eq!((queue.read)(), Some((1, 4)));
        drop(sender);
        assert_eq!(receiver.recv().await, Some(1));
        assert_eq!(receiver.recv().await, None);
        assert_eq!((queue.read)(), None);
    }
}
