//! When `catalog.json` is written: beside the loop, which neither a slow disk nor a busy stage may hold up.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::catalog::StatesRequest;
use crate::catalog::remember::{self, Known};
use crate::model::{MonitorId, MonitorState};

/// How old its states may become.
const LATEST: Duration = Duration::from_secs(60);
/// Changes are gathered for so long.
const SOONEST: Duration = Duration::from_secs(10);
/// Writing takes this share of the time at most.
const SHARE: u32 = 20;
/// States are asked for by so many: with all their evidence some megabytes.
const PART: usize = 500;

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

    /// Begins to write what is known; the states are asked for.
    pub(super) fn write(&mut self, known: Known) {
        let (path, states) = (self.path.clone(), self.states.clone());
        self.due = None;
        self.writing = Some((Instant::now(), tokio::spawn(write(path, states, known))));
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
    pub(super) async fn finish(mut self, known: Known) {
        if self.writing.is_some() {
            self.written().await;
        }
        if self.due.is_some() {
            write(self.path, self.states, known).await;
        }
    }
}

async fn write(path: PathBuf, stage: mpsc::Sender<StatesRequest>, known: Known) {
    let (ask, answer) = oneshot::channel();
    if stage.send(StatesRequest::Ids(ask)).await.is_err() {
        return;
    }
    // Once the stage has ended the file of before is better than one without states.
    let Ok(ids) = answer.await else { return };
    let write = move || match remember::write(&path, &known, || states(&stage, &ids)) {
        // The stage has ended meanwhile.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        Err(error) => log::warn!("{}: cannot be written: {error}", path.display()),
        Ok(()) => {}
    };
    let _ = tokio::task::spawn_blocking(write).await;
}

/// Asks the stage for a part when the one before is written. Blocks.
fn states<'a>(
    stage: &'a mpsc::Sender<StatesRequest>,
    ids: &'a [MonitorId],
) -> impl Iterator<Item = io::Result<(MonitorId, MonitorState)>> + 'a {
    let part = |ids: &[MonitorId]| {
        let (ask, answer) = oneshot::channel();
        let asked = stage.blocking_send(StatesRequest::Of(ids.to_vec(), ask)).ok();
        asked.and_then(|()| answer.blocking_recv().ok()).ok_or(io::ErrorKind::BrokenPipe)
    };
    ids.chunks(PART).flat_map(move |ids| match part(ids) {
        Ok(states) => states.into_iter().map(Ok).collect(),
        Err(kind) => vec![Err(kind.into())],
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use super::*;

    /// Writes the states of 1,250 monitors with a stage that answers so many times.
    async fn written(path: &std::path::Path, answers: usize) -> Vec<usize> {
        let id = |n: usize| MonitorId(uuid::Uuid::from_u128(n as u128));
        let (stage, mut asked) = mpsc::channel(1);
        let stage_runs = tokio::spawn(async move {
            let mut parts = Vec::new();
            for _ in 0..answers {
                match asked.recv().await {
                    Some(StatesRequest::Ids(answer)) => drop(answer.send((0..1250).map(id).collect())),
                    Some(StatesRequest::Of(ids, answer)) => {
                        parts.push(ids.len());
                        // One is gone by now.
                        let ids = ids.into_iter().filter(|id| id.0.as_u128() != 7);
                        let state =
                            |id: MonitorId| MonitorState { failures: id.0.as_u128() as u16, ..Default::default() };
                        let _ = answer.send(ids.map(|id| (id, state(id))).collect());
                    }
                    None => break,
                }
            }
            parts
        });
        let (keys, seals, owners) = (Arc::default(), Arc::default(), Arc::default());
        let known = Known { keys, seals, rows: Vec::new(), owners };
        write(path.to_owned(), stage, known).await;
        stage_runs.await.unwrap()
    }

    #[tokio::test]
    async fn states_are_written_part_by_part_and_a_stage_that_ends_spoils_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = remember::path(folder.path());
        assert_eq!(written(&path, 10).await, [500, 500, 250]);
        let states: HashMap<MonitorId, MonitorState> = remember::read(&path).unwrap().unwrap().states;
        assert_eq!(states.len(), 1249);
        assert!(states.iter().all(|(id, state)| u128::from(state.failures) == id.0.as_u128()));
        let before = std::fs::metadata(&path).unwrap().len();
        assert_eq!(written(&path, 2).await, [500]);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), before);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
