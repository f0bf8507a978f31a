//! The composition root: builds the parts, makes every channel, starts the tasks, and stops them in order.

mod database;
mod gate;
mod pipeline;
mod source;
mod view;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval, timeout};

pub(crate) use self::database::start_stop;
pub(crate) use self::source::net_of;

use self::database::{Begun, Keeper, SharedRole};
use self::pipeline::{Parts, Pipeline};
use self::source::First;
use crate::cli::{self, Environment, Exit, Stop};
use crate::clock::{SystemWall, Wall as _};
use crate::journal::JournalError;
use crate::journal::disk::DiskJournal;
use crate::settings::sections::Listen;
use crate::store::cluster::{Cluster, ClusterError, ClusterOptions, StateLock};
use crate::store::{Store, StoreSettings};
use crate::telemetry;
use crate::web::server::Listener;

/// How often the embedded database is looked after.
const CLUSTER_WATCH: Duration = Duration::from_secs(1);
/// A host name in `database.url` is looked up so long, for the guard.
const LOOKUP: Duration = Duration::from_secs(2);

/// Runs the daemon until a signal; the stop says why it could not begin or go on.
pub fn run(config: Option<&Path>, environment: &Environment) -> Result<Exit, Stop> {
    let first = source::first(config, environment)?;
    telemetry::start(first.settings.daemon.log_level)
        .map_err(|error| Stop::new(Exit::Failure, format!("logging does not start: {error}")))?;
    let state = cli::state_directory(first.settings.daemon.state_directory.as_deref(), environment)?;
    let lock = StateLock::acquire(&state).map_err(|error| cluster_stop(&error))?;
    let socket = cli::admin_socket(lock.dir())?;
    // Not in a task: the embedded database's life hangs on the thread that starts it, which is this one.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Stop::new(Exit::Failure, format!("cannot start: {error}")))?;
    let ended = runtime.block_on(live(first, environment, lock, &socket));
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended
}

async fn live(first: First, environment: &Environment, lock: StateLock, socket: &Path) -> Result<Exit, Stop> {
    let mut signals = Signals::new()?;
    let listen = bind(&first.settings.server.listen).await?;
    let admin = Listener::unix(socket, 0o600, true)
        .await
        .map_err(|error| Stop::new(Exit::StateDirectory, format!("{}: {error}", socket.display())))?;
    let database = &first.settings.database;
    let cluster_options = ClusterOptions {
        bin_dir: environment.path("PG_BINDIR"),
        path: environment.path("PATH").map(Into::into),
        run_as: Some(database.cluster_user.clone()),
        ..ClusterOptions::default()
    };
    let (mut cluster, url) = match &database.url {
        Some(url) => (None, url.clone()),
        None => {
            let cluster = Cluster::start(&lock, &cluster_options).map_err(|error| cluster_stop(&error))?;
            let url = cluster.url().clone();
            (Some(cluster), url)
        }
    };
    let store = Store::new(&StoreSettings {
        url,
        max_connections: database.max_connections,
        schema: database.schema.clone(),
        region: first.settings.daemon.region.to_string(),
    })
    .map_err(|error| start_stop(&error))?;
    let mut own = addresses(store.address()).await;
    own.extend(listen.address);
    let journal = open_journal(lock.dir(), database.backlog).await?;
    let (gate, gate_open) = tokio::sync::watch::channel(false);
    let role = Arc::new(SharedRole::new());
    let keeper = Keeper::new(
        store.clone(),
        database.auto_migrate,
        holder(lock.dir())?,
        Arc::clone(&role),
        gate,
        Arc::clone(&journal),
    );
    let (config, embedded) = (watched(&first), cluster.is_some());
    let parts =
        Parts { first, environment, store: store.clone(), gate_open, role, own, state: lock.dir(), embedded, journal };
    let mut pipeline = Pipeline::build(parts)?;
    pipeline.serve(listen.listener, admin);

    let begun = tokio::select! {
        begun = keeper.begin() => begun?,
        () = signals.end() => return end(pipeline, &store, cluster, &mut signals).await,
    };
    pipeline.keep(keeper, begun);
    greet(&listen.shown, &config, begun, embedded);
    let mut look = interval(CLUSTER_WATCH);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let ended = loop {
        tokio::select! {
            asked = signals.next() => match asked {
                Asked::End => break Ok(()),
                Asked::Reload => pipeline.reload(),
            },
            stop = pipeline.ended_early() => break Err(stop),
            _ = look.tick() => revive(&mut cluster, &lock, &cluster_options),
        }
    };
    let exit = end(pipeline, &store, cluster, &mut signals).await?;
    ended.map(|()| exit)
}

/// What is watched, for the greeting.
fn watched(first: &First) -> String {
    let path = first.path.display();
    match (first.sources.found, first.settings.monitors.len()) {
        (false, _) => format!("no {path}, so built-in defaults: monitors come from the database only"),
        (true, 0) => format!("{path}, which has no monitors yet"),
        (true, 1) => format!("{path}, 1 monitor"),
        (true, number) => format!("{path}, {number} monitors"),
    }
}

fn greet(address: &str, config: &str, begun: Begun, embedded: bool) {
    let database = if embedded { "its private PostgreSQL" } else { "the database of database.url" };
    let state = match begun {
        Begun::Active => format!("on {database}"),
        Begun::Away => "degraded: the database is not ready, checks run and results wait".to_owned(),
        Begun::Standby => "as a standby: another daemon is active on this database".to_owned(),
    };
    let version = env!("CARGO_PKG_VERSION");
    let lines = [
        format!("Lamplighter {version} is running {state}."),
        format!("  configuration: {config}"),
        format!("  health: {address}/readyz"),
        "  table: lamplighter status".to_owned(),
    ];
    cli::say(&format!("{}\n", lines.join("\n")));
    log::info!("running {state}, listening on {address}, configuration: {config}");
}

/// Stops everything in order. A second signal ends at once.
async fn end(
    pipeline: Pipeline,
    store: &Store,
    mut cluster: Option<Cluster>,
    signals: &mut Signals,
) -> Result<Exit, Stop> {
    log::info!("shutting down");
    let orderly = async {
        pipeline.stop().await;
        // It expires by itself if the store is away.
        let _ = timeout(Duration::from_secs(2), store.release()).await;
        let _ = timeout(Duration::from_secs(2), store.close()).await;
        if let Some(mut cluster) = cluster.take() {
            // Stopping blocks, and a second signal must still be heard.
            let _ = tokio::task::spawn_blocking(move || cluster.stop()).await;
        }
    };
    let hurried = tokio::select! {
        () = orderly => false,
        () = signals.end() => true,
    };
    if hurried {
        // Not stopped here, which would wait: it stops by itself when this process is gone.
        std::mem::forget(cluster);
        return Err(Stop::new(Exit::Failure, "a second signal: ended at once"));
    }
    log::info!("ended");
    Ok(Exit::Ok)
}

/// Starts the embedded database again when it has died. It must be this thread, which hears signals only afterwards;
/// recovery takes well under a second unless much was written.
fn revive(cluster: &mut Option<Cluster>, lock: &StateLock, options: &ClusterOptions) {
    let Some(running) = cluster else { return };
    let Some(status) = running.exited() else { return };
    log::error!("the embedded PostgreSQL ended ({status}) and is started again");
    match Cluster::start(lock, options) {
        Ok(again) => *running = again,
        Err(error) => log::error!("the embedded PostgreSQL does not start, tried again: {error}"),
    }
}

/// Opens the journal, which takes some seconds when much was not recorded.
async fn open_journal(state: &Path, limit: usize) -> Result<Arc<DiskJournal>, Stop> {
    let (state, now) = (state.to_owned(), SystemWall.now());
    let opening = tokio::task::spawn_blocking(move || DiskJournal::open(&state, limit as u64, now));
    let opened = opening.await.map_err(|error| Stop::new(Exit::Failure, format!("the journal: {error}")))?;
    let journal = opened.map_err(|error| {
        let exit = if matches!(error, JournalError::Newer { .. }) { Exit::Config } else { Exit::StateDirectory };
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        Stop::new(exit, format!("{error}{cause}"))
    })?;
    Ok(Arc::new(journal))
}

struct Bound {
    listener: Listener,
    address: Option<SocketAddr>,
    shown: String,
}

async fn bind(listen: &Listen) -> Result<Bound, Stop> {
    let taken = |error: std::io::Error| {
        let text = format!("cannot listen on {listen}: {error}; choose another with server.listen");
        Stop::new(Exit::Unavailable, text)
    };
    match listen {
        Listen::Tcp(address) => {
            let listener = TcpListener::bind(address).await.map_err(taken)?;
            let address = listener.local_addr().map_err(taken)?;
            Ok(Bound { listener: Listener::Tcp(listener), address: Some(address), shown: format!("http://{address}") })
        }
        Listen::Unix(path) => {
            let listener = Listener::unix(path, 0o660, false).await.map_err(taken)?;
            Ok(Bound { listener, address: None, shown: format!("unix:{}", path.display()) })
        }
    }
}

/// The addresses of the store's host, if it is reached over TCP: rows must not probe it.
async fn addresses(store: Option<(String, u16)>) -> Vec<SocketAddr> {
    let Some(host_and_port) = store else { return Vec::new() };
    match timeout(LOOKUP, tokio::net::lookup_host(host_and_port)).await {
        Ok(Ok(addresses)) => addresses.collect(),
        _ => {
            log::warn!("the host of database.url has no address now, so monitors of the database are not kept from it");
            Vec::new()
        }
    }
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

struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
}

impl Signals {
    fn new() -> Result<Self, Stop> {
        let on = |kind| {
            signal(kind).map_err(|error| Stop::new(Exit::Failure, format!("signals cannot be handled: {error}")))
        };
        Ok(Self {
            term: on(SignalKind::terminate())?,
            int: on(SignalKind::interrupt())?,
            hup: on(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.term.recv() => Asked::End,
            _ = self.int.recv() => Asked::End,
            _ = self.hup.recv() => Asked::Reload,
        }
    }

    async fn end(&mut self) {
        while let Asked::Reload = self.next().await {}
    }
}

/// What a signal asks for.
enum Asked {
    End,
    Reload,
}
