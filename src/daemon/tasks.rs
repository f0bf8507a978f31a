//! Named tasks. One that ends although nobody asked it to ends the process with its name, or, if it holds no state, is
//! run again.

use std::collections::HashMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep, timeout_at};

use crate::shutdown::Shutdown;

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
        log::error!(thread, task; "panicked at {place}: {said}");
    }));
}

/// How often tasks were run again, since the start of the process.
#[derive(Clone, Debug, Default)]
pub(super) struct Restarts(Arc<AtomicU64>);

impl Restarts {
    /// The count.
    pub(super) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
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
        let handle = self.set.spawn(NAME.scope(name, task));
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
