//! The composition root: builds the parts, makes every channel, starts the tasks, and stops them in order.
//!
//! The main thread hears signals and nothing else (`signals`). The embedded database has a thread of its own
//! (`cluster`). Everything else is tasks: those that stand from the start to the end (`house`), and those of a term
//! (`term`, built by `pipeline`), which begin when the lease is gained and end when it is lost (`database`).

mod chores;
mod cluster;
mod database;
mod gate;
mod history;
mod house;
mod listen;
mod metrics;
mod overdue;
mod overview;
mod pipeline;
mod readable;
mod role;
mod signals;
mod slos;
mod source;
mod systemd;
mod tasks;
mod term;
mod view;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

pub(crate) use self::database::start_stop;
pub(crate) use self::source::{net_of, restart_parts};

use self::house::House;
use self::signals::Signals;
use self::source::First;
use crate::cli::{self, Environment, Exit, Stop};
use crate::shutdown::{self, Shutdown};
use crate::store::cluster::{ClusterError, StateLock};
use crate::telemetry;

/// What blocks in the background is waited for so long at the end.
const RUNTIME_GRACE: Duration = Duration::from_secs(1);
/// For tasks to be dropped when nothing is waited for; one that hangs is left.
const DROP_GRACE: Duration = Duration::from_millis(300);

/// Runs the daemon until a signal; the stop says why it could not begin or go on.
pub fn run(config: Option<&Path>, environment: &Environment) -> Result<Exit, Stop> {
    let signals = Signals::new()?;
    let first = source::first(config, environment)?;
    // no-color.org: set and not empty.
    let colours = environment.get("NO_COLOR").is_none() && environment.get("TERM") != Some("dumb");
    // Dropped last, so that the end is told as well.
    let _flush = telemetry::start(&first.settings.daemon.log_level, colours)
        .map_err(|error| Stop::new(Exit::Failure, format!("logging does not start: {error}")))?;
    tasks::log_panics();
    let state = cli::state_directory(first.settings.daemon.state_directory.as_deref(), environment)?;
    let lock = Arc::new(StateLock::acquire(&state).map_err(|error| cluster_stop(&error))?);
    let socket = cli::admin_socket(lock.dir())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("lamplighter-worker")
        .build()
        .map_err(|error| Stop::new(Exit::Failure, format!("cannot start: {error}")))?;
    let (end, ending) = shutdown::channel();
    let (reload, mut reloads) = mpsc::channel(1);
    let environment = environment.clone();
    let life = runtime.spawn(async move { live(first, &environment, lock, socket, ending, &mut reloads).await });
    match signals.attend(life, &end, &reload) {
        Some(ended) => {
            runtime.shutdown_timeout(RUNTIME_GRACE);
            ended.unwrap_or_else(|_| Err(Stop::new(Exit::Failure, "the daemon's main task panicked")))
        }
        None => {
            // Nothing is waited for but that checks are dropped, which kills their plugins. The embedded database stops by
            // itself when this process is gone.
            runtime.shutdown_timeout(DROP_GRACE);
            Err(Stop::new(Exit::Failure, "a second signal: ended at once"))
        }
    }
}

async fn live(
    first: First,
    environment: &Environment,
    lock: Arc<StateLock>,
    socket: PathBuf,
    mut ending: Shutdown,
    reloads: &mut mpsc::Receiver<()>,
) -> Result<Exit, Stop> {
    let mut house = tokio::select! {
        built = House::build(first, environment, &lock, &socket) => built?,
        () = ending.wait() => return Ok(Exit::Ok),
    };
    let ended = tokio::select! {
        stop = house.live(reloads) => Err(stop),
        () = ending.wait() => Ok(Exit::Ok),
    };
    house.end().await;
    ended
}

/// How an embedded database that does not start ends a command.
pub(crate) fn cluster_stop(error: &ClusterError) -> Stop {
    let exit = if error.exit_code() == Exit::Unavailable.code() { Exit::Unavailable } else { Exit::StateDirectory };
    let text = match error {
        ClusterError::State { .. } => {
            format!("the state directory cannot be used: {error}; set daemon.state_directory to another")
        }
        error => error.to_string(),
    };
    Stop::new(exit, text)
}

/// Who this state directory's daemon is to the lease: made once, kept for ever.
fn holder(state: &Path) -> Result<String, Stop> {
    let path = state.join("holder");
    if let Ok(text) = crate::settings::limited::read(&path, 100)
        && let Ok(id) = text.trim().parse::<uuid::Uuid>()
    {
        return Ok(id.to_string());
    }
    let id = uuid::Uuid::new_v4().to_string();
    // By rename: half an id would be another daemon's.
    let draft = path.with_extension("new");
    std::fs::write(&draft, format!("{id}\n"))
        .and_then(|()| std::fs::rename(&draft, &path))
        .map_err(|error| Stop::new(Exit::StateDirectory, format!("{}: {error}", path.display())))?;
    Ok(id)
}
