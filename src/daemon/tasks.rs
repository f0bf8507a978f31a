//! Named tasks. One that ends although nobody asked it to ends the process with its name, or, if it holds no state, is
//! run again.

use std::collections::HashMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep, timeout_at};

use crate::metrics::task::{Measured, TaskStats};
use crate::shutdown::Shutdown;
use crate::telemetry;

/// Before a task is run again; doubles up to [`PAUSE_MOST`].
const PAUSE_LEAST: Duration = Duration::from_secs(1);
/// A task that never comes up is tried so often.
const PAUSE_MOST: Duration = Duration::from_secs(60);
/// Who ran for so long begins with the shortest pause again.
const STEADY: Duration = Duration::from_secs(300);

tokio::task_local! {
    static NAME: &'static str;
}

/// Every panic becomes one error line with its thread and, if it has one, its task.
pub(super) fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        let task = NAME.try_with(|name| *name).unwrap_or("none");
        let said = panic.payload_as_str().unwrap_or("no message");
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        log::error!(thread, task; "panicked at {place}: {}", telemetry::escape(said));
    }));
}

/// Runs a task's loop that blocks on the disk where no other waits for it. Cutting the task off does not end the loop: it
/// must end with its input.
pub(super) async fn on_a_thread(body: impl Future<Output = ()> + Send + 'static) {
    let runtime = tokio::runtime::Handle::current();
    // What a panic in there is told by.
    let name = NAME.try_with(|name| *name).unwrap_or("none");
    let ended = tokio::task::spawn_blocking(move || runtime.block_on(NAME.scope(name, body))).await;
    if let Err(error) = ended
        && error.is_panic()
    {
        std::panic::resume_unwind(error.into_panic());
    }
}

/// How often tasks were run again, since the start of the process, and the figures of those that were started.
#[derive(Clone, Debug, Default)]
pub(super) struct Restarts(Arc<AtomicU64>, Arc<Mutex<Vec<Arc<TaskStats>>>>);

impl Restarts {
    /// The count.
    pub(super) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// The figures by name, in the order of the first start. Those of a task that has ended stay until the next one of
    /// its name.
    pub(super) fn figures(&self) -> Vec<Arc<TaskStats>> {
        self.1.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn measure(&self, name: &'static str) -> Arc<TaskStats> {
        let stats = TaskStats::new(name);
        let mut all = self.1.lock().unwrap_or_else(PoisonError::into_inner);
        match all.iter_mut().find(|known| known.name == name) {
            Some(known) => *known = Arc::clone(&stats),
            None => all.push(Arc::clone(&stats)),
        }
        stats
    }
}

/// A task that ended although nobody asked it to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    /// Which.
    pub(super) name: &'static str,
    /// In a word.
    pub(super) how: &'static str,
}

/// A set of named tasks. Dropping it cuts all of them off.
#[derive(Default)]
pub(super) struct Tasks {
    set: JoinSet<()>,
    names: HashMap<Id, &'static str>,
    restarts: Restarts,
}

impl Tasks {
    /// No tasks yet.
    pub(super) fn new(restarts: Restarts) -> Self {
        Self { restarts, ..Self::default() }
    }

    /// Starts a task that is told by [`Self::ended_early`] when it ends.
    pub(super) fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let handle = self.set.spawn(Measured::new(self.restarts.measure(name), NAME.scope(name, task)));
        self.names.insert(handle.id(), name);
    }

    /// Starts a task that is run again whenever it ends or panics, until `stop`. Its making may panic as well.
    pub(super) fn spawn_again<F>(
        &mut self,
        name: &'static str,
        stop: Shutdown,
        mut task: impl FnMut() -> F + Send + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let restarts = self.restarts.clone();
        self.spawn(name, async move {
            let (mut stop, mut pause) = (stop, PAUSE_LEAST);
            loop {
                let began = Instant::now();
                let ended = AssertUnwindSafe(async { task().await }).catch_unwind().await;
                if stop.fired() {
                    return;
                }
                let how = if ended.is_ok() { "ended" } else { "panicked" };
                if began.elapsed() >= STEADY {
                    pause = PAUSE_LEAST;
                }
                restarts.0.fetch_add(1, Ordering::Relaxed);
                log::error!(task = name; "the task {name:?} {how} unexpectedly and runs again in {pause:?}");
                tokio::select! {
                    () = stop.wait() => return,
                    () = sleep(pause) => {}
                }
                pause = (pause * 2).min(PAUSE_MOST);
            }
        });
    }

    /// Waits for a task that ends although nobody asked it to; for ever when there are none.
    pub(super) async fn ended_early(&mut self) -> Ended {
        let Some(ended) = self.set.join_next_with_id().await else { return std::future::pending().await };
        let (id, how) = match &ended {
            Ok((id, ())) => (*id, "ended"),
            Err(error) => (error.id(), how(error)),
        };
        // It has been joined: nobody waits for it again.
        Ended { name: self.names.remove(&id).unwrap_or("unnamed"), how }
    }

    /// Waits until only tasks of these names are left. False when the deadline came first, which is told.
    pub(super) async fn join(&mut self, deadline: Instant, but: &[&str]) -> bool {
        self.join_those(deadline, |name| !but.contains(&name)).await
    }

    /// The same for one task.
    pub(super) async fn join_one(&mut self, deadline: Instant, name: &str) -> bool {
        self.join_those(deadline, |other| other == name).await
    }

    async fn join_those(&mut self, deadline: Instant, wanted: impl Fn(&str) -> bool) -> bool {
        while self.names.values().any(|name| wanted(name)) {
            match timeout_at(deadline, self.set.join_next_with_id()).await {
                Ok(Some(Ok((id, ())))) => drop(self.names.remove(&id)),
                Ok(Some(Err(error))) => {
                    let name = self.names.remove(&error.id()).unwrap_or("unnamed");
                    log::error!("the task {name:?} did not end well: it {}", how(&error));
                }
                Ok(None) => return true,
                Err(_) => {
                    let left: Vec<_> = self.names.values().filter(|name| wanted(name)).collect();
                    log::warn!("did not end in time and is cut off: {left:?}");
                    return false;
                }
            }
        }
        true
    }

    /// Cuts off what is left, and waits for the end of it.
    pub(super) async fn cut_off(&mut self) {
        self.set.shutdown().await;
        self.names.clear();
    }
}

fn how(error: &JoinError) -> &'static str {
    if error.is_panic() { "panicked" } else { "was cancelled" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shutdown;

    #[tokio::test(start_paused = true)]
    async fn one_that_must_not_end_is_told_by_name() {
        let mut tasks = Tasks::default();
        tasks.spawn("steady", std::future::pending());
        tasks.spawn("panics", async { panic!("as the test wants") });
        assert_eq!(tasks.ended_early().await, Ended { name: "panics", how: "panicked" });
        tasks.spawn("ends", async {});
        assert_eq!(tasks.ended_early().await, Ended { name: "ends", how: "ended" });
        let soon = Instant::now() + Duration::from_secs(1);
        assert!(tasks.join(soon, &["steady"]).await, "nobody waits for those that were told");
        assert!(!tasks.join(soon, &[]).await);
        assert_eq!(Instant::now(), soon);
        tasks.cut_off().await;
        assert!(tasks.join(soon, &[]).await);
    }

    #[tokio::test]
    async fn one_on_a_thread_has_its_name_there() {
        let mut tasks = Tasks::default();
        let (tell, told) = tokio::sync::oneshot::channel();
        tasks.spawn(
            "blocks",
            on_a_thread(async move {
                tell.send(NAME.try_with(|name| *name).ok()).unwrap();
                panic!("as the test wants");
            }),
        );
        assert_eq!(told.await.unwrap(), Some("blocks"));
        assert_eq!(tasks.ended_early().await, Ended { name: "blocks", how: "panicked" });
    }

    #[tokio::test(start_paused = true)]
    async fn one_without_state_runs_again_less_and_less_often() {
        let (trigger, stop) = shutdown::channel();
        let restarts = Restarts::default();
        let mut tasks = Tasks::new(restarts.clone());
        let began = Arc::new(std::sync::Mutex::new(Vec::new()));
        let times = Arc::clone(&began);
        let start = Instant::now();
        tasks.spawn_again("shaky", stop, move || {
            let run = {
                let mut times = times.lock().unwrap();
                times.push(start.elapsed().as_secs());
                times.len()
            };
            assert_ne!(run, 2, "its making panics");
            async move {
                match run {
                    1 => panic!("its run panics"),
                    3 => {}
                    // Long enough to begin with the shortest pause again.
                    4 => sleep(STEADY).await,
                    _ => std::future::pending().await,
                }
            }
        });
        let early = timeout_at(Instant::now() + STEADY * 2, tasks.ended_early()).await;
        assert!(early.is_err(), "it goes on by itself");
        assert_eq!(*began.lock().unwrap(), [0, 1, 3, 7, 308]);
        assert_eq!(restarts.count(), 4);
        trigger.fire();
        // A task that hangs is cut off by its owner.
        tasks.cut_off().await;
    }

    #[tokio::test(start_paused = true)]
    async fn one_without_state_that_ends_at_the_shutdown_has_ended() {
        let (trigger, stop) = shutdown::channel();
        let restarts = Restarts::default();
        let mut tasks = Tasks::new(restarts.clone());
        let ends = stop.clone();
        tasks.spawn_again("orderly", stop, move || {
            let mut ends = ends.clone();
            async move { ends.wait().await }
        });
        tokio::task::yield_now().await;
        trigger.fire();
        assert!(tasks.join(Instant::now() + PAUSE_LEAST / 2, &[]).await);
        assert_eq!(restarts.count(), 0);
    }

    /// The hook is the whole process's, so it is tried in one of its own.
    #[test]
    fn a_panic_is_one_line_of_the_log() {
        const CHILD: &str = "daemon::tasks::tests::child_that_panics";
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        let output = child.args(["--ignored", "--exact", CHILD, "--nocapture"]).output().unwrap();
        let log = String::from_utf8(output.stderr).unwrap();
        let lines: Vec<&str> = log.lines().filter(|line| line.contains("ERROR")).collect();
        assert_eq!(lines.len(), 1, "{log}");
        for part in ["panicked at src/daemon/tasks.rs:", "as the test wants\\u{a}forged", "thread=", "task=shaky"] {
            assert!(lines[0].contains(part), "{part}: {log}");
        }
        assert!(!log.lines().any(|line| line.starts_with("forged")), "{log}");
    }

    #[test]
    #[ignore = "not a test by itself: the process that panics"]
    fn child_that_panics() {
        let _flush = crate::telemetry::start(&crate::telemetry::filter::Filter::default(), false).unwrap();
        log_panics();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let ended = runtime.block_on(async {
            let mut tasks = Tasks::default();
            tasks.spawn("shaky", async { panic!("as the test wants\nforged") });
            tasks.ended_early().await
        });
        assert_eq!(ended.how, "panicked");
    }
}
