//! When `catalog.json` is written: beside the loop, which neither a slow disk nor a busy stage may hold up.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::catalog::StatesRequest;
use crate::catalog::remember::{self, Remembered};

/// How old its states may become.
const LATEST: Duration = Duration::from_secs(60);
/// Changes are gathered for so long.
const SOONEST: Duration = Duration::from_secs(10);
/// Writing takes this share of the time at most.
const SHARE: u32 = 20;

/// Writes `catalog.json`.
pub(super) struct Memory {
    path: PathBuf,
    states: mpsc::Sender<StatesRequest>,
    writing: Option<(Instant, JoinHandle<()>)>,
    /// When to write next; none before the first publication.
    due: Option<Instant>,
    /// No sooner than this.
    soonest: Instant,
}

impl Memory {
    pub(super) fn new(path: PathBuf, states: mpsc::Sender<StatesRequest>) -> Self {
        Self { path, states, writing: None, due: None, soonest: Instant::now() }
    }

    /// Something was published.
    pub(super) fn changed(&mut self) {
        let due = self.soonest;
        self.due = Some(self.due.map_or(due, |before| before.min(due)));
    }

    /// When [`Self::write`] is to be called; none while it is under way.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due.filter(|_| self.writing.is_none())
    }

    /// Begins to write what `remembered` gives; its states are asked for.
    pub(super) fn write(&mut self, remembered: impl FnOnce() -> Remembered + Send + 'static) {
        let (path, states) = (self.path.clone(), self.states.clone());
        self.due = None;
        self.writing = Some((Instant::now(), tokio::spawn(write(path, states, remembered))));
    }

    /// Waits for the end of what was begun; for ever when nothing was.
    pub(super) async fn written(&mut self) {
        let Some((began, task)) = &mut self.writing else { return std::future::pending().await };
        // A panic there is reported by its hook, and costs one writing.
        let _ = task.await;
        let now = Instant::now();
        let pause = began.elapsed() * SHARE;
        self.writing = None;
        self.soonest = now + pause.max(SOONEST);
        let latest = now + pause.max(LATEST);
        self.due = Some(self.due.map_or(latest, |_| self.soonest));
    }

    /// Writes a last time.
    pub(super) async fn finish(mut self, remembered: impl FnOnce() -> Remembered + Send + 'static) {
        if self.writing.is_some() {
            self.written().await;
        }
        if self.due.is_some() {
            write(self.path, self.states, remembered).await;
        }
    }
}

async fn write(
    path: PathBuf,
    states: mpsc::Sender<StatesRequest>,
    remembered: impl FnOnce() -> Remembered + Send + 'static,
) {
    let (ask, answer) = oneshot::channel();
    if states.send(ask).await.is_err() {
        return;
    }
    // Once the stage has ended the file of before is better than one without states.
    let Ok(states) = answer.await else { return };
    let write = move || {
        let written = remember::write(&path, &mut Remembered { states, ..remembered() });
        if let Err(error) = written {
            log::warn!("{}: cannot be written: {error}", path.display());
        }
    };
    let _ = tokio::task::spawn_blocking(write).await;
}
