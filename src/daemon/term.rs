//! A term: everything between gaining and losing the lease, or, while the store is away, between the start and that. It
//! is torn down and built anew in the same process, with states read afresh.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::pipeline::{self, Beginning, POOL_GRACE, Shared};
use super::tasks::{Ended, Restarts, Tasks};
use super::view::Live;
use crate::catalog::sync::FileContent;
use crate::journal::disk::DiskJournal;
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

/// The loops that check.
pub(super) struct Term {
    tasks: Tasks,
    /// Ends what begins things.
    intake: Trigger,
    gate: watch::Sender<bool>,
    stage_hold: Option<mpsc::Sender<Finished>>,
    journal: Arc<DiskJournal>,
    live: Arc<Live>,
}

impl Term {
    /// Starts the loops. Unless `may_write`, they do not touch the store before [`Self::open`].
    pub(super) fn start(
        shared: &Shared,
        content: FileContent,
        may_write: bool,
        after_standby: bool,
        restarts: Restarts,
    ) -> Self {
        // Before the loops run: they would begin from memory, though the store is there.
        let (gate, open) = watch::channel(may_write);
        let (intake, stop) = shutdown::channel();
        shared.journal.reopen();
        let mut tasks = Tasks::new(restarts);
        let beginning = Beginning { content, open, after_standby };
        let pipeline = pipeline::start(shared, beginning, &mut tasks, &stop);
        Self {
            tasks,
            intake,
            gate,
            stage_hold: Some(pipeline.stage_hold),
            journal: Arc::clone(&shared.journal),
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
    /// 3. the recorder brings what is in the journal to the store within 5 s; the rest waits there for the next start.
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
        self.journal.close();
        self.tasks.join_one(Instant::now() + RECORDER, "recorder").await;
        let left = self.journal.depth().records as u64 + self.live.recorder.in_hand();
        if left > 0 {
            log::warn!(records = left; "the database did not take the last results in time: the next start \
                brings them, unless another daemon takes over until then, which has a gap for that time");
        }
    }

    /// The lease is another's: everything ends at once, and what was not recorded is dropped, since the other one's
    /// history covers that time.
    pub(super) async fn abandon(&mut self) {
        self.gate.send_replace(false);
        self.intake.fire();
        self.stage_hold = None;
        self.tasks.cut_off().await;
        let journal = Arc::clone(&self.journal);
        // It blocks on the disk. An error is a panic, which its hook has told.
        let dropped = tokio::task::spawn_blocking(move || journal.discard()).await.unwrap_or(0);
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
