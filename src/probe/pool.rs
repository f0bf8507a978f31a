//! Runs probes: one task a check, each under its deadline, a panic in one is one failed check.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::FutureExt as _;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use super::ProbeContext;
use super::net::Net;
use crate::clock::Wall;
use crate::model::{Failure, Fault, Observation};
use crate::schedule::Due;
use crate::shutdown::Shutdown;
use crate::verdict::Finished;

/// A probe ends by its deadline itself, so that it can say which phase it was in. So much later it is cut off.
const OVERRUN: Duration = Duration::from_secs(2);
/// A result so long after its deadline means that the process or the machine was stopped.
const STANDSTILL: Duration = Duration::from_secs(1);
/// Judging a larger body against patterns may take milliseconds, which other checks must not wait for.
const HEAVY_BODY_BYTES: usize = 16 * 1024;

/// The pool's parts.
pub struct Pool {
    /// The way out, replaced when `[probe]` or `[egress]` change.
    pub net: Arc<ArcSwap<Net>>,
    /// For the start times of checks.
    pub wall: Arc<dyn Wall>,
    /// To the verdict stage.
    pub finished: mpsc::Sender<Finished>,
    /// How long checks may go on after shutdown; then they are dropped without a result.
    pub grace: Duration,
}

impl Pool {
    /// Takes due checks until shutdown, then lets those in flight end within the grace. The dispatcher bounds how many
    /// there are.
    pub async fn run(self, mut due: mpsc::Receiver<Due>, mut shutdown: Shutdown) {
        let pool = Arc::new(self);
        let mut checks = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = shutdown.wait() => break,
                Some(ended) = checks.join_next() => note_end(ended),
                next = due.recv() => match next {
                    Some(next) => {
                        let pool = Arc::clone(&pool);
                        checks.spawn(async move { pool.check(next).await });
                    }
                    None => break,
                },
            }
        }
        let drain = async {
            while let Some(ended) = checks.join_next().await {
                note_end(ended);
            }
        };
        if timeout(pool.grace, drain).await.is_err() {
            log::info!(checks = checks.len(); "checks in flight were cut off by the shutdown; they do not count as failed");
        }
        checks.shutdown().await;
    }

    async fn check(&self, due: Due) {
        let entry = due.entry;
        let net = self.net.load_full();
        let started_at = self.wall.now();
        let started = Instant::now();
        let deadline = started + entry.monitor.timeout;
        let context = ProbeContext { net: &net, deadline, started_at };
        let probing = AssertUnwindSafe(entry.prepared.probe.probe(&context)).catch_unwind();
        let observation = match timeout_at(deadline + OVERRUN, probing).await {
            Ok(Ok(observation)) => observation,
            Ok(Err(_)) => {
                internal(started_at, started, "the probe panicked; this is a bug of Lamplighter, see its log")
            }
            Err(_) => internal(started_at, started, "the probe overran its deadline; this is a bug of Lamplighter"),
        };
        let observation = if started.elapsed() > entry.monitor.timeout + STANDSTILL {
            // Every probe ends at its deadline: so late, it was us who stood still, and the target may have answered.
            internal(
                started_at,
                started,
                "Lamplighter stood still during the check, so it says nothing about the target",
            )
        } else {
            observation
        };
        let body_bytes = observation.http.as_ref().map_or(0, |http| http.body.len());
        let finished = if entry.prepared.expect.reads_body() && body_bytes > HEAVY_BODY_BYTES {
            let judging = tokio::task::spawn_blocking(move || Finished::of(entry, due.attempt, &observation)).await;
            // Cancelled only when the runtime ends.
            let Ok(finished) = judging else { return };
            finished
        } else {
            Finished::of(entry, due.attempt, &observation)
        };
        // An error means that the stage has ended, which happens only after the pool: nothing to tell.
        let _ = self.finished.send(finished).await;
    }
}

fn internal(started_at: chrono::DateTime<chrono::Utc>, started: Instant, message: &str) -> Observation {
    let mut observation = Observation::new(started_at);
    observation.timings.total = started.elapsed();
    observation.fault = Some(Fault::new(Failure::Internal, message));
    observation
}

fn note_end(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        log::error!("a check's task panicked outside its probe: {error}");
    }
}
