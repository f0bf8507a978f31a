//! The embedded database on a thread of its own. Its parent-death signal follows the thread that starts it, and starting,
//! watching and stopping block: here they hold up nobody.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use tokio::sync::oneshot;

use super::cluster_stop;
use crate::cli::{Exit, Stop};
use crate::store::cluster::{Cluster, ClusterError, ClusterOptions, StateLock};

/// How often the server is looked after.
const LOOK: Duration = Duration::from_secs(1);
/// A fast shutdown may take so long; then, for the immediate one, so long. Together well below the unit's TimeoutStopSec.
const FAST: Duration = Duration::from_secs(6);
const IMMEDIATE: Duration = Duration::from_secs(2);

/// The thread, and what it says.
pub(super) struct Embedded {
    options: ClusterOptions,
    /// Dropped: the thread stops the server and ends.
    stay: Option<SyncSender<()>>,
    started: Option<oneshot::Receiver<Result<(), ClusterError>>>,
    /// Taken when it was heard.
    ended: Option<oneshot::Receiver<()>>,
}

impl Embedded {
    /// Begins to start the cluster of this state directory.
    pub(super) fn new(lock: &Arc<StateLock>, options: ClusterOptions) -> Result<Self, Stop> {
        let (stay, staying) = sync_channel(1);
        let (tell_started, started) = oneshot::channel();
        let (tell_ended, ended) = oneshot::channel();
        let (lock, own) = (Arc::clone(lock), options.clone());
        let thread = std::thread::Builder::new().name("embedded-postgres".to_owned());
        let keeping = move || {
            keep(&lock, &own, tell_started, &staying);
            let _ = tell_ended.send(());
        };
        thread.spawn(keeping).map_err(|error| Stop::new(Exit::Unavailable, format!("no thread: {error}")))?;
        Ok(Self { options, stay: Some(stay), started: Some(started), ended: Some(ended) })
    }

    /// Waits until the server answers.
    pub(super) async fn started(&mut self) -> Result<(), Stop> {
        let Some(started) = self.started.take() else { return Ok(()) };
        match started.await {
            Ok(result) => result.map_err(|error| cluster_stop(&error)),
            Err(_) => Err(lost()),
        }
    }

    /// Waits for a thread that ends although nobody asked it to: only a panic makes it.
    pub(super) async fn ended_early(&mut self) -> Stop {
        if let Some(ended) = &mut self.ended {
            let _ = ended.await;
            self.ended = None;
        }
        lost()
    }

    /// Stops the server, also one that is still starting.
    pub(super) async fn stop(mut self) {
        self.options.given_up.store(true, Ordering::Relaxed);
        self.stay = None;
        if let Some(ended) = self.ended {
            let _ = ended.await;
            log::info!("the embedded PostgreSQL has stopped");
        }
    }
}

fn lost() -> Stop {
    Stop::new(Exit::Failure, "the task \"embedded database\" ended unexpectedly")
}

fn keep(
    lock: &StateLock,
    options: &ClusterOptions,
    started: oneshot::Sender<Result<(), ClusterError>>,
    staying: &Receiver<()>,
) {
    let mut cluster = match Cluster::start(lock, options) {
        Ok(cluster) => cluster,
        Err(error) => return drop(started.send(Err(error))),
    };
    // Nobody waits for it when the daemon is ending already.
    let _ = started.send(Ok(()));
    while staying.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
        let Some(status) = cluster.exited() else { continue };
        // Of itself it never ends well.
        let hint =
            if status.success() { ": somebody else stopped it; a systemd unit needs KillMode=mixed" } else { "" };
        log::error!("the embedded PostgreSQL ended ({status}) and is started again{hint}");
        match Cluster::start(lock, options) {
            Ok(again) => cluster = again,
            Err(error) => log::error!("the embedded PostgreSQL does not start, tried again: {error}"),
        }
    }
    cluster.stop_within(FAST, IMMEDIATE);
}
