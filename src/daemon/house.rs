//! The life of the daemon: what stands from the start to the end of the process, and the terms within.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, timeout};

use super::cluster::Embedded;
use super::database::{Event, Keeper, Told};
use super::listen::{self, Bound};
use super::metrics::{Sources, Stamps};
use super::pipeline::Shared;
use super::readable::Readable;
use super::role::SharedRole;
use super::source::{ConfigSource, First, Links, net_of, watched};
use super::systemd::Systemd;
use super::tasks::{Ended, Restarts, Tasks};
use super::term::Term;
use super::view::View;
use super::{holder, start_stop};
use crate::access::export::ExportStore;
use crate::access::token::TokenStore;
use crate::catalog::sync::{FileContent, ReloadCount};
use crate::cli::{self, Environment, Exit, Stop};
use crate::clock::{SystemWall, Wall};
use crate::journal::JournalError;
use crate::journal::disk::DiskJournal;
use crate::shutdown::{self, Shutdown, Trigger};
use crate::store::cluster::{ClusterOptions, StateLock, url_of};
use crate::store::{Store, StoreSettings};
use crate::web::auth::Auth;
use crate::web::hosts::Hosts;
use crate::web::server::{Listener, Trust, serve};
use crate::web::{Admin, Site, admin_token};

/// The lease expires by itself if the store does not answer.
const RELEASE: Duration = Duration::from_secs(1);
/// For the store's connections.
const CLOSE: Duration = Duration::from_secs(2);
/// For the admin servers, which let open requests end.
const SERVERS: Duration = Duration::from_secs(4);

/// What stands from the start to the end.
pub(super) struct House {
    shared: Shared,
    view: Arc<View>,
    /// Servers and the lease's keeper.
    services: Tasks,
    /// Ends the keeper, and later the servers.
    ends: (Trigger, Trigger),
    cluster: Option<Embedded>,
    keeper: Option<(Keeper, Shutdown)>,
    events: mpsc::Receiver<Told>,
    term: Option<Term>,
    was_standby: bool,
    restarts: Restarts,
    systemd: Systemd,
    /// Where it listens and what it watches; taken when it has been told.
    greeting: Option<(String, String)>,
}

impl House {
    /// Builds it and answers on the listeners; nothing is checked yet.
    pub(super) async fn build(
        first: First,
        environment: &Environment,
        lock: &Arc<StateLock>,
        socket: &Path,
    ) -> Result<Self, Stop> {
        let Bound { listener, address, shown } =
            listen::bind(&first.settings.server.listen, environment.passed()).await?;
        let admin = listen::bind_socket(socket).await?;
        let database = &first.settings.database;
        let embedded = database.url.is_none();
        let store = Store::new(&StoreSettings {
            url: database.url.clone().unwrap_or_else(|| url_of(lock.dir())),
            max_connections: database.max_connections,
            schema: database.schema.clone(),
            region: first.settings.daemon.region.to_string(),
        })
        .map_err(|error| start_stop(&error))?;
        let mut own = listen::addresses(store.address()).await;
        own.extend(address);
        let (role, suspect, (tell, events)) = (Arc::new(SharedRole::new()), Arc::new(Notify::new()), mpsc::channel(1));
        let (keep_end, keep) = shutdown::channel();
        let holder = holder(lock.dir())?;
        let journal = open_journal(lock.dir(), database.backlog).await?;
        let (its_role, its_suspect) = (Arc::clone(&role), Arc::clone(&suspect));
        let keeper = Keeper::new(
            store.clone(),
            database.auto_migrate,
            holder,
            its_role,
            its_suspect,
            tell,
            Arc::clone(&journal),
        );
        let cluster_options = embedded.then(|| ClusterOptions {
            bin_dir: environment.path("PG_BINDIR"),
            path: environment.path("PATH").map(Into::into),
            run_as: Some(database.cluster_user.clone()),
            ..ClusterOptions::default()
        });
        let config = watched(&first);
        let server = &first.settings.server;
        let (public, monitors) = (server.metrics_public, server.metrics_monitors);
        let hosts = Hosts::new(first.settings.server.public_url.as_ref().and_then(|url| url.host_str()));
        let shared = share(first, environment, lock.dir(), (store, role, suspect, journal), own)?;
        let restarts = Restarts::default();
        let view = Arc::new(View {
            started_at: shared.wall.now(),
            config: shared.source.path(),
            started_with: shared.source.started(),
            database: if embedded { "embedded" } else { "external" },
            wall: Arc::clone(&shared.wall),
            journal: Arc::clone(&shared.journal),
            role: Arc::clone(&shared.role),
            restarts: restarts.clone(),
            reloads: shared.reloads.clone(),
            live: ArcSwapOption::empty(),
            metrics: Sources { store: shared.store.clone(), stamps: Stamps::new(&*shared.wall), public, monitors },
        });
        let site = site(&shared, &view, hosts);
        let mut services = Tasks::new(restarts.clone());
        let (servers_end, serving) = shutdown::channel();
        for (name, listener, trust) in
            [("admin server", listener, Trust::Anonymous), ("admin socket", admin, Trust::Local)]
        {
            serve_on(&mut services, name, listener, trust, &site, &serving);
        }
        let systemd = Systemd::new(environment);
        report_to(&systemd, &mut services, &view, &serving);
        let cluster = cluster_options.map(|options| Embedded::new(lock, options)).transpose()?;
        Ok(Self {
            shared,
            view,
            services,
            ends: (keep_end, servers_end),
            cluster,
            keeper: Some((keeper, keep)),
            events,
            term: None,
            was_standby: false,
            restarts,
            systemd,
            greeting: Some((shown, config)),
        })
    }

    /// Lives until something makes it impossible. May be dropped at any time; [`Self::end`] follows in every case.
    pub(super) async fn live(&mut self, reloads: &mut mpsc::Receiver<()>) -> Stop {
        if let Some(cluster) = &mut self.cluster
            && let Err(stop) = self.systemd.while_starting(cluster.started()).await
        {
            return stop;
        }
        if let Some((keeper, stop)) = self.keeper.take() {
            self.services.spawn("lease keeper", keeper.run(stop));
        }
        loop {
            tokio::select! {
                Some((event, dealt)) = self.events.recv() => {
                    if let Event::Stop(stop) = event {
                        return stop;
                    }
                    self.turn(&event).await;
                    drop(dealt);
                }
                Some(()) = reloads.recv() => self.reload(),
                ended = self.services.ended_early() => return unexpected(ended),
                ended = term_ended(&mut self.term) => return unexpected(ended),
                stop = cluster_ended(&mut self.cluster) => return stop,
            }
        }
    }

    /// A turn of the lease.
    async fn turn(&mut self, event: &Event) {
        match event {
            Event::Active => {
                if self.term.is_none() {
                    self.begin_term(true).await;
                }
                self.term.iter().for_each(Term::open);
            }
            Event::Away => self.begin_term(false).await,
            Event::Standby => {
                self.was_standby = true;
                self.view.live.store(None);
                if let Some(term) = &mut self.term {
                    term.abandon().await;
                    self.term = None;
                }
            }
            Event::Stop(_) => {}
        }
        self.tell(event);
        self.systemd.status(&self.view.status_line());
        self.systemd.ready();
    }

    async fn begin_term(&mut self, may_write: bool) {
        let (source, reread) = (Arc::clone(&self.shared.source), self.was_standby);
        let content = tokio::task::spawn_blocking(move || source.begin(reread)).await;
        let content = content.unwrap_or_else(|error| {
            log::error!("reading the configuration failed, what was read before stays: {error}");
            self.shared.source.begin(false)
        });
        self.start_term(content, may_write);
    }

    fn start_term(&mut self, content: FileContent, may_write: bool) {
        let term = Term::start(&self.shared, content, may_write, self.was_standby, self.restarts.clone());
        self.view.live.store(Some(term.live()));
        self.term = Some(term);
    }

    /// SIGHUP: as if a reload had been asked for.
    fn reload(&mut self) {
        let view = Arc::clone(&self.view);
        // The outcome is logged by the catalogue; nobody waits for it here.
        tokio::spawn(async move { view.reload(false).await });
    }

    /// Tells what the daemon has become; the first time with where it is found.
    fn tell(&mut self, event: &Event) {
        let database =
            if self.view.database == "embedded" { "its private PostgreSQL" } else { "the database of database.url" };
        let state = match event {
            Event::Active => format!("on {database}"),
            Event::Away => "degraded: the database is not ready, checks run and results wait".to_owned(),
            Event::Standby => "as a standby: another daemon is active on this database".to_owned(),
            Event::Stop(_) => return,
        };
        let Some((address, config)) = self.greeting.take() else {
            return match event {
                Event::Active => log::info!("this daemon is active {state}"),
                _ => log::info!("waiting {state}"),
            };
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

    /// Stops everything in order, each stage under its deadline; all together within 23 s (the unit's TimeoutStopSec is
    /// 30 s), also when the store hangs:
    ///
    /// 1. the term, with its data ([`Term::finish`]), 7.2 s at the most and 1.2 s when the store answers,
    /// 2. the keeper ends and the lease is given up, so that a standby takes over at once, 2 s at the most,
    /// 3. what is left of the term, 1 s, the admin servers, which let open requests end, and the store's connections, 4 s,
    /// 4. the embedded database, 8 s at the most.
    ///
    /// Nothing here hears signals: the main thread does, and ends the process at the second.
    pub(super) async fn end(self) {
        log::info!("shutting down");
        let systemd = self.systemd.clone();
        systemd.stopping();
        systemd.while_ending(self.end_in_order()).await;
        log::info!("ended");
    }

    async fn end_in_order(mut self) {
        if let Some(term) = &mut self.term {
            term.finish().await;
        }
        self.ends.0.fire();
        self.services.join_one(Instant::now() + RELEASE, "lease keeper").await;
        let unrecorded = self.shared.journal.unrecorded(self.shared.wall.now());
        let _ = timeout(RELEASE, self.shared.store.release(&unrecorded)).await;
        self.ends.1.fire();
        if let Some(term) = &mut self.term {
            term.cut_off().await;
        }
        let closing = timeout(CLOSE, self.shared.store.close());
        let _ = tokio::join!(closing, self.services.join(Instant::now() + SERVERS, &[]));
        self.services.cut_off().await;
        if let Some(cluster) = self.cluster {
            cluster.stop().await;
        }
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

/// What outlives the terms.
fn share(
    first: First,
    environment: &Environment,
    state: &Path,
    (store, role, suspect, journal): (Store, Arc<SharedRole>, Arc<Notify>, Arc<DiskJournal>),
    own: Vec<std::net::SocketAddr>,
) -> Result<Shared, Stop> {
    let settings = &first.settings;
    let net = net_of(settings, own.clone()).map_err(|error| Stop::new(Exit::Config, error))?;
    let rdap = state.join("rdap");
    let net = Arc::new(ArcSwap::from_pointee(net.with_rdap_folder(rdap.clone())));
    let (limit, max_in_flight) = watch::channel(settings.probe.max_in_flight);
    let (maintenances, planned) = watch::channel(settings.maintenances.as_slice().into());
    let (slos, objectives) = watch::channel(Arc::clone(&settings.slos));
    let keeping = store.keeping();
    keeping.store(Arc::clone(&settings.keeping));
    let links = Links { keeping, net: Arc::clone(&net), max_in_flight: limit, slos, own, rdap, maintenances };
    let source = Arc::new(ConfigSource::new(first, environment, links));
    let wall: Arc<dyn Wall> = Arc::new(SystemWall);
    Ok(Shared {
        store,
        source,
        wall,
        role,
        suspect,
        journal,
        reloads: ReloadCount::default(),
        net,
        max_in_flight,
        maintenances: planned,
        objectives,
        state: state.to_owned(),
    })
}

fn serve_on(
    services: &mut Tasks,
    name: &'static str,
    listener: Listener,
    trust: Trust,
    site: &Arc<Site>,
    serving: &Shutdown,
) {
    let (listener, site, stop) = (Arc::new(listener), Arc::clone(site), serving.clone());
    services.spawn_again(name, serving.clone(), move || {
        serve(Arc::clone(&listener), Arc::clone(&site), trust, stop.clone())
    });
}

/// Tells systemd what it wants to know, until the servers end.
fn report_to(systemd: &Systemd, services: &mut Tasks, view: &Arc<View>, stop: &Shutdown) {
    if !systemd.listens() {
        return;
    }
    let (own, shown, ends) = (systemd.clone(), Arc::clone(view), stop.clone());
    services.spawn_again("status line", stop.clone(), move || {
        let view = Arc::clone(&shown);
        own.clone().keep_status(move || view.status_line(), ends.clone())
    });
    let (own, shown, ends) = (systemd.clone(), Arc::clone(view), stop.clone());
    services.spawn_again("watchdog", stop.clone(), move || {
        let view = Arc::clone(&shown);
        own.clone().keep_watchdog(move || view.last_progress(), ends.clone())
    });
    let (own, shown, ends) = (systemd.clone(), Arc::clone(view), stop.clone());
    services.spawn_again("reload report", stop.clone(), move || {
        own.clone().follow_reloads(shown.reloads.follow(), ends.clone())
    });
}

/// What the admin servers answer from.
fn site(shared: &Shared, view: &Arc<View>, hosts: Hosts) -> Arc<Site> {
    let readable = Arc::new(Readable::new(shared.store.clone(), Arc::clone(&shared.role)));
    let tokens = Arc::clone(&readable) as Arc<dyn TokenStore>;
    let auth = Auth::new(admin_token::open(&shared.state), tokens, Arc::clone(&shared.wall));
    let exports = Arc::clone(&readable) as Arc<dyn ExportStore>;
    Arc::new(Site::new(Arc::clone(view) as Arc<dyn Admin>, readable, exports, auth, hosts))
}

async fn term_ended(term: &mut Option<Term>) -> Ended {
    match term {
        Some(term) => term.ended_early().await,
        None => std::future::pending().await,
    }
}

async fn cluster_ended(cluster: &mut Option<Embedded>) -> Stop {
    match cluster {
        Some(cluster) => cluster.ended_early().await,
        None => std::future::pending().await,
    }
}

fn unexpected(Ended { name, how }: Ended) -> Stop {
    Stop::new(Exit::Failure, format!("the task {name:?} {how} unexpectedly"))
}
