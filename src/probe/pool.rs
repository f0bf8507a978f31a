//! Runs probes: one task a check, each under its deadline, a panic in one is one failed check.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use chrono::{DateTime, Utc};
use futures_util::FutureExt as _;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use super::ProbeContext;
use super::net::Net;
use crate::catalog::Entry;
use crate::clock::Wall;
use crate::journal::Journal;
use crate::model::{Failure, Fault, Gap, GapReason, MonitorId, Observation, Record};
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
    /// For the gaps of checks that are cut off.
    pub journal: Arc<dyn Journal>,
    /// How long checks may go on after shutdown; then each becomes a gap `not_running` from its start.
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
            log::info!(checks = checks.len(); "checks in flight were cut off by the shutdown; they are gaps and do not count as failed");
        }
        checks.shutdown().await;
    }

    /// Sends exactly one result, whatever happens: the dispatcher holds the monitor for running until then.
    async fn check(&self, due: Due) {
        let (started_at, started) = (self.wall.now(), Instant::now());
        let mut open = Unfinished { pool: self, monitor: due.entry.monitor.id, started_at, ended: false };
        let observation = observe(&self.net.load_full(), &due.entry, started_at, started).await;
        if let Some(finished) = judged(due.entry, due.attempt, observation, started, Finished::of).await {
            // An error means that the stage has ended, which happens only after the pool: nothing to tell.
            let _ = self.finished.send(finished).await;
            open.ended = true;
        }
    }
}

/// A check without a result yet. Cut off, it is a gap: not a failure, and not silence.
struct Unfinished<'a> {
    pool: &'a Pool,
    monitor: MonitorId,
    started_at: DateTime<Utc>,
    ended: bool,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if !self.ended {
            let (from_at, to_at) = (self.started_at, self.pool.wall.now().max(self.started_at));
            let gap = Gap { monitor: Some(self.monitor), from_at, to_at, reason: GapReason::NotRunning };
            self.pool.journal.append(vec![Record::Gap(gap)]);
        }
    }
}

/// One attempt: cut off when the probe overruns its deadline, and a panic in it is a fault of ours. `started` is the
/// moment of `started_at` on the monotonic clock.
pub async fn observe(net: &Net, entry: &Entry, started_at: DateTime<Utc>, started: Instant) -> Observation {
    let limit = entry.monitor.timeout;
    let context = ProbeContext { net, deadline: started + limit, started_at };
    // In a block, so that a panic before the first await is caught as well.
    let probing = async { entry.prepared.probe.probe(&context).await };
    let ended = timeout_at(context.deadline + OVERRUN, AssertUnwindSafe(probing).catch_unwind()).await;
    let took = started.elapsed();
    let message = match ended {
        Ok(Ok(observation)) if took <= limit + STANDSTILL => return observation,
        Ok(Err(_)) => "the probe panicked; this is a bug of Lamplighter, see its log",
        Err(_) if took <= limit + OVERRUN + STANDSTILL => {
            "the probe overran its deadline; this is a bug of Lamplighter"
        }
        // Every probe ends at its deadline, and is cut off soon after: so late, it was us who stood still, and the
        // target may have answered.
        Ok(Ok(_)) | Err(_) => "Lamplighter stood still during the check, so it says nothing about the target",
    };
    internal(started_at, started, message)
}

/// Judges; a panic in that is one failed check of ours. None when the runtime ends.
async fn judged(
    entry: Arc<Entry>,
    attempt: u16,
    observation: Observation,
    started: Instant,
    judge: fn(Arc<Entry>, u16, &Observation) -> Finished,
) -> Option<Finished> {
    let (started_at, own) = (observation.started_at, Arc::clone(&entry));
    let heavy = entry.prepared.expect.reads_body()
        && observation.http.as_ref().is_some_and(|http| http.body.len() > HEAVY_BODY_BYTES);
    let judging = move || catch_unwind(AssertUnwindSafe(|| judge(own, attempt, &observation)));
    let judgement = if heavy { tokio::task::spawn_blocking(judging).await.ok()? } else { judging() };
    let finished = judgement.unwrap_or_else(|_| {
        let message = "judging the check panicked; this is a bug of Lamplighter, see its log";
        Finished::of_fault(entry, attempt, &internal(started_at, started, message))
    });
    Some(finished)
}

fn internal(started_at: DateTime<Utc>, started: Instant, message: &str) -> Observation {
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

#[cfg(test)]
mod tests;
