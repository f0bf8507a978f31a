//! The stages of a term and what connects them. Every channel between them is made here, anew for each term.
//!
//! ```text
//!  watch ─> catalogue ─┬──────────────> stage ─> journal ─> recorder ─> store
//!  jobs ──> tick       └─> dispatcher ─> pool ─^ │
//!                               ^────────────────┘ done
//! ```

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Mutex, Notify, mpsc, watch};

use super::chores::{make_partitions, roll_up};
use super::gate::Gated;
use super::history::{History, keep_history};
use super::metrics::{Queue, TermSources};
use super::overdue;
use super::role::SharedRole;
use super::slos::{Evaluation, Objectives, SloBoard, evaluate_slos};
use super::source::ConfigSource;
use super::tasks::{Tasks, on_a_thread};
use super::view::Live;
use crate::catalog::sync::{self, FileContent, Follower, ReloadCount, SharedReport, Wakes};
use crate::catalog::{Snapshot, remember, watch as files};
use crate::clock::Wall;
use crate::journal::Journal;
use crate::journal::disk::DiskJournal;
use crate::journal::recorder::{Recorder, RecorderStats};
use crate::maintenance::definition::FileMaintenance;
use crate::maintenance::keeper::{self, Keeper};
use crate::maintenance::{self, Covers};
use crate::metrics::work::WorkStats;
use crate::probe::net::Net;
use crate::probe::pool::Pool;
use crate::schedule::dispatch::{Dispatcher, Inputs};
use crate::schedule::jobs::{Jobs, Wake};
use crate::shutdown::Shutdown;
use crate::store::Store;
use crate::verdict::Finished;
use crate::verdict::board::Board;
use crate::verdict::pings::{self, Pings};
use crate::verdict::stage::Stage;

/// How long checks in flight may go on at the end: a standby waits for it.
pub(super) const POOL_GRACE: Duration = Duration::from_millis(800);
/// Room on the way from the pool to the stage and back; whoever finds it full waits.
const RESULTS: usize = 1024;

/// What outlives a term.
pub(super) struct Shared {
    pub(super) store: Store,
    pub(super) source: Arc<ConfigSource>,
    pub(super) wall: Arc<dyn Wall>,
    pub(super) role: Arc<SharedRole>,
    /// Told when the store refuses a write by its epoch.
    pub(super) suspect: Arc<Notify>,
    pub(super) journal: Arc<DiskJournal>,
    pub(super) reloads: ReloadCount,
    /// The way out of the probes.
    pub(super) net: Arc<ArcSwap<Net>>,
    /// `probe.max_in_flight`.
    pub(super) max_in_flight: watch::Receiver<usize>,
    /// `[[maintenance]]`.
    pub(super) maintenances: watch::Receiver<Arc<[FileMaintenance]>>,
    /// `[[slo]]`.
    pub(super) objectives: Objectives,
    /// The state directory.
    pub(super) state: PathBuf,
}

/// The running stages.
pub(super) struct Pipeline {
    /// The stage ends when nobody can send it results. The catalogue asks it for states at its own end, so this is kept
    /// until then.
    pub(super) stage_hold: mpsc::Sender<Finished>,
    /// What is shown of them.
    pub(super) live: Live,
}

/// How a term begins.
pub(super) struct Beginning {
    /// The file's part of the catalogue.
    pub(super) content: FileContent,
    /// Opens when this daemon may write.
    pub(super) open: watch::Receiver<bool>,
    /// This daemon was a standby: what `catalog.json` knows of states is another's past.
    pub(super) after_standby: bool,
}

/// Makes the stages and starts them as `tasks`. They end with `stop`, but for those that end with their input: the stage
/// when the pool has ended and the hold is dropped, the recorder when the journal is closed.
pub(super) fn start(shared: &Shared, beginning: Beginning, tasks: &mut Tasks, stop: &Shutdown) -> Pipeline {
    let wall = Arc::clone(&shared.wall);
    let places = *shared.max_in_flight.borrow();
    let (board, recorder_stats) = (Arc::new(Board::default()), Arc::new(RecorderStats::default()));
    let report = Arc::new(SharedReport::counting(shared.reloads.clone()));
    let (due, due_end) = mpsc::channel(places);
    let (finished, finished_end) = mpsc::channel(RESULTS);
    let (done, done_end) = mpsc::channel(RESULTS);
    let (to_stage, stage_updates) = mpsc::channel(4);
    let (to_dispatcher, dispatcher_updates) = mpsc::channel(4);
    let (states, states_end) = mpsc::channel(1);
    let (folders, folders_end) = mpsc::channel(1);
    let (file_wake, file_end) = mpsc::channel(1);
    let (reload, reload_end) = mpsc::channel(16);
    let (to_pings, pinged) = mpsc::channel(pings::WAITING);
    let (covers, covers_end) = watch::channel(Arc::default());
    let snapshot = Arc::new(ArcSwap::from_pointee(Snapshot::default()));

    let queues = vec![
        Queue::of("due", &due),
        Queue::of("finished", &finished),
        Queue::of("done", &done),
        Queue::of("stage_updates", &to_stage),
        Queue::of("dispatcher_updates", &to_dispatcher),
        Queue::of("states", &states),
        Queue::of("folders", &folders),
        Queue::of("file_wake", &file_wake),
        Queue::of("reloads", &reload),
        Queue::of("pings", &to_pings),
    ];

    let pings = Arc::new(Pings::new(to_pings));
    let mut jobs = Jobs::builder();
    let tick = jobs.job("tick", "* * * * * *");
    let minute = jobs.job("compare", "0 * * * * *");
    let rollup = jobs.job("roll-up", "20 * * * * *");
    let partitions = jobs.job("partitions", "40 0 * * * *");
    let minutely = jobs.job("slo", "55 * * * * *");
    let retention = jobs.job("retention", "50 * * * * *");

    let (suspect, role) = (Arc::clone(&shared.suspect), Arc::clone(&shared.role));
    let store = Arc::new(Gated::new(shared.store.clone(), beginning.open, role, suspect, Arc::clone(&report)));
    let journal: Arc<dyn Journal> = shared.journal.writer();
    let inputs =
        Inputs { updates: dispatcher_updates, done: done_end, tick, max_in_flight: shared.max_in_flight.clone() };
    let dispatcher = Dispatcher::new(Arc::clone(&wall), Arc::clone(&journal), due, inputs);
    let dispatch = dispatcher.stats();
    let stage_hold = finished.clone();
    let pool = Pool {
        net: Arc::clone(&shared.net),
        wall: Arc::clone(&wall),
        finished,
        journal: Arc::clone(&journal),
        grace: POOL_GRACE,
    };
    let stage = Stage {
        finished: finished_end,
        updates: stage_updates,
        states: states_end,
        done,
        journal,
        wall: Arc::clone(&wall),
        board: Arc::clone(&board),
        pings: Arc::clone(&pings),
        pinged,
        covers: covers_end,
    };
    let recorder = Recorder::new(Arc::clone(&shared.journal), Arc::clone(&store), Arc::clone(&recorder_stats));
    let links = sync::Links {
        // The stage first: a result must never come before its monitor.
        updates: vec![to_stage, to_dispatcher],
        snapshot: Arc::clone(&snapshot),
        report: Arc::clone(&report),
        folders,
        states,
        remember_at: remember::path(&shared.state),
        wall: Arc::clone(&wall),
        recovered: shared.journal.recovered(),
    };
    let file = Arc::clone(&shared.source);
    let follower = Follower::new(file, Arc::clone(&store), links, remembered(shared, beginning.after_standby));
    let wakes = Wakes { file: file_end, reload: reload_end, minute };

    tasks.spawn("recorder", recorder.run());
    tasks.spawn("verdict stage", on_a_thread(stage.run()));
    tasks.spawn("probe pool", pool.run(due_end, stop.clone()));
    tasks.spawn("dispatcher", dispatcher.run(stop.clone()));
    tasks.spawn("catalogue", follower.run(beginning.content, wakes, stop.clone()));
    watch_files(tasks, folders_end, file_wake, stop);
    let writes = store.writes();
    let (mut jobs_done, history) = run_chores(tasks, Arc::clone(&store), (rollup, partitions, retention), stop);
    let (slos, evaluated) = run_objectives(shared, tasks, Arc::clone(&store), minutely, stop);
    jobs_done.push(("slo", evaluated));
    let metrics = TermSources { queues, writes, jobs: jobs_done, history };
    run_jobs(tasks, jobs, wall, stop);
    let maintenance = keep_windows(shared, tasks, store, (covers, snapshot, Arc::clone(&report)), stop);
    let (stats, stopping) = (Arc::clone(&dispatch), stop.clone());
    tasks.spawn_again("overdue watch", stop.clone(), move || overdue::watch(Arc::clone(&stats), stopping.clone()));
    let live =
        Live { board, dispatch, recorder: recorder_stats, catalog: report, reload, metrics, pings, maintenance, slos };
    Pipeline { stage_hold, live }
}

/// Starts the evaluation of objectives, and gives what it shows and counts.
fn run_objectives(
    shared: &Shared,
    tasks: &mut Tasks,
    store: Arc<Gated>,
    wake: Wake,
    stop: &Shutdown,
) -> (Arc<SloBoard>, Arc<WorkStats>) {
    let evaluation = Evaluation {
        store,
        wake: Arc::new(Mutex::new(wake)),
        objectives: shared.objectives.clone(),
        board: Arc::default(),
        wall: Arc::clone(&shared.wall),
        stats: Arc::default(),
    };
    let (board, stats) = (Arc::clone(&evaluation.board), Arc::clone(&evaluation.stats));
    let stopping = stop.clone();
    tasks.spawn_again("slo", stop.clone(), move || evaluate_slos(evaluation.clone(), stopping.clone()));
    (board, stats)
}

/// Starts what tells the stage which monitors are in maintenance, and gives what it shows.
fn keep_windows(
    shared: &Shared,
    tasks: &mut Tasks,
    store: Arc<Gated>,
    (covers, snapshot, catalog): (watch::Sender<Arc<Covers>>, Arc<ArcSwap<Snapshot>>, Arc<SharedReport>),
    stop: &Shutdown,
) -> Arc<maintenance::SharedReport> {
    let shown = Arc::new(maintenance::SharedReport::default());
    let links = keeper::Links {
        covers,
        snapshot,
        file: shared.maintenances.clone(),
        settled: Arc::new(move || {
            let report = catalog.get();
            report.merged && report.store_fault.is_none()
        }),
        report: Arc::clone(&shown),
        wall: Arc::clone(&shared.wall),
    };
    let stopping = stop.clone();
    tasks.spawn_again("maintenance", stop.clone(), move || {
        on_a_thread(Keeper::new(Arc::clone(&store), links.clone()).run(stopping.clone()))
    });
    shown
}

/// Starts the loops that keep the database in order, and gives what they count.
fn run_chores(
    tasks: &mut Tasks,
    store: Arc<Gated>,
    (rollup, partitions, retention): (Wake, Wake, Wake),
    stop: &Shutdown,
) -> (Vec<(&'static str, Arc<WorkStats>)>, Arc<History>) {
    let [rollup, partitions, retention] = [rollup, partitions, retention].map(|wake| Arc::new(Mutex::new(wake)));
    let [rolled, made, retained] = [(); 3].map(|()| Arc::new(WorkStats::default()));
    let history = Arc::new(History::default());
    let done =
        vec![("roll-up", Arc::clone(&rolled)), ("partitions", Arc::clone(&made)), ("retention", Arc::clone(&retained))];
    let (own, stopping, told) = (Arc::clone(&store), stop.clone(), Arc::clone(&history));
    tasks.spawn_again("roll-up", stop.clone(), move || {
        roll_up(Arc::clone(&own), Arc::clone(&rollup), stopping.clone(), Arc::clone(&rolled), Arc::clone(&told))
    });
    let (own, stopping) = (Arc::clone(&store), stop.clone());
    tasks.spawn_again("partitions", stop.clone(), move || {
        make_partitions(Arc::clone(&own), Arc::clone(&partitions), stopping.clone(), Arc::clone(&made))
    });
    let (stopping, told) = (stop.clone(), Arc::clone(&history));
    tasks.spawn_again("retention", stop.clone(), move || {
        let (store, wake, stats) = (Arc::clone(&store), Arc::clone(&retention), Arc::clone(&retained));
        keep_history(store, wake, stopping.clone(), stats, Arc::clone(&told))
    });
    (done, history)
}

/// What `catalog.json` tells.
fn remembered(shared: &Shared, after_standby: bool) -> Option<remember::Remembered> {
    let path = remember::path(&shared.state);
    let mut remembered = remember::read(&path).unwrap_or_else(|error| {
        log::warn!("{}: not usable, and not needed while the database is there: {error}", path.display());
        None
    });
    if after_standby && let Some(remembered) = &mut remembered {
        remembered.states.clear();
        for row in &mut remembered.rows {
            row.state = None;
        }
    }
    remembered
}

fn watch_files(tasks: &mut Tasks, folders: mpsc::Receiver<Vec<PathBuf>>, wake: mpsc::Sender<()>, stop: &Shutdown) {
    let (folders, stopping) = (Arc::new(Mutex::new(folders)), stop.clone());
    tasks.spawn_again("file watch", stop.clone(), move || {
        let (folders, wake, stop) = (Arc::clone(&folders), wake.clone(), stopping.clone());
        async move {
            // Whoever reads the sources tells what to watch, which a watch that begins again does not know. Full: somebody
            // will read anyway.
            let _ = wake.try_send(());
            files::run(&mut *folders.lock().await, wake, files::POLL, stop).await;
        }
    });
}

fn run_jobs(tasks: &mut Tasks, jobs: Jobs, wall: Arc<dyn Wall>, stop: &Shutdown) {
    let stopping = stop.clone();
    tasks.spawn_again("jobs", stop.clone(), move || {
        let (jobs, wall, stop) = (jobs.clone(), Arc::clone(&wall), stopping.clone());
        async move {
            match jobs.start(wall, stop).await {
                // It ends with the shutdown; a panic in there is told by its hook.
                Ok(running) => drop(running.await),
                Err(error) => log::error!("{error}"),
            }
        }
    });
}
