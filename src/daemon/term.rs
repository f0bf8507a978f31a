//! A term: everything between gaining and losing the lease, or, while the store is away, between the start and that. It
//! is torn down and built anew in the same process, with states read afresh.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::pipeline::{self, Beginning, POOL_GRACE, Shared};
use super::tasks::{Ended, Restarts, Tasks};
use super::view::Live;
use crate::catalog::sync::FileContent;
use crate::journal::Journal;
use crate::journal::backlog::Backlog;
use crate::model::Record;
use crate::shutdown::{self, Trigger};
use crate::verdict::Finished;

/// What begins things ends within this: the catalogue writes `catalog.json`.
const INTAKE: Duration = Duration::from_millis(1200);
/// The recorder may take so long for what waits; a store that answers needs far less.
const RECORDER: Duration = Duration::from_secs(5);
/// What is left of the catalogue then.
const REST: Duration = Duration::from_secs(1);
/// Tasks that end with the data, not with the intake.
const LATER: &[&str] = &["verdict stage", "recorder"];

/// A term's way into the journal. Closed with it: a check that is dropped late must not leave its gap to the next term.
struct Inlet {
    journal: Arc<dyn Journal>,
    closed: AtomicBool,
}

impl Journal for Inlet {
    fn append(&self, records: Vec<Record>) {
        if !self.closed.load(Ordering::Acquire) {
            self.journal.append(records);
        }
    }
}

/// The loops that check.
pub(super) struct Term {
    tasks: Tasks,
    /// Ends what begins things.
    intake: Trigger,
    gate: watch::Sender<bool>,
    stage_hold: Option<mpsc::Sender<Finished>>,
    inlet: Arc<Inlet>,
    backlog: Arc<Backlog>,
    live: Arc<Live>,
}

impl Term {
    /// Starts the loops. They write nothing before [`Self::open`].
    pub(super) fn start(shared: &Shared, content: FileContent, after_standby: bool, restarts: Restarts) -> Self {
        let (gate, open) = watch::channel(false);
        let (intake, stop) = shutdown::channel();
        let mut tasks = Tasks::new(restarts);
        let journal = Arc::clone(&shared.backlog) as Arc<dyn Journal>;
        let inlet = Arc::new(Inlet { journal, closed: AtomicBool::new(false) });
        let journal = Arc::clone(&inlet) as Arc<dyn Journal>;
        let beginning = Beginning { content, journal, open, after_standby };
        let pipeline = pipeline::start(shared, beginning, &mut tasks, &stop);
        Self {
            tasks,
            intake,
            gate,
            stage_hold: Some(pipeline.stage_hold),
            inlet,
            backlog: Arc::clone(&shared.backlog),
            live: Arc::new(pipeline.live),
        }
    }

    /// This daemon may write now.
    pub(super) fn open(&self) {
        self.gate.send_replace(true);
    }

    /// What is shown of it.
    pub(super) fn live(&self) -> Arc<Live> {
        Arc::clone(&self.live)
    }

    /// Waits for a task that ends although nobody asked it to.
    pub(super) async fn ended_early(&mut self) -> Ended {
        self.tasks.ended_early().await
    }

    /// The orderly end, at a shutdown, with the data:
    ///
    /// 1. what begins things ends (watch, catalogue, jobs, dispatcher), and the pool lets checks in flight end for 0.8 s;
    ///    those that do not are gaps,
    /// 2. the stage judges what came and ends,
    /// 3. the recorder brings the backlog to the store within 5 s.
    ///
    /// The lease may be given up then, and [`Self::cut_off`] ends the rest.
    pub(super) async fn finish(&mut self) {
        self.intake.fire();
        let pool_by = Instant::now() + POOL_GRACE + Duration::from_millis(200);
        let catalogue_by = Instant::now() + INTAKE;
        // The pool alone first: a catalogue that is still writing needs the stage no more once it has its states.
        self.tasks.join_one(pool_by, "probe pool").await;
        self.tasks.join(catalogue_by, LATER).await;
        self.stage_hold = None;
        self.tasks.join_one(Instant::now() + REST, "verdict stage").await;
        self.backlog.close();
        self.tasks.join_one(Instant::now() + RECORDER, "recorder").await;
        let left = self.backlog.depth().records as u64 + self.live.recorder.in_hand();
        if left > 0 {
            log::error!(records = left; "the database did not take the last results in time: they are lost");
        }
    }

    /// The lease is another's: everything ends at once, and what was not recorded is dropped, since the other one's
    /// history covers that time.
    pub(super) async fn abandon(&mut self) {
        self.gate.send_replace(false);
        self.inlet.closed.store(true, Ordering::Release);
        self.intake.fire();
        self.stage_hold = None;
        self.tasks.cut_off().await;
        // JOURNAL: the discard of the journal belongs here.
        let dropped = self.backlog.discard() as u64 + self.live.recorder.in_hand();
        if dropped > 0 {
            log::warn!(records = dropped; "dropped what was seen and not recorded: another daemon is active");
        }
    }

    /// Ends what is left.
    pub(super) async fn cut_off(&mut self) {
        self.tasks.join(Instant::now() + REST, &["recorder"]).await;
        self.tasks.cut_off().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Gap, GapReason, MonitorId};

    #[test]
    fn what_comes_after_a_term_is_not_the_next_ones() {
        let backlog = Arc::new(Backlog::new(1 << 20));
        let inlet = Inlet { journal: Arc::clone(&backlog) as Arc<dyn Journal>, closed: AtomicBool::new(false) };
        let at = chrono::DateTime::UNIX_EPOCH;
        let monitor = Some(MonitorId(uuid::Uuid::from_u128(1)));
        let gap = || vec![Record::Gap(Gap { monitor, from_at: at, to_at: at, reason: GapReason::NotRunning })];
        inlet.append(gap());
        inlet.append(gap());
        inlet.closed.store(true, Ordering::Release);
        assert_eq!(backlog.discard(), 2);
        inlet.append(gap());
        assert_eq!((backlog.depth().records, backlog.depth().bytes), (0, 0));
    }
}
