//! The dispatcher: hands each monitor to the pool when it is due.
//!
//! It wakes at most once in a slot of the 50 ms grid that has work, and never waits for anything else: checks in flight
//! are bounded by its own count, what finds no place waits in a line, and what waits until its next slot becomes a gap
//! `overloaded`. The tick of `schedule::jobs` releases two seconds of the wheel; without one the dispatcher does so
//! itself after a second.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use self::agenda::Agenda;
pub use self::stats::{DispatchStats, LATENESS_BOUNDS_MS, Overdue};
use super::plan::Timeline;
use super::{Done, Due};
use crate::catalog::Update;
use crate::clock::Wall;
use crate::journal::Journal;
use crate::shutdown::Shutdown;

mod agenda;
mod stats;
#[cfg(test)]
mod tests;
mod waiting;

/// The wheel is released this long after it was last, if no tick came before.
const RELEASE_EVERY: Duration = Duration::from_secs(1);

/// Resuming so late means that the process or the machine stood still.
const STALL: Duration = Duration::from_secs(2);

/// Ended checks taken in at once.
const DONE_BATCH: usize = 256;

/// What the dispatcher listens to. A channel whose other end has gone is no longer listened to.
pub struct Inputs {
    /// From the catalogue.
    pub updates: mpsc::Receiver<Update>,
    /// From the verdict stage: exactly one for every [`Due`]. Its sender may wait: the dispatcher always drains it.
    pub done: mpsc::Receiver<Done>,
    /// From `schedule::jobs`, each second.
    pub tick: mpsc::Receiver<()>,
    /// `probe.max_in_flight`, as it is and as it changes.
    pub max_in_flight: watch::Receiver<usize>,
}

/// The loop. Build it, keep [`Dispatcher::stats`], and spawn [`Dispatcher::run`].
pub struct Dispatcher {
    agenda: Agenda,
    wall: Arc<dyn Wall>,
    stats: Arc<DispatchStats>,
    updates: Option<mpsc::Receiver<Update>>,
    done: Option<mpsc::Receiver<Done>>,
    tick: Option<mpsc::Receiver<()>>,
    max_in_flight: Option<watch::Receiver<usize>>,
}

enum Event {
    Shutdown,
    Tick,
    Done(Vec<Done>),
    Update(Update),
    Limit(usize),
    /// The time to wake has come.
    Time,
}

impl Dispatcher {
    /// A dispatcher with no monitors: the first update brings them. `due` needs room for as many checks as the pool
    /// shall find ready; when it is full, the dispatcher tries again in the next slot.
    #[must_use]
    pub fn new(wall: Arc<dyn Wall>, journal: Arc<dyn Journal>, due: mpsc::Sender<Due>, inputs: Inputs) -> Self {
        let now = Instant::now();
        let stats = Arc::new(DispatchStats::new(now));
        let limit = *inputs.max_in_flight.borrow();
        let timeline = Timeline::new(wall.now(), now);
        Self {
            agenda: Agenda::new(timeline, now, limit, due, journal, Arc::clone(&stats)),
            wall,
            stats,
            updates: Some(inputs.updates),
            done: Some(inputs.done),
            tick: Some(inputs.tick),
            max_in_flight: Some(inputs.max_in_flight),
        }
    }

    /// What it tells about itself, also while it runs.
    #[must_use]
    pub fn stats(&self) -> Arc<DispatchStats> {
        Arc::clone(&self.stats)
    }

    /// Runs until the shutdown, or until the pool has gone. Waits for no check: the pool drains those in flight.
    pub async fn run(mut self, mut shutdown: Shutdown) {
        let mut release_by = Instant::now();
        loop {
            let now = Instant::now();
            if now >= release_by {
                self.agenda.release(self.wall.now(), now);
                release_by = now + RELEASE_EVERY;
            }
            if self.agenda.advance(now).is_err() {
                if !shutdown.fired() {
                    log::error!("the probe pool has gone; nothing is checked any more");
                }
                break;
            }
            let wake = self.agenda.next_wake(now).map_or(release_by, |wake| wake.min(release_by));
            let event = self.event(&mut shutdown, wake).await;
            let resumed = Instant::now();
            self.notice_stall(wake, resumed);
            match event {
                Event::Shutdown => break,
                Event::Time => {}
                Event::Tick => release_by = resumed,
                Event::Limit(limit) => self.agenda.limit(limit),
                Event::Update(update) => self.agenda.apply(&update, resumed),
                Event::Done(batch) => batch.iter().for_each(|done| self.agenda.finish(done, resumed)),
            }
            // A handler that takes seconds is a standstill as well.
            self.notice_stall(wake.max(resumed), Instant::now());
        }
        self.agenda.close();
    }

    fn notice_stall(&mut self, expected: Instant, now: Instant) {
        if now.saturating_duration_since(expected) > STALL {
            self.agenda.resume(expected, now);
        }
    }

    async fn event(&mut self, shutdown: &mut Shutdown, wake: Instant) -> Event {
        tokio::select! {
            () = shutdown.wait() => Event::Shutdown,
            done = next_batch(&mut self.done) => Event::Done(done),
            update = next(&mut self.updates) => Event::Update(update),
            () = next(&mut self.tick) => Event::Tick,
            limit = next_value(&mut self.max_in_flight) => Event::Limit(limit),
            () = sleep_until(wake) => Event::Time,
        }
    }
}

async fn next<T>(channel: &mut Option<mpsc::Receiver<T>>) -> T {
    if let Some(receiver) = channel
        && let Some(value) = receiver.recv().await
    {
        return value;
    }
    *channel = None;
    pending().await
}

async fn next_batch(channel: &mut Option<mpsc::Receiver<Done>>) -> Vec<Done> {
    let mut batch = Vec::new();
    if let Some(receiver) = channel
        && receiver.recv_many(&mut batch, DONE_BATCH).await > 0
    {
        return batch;
    }
    *channel = None;
    pending().await
}

async fn next_value(channel: &mut Option<watch::Receiver<usize>>) -> usize {
    if let Some(receiver) = channel
        && receiver.changed().await.is_ok()
    {
        return *receiver.borrow_and_update();
    }
    *channel = None;
    pending().await
}
