//! The stages and what connects them. Every channel of the daemon is made here.
//!
//! ```text
//!  watch ─> catalogue ─┬──────────────> stage ─> journal ─> recorder ─> store
//!  jobs ──> tick       └─> dispatcher ─> pool ─^ │
//!                               ^────────────────┘ done
//! ```
//!
//! Stopping goes with the data: what begins things first (watch, catalogue, jobs, dispatcher), then the pool with its
//! checks in flight, then the stage, then the recorder with the journal, last the admin server and the lease.

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, timeout_at};

use super::database::{Begun, Keeper, SharedRole};
use super::gate::Gated;
use super::source::{ConfigSource, First, Links, net_of};
use super::view::View;
use crate::catalog::sync::{self, Follower, SharedReport, Wakes};
use crate::catalog::{Snapshot, remember, watch as files};
use crate::cli::{Environment, Exit, Stop};
use crate::clock::{SystemWall, Wall};
use crate::journal::Journal;
use crate::journal::disk::DiskJournal;
use crate::journal::recorder::{Recorder, RecorderStats};
use crate::probe::pool::Pool;
use crate::schedule::dispatch::{Dispatcher, Inputs};
use crate::schedule::jobs::{Jobs, Wake};
use crate::shutdown::{self, Shutdown, Trigger};
use crate::store::Store;
use crate::verdict::Finished;
use crate::verdict::board::Board;
use crate::verdict::stage::Stage;
use crate::web::Admin;
use crate::web::server::{Listener, Trust, serve};

/// How long checks in flight may go on at the end.
const POOL_GRACE: Duration = Duration::from_secs(5);
/// How long the recorder may take for what waits at the end; the rest stays in the journal for the next start.
const RECORDER_GRACE: Duration = Duration::from_secs(8);
/// Room on the way from the pool to the stage and back; whoever finds it full waits.
const RESULTS: usize = 1024;

/// What the pipeline is built from.
pub(super) struct Parts<'a> {
    pub(super) first: First,
    pub(super) environment: &'a Environment,
    pub(super) store: Store,
    pub(super) gate_open: watch::Receiver<bool>,
    pub(super) role: Arc<SharedRole>,
    pub(super) own: Vec<SocketAddr>,
    pub(super) state: &'a Path,
    pub(super) embedded: bool,
    pub(super) journal: Arc<DiskJournal>,
}

/// The tasks of the daemon.
pub(super) struct Pipeline {
    tasks: JoinSet<()>,
    names: HashMap<Id, &'static str>,
    /// Ends what begins things.
    intake: (Trigger, Shutdown),
    /// Ends what must outlive the intake: keeper, server.
    rest: (Trigger, Shutdown),
    stages: Option<Stages>,
    /// The stage ends when nobody can send it results. The catalogue asks it for states at its own end, so this is kept
    /// until then.
    stage_hold: Option<mpsc::Sender<Finished>>,
    journal: Arc<DiskJournal>,
    view: Arc<View>,
    file_wake: mpsc::Sender<()>,
    gate_open: watch::Receiver<bool>,
    stops: (mpsc::Sender<Stop>, mpsc::Receiver<Stop>),
}

type Loop = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// The loops before they run.
struct Stages {
    loops: Vec<(&'static str, Loop)>,
    jobs: Jobs,
    wall: Arc<dyn Wall>,
}

impl Pipeline {
    /// Builds the parts and their channels; nothing runs yet.
    pub(super) fn build(parts: Parts<'_>) -> Result<Self, Stop> {
        let wall: Arc<dyn Wall> = Arc::new(SystemWall);
        let (intake, rest) = (shutdown::channel(), shutdown::channel());
        let settings = &parts.first.settings;
        let net = net_of(settings, parts.own.clone()).map_err(|error| Stop::new(Exit::Config, error))?;
        let net = Arc::new(ArcSwap::from_pointee(net));
        let places = settings.probe.max_in_flight;
        let (max_in_flight, limit) = watch::channel(places);
        let links = Links { net: Arc::clone(&net), max_in_flight, own: parts.own };
        let (source, content) = ConfigSource::new(parts.first, parts.environment, links);
        let config = source.path();

        let (board, report, recorder_stats) =
            (Arc::new(Board::default()), Arc::new(SharedReport::default()), Arc::new(RecorderStats::default()));
        let (due, due_end) = mpsc::channel(places);
        let (finished, finished_end) = mpsc::channel(RESULTS);
        let (done, done_end) = mpsc::channel(RESULTS);
        let (to_stage, stage_updates) = mpsc::channel(4);
        let (to_dispatcher, dispatcher_updates) = mpsc::channel(4);
        let (states, states_end) = mpsc::channel(1);
        let (folders, folders_end) = mpsc::channel(1);
        let (file_wake, file_end) = mpsc::channel(1);
        let (reload, reload_end) = mpsc::channel(16);

        let mut jobs = Jobs::builder();
        let tick = jobs.job("tick", "* * * * * *");
        let minute = jobs.job("compare", "0 * * * * *");
        let rollup = jobs.job("roll-up", "20 * * * * *");
        let partitions = jobs.job("partitions", "40 0 * * * *");

        let store =
            Arc::new(Gated::new(parts.store, parts.gate_open.clone(), Arc::clone(&parts.role), Arc::clone(&report)));
        let journal: Arc<dyn Journal> = Arc::clone(&parts.journal) as Arc<dyn Journal>;
        let inputs = Inputs { updates: dispatcher_updates, done: done_end, tick, max_in_flight: limit };
        let dispatcher = Dispatcher::new(Arc::clone(&wall), Arc::clone(&journal), due, inputs);
        let dispatch = dispatcher.stats();
        let stage_hold = finished.clone();
        let pool = Pool { net, wall: Arc::clone(&wall), finished, grace: POOL_GRACE };
        let stage = Stage {
            finished: finished_end,
            updates: stage_updates,
            states: states_end,
            done,
            journal,
            wall: Arc::clone(&wall),
            board: Arc::clone(&board),
        };
        let recorder = Recorder::new(Arc::clone(&parts.journal), Arc::clone(&store), Arc::clone(&recorder_stats));
        let remember_at = remember::path(parts.state);
        let remembered = remember::read(&remember_at).unwrap_or_else(|error| {
            log::warn!("{}: not usable, and not needed while the database is there: {error}", remember_at.display());
            None
        });
        let links = sync::Links {
            // The stage first: a result must never come before its monitor.
            updates: vec![to_stage, to_dispatcher],
            snapshot: Arc::new(ArcSwap::from_pointee(Snapshot::default())),
            report: Arc::clone(&report),
            folders,
            states,
            remember_at,
            recovered: parts.journal.recovered(),
        };
        let follower = Follower::new(Arc::new(source), Arc::clone(&store), links, remembered);
        let wakes = Wakes { file: file_end, reload: reload_end, minute };

        let stop = || intake.1.clone();
        let loops: Vec<(&'static str, Loop)> = vec![
            ("recorder", Box::pin(recorder.run())),
            ("verdict stage", Box::pin(on_a_thread(stage.run()))),
            ("probe pool", Box::pin(pool.run(due_end, stop()))),
            ("dispatcher", Box::pin(dispatcher.run(stop()))),
            ("catalogue", Box::pin(follower.run(content, wakes, stop()))),
            ("file watch", Box::pin(files::run(folders_end, file_wake.clone(), stop()))),
            ("roll-up", Box::pin(roll_up(Arc::clone(&store), rollup, stop()))),
            ("partitions", Box::pin(make_partitions(store, partitions, stop()))),
        ];
        let view = Arc::new(View {
            started_at: wall.now(),
            config,
            database: if parts.embedded { "embedded" } else { "external" },
            wall: Arc::clone(&wall),
            board,
            dispatch,
            journal: Arc::clone(&parts.journal),
            recorder: recorder_stats,
            catalog: report,
            role: parts.role,
            reload,
            running: Arc::default(),
        });
        Ok(Self {
            tasks: JoinSet::new(),
            names: HashMap::new(),
            intake,
            rest,
            stages: Some(Stages { loops, jobs, wall }),
            stage_hold: Some(stage_hold),
            journal: parts.journal,
            view,
            file_wake,
            gate_open: parts.gate_open,
            stops: mpsc::channel(4),
        })
    }

    fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let handle = self.tasks.spawn(task);
        self.names.insert(handle.id(), name);
    }

    /// Answers on the listeners, already while the store is being prepared.
    pub(super) fn serve(&mut self, public: Listener, local: Listener) {
        let admin: Arc<dyn Admin> = Arc::clone(&self.view) as Arc<dyn Admin>;
        self.spawn("admin server", serve(public, Arc::clone(&admin), Trust::Anonymous, self.rest.1.clone()));
        self.spawn("admin socket", serve(local, admin, Trust::Local, self.rest.1.clone()));
    }

    /// Starts the loops now, or (a standby) when the gate opens, and keeps the lease.
    pub(super) fn keep(&mut self, keeper: Keeper, begun: Begun) {
        let now = begun != Begun::Standby;
        let Some(stages) = self.stages.take() else { return };
        let (stop, stops) = (self.rest.1.clone(), self.stops.0.clone());
        self.spawn("lease keeper", async move {
            if let Err(stop) = keeper.keep(begun, stop).await {
                // Full: the daemon is ending for another reason.
                let _ = stops.try_send(stop);
            }
        });
        let start = move |gate: watch::Receiver<bool>, mut stop: Shutdown| async move {
            let mut gate = gate;
            tokio::select! {
                open = gate.wait_for(|open| now || *open) => open.is_ok(),
                () = stop.wait() => false,
            }
        };
        for (name, body) in stages.loops {
            let started = start(self.gate_open.clone(), self.intake.1.clone());
            self.spawn(name, async move {
                if started.await {
                    body.await;
                }
            });
        }
        let started = start(self.gate_open.clone(), self.intake.1.clone());
        let running = Arc::clone(&self.view.running);
        let (mut stop, stops, wake) = (self.intake.1.clone(), self.stops.0.clone(), self.file_wake.clone());
        self.spawn("jobs", async move {
            if !started.await {
                return;
            }
            running.store(true, Ordering::Relaxed);
            // A standby may have waited for long: the file may be another.
            let _ = wake.try_send(());
            match stages.jobs.start(stages.wall, stop.clone()).await {
                Ok(running) => {
                    stop.wait().await;
                    let _ = running.await;
                }
                Err(error) => {
                    let _ = stops.try_send(Stop::new(Exit::Failure, error.to_string()));
                }
            }
        });
    }

    /// SIGHUP: as if the file had changed.
    pub(super) fn reload(&self) {
        let view = Arc::clone(&self.view);
        // The outcome is logged by the catalogue; nobody waits for it here.
        tokio::spawn(async move { view.reload().await });
    }

    /// Waits for a task that ends although nobody asked it to.
    pub(super) async fn ended_early(&mut self) -> Stop {
        let ended = tokio::select! {
            biased;
            Some(stop) = self.stops.1.recv() => return stop,
            ended = self.tasks.join_next_with_id() => ended,
        };
        let (id, how) = match ended {
            Some(Ok((id, ()))) => (Some(id), "ended"),
            Some(Err(error)) if error.is_panic() => (Some(error.id()), "panicked"),
            Some(Err(error)) => (Some(error.id()), "was cancelled"),
            None => (None, "ended"),
        };
        // It has been joined: the shutdown must not wait for it again.
        let name = id.and_then(|id| self.names.remove(&id)).unwrap_or("every task");
        // The task may have given its reason just before.
        if let Ok(stop) = self.stops.1.try_recv() {
            return stop;
        }
        Stop::new(Exit::Failure, format!("the task {name:?} {how} unexpectedly"))
    }

    /// Stops everything in order, each part under its deadline.
    pub(super) async fn stop(mut self) {
        self.intake.0.fire();
        // A second more than the pool takes for itself.
        let deadline = Instant::now() + POOL_GRACE + Duration::from_secs(1);
        let ends_later = ["probe pool", "verdict stage", "recorder", "lease keeper", "admin server", "admin socket"];
        let outlive = ends_later.get(2..).unwrap_or_default();
        self.join(deadline, &ends_later).await;
        self.stage_hold = None;
        self.join(deadline, outlive).await;
        self.journal.close();
        self.join(Instant::now() + RECORDER_GRACE, outlive.get(1..).unwrap_or_default()).await;
        let left = self.journal.depth().records as u64 + self.view.recorder.in_hand();
        if left > 0 {
            log::warn!(records = left; "the database did not take the last results in time: the next start brings them");
        }
        self.rest.0.fire();
        // A recorder that is still there has had its time.
        self.join(Instant::now() + Duration::from_secs(4), &["recorder"]).await;
        self.tasks.shutdown().await;
    }

    /// Waits until only tasks of these names are left.
    async fn join(&mut self, deadline: Instant, but: &[&str]) {
        while self.names.values().any(|name| !but.contains(name)) {
            match timeout_at(deadline, self.tasks.join_next_with_id()).await {
                Ok(Some(Ok((id, ())))) => drop(self.names.remove(&id)),
                Ok(Some(Err(error))) => {
                    let name = self.names.remove(&error.id());
                    log::error!("the task {name:?} did not end well: {error}");
                }
                Ok(None) => return,
                Err(_) => {
                    let left: Vec<_> = self.names.values().filter(|name| !but.contains(name)).collect();
                    log::warn!("did not end in time and is cut off: {left:?}");
                    return;
                }
            }
        }
    }
}

/// Runs a loop that blocks on the disk where no other waits for it.
async fn on_a_thread(body: impl Future<Output = ()> + Send + 'static) {
    let runtime = tokio::runtime::Handle::current();
    let ended = tokio::task::spawn_blocking(move || runtime.block_on(body)).await;
    if let Err(error) = ended
        && error.is_panic()
    {
        std::panic::resume_unwind(error.into_panic());
    }
}

/// Closes hours and recomputes dirty ones, each minute.
async fn roll_up(store: Arc<Gated>, mut wake: Wake, mut stop: Shutdown) {
    while next(&mut wake, &mut stop).await {
        let Ok(store) = store.store() else { continue };
        let rolled = tokio::select! {
            rolled = store.roll_up() => rolled,
            () = stop.wait() => return,
        };
        match rolled {
            Ok(rolled) if rolled.recomputed > 0 => log::debug!(hours = rolled.recomputed; "hours rolled up"),
            Ok(_) => {}
            Err(fault) => log::debug!("roll-ups wait: {fault}"),
        }
    }
}

/// Makes partitions ahead, each hour.
async fn make_partitions(store: Arc<Gated>, mut wake: Wake, mut stop: Shutdown) {
    while next(&mut wake, &mut stop).await {
        let Ok(store) = store.store() else { continue };
        match store.make_partitions_ahead().await {
            Ok(0) => {}
            Ok(made) => log::info!(partitions = made; "partitions made ahead"),
            Err(fault) => log::warn!("partitions could not be made ahead and are tried again in an hour: {fault}"),
        }
    }
}

async fn next(wake: &mut Wake, stop: &mut Shutdown) -> bool {
    tokio::select! {
        () = stop.wait() => false,
        wake = wake.recv() => wake.is_some(),
    }
}
