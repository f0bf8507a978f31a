//! Coarse jobs on `tokio-cron-scheduler`: the tick, the minute's comparison, roll-ups, partitions.
//!
//! A job only wakes its loop, by a channel of one place: a loop that is still busy finds one wake-up afterwards, so
//! nothing overlaps and nothing queues. Wake-ups may come up to half a second late (the library polls), twice or not at
//! all; loops re-read and are idempotent. Expressions are in UTC: the library freezes a zone's offset at registration.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_cron_scheduler::{Job, JobScheduler, JobSchedulerError};
use uuid::Uuid;

use super::plan::Timeline;
use crate::clock::Wall;
use crate::shutdown::Shutdown;

/// How often the clocks are compared.
const COMPARE_EVERY: Duration = Duration::from_secs(1);

/// The library's queues lose silently when full. Each job takes one place at a time; this is room for 1,000 at once.
const QUEUE: usize = 1_000;

/// Wakes a loop. Receive in the loop; what came meanwhile is one wake-up.
pub type Wake = mpsc::Receiver<()>;

/// Why the jobs do not run. The daemon ends with exit code 1: both are bugs of ours.
#[derive(Debug, thiserror::Error)]
pub enum JobsError {
    /// The library took the job for invalid.
    #[error("the job {name} ({expression}) cannot be registered")]
    Register {
        /// Which job.
        name: &'static str,
        /// Its schedule.
        expression: &'static str,
        /// The library's reason.
        source: JobSchedulerError,
    },
    /// The library did not start.
    #[error("the job scheduler does not start")]
    Start(#[source] JobSchedulerError),
}

#[derive(Clone)]
struct Registration {
    name: &'static str,
    expression: &'static str,
    wake: mpsc::Sender<()>,
}

/// Named jobs, before they are started.
#[derive(Clone, Default)]
pub struct Jobs(Vec<Registration>);

impl Jobs {
    /// No jobs yet.
    #[must_use]
    pub fn builder() -> Self {
        Self::default()
    }

    /// Adds a job: `expression` has six fields, seconds first, in UTC.
    #[must_use]
    pub fn job(&mut self, name: &'static str, expression: &'static str) -> Wake {
        let (wake, receiver) = mpsc::channel(1);
        self.0.push(Registration { name, expression, wake });
        receiver
    }

    /// Starts the jobs. The task ends with the shutdown, and the wake-ups with it.
    ///
    /// # Errors
    /// When an expression is invalid or the library does not start.
    pub async fn start(self, wall: Arc<dyn Wall>, shutdown: Shutdown) -> Result<JoinHandle<()>, JobsError> {
        let scheduler = JobScheduler::new_with_channel_size(QUEUE).await.map_err(JobsError::Start)?;
        let mut ids = Vec::with_capacity(self.0.len());
        for job in &self.0 {
            ids.push(register(&scheduler, job).await?);
        }
        scheduler.start().await.map_err(JobsError::Start)?;
        Ok(tokio::spawn(keep(scheduler, self.0, ids, wall, shutdown)))
    }
}

async fn register(scheduler: &JobScheduler, job: &Registration) -> Result<Uuid, JobsError> {
    let failed = |source| JobsError::Register { name: job.name, expression: job.expression, source };
    let wake = job.wake.clone();
    let run = move |_, _| {
        // Full: a wake-up is waiting already. Closed: the loop has ended.
        let _ = wake.try_send(());
    };
    scheduler.add(Job::new(job.expression, run).map_err(failed)?).await.map_err(failed)
}

/// Keeps the jobs alive through steps of the wall clock. The library keeps the wall-clock time of each next run, so
/// after a step back by an hour nothing would run for an hour: the jobs are registered anew.
async fn keep(
    mut scheduler: JobScheduler,
    jobs: Vec<Registration>,
    mut ids: Vec<Uuid>,
    wall: Arc<dyn Wall>,
    mut shutdown: Shutdown,
) {
    let mut timeline = Timeline::new(wall.now(), Instant::now());
    loop {
        tokio::select! {
            () = shutdown.wait() => break,
            () = sleep(COMPARE_EVERY) => {}
        }
        let drift = timeline.drift(wall.now(), Instant::now());
        timeline.shift(drift);
        if drift > TimeDelta::seconds(-2) {
            continue;
        }
        for (job, id) in jobs.iter().zip(&mut ids) {
            if let Err(why) = scheduler.remove(id).await {
                log::warn!("the job {} is not taken back after a step of the clock: {why}", job.name);
            }
            match register(&scheduler, job).await {
                Ok(new) => *id = new,
                Err(error) => log::error!("after a step of the clock: {error}"),
            }
        }
    }
    if let Err(why) = scheduler.shutdown().await {
        log::warn!("the job scheduler does not end: {why}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemWall;
    use crate::shutdown;
    use chrono::{DateTime, Utc};
    use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
    use tokio::time::timeout;

    const SOON: Duration = Duration::from_secs(20);

    struct Shifted(AtomicI64);

    impl Wall for Shifted {
        fn now(&self) -> DateTime<Utc> {
            SystemWall.now() + TimeDelta::seconds(self.0.load(Relaxed))
        }
    }

    #[tokio::test]
    async fn a_job_wakes_its_loop_until_the_end() {
        let (trigger, signal) = shutdown::channel();
        let mut jobs = Jobs::builder();
        let mut tick = jobs.job("tick", "* * * * * *");
        let mut idle = jobs.job("idle", "* * * * * *");
        let mut never = jobs.job("leap", "0 0 0 29 2 *");
        let task = jobs.start(Arc::new(SystemWall), signal).await.unwrap();
        for _ in 0..3 {
            timeout(SOON, tick.recv()).await.unwrap().unwrap();
        }
        // A loop that was busy for three ticks finds one.
        assert_eq!(idle.len(), 1);
        assert_eq!(idle.try_recv(), Ok(()));
        assert!(never.try_recv().is_err());
        trigger.fire();
        timeout(SOON, task).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn jobs_go_on_after_the_clock_stepped_back() {
        let (_trigger, signal) = shutdown::channel();
        let wall = Arc::new(Shifted(AtomicI64::new(0)));
        let mut jobs = Jobs::builder();
        let mut tick = jobs.job("tick", "* * * * * *");
        let _task = jobs.start(wall.clone(), signal).await.unwrap();
        timeout(SOON, tick.recv()).await.unwrap().unwrap();
        wall.0.store(-3_600, Relaxed);
        // Registered anew within the first two seconds, so the last ones are the new job's.
        for _ in 0..5 {
            timeout(SOON, tick.recv()).await.unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn a_wrong_expression_is_named() {
        let (_trigger, signal) = shutdown::channel();
        let mut jobs = Jobs::builder();
        let _wake = jobs.job("broken", "* * *");
        let error = jobs.start(Arc::new(SystemWall), signal).await.unwrap_err();
        assert!(error.to_string().contains("broken"), "{error}");
    }
}
